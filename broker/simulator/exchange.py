"""What becomes of an order: taken or not, traded, resting, ended, with the events to tell.

No socket, no clock, no task: orders and the time come in, results and events come out. Outside the session only orders
for extended hours are traded: the others that can wait stand in line, and enter their books when it opens.
"""

from collections.abc import Iterable
from datetime import UTC, datetime

from broker.core.matching import Why
from broker.core.money import Money
from broker.core.types import Symbol, TimeInForce
from broker.simulator import amendments
from broker.simulator.admission import Inadmissible, admit
from broker.simulator.amendments import Refusal
from broker.simulator.books import Books
from broker.simulator.faults import RANDOM_ERROR, Faults
from broker.simulator.floor import SYMBOL_HALTED, Floor
from broker.simulator.orders import WAITING, Order, Orders
from broker.simulator.outcome import Outcome
from broker.simulator.replacing import order_to_replace
from broker.simulator.script import Due, Script
from broker.simulator.sessions import Ends, Phase, Sessions, stamp
from broker.simulator.stage import Stage
from broker.simulator.tickets import keeps_place
from broker.simulator.wire import Answer, CancelAnswer, CancelResult, NewOrder, OrderStatus, Result, Unreadable

UNKNOWN_SYMBOL = "unknown symbol"
PAST_MARKET_HOURS = "past market hours"
SESSION_ENDED = "the session ended"
OPENING_OVER = "the opening is over"
CLOSE_OVER = "the close is over"
OTHER_CONTENT = "this id belongs to an order with other content"

_BEFORE = datetime.min.replace(tzinfo=UTC)


class Exchange:
    """The orders of all brokers. Its methods are decisions: none suspends, each returns its outcome."""

    def __init__(
        self,
        books: Books,
        orders: Orders,
        faults: Faults,
        sessions: Sessions,
        script: Script,
        fills_at_once: bool = True,
    ) -> None:
        self._books = books
        self._faults = faults
        self._sessions = sessions
        self._fills_at_once = fills_at_once
        self._script = script
        self._floor = Floor(books, orders)
        self._stage = Stage(books, self._floor)
        self._ends = Ends(None, None, None, None)
        self.changes_at = _BEFORE
        """When the next phase or session begins."""
        self._rank = 0
        self.orders = orders

    # -------------------------------------------------------------- what comes in

    def accept(self, batch: Iterable[NewOrder | Unreadable], at: datetime) -> Outcome:
        """Take each order that can be taken, and let it trade where nothing is in the way."""
        outcome = self.advance(at)
        for new in batch:
            outcome.results.append(self._take(new, outcome))
        return outcome

    def cancel(self, order_ids: Iterable[str], at: datetime) -> Outcome:
        """Take what is left of these orders out."""
        outcome = self.advance(at)
        for order_id in order_ids:
            outcome.cancels.append(self._cancel(order_id, outcome))
        return outcome

    def cancel_all(self, callback_url: str, reason: str, at: datetime) -> Outcome:
        """Take out every order of a broker."""
        outcome = self.advance(at)
        for order in self.orders.open():
            if order.callback_url == callback_url:
                self._floor.take_out(order)
                self._floor.end(order, OrderStatus.CANCELLED, reason, outcome)
        return outcome

    def fill(self, order_id: str, quantity: int, at: datetime) -> Outcome:
        """Let a part of a market order trade that had to wait for it. No-op on a finished one."""
        outcome = self.advance(at)
        order = self.orders.get(order_id)
        if order is None or order.is_finished or self._floor.is_waiting(order):
            return outcome
        if self._floor.phase is Phase.REGULAR:
            self._floor.enter(order, quantity, outcome)
        else:
            self._floor.end(order, OrderStatus.EXPIRED, SESSION_ENDED, outcome)
        return outcome

    def go_on(self, due: Due, at: datetime) -> Outcome:
        """Let happen to an order what the script wants of it now. No-op where it does not wait for that any more."""
        outcome = self.advance(at)
        order = self.orders.get(due.order_id)
        if order is None or order.is_finished or not self._floor.is_aside(order):
            return outcome
        if self._floor.phase is Phase.REGULAR or (self._floor.phase is Phase.EXTENDED and order.extended_hours):
            self._stage.go_on(order, due, outcome)
        elif not order.can_wait:
            self._floor.take_out(order)
            self._floor.end(order, OrderStatus.EXPIRED, SESSION_ENDED, outcome)
        elif not due.parts:
            self._floor.call_back(order)
            self._floor.wait(order)
        return outcome

    def tick(self, at: datetime, moves: bool = True) -> Outcome:
        """Let the market act: the market maker and the prices (`moves`)."""
        outcome = self.advance(at)
        self._floor.tick(moves, outcome)
        return outcome

    def recover(self, at: datetime) -> Outcome:
        """Put the open orders, as they come from the journal, where they belong."""
        outcome = Outcome(stamp(at))
        for order in self.orders.open():
            self._rank = max(self._rank, order.rank)
            if not self._books.lists(order.symbol):
                self._floor.end(order, OrderStatus.CANCELLED, UNKNOWN_SYMBOL, outcome)
            elif order.is_immediate:
                outcome.resting.append((order.id, [order.leaves_quantity]))
            else:
                self._floor.wait(order)
        self._change_session(at, outcome)
        return outcome

    def bust(self, execution_id: str, reason: str, at: datetime) -> Outcome | Refusal:
        """Take an execution back; the order stands in the outcome."""
        found = amendments.find(self.orders, execution_id)
        if isinstance(found, Refusal):
            return found
        outcome = Outcome(stamp(at))
        amendments.bust(*found, reason, outcome)
        return outcome

    def correct(self, execution_id: str, quantity: int | None, price: Money | None, at: datetime) -> Outcome | Refusal:
        """Put other figures in the place of an execution's."""
        found = amendments.find(self.orders, execution_id)
        if isinstance(found, Refusal):
            return found
        outcome = Outcome(stamp(at))
        return amendments.correct(*found, quantity, price, outcome) or outcome

    # -------------------------------------------------------------- one symbol

    def set_price(self, symbol: Symbol, price: Money, holds: bool, at: datetime) -> Outcome:
        """The market moves there at once, and stands still there (`holds`)."""
        outcome = self.advance(at)
        self._floor.set_price(symbol, price, holds, outcome)
        return outcome

    def resume(self, symbol: Symbol, at: datetime) -> Outcome:
        """A halted symbol trades again."""
        outcome = self.advance(at)
        self._floor.resume(symbol, outcome)
        return outcome

    # -------------------------------------------------------------- sessions

    def advance(self, at: datetime) -> Outcome:
        """Let the session begin or end where it is time to; every other call begins with this one."""
        outcome = Outcome(stamp(at))
        if at >= self.changes_at:
            self._change_session(at, outcome)
        return outcome

    def go_back(self, at: datetime) -> Outcome:
        """Time was set back: what happened stays, and the session is the one of then."""
        outcome = Outcome(stamp(at))
        self._change_session(at, outcome)
        return outcome

    def _change_session(self, at: datetime, outcome: Outcome) -> None:
        if self._floor.phase is Phase.REGULAR:
            self._floor.auction(TimeInForce.CLS, at, CLOSE_OVER, outcome)
        for order in self.orders.open():
            if order.expires_at is not None and datetime.fromisoformat(order.expires_at) <= at:
                self._floor.take_out(order)
                self._floor.end(order, OrderStatus.EXPIRED, SESSION_ENDED, outcome)
        phase = self._sessions.phase(at)
        self.changes_at = self._sessions.next_change(at)
        self._ends = Ends.after(at, self._sessions)
        if phase is Phase.REGULAR:
            self._floor.auction(TimeInForce.OPG, at, OPENING_OVER, outcome)
        self._floor.begin(phase, outcome)

    # -------------------------------------------------------------- a new order

    def _take(self, new: NewOrder | Unreadable, outcome: Outcome) -> Result:
        try:
            return Result(new.id, self._admit(new, outcome))
        except Inadmissible as error:
            return Result(new.id, Answer.INVALID, str(error))

    def _admit(self, new: NewOrder | Unreadable, outcome: Outcome) -> Answer:
        """Take an order, unless it is here already. Raises Inadmissible."""
        if isinstance(new, Unreadable):
            raise Inadmissible(new.reason)
        order = admit(new)
        known = self.orders.get(order.id)
        if known is not None:
            if not known.asks_the_same(order):
                raise Inadmissible(OTHER_CONTENT)
            return Answer.EXISTS
        old = order_to_replace(self.orders, order)
        self._rank += 1
        order.rank = self._rank
        if old is None:
            self._start(order, outcome)
        else:
            self._replace(old, order, outcome)
        return Answer.ACCEPTED

    def _start(self, order: Order, outcome: Outcome, scripted: bool = True) -> None:
        """The first moment of an order: it is rejected, fills, or has to wait and says so."""
        self.orders.add(order)
        reason = self._refusal(order)
        if reason is not None:
            self._floor.end(order, OrderStatus.REJECTED, reason, outcome)
            return
        place = len(outcome.events)
        step = None
        if scripted and not self._script.is_empty:
            step = self._script.take(order.symbol, self._floor.lets_trade(order))
        if step is not None:
            self._stage.begin(order, step, outcome)
        else:
            self._let_trade(order, outcome)
        if not order.is_finished:
            self._keep(order, place, outcome)

    def _let_trade(self, order: Order, outcome: Outcome) -> None:
        """As far as nothing is in the way: now, later in parts, or when it may."""
        if self._faults.rejects():
            self._floor.end(order, OrderStatus.REJECTED, RANDOM_ERROR, outcome)
            return
        parts = self._parts(order)
        if len(parts) > 1 or (order.is_immediate and not self._fills_at_once):
            outcome.resting.append((order.id, parts))
        else:
            self._floor.enter(order, order.quantity, outcome)

    def _keep(self, order: Order, place: int, outcome: Outcome) -> None:
        """The order stays: told before all that happened to it since this place among the events."""
        if order.time_in_force is TimeInForce.OPG:
            order.opens_at, order.expires_at = self._ends.opening, self._ends.opened
        elif order.time_in_force is not TimeInForce.GTC:
            order.expires_at = self._ends.extended if order.extended_hours else self._ends.regular
        outcome.tell_accepted(order, place)

    def _refusal(self, order: Order) -> str | None:
        """The first reason, in order of precedence, for which an order is rejected before it comes to a book."""
        if not self._books.lists(order.symbol):
            return UNKNOWN_SYMBOL
        if self._floor.phase is not Phase.REGULAR and not order.can_wait:
            return PAST_MARKET_HOURS
        if order.symbol in self._books.halted and not (order.can_wait and order.time_in_force in WAITING):
            return SYMBOL_HALTED
        return None

    def _parts(self, order: Order) -> list[int]:
        if not order.is_immediate or order.time_in_force is TimeInForce.FOK:
            return [order.quantity]
        return self._faults.parts(order.quantity)

    # -------------------------------------------------------------- an order in another's place

    def _replace(self, old: Order, new: Order, outcome: Outcome) -> None:
        """In one step: the old order ends, the new one stands in its place or goes to the end of the line."""
        new.triggered = old.triggered
        if keeps_place(old, new) and not self._floor.is_aside(old):
            self._floor.end(old, OrderStatus.REPLACED, None, outcome)
            self._floor.stand_in(old, new)
            self.orders.add(new)
            self._keep(new, len(outcome.events), outcome)
            return
        self._floor.take_out(old)
        self._floor.end(old, OrderStatus.REPLACED, None, outcome)
        self._start(new, outcome, scripted=False)

    # -------------------------------------------------------------- an order's end

    def _cancel(self, order_id: str, outcome: Outcome) -> CancelResult:
        order = self.orders.get(order_id)
        if order is None:
            return CancelResult(order_id, CancelAnswer.UNKNOWN)
        if not order.is_finished:
            self._floor.take_out(order)
            self._floor.end(order, OrderStatus.CANCELLED, Why.ASKED, outcome)
        elif order.status is not OrderStatus.CANCELLED or order.reason != Why.ASKED:
            return CancelResult(order_id, CancelAnswer.TOO_LATE, order.status)
        return CancelResult(order_id, CancelAnswer.ACCEPTED)
