"""Orders and the hours: who waits, who is refused, what ends with the session; and what a kill leaves of it all."""

from datetime import UTC, datetime, timedelta

import pytest

from broker.core.hours import NEW_YORK
from broker.core.types import Side
from broker.simulator.sessions import NEVER, Phase, Sessions
from broker.simulator.wire import CancelAnswer, CancelResult, Event, OrderStatus
from tests.simulated import (
    DAY,
    FOK,
    GTC,
    IOC,
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
    stop,
    stop_limit,
    told,
)

BUY, SELL = Side.BUY, Side.SELL
S = OrderStatus


def new_york(day: int, hour: int, minute: int = 0, month: int = 11) -> datetime:
    return datetime(2026, month, day, hour, minute, tzinfo=NEW_YORK).astimezone(UTC)


# 2026-11-25 is the Wednesday before Thanksgiving; the 27th is a half day.
WEDNESDAY = new_york(25, 12)
CLOSE = new_york(25, 16)
EVENING = new_york(25, 18)
OPENING = new_york(27, 9, 30)
HALF_DAYS_CLOSE = new_york(27, 13)


def at(when: datetime, *events: Event) -> list[Event]:
    for each in events:
        each.at = when.isoformat(timespec="microseconds")
    return list(events)


def advance(bench: Bench, when: datetime) -> list[Event]:
    bench.at = when
    return told(bench.exchange.advance(when))


def expired(n: int, **overrides) -> Event:
    return event(S.EXPIRED, n, reason="the session ended", **overrides)


# When sessions are.


EARLY, EVENING_END = new_york(27, 4), new_york(25, 20)


@pytest.mark.parametrize(
    ("when", "phase", "end", "extended_end", "change"),
    [
        (WEDNESDAY, Phase.REGULAR, CLOSE, EVENING_END, CLOSE),
        (CLOSE, Phase.EXTENDED, HALF_DAYS_CLOSE, EVENING_END, EVENING_END),
        (EVENING, Phase.EXTENDED, HALF_DAYS_CLOSE, EVENING_END, EVENING_END),
        (EVENING_END, Phase.CLOSED, HALF_DAYS_CLOSE, new_york(27, 17), EARLY),
        (new_york(26, 12), Phase.CLOSED, HALF_DAYS_CLOSE, new_york(27, 17), EARLY),
        (EARLY, Phase.EXTENDED, HALF_DAYS_CLOSE, new_york(27, 17), OPENING),
        (OPENING, Phase.REGULAR, HALF_DAYS_CLOSE, new_york(27, 17), HALF_DAYS_CLOSE),
        (HALF_DAYS_CLOSE, Phase.EXTENDED, new_york(30, 16), new_york(27, 17), new_york(27, 17)),
        (new_york(27, 17), Phase.CLOSED, new_york(30, 16), new_york(30, 20), new_york(30, 4)),
    ],
)
def test_new_yorks_sessions(when, phase, end, extended_end, change):
    sessions = Sessions("XNYS")
    assert sessions.phase(when) is phase
    assert (sessions.end(when), sessions.end(when, extended=True)) == (end, extended_end)
    assert sessions.next_change(when) == change


def test_around_the_clock_a_session_ends_at_midnight_in_new_york():
    sessions = Sessions("always")
    before, midnight = datetime(2026, 11, 26, 4, 59, tzinfo=UTC), datetime(2026, 11, 26, 5, tzinfo=UTC)
    assert sessions.phase(before) is Phase.REGULAR
    assert sessions.end(before) == sessions.end(before, extended=True) == midnight
    assert sessions.next_change(before) == sessions.next_open(before) == midnight
    assert sessions.end(midnight) == midnight + timedelta(days=1)
    spring = new_york(8, 1, month=3)  # the day has 23 hours
    assert sessions.end(spring) == new_york(8, 0, month=3) + timedelta(hours=23)


def test_a_closed_market_has_no_sessions():
    sessions = Sessions("XNYS", closed=True)
    assert (sessions.phase(WEDNESDAY), sessions.end(WEDNESDAY)) == (Phase.CLOSED, None)
    assert (sessions.next_change(WEDNESDAY), sessions.next_open(WEDNESDAY)) == (NEVER, None)


# Outside the session.


@pytest.mark.parametrize(
    "order",
    [
        buy(),
        sell(time_in_force=GTC),
        limit(1, BUY, "190.20", time_in_force=IOC),
        stop(1, SELL, "190.00", time_in_force=FOK),
    ],
)
@pytest.mark.parametrize("how", [{"hours": "XNYS"}, {"closed": True}])
def test_what_cannot_wait_is_rejected(order, how):
    assert Bench(at=EVENING, **how).events(order) == at(EVENING, event(S.REJECTED, reason="past market hours"))


def test_what_can_wait_enters_when_the_session_opens_in_order_of_arrival():
    bench = Bench(at=EVENING, hours="XNYS")
    first, second = limit(1, BUY, "190.19", quantity=5), limit(2, BUY, "190.19", time_in_force=GTC)
    third, fourth = limit(3, SELL, "190.10", quantity=100), stop(4, SELL, "190.19")
    assert bench.events(first, second, third, fourth) == at(EVENING, *map(accepted, range(1, 5)))
    assert bench.tick() == []
    assert advance(bench, OPENING - timedelta(microseconds=1)) == []
    assert advance(bench, OPENING) == at(
        OPENING,
        partly(3, 5, "190.19"),
        filled(1, 5, "190.19"),
        partly(3, 10, "190.19", number=2, total=15),
        filled(2, 10, "190.19"),
        filled(3, 85, "190.18", number=3, total=100),  # from the market maker
        filled(4, 10, "190.18"),
    )
    assert advance(bench, OPENING + timedelta(hours=1)) == []


def test_the_first_order_of_the_session_does_not_overtake_those_who_waited():
    bench = Bench(at=EVENING, hours="XNYS")
    bench.accept(limit(1, BUY, "190.19"))
    bench.at = OPENING
    bench.accept(limit(2, BUY, "190.19"))
    assert bench.events(sell(3)) == at(OPENING, filled(3, 10, "190.19"), filled(1, 10, "190.19"))


def test_who_waits_can_be_cancelled_and_replaced_and_keeps_his_place_with_less():
    bench = Bench(at=EVENING, hours="XNYS")
    bench.accept(limit(1, BUY, "190.19"), limit(2, BUY, "190.19"), limit(3, BUY, "190.19"), limit(4, BUY, "190.19"))
    assert bench.cancel(4).cancels == [CancelResult(order_id(4), CancelAnswer.ACCEPTED)]
    replaced = event(S.REPLACED, 2)
    assert bench.events(limit(5, BUY, "190.19", quantity=11, replaces=in_place_of(2))) == at(
        EVENING, replaced, accepted(5)
    )
    bench.accept(limit(6, BUY, "190.19", quantity=9, replaces=in_place_of(1)))
    bench, events = bench.recovered(OPENING, hours="XNYS")
    assert events == []
    fills = bench.events(sell(7, quantity=20))
    assert [told.order_id for told in fills if told.order_id != order_id(7)] == [order_id(6), order_id(3), order_id(5)]


# The end of the session.


def test_a_day_order_ends_with_its_session_and_others_stay():
    bench = Bench(at=WEDNESDAY, hours="XNYS")
    bench.accept(limit(1, SELL, "190.19"), limit(2, SELL, "190.19", time_in_force=GTC), stop(3, SELL, "180.00"))
    bench.accept(stop(4, SELL, "180.00", time_in_force=IOC), stop_limit(5, SELL, "180.00", "180.00", time_in_force=GTC))
    bench.accept(buy(6, quantity=4))
    assert advance(bench, CLOSE - timedelta(microseconds=1)) == []
    assert advance(bench, CLOSE) == at(CLOSE, expired(1, filled_quantity=4), expired(3), expired(4))
    bench.at = EVENING
    assert bench.quote("190.50", "190.52") == []  # it is not for extended hours, whatever the price does there
    bench.at = OPENING
    assert bench.tick() == at(OPENING, filled(2, 10, "190.50"))
    assert bench.state(5)["status"] == "ACCEPTED"


def test_an_order_from_outside_the_session_belongs_to_the_next_one():
    bench = Bench(at=EVENING, hours="XNYS")
    bench.accept(limit(1, BUY, "180.00"))
    assert advance(bench, OPENING) == []
    assert advance(bench, HALF_DAYS_CLOSE) == at(HALF_DAYS_CLOSE, expired(1))


def test_a_session_that_nobody_watched_ended_all_the_same():
    bench = Bench(at=EVENING, hours="XNYS")
    bench.accept(limit(1, BUY, "190.20"), limit(2, BUY, "190.20", time_in_force=GTC))
    monday = new_york(30, 12)
    assert advance(bench, monday) == at(monday, expired(1), filled(2, 10, "190.20"))


def test_a_good_order_rests_over_the_night_and_can_be_replaced_there():
    bench = Bench(at=WEDNESDAY, hours="XNYS")
    bench.accept(limit(1, SELL, "190.19", time_in_force=GTC))
    bench.at = EVENING
    lower = limit(2, SELL, "190.10", time_in_force=GTC, replaces=in_place_of(1))
    assert bench.events(lower) == at(EVENING, event(S.REPLACED, 1), accepted(2))
    assert advance(bench, OPENING) == at(OPENING, filled(2, 10, "190.18"))


def test_at_midnight_day_orders_end_and_the_next_session_begins():
    bench = Bench()
    bench.accept(limit(1, BUY, "180.00"), limit(2, BUY, "180.00", time_in_force=GTC))
    midnight = new_york(28, 0)
    bench.at = midnight
    assert bench.events(buy(3)) == at(midnight, expired(1), filled(3, 10, "190.20"))
    assert bench.state(2)["status"] == "ACCEPTED"


@pytest.mark.parametrize("time_in_force", [DAY, GTC])
def test_a_market_order_that_the_close_overtakes_expires(time_in_force):
    bench = Bench(partial=1, at=WEDNESDAY, hours="XNYS")
    bench.accept(sell(time_in_force=time_in_force))
    bench.fill(3)
    bench.at = CLOSE
    assert bench.fill(7) == at(CLOSE, expired(1, filled_quantity=3))
    assert bench.fill(7) == []


# After a kill.


def test_open_orders_come_back_in_their_line_with_all_that_they_are():
    bench = Bench()
    bench.accept(limit(1, SELL, "190.19"), limit(2, SELL, "190.19"), stop_limit(3, SELL, "190.18", "190.50"))
    bench.accept(limit(4, SELL, "190.19", quantity=8, replaces=in_place_of(1)), buy(5, quantity=2), sell(6))
    again, events = bench.recovered()
    assert events == []
    assert again.state(4) == bench.state(4)
    assert again.events(buy(7, quantity=10)) == [
        partly(7, 6, "190.19"),
        filled(4, 6, "190.19", number=2, total=8),
        filled(7, 4, "190.19", number=2, total=10),
        partly(2, 4, "190.19"),
    ]
    # The stop was reached before the kill: it does not wait for another trade.
    assert again.quote("190.60", "190.62") == [
        filled(2, 6, "190.19", number=2, total=10),
        filled(3, 10, "190.50"),
    ]
    # What comes now stands behind what was there.
    again.accept(limit(8, SELL, "190.61"))
    assert again.order(8).rank > again.order(2).rank


def test_a_recovered_order_may_trade_at_once_or_have_expired():
    bench = Bench()
    bench.accept(limit(1, SELL, "190.30"), limit(2, SELL, "190.30", time_in_force=GTC), limit(3, BUY, "180.00"))
    _, events = bench.recovered(quote=("190.40", "190.42"))
    assert events == [filled(1, 10, "190.40"), filled(2, 10, "190.40")]
    later = new_york(30, 12)
    again, events = bench.recovered(later)
    assert events == at(later, expired(1), expired(3))
    assert again.exchange.orders.open_count == 1


def test_a_filled_place_goes_on_counting_after_a_kill():
    bench = Bench()
    bench.accept(limit(1, SELL, "190.19", quantity=10), buy(2, quantity=4))
    again, _ = bench.recovered()
    again.accept(limit(3, SELL, "190.19", quantity=5, replaces=in_place_of(1, 4)))
    assert again.events(buy(4, quantity=6))[1] == filled(3, 5, "190.19")
