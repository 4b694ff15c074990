"""What a question for market data asks for, and where its next page begins. What makes no sense is a 400."""

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

import msgspec

from broker.alpaca.errors import AlpacaError
from broker.alpaca.requests import moment, symbols, word
from broker.core.types import Symbol

_TEXT, _YEAR_MAX = 200, 9000
"""What no token of ours is longer than, or later."""
_DIGITS = re.compile(r"[0-9]{1,9}", re.ASCII)
_FEEDS = {"iex", "sip", "otc", "boats", "delayed_sip", "overnight"}
_ADJUSTMENT = re.compile(r"[a-z]+(-[a-z]+)?(,[a-z]+(-[a-z]+)?)*", re.ASCII)
LIMIT = 1_000
"""Rows in an answer, where nothing is said."""

Symbols = Annotated[str, msgspec.Meta(description="tickers with commas: AAPL,MSFT", min_length=1)]
Moment = Annotated[str, msgspec.Meta(description="a time like 2026-11-27T14:30:00Z, or a date, New York's")]
Limit = Annotated[int, msgspec.Meta(ge=1, le=10_000, description="rows of all symbols together: 1000 where left out")]
Sort = Annotated[str, msgspec.Meta(pattern="^(asc|desc)$", description="asc or desc, by time")]
Feed = Annotated[str, msgspec.Meta(description="iex, sip and so on: all are the broker's own exchange")]
Currency = Annotated[str, msgspec.Meta(pattern="^USD$")]
Token = Annotated[str, msgspec.Meta(description="the next_page_token of the page before")]


class LatestQuery(msgspec.Struct):
    """The query of the newest of several symbols."""

    symbols: Symbols
    feed: Feed | None = None
    currency: Currency | None = None


class SymbolQuery(msgspec.Struct):
    """The query of the newest of one symbol."""

    feed: Feed | None = None
    currency: Currency | None = None


class SymbolPastQuery(msgspec.Struct):
    """The query of what one symbol's quotes or trades were."""

    start: Moment | None = None
    end: Moment | None = None
    limit: Limit | None = None
    sort: Sort | None = None
    page_token: Token | None = None
    feed: Feed | None = None
    currency: Currency | None = None
    asof: Annotated[str, msgspec.Meta(description="taken, without an effect")] | None = None


class PastQuery(SymbolPastQuery, kw_only=True):
    """The same of several symbols."""

    symbols: Symbols


class SymbolBarsQuery(SymbolPastQuery, kw_only=True):
    """The query of one symbol's bars."""

    timeframe: Annotated[
        str, msgspec.Meta(description="1Min to 59Min, 1Hour to 23Hour, 1Day, 1Week, 1Month, 2, 3, 4, 6 or 12Month")
    ]
    adjustment: Annotated[str, msgspec.Meta(description="taken, without an effect: prices are as traded")] | None = None


class BarsQuery(SymbolBarsQuery, kw_only=True):
    """The same of several symbols."""

    symbols: Symbols


def bad(message: str) -> AlpacaError:
    """400."""
    return AlpacaError(400, None, message)


@contextmanager
def as_bad_request() -> Iterator[None]:
    """Here, what a parameter may not be is a 400."""
    try:
        yield
    except AlpacaError as error:
        if error.status != 422:
            raise
        raise bad(error.message) from error


@dataclass(frozen=True, slots=True)
class Place:
    """Where a page ended: after a row of this symbol and time, of which it has had so many already."""

    symbol: Symbol
    at: datetime
    count: int

    @property
    def token(self) -> str:
        """As it goes out."""
        text = f"{self.symbol}|{self.at.isoformat()}|{self.count}"
        return base64.urlsafe_b64encode(text.encode()).decode()


def _place(text: str) -> Place:
    """Raises AlpacaError where it is no token of ours."""
    try:
        if len(text) > _TEXT:
            raise ValueError("too long")
        symbol, at, count = base64.b64decode(text, b"-_", validate=True).decode("ascii").split("|")
        moment_ = datetime.fromisoformat(at)
        if moment_.tzinfo is None or moment_.year > _YEAR_MAX or _DIGITS.fullmatch(count) is None:
            raise ValueError("not of ours")
        return Place(Symbol(symbol), moment_.astimezone(UTC), int(count))
    except (ValueError, OverflowError, binascii.Error) as error:
        raise bad("invalid page_token") from error


@dataclass(frozen=True, slots=True)
class Past:
    """What a question about the past asks for; `end` belongs to it."""

    start: datetime
    end: datetime
    limit: int
    newest_first: bool
    after: Place | None


def past(query: Mapping[str, str], now: datetime, today: datetime, most: int) -> Past:
    """Raises AlpacaError 400."""
    check(query)
    with as_bad_request():
        start, end = moment(query, "start"), moment(query, "end")
        newest_first = word(query, "sort", {"asc", "desc"}, "asc") == "desc"
    start, end = start or min(today, end or today), end or now
    if start > end:
        raise bad("end should not be before start")
    token = query.get("page_token")
    return Past(start, end, _limit(query.get("limit"), most), newest_first, _place(token) if token else None)


def _limit(text: str | None, most: int) -> int:
    if text is None:
        return min(LIMIT, most)
    if _DIGITS.fullmatch(text) is None or not 1 <= int(text) <= most:
        raise bad(f"invalid limit: it must be 1 to {most}")
    return int(text)


def check(query: Mapping[str, str]) -> None:
    """What every question may say, and what changes nothing here. Raises AlpacaError 400."""
    if query.get("feed", "iex") not in _FEEDS:
        raise bad("invalid feed")
    if query.get("currency", "USD") != "USD":
        raise bad("invalid currency: prices are in USD")
    if _ADJUSTMENT.fullmatch(query.get("adjustment", "raw")) is None:
        raise bad("invalid adjustment")


def wanted_symbols(query: Mapping[str, str], most: int) -> list[Symbol]:
    """The symbols in their order of letters. Raises AlpacaError 400 where there are none, or too many."""
    with as_bad_request():
        found = symbols(query, "symbols", most)
    if found is None:
        raise bad("symbols is required")
    return [Symbol(each) for each in sorted(found)]
