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
    if wire.bid_size < 0 or wire.ask_size < 0:
        raise ValueError("a size below zero")
    sizes = wire.bid_size, wire.ask_size
    return Quote(_price(wire.bid), _price(wire.ask), _price(wire.last), *sizes, _time(wire.at))


def _print(wire: WireTrade) -> Print:
    if not 0 < wire.quantity <= QUANTITY_MAX:
        raise ValueError("a trade has at least one share")
    return Print(Symbol(wire.symbol), _price(wire.price), wire.quantity, _time(wire.at))


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
        failures = 0
        while True:
            began = await self._follow()
            self._lost()
            failures = 0 if began else failures + 1
            pause = min(_FIRST_PAUSE_S * 2 ** min(failures, 10), self._config.feed_retry_max_s)
            await asyncio.sleep(pause * self._rng.uniform(0.5, 1.0))

    async def _follow(self) -> bool:
        """Take what comes until it is lost; whether anything came."""
        self._messages, began = Numbered(), False
        try:
            async with aclosing(self._source.messages()) as messages:
                async for message in messages:
                    self.take(message)
                    began = True
            raise FeedBroken("its source ended")
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, RecursionError, FeedBroken) as error:
            log.warning("feed.lost", error=f"{type(error).__name__}: {error}")
        return began

    def take(self, text: str | bytes) -> None:
        """One message. Raises ValueError where it is not in form, FeedBroken where one was missed."""
        message = self._messages.read(text)
        is_snapshot = message.type == "snapshot"
        quotes = {Symbol(quote.symbol): _quote(quote) for quote in message.quotes}
        trades = [_print(trade) for trade in message.trades]
        if is_snapshot:
            strange = [symbol for symbol in quotes if _SYMBOL.search(symbol) is None]
            for symbol in strange:  # nothing here could carry it; updates of what no snapshot listed are not taken
                del quotes[symbol]
            log.info("feed.connected", symbols=len(quotes), left_out=strange[:10])
        self._take(Update(is_snapshot, quotes, trades))
