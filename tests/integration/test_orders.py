"""The orders API over HTTP, on the simulated exchange: every type, cancel, replace, refusals, estimates."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from broker.config import Config
from tests.conftest import Broker, Client, eventually, run_broker

ORDERS = "/api/v1/orders"


async def order(client: Client, **fields: Any) -> tuple[int, Any]:
    """POST an order: AAPL, buy, 10 at the market where the test says nothing else."""
    body = {"symbol": "AAPL", "side": "buy", "quantity": 10, "order_type": "market"} | fields
    return await client.call("POST", ORDERS, body)


async def limit(client: Client, price: str, **fields: Any) -> Any:
    """A limit order that is at the exchange."""
    status, placed = await order(client, order_type="limit", price=price, **fields)
    assert status == 201, placed
    return placed


async def get(client: Client, order_id: str) -> Any:
    status, found = await client.call("GET", f"{ORDERS}/{order_id}")
    assert status == 200, found
    return found


async def becomes(client: Client, order_id: str, word: str) -> Any:
    """The order once it has this status."""

    async def look() -> Any:
        found = await get(client, order_id)
        return found if found["status"] == word else None

    return await eventually(look)


async def cash(client: Client) -> tuple[str, str]:
    _, balance = await client.call("GET", "/api/v1/balance")
    return balance["amount"], balance["held"]


# ------------------------------------------------------------------ the brief's realistic tests


async def test_a_market_order_is_filled(broker: Broker) -> None:
    status, placed = await order(await broker.customer())
    assert status == 201
    assert placed["status"] in {"filled", "submitted"}
    assert (placed["symbol"], placed["order_type"], placed["quantity"]) == ("AAPL", "market", 10)


async def test_a_limit_order_is_accepted_and_says_so(broker: Broker) -> None:
    placed = await limit(await broker.customer(), "150.00")
    assert (placed["status"], placed["order_type"], placed["price"]) == ("submitted", "limit", "150.00")
    assert placed["held"] == "1500.00"


async def test_a_million_shares_are_more_than_there_is_money_for(broker: Broker) -> None:
    customer = await broker.customer()
    status, error = await order(customer, quantity=1_000_000)
    assert status == 400
    assert "Insufficient" in error["error"]
    assert error["code"] == "insufficient_funds"
    assert (error["available"], error["quantity"]) == ("100000.00", 1_000_000)
    kept = await get(customer, error["order_id"])
    assert (kept["status"], kept["held"]) == ("rejected", "0.00")
    assert kept["reason"].lower() == error["error"].lower()


# ------------------------------------------------------------------ types


async def test_prices_come_as_text_or_numbers_and_are_read_exactly(broker: Broker) -> None:
    customer = await broker.customer()
    for price in ("150", "150.00", 150, 150.0):
        assert (await limit(customer, price))["price"] == "150.00"  # type: ignore[arg-type]
    for price in ("150.001", "1e2", True, -1, 0, "", [], "9" * 40, 10**30):
        status, error = await order(customer, order_type="limit", price=price)
        assert (status, error["code"]) == (400, "invalid_request"), price


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"order_type": "limit"}, "A limit order needs a price."),
        ({"order_type": "market", "price": "1"}, "A market order has no price."),
        ({"order_type": "stop_loss", "price": "1"}, "A stop_loss order has no price."),
        ({"order_type": "stop_limit", "price": "1"}, "A stop_limit order needs a stop_price."),
        (
            {"order_type": "iceberg"},
            'order_type must be "market", "limit", "stop_loss", "stop_limit" or "trailing_stop".',
        ),
        ({"side": "BUY"}, 'side must be "buy" or "sell".'),
        ({"time_in_force": "forever"}, 'time_in_force must be "day", "gtc", "ioc", "fok", "opg" or "cls".'),
        ({"quantity": 0}, "quantity must be a whole number of shares from 1 to 10000000."),
    ],
)
async def test_what_does_not_fit_is_named(broker: Broker, fields: dict[str, Any], sentence: str) -> None:
    assert await order(await broker.customer(), **fields) == (400, {"error": sentence, "code": "invalid_request"})


async def test_an_order_that_can_trade_at_its_limit_does_so_at_the_better_price(broker: Broker) -> None:
    customer = await broker.customer()
    _, estimate = await customer.call(
        "POST", f"{ORDERS}/estimate", {"symbol": "AAPL", "side": "buy", "quantity": 1, "order_type": "market"}
    )
    price = str(int(float(estimate["price"])) + 5)
    placed = await limit(customer, price, quantity=1)
    filled = await becomes(customer, placed["id"], "filled")
    assert float(filled["average_price"]) < float(price)
    assert await cash(customer) == (f"{100_000 - float(filled['average_price']):.2f}", "0.00")


async def test_an_immediate_order_is_answered_with_its_end(broker: Broker) -> None:
    customer = await broker.customer()
    for time_in_force in ("ioc", "fok"):
        for price, word in (("150", "cancelled"), ("350", "filled")):
            status, placed = await order(
                customer, order_type="limit", price=price, time_in_force=time_in_force, quantity=1
            )
            assert (status, placed["status"]) == (201, word)
            if word == "filled":
                _, sold = await order(customer, side="sell", quantity=1)
                await becomes(customer, sold["id"], "filled")
    assert (await cash(customer))[1] == "0.00"


async def test_a_stop_order_waits_and_holds_its_cash(broker: Broker) -> None:
    customer = await broker.customer()
    _, placed = await order(customer, order_type="stop_loss", stop_price="900.00", quantity=2)
    assert (placed["status"], placed["stop_price"], placed["held"]) == ("submitted", "900.00", "1890.00")


async def test_resting_orders_do_not_hold_up_the_queue(broker: Broker) -> None:
    customer = await broker.customer()
    for _ in range(3):
        await limit(customer, "100.00")
    _, placed = await order(customer)
    await becomes(customer, placed["id"], "filled")


async def test_a_sale_below_the_bid_gets_the_bid(broker: Broker) -> None:
    seller = await broker.customer()
    _, bought = await order(seller)
    await becomes(seller, bought["id"], "filled")
    sale = await limit(seller, "200.00", side="sell")  # far below the bid: trades at once, at the bid
    sold = await becomes(seller, sale["id"], "filled")
    assert float(sold["average_price"]) > 200


# ------------------------------------------------------------------ looking


async def test_an_order_is_found_by_its_client_order_id_which_is_used_once(broker: Broker) -> None:
    customer = await broker.customer()
    first = await limit(customer, "150", client_order_id="mine-1")
    assert (await customer.call("GET", f"{ORDERS}/by-client-id/mine-1"))[1]["id"] == first["id"]
    status, error = await order(customer, client_order_id="mine-1")
    assert (status, error["code"], error["order_id"]) == (409, "client_order_id_used", first["id"])
    other = await broker.customer()
    assert (await order(other, client_order_id="mine-1"))[0] == 201, "another customer's is another one"
    status, error = await customer.call("GET", f"{ORDERS}/by-client-id/nobody")
    assert (status, error["code"]) == (404, "no_such_order")


async def test_of_many_at_once_under_one_client_order_id_one_is_placed(broker: Broker) -> None:
    customer = await broker.customer()
    answers = await asyncio.gather(*(order(customer, quantity=1, client_order_id="once") for _ in range(20)))
    assert sorted(status for status, _ in answers) == [201] + [409] * 19
    assert len({answer.get("order_id", answer.get("id")) for _, answer in answers}) == 1


async def test_a_list_is_filtered_and_paged(broker: Broker) -> None:
    customer = await broker.customer()
    resting = [(await limit(customer, "100", quantity=1))["id"] for _ in range(3)]
    await order(customer, quantity=1)
    _, page = await customer.call("GET", f"{ORDERS}?status=submitted,pending&limit=2")
    assert [each["id"] for each in page["orders"]] == resting[:0:-1]
    _, rest = await customer.call("GET", f"{ORDERS}?status=submitted&cursor={page['next_cursor']}")
    assert ([each["id"] for each in rest["orders"]], rest["next_cursor"]) == (resting[:1], None)
    status, error = await customer.call("GET", f"{ORDERS}?status=FILLED")
    assert (status, error["code"]) == (400, "invalid_query")


async def test_somebody_elses_order_is_not_there(broker: Broker) -> None:
    owner, other = await broker.customer(), await broker.customer()
    placed = await limit(owner, "150")
    path = f"{ORDERS}/{placed['id']}"
    for method, body in (("GET", None), ("DELETE", None), ("PATCH", {"quantity": 5})):
        status, error = await other.call(method, path, body)
        assert (status, error["code"]) == (404, "no_such_order")
    assert (await get(owner, placed["id"]))["status"] == "submitted"


# ------------------------------------------------------------------ cancel


async def test_a_cancelled_order_gives_its_cash_back(broker: Broker) -> None:
    customer = await broker.customer()
    placed = await limit(customer, "150")
    status, cancelled = await customer.call("DELETE", f"{ORDERS}/{placed['id']}")
    assert (status, cancelled["status"]) == (200, "cancelled")
    assert await cash(customer) == ("100000.00", "0.00")
    status, error = await customer.call("DELETE", f"{ORDERS}/{placed['id']}")
    assert (status, error["code"], error["status"]) == (409, "order_ended", "cancelled")


async def test_a_filled_order_cannot_be_cancelled(broker: Broker) -> None:
    customer = await broker.customer()
    _, placed = await order(customer)
    await becomes(customer, placed["id"], "filled")
    status, error = await customer.call("DELETE", f"{ORDERS}/{placed['id']}")
    assert (status, error["status"]) == (409, "filled")


async def test_all_open_orders_are_cancelled(broker: Broker) -> None:
    customer = await broker.customer()
    placed = [(await limit(customer, "100", quantity=1))["id"] for _ in range(5)]
    status, answer = await customer.call("DELETE", ORDERS)
    assert status == 202
    assert set(answer["cancelling"]) == set(placed)
    for each in placed:
        await becomes(customer, each, "cancelled")


async def test_a_cancel_races_a_fill_and_the_client_hears_who_won(broker: Broker) -> None:
    """A marketable order and its cancel at the same time, many times: filled or cancelled, and the cash is right."""
    customer = await broker.customer()

    async def race(number: int) -> tuple[int, str]:
        placing = asyncio.create_task(order(customer, quantity=1, client_order_id=f"race-{number}"))
        found: Any = None
        while found is None:
            status, found = await customer.call("GET", f"{ORDERS}/by-client-id/race-{number}")
            found = found if status == 200 else None
        status, answer = await customer.call("DELETE", f"{ORDERS}/{found['id']}")
        await placing
        return status, answer["status"]

    outcomes = [await race(number) for number in range(20)]
    assert set(outcomes) <= {(200, "cancelled"), (409, "filled"), (202, "pending"), (202, "validated")}, outcomes
    assert (await cash(customer))[1] == "0.00"


# ------------------------------------------------------------------ replace


async def test_a_replacement_is_a_new_order_that_names_the_old_one(broker: Broker) -> None:
    customer = await broker.customer()
    old = await limit(customer, "150", time_in_force="gtc")
    status, new = await customer.call("PATCH", f"{ORDERS}/{old['id']}", {"price": "151.00", "quantity": 4})
    assert status == 201, new
    assert (new["replaces"], new["price"], new["quantity"]) == (old["id"], "151.00", 4)
    assert (new["time_in_force"], new["status"], new["held"]) == ("gtc", "submitted", "604.00")
    assert (await becomes(customer, old["id"], "replaced"))["held"] == "0.00"
    assert await cash(customer) == ("100000.00", "604.00")
    status, error = await customer.call("PATCH", f"{ORDERS}/{old['id']}", {"price": "152.00"})
    assert (status, error["status"]) == (409, "replaced")


async def test_an_order_for_all_the_cash_can_be_re_priced(broker: Broker) -> None:
    customer = await broker.customer(cash="1500.00")
    old = await limit(customer, "150")
    assert (await customer.call("PATCH", f"{ORDERS}/{old['id']}", {"price": "149.00"}))[0] == 201
    assert await cash(customer) == ("1500.00", "1490.00")


async def test_a_replacement_beyond_the_cash_is_refused_and_the_old_order_lives(broker: Broker) -> None:
    customer = await broker.customer(cash="1500.00")
    old = await limit(customer, "150")
    status, error = await customer.call("PATCH", f"{ORDERS}/{old['id']}", {"price": "150.01"})
    assert (status, error["code"], error["needed"]) == (400, "insufficient_funds", "1500.10")
    assert (await get(customer, old["id"]))["status"] == "submitted"
    assert await cash(customer) == ("1500.00", "1500.00")


async def test_what_cannot_be_replaced_says_why(broker: Broker) -> None:
    customer = await broker.customer()
    old = await limit(customer, "150")
    status, error = await customer.call("PATCH", f"{ORDERS}/{old['id']}", {"stop_price": "140.00"})
    assert (status, error["error"]) == (409, "The order cannot be replaced: a limit order has no stop price.")
    status, error = await customer.call("PATCH", f"{ORDERS}/{old['id']}", {})
    assert (status, error["code"]) == (400, "invalid_request")


# ------------------------------------------------------------------ estimates and fees


async def test_an_estimate_says_what_an_order_would_do_and_does_nothing(broker: Broker) -> None:
    customer = await broker.customer(cash="1000.00")
    body = {"symbol": "AAPL", "side": "buy", "quantity": 10, "order_type": "limit", "price": "90.00"}
    status, estimate = await customer.call("POST", f"{ORDERS}/estimate", body)
    assert status == 200
    assert (estimate["cost"], estimate["hold"], estimate["buying_power_after"]) == ("900.00", "900.00", "100.00")
    assert (estimate["would_be_refused"], estimate["refusals"]) == (False, [])
    _, estimate = await customer.call("POST", f"{ORDERS}/estimate", body | {"quantity": 2_000_000})
    assert [each["code"] for each in estimate["refusals"]] == [
        "insufficient_funds",
        "order_too_large",
        "order_value_too_large",
    ]
    assert (await customer.call("GET", ORDERS))[1]["orders"] == []
    assert await cash(customer) == ("1000.00", "0.00")


async def test_a_sale_pays_its_fees_to_their_own_account(with_settings: Callable[..., Config]) -> None:
    fees = "SEC 2020-01-01 sell value=0.0000206; COMMISSION 2020-01-01 both order=1.00"
    async with run_broker(with_settings(fees=fees)) as broker:
        customer = await broker.customer()
        _, bought = await order(customer)
        bought = await becomes(customer, bought["id"], "filled")
        _, sold = await order(customer, side="sell")
        sold = await becomes(customer, sold["id"], "filled")
        assert (bought["fees"], sold["fees"]) == ("1.00", "1.06")
        taken = await broker.fetch("SELECT sum(balance) FROM account WHERE -owner_id % 10 = 3")
        assert taken[0][0] == 20_600
        await broker.books_are_right()


async def test_a_margin_account_buys_for_more_than_its_cash(broker: Broker) -> None:
    body = {"cash": "10000.00", "accountType": "margin"}
    _, created = await broker.operator.call("POST", "/admin/v1/customers", body)
    customer = Client(broker.http, broker.running.url, created["token"], created["customerId"])
    _, quote = await customer.call(
        "POST", f"{ORDERS}/estimate", {"symbol": "AAPL", "side": "buy", "quantity": 1, "order_type": "market"}
    )
    assert quote["buying_power"] == "20000.00"
    shares = int(15_000 / float(quote["price"]))
    _, placed = await order(customer, quantity=shares)
    await becomes(customer, placed["id"], "filled")
    assert float((await cash(customer))[0]) < -4_000
    status, error = await order(customer, quantity=shares)
    assert (status, error["code"]) == (400, "insufficient_buying_power")
