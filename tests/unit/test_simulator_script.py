"""What the next orders meet, as a test wrote it."""

import msgspec
import pytest

from broker.core.types import Side, Symbol, TimeInForce
from broker.simulator.bench_wire import ScriptBody
from broker.simulator.script import Delay, Due, Fill, Partial, Reject, Script, ScriptFull, Step
from broker.simulator.wire import BadBody, CancelAnswer, CancelResult, Event, NewOrder, OrderStatus, parse_body
from tests.simulated import (
    AAPL,
    AT,
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


def scripted(*steps: Step, **overrides) -> Bench:
    bench = Bench(**overrides)
    bench.script.add(None, steps)
    return bench


def go_on(bench: Bench, due: Due) -> tuple[list[Event], list[Due]]:
    outcome = bench.exchange.go_on(due, bench.at)
    return told(outcome), outcome.due


# What stands in it.


def test_each_order_meets_one_step_in_their_order_then_all_is_as_usual():
    bench = scripted(Reject("no borrow"), Partial(quantity=4))
    bench.script.add(None, [Reject()])
    assert bench.events(buy(1), buy(2), buy(3), buy(4)) == [
        event(S.REJECTED, 1, reason="no borrow"),
        partly(2, 4, "190.20"),
        event(S.CANCELLED, 2, filled_quantity=4, reason="no liquidity"),
        event(S.REJECTED, 3, reason="rejected by the script"),
        filled(4, 10, "190.20"),
    ]
    assert [*bench.script.left()] == []


def test_a_step_for_a_symbol_waits_for_an_order_of_it():
    script = Script(10)
    script.add(Symbol("MSFT"), [Reject("first"), Reject("second")])
    script.add(None, [Fill()])
    assert script.take(AAPL, True) == Fill()
    assert script.take(AAPL, True) is None
    assert script.take(Symbol("MSFT"), False) == Reject("first")
    assert [*script.left()] == [{"symbol": "MSFT", "do": "reject", "reason": "second"}]
    script.clear()
    assert script.take(Symbol("MSFT"), True) is None


def test_who_cannot_trade_when_he_comes_meets_a_rejection_only():
    script = Script(10)
    script.add(None, [Delay(5), Reject()])
    assert script.take(AAPL, False) is None
    assert script.take(AAPL, True) == Delay(5)
    assert script.take(AAPL, False) == Reject()


def test_orders_that_are_refused_anyway_known_or_replacements_meet_no_step():
    bench = Bench()
    bench.accept(limit(1, BUY, "180.00"))
    bench.script.add(None, [Reject()])
    bench.accept(buy(2, symbol="NOPE"), limit(1, BUY, "180.00"), limit(3, BUY, "181.00", replaces=in_place_of(1)))
    assert bench.state(3)["status"] == "ACCEPTED"
    assert bench.events(buy(4)) == [event(S.REJECTED, 4, reason="rejected by the script")]


def test_it_is_bounded():
    script = Script(3)
    script.add(None, [Fill(), Fill()])
    with pytest.raises(ScriptFull, match="at most 3 steps wait for orders, and 2 do"):
        script.add(AAPL, [Fill(), Fill()])
    assert len([*script.left()]) == 2


def test_a_body_in_its_form():
    body = b"""{"symbol": "AAPL", "orders": [{"do": "reject", "reason": "no"}, {"do": "partial", "quantity": 3},
        {"do": "partial", "parts": [3, 2], "ms": 200}, {"do": "delay", "ms": 500}, {"do": "fill"}]}"""
    read = parse_body(body, ScriptBody)
    assert (read.symbol, read.orders) == (
        "AAPL",
        [Reject("no"), Partial(quantity=3), Partial(parts=(3, 2), ms=200), Delay(500), Fill()],
    )
    assert [step.shares for step in read.orders if isinstance(step, Partial)] == [(3,), (3, 2)]
    script = Script(10)
    script.add(read.symbol, read.orders)
    again = [{key: value for key, value in step.items() if key != "symbol"} for step in script.left()]
    assert msgspec.convert(again, list[Step]) == read.orders


@pytest.mark.parametrize(
    ("step", "why"),
    [
        ('{"do": "explode"}', "Invalid value 'explode' - at `$.orders[0].do`"),
        ("{}", "Object missing required field `do` - at `$.orders[0]`"),
        ('{"do": "partial"}', "a partial fill has a quantity or parts - at `$.orders[0]`"),
        (
            '{"do": "partial", "quantity": 1, "parts": [1]}',
            "a partial fill has a quantity or parts - at `$.orders[0]`",
        ),
        ('{"do": "partial", "parts": []}', "Expected `array` of length >= 1 - at `$.orders[0].parts`"),
        ('{"do": "partial", "quantity": 0}', "Expected `int` >= 1 - at `$.orders[0].quantity`"),
        ('{"do": "delay"}', "Object missing required field `ms` - at `$.orders[0]`"),
        ('{"do": "delay", "ms": 600001}', "Expected `int` <= 600000 - at `$.orders[0].ms`"),
        ('{"do": "fill", "price": "1.00"}', "Object contains unknown field `price` - at `$.orders[0]`"),
    ],
)
def test_a_body_that_is_not_says_why(step, why):
    with pytest.raises(BadBody) as caught:
        parse_body(f'{{"orders": [{step}]}}'.encode(), ScriptBody)
    assert str(caught.value) == why


# Fills.


@pytest.mark.parametrize(
    ("order", "price"),
    [
        (buy(), "190.20"),
        (sell(time_in_force=FOK), "190.18"),
        (limit(1, BUY, "180.00"), "180.00"),  # the market is nowhere near
        (limit(1, SELL, "200.00", time_in_force=IOC), "200.00"),
        (limit(1, BUY, "195.00"), "190.20"),
        (stop(1, SELL, "150.00"), "190.18"),
        (stop_limit(1, BUY, "250.00", "185.00"), "185.00"),
    ],
)
def test_a_fill_is_whole_and_at_once_at_the_best_price_that_the_limit_allows(order: NewOrder, price: str):
    bench = scripted(Fill())
    assert bench.events(order) == [filled(1, 10, price)]
    assert bench.best[2] == 1_901_800  # it was no trade of the book's


@pytest.mark.parametrize(
    ("order", "end"),
    [
        (buy(max_price="1.00"), event(S.REJECTED, reason="max price exceeded")),
        (stop(1, BUY, "190.00", max_price="1.00"), event(S.CANCELLED, reason="max price exceeded")),
    ],
)
def test_a_script_spends_no_more_than_the_order_may(order, end):
    assert scripted(Fill()).events(order) == [end]


# Partial fills.


@pytest.mark.parametrize(
    ("order", "events"),
    [
        (limit(1, BUY, "190.50"), []),
        (limit(1, BUY, "190.50", time_in_force=GTC), []),
        (stop(1, BUY, "190.50"), []),
        (buy(time_in_force=IOC), [event(S.CANCELLED, filled_quantity=3, reason="immediate or cancel")]),
        (sell(), [event(S.CANCELLED, filled_quantity=3, reason="no liquidity")]),
    ],
)
def test_after_a_partial_fill_what_can_rest_does_and_trades_no_more(order, events):
    bench = scripted(Partial(quantity=3))
    price = "190.18" if order.side is SELL else "190.20"
    taken = [] if events else [accepted()]
    assert bench.events(order) == [*taken, partly(1, 3, price), *events]
    assert bench.quote("180.00", "180.02") == []
    assert bench.state()["status"] == ("CANCELLED" if events else "PARTIALLY_FILLED")


def test_its_rest_is_cancelled_replaced_or_expires_like_any_other():
    bench = scripted(*[Partial(quantity=3)] * 3)
    bench.accept(limit(1, BUY, "190.50"), limit(2, BUY, "190.50"), limit(3, BUY, "190.50"))
    assert bench.cancel(1).cancels == [CancelResult(order_id(1), CancelAnswer.ACCEPTED)]
    new = limit(4, BUY, "190.50", quantity=7, replaces=in_place_of(2, 3))
    assert bench.events(new) == [event(S.REPLACED, 2, filled_quantity=3), filled(4, 7, "190.20")]
    bench.at = AT.replace(day=28, hour=5)
    (end,) = bench.tick()
    assert (end.type, end.order_id, end.filled_quantity) == (S.EXPIRED, order_id(3), 3)


def test_parts_come_one_after_another():
    bench = scripted(Partial(parts=(3, 2, 4), ms=200))
    outcome = bench.accept(buy())
    assert told(outcome) == [accepted(), partly(1, 3, "190.20")]
    (due,) = outcome.due
    assert due == Due(order_id(), 200, (2, 4))
    assert bench.quote("190.30", "190.32") == []
    events, (due,) = go_on(bench, due)
    assert events == [partly(1, 2, "190.32", number=2, total=5)]
    events, later = go_on(bench, due)
    assert events == [
        partly(1, 4, "190.32", number=3, total=9),
        event(S.CANCELLED, filled_quantity=9, reason="no liquidity"),
    ]
    assert later == []


def test_parts_beyond_the_order_fill_it():
    bench = scripted(Partial(parts=(6, 6)))
    (due,) = bench.accept(limit(1, SELL, "190.18")).due
    assert go_on(bench, due) == ([filled(1, 4, "190.18", number=2, total=10)], [])
    assert scripted(Partial(quantity=11)).events(buy()) == [filled(1, 10, "190.20")]


def test_all_or_nothing_is_not_filled_in_parts():
    bench = scripted(Partial(quantity=9), Partial(parts=(9, 1)))
    assert bench.events(buy(1, time_in_force=FOK)) == [event(S.CANCELLED, reason="fill or kill")]
    assert bench.events(buy(2, time_in_force=FOK)) == [filled(2, 10, "190.20")]


def test_an_order_that_ended_meanwhile_gets_no_more_parts():
    bench = scripted(Partial(parts=(3, 3)))
    (due,) = bench.accept(buy()).due
    bench.cancel(1)
    assert go_on(bench, due) == ([], [])


# Delays.


def test_a_delayed_order_is_taken_at_once_and_trades_later():
    bench = scripted(Delay(500), Delay(300))
    outcome = bench.accept(buy(1), limit(2, BUY, "190.19"))
    assert told(outcome) == [accepted(1), accepted(2)]
    assert outcome.due == [Due(order_id(1), 500, ()), Due(order_id(2), 300, ())]
    assert bench.events(limit(3, SELL, "190.19")) == [accepted(3)]  # it is not in the book yet
    assert go_on(bench, outcome.due[1]) == ([filled(2, 10, "190.19"), filled(3, 10, "190.19")], [])
    assert go_on(bench, outcome.due[0]) == ([filled(1, 10, "190.20")], [])
    assert go_on(bench, outcome.due[0]) == ([], [])


def test_a_halt_puts_off_what_is_due():
    bench = scripted(Delay(5))
    (due,) = bench.accept(sell()).due
    bench.books.halt(AAPL, "news")
    assert go_on(bench, due) == ([], [Due(order_id(), 100, ())])
    bench.exchange.resume(AAPL, bench.at)
    assert go_on(bench, due) == ([filled(1, 10, "190.18")], [])


@pytest.mark.parametrize(
    ("order", "events"),
    [
        (sell(time_in_force=GTC), [event(S.EXPIRED, reason="the session ended")]),
        (limit(1, BUY, "190.20", time_in_force=GTC), []),
    ],
)
def test_when_the_session_ends_before_the_delay(order, events):
    bench = scripted(Delay(5), hours="XNYS")
    (due,) = bench.accept(order).due
    bench.at = AT.replace(hour=18)  # the half day's close
    for each in events:
        each.at = bench.at.isoformat(timespec="microseconds")
    assert go_on(bench, due) == (events, [])
    bench.at = AT.replace(day=30)
    assert [each.type for each in bench.tick()] == ([] if events else [S.FILLED])


def test_a_kill_forgets_the_script_and_what_it_held_back():
    bench = scripted(Delay(500), Partial(quantity=4))
    bench.accept(limit(1, BUY, "190.20"), limit(2, BUY, "190.20"))
    _, events = bench.recovered()
    assert events == [filled(1, 10, "190.20"), filled(2, 6, "190.20", number=2, total=10)]


def test_an_opening_order_leaves_the_step_to_the_next():
    bench = scripted(Fill())
    assert bench.events(sell(1, time_in_force=TimeInForce.OPG), limit(2, SELL, "200.00")) == [
        accepted(1),
        filled(2, 10, "200.00"),
    ]


def test_a_stop_that_was_filled_in_part_was_reached():
    bench = scripted(Partial(quantity=3))
    bench.accept(stop(1, BUY, "195.00"))
    new = stop(2, BUY, "195.00", quantity=7, replaces=in_place_of(1, 3))
    assert bench.events(new) == [event(S.REPLACED, 1, filled_quantity=3), filled(2, 7, "190.20")]


def test_nothing_is_kept_of_an_order_that_was_filled_in_parts():
    bench = scripted(Partial(parts=(6, 6)))
    (due,) = bench.accept(limit(1, SELL, "190.18")).due
    go_on(bench, due)
    floor = bench.exchange._floor
    assert not floor.is_aside(bench.order())
    assert not floor.is_waiting(bench.order())
