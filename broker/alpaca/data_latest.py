"""Alpaca's REST paths of what is newest, `/v2/stocks/...`: quotes, trades, closed minutes, snapshots of it all."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol, TypeVar

from aiohttp import web

from broker.alpaca.data_answers import (
    LatestBar,
    LatestBars,
    LatestQuote,
    LatestQuotes,
    LatestTrade,
    LatestTrades,
    Snapshot,
    SymbolSnapshot,
)
from broker.alpaca.data_out import BarRow, QuoteRow, TradeRow, bar_row, last_row, quote_row, trade_row
from broker.alpaca.data_query import LatestQuery, SymbolQuery, check, wanted_symbols
from broker.alpaca.errors import answers, not_found
from broker.alpaca.requests import is_symbol, query_of, reply
from broker.config import Config
from broker.core.bars import DAY, MINUTE, Bar, day_of, minute_of
from broker.core.money import Money
from broker.core.types import Symbol
from broker.db import Database
from broker.market.quotes import Quote
from broker.market.tape import Tape
from broker.openapi import operation

_TAG = "market data"

Row = TypeVar("Row")


class Board(Protocol):
    """What is quoted."""

    def quote(self, symbol: Symbol) -> Quote | None: ...


class Days(Protocol):
    """What was traded today, and in the minute that runs."""

    def minute(self, symbol: Symbol) -> Bar | None: ...
    def day(self, symbol: Symbol) -> Bar | None: ...


class LatestDataApi:
    """The routes."""

    def __init__(
        self,
        board: Board,
        bars: Days,
        tape: Tape,
        database: Database,
        config: Config,
        now: Callable[[], datetime],
    ) -> None:
        self._board = board
        self._bars = bars
        self._tape = tape
        self._database = database
        self._config = config
        self._now = now

    def routes(self) -> list[web.RouteDef]:
        """What to mount."""
        handlers = {
            "/v2/stocks/bars/latest": self.latest_bars,
            "/v2/stocks/quotes/latest": self.latest_quotes,
            "/v2/stocks/trades/latest": self.latest_trades,
            "/v2/stocks/snapshots": self.snapshots,
            "/v2/stocks/{symbol}/bars/latest": self.latest_bar,
            "/v2/stocks/{symbol}/quotes/latest": self.latest_quote,
            "/v2/stocks/{symbol}/trades/latest": self.latest_trade,
            "/v2/stocks/{symbol}/snapshot": self.snapshot,
        }
        return [web.get(path, answers(handler), allow_head=False) for path, handler in handlers.items()]

    async def _several(self, request: web.Request) -> list[Symbol]:
        """The symbols that somebody asks about who may: any customer, a suspended one too."""
        query = query_of(request)
        check(query)
        return wanted_symbols(query, self._config.data_symbols_max)

    async def _named(self, request: web.Request) -> list[Symbol]:
        """The symbol in the path."""
        check(query_of(request))
        text = request.match_info["symbol"]
        return [Symbol(text)] if is_symbol(text) else []

    @operation("The last closed minute of several symbols", answer=LatestBars, query=LatestQuery, tag=_TAG)
    async def latest_bars(self, request: web.Request) -> web.Response:
        """The last minutes that are over."""
        return reply(LatestBars(await self._minutes(await self._several(request))))

    @operation("The last closed minute of a symbol", answer=LatestBar, query=SymbolQuery, errors=(404,), tag=_TAG)
    async def latest_bar(self, request: web.Request) -> web.Response:
        """The same of one."""
        symbols = await self._named(request)
        return reply(LatestBar(*_found("bar", request, await self._minutes(symbols))))

    @operation("The quotes of several symbols", answer=LatestQuotes, query=LatestQuery, tag=_TAG)
    async def latest_quotes(self, request: web.Request) -> web.Response:
        """The quotes as they are."""
        return reply(LatestQuotes(self._quotes(await self._several(request))))

    @operation("The quote of a symbol", answer=LatestQuote, query=SymbolQuery, errors=(404,), tag=_TAG)
    async def latest_quote(self, request: web.Request) -> web.Response:
        """The same of one."""
        symbols = await self._named(request)
        return reply(LatestQuote(*_found("quote", request, self._quotes(symbols))))

    @operation("The last trades of several symbols", answer=LatestTrades, query=LatestQuery, tag=_TAG)
    async def latest_trades(self, request: web.Request) -> web.Response:
        """The last trades."""
        return reply(LatestTrades(self._trades(await self._several(request))))

    @operation("The last trade of a symbol", answer=LatestTrade, query=SymbolQuery, errors=(404,), tag=_TAG)
    async def latest_trade(self, request: web.Request) -> web.Response:
        """The same of one."""
        symbols = await self._named(request)
        return reply(LatestTrade(*_found("trade", request, self._trades(symbols))))

    @operation("All that is newest of several symbols", answer=dict[str, Snapshot], query=LatestQuery, tag=_TAG)
    async def snapshots(self, request: web.Request) -> web.Response:
        """All that is newest."""
        return reply(await self._snapshots(await self._several(request)))

    @operation("All that is newest of a symbol", answer=SymbolSnapshot, query=SymbolQuery, errors=(404,), tag=_TAG)
    async def snapshot(self, request: web.Request) -> web.Response:
        """The same of one."""
        symbols = await self._named(request)
        found, symbol = _found("snapshot", request, await self._snapshots(symbols))
        return reply(
            SymbolSnapshot(
                found.latestTrade,
                found.latestQuote,
                found.minuteBar,
                found.dailyBar,
                found.prevDailyBar,
                symbol=symbol,
            )
        )

    def _quotes(self, symbols: Iterable[Symbol]) -> dict[str, QuoteRow]:
        return {symbol: quote_row(quote) for symbol in symbols if (quote := self._board.quote(symbol)) is not None}

    def _trades(self, symbols: Iterable[Symbol]) -> dict[str, TradeRow]:
        """Where no trade was heard since the start, the price of the one before is what is known."""
        found: dict[str, TradeRow] = {}
        for symbol in symbols:
            traded, quote = self._tape.last_trade(symbol), self._board.quote(symbol)
            if traded is not None:
                found[symbol] = trade_row(traded)
            elif quote is not None:
                found[symbol] = last_row(quote)
        return found

    async def _minutes(self, symbols: Sequence[Symbol]) -> dict[str, BarRow]:
        this_minute = minute_of(self._now())
        # After a clock was set back, the tape's and the one that runs may be of the future.
        told = {symbol: bar for symbol in symbols if (bar := self._tape.minute(symbol)) is not None}
        found = {symbol: bar for symbol, bar in told.items() if bar.starts_at < this_minute}
        missing = [symbol for symbol in symbols if symbol not in found]
        older = await self._newest_bars(missing, MINUTE.text, this_minute, 1)
        found |= {each: bars[0] for each, bars in older.items()}
        for symbol in symbols:  # of one whose first minute runs, that is better than nothing
            running = self._bars.minute(symbol)
            if symbol not in found and running is not None and running.starts_at <= this_minute:
                found[symbol] = running
        return {symbol: bar_row(bar) for symbol, bar in found.items()}

    async def _snapshots(self, symbols: Sequence[Symbol]) -> dict[str, Snapshot]:
        quotes, trades, minutes = self._quotes(symbols), self._trades(symbols), await self._minutes(symbols)
        earlier = await self._newest_bars(symbols, DAY.text, day_of(self._now()), 2)
        found = {}
        for symbol in symbols:
            if symbol in quotes:
                today = self._bars.day(symbol)
                days = [bar_row(bar) for bar in ([today] if today else []) + earlier.get(symbol, [])]
                day, before = [*days, None, None][:2]
                found[str(symbol)] = Snapshot(trades[symbol], quotes[symbol], minutes.get(str(symbol)), day, before)
        return found

    async def _newest_bars(
        self, symbols: Sequence[Symbol], timeframe: str, before: datetime, count: int
    ) -> dict[Symbol, list[Bar]]:
        """The last bars of the database that began before, newest first."""
        found: dict[Symbol, list[Bar]] = {}
        if symbols:
            rows = await self._database.fetch("alpaca_data_newest_bars", symbols, timeframe, before, count)
            for row in rows:
                found.setdefault(Symbol(row["symbol"]), []).append(_bar(row))
        return found


def _found(kind: str, request: web.Request, found: Mapping[str, Row]) -> tuple[Row, str]:
    symbol = request.match_info["symbol"]
    if symbol not in found:
        raise not_found(f"no {kind} found for {symbol[:20]}")
    return found[symbol], symbol


def _bar(row: Any) -> Bar:
    prices = Money(row["open"]), Money(row["high"]), Money(row["low"]), Money(row["close"])
    return Bar(row["starts_at"], *prices, row["volume"], Money(row["value"]), row["trades"])
