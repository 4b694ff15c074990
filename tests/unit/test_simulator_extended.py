"""Extended hours: who trades before the opening and after the close, and who waits meanwhile."""

from datetime import UTC, datetime

import pytest

from broker.core.hours import NEW_YORK
from broker.core.types import Side
from broker.simulator.wire import Answer, Event, OrderStatus
from tests.simulated import (
    DAY,
    GTC,
    IOC,
    Bench,
    accepted,
    buy,
    event,
    filled,
    in_place_of,
    limit,
    sell,
    stop,
    told,
)

BUY, SELL = Side.BUY, Side.SELL
S = OrderStatus


def new_york(day: int, hour: int, minute: int = 0) -> datetime:
    return datetime(2026, 11, day, hour, minute, tzinfo=NEW_YORK).astimezone(UTC)


WEDNESDAY, CLOSE, EVENING, EVENING_END = new_york(25, 12), new_york(25, 16), new_york(25, 18), new_york(25, 20)
PRE_MARKET, OPENING, HALF_DAYS_CLOSE = new_york(27, 4), new_york(27, 9, 30), new_york(27, 13)
HALF_DAYS_END = new_york(27, 17)


def at(when: datetime, *events: Event) -> list[Event]:
    for each in events:
        each.at = when.isoformat(timespec="microseconds")
    return list(events)


def advance(bench: Bench, when: datetime) -> list[Event]:
    bench.at = when
    return told(bench.exchange.advance(when))


def expired(n: int) -> Event:
    return event(S.EXPIRED, n, reason="the session ended")


@pytest.mark.parametrize("when", [EVENING, PRE_MARKET, HALF_DAYS_CLOSE])
def test_only_an_order_for_extended_hours_trades_there(when):
    bench = Bench(at=when, hours="XNYS")
    plain, extended = limit(1, BUY, "190.20"), limit(2, BUY, "190.20", extended_hours=True)
    assert bench.events(plain, extended) == at(when, accepted(1), filled(2, 10, "190.20"))
    rejected = [event(S.REJECTED, n, reason="past market hours") for n in (3, 4)]
    assert bench.events(buy(3), limit(4, BUY, "190.20", time_in_force=IOC)) == at(when, *rejected)
    assert bench.state(2)["extended_hours"] is True


def test_those_of_two_customers_meet_there_and_the_market_moves():
    bench = Bench(at=EVENING, hours="XNYS")
    bench.accept(limit(1, SELL, "190.19", extended_hours=True), limit(2, SELL, "190.30", extended_hours=True))
    assert bench.events(limit(3, BUY, "190.19", extended_hours=True)) == at(
        EVENING, filled(3, 10, "190.19"), filled(1, 10, "190.19")
    )
    assert bench.quote("190.40", "190.42") == at(EVENING, filled(2, 10, "190.30"))


def test_the_close_sends_the_others_out_of_the_books_until_the_next_session():
    bench = Bench(at=WEDNESDAY, hours="XNYS")
    bench.accept(limit(1, SELL, "190.19", time_in_force=GTC), limit(2, SELL, "190.19", extended_hours=True))
    bench.accept(stop(3, SELL, "190.00", time_in_force=GTC), limit(4, SELL, "190.19"))
    assert advance(bench, CLOSE) == at(CLOSE, expired(4))
    assert bench.events(limit(5, BUY, "190.19", quantity=20, extended_hours=True)) == at(
        CLOSE, accepted(5), event(S.PARTIALLY_FILLED, 5, **_execution(5)), filled(2, 10, "190.19")
    )
    assert bench.quote("189.00", "189.02") == at(CLOSE, filled(5, 10, "190.19", number=2, total=20))
    assert advance(bench, OPENING) == at(OPENING, filled(3, 10, "189.00"))  # its price was reached meanwhile
    assert bench.quote("190.30", "190.32") == at(OPENING, filled(1, 10, "190.19"))


def _execution(n: int) -> dict[str, object]:
    execution_id = f"01990000-0000-7000-8000-{n:012d}-1"
    return {"execution_id": execution_id, "quantity": 10, "price": "190.19", "filled_quantity": 10}


@pytest.mark.parametrize(
    ("taken", "end"),
    [
        (WEDNESDAY, EVENING_END),
        (EVENING, EVENING_END),
        (EVENING_END, HALF_DAYS_END),
        (PRE_MARKET, HALF_DAYS_END),
        (HALF_DAYS_CLOSE, HALF_DAYS_END),
    ],
)
def test_a_day_order_for_extended_hours_lives_until_they_end(taken, end):
    bench = Bench(at=taken, hours="XNYS")
    bench.accept(limit(1, BUY, "180.00", extended_hours=True))
    while bench.exchange.changes_at < end:
        assert advance(bench, bench.exchange.changes_at) == []
    assert advance(bench, end) == at(end, expired(1))


def test_a_good_one_waits_through_the_night_and_trades_before_the_opening():
    bench = Bench(at=EVENING, hours="XNYS")
    bench.accept(limit(1, SELL, "190.19", extended_hours=True, time_in_force=GTC))
    assert advance(bench, EVENING_END) == []
    assert bench.quote("190.40", "190.42") == []
    bench.at = PRE_MARKET
    assert bench.quote("190.50", "190.52") == at(PRE_MARKET, filled(1, 10, "190.19"))


def test_a_replacement_keeps_the_hours():
    bench = Bench(at=EVENING, hours="XNYS")
    bench.accept(limit(1, SELL, "190.30", extended_hours=True))
    (result,) = bench.accept(limit(2, SELL, "190.18", replaces=in_place_of(1))).results
    assert result.status is Answer.INVALID
    new = limit(3, SELL, "190.18", time_in_force=GTC, extended_hours=True, replaces=in_place_of(1))
    assert bench.events(new) == at(EVENING, event(S.REPLACED, 1), filled(3, 10, "190.18"))


def test_around_the_clock_the_word_changes_nothing():
    bench = Bench()
    bench.accept(limit(1, BUY, "180.00", extended_hours=True), limit(2, BUY, "180.00"))
    midnight = new_york(28, 0)
    assert advance(bench, midnight) == at(midnight, expired(1), expired(2))


@pytest.mark.parametrize("time_in_force", [DAY, GTC])
def test_a_kill_forgets_no_hours(time_in_force):
    bench = Bench(at=EVENING, hours="XNYS")
    bench.accept(limit(1, SELL, "190.19", extended_hours=True, time_in_force=time_in_force), limit(2, SELL, "190.19"))
    again, events = bench.recovered(EVENING, hours="XNYS")
    assert events == []
    assert again.quote("190.40", "190.42") == at(EVENING, filled(1, 10, "190.19"))
    assert again.events(sell(3)) == at(EVENING, event(S.REJECTED, 3, reason="past market hours"))


def test_the_hours_are_part_of_what_an_order_is():
    bench = Bench()
    bench.accept(limit(1, BUY, "180.00"))
    results = bench.accept(limit(1, BUY, "180.00", extended_hours=True), limit(1, BUY, "180.00")).results
    assert [result.status for result in results] == [Answer.INVALID, Answer.EXISTS]
