"""What becomes of an order: enter orders, compare all that came out."""

from datetime import UTC, datetime
from random import Random
from typing import Any

import msgspec
import pytest

from broker.core.money import Money, parse_money
from broker.core.types import Side, Symbol
from broker.simulator.exchange import OTHER_CONTENT, Exchange, Outcome
from broker.simulator.faults import Faults, Misbehaviour
from broker.simulator.market import Market, Quote, Ticker
from broker.simulator.orders import Orders
from broker.simulator.wire import (
    Answer,
    BadBody,
    Event,
    NewOrder,
    OrderStatus,
    OrderType,
    Result,
    Unreadable,
    parse_orders,
)

AT = datetime(2026, 11, 27, 14, 30, tzinfo=UTC)
STAMP = "2026-11-27T14:30:00.000000+00:00"
URL = "http://127.0.0.1:8080/webhooks/exchange"
AAPL = Symbol("AAPL")
S = OrderStatus


def order_id(n: int = 1) -> str:
    return f"01990000-0000-7000-8000-{n:012d}"


def buy(n: int = 1, **overrides: Any) -> NewOrder:
    fields = {
        "id": order_id(n),
        "symbol": "AAPL",
        "side": Side.BUY,
        "type": OrderType.MARKET,
        "quantity": 10,
        "max_price": "1997.10",
        "callback_url": URL,
    }
    return NewOrder(**{**fields, **overrides})


def sell(n: int = 1, **overrides: Any) -> NewOrder:
    return buy(n, side=Side.SELL, max_price=None, **overrides)


def event(kind: OrderStatus, n: int = 1, **overrides: Any) -> Event:
    fields = {
        "type": kind,
        "order_id": order_id(n),
        "execution_id": None,
        "quantity": None,
        "price": None,
        "filled_quantity": 0,
        "reason": None,
        "at": STAMP,
    }
    return Event(**{**fields, **overrides})


class Bench:
    """An exchange with one symbol, AAPL at 190.18 / 190.20, whose hours and faults a test sets."""

    def __init__(self, finished_max: int = 1000, fills_at_once: bool = True, **faults: Any) -> None:
        self.is_open = True
        self.market = Market([Ticker(AAPL, "Apple Inc.", parse_money("190.19"))], Random(1))
        self.quote("190.18", "190.20")
        self.exchange = Exchange(
            self.market,
            Orders(finished_max),
            Faults(Misbehaviour(**faults), Random(1)),
            lambda at: self.is_open,
            fills_at_once,
        )

    def quote(self, bid: str, ask: str) -> None:
        self.market.quotes[AAPL] = Quote(AAPL, parse_money(bid), parse_money(ask), parse_money(ask))

    def accept(self, *orders: NewOrder | Unreadable) -> Outcome:
        return self.exchange.accept(orders, AT)

    def events(self, *orders: NewOrder) -> list[Event]:
        return [told for _, told in self.accept(*orders).events]

    def fill(self, quantity: int, n: int = 1) -> list[Event]:
        return [told for _, told in self.exchange.fill(order_id(n), quantity, AT).events]

    def state(self, n: int = 1) -> dict[str, Any]:
        order = self.exchange.orders.get(order_id(n))
        assert order is not None
        return msgspec.to_builtins(order.state())


def test_a_buy_fills_at_the_ask():
    bench = Bench()
    outcome = bench.accept(buy())
    assert outcome.results == [Result(order_id(), Answer.ACCEPTED)]
    filled = event(S.FILLED, execution_id=f"{order_id()}-1", quantity=10, price="190.20", filled_quantity=10)
    assert outcome.events == [(URL, filled)]
    assert outcome.resting == []
    assert bench.state() == {
        "id": order_id(),
        "symbol": "AAPL",
        "side": "BUY",
        "type": "market",
        "quantity": 10,
        "status": "FILLED",
        "filled_quantity": 10,
        "reason": None,
        "executions": [
            {"execution_id": f"{order_id()}-1", "quantity": 10, "price": "190.20", "at": STAMP},
        ],
    }


def test_a_sell_fills_at_the_bid():
    (filled,) = Bench().events(sell())
    assert (filled.type, filled.price, filled.filled_quantity) == (S.FILLED, "190.18", 10)


def test_an_event_in_json_is_the_contracts():
    (filled,) = Bench().events(buy())
    assert msgspec.json.encode(filled) == (
        b'{"type":"FILLED","order_id":"01990000-0000-7000-8000-000000000001",'
        b'"execution_id":"01990000-0000-7000-8000-000000000001-1","quantity":10,"price":"190.20",'
        b'"filled_quantity":10,"reason":null,"at":"2026-11-27T14:30:00.000000+00:00"}'
    )


@pytest.mark.parametrize(
    ("order", "is_open", "faults", "reason"),
    [
        (buy(symbol="NOPE"), False, {}, "unknown symbol"),
        (buy(max_price="1"), False, {}, "past market hours"),
        (buy(max_price="1901.9999"), True, {"reject": 1}, "max price exceeded"),
        (buy(max_price="1902"), True, {"reject": 1}, "random error"),
        (sell(), True, {"reject": 1}, "random error"),
    ],
)
def test_the_first_reason_in_order_of_precedence_rejects(order, is_open, faults, reason):
    bench = Bench(**faults)
    bench.is_open = is_open
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
    assert bench.accept(buy()) == Outcome(results=[Result(order_id(), Answer.EXISTS)])


@pytest.mark.parametrize("other", [{"quantity": 11}, {"symbol": "MSFT"}, {"max_price": "1997.11"}])
def test_the_same_id_with_other_content_is_invalid(other):
    bench = Bench()
    bench.accept(buy())
    assert bench.accept(buy(**other)) == Outcome(results=[Result(order_id(), Answer.INVALID, OTHER_CONTENT)])


@pytest.mark.parametrize(
    ("order", "reason"),
    [
        (buy(max_price=None), "a BUY needs a max_price, a positive decimal with at most 4 places"),
        (buy(max_price="1.00001"), "a BUY needs a max_price, a positive decimal with at most 4 places"),
        (buy(max_price="0"), "a BUY needs a max_price, a positive decimal with at most 4 places"),
        (buy(max_price="1e9"), "a BUY needs a max_price, a positive decimal with at most 4 places"),
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
    assert all(new.status is S.FILLED for new in outcome.changed)


def test_a_sell_with_a_max_price_is_invalid():
    (result,) = Bench().accept(buy(side=Side.SELL)).results
    assert result == Result(order_id(), Answer.INVALID, "a SELL has no max_price")


def test_an_order_in_parts_rests_and_fills_one_part_after_another():
    bench = Bench(partial=1)
    outcome = bench.accept(buy())
    assert [told for _, told in outcome.events] == [event(S.ACCEPTED)]
    ((resting_id, parts),) = outcome.resting
    assert resting_id == order_id()
    assert 2 <= len(parts) <= 4
    assert sum(parts) == 10

    (first,) = bench.fill(4)
    bench.quote("189.00", "189.02")
    (last,) = bench.fill(6)
    fills = {"execution_id": f"{order_id()}-1", "quantity": 4, "price": "190.20", "filled_quantity": 4}
    assert first == event(S.PARTIALLY_FILLED, **fills)
    fills = {"execution_id": f"{order_id()}-2", "quantity": 6, "price": "189.02", "filled_quantity": 10}
    assert last == event(S.FILLED, **fills)
    assert [execution["execution_id"][-2:] for execution in bench.state()["executions"]] == ["-1", "-2"]
    assert bench.fill(1) == []


def test_one_share_has_no_parts():
    assert [told.type for told in Bench(partial=1).events(sell(quantity=1))] == [S.FILLED]


def test_with_a_delay_an_order_rests_first():
    outcome = Bench(fills_at_once=False).accept(sell())
    assert [told for _, told in outcome.events] == [event(S.ACCEPTED)]
    assert outcome.resting == [(order_id(), [10])]


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


def test_an_order_that_the_close_overtakes_expires():
    bench = Bench(partial=1)
    bench.accept(sell())
    bench.fill(3)
    bench.is_open = False
    assert bench.fill(7) == [event(S.EXPIRED, filled_quantity=3, reason="past market hours")]


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
    bench = Bench()
    bench.quote("999999.98", "999999.99")
    (filled,) = bench.events(buy(quantity=10_000_000, max_price="9999999900000"))
    assert (filled.type, filled.price) == (S.FILLED, "999999.99")
    order = bench.exchange.orders.get(order_id())
    assert order is not None
    assert order.filled_value == Money(10_000_000 * 9_999_999_900)


# Reading a request's body.

WIRE = {"symbol": "AAPL", "side": "BUY", "type": "market", "quantity": 10, "max_price": "5.00"}


def wire(n: int = 1, **overrides: Any) -> dict[str, Any]:
    return {"id": order_id(n), **WIRE, "callback_url": URL, **overrides}


def test_one_order_and_an_array_are_told_apart():
    one = buy(max_price="5.00")
    assert parse_orders(msgspec.json.encode(wire())) == ([one], False)
    assert parse_orders(b" \n" + msgspec.json.encode([wire()])) == ([one], True)


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        ({"id": "A" * 36}, "id must be a UUID in lower case"),
        ({"id": order_id() + "\n"}, "id must be a UUID in lower case"),
        ({"quantity": 0}, "Expected `int` >= 1 - at `$.quantity`"),
        ({"quantity": 10_000_001}, "Expected `int` <= 10000000 - at `$.quantity`"),
        ({"quantity": 1.0}, "Expected `int`, got `float` - at `$.quantity`"),
        ({"quantity": True}, "Expected `int`, got `bool` - at `$.quantity`"),
        ({"side": "buy"}, "Invalid enum value 'buy' - at `$.side`"),
        ({"type": "limit"}, "Invalid enum value 'limit' - at `$.type`"),
        ({"limit_price": "1.00"}, "Object contains unknown field `limit_price`"),
    ],
)
def test_a_member_that_is_no_order_says_why_and_its_neighbours_are_read(overrides, reason):
    orders, _ = parse_orders(msgspec.json.encode([wire(2), wire(**overrides), wire(3)]))
    identity = overrides.get("id", order_id())
    assert orders == [buy(2, max_price="5.00"), Unreadable(identity, reason), buy(3, max_price="5.00")]


def test_an_id_that_is_no_text_is_not_repeated():
    assert parse_orders(msgspec.json.encode(wire(id=5)))[0] == [Unreadable(None, "id must be a UUID in lower case")]


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"[", b"[]", b"5", b"[5]", b"nul", b"\xff", b'{"id":"\xff"}', b"[" * 100_000),
        *(b'{"a":' * 100_000, b'{"id":1' + b"0" * 5_000 + b"}", b'{"id":NaN}', b"[" + b"{}," * 256 + b"{}]"),
    ],
)
def test_garbage_is_one_error(body):
    with pytest.raises(BadBody):
        parse_orders(body)
