"""Bars: how trades make them, where frames begin and end, and what is known of them while they run."""

from datetime import UTC, date, datetime, time, timedelta, timezone
from typing import Any, cast

import pytest

from broker.bars import Bars
from broker.config import Config
from broker.core.bars import DAY, Bar, Timeframe, aggregate, day_of, minute_of, told_twice
from broker.core.hours import NEW_YORK
from broker.core.types import Symbol
from broker.market.quotes import Print
from broker.metrics import Metrics
from tests.builders import AAPL, NOW, dollars

MSFT = Symbol("MSFT")
ONE_MINUTE = timedelta(minutes=1)
FORWARD, BACK = date(2026, 3, 8), date(2026, 11, 1)  # when New York changes its clocks: 23 hours, 25 hours


def new_york(day: date, hours: int, minutes: int = 0) -> datetime:
    return datetime.combine(day, time(hours, minutes), NEW_YORK).astimezone(UTC)


def bar(at: datetime, price: str = "100.00", quantity: int = 10) -> Bar:
    return Bar.of(at, dollars(price), quantity)


# ------------------------------------------------------------------ one bar


def test_trades_make_a_bar() -> None:
    made = Bar.of(NOW, dollars("100.00"), 10)
    for price, quantity in [("101.00", 5), ("99.00", 1), ("100.50", 4)]:
        made.add(dollars(price), quantity)
    value = dollars("1000.00") + dollars("505.00") + dollars("99.00") + dollars("402.00")
    assert made == Bar(
        NOW, dollars("100.00"), dollars("101.00"), dollars("99.00"), dollars("100.50"), 20, dollars("2006.00"), 4
    )
    assert made.value == value
    assert made.average == dollars("100.30")


def test_an_average_is_rounded_half_up() -> None:
    made = Bar.of(NOW, dollars("0.0001"), 1)
    made.add(dollars("0.0002"), 1)
    assert made.average == dollars("0.0002")


def test_two_tellings_of_a_bar_count_nothing_twice() -> None:
    fuller = bar(NOW)
    saved = fuller.copy(NOW)
    fuller.add(dollars("101.00"), 5)
    assert told_twice(saved, fuller) == fuller == told_twice(fuller, saved)


# ------------------------------------------------------------------ where frames begin


def test_a_minute_begins_at_its_full_minute_in_utc() -> None:
    assert minute_of(datetime(2026, 11, 27, 14, 30, 59, 999_999, UTC)) == NOW
    in_india = datetime(2026, 11, 27, 20, 0, 30, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    assert (minute_of(in_india), minute_of(in_india).tzinfo) == (NOW, UTC)


def test_a_day_begins_at_midnight_in_new_york() -> None:
    assert day_of(datetime(2026, 11, 28, 4, 59, tzinfo=UTC)) == datetime(2026, 11, 27, 5, tzinfo=UTC)
    assert day_of(datetime(2026, 11, 28, 5, tzinfo=UTC)) == datetime(2026, 11, 28, 5, tzinfo=UTC)


@pytest.mark.parametrize("text", ["1Min", "59Min", "1Hour", "23Hour", "1Day"])
def test_a_timeframe_is_read(text: str) -> None:
    assert Timeframe.read(text).text == text


@pytest.mark.parametrize(
    "text", ["", "Min", "0Min", "60Min", "99Min", "01Min", "1min", "24Hour", "2Day", "1H", "1Min\n", "-1Min", "1.5Hour"]
)
def test_what_is_no_timeframe_is_refused_with_a_sentence(text: str) -> None:
    with pytest.raises(ValueError, match="a timeframe is 1Min to 59Min, 1Hour to 23Hour, or 1Day"):
        Timeframe.read(text)


def test_how_many_minutes_a_bar_is_made_of() -> None:
    frames = ["1Min", "15Min", "1Hour", "23Hour", "1Day"]
    assert [Timeframe.read(text).minutes for text in frames] == [1, 15, 60, 1380, 1]


@pytest.mark.parametrize(("day", "hours"), [(FORWARD, 23), (BACK, 25), (NOW.date(), 24)])
def test_the_bars_of_an_hour_begin_at_full_hours_whatever_the_clocks_do(day: date, hours: int) -> None:
    first = new_york(day, 0)
    minutes = [bar(first + n * ONE_MINUTE, quantity=1) for n in range(hours * 60)]
    made = aggregate(minutes, Timeframe.read("1Hour"))
    assert [each.starts_at for each in made] == [first + n * timedelta(hours=1) for n in range(hours)]
    assert {each.volume for each in made} == {60}
    assert {each.starts_at.minute for each in aggregate(minutes, Timeframe.read("30Min"))} == {0, 30}
    (whole,) = aggregate(minutes, DAY)
    assert (whole.starts_at, whole.trades) == (first, hours * 60)
    assert first + timedelta(hours=hours) == DAY.end_of(first) == new_york(day + timedelta(1), 0)


def test_the_last_frame_of_a_day_ends_with_the_day() -> None:
    frame, day = Timeframe.read("7Hour"), date(2026, 11, 27)
    assert frame.start_of(new_york(day, 23, 59)) == new_york(day, 21)
    assert frame.end_of(new_york(day, 23, 59)) == new_york(day + timedelta(1), 0)


def test_a_stretch_without_trades_has_no_bar() -> None:
    minutes = [bar(NOW), bar(NOW + 4 * ONE_MINUTE, "101.00"), bar(NOW + 30 * ONE_MINUTE, "99.00")]
    made = aggregate(minutes, Timeframe.read("5Min"))
    assert [(each.starts_at, each.open, each.close, each.trades) for each in made] == [
        (NOW, dollars("100.00"), dollars("101.00"), 2),
        (NOW + 30 * ONE_MINUTE, dollars("99.00"), dollars("99.00"), 1),
    ]
    assert aggregate([], DAY) == []


def test_aggregating_leaves_the_bars_as_they_are() -> None:
    minutes = [bar(NOW), bar(NOW + ONE_MINUTE)]
    aggregate(minutes, DAY)
    assert minutes == [bar(NOW), bar(NOW + ONE_MINUTE)]


# ------------------------------------------------------------------ what runs


class Clock:
    """A time that a test sets."""

    def __init__(self) -> None:
        self.at = NOW

    def __call__(self) -> datetime:
        return self.at


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def bars(clock: Clock) -> Bars:
    """Without a database: nothing here reads or writes."""
    return Bars(cast(Any, None), clock, Config(), Metrics())


def trade(at: datetime = NOW, price: str = "100.00", quantity: int = 10, symbol: Symbol = AAPL) -> Print:
    return Print(symbol, dollars(price), quantity, at)


def test_a_trade_is_in_the_running_minute_and_the_running_day(bars: Bars) -> None:
    assert (bars.minute(AAPL), bars.day(AAPL), bars.previous_close(AAPL)) == (None, None, None)
    assert bars.add(trade()) == bar(NOW)
    assert (bars.minute(AAPL), bars.day(AAPL)) == (bar(NOW), bar(day_of(NOW)))
    assert (bars.minute(MSFT), bars.day(MSFT)) == (None, None)


def test_a_new_minute_begins_a_new_bar_and_the_day_goes_on(bars: Bars, clock: Clock) -> None:
    bars.add(trade())
    clock.at += ONE_MINUTE
    assert bars.minute(AAPL) is None
    assert bars.add(trade(clock.at, "101.00")) == bar(clock.at, "101.00")
    day = bars.day(AAPL)
    assert day is not None
    assert (day.open, day.close, day.trades) == (dollars("100.00"), dollars("101.00"), 2)


def test_a_trade_counts_where_the_exchange_puts_it(bars: Bars, clock: Clock) -> None:
    """Its clock is ahead of ours: the minute that it says has begun."""
    clock.at = NOW + timedelta(seconds=58)
    bars.add(trade(NOW + timedelta(seconds=61)))
    assert bars.minute(AAPL) is None
    clock.at = NOW + ONE_MINUTE
    assert bars.minute(AAPL) == bar(NOW + ONE_MINUTE)


def test_a_trade_that_comes_late_is_in_its_own_minute(bars: Bars, clock: Clock) -> None:
    bars.add(trade(NOW, "100.00"))
    clock.at = NOW + ONE_MINUTE
    bars.add(trade(clock.at, "101.00"))
    assert bars.add(trade(NOW + timedelta(seconds=59), "99.00")) is None, "the running minute has not changed"
    assert bars.minute(AAPL) == bar(clock.at, "101.00")
    ((_, first),) = bars.closed(clock.at)
    assert (first.open, first.low, first.close, first.trades) == (dollars("100"), dollars("99"), dollars("99"), 2)
    day = bars.day(AAPL)
    assert day is not None
    assert (day.close, day.low, day.trades) == (dollars("101.00"), dollars("99.00"), 3)


def test_a_trade_before_the_last_one_is_not_the_close(bars: Bars) -> None:
    bars.add(trade(NOW + timedelta(seconds=2), "101.00"))
    running = bars.add(trade(NOW + timedelta(seconds=1), "100.00"))
    assert running is not None
    assert (running.open, running.low, running.close) == (dollars("101.00"), dollars("100.00"), dollars("101.00"))


@pytest.mark.parametrize("away", [timedelta(seconds=6), timedelta(days=-1, seconds=-1)])
def test_a_trade_of_the_future_or_of_long_ago_is_ignored(bars: Bars, away: timedelta) -> None:
    assert bars.add(trade(NOW + away)) is None
    assert (bars.minute(AAPL), bars.day(AAPL)) == (None, None)


def test_minutes_are_told_once_when_they_are_over(bars: Bars, clock: Clock) -> None:
    bars.add(trade())
    bars.add(trade(symbol=MSFT))
    assert bars.closed(NOW + timedelta(seconds=59)) == []
    assert bars.closed(NOW + ONE_MINUTE) == [(AAPL, bar(NOW)), (MSFT, bar(NOW))]
    clock.at = NOW + ONE_MINUTE
    bars.add(trade(clock.at))
    assert bars.closed(NOW + ONE_MINUTE) == []
    assert bars.closed(NOW + 2 * ONE_MINUTE) == [(AAPL, bar(NOW + ONE_MINUTE))]


def test_a_minute_of_which_only_a_straggler_was_heard_is_not_told(bars: Bars, clock: Clock) -> None:
    """The rest of it is in the database."""
    clock.at = NOW + 10 * ONE_MINUTE
    bars.add(trade(NOW))
    assert bars.closed(clock.at + ONE_MINUTE) == []
    assert bars.minute(AAPL) is None
