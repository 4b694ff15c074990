"""Reading what brokers and operators send: whole, or one sentence about what is wrong with it."""

from typing import Any

import msgspec
import pytest

from broker.core.types import OrderType, Side
from broker.simulator.wire import BadBody, Bust, Correction, Unreadable, parse_body, parse_cancels, parse_orders
from tests.simulated import GTC, URL, buy, in_place_of, order_id, stop_limit

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
        ({"type": "trailing"}, "Invalid enum value 'trailing' - at `$.type`"),
        ({"time_in_force": "gtd"}, "Invalid enum value 'gtd' - at `$.time_in_force`"),
        ({"replaces": {"id": "x", "filled_quantity": 0}}, "replaces.id must be a UUID in lower case"),
        ({"replaces": {"id": order_id(9)}}, "Object missing required field `filled_quantity` - at `$.replaces`"),
        ({"limit_price": "1.00"}, "Object contains unknown field `limit_price`"),
    ],
)
def test_a_member_that_is_no_order_says_why_and_its_neighbours_are_read(overrides, reason):
    orders, _ = parse_orders(msgspec.json.encode([wire(2), wire(**overrides), wire(3)]))
    identity = overrides.get("id", order_id())
    assert orders == [buy(2, max_price="5.00"), Unreadable(identity, reason), buy(3, max_price="5.00")]


def test_every_field_of_the_contract_is_read():
    fields = {"side": "SELL", "type": "stop_limit", "price": "185.00", "stop_price": "186.00", "time_in_force": "gtc"}
    fields |= {"max_price": None, "replaces": {"id": order_id(9), "filled_quantity": 3}}
    wanted = stop_limit(1, Side.SELL, "186.00", "185.00", time_in_force=GTC, replaces=in_place_of(9, 3))
    assert wanted.type is OrderType.STOP_LIMIT
    assert parse_orders(msgspec.json.encode(wire(**fields))) == ([wanted], False)


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


def test_cancels_are_an_array_of_ids():
    ids = [order_id(n) for n in range(256)]
    assert parse_cancels(msgspec.json.encode(ids)) == ids
    for body in (b"", b"[]", b"{}", b"[1]", b'"x"', msgspec.json.encode([*ids, "x"]), b'["' + b"x" * 65 + b'"]'):
        with pytest.raises(BadBody, match="1 to 256 order ids"):
            parse_cancels(body)


def test_what_an_operator_sends():
    assert parse_body(b'{"reason":"erroneous trade"}', Bust) == Bust("erroneous trade")
    assert parse_body(b'{"price":"190.10"}', Correction) == Correction(None, "190.10")
    for body in (b"", b"[]", b"{}", b'{"reason":""}', b'{"reason":"x","id":1}', b'{"reason":"' + b"x" * 201 + b'"}'):
        with pytest.raises(BadBody):
            parse_body(body, Bust)
