"""Market data over REST: the newest, history, pages, and the paths of one symbol that old versions ask."""

from datetime import datetime, timedelta

from alpaca.common.enums import Sort
from alpaca.common.exceptions import APIError
from alpaca.data.enums import DataFeed
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

from tests.acceptance.clients.alpaca_py.desk import Desk, eventually, refused, step

BOTH = ["AAPL", "MSFT"]
A_MINUTE_S = 75  # longest wait for a minute to end, where nobody advances the clock


def _ago(desk: Desk, **time: float) -> datetime:
    return desk.now() - timedelta(**time)


@step
def reads_the_latest_quotes(desk: Desk) -> None:
    quotes = desk.data.get_stock_latest_quote(StockLatestQuoteRequest(symbol_or_symbols=BOTH, feed=DataFeed.IEX))
    assert set(quotes) == set(BOTH)
    for symbol, quote in quotes.items():
        assert quote.symbol == symbol
        assert 0 < quote.bid_price <= quote.ask_price
        assert quote.bid_size > 0
        assert timedelta(0) <= desk.now() - quote.timestamp < timedelta(minutes=10)  # the clock may have been advanced
    assert set(desk.data.get_stock_latest_quote(StockLatestQuoteRequest(symbol_or_symbols=["AAPL", "NOSUCH"]))) == {
        "AAPL"
    }


@step
def reads_the_latest_trades(desk: Desk) -> None:
    order = desk.bought(1)
    trades = desk.data.get_stock_latest_trade(StockLatestTradeRequest(symbol_or_symbols=BOTH))
    assert set(trades) == set(BOTH)
    trade = trades["AAPL"]
    assert trade.size > 0
    assert isinstance(trade.id, int)
    assert abs(trade.price / float(order.filled_avg_price) - 1) < 0.05


@step
def reads_the_latest_bars(desk: Desk) -> None:
    request = StockLatestBarRequest(symbol_or_symbols=BOTH)
    bars = eventually(lambda: desk.data.get_stock_latest_bar(request), "a minute is over", A_MINUTE_S)
    bar = bars["AAPL"]
    assert bar.low <= min(bar.open, bar.close) <= max(bar.open, bar.close) <= bar.high
    assert (bar.timestamp.second, bar.timestamp.microsecond) == (0, 0)


@step
def reads_bars(desk: Desk) -> None:
    request = StockBarsRequest(symbol_or_symbols=BOTH, timeframe=TimeFrame.Minute, start=_ago(desk, hours=1))
    found = eventually(lambda: desk.data.get_stock_bars(request).data, "a minute is over", A_MINUTE_S)
    assert set(found) == set(BOTH)
    for symbol, bars in found.items():
        assert [bar.symbol for bar in bars] == [symbol] * len(bars)
        times = [bar.timestamp for bar in bars]
        assert times == sorted(times)
        assert all(bar.low <= bar.open <= bar.high and bar.volume >= 0 for bar in bars)
    frame = desk.data.get_stock_bars(request).df
    assert list(frame.columns) == ["open", "high", "low", "close", "volume", "trade_count", "vwap"]
    for timeframe in (TimeFrame(5, TimeFrameUnit.Minute), TimeFrame.Hour, TimeFrame.Day):
        desk.data.get_stock_bars(
            StockBarsRequest(symbol_or_symbols="AAPL", timeframe=timeframe, start=_ago(desk, days=1), sort=Sort.DESC)
        )


@step
def finds_no_bars_where_there_are_none(desk: Desk) -> None:
    request = StockBarsRequest(
        symbol_or_symbols="AAPL", timeframe=TimeFrame.Minute, start=_ago(desk, days=900), end=_ago(desk, days=899)
    )
    assert not any(desk.data.get_stock_bars(request).data.values())  # 0.30 puts an empty list there


@step
def reads_quotes_and_trades_of_the_past(desk: Desk) -> None:
    start = _ago(desk, minutes=5)
    bought = desk.bought(3)
    request = StockTradesRequest(symbol_or_symbols=["AAPL"], start=start)
    trades = eventually(lambda: desk.data.get_stock_trades(request).data, "a trade", 20)["AAPL"]
    assert all(start <= trade.timestamp and trade.size > 0 for trade in trades)
    assert min(trade.price for trade in trades) <= float(bought.filled_avg_price) * 1.05
    latest = StockQuotesRequest(symbol_or_symbols="AAPL", start=start, sort=Sort.DESC, limit=1)
    quotes = eventually(lambda: desk.data.get_stock_quotes(latest).data, "a quote", 20)["AAPL"]
    assert len(quotes) == 1
    assert quotes[0].bid_price <= quotes[0].ask_price


@step
def follows_the_pages_of_trades(desk: Desk) -> None:
    start = _ago(desk, minutes=5)
    for _ in range(3):
        desk.bought(1)
    query = {"symbols": "AAPL", "start": start.isoformat(), "limit": 2}
    rows: list[object] = []
    token = None
    for _ in range(50):
        page = desk.data.get("/stocks/trades", query | ({"page_token": token} if token else {}))
        rows += page["trades"].get("AAPL", [])
        token = page["next_page_token"]
        if token is None:
            break
    assert len(rows) >= 3
    assert [row["t"] for row in rows] == sorted(row["t"] for row in rows)
    assert len({row["i"] for row in rows}) == len(rows)


@step
def reads_snapshots(desk: Desk) -> None:
    desk.bought(1)
    snapshots = desk.data.get_stock_snapshot(StockSnapshotRequest(symbol_or_symbols=BOTH))
    assert set(snapshots) == set(BOTH)
    apple = snapshots["AAPL"]
    assert apple.latest_quote.ask_price >= apple.latest_quote.bid_price > 0
    assert apple.latest_trade.price > 0
    assert apple.daily_bar.high >= apple.daily_bar.low


@step
def asks_the_paths_of_one_symbol(desk: Desk) -> None:
    def get(path: str, query: object = None) -> dict[str, object]:
        return desk.data.get(f"/stocks/AAPL/{path}", query)

    for path, key in (("quotes/latest", "quote"), ("trades/latest", "trade")):
        answer = get(path)
        assert answer["symbol"] == "AAPL"
        assert isinstance(answer[key]["t"], str)
    query = {"start": _ago(desk, minutes=5).isoformat(), "limit": 5}
    for path in ("trades", "quotes"):
        answer = get(path, query)
        assert answer["symbol"] == "AAPL"
        assert isinstance(answer[path], list)
        assert "next_page_token" in answer
    assert get("bars", query | {"timeframe": "1Min"})["symbol"] == "AAPL"
    assert get("snapshot")["latestQuote"]["ap"] > 0

    def latest_bar() -> object:
        try:
            return get("bars/latest")["bar"]
        except APIError as error:
            if error.status_code == 404:  # until the first minute is over
                return None
            raise

    latest = eventually(latest_bar, "a minute is over", A_MINUTE_S)
    assert latest["h"] >= latest["l"]


@step
def is_told_what_is_wrong_with_a_query(desk: Desk) -> None:
    for query in (
        {"symbols": "AAPL", "timeframe": "7Fortnights"},
        {"symbols": "AAPL", "timeframe": "1Min", "start": "yesterday"},
        {"symbols": "AAPL", "timeframe": "1Min", "limit": 20_000},
        {"symbols": "AAPL", "timeframe": "1Min", "page_token": "what?"},
        {"timeframe": "1Min"},
    ):
        with refused(400, 40010000):
            desk.data.get("/stocks/bars", query)
