"""The broker's view of the quotes: a message at a time."""

import random
from typing import Any

import orjson
import pytest

from broker.config import Config
from broker.core.types import Symbol
from broker.market import Feed, FeedBroken, Quotes
from tests.builders import AAPL, dollars


def message(type_: str, sequence: int, **asks: str) -> str:
    quotes: list[dict[str, Any]] = [
        {"symbol": symbol, "bid": "1.00", "ask": ask, "last": "1.00", "at": "2026-11-27T14:30:00+00:00"}
        for symbol, ask in asks.items()
    ]
    return orjson.dumps({"type": type_, "sequence": sequence, "quotes": quotes}).decode()


@pytest.fixture
def quotes() -> Quotes:
    return Quotes()


@pytest.fixture
def feed(quotes: Quotes) -> Feed:
    return Feed("http://127.0.0.1:1", quotes, None, Config(), random.Random(1))  # type: ignore[arg-type]


def test_nothing_is_known_before_the_first_message(quotes: Quotes) -> None:
    assert (quotes.ask(AAPL), quotes.is_listed(AAPL), quotes.known) == (None, None, False)


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


@pytest.mark.parametrize(
    "text", ["", "{}", '{"type": "snapshot"}', message("snapshot", 1, AAPL="NaN"), message("snapshot", 1, AAPL="1e5")]
)
def test_garbage_is_one_error_and_changes_nothing(text: str, feed: Feed, quotes: Quotes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        feed.take(text)
    assert not quotes.known


@pytest.mark.parametrize("ask", ["0", "-1.00", "1000000.01"])
def test_a_price_that_cannot_be_is_garbage(ask: str, feed: Feed, quotes: Quotes) -> None:
    with pytest.raises(ValueError, match="a price is"):
        feed.take(message("snapshot", 1, AAPL=ask))
    assert not quotes.known


def test_a_symbol_that_no_snapshot_listed_is_not_listed(feed: Feed, quotes: Quotes) -> None:
    feed.take(message("snapshot", 1, AAPL="190.20"))
    feed.take(message("quotes", 2, AAPL="190.30", GHOST="1.00"))
    assert (quotes.ask(AAPL), quotes.is_listed(Symbol("GHOST"))) == (dollars("190.30"), False)


def test_when_the_feed_is_lost_nothing_is_known(feed: Feed, quotes: Quotes) -> None:
    feed.take(message("snapshot", 1, AAPL="190.20"))
    quotes.clear()
    assert quotes.is_listed(AAPL) is None
