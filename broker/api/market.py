"""The market, to be looked at: quotes, bars, what is listed, and when it trades. The stream tells what changes."""

import asyncio
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated, Protocol, TypedDict

import msgspec
from aiohttp import web

from broker import answers
from broker.api.query import Count, Ticker, bad_query, only_known, read_number
from broker.config import Config
from broker.core import hours
from broker.core.bars import Bar, Timeframe, day_of
from broker.core.day_trades import trade_date
from broker.core.money import format_money
from broker.core.types import SYMBOL_PATTERN, Symbol
from broker.http import ApiError, json_response
from broker.market.board import QuoteView
from broker.openapi import operation, parameters_of

_SYMBOL = re.compile(SYMBOL_PATTERN, re.ASCII)
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)
_EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
_ONE_DAY = timedelta(days=1)
_BARS_DEFAULT = 1_000
_CALENDAR_DAYS, _CALENDAR_DAYS_MAX = 30, 366
_CALENDAR_FIRST, _CALENDAR_LAST = date(1970, 1, 1), date(2099, 12, 31)
"""The exchange's calendar is right since long before the first of these, and foreseen to the last."""
_SEARCH_MAX = 100
_AT_ONCE = 1_000
"""Bars that are put into words before others get their turn on the loop: about 4 ms."""


Day = Annotated[str, msgspec.Meta(extra_json_schema={"format": "date"})]
MomentOrDay = Annotated[
    str,
    msgspec.Meta(
        description="a time with its zone, or a date, which begins at midnight in New York",
        extra_json_schema={"anyOf": [{"format": "date-time"}, {"format": "date"}]},
    ),
]


class QuotesQuery(msgspec.Struct):
    """The query of GET /api/v1/quotes."""

    symbols: Annotated[
        str,
        msgspec.Meta(
            pattern=r"^[A-Z][A-Z0-9.]{0,11}(,[A-Z][A-Z0-9.]{0,11})*$", description="tickers with commas: AAPL,MSFT"
        ),
    ]


class BarsQuery(msgspec.Struct):
    """The query of GET /api/v1/bars/{symbol}."""

    timeframe: Annotated[
        str,
        msgspec.Meta(
            pattern="^([1-9]|[1-5][0-9])Min$|^([1-9]|1[0-9]|2[0-3])Hour$|^1Day$",
            description="1Min to 59Min, 1Hour to 23Hour, or 1Day",
        ),
    ] = "1Min"
    start: MomentOrDay | None = None
    end: MomentOrDay | None = None
    limit: Count | None = None


class SymbolsQuery(msgspec.Struct):
    """The query of GET /api/v1/symbols."""

    search: (
        Annotated[
            str,
            msgspec.Meta(
                min_length=1,
                max_length=_SEARCH_MAX,
                pattern=r"\S",
                description="the beginning of a symbol or a part of a name",
            ),
        ]
        | None
    ) = None


class CalendarQuery(msgspec.Struct):
    """The query of GET /api/v1/calendar."""

    start: Day | None = None
    end: Day | None = None


class Quotes(TypedDict):
    """The quotes of several symbols, and those that no exchange lists."""

    quotes: list[QuoteView]
    unknown: list[Ticker]


class Listed(Protocol):
    """A symbol that can be traded, and where."""

    @property
    def symbol(self) -> Symbol: ...
    @property
    def name(self) -> str | None: ...
    @property
    def venue(self) -> str: ...


class Board(Protocol):
    """What is known of every symbol now. A view is what goes out as JSON."""

    @property
    def is_heard(self) -> bool: ...
    def lists(self, symbol: Symbol) -> bool | None: ...
    def listed(self) -> Sequence[Listed]: ...
    def view(self, symbol: Symbol) -> QuoteView | None: ...


class PastBars(Protocol):
    """The bars of each symbol."""

    async def read(
        self, symbol: Symbol, timeframe: Timeframe, start: datetime, end: datetime, limit: int
    ) -> list[Bar]: ...
    async def has_any(self, symbol: Symbol) -> bool: ...


class Switches(Protocol):
    """What operators have switched off, and why."""

    def halted(self, symbol: Symbol) -> str | None: ...
    def restricted(self, symbol: Symbol) -> str | None: ...


class MarketApi:
    """The reading routes about the market."""

    def __init__(
        self,
        board: Board,
        bars: PastBars,
        switches: Switches,
        now: Callable[[], datetime],
        config: Config,
    ) -> None:
        self._board = board
        self._bars = bars
        self._switches = switches
        self._now = now
        self._config = config

    def routes(self) -> list[web.RouteDef]:
        """What to mount."""
        return [
            web.get("/api/v1/quotes", self.quotes, allow_head=False),
            web.get("/api/v1/quotes/{symbol}", self.quote, allow_head=False),
            web.get("/api/v1/bars/{symbol}", self.bars, allow_head=False),
            web.get("/api/v1/symbols", self.symbols, allow_head=False),
            web.get("/api/v1/clock", self.clock, allow_head=False),
            web.get("/api/v1/calendar", self.calendar, allow_head=False),
        ]

    def _query(self, request: web.Request, names: Collection[str] = ()) -> Mapping[str, str]:
        """The parameters of somebody who may ask: any customer, a suspended one too."""
        only_known(request.query, names)
        return request.query

    # -------------------------------------------------------------- quotes

    @operation("The quote of one symbol", answer=QuoteView, errors=(400, 404))
    async def quote(self, request: web.Request) -> web.Response:
        """The quote of one symbol."""
        self._query(request)
        symbol = _named(request)
        view = self._board.view(symbol)
        if view is None:
            raise self._not_listed(symbol)
        return _encoded(view)

    @operation("The quotes of several symbols", answer=Quotes, query=QuotesQuery)
    async def quotes(self, request: web.Request) -> web.Response:
        """The quotes of several."""
        query = self._query(request, parameters_of(QuotesQuery))
        symbols = _symbols(query.get("symbols"), self._config.stream_symbols_max)
        if not self._board.is_heard:
            raise _no_quotes_yet()
        views = {symbol: self._board.view(symbol) for symbol in symbols}
        known = [view for view in views.values() if view is not None]
        quotes: Quotes = {"quotes": known, "unknown": [symbol for symbol, view in views.items() if view is None]}
        return _encoded(quotes)

    def _not_listed(self, symbol: Symbol) -> ApiError:
        return _no_quotes_yet() if self._board.lists(symbol) is None else _unknown(symbol)

    # -------------------------------------------------------------- bars

    @operation("The bars of a symbol, oldest first", answer=answers.PastBars, query=BarsQuery, errors=(404,))
    async def bars(self, request: web.Request) -> web.Response:
        """What was traded of one symbol, in bars."""
        query = self._query(request, parameters_of(BarsQuery))
        symbol, timeframe, now = _named(request), _timeframe(query.get("timeframe")), self._now()
        start = _moment("start", query.get("start"), day_of(now))
        end = _moment("end", query.get("end"), now)
        if start > end:
            raise bad_query("start must not come after end; left out, end is now and start is today")
        start, end = max(start, _EARLIEST), min(end, now + _ONE_DAY)  # beyond there is nothing
        most = self._config.bars_page_max
        limit = read_number("limit", query.get("limit"), min(_BARS_DEFAULT, most), most)
        limit = min(limit, max(1, most // timeframe.minutes))  # each is made of so many that have to be read
        found = await self._bars.read(symbol, timeframe, start, end, limit + 1)
        if not found and not self._board.lists(symbol) and not await self._bars.has_any(symbol):
            raise self._not_listed(symbol)
        more = found[limit].starts_at if len(found) > limit else None
        words = await _in_words(found[:limit])
        page: answers.PastBars = {"symbol": symbol, "timeframe": timeframe.text, "bars": words, "next_start": more}
        return json_response(page)

    # -------------------------------------------------------------- what and when

    @operation("What can be traded", answer=answers.ListedSymbols, query=SymbolsQuery)
    async def symbols(self, request: web.Request) -> web.Response:
        """What can be traded."""
        query = self._query(request, parameters_of(SymbolsQuery))
        wanted = query.get("search", "").strip().casefold()
        if len(wanted) > _SEARCH_MAX or ("search" in query and not wanted):
            raise bad_query(
                f"search takes the beginning of a symbol or a part of a name, up to {_SEARCH_MAX} characters"
            )
        listed = self._board.listed()
        if not listed:
            raise _no_quotes_yet()
        found: answers.ListedSymbols = {"symbols": [self._symbol(each) for each in listed if _matches(each, wanted)]}
        return json_response(found)

    def _symbol(self, listed: Listed) -> answers.ListedSymbol:
        return {
            "symbol": listed.symbol,
            "name": listed.name,
            "venue": listed.venue,
            "halted": self._switches.halted(listed.symbol),
            "restricted": self._switches.restricted(listed.symbol),
        }

    @operation("Whether the market is open", answer=answers.Clock, errors=(400,))
    async def clock(self, request: web.Request) -> web.Response:
        """Whether the market is open, and when that changes."""
        self._query(request)
        now = self._now()
        clock: answers.Clock = {"timestamp": now, "is_open": True, "next_open": None, "next_close": None}
        if self._config.hours != "always":
            clock["is_open"] = hours.is_open(now)
            clock["next_open"], clock["next_close"] = hours.next_open(now), hours.session_end(now)
        return json_response(clock)

    @operation("Trading days", answer=answers.Calendar, query=CalendarQuery)
    async def calendar(self, request: web.Request) -> web.Response:
        """The trading days."""
        query = self._query(request, parameters_of(CalendarQuery))
        start = _day("start", query.get("start"), trade_date(self._now()))
        end = _day("end", query.get("end"), min(start + (_CALENDAR_DAYS - 1) * _ONE_DAY, _CALENDAR_LAST))
        if start > end:
            raise bad_query("start must not come after end; left out, start is today")
        if (end - start).days >= _CALENDAR_DAYS_MAX:
            raise bad_query(f"The calendar has at most {_CALENDAR_DAYS_MAX} days at a time")
        days = (start + number * _ONE_DAY for number in range((end - start).days + 1))
        describe = _whole_day if self._config.hours == "always" else _session
        calendar: answers.Calendar = {"calendar": [line for day in days if (line := describe(day)) is not None]}
        return json_response(calendar)


# ------------------------------------------------------------------ parameters


def _named(request: web.Request) -> Symbol:
    """The symbol in the path."""
    text = request.match_info["symbol"]
    if _SYMBOL.search(text) is None:
        raise _unknown(text)
    return Symbol(text)


def _symbols(text: str | None, most: int) -> list[Symbol]:
    words = list(dict.fromkeys(word.strip() for word in (text or "").split(",")))
    if not 1 <= len(words) <= most or not all(_SYMBOL.search(word) for word in words):
        raise bad_query(f"symbols takes 1 to {most} tickers in capital letters with commas, like AAPL,MSFT")
    return [Symbol(word) for word in words]


def _timeframe(text: str | None) -> Timeframe:
    try:
        return Timeframe.read("1Min" if text is None else text)
    except ValueError as error:
        raise bad_query("timeframe takes 1Min to 59Min, 1Hour to 23Hour, or 1Day") from error


def _moment(name: str, text: str | None, default: datetime) -> datetime:
    """A time with its zone, in UTC; a date is the midnight in New York with which it begins."""
    if text is None:
        return default
    text = text.replace(" ", "+")  # an offset's plus sign that was not encoded
    try:
        if _DAY.fullmatch(text):
            return datetime.combine(date.fromisoformat(text), time(), hours.NEW_YORK).astimezone(UTC)
        moment = datetime.fromisoformat(text) if text.isascii() and len(text) <= 40 else None
        if moment is not None and moment.tzinfo is not None:
            return moment.astimezone(UTC)
    except (ValueError, OverflowError):  # the year 1 east of Greenwich is the year 0 in UTC
        pass
    raise bad_query(f"{name} takes a time with its zone, like 2026-11-27T14:30:00Z, or a date like 2026-11-27")


def _day(name: str, text: str | None, default: date) -> date:
    if text is None:
        return default
    try:
        day = date.fromisoformat(text) if _DAY.fullmatch(text) else None
    except ValueError:
        day = None
    if day is None or not _CALENDAR_FIRST <= day <= _CALENDAR_LAST:
        raise bad_query(f"{name} takes a date from {_CALENDAR_FIRST} to {_CALENDAR_LAST}, like 2026-11-27")
    return day


# ------------------------------------------------------------------ answers


def _unknown(symbol: str) -> ApiError:
    return ApiError(404, "unknown_symbol", f"No exchange lists {symbol[:12]}.")


def _no_quotes_yet() -> ApiError:
    sentence = "The exchange was not heard since the broker started. Try again in a second."
    return ApiError(503, "no_quotes_yet", sentence, {"Retry-After": "1"})


def _encoded(body: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(body), content_type="application/json")


async def _in_words(bars: Sequence[Bar]) -> list[answers.PastBar]:
    words: list[answers.PastBar] = []
    for begin in range(0, len(bars), _AT_ONCE):
        words += _words(bars[begin : begin + _AT_ONCE])
        await asyncio.sleep(0)
    return words


def _words(bars: Iterable[Bar]) -> list[answers.PastBar]:
    return [
        {
            "starts_at": bar.starts_at,
            "open": format_money(bar.open),
            "high": format_money(bar.high),
            "low": format_money(bar.low),
            "close": format_money(bar.close),
            "volume": bar.volume,
            "average_price": format_money(bar.average),
            "trades": bar.trades,
        }
        for bar in bars
    ]


def _matches(listed: Listed, wanted: str) -> bool:
    return listed.symbol.casefold().startswith(wanted) or wanted in (listed.name or "").casefold()


def _session(day: date) -> answers.TradingDay | None:
    """The day's regular hours; None where there are none."""
    found = hours.session(day)
    if found is None:
        return None
    early = found.closes_at.astimezone(hours.NEW_YORK).time() < hours.CLOSE
    return {"date": day, "opens_at": found.opens_at, "closes_at": found.closes_at, "early_close": early}


def _whole_day(day: date) -> answers.TradingDay:
    opens_at = datetime.combine(day, time(), hours.NEW_YORK).astimezone(UTC)
    return {"date": day, "opens_at": opens_at, "closes_at": hours.midnight(opens_at), "early_close": False}
