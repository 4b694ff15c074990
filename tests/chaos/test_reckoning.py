"""What `make chaos` holds against what: each wrong that it looks for is found, and what is right is not."""

import random
from dataclasses import asdict, replace
from typing import Any

import pytest

from broker.core.money import Money
from broker.core.types import OrderType, Side, Symbol, TimeInForce
from broker.simulator.orders import Order
from broker.simulator.wire import Replaces
from tests.acceptance.system import order_of
from tests.chaos.load import Asked, Ledger, asked_by
from tests.chaos.reckoning import as_asked, as_sent, as_told, open_though_cancelled
from tests.chaos.report import Report

LIMIT = Asked("AAPL", "BUY", 7, "limit", 2_405_000, None, "gtc")
AT_THE_EXCHANGE = Order(
    "a",
    Symbol("AAPL"),
    Side.BUY,
    OrderType.LIMIT,
    7,
    None,
    "http://callback",
    Money(2_405_000),
    time_in_force=TimeInForce.GTC,
)


def row(asked: Asked, customer: str = "1001", name: str = "order-1", **fields: Any) -> dict[str, Any]:
    """A trade of the books."""
    named = {"idempotency_key": None, "client_order_id": name, "customer_id": customer, "max_price": None}
    return {**asdict(asked), **named, "seq": 1, "status": "IN PROGRESS", "filled_quantity": 0, **fields}


def ledger(**told: Any) -> Ledger:
    """Two customers that asked for different things under one name; only the first was answered."""
    asked = {("1001", "order-1"): LIMIT, ("1002", "order-1"): Asked("MSFT", "SELL", 3)}
    return Ledger(asked=asked, by_key={("1001", "order-1"): "a"}, placed={"1001": ["a"]}, **told)


OTHER = row(Asked("MSFT", "SELL", 3), "1002", idempotency_key="order-1", client_order_id=None)


def test_what_was_asked_for_is_in_the_books_under_the_names_that_customers_share() -> None:
    trades = {"a": row(LIMIT), "b": OTHER}
    assert [*as_asked(ledger(), trades), *as_told(ledger(), trades)] == []


@pytest.mark.parametrize(
    "change",
    [
        {"symbol": "MSFT"},
        {"side": "SELL"},
        {"quantity": 8},
        {"limit_price": 2_405_001},
        {"stop_price": 1},
        {"order_type": "market"},
        {"time_in_force": "day"},
        {"replaces": "b"},
        {"customer_id": "1002"},
        {"client_order_id": "order-2"},
        {"client_order_id": None},
    ],
)
def test_a_trade_that_is_not_what_was_asked_for_is_found(change: dict[str, Any]) -> None:
    assert list(as_asked(ledger(), {"a": row(LIMIT) | change}))


def test_a_name_under_which_another_order_stands_than_was_told_is_found() -> None:
    assert list(as_asked(ledger(), {"b": row(LIMIT)}))


@pytest.mark.parametrize(
    "change",
    [
        {"symbol": "MSFT"},
        {"side": Side.SELL},
        {"quantity": 8},
        {"price": Money(1)},
        {"stop_price": Money(1)},
        {"max_price": Money(1)},
        {"type": OrderType.MARKET},
        {"time_in_force": TimeInForce.DAY},
        {"replaces": Replaces("b", 0)},
    ],
)
def test_an_order_that_is_another_at_the_exchange_is_found(change: dict[str, Any]) -> None:
    order = Order(**{name: getattr(AT_THE_EXCHANGE, name) for name in Order.__struct_fields__} | change)
    assert list(as_sent({"a": order}, {"a": row(LIMIT)}))
    assert list(as_sent({"a": AT_THE_EXCHANGE}, {"a": row(LIMIT)})) == []


def test_a_cancel_that_was_acknowledged_and_forgotten_is_found() -> None:
    told = ledger(cancelled={"a", "b", "c"})
    statuses = {"a": "IN PROGRESS", "b": "CANCELLED", "c": "FILLED", "d": "HELD"}
    assert [sentence[:1] for sentence in open_though_cancelled(told, statuses)] == ["a"]
    assert [sentence[:1] for sentence in open_though_cancelled(told, {"b": "FILLED", "c": "EXPIRED"})] == ["a"]


def test_what_was_sent_is_read_as_the_books_have_it() -> None:
    body = {"symbol": "AAPL", "side": "buy", "quantity": 7, "order_type": "limit", "price": "240.50"}
    assert asked_by(body | {"time_in_force": "gtc"}) == LIMIT
    stop = {**body, "order_type": "stop_loss", "price": None, "stop_price": "235.50", "time_in_force": "ioc"}
    stopped = replace(LIMIT, order_type="stop", limit_price=None, stop_price=2_355_000, time_in_force="ioc")
    assert asked_by(stop) == stopped
    rng = random.Random(1)
    kinds = {asked_by(order_of(rng)).order_type for _ in range(100)}
    assert kinds == {"market", "limit", "stop", "stop_limit"}


def test_what_was_refused_is_no_success_and_no_failure() -> None:
    report = Report(1)
    report.add(Ledger(wanted=10, at_once=3, in_the_end=6, refused=2, given_up=2))
    figures = report.as_json()
    assert (figures["success_raw"], figures["success_with_retry"]) == (3 / 8, 6 / 8)
