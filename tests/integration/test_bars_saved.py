"""Bars in a real database: whatever is killed, away or said twice, every trade is counted once."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import asyncpg
import pytest

from broker.bars import Bars
from broker.config import Config
from broker.core.bars import DAY, MINUTE, Bar, Timeframe, day_of, told_twice
from broker.core.types import Symbol
from broker.db import Database, DatabaseUnavailable
from broker.embedded import EmbeddedPostgres
from broker.market.quotes import Print
from broker.metrics import Metrics
from tests.builders import AAPL, NOW, dollars

MSFT = Symbol("MSFT")
TODAY = day_of(NOW)
MINUTES = timedelta(minutes=1)
HOUR = Timeframe.read("1Hour")


class Clock:
    """A time that a test sets."""

    def __init__(self) -> None:
        self.at = NOW

    def __call__(self) -> datetime:
        return self.at


class Flaky(Database):
    """A database of which named queries fail: before they are asked, or after they were carried out."""

    before: frozenset[str] = frozenset()
    after: frozenset[str] = frozenset()
    asked: list[str]

    async def fetch(self, name: str, *arguments: object) -> Sequence[asyncpg.Record]:
        self.asked = [*getattr(self, "asked", []), name]
        if name in self.before:
            raise DatabaseUnavailable("away")
        rows = await super().fetch(name, *arguments)
        if name in self.after:
            raise DatabaseUnavailable("the answer was lost")
        return rows


@pytest.fixture
async def database(dsn: str) -> AsyncIterator[Flaky]:
    database = Flaky(dsn, Config())
    await database.open()
    yield database
    await database.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


Start = Callable[..., Awaitable[Bars]]


@pytest.fixture
def start(database: Flaky, clock: Clock) -> Start:
    """A broker's bars, as they are after a start; every call is another process."""

    async def start(**settings: Any) -> Bars:
        bars = Bars(database, clock, replace(Config(), **settings), Metrics())
        await bars.load()
        return bars

    return start


def trade(at: datetime = NOW, price: str = "100.00", quantity: int = 10, symbol: Symbol = AAPL) -> Print:
    return Print(symbol, dollars(price), quantity, at)


def some(many: int, rng: random.Random, at: datetime = NOW) -> list[Print]:
    return [trade(at, f"{rng.randrange(90, 110)}.00", rng.randrange(1, 100)) for _ in range(many)]


def bar_of(trades: Sequence[Print], starts_at: datetime = NOW) -> Bar:
    bar = Bar.of(starts_at, trades[0].price, trades[0].quantity)
    for each in trades[1:]:
        bar.add(each.price, each.quantity)
    return bar


async def saved(dsn: str, timeframe: str = "1Min", symbol: Symbol = AAPL) -> list[Bar]:
    """What the database has."""
    connection = await asyncpg.connect(dsn)
    try:
        rows = await connection.fetch(
            """SELECT starts_at, open, high, low, close, volume, value, trades FROM broker.bar
               WHERE timeframe = $1 AND symbol = $2 ORDER BY starts_at""",
            timeframe,
            symbol,
        )
    finally:
        await connection.close()
    return [Bar(*row) for row in rows]


@asynccontextmanager
async def away(postgres: EmbeddedPostgres, dsn: str) -> AsyncIterator[None]:
    """Nobody can reach the database in this block."""
    connection = await asyncpg.connect(postgres.dsn)
    name = dsn.partition("@/")[2].partition("?")[0]
    try:
        await connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        await connection.fetch("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
        yield
    finally:
        await connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        await connection.close()


# ------------------------------------------------------------------ written


async def test_what_was_counted_is_written_as_minute_and_as_day(start: Start, dsn: str) -> None:
    bars = await start()
    trades = some(20, random.Random(1))
    for each in trades:
        bars.add(each)
    assert await bars.save()
    assert await saved(dsn) == [bar_of(trades)]
    assert await saved(dsn, "1Day") == [bar_of(trades, TODAY)]


async def test_only_what_changed_is_written(start: Start, database: Flaky, dsn: str) -> None:
    bars = await start()
    bars.add(trade())
    await bars.save()
    database.asked = []
    await bars.save()
    assert database.asked == []
    bars.add(trade())
    await bars.save()
    assert (await saved(dsn))[0].trades == 2


async def test_when_the_answer_is_lost_it_is_written_again_and_counts_once(
    start: Start, database: Flaky, dsn: str
) -> None:
    bars = await start()
    bars.add(trade())
    database.after = frozenset({"save_bars"})
    assert not await bars.save()
    assert await saved(dsn) == [bar_of([trade()])], "it was carried out"
    database.after = frozenset()
    assert await bars.save()
    assert await saved(dsn) == [bar_of([trade()])]
    assert await saved(dsn, "1Day") == [bar_of([trade()], TODAY)]


async def test_what_is_counted_during_a_write_is_written_by_the_next(start: Start, database: Flaky, dsn: str) -> None:
    bars = await start()
    bars.add(trade())
    saving = asyncio.create_task(bars.save())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    bars.add(trade(price="101.00"))
    assert await saving
    assert await bars.save()
    assert await saved(dsn) == [bar_of([trade(), trade(price="101.00")])]


async def test_a_bar_that_the_schema_refuses_holds_up_no_other(start: Start, dsn: str) -> None:
    bars = await start()
    for symbol in ("AAPL", "aapl", "MSFT", "$", "GOOG"):
        bars.add(trade(symbol=Symbol(symbol)))
    assert await bars.save()
    for symbol in ("AAPL", "MSFT", "GOOG"):
        assert await saved(dsn, symbol=Symbol(symbol)) == [bar_of([trade()])]


async def test_the_database_joins_two_tellings_as_the_core_does(start: Start, clock: Clock, dsn: str) -> None:
    rng = random.Random(7)
    one, other = await start(), await start()
    for minute in range(30):
        at = clock.at = NOW + minute * MINUTES
        mine, others = some(rng.randrange(1, 6), rng, at), some(rng.randrange(1, 6), rng, at)
        for bars, trades in ((one, mine), (other, others)):
            for each in trades:
                bars.add(each)
            await bars.save()
        expected = told_twice(bar_of(mine, at), bar_of(others, at))
        assert (await saved(dsn))[-1] == expected, (minute, mine, others)


# ------------------------------------------------------------------ stopped, killed, started again


async def test_after_a_stop_in_the_middle_of_a_minute_it_counts_on(start: Start, clock: Clock, dsn: str) -> None:
    trades = some(10, random.Random(2))
    bars = await start()
    for each in trades[:5]:
        bars.add(each)
    assert await bars.save()
    clock.at += timedelta(seconds=20)
    bars = await start()
    assert (bars.minute(AAPL), bars.day(AAPL)) == (bar_of(trades[:5]), bar_of(trades[:5], TODAY))
    for each in trades[5:]:
        bars.add(each)
    assert await bars.save()
    assert await saved(dsn) == [bar_of(trades)]
    assert await saved(dsn, "1Day") == [bar_of(trades, TODAY)]
    assert bars.closed(NOW + MINUTES) == [(AAPL, bar_of(trades))], "its followers hear of all of it"


async def test_a_kill_costs_what_was_counted_since_the_last_write(start: Start, dsn: str) -> None:
    trades = some(10, random.Random(3))
    bars = await start()
    for number, each in enumerate(trades[:7]):
        bars.add(each)
        if number == 4:
            await bars.save()
    bars = await start()  # the other one was killed
    for each in trades[7:]:
        bars.add(each)
    await bars.save()
    assert await saved(dsn) == [bar_of([*trades[:5], *trades[7:]])]


async def test_the_previous_close_is_that_of_the_last_day_with_trades(start: Start, clock: Clock) -> None:
    bars = await start()
    bars.add(trade(price="101.00"))
    await bars.save()
    clock.at = NOW + timedelta(days=3)
    assert (bars.previous_close(AAPL), bars.day(AAPL)) == (dollars("101.00"), None)
    for each in (bars, await start()):
        each.add(trade(clock.at, "105.00"))
        assert each.previous_close(AAPL) == dollars("101.00")
        await each.save()
        await each.save()
        assert each.previous_close(AAPL) == dollars("101.00")
        assert each.previous_close(MSFT) is None


async def test_memory_holds_what_runs_and_what_is_not_written(start: Start, clock: Clock, dsn: str) -> None:
    bars = await start()
    for minute in range(30):
        clock.at = NOW + minute * MINUTES
        bars.add(trade(clock.at))
        await bars.save()
        assert len(bars._minutes[AAPL].kept) <= 3
    clock.at += timedelta(days=1)
    await bars.save()
    assert (bars._minutes, bars._days[AAPL].kept, bars._untold) == ({}, {}, [])
    assert len(await saved(dsn)) == 30
    assert len(await bars.read(AAPL, MINUTE, TODAY, clock.at, 100)) == 30


# ------------------------------------------------------------------ late


async def test_a_trade_that_comes_very_late_is_added_to_what_is_there(
    start: Start, database: Flaky, clock: Clock, dsn: str
) -> None:
    bars = await start()
    bars.add(trade(price="100.00"))
    clock.at = NOW + 10 * MINUTES
    await bars.save()
    await bars.save()
    late = trade(NOW + timedelta(seconds=50), "103.00")
    bars.add(late)
    whole = bar_of([trade(price="100.00"), late])
    assert await bars.read(AAPL, MINUTE, NOW, clock.at, 10) == [whole], "before it is written"
    database.after = frozenset({"save_bars"})
    assert not await bars.save()
    database.after = frozenset()
    assert await bars.save()
    assert await saved(dsn) == [whole]
    assert await saved(dsn, "1Day") == [replace(whole, starts_at=TODAY)]
    assert await bars.read(AAPL, MINUTE, NOW, clock.at, 10) == [whole]
    bars.add(replace(late, price=dollars("99.00")))
    await bars.save()
    assert [(each.low, each.trades) for each in await saved(dsn)] == [(dollars("99.00"), 3)]


async def test_a_late_trade_of_yesterday_is_yesterdays_close(start: Start, clock: Clock, dsn: str) -> None:
    bars = await start()
    bars.add(trade(price="100.00"))
    await bars.save()
    clock.at = DAY.end_of(NOW) + 10 * MINUTES
    await bars.save()
    bars = await start()
    late = trade(DAY.end_of(NOW) - timedelta(seconds=1), "102.00")
    bars.add(late)
    assert (bars.day(AAPL), bars.previous_close(AAPL)) == (None, dollars("100.00"))
    await bars.save()
    assert await saved(dsn, "1Day") == [bar_of([trade(price="100.00"), late], TODAY)]
    await bars.save()
    assert bars.previous_close(AAPL) == dollars("102.00")


async def test_a_late_trade_just_after_a_start_is_added_too(start: Start, clock: Clock, dsn: str) -> None:
    bars = await start()
    bars.add(trade())
    await bars.save()
    clock.at = NOW + timedelta(seconds=70)
    bars = await start()
    bars.add(trade(NOW + timedelta(seconds=59), "98.00"))
    bars.add(trade(clock.at))
    await bars.save()
    assert [each.trades for each in await saved(dsn)] == [2, 1]
    assert [each.trades for each in await saved(dsn, "1Day")] == [3]


# ------------------------------------------------------------------ two that hear the same


async def test_two_that_hear_the_same_feed_count_it_once(start: Start, clock: Clock, dsn: str) -> None:
    rng = random.Random(4)
    trades = [each for minute in range(3) for each in some(40, rng, NOW + minute * MINUTES)]
    one, other = await start(), await start()
    for each in trades:
        clock.at = each.at
        for bars in (one, other):
            bars.add(each)
            if rng.random() < 0.1:
                await bars.save()
    await asyncio.gather(one.save(), other.save())
    by_minute = [trades[:40], trades[40:80], trades[80:]]
    assert await saved(dsn) == [bar_of(each, each[0].at) for each in by_minute]
    assert await saved(dsn, "1Day") == [bar_of(trades, TODAY)]


async def test_the_second_may_come_in_the_middle_and_either_may_die(start: Start, dsn: str) -> None:
    trades = some(40, random.Random(5))
    one = await start()
    for each in trades[:20]:
        one.add(each)
    await one.save()
    other = await start()
    for each in trades[20:30]:
        one.add(each)
        other.add(each)
    await other.save()
    await one.save()
    del one
    for each in trades[30:]:
        other.add(each)
    await other.save()
    assert await saved(dsn) == [bar_of(trades)]
    assert await saved(dsn, "1Day") == [bar_of(trades, TODAY)]


async def test_one_that_missed_trades_takes_none_from_the_other(start: Start, dsn: str) -> None:
    trades = some(40, random.Random(6))
    one, other = await start(), await start()
    for number, each in enumerate(trades):
        one.add(each)
        if number % 3:
            other.add(each)
    await one.save()
    await other.save()
    assert await saved(dsn) == [bar_of(trades)]
    found = await other.read(AAPL, MINUTE, NOW, NOW + MINUTES, 10)
    assert found == [bar_of(trades)], "it shows the better one too"


async def test_two_that_write_thousands_at_once_do_not_stop_each_other(start: Start, dsn: str) -> None:
    one, other = await start(), await start()
    symbols = [Symbol(f"A{number}") for number in range(1500)]
    for symbol in symbols:
        one.add(trade(symbol=symbol))
    for symbol in reversed(symbols):
        other.add(trade(symbol=symbol))
    assert await asyncio.gather(one.save(), other.save()) == [True, True]
    assert await saved(dsn, symbol=symbols[-1]) == [bar_of([trade()])]


# ------------------------------------------------------------------ the database is away


async def test_what_is_counted_while_the_database_is_away_is_written_when_it_is_back(
    start: Start, clock: Clock, postgres: EmbeddedPostgres, dsn: str
) -> None:
    bars = await start()
    trades = []
    bars.add(trade(symbol=MSFT))
    await bars.save()
    async with away(postgres, dsn):
        for minute in range(5):
            clock.at = NOW + minute * MINUTES
            trades.append(trade(clock.at, f"10{minute}.00"))
            bars.add(trades[-1])
            assert not await bars.save()
        with pytest.raises(DatabaseUnavailable):
            await bars.read(AAPL, MINUTE, NOW, clock.at, 10)
    assert await bars.save()
    assert await saved(dsn) == [bar_of([each], each.at) for each in trades]
    assert await saved(dsn, "1Day") == [bar_of(trades, TODAY)]


async def test_a_start_while_the_database_is_away_loses_nothing_and_counts_nothing_twice(
    start: Start, clock: Clock, postgres: EmbeddedPostgres, dsn: str
) -> None:
    trades = some(9, random.Random(8))
    bars = await start()
    for each in trades[:3]:
        bars.add(each)
    await bars.save()
    async with away(postgres, dsn):
        bars = await start()
        for each in trades[3:6]:
            bars.add(each)
        assert not await bars.save()
        clock.at = NOW + 3 * MINUTES
        bars.add(trade(clock.at))
        assert not await bars.save()
    assert await bars.save()
    for each in trades[6:]:
        bars.add(each)
    assert await bars.save()
    assert await saved(dsn) == [bar_of(trades), bar_of([trade()], clock.at)]
    day = bars.day(AAPL)
    assert day is not None
    assert (day.open, day.trades, [day]) == (trades[0].price, 10, await saved(dsn, "1Day"))


async def test_it_loads_again_where_the_answer_about_one_part_is_lost(
    start: Start, database: Flaky, clock: Clock, dsn: str
) -> None:
    bars = await start()
    bars.add(trade())
    await bars.save()
    clock.at = NOW + MINUTES / 2
    database.before = frozenset({"load_bars"})
    bars = await start()
    bars.add(trade(price="101.00"))
    clock.at = NOW + 5 * MINUTES
    database.before, database.after = frozenset(), frozenset({"bars_at"})
    assert not await bars.save()
    database.after = frozenset()
    assert await bars.save()
    both = [trade(), trade(price="101.00")]
    assert (await saved(dsn), await saved(dsn, "1Day")) == ([bar_of(both)], [bar_of(both, TODAY)])


async def test_while_it_is_away_for_long_the_oldest_minutes_are_given_up(
    start: Start, database: Flaky, clock: Clock, dsn: str
) -> None:
    bars = await start(bars_unsaved_max=3)
    database.before = frozenset({"save_bars"})
    for minute in range(8):
        clock.at = NOW + minute * MINUTES
        bars.add(trade(clock.at))
        assert not await bars.save()
    database.before = frozenset()
    assert await bars.save()
    assert [each.starts_at for each in await saved(dsn)] == [NOW + minute * MINUTES for minute in (4, 5, 6, 7)]
    assert [each.trades for each in await saved(dsn, "1Day")] == [8], "the day has them all"


# ------------------------------------------------------------------ read


async def fill(dsn: str, minutes: int, first: datetime = TODAY, symbol: Symbol = AAPL) -> None:
    """One trade of 10 shares in each of so many minutes."""
    connection = await asyncpg.connect(dsn)
    await connection.execute(
        """INSERT INTO broker.bar
           SELECT $1, '1Min', $2::timestamptz + number * interval '1 minute', 10000, 10000, 10000, 10000, 10, 100000, 1
           FROM generate_series(0, $3::int - 1) AS number""",
        symbol,
        first,
        minutes,
    )
    await connection.close()


async def test_bars_are_read_in_their_order_and_the_running_one_is_among_them(
    start: Start, clock: Clock, dsn: str
) -> None:
    await fill(dsn, 120)
    bars = await start()
    bars.add(trade(symbol=MSFT))
    clock.at = NOW
    running = trade(price="1.50")
    bars.add(running)
    found = await bars.read(AAPL, HOUR, TODAY, NOW + MINUTES, 100)
    assert [(each.starts_at, each.trades) for each in found] == [
        (TODAY, 60),
        (TODAY + timedelta(hours=1), 60),
        (NOW.replace(minute=0), 1),
    ]
    assert found[-1].close == dollars("1.50")
    assert await bars.read(AAPL, DAY, TODAY, NOW, 10) == [bar_of([running], TODAY)]


async def test_what_is_asked_for_begins_at_its_start_and_before_its_end(start: Start, dsn: str) -> None:
    await fill(dsn, 180)
    bars = await start()

    async def starts(start: datetime, end: datetime, limit: int = 100) -> list[float]:
        found = await bars.read(AAPL, HOUR, start, end, limit)
        return [(each.starts_at - TODAY) / timedelta(hours=1) for each in found]

    hour, instant = timedelta(hours=1), timedelta(microseconds=1)
    assert await starts(TODAY, TODAY + 3 * hour) == [0, 1, 2]
    assert await starts(TODAY + instant, TODAY + 3 * hour) == [1, 2]
    assert await starts(TODAY, TODAY + hour) == [0]
    assert await starts(TODAY, TODAY + hour + instant) == [0, 1]
    assert await starts(TODAY, TODAY + 3 * hour, limit=2) == [0, 1]
    assert await starts(TODAY, TODAY) == []
    assert await starts(TODAY + instant, TODAY + hour) == []
    assert {each.trades for each in await bars.read(AAPL, HOUR, TODAY, TODAY + instant, 9)} == {60}, "never a part"


async def test_as_many_as_are_wanted_are_read_and_not_more(start: Start, database: Flaky, dsn: str) -> None:
    await fill(dsn, 5_000, TODAY - timedelta(days=4))
    bars = await start()
    database.asked = []
    found = await bars.read(AAPL, MINUTE, TODAY - timedelta(days=4), NOW, 4_500)
    assert [each.starts_at for each in found] == [TODAY - timedelta(days=4) + n * MINUTES for n in range(4_500)]
    assert database.asked == ["bars"] * 3
    database.asked = []
    assert len(await bars.read(AAPL, HOUR, TODAY - timedelta(days=4), NOW, 10)) == 10
    assert database.asked == ["bars"]


async def test_whether_anything_is_known_of_a_symbol(start: Start, dsn: str) -> None:
    await fill(dsn, 1)
    bars = await start()
    bars.add(trade(symbol=MSFT))
    assert [await bars.has_any(Symbol(each)) for each in ("AAPL", "MSFT", "GOOG")] == [True, True, False]


# ------------------------------------------------------------------ for ever


async def test_old_minutes_are_deleted_in_pieces_and_days_never(start: Start, database: Flaky, dsn: str) -> None:
    await fill(dsn, 4_500, TODAY - timedelta(days=9))
    await fill(dsn, 10, TODAY - timedelta(days=9), MSFT)
    await fill(dsn, 10, TODAY, MSFT)
    bars = await start()
    bars.add(trade())
    await bars.save()
    kept_from = TODAY - timedelta(days=9) + 4_100 * MINUTES
    database.asked = []
    await bars.tidy(kept_from)
    assert database.asked == ["bar_symbols", "delete_bars", "delete_bars", "delete_bars", "delete_bars"]
    assert [each.starts_at for each in (await saved(dsn))[:-1]] == [kept_from + n * MINUTES for n in range(400)]
    assert [each.starts_at for each in await saved(dsn, symbol=MSFT)] == [TODAY + n * MINUTES for n in range(10)]
    assert len(await saved(dsn, "1Day")) == 1


async def test_it_writes_and_tidies_by_itself_and_goes_on_after_a_failure(
    start: Start, database: Flaky, clock: Clock, dsn: str
) -> None:
    await fill(dsn, 10, TODAY - timedelta(days=8))
    database.before = frozenset({"load_bars", "save_bars", "bar_symbols"})
    bars = await start(bars_save_s=0.01, bars_kept_days=7)
    bars.add(trade())
    task = asyncio.create_task(bars.run())
    await asyncio.sleep(0.05)
    assert len(await saved(dsn)) == 10
    database.before = frozenset()
    async with asyncio.timeout(10):
        while await saved(dsn) != [bar_of([trade()])]:
            await asyncio.sleep(0.01)
    await fill(dsn, 10, TODAY - timedelta(days=8))
    clock.at = NOW + timedelta(days=1)
    async with asyncio.timeout(10):
        while len(await saved(dsn)) > 1:
            await asyncio.sleep(0.01)
    task.cancel()
