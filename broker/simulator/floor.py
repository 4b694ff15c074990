"""Where orders trade: the books, and the line of those who wait for them to open.

What happens in a book `broker.core.matching` tells of all who stand there; here it happens to the orders of brokers.
"""

from collections.abc import Iterable

from broker.core import matching
from broker.core.matching import Why
from broker.core.money import Money
from broker.core.types import OrderType, Side, Symbol
from broker.simulator.books import Books
from broker.simulator.orders import Execution, Order, Orders
from broker.simulator.outcome import Outcome
from broker.simulator.tickets import ticket
from broker.simulator.wire import OrderStatus

MAX_PRICE_EXCEEDED = "max price exceeded"


class Floor:
    """An open order that is no market order stands in its book or in the line, never in both."""

    def __init__(self, books: Books, orders: Orders) -> None:
        self._books = books
        self._orders = orders
        self._line: dict[str, Order] = {}
        self.is_open = False

    def open(self, outcome: Outcome) -> None:
        """Trade: those who waited enter first, in their line."""
        self.is_open = True
        line, self._line = self._line, {}
        for order in sorted(line.values(), key=lambda order: order.rank):
            self.enter(order, order.leaves_quantity, outcome)

    def close(self) -> None:
        """Trade no more. What stands in a book stays there."""
        self.is_open = False

    def tick(self, moves: bool, outcome: Outcome) -> None:
        """Let the market maker act, and the prices move (`moves`)."""
        if self.is_open:
            for symbol, events in self._books.tick(moves):
                self._settle(symbol, events, outcome)

    def wait(self, order: Order) -> None:
        """Into the line."""
        self._line[order.id] = order

    def enter(self, order: Order, quantity: int, outcome: Outcome) -> None:
        """Into the book, or into the line of those who wait for it to open."""
        if not self.is_open:
            self.wait(order)
            return
        entering = ticket(order, quantity)
        if entering.price == 0:
            self._end_in_book(order, MAX_PRICE_EXCEEDED, outcome)
            return
        order.carried = -order.filled_quantity
        self._settle(order.symbol, self._books.enter(order.symbol, entering), outcome)

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
        """Out of its book or of the line; a market order is in neither."""
        if self._line.pop(order.id, None) is None and order.type is not OrderType.MARKET:
            (event,) = self._books.cancel(order.symbol, order.id)
            assert isinstance(event, matching.Cancelled), event

    def end(self, order: Order, status: OrderStatus, reason: str | None, outcome: Outcome) -> None:
        order.status = status
        order.reason = None if reason is None else str(reason)
        self._orders.put(order)
        outcome.tell(order)

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
                    self._end_in_book(order, self._reason(order, event.why), outcome)
            elif isinstance(event, matching.Triggered):
                order = self._orders.get(event.order_id)
                assert order is not None, event
                order.triggered = True
                outcome.changed[order.id] = order
            else:
                assert isinstance(event, matching.Accepted), event

    def _execute(self, order_id: str, quantity: int, price: Money, outcome: Outcome) -> None:
        order = self._orders.get(order_id)
        if order is None:
            return
        execution = Execution(quantity, price, outcome.at)
        order.execute(execution)
        if order.status is OrderStatus.FILLED:
            self._orders.put(order)
        outcome.tell_execution(order, execution)

    def _reason(self, order: Order, why: Why) -> str:
        """The book's reason; where max_price was the limit, that it was."""
        if why is Why.IMMEDIATE and order.max_price is not None:
            return Why.NO_LIQUIDITY if self._books.is_empty(order.symbol, Side.SELL) else MAX_PRICE_EXCEEDED
        return why

    def _end_in_book(self, order: Order, reason: str, outcome: Outcome) -> None:
        """It found nothing more to trade with: rejected if that is all that it was there for and it never traded."""
        never = order.type is OrderType.MARKET and not order.executions and reason != Why.ALL_OR_NOTHING
        self.end(order, OrderStatus.REJECTED if never else OrderStatus.CANCELLED, reason, outcome)
