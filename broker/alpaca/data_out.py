"""Market data as Alpaca shows it: rows of answers and messages of the stream. Here prices are JSON numbers.

A row and its message have the same fields; a message has its type `T` and its symbol `S` beside them.
"""

from datetime import datetime

import msgspec

from broker.core.bars import Bar
from broker.core.money import UNITS_PER_DOLLAR
from broker.core.types import Symbol
from broker.market.quotes import Print, Quote
from broker.market.tape import Traded

_EXCHANGE = "V"
"""Alpaca's letter for the one exchange that its feed `iex` is about: ours has none of its own."""
_TAPE = "C"


class QuoteRow(msgspec.Struct, gc=False):
    """A quote: ask and bid with the shares at them."""

    t: datetime
    ap: float
    as_: int = msgspec.field(name="as")
    bp: float
    bs: int
    ax: str = _EXCHANGE
    bx: str = _EXCHANGE
    c: tuple[str, ...] = ("R",)
    z: str = _TAPE


class TradeRow(msgspec.Struct, gc=False):
    """A trade; `i` is its number among its symbol's trades of the day."""

    t: datetime
    p: float
    s: int
    i: int
    x: str = _EXCHANGE
    c: tuple[str, ...] = ("@",)
    z: str = _TAPE


class BarRow(msgspec.Struct, gc=False):
    """A bar, which begins at `t`; `n` trades at `vw` on average."""

    t: datetime
    o: float
    h: float
    l: float  # noqa: E741 - the word of the wire
    c: float
    v: int
    n: int
    vw: float


class QuoteMessage(QuoteRow, tag_field="T", tag="q", kw_only=True, gc=False):
    """A quote in the stream."""

    S: str


class TradeMessage(TradeRow, tag_field="T", tag="t", kw_only=True, gc=False):
    """A trade in the stream."""

    S: str


class BarMessage(BarRow, tag_field="T", tag="b", kw_only=True, gc=False):
    """A minute that is over."""

    S: str


class UpdatedBarMessage(BarRow, tag_field="T", tag="u", kw_only=True, gc=False):
    """A minute that was told before, since a trade of it came late."""

    S: str


class DailyBarMessage(BarRow, tag_field="T", tag="d", kw_only=True, gc=False):
    """The day so far."""

    S: str


class StatusMessage(msgspec.Struct, tag_field="T", tag="s"):
    """Trading of a symbol was halted, or goes on."""

    S: str
    sc: str
    sm: str
    rc: str
    rm: str
    t: datetime
    z: str = _TAPE


def number(amount: int) -> float:
    """Money as a JSON number: the nearest one, which reads as the decimal that it was."""
    return amount / UNITS_PER_DOLLAR


def quote_row(quote: Quote) -> QuoteRow:
    """A quote."""
    return QuoteRow(quote.at, number(quote.ask), quote.ask_size, number(quote.bid), quote.bid_size)


def quote_message(symbol: Symbol, quote: Quote) -> QuoteMessage:
    """The same in the stream."""
    return QuoteMessage(quote.at, number(quote.ask), quote.ask_size, number(quote.bid), quote.bid_size, S=symbol)


def trade_row(traded: Traded) -> TradeRow:
    """A trade."""
    trade = traded.trade
    return TradeRow(trade.at, number(trade.price), trade.quantity, traded.number)


def trade_message(trade: Print, count: int) -> TradeMessage:
    """The same in the stream."""
    return TradeMessage(trade.at, number(trade.price), trade.quantity, count, S=trade.symbol)


def last_row(quote: Quote) -> TradeRow:
    """What is known of the last trade where none was heard since the start: its price."""
    return TradeRow(quote.at, number(quote.last), 0, 0)


def bar_row(bar: Bar) -> BarRow:
    """A bar."""
    return BarRow(*_figures(bar))


def bar_message(
    kind: type[BarMessage] | type[UpdatedBarMessage] | type[DailyBarMessage], symbol: Symbol, bar: Bar
) -> BarMessage | UpdatedBarMessage | DailyBarMessage:
    """The same in the stream."""
    return kind(*_figures(bar), S=symbol)


def _figures(bar: Bar) -> tuple[datetime, float, float, float, float, int, int, float]:
    prices = number(bar.open), number(bar.high), number(bar.low), number(bar.close)
    return bar.starts_at, *prices, bar.volume, bar.trades, number(bar.average)
