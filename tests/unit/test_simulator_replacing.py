"""Taking orders out, and putting others in their place: in one step, or not at all."""

import pytest

from broker.core.types import Side
from broker.simulator.outcome import Outcome
from broker.simulator.wire import Answer, CancelAnswer, CancelResult, NewOrder, OrderStatus, Replaces, Result
from tests.simulated import (
    GTC,
    IOC,
    STAMP,
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
A = CancelAnswer


def replaced(n: int, **overrides) -> object:
    return event(S.REPLACED, n, **overrides)


# Cancelling.


def test_cancels_are_answered_in_their_order_and_may_be_asked_again():
    bench = Bench()
    bench.accept(limit(1, SELL, "190.19"), buy(2, quantity=4), limit(3, BUY, "190.00"), buy(4, symbol="NOPE"))
    bench.accept(stop(5, SELL, "180.00"))
    outcome = bench.cancel(1, 2, 3, 4, 5, 6, 1)
    assert outcome.cancels == [
        CancelResult(order_id(1), A.ACCEPTED),
        CancelResult(order_id(2), A.TOO_LATE, "FILLED"),
        CancelResult(order_id(3), A.ACCEPTED),
        CancelResult(order_id(4), A.TOO_LATE, "REJECTED"),
        CancelResult(order_id(5), A.ACCEPTED),
        CancelResult(order_id(6), A.UNKNOWN),
        CancelResult(order_id(1), A.ACCEPTED),
    ]
    assert told(outcome) == [
        event(S.CANCELLED, 1, filled_quantity=4, reason="asked"),
        event(S.CANCELLED, 3, reason="asked"),
        event(S.CANCELLED, 5, reason="asked"),
    ]
    assert bench.cancel(1, 3) == Outcome(
        STAMP, cancels=[CancelResult(order_id(1), A.ACCEPTED), CancelResult(order_id(3), A.ACCEPTED)]
    )
    assert bench.events(buy(7)) == [filled(7, 10, "190.20")]


def test_what_the_exchange_cancelled_of_itself_was_not_cancelled_by_asking():
    bench = Bench()
    bench.accept(limit(1, BUY, "190.00", time_in_force=IOC))
    assert bench.cancel(1).cancels == [CancelResult(order_id(1), A.TOO_LATE, "CANCELLED")]


def test_a_market_order_that_waits_to_trade_can_be_cancelled():
    bench = Bench(fills_at_once=False)
    bench.accept(buy())
    assert told(bench.cancel(1)) == [event(S.CANCELLED, reason="asked")]
    assert bench.fill(10) == []


# Replacing.


def test_a_smaller_quantity_keeps_the_place_in_line():
    bench = Bench()
    bench.accept(limit(1, SELL, "190.19"), limit(2, SELL, "190.19"))
    new = limit(3, SELL, "190.19", quantity=4, replaces=in_place_of(1))
    assert bench.events(new) == [replaced(1), accepted(3)]
    assert bench.events(buy(4, quantity=5)) == [
        partly(4, 4, "190.19"),
        filled(3, 4, "190.19"),
        filled(4, 1, "190.19", number=2, total=5),
        partly(2, 1, "190.19"),
    ]
    assert bench.state(1)["status"] == "REPLACED"


@pytest.mark.parametrize("change", [{"price": "190.18"}, {"price": "190.19", "quantity": 11}])
def test_another_price_or_more_shares_go_to_the_end_of_the_line(change):
    bench = Bench(quote=("190.10", "190.30"))
    bench.accept(limit(1, SELL, "190.19"), limit(2, SELL, change["price"]))
    assert bench.events(limit(3, SELL, **change, replaces=in_place_of(1))) == [replaced(1), accepted(3)]
    assert bench.events(buy(4))[-1] == filled(2, 10, change["price"])


def test_a_chain_of_replacements_counts_what_was_filled_in_that_place():
    bench = Bench()
    bench.accept(limit(1, SELL, "190.19", quantity=100), limit(9, SELL, "190.19"))
    bench.accept(buy(2, quantity=10))
    bench.accept(limit(3, SELL, "190.19", quantity=80, replaces=in_place_of(1, 10)))
    bench.accept(buy(4, quantity=20, max_price="9999"))
    new = limit(5, SELL, "190.19", quantity=3, replaces=in_place_of(3, 20))
    assert bench.events(new) == [replaced(3, filled_quantity=20), accepted(5)]
    assert bench.events(buy(6, quantity=5)) == [
        partly(6, 3, "190.19"),
        filled(5, 3, "190.19"),
        filled(6, 2, "190.19", number=2, total=5),
        partly(9, 2, "190.19"),
    ]
    assert bench.cancel(1, 3, 5).cancels == [
        CancelResult(order_id(1), A.TOO_LATE, "REPLACED"),
        CancelResult(order_id(3), A.TOO_LATE, "REPLACED"),
        CancelResult(order_id(5), A.TOO_LATE, "FILLED"),
    ]


def test_a_replacement_may_trade_at_once():
    bench = Bench()
    bench.accept(limit(1, BUY, "190.00"))
    assert bench.events(limit(2, BUY, "190.20", replaces=in_place_of(1))) == [replaced(1), filled(2, 10, "190.20")]


def test_orders_of_one_request_are_handled_in_their_order():
    bench = Bench()
    new, newer = limit(2, BUY, "190.10", replaces=in_place_of(1)), limit(3, BUY, "190.20", replaces=in_place_of(2))
    assert bench.events(limit(1, BUY, "190.00"), new, newer) == [
        *(accepted(1), replaced(1), accepted(2), replaced(2)),
        filled(3, 10, "190.20"),
    ]


def test_the_same_replacement_again_is_known():
    bench = Bench()
    new = limit(2, BUY, "190.10", replaces=in_place_of(1))
    bench.accept(limit(1, BUY, "190.00"), new)
    assert bench.accept(new) == Outcome(STAMP, results=[Result(order_id(2), Answer.EXISTS)])
    (result,) = bench.accept(limit(2, BUY, "190.10", replaces=in_place_of(1, 3))).results
    assert (result.status, result.reason) == (Answer.INVALID, "this id belongs to an order with other content")


def _bad_replacements() -> list[tuple[NewOrder, str]]:
    kept = "a replacement keeps the symbol, side, type and hours, and the time in force unless both are day or gtc"
    return [
        (limit(9, SELL, "190.30", replaces=in_place_of(8)), "the order to replace is not known"),
        (limit(9, SELL, "190.30", replaces=in_place_of(2, 4)), "the order to replace is FILLED"),
        (limit(9, SELL, "190.30", replaces=in_place_of(1, 3)), "the order to replace has filled 4 shares"),
        (limit(9, BUY, "190.10", replaces=in_place_of(1, 4)), kept),
        (sell(9, replaces=in_place_of(1, 4)), kept),
        (limit(9, SELL, "190.30", time_in_force=IOC, replaces=in_place_of(1, 4)), kept),
        (limit(9, SELL, "190.30", extended_hours=True, replaces=in_place_of(1, 4)), kept),
        (limit(9, SELL, "190.30", symbol="MSFT", replaces=in_place_of(1, 4)), kept),
        (limit(9, SELL, "190.305", replaces=in_place_of(1, 4)), "from 1.00 on, price is in whole cents"),
    ]


@pytest.mark.parametrize(("new", "reason"), _bad_replacements())
def test_a_replacement_that_cannot_be_changes_nothing(new, reason):
    bench = Bench()
    bench.accept(limit(1, SELL, "190.19"), buy(2, quantity=4))
    assert bench.accept(new) == Outcome(STAMP, results=[Result(order_id(9), Answer.INVALID, reason)])
    assert bench.state(1)["status"] == "PARTIALLY_FILLED"
    assert bench.events(buy(3, quantity=6))[-1].order_id == order_id(1)


def test_a_replacement_may_live_longer_or_shorter_and_keeps_its_place():
    bench = Bench()
    bench.accept(limit(1, SELL, "190.19"), limit(2, SELL, "190.19", time_in_force=GTC))
    longer = limit(3, SELL, "190.19", quantity=8, time_in_force=GTC, replaces=in_place_of(1))
    shorter = limit(4, SELL, "190.19", quantity=8, replaces=in_place_of(2))
    assert bench.events(longer, shorter) == [replaced(1), accepted(3), replaced(2), accepted(4)]
    assert bench.events(buy(5, quantity=9))[1] == filled(3, 8, "190.19")
    assert (bench.order(3).expires_at, bench.order(4).expires_at) == (None, "2026-11-28T05:00:00.000000+00:00")


def test_a_stop_keeps_its_place_with_less_and_its_max_price():
    bench = Bench()
    bench.accept(stop(1, BUY, "190.30", max_price="1999.00"), stop(2, BUY, "190.30", max_price="1999.00"))
    bench.accept(stop(3, BUY, "190.30", quantity=4, max_price="799.60", replaces=in_place_of(1)))
    bench.noise.draw = 0.25  # somebody buys
    assert bench.quote("190.31", "190.33") == [filled(3, 4, "190.33"), filled(2, 10, "190.33")]


def test_a_stop_with_less_to_spend_for_each_share_goes_to_the_end():
    bench = Bench()
    bench.accept(stop(1, BUY, "190.30", max_price="1999.00"), stop(2, BUY, "190.30", max_price="1999.00"))
    bench.accept(stop(3, BUY, "190.30", quantity=4, max_price="761.28", replaces=in_place_of(1)))
    bench.noise.draw = 0.25
    assert bench.quote("190.31", "190.33") == [
        filled(2, 10, "190.33"),
        event(S.CANCELLED, 3, reason="max price exceeded"),
    ]


def test_the_replacement_of_a_stop_that_was_reached_does_not_wait_again():
    bench = Bench()
    bench.accept(stop_limit(1, SELL, "190.18", "190.50"))
    bench.accept(sell(2))
    assert bench.order(1).triggered
    bench.accept(buy(3))  # the last trade is above the stop again
    new = stop_limit(4, SELL, "190.18", "190.18", replaces=in_place_of(1))
    assert bench.events(new) == [replaced(1), filled(4, 10, "190.18")]


def test_a_market_order_that_waits_to_trade_can_be_replaced():
    bench = Bench(fills_at_once=False)
    bench.accept(buy(1))
    outcome = bench.accept(buy(2, quantity=3, replaces=Replaces(order_id(1), 0)))
    assert (told(outcome), outcome.resting) == ([replaced(1), accepted(2)], [(order_id(2), [3])])
    assert bench.fill(10, 1) == []
    assert bench.fill(3, 2) == [filled(2, 3, "190.20")]


def test_a_random_rejection_meets_the_new_order_when_the_old_one_is_gone():
    bench = Bench()
    bench.accept(limit(1, BUY, "190.00"))
    again, _ = bench.recovered(reject=1)
    new = limit(2, BUY, "190.10", replaces=in_place_of(1))
    assert again.events(new) == [replaced(1), event(S.REJECTED, 2, reason="random error")]
