"""The broker's view of the quotes: a message at a time, from any source."""

import asyncio
import random
from collections.abc import AsyncGenerator
from typing import Any

import orjson
import pytest

from broker.config import Config
from broker.core.types import Symbol
from broker.market.feed import Feed, FeedBroken, Update
from broker.market.quotes import Quotes
from tests.builders import AAPL, dollars

AT = "2026-11-27T14:30:00+00:00"


def message(type_: str, sequence: int, trades: list[dict[str, Any]] | None = None, **asks: str) -> str:
    quotes: list[dict[str, Any]] = [
        {"symbol": symbol, "bid": "1.00", "ask": ask, "last": "1.00", "at": AT} for symbol, ask in asks.items()
    ]
    return orjson.dumps({"type": type_, "sequence": sequence, "quotes": quotes, "trades": trades or []}).decode()


class Clock:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Script:
    """A source that says this, each time anew, and then ends."""

    def __init__(self, *times: list[str]) -> None:
        self.times = list(times)
        self.begun = 0

    async def messages(self) -> AsyncGenerator[str | bytes, None]:
        said = self.times[min(self.begun, len(self.times) - 1)]
        self.begun += 1
        for text in said:
            yield text
            await asyncio.sleep(0)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def quotes(clock: Clock) -> Quotes:
    return Quotes(15.0, clock)


@pytest.fixture
def feed(quotes: Quotes) -> Feed:
    return follow(Script([]), quotes)


def follow(source: Script, quotes: Quotes, **settings: Any) -> Feed:
    def take(update: Update) -> None:
        if update.is_snapshot:
            quotes.replace(dict(update.quotes))
        else:
            quotes.update(update.quotes)

    return Feed(source, take, quotes.lost, Config(**settings), random.Random(1))


def test_nothing_is_known_before_the_first_message(quotes: Quotes) -> None:
    assert (quotes.ask(AAPL), quotes.is_listed(AAPL), quotes.connected, quotes.stale_for_s) == (None, None, False, None)


def test_a_snapshot_replaces_and_an_update_adds(feed: Feed, quotes: Quotes) -> None:
    feed.take(message("snapshot", 7, AAPL="190.20", MSFT="415.50"))
    feed.take(message("quotes", 8, AAPL="190.30"))
    assert quotes.ask(AAPL) == dollars("190.30")
    assert quotes.is_listed(Symbol("MSFT")) is True
    assert quotes.is_listed(Symbol("NOSUCH")) is False
    feed.take(message("snapshot", 1, AAPL="191.00"))
    assert quotes.is_listed(Symbol("MSFT")) is False


def test_a_missed_message_breaks_the_feed(feed: Feed) -> None:
    feed.take(message("snapshot", 1, AAPL="190.20"))
    with pytest.raises(FeedBroken, match="message 2 was missed, 3 came"):
        feed.take(message("quotes", 3, AAPL="190.30"))


def test_a_feed_begins_with_a_snapshot(feed: Feed) -> None:
    with pytest.raises(FeedBroken, match="did not begin with a snapshot"):
        feed.take(message("quotes", 1, AAPL="190.30"))


def trade(**changes: Any) -> dict[str, Any]:
    return {"symbol": "AAPL", "price": "190.20", "quantity": 5, "at": AT, **changes}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        '{"type": "snapshot"}',
        message("snapshot", 1, AAPL="NaN"),
        message("snapshot", 1, AAPL="1e5"),
        message("snapshot", 1, AAPL="1.00").replace("+00:00", ""),
        message("snapshot", 1, [trade(quantity=0)], AAPL="1.00"),
        message("snapshot", 1, [trade(quantity=10_000_001)], AAPL="1.00"),
        message("snapshot", 1, [trade(price="0")], AAPL="1.00"),
        message("snapshot", 1, AAPL="1.00").replace('"last"', '"bid_size":-1,"last"'),
        message("snapshot", 1, AAPL="1.00").replace('"last"', '"ask_size":1' + 40 * "0" + ',"last"'),
    ],
)
def test_garbage_is_one_error_and_changes_nothing(text: str, feed: Feed, quotes: Quotes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        feed.take(text)
    assert not quotes.connected


@pytest.mark.parametrize("ask", ["0", "-1.00", "1000000.01"])
def test_a_price_that_cannot_be_is_garbage(ask: str, feed: Feed, quotes: Quotes) -> None:
    with pytest.raises(ValueError, match="a price is"):
        feed.take(message("snapshot", 1, AAPL=ask))
    assert not quotes.connected


def test_a_symbol_that_no_snapshot_listed_is_not_listed(feed: Feed, quotes: Quotes) -> None:
    feed.take(message("snapshot", 1, AAPL="190.20"))
    feed.take(message("quotes", 2, AAPL="190.30", GHOST="1.00"))
    assert (quotes.ask(AAPL), quotes.is_listed(Symbol("GHOST"))) == (dollars("190.30"), False)


def test_a_symbol_that_nothing_here_could_carry_is_left_out(feed: Feed, quotes: Quotes) -> None:
    feed.take(message("snapshot", 1, **{"AAPL": "190.20", "brk/b": "1.00", "": "1.00"}))
    assert quotes.symbols == ["AAPL"]


def test_quotes_of_a_lost_feed_hold_for_a_moment_then_they_are_stale(feed: Feed, quotes: Quotes, clock: Clock) -> None:
    feed.take(message("snapshot", 1, AAPL="190.20"))
    quotes.lost()
    clock.now += 14.9
    assert (quotes.ask(AAPL), quotes.connected, quotes.stale_for_s) == (dollars("190.20"), False, None)
    clock.now += 0.1
    assert (quotes.ask(AAPL), quotes.bid(AAPL), quotes.stale_for_s) == (None, None, 15.0)
    assert (quotes.last(AAPL), quotes.is_listed(AAPL)) == (dollars("1.00"), True), "what a position is valued at stays"


def test_a_snapshot_makes_them_good_again(feed: Feed, quotes: Quotes, clock: Clock) -> None:
    feed.take(message("snapshot", 1, AAPL="190.20"))
    quotes.lost()
    clock.now += 60
    feed.take(message("snapshot", 1, AAPL="190.30"))
    assert (quotes.ask(AAPL), quotes.connected, quotes.stale_for_s) == (dollars("190.30"), True, None)


async def test_after_a_gap_the_feed_begins_anew_with_a_snapshot(quotes: Quotes) -> None:
    first = [message("snapshot", 1, AAPL="190.20"), message("quotes", 3, AAPL="1.00")]
    source = Script(first, [message("snapshot", 9, AAPL="190.40")])
    task = asyncio.create_task(follow(source, quotes).run())
    async with asyncio.timeout(20):
        while quotes.ask(AAPL) != dollars("190.40"):
            await asyncio.sleep(0.001)
    task.cancel()
    assert source.begun == 2


def test_a_snapshot_that_lists_nothing_takes_nothing_away(feed: Feed, quotes: Quotes) -> None:
    feed.take(message("snapshot", 1, AAPL="190.20"))
    with pytest.raises(FeedBroken, match="lists nothing"):
        feed.take(message("snapshot", 1))
    assert quotes.ask(AAPL) == dollars("190.20")


class Failing:
    """A source that fails with anything at all, and then goes on."""

    def __init__(self, error: Exception) -> None:
        self.errors = [error]

    async def messages(self) -> AsyncGenerator[str | bytes, None]:
        if self.errors:
            raise self.errors.pop()
        yield message("snapshot", 1, AAPL="190.20")
        await asyncio.sleep(60)


@pytest.mark.parametrize("error", [KeyError("ask"), RuntimeError("closed"), TypeError("x"), OverflowError("at")])
async def test_whatever_a_source_fails_with_the_feed_begins_anew(error: Exception, quotes: Quotes) -> None:
    task = asyncio.create_task(follow(Failing(error), quotes).run())  # type: ignore[arg-type]
    async with asyncio.timeout(20):
        while not quotes.connected:
            await asyncio.sleep(0.001)
    task.cancel()


async def test_json_that_is_nested_without_end_is_a_lost_feed(quotes: Quotes) -> None:
    source = Script(['{"x":' + "[" * 200_000], [message("snapshot", 9, AAPL="190.40")])
    task = asyncio.create_task(follow(source, quotes).run())
    async with asyncio.timeout(20):
        while not quotes.connected:
            await asyncio.sleep(0.001)
    task.cancel()


async def test_a_source_that_begins_and_fails_at_once_is_tried_ever_more_rarely(quotes: Quotes) -> None:
    source = Script([message("snapshot", 1, AAPL="190.20"), "nonsense"])
    await is_tried_ever_more_rarely(source, quotes)


async def test_a_source_that_never_begins_is_tried_ever_more_rarely(quotes: Quotes) -> None:
    source = Script(["nonsense"])
    await is_tried_ever_more_rarely(source, quotes)


async def is_tried_ever_more_rarely(source: Script, quotes: Quotes) -> None:
    """The pauses before the second to the fifth time are 0.1 + 0.2 + 0.2 + 0.2 s, times 0.5 to 1, and never longer."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    task = asyncio.create_task(follow(source, quotes, feed_retry_max_s=0.2).run())
    async with asyncio.timeout(20):
        while source.begun < 5:
            await asyncio.sleep(0.001)
    task.cancel()
    assert source.begun == 5
    assert loop.time() - began >= 0.35
