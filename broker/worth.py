"""What an account was worth at points of time: its moves and the prices from the database, reckoned by the core."""

from collections.abc import Callable, Sequence
from datetime import datetime

from broker.core.history import Held, History, Moved, Sample, Samples, after_id, first_id, history, symbols_held
from broker.core.money import Money
from broker.core.types import CustomerId, Symbol
from broker.db import Database

_LOOKUPS_MAX = 20_000
"""Prices that one query looks up: it has to be done before the client's time is up."""


class Worth:
    """Equity and gain at points of time. `last` is the price of a symbol's last trade."""

    def __init__(self, database: Database, last: Callable[[Symbol], Money | None]) -> None:
        self._database = database
        self._last = last

    async def opened(self, customer_id: CustomerId) -> datetime | None:
        """When the customer's history begins; None where nothing was ever posted."""
        first = await self._database.fetch("first_transfer", customer_id)
        return after_id(first[0]["transfer_id"]) if first else None

    async def at(self, customer_id: CustomerId, points: Sequence[datetime]) -> History:
        """The figures at these points, in order; the last of them is now."""
        rows = await self._database.fetch("history_moves", customer_id, [first_id(at) for at in points[:-1]])
        held = [Held(row["asset"], row["amount"], row["cost"]) for row in rows if not row["span"]]
        moved = [Moved(**row) for row in rows if row["span"]]
        symbols = symbols_held(held, moved)
        live = {symbol: price for symbol in symbols if (price := self._last(symbol)) is not None}
        return history(points, held, moved, await self._samples(symbols, points), live)

    async def _samples(self, symbols: Sequence[Symbol], points: Sequence[datetime]) -> Samples:
        samples: dict[tuple[str, int], Sample] = {}
        at_once = max(1, _LOOKUPS_MAX // len(points))
        for first in range(0, len(symbols), at_once):
            for row in await self._database.fetch("history_prices", symbols[first : first + at_once], points):
                samples[row["symbol"], row["point"]] = Sample(row["at"], Money(row["price"]))
        return samples
