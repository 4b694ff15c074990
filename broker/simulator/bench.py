"""The test bench: an operator sets the time, a price, a halt, and what the next orders meet.

None of it is in the journal: after a kill the clock shows what it was started with, prices walk from where they begin,
nothing is halted and the script is empty.
"""

from collections.abc import Callable
from datetime import datetime

import msgspec

from broker.core.money import format_money
from broker.core.types import Symbol
from broker.simulator.admission import settable_price
from broker.simulator.bench_wire import Advance, ClockState, HaltBody, PriceBody, ScriptBody, ScriptState, SetClock
from broker.simulator.books import Books
from broker.simulator.clock import Clock, parse_moment
from broker.simulator.exchange import Exchange
from broker.simulator.market import Market
from broker.simulator.outcome import Outcome
from broker.simulator.script import Script
from broker.simulator.sessions import Hours
from broker.simulator.wire import Listed

_CHANGES_MAX = 16
"""Phases that a jump of the clock goes through one by one: four trading days. No order comes meanwhile and prices stand
still, so that whoever is open after them would be so after any number."""
_NO_REASON = "halted by the operator"


class NotPossible(Exception):
    """The exchange as it is cannot do this; the message says why."""


class Bench:
    """What is set here happens at once: `tell` records and tells each outcome before the next."""

    def __init__(
        self,
        exchange: Exchange,
        books: Books,
        market: Market,
        script: Script,
        clock: Callable[[], datetime],
        hours: Hours,
        tell: Callable[[Outcome], None],
    ) -> None:
        self._exchange = exchange
        self._books = books
        self._market = market
        self._script = script
        self._clock = clock
        self._hours = hours
        self._tell = tell

    # -------------------------------------------------------------- the clock

    def clock(self) -> ClockState:
        """What time it is here."""
        frozen = isinstance(self._clock, Clock) and self._clock.frozen
        return ClockState(self._clock(), frozen, self._hours)

    def set_clock(self, body: SetClock) -> ClockState:
        """Show another time, or stand still. Raises BadMoment, NotPossible."""
        clock = self._settable_clock()
        before = clock.now()
        if body.now is msgspec.UNSET:
            frozen = clock.frozen if body.frozen is msgspec.UNSET else body.frozen
            clock.set(before, frozen)
            return self.clock()
        frozen = body.frozen is True or (body.frozen is msgspec.UNSET and body.now is not None and clock.frozen)
        clock.set(None if body.now is None else parse_moment(body.now), frozen)
        self._pass(before)
        return self.clock()

    def advance_clock(self, body: Advance) -> ClockState:
        """Show a later time. Raises BadMoment, NotPossible."""
        clock = self._settable_clock()
        before = clock.now()
        clock.advance(body.seconds)
        self._pass(before)
        return self.clock()

    def _settable_clock(self) -> Clock:
        if not isinstance(self._clock, Clock):
            raise NotPossible("the clock of this exchange belongs to whoever started it")
        return self._clock

    def _pass(self, before: datetime) -> None:
        """Sessions between then and now begin and end, in order; nothing happens again on the way back."""
        now = self._clock()
        if now < before:
            self._tell(self._exchange.go_back(now))
            return
        self._tell(self._exchange.advance(before))
        for _ in range(_CHANGES_MAX):
            if self._exchange.changes_at > now:
                return
            self._tell(self._exchange.advance(self._exchange.changes_at))
        self._tell(self._exchange.advance(now))

    # -------------------------------------------------------------- symbols

    def symbols(self) -> list[Listed]:
        """Everything that is listed, and what an operator has set there."""
        return [self._listed(symbol) for symbol in self._market.tickers]

    def set_price(self, symbol: Symbol, body: PriceBody) -> Listed:
        """The market moves there. Raises Inadmissible."""
        price = settable_price(body.price)
        self._tell(self._exchange.set_price(symbol, price, body.hold, self._clock()))
        return self._listed(symbol)

    def release_price(self, symbol: Symbol) -> Listed:
        """The price walks again."""
        self._market.release(symbol)
        return self._listed(symbol)

    def halt(self, symbol: Symbol, body: HaltBody) -> Listed:
        """Nothing of it trades until it resumes."""
        self._books.halt(symbol, body.reason or _NO_REASON)
        return self._listed(symbol)

    def resume(self, symbol: Symbol) -> Listed:
        """It trades again."""
        self._tell(self._exchange.resume(symbol, self._clock()))
        return self._listed(symbol)

    def _listed(self, symbol: Symbol) -> Listed:
        quote = self._books.quotes[symbol]
        bid, ask, last = format_money(quote.bid), format_money(quote.ask), format_money(quote.last)
        reason = self._books.halted.get(symbol)
        held = self._market.is_held(symbol)
        return Listed(symbol, self._market.tickers[symbol].name, bid, ask, last, reason is not None, reason, held)

    # -------------------------------------------------------------- the script

    def add_script(self, body: ScriptBody) -> ScriptState:
        """The next orders meet this. Raises ScriptFull."""
        self._script.add(body.symbol, body.orders)
        return self.script()

    def script(self) -> ScriptState:
        """The steps that no order has met yet."""
        return ScriptState([*self._script.left()])

    def clear_script(self) -> ScriptState:
        """Orders are met as usual again."""
        self._script.clear()
        return self.script()
