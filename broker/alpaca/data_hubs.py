"""Market data to Alpaca's streams: each message is encoded once for each of the two ways in which clients read it.

What nobody follows costs a look into a dictionary.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
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
    """What one stream follows, by channel and symbol, or of everything.

    A name that is not listed is kept, as it may be some day, but followed is only what is listed: who names a thousand
    symbols that there are not would else have a topic of each, of its own, on every channel.
    """

    def __init__(self, follower: Follower, hub: Hub, listed: Callable[[], Set[Symbol]], most: int) -> None:
        self.follower = follower
        self._hub = hub
        self._listed = listed
        self._most = most
        self._wanted: dict[DataChannel, tuple[str, ...]] = dict.fromkeys(DataChannel, ())

    def add(self, more: Mapping[DataChannel, Sequence[str]]) -> None:
        """Follow these as well. Raises TooManySymbols, and nothing has changed then."""
        wanted = {channel: dict.fromkeys((*names, *more.get(channel, ()))) for channel, names in self._wanted.items()}
        named = {name: name for names in wanted.values() for name in names}  # one object, however many channels have it
        if len(named.keys() - {ALL} | (self._listed() if ALL in named else set())) > self._most:
            raise TooManySymbols
        self._wanted = {channel: tuple(named[name] for name in names) for channel, names in wanted.items()}
        self.follow()

    def remove(self, less: Mapping[DataChannel, Sequence[str]]) -> None:
        """Follow these no more."""
        for channel, names in less.items():
            gone = {*names}
            self._wanted[channel] = tuple(name for name in self._wanted[channel] if name not in gone)
        self.follow()

    def follow(self) -> None:
        """Make what is followed what is wanted, of all that is listed now; no more of it than may be."""
        listed = self._listed()
        followed = {
            channel: listed if ALL in names else {Symbol(name) for name in names if name in listed}
            for channel, names in self._wanted.items()
        }
        room = set(sorted(set[Symbol]().union(*followed.values()))[: self._most])
        wanted = {(channel, symbol) for channel, symbols in followed.items() for symbol in symbols & room}
        has = {(topic.channel, topic.symbol) for topic in self.follower.topics}
        for channel, symbol in has - wanted:
            self._hub.leave(self.follower, channel, symbol)
        for channel, symbol in wanted - has:
            self._hub.follow(self.follower, channel, symbol)

    def end(self) -> None:
        """Follow nothing any more: at its own hub, since what another one has under the same name is not its topic."""
        self._hub.gone(self.follower)

    def state(self) -> dict[str, list[str]]:
        """What was asked for, by channel."""
        return {channel.value: list(names) for channel, names in self._wanted.items()}


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
        self._listed: Set[Symbol] = frozenset()
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
        subscription.end()

    # -------------------------------------------------------------- news

    def listed(self, symbols: Sequence[Symbol]) -> None:
        """All that can be traded now."""
        listed = frozenset(symbols)
        if listed == self._listed:
            return
        self._listed = listed
        self._closed = {symbol: at for symbol, at in self._closed.items() if symbol in listed}
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
