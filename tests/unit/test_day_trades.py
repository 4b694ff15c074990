"""Day trades: what is one, and which days count."""

import random
from collections.abc import Hashable, Iterable
from datetime import UTC, date, datetime, timedelta

import pytest

from broker.core.day_trades import (
    ORDERS_MAX,
    DayTrades,
    Execution,
    count_day_trades,
    first_counted_day,
    trade_date,
)
from broker.core.hours import session
from broker.core.types import Side, Symbol

MONDAY = date(2026, 11, 23)  # the week of Thanksgiving
AAPL, MSFT = Symbol("AAPL"), Symbol("MSFT")
B, S = Side.BUY, Side.SELL


def on_monday(*fills: tuple[Side, Hashable], symbol: Symbol = AAPL) -> list[Execution]:
    return [Execution(MONDAY, symbol, side, order) for side, order in fills]


@pytest.mark.parametrize(
    ("fills", "count"),
    [
        ([], 0),
        ([(B, 1)], 0),
        ([(S, 1)], 0),
        ([(B, 1), (S, 2)], 1),
        ([(B, 1), (S, 2), (S, 3)], 1),  # 100 bought, 50 sold, 50 sold
        ([(B, 1), (B, 2), (S, 3)], 1),
        ([(B, 1), (S, 2), (B, 3), (S, 4)], 2),
        ([(S, 1), (B, 2)], 0),  # shares of yesterday first
        ([(S, 1), (B, 2), (S, 3)], 1),
        ([(B, 1), (B, 1), (S, 2), (S, 2)], 1),  # partial fills
        ([(B, 1), (S, 2), (B, 1), (S, 2)], 1),  # of two orders at once
        ([(B, 1), (S, 2), (B, 1), (S, 3)], 1),  # one purchase, sold by two orders
        ([(S, 1), (B, 2), (S, 1)], 0),  # an order that began to sell before anything was bought
    ],
)
def test_a_day_trade_is_a_change_from_buying_to_selling(fills: list[tuple[Side, int]], count: int) -> None:
    assert count_day_trades(on_monday(*fills), MONDAY) == count


def test_symbols_and_days_are_apart() -> None:
    assert count_day_trades([*on_monday((B, 1)), *on_monday((S, 2), symbol=MSFT)], MONDAY) == 0
    tuesday = MONDAY + timedelta(1)
    assert count_day_trades([*on_monday((B, 1)), Execution(tuesday, AAPL, S, 2)], tuesday) == 0


def test_an_order_that_fills_on_two_days_stands_on_each() -> None:
    tuesday = MONDAY + timedelta(1)
    fills = [*on_monday((B, 1)), Execution(tuesday, AAPL, B, 1), Execution(tuesday, AAPL, S, 2)]
    assert count_day_trades(fills, tuesday) == 1


# ------------------------------------------------------------------ which days count


@pytest.mark.parametrize(
    ("today", "start"),
    [
        (date(2026, 11, 20), date(2026, 11, 16)),  # Friday: the whole week
        (date(2026, 11, 21), date(2026, 11, 16)),  # Saturday: the week that has ended
        (MONDAY, date(2026, 11, 17)),
        (date(2026, 11, 26), date(2026, 11, 19)),  # Thanksgiving itself is none
        (date(2026, 11, 27), date(2026, 11, 20)),  # a half day is one
        (date(2026, 12, 1), date(2026, 11, 24)),
        (date(2027, 1, 4), date(2026, 12, 28)),  # New Year's Day is none
    ],
)
def test_five_business_days_end_today(today: date, start: date) -> None:
    assert first_counted_day(today) == start
    days = [start + timedelta(n) for n in range((today - start).days + 1)]
    assert sum(session(day) is not None for day in days) == 5


def test_a_day_trade_counts_for_five_business_days() -> None:
    trades = DayTrades()
    trades.note(MONDAY, AAPL, B, 1)
    trades.note(MONDAY, AAPL, S, 2)
    assert [trades.count(date(2026, 11, day)) for day in (22, 23, 24, 27, 28, 29, 30)] == [0, 1, 1, 1, 1, 1, 1]
    # Monday was the first of the five that end on Monday the 30th: the 26th was Thanksgiving
    assert trades.count(date(2026, 12, 1)) == 0


def test_a_weekend_counts_with_the_days_around_it() -> None:
    saturday = date(2026, 11, 21)  # the simulated exchange trades on it
    fills = [Execution(saturday, AAPL, B, 1), Execution(saturday, AAPL, S, 2)]
    assert count_day_trades(fills, MONDAY) == 1


# ------------------------------------------------------------------ one fill after the other


def test_it_says_beforehand_what_would_be_a_day_trade() -> None:
    trades = DayTrades()
    assert not trades.would_be_day_trade(MONDAY, AAPL, S)
    trades.note(MONDAY, AAPL, B, 1)
    assert trades.would_be_day_trade(MONDAY, AAPL, S)
    assert not trades.would_be_day_trade(MONDAY, AAPL, B)
    assert not trades.would_be_day_trade(MONDAY, MSFT, S)
    assert not trades.would_be_day_trade(MONDAY + timedelta(1), AAPL, S)
    trades.note(MONDAY, AAPL, S, 2)
    assert not trades.would_be_day_trade(MONDAY, AAPL, S)


def test_without_an_order_each_fill_stands_for_itself() -> None:
    trades = DayTrades()
    for side in (B, S, B, S):
        trades.note(MONDAY, AAPL, side)
    assert trades.count(MONDAY) == 2


def test_a_late_word_of_a_day_that_counts_is_taken_and_an_older_one_passed_over() -> None:
    trades = DayTrades()
    trades.note(MONDAY, AAPL, B, 1)
    late, older = date(2026, 11, 17), date(2026, 11, 16)
    for day in (late, older):
        trades.note(day, AAPL, B, 2)
        trades.note(day, AAPL, S, 3)
    assert trades.count(MONDAY) == 1
    assert older not in trades._days


def test_what_comes_after_today_changes_nothing() -> None:
    later = Execution(MONDAY + timedelta(30), AAPL, B, 3)
    assert count_day_trades([*on_monday((B, 1)), later, *on_monday((S, 2))], MONDAY) == 1


def test_it_remembers_only_the_days_that_count_and_a_thousand_orders_of_each() -> None:
    trades = DayTrades()
    for n in range(400):
        trades.note(MONDAY + timedelta(n), AAPL, B, n)
        assert len(trades._days) <= 11  # five business days, and two weekends and two holidays between them
    today = MONDAY + timedelta(399)
    for order in range(2 * ORDERS_MAX):
        trades.note(today, AAPL, B, order)
    assert len(trades._days[today].orders) == ORDERS_MAX


def test_incrementally_is_what_counting_anew_says() -> None:
    seed = 20261123
    chance = random.Random(seed)
    for _ in range(200):
        executions: list[Execution] = []
        trades = DayTrades()
        day = MONDAY
        for _ in range(60):
            day += timedelta(chance.choice([0, 0, 0, 0, 1]))
            symbol, order = chance.choice([AAPL, MSFT]), chance.randrange(6)
            execution = Execution(day, symbol, S if order % 2 else B, (symbol, order))
            executions.append(execution)
            expected = slowly(executions, day)
            predicted = trades.would_be_day_trade(day, execution.symbol, execution.side)
            before = trades.count(day)
            trades.note(*execution)
            assert trades.count(day) == expected == count_day_trades(executions, day), f"seed {seed}: {executions}"
            assert trades.count(day) - before in ({0, 1} if predicted else {0})


def slowly(executions: Iterable[Execution], today: date) -> int:
    """The rule as one checks it by hand: orders by their first fill of the day, each BUY that a SELL follows."""
    firsts = list(dict.fromkeys(executions))
    groups = {(each.day, each.symbol) for each in firsts}
    count = 0
    for day, symbol in groups:
        sides = "".join("B" if each.side is B else "S" for each in firsts if (each.day, each.symbol) == (day, symbol))
        if first_counted_day(today) <= day <= today:
            count += sides.count("BS")
    return count


# ------------------------------------------------------------------ the trade date


@pytest.mark.parametrize(
    ("at", "day"),
    [
        (datetime(2026, 11, 24, 4, 59, 59, tzinfo=UTC), MONDAY),  # 23:59:59 in New York
        (datetime(2026, 11, 24, 5, tzinfo=UTC), MONDAY + timedelta(1)),
        (datetime(2026, 7, 2, 3, 59, 59, tzinfo=UTC), date(2026, 7, 1)),  # an hour earlier in summer
        (datetime(2026, 7, 2, 4, tzinfo=UTC), date(2026, 7, 2)),
    ],
)
def test_a_trade_date_is_a_day_of_new_york(at: datetime, day: date) -> None:
    assert trade_date(at) == day


def test_a_moment_without_a_time_zone_is_refused() -> None:
    with pytest.raises(AssertionError):
        trade_date(datetime(2026, 11, 23, 12))  # noqa: DTZ001 - what must not be
