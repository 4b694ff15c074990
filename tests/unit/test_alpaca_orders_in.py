"""An order in Alpaca's form becomes one command; the prices of its exits must lie where Alpaca wants them."""

from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
import pytest

from broker.alpaca.errors import AlpacaError
from broker.alpaca.orders_in import OrderBody, ReplaceBody, place_command, replace_command
from broker.core import shapes
from broker.core.messages import Leg, PlaceTrade, ReplaceTrade
from broker.core.money import Money
from broker.core.types import CustomerId, OrderClass, OrderType, Side, Symbol, TimeInForce, TradeId

A, B, C = UUID(int=1), UUID(int=2), UUID(int=3)
ME = CustomerId(1001)
BRACKET = {"order_class": "bracket", "type": "limit", "limit_price": 150}


def command(last: int | None = None, **fields: Any) -> PlaceTrade:
    body = {"symbol": "AAPL", "side": "buy", "qty": 10, "type": "market", "time_in_force": "day"} | fields
    price = None if last is None else Money(last)
    made = place_command(msgspec.convert(body, OrderBody), Symbol("AAPL"), price, ME, (A, B, C))
    assert shapes.problem(made) is None, "what this lets pass, the core takes for an order"
    return made


def message(last: int | None = None, **fields: Any) -> str:
    with pytest.raises(AlpacaError) as error:
        command(last, **fields)
    assert error.value.status == 422
    return error.value.message


def test_a_plain_order_is_one_command() -> None:
    made = command(type="stop_limit", qty=Decimal("10.0"), limit_price=Decimal("150.25"), stop_price="151")
    assert made == PlaceTrade(
        TradeId(A),
        ME,
        Symbol("AAPL"),
        Side.BUY,
        10,
        order_type=OrderType.STOP_LIMIT,
        limit_price=Money(1502500),
        stop_price=Money(1510000),
        client_order_id=str(A),
        only_if_accepted=True,
        waits_for_open=True,
    )


def test_only_an_order_that_may_rest_waits_for_the_opening() -> None:
    waits = {each: command(time_in_force=each).waits_for_open for each in ("day", "gtc", "ioc", "fok", "opg", "cls")}
    assert waits == {"day": True, "gtc": True, "ioc": False, "fok": False, "opg": False, "cls": False}


def test_a_bracket_has_both_exits_as_legs() -> None:
    exits = {"take_profit": {"limit_price": "160"}, "stop_loss": {"stop_price": 140, "limit_price": 139}}
    made = command(**BRACKET, **exits)
    target, stop = Leg(TradeId(B), Money(1600000)), Leg(TradeId(C), Money(1390000), Money(1400000))
    assert (made.order_class, made.legs) == (OrderClass.BRACKET, (target, stop))


def test_an_oco_is_its_own_take_profit() -> None:
    exits = {"take_profit": {"limit_price": "160"}, "stop_loss": {"stop_price": 140}}
    made = command(order_class="oco", side="sell", type="limit", **exits)
    assert (made.limit_price, made.legs) == (1600000, (Leg(TradeId(C), None, Money(1400000)),))


def test_an_oto_has_one_exit() -> None:
    made = command(order_class="oto", take_profit={"limit_price": 160})
    assert made.legs == (Leg(TradeId(B), Money(1600000)),)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            BRACKET | {"take_profit": {"limit_price": 150}, "stop_loss": {"stop_price": 140}},
            "take_profit.limit_price must be >= base_price + 0.01",
        ),
        (
            BRACKET | {"take_profit": {"limit_price": 160}, "stop_loss": {"stop_price": 150}},
            "stop_loss.stop_price must be <= base_price - 0.01",
        ),
        (
            BRACKET | {"take_profit": {"limit_price": 160}, "stop_loss": {"stop_price": 140, "limit_price": 141}},
            "stop_loss.limit_price must be <= stop_loss.stop_price",
        ),
        (
            BRACKET | {"take_profit": {"limit_price": 160}, "stop_loss": {"limit_price": 141}},
            "stop_loss.limit_price requires stop_loss.stop_price",
        ),
        (
            BRACKET | {"side": "sell", "take_profit": {"limit_price": 160}, "stop_loss": {"stop_price": 140}},
            "take_profit.limit_price must be < stop_loss.stop_price",
        ),
        (
            BRACKET | {"side": "sell", "take_profit": {"limit_price": 150}, "stop_loss": {"stop_price": 160}},
            "take_profit.limit_price must be <= base_price - 0.01",
        ),
        (
            BRACKET | {"time_in_force": "ioc", "take_profit": {"limit_price": 160}, "stop_loss": {"stop_price": 140}},
            "bracket orders must be DAY or GTC orders",
        ),
        (
            BRACKET | {"extended_hours": True, "take_profit": {"limit_price": 160}, "stop_loss": {"stop_price": 140}},
            "bracket orders cannot be extended hours orders",
        ),
        ({"take_profit": {"limit_price": 160}}, "take_profit and stop_loss require order_class bracket, oco or oto"),
    ],
)
def test_exits_must_lie_where_they_make_sense(fields: dict[str, Any], words: str) -> None:
    assert message(**fields) == words


def test_a_market_entry_is_measured_by_the_last_price() -> None:
    exits = {"order_class": "bracket", "take_profit": {"limit_price": 160}, "stop_loss": {"stop_price": 140}}
    assert command(1500000, **exits).legs
    assert command(None, **exits).legs, "without a price there is nothing to measure by"
    assert message(1700000, **exits) == "take_profit.limit_price must be >= base_price + 0.01"
    assert message(1300000, **exits) == "stop_loss.stop_price must be <= base_price - 0.01"


def replacing(by_amount: bool = True, **fields: Any) -> ReplaceTrade:
    body = msgspec.convert(fields, ReplaceBody)
    return replace_command(body, TradeId(A), B, ME, "AAPL", trails_by_amount=by_amount)


def test_a_replacement_names_only_what_changes() -> None:
    assert replacing(qty=5, time_in_force="gtc") == ReplaceTrade(
        TradeId(B),
        ME,
        TradeId(A),
        quantity=5,
        client_order_id=str(B),
        time_in_force=TimeInForce.GTC,
        counts_filled=True,
    )
    assert replacing(trail="2.50").trail == 25000
    assert replacing(by_amount=False, trail="2.5").trail == 25000
    with pytest.raises(AlpacaError, match="not changed"):
        replacing(client_order_id="new")
