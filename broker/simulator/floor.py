"""Where orders trade: the books, and the line of those who may not trade yet.

What happens in a book `broker.core.matching` tells of all who stand there; here it happens to the orders of brokers.
"""

from collections.abc import Iterable
from datetime import datetime

from broker.core import matching
from broker.core.matching import Why
from broker.core.money import Money
from broker.core.types import OrderType, Side, Symbol, TimeInForce
from broker.simulator.books import Books
from broker.simulator.orders import Execution, Order, Orders
from broker.simulator.outcome import Outcome
from broker.simulator.sessions import Phase
from broker.simulator.tickets import ticket
from broker.simulator.wire import OrderStatus

MAX_PRICE_EXCEEDED = "max price exceeded"
SYMBOL_HALTED = "symbol halted"


class Floor:
    """An open order that is no market order stands in its book or in the line, never in both.

    A market order stands in the line while something keeps it from trading, and else nowhere: it trades at once, or in
    parts when it is told to.
    """

    def __init__(self, books: Books, orders: Orders) -> None:
        self._books = books
        self._orders = orders
        self._line: dict[str, Order] = {}
        self._aside: set[str] = set()  # in the line, and there until they are called back
        self.phase = Phase.CLOSED

    # -------------------------------------------------------------- who may trade when

    def lets_trade(self, order: Order) -> bool:
        """Whether the order may trade at this moment."""
        if self.phase is not Phase.REGULAR and not (self.phase is Phase.EXTENDED and order.extended_hours):
            return False
        return not (order.has_its_moment or order.symbol in self._books.halted or order.id in self._aside)

    def begin(self, phase: Phase, outcome: Outcome) -> None:
        """Another phase or another session: who may not trade in it leaves his book, who may enters, in their line."""
        changes, self.phase = phase is not self.phase, phase
        if changes:
            for order in self._orders.open():
                if order.id not in self._line and order.type is not OrderType.MARKET and not self.lets_trade(order):
                    self.take_out(order)
                    self.wait(order)
        self.let_in(outcome)

    def let_in(self, outcome: Outcome) -> None:
        """Those in the line who may trade enter, in their order."""
        entering = [order for order in self._line.values() if self.lets_trade(order)]
        for order in sorted(entering, key=lambda order: order.rank):
            del self._line[order.id]
            self.enter(order, order.leaves_quantity, outcome)

    def auction(self, time_in_force: TimeInForce, at: datetime, over: str, outcome: Outcome) -> None:
        """The `opg` or `cls` orders whose moment has come trade, in their line; what is left of them ends."""
        waiting = [order for order in self._line.values() if order.time_in_force is time_in_force]
        due = sorted((order for order in waiting if _is_due(order, at)), key=lambda order: order.rank)
        for order in due:
            del self._line[order.id]
            if order.symbol in self._books.halted:
                self.end(order, OrderStatus.CANCELLED, SYMBOL_HALTED, outcome)
            else:
                self._enter_book(order, order.leaves_quantity, outcome)
        for order in due:
            if not order.is_finished:
                self.take_out(order)
                self.end(order, OrderStatus.CANCELLED, over, outcome)

    def tick(self, moves: bool, outcome: Outcome) -> None:
        """Let the market maker act, and the prices move (`moves`)."""
        if self.phase is not Phase.CLOSED:
            for symbol, events in self._books.tick(moves):
                self._settle(symbol, events, outcome)

    # -------------------------------------------------------------- one order

    def wait(self, order: Order) -> None:
        """Into the line."""
        self._line[order.id] = order

    def is_waiting(self, order: Order) -> bool:
        """Whether the order stands in the line."""
        return order.id in self._line

    def set_aside(self, order: Order) -> None:
        """Into the line, and there until the order is called back."""
        self._aside.add(order.id)
        self.wait(order)

    def is_aside(self, order: Order) -> bool:
        return order.id in self._aside

    def call_back(self, order: Order) -> None:
        """Out of the line, to trade or wait like any other order."""
        self._aside.discard(order.id)
        self._line.pop(order.id, None)

    def enter(self, order: Order, quantity: int, outcome: Outcome) -> None:
        """Into the book, or into the line of those who may not trade yet."""
        if self.lets_trade(order):
            self._enter_book(order, quantity, outcome)
        else:
            self.wait(order)

    def stand_in(self, old: Order, new: Order) -> None:
        """The same place in line for the new order."""
        new.rank = old.rank
        if self._line.pop(old.id, None) is not None:
            self._line[new.id] = new
            return
        filled = old.filled_quantity + old.carried
        new.carried = filled
        events = self._books.rename(old.symbol, old.id, new.id, filled + new.quantity)
        assert events == [matching.Replaced(old.id, kept_place=True)], events

    def take_out(self, order: Order) -> None:
        """Out of its book or of the line, if it stands anywhere."""
        self._aside.discard(order.id)
        if self._line.pop(order.id, None) is None and order.type is not OrderType.MARKET:
            (event,) = self._books.cancel(order.symbol, order.id)
            assert isinstance(event, matching.Cancelled), event

    def end(self, order: Order, status: OrderStatus, reason: str | None, outcome: Outcome) -> None:
        order.status = status
        order.reason = None if reason is None else str(reason)
        self._orders.put(order)
        outcome.tell(order)

    def execute(self, order: Order, quantity: int, price: Money, outcome: Outcome) -> None:
        """Shares of the order change hands."""
        execution = Execution(quantity, price, outcome.at)
        order.execute(execution)
        if order.status is OrderStatus.FILLED:
            self._orders.put(order)
        outcome.tell_execution(order, execution)

    def end_unfilled(self, order: Order, reason: str, outcome: Outcome) -> None:
        """It found nothing more to trade with: rejected if that is all that it was there for and it never traded."""
        never = order.type is OrderType.MARKET and not order.executions and reason != Why.ALL_OR_NOTHING
        rejected = never and not order.has_its_moment
        self.end(order, OrderStatus.REJECTED if rejected else OrderStatus.CANCELLED, reason, outcome)

    # -------------------------------------------------------------- one symbol

    def set_price(self, symbol: Symbol, price: Money, holds: bool, outcome: Outcome) -> None:
        """The market moves there."""
        self._settle(symbol, self._books.set_price(symbol, price, holds), outcome)

    def resume(self, symbol: Symbol, outcome: Outcome) -> None:
        """The symbol trades again: at the price of now, then with those who waited."""
        self._settle(symbol, self._books.resume(symbol), outcome)
        self.let_in(outcome)

    # -------------------------------------------------------------- the books

    def _enter_book(self, order: Order, quantity: int, outcome: Outcome) -> None:
        entering = ticket(order, quantity)
        if entering.price == 0:
            self.end_unfilled(order, MAX_PRICE_EXCEEDED, outcome)
            return
        order.carried = -order.filled_quantity
        self._settle(order.symbol, self._books.enter(order.symbol, entering), outcome)

    def _settle(self, symbol: Symbol, events: Iterable[matching.Event], outcome: Outcome) -> None:
        """What happened in a book happens to the orders. The market maker's own are not among them."""
        for event in events:
            if isinstance(event, matching.Traded):
                outcome.tell_trade(symbol, event.quantity, event.price)
                self._execute(event.taker_id, event.quantity, event.price, outcome)
                self._execute(event.maker_id, event.quantity, event.price, outcome)
            elif isinstance(event, matching.Cancelled):
                order = self._orders.get(event.order_id)
                if order is not None:
                    self.end_unfilled(order, self._reason(order, event.why), outcome)
            elif isinstance(event, matching.Triggered):
                order = self._orders.get(event.order_id)
                assert order is not None, event
                order.triggered = True
                outcome.changed[order.id] = order
            else:
                assert isinstance(event, matching.Accepted), event

    def _execute(self, order_id: str, quantity: int, price: Money, outcome: Outcome) -> None:
        order = self._orders.get(order_id)
        if order is not None:
            self.execute(order, quantity, price, outcome)

    def _reason(self, order: Order, why: Why) -> str:
        """The book's reason; where max_price was the limit, that it was."""
        if why is Why.IMMEDIATE and order.max_price is not None:
            return Why.NO_LIQUIDITY if self._books.is_empty(order.symbol, Side.SELL) else MAX_PRICE_EXCEEDED
        return why


def _is_due(order: Order, at: datetime) -> bool:
    """Whether the moment of an `opg` or `cls` order has come."""
    moment = order.opens_at if order.time_in_force is TimeInForce.OPG else order.expires_at
    return moment is None or datetime.fromisoformat(moment) <= at
