"""Orders for one moment: `opg` for the opening, `cls` for the close."""

from datetime import UTC, datetime, timedelta

import pytest

from broker.core.hours import NEW_YORK
from broker.core.types import Side, TimeInForce
from broker.simulator.wire import CancelAnswer, CancelResult, Event, OrderStatus
from tests.simulated import (
    BEST_SIZE,
    GTC,
    Bench,
    accepted,
    buy,
    event,
    filled,
    in_place_of,
    limit,
    order_id,
    partly,
    sell,
    told,
)

BUY, SELL = Side.BUY, Side.SELL
OPG, CLS = TimeInForce.OPG, TimeInForce.CLS
S = OrderStatus


def new_york(day: int, hour: int, minute: int = 0) -> datetime:
    return datetime(2026, 11, day, hour, minute, tzinfo=NEW_YORK).astimezone(UTC)


WEDNESDAY, CLOSE, EVENING, NIGHT = new_york(25, 12), new_york(25, 16), new_york(25, 18), new_york(25, 21)
PRE_MARKET, OPENING, HALF_DAYS_CLOSE = new_york(27, 5), new_york(27, 9, 30), new_york(27, 13)


def at(when: datetime, *events: Event) -> list[Event]:
    for each in events:
        each.at = when.isoformat(timespec="microseconds")
    return list(events)


def advance(bench: Bench, when: datetime) -> list[Event]:
    bench.at = when
    return told(bench.exchange.advance(when))


@pytest.mark.parametrize("taken", [WEDNESDAY, EVENING, NIGHT, PRE_MARKET])
def test_opg_trades_when_the_next_session_opens_and_at_no_other_time(taken):
    bench = Bench(at=taken, hours="XNYS")
    assert bench.events(buy(1, time_in_force=OPG), sell(2, time_in_force=OPG)) == at(taken, accepted(1), accepted(2))
    if taken < CLOSE:
        assert advance(bench, CLOSE) == []
    assert advance(bench, OPENING - timedelta(microseconds=1)) == []
    assert advance(bench, OPENING) == at(OPENING, filled(1, 10, "190.20"), filled(2, 10, "190.18"))


def test_opg_goes_before_those_who_waited_for_the_session():
    bench = Bench(at=NIGHT, hours="XNYS")
    bench.accept(limit(1, BUY, "190.20"), limit(2, BUY, "190.20", quantity=BEST_SIZE, time_in_force=OPG))
    assert advance(bench, OPENING) == at(OPENING, filled(2, BEST_SIZE, "190.20"))
    assert bench.state(1)["status"] == "ACCEPTED"


def test_what_is_left_after_the_opening_is_cancelled():
    bench = Bench(at=NIGHT, hours="XNYS")
    bench.accept(limit(1, SELL, "190.19", time_in_force=OPG), limit(2, BUY, "190.19", quantity=4, time_in_force=OPG))
    bench.accept(limit(3, BUY, "190.00", time_in_force=OPG), buy(4, time_in_force=OPG, max_price="1.00"))
    assert advance(bench, OPENING) == at(
        OPENING,
        filled(2, 4, "190.19"),  # those for the opening trade with one another, too
        partly(1, 4, "190.19"),
        event(S.CANCELLED, 4, reason="max price exceeded"),
        event(S.CANCELLED, 1, filled_quantity=4, reason="the opening is over"),
        event(S.CANCELLED, 3, reason="the opening is over"),
    )
    assert bench.exchange.orders.open_count == 0


@pytest.mark.parametrize(
    ("taken", "close"), [(WEDNESDAY, CLOSE), (EVENING, HALF_DAYS_CLOSE), (PRE_MARKET, HALF_DAYS_CLOSE)]
)
def test_cls_trades_at_the_close_of_its_session_and_what_is_left_is_cancelled(taken, close):
    bench = Bench(at=taken, hours="XNYS")
    orders = [sell(1, time_in_force=CLS), limit(2, BUY, "190.20", time_in_force=CLS)]
    orders += [limit(3, BUY, "190.00", time_in_force=CLS), limit(4, BUY, "190.00")]
    assert bench.events(*orders) == at(taken, *map(accepted, (1, 2, 3, 4)))
    for before in (OPENING, close - timedelta(microseconds=1)):
        assert before > close or advance(bench, max(before, taken)) == []
    assert advance(bench, close) == at(
        close,
        filled(1, 10, "190.18"),
        filled(2, 10, "190.20"),
        event(S.CANCELLED, 3, reason="the close is over"),
        event(S.EXPIRED, 4, reason="the session ended"),
    )


def test_around_the_clock_both_trade_at_midnight_the_close_first():
    bench = Bench()
    midnight = new_york(28, 0)
    bench.accept(limit(1, SELL, "190.19", time_in_force=OPG), limit(2, BUY, "190.19", time_in_force=CLS))
    bench.accept(limit(3, SELL, "190.19", quantity=3, time_in_force=GTC), buy(4, time_in_force=OPG))
    assert advance(bench, midnight) == at(
        midnight,
        partly(2, 3, "190.19"),
        filled(3, 3, "190.19"),
        event(S.CANCELLED, 2, filled_quantity=3, reason="the close is over"),
        filled(4, 10, "190.19"),
        filled(1, 10, "190.19"),
    )


def test_who_waits_for_a_moment_can_be_cancelled_and_replaced():
    bench = Bench(at=WEDNESDAY, hours="XNYS")
    bench.accept(limit(1, BUY, "190.00", time_in_force=OPG), sell(2, time_in_force=CLS), sell(3, time_in_force=OPG))
    assert bench.cancel(2, 3).cancels == [CancelResult(order_id(n), CancelAnswer.ACCEPTED) for n in (2, 3)]
    dearer = limit(4, BUY, "190.20", time_in_force=OPG, replaces=in_place_of(1))
    assert bench.events(dearer) == at(WEDNESDAY, event(S.REPLACED, 1), accepted(4))
    assert advance(bench, OPENING) == at(OPENING, filled(4, 10, "190.20"))


def test_a_kill_makes_nobody_trade_at_another_moment_and_late_is_too_late_for_the_close():
    bench = Bench(at=WEDNESDAY, hours="XNYS")
    bench.accept(sell(1, time_in_force=OPG), sell(2, time_in_force=CLS), sell(3, quantity=5, time_in_force=OPG))
    again, events = bench.recovered(WEDNESDAY + timedelta(hours=1), hours="XNYS")
    assert events == []
    assert advance(again, CLOSE) == at(CLOSE, filled(2, 10, "190.18"))
    late, events = bench.recovered(EVENING, hours="XNYS")
    assert events == at(EVENING, event(S.EXPIRED, 2, reason="the session ended"))
    assert advance(late, OPENING) == at(OPENING, filled(1, 10, "190.18"), filled(3, 5, "190.18"))
    _, events = bench.recovered(new_york(30, 12), hours="XNYS")
    assert [each.type for each in events] == [S.EXPIRED] * 3


def test_with_no_session_ever_they_wait():
    bench = Bench(closed=True)
    assert bench.events(sell(1, time_in_force=OPG), sell(2, time_in_force=CLS)) == [accepted(1), accepted(2)]
    assert advance(bench, new_york(30, 12)) == []
