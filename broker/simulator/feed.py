"""Market data: a snapshot to each new socket, then what changed, encoded once for all of them."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import msgspec
import structlog
from aiohttp import WSCloseCode, WSMsgType, web

from broker.core.money import format_money
from broker.core.types import Symbol
from broker.simulator.market import Quote

log = structlog.get_logger(__name__)

_CLOSE_WITHIN_S = 0.3
_HEARTBEAT_S = 20.0
_ENCODE = msgspec.json.Encoder()


class WireQuote(msgspec.Struct, gc=False):
    symbol: str
    bid: str
    ask: str
    last: str
    at: str


@dataclass(frozen=True, slots=True, eq=False)
class _Subscriber:
    """One socket: its messages that wait, and how to be rid of it."""

    socket: web.WebSocketResponse
    messages: asyncio.Queue[bytes]
    drop: Callable[[], None]


class Feed:
    """Tells every socket of the quotes. A socket that does not keep up is dropped: its client comes again."""

    def __init__(
        self,
        current: Mapping[Symbol, Quote],
        clock: Callable[[], datetime],
        sockets_max: int,
        messages_max: int,
    ) -> None:
        self._current = current
        self._clock = clock
        self._sockets_max = sockets_max
        self._messages_max = messages_max
        self._subscribers: set[_Subscriber] = set()
        self._quotes: dict[Symbol, bytes] = {}
        self._sequence = 1
        self._encode(current)

    def publish(self, changed: Sequence[Symbol]) -> None:
        """Send the quotes that changed."""
        if not changed:
            return
        self._encode(changed)
        self._sequence += 1
        message = self._message(b"quotes", changed)
        for subscriber in [*self._subscribers]:
            self._send(subscriber, message)

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """One socket, for as long as it lives."""
        if len(self._subscribers) >= self._sockets_max:
            raise web.HTTPServiceUnavailable(reason="too many sockets on the feed")
        socket = web.WebSocketResponse(heartbeat=_HEARTBEAT_S, timeout=_CLOSE_WITHIN_S, compress=False)
        await socket.prepare(request)
        subscriber = self._subscribe(socket, request)
        writer = asyncio.create_task(_write(subscriber))
        try:
            async for _ in socket:
                pass  # clients have nothing to say; reading notices that they are gone
        finally:
            self._subscribers.discard(subscriber)
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)
        return socket

    async def close(self) -> None:
        """Say good-bye to every socket."""
        closing = [
            subscriber.socket.close(code=WSCloseCode.GOING_AWAY, drain=False) for subscriber in self._subscribers
        ]
        await asyncio.gather(*closing, return_exceptions=True)

    def _subscribe(self, socket: web.WebSocketResponse, request: web.Request) -> _Subscriber:
        """Snapshot and subscription in one turn of the loop: no change falls between the two."""
        assert request.transport is not None
        subscriber = _Subscriber(socket, asyncio.Queue(self._messages_max), request.transport.abort)
        subscriber.messages.put_nowait(self._message(b"snapshot", self._quotes))
        self._subscribers.add(subscriber)
        return subscriber

    def _send(self, subscriber: _Subscriber, message: bytes) -> None:
        try:
            subscriber.messages.put_nowait(message)
        except asyncio.QueueFull:
            log.warning("feed.socket_dropped", waiting=subscriber.messages.qsize())
            self._subscribers.discard(subscriber)
            subscriber.drop()

    def _encode(self, symbols: Iterable[Symbol]) -> None:
        at = self._clock().isoformat(timespec="microseconds")
        for symbol in symbols:
            quote = self._current[symbol]
            self._quotes[symbol] = _ENCODE.encode(
                WireQuote(symbol, format_money(quote.bid), format_money(quote.ask), format_money(quote.last), at)
            )

    def _message(self, kind: bytes, symbols: Iterable[Symbol]) -> bytes:
        quotes = b",".join([self._quotes[symbol] for symbol in symbols])
        return b'{"type":"%s","sequence":%d,"quotes":[%s]}' % (kind, self._sequence, quotes)


async def _write(subscriber: _Subscriber) -> None:
    """Send what waits, until the socket is closed."""
    while not subscriber.socket.closed:
        await subscriber.socket.send_frame(await subscriber.messages.get(), WSMsgType.TEXT)
