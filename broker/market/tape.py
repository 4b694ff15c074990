"""The newest quotes and trades of each symbol, in memory: what somebody who asks for the last minutes gets.

It is a window, no archive: it begins empty with the broker, and each symbol has an equal share of it. All that happens
for a quote is that one more reference is kept, and one falls off the other end.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from broker.config import Config
from broker.core.bars import Bar
from broker.core.types import Symbol
from broker.market.quotes import Print, Quote

_LEAST = 10
"""However many symbols are listed, each one has so many of its own."""
_MOST = 10_000
"""More of one symbol than one answer could carry is no use to anybody."""


class Traded(NamedTuple):
    """A trade, and its number among its symbol's trades of the day."""

    number: int
    trade: Print


class Tape:
    """The newest quotes, trades and the last closed minute of every listed symbol."""

    def __init__(self, config: Config) -> None:
        self._quotes_max = config.tape_quotes_max
        self._trades_max = config.tape_trades_max
        self._quotes: dict[Symbol, deque[Quote]] = {}
        self._trades: dict[Symbol, deque[Traded]] = {}
        self._minutes: dict[Symbol, Bar] = {}

    # -------------------------------------------------------------- in

    def list_symbols(self, symbols: Iterable[Symbol]) -> None:
        """Keep what is listed now; who is new gets a share, and nobody keeps what is listed no more."""
        symbols = list(symbols)
        if self._quotes.keys() == set(symbols):
            return
        quotes, trades = _share(self._quotes_max, len(symbols)), _share(self._trades_max, len(symbols))
        self._quotes = {symbol: deque(self._quotes.get(symbol, ()), quotes) for symbol in symbols}
        self._trades = {symbol: deque(self._trades.get(symbol, ()), trades) for symbol in symbols}
        self._minutes = {symbol: bar for symbol, bar in self._minutes.items() if symbol in self._quotes}

    def add_quotes(self, symbols: Iterable[Symbol], quotes: Mapping[Symbol, Quote]) -> None:
        """The quotes of these symbols changed, all of them listed."""
        rings = self._quotes
        for symbol in symbols:
            rings[symbol].append(quotes[symbol])

    def add_trade(self, trade: Print, number: int) -> None:
        """One more trade of a listed symbol."""
        self._trades[trade.symbol].append(Traded(number, trade))

    def close_minute(self, symbol: Symbol, bar: Bar) -> None:
        """A minute of it is over."""
        self._minutes[symbol] = bar.copy(bar.starts_at)

    # -------------------------------------------------------------- look

    def quotes(self, symbol: Symbol) -> list[Quote]:
        """Its newest quotes, in the order of their times."""
        return sorted(self._quotes.get(symbol, ()), key=lambda quote: quote.at)

    def trades(self, symbol: Symbol) -> list[Traded]:
        """Its newest trades, in the order of their times."""
        return sorted(self._trades.get(symbol, ()), key=lambda each: each.trade.at)

    def last_trade(self, symbol: Symbol) -> Traded | None:
        """The trade that came last; None where none did since the start."""
        ring = self._trades.get(symbol)
        return ring[-1] if ring else None

    def minute(self, symbol: Symbol) -> Bar | None:
        """The last minute that is over in which it was traded; None where there was none since the start."""
        return self._minutes.get(symbol)


def _share(all_: int, symbols: int) -> int:
    return min(max(all_ // max(symbols, 1), _LEAST), _MOST)
