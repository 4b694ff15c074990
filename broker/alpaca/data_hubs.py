"""Market data to Alpaca's streams: each message is encoded once for each of the two ways in which clients read it.

What nobody follows costs a look into a dictionary.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from enum import StrEnum

import msgspec

from broker.alpaca.data_out import (
    BarMessage,
    DailyBarMessage,
    StatusMessage,
    UpdatedBarMessage,
    bar_message,
    quote_message,
    trade_message,
)
from broker.config import Config
from broker.core.bars import Bar
from broker.core.types import Symbol
from broker.market.hub import Follower, Hub, JsonArrays, MsgpackArrays
from broker.market.quotes import Print, Quote
from broker.metrics import Metrics

ALL = "*"
"""Every symbol that is listed, now and later."""


class DataChannel(StrEnum):
    """What can be followed of a symbol. Nothing is ever told on `lulds`: our exchanges have no such bands."""

    TRADES = "trades"
    QUOTES = "quotes"
    BARS = "bars"
    UPDATED_BARS = "updatedBars"
    DAILY_BARS = "dailyBars"
    STATUSES = "statuses"
    LULDS = "lulds"


class TooManySymbols(Exception):
    """A stream would follow more symbols than it may."""


class Subscription:
    """What one stream follows, by channel and symbol, or of everything."""

    def __init__(self, follower: Follower, hub: Hub, listed: Callable[[], Sequence[Symbol]], most: int) -> None:
        self.follower = follower
        self._hub = hub
        self._listed = listed
        self._most = most
        self._wanted: dict[DataChannel, dict[str, None]] = {channel: {} for channel in DataChannel}

    def add(self, more: Mapping[DataChannel, Sequence[str]]) -> None:
        """Follow these as well. Raises TooManySymbols, and nothing has changed then."""
        wanted = {channel: symbols | dict.fromkeys(more.get(channel, ())) for channel, symbols in self._wanted.items()}
        if len(self._symbols(wanted)) > self._most:
            raise TooManySymbols
        self._wanted = wanted
        self.follow()

    def remove(self, less: Mapping[DataChannel, Sequence[str]]) -> None:
        """Follow these no more."""
        for channel, symbols in less.items():
            for symbol in symbols:
                self._wanted[channel].pop(symbol, None)
        self.follow()

    def follow(self) -> None:
        """Make what is followed what is wanted, of all that is listed now; no more of it than may be."""
        room = set(sorted(self._symbols(self._wanted))[: self._most])
        wanted = {
            (channel, Symbol(symbol))
            for channel, symbols in self._wanted.items()
            for symbol in (self._spelled_out(symbols) if symbols else ())
            if symbol in room
        }
        has = {(topic.channel, topic.symbol) for topic in self.follower.topics}
        for channel, symbol in has - wanted:
            self._hub.leave(self.follower, channel, symbol)
        for channel, symbol in wanted - has:
            self._hub.follow(self.follower, channel, symbol)

    def state(self) -> dict[str, list[str]]:
        """What was asked for, by channel."""
        return {channel.value: list(symbols) for channel, symbols in self._wanted.items()}

    def _symbols(self, wanted: Mapping[DataChannel, Mapping[str, None]]) -> set[str]:
        return {symbol for symbols in wanted.values() for symbol in self._spelled_out(symbols)}

    def _spelled_out(self, symbols: Mapping[str, None]) -> set[str]:
        return {*symbols, *self._listed()} - {ALL} if ALL in symbols else {*symbols}


class DataHubs:
    """All who follow market data in Alpaca's form."""

    def __init__(self, config: Config, metrics: Metrics) -> None:
        self._most = config.stream_symbols_max
        self._msgpack = Hub(config, metrics, MsgpackArrays())
        self._json = Hub(config, metrics, JsonArrays())
        self._hubs: tuple[tuple[Hub, Callable[[object], bytes]], ...] = (
            (self._msgpack, msgspec.msgpack.Encoder().encode),
            (self._json, msgspec.json.Encoder().encode),
        )
        self._listed: Sequence[Symbol] = ()
        self._closed: dict[Symbol, datetime] = {}  # the last minute that was told of, for each symbol
        self._subscriptions: set[Subscription] = set()

    async def run_msgpack(self) -> None:
        """Write to those who read msgpack, for ever."""
        await self._msgpack.run()

    async def run_json(self) -> None:
        """Write to those who read JSON, for ever."""
        await self._json.run()

    # -------------------------------------------------------------- who follows

    def subscription(self, follower: Follower, *, reads_msgpack: bool) -> Subscription:
        """A new one, of nothing so far."""
        hub = self._msgpack if reads_msgpack else self._json
        subscription = Subscription(follower, hub, lambda: self._listed, self._most)
        self._subscriptions.add(subscription)
        return subscription

    def gone(self, subscription: Subscription) -> None:
        """Its socket is closed."""
        self._subscriptions.discard(subscription)
        for hub, _ in self._hubs:
            hub.gone(subscription.follower)

    # -------------------------------------------------------------- news

    def listed(self, symbols: Sequence[Symbol]) -> None:
        """All that can be traded now."""
        if list(symbols) == list(self._listed):
            return
        self._listed = symbols
        known = set(symbols)
        self._closed = {symbol: at for symbol, at in self._closed.items() if symbol in known}
        for subscription in self._subscriptions:
            subscription.follow()

    def quotes(self, symbols: Iterable[Symbol], quotes: Mapping[Symbol, Quote]) -> None:
        """The quotes of these symbols changed."""
        for hub, encode in self._hubs:
            if not hub.is_silent:
                for symbol in symbols:
                    if hub.is_followed(DataChannel.QUOTES, symbol):
                        hub.publish(DataChannel.QUOTES, symbol, encode(quote_message(symbol, quotes[symbol])))

    def trade(self, trade: Print, number: int) -> None:
        """A trade, the so many-th of its symbol's day."""
        for hub, encode in self._hubs:
            if hub.is_followed(DataChannel.TRADES, trade.symbol):
                hub.publish(DataChannel.TRADES, trade.symbol, encode(trade_message(trade, number)))

    def closed(self, symbol: Symbol, minute: Bar, day: Bar | None) -> None:
        """A minute is over; and the day so far."""
        self._closed[symbol] = minute.starts_at
        self._tell(DataChannel.BARS, symbol, lambda: bar_message(BarMessage, symbol, minute))
        if day is not None:
            self._tell(DataChannel.DAILY_BARS, symbol, lambda: bar_message(DailyBarMessage, symbol, day))

    def late(self, symbol: Symbol, minute: Bar) -> None:
        """A trade of a minute that is over came in: news only for those who heard of that minute."""
        if self._closed.get(symbol) == minute.starts_at:
            self._tell(DataChannel.UPDATED_BARS, symbol, lambda: bar_message(UpdatedBarMessage, symbol, minute))

    def halted(self, symbol: Symbol, reason: str | None, at: datetime) -> None:
        """An operator halts trading of it, or (without a reason) lets it go on."""
        words = ("T", "Trading Resumption", "") if reason is None else ("H", "Trading Halt", "M")
        self._tell(DataChannel.STATUSES, symbol, lambda: StatusMessage(symbol, *words, reason or "", at))

    def _tell(self, channel: DataChannel, symbol: Symbol, message: Callable[[], object]) -> None:
        for hub, encode in self._hubs:
            if hub.is_followed(channel, symbol):
                hub.publish(channel, symbol, encode(message()))
