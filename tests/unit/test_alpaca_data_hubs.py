"""Alpaca's market data out: who follows what, as symbols come and go, and how it is put into frames."""

import asyncio
import json
import tracemalloc
from datetime import timedelta
from typing import Any

import msgpack
import pytest

from broker.alpaca.data_hubs import DataChannel, DataHubs, Subscription, TooManySymbols
from broker.alpaca.trade_updates import Telling
from broker.config import Config
from broker.core.types import Symbol
from broker.market.hub import Follower, JsonArrays, MsgpackArrays
from broker.market.quotes import Print, Quote
from broker.metrics import Metrics
from tests.builders import AAPL, NOW, dollars

MSFT, NVDA = Symbol("MSFT"), Symbol("NVDA")
QUOTE = Quote(dollars("99.90"), dollars("100.00"), dollars("99.95"), 1, 2, NOW)
MIB = 1024 * 1024


class Wire:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.written = b""

    def write(self, data: bytes) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0


def frames(data: bytes) -> list[tuple[int, bytes]]:
    """Opcodes and payloads of frames that a server sends."""
    found = []
    while data:
        kind, size, head = data[0], data[1], 2
        if size == 126:
            size, head = int.from_bytes(data[2:4], "big"), 4
        elif size == 127:
            size, head = int.from_bytes(data[2:10], "big"), 10
        found.append((kind, data[head : head + size]))
        data = data[head + size :]
    return found


def subscribed(hubs: DataHubs, *, packed: bool = True, **wanted: list[str]) -> tuple[Subscription, Wire]:
    wire = Wire()
    subscription = hubs.subscription(Follower(wire, lambda: None), reads_msgpack=packed)  # type: ignore[arg-type]
    subscription.add({DataChannel(channel): symbols for channel, symbols in wanted.items()})
    return subscription, wire


def following(subscription: Subscription) -> set[tuple[str, str]]:
    return {(topic.channel.value, topic.symbol) for topic in subscription.follower.topics}


def made(**settings: Any) -> DataHubs:
    hubs = DataHubs(Config(**settings), Metrics())
    hubs.listed([AAPL, MSFT])
    return hubs


async def told(hubs: DataHubs) -> None:
    """What is to be written is."""
    writing = asyncio.gather(hubs.run_msgpack(), hubs.run_json())
    await asyncio.sleep(0.01)
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)


def test_everything_is_what_is_listed_now_and_later() -> None:
    hubs = made()
    everything, _ = subscribed(hubs, quotes=["*"], trades=["MSFT"])
    assert following(everything) == {("quotes", "AAPL"), ("quotes", "MSFT"), ("trades", "MSFT")}
    hubs.listed([MSFT, NVDA])
    assert following(everything) == {("quotes", "MSFT"), ("quotes", "NVDA"), ("trades", "MSFT")}
    everything.remove({DataChannel.QUOTES: ["MSFT"]})
    assert ("quotes", "MSFT") in following(everything), "it is still everything"
    everything.remove({DataChannel.QUOTES: ["*"]})
    assert following(everything) == {("trades", "MSFT")}
    hubs.gone(everything)
    hubs.listed([AAPL])
    assert following(everything) == set()


def test_no_more_symbols_than_there_may_be_also_when_more_are_listed() -> None:
    hubs = made(stream_symbols_max=2)
    one, _ = subscribed(hubs, quotes=["AAPL"], bars=["AAPL", "NOSUCH"])
    with pytest.raises(TooManySymbols):
        one.add({DataChannel.TRADES: ["*"]})
    assert one.state()["trades"] == []
    everything, _ = subscribed(hubs, quotes=["*"])
    hubs.listed([AAPL, MSFT, NVDA])
    assert following(everything) == {("quotes", "AAPL"), ("quotes", "MSFT")}


def test_what_is_not_listed_is_acknowledged_and_costs_no_topic_until_it_is_listed() -> None:
    hubs = made(stream_symbols_max=3)
    one, _ = subscribed(hubs, quotes=["NVDA", "AAPL"], lulds=["NOSUCH"])
    nothing = {channel.value: [] for channel in DataChannel}
    assert one.state() == nothing | {"quotes": ["NVDA", "AAPL"], "lulds": ["NOSUCH"]}
    assert following(one) == {("quotes", "AAPL")}
    hubs.listed([AAPL, MSFT, NVDA])
    assert following(one) == {("quotes", "AAPL"), ("quotes", "NVDA")}
    one.remove({DataChannel.QUOTES: ["NVDA"], DataChannel.LULDS: ["NOSUCH", "AAPL"]})
    assert one.state() == nothing | {"quotes": ["AAPL"]}


def test_names_of_what_is_not_listed_take_no_place_of_what_is() -> None:
    hubs = made(stream_symbols_max=3)
    everything, _ = subscribed(hubs, quotes=["*", "AA"])
    hubs.listed([AAPL, MSFT, NVDA])
    assert following(everything) == {("quotes", "AAPL"), ("quotes", "MSFT"), ("quotes", "NVDA")}


def test_a_stream_with_as_many_names_as_it_may_have_costs_little_memory() -> None:
    hubs = made()
    names = [f"ZZZZZZZZ{number:04}" for number in range(Config().stream_symbols_max)]
    tracemalloc.start()
    try:
        one, _ = subscribed(hubs)
        for channel in DataChannel:
            one.add({channel: json.loads(json.dumps(names))})
        cost, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert cost < 200_000
    assert one.state() == {channel.value: names for channel in DataChannel}


async def test_each_client_reads_what_it_follows_in_its_own_encoding() -> None:
    hubs = made()
    _, packed = subscribed(hubs, quotes=["AAPL"], trades=["AAPL"])
    _, plain = subscribed(hubs, packed=False, trades=["AAPL"])
    _, other = subscribed(hubs, quotes=["MSFT"])
    hubs.quotes([AAPL], {AAPL: QUOTE})
    for number in (1, 2):
        hubs.trade(Print(AAPL, dollars("100.00"), number, NOW + timedelta(seconds=number)), number)
    await told(hubs)
    ((kind, payload),) = frames(packed.written)
    assert (kind, [(each["T"], each.get("i")) for each in msgpack.unpackb(payload)]) == (
        0x82,
        [("q", None), ("t", 1), ("t", 2)],
    )
    assert [(kind, [each["i"] for each in json.loads(payload)]) for kind, payload in frames(plain.written)] == [
        (0x81, [1]),
        (0x81, [2]),
    ]
    assert other.written == b""


@pytest.mark.parametrize("count", [1, 15, 16, 100, 70_000])
def test_arrays_of_any_length_are_read_and_no_frame_is_too_large(count: int) -> None:
    payloads = [msgpack.packb({"number": number, "text": "x" * 30}) for number in range(count)]
    found = frames(MsgpackArrays().array(payloads))
    assert all(kind == 0x82 and len(payload) < MIB for kind, payload in found)
    assert [each["number"] for _, payload in found for each in msgpack.unpackb(payload)] == list(range(count))
    found = frames(JsonArrays().array([json.dumps([number, "x" * 30]).encode() for number in range(count)]))
    assert all(kind == 0x81 and len(payload) < MIB for kind, payload in found)
    assert [each[0] for _, payload in found for each in json.loads(payload)] == list(range(count))


# ------------------------------------------------------------------ trade updates


def event(word: str, order_id: str) -> bytes:
    lines = [f"{word} {order_id}".encode(), word.encode()]
    return b"\n".join([*lines, b"new"] if "fill" in word else lines)


def test_new_is_put_before_the_first_fill_of_an_order_that_waits_for_it_once() -> None:
    telling = Telling({"a": None}, most=10)
    said = [("partial_fill", "a"), ("fill", "a"), ("pending_new", "b"), ("new", "b"), ("fill", "b"), ("fill", "c")]
    assert [telling.messages(event(*each)) for each in said] == [
        [b"new", b"partial_fill"],
        [b"fill"],
        [b"pending_new"],
        [b"new"],
        [b"fill"],
        [b"fill"],
    ]
    assert telling.messages(b"") == [], "a step that there is no event for"


def test_what_is_remembered_is_bounded_and_forgotten_with_the_order() -> None:
    telling = Telling({}, most=3)
    for number in range(10):
        telling.messages(event("pending_new", str(number)))
    assert list(telling.waiting) == ["7", "8", "9"]
    for word, order_id in (("canceled", "7"), ("rejected", "8"), ("new", "9")):
        telling.messages(event(word, order_id))
    assert list(telling.waiting) == []


async def test_who_leaves_takes_nothing_from_those_who_read_the_other_encoding() -> None:
    """Each encoding has a hub of its own, with topics of the same names."""
    hubs = made()
    stays, wire = subscribed(hubs, packed=True, quotes=["AAPL"])
    leaves, _ = subscribed(hubs, packed=False, quotes=["AAPL"], trades=["MSFT"])
    hubs.gone(leaves)
    assert following(leaves) == set()
    assert following(stays) == {("quotes", "AAPL")}
    writing = asyncio.create_task(hubs.run_msgpack())
    hubs.quotes([AAPL], {AAPL: QUOTE})
    await asyncio.sleep(0)
    while not wire.written:
        await asyncio.sleep(0)
    writing.cancel()
    await asyncio.wait({writing})
    hubs.gone(stays)
