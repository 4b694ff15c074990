"""Alpaca's orders and clock when the market is shut, and in the extended hours, on a clock that is set."""

from collections.abc import Callable

from broker.config import Config
from tests.conftest import run_broker
from tests.integration.test_alpaca_account import ok
from tests.integration.test_alpaca_orders import becomes, bot, get, order, placed

SATURDAY, EVENING, BEFORE_THE_CLOSE = (
    "2026-11-28T12:00-05:00",
    "2026-11-25T17:00-05:00",
    "2026-11-25T15:55-05:00",
)


async def test_a_market_order_of_the_weekend_is_accepted_and_waits(with_settings: Callable[..., Config]) -> None:
    async with run_broker(with_settings(hours="XNYS", clock=SATURDAY)) as broker:
        client = await bot(broker)
        clock = await ok(client, "clock")
        assert (clock["is_open"], clock["next_open"]) == (False, "2026-11-30T09:30:00-05:00")
        found = await placed(client)
        assert (found["status"], found["filled_qty"]) == ("accepted", "0")
        assert (await client.call("DELETE", f"/v2/orders/{found['id']}"))[0] == 204
        await becomes(client, found["id"], "canceled")
        status, error = await order(client, time_in_force="ioc")
        assert (status, error["code"]) == (422, 42210000)
        assert "market is closed" in error["message"]
        await broker.books_are_right()


async def test_an_order_for_extended_hours_says_that_it_is(with_settings: Callable[..., Config]) -> None:
    async with run_broker(with_settings(hours="XNYS", clock=EVENING)) as broker:
        client = await bot(broker)
        found = await placed(client, type="limit", limit_price=150, extended_hours=True)
        assert found["extended_hours"] is True
        await becomes(client, found["id"], "new")
        await broker.books_are_right()


async def test_an_order_for_the_close_comes_too_late_ten_minutes_before_it(
    with_settings: Callable[..., Config],
) -> None:
    async with run_broker(with_settings(hours="XNYS", clock=BEFORE_THE_CLOSE)) as broker:
        client = await bot(broker)
        status, error = await order(client, time_in_force="cls")
        assert (status, error["code"]) == (422, 42210000)
        assert await client.call("GET", "/v2/orders", params={"status": "all"}) == (200, [])
        await broker.books_are_right()


async def test_orders_for_the_auctions_are_taken_in_time(with_settings: Callable[..., Config]) -> None:
    async with run_broker(with_settings(hours="XNYS", clock=SATURDAY)) as broker:
        client = await bot(broker)
        for lasts in ("opg", "cls"):
            found = await placed(client, time_in_force=lasts, type="limit", limit_price=150)
            assert found["time_in_force"] == lasts
            assert (await get(client, found["id"]))["status"] in {"new", "accepted", "pending_new"}
        await broker.books_are_right()
