"""All exchanges' market data in one place, for those who look at it and those who follow it.

Every update of a feed passes through here: into the quotes that decisions are made on, into the bars, out to followers.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

import msgspec

from broker.bars import Bars
from broker.core.bars import Bar
from broker.core.money import Money, format_money
from broker.core.types import Symbol
from broker.market.feed import Update
from broker.market.hub import Channel, Hub
from broker.market.quotes import Print, Quote, Quotes
from broker.market.tape import Tape

_MINUTE = timedelta(minutes=1)
_CLOCK_S = 1.0
"""How often minutes are looked at whether they are over, and feeds whether their quotes hold."""


class Watchers(Protocol):
    """Who waits for prices, by symbol. `broker.triggers.Triggers` is one."""

    @property
    def symbols(self) -> Mapping[Symbol, object]: ...
    def saw(self, symbol: Symbol, price: Money) -> None: ...


@dataclass(slots=True)
class Place:
    """One exchange: what it quotes, and what its symbols are called."""

    name: str
    quotes: Quotes
    names: dict[Symbol, str] = field(default_factory=dict)
    was_stale: bool = False


@dataclass(frozen=True, slots=True)
class Listed:
    """A symbol that can be traded, and where."""

    symbol: Symbol
    name: str | None
    venue: str


class QuoteView(msgspec.Struct):
    """A quote as it goes out: prices per share in dollars, sizes and volume in shares; null where it is not known."""

    symbol: str
    bid: str
    bid_size: int | None
    ask: str
    ask_size: int | None
    last: str
    last_size: int | None
    last_at: datetime | None
    open: str | None
    high: str | None
    low: str | None
    previous_close: str | None
    volume: int
    timestamp: datetime
    stale: bool


class TradeView(msgspec.Struct):
    """A trade on the exchange. `number` counts the symbol's trades of the day: whoever misses one can tell."""

    symbol: str
    price: str
    quantity: int
    number: int
    volume: int
    timestamp: datetime


class BarView(msgspec.Struct):
    """What was traded in a minute; `closed` once it is over."""

    symbol: str
    timeframe: str
    starts_at: datetime
    open: str
    high: str
    low: str
    close: str
    volume: int
    average_price: str
    trades: int
    closed: bool


class _Message(msgspec.Struct):
    type: str
    data: QuoteView | TradeView | BarView


_encode = msgspec.json.Encoder().encode


def _money(amount: Money | None) -> str | None:
    return None if amount is None else format_money(amount)


class Listener(Protocol):
    """Whoever wants the news as values, to tell them in another API's form."""

    def quotes(self, symbols: Iterable[Symbol], quotes: Mapping[Symbol, Quote]) -> None:
        """The quotes of these symbols changed."""

    def trade(self, trade: Print, number: int) -> None:
        """A trade, the so many-th of its symbol's day."""

    def late(self, symbol: Symbol, minute: Bar) -> None:
        """A trade of a minute that is over came in."""

    def closed(self, symbol: Symbol, minute: Bar, day: Bar | None) -> None:
        """A minute is over; and the day so far."""

    def listed(self, symbols: Sequence[Symbol]) -> None:
        """All that can be traded now."""


class Board:
    """What is known of every symbol, at the exchange where it is traded."""

    def __init__(
        self,
        places: Mapping[str, Place],
        venue_of: Callable[[Symbol], str],
        bars: Bars,
        hub: Hub,
        now: Callable[[], datetime],
        watchers: Watchers,
        tape: Tape,
    ) -> None:
        self._now = now
        self._tape = tape
        self.listeners: list[Listener] = []
        self._watchers = watchers
        self._last_trades: dict[Symbol, Print] = {}  # of listed symbols: one each
        self._places = places
        self._venue_of = venue_of
        self._bars = bars
        self._hub = hub

    # -------------------------------------------------------------- in

    def take(self, place: Place, update: Update) -> None:
        """One update of an exchange's feed."""
        if update.is_snapshot:
            place.quotes.replace(dict(update.quotes))
            place.was_stale = False
            changed = dict.fromkeys(update.quotes)
            self._list_anew()
        else:
            changed = dict.fromkeys(place.quotes.update(update.quotes))
        quoted = [symbol for symbol in changed if self._is_traded_at(place, symbol)]
        self._tape.add_quotes(quoted, update.quotes)
        for listener in self.listeners:
            listener.quotes(quoted, update.quotes)
        told: dict[Symbol, list[bytes]] = {}
        minutes: dict[Symbol, Bar] = {}
        for trade in update.trades:
            if place.quotes.get(trade.symbol) is not None and self._is_traded_at(place, trade.symbol):
                self._take_trade(trade, told, minutes)
                changed[trade.symbol] = None
        if self._watchers.symbols:
            self._tell_watchers(place, update, changed)
        for symbol, messages in told.items():
            self._hub.publish(Channel.TRADES, symbol, *messages)
        self._publish_minutes(minutes)
        for symbol in changed:
            if self._hub.is_followed(Channel.QUOTES, symbol) and self._is_traded_at(place, symbol):
                self._publish_quote(symbol)

    def _tell_watchers(self, place: Place, update: Update, changed: Iterable[Symbol]) -> None:
        """Every price goes to the orders that wait for one: of all trades, then the last one's."""
        waited_for = self._watchers.symbols
        seen = [(trade.symbol, trade.price) for trade in update.trades if trade.symbol in waited_for]
        seen += [(symbol, quote.last) for symbol in changed if (quote := update.quotes.get(symbol)) is not None]
        for symbol, price in seen:
            if symbol in waited_for and self._is_traded_at(place, symbol):
                self._watchers.saw(symbol, price)

    def _take_trade(self, trade: Print, told: dict[Symbol, list[bytes]], minutes: dict[Symbol, Bar]) -> None:
        """Count it; what is to be told of it goes into these, so that followers are visited once for all trades."""
        symbol = trade.symbol
        before = self._bars.day(symbol)
        counted = before.trades if before else 0
        minute = self._bars.add(trade)
        if minute is not None:
            minutes[symbol] = minute
        day = self._bars.day(symbol)
        # One that came too late or too early to be of today is on no tape.
        if day is None or day.trades == counted:
            return
        self._last_trades[symbol] = trade
        self._tape.add_trade(trade, day.trades)
        for listener in self.listeners:
            listener.trade(trade, day.trades)
        if self._hub.is_followed(Channel.TRADES, symbol):
            price = format_money(trade.price)
            view = TradeView(symbol, price, trade.quantity, day.trades, day.volume, trade.at)
            told.setdefault(symbol, []).append(_encode(_Message("trade", view)))

    def _list_anew(self) -> None:
        symbols = [each.symbol for each in self.listed()]
        self._tape.list_symbols(symbols)
        for listener in self.listeners:
            listener.listed(symbols)

    def _is_traded_at(self, place: Place, symbol: Symbol) -> bool:
        return len(self._places) == 1 or self._venue_of(symbol) == place.name

    def _publish_quote(self, symbol: Symbol) -> None:
        view = self.view(symbol)
        if view is not None:
            self._hub.publish(Channel.QUOTES, symbol, _encode(_Message("quote_update", view)))

    def _publish_minutes(self, minutes: Mapping[Symbol, Bar]) -> None:
        for symbol, minute in minutes.items():
            is_over = minute.starts_at + _MINUTE <= self._now()
            if is_over:
                for listener in self.listeners:
                    listener.late(symbol, minute)
            if self._hub.is_followed(Channel.BARS, symbol):
                self._publish_bar(symbol, minute, closed=is_over)

    def _publish_bar(self, symbol: Symbol, bar: Bar, *, closed: bool) -> None:
        kind = "bar" if closed else "bar_update"
        self._hub.publish(Channel.BARS, symbol, _encode(_Message(kind, _bar_view(symbol, bar, closed=closed))))

    async def run(self) -> None:
        """What happens without a word from a feed, for ever: minutes end, quotes become stale."""
        while True:
            await asyncio.sleep(_CLOCK_S)
            for symbol, bar in self._bars.closed(self._now()):
                self._tape.close_minute(symbol, bar)
                for listener in self.listeners:
                    listener.closed(symbol, bar, self._bars.day(symbol))
                if self._hub.is_followed(Channel.BARS, symbol):
                    self._publish_bar(symbol, bar, closed=True)
            for place in self._places.values():
                if place.quotes.stale_for_s is not None and not place.was_stale:
                    place.was_stale = True
                    for symbol in place.quotes.symbols:
                        if self._hub.is_followed(Channel.QUOTES, symbol) and self._is_traded_at(place, symbol):
                            self._publish_quote(symbol)

    # -------------------------------------------------------------- out

    @property
    def is_heard(self) -> bool:
        """Whether any exchange was heard since the start."""
        return any(place.quotes.symbols for place in self._places.values())

    def lists(self, symbol: Symbol) -> bool | None:
        """Whether it can be traded; None where its exchange was not heard yet."""
        return self._places[self._venue_of(symbol)].quotes.is_listed(symbol)

    def listed(self) -> list[Listed]:
        """Everything that can be traded, by symbol."""
        return sorted(
            (
                Listed(symbol, place.names.get(symbol), place.name)
                for place in self._places.values()
                for symbol in place.quotes.symbols
                if self._is_traded_at(place, symbol)
            ),
            key=lambda each: each.symbol,
        )

    def quote(self, symbol: Symbol) -> Quote | None:
        """The quote, or None where there is none."""
        return self._places[self._venue_of(symbol)].quotes.get(symbol)

    def view(self, symbol: Symbol) -> QuoteView | None:
        """The quote with the day's figures, or None where there is none."""
        quotes = self._places[self._venue_of(symbol)].quotes
        quote = quotes.get(symbol)
        if quote is None:
            return None
        day, trade = self._bars.day(symbol), self._last_trades.get(symbol)
        return QuoteView(
            symbol,
            format_money(quote.bid),
            quote.bid_size or None,
            format_money(quote.ask),
            quote.ask_size or None,
            format_money(quote.last),
            trade.quantity if trade else None,
            trade.at if trade else None,
            _money(day.open if day else None),
            _money(day.high if day else None),
            _money(day.low if day else None),
            _money(self._bars.previous_close(symbol)),
            day.volume if day else 0,
            quote.at,
            quotes.stale_for_s is not None,
        )

    def views(self, symbols: Iterable[Symbol]) -> list[QuoteView]:
        """Of these symbols, those that have a quote."""
        return [view for symbol in symbols if (view := self.view(symbol)) is not None]

    def current(self, channel: Channel, symbols: Sequence[Symbol]) -> list[bytes]:
        """What somebody who begins to follow gets at once: the quotes as they are, the running minutes."""
        if channel is Channel.QUOTES:
            return [_encode(_Message("quote", view)) for view in self.views(symbols)]
        if channel is Channel.BARS:
            minutes = [(symbol, self._bars.minute(symbol)) for symbol in symbols]
            return [
                _encode(_Message("bar_update", _bar_view(symbol, bar, closed=False))) for symbol, bar in minutes if bar
            ]
        return []


def _bar_view(symbol: Symbol, bar: Bar, *, closed: bool) -> BarView:
    return BarView(
        symbol,
        "1Min",
        bar.starts_at,
        format_money(bar.open),
        format_money(bar.high),
        format_money(bar.low),
        format_money(bar.close),
        bar.volume,
        format_money(bar.average),
        bar.trades,
        closed,
    )
