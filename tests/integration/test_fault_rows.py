"""Rows of the fault table (docs/reliability.md) that need a whole broker and belong to no other test."""

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import asyncpg
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from broker.config import Config
from broker.core import signing
from tests.conftest import Broker, eventually, run_broker
from tests.integration.test_webhook import KEY, Desk, QuietExchange, desk, event, fill

__all__ = ["desk"]  # a fixture

STORM = 100_000
AT_ONCE = 250


@pytest.mark.timeout(300)
async def test_12_a_storm_of_100000_events_is_taken_in_and_orders_go_on(desk: Desk) -> None:
    """After an outage everything is said again at once: a full queue answers 503, and loses nothing."""
    rich = await desk.broker.customer(cash="1000000.00")
    _, placed = await rich.place("BUY", "AAPL", AT_ONCE)

    async def arrived() -> bool:
        return placed["tradeId"] in desk.exchange.orders

    await eventually(arrived)
    fills = [
        fill(placed["tradeId"], f"e{n}", 1, filled_quantity=n)
        | {"type": "FILLED" if n == AT_ONCE else "PARTIALLY_FILLED"}
        for n in range(1, AT_ONCE + 1)
    ]
    body = json.dumps(fills).encode()
    answers = []

    async def deliver() -> None:
        while True:
            status, _ = await desk.send(body, desk.signed(body))
            answers.append(status)
            if status == 204:
                return
            await asyncio.sleep(0.05)

    async with asyncio.TaskGroup() as storm:
        for _ in range(STORM // AT_ONCE):
            storm.create_task(deliver())
        while (answer := await desk.customer.place("BUY", "AAPL", 1))[0] != 201:
            assert answer[0] == 503
            assert answer[1]["code"] in {"overloaded", "database_unavailable"}
            await asyncio.sleep(0.05)
        other = answer[1]
    assert set(answers) <= {204, 503}
    assert (await rich.trade(placed["tradeId"]))["status"] == "FILLED"
    settled = await desk.broker.fetch("SELECT count(*), sum(last_qty) FROM execution")
    assert tuple(settled[0]) == (AT_ONCE, AT_ONCE)
    assert (await desk.says(fill(other["tradeId"], "other", 1) | {"type": "FILLED"}))[0] == 204


class SlowForOne(QuietExchange):
    """Holds back its answer to every array that has an order for this many shares in it."""

    slow_quantity = 7
    held_back = 0

    async def _take(self, request: web.Request) -> web.Response:
        answer = await super()._take(request)
        if any(order["quantity"] == self.slow_quantity for order in await request.json()):
            self.held_back += 1
            await asyncio.sleep(3600)
        return answer


async def test_20_an_exchange_that_is_slow_for_one_customer_holds_up_no_other(
    with_settings: Callable[..., Config],
) -> None:
    exchange = SlowForOne()
    async with TestServer(exchange.app()) as server:
        settings = {"exchange": str(server.make_url("/")), "webhook_secrets": signing.encode_secret(KEY)}
        async with run_broker(with_settings(**settings, exchange_timeout_s=600.0)) as broker:
            slow, other = await broker.customer(), await broker.customer()
            _, stuck = await slow.place("BUY", "AAPL", SlowForOne.slow_quantity)

            async def is_held_back() -> bool:
                return exchange.held_back > 0

            await eventually(is_held_back)
            mine = Desk(broker, exchange, other)
            for number in range(20):
                trade_id = await mine.order(quantity=1)
                assert await mine.says(fill(trade_id, f"e{number}", 1) | {"type": "FILLED"}) == (204, None)
            assert (await slow.trade(stuck["tradeId"]))["status"] == "IN PROGRESS"
            await mine.says(event(stuck["tradeId"], "REJECTED", reason="at last"))
            assert (await slow.trade(stuck["tradeId"]))["status"] == "REJECTED"


async def test_28_a_loop_that_stood_still_for_five_seconds_goes_on_where_it_was(broker: Broker) -> None:
    customer = await broker.customer()
    waiting = [asyncio.create_task(customer.place("BUY", "AAPL", 1)) for _ in range(20)]
    await asyncio.sleep(0)
    time.sleep(5)  # noqa: ASYNC251 - a garbage collection, a name server, a page on disk
    waiting += [asyncio.create_task(customer.place("SELL", "AAPL", 1)) for _ in range(20)]
    answers = await asyncio.gather(*waiting)
    for _, placed in [answer for answer in answers if answer[0] == 201]:
        assert (await customer.ended(placed["tradeId"], 60))["status"] in {"FILLED", "REJECTED"}
    assert {status for status, _ in answers} <= {201, 503}
    assert answers[-1][0] == 201


async def test_43_whoever_locks_the_tables_holds_orders_up_and_breaks_nothing(
    with_settings: Callable[..., Config],
) -> None:
    """An operator's ALTER TABLE beside us: nobody waits for longer than he was told to, and nothing is lost."""
    async with run_broker(with_settings(place_wait_s=1.0)) as broker:
        customer = await broker.customer()
        owner = await asyncpg.connect(broker.dsn)
        async with owner.transaction():
            await owner.execute("LOCK TABLE broker.trade, broker.account IN ACCESS EXCLUSIVE MODE")
            key = {"Idempotency-Key": "through-the-lock"}
            status, answer = await customer.place("BUY", "AAPL", 1, headers=key)
            assert (status, answer["code"]) == (503, "database_unavailable")

        async def placed() -> Any:
            status, answer = await customer.place("BUY", "AAPL", 1, headers=key)
            return status in {200, 201} and answer

        trade = await eventually(placed, 60)
        assert (await customer.ended(trade["tradeId"], 60))["status"] == "FILLED"
        assert len(await broker.fetch("SELECT FROM trade")) == 1
        await owner.close()
        await broker.books_are_right()
