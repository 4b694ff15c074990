"""The orders that the exchange remembers: every open one, and the newest finished ones up to a limit."""

import sys
from collections import deque
from collections.abc import Iterator

import msgspec

from broker.core.money import Money, format_money
from broker.core.types import Side
from broker.simulator.wire import (
    ExecutionState,
    NewOrder,
    OrderState,
    OrderStatus,
    OrderType,
    max_price_of,
)

FINISHED = frozenset({OrderStatus.FILLED, OrderStatus.REJECTED, OrderStatus.CANCELLED, OrderStatus.EXPIRED})


class Execution(msgspec.Struct, gc=False):
    quantity: int
    price: Money
    at: str


class Order(msgspec.Struct, gc=False):
    """One order with its executions; the n-th has the id `{order id}-{n}`. Its one writer is the exchange."""

    id: str
    symbol: str
    side: Side
    type: OrderType
    quantity: int
    max_price: Money | None
    callback_url: str
    status: OrderStatus = OrderStatus.ACCEPTED
    filled_quantity: int = 0
    reason: str | None = None
    executions: tuple[Execution, ...] = ()

    def __post_init__(self) -> None:
        """A million orders share the few texts that they have in common, also when they come from the journal."""
        self.symbol = sys.intern(self.symbol)
        self.callback_url = sys.intern(self.callback_url)
        for execution in self.executions:
            execution.at = sys.intern(execution.at)

    @property
    def leaves_quantity(self) -> int:
        """Shares that are not filled yet."""
        return self.quantity - self.filled_quantity

    @property
    def filled_value(self) -> int:
        """What its executions cost or brought, in money."""
        return sum(execution.quantity * execution.price for execution in self.executions)

    @property
    def is_finished(self) -> bool:
        return self.status in FINISHED

    def asks_the_same(self, new: NewOrder) -> bool:
        """Whether a valid order has this one's content.

        The callback URL is no part of it: a broker that came back at another address asks for the same trade.
        """
        return (
            self.symbol == new.symbol
            and self.side is new.side
            and self.type is new.type
            and self.quantity == new.quantity
            and self.max_price == max_price_of(new)
        )

    def state(self) -> OrderState:
        """The order as a lookup shows it."""
        executions = [
            ExecutionState(f"{self.id}-{n}", execution.quantity, format_money(execution.price), execution.at)
            for n, execution in enumerate(self.executions, 1)
        ]
        return OrderState(
            self.id,
            self.symbol,
            self.side,
            self.type,
            self.quantity,
            self.status,
            self.filled_quantity,
            self.reason,
            executions,
        )


def order_from(new: NewOrder) -> Order:
    """A valid order as it is when it has just been taken."""
    return Order(new.id, new.symbol, new.side, new.type, new.quantity, max_price_of(new), new.callback_url)


class Orders:
    """Orders by id. The oldest finished one is forgotten when there are more than `finished_max` of them."""

    def __init__(self, finished_max: int) -> None:
        self._finished_max = finished_max
        self._orders: dict[str, Order] = {}
        self._finished: deque[str] = deque()

    def get(self, order_id: str) -> Order | None:
        return self._orders.get(order_id)

    def put(self, order: Order) -> None:
        """Remember an order, or its newer state. A finished one never changes again."""
        before = self._orders.get(order.id)
        assert before is None or before is order or not before.is_finished, order.id
        self._orders[order.id] = order
        if order.is_finished:
            self._finish(order)

    def open(self) -> Iterator[Order]:
        """Those that are not finished, oldest first."""
        return (order for order in self._orders.values() if not order.is_finished)

    def all(self) -> Iterator[Order]:
        """Every order that is remembered: the finished ones as they finished, then the open ones."""
        yield from (self._orders[order_id] for order_id in self._finished)
        yield from self.open()

    @property
    def open_count(self) -> int:
        return len(self._orders) - len(self._finished)

    def _finish(self, order: Order) -> None:
        self._finished.append(order.id)
        if len(self._finished) > self._finished_max:
            del self._orders[self._finished.popleft()]
