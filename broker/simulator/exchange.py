"""What becomes of an order: taken or not, traded, resting, ended, with the events to tell.

No socket, no clock, no task: orders and the time come in, results and events come out. Outside the session nothing is
traded: orders that can wait stand in line, and enter their books when it opens.
"""

from collections.abc import Iterable
from datetime import UTC, datetime

from broker.core.matching import Why
from broker.core.money import Money
from broker.core.types import OrderType, TimeInForce
from broker.simulator import amendments
from broker.simulator.admission import Inadmissible, admit
from broker.simulator.amendments import Refusal
from broker.simulator.books import Books
from broker.simulator.faults import RANDOM_ERROR, Faults
from broker.simulator.floor import Floor
from broker.simulator.orders import Order, Orders
from broker.simulator.outcome import Outcome
from broker.simulator.sessions import Sessions
from broker.simulator.tickets import keeps_place
from broker.simulator.wire import Answer, CancelAnswer, CancelResult, NewOrder, OrderStatus, Result, Unreadable

UNKNOWN_SYMBOL = "unknown symbol"
PAST_MARKET_HOURS = "past market hours"
SESSION_ENDED = "the session ended"
OTHER_CONTENT = "this id belongs to an order with other content"
OTHER_ORDER = "a replacement keeps the symbol, side, type and time in force"

_BEFORE = datetime.min.replace(tzinfo=UTC)
_WAITING = frozenset({TimeInForce.DAY, TimeInForce.GTC})


class Exchange:
    """The orders of all brokers. Its methods are decisions: none suspends, each returns its outcome."""

    def __init__(
        self, books: Books, orders: Orders, faults: Faults, sessions: Sessions, fills_at_once: bool = True
    ) -> None:
        self._books = books
        self._faults = faults
        self._sessions = sessions
        self._fills_at_once = fills_at_once
        self._floor = Floor(books, orders)
        self._changes_at = _BEFORE  # the session's next beginning or end
        self._ends_at: str | None = None
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
        if order is None or order.is_finished:
            return outcome
        if self._floor.is_open:
            self._floor.enter(order, quantity, outcome)
        else:
            self._floor.end(order, OrderStatus.EXPIRED, SESSION_ENDED, outcome)
        return outcome

    def tick(self, at: datetime, moves: bool = True) -> Outcome:
        """Let the market act: the market maker and the prices (`moves`)."""
        outcome = self.advance(at)
        self._floor.tick(moves, outcome)
        return outcome

    def recover(self, at: datetime) -> Outcome:
        """Put the open orders, as they come from the journal, where they belong."""
        outcome = Outcome(_stamp(at))
        for order in self.orders.open():
            self._rank = max(self._rank, order.rank)
            if not self._books.lists(order.symbol):
                self._floor.end(order, OrderStatus.CANCELLED, UNKNOWN_SYMBOL, outcome)
            elif order.type is OrderType.MARKET:
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
        outcome = Outcome(_stamp(at))
        amendments.bust(*found, reason, outcome)
        return outcome

    def correct(self, execution_id: str, quantity: int | None, price: Money | None, at: datetime) -> Outcome | Refusal:
        """Put other figures in the place of an execution's."""
        found = amendments.find(self.orders, execution_id)
        if isinstance(found, Refusal):
            return found
        outcome = Outcome(_stamp(at))
        return amendments.correct(*found, quantity, price, outcome) or outcome

    # -------------------------------------------------------------- sessions

    def advance(self, at: datetime) -> Outcome:
        """Let the session begin or end where it is time to; every other call begins with this one."""
        outcome = Outcome(_stamp(at))
        if at >= self._changes_at:
            self._change_session(at, outcome)
        return outcome

    def _change_session(self, at: datetime, outcome: Outcome) -> None:
        self._floor.close()
        self._changes_at = self._sessions.next_change(at)
        ends_at = self._sessions.end(at)
        self._ends_at = None if ends_at is None else _stamp(ends_at)
        for order in self.orders.open():
            if order.expires_at is not None and datetime.fromisoformat(order.expires_at) <= at:
                self._floor.take_out(order)
                self._floor.end(order, OrderStatus.EXPIRED, SESSION_ENDED, outcome)
        if self._sessions.is_open(at):
            self._floor.open(outcome)

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
        old = self._order_to_replace(order)
        self._rank += 1
        order.rank = self._rank
        if old is None:
            self._start(order, outcome)
        else:
            self._replace(old, order, outcome)
        return Answer.ACCEPTED

    def _start(self, order: Order, outcome: Outcome) -> None:
        """The first moment of an order: it is rejected, fills, or has to wait and says so."""
        self.orders.add(order)
        reason = self._refusal(order)
        if reason is not None:
            self._floor.end(order, OrderStatus.REJECTED, reason, outcome)
            return
        place = len(outcome.events)
        parts = self._parts(order)
        if len(parts) > 1 or (order.type is OrderType.MARKET and not self._fills_at_once):
            outcome.resting.append((order.id, parts))
        else:
            self._floor.enter(order, order.quantity, outcome)
        if not order.is_finished:
            self._keep(order, place, outcome)

    def _keep(self, order: Order, place: int, outcome: Outcome) -> None:
        """The order stays: told before all that happened to it since this place among the events."""
        if order.time_in_force is not TimeInForce.GTC:
            order.expires_at = self._ends_at
        outcome.tell_accepted(order, place)

    def _refusal(self, order: Order) -> str | None:
        """The first reason, in order of precedence, for which an order is rejected before it comes to a book."""
        if not self._books.lists(order.symbol):
            return UNKNOWN_SYMBOL
        if not self._floor.is_open and (order.type is OrderType.MARKET or order.time_in_force not in _WAITING):
            return PAST_MARKET_HOURS
        return RANDOM_ERROR if self._faults.rejects() else None

    def _parts(self, order: Order) -> list[int]:
        if order.type is not OrderType.MARKET or order.time_in_force is TimeInForce.FOK:
            return [order.quantity]
        return self._faults.parts(order.quantity)

    # -------------------------------------------------------------- an order in another's place

    def _order_to_replace(self, new: Order) -> Order | None:
        """The order whose place a new one wants, None if it wants none. Raises Inadmissible where it cannot have it."""
        if new.replaces is None:
            return None
        old = self.orders.get(new.replaces.id)
        if old is None:
            raise Inadmissible("the order to replace is not known")
        if old.is_finished:
            raise Inadmissible(f"the order to replace is {old.status}")
        if old.filled_quantity != new.replaces.filled_quantity:
            raise Inadmissible(f"the order to replace has filled {old.filled_quantity} shares")
        if (old.symbol, old.side, old.type, old.time_in_force) != (new.symbol, new.side, new.type, new.time_in_force):
            raise Inadmissible(OTHER_ORDER)
        return old

    def _replace(self, old: Order, new: Order, outcome: Outcome) -> None:
        """In one step: the old order ends, the new one stands in its place or goes to the end of the line."""
        new.triggered = old.triggered
        if keeps_place(old, new):
            self._floor.end(old, OrderStatus.REPLACED, None, outcome)
            self._floor.stand_in(old, new)
            self.orders.add(new)
            self._keep(new, len(outcome.events), outcome)
            return
        self._floor.take_out(old)
        self._floor.end(old, OrderStatus.REPLACED, None, outcome)
        self._start(new, outcome)

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


def _stamp(at: datetime) -> str:
    return at.isoformat(timespec="microseconds")
