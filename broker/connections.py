"""The connections of a port: no more than it may have, counted from when they come until they are gone.

An event loop's own servers tell of a connection when its TLS handshake is done. Whoever begins none would not count,
and still have a descriptor. So connections are accepted and counted here, and handed on from here.
"""

import asyncio
import math
import os
import resource
import socket
import ssl
import time
from collections import Counter
from collections.abc import Callable

import structlog

from broker.config import Config
from broker.door import Connection
from broker.metrics import Metrics
from broker.peers import host_of, read_proxies

log = structlog.get_logger()

BACKLOG = 1024
_A_TURN = 100
"""Connections accepted in one turn of the event loop, so that the work waits for no more than those."""
_RESERVED = 256
"""Descriptors that all connections leave over: for the database, the exchange and webhooks nobody could be served."""
_HANDSHAKE_S = 10.0
"""A TLS handshake that takes longer is given up: asyncio's own limit is a minute."""
_PAUSE_S = 1.0
"""With no descriptor left nothing can be accepted; after this it is tried again."""
_SAY_EVERY_S = 10.0


class Connections:
    """How many are open on one port, and on its part of the descriptors: a port that is full fills no other."""

    def __init__(self, name: str, part: float, address_max: int | None, config: Config, metrics: Metrics) -> None:
        self._name = name
        self._part = part
        self._connections_max = config.connections_max
        self._address_max = address_max
        self._apart = read_proxies(config.trusted_proxies)  # all clients come from these
        self._hung_up = metrics.overloaded.labels("connections")
        self._hosts: dict[object, str] = {}  # of those that are open
        self._of_host: Counter[str] = Counter()
        self._said_at: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._hosts)

    def enter(self, connection: object, address: str) -> bool:
        """Count one; False, and nothing is counted, where its port or its address has as many as it may have."""
        host, most = host_of(address, self._apart), self._most()
        of_host = min(self._address_max or most, most)
        if len(self._hosts) >= most:
            self._say(log.error, "connections.at_limit", port=self._name, connections=most)
            return False
        if host and self._of_host[host] >= of_host:
            self._say(log.warning, "connections.address_at_limit", port=self._name, address=host, connections=of_host)
            return False
        self._hosts[connection] = host
        self._of_host[host] += 1
        return True

    def leave(self, connection: object) -> None:
        """It is gone, which may be said twice."""
        host = self._hosts.pop(connection, None)
        if host is not None:
            self._of_host[host] -= 1
            if not self._of_host[host]:
                del self._of_host[host]

    def _most(self) -> int:
        descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        room = descriptors - min(_RESERVED, descriptors // 2)
        return min(self._connections_max, int(room * self._part))

    def _say(self, write: Callable[..., object], event: str, **figures: object) -> None:
        self._hung_up.inc()
        now = time.monotonic()
        if now >= self._said_at.get(event, -math.inf) + _SAY_EVERY_S:
            self._said_at[event] = now
            write(event, **figures)


class Acceptor:
    """Accepts what comes at a listening socket, as much as may come."""

    def __init__(
        self,
        listening: socket.socket,
        tls: ssl.SSLContext | None,
        make: Callable[[], Connection],
        connections: Connections,
    ) -> None:
        self._listening = listening
        self._tls = tls
        self._make = make
        self._connections = connections
        self._loop = asyncio.get_running_loop()
        self._retry: asyncio.TimerHandle | None = None
        self._connecting: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Listen, for ever."""
        self._listening.listen(BACKLOG)
        self._listening.setblocking(False)
        self._go_on()

    def close(self) -> None:
        """Listen no more; what was accepted stays."""
        self._pause()
        if self._retry is not None:
            self._retry.cancel()
        self._listening.close()

    def _go_on(self) -> None:
        self._loop.add_reader(self._listening.fileno(), self._accept)

    def _pause(self) -> None:
        if self._listening.fileno() >= 0:
            self._loop.remove_reader(self._listening.fileno())

    def _accept(self) -> None:
        for _ in range(_A_TURN):
            try:
                accepted, address = self._listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                log.error("connections.not_accepted", error=os.strerror(error.errno or 0))
                self._pause()
                self._retry = self._loop.call_later(_PAUSE_S, self._go_on)
                return
            accepted.setblocking(False)
            connection = self._make()
            if self._connections.enter(connection, address[0]):
                task = self._loop.create_task(self._connect(accepted, connection))
                self._connecting.add(task)
                task.add_done_callback(self._connecting.discard)
            else:
                accepted.close()

    async def _connect(self, accepted: socket.socket, connection: Connection) -> None:
        connection.on_lost = self._connections.leave
        handshake_s = _HANDSHAKE_S if self._tls else None
        try:
            await self._loop.connect_accepted_socket(
                lambda: connection, accepted, ssl=self._tls, ssl_handshake_timeout=handshake_s
            )
        except OSError as error:  # which errors of TLS are, and its being too slow
            log.debug("connections.no_handshake", error=str(error))
        finally:
            if connection.transport is None:
                self._connections.leave(connection)
