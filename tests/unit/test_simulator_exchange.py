"""What becomes of an order: enter orders, compare all that came out."""

import msgspec
import pytest

from broker.core.money import Money
from broker.core.types import Side
from broker.simulator.exchange import OTHER_CONTENT
from broker.simulator.orders import Order
from broker.simulator.outcome import Outcome
from broker.simulator.wire import Answer, OrderStatus, Result, Unreadable
from tests.simulated import FOK, STAMP, URL, Bench, accepted, buy, event, filled, limit, order_id, partly, sell

S = OrderStatus


def test_a_buy_fills_at_the_ask():
    bench = Bench()
    outcome = bench.accept(buy())
    assert outcome.results == [Result(order_id(), Answer.ACCEPTED)]
    assert outcome.events == [(URL, filled(1, 10, "190.20"))]
    assert outcome.resting == []
    assert bench.state() == {
        "id": order_id(),
        "symbol": "AAPL",
        "side": "BUY",
        "type": "market",
        "quantity": 10,
        "price": None,
        "stop_price": None,
        "time_in_force": "day",
        "status": "FILLED",
        "filled_quantity": 10,
        "reason": None,
        "executions": [
            {
                "execution_id": f"{order_id()}-1",
                "quantity": 10,
                "price": "190.20",
                "at": STAMP,
                "busted": False,
                "corrects": None,
            },
        ],
        "extended_hours": False,
    }


def test_a_sell_fills_at_the_bid():
    assert Bench().events(sell()) == [filled(1, 10, "190.18")]


def test_an_event_in_json_is_the_contracts():
    (told,) = Bench().events(buy())
    assert msgspec.json.encode(told) == (
        b'{"type":"FILLED","order_id":"01990000-0000-7000-8000-000000000001",'
        b'"execution_id":"01990000-0000-7000-8000-000000000001-1","quantity":10,"price":"190.20",'
        b'"filled_quantity":10,"reason":null,"at":"2026-11-27T14:30:00.000000+00:00"}'
    )


@pytest.mark.parametrize(
    ("order", "faults", "reason"),
    [
        (buy(symbol="NOPE"), {"closed": True}, "unknown symbol"),
        (buy(max_price="1"), {"closed": True, "reject": 1}, "past market hours"),
        (buy(max_price="1"), {"reject": 1}, "random error"),
        (sell(), {"reject": 1}, "random error"),
        (buy(max_price="1901.9999"), {}, "max price exceeded"),
        (buy(max_price="0.0009"), {}, "max price exceeded"),
    ],
)
def test_the_first_reason_in_order_of_precedence_rejects(order, faults, reason):
    bench = Bench(**faults)
    outcome = bench.accept(order)
    assert outcome.results == [Result(order_id(), Answer.ACCEPTED)]
    assert outcome.events == [(URL, event(S.REJECTED, reason=reason))]
    assert (bench.state()["status"], bench.state()["reason"]) == ("REJECTED", reason)


def test_max_price_may_be_spent_to_the_last_cent():
    assert [told.type for told in Bench().events(buy(max_price="1902.00"))] == [S.FILLED]


def test_the_same_order_again_is_known_and_nothing_is_done():
    bench = Bench()
    outcome = bench.accept(buy(), buy(max_price="1997.1", callback_url="http://127.0.0.1:9/moved"))
    assert [result.status for result in outcome.results] == [Answer.ACCEPTED, Answer.EXISTS]
    assert len(outcome.events) == 1
    assert bench.accept(buy()) == Outcome(STAMP, results=[Result(order_id(), Answer.EXISTS)])


@pytest.mark.parametrize("other", [{"quantity": 11}, {"symbol": "MSFT"}, {"max_price": "1997.11"}])
def test_the_same_id_with_other_content_is_invalid(other):
    bench = Bench()
    bench.accept(buy())
    refused = Result(order_id(), Answer.INVALID, OTHER_CONTENT)
    assert bench.accept(buy(**other)) == Outcome(STAMP, results=[refused])


@pytest.mark.parametrize(
    ("order", "reason"),
    [
        (buy(max_price=None), "a market BUY needs a max_price, a positive decimal with at most 4 places"),
        (buy(max_price="1.00001"), "a market BUY needs a max_price, a positive decimal with at most 4 places"),
        (buy(max_price="0"), "a market BUY needs a max_price, a positive decimal with at most 4 places"),
        (buy(max_price="1e9"), "a market BUY needs a max_price, a positive decimal with at most 4 places"),
        (sell(callback_url="ftp://x/"), "callback_url must be an http or https URL"),
        (sell(callback_url="http://"), "callback_url must be an http or https URL"),
        (sell(callback_url="http://[::1"), "callback_url must be an http or https URL"),
        (sell(callback_url="http://x:99999/"), "callback_url must be an http or https URL"),
        (Unreadable("x", "no order at all"), "no order at all"),
    ],
)
def test_an_invalid_order_is_never_taken_and_its_neighbours_are(order, reason):
    bench = Bench()
    outcome = bench.accept(buy(1), order, buy(2)) if order.id == "x" else bench.accept(order, buy(2))
    assert Result(order.id, Answer.INVALID, reason) in outcome.results
    assert bench.exchange.orders.get(order_id(2)) is not None
    assert all(new.status is S.FILLED for new in outcome.changed.values())


def test_an_order_in_parts_rests_and_fills_one_part_after_another():
    bench = Bench(partial=1)
    outcome = bench.accept(buy())
    assert [told for _, told in outcome.events] == [accepted()]
    ((resting_id, parts),) = outcome.resting
    assert resting_id == order_id()
    assert 2 <= len(parts) <= 4
    assert sum(parts) == 10
    assert bench.fill(4) == [partly(1, 4, "190.20")]
    bench.quote("189.00", "189.02")
    assert bench.fill(6) == [filled(1, 6, "189.02", number=2, total=10)]
    assert [execution["execution_id"][-2:] for execution in bench.state()["executions"]] == ["-1", "-2"]
    assert bench.fill(1) == []


@pytest.mark.parametrize("whole", [sell(quantity=1), sell(time_in_force=FOK), limit(1, Side.SELL, "190.00")])
def test_one_share_and_what_must_not_be_cut_have_no_parts(whole):
    assert [told.type for told in Bench(partial=1).events(whole)] == [S.FILLED]


def test_with_a_delay_a_market_order_rests_first():
    outcome = Bench(fills_at_once=False).accept(sell())
    assert [told for _, told in outcome.events] == [accepted()]
    assert outcome.resting == [(order_id(), [10])]
    assert Bench(fills_at_once=False).events(limit(1, Side.SELL, "190.00")) == [filled(1, 10, "190.18")]


def test_all_fills_together_stay_below_max_price():
    bench = Bench(partial=1)
    bench.accept(buy(max_price="1902.00"))
    bench.fill(5)
    bench.quote("190.19", "190.21")
    assert bench.fill(5) == [event(S.CANCELLED, filled_quantity=5, reason="max price exceeded")]
    assert bench.state()["status"] == "CANCELLED"
    assert bench.fill(5) == []


def test_a_price_that_ran_away_before_the_first_part_rejects():
    bench = Bench(partial=1)
    bench.accept(buy(max_price="1902.00"))
    bench.quote("400.00", "400.02")
    assert bench.fill(5) == [event(S.REJECTED, reason="max price exceeded")]


def test_the_oldest_finished_orders_are_forgotten_and_no_open_one():
    bench = Bench(finished_max=2, partial=0)
    resting = Bench(finished_max=2, partial=1)
    bench.accept(*(buy(n) for n in range(1, 6)))
    assert [order.id for order in bench.exchange.orders.all()] == [order_id(4), order_id(5)]
    resting.accept(*(buy(n) for n in range(1, 6)))
    assert [order.id for order in resting.exchange.orders.open()] == [order_id(n) for n in range(1, 6)]
    for n in (3, 1, 2):
        resting.fill(10, n)
    assert [order.id for order in resting.exchange.orders.all()] == [order_id(n) for n in (1, 2, 4, 5)]
    assert resting.exchange.orders.open_count == 2


def test_the_biggest_order_at_the_highest_price_is_exact():
    bench = Bench(quote=("999999.98", "999999.99"))
    bench.accept(limit(1, Side.SELL, "999999.99", quantity=10_000_000))
    bench.accept(buy(2, quantity=10_000_000, max_price="9999999900000"))
    assert bench.state(2)["status"] == "FILLED"
    assert bench.order(2).filled_value == Money(10_000_000 * 9_999_999_900)


def test_a_journal_of_the_version_before_is_read():
    line = (
        b'{"id":"01990000-0000-7000-8000-000000000001","symbol":"AAPL","side":"BUY","type":"market","quantity":10,'
        b'"max_price":19971000,"callback_url":"http://127.0.0.1:8080/webhooks/exchange","status":"PARTIALLY_FILLED",'
        b'"filled_quantity":4,"reason":null,"executions":[{"quantity":4,"price":1902000,'
        b'"at":"2026-11-27T14:30:00.000000+00:00"}]}'
    )
    bench = Bench()
    bench.exchange.orders.put(msgspec.json.decode(line, type=Order))
    assert bench.exchange.recover(bench.at).resting == [(order_id(), [6])]
    assert bench.fill(6) == [filled(1, 6, "190.20", number=2, total=10)]
