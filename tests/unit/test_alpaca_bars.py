"""Alpaca's timeframes: what they are called, when they begin and end, and what they are made of."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from broker.alpaca.bars import Frame, joined, read_bars
from broker.core.bars import DAY, MINUTE, Bar, Timeframe, aggregate, day_of
from broker.core.money import Money
from broker.core.types import Symbol
from tests.builders import AAPL


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def bar(at: datetime, price: int = 1_000_000, quantity: int = 1) -> Bar:
    return Bar.of(at, Money(price), quantity)


@pytest.mark.parametrize(
    ("text", "frame"),
    [
        ("1Min", Frame(MINUTE)),
        ("59T", Frame(Timeframe.read("59Min"))),
        ("1Hour", Frame(Timeframe.read("1Hour"))),
        ("23H", Frame(Timeframe.read("23Hour"))),
        ("1Day", Frame(DAY)),
        ("1D", Frame(DAY)),
        ("1Week", Frame(None, weeks=1)),
        ("1W", Frame(None, weeks=1)),
        *[(f"{count}Month", Frame(None, months=count)) for count in (1, 2, 3, 4, 6, 12)],
        ("3M", Frame(None, months=3)),
    ],
)
def test_a_timeframe_is_read(text: str, frame: Frame) -> None:
    assert Frame.read(text) == frame


@pytest.mark.parametrize(
    "text", ["", "Min", "0Min", "60Min", "24Hour", "2Day", "2Week", "5Month", "1min", "1 Min", "1Min\n"]
)
def test_what_is_no_timeframe_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="timeframe"):
        Frame.read(text)


@pytest.mark.parametrize(
    ("frame", "at", "begins", "ends"),
    [
        ("1Week", "2026-11-27T14:30", "2026-11-23T05:00", "2026-11-30T05:00"),
        ("1Week", "2026-11-23T04:59", "2026-11-16T05:00", "2026-11-23T05:00"),  # Sunday in New York
        ("1Week", "2026-03-08T12:00", "2026-03-02T05:00", "2026-03-09T04:00"),  # summer time begins in it
        ("1Month", "2026-11-01T03:00", "2026-10-01T04:00", "2026-11-01T04:00"),
        ("2Month", "2026-12-31T12:00", "2026-11-01T04:00", "2027-01-01T05:00"),
        ("3Month", "2026-11-27T14:30", "2026-10-01T04:00", "2027-01-01T05:00"),
        ("6Month", "2026-06-30T12:00", "2026-01-01T05:00", "2026-07-01T04:00"),
        ("12Month", "2026-11-27T14:30", "2026-01-01T05:00", "2027-01-01T05:00"),
    ],
)
def test_weeks_and_months_begin_at_midnight_in_new_york(frame: str, at: str, begins: str, ends: str) -> None:
    assert Frame.read(frame).within(utc(at)) == (utc(begins), utc(ends))


def test_a_week_is_made_of_its_days() -> None:
    monday = utc("2026-11-23T05:00")
    days = [bar(monday, 1_000_000, 5), bar(monday + timedelta(days=4), 900_000, 5), bar(monday + timedelta(days=7))]
    week = Bar(monday, Money(1_000_000), Money(1_000_000), Money(900_000), Money(900_000), 10, Money(9_500_000), 2)
    assert joined(days, Frame.read("1Week")) == [week, bar(monday + timedelta(days=7))]
    assert days[0].volume == 5, "the days stay as they are"


class Kept:
    """Bars in memory, read as broker.bars reads them."""

    def __init__(self, minutes: list[Bar], days: list[Bar]) -> None:
        self.minutes, self.days, self.reads = minutes, days, 0

    async def read(self, symbol: Symbol, timeframe: Timeframe, start: datetime, end: datetime, limit: int) -> list[Bar]:
        self.reads += 1
        made = self.days if timeframe == DAY else aggregate(self.minutes, timeframe)
        return [each for each in made if start <= each.starts_at < end][:limit]


START = utc("2026-11-23T05:00")
KEPT = Kept(
    [bar(START + timedelta(minutes=37 * number), quantity=number + 1) for number in range(150)],
    [bar(START + timedelta(days=number)) for number in range(-40, 5)],
)


def read(frame: str, start: datetime, end: datetime, limit: int = 1000, *, newest_first: bool = False) -> list[Bar]:
    return asyncio.run(read_bars(KEPT, AAPL, Frame.read(frame), start, end, limit, newest_first=newest_first))


@pytest.mark.parametrize("frame", ["1Min", "10Min", "1Hour", "7Hour", "1Day", "1Week", "1Month"])
@pytest.mark.parametrize("hours", [0, 5, 29])
def test_newest_first_are_the_same_from_the_other_end(frame: str, hours: int) -> None:
    start, end = START - timedelta(days=30, hours=hours), START + timedelta(days=2, hours=7)
    forth = read(frame, start, end)
    assert len(forth) >= 1
    assert all(start <= each.starts_at < end for each in forth)
    for limit in (1, 3, 1000):
        assert read(frame, start, end, limit, newest_first=True) == forth[::-1][:limit]
        assert read(frame, start, end, limit) == forth[:limit]


def test_going_back_reads_no_further_than_it_has_to() -> None:
    KEPT.reads = 0
    assert len(read("1Min", START, START + timedelta(days=3), 5, newest_first=True)) == 5
    assert KEPT.reads == 1


def test_an_empty_stretch_has_no_bars() -> None:
    for frame in ("1Min", "1Day", "1Week"):
        for newest_first in (False, True):
            assert read(frame, START, START, newest_first=newest_first) == []
            assert (
                read(
                    frame, day_of(START) + timedelta(hours=1), START + timedelta(hours=2), 0, newest_first=newest_first
                )
                == []
            )
