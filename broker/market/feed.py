"""Follows one feed of market data, whichever source it comes from; a lost or broken one is begun anew.

Every source speaks the messages of docs/exchange-contract.md: a snapshot first, then what changed, numbered without
gaps.
"""

import asyncio
import random
import re
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

import aiohttp
import msgspec
import structlog

from broker.config import Config
from broker.core.money import Money, parse_money
from broker.core.types import PRICE_MAX, QUANTITY_MAX, SYMBOL_PATTERN, Symbol
from broker.market.quotes import Print, Quote

log = structlog.get_logger()

_SYMBOL = re.compile(SYMBOL_PATTERN, re.ASCII)
_FIRST_PAUSE_S = 0.05
_SIZE_MAX = 10**12
"""Shares; more is a mistake of the exchange, and would be sent to every client."""


class FeedBroken(Exception):
    """The feed cannot be followed any further: connect anew and start from a snapshot."""


class Source(Protocol):
    """Where a feed comes from. Each call of `messages` begins anew, with a snapshot, and ends or fails when it is lost.

    What it may raise: FeedBroken, OSError, TimeoutError, aiohttp.ClientError, ValueError.
    """

    def messages(self) -> AsyncGenerator[str | bytes, None]: ...


@dataclass(slots=True)
class Update:
    """One message: the quotes that changed (of a snapshot: all), and the trades since the last one."""

    is_snapshot: bool
    quotes: Mapping[Symbol, Quote]
    trades: Sequence[Print]


class WireQuote(msgspec.Struct, gc=False):
    """A quote as a feed says it."""

    symbol: str
    bid: str
    ask: str
    last: str
    at: datetime
    bid_size: int = 0
    ask_size: int = 0


class WireTrade(msgspec.Struct, gc=False):
    """A trade as a feed says it."""

    symbol: str
    price: str
    quantity: int
    at: datetime


class Message(msgspec.Struct):
    """A message of a feed."""

    type: Literal["snapshot", "quotes"]
    sequence: int
    quotes: list[WireQuote] = []
    trades: list[WireTrade] = []


_decode = msgspec.json.Decoder(Message).decode


class Numbered:
    """Reads the messages of a feed in their order, and notices where one is missing."""

    def __init__(self) -> None:
        self._sequence: int | None = None  # None before the snapshot

    def read(self, text: str | bytes) -> Message:
        """The next message. Raises ValueError where it is not in form, FeedBroken where one was missed."""
        message = _decode(text)
        if message.type == "quotes":
            if self._sequence is None:
                raise FeedBroken("it did not begin with a snapshot")
            if message.sequence != self._sequence + 1:
                raise FeedBroken(f"message {self._sequence + 1} was missed, {message.sequence} came")
        self._sequence = message.sequence
        return message


def _price(text: str) -> Money:
    price = parse_money(text)
    if not 0 < price <= PRICE_MAX:
        raise ValueError("a price is above zero")
    return price


def _time(at: datetime) -> datetime:
    if at.tzinfo is None:
        raise ValueError("a time without its zone")
    return at


def _quote(wire: WireQuote) -> Quote:
    sizes = wire.bid_size, wire.ask_size
    if min(sizes) < 0 or max(sizes) > _SIZE_MAX:
        raise ValueError("a size that no market has")
    return Quote(_price(wire.bid), _price(wire.ask), _price(wire.last), *sizes, _time(wire.at))


def _print(wire: WireTrade) -> Print:
    if not 0 < wire.quantity <= QUANTITY_MAX:
        raise ValueError("a trade has at least one share")
    return Print(Symbol(wire.symbol), _price(wire.price), wire.quantity, _time(wire.at))


def parse(message: Message) -> Update:
    """What a message says. Raises ValueError where a figure or a time cannot be, FeedBroken where nothing is listed."""
    is_snapshot = message.type == "snapshot"
    quotes = {Symbol(quote.symbol): _quote(quote) for quote in message.quotes}
    if is_snapshot:
        strange = [symbol for symbol in quotes if _SYMBOL.search(symbol) is None]
        for symbol in strange:  # nothing here could carry it; updates of what no snapshot listed are not taken
            del quotes[symbol]
        if not quotes:  # it is starting, say: what it listed before is not gone
            raise FeedBroken("its snapshot lists nothing")
    return Update(is_snapshot, quotes, [_print(trade) for trade in message.trades])


EXPECTED = (aiohttp.ClientError, TimeoutError, OSError, ValueError, RecursionError, FeedBroken)
"""What a source may fail with. Anything else is a bug of ours, and is logged as one."""


def tell_lost(event: str, error: Exception) -> None:
    """Log that a feed, or what belongs to it, was lost."""
    is_news = not isinstance(error, EXPECTED)
    log.warning(event, error=f"{type(error).__name__}: {error}"[:500], exc_info=error if is_news else None)


class Feed:
    """Follows a source, for ever. `take` gets each update, `lost` is told when it is gone."""

    def __init__(
        self,
        source: Source,
        take: Callable[[Update], None],
        lost: Callable[[], None],
        config: Config,
        rng: random.Random,
    ) -> None:
        self._source = source
        self._take = take
        self._lost = lost
        self._config = config
        self._rng = rng
        self._messages = Numbered()

    async def run(self) -> None:
        """Follow, and begin again whenever that ends, with growing pauses while it does not even begin."""
        loop, failures = asyncio.get_running_loop(), 0
        while True:
            began = loop.time()
            await self._follow()
            self._lost()
            held = loop.time() - began >= self._config.feed_retry_max_s
            failures = 0 if held else failures + 1
            pause = min(_FIRST_PAUSE_S * 2 ** min(failures, 10), self._config.feed_retry_max_s)
            await asyncio.sleep(pause * self._rng.uniform(0.5, 1.0))

    async def _follow(self) -> None:
        """Take what comes until it is lost."""
        self._messages = Numbered()
        try:
            async with aclosing(self._source.messages()) as messages:
                async for message in messages:
                    self.take(message)
            raise FeedBroken("its source ended")
        except Exception as error:  # noqa: BLE001 - this task's guard: whatever a source says must not stop the broker
            tell_lost("feed.lost", error)

    def take(self, text: str | bytes) -> None:
        """One message. Raises ValueError where it is not in form, FeedBroken where one was missed."""
        message = self._messages.read(text)
        update = parse(message)
        if update.is_snapshot:
            log.info("feed.connected", symbols=len(update.quotes), left_out=len(message.quotes) - len(update.quotes))
        self._take(update)
