"""The market over real HTTP: quotes, bars, symbols, the clock and the calendar."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from broker.config import Config
from broker.core import hours
from broker.core.bars import day_of, minute_of
from broker.core.day_trades import trade_date
from broker.core.money import parse_money
from broker.db import Database, DatabaseUnavailable
from tests.conftest import Broker, Client, eventually, run_broker

WithSettings = Callable[..., Config]
LONG_AGO = datetime(2026, 3, 9, 13, 30, tzinfo=UTC)  # a Monday's opening, in the summer's hours


async def get(customer: Client, path: str) -> Any:
    status, answer = await customer.call("GET", path)
    assert status == 200, answer
    return answer


def moment(text: str) -> datetime:
    assert text.endswith("Z"), text
    return datetime.fromisoformat(text)


async def traded(broker: Broker, symbol: str, minutes: int, first: datetime = LONG_AGO, every: int = 1) -> None:
    """In each of so many minutes two trades: 10 shares at $100.00, then 30 at $101.00; and their day."""
    await broker.fetch(
        """INSERT INTO bar
           SELECT $1, '1Min', $2::timestamptz + number * $4 * interval '1 minute',
                  1000000, 1010000, 1000000, 1010000, 40, 40300000, 2
           FROM generate_series(0, $3::int - 1) AS number""",
        symbol,
        first,
        minutes,
        every,
    )
    await broker.fetch(
        "INSERT INTO bar VALUES ($1, '1Day', $2, 1000000, 1010000, 1000000, 1010000, $3, $4, $5)",
        symbol,
        day_of(first),
        40 * minutes,
        40_300_000 * minutes,
        2 * minutes,
    )


# ------------------------------------------------------------------ quotes


async def test_a_quote_has_prices_sizes_and_the_days_figures(broker: Broker) -> None:
    customer = await broker.customer()

    async def with_trades() -> Any:
        quote = await get(customer, "/api/v1/quotes/AAPL")
        return quote if quote["volume"] else None

    quote = await eventually(with_trades)
    assert set(quote) == {
        *("symbol", "bid", "bid_size", "ask", "ask_size", "last", "open", "high", "low"),
        *("last_size", "last_at", "previous_close", "volume", "timestamp", "stale"),
    }
    assert (quote["symbol"], quote["stale"], quote["previous_close"]) == ("AAPL", False, None)
    assert parse_money(quote["bid"]) < parse_money(quote["ask"])
    assert parse_money(quote["low"]) <= parse_money(quote["open"]) <= parse_money(quote["high"])
    assert abs(moment(quote["timestamp"]) - datetime.now(UTC)) < timedelta(minutes=1)


@pytest.mark.usefixtures("no_midnight")
async def test_the_previous_close_is_yesterdays(config: Config) -> None:
    yesterday = day_of(datetime.now(UTC)) - timedelta(hours=12)
    async with run_broker(config) as broker:
        await traded(broker, "AAPL", 1, yesterday)
    async with run_broker(config) as broker:
        quote = await get(await broker.customer(), "/api/v1/quotes/AAPL")
        assert quote["previous_close"] == "101.00"


async def test_several_quotes_at_once_and_what_nobody_knows_is_named(broker: Broker) -> None:
    customer = await broker.customer()
    answer = await get(customer, "/api/v1/quotes?symbols=MSFT,NOSUCH,AAPL,MSFT,%20GOOG,ZZZ.Z")
    assert [quote["symbol"] for quote in answer["quotes"]] == ["MSFT", "AAPL", "GOOG"]
    assert answer["unknown"] == ["NOSUCH", "ZZZ.Z"]
    assert (await get(customer, "/api/v1/quotes?symbols=NOSUCH")) == {"quotes": [], "unknown": ["NOSUCH"]}


async def test_quotes_of_some_do_not_list_all(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.market.board.Board.listed", None)
    await get(await broker.customer(), "/api/v1/quotes?symbols=AAPL")


async def test_a_symbol_that_is_not_listed_is_unknown(broker: Broker) -> None:
    customer = await broker.customer()
    for path in ("quotes", "bars"):
        for symbol in ("NOSUCH", "aapl", "AAPL%0A", "A%27--", "%C3%84", "X" * 500):
            status, answer = await customer.call("GET", f"/api/v1/{path}/{symbol}")
            assert (status, answer["code"]) == (404, "unknown_symbol"), symbol
            assert len(answer["error"]) < 60
    assert answer["error"] == "No exchange lists XXXXXXXXXXXX."


async def test_a_list_of_quotes_needs_a_list_of_symbols(with_settings: WithSettings) -> None:
    async with run_broker(with_settings(stream_symbols_max=3)) as broker:
        customer = await broker.customer()
        for query in (
            *("", "?symbols=", "?symbols=AAPL,", "?symbols=aapl", "?symbols=AAPL&limit=1", "?symbols=A,B,C,D"),
            "?symbols=AAPL&symbols=MSFT",
        ):
            status, answer = await customer.call("GET", f"/api/v1/quotes{query}")
            assert (status, answer["code"]) == (400, "invalid_query"), query
            assert answer["error"].endswith(".")


ROUTES = ["quotes/AAPL", "quotes?symbols=AAPL", "bars/AAPL", "symbols", "clock", "calendar"]


async def test_only_customers_may_look_and_suspended_ones_may(broker: Broker) -> None:
    customer = await broker.customer()
    await broker.operator.call("POST", f"/admin/v1/customers/{customer.customer_id}/suspend")
    for route in ROUTES:
        status, answer = await broker.stranger.call("GET", f"/api/v1/{route}")
        assert (status, answer["code"]) == (401, "unauthorized")
        assert (await broker.operator.call("GET", f"/api/v1/{route}"))[0] == 401
        assert (await customer.call("GET", f"/api/v1/{route}"))[0] == 200


async def test_while_no_exchange_was_heard_only_past_bars_the_clock_and_the_calendar_answer(
    with_settings: WithSettings,
) -> None:
    async with run_broker(with_settings(exchange="http://127.0.0.1:1", quotes_wait_s=0.01)) as broker:
        customer = await broker.customer()
        await traded(broker, "AAPL", 1)
        for route in ["quotes/AAPL", "quotes?symbols=AAPL", "bars/MSFT", "symbols"]:
            async with broker.http.get(
                f"{broker.running.url}/api/v1/{route}", headers={"Authorization": f"Bearer {customer.token}"}
            ) as response:
                assert (response.status, (await response.json())["code"]) == (503, "no_quotes_yet")
                assert response.headers["Retry-After"] == "1"
        for route in ["bars/AAPL", "clock", "calendar"]:
            await get(customer, f"/api/v1/{route}")


# ------------------------------------------------------------------ bars


async def test_bars_of_minutes(broker: Broker) -> None:
    customer = await broker.customer()
    await traded(broker, "AAPL", 2)
    answer = await get(customer, "/api/v1/bars/AAPL?start=2026-03-09&end=2026-03-10")
    bar = {"open": "100.00", "high": "101.00", "low": "100.00", "close": "101.00"}
    bar |= {"volume": 40, "average_price": "100.75", "trades": 2}
    assert answer == {
        "symbol": "AAPL",
        "timeframe": "1Min",
        "bars": [{"starts_at": f"2026-03-09T13:{minute}:00Z", **bar} for minute in (30, 31)],
        "next_start": None,
    }


async def test_larger_bars_are_made_of_minutes(broker: Broker) -> None:
    """4 hours counted from New York's midnight, which is at 04:00 in summer."""
    customer = await broker.customer()
    await traded(broker, "AAPL", 24)
    for timeframe, starts, trades in (
        ("5Min", ["13:30", "13:35", "13:40", "13:45", "13:50"], [10, 10, 10, 10, 8]),
        ("30Min", ["13:30"], [48]),
        ("1Hour", ["13:00"], [48]),
        ("4Hour", ["12:00"], [48]),
        ("1Day", ["04:00"], [48]),
    ):
        answer = await get(customer, f"/api/v1/bars/AAPL?timeframe={timeframe}&start=2026-03-09&end=2026-03-10")
        assert [bar["starts_at"] for bar in answer["bars"]] == [f"2026-03-09T{start}:00Z" for start in starts]
        assert [bar["trades"] for bar in answer["bars"]] == trades
        assert {bar["average_price"] for bar in answer["bars"]} == {"100.75"}


async def test_pages_lead_to_all_bars_and_to_none_twice(broker: Broker) -> None:
    customer = await broker.customer()
    await traded(broker, "AAPL", 40, every=3)
    for timeframe, limit in (("1Min", 7), ("1Min", 40), ("1Min", 100), ("3Min", 4), ("1Hour", 1), ("1Day", 1)):
        path = f"/api/v1/bars/AAPL?timeframe={timeframe}&end=2026-03-10"
        whole = (await get(customer, f"{path}&start=2026-03-09"))["bars"]
        found, start = [], "2026-03-09"
        while start:
            answer = await get(customer, f"{path}&start={start}&limit={limit}")
            assert 0 < len(answer["bars"]) <= limit
            found += answer["bars"]
            start = answer["next_start"]
        assert found == whole
        assert sum(bar["trades"] for bar in found) == 80


async def test_a_page_of_larger_bars_is_shorter_where_it_is_made_of_too_many(with_settings: WithSettings) -> None:
    async with run_broker(with_settings(bars_page_max=120)) as broker:
        customer = await broker.customer()
        await traded(broker, "AAPL", 300)
        answer = await get(customer, "/api/v1/bars/AAPL?timeframe=1Hour&start=2026-03-09&end=2026-03-10")
        assert [bar["trades"] for bar in answer["bars"]] == [60, 120]
        assert answer["next_start"] == "2026-03-09T15:00:00Z"
        answer = await get(customer, "/api/v1/bars/AAPL?timeframe=23Hour&start=2026-03-09&end=2026-03-10")
        assert [bar["trades"] for bar in answer["bars"]] == [600]
        status, answer = await customer.call("GET", "/api/v1/bars/AAPL?limit=121")
        assert (status, answer["error"]) == (400, "limit takes a whole number from 1 to 120.")


@pytest.mark.usefixtures("no_midnight")
async def test_the_running_minute_is_among_todays_bars(broker: Broker) -> None:
    customer = await broker.customer()

    async def with_bars() -> Any:
        return (await get(customer, "/api/v1/bars/AAPL"))["bars"]

    newest = (await eventually(with_bars))[-1]
    assert minute_of(datetime.now(UTC)) - moment(newest["starts_at"]) <= timedelta(minutes=1)
    days = (await get(customer, "/api/v1/bars/AAPL?timeframe=1Day"))["bars"]
    assert [moment(day["starts_at"]) for day in days] == [day_of(datetime.now(UTC))]
    assert days[0]["volume"] >= newest["volume"]


async def test_what_was_counted_is_there_after_a_stop(with_settings: WithSettings) -> None:
    """Nothing is written before the stop: bars_save_s is an hour."""
    config = with_settings(bars_save_s=3600.0)
    async with run_broker(config) as broker:
        customer = await broker.customer()

        async def volume() -> Any:
            return (await get(customer, "/api/v1/quotes/AAPL"))["volume"]

        before = await eventually(volume)
    async with run_broker(config) as broker:
        assert (await get(await broker.customer(), "/api/v1/quotes/AAPL"))["volume"] >= before


async def test_a_symbol_that_is_listed_no_more_has_its_bars(broker: Broker) -> None:
    customer = await broker.customer()
    await traded(broker, "GONE", 1)
    assert len((await get(customer, "/api/v1/bars/GONE?start=2026-03-09"))["bars"]) == 1
    assert (await get(customer, "/api/v1/bars/GONE"))["bars"] == []
    assert (await get(customer, "/api/v1/bars/AAPL?start=1970-01-01&end=1970-01-02"))["bars"] == []


BAD_QUERIES = [
    *("timeframe=2Day", "timeframe=", "timeframe=1min", "limit=0", "limit=-1", "limit=10001", "limit=1.5"),
    *("start=yesterday", "start=2026-13-01", "start=2026-11-27T14:30:00", "start=", "start=1795319006"),
    *("end=2026-11-27T14:30:00%2B99:00", "start=0001-01-01T00:00:00%2B14:00", "end=" + "9" * 5000),
    *("start=2026-11-28&end=2026-11-27", "start=2026-11-27T14:30:00Z&end=2026-11-27T14:29:59Z"),
    *("symbol=AAPL", "limit=1&limit=2", "start=2199-01-01"),
]
FAR_TIMES = [
    *("start=0001-01-01&end=9999-12-31", "start=2026-01-01&end=9999-12-31T23:59:59Z", "end=2199-01-01"),
    *("start=2026-11-27T14:30:00%2B01:00&end=2199-01-01", "start=9998-01-01&end=9999-01-01"),
    *("start=0001-01-01&end=0001-01-01", "start=0001-01-01T00:00:00Z&end=0001-01-01T00:00:00Z", "start=0001-01-01"),
    *("start=9999-12-31T12:00:00Z&end=9999-12-31T12:00:00Z", "start=9999-12-31&end=9999-12-31"),
    *("start=9999-12-31T23:59:59.999999Z&end=9999-12-31T23:59:59.999999Z", "start=9999-12-30&end=9999-12-31"),
]


async def test_a_bad_question_about_bars_is_refused_with_a_sentence(broker: Broker) -> None:
    customer = await broker.customer()
    for query in BAD_QUERIES:
        status, answer = await customer.call("GET", f"/api/v1/bars/AAPL?{query}")
        assert (status, answer["code"]) == (400, "invalid_query"), query
        assert answer["error"].endswith(".")
        assert len(answer["error"]) < 200


async def test_any_time_that_can_be_said_is_answered(broker: Broker) -> None:
    customer = await broker.customer()
    for timeframe in ("1Min", "7Hour", "1Day"):
        for query in FAR_TIMES:
            await get(customer, f"/api/v1/bars/AAPL?timeframe={timeframe}&{query}")


# ------------------------------------------------------------------ symbols


async def test_all_symbols_are_listed_with_what_is_switched_off(broker: Broker) -> None:
    customer = await broker.customer()
    for scope in ("halt:AAPL", "restrict:MSFT"):
        status, _ = await broker.operator.call("PUT", f"/admin/v1/controls/{scope}", {"reason": "news pending"})
        assert status == 200

    async def with_names() -> Any:
        listed = (await get(customer, "/api/v1/symbols"))["symbols"]
        return listed if listed[0]["name"] else None

    listed = await eventually(with_names)
    assert [each["symbol"] for each in listed] == sorted({each["symbol"] for each in listed})
    assert len(listed) > 200
    by_symbol = {each["symbol"]: each for each in listed}
    assert by_symbol["AAPL"] == {
        "symbol": "AAPL",
        "name": by_symbol["AAPL"]["name"],
        "venue": "sim",
        "halted": "news pending",
        "restricted": None,
    }
    assert (by_symbol["MSFT"]["halted"], by_symbol["MSFT"]["restricted"]) == (None, "news pending")


async def test_a_symbol_is_found_by_its_beginning_or_by_its_name(broker: Broker) -> None:
    customer = await broker.customer()
    for search in ("AAP", "aap", "pple", "APPLE", "%20Apple%20"):
        found = (await get(customer, f"/api/v1/symbols?search={search}"))["symbols"]
        assert "AAPL" in [each["symbol"] for each in found], search
        assert len(found) < 5


async def test_a_search_that_finds_nothing_finds_nothing(broker: Broker) -> None:
    customer = await broker.customer()
    assert (await get(customer, "/api/v1/symbols?search=no%20such%20company"))["symbols"] == []
    for query in ("search=", "search=%20", "search=" + "x" * 101, "q=1"):
        status, answer = await customer.call("GET", f"/api/v1/symbols?{query}")
        assert (status, answer["code"]) == (400, "invalid_query")


# ------------------------------------------------------------------ when


async def test_a_market_that_always_trades_never_opens_and_never_closes(broker: Broker) -> None:
    customer = await broker.customer()
    clock = await get(customer, "/api/v1/clock")
    assert abs(moment(clock.pop("timestamp")) - datetime.now(UTC)) < timedelta(minutes=1)
    assert clock == {"is_open": True, "next_open": None, "next_close": None}
    calendar = (await get(customer, "/api/v1/calendar?start=2026-10-31&end=2026-11-02"))["calendar"]
    assert calendar == [
        {
            "date": "2026-10-31",
            "opens_at": "2026-10-31T04:00:00Z",
            "closes_at": "2026-11-01T04:00:00Z",
            "early_close": False,
        },
        {
            "date": "2026-11-01",
            "opens_at": "2026-11-01T04:00:00Z",
            "closes_at": "2026-11-02T05:00:00Z",
            "early_close": False,
        },
        {
            "date": "2026-11-02",
            "opens_at": "2026-11-02T05:00:00Z",
            "closes_at": "2026-11-03T05:00:00Z",
            "early_close": False,
        },
    ]


async def test_new_yorks_hours_are_told(with_settings: WithSettings) -> None:
    async with run_broker(with_settings(hours="XNYS")) as broker:
        customer = await broker.customer()
        clock = await get(customer, "/api/v1/clock")
        at = moment(clock["timestamp"])
        assert clock["is_open"] is hours.is_open(at)
        assert moment(clock["next_open"]) == hours.next_open(at)
        assert moment(clock["next_close"]) == hours.session_end(at)
        assert (moment(clock["next_close"]) < moment(clock["next_open"])) is clock["is_open"]
        calendar = (await get(customer, "/api/v1/calendar?start=2026-11-25&end=2026-11-29"))["calendar"]
        assert calendar == [
            {
                "date": "2026-11-25",
                "opens_at": "2026-11-25T14:30:00Z",
                "closes_at": "2026-11-25T21:00:00Z",
                "early_close": False,
            },
            {
                "date": "2026-11-27",
                "opens_at": "2026-11-27T14:30:00Z",
                "closes_at": "2026-11-27T18:00:00Z",
                "early_close": True,
            },
        ]


@pytest.mark.usefixtures("no_midnight")
async def test_the_calendar_begins_today_and_has_at_most_a_year(broker: Broker) -> None:
    customer = await broker.customer()
    today = trade_date(datetime.now(UTC))

    async def days(query: str) -> list[date]:
        return [
            date.fromisoformat(each["date"]) for each in (await get(customer, f"/api/v1/calendar{query}"))["calendar"]
        ]

    assert await days("") == [today + timedelta(number) for number in range(30)]
    assert len(await days("?start=2026-01-01&end=2027-01-01")) == 366
    assert await days("?start=2099-12-31") == [date(2099, 12, 31)]
    assert await days(f"?end={today}") == [today]
    for query in (
        *("start=2026-01-01&end=2027-01-02", "start=2026-11-28&end=2026-11-27", "start=2026-02-30", "start=20261127"),
        *(
            "start=0001-01-01",
            "end=0001-01-01",
            "start=9999-12-31",
            "end=9999-12-31",
            "start=0001-01-01&end=9999-12-31",
        ),
        *("start=0000-01-01", "end=2100-01-01", "start=1969-12-31", "start=2026-11-27T00:00:00Z", "limit=1"),
    ):
        status, answer = await customer.call("GET", f"/api/v1/calendar?{query}")
        assert (status, answer["code"]) == (400, "invalid_query"), query


async def test_when_the_database_is_away_bars_are_away_and_quotes_are_not(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    customer = await broker.customer()
    await get(customer, "/api/v1/quotes/AAPL")  # the key is known now
    real = Database.fetch

    async def fetch(self: Database, name: str, *arguments: object) -> Any:
        if name == "bars":
            raise DatabaseUnavailable("away")
        return await real(self, name, *arguments)

    monkeypatch.setattr(Database, "fetch", fetch)
    status, answer = await customer.call("GET", "/api/v1/bars/AAPL")
    assert (status, answer["code"]) == (503, "database_unavailable")
    await get(customer, "/api/v1/quotes/AAPL")
