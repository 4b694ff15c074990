"""Several exchanges at once: each symbol goes to its own, and one that is down holds up nobody else's trades."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from broker.config import Config, ConfigError
from broker.core.signing import encode_secret
from broker.router import read_routes
from broker.simulator.server import SimulatedExchange
from broker.simulator.settings import ExchangeSettings
from tests.conftest import Broker, eventually, run_broker
from tests.integration.test_orders import becomes, order

KEY = bytes(range(32))


def exchange_at(folder: Path, port: int = 0) -> SimulatedExchange:
    return SimulatedExchange(ExchangeSettings(port=port, journal=folder), KEY)


@pytest.fixture
async def west(tmp_path: Path) -> AsyncIterator[SimulatedExchange]:
    async with exchange_at(tmp_path / "west") as exchange:
        yield exchange


@pytest.fixture
async def broker(
    with_settings: Callable[..., Config], west: SimulatedExchange, tmp_path: Path
) -> AsyncIterator[Broker]:
    """MSFT is traded in the west, everything else in the east."""
    async with exchange_at(tmp_path / "east") as east:
        config = with_settings(
            exchange=east.url,
            venues=f"west={west.url}",
            routes="MSFT=west",
            webhook_secrets=encode_secret(KEY),
            venue_down_after_s=0.3,
            order_wait_s=0.5,
        )
        async with run_broker(config) as running:
            yield running
            await running.books_are_right()


async def down_for_long(broker: Broker) -> None:
    """An exchange has not answered an order, and that is 0.3 s ago."""

    async def has_failed() -> bool:
        async with broker.http.get(broker.running.url + "/metrics") as response:
            return 'broker_exchange_failures_total{call="execute"}' in await response.text()

    await eventually(has_failed)
    await asyncio.sleep(0.4)


async def test_each_symbol_goes_to_its_exchange(broker: Broker) -> None:
    customer = await broker.customer()
    for symbol, venue in (("AAPL", "sim"), ("MSFT", "west")):
        _, placed = await order(customer, symbol=symbol, quantity=1)
        filled = await becomes(customer, placed["id"], "filled")
        assert filled["venue"] == venue
    rows = await broker.fetch("SELECT venue, trade.symbol FROM execution JOIN trade USING (trade_id, venue)")
    assert {tuple(row) for row in rows} == {("sim", "AAPL"), ("west", "MSFT")}


async def test_an_exchange_that_is_down_is_said_so_and_holds_up_no_other(
    broker: Broker, west: SimulatedExchange, tmp_path: Path
) -> None:
    waiting, other = await broker.customer(), await broker.customer()
    port = int(west.url.rsplit(":", 1)[1])
    await west.stop()
    status, placed = await order(waiting, symbol="MSFT", quantity=1)
    assert (status, placed["status"]) == (201, "validated"), "for a moment it waits: the exchange may come back"
    _, filled = await order(other, symbol="AAPL", quantity=1)
    await becomes(other, filled["id"], "filled")
    await down_for_long(broker)
    status, error = await order(other, symbol="MSFT", quantity=1)
    assert (status, error["code"], error["venue"]) == (400, "exchange_unavailable", "west")
    assert "does not answer; try again when it is back" in error["error"]
    _, filled = await order(other, symbol="AAPL", quantity=1)
    await becomes(other, filled["id"], "filled")

    async with exchange_at(tmp_path / "west", port):  # it comes back: what waited is sent, new orders are taken
        await becomes(waiting, placed["id"], "filled")

        async def is_taken() -> bool:
            return (await order(other, symbol="MSFT", quantity=1))[0] == 201

        await eventually(is_taken)
        ended = await broker.fetch("SELECT count(*) FROM trade WHERE status IN ('PLACED', 'IN PROGRESS')")
        assert ended[0][0] <= 1


async def test_an_exchange_that_stays_away_does_not_hold_up_a_customers_trades_at_the_other(
    broker: Broker, west: SimulatedExchange
) -> None:
    customer = await broker.customer()
    _, resting = await order(customer, symbol="MSFT", quantity=1, order_type="limit", price="300.00")
    await becomes(customer, resting["id"], "submitted")
    await west.stop()
    _, stuck = await order(customer, symbol="MSFT", quantity=1, order_type="limit", price="301.00")
    assert stuck["status"] == "validated"
    await down_for_long(broker)
    _, filled = await order(customer, symbol="AAPL", quantity=1)
    await becomes(customer, filled["id"], "filled")
    status, answer = await customer.call("DELETE", f"/api/v1/orders/{stuck['id']}")
    assert (status, answer["cancel_requested"]) == (202, True)


async def test_readiness_names_what_does_not_answer(broker: Broker, west: SimulatedExchange) -> None:
    assert (await broker.stranger.call("GET", "/readyz"))[0] == 200
    await west.stop()

    async def unready() -> Any:
        status, answer = await broker.stranger.call("GET", "/readyz")
        return answer if status == 503 else None

    assert (await eventually(unready))["exchange"] == "does not answer"


@pytest.mark.parametrize("venues", ["west", "west=ftp://x", "WEST=http://x", "we st=http://x", "=http://x"])
def test_venues_that_cannot_be_are_refused(venues: str) -> None:
    with pytest.raises(ConfigError, match="venues cannot be used"):
        Config(venues=venues)


def test_routes_name_venues_that_there_are() -> None:
    assert read_routes("MSFT=west, GOOGL=west", {"west"}.__contains__) == {"MSFT": "west", "GOOGL": "west"}
    for text in ("MSFT", "MSFT=east", "=west"):
        with pytest.raises(ValueError, match="names no symbol, or no venue"):
            read_routes(text, {"west"}.__contains__)
