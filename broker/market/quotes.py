"""What the broker knows of the market: the latest quote of each listed symbol of one exchange.

Trading goes on without it: where no quote was ever heard, a BUY reserves all that is available and the exchange
decides. Quotes of a feed that is lost hold for a moment; then they are stale, and market orders are refused until it is
back.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

import msgspec
import structlog

from broker.core.money import Money
from broker.core.types import Symbol

log = structlog.get_logger()


class Quote(msgspec.Struct, gc=False):
    """The best prices of a symbol, per share, with the shares at them (0: not known), and the last trade's price.

    Tens of thousands are kept (`broker.market.tape`): the garbage collector need not look at each of them.
    """

    bid: Money
    ask: Money
    last: Money
    bid_size: int
    ask_size: int
    at: datetime


@dataclass(slots=True)
class Print:
    """One trade on the exchange: what a ticker tape prints."""

    symbol: Symbol
    price: Money
    quantity: int
    at: datetime


class Quotes:
    """The latest quotes of one exchange; what the decisions look at. Bid and ask are None while they are stale."""

    def __init__(self, stale_after_s: float, now: Callable[[], float] = time.monotonic) -> None:
        self._stale_after_s = stale_after_s
        self._now = now
        self._quotes: dict[Symbol, Quote] = {}
        self._heard = asyncio.Event()
        self._lost_at: float | None = None  # None while the feed is there
        self.is_live = True
        """Whether they come from the exchange itself, so that hearing them says that it is there."""

    def ask(self, symbol: Symbol) -> Money | None:
        """The price at which a BUY would fill now, or None where no quote is known."""
        quote = self._quotes.get(symbol)
        return quote.ask if quote and (self._lost_at is None or self.stale_for_s is None) else None

    def bid(self, symbol: Symbol) -> Money | None:
        """The price at which a SELL would fill now, or None where no quote is known."""
        quote = self._quotes.get(symbol)
        return quote.bid if quote and (self._lost_at is None or self.stale_for_s is None) else None

    def last(self, symbol: Symbol) -> Money | None:
        """The price of the last trade, however old, or None where it is not known: what a position is valued at."""
        quote = self._quotes.get(symbol)
        return quote.last if quote else None

    def get(self, symbol: Symbol) -> Quote | None:
        """All of it, or None where it is not known."""
        return self._quotes.get(symbol)

    def is_listed(self, symbol: Symbol) -> bool | None:
        """Whether the exchange lists it; None where we have not heard from the exchange."""
        return symbol in self._quotes if self._quotes else None

    @property
    def symbols(self) -> list[Symbol]:
        """All that is listed."""
        return list(self._quotes)

    @property
    def connected(self) -> bool:
        """Whether the feed is there now."""
        return bool(self._quotes) and self._lost_at is None

    @property
    def stale_for_s(self) -> float | None:
        """For how long the feed has been silent, where that is too long for its quotes to hold; else None."""
        if self._lost_at is None:
            return None
        silent_s = self._now() - self._lost_at
        return silent_s if silent_s >= self._stale_after_s else None

    async def wait_known(self, seconds: float) -> None:
        """Wait for the first prices, at most so long."""
        try:
            await asyncio.wait_for(self._heard.wait(), seconds)
        except TimeoutError:
            log.warning("feed.silent", note="starting without prices", waited_s=seconds)

    def replace(self, quotes: dict[Symbol, Quote]) -> None:
        """Start from a snapshot: what is not in it is not listed any more."""
        self._quotes = quotes
        self._lost_at = None
        self._heard.set()

    def update(self, quotes: Mapping[Symbol, Quote]) -> list[Symbol]:
        """Take in what changed; the symbols that are known."""
        known = [symbol for symbol in quotes if symbol in self._quotes]  # what no snapshot listed takes no memory
        for symbol in known:
            self._quotes[symbol] = quotes[symbol]
        return known

    def lost(self) -> None:
        """The feed is gone."""
        if self._quotes and self._lost_at is None:
            self._lost_at = self._now()
