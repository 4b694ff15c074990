"""Prices of what customers hold, kept now and then: what the history of their portfolios is made of."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import date, datetime, time, timedelta

import structlog

from broker.core.conditions import Conditions
from broker.core.day_trades import trade_date
from broker.core.hours import NEW_YORK
from broker.core.money import Money
from broker.core.types import Symbol
from broker.db import Database, DatabaseUnavailable, RefusedByDatabase

log = structlog.get_logger()

_KEPT = timedelta(7)
"""Samples older than this are thinned to the last of each day."""

_SOON_S = 1.0
"""When to try again where no quote is known: just after a start."""


class PriceSamples:
    """Writes the samples."""

    def __init__(self, database: Database, conditions: Callable[[], Conditions]) -> None:
        self._database = database
        self._conditions = conditions

    async def run(self, every_s: float) -> None:
        """Keep the prices of what customers hold, for ever; what is old is thinned once a day."""
        thinned: date | None = None
        while True:
            pause = every_s
            try:
                if not await self.sample():
                    pause = min(every_s, _SOON_S)  # just after the start the quotes are not there yet
                today = self._conditions().today
                if today != thinned:
                    await self.thin()
                    thinned = today
            except (DatabaseUnavailable, RefusedByDatabase) as error:
                log.warning("prices.not_sampled", error=str(error))
            await asyncio.sleep(pause)

    async def sample(self) -> bool:
        """Keep the prices of this moment; False where there was one to keep and none was known."""
        symbols = [Symbol(row["symbol"]) for row in await self._database.fetch("held_symbols")]
        prices = self._known(symbols)
        if prices:
            await self._database.fetch("sample_prices", self._conditions().now, list(prices), list(prices.values()))
        return bool(prices) or not symbols

    async def thin(self) -> None:
        """Of the days that are long past, keep the last sample of each."""
        first_kept = trade_date(self._conditions().now - _KEPT)
        midnight = datetime.combine(first_kept, time(), NEW_YORK)
        for row in await self._database.fetch("sampled_symbols"):
            await self._database.fetch("thin_price_samples", row["symbol"], midnight)

    def _known(self, symbols: Sequence[Symbol]) -> dict[Symbol, Money]:
        market = self._conditions().market
        prices = {symbol: market.last(symbol) for symbol in symbols}
        return {symbol: price for symbol, price in prices.items() if price is not None}
