"""What a customer has, what it is worth and how it came about, over real HTTP on a real database."""

from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from broker.config import Config
from broker.core import credit
from broker.core.history import Period, Timeframe, first_id
from broker.core.money import Money, format_money, parse_money
from broker.core.types import CustomerId
from broker.db import Database, query
from broker.ledger import Ledger
from broker.portfolio import Portfolio
from broker.price_samples import PriceSamples
from tests.builders import NOW, FixedMarket, conditions
from tests.conftest import Broker, Client, eventually, run_broker


async def get(customer: Client, path: str) -> Any:
    status, answer = await customer.call("GET", path)
    assert status == 200, answer
    return answer


async def filled(customer: Client, type_: str, symbol: str, quantity: int) -> Any:
    status, placed = await customer.place(type_, symbol, quantity)
    assert status == 201, placed
    trade = await customer.ended(placed["tradeId"])
    assert trade["status"] == "FILLED", trade
    return trade


async def margin_customer(broker: Broker, cash: str = "10000.00") -> Client:
    status, made = await broker.operator.call("POST", "/admin/v1/customers", {"cash": cash, "accountType": "margin"})
    assert status == 201, made
    return Client(broker.http, broker.running.url, made["token"], made["customerId"])


async def every(customer: Client, path: str, what: str, limit: int = 3) -> list[Any]:
    """All pages of a list; no line is on two of them."""
    found: list[Any] = []
    cursor = ""
    while True:
        page = await get(customer, f"{path}{'&' if '?' in path else '?'}limit={limit}{cursor}")
        assert len(page[what]) <= limit
        found += page[what]
        if page["next_cursor"] is None:
            break
        assert len(page[what]) == limit
        cursor = f"&cursor={page['next_cursor']}"
    ids = [each.get("id") or each["execution_id"] for each in found]
    assert len(set(ids)) == len(ids)
    return found


def money(text: str) -> Money:
    return parse_money(text)


@pytest.fixture
async def database(dsn: str) -> AsyncIterator[Database]:
    """A database without a broker."""
    database = Database(dsn, Config())
    await database.open()
    yield database
    await database.close()


# ------------------------------------------------------------------ account


async def test_a_new_account_is_its_cash(broker: Broker) -> None:
    customer = await broker.customer(cash="2500.00")
    assert await get(customer, "/api/v1/account") == {
        "customer_id": customer.customer_id,
        "account_type": "cash",
        "status": "active",
        "trading_stopped": None,
        "currency": "USD",
        "cash": "2500.00",
        "held": "0.00",
        "available": "2500.00",
        "market_value": "0.00",
        "equity": "2500.00",
        "buying_power": "2500.00",
        "initial_margin": None,
        "maintenance_margin": None,
        "margin_excess": None,
        "intraday_level": None,
        "intraday_lowest": None,
        "margin_call": "0.00",
        "margin_state": "none",
        "day_trades": 0,
        "day_trading_rule": "intraday_margin",
        "pattern_day_trader": None,
        "realized_pnl": "0.00",
        "unrealized_pnl": "0.00",
        "unpriced": [],
    }


@pytest.mark.usefixtures("no_midnight")
async def test_a_margin_account_is_shown_as_the_risk_checks_see_it(broker: Broker) -> None:
    customer = await margin_customer(broker, cash="10000.00")
    await filled(customer, "BUY", "AAPL", 20)
    await filled(customer, "SELL", "AAPL", 5)
    account = await get(customer, "/api/v1/account")
    value, equity = money(account["market_value"]), money(account["equity"])
    assert (account["account_type"], account["margin_state"], account["margin_call"]) == ("margin", "ok", "0.00")
    assert equity == money(account["cash"]) + value
    assert money(account["initial_margin"]) == -(-value // 2)
    assert money(account["maintenance_margin"]) == -(-value // 4)
    assert money(account["margin_excess"]) == (2 * equity - value) // 2
    assert abs(money(account["buying_power"]) - 2 * money(account["margin_excess"])) <= 1
    assert money(account["intraday_level"]) == equity - money(account["maintenance_margin"])
    assert money(account["intraday_lowest"]) <= money(account["intraday_level"])
    assert account["day_trades"] == 1
    position = await get(customer, "/api/v1/positions/AAPL")
    assert account["realized_pnl"] == position["realizedPnl"]


async def test_open_orders_count_as_they_do_in_the_risk_checks(broker: Broker, database: Database) -> None:
    """The account as a shard loads it, and the account as it is shown, with a resting BUY: the same figures."""
    customer = await margin_customer(broker, cash="10000.00")
    await filled(customer, "BUY", "AAPL", 20)
    order = {"symbol": "AAPL", "side": "buy", "quantity": 10, "order_type": "limit", "price": "50.00"}
    status, placed = await customer.call("POST", "/api/v1/orders", {**order, "time_in_force": "gtc"})
    assert status == 201, placed

    async def held() -> bool:
        return (await get(customer, "/api/v1/account"))["held"] != "0.00"

    await eventually(held)
    now, owner = conditions(market=FixedMarket({"AAPL": "271.50"})), CustomerId(int(customer.customer_id))
    ledger = Ledger(database, 0, uuid4, lambda: now.today)
    figures = credit.margin_figures((await ledger.load_accounts([owner]))[owner], now)
    await ledger.close()
    shown = await Portfolio(database, lambda: now).account(owner)
    assert money(shown["held"]) >= money("500.00")
    assert shown["margin_excess"] == format_money(figures.excess)
    assert shown["buying_power"] == format_money(figures.buying_power)
    assert shown["equity"] == format_money(figures.equity)


@pytest.mark.usefixtures("no_midnight")
async def test_the_old_day_trading_rule_flags_who_makes_four(with_settings: Callable[..., Config]) -> None:
    async with run_broker(with_settings(day_trading_rule="pattern_day_trader")) as broker:
        customer = await margin_customer(broker, cash="100000.00")
        for made in range(1, 5):
            await filled(customer, "BUY", "AAPL", 1)
            await filled(customer, "SELL", "AAPL", 1)
            account = await get(customer, "/api/v1/account")
            assert (account["day_trades"], account["pattern_day_trader"]) == (made, made > 3)


async def test_a_switch_and_a_suspension_are_shown(broker: Broker) -> None:
    customer = await broker.customer()
    await broker.fetch(f"INSERT INTO control VALUES ('customer:{customer.customer_id}', 'asked for papers')")
    assert (await get(customer, "/api/v1/account"))["status"] == "restricted"
    await broker.operator.call("POST", f"/admin/v1/customers/{customer.customer_id}/suspend")
    assert (await get(customer, "/api/v1/account"))["status"] == "suspended"


async def test_what_has_no_price_is_named_and_counts_as_nothing(broker: Broker, database: Database) -> None:
    customer = await broker.customer()
    await filled(customer, "BUY", "AAPL", 10)
    blind = Portfolio(database, lambda: conditions(market=FixedMarket()))
    account = await blind.account(CustomerId(int(customer.customer_id)))
    position = await blind.position(CustomerId(int(customer.customer_id)), "AAPL")
    assert account["unpriced"] == ["AAPL"]
    assert (account["market_value"], account["equity"]) == ("0.00", account["cash"])
    assert position is not None
    assert [position[each] for each in ("currentPrice", "currentValue", "unrealizedPnl", "unrealizedPnlPct")] == [
        None
    ] * 4


# ------------------------------------------------------------------ positions


async def test_a_position_has_its_cost_and_gains(broker: Broker) -> None:
    customer = await broker.customer()
    bought = await filled(customer, "BUY", "AAPL", 10)
    position = await get(customer, "/api/v1/positions/AAPL")
    paid = money(bought["executions"][0]["price"])
    assert (position["quantity"], position["held"], position["available"]) == (10, 0, 10)
    assert position["averageCost"] == format_money(paid)
    assert position["costBasis"] == format_money(Money(10 * paid))
    assert money(position["currentValue"]) == 10 * money(position["currentPrice"])
    assert money(position["unrealizedPnl"]) == money(position["currentValue"]) - 10 * paid
    listed = await get(customer, "/api/v1/positions")
    assert listed["customerId"] == customer.customer_id
    assert [each.keys() for each in listed["positions"]] == [position.keys()]

    sold = await filled(customer, "SELL", "AAPL", 4)
    position = await get(customer, "/api/v1/positions/AAPL")
    got = money(sold["executions"][0]["price"])
    assert position["costBasis"] == format_money(Money(6 * paid))
    assert money(position["realizedPnl"]) == 4 * (got - paid)  # before fees
    executions = (await get(customer, "/api/v1/executions"))["executions"]
    assert [each["realized_pnl"] for each in executions] == [position["realizedPnl"], None]


@pytest.mark.parametrize("symbol", ["MSFT", "NOSUCH", "aapl", "%00", "A" * 50, "$USD"])
async def test_a_position_that_is_not_there_is_404(broker: Broker, symbol: str) -> None:
    customer, other = await broker.customer(), await broker.customer()
    await filled(other, "BUY", "MSFT", 1)
    status, error = await customer.call("GET", f"/api/v1/positions/{symbol}")
    assert (status, error["code"]) == (404, "no_such_position")


# ------------------------------------------------------------------ executions


async def test_executions_are_paged_and_filtered(broker: Broker) -> None:
    customer, other = await broker.customer(), await broker.customer()
    trades = [await filled(customer, "BUY", symbol, 1) for symbol in ("AAPL", "MSFT", "AAPL", "MSFT", "AAPL")]
    await filled(other, "BUY", "AAPL", 1)
    found = await every(customer, "/api/v1/executions", "executions", limit=2)
    assert [each["order_id"] for each in found] == [trade["tradeId"] for trade in reversed(trades)]
    last, execution = found[0], trades[-1]["executions"][0]
    assert last["executed_at"] == execution["executedAt"]
    assert last["execution_id"] == execution["executionId"]
    assert last["value"] == last["price"] == execution["price"]
    assert (last["side"], last["symbol"], last["quantity"]) == ("buy", "AAPL", 1)
    assert (last["busted"], last["corrects"], last["realized_pnl"], last["venue"]) == (False, None, None, "sim")

    msft = await every(customer, "/api/v1/executions?symbol=MSFT", "executions", limit=1)
    assert [each["symbol"] for each in msft] == ["MSFT", "MSFT"]
    one = await every(customer, f"/api/v1/executions?order_id={trades[1]['tradeId']}", "executions")
    assert [each["order_id"] for each in one] == [trades[1]["tradeId"]]
    assert await every(other, f"/api/v1/executions?order_id={trades[1]['tradeId']}", "executions") == []
    since = trades[2]["executions"][0]["executedAt"]
    assert len(await every(customer, f"/api/v1/executions?from={since}", "executions")) == 3
    assert len(await every(customer, f"/api/v1/executions?to={since}", "executions")) == 2


# ------------------------------------------------------------------ activities


async def test_the_cash_of_all_activities_sums_to_the_balance(broker: Broker) -> None:
    customer = await broker.customer(cash="100000.00")
    await filled(customer, "BUY", "AAPL", 10)
    await filled(customer, "SELL", "AAPL", 10)
    bought = await filled(customer, "BUY", "MSFT", 7)
    sold = await filled(customer, "SELL", "MSFT", 2)
    admin = f"/admin/v1/customers/{customer.customer_id}"
    await broker.operator.call("POST", f"{admin}/credits", {"amount": "250.00", "reference": "bank-1"})
    await broker.operator.call("POST", f"{admin}/debits", {"amount": "49.99", "reference": "bank-2"})
    exchange = broker.running.exchange_url
    wrong, corrected = (trade["executions"][0]["executionId"] for trade in (sold, bought))
    for path, body in ((f"{wrong}/bust", {"reason": "a mistake"}), (f"{corrected}/correct", {"price": "100.00"})):
        async with broker.http.post(f"{exchange}/v1/executions/{path}", json=body) as response:
            assert response.status == 200, await response.text()

    async def taken_back() -> bool:
        found = await every(customer, "/api/v1/activities?type=bust", "activities")
        return len(found) == 2

    await eventually(taken_back)
    await eventually(lambda: _has_corrected(customer, corrected))
    found = await every(customer, "/api/v1/activities", "activities", limit=2)
    balance = await get(customer, "/api/v1/balance")
    assert sum(money(each["cash"]) for each in found) == money(balance["amount"])
    assert [each["at"] for each in found] == sorted((each["at"] for each in found), reverse=True)

    shares: dict[str, int] = {}
    for each in found:
        if each["symbol"] and each["quantity"]:
            shares[each["symbol"]] = shares.get(each["symbol"], 0) + each["quantity"]
    positions = (await get(customer, "/api/v1/positions"))["positions"]
    held = {each["symbol"]: each["quantity"] for each in positions}
    assert {symbol: count for symbol, count in shares.items() if count} == held
    executions = await every(customer, "/api/v1/executions", "executions")
    assert {each["execution_id"] for each in executions if each["busted"]} == {wrong, corrected}


async def _has_corrected(customer: Client, execution_id: str) -> bool:
    executions = await every(customer, "/api/v1/executions", "executions")
    return any(each["corrects"] == execution_id for each in executions)


async def test_activities_say_what_happened(broker: Broker) -> None:
    customer = await broker.customer(cash="100000.00")
    trade = await filled(customer, "BUY", "AAPL", 10)
    admin = f"/admin/v1/customers/{customer.customer_id}"
    await broker.operator.call("POST", f"{admin}/debits", {"amount": "49.99", "reference": "bank-2"})
    found = await every(customer, "/api/v1/activities", "activities")
    price = trade["executions"][0]["price"]
    assert [(each["type"], each["description"], each["reference"]) for each in found if each["type"] != "fee"] == [
        ("cash", "Withdrawal.", "bank-2"),
        ("fill", f"Bought 10 AAPL at ${price}.", f"sim:{trade['executions'][0]['executionId']}"),
        ("cash", "Opening deposit.", f"opening:{customer.customer_id}"),
    ]
    fill = found[1]
    assert (fill["symbol"], fill["quantity"], fill["price"], fill["order_id"]) == ("AAPL", 10, price, trade["tradeId"])
    assert money(fill["cash"]) == -10 * money(price)
    assert {each["type"] for each in await every(customer, "/api/v1/activities?type=cash", "activities")} == {"cash"}
    assert len(await every(customer, "/api/v1/activities?type=cash,fill", "activities", limit=1)) == 3


async def test_fees_are_activities_of_their_own(with_settings: Callable[..., Config]) -> None:
    async with run_broker(with_settings(fees="X 2026-01-01 both order=1.25")) as broker:
        customer = await broker.customer()
        await filled(customer, "BUY", "AAPL", 10)
        await filled(customer, "SELL", "AAPL", 10)
        executions = await every(customer, "/api/v1/executions", "executions")
        assert [each["fee"] for each in executions] == ["1.25", "1.25"]
        fees = await every(customer, "/api/v1/activities?type=fee", "activities", limit=1)
        assert [(each["cash"], each["order_id"]) for each in fees] == [("-1.25", e["order_id"]) for e in executions]
        everything = await every(customer, "/api/v1/activities", "activities", limit=1)
        assert [each["type"] for each in everything] == ["fee", "fill", "fee", "fill", "cash"]
        balance = await get(customer, "/api/v1/balance")
        assert sum(money(each["cash"]) for each in everything) == money(balance["amount"])


# ------------------------------------------------------------------ history


@pytest.mark.usefixtures("no_midnight")
async def test_a_history_of_today_ends_with_what_the_account_is_worth(broker: Broker) -> None:
    customer = await broker.customer(cash="100000.00")
    await filled(customer, "BUY", "AAPL", 10)
    admin = f"/admin/v1/customers/{customer.customer_id}"
    await broker.operator.call("POST", f"{admin}/credits", {"amount": "250.00", "reference": "bank-1"})
    history = await get(customer, "/api/v1/portfolio/history?period=1D")
    assert (history["period"], history["timeframe"], history["base_value"]) == ("1D", "5Min", "100000.00")
    assert history["net_deposits"][-1] == "250.00"
    worth = money(history["equity"][-1])
    assert money(history["profit_loss"][-1]) == worth - money("100250.00")
    assert abs(worth - money("100250.00")) < money("1000.00")
    lengths = {len(history[each]) for each in ("timestamps", "equity", "profit_loss", "profit_loss_pct")}
    assert len(lengths) == 1
    assert history["timestamps"] == sorted(history["timestamps"])


async def test_the_past_is_exact_in_shares_and_takes_the_prices_of_its_time(database: Database, dsn: str) -> None:
    """Ten days ago 1,000 were paid in, nine days ago 3 XX were bought at 100, which then rose to 120."""
    connection = await asyncpg.connect(dsn, server_settings={"search_path": "broker"})
    made = "SELECT create_customer('Ada', 'cash', 'k', $1, 0, $2, -2, 0)"
    customer = await connection.fetchval(made, bytes(32), uuid4())
    await _book(connection, customer, NOW - timedelta(10), "cash", {"$USD": 10_000_000})
    await _book(connection, customer, NOW - timedelta(9), "fill", {"$USD": -3_000_000, "XX": 3}, cost=3_000_000)
    await _book(connection, customer, NOW - timedelta(2), "cash", {"$USD": 2_000_000})
    await _book(connection, customer, NOW - timedelta(1), "cash", {"$USD": -500_000})
    for days, price in ((9.5, 1), (8.2, 1_100_000), (5, 1_200_000)):  # the first is from before XX was bought
        await connection.execute("INSERT INTO price_sample VALUES ('XX', $1, $2)", NOW - timedelta(days), price)
    await connection.close()
    market = FixedMarket({"XX": "130"})
    portfolio = Portfolio(database, lambda: conditions(now=NOW, market=market))

    shown = await portfolio.history(customer, Period.ALL, Timeframe.DAY)
    midnights = [datetime(2026, 11, day, 5, tzinfo=UTC) for day in range(18, 28)]
    assert shown["timestamps"] == [NOW - timedelta(10) + timedelta(milliseconds=1), *midnights, NOW]
    assert shown["equity"] == [
        *("1000.00", "1000.00", "1000.00"),  # bought at what it cost
        *("1030.00", "1030.00", "1030.00"),
        *("1060.00", "1060.00", "1060.00", "1260.00", "1210.00", "1240.00"),
    ]
    assert shown["base_value"] == "1000.00"
    assert shown["net_deposits"] == ["0.00"] * 9 + ["200.00", "150.00", "150.00"]
    assert shown["profit_loss"][-4:] == ["60.00", "60.00", "60.00", "90.00"]
    assert shown["profit_loss_pct"][-4:] == ["6.00", "5.00", "5.00", "7.50"]
    for period in (Period.MONTH, Period.QUARTER, Period.YEAR):
        assert {**shown, "period": period} == await portfolio.history(customer, period, Timeframe.DAY)
    week = await portfolio.history(customer, Period.WEEK, Timeframe.HOUR)
    assert (week["base_value"], week["equity"][-1], week["profit_loss"][-1]) == ("1030.00", "1240.00", "60.00")
    assert len(week["timestamps"]) == 7 * 24 + 2

    market.asks.clear()  # without a quote the last sample counts
    assert (await portfolio.history(customer, Period.ALL, Timeframe.DAY))["equity"][-1] == "1210.00"


async def test_an_account_without_a_past_has_one_point(database: Database, dsn: str) -> None:
    portfolio = Portfolio(database, lambda: conditions(now=NOW))
    shown = await portfolio.history(CustomerId(1001), Period.DAY, Timeframe.MINUTE)
    assert (shown["timestamps"], shown["equity"], shown["profit_loss_pct"]) == ([NOW], ["0.00"], [None])


async def _book(
    connection: asyncpg.Connection, owner: int, at: datetime, kind: str, moves: dict[str, int], cost: int = 0
) -> None:
    """What was booked at a time before this test."""
    transfer_id = first_id(at)
    async with connection.transaction():
        arguments = (transfer_id, kind, str(transfer_id), owner, at)
        await connection.execute("INSERT INTO transfer VALUES ($1, $2, $3, $4, $5)", *arguments)
        keys = [(each, asset, 0 if each > 0 else -(10**18)) for asset in moves for each in (owner, -2)]
        opening = "INSERT INTO account (owner_id, asset, floor) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING"
        await connection.executemany(opening, keys)
        lines = [(owner, asset, amount, cost if asset != "$USD" else 0) for asset, amount in moves.items()]
        lines += [(-2, asset, -amount, 0) for asset, amount in moves.items()]
        await connection.execute(
            "INSERT INTO posting SELECT $1, * FROM unnest($2::bigint[], $3::text[], $4::bigint[], $5::bigint[])",
            transfer_id,
            *(list(column) for column in zip(*lines, strict=True)),
        )


# ------------------------------------------------------------------ price samples


async def test_prices_of_what_is_held_are_sampled(broker: Broker, database: Database) -> None:
    customer = await broker.customer()
    await filled(customer, "BUY", "AAPL", 1)
    await filled(customer, "BUY", "MSFT", 1)
    await filled(customer, "SELL", "MSFT", 1)
    now = datetime.now(UTC)
    market = FixedMarket({"AAPL": "271.50", "MSFT": "5"})
    assert await PriceSamples(database, lambda: conditions(now=now, market=market)).sample()
    blind = PriceSamples(database, lambda: conditions(now=now + timedelta(1), market=FixedMarket()))
    assert not await blind.sample()
    rows = await broker.fetch("SELECT symbol, price FROM price_sample WHERE at = $1", now)
    assert [tuple(row) for row in rows] == [("AAPL", 2_715_000)]


async def test_old_samples_are_thinned_to_the_last_of_each_day_in_new_york(database: Database, dsn: str) -> None:
    times = {
        "2026-11-10T05:00:00Z": False,  # midnight in New York: the first of its day
        "2026-11-10T15:00:00Z": False,
        "2026-11-11T04:59:59Z": True,  # the evening of the 10th there
        "2026-11-11T05:00:00Z": False,
        "2026-11-11T21:00:00Z": True,
        "2026-11-20T04:59:00Z": True,
        "2026-11-20T05:00:00Z": True,  # the day of a week ago is kept whole
        "2026-11-20T15:00:00Z": True,
        "2026-11-27T14:00:00Z": True,
    }
    connection = await asyncpg.connect(dsn, server_settings={"search_path": "broker"})
    rows = [(symbol, datetime.fromisoformat(at)) for at in times for symbol in ("AAPL", "MSFT")]
    await connection.executemany("INSERT INTO price_sample VALUES ($1, $2, 1)", rows)
    await PriceSamples(database, lambda: conditions(now=NOW)).thin()
    for symbol in ("AAPL", "MSFT"):
        rows = await connection.fetch("SELECT at FROM price_sample WHERE symbol = $1 ORDER BY at", symbol)
        kept = [row["at"].strftime("%Y-%m-%dT%H:%M:%SZ") for row in rows]
        assert kept == [at for at, stays in times.items() if stays]
    await connection.close()


async def test_a_broker_samples_soon_after_its_start(with_settings: Callable[..., Config]) -> None:
    async with run_broker(with_settings(price_sample_s=0.05)) as broker:
        customer = await broker.customer()
        await filled(customer, "BUY", "AAPL", 1)
        await eventually(lambda: broker.fetch("SELECT FROM price_sample WHERE symbol = 'AAPL'"))


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    "path",
    [
        "executions?nonsense=1",
        "executions?limit=0",
        "executions?limit=1&limit=2",
        "executions?symbol=aapl",
        "executions?cursor=1",
        "executions?order_id=%00",
        "executions?from=yesterday",
        "activities?type=nonsense",
        "activities?type=",
        "activities?cursor=01a20122-d6ae-7189-9cdb-8be294388f41.0",
        "activities?symbol=AAPL",
        "portfolio/history?period=2D",
        "portfolio/history?timeframe=2Min",
        "portfolio/history?period=1Y&timeframe=1Min",
        "portfolio/history?period=1D&timeframe=1D",
        "portfolio/history?period=all&timeframe=1H",
        "portfolio/history?limit=3",
    ],
)
async def test_a_query_that_is_not_understood_is_refused(broker: Broker, path: str) -> None:
    customer = await broker.customer()
    status, error = await customer.call("GET", f"/api/v1/{path}")
    assert (status, error["code"]) == (400, "invalid_query")
    assert error["error"].endswith(".")


@pytest.mark.parametrize(
    "path", ["account", "positions", "positions/AAPL", "executions", "activities", "portfolio/history"]
)
async def test_each_route_wants_a_customer_and_a_get(broker: Broker, path: str) -> None:
    customer = await broker.customer()
    assert (await broker.stranger.call("GET", f"/api/v1/{path}"))[0] == 401
    assert (await broker.operator.call("GET", f"/api/v1/{path}"))[0] == 401
    assert (await customer.call("HEAD", f"/api/v1/{path}"))[0] == 405


@pytest.mark.parametrize("path", ["executions", "activities"])
@pytest.mark.parametrize("at", ["0001-01-01", "1970-01-01", "9999-12-31T23:59:59"])
async def test_times_at_the_ends_of_the_calendar_are_taken(broker: Broker, path: str, at: str) -> None:
    customer = await broker.customer()
    for which in ("from", "to"):
        await get(customer, f"/api/v1/{path}?{which}={at}")


# ------------------------------------------------------------------ plans

SINCE = datetime(2026, 11, 1, tzinfo=UTC)
PLANS: dict[str, tuple[Any, ...]] = {
    "account_figures": (1001, SINCE.date()),
    "positions": (1001,),
    "position": (1001, "AAPL"),
    "customer_executions": (1001, "f" * 32, "0" * 32, None, None, None, 100),
    "order_executions": (1001, "f" * 32, "0" * 32, None, None, None, 100, "0" * 32),
    "activities": (1001, "f" * 32, "0" * 32, None, False, None, None, 100),
    "first_transfer": (1001,),
    "history_moves": (1001, ["0" * 32]),
    "history_prices": (["AAPL"], [SINCE]),
    "held_symbols": (),
    "sampled_symbols": (),
    "sample_prices": (SINCE, ["AAPL"], [1]),
    "thin_price_samples": ("AAPL", SINCE),
}


@pytest.mark.parametrize("name", PLANS)
async def test_no_query_of_the_portfolio_scans_a_table(name: str, dsn: str) -> None:
    connection = await Database(dsn, Config()).connect()
    plan = "\n".join(row[0] for row in await connection.fetch("EXPLAIN " + query(name), *PLANS[name]))
    await connection.close()
    assert "Seq Scan" not in plan, plan
    assert name == "sample_prices" or "Index" in plan
    if name in {"customer_executions", "activities"}:
        assert "Sort" not in plan, plan  # a page is read from its end, not sorted out of everything
