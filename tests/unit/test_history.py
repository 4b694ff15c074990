"""Points of a history, and the ledger in words: cases that a reader can follow. Any account: tests/property."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from uuid import UUID

import pytest

from broker.core.activities import Activity, Made, Transfer, activities
from broker.core.history import (
    POINTS_MAX,
    Held,
    Moved,
    Period,
    Sample,
    Timeframe,
    after_id,
    default_timeframe,
    first_id,
    history,
    percent,
    points,
    timeframes,
)
from broker.core.types import Side
from tests.builders import AAPL, NOW, dollars

LONG_AGO = datetime(2001, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("period", Period)
def test_every_period_has_a_default_and_no_timeframe_has_too_many_points(period: Period) -> None:
    assert default_timeframe(period) in timeframes(period)
    for timeframe in timeframes(period):
        times = points(period, timeframe, LONG_AGO, NOW)
        assert 3 <= len(times) <= POINTS_MAX + 2
        assert times[-1] == NOW
        assert all(earlier < later for earlier, later in pairwise(times))


def test_points_stand_at_full_minutes_and_hours() -> None:
    now = NOW + timedelta(seconds=17)
    times = points(Period.DAY, Timeframe.HOUR, now - timedelta(hours=2), now)
    assert times == [
        now - timedelta(hours=2),
        datetime(2026, 11, 27, 13, tzinfo=UTC),
        datetime(2026, 11, 27, 14, tzinfo=UTC),
        now,
    ]


def test_days_end_at_midnight_in_new_york_also_when_the_clocks_change() -> None:
    times = points(Period.MONTH, Timeframe.DAY, LONG_AGO, datetime(2026, 11, 3, 12, tzinfo=UTC))
    assert times[-4:-1] == [datetime(2026, 11, day, hour, tzinfo=UTC) for day, hour in ((1, 4), (2, 5), (3, 5))]


def test_an_account_of_this_moment_has_one_point() -> None:
    assert points(Period.MONTH, Timeframe.DAY, NOW, NOW) == [NOW]


def test_ids_are_in_the_order_of_time() -> None:
    early = UUID("01990000-0000-7000-8000-000000000001")
    assert first_id(after_id(early)) > early >= first_id(after_id(early) - timedelta(milliseconds=1))
    assert first_id(LONG_AGO - timedelta(days=20_000)) == UUID(int=0)


def test_a_deposit_is_no_profit() -> None:
    times = [NOW, NOW + timedelta(1), NOW + timedelta(2)]
    held, moved = [Held("$USD", 300)], [Moved(1, "$USD", 250, 0, 250, 250), Moved(2, "$USD", -50, 0, -50, 0)]
    shown = history(times, held, moved, {}, {})
    assert (shown.equity, shown.net_deposits, shown.profit_loss) == ([100, 350, 300], [0, 250, 200], [0, 0, 0])
    assert shown.profit_loss_pct == [0, 0, 0]


def test_a_sample_from_before_a_position_was_opened_does_not_count() -> None:
    times = [NOW + timedelta(day) for day in range(4)]
    held, moved = [Held("$USD", 0), Held(AAPL, 1, 90)], [Moved(2, AAPL, 1, 90), Moved(2, "$USD", -90)]
    old, new = Sample(NOW, dollars("0.0001")), Sample(times[2] + timedelta(hours=1), dollars("0.0100"))
    samples = {(AAPL, 1): old, (AAPL, 2): old, (AAPL, 3): new}
    assert history(times, held, moved, samples, {}).equity == [90, 90, 90, 100]
    assert history(times, held, moved, samples, {AAPL: dollars("0.0110")}).equity == [90, 90, 90, 110]


@pytest.mark.parametrize(
    ("part", "whole", "shown"), [(1, 3, 333_333), (-1, 3, -333_333), (1, 0, None), (1, -5, None), (0, 5, 0)]
)
def test_per_cent(part: int, whole: int, shown: int | None) -> None:
    assert percent(dollars(str(part)), dollars(str(whole))) == shown


# ------------------------------------------------------------------ activities


def transfer(kind: str, cash: str, shares: tuple[tuple[str, int], ...] = (), made: Made | None = None) -> Transfer:
    return Transfer(first_id(NOW), kind, "reference", NOW, dollars(cash), shares, made)  # type: ignore[arg-type]


def shown(found: list[Activity]) -> list[tuple[str, str, int, int | None]]:
    return [(each.type, each.description, each.cash, each.quantity) for each in found]


ORDER = UUID(int=7)


def test_a_fill_and_its_fee_are_two_activities() -> None:
    made = Made(ORDER, Side.SELL, 10, dollars("5.00"), dollars("0.03"))
    assert shown(activities(transfer("fill", "49.97", ((AAPL, -10),), made))) == [
        ("fill", "Sold 10 AAPL at $5.00.", dollars("50.00"), -10),
        ("fee", "Fees on it: $0.03.", dollars("-0.03"), None),
    ]


def test_a_bust_gives_the_fee_back() -> None:
    made = Made(ORDER, Side.SELL, 10, dollars("5.00"), dollars("0.03"))
    assert shown(activities(transfer("bust", "-49.97", ((AAPL, 10),), made))) == [
        ("bust", "The exchange took back: sold 10 AAPL at $5.00.", dollars("-50.00"), 10),
        ("fee", "Fees given back: $0.03.", dollars("0.03"), None),
    ]


def test_a_correction_names_what_it_corrects() -> None:
    made = Made(ORDER, Side.BUY, 10, dollars("5.00"), corrects="e1")
    words = "The exchange corrected execution e1: bought 10 AAPL at $5.00."
    assert shown(activities(transfer("fill", "-50.00", ((AAPL, 10),), made))) == [
        ("fill", words, dollars("-50.00"), 10)
    ]


def test_corporate_actions_have_a_line_for_each_symbol() -> None:
    assert shown(activities(transfer("corporate", "1.50", (("META", 10), ("FB", -10))))) == [
        ("corporate", "Corporate action: +10 META.", 0, 10),
        ("corporate", "Corporate action: -10 FB.", dollars("1.50"), -10),
    ]
    assert shown(activities(transfer("corporate", "1.50"))) == [
        ("corporate", "Dividend in cash.", dollars("1.50"), None)
    ]
