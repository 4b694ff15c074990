"""Brackets, OCO, OTO and trailing stops over HTTP, on a simulated exchange whose prices the test sets."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from broker.api.bench_exchange import ExchangeApi
from broker.config import Config
from broker.core.money import Money
from broker.core.signing import encode_secret
from broker.core.types import Symbol
from broker.simulator.server import SimulatedExchange
from broker.simulator.settings import ExchangeSettings
from broker.verify import verify
from tests.conftest import Broker, Client, eventually, run_broker
from tests.integration.test_order_stream import replayed
from tests.integration.test_orders import ORDERS, becomes, cash, order


@pytest.fixture(autouse=True)
def a_price_is_heard_however_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `price` relies on: its answer waits until the broker has heard it, here also on a machine that stalls."""

    async def hear(self: ExchangeApi, symbol: Symbol, price: Money) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(10):
                while self._last(symbol) != price:
                    await asyncio.sleep(0.001)

    monkeypatch.setattr(ExchangeApi, "_hear", hear)


async def price(broker: Broker, amount: str) -> None:
    """AAPL trades at this price from now on."""
    status, answer = await broker.operator.call("PUT", "/admin/v1/exchange/symbols/AAPL/price", {"price": amount})
    assert status == 200, answer


async def orders(client: Client) -> dict[str, Any]:
    """The customer's orders by what they are in their group; those that stand alone by their type."""
    _, page = await client.call("GET", ORDERS)
    return {each["role"] or each["order_type"]: each for each in page["orders"]}


async def bracket(broker: Broker, client: Client) -> dict[str, Any]:
    """The entry has filled at about $190.00; the take profit is at the exchange."""
    await price(broker, "190.00")
    status, entry = await order(
        client, order_class="bracket", take_profit={"price": "200.00"}, stop_loss={"stop_price": "180.00"}
    )
    assert (status, entry["order_class"], entry["role"]) == (201, "bracket", "entry"), entry
    found = await orders(client)
    await becomes(client, found["take_profit"]["id"], "submitted")
    return await orders(client)


async def test_the_take_profit_of_a_bracket_fills_and_the_stop_loss_goes(broker: Broker) -> None:
    client = await broker.customer()
    found = await bracket(broker, client)
    assert {role: each["status"] for role, each in found.items()} == {
        "entry": "filled",
        "take_profit": "submitted",
        "stop_loss": "held",
    }
    assert {each["group_id"] for each in found.values()} == {found["entry"]["id"]}
    await price(broker, "200.10")
    await becomes(client, found["take_profit"]["id"], "filled")
    assert (await becomes(client, found["stop_loss"]["id"], "cancelled"))["reason"] == (
        "The other exit of its group has filled."
    )
    _, positions = await client.call("GET", "/api/v1/positions")
    assert positions["positions"] == []


async def test_the_stop_loss_of_a_bracket_sells_what_is_left(broker: Broker) -> None:
    client = await broker.customer()
    found = await bracket(broker, client)
    await price(broker, "179.00")
    await becomes(client, found["stop_loss"]["id"], "filled")
    assert (await becomes(client, found["take_profit"]["id"], "cancelled"))["reason"] == (
        "The stop loss of its group was reached."
    )
    assert (await cash(client))[1] == "0.00"
    steps = [json.loads(text) for text in await replayed(broker, client)]
    of_stop = [each["event"] for each in steps if each["order"]["id"] == found["stop_loss"]["id"]]
    assert [each for each in of_stop if each != "accepted"] == ["placed", "held", "triggered", "started", "executed"]


KEY = b"k" * 32


@pytest.fixture
async def on_an_exchange_that_stays(with_settings: Callable[..., Config]) -> AsyncIterator[Config]:
    """The settings of brokers on an exchange that does not end with them."""
    async with SimulatedExchange(ExchangeSettings(), KEY) as exchange:
        yield with_settings(exchange=exchange.url, webhook_secrets=encode_secret(KEY))


async def test_a_bracket_outlives_a_restart(on_an_exchange_that_stays: Config) -> None:
    async with run_broker(on_an_exchange_that_stays) as broker:
        client = await broker.customer()
        found = await bracket(broker, client)
    async with run_broker(on_an_exchange_that_stays) as broker:
        again = Client(broker.http, broker.running.url, client.token)
        assert (await orders(again))["stop_loss"]["status"] == "held"
        await price(broker, "179.00")
        await becomes(again, found["stop_loss"]["id"], "filled")


async def test_cancelling_one_of_a_bracket_cancels_all_of_it(broker: Broker) -> None:
    client = await broker.customer()
    found = await bracket(broker, client)
    status, _ = await client.call("DELETE", f"{ORDERS}/{found['stop_loss']['id']}")
    assert status == 200
    await becomes(client, found["take_profit"]["id"], "cancelled")
    _, positions = await client.call("GET", "/api/v1/positions")
    assert [(each["quantity"], each["available"]) for each in positions["positions"]] == [(10, 10)]


async def test_an_oco_sells_once(broker: Broker) -> None:
    client = await broker.customer()
    await price(broker, "190.00")
    await becomes(client, (await order(client))[1]["id"], "filled")
    status, take_profit = await order(
        client,
        side="sell",
        order_type="limit",
        price="200.00",
        order_class="oco",
        stop_loss={"stop_price": "180.00", "price": "170.00"},
    )
    assert (status, take_profit["role"]) == (201, "take_profit")
    await price(broker, "179.00")
    found = await orders(client)
    assert found["stop_loss"]["order_type"] == "stop_limit"
    await becomes(client, found["stop_loss"]["id"], "filled")
    await becomes(client, take_profit["id"], "cancelled")


async def test_a_trailing_stop_follows_the_market_up_and_sells_when_it_falls(broker: Broker) -> None:
    client = await broker.customer()
    await price(broker, "190.00")
    await becomes(client, (await order(client))[1]["id"], "filled")
    status, stop = await order(client, side="sell", order_type="trailing_stop", trail_amount="5.00")
    assert (status, stop["status"], stop["trail_amount"], stop["stop_price"]) == (201, "held", "5.00", None)
    await price(broker, "186.00")
    await price(broker, "195.00")
    assert (await becomes(client, stop["id"], "held"))["held"] == "10"
    await price(broker, "190.00")
    assert (await becomes(client, stop["id"], "filled"))["stop_price"] == "190.00"
    steps = [json.loads(text) for text in await replayed(broker, client)]
    seen = {each["event"]: each["order"]["stop_price"] for each in steps if each["order"]["id"] == stop["id"]}
    assert (seen["placed"], seen["held"], seen["started"], seen["executed"]) == (None, None, "190.00", "190.00")


async def test_a_trailing_stop_keeps_where_it_was_over_a_restart(on_an_exchange_that_stays: Config) -> None:
    async with run_broker(on_an_exchange_that_stays) as broker:
        client = await broker.customer()
        await price(broker, "190.00")
        await becomes(client, (await order(client))[1]["id"], "filled")
        _, stop = await order(client, side="sell", order_type="trailing_stop", trail_percent="5", time_in_force="gtc")
        await price(broker, "200.00")

        async def is_kept() -> bool:
            rows = await broker.fetch("SELECT high_water FROM trail")
            return [row["high_water"] for row in rows] == [2_000_000]

        await eventually(is_kept)
        await price(broker, "190.01")
    async with run_broker(on_an_exchange_that_stays) as broker:
        again = Client(broker.http, broker.running.url, client.token)
        await asyncio.sleep(1.5)  # by then what was seen before is read
        _, found = await again.call("GET", f"{ORDERS}/{stop['id']}")
        assert found["status"] == "held"
        await price(broker, "189.99")
        assert (await becomes(again, stop["id"], "filled"))["stop_price"] == "190.00"


async def test_a_trailing_stop_gets_another_trail(broker: Broker) -> None:
    client = await broker.customer()
    await price(broker, "190.00")
    await becomes(client, (await order(client))[1]["id"], "filled")
    _, stop = await order(client, side="sell", order_type="trailing_stop", trail_amount="5.00")
    status, new = await client.call("PATCH", f"{ORDERS}/{stop['id']}", {"trail": "1.00"})
    assert (status, new["trail_amount"], new["replaces"], new["status"]) == (201, "1.00", stop["id"], "held")
    await price(broker, "189.00")
    await becomes(client, new["id"], "filled")


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"order_type": "trailing_stop"}, "A trailing-stop order needs a trail: an amount or a percentage, not both."),
        (
            {"order_type": "trailing_stop", "trail_amount": "1.00", "trail_percent": "1"},
            "A trailing-stop order needs a trail: an amount or a percentage, not both.",
        ),
        ({"trail_amount": "1.00"}, "A market order has no trail."),
        (
            {"order_type": "trailing_stop", "trail_percent": "100"},
            "trail_percent must be above 0 and below 100, with at most 2 decimals.",
        ),
        (
            {"order_type": "trailing_stop", "trail_percent": "1", "time_in_force": "ioc"},
            "A trailing-stop order is day or gtc.",
        ),
        ({"extended_hours": True}, "Only a limit order that is day or gtc can trade in extended hours."),
        (
            {"order_type": "stop_loss", "stop_price": "180", "time_in_force": "opg"},
            "An order that is opg is a market or a limit order.",
        ),
        ({"take_profit": {"price": "200"}}, "Exits belong to a bracket, oco or oto order."),
        (
            {"order_class": "bracket", "take_profit": {"price": "200"}},
            "A bracket order has a take profit and a stop loss.",
        ),
        ({"order_class": "oto"}, "An oto order has a take profit or a stop loss, one of them."),
        (
            {"order_class": "oco", "stop_loss": {"stop_price": "180"}},
            "An oco order is a limit order, its take profit, with a stop loss.",
        ),
        (
            {"order_class": "bracket", "take_profit": {"price": "180"}, "stop_loss": {"stop_price": "180"}},
            "The take profit must be above the stop loss, $180.00.",
        ),
        (
            {
                "order_class": "bracket",
                "order_type": "limit",
                "price": "190",
                "take_profit": {"price": "200"},
                "stop_loss": {"stop_price": "190"},
            },
            "The entry's limit must be above the stop loss, $190.00.",
        ),
        (
            {"order_class": "oto", "time_in_force": "ioc", "take_profit": {"price": "200"}},
            "An oto order is day or gtc, and not for extended hours.",
        ),
    ],
)
async def test_what_is_no_order_is_named(broker: Broker, fields: dict[str, Any], sentence: str) -> None:
    status, answer = await order(await broker.customer(), **fields)
    assert (status, answer) == (400, {"error": sentence, "code": "invalid_request"})


# ------------------------------------------------------------------ broker verify


@pytest.mark.parametrize(
    ("spoil", "rule"),
    [
        ("UPDATE trade SET status = 'IN PROGRESS' WHERE role = 'stop_loss'", "of two exits one is at the exchange"),
        (
            "UPDATE trade SET quantity = 20, filled_quantity = 11, status = 'PARTIALLY FILLED'"
            " WHERE role = 'take_profit'",
            "groups sell what they bought",
        ),
        (
            "UPDATE trade SET status = 'CANCELLED', hold = 0 WHERE role = 'take_profit'",
            "held exits wait for an open order",
        ),
    ],
)
async def test_verify_sees_a_group_that_is_wrong(broker: Broker, spoil: str, rule: str) -> None:
    client = await broker.customer()
    await bracket(broker, client)
    await broker.books_are_right()
    async with spoiled(broker, spoil):
        assert rule in {finding.rule for finding in await verify(broker.dsn) if finding.row}


@asynccontextmanager
async def spoiled(broker: Broker, statement: str) -> AsyncIterator[None]:
    """The trades as somebody left them who went past every rule; afterwards they are as before."""
    await broker.fetch("CREATE TABLE kept AS SELECT * FROM trade")
    off = "ALTER TABLE trade DISABLE TRIGGER USER"
    await broker.fetch(off)
    try:
        await broker.fetch(statement)
        yield
    finally:
        await broker.fetch("TRUNCATE trade")
        await broker.fetch("INSERT INTO trade SELECT * FROM kept")
        await broker.fetch("ALTER TABLE trade ENABLE TRIGGER USER")
