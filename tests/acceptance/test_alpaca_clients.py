"""Other programs that speak Alpaca's API, each in its own environment: the SDK before alpaca-py, ccxt, and lumibot."""

import re
from collections.abc import AsyncIterator
from uuid import UUID

import aiohttp
import pytest

from tests.acceptance.processes import ROOT, Alone, answer_of, python_of, run_program


@pytest.fixture(scope="module")
async def system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Alone]:
    """A broker with a customer for each client."""
    async with Alone(tmp_path_factory.mktemp("clients"), customers=4) as system:
        yield system
        assert "all is well" in await system.verify()


def _variables(system: Alone, number: int) -> dict[str, str]:
    key, secret = system.keys()[number]
    return {"APCA_API_BASE_URL": system.url, "APCA_API_KEY_ID": key, "APCA_API_SECRET_KEY": secret}


async def test_the_sdk_before_alpaca_py_places_an_order_and_hears_its_fill(system: Alone) -> None:
    script = ROOT / "tests" / "acceptance" / "clients" / "drive_legacy.py"
    told = {"url": system.url, "keys": system.keys()[:1]}
    saw = await answer_of([python_of("alpaca-trade-api"), script], told, environment={"APCA_API_DATA_URL": system.url})
    assert UUID(saw.pop("order")) == UUID(saw.pop("by_client_order_id"))
    events, fill, average = saw.pop("events"), saw.pop("fill"), saw.pop("average")
    assert (events[0], events[1], events[-1]) == ("pending_new", "new", "fill")
    assert fill["position_qty"] == "10"
    assert float(fill["price"]) == pytest.approx(float(average), rel=0.01)
    refusal = saw.pop("refusal")
    assert (refusal["status"], refusal["code"]) == (403, 40310000)
    assert "insufficient buying power" in refusal["message"]
    assert saw == {
        "version": "3.2.0",
        "status": "ACTIVE",
        "cash": "100000.00",
        "filled_qty": "10",
        "position": "10",
        "is_open": True,
        "asset": "AAPL",
        "quote": "AAPL",
        "latest": True,
        "activities": ["CSD", "FEE", "FILL"],
    }


async def test_ccxt_buys_holds_and_sells(system: Alone) -> None:
    program = [python_of("ccxt"), "-W", "ignore", ROOT / "examples" / "buy_hold_sell_ccxt.py", "AAPL", "10", "1"]
    out, _ = await run_program(program, environment=_variables(system, 1))
    bought = re.search(r"^bought 10 AAPL/USD at \$([0-9.]+)$", out, re.MULTILINE)
    sold = re.search(r"^sold 10 AAPL/USD at \$([0-9.]+)$", out, re.MULTILINE)
    cash = re.search(r"^cash \$100000.00 before, \$([0-9.]+) after; ([0-9]+) fills$", out, re.MULTILINE)
    assert bought, out
    assert sold, out
    assert cash, out
    gained = 10 * (float(sold[1]) - float(bought[1]))
    assert float(cash[1]) == pytest.approx(100_000 + gained, abs=0.5)  # fees
    assert int(cash[2]) >= 2


async def test_a_lumibot_strategy_buys_holds_and_sells(system: Alone) -> None:
    program = [python_of("lumibot"), ROOT / "examples" / "buy_hold_sell_lumibot.py", "AAPL", "10", "1"]
    out, _ = await run_program(program, environment=_variables(system, 2))
    key, secret = system.keys()[2]
    headers = {"APCA-API-KEY-ID": key, "APCA-API-SECRET-KEY": secret}
    async with aiohttp.ClientSession(system.url, headers=headers) as http:  # when lumibot hears of it is its own affair
        orders = await (await http.get("/v2/orders?status=all&direction=asc")).json()
    assert [(each["side"], each["filled_qty"]) for each in orders] == [("buy", "10"), ("sell", "10")], out
    assert len(re.findall(r"^iteration ", out, re.MULTILINE)) == 5, out
