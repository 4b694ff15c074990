"""What an account was worth at any points of time, by the core's reckoning of histories."""

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta

from broker.core import hours
from broker.core.history import (
    POINTS_MAX,
    Held,
    History,
    Moved,
    Sample,
    Samples,
    Timeframe,
    after_id,
    first_id,
    history,
    symbols_held,
)
from broker.core.money import Money
from broker.core.types import CustomerId, Symbol
from broker.db import Database

STEPS = {
    Timeframe.MINUTE: timedelta(minutes=1),
    Timeframe.FIVE_MINUTES: timedelta(minutes=5),
    Timeframe.QUARTER_HOUR: timedelta(minutes=15),
    Timeframe.HOUR: timedelta(hours=1),
    Timeframe.DAY: timedelta(days=1),
}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LOOKUPS_MAX = 20_000
"""Prices that one query looks up: it has to be done before the client's time is up."""


class Worth:
    """Equity and gain at points of time."""

    def __init__(self, database: Database, last: Callable[[Symbol], Money | None], now: Callable[[], datetime]) -> None:
        self._database = database
        self._last = last
        self._now = now

    async def opened(self, customer_id: CustomerId) -> datetime:
        """When the customer's history begins."""
        first = await self._database.fetch("first_transfer", customer_id)
        return after_id(first[0]["transfer_id"]) if first else self._now()

    async def at(self, customer_id: CustomerId, times: Sequence[datetime]) -> History:
        """The figures at these times, in order, and then those of now, as one more."""
        points = [*times, max(self._now(), times[-1] if times else _EPOCH)]
        rows = await self._database.fetch("history_moves", customer_id, [first_id(at) for at in times])
        held = [Held(row["asset"], row["amount"], row["cost"]) for row in rows if not row["span"]]
        moved = [Moved(**row) for row in rows if row["span"]]
        symbols = symbols_held(held, moved)
        live = {symbol: price for symbol in symbols if (price := self._last(symbol)) is not None}
        return history(points, held, moved, await self._samples(symbols, points), live)

    async def _samples(self, symbols: Sequence[Symbol], times: Sequence[datetime]) -> Samples:
        samples: dict[tuple[str, int], Sample] = {}
        at_once = max(1, _LOOKUPS_MAX // len(times))
        for first in range(0, len(symbols), at_once):
            for row in await self._database.fetch("history_prices", symbols[first : first + at_once], times):
                samples[row["symbol"], row["point"]] = Sample(row["at"], Money(row["price"]))
        return samples


def fitting(timeframe: Timeframe, reach: timedelta) -> Timeframe:
    """This one, or the next coarser one that has few enough points."""
    steps = list(STEPS)
    return next((each for each in steps[steps.index(timeframe) :] if reach / STEPS[each] <= POINTS_MAX), Timeframe.DAY)


def points(timeframe: Timeframe, start: datetime, end: datetime) -> list[datetime]:
    """The full steps of UTC from start to end; of days, the midnights of New York. At most POINTS_MAX, evenly."""
    found = list(_midnights(start, end) if timeframe is Timeframe.DAY else _full(STEPS[timeframe], start, end))
    return found[:: len(found) // (POINTS_MAX + 1) + 1]


def _full(step: timedelta, start: datetime, end: datetime) -> Iterator[datetime]:
    at = _EPOCH - (_EPOCH - start) // step * step
    while at <= end:
        yield at
        at += step


def _midnights(start: datetime, end: datetime) -> Iterator[datetime]:
    at = datetime.combine(start.astimezone(hours.NEW_YORK).date(), time(), hours.NEW_YORK).astimezone(UTC)
    if at < start:
        at = hours.midnight(start)
    while at <= end:
        yield at
        at = hours.midnight(at)


def last_close(now: datetime, *, always_open: bool) -> datetime:
    """When the last day of trading before today's ended."""
    today = now.astimezone(hours.NEW_YORK).date()
    if always_open:
        return datetime.combine(today, time(), hours.NEW_YORK).astimezone(UTC)
    return next(found.closes_at for day in _days_before(today) if (found := hours.session(day)) is not None)


def _days_before(day: date) -> Iterator[date]:
    while True:
        day -= timedelta(days=1)
        yield day
