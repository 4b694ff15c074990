"""Alpaca's market data over HTTP: past bars, the newest quotes and trades, snapshots, and what is refused."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from alpaca.common.enums import Sort
from alpaca.common.exceptions import APIError
from alpaca.data.historical import StockHistoricalDataClient
from alpaca.data.requests import (
    StockBarsRequest,
    StockLatestBarRequest,
    StockLatestQuoteRequest,
    StockLatestTradeRequest,
    StockQuotesRequest,
    StockSnapshotRequest,
    StockTradesRequest,
)
from alpaca.data.timeframe import TimeFrame, TimeFrameUnit

from broker.config import Config
from broker.core.bars import day_of, minute_of
from tests.conftest import Broker, Client, eventually, run_broker
from tests.integration.test_alpaca_orders import bot, holding
from tests.integration.test_alpaca_stream_data import (
    ToldExchange,
    credentials,
    in_the_last_minute,
    told_broker,
    wire_quote,
)

STOCKS = "/v2/stocks"
BAR = {"o": 100.0, "h": 101.5, "l": 99.25, "c": 101.0, "v": 10, "n": 3, "vw": 100.5}
"""What `saved` writes."""


class Told:
    """A broker at an exchange that says what a test wants, and a customer who asks in Alpaca's form."""

    def __init__(self, exchange: ToldExchange, broker: Broker, customer: Client) -> None:
        self.exchange = exchange
        self.broker = broker
        key, secret = credentials(customer)
        self.client = Client(
            customer.http,
            customer.url,
            None,
            customer.customer_id,
            {"APCA-API-KEY-ID": key, "APCA-API-SECRET-KEY": secret},
        )
        self.sdk = StockHistoricalDataClient(key, secret, url_override=customer.url)

    async def get(self, path: str, **query: object) -> Any:
        status, found = await self.ask(path, **query)
        assert status == 200, found
        return found

    async def ask(self, path: str, **query: object) -> tuple[int, Any]:
        texts = {name: each.isoformat() if isinstance(each, datetime) else str(each) for name, each in query.items()}
        return await self.client.call("GET", STOCKS + path, params=texts)

    async def pages(self, path: str, kind: str, **query: object) -> list[dict[str, list[Any]]]:
        """All pages, each by symbol."""
        found: list[dict[str, list[Any]]] = []
        token: str | None = ""
        while token is not None:
            page = await self.get(path, **query, **({"page_token": token} if token else {}))
            found.append(page[kind])
            token = page["next_page_token"]
        return found

    async def saved(self, symbol: str, timeframe: str, *starts: datetime) -> None:
        """Bars as they were saved earlier."""
        for at in starts:
            await self.broker.fetch(
                "INSERT INTO bar VALUES ($1, $2, $3, 1000000, 1015000, 992500, 1010000, 10, 10050000, 3)",
                symbol,
                timeframe,
                at,
            )

    async def told(self, count: int, symbol: str = "AAPL") -> list[Any]:
        """The trades of today, once there are so many."""

        async def look() -> Any:
            trades = await self.get("/trades", symbols=symbol)
            found = trades["trades"].get(symbol, [])
            return found if len(found) == count else None

        return list(await eventually(look))


@pytest.fixture
async def told(with_settings: Callable[..., Config]) -> AsyncIterator[Told]:
    async with told_broker(with_settings) as (exchange, broker):
        yield Told(exchange, broker, await broker.customer())


def now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


def text(at: datetime) -> str:
    """A time as it comes back."""
    return at.isoformat().replace("+00:00", "Z")


# ------------------------------------------------------------------ what is newest


async def test_a_clock_that_is_set_back_leaves_no_minute_of_the_future(with_settings: Callable[..., Config]) -> None:
    clock = {"hours": "XNYS", "clock": "2026-11-27T11:00:30-05:00", "freeze": True}
    async with run_broker(with_settings(**clock)) as broker:
        client, exchange = await bot(broker), "/admin/v1/exchange/clock"

        async def newest() -> str:
            status, found = await client.call("GET", f"{STOCKS}/AAPL/bars/latest")
            return str(found["bar"]["t"]) if status == 200 else ""

        async def is_of_the_minute() -> bool:
            return await newest() == "2026-11-27T16:00:00Z"

        await holding(client, 10)
        assert (await broker.operator.call("POST", f"{exchange}/advance", {"seconds": 120}))[0] == 200
        await asyncio.sleep(2.5)  # the minute is closed, and told
        await eventually(is_of_the_minute)
        assert (await broker.operator.call("PUT", exchange, {"now": "2026-11-27T10:30-05:00"}))[0] == 200
        assert await newest() < "2026-11-27T15:30:00Z"


async def test_the_quotes_as_they_are(told: Told) -> None:
    at = now()
    told.exchange.quotes(wire_quote("AAPL", "187.19", "187.21", at))

    async def look() -> Any:
        found = await told.get("/quotes/latest", symbols="AAPL,NOSUCH,not a symbol")
        return found if found["quotes"]["AAPL"]["bp"] == 187.19 else None

    row = {"t": text(at), "ap": 187.21, "as": 200, "ax": "V", "bp": 187.19, "bs": 300, "bx": "V", "c": ["R"], "z": "C"}
    assert await eventually(look) == {"quotes": {"AAPL": row}}
    assert await told.get("/AAPL/quotes/latest", feed="iex") == {"quote": row, "symbol": "AAPL"}
    assert await told.get("/quotes/latest", symbols="NOSUCH") == {"quotes": {}}


async def test_the_last_trades_and_what_is_known_of_those_of_before(told: Told) -> None:
    at = now()
    told.exchange.trades(("AAPL", "187.20", 5, at))
    await told.told(1)
    found = await told.get("/trades/latest", symbols="MSFT,AAPL")
    assert found["trades"]["AAPL"] == {"t": text(at), "p": 187.2, "s": 5, "i": 1, "x": "V", "c": ["@"], "z": "C"}
    assert (found["trades"]["MSFT"]["p"], found["trades"]["MSFT"]["s"]) == (400.0, 0)
    assert (await told.get("/AAPL/trades/latest"))["trade"] == found["trades"]["AAPL"]


async def test_the_last_minute_is_one_that_is_over(told: Told) -> None:
    """Out of the database, until one ends that the broker has seen."""
    before = minute_of(now()) - timedelta(minutes=5)
    await told.saved("AAPL", "1Min", before, minute_of(now()) + timedelta(hours=1))
    await told.saved("MSFT", "1Min", before)
    assert await told.get("/bars/latest", symbols="AAPL,NOSUCH") == {"bars": {"AAPL": {"t": text(before)} | BAR}}
    assert await told.get("/AAPL/bars/latest") == {"bar": {"t": text(before)} | BAR, "symbol": "AAPL"}
    at = await in_the_last_minute()
    told.exchange.trades(("AAPL", "190.00", 100, at))

    async def look() -> Any:
        found = (await told.get("/bars/latest", symbols="AAPL,MSFT"))["bars"]
        return found if found["AAPL"]["t"] == text(minute_of(at)) else None

    found = await eventually(look)
    assert (found["AAPL"]["c"], found["MSFT"]) == (190.0, {"t": text(before)} | BAR)


@pytest.mark.usefixtures("no_midnight")
async def test_a_snapshot_has_all_that_is_newest(told: Told) -> None:
    today = day_of(now())
    yesterday, before = day_of(today - timedelta(hours=1)), day_of(today - timedelta(hours=30))
    await told.saved("AAPL", "1Day", before, yesterday)
    await told.saved("AAPL", "1Min", yesterday)
    found = await told.get("/snapshots", symbols="AAPL,MSFT,NOSUCH")
    assert set(found) == {"AAPL", "MSFT"}
    assert (found["MSFT"]["minuteBar"], found["MSFT"]["dailyBar"], found["MSFT"]["prevDailyBar"]) == (None,) * 3
    assert found["MSFT"]["latestTrade"]["p"] == found["MSFT"]["latestQuote"]["bp"] == 400.0
    apple = found["AAPL"]
    assert [apple["minuteBar"]["t"], apple["dailyBar"]["t"], apple["prevDailyBar"]["t"]] == [
        text(yesterday),
        text(yesterday),
        text(before),
    ]
    told.exchange.trades(("AAPL", "190.00", 100, now()))
    await told.told(1)
    apple = await told.get("/AAPL/snapshot")
    assert (apple["symbol"], apple["latestTrade"]["p"], apple["dailyBar"]["o"]) == ("AAPL", 190.0, 190.0)
    assert (apple["dailyBar"]["t"], apple["prevDailyBar"]["t"]) == (text(today), text(yesterday))


# ------------------------------------------------------------------ what was


async def test_pages_of_trades_go_on_where_they_ended(told: Told) -> None:
    """Sorted by symbol, then by time; also where several trades have the same time."""
    first = now()
    times = [first, first, first, first + timedelta(milliseconds=1), first + timedelta(milliseconds=2)]
    told.exchange.trades(*[("AAPL", "190.00", number, at) for number, at in enumerate(times, 1)])
    told.exchange.trades(("MSFT", "400.00", 7, first), ("MSFT", "400.00", 8, first))
    await told.told(2, "MSFT")
    for sort, sizes in (("asc", [1, 2, 3, 4, 5, 7, 8]), ("desc", [5, 4, 3, 2, 1, 8, 7])):
        for limit in (1, 2, 3, 5, 7, 10):
            pages = await told.pages("/trades", "trades", symbols="MSFT,AAPL", limit=limit, sort=sort)
            rows = [row["s"] for page in pages for symbol in ("AAPL", "MSFT") for row in page.get(symbol, [])]
            assert rows == sizes, (sort, limit)
            assert [sum(map(len, page.values())) for page in pages[:-1]] == [limit] * (len(pages) - 1)
    assert [row["s"] for row in (await told.get("/AAPL/trades", start=times[3]))["trades"]] == [4, 5]
    found = await told.get("/AAPL/trades", end=times[3], limit=4)
    assert ([row["s"] for row in found["trades"]], found["symbol"], found["next_page_token"]) == (
        [1, 2, 3, 4],
        "AAPL",
        None,
    )


async def test_the_newest_quotes(told: Told) -> None:
    at = now() + timedelta(seconds=10)  # after those that the feed began with
    for cents in range(5):
        told.exchange.quotes(wire_quote("AAPL", f"187.1{cents}", "187.21", at + timedelta(seconds=cents)))

    async def look() -> Any:
        found = await told.get("/quotes", symbols="AAPL,NOSUCH", start=at, end=at + timedelta(seconds=3))
        return found if len(found["quotes"].get("AAPL", ())) == 4 else None

    found = await eventually(look)
    assert [row["bp"] for row in found["quotes"]["AAPL"]] == [187.1, 187.11, 187.12, 187.13]
    assert await told.get("/quotes", symbols="NOSUCH") == {"quotes": {}, "next_page_token": None}


@pytest.mark.usefixtures("no_midnight")
async def test_bars_of_minutes_and_what_they_make(told: Told) -> None:
    start = day_of(now()) - timedelta(hours=3)
    minutes = [start + timedelta(minutes=number) for number in range(12)]
    await told.saved("AAPL", "1Min", *minutes)
    await told.saved("MSFT", "1Min", *minutes[:2])
    query: dict[str, object] = {"start": start, "symbols": "MSFT,AAPL,NOSUCH"}
    found = await told.get("/bars", timeframe="1Min", **query)
    assert {symbol: [bar["t"] for bar in bars] for symbol, bars in found["bars"].items()} == {
        "AAPL": [text(at) for at in minutes],
        "MSFT": [text(at) for at in minutes[:2]],
    }
    assert found["bars"]["AAPL"][0] == {"t": text(start)} | BAR
    found = await told.get("/bars", timeframe="5Min", **query)
    assert [(bar["t"], bar["v"], bar["n"]) for bar in found["bars"]["AAPL"]] == [
        (text(minutes[0]), 50, 15),
        (text(minutes[5]), 50, 15),
        (text(minutes[10]), 20, 6),
    ]
    for sort in ("asc", "desc"):
        for limit in (1, 5, 13, 20):
            pages = await told.pages("/bars", "bars", timeframe="1Min", limit=limit, sort=sort, **query)
            order = 1 if sort == "asc" else -1
            times = {
                symbol: [bar["t"] for page in pages for bar in page.get(symbol, [])] for symbol in ("AAPL", "MSFT")
            }
            expected = {
                "AAPL": [text(at) for at in minutes[::order]],
                "MSFT": [text(at) for at in minutes[:2][::order]],
            }
            assert times == expected, (sort, limit)
    found = await told.get("/AAPL/bars", timeframe="1Min", start=minutes[3], end=minutes[5])
    assert [bar["t"] for bar in found["bars"]] == [text(at) for at in minutes[3:6]], "the end belongs to it"


async def test_bars_of_days_weeks_and_months(told: Told) -> None:
    """Weeks begin on Mondays, quarters in January; all of them at midnight in New York."""
    days = [datetime(2025, 3, 3, 5, tzinfo=UTC) + timedelta(days=number) for number in range(5)]
    days += [datetime(2025, 3, 10, 4, tzinfo=UTC), datetime(2025, 4, 1, 4, tzinfo=UTC)]
    await told.saved("AAPL", "1Day", *days)

    async def starts(timeframe: str, **query: object) -> list[str]:
        wanted = {"symbols": "AAPL", "start": "2025-01-01", "end": "2025-12-31"} | query
        return [bar["t"] for bar in (await told.get("/bars", timeframe=timeframe, **wanted))["bars"].get("AAPL", [])]

    assert await starts("1Day") == [text(at) for at in days]
    assert await starts("1D", sort="desc", limit=2) == [text(days[-1]), text(days[-2])]
    assert await starts("1Day", start="2025-03-04", end="2025-03-05") == [text(days[1]), text(days[2])]
    weeks = ["2025-03-03T05:00:00Z", "2025-03-10T04:00:00Z", "2025-03-31T04:00:00Z"]
    assert await starts("1Week") == weeks
    assert await starts("1Week", sort="desc") == weeks[::-1]
    assert await starts("1Month", start="2025-03-01") == ["2025-03-01T05:00:00Z", "2025-04-01T04:00:00Z"]
    assert await starts("1Month", start="2025-03-02") == ["2025-04-01T04:00:00Z"]
    assert await starts("3Month") == ["2025-01-01T05:00:00Z", "2025-04-01T04:00:00Z"]
    assert await starts("12Month") == ["2025-01-01T05:00:00Z"]
    found = await told.get("/bars", symbols="AAPL", timeframe="1Week", start="2025-03-03", end="2025-03-03")
    assert found["bars"]["AAPL"][0] == {"t": weeks[0]} | BAR | {"v": 50, "n": 15}


async def test_where_there_is_nothing_the_answer_is_empty_and_no_null(told: Told) -> None:
    assert await told.get("/bars", symbols="NOSUCH", timeframe="1Min") == {"bars": {}, "next_page_token": None}
    found = await told.get("/NOSUCH/bars", timeframe="1Month", start="0001-01-01T00:00:00Z", end="9999-12-31T00:00:00Z")
    assert found == {"bars": [], "symbol": "NOSUCH", "next_page_token": None}


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/bars?timeframe=1Min", "symbols is required"),
        ("/bars?symbols=AAPL", "timeframe is required"),
        *[
            (f"/bars?symbols=AAPL&timeframe={wrong}", "invalid timeframe")
            for wrong in ("0Min", "60Min", "24Hour", "2Day", "2Week", "5Month", "Min", "1min")
        ],
        ("/trades?symbols=AAPL&limit=0", "invalid limit"),
        ("/trades?symbols=AAPL&limit=10001", "invalid limit"),
        ("/trades?symbols=AAPL&limit=x", "invalid limit"),
        ("/quotes?symbols=AAPL&sort=up", "sort must be one of asc, desc"),
        ("/quotes?symbols=AAPL&start=yesterday", "start must be a time"),
        ("/quotes?symbols=AAPL&start=2026-01-02&end=2026-01-01", "end should not be before start"),
        ("/quotes?symbols=AAPL&page_token=x", "invalid page_token"),
        ("/quotes?symbols=AAPL&page_token=QUFQTHx4fDE=", "invalid page_token"),
        (
            "/bars?symbols=AAPL&timeframe=1Min&page_token=QUFQTHw5OTk5LTEyLTMxVDIzOjU5OjU5Ljk5OTk5OSswMDowMHwx",
            "invalid page_token",
        ),
        ("/quotes/latest", "symbols is required"),
        ("/quotes/latest?symbols=AAPL&currency=EUR", "invalid currency"),
        ("/snapshots?symbols=AAPL&feed=moon", "invalid feed"),
        ("/AAPL/bars?timeframe=1Min&adjustment=!", "invalid adjustment"),
    ],
)
async def test_what_makes_no_sense_is_refused(shared: Told, path: str, words: str) -> None:
    status, answer = await shared.client.call("GET", STOCKS + path)
    assert (status, answer["code"]) == (400, 40010000)
    assert words in answer["message"]


@pytest.fixture(scope="module")
async def shared(postgres: Any, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Told]:
    """One for the tests that only ask."""
    from tests.conftest import _database_dsn, _sql

    await _sql(postgres.dsn, "CREATE DATABASE alpaca_data TEMPLATE template_broker")

    def settings(**changes: Any) -> Config:
        data = tmp_path_factory.mktemp("alpaca_data")
        return Config(port=0, database=_database_dsn(postgres, "alpaca_data"), data=data, log_level="error", **changes)

    async with told_broker(settings) as (exchange, broker):
        yield Told(exchange, broker, await broker.customer())


@pytest.mark.parametrize("kind", ["bars", "quotes", "trades"])
async def test_one_symbol_that_nobody_lists_is_not_found(shared: Told, kind: str) -> None:
    for symbol in ("NOSUCH", "no%20symbol", "%FF", "%00", "%F0%9F%92%A9"):
        status, answer = await shared.ask(f"/{symbol}/{kind}/latest")
        assert (status, answer["code"]) == (404, 40410000)
    assert (await shared.ask("/NOSUCH/snapshot"))[0] == 404


async def test_nobody_asks_without_a_key(shared: Told) -> None:
    for path in ("/quotes/latest?symbols=AAPL", "/AAPL/bars?timeframe=1Min", "/snapshots?symbols=AAPL"):
        status, answer = await shared.broker.stranger.call("GET", STOCKS + path)
        assert (status, answer["code"]) == (401, 40110000)


# ------------------------------------------------------------------ Alpaca's own client


@pytest.mark.usefixtures("no_midnight")
async def test_the_official_client_reads_everything(told: Told) -> None:
    at, today = now(), day_of(now())
    minutes = [today - timedelta(hours=3) + timedelta(minutes=number) for number in range(30)]
    await told.saved("AAPL", "1Min", *minutes)
    await told.saved("AAPL", "1Day", day_of(today - timedelta(hours=1)))
    told.exchange.quotes(wire_quote("AAPL", "187.19", "187.21", at))
    told.exchange.trades(("AAPL", "187.20", 5, at), ("MSFT", "400.00", 3, at))
    await told.told(1, "MSFT")
    await asyncio.to_thread(_read_everything, told.sdk, minutes, at)


def _read_everything(sdk: StockHistoricalDataClient, minutes: list[datetime], at: datetime) -> None:
    both = ["AAPL", "MSFT"]
    wanted = StockBarsRequest(symbol_or_symbols=both, timeframe=TimeFrame.Minute, start=minutes[0], limit=20)
    assert [bar.timestamp for bar in sdk.get_stock_bars(wanted)["AAPL"]] == minutes[:20]
    five = TimeFrame(5, TimeFrameUnit.Minute)
    wanted = StockBarsRequest(
        symbol_or_symbols="AAPL", timeframe=five, start=minutes[0], end=minutes[-1], sort=Sort.DESC
    )
    assert [bar.timestamp for bar in sdk.get_stock_bars(wanted)["AAPL"]] == minutes[::5][::-1]
    trades = sdk.get_stock_trades(StockTradesRequest(symbol_or_symbols=both, start=at, limit=5)).data
    assert {symbol: [(each.price, each.size) for each in found] for symbol, found in trades.items()} == {
        "AAPL": [(187.2, 5.0)],
        "MSFT": [(400.0, 3.0)],
    }
    quotes = sdk.get_stock_quotes(StockQuotesRequest(symbol_or_symbols="AAPL", start=at)).data
    assert 187.21 in [each.ask_price for each in quotes["AAPL"]]
    assert sdk.get_stock_latest_quote(StockLatestQuoteRequest(symbol_or_symbols="AAPL"))["AAPL"].bid_size == 300
    assert sdk.get_stock_latest_trade(StockLatestTradeRequest(symbol_or_symbols="AAPL"))["AAPL"].timestamp == at
    latest = sdk.get_stock_latest_bar(StockLatestBarRequest(symbol_or_symbols="AAPL"))["AAPL"].timestamp
    minute_runs = minute_of(now()) == minute_of(at)
    assert latest == minutes[-1] or (latest == minute_of(at) and not minute_runs), "the last one that is over"
    snapshot = sdk.get_stock_snapshot(StockSnapshotRequest(symbol_or_symbols=both))
    assert snapshot["AAPL"].previous_daily_bar.close == 101.0
    assert snapshot["MSFT"].minute_bar.volume == 3, "its first minute, which runs"
    with pytest.raises(APIError):
        sdk.get_stock_trades(StockTradesRequest(symbol_or_symbols="AAPL", start=at, end=at - timedelta(days=1)))
