"""The points of time of Alpaca's portfolio history, and the close that a day's gain counts from."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta

from broker.core import hours
from broker.core.history import POINTS_MAX, STEPS, Timeframe

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


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
