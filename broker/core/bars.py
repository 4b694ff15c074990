"""Bars: what was traded of a symbol within a minute, within a larger frame of time, or on a day of New York's.

Frames of minutes and hours count from New York's midnight, in time that really passes: on a day on which the clocks
change, an hour lasts an hour too. A day's last frame ends with the day. Nothing here reads a clock.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta
from typing import Protocol, Self

from broker.core.day_trades import trade_date
from broker.core.hours import NEW_YORK, midnight
from broker.core.money import Money, average
from broker.core.types import Symbol

_FRAME = re.compile(r"([1-9][0-9]?)(Min|Hour|Day)", re.ASCII)
_MOST = {"Min": 59, "Hour": 23, "Day": 1}
_ONE_MINUTE = timedelta(minutes=1)
_BEFORE = datetime.min.replace(tzinfo=UTC)
_LINGERS = timedelta(minutes=1)
"""A bar stays in memory for so long after its end: trades that come a little late find it there."""


@dataclass(slots=True)
class Bar:
    """The trades of a stretch of time that begins at `starts_at`, in UTC. `value` is what was paid for `volume`."""

    starts_at: datetime
    open: Money
    high: Money
    low: Money
    close: Money
    volume: int
    value: Money
    trades: int

    @classmethod
    def of(cls, starts_at: datetime, price: Money, quantity: int) -> Self:
        """The bar of one trade."""
        return cls(starts_at, price, price, price, price, quantity, Money(price * quantity), 1)

    @property
    def average(self) -> Money:
        """The average price of a share."""
        return average(self.value, self.volume)

    def add(self, price: Money, quantity: int) -> None:
        """One more trade, the last so far."""
        if price > self.high:
            self.high = price
        elif price < self.low:
            self.low = price
        self.close = price
        self.volume += quantity
        self.value = Money(self.value + price * quantity)
        self.trades += 1

    def follow(self, later: "Bar") -> None:
        """Take in the trades of another bar that came after these."""
        self.close = later.close
        self._take(later)

    def precede(self, earlier: "Bar") -> None:
        """Take in the trades of another bar that came before these."""
        self.open = earlier.open
        self._take(earlier)

    def _take(self, other: "Bar") -> None:
        self.high = max(self.high, other.high)
        self.low = min(self.low, other.low)
        self.volume += other.volume
        self.value = Money(self.value + other.value)
        self.trades += other.trades

    def copy(self, starts_at: datetime) -> "Bar":
        """The same trades in a bar of their own."""
        figures = self.open, self.high, self.low, self.close, self.volume, self.value, self.trades
        return Bar(starts_at, *figures)


def told_twice(saved: Bar, again: Bar) -> Bar:
    """What two tellings of the same trades say together, of which either may have missed some; nothing counts twice.

    broker/sql/save_bars.sql says the same.
    """
    return Bar(
        saved.starts_at,
        saved.open,
        max(saved.high, again.high),
        min(saved.low, again.low),
        again.close if again.volume > saved.volume else saved.close,
        max(saved.volume, again.volume),
        max(saved.value, again.value),
        max(saved.trades, again.trades),
    )


def minute_of(at: datetime) -> datetime:
    """The beginning of the minute in which this moment lies, in UTC."""
    return at.astimezone(UTC).replace(second=0, microsecond=0)


def day_of(at: datetime) -> datetime:
    """The midnight in New York with which the trade date of this moment began, in UTC."""
    return datetime.combine(trade_date(at), time(), NEW_YORK).astimezone(UTC)


@dataclass(frozen=True, slots=True)
class Timeframe:
    """How long a bar is: minutes or hours, or a day, which is New York's and not always 24 hours long."""

    text: str
    length: timedelta | None  # None: a day

    @classmethod
    def read(cls, text: str) -> Self:
        """The timeframe of "5Min", "1Hour" or "1Day". Raises ValueError."""
        match = _FRAME.fullmatch(text)
        if match is None or int(match[1]) > _MOST[match[2]]:
            raise ValueError("a timeframe is 1Min to 59Min, 1Hour to 23Hour, or 1Day")
        count = int(match[1])
        lengths = {"Min": timedelta(minutes=count), "Hour": timedelta(hours=count), "Day": None}
        return cls(text, lengths[match[2]])

    @property
    def minutes(self) -> int:
        """How many bars of a minute one of these is made of, at most; 1 of a day, which has bars of its own."""
        return self.length // _ONE_MINUTE if self.length else 1

    def start_of(self, at: datetime) -> datetime:
        """When the bar begins in which this moment lies."""
        return self.within(at, day_of(at), midnight(at))[0]

    def end_of(self, at: datetime) -> datetime:
        """When that bar ends, and the next one begins."""
        return self.within(at, day_of(at), midnight(at))[1]

    def within(self, at: datetime, day: datetime, day_ends: datetime) -> tuple[datetime, datetime]:
        """Both, where the day's beginning and end are known."""
        if self.length is None:
            return day, day_ends
        starts_at = day + (at - day) // self.length * self.length
        return starts_at, min(starts_at + self.length, day_ends)


MINUTE = Timeframe.read("1Min")
DAY = Timeframe.read("1Day")


def aggregate(bars: Iterable[Bar], timeframe: Timeframe) -> list[Bar]:
    """Larger bars made of smaller ones, which come in their order; a stretch without trades has none."""
    made: list[Bar] = []
    ends_at = day = day_ends = _BEFORE
    for bar in bars:
        if bar.starts_at < ends_at:
            made[-1].follow(bar)
            continue
        if bar.starts_at >= day_ends:  # to ask the calendar costs more than all the rest: once a day
            day, day_ends = day_of(bar.starts_at), midnight(bar.starts_at)
        starts_at, ends_at = timeframe.within(bar.starts_at, day, day_ends)
        made.append(bar.copy(starts_at))
    return made


# ------------------------------------------------------------------ in memory


class Traded(Protocol):
    """A trade on the exchange, with the exchange's time of it."""

    @property
    def symbol(self) -> Symbol: ...
    @property
    def price(self) -> Money: ...
    @property
    def quantity(self) -> int: ...
    @property
    def at(self) -> datetime: ...


@dataclass(slots=True, eq=False)
class Kept:
    """A bar in memory."""

    symbol: Symbol
    timeframe: Timeframe
    bar: Bar
    ends_at: datetime
    last_at: datetime  # when its last trade was, which is its close
    complete: bool  # what the database has of it is in it, or it has nothing
    changed: bool = False  # since it was written

    def add(self, trade: Traded) -> None:
        """Count a trade; one that comes after a later one is not the close."""
        close = self.bar.close
        self.bar.add(trade.price, trade.quantity)
        if trade.at < self.last_at:
            self.bar.close = close
        else:
            self.last_at = trade.at

    def is_past(self, now: datetime) -> bool:
        """Whether nobody waits for late trades of it any more."""
        return self.ends_at + _LINGERS <= now


@dataclass(slots=True)
class Series:
    """One symbol's bars of a timeframe that are in memory, by their beginning; the newest one at hand."""

    newest: Kept | None = None
    kept: dict[datetime, Kept] = field(default_factory=dict)

    def put(self, kept: Kept, now: datetime) -> None:
        """Keep one more. One that was begun by a trade which came very late is never the newest."""
        self.kept[kept.bar.starts_at] = kept
        if not kept.is_past(now) and (self.newest is None or self.newest.bar.starts_at < kept.bar.starts_at):
            self.newest = kept

    def drop(self, kept: Kept) -> None:
        """Keep it no longer."""
        del self.kept[kept.bar.starts_at]
        if self.newest is kept:
            self.newest = None

    def at(self, moment: datetime, timeframe: Timeframe) -> Kept | None:
        """The one in which this moment lies."""
        newest = self.newest
        if newest is not None and newest.bar.starts_at <= moment < newest.ends_at:
            return newest
        return self.kept.get(timeframe.start_of(moment)) if self.kept else None
