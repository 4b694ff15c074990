"""Bars in Alpaca's timeframes: those of our own, and weeks and months, which are made of days."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Protocol, Self

from broker.core.bars import DAY, Bar, Timeframe, day_of
from broker.core.hours import NEW_YORK
from broker.core.types import Symbol

_FRAME = re.compile(r"([1-9][0-9]?)(Min|T|Hour|H|Day|D|Week|W|Month|M)", re.ASCII)
_OURS = {"Min": "Min", "T": "Min", "Hour": "Hour", "H": "Hour", "Day": "Day", "D": "Day"}
_MONTHS = {1, 2, 3, 4, 6, 12}
_DAYS_MAX = 30_000
"""Daily bars that there can be of a symbol since 1970."""
_MINUTES_OF_A_DAY = 1_500
"""... and bars of a minute on the longest day."""
_INSTANT = timedelta(microseconds=1)


class PastBars(Protocol):
    """The bars of each symbol, oldest first, of minutes, hours and days."""

    async def read(
        self, symbol: Symbol, timeframe: Timeframe, start: datetime, end: datetime, limit: int
    ) -> list[Bar]: ...


@dataclass(frozen=True, slots=True)
class Frame:
    """How long a bar is: one of our own timeframes, or so many weeks or months."""

    timeframe: Timeframe | None
    weeks: int = 0
    months: int = 0

    @classmethod
    def read(cls, text: str) -> Self:
        """The frame of "5Min", "1Hour", "1Day", "1Week" or "3Month". Raises ValueError."""
        match = _FRAME.fullmatch(text)
        if match is None:
            raise ValueError("no timeframe")
        count, unit = int(match[1]), match[2]
        if unit in _OURS:
            return cls(Timeframe.read(f"{count}{_OURS[unit]}"))
        if unit in {"Week", "W"} and count == 1:
            return cls(None, weeks=1)
        if unit in {"Month", "M"} and count in _MONTHS:
            return cls(None, months=count)
        raise ValueError("no timeframe")

    def within(self, at: datetime) -> tuple[datetime, datetime]:
        """When the week or the months begin and end in which this moment lies: at midnight in New York."""
        day = at.astimezone(NEW_YORK).date()
        if self.weeks:
            first = day - timedelta(days=day.weekday())
            return _midnight(first), _midnight(first + timedelta(weeks=1))
        month = day.year * 12 + (day.month - 1) // self.months * self.months
        return _midnight(_first_of(month)), _midnight(_first_of(month + self.months))


def _first_of(month: int) -> date:
    return date(month // 12, month % 12 + 1, 1)


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), NEW_YORK).astimezone(UTC)


def joined(days: Iterable[Bar], frame: Frame) -> list[Bar]:
    """Weeks or months made of days, which come in their order."""
    made: list[Bar] = []
    ends_at = datetime.min.replace(tzinfo=UTC)
    for day in days:
        if day.starts_at < ends_at:
            made[-1].follow(day)
            continue
        starts_at, ends_at = frame.within(day.starts_at)
        made.append(day.copy(starts_at))
    return made


async def read_bars(
    bars: PastBars, symbol: Symbol, frame: Frame, start: datetime, end: datetime, limit: int, *, newest_first: bool
) -> list[Bar]:
    """The first bars that begin at `start` or later and before `end`, or the last ones of them, newest first.

    Raises DatabaseUnavailable.
    """
    if start >= end:
        return []
    if frame.timeframe is None:
        found = await _read_joined(bars, symbol, frame, start, end)
    elif not newest_first:
        return await bars.read(symbol, frame.timeframe, start, end, limit)
    elif frame.timeframe == DAY:
        found = await bars.read(symbol, DAY, start, end, _DAYS_MAX)
    else:
        return await _read_back(bars, symbol, frame.timeframe, start, end, limit)
    return (found[::-1] if newest_first else found)[:limit]


async def _read_joined(bars: PastBars, symbol: Symbol, frame: Frame, start: datetime, end: datetime) -> list[Bar]:
    first, second = frame.within(start)
    begins_at = first if first == start else second
    if begins_at >= end:
        return []
    days = await bars.read(symbol, DAY, begins_at, frame.within(end - _INSTANT)[1], _DAYS_MAX)
    return joined(days, frame)


async def _read_back(
    bars: PastBars, symbol: Symbol, timeframe: Timeframe, start: datetime, end: datetime, limit: int
) -> list[Bar]:
    """A day after the other, backwards: no bar of minutes or hours goes on over midnight."""
    found: list[Bar] = []
    while start < end and len(found) < limit:
        begins_at = max(start, day_of(end - _INSTANT))
        found += (await bars.read(symbol, timeframe, begins_at, end, _MINUTES_OF_A_DAY))[::-1]
        end = begins_at
    return found[:limit]
