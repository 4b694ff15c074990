"""The order router: which exchange a symbol is traded at, and how each of them is doing.

Every venue has a desk and quotes of its own, so one that is down holds up no other one's trades. To the shards the
router is the one desk and the one market.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from broker.core.money import Money
from broker.core.types import CustomerId, Symbol, Trade, TradeId
from broker.dispatch import Dispatcher
from broker.exchange import HttpVenue
from broker.market.quotes import Quotes
from broker.triggers import Triggers


@dataclass(frozen=True, slots=True)
class Venue:
    """One exchange: the way to it, the desk that works with it, what it quotes."""

    name: str
    exchange: HttpVenue
    desk: Dispatcher
    quotes: Quotes

    @property
    def is_heard(self) -> bool:
        """Whether its quotes are heard from itself: those of a recording, or through Redis, say nothing about it."""
        return self.quotes.connected and self.quotes.is_live


class Router:
    """All venues. A symbol goes where `routes` says, else to the first one."""

    def __init__(
        self, venues: Sequence[Venue], routes: Mapping[Symbol, str], down_after_s: float, triggers: Triggers
    ) -> None:
        self.triggers = triggers
        self.venues = {venue.name: venue for venue in venues}
        self._first = venues[0]
        self._routes = routes
        self._down_after_s = down_after_s

    def _of(self, symbol: Symbol) -> Venue:
        return self.venues[self._routes[symbol]] if symbol in self._routes else self._first

    # -------------------------------------------------------------- the market

    def venue(self, symbol: Symbol) -> str:
        """Where it is traded."""
        return self._of(symbol).name

    def ask(self, symbol: Symbol) -> Money | None:
        """The price at which a BUY would fill now, or None where no quote is known."""
        return self._of(symbol).quotes.ask(symbol)

    def bid(self, symbol: Symbol) -> Money | None:
        """The price at which a SELL would fill now, or None where no quote is known."""
        return self._of(symbol).quotes.bid(symbol)

    def last(self, symbol: Symbol) -> Money | None:
        """The price of the last trade, or None where it is not known."""
        return self._of(symbol).quotes.last(symbol)

    def is_listed(self, symbol: Symbol) -> bool | None:
        """Whether its exchange lists it; None while we have not heard from that exchange."""
        return self._of(symbol).quotes.is_listed(symbol)

    def is_reachable(self, symbol: Symbol) -> bool:
        """Whether its exchange answers, or has been away for a moment only; its quotes or its answers say so."""
        venue = self._of(symbol)
        return venue.is_heard or venue.desk.down_for_s < self._down_after_s

    def stale_s(self, symbol: Symbol) -> float | None:
        """For how long its quotes have not been heard, where that is too long for them to hold; else None."""
        return self._of(symbol).quotes.stale_for_s

    # -------------------------------------------------------------- the desk

    def send(self, trade: Trade, since: float) -> None:
        """To the desk of the trade's venue."""
        self.triggers.done(trade.trade_id)
        self._desk(trade).send(trade, since)

    def hold(self, trade: Trade) -> None:
        """Watch the market for an order that is held here."""
        self.triggers.hold(trade)

    def cancel(self, trade: Trade) -> None:
        """To the desk of the trade's venue."""
        self._desk(trade).cancel(trade)

    def watch(self, trade: Trade) -> None:
        """To the desk of the trade's venue."""
        self._desk(trade).watch(trade)

    def look_soon(self, trade_id: TradeId) -> None:
        """To whichever desk has it."""
        for venue in self.venues.values():
            venue.desk.look_soon(trade_id)

    def look_for_stray(self, trade: Trade) -> None:
        """To the desk of the trade's venue."""
        self._desk(trade).look_for_stray(trade)

    def done(self, trade_id: TradeId) -> None:
        """To whichever desk has it."""
        self.triggers.done(trade_id)
        for venue in self.venues.values():
            venue.desk.done(trade_id)

    def owner(self, trade_id: TradeId) -> CustomerId | None:
        """Whose trade it is, where it is or lately was at work here."""
        for venue in self.venues.values():
            owner = venue.desk.owner(trade_id)
            if owner is not None:
                return owner
        return None

    def _desk(self, trade: Trade) -> Dispatcher:
        """A trade of a venue that is not configured any more goes to the first one, which will deny it."""
        return self.venues.get(trade.venue, self._first).desk


def read_routes(text: str, names: Callable[[str], bool]) -> dict[Symbol, str]:
    """The routes in "MSFT=west,GOOGL=west". Raises ValueError where a venue has no such name."""
    routes: dict[Symbol, str] = {}
    for part in filter(None, text.split(",")):
        symbol, _, venue = part.strip().partition("=")
        if not symbol or not names(venue):
            raise ValueError(f"{part[:40]!r} names no symbol, or no venue that is configured")
        routes[Symbol(symbol)] = venue
    return routes
