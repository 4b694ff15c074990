"""What the broker knows of the market: the latest quote of each listed symbol, from the exchange's feed.

Trading goes on without it: where no quote is known, a BUY reserves all that is available and the exchange decides.
"""

import asyncio
import random
from dataclasses import dataclass
from typing import Literal

import aiohttp
import msgspec
import structlog

from broker.config import Config
from broker.core.money import Money, parse_money
from broker.core.types import PRICE_MAX, Symbol

log = structlog.get_logger()


@dataclass(slots=True)
class Quote:
    """The best prices of a symbol, per share."""

    bid: Money
    ask: Money
    last: Money


class Quotes:
    """The latest quotes; what the decisions look at. Empty, and so knowing nothing, while the feed is away."""

    def __init__(self) -> None:
        self._quotes: dict[Symbol, Quote] = {}
        self._heard = asyncio.Event()

    def ask(self, symbol: Symbol) -> Money | None:
        """The price at which a BUY would fill now, or None where no quote is known."""
        quote = self._quotes.get(symbol)
        return quote.ask if quote else None

    def bid(self, symbol: Symbol) -> Money | None:
        """The price at which a SELL would fill now, or None where no quote is known."""
        quote = self._quotes.get(symbol)
        return quote.bid if quote else None

    def last(self, symbol: Symbol) -> Money | None:
        """The price of the last trade, or None where it is not known."""
        quote = self._quotes.get(symbol)
        return quote.last if quote else None

    def is_listed(self, symbol: Symbol) -> bool | None:
        """Whether the exchange lists it; None while we have not heard from the exchange."""
        return symbol in self._quotes if self._quotes else None

    @property
    def known(self) -> bool:
        """Whether we have heard from the exchange."""
        return bool(self._quotes)

    async def wait_known(self, seconds: float) -> None:
        """Wait for the first prices, at most so long."""
        try:
            await asyncio.wait_for(self._heard.wait(), seconds)
        except TimeoutError:
            log.warning("feed.silent", note="starting without prices", waited_s=seconds)

    def replace(self, quotes: dict[Symbol, Quote]) -> None:
        """Start from a snapshot: what is not in it is not listed any more."""
        self._quotes = quotes
        self._heard.set()

    def update(self, quotes: dict[Symbol, Quote]) -> None:
        """Take in what changed."""
        for symbol in quotes.keys() & self._quotes.keys():  # what no snapshot listed is not listed, and takes no memory
            self._quotes[symbol] = quotes[symbol]

    def clear(self) -> None:
        """The feed is gone: old prices are worse than none."""
        self._quotes = {}


class _WireQuote(msgspec.Struct):
    symbol: str
    bid: str
    ask: str
    last: str


class _Message(msgspec.Struct):
    type: Literal["snapshot", "quotes"]
    sequence: int
    quotes: list[_WireQuote]


_decode = msgspec.json.Decoder(_Message).decode


def _price(text: str) -> Money:
    price = parse_money(text)
    if not 0 < price <= PRICE_MAX:
        raise ValueError("a price is above zero")
    return price


class FeedBroken(Exception):
    """The feed cannot be followed any further: connect anew and start from a snapshot."""


class Feed:
    """Follows the exchange's quotes, for ever; a lost or broken feed is connected anew with growing pauses."""

    def __init__(
        self, url: str, quotes: Quotes, session: aiohttp.ClientSession, config: Config, rng: random.Random
    ) -> None:
        self._url = url.rstrip("/") + "/v1/feed"
        self._quotes = quotes
        self._session = session
        self._config = config
        self._rng = rng
        self._sequence = 0

    async def run(self) -> None:
        """Follow, and connect again whenever that ends."""
        failures = 0
        while True:
            try:
                await self._follow()
                failures = 0
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError, RecursionError, FeedBroken) as error:
                log.warning("feed.lost", error=f"{type(error).__name__}: {error}")
            failures = 1 if self._quotes.known else failures + 1
            self._quotes.clear()
            pause = min(0.05 * 2 ** min(failures, 10), self._config.feed_retry_max_s)
            await asyncio.sleep(pause * self._rng.uniform(0.5, 1.0))

    async def _follow(self) -> None:
        silence, largest = self._config.feed_silence_s, self._config.feed_message_max
        async with self._session.ws_connect(self._url, heartbeat=silence, max_msg_size=largest) as socket:
            self._sequence = 0
            async for message in socket:
                if message.type is not aiohttp.WSMsgType.TEXT:
                    raise FeedBroken(f"a message of type {message.type.name}")
                self.take(message.data)
        raise FeedBroken("the exchange closed it")

    def take(self, text: str) -> None:
        """One message. Raises ValueError where it is not in form, FeedBroken where one was missed."""
        message = _decode(text)
        if message.type == "quotes" and message.sequence != self._sequence + 1:
            raise FeedBroken(f"message {self._sequence + 1} was missed, {message.sequence} came")
        self._sequence = message.sequence
        quotes = {
            Symbol(quote.symbol): Quote(_price(quote.bid), _price(quote.ask), _price(quote.last))
            for quote in message.quotes
        }
        if message.type == "snapshot":
            log.info("feed.connected", symbols=len(quotes))
            self._quotes.replace(quotes)
        else:
            self._quotes.update(quotes)
