"""Alpaca's REST paths of past market data, `/v2/stocks/...`: bars, and the newest quotes and trades."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from aiohttp import web

from broker.alpaca.bars import Frame, PastBars, read_bars
from broker.alpaca.data_answers import (
    BarsAnswer,
    QuotesAnswer,
    SymbolBarsAnswer,
    SymbolQuotesAnswer,
    SymbolTradesAnswer,
    TradesAnswer,
)
from broker.alpaca.data_out import BarRow, QuoteRow, TradeRow, bar_row, quote_row, trade_row
from broker.alpaca.data_pages import from_memory, read_page
from broker.alpaca.data_query import (
    BarsQuery,
    Past,
    PastQuery,
    Place,
    SymbolBarsQuery,
    SymbolPastQuery,
    bad,
    past,
    wanted_symbols,
)
from broker.alpaca.errors import answers
from broker.alpaca.requests import is_symbol, query_of, reply
from broker.config import Config
from broker.core.bars import DAY, Bar, day_of
from broker.core.types import Symbol
from broker.market.quotes import Quote
from broker.market.tape import Tape, Traded
from broker.openapi import operation

_EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
_ONE_DAY = timedelta(days=1)
_INSTANT = timedelta(microseconds=1)
_TAG = "market data"

Row = TypeVar("Row")


class DataApi:
    """The routes."""

    def __init__(
        self,
        bars: PastBars,
        tape: Tape,
        config: Config,
        now: Callable[[], datetime],
    ) -> None:
        self._bars = bars
        self._tape = tape
        self._config = config
        self._now = now

    def routes(self) -> list[web.RouteDef]:
        """What to mount."""
        handlers = {
            "/v2/stocks/bars": self.bars,
            "/v2/stocks/quotes": self.quotes,
            "/v2/stocks/trades": self.trades,
            "/v2/stocks/{symbol}/bars": self.bars_of,
            "/v2/stocks/{symbol}/quotes": self.quotes_of,
            "/v2/stocks/{symbol}/trades": self.trades_of,
        }
        return [web.get(path, answers(handler), allow_head=False) for path, handler in handlers.items()]

    async def _query(self, request: web.Request) -> Mapping[str, str]:
        """The parameters of somebody who may ask: any customer, a suspended one too."""
        return query_of(request)

    async def _named(self, request: web.Request) -> tuple[Mapping[str, str], list[Symbol]]:
        """The same of a path with a symbol in it."""
        query, text = await self._query(request), request.match_info["symbol"]
        return query, [Symbol(text)] if is_symbol(text) else []

    @operation("Bars of several symbols", answer=BarsAnswer, query=BarsQuery, tag=_TAG)
    async def bars(self, request: web.Request) -> web.Response:
        """What was traded, in bars."""
        query = await self._query(request)
        found, token = await self._past_bars(query, wanted_symbols(query, self._config.data_symbols_max))
        return reply(BarsAnswer(found, token))

    @operation("Bars of one symbol", answer=SymbolBarsAnswer, query=SymbolBarsQuery, tag=_TAG)
    async def bars_of(self, request: web.Request) -> web.Response:
        """The same of one."""
        query, symbols = await self._named(request)
        found, token = await self._past_bars(query, symbols)
        return reply(SymbolBarsAnswer(_only(found), request.match_info["symbol"], token))

    async def _past_bars(
        self, query: Mapping[str, str], symbols: Sequence[Symbol]
    ) -> tuple[dict[str, list[BarRow]], str | None]:
        frame, wanted = _frame(query), self._past(query)

        async def read(symbol: Symbol, after: Place | None, limit: int) -> list[Bar]:
            start, end = max(wanted.start, _EARLIEST), min(wanted.end, self._now() + _ONE_DAY) + _INSTANT
            if after is not None and wanted.newest_first:
                end = min(end, after.at)
            elif after is not None:
                start = max(start, after.at + _INSTANT)
            if frame.timeframe is not None and frame.timeframe != DAY:  # older ones are not kept
                start = max(start, day_of(self._now()) - (self._config.bars_kept_days + 2) * _ONE_DAY)
            return await read_bars(self._bars, symbol, frame, start, end, limit, newest_first=wanted.newest_first)

        return await read_page(symbols, wanted, read, lambda bar: bar.starts_at, bar_row)

    @operation("Quotes of several symbols: the newest ones", answer=QuotesAnswer, query=PastQuery, tag=_TAG)
    async def quotes(self, request: web.Request) -> web.Response:
        """What was quoted lately."""
        query = await self._query(request)
        found, token = await self._past_quotes(query, wanted_symbols(query, self._config.data_symbols_max))
        return reply(QuotesAnswer(found, token))

    @operation("Quotes of one symbol: the newest ones", answer=SymbolQuotesAnswer, query=SymbolPastQuery, tag=_TAG)
    async def quotes_of(self, request: web.Request) -> web.Response:
        """The same of one."""
        query, symbols = await self._named(request)
        found, token = await self._past_quotes(query, symbols)
        return reply(SymbolQuotesAnswer(_only(found), request.match_info["symbol"], token))

    async def _past_quotes(
        self, query: Mapping[str, str], symbols: Sequence[Symbol]
    ) -> tuple[dict[str, list[QuoteRow]], str | None]:
        wanted = self._past(query)
        return await read_page(
            symbols, wanted, from_memory(wanted, self._tape.quotes, _quoted_at), _quoted_at, quote_row
        )

    @operation("Trades of several symbols: the newest ones", answer=TradesAnswer, query=PastQuery, tag=_TAG)
    async def trades(self, request: web.Request) -> web.Response:
        """What was traded lately."""
        query = await self._query(request)
        found, token = await self._past_trades(query, wanted_symbols(query, self._config.data_symbols_max))
        return reply(TradesAnswer(found, token))

    @operation("Trades of one symbol: the newest ones", answer=SymbolTradesAnswer, query=SymbolPastQuery, tag=_TAG)
    async def trades_of(self, request: web.Request) -> web.Response:
        """The same of one."""
        query, symbols = await self._named(request)
        found, token = await self._past_trades(query, symbols)
        return reply(SymbolTradesAnswer(_only(found), request.match_info["symbol"], token))

    async def _past_trades(
        self, query: Mapping[str, str], symbols: Sequence[Symbol]
    ) -> tuple[dict[str, list[TradeRow]], str | None]:
        wanted = self._past(query)
        read = from_memory(wanted, self._tape.trades, _traded_at)
        return await read_page(symbols, wanted, read, _traded_at, trade_row)

    def _past(self, query: Mapping[str, str]) -> Past:
        now = self._now()
        return past(query, now, day_of(now), self._config.bars_page_max)


def _quoted_at(quote: Quote) -> datetime:
    return quote.at


def _traded_at(traded: Traded) -> datetime:
    return traded.trade.at


def _frame(query: Mapping[str, str]) -> Frame:
    text = query.get("timeframe")
    if text is None:
        raise bad("timeframe is required")
    try:
        return Frame.read(text)
    except ValueError as error:
        raise bad("invalid timeframe") from error


def _only(found: Mapping[str, list[Row]]) -> list[Row]:
    return next(iter(found.values()), [])
