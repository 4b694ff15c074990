"""Two brokers on one database and one exchange, as they are beside each other during a rolling restart.

The exchange calls back on a port that they share: each report reaches the one or the other, as the kernel likes.
"""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from broker.api.bench_exchange import ExchangeApi
from broker.config import Config
from broker.core.money import Money
from broker.core.signing import encode_secret
from broker.core.types import Symbol
from broker.simulator.server import SimulatedExchange
from broker.simulator.settings import ExchangeSettings
from tests.conftest import Broker, Client, eventually, run_broker
from tests.integration.test_order_groups import bracket, orders, price
from tests.integration.test_order_stream import replayed
from tests.integration.test_orders import becomes, cash, order

KEY = b"k" * 32
TRADES = 40
KEYS = 10


@pytest.fixture(autouse=True)
def a_price_is_heard_however_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `price` relies on: its answer waits until the broker has heard it, here also on a machine that stalls."""

    async def hear(self: ExchangeApi, symbol: Symbol, price: Money) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(10):
                while self._last(symbol) != price:
                    await asyncio.sleep(0.001)

    monkeypatch.setattr(ExchangeApi, "_hear", hear)


@pytest.fixture
async def settings_of(with_settings: Callable[..., Config], tmp_path: Path) -> AsyncIterator[Callable[..., Config]]:
    """The settings of one of them; what other settings are named is its own."""
    with socket.socket() as reserved:  # it does not listen: it only keeps the port theirs
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.bind(("127.0.0.1", 0))
        async with SimulatedExchange(ExchangeSettings(), KEY) as exchange:
            both = with_settings(
                exchange=exchange.url,
                webhook_secrets=encode_secret(KEY),
                admin_token="operator-of-both",
                reuse_port=True,
                callback_listen=f"127.0.0.1:{reserved.getsockname()[1]}",
                recover_every_s=600.0,  # what happens here happens without that look
                order_wait_s=0.5,  # the exchange's answer may reach the other one
                drain_s=1.0,
            )
            yield lambda name, **changes: replace(both, data=tmp_path / name, **changes)


@asynccontextmanager
async def pair(settings_of: Callable[..., Config], **changes: Any) -> AsyncIterator[tuple[Broker, Broker]]:
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(run_broker(settings_of("first", **changes)))
        second = await stack.enter_async_context(run_broker(settings_of("second", **changes)))
        yield first, second


def at(broker: Broker, client: Client) -> Client:
    """The same customer at another broker."""
    return replace(client, http=broker.http, url=broker.running.url)


async def test_both_take_orders_of_one_customer_at_the_same_time(settings_of: Callable[..., Config]) -> None:
    async with pair(settings_of) as (first, second):
        client = await first.customer("1000000.00")
        clients = [client, at(second, client)]

        async def place(number: int) -> Any:
            return await clients[number % 2].place("BUY", "AAPL", 1)

        async def twice(number: int, which: Client) -> Any:
            return await which.place("BUY", "AAPL", 1, headers={"Idempotency-Key": f"key-{number}"})

        placed = await asyncio.gather(*map(place, range(TRADES)))
        assert [status for status, _ in placed] == [201] * TRADES, placed
        repeated = await asyncio.gather(*(twice(number, which) for number in range(KEYS) for which in clients))
        assert all(status in {200, 201} for status, _ in repeated), repeated
        ids = {trade["tradeId"] for _, trade in repeated}
        assert len(ids) == KEYS
        assert [a["tradeId"] == b["tradeId"] for (_, a), (_, b) in zip(repeated[::2], repeated[1::2], strict=True)] == [
            True
        ] * KEYS
        for _, trade in [*placed, *repeated]:
            assert (await client.ended(trade["tradeId"], 60))["status"] == "FILLED"
        rows = await first.fetch("SELECT count(*), sum(filled_quantity) FROM trade")
        assert tuple(rows[0]) == (TRADES + KEYS, TRADES + KEYS)
        for each in clients:
            _, positions = await each.call("GET", "/api/v1/positions")
            assert [(one["symbol"], one["quantity"]) for one in positions["positions"]] == [("AAPL", TRADES + KEYS)]
            assert (await cash(each))[1] == "0.00"
        await first.books_are_right()


async def test_what_both_watch_is_triggered_once(settings_of: Callable[..., Config]) -> None:
    async with pair(settings_of) as (first, second):
        client = await first.customer()
        found = await bracket(first, client)
        other = at(second, client)
        # Through the second one as well, so that this one too has the stop loss in memory, and looks at prices for it.
        status, resting = await order(other, order_type="limit", price="150.00", quantity=1)
        assert (status, (await orders(other))["stop_loss"]["status"]) == (201, "held"), resting
        await price(first, "179.00")
        await becomes(client, found["stop_loss"]["id"], "filled")
        steps = [json.loads(text) for text in await replayed(first, client)]
        of_stop = [each["event"] for each in steps if each["order"]["id"] == found["stop_loss"]["id"]]
        assert [each for each in of_stop if each != "accepted"] == [
            "placed",
            "held",
            "triggered",
            "started",
            "executed",
        ]
        assert (await other.call("GET", "/api/v1/positions"))[1]["positions"] == []
        await first.books_are_right()


async def test_what_one_leaves_unsent_the_other_sends_at_once(settings_of: Callable[..., Config]) -> None:
    """Nothing listens where the first one believes the exchange to be: its order is acknowledged and never sent."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        deaf = settings_of("first", exchange=f"http://127.0.0.1:{nobody.getsockname()[1]}", order_wait_s=0.1)
        async with run_broker(settings_of("second")) as second:
            async with run_broker(deaf) as first:
                client = await first.customer()
                status, placed = await order(client, order_type="limit", price="1000.00", quantity=1)
                assert status in {201, 202}, placed
                here = at(second, client)
                assert (await here.call("GET", f"/api/v1/orders/{placed['id']}"))[1]["status"] == placed["status"]
            await eventually(lambda: is_filled(here, placed["id"]), 20)
            await second.books_are_right()


async def is_filled(client: Client, order_id: str) -> bool:
    status, found = await client.call("GET", f"/api/v1/orders/{order_id}")
    assert status == 200, found
    return bool(found["status"] == "filled")
