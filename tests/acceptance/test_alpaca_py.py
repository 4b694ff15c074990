"""Alpaca's own SDK, the newest version and the oldest that is still common, against a running broker: every method of
tiers 1 and 2 of the contract and the order types of tier 3, both streams included.

What the SDK does stands in tests/acceptance/clients/alpaca_py/, which runs under each version as a program of its own.
"""

import asyncio
import inspect
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from alpaca.data.historical import StockHistoricalDataClient
from alpaca.data.live import StockDataStream
from alpaca.trading.client import TradingClient
from alpaca.trading.stream import TradingStream

from tests.acceptance.clients.drive_alpaca_py import KEYS_A_STEP, STEPS
from tests.acceptance.processes import Alone, answer_of, python_of

VERSIONS = ["0.44.0", "0.30.0"]
TUESDAY_NOON = "2026-11-24T12:00-05:00"

PROMISED = {
    "TradingClient": """
        get_account get_clock get_all_assets get_asset submit_order get_orders get_order_by_id get_order_by_client_id
        replace_order_by_id cancel_order_by_id cancel_orders get_all_positions get_open_position close_position
        close_all_positions get_account_configurations set_account_configurations get_calendar get_portfolio_history
        get_watchlists create_watchlist get_watchlist_by_id update_watchlist_by_id add_asset_to_watchlist_by_id
        remove_asset_from_watchlist_by_id delete_watchlist_by_id get_corporate_announcements get_option_contracts
        get post patch
    """,
    "StockHistoricalDataClient": """
        get_stock_latest_quote get_stock_latest_trade get_stock_latest_bar get_stock_bars get_stock_quotes
        get_stock_trades get_stock_snapshot get
    """,
    "TradingStream": "subscribe_trade_updates",
    "StockDataStream": "subscribe_quotes subscribe_trades subscribe_bars subscribe_daily_bars unsubscribe_quotes",
}
"""Each method must have answered in a step. `get`, `post` and `patch` are for what the SDK has no method for."""

NOT_PROMISED = {
    "TradingClient": """
        exercise_options_position get_option_contract get_corporate_announcement_by_id put delete response_wrapper
    """,
    "StockHistoricalDataClient": "put post patch delete response_wrapper",
    "TradingStream": "run stop stop_ws close",
    "StockDataStream": """
        run stop stop_ws close register_trade_cancels register_trade_corrections subscribe_trading_statuses
        unsubscribe_trading_statuses subscribe_updated_bars unsubscribe_updated_bars unsubscribe_bars
        unsubscribe_daily_bars unsubscribe_trades
    """,
}
"""What there is none of; what the SDK is made of; channels that have nothing to say here."""

ADDED_SINCE_0_30 = {"TradingClient.get_portfolio_history"}


@pytest.fixture(scope="module")
async def drives(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[dict[str, Any]]:
    """What came of every step under each version of the SDK, all at once against one broker, by version."""
    share = KEYS_A_STEP * len(STEPS)
    customers = share * len(VERSIONS)
    async with Alone(tmp_path_factory.mktemp("alpaca_py"), ["--clock", TUESDAY_NOON], customers) as system:
        clock = asyncio.create_task(_hurry(system))
        told = [{"url": system.url, "keys": system.keys()[n * share : (n + 1) * share]} for n in range(len(VERSIONS))]
        pythons = [Path(sys.executable), python_of("alpaca-py-0.30")]
        module = ["-W", "ignore", "-m", "tests.acceptance.clients.drive_alpaca_py"]
        answers = await asyncio.gather(
            *(answer_of([python, *module], each) for python, each in zip(pythons, told, strict=True))
        )
        clock.cancel()
        yield {answer["version"]: answer for answer in answers}
        assert "all is well" in await system.verify()


async def _hurry(system: Alone) -> None:
    """Let a minute of the exchange's pass in two seconds, so that there are bars of minutes soon."""
    headers = {"Authorization": f"Bearer {system.ready['adminToken']}"}
    async with aiohttp.ClientSession(headers=headers, raise_for_status=True) as http:
        while True:
            await asyncio.sleep(2)
            async with http.post(f"{system.url}/admin/v1/exchange/clock/advance", json={"seconds": 60}):
                pass


@pytest.fixture(params=VERSIONS)
def drive(drives: dict[str, Any], request: pytest.FixtureRequest) -> Any:
    """What came of every step under one version."""
    return drives[request.param]


@pytest.mark.parametrize("step", STEPS)
def test_a_bot(drive: Any, step: str) -> None:
    failure = drive["steps"][step]
    assert failure is None, failure


def test_every_method_that_is_promised_is_driven(drive: Any) -> None:
    promised = {f"{name}.{method}" for name, methods in PROMISED.items() for method in methods.split()}
    if drive["version"] == "0.30.0":
        promised -= ADDED_SINCE_0_30
    assert promised - set(drive["driven"]) == set()


@pytest.mark.parametrize("client", [TradingClient, StockHistoricalDataClient, TradingStream, StockDataStream])
def test_no_method_of_the_sdk_is_forgotten(client: type) -> None:
    methods = {name for name, _ in inspect.getmembers(client, callable) if not name.startswith("_")}
    listed = f"{PROMISED[client.__name__]} {NOT_PROMISED[client.__name__]}".split()
    assert len(listed) == len(set(listed))
    assert set(listed) == methods
