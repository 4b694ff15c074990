"""What one call of the exchange changed: everything that has to be recorded and told."""

from dataclasses import dataclass, field

from broker.core.money import Money, format_money
from broker.core.types import Symbol
from broker.simulator.orders import Execution, Order
from broker.simulator.script import Due
from broker.simulator.wire import Amendment, CancelResult, Event, OrderStatus, Result, Trade


@dataclass(slots=True)
class Outcome:
    """All of it happened at one moment."""

    at: str
    results: list[Result] = field(default_factory=list)
    cancels: list[CancelResult] = field(default_factory=list)
    changed: dict[str, Order] = field(default_factory=dict)
    executed: list[tuple[str, Execution]] = field(default_factory=list)
    """Orders that may have changed by nothing but one more execution, with it."""
    events: list[tuple[str, Event]] = field(default_factory=list)
    """Each with the URL that it goes to."""
    resting: list[tuple[str, list[int]]] = field(default_factory=list)
    """Market orders that trade later, and the shares of each part: call `fill` for one after another."""
    due: list[Due] = field(default_factory=list)
    """What the script wants later: call `go_on` for each when its time has come."""
    trades: list[Trade] = field(default_factory=list)
    """Everything that changed hands in a book, whoever stood there."""

    def tell(self, order: Order) -> None:
        """The order is now where it stands."""
        self._add(order, Event(order.status, order.id, None, None, None, order.filled_quantity, order.reason, self.at))

    def tell_accepted(self, order: Order, place: int) -> None:
        """The order was taken; this comes before whatever else is told of it, at this place among the events."""
        self.changed[order.id] = order
        event = Event(OrderStatus.ACCEPTED, order.id, None, None, None, 0, None, self.at)
        self.events.insert(place, (order.callback_url, event))

    def tell_trade(self, symbol: Symbol, quantity: int, price: Money) -> None:
        """Shares changed hands in a book."""
        self.trades.append(Trade(symbol, format_money(price), quantity, self.at))

    def tell_execution(self, order: Order, execution: Execution) -> None:
        """Its newest execution brought the order to where it stands."""
        number = len(order.executions)
        if number == 1:
            self.changed[order.id] = order
        else:  # an order with a thousand executions is not to be written down a thousand times
            self.executed.append((order.id, execution))
        self.events.append((order.callback_url, self._event(order.status, order, number, execution)))

    def tell_amended(self, order: Order, kind: Amendment, number: int, reason: str | None = None) -> None:
        """An execution was taken back, or put in the place of such a one."""
        execution = order.executions[number - 1]
        event = self._event(kind, order, number, execution)
        event.reason = reason
        if kind is Amendment.CORRECTED:
            event.corrects = order.execution_id(execution.corrects)
        self._add(order, event)

    def _event(self, kind: OrderStatus | Amendment, order: Order, number: int, execution: Execution) -> Event:
        return Event(
            kind,
            order.id,
            order.execution_id(number),
            execution.quantity,
            format_money(execution.price),
            order.filled_quantity,
            None,
            self.at,
        )

    def _add(self, order: Order, event: Event) -> None:
        self.changed[order.id] = order
        self.events.append((order.callback_url, event))
