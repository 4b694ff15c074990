"""Market data out: who gets what, what is conflated, who is cut off. Transports are fakes whose buffer a test sets."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
from aiohttp import WSMsgType
from aiohttp._websocket.reader import WebSocketDataQueue, WebSocketReader
from aiohttp.base_protocol import BaseProtocol

from broker.config import Config
from broker.core.types import Symbol
from broker.market.hub import Channel, Follower, Hub, text_frame
from broker.metrics import Metrics
from tests.builders import AAPL

MSFT = Symbol("MSFT")
QUOTES, TRADES = Channel.QUOTES, Channel.TRADES


class Wire:
    """A transport: what was written, and how much of it waits."""

    def __init__(self) -> None:
        self.written = b""
        self.waiting = 0

    def write(self, data: bytes) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return self.waiting


def read(frames: bytes) -> list[Any]:
    """What a WebSocket client reads: aiohttp's own parser."""
    loop = asyncio.get_running_loop()
    queue = WebSocketDataQueue(BaseProtocol(loop), 2**24, loop=loop)
    WebSocketReader(queue, 2**24, compress=False, decode_text=True).feed_data(frames)
    messages = [message for message, _ in queue._buffer]
    assert {each.type for each in messages} <= {WSMsgType.TEXT}
    return [orjson.loads(each.data) for each in messages]


class Room:
    """A hub at work, and followers."""

    def __init__(self, **settings: Any) -> None:
        self.metrics = Metrics()
        self.hub = Hub(Config(**settings), self.metrics)
        self.cut: list[Follower] = []

    def follower(self, *topics: tuple[Channel, Symbol], batch: bool = False) -> tuple[Follower, Wire]:
        wire = Wire()
        follower = Follower(wire, lambda: self.cut.append(follower))  # type: ignore[arg-type]
        follower.batch = batch
        for channel, symbol in topics:
            self.hub.follow(follower, channel, symbol)
        return follower, wire

    def say(self, symbol: Symbol, number: int, channel: Channel = QUOTES) -> None:
        self.hub.publish(channel, symbol, orjson.dumps([symbol, number]))


@pytest.fixture
async def room() -> AsyncIterator[Room]:
    async for each in at_work(Room()):
        yield each


async def at_work(room: Room) -> AsyncIterator[Room]:
    task = asyncio.create_task(room.hub.run())
    yield room
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def settle(seconds: float = 0.0) -> None:
    await asyncio.sleep(seconds)
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536, 200_000])
async def test_a_frame_is_what_a_client_reads(size: int) -> None:
    text = "x" * size
    assert read(text_frame(orjson.dumps(text))) == [text]


async def test_everybody_who_follows_a_symbol_hears_of_it_and_nobody_else(room: Room) -> None:
    _, both = room.follower((QUOTES, AAPL), (QUOTES, MSFT))
    _, one = room.follower((QUOTES, MSFT))
    room.say(AAPL, 1)
    room.say(MSFT, 2)
    room.say(Symbol("GHOST"), 3)
    await settle()
    assert read(both.written) == [["AAPL", 1], ["MSFT", 2]]
    assert read(one.written) == [["MSFT", 2]]


async def test_what_is_newer_by_the_time_of_ones_turn_replaces_what_is_older(room: Room) -> None:
    _, wire = room.follower((QUOTES, AAPL), (QUOTES, MSFT))
    for number in range(5):
        room.say(AAPL, number)
    room.say(MSFT, 9)
    await settle()
    assert read(wire.written) == [["AAPL", 4], ["MSFT", 9]]


async def test_trades_are_all_sent_in_their_order(room: Room) -> None:
    _, wire = room.follower((TRADES, AAPL))
    for number in range(10):
        room.say(AAPL, number, TRADES)
    await settle()
    for number in range(10, 12):
        room.say(AAPL, number, TRADES)
    await settle()
    assert read(wire.written) == [["AAPL", number] for number in range(12)]


async def test_of_trades_the_last_64_are_kept_for_one_that_is_behind(room: Room) -> None:
    _, wire = room.follower((TRADES, AAPL))
    for number in range(200):
        room.say(AAPL, number, TRADES)
    await settle()
    assert read(wire.written) == [["AAPL", number] for number in range(136, 200)]


async def test_a_slow_one_gets_the_newest_when_it_takes_again_and_holds_up_nobody(room: Room) -> None:
    _, slow = room.follower((QUOTES, AAPL))
    _, fast = room.follower((QUOTES, AAPL))
    slow.waiting = 10**6
    for number in range(100):
        room.say(AAPL, number)
        await settle()
    assert len(read(fast.written)) == 100
    assert slow.written == b""
    slow.waiting = 0
    await settle(0.05)
    assert read(slow.written) == [["AAPL", 99]], "once, and the newest"
    room.say(AAPL, 100)
    await settle()
    assert read(slow.written)[-1] == ["AAPL", 100]
    assert room.metrics.stream_conflated._value.get() == 99


async def test_what_waits_for_a_slow_one_is_bounded_by_its_topics(room: Room) -> None:
    follower, slow = room.follower((QUOTES, AAPL), (TRADES, AAPL), (QUOTES, MSFT))
    slow.waiting = 10**6
    for number in range(1_000):
        room.say(AAPL, number)
        room.say(AAPL, number, TRADES)
        room.say(MSFT, number)
    await settle()
    assert len(follower.pending) == 3


async def test_one_that_takes_nothing_for_too_long_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("broker.market.hub.monotonic", lambda: now)
    monkeypatch.setattr("broker.market.hub._LOOK_S", 0)
    async for room in at_work(Room(stream_stall_s=0.2)):
        follower, stuck = room.follower((QUOTES, AAPL))
        moving_follower, moving = room.follower((QUOTES, AAPL))
        stuck.waiting, moving.waiting = 10**6, 10**6
        room.say(AAPL, 1)
        for _ in range(20):
            moving.waiting -= 1  # slow, and alive
            stuck.waiting += 2  # a ping, and another one: no progress
            now += 0.03
            await settle()
        assert room.cut == [follower]
        assert follower.topics == set()
        assert moving_follower.pending
        assert room.metrics.stream_cut._value.get() == 1


async def test_a_batch_is_one_array_with_all_that_changed() -> None:
    async for room in at_work(Room(stream_batch_s=1.0)):
        follower, wire = room.follower((QUOTES, AAPL), (QUOTES, MSFT), (TRADES, AAPL), batch=True)
        follower.slot = 0  # the last one of the interval: however long this takes, it is not its turn yet
        room.say(AAPL, 1)
        room.say(AAPL, 2)
        room.say(AAPL, 1, TRADES)
        room.say(AAPL, 2, TRADES)
        room.say(MSFT, 3)
        await settle()
        assert wire.written == b"", "not at once"
        async with asyncio.timeout(10):
            while not wire.written:
                await asyncio.sleep(0.01)
        assert read(wire.written) == [[["AAPL", 2], ["AAPL", 1], ["AAPL", 2], ["MSFT", 3]]]


async def test_one_that_is_gone_hears_no_more_and_leaves_nothing_behind(room: Room) -> None:
    follower, wire = room.follower((QUOTES, AAPL), (TRADES, MSFT))
    room.say(AAPL, 1)
    room.hub.gone(follower)
    await settle()
    room.say(AAPL, 2)
    await settle()
    assert wire.written == b""
    assert not room.hub.is_followed(QUOTES, AAPL)
    assert not room.hub.is_followed(TRADES, MSFT)


async def test_leaving_one_symbol_keeps_the_others(room: Room) -> None:
    follower, wire = room.follower((QUOTES, AAPL), (QUOTES, MSFT))
    room.hub.leave(follower, QUOTES, AAPL)
    room.hub.leave(follower, QUOTES, AAPL)  # twice is as good as once
    room.say(AAPL, 1)
    room.say(MSFT, 2)
    await settle()
    assert read(wire.written) == [["MSFT", 2]]


async def test_a_thousand_followers_do_not_keep_the_loop_for_themselves(room: Room) -> None:
    wires = [room.follower((QUOTES, AAPL))[1] for _ in range(1_000)]
    room.say(AAPL, 1)
    turns = 0
    while not wires[-1].written or not all(wire.written for wire in wires):
        await asyncio.sleep(0)
        turns += 1
    assert turns >= 1_000 // 64
