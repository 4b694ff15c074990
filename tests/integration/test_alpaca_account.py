"""Alpaca's account, positions, assets, clock, calendar, history, activities and watchlists over HTTP."""

import asyncio
import base64
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from alpaca.common.exceptions import APIError
from alpaca.trading.models import (
    AccountConfiguration,
    Asset,
    Calendar,
    Clock,
    ClosePositionResponse,
    Order,
    PortfolioHistory,
    Position,
    TradeAccount,
    Watchlist,
)
from alpaca.trading.requests import (
    CancelOrderResponse,
    ClosePositionRequest,
    CreateWatchlistRequest,
    GetAssetsRequest,
    GetCalendarRequest,
    GetPortfolioHistoryRequest,
    UpdateWatchlistRequest,
)

from broker.config import Config
from tests.conftest import Broker, Client, eventually, run_broker
from tests.integration.test_alpaca_orders import as_alpaca, becomes, bot, get, holding, order, placed, resting, sdk
from tests.integration.test_alpaca_stream import listening, updates
from tests.integration.test_order_stream import quiet_desk
from tests.integration.test_webhook import fill


async def ok(client: Client, path: str, method: str = "GET", body: object = None, **query: str) -> Any:
    status, found = await client.call(method, f"/v2/{path}", body, params=query)
    assert status == 200, found
    return found


# ------------------------------------------------------------------ who is calling, and errors


async def test_a_key_is_known_by_its_headers_as_a_token_and_as_basic(broker: Broker) -> None:
    customer = await broker.customer()
    token = customer.token or ""
    key, _, secret = token.partition(".")
    basic = base64.b64encode(f"{key}:{secret}".encode()).decode()
    stranger = broker.stranger
    for headers in (
        {"APCA-API-KEY-ID": key, "APCA-API-SECRET-KEY": secret},
        {"Authorization": f"Bearer {token}"},
        {"Authorization": f"Basic {basic}"},
    ):
        status, account = await stranger.call("GET", "/v2/account", headers=headers)
        assert (status, account["account_number"]) == (200, customer.customer_id)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"APCA-API-KEY-ID": "key_1"},
        {"APCA-API-KEY-ID": "key_1", "APCA-API-SECRET-KEY": "wrong"},
        {"Authorization": "Bearer nonsense"},
        {"Authorization": "Basic !!"},
        {"Authorization": "Basic " + base64.b64encode(b"no colon").decode()},
    ],
)
async def test_a_wrong_key_is_a_401_in_alpacas_form(broker: Broker, headers: dict[str, str]) -> None:
    status, error = await broker.stranger.call("GET", "/v2/account", headers=headers)
    assert (status, error) == (401, {"code": 40110000, "message": "unauthorized."})


async def test_unknown_paths_and_wrong_methods_are_answered_in_alpacas_form(broker: Broker) -> None:
    client = await bot(broker)
    for path in ("/v2/nothing", "/v2", "/v2/", "/v2/orders/", "/v2/account/positions/x/y"):
        status, error = await client.call("GET", path)
        assert (status, error) == (404, {"code": 40410000, "message": "endpoint not found"}), path
    status, error = await client.call("PUT", "/v2/orders")
    assert (status, error["code"]) == (405, 40510000)
    assert "DELETE, GET, POST" in error["message"]


@pytest.mark.parametrize(
    "path",
    [
        *("/v1beta1/news", "/v1beta1/screener/stocks/most-actives", "/v1/corporate-actions", "/v1"),
        *("/v1beta3/crypto/us/latest/orderbooks", "/v2beta1/x", "/v3/clock", "//v2/account", "/v2beta"),
    ],
)
async def test_what_alpaca_has_elsewhere_is_a_404_that_its_client_reads(broker: Broker, path: str) -> None:
    customer = await broker.customer()
    status, error = await as_alpaca(customer).call("GET", path)
    assert (status, error) == (404, {"code": 40410000, "message": "endpoint not found"})
    version, _, rest = path.strip("/").partition("/")
    url = customer.url + "/" * path.startswith("//")  # as one that ends in a slash does it
    with pytest.raises(APIError) as raised:
        await asyncio.to_thread(sdk(replace(customer, url=url)).get, f"/{rest}", api_version=version)
    assert (raised.value.message, raised.value.code) == ("endpoint not found", 40410000)


async def test_other_paths_have_errors_of_our_own(broker: Broker) -> None:
    for path in ("/api/v1/nothing", "/admin/v1/nothing", "/nothing", "/version"):
        status, error = await broker.stranger.call("GET", path)
        assert (status, error["code"]) == (404, "no_such_route"), path


async def test_a_question_may_name_a_thousand_symbols(broker: Broker) -> None:
    """In a longer line than a server takes where nobody says so."""
    names = ",".join(f"{'LONGSYMBOL'[: 12 - len(text)]}{text}" for text in map(str, range(1_000, 2_000)))
    assert len(names) > 10_000
    status, _ = await (await bot(broker)).call("GET", "/v2/stocks/quotes/latest", params={"symbols": names})
    assert status == 200


async def test_a_suspended_customer_looks_but_does_not_trade(broker: Broker) -> None:
    client = await bot(broker)
    await broker.operator.call("POST", f"/admin/v1/customers/{client.customer_id}/suspend")
    account = await ok(client, "account")
    assert (account["trading_blocked"], account["account_blocked"]) == (True, True)
    status, error = await order(client)
    assert (status, error["code"]) == (403, 40310000)


# ------------------------------------------------------------------ account


@pytest.mark.usefixtures("no_midnight")
async def test_the_account_has_alpacas_figures(broker: Broker) -> None:
    client = await bot(broker)
    before = await ok(client, "account")
    read = TradeAccount(**before)
    assert (before["cash"], before["equity"], before["last_equity"]) == ("100000.00",) * 3
    assert (before["multiplier"], before["status"], before["trading_blocked"]) == ("1", "ACTIVE", False)
    await holding(client, 10)
    after = await ok(client, "account")
    assert TradeAccount(**after).id == read.id
    assert float(after["long_market_value"]) > 0
    total = float(after["cash"]) + float(after["long_market_value"])
    assert float(after["equity"]) == pytest.approx(total, abs=0.01)
    assert after["last_equity"] == "100000.00"
    await resting(client, limit_price=100)
    assert float((await ok(client, "account"))["buying_power"]) == pytest.approx(float(after["cash"]) - 1000, abs=0.01)


async def test_an_account_on_margin_has_its_multiplier_and_requirements(broker: Broker) -> None:
    status, created = await broker.operator.call(
        "POST", "/admin/v1/customers", {"cash": "100000.00", "accountType": "margin"}
    )
    assert status == 201, created
    client = as_alpaca(Client(broker.http, broker.running.url, created["token"], created["customerId"]))
    await holding(client, 10)
    account = await ok(client, "account")
    TradeAccount(**account)
    assert account["multiplier"] == "2"
    assert float(account["buying_power"]) > float(account["equity"])
    assert float(account["initial_margin"]) == pytest.approx(float(account["long_market_value"]) / 2, abs=0.01)
    assert 0 < float(account["maintenance_margin"]) < float(account["initial_margin"])


async def test_before_its_opening_an_account_was_worth_what_it_began_with(with_settings: Callable[..., Config]) -> None:
    async with run_broker(with_settings(hours="XNYS", clock="2026-11-25T12:00-05:00", freeze=True)) as broker:
        client = await bot(broker)
        await holding(client, 10)
        clock = {"now": "2026-11-24T12:00-05:00"}
        status, answer = await broker.operator.call("PUT", "/admin/v1/exchange/clock", clock)
        assert status == 200, answer
        account = await ok(client, "account")
        assert (account["last_equity"], account["balance_asof"]) == ("100000.00", "2026-11-23")
        assert (await ok(client, "account/portfolio/history"))["equity"]


async def test_settings_are_kept_and_nulls_leave_them_alone(broker: Broker) -> None:
    client = await bot(broker)
    before = await ok(client, "account/configurations")
    AccountConfiguration(**before)
    assert (before["dtbp_check"], before["suspend_trade"]) == ("entry", False)
    body = {**dict.fromkeys(before), "dtbp_check": "both", "trade_confirm_email": "none"}
    after = await ok(client, "account/configurations", "PATCH", body)
    assert after == {**before, "dtbp_check": "both", "trade_confirm_email": "none"}
    assert await ok(client, "account/configurations", "PATCH", {}) == after
    assert await ok(client, "account/configurations") == after
    for wrong in ({"dtbp_check": "never"}, {"suspend_trade": "yes"}, {"max_margin_multiplier": "9"}):
        status, error = await client.call("PATCH", "/v2/account/configurations", wrong)
        assert (status, error["code"]) == (422, 40010001), wrong
    assert await ok(await bot(broker), "account/configurations") == before


async def test_suspend_trade_refuses_new_orders_until_it_is_taken_back(broker: Broker) -> None:
    client, other = await bot(broker), await bot(broker)
    rests = await resting(client)
    assert (await ok(client, "account/configurations", "PATCH", {"suspend_trade": True}))["suspend_trade"] is True
    assert (await ok(client, "account"))["trade_suspended_by_user"] is True
    status, error = await order(client)
    assert (status, error) == (403, {"code": 40310000, "message": "new orders are rejected by user request"})
    await placed(other)
    assert (await client.call("DELETE", f"/v2/orders/{rests['id']}"))[0] == 204
    assert (await ok(client, "account/configurations", "PATCH", {"suspend_trade": False}))["suspend_trade"] is False
    await placed(client)


# ------------------------------------------------------------------ positions


async def test_a_position_has_alpacas_figures(broker: Broker) -> None:
    client = await bot(broker)
    assert await ok(client, "positions") == []
    status, error = await client.call("GET", "/v2/positions/AAPL")
    assert (status, error) == (404, {"code": 40410000, "message": "position does not exist"})
    await holding(client, 10)
    await resting(client, side="sell", qty=4, limit_price=400)
    [found] = await ok(client, "positions")
    Position(**found)
    assert (found["qty"], found["qty_available"], found["side"], found["asset_class"]) == (
        "10",
        "6",
        "long",
        "us_equity",
    )
    assert float(found["market_value"]) == pytest.approx(10 * float(found["current_price"]))
    gain = float(found["market_value"]) - float(found["cost_basis"])
    assert float(found["unrealized_pl"]) == pytest.approx(gain, abs=0.01)
    assert float(found["unrealized_plpc"]) == pytest.approx(gain / float(found["cost_basis"]), abs=1e-5)
    for named in ("AAPL", found["asset_id"]):
        assert (await ok(client, f"positions/{named}"))["asset_id"] == found["asset_id"]


async def test_a_position_is_closed_in_part_and_in_full(broker: Broker) -> None:
    client = await bot(broker)
    await holding(client, 10)
    for query, quantity in (({"qty": "3"}, "3"), ({"percentage": "50"}, "3"), ({}, "4")):
        closing = await ok(client, "positions/AAPL", "DELETE", **query)
        Order(**closing)
        assert (closing["side"], closing["type"], closing["qty"]) == ("sell", "market", quantity)
        await becomes(client, closing["id"], "filled")
    assert (await client.call("DELETE", "/v2/positions/AAPL"))[0] == 404


async def test_what_cannot_be_closed_says_why(broker: Broker) -> None:
    client = await bot(broker)
    await holding(client, 10)
    await resting(client, side="sell", qty=4, limit_price=400)
    for query, status, code in (
        ({}, 403, 40310000),
        ({"qty": "1", "percentage": "10"}, 422, 40010001),
        ({"qty": "0.5"}, 422, 42210000),
        ({"percentage": "1"}, 422, 42210000),
        ({"percentage": "101"}, 422, 40010001),
    ):
        found, error = await client.call("DELETE", "/v2/positions/AAPL", params=query)
        assert (found, error["code"]) == (status, code), query


async def test_closing_all_cancels_the_orders_first_when_asked(broker: Broker) -> None:
    client = await bot(broker)
    assert await client.call("DELETE", "/v2/positions") == (207, [])
    await holding(client, 10)
    rests = await resting(client, side="sell", qty=4, limit_price=400)
    status, [row] = await client.call("DELETE", "/v2/positions")
    ClosePositionResponse(**row)
    assert (status, row["status"], row["body"]["held_for_orders"], row["order_id"]) == (207, 403, "4", None)
    status, [row] = await client.call("DELETE", "/v2/positions", params={"cancel_orders": "True"})
    ClosePositionResponse(**row)
    assert (status, row["status"], row["symbol"], row["order_id"]) == (207, 200, "AAPL", row["body"]["id"])
    await becomes(client, rests["id"], "canceled")
    await becomes(client, row["order_id"], "filled")
    assert await ok(client, "positions") == []


async def test_all_positions_are_closed_at_the_same_time(broker: Broker) -> None:
    """None waits for an answer about another one: all are placed while the exchange takes its time with the first."""
    client, symbols = await bot(broker), ["AAPL", "MSFT", "GOOGL", "NVDA", "AMZN", "TSLA"]
    for symbol in symbols:
        await becomes(client, (await placed(client, symbol=symbol, qty=2))["id"], "filled")
    await resting(client, symbol="TSLA", side="sell", qty=1, limit_price=4000)
    slow = {"orders": [{"do": "delay", "ms": 3_000}]}
    status, answer = await broker.operator.call("POST", "/admin/v1/exchange/script", slow)
    assert status == 200, answer
    status, rows = await client.call("DELETE", "/v2/positions")
    assert {row["symbol"]: row["status"] for row in rows} == {**dict.fromkeys(symbols, 200), "TSLA": 403}
    for row in rows:
        ClosePositionResponse(**row)
    closing = [await becomes(client, row["order_id"], "filled") for row in rows if row["order_id"]]
    assert len(closing) == 5
    first_filled = min(datetime.fromisoformat(each["filled_at"]) for each in closing)
    assert max(datetime.fromisoformat(each["created_at"]) for each in closing) < first_filled, (
        "one waited for another one"
    )


# ------------------------------------------------------------------ history and activities


@pytest.mark.parametrize(
    "query",
    [
        {"date_end": "9999-12-31"},
        {"start": "0020-01-01", "end": "0030-01-01"},
        {"end": "0001-01-01"},
        {"start": "0001-01-01T00:00:00Z", "timeframe": "1Min"},
        {"period": "9999A", "end": "1970-01-02"},
    ],
)
async def test_a_history_of_any_dates_is_one(broker: Broker, query: dict[str, str]) -> None:
    PortfolioHistory(**await ok(await bot(broker), "account/portfolio/history", **query))


async def test_a_history_can_end_on_the_29th_of_february(with_settings: Callable[..., Config]) -> None:
    async with run_broker(with_settings(clock="2028-02-29T12:00-05:00")) as broker:
        found = await ok(await bot(broker), "account/portfolio/history", period="1A")
        assert found["equity"][-1] == 100_000


async def test_activities_of_any_dates(broker: Broker) -> None:
    client = await bot(broker)
    for query in ({"date": "9999-12-31"}, {"date": "0001-01-01"}, {"until": "0001-01-01"}, {"after": "9999-12-31"}):
        assert await ok(client, "account/activities", **query) == [], query
    for query in ({"until": "9999-12-31"}, {"after": "0001-01-01T00:00:00Z"}):
        assert len(await ok(client, "account/activities", **query)) == 1, query


async def test_what_is_taken_back_later_names_its_execution_and_moves_no_end(
    with_settings: Callable[..., Config],
) -> None:
    async with quiet_desk(with_settings) as desk, listening(desk.customer) as socket:
        client, order_id = as_alpaca(desk.customer), await desk.order()
        assert (await desk.says([fill(order_id, "e-1", 4), fill(order_id, "e-2", 6, type="FILLED")]))[0] == 204
        filled = await get(client, order_id)
        busted = {"type": "BUSTED", "order_id": order_id, "execution_id": "e-1", "reason": "a mistake"}
        assert (await desk.says([busted]))[0] == 204
        after = await get(client, order_id)
        told = await updates(socket, "trade_bust")
        bust, *fills = await ok(client, "account/activities", activity_types="BUST,FILL")
    assert (after["status"], after["filled_at"]) == ("filled", filled["filled_at"])
    assert after["updated_at"] > filled["updated_at"] == filled["filled_at"]
    assert [each["execution_id"] for each in (*fills[::-1], bust)] == [
        each["execution_id"] for each in told if each["execution_id"]
    ]
    assert bust["execution_id"] == next(each for each in fills if each["qty"] == "4")["execution_id"]


async def test_the_history_begins_with_the_account_and_ends_now(broker: Broker) -> None:
    client = await bot(broker)
    await holding(client, 10)
    for query in ({}, {"period": "1D", "timeframe": "5Min"}, {"period": "1A"}, {"period": "all"}, {"timeframe": "1H"}):
        found = await ok(client, "account/portfolio/history", **query)
        PortfolioHistory(**found)
        lengths = {len(found[name]) for name in ("timestamp", "equity", "profit_loss", "profit_loss_pct")}
        assert lengths == {len(found["timestamp"])}
        assert found["timestamp"] == sorted(found["timestamp"])
        assert abs(found["timestamp"][-1] - datetime.now(UTC).timestamp()) < 10
        assert found["equity"][-1] == pytest.approx(float((await ok(client, "account"))["equity"]), abs=50)
    past = await ok(client, "account/portfolio/history", start="2020-01-01T00:00:00Z", end="2020-02-01T00:00:00+00:00")
    assert past["base_value"] == 0
    for wrong in ({"period": "soon"}, {"timeframe": "2Min"}, {"start": "2030-01-01", "end": "2020-01-01"}):
        assert (await client.call("GET", "/v2/account/portfolio/history", params=wrong))[0] == 422, wrong


async def test_activities_tell_executions_and_deposits(broker: Broker) -> None:
    client = await bot(broker)
    bought = await placed(client, qty=10)
    await becomes(client, bought["id"], "filled")
    sold = await placed(client, side="sell", qty=10)
    await becomes(client, sold["id"], "filled")
    everything = await ok(client, "account/activities")
    fills = await ok(client, "account/activities/FILL")
    assert fills == [each for each in everything if each["activity_type"] == "FILL"]
    assert everything[-1]["activity_type"] == "CSD"
    assert everything[-1]["net_amount"] == "100000.00"
    account = await ok(client, "account")
    assert {each["account_id"] for each in everything} == {account["id"]}
    assert sum(int(each["qty"]) for each in fills if each["order_id"] == bought["id"]) == 10
    newest = next(each for each in fills if each["order_id"] == sold["id"])
    assert (newest["type"], newest["cum_qty"], newest["leaves_qty"], newest["side"]) == ("fill", "10", "0", "sell")
    assert newest["order_status"] == "filled"
    assert await ok(client, "account/activities", direction="asc") == everything[::-1]
    fees = await ok(client, "account/activities", activity_types="FEE,CSW")
    assert fees == [each for each in everything if each["activity_type"] == "FEE"]
    assert fees, "a sale pays the SEC's fee"
    paged: list[Any] = []
    while page := await ok(
        client, "account/activities", page_size="1", **({"page_token": paged[-1]["id"]} if paged else {})
    ):
        paged += page
    assert paged == everything
    today = datetime.now(UTC)
    assert await ok(client, "account/activities", after=(today + timedelta(1)).isoformat()) == []
    assert await ok(client, "account/activities", until=(today + timedelta(1)).isoformat()) == everything
    assert await ok(client, "account/activities", date="2020-01-02") == []
    assert await ok(client, "account/activities/DIVNRA") == []
    assert (await client.call("GET", "/v2/account/activities", params={"page_token": "x"}))[0] == 422


# ------------------------------------------------------------------ the market


async def test_assets_clock_and_calendar_of_a_market_that_never_closes(broker: Broker) -> None:
    client = await bot(broker)
    assets = await ok(client, "assets", status="active", asset_class="us_equity")
    for each in assets:
        Asset(**each)
    apple = next(each for each in assets if each["symbol"] == "AAPL")
    assert (apple["class"], apple["exchange"], apple["fractionable"]) == ("us_equity", "NASDAQ", False)
    assert await ok(client, f"assets/{apple['id']}") == await ok(client, "assets/AAPL") == apple
    assert await ok(client, "assets", asset_class="crypto") == await ok(client, "assets", status="inactive") == []
    assert (await client.call("GET", "/v2/assets/NOSUCH"))[1]["code"] == 40410000
    clock = await ok(client, "clock")
    Clock(**clock)
    assert clock["is_open"] is True
    days = await ok(client, "calendar", start="2026-11-25", end="2026-11-29")
    assert [Calendar(**each).date.day for each in days] == [25, 26, 27, 28, 29]


async def test_clock_and_calendar_are_new_yorks(with_settings: Callable[..., Config]) -> None:
    async with run_broker(with_settings(hours="XNYS")) as running:
        client = await bot(running)
        Clock(**await ok(client, "clock"))
        days = await ok(client, "calendar", start="2026-11-25", end="2026-11-29")
        assert [(each["date"], each["open"], each["close"]) for each in days] == [
            ("2026-11-25", "09:30", "16:00"),
            ("2026-11-27", "09:30", "13:00"),
        ]
        assert (days[1]["session_open"], days[1]["session_close"]) == ("0400", "1700")
        whole = await ok(client, "calendar")
        assert (whole[0]["date"], whole[-1]["date"]) == ("1970-01-02", "2029-12-31")
        assert (await client.call("GET", "/v2/calendar", params={"start": "soon"}))[0] == 422


async def test_there_are_no_announcements_and_no_options(broker: Broker) -> None:
    client = await bot(broker)
    assert await ok(client, "corporate_actions/announcements", ca_types="dividend") == []
    assert await ok(client, "options/contracts") == {"option_contracts": [], "next_page_token": None}
    for method, path in (("GET", "corporate_actions/announcements/x"), ("GET", "options/contracts/x")):
        assert (await client.call(method, f"/v2/{path}"))[1]["code"] == 40410000
    assert (await client.call("POST", "/v2/positions/AAPL/exercise"))[1]["code"] == 40310000


# ------------------------------------------------------------------ watchlists


async def test_watchlists_are_kept_by_id_and_by_name(broker: Broker) -> None:
    client, other = await bot(broker), await bot(broker)
    made = await ok(client, "watchlists", "POST", {"name": "mine", "symbols": ["MSFT", "AAPL", "MSFT"]})
    Watchlist(**made)
    assert [each["symbol"] for each in made["assets"]] == ["MSFT", "AAPL"]
    path = f"watchlists/{made['id']}"
    assert await ok(client, path) == made
    assert await ok(client, "watchlists") == [{name: made[name] for name in made if name != "assets"}]
    Watchlist(**(await ok(client, "watchlists"))[0])
    assert await ok(client, "watchlists:by_name", name="mine") == made
    changed = await ok(client, path, "PUT", {"name": "ours"})
    assert (changed["name"], changed["assets"]) == ("ours", made["assets"])
    added = await ok(client, path, "POST", {"symbol": "GOOGL"})
    assert [each["symbol"] for each in added["assets"]] == ["MSFT", "AAPL", "GOOGL"]
    less = await ok(client, f"{path}/AAPL", "DELETE")
    assert [each["symbol"] for each in less["assets"]] == ["MSFT", "GOOGL"]
    assert (await ok(client, "watchlists:by_name", "PUT", {"symbols": []}, name="ours"))["assets"] == []
    assert len((await ok(client, "watchlists:by_name", "POST", {"symbol": "AAPL"}, name="ours"))["assets"]) == 1
    assert await ok(other, "watchlists") == []
    for method, body in (("GET", None), ("PUT", {}), ("POST", {"symbol": "AAPL"}), ("DELETE", None)):
        assert (await other.call(method, f"/v2/{path}", body))[1]["code"] == 40410000
    second = await ok(client, "watchlists", "POST", {"name": "second", "symbols": ["AAPL"]})
    assert (await client.call("DELETE", "/v2/watchlists:by_name", params={"name": "second"}))[0] == 204
    assert (await client.call("GET", f"/v2/watchlists/{second['id']}"))[0] == 404
    assert (await client.call("DELETE", f"/v2/{path}"))[0] == 204
    assert await ok(client, "watchlists") == []


async def test_what_is_no_watchlist_says_so(broker: Broker) -> None:
    client = await bot(broker)
    await ok(client, "watchlists", "POST", {"name": "mine", "symbols": []})
    for body, code in (
        ({"symbols": []}, 40010001),
        ({"name": "x" * 65, "symbols": []}, 40010001),
        ({"name": "mine", "symbols": []}, 42210000),
        ({"name": "new", "symbols": ["NOSUCH"]}, 42210000),
        ({"name": "new", "symbols": [1]}, 40010001),
    ):
        status, error = await client.call("POST", "/v2/watchlists", body)
        assert (status, error["code"]) == (422, code), body
    assert (await client.call("GET", "/v2/watchlists/nonsense"))[0] == 404


# ------------------------------------------------------------------ alpaca-py itself


async def test_alpaca_py_reads_everything(broker: Broker) -> None:
    customer = await broker.customer()
    client = sdk(customer)
    await holding(as_alpaca(customer), 10)

    def work() -> None:
        assert client.get_account().status == "ACTIVE"  # type: ignore[union-attr]
        settings = client.get_account_configurations()
        settings.trade_confirm_email = "none"  # type: ignore[union-attr,assignment]
        assert client.set_account_configurations(settings).trade_confirm_email == "none"  # type: ignore[union-attr,arg-type]
        assert client.get_clock().is_open  # type: ignore[union-attr]
        assert len(client.get_calendar(GetCalendarRequest(start="2026-11-02", end="2026-11-06"))) == 5  # type: ignore[arg-type]
        assert client.get_all_assets(GetAssetsRequest())
        asset = client.get_asset("AAPL")
        assert client.get_open_position(asset.id).qty == "10"  # type: ignore[union-attr]
        assert len(client.get_all_positions()) == 1
        assert client.get_portfolio_history(GetPortfolioHistoryRequest(period="1W")).equity  # type: ignore[union-attr]
        assert len(client.get("/account/activities")) >= 2
        made = client.create_watchlist(CreateWatchlistRequest(name="w", symbols=["AAPL"]))
        client.update_watchlist_by_id(made.id, UpdateWatchlistRequest(symbols=["MSFT"]))  # type: ignore[union-attr]
        client.add_asset_to_watchlist_by_id(made.id, "GOOGL")  # type: ignore[union-attr]
        left = client.remove_asset_from_watchlist_by_id(made.id, "MSFT")  # type: ignore[union-attr]
        assert [each.symbol for each in left.assets] == ["GOOGL"]  # type: ignore[union-attr]
        assert len(client.get_watchlists()) == 1
        client.delete_watchlist_by_id(made.id)  # type: ignore[union-attr]
        assert client.close_position("AAPL", ClosePositionRequest(percentage="50")).qty == "5"  # type: ignore[union-attr]
        assert len(client.close_all_positions(cancel_orders=True)) == 1
        rows = client.cancel_orders()
        assert all(isinstance(row, CancelOrderResponse) for row in rows)
        with pytest.raises(APIError) as missing:
            client.get_open_position("MSFT")
        assert (missing.value.status_code, missing.value.code) == (404, 40410000)
        assert json.loads(str(missing.value))["message"] == "position does not exist"

    await asyncio.to_thread(work)
    assert await eventually(lambda: _sold(as_alpaca(customer)))


async def _sold(client: Client) -> bool:
    return await ok(client, "positions") == []
