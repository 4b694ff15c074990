"""Market data: a snapshot to each new socket, then what changed and what traded, encoded once for all of them.

What happens goes out in the next turn of the event loop, unless something went out a moment ago: then it waits, with
whatever else happens meanwhile. So a trade is told at once, and a thousand of them in few messages.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import msgspec
import structlog
from aiohttp import WSCloseCode, WSMsgType, web

from broker.core.money import format_money
from broker.core.types import Symbol
from broker.simulator import wire
from broker.simulator.market import Quote
from broker.simulator.wire import Trade

log = structlog.get_logger(__name__)

_CLOSE_WITHIN_S = 0.3
_HEARTBEAT_S = 20.0
_GAP_S = 0.01
"""The shortest time from one message to the next, but for those of a tick."""
_TRADES_MAX = 10_000
"""Trades in a message: about a megabyte."""
_ENCODE = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True, eq=False)
class _Subscriber:
    """One socket: its messages that wait, and how to be rid of it."""

    socket: web.WebSocketResponse
    messages: asyncio.Queue[bytes]
    drop: Callable[[], None]


class Feed:
    """Tells every socket of the market. A socket that does not keep up is dropped: its client comes again.

    Made and used inside one event loop.
    """

    def __init__(
        self,
        current: Mapping[Symbol, Quote],
        clock: Callable[[], datetime],
        sockets_max: int,
        messages_max: int,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._sockets_max = sockets_max
        self._messages_max = messages_max
        self._subscribers: set[_Subscriber] = set()
        at = clock().isoformat(timespec="microseconds")
        self._quotes = {symbol: _encoded(quote, at) for symbol, quote in current.items()}
        self._sequence = 1
        self._changed: dict[Symbol, tuple[Quote, str]] = {}
        self._trades: list[Trade] = []
        self._timer: asyncio.Handle | None = None
        self._quiet_until = 0.0

    def note(self, at: str, quotes: Iterable[Quote], trades: Iterable[Trade]) -> None:
        """This happened, and is to be told as soon as may be."""
        for quote in quotes:
            self._changed[quote.symbol] = (quote, at)
        self._trades += trades
        if self._timer is None and (self._changed or self._trades):
            self._timer = self._loop.call_at(self._quiet_until, self.publish)

    def publish(self) -> None:
        """Tell now of all that was noted."""
        self._disarm()
        if not self._changed and not self._trades:
            return
        self._quiet_until = self._loop.time() + _GAP_S
        changed, self._changed = self._changed, {}
        trades, self._trades = self._trades, []
        for symbol, (quote, at) in changed.items():
            self._quotes[symbol] = _encoded(quote, at)
        while len(trades) > _TRADES_MAX:
            self._tell((), trades[:_TRADES_MAX])
            trades = trades[_TRADES_MAX:]
        self._tell(changed, trades)

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
        self._disarm()
        closing = [
            subscriber.socket.close(code=WSCloseCode.GOING_AWAY, drain=False) for subscriber in self._subscribers
        ]
        await asyncio.gather(*closing, return_exceptions=True)

    def _subscribe(self, socket: web.WebSocketResponse, request: web.Request) -> _Subscriber:
        """Snapshot and subscription in one turn of the loop: no change falls between the two."""
        assert request.transport is not None
        subscriber = _Subscriber(socket, asyncio.Queue(self._messages_max), request.transport.abort)
        subscriber.messages.put_nowait(self._message(b"snapshot", self._quotes, b""))
        self._subscribers.add(subscriber)
        return subscriber

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tell(self, changed: Iterable[Symbol], trades: Sequence[Trade]) -> None:
        """One message to all."""
        self._sequence += 1
        if not self._subscribers:
            return
        message = self._message(b"quotes", changed, b',"trades":%s' % _ENCODE.encode(trades))
        for subscriber in [*self._subscribers]:
            self._send(subscriber, message)

    def _send(self, subscriber: _Subscriber, message: bytes) -> None:
        try:
            subscriber.messages.put_nowait(message)
        except asyncio.QueueFull:
            log.warning("feed.socket_dropped", waiting=subscriber.messages.qsize())
            self._subscribers.discard(subscriber)
            subscriber.drop()

    def _message(self, kind: bytes, symbols: Iterable[Symbol], trades: bytes) -> bytes:
        quotes = b",".join([self._quotes[symbol] for symbol in symbols])
        return b'{"type":"%s","sequence":%d,"quotes":[%s]%s}' % (kind, self._sequence, quotes, trades)


def _encoded(quote: Quote, at: str) -> bytes:
    bid, ask, last = format_money(quote.bid), format_money(quote.ask), format_money(quote.last)
    return _ENCODE.encode(wire.Quote(quote.symbol, bid, ask, last, at, quote.bid_size, quote.ask_size))


async def _write(subscriber: _Subscriber) -> None:
    """Send what waits, until the socket is closed."""
    while not subscriber.socket.closed:
        await subscriber.socket.send_frame(await subscriber.messages.get(), WSMsgType.TEXT)
