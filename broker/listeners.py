"""Where the broker listens: which routes on which port, with TLS or without, and how a port is left to a successor.

One port has everything unless the operators' routes or the exchange's callbacks are given ports of their own: then they
are there and nowhere else.
"""

import asyncio
import ctypes
import errno
import os
import socket
import ssl
import struct
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from broker.config import Config, read_address
from broker.connections import BACKLOG, Acceptor, Connections
from broker.metrics import Metrics

log = structlog.get_logger()

_OTHER_PORT = 1 / 8
"""Of all descriptors for connections the part of each port beside the main one: a crowd there leaves these open."""
_LEAVE_S = 0.5
"""Connections under way when a port is left get this long; others try again after a second, TCP's own pause."""


class ListenError(Exception):
    """Listening is not possible as it was asked for; the message says why and what to do."""


class Place(StrEnum):
    """A port, by whom it is for."""

    MAIN = "main"
    ADMIN = "admin"
    CALLBACK = "callback"
    INSIDE = "inside"
    """Callbacks of the exchange inside the broker, where the others are behind a certificate that it cannot check."""


@dataclass(frozen=True, slots=True)
class Urls:
    """Under which URLs this machine reaches the broker."""

    main: str
    admin: str
    callback: str
    inside: str

    @classmethod
    def all_on(cls, url: str) -> "Urls":
        """One port for everything."""
        return cls(url, url, url, url)


# ------------------------------------------------------------------ which routes where

_EVERYWHERE = {"/healthz", "/readyz"}


def _home(path: str) -> Place:
    if path.startswith("/admin/") or path == "/metrics":
        return Place.ADMIN
    return Place.CALLBACK if path.startswith("/webhooks/exchange") else Place.MAIN


def places(config: Config) -> list[Place]:
    """The ports that there are."""
    wanted = {
        Place.MAIN: True,
        Place.ADMIN: config.admin_listen is not None,
        Place.CALLBACK: config.callback_listen is not None,
        Place.INSIDE: config.tls_cert is not None and config.exchange is None,
    }
    return [place for place, is_there in wanted.items() if is_there]


def routes_at(place: Place, routes: Iterable[web.RouteDef], apart: Iterable[Place]) -> list[web.RouteDef]:
    """The routes that one port has, where these places have ports of their own."""
    elsewhere = set(apart) - {place, Place.INSIDE}
    homes = {Place.INSIDE: {Place.CALLBACK}, Place.MAIN: {*Place} - elsewhere}.get(place, {place})
    return [route for route in routes if route.path in _EVERYWHERE or _home(route.path) in homes]


# ------------------------------------------------------------------ ports


@dataclass(frozen=True, slots=True)
class Listener:
    """One port: its socket, the URL under which this machine reaches it, and its TLS where it has one."""

    place: Place
    socket: socket.socket
    url: str
    tls: ssl.SSLContext | None


@contextmanager
def open_listeners(config: Config) -> Iterator[list[Listener]]:
    """All ports that the settings ask for. Raises ListenError.

    They are bound before anything else starts: a port in use should be heard of at once.
    """
    tls = _tls(config)
    wanted = [(Place.MAIN, (config.host, config.port), "--port")]
    if config.admin_listen:
        wanted.append((Place.ADMIN, read_address(config.admin_listen), "--admin-listen"))
    if config.callback_listen:
        wanted.append((Place.CALLBACK, read_address(config.callback_listen), "--callback-listen"))
    with ExitStack() as stack:
        found = []
        for place, (host, port), flag in wanted:
            bound = stack.enter_context(_bind(host, port, flag, shared=config.reuse_port))
            found.append(Listener(place, bound, _url(host, bound, tls), tls))
        if Place.INSIDE in places(config):
            inside = stack.enter_context(_bind("127.0.0.1", 0, "--port", shared=False))
            found.append(Listener(Place.INSIDE, inside, _url("127.0.0.1", inside, None), None))
        yield found


def urls_of(listeners: Sequence[Listener]) -> Urls:
    """Where everything is; what has no port of its own is on the main one."""
    at = {each.place: each.url for each in listeners}
    main = at[Place.MAIN]
    callback = at.get(Place.CALLBACK, main)
    return Urls(main, at.get(Place.ADMIN, main), callback, at.get(Place.INSIDE, callback))


def _bind(host: str, port: int, flag: str, *, shared: bool) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        if not shared:
            return socket.create_server((host, port), family=family, backlog=BACKLOG)
        bound = socket.socket(family, socket.SOCK_STREAM)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            bound.bind((host, port))  # it listens once it is ready: until then the other process gets everybody
        except BaseException:
            bound.close()
            raise
        return bound
    except OSError as error:
        raise ListenError(f"Cannot listen on {host}:{port}: {_why_not(error, flag)}") from error


def _why_not(error: OSError, flag: str) -> str:
    """What is wrong and what to do; not at Python's length. Below 0 are the errors of looking a name up."""
    is_name = error.errno is not None and error.errno < 0
    why = str(error.strerror).partition(" (")[0] if is_name or not error.errno else os.strerror(error.errno)
    if is_name or error.errno == errno.EADDRNOTAVAIL:
        return f"{why}. Name an address of this machine with {'--host' if flag == '--port' else flag}."
    return f"{why}. Name another port with {flag}, or 0 for a free one."


def _url(host: str, listener: socket.socket, tls: ssl.SSLContext | None) -> str:
    """The URL under which this machine reaches the listener; an address that means all becomes loopback."""
    reached = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)  # noqa: S104
    shown = f"[{reached}]" if ":" in reached else reached
    return f"{'https' if tls else 'http'}://{shown}:{listener.getsockname()[1]}"


# ------------------------------------------------------------------ TLS


def _tls(config: Config) -> ssl.SSLContext | None:
    if config.tls_cert is None or config.tls_key is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)  # its ciphers are those of a current browser
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    _load(context, config.tls_cert, config.tls_key)
    return context


def _load(context: ssl.SSLContext, cert: Path, key: Path) -> None:
    """Raises ListenError with what is wrong with the files."""
    for name, path in (("certificate", cert), ("key", key)):
        try:
            path.read_bytes()
        except OSError as error:
            sentence = f"The TLS {name} {path} cannot be read: {error.strerror}. Check --tls-cert and --tls-key."
            raise ListenError(sentence) from error
    try:
        context.load_cert_chain(cert, key, password=_no_password)
    except _Encrypted as error:
        sentence = f"The TLS key {key} is encrypted. Give one without a passphrase, readable by the broker alone."
        raise ListenError(sentence) from error
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            sentence = f"The TLS key {key} does not belong to the certificate {cert}."
        else:
            sentence = f"The TLS certificate {cert} and key {key} cannot be used: both must be PEM files."
        raise ListenError(sentence) from error


class _Encrypted(Exception):
    """OpenSSL asks for a passphrase; on a terminal it would wait for somebody to type it."""


def _no_password() -> str:
    raise _Encrypted


def reload_tls(config: Config, listeners: Iterable[Listener]) -> None:
    """Read the certificate again, for connections from now on; one that cannot be used leaves the old one."""
    assert config.tls_cert is not None
    assert config.tls_key is not None
    try:
        _load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), config.tls_cert, config.tls_key)  # half of it must not be taken
        for context in {each.tls for each in listeners if each.tls is not None}:
            _load(context, config.tls_cert, config.tls_key)
    except ListenError as error:
        log.error("tls.not_reloaded", error=str(error))
    else:
        log.info("tls.reloaded")


# ------------------------------------------------------------------ serving


class Serving:
    """The ports of a broker that is ready, until it leaves them."""

    def __init__(
        self, config: Config, metrics: Metrics, make_runner: Callable[[web.Application], web.AppRunner]
    ) -> None:
        self._config = config
        self._metrics = metrics
        self._make_runner = make_runner
        self._runners: list[web.AppRunner] = []
        self._acceptors: list[tuple[Listener, Acceptor]] = []
        self._leaving = False

    async def start(self, listener: Listener, app: web.Application) -> None:
        """Take connections on a port."""
        if self._config.reuse_port:  # only then is there somebody to go to
            app.middlewares.insert(0, self._goodbye())
        runner = self._make_runner(app)
        self._runners.append(runner)
        await runner.setup()
        make: Any = runner.server
        acceptor = Acceptor(listener.socket, listener.tls, make, self._connections(listener.place))
        acceptor.start()
        self._acceptors.append((listener, acceptor))

    def _connections(self, place: Place) -> Connections:
        is_main, others = place is Place.MAIN, len(places(self._config)) - 1
        part = 1 - others * _OTHER_PORT if is_main else _OTHER_PORT
        address_max = self._config.connections_address_max if is_main else None
        return Connections(place, part, address_max, self._config, self._metrics)

    def _goodbye(self) -> Middleware:
        @web.middleware
        async def goodbye(request: web.Request, handler: Handler) -> web.StreamResponse:
            response = await handler(request)
            if self._leaving:
                response.force_close()
            return response

        return goodbye

    async def leave(self) -> None:
        """Stop listening. Where other processes share the port, no connection is lost to them or us.

        A port that is closed resets what waits to be accepted, and which process a new connection goes to is the
        kernel's choice. So first new ones are not heard any more: their clients say it again after a second, to another
        process. Then what is under way is accepted, and the port is closed.
        """
        if self._config.reuse_port:
            for listener, _ in self._acceptors:
                hear_no_more(listener.socket)
            await asyncio.sleep(_LEAVE_S)
        for _, acceptor in self._acceptors:
            acceptor.close()

    async def say_goodbye(self, seconds: float) -> None:
        """Connections are told with their next answer to come again, elsewhere; those that stay silent are closed."""
        self._leaving = True
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        # Looked for again and again: aiohttp tells nobody when a connection has ended.
        while loop.time() < until and any(each.server and each.server.connections for each in self._runners):  # noqa: ASYNC110
            await asyncio.sleep(0.02)

    async def stop(self) -> None:
        """Finish what is under way, within the runners' time, and close everything."""
        for _, acceptor in self._acceptors:
            acceptor.close()
        await asyncio.gather(*(runner.cleanup() for runner in self._runners))


# A program for the kernel's packet filter: of TCP flags at byte 13, drop what has SYN and not ACK, pass all else.
_NO_SYN = [(0x30, 0, 0, 13), (0x54, 0, 0, 0x12), (0x15, 0, 1, 0x02), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFFFFFF)]
_SO_ATTACH_FILTER = 26


def hear_no_more(listener: socket.socket) -> None:
    """Let the kernel pass over new connections at this socket, and finish those that have begun. On Linux only."""
    if sys.platform != "linux":
        return
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in _NO_SYN))
    pointer = struct.pack("HL", len(_NO_SYN), ctypes.addressof(program))
    with suppress(OSError):  # of a kernel without it some connections are reset, as without all this
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, pointer)
