"""What the paths of market data answer."""

import msgspec

from broker.alpaca.data_out import BarRow, QuoteRow, TradeRow


class BarsAnswer(msgspec.Struct):
    """Bars by symbol."""

    bars: dict[str, list[BarRow]]
    next_page_token: str | None


class QuotesAnswer(msgspec.Struct):
    """Quotes by symbol."""

    quotes: dict[str, list[QuoteRow]]
    next_page_token: str | None


class TradesAnswer(msgspec.Struct):
    """Trades by symbol."""

    trades: dict[str, list[TradeRow]]
    next_page_token: str | None


class SymbolBarsAnswer(msgspec.Struct):
    """The bars of one symbol."""

    bars: list[BarRow]
    symbol: str
    next_page_token: str | None


class SymbolQuotesAnswer(msgspec.Struct):
    """The quotes of one symbol."""

    quotes: list[QuoteRow]
    symbol: str
    next_page_token: str | None


class SymbolTradesAnswer(msgspec.Struct):
    """The trades of one symbol."""

    trades: list[TradeRow]
    symbol: str
    next_page_token: str | None


class LatestBars(msgspec.Struct):
    """The last closed minute by symbol."""

    bars: dict[str, BarRow]


class LatestQuotes(msgspec.Struct):
    """The quote by symbol."""

    quotes: dict[str, QuoteRow]


class LatestTrades(msgspec.Struct):
    """The last trade by symbol."""

    trades: dict[str, TradeRow]


class LatestBar(msgspec.Struct):
    """The last closed minute of one symbol."""

    bar: BarRow
    symbol: str


class LatestQuote(msgspec.Struct):
    """The quote of one symbol."""

    quote: QuoteRow
    symbol: str


class LatestTrade(msgspec.Struct):
    """The last trade of one symbol."""

    trade: TradeRow
    symbol: str


class Snapshot(msgspec.Struct):
    """All that is newest of a symbol."""

    latestTrade: TradeRow  # noqa: N815 - the words of the wire
    latestQuote: QuoteRow  # noqa: N815
    minuteBar: BarRow | None  # noqa: N815
    dailyBar: BarRow | None  # noqa: N815
    prevDailyBar: BarRow | None  # noqa: N815


class SymbolSnapshot(Snapshot, kw_only=True):
    """The same, with the symbol."""

    symbol: str
