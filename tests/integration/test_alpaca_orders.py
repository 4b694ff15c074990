"""Alpaca's orders over HTTP, on the simulated exchange: what is taken, what is refused and in which words."""

import asyncio
from typing import Any
from uuid import UUID, uuid4

import pytest
from alpaca.common.exceptions import APIError
from alpaca.trading.client import TradingClient
from alpaca.trading.enums import OrderSide, OrderStatus, QueryOrderStatus, TimeInForce
from alpaca.trading.models import Order
from alpaca.trading.requests import GetOrdersRequest, LimitOrderRequest, MarketOrderRequest, ReplaceOrderRequest

from tests.conftest import Broker, Client, eventually

ORDERS = "/v2/orders"
ENDED = {"filled", "canceled", "rejected", "expired", "replaced"}


def as_alpaca(customer: Client) -> Client:
    """The same customer with Alpaca's headers."""
    key, _, secret = (customer.token or "").partition(".")
    return Client(
        customer.http,
        customer.url,
        None,
        customer.customer_id,
        {"APCA-API-KEY-ID": key, "APCA-API-SECRET-KEY": secret},
    )


def sdk(customer: Client) -> TradingClient:
    """Alpaca's own client of this customer."""
    key, _, secret = (customer.token or "").partition(".")
    return TradingClient(key, secret, url_override=customer.url)


async def bot(broker: Broker, cash: str = "100000.00") -> Client:
    return as_alpaca(await broker.customer(cash))


async def order(client: Client, **fields: Any) -> tuple[int, Any]:
    """POST an order: AAPL, buy, 10 at the market where the test says nothing else."""
    body = {"symbol": "AAPL", "side": "buy", "qty": "10", "type": "market", "time_in_force": "day"} | fields
    return await client.call("POST", ORDERS, body)


async def placed(client: Client, **fields: Any) -> Any:
    """An order that is taken, and reads as alpaca-py reads it."""
    status, found = await order(client, **fields)
    assert status == 200, found
    Order(**found)
    return found


async def get(client: Client, order_id: str, **query: str) -> Any:
    status, found = await client.call("GET", f"{ORDERS}/{order_id}", params=query)
    assert status == 200, found
    Order(**found)
    return found


async def becomes(client: Client, order_id: str, *words: str) -> Any:
    """The order once it has one of these statuses."""

    async def look() -> Any:
        found = await get(client, order_id)
        return found if found["status"] in words else None

    return await eventually(look)


async def resting(client: Client, **fields: Any) -> Any:
    """A limit order that the exchange has, far from the market."""
    found = await placed(client, **{"type": "limit", "limit_price": "150.00", "time_in_force": "gtc"} | fields)
    return await becomes(client, found["id"], "new")


async def holding(client: Client, quantity: int = 10) -> None:
    """The customer has shares of AAPL."""
    found = await placed(client, qty=quantity)
    await becomes(client, found["id"], "filled")


async def last_price(client: Client) -> float:
    """What AAPL trades at, by a position of one share."""
    await holding(client, 1)
    _, position = await client.call("GET", "/v2/positions/AAPL")
    return float(position["current_price"])


# ------------------------------------------------------------------ placing


async def test_a_market_order_is_answered_at_once_and_filled(broker: Broker) -> None:
    client = await bot(broker)
    found = await placed(client, qty=1.0)
    assert found["status"] in {"pending_new", "new", "filled", "partially_filled"}
    assert (found["qty"], found["order_class"], found["type"], found["order_type"]) == (
        "1",
        "simple",
        "market",
        "market",
    )
    assert found["client_order_id"] == found["id"]
    filled = await becomes(client, found["id"], "filled")
    assert filled["filled_qty"] == "1"
    assert float(filled["filled_avg_price"]) > 0
    assert filled["filled_at"] is not None


async def test_a_limit_order_rests_as_new(broker: Broker) -> None:
    found = await resting(await bot(broker), limit_price=150.25, client_order_id="mine / 1+a")
    assert (found["limit_price"], found["time_in_force"], found["client_order_id"]) == ("150.25", "gtc", "mine / 1+a")
    assert (found["filled_qty"], found["filled_avg_price"], found["extended_hours"]) == ("0", None, False)


async def test_the_asset_id_stands_for_the_symbol(broker: Broker) -> None:
    client = await bot(broker)
    _, asset = await client.call("GET", "/v2/assets/AAPL")
    assert (await placed(client, symbol=asset["id"]))["symbol"] == "AAPL"


async def test_nulls_and_unknown_fields_are_left_out(broker: Broker) -> None:
    fields = {"limit_price": None, "notional": None, "take_profit": None, "extended_hours": None, "ratio_qty": 3}
    assert (await placed(await bot(broker), **fields, subtag="x"))["status"] != "rejected"


@pytest.mark.parametrize(
    ("fields", "code", "message"),
    [
        ({"qty": 0.0}, 40010001, "qty must be > 0"),
        ({"qty": None}, 40010001, "qty or notional is required"),
        ({"notional": "100"}, 40010001, "only one of qty or notional is accepted"),
        ({"qty": None, "notional": 100.5}, 42210000, 'asset "AAPL" is not fractionable'),
        ({"qty": "1.5"}, 42210000, 'asset "AAPL" is not fractionable'),
        ({"qty": "ten"}, 40010001, "qty must be a number"),
        ({"qty": "1e99"}, 42210000, "qty must be <= 10000000"),
        ({"symbol": None}, 40010001, "symbol is required"),
        ({"symbol": "NOSUCH"}, 42210000, 'asset "NOSUCH" not found'),
        ({"symbol": "no such"}, 42210000, 'asset "no such" not found'),
        ({"side": "hold"}, 40010001, "invalid side: it must be one of buy, sell"),
        ({"time_in_force": None}, 40010001, "time_in_force is required"),
        ({"limit_price": "150"}, 40010001, "market orders require no stop or limit price"),
        ({"type": "limit"}, 40010001, "limit orders require a limit price"),
        ({"type": "stop", "limit_price": 1, "stop_price": 2}, 40010001, "stop orders require no limit price"),
        (
            {"type": "limit", "limit_price": 290.123},
            42210000,
            "invalid limit_price 290.123. sub-penny increment does not fulfill minimum pricing criteria",
        ),
        ({"type": "limit", "limit_price": "-1"}, 42210000, "limit_price must be > 0"),
        ({"extended_hours": True}, 42210000, "extended hours order must be DAY or GTC limit orders"),
        (
            {"time_in_force": "opg", "type": "stop", "stop_price": 1},
            42210000,
            "opg orders must be market or limit orders",
        ),
        ({"type": "trailing_stop"}, 40010001, "trailing stop orders require one of trail_price or trail_percent"),
        (
            {"type": "trailing_stop", "trail_price": 1, "trail_percent": 1},
            40010001,
            "trailing stop orders require one of trail_price or trail_percent",
        ),
        ({"type": "trailing_stop", "trail_percent": "1.125"}, 42210000, "trail_percent must have at most 2 decimals"),
        ({"order_class": "mleg"}, 42210000, "options are not traded here: order_class mleg is not supported"),
        (
            {"order_class": "bracket", "take_profit": {"limit_price": 900}},
            40010001,
            "bracket orders require take_profit.limit_price and stop_loss.stop_price",
        ),
        (
            {"order_class": "bracket", "take_profit": {"limit_price": 90}, "stop_loss": {"stop_price": 100}},
            42210000,
            "take_profit.limit_price must be > stop_loss.stop_price",
        ),
        (
            {
                "order_class": "bracket",
                "type": "limit",
                "limit_price": 150,
                "take_profit": {"limit_price": 150},
                "stop_loss": {"stop_price": 140},
            },
            42210000,
            "take_profit.limit_price must be >= base_price + 0.01",
        ),
        (
            {"order_class": "oto", "take_profit": {"limit_price": 900}, "stop_loss": {"stop_price": 1}},
            40010001,
            "oto orders require either take_profit.limit_price or stop_loss.stop_price",
        ),
        ({"order_class": "oco", "side": "sell"}, 42210000, "oco orders must be limit orders"),
        (
            {"position_intent": "sell_to_open", "side": "sell"},
            42210000,
            "position intent mismatch, inferred: sell_to_close, specified: sell_to_open",
        ),
        ({"client_order_id": "x" * 129}, 40010001, "client_order_id must be no more than 128 characters"),
        ({"client_order_id": "a\u0000b"}, 40010001, "client_order_id must be printable characters"),
    ],
)
async def test_what_is_no_order_is_said_in_alpacas_words(
    broker: Broker, fields: dict[str, Any], code: int, message: str
) -> None:
    client = await bot(broker)
    status, error = await order(client, **fields)
    assert (status, error["code"], error["message"]) == (422, code, message)
    assert await client.call("GET", ORDERS, params={"status": "all"}) == (200, [])


async def test_a_body_that_is_no_json_is_a_400(broker: Broker) -> None:
    client = await bot(broker)
    headers = {**client.headers, "Content-Type": "application/json"}
    async with client.http.post(client.url + ORDERS, data=b"{", headers=headers) as response:
        error = await response.json()
    assert (response.status, error["code"]) == (400, 40010000)
    status, error = await client.call("POST", ORDERS, [1])
    assert (status, error["code"]) == (400, 40010000)


async def test_a_body_may_say_nothing_of_what_it_is_and_nothing_else_than_json(broker: Broker) -> None:
    """Alpaca's SDK for Go sends no Content-Type."""
    client = await bot(broker)
    text = b'{"symbol": "AAPL", "qty": 1, "side": "buy", "type": "market", "time_in_force": "day"}'
    post, url = client.http.post, client.url + ORDERS
    headers = client.headers | {"Content-Type": "text/plain"}
    async with post(url, data=text, headers=headers) as response:
        error = await response.json()
    assert (response.status, error["code"]) == (415, 41510000)
    assert "Content-Type: application/json" in error["message"]
    assert await client.call("GET", ORDERS, params={"status": "all"}) == (200, [])
    async with post(url, data=text, headers=client.headers, skip_auto_headers=["Content-Type"]) as response:
        assert (response.status, (await response.json())["symbol"]) == (200, "AAPL")


async def test_too_little_buying_power_is_a_403_and_leaves_nothing(broker: Broker) -> None:
    client = await bot(broker, "1000.00")
    status, error = await order(client, qty=10, type="limit", limit_price=150)
    assert (status, error["code"], error["message"]) == (403, 40310000, "insufficient buying power")
    assert (error["buying_power"], error["cost_basis"]) == ("1000.00", "1500.00")
    assert await client.call("GET", ORDERS, params={"status": "all"}) == (200, [])


async def test_too_few_shares_are_a_403_with_the_figures(broker: Broker) -> None:
    client = await bot(broker)
    await holding(client, 10)
    await resting(client, side="sell", qty=4, limit_price=400)
    status, error = await order(client, side="sell", qty=7)
    assert (status, error) == (
        403,
        {
            "code": 40310000,
            "message": "insufficient qty available for order (requested: 7, available: 6)",
            "available": "6",
            "existing_qty": "10",
            "held_for_orders": "4",
            "symbol": "AAPL",
        },
    )


async def test_a_client_order_id_is_unique_for_ever(broker: Broker) -> None:
    client = await bot(broker)
    first = await resting(client, client_order_id="once")
    assert (await client.call("DELETE", f"{ORDERS}/{first['id']}"))[0] == 204
    await becomes(client, first["id"], "canceled")
    status, error = await order(client, client_order_id="once")
    assert (status, error["code"], error["message"]) == (422, 40010001, "client_order_id must be unique")
    assert (await placed(await bot(broker), client_order_id="once"))["id"] != first["id"], "it is the account's own"


async def test_of_many_with_one_client_order_id_one_is_taken(broker: Broker) -> None:
    client = await bot(broker)
    answers = await asyncio.gather(
        *(order(client, client_order_id="race", type="limit", limit_price=150) for _ in range(20))
    )
    assert sorted(status for status, _ in answers) == [200, *[422] * 19]
    first = next(found["id"] for status, found in answers if status == 200)
    assert {error["existing_order_id"] for status, error in answers if status == 422} == {first}
    assert len((await client.call("GET", ORDERS, params={"status": "all"}))[1]) == 1


async def test_exits_without_a_class_are_refused_rather_than_lost(broker: Broker) -> None:
    status, error = await order(await bot(broker), stop_loss={"stop_price": 100})
    assert (status, error["code"]) == (422, 42210000)


# ------------------------------------------------------------------ looking


async def test_an_order_is_found_by_its_client_order_id(broker: Broker) -> None:
    client = await bot(broker)
    mine, none = await resting(client, client_order_id="a+b/1 ü"), await resting(client)
    path = f"{ORDERS}:by_client_order_id"
    for name, wanted in (("a+b/1 ü", mine), (none["client_order_id"], none)):
        status, found = await client.call("GET", path, params={"client_order_id": name})
        assert (status, found["id"]) == (200, wanted["id"])
    status, error = await client.call("GET", path, params={"client_order_id": "other"})
    assert (status, error["code"]) == (404, 40410000)
    assert (await client.call("GET", path))[0] == 422


async def test_an_order_of_somebody_else_is_not_found(broker: Broker) -> None:
    mine, other = await bot(broker), await bot(broker)
    found = await resting(mine)
    for method, body in (("GET", None), ("DELETE", None), ("PATCH", {"limit_price": 151})):
        status, error = await other.call(method, f"{ORDERS}/{found['id']}", body)
        assert (status, error["code"]) == (404, 40410000), method
    for wrong in ("nonsense", str(uuid4())):
        assert (await mine.call("GET", f"{ORDERS}/{wrong}"))[0] == 404
    assert await other.call("GET", ORDERS) == (200, [])


async def test_lists_are_filtered_and_ordered(broker: Broker) -> None:
    client = await bot(broker)
    one, two, three = [await resting(client, limit_price=price) for price in (150, 151, 152)]
    assert (await client.call("DELETE", f"{ORDERS}/{two['id']}"))[0] == 204
    await becomes(client, two["id"], "canceled")
    msft = await resting(client, symbol="MSFT", limit_price=200)

    async def ids(**query: str) -> list[str]:
        status, found = await client.call("GET", ORDERS, params=query)
        assert status == 200, found
        return [
            {o["id"]: n for n, o in (("1", one), ("2", two), ("3", three), ("m", msft))}[each["id"]] for each in found
        ]

    assert await ids() == ["m", "3", "1"]
    assert await ids(direction="asc") == ["1", "3", "m"]
    assert await ids(status="closed") == ["2"]
    assert await ids(status="all", limit="2") == ["m", "3"]
    assert await ids(status="all", direction="asc") == ["1", "2", "3", "m"]
    assert await ids(status="all", symbols="AAPL,NOSUCH") == ["3", "2", "1"]
    assert await ids(side="sell") == []
    assert await ids(side="buy", nested="True") == ["m", "3", "1"]
    assert await ids(status="all", after=one["submitted_at"], until=three["submitted_at"]) == ["2"]
    for query in ({"status": "some"}, {"limit": "0"}, {"after": "soon"}, {"nested": "maybe"}, {"side": "hold"}):
        status, error = await client.call("GET", ORDERS, params=query)
        assert (status, error["code"]) == (422, 40010001), query
    assert len((await client.call("GET", ORDERS, params={"limit": "9999"}))[1]) == 3


# ------------------------------------------------------------------ cancel and replace


async def test_a_cancelled_order_is_canceled_and_cannot_be_again(broker: Broker) -> None:
    client = await bot(broker)
    found = await resting(client)
    async with client.http.delete(f"{client.url}{ORDERS}/{found['id']}", headers=client.headers) as response:
        assert (response.status, await response.read()) == (204, b"")
    ended = await becomes(client, found["id"], "canceled")
    assert ended["canceled_at"] is not None
    status, error = await client.call("DELETE", f"{ORDERS}/{found['id']}")
    assert (status, error["code"], error["message"]) == (422, 42210000, 'order is already in "canceled" state')


async def test_cancelling_all_names_each_order(broker: Broker) -> None:
    client = await bot(broker)
    assert await client.call("DELETE", ORDERS) == (207, [])
    orders = [await resting(client, limit_price=price) for price in (150, 151)]
    status, rows = await client.call("DELETE", ORDERS)
    assert status == 207
    assert {(row["id"], row["status"]) for row in rows} == {(each["id"], 200) for each in orders}
    for each in orders:
        await becomes(client, each["id"], "canceled")


async def test_a_replaced_order_and_its_successor_name_each_other(broker: Broker) -> None:
    client = await bot(broker)
    old = await resting(client)
    status, new = await client.call(
        "PATCH", f"{ORDERS}/{old['id']}", {"limit_price": 151.5, "qty": None, "trail": None}
    )
    assert status == 200, new
    assert (new["replaces"], new["limit_price"], new["qty"]) == (old["id"], "151.50", "10")
    replaced = await becomes(client, old["id"], "replaced")
    assert (replaced["replaced_by"], replaced["replaced_at"] is not None) == (new["id"], True)
    await becomes(client, new["id"], "new")


async def test_what_cannot_be_replaced_says_so(broker: Broker) -> None:
    client = await bot(broker)
    found = await resting(client)
    path = f"{ORDERS}/{found['id']}"
    for body, message in (
        ({}, "order parameters are not changed"),
        ({"trail": 1}, "only trailing stop orders have a trail"),
        (
            {"limit_price": 150.001},
            "invalid limit_price 150.001. sub-penny increment does not fulfill minimum pricing criteria",
        ),
        ({"qty": 1.5}, 'asset "AAPL" is not fractionable'),
    ):
        status, error = await client.call("PATCH", path, body)
        assert (status, error["code"], error["message"]) == (422, 42210000, message)
    status, error = await client.call("PATCH", path, {"qty": 5000})
    assert (status, error["code"], error["message"]) == (403, 40310000, "insufficient buying power")
    assert (await client.call("DELETE", path))[0] == 204
    await becomes(client, found["id"], "canceled")
    status, error = await client.call("PATCH", path, {"limit_price": 151})
    assert (status, error["message"]) == (422, 'order is already in "canceled" state')
    assert (await client.call("PATCH", f"{ORDERS}/{uuid4()}", {"qty": 1}))[0] == 404


# ------------------------------------------------------------------ groups, trailing stops


async def test_a_brackets_legs_are_held_and_nested(broker: Broker) -> None:
    client = await bot(broker)
    exits = {"take_profit": {"limit_price": 160.5}, "stop_loss": {"stop_price": "140", "limit_price": 139}}
    parent = await placed(client, order_class="bracket", type="limit", limit_price=150, time_in_force="gtc", **exits)
    legs = {leg["type"]: leg for leg in parent["legs"]}
    assert set(legs) == {"limit", "stop_limit"}
    assert {leg["status"] for leg in legs.values()} == {"held"}
    assert {leg["side"] for leg in legs.values()} == {"sell"}
    assert (legs["limit"]["limit_price"], legs["stop_limit"]["stop_price"]) == ("160.50", "140.00")
    _, flat = await client.call("GET", ORDERS)
    assert {each["id"] for each in flat} == {parent["id"], *(leg["id"] for leg in parent["legs"])}
    assert all(each["legs"] is None for each in flat)
    _, nested = await client.call("GET", ORDERS, params={"nested": "True"})
    assert [each["id"] for each in nested] == [parent["id"]]
    assert {leg["id"] for leg in nested[0]["legs"]} == {leg["id"] for leg in parent["legs"]}
    one = await get(client, parent["id"], nested="true")
    assert len(one["legs"]) == 2
    assert (await get(client, parent["id"]))["legs"] is None
    assert (await client.call("DELETE", f"{ORDERS}/{parent['id']}"))[0] == 204
    for each in flat:
        await becomes(client, each["id"], "canceled")


async def test_a_legs_price_is_replaced_and_its_successor_stands_under_the_parent(broker: Broker) -> None:
    client = await bot(broker)
    exits = {"take_profit": {"limit_price": 160}, "stop_loss": {"stop_price": 140}}
    parent = await placed(client, order_class="bracket", type="limit", limit_price=150, time_in_force="gtc", **exits)
    stop = next(leg for leg in parent["legs"] if leg["type"] == "stop")
    status, new = await client.call("PATCH", f"{ORDERS}/{stop['id']}", {"stop_price": 141})
    assert (status, new["stop_price"], new["status"], new["replaces"]) == (200, "141.00", "held", stop["id"])
    assert (await get(client, stop["id"]))["replaced_by"] == new["id"]
    nested = await get(client, parent["id"], nested="true")
    assert {leg["id"] for leg in nested["legs"]} == {new["id"], *(leg["id"] for leg in parent["legs"])} - {stop["id"]}
    _, listed = await client.call("GET", ORDERS, params={"status": "all", "nested": "true"})
    assert [each["id"] for each in listed] == [parent["id"]]
    closed = {"status": "closed"}
    assert await client.call("GET", ORDERS, params=closed | {"nested": "true"}) == (200, []), "the parent is open"
    assert [each["id"] for each in (await client.call("GET", ORDERS, params=closed))[1]] == [stop["id"]]
    status, error = await client.call("PATCH", f"{ORDERS}/{new['id']}", {"qty": 5})
    assert (status, error["code"]) == (422, 42210000)
    assert "only the prices can be replaced" in error["message"]


async def test_a_filled_bracket_has_its_take_profit_at_the_exchange(broker: Broker) -> None:
    client = await bot(broker)
    price = round(await last_price(client))
    exits = {"take_profit": {"limit_price": price + 60}, "stop_loss": {"stop_price": price - 60}}
    parent = await placed(client, order_class="bracket", time_in_force="gtc", **exits)
    await becomes(client, parent["id"], "filled")
    legs = {leg["type"]: leg["id"] for leg in parent["legs"]}
    await becomes(client, legs["limit"], "new")
    assert (await get(client, legs["stop"]))["status"] == "held"
    _, nested = await client.call("GET", ORDERS, params={"nested": "true"})
    assert [each["id"] for each in nested] == [parent["id"]], "open exits stand under their parent"
    assert (await client.call("DELETE", f"{ORDERS}/{legs['limit']}"))[0] == 204
    for each in legs.values():
        await becomes(client, each, "canceled")


async def test_an_oco_is_its_take_profit_with_one_leg(broker: Broker) -> None:
    client = await bot(broker)
    await holding(client)
    exits = {"take_profit": {"limit_price": 400}, "stop_loss": {"stop_price": 100}}
    parent = await placed(client, order_class="oco", side="sell", type="limit", time_in_force="gtc", **exits)
    assert (parent["limit_price"], parent["order_class"], len(parent["legs"])) == ("400.00", "oco", 1)
    assert (parent["legs"][0]["type"], parent["legs"][0]["status"]) == ("stop", "held")
    await becomes(client, parent["id"], "new")
    assert (await client.call("DELETE", f"{ORDERS}/{parent['id']}"))[0] == 204
    await becomes(client, parent["legs"][0]["id"], "canceled")


async def test_an_oto_has_one_leg(broker: Broker) -> None:
    client = await bot(broker)
    parent = await placed(
        client, order_class="oto", type="limit", limit_price=150, time_in_force="gtc", stop_loss={"stop_price": 140}
    )
    assert [(leg["type"], leg["stop_price"], leg["status"]) for leg in parent["legs"]] == [("stop", "140.00", "held")]


async def test_a_trailing_stop_is_new_and_shows_its_mark(broker: Broker) -> None:
    client = await bot(broker)
    await holding(client)
    found = await placed(client, side="sell", type="trailing_stop", time_in_force="gtc", trail_percent=10.5, qty=4)
    assert (found["status"], found["trail_percent"], found["trail_price"]) == ("new", "10.5", None)

    async def marked() -> Any:
        shown = await get(client, found["id"])
        return shown if shown["hwm"] is not None else None

    shown = await eventually(marked)
    assert float(shown["stop_price"]) == pytest.approx(float(shown["hwm"]) * 0.895, abs=0.02)
    status, new = await client.call("PATCH", f"{ORDERS}/{found['id']}", {"trail": 20})
    assert (status, new["trail_percent"], new["replaces"]) == (200, "20", found["id"])


# ------------------------------------------------------------------ alpaca-py itself


async def test_alpaca_py_buys_replaces_cancels_and_hears_refusals(broker: Broker) -> None:
    customer = await broker.customer()
    client = sdk(customer)

    def work() -> None:
        bought = client.submit_order(
            MarketOrderRequest(symbol="AAPL", qty=1, side=OrderSide.BUY, time_in_force=TimeInForce.DAY)
        )
        assert isinstance(bought, Order)
        limit = client.submit_order(
            LimitOrderRequest(
                symbol="AAPL", qty=2, side=OrderSide.BUY, time_in_force=TimeInForce.GTC, limit_price=150.05
            )
        )
        assert isinstance(limit, Order)
        while client.get_order_by_id(limit.id).status is not OrderStatus.NEW:  # type: ignore[union-attr]
            pass
        new = client.replace_order_by_id(limit.id, ReplaceOrderRequest(qty=3, limit_price=149.5))
        assert isinstance(new, Order)
        assert new.replaces == limit.id
        assert client.get_order_by_client_id(new.client_order_id) is not None
        orders = client.get_orders(GetOrdersRequest(status=QueryOrderStatus.ALL, nested=True, limit=10))
        assert len(orders) == 3
        while client.get_order_by_id(new.id).status is not OrderStatus.NEW:  # type: ignore[union-attr]
            pass
        client.cancel_order_by_id(new.id)
        with pytest.raises(APIError) as refused:
            client.submit_order(
                MarketOrderRequest(symbol="AAPL", notional=50, side=OrderSide.BUY, time_in_force=TimeInForce.DAY)
            )
        assert (refused.value.status_code, refused.value.code) == (422, 42210000)
        assert client.cancel_orders() is not None

    await asyncio.to_thread(work)
    assert UUID(str((await as_alpaca(customer).call("GET", "/v2/account"))[1]["id"]))


async def test_an_order_without_a_client_order_id_has_its_own_id_as_one_and_nobody_else_can(broker: Broker) -> None:
    client = await bot(broker)
    first = await resting(client)
    assert first["client_order_id"] == first["id"]
    status, error = await order(client, client_order_id=first["id"])
    assert (status, error["code"], error["existing_order_id"]) == (422, 40010001, first["id"])
    status, second = await client.call("PATCH", f"{ORDERS}/{first['id']}", {"limit_price": "149.00"})
    assert (status, second["client_order_id"]) == (200, second["id"])
    assert (await order(client, client_order_id=second["id"]))[0] == 422
    for each in (first, second):
        query = {"client_order_id": each["id"]}
        assert (await client.call("GET", f"{ORDERS}:by_client_order_id", params=query))[1]["id"] == each["id"]
