"""The orders that the exchange remembers: every open one, and the newest finished ones up to a limit."""

import sys
from collections import deque
from collections.abc import Iterator

import msgspec

from broker.core.money import Money, format_money
from broker.core.types import OrderType, Side, Symbol, TimeInForce
from broker.simulator.wire import ExecutionState, OrderState, OrderStatus, Replaces

FINISHED = frozenset(
    {OrderStatus.FILLED, OrderStatus.REJECTED, OrderStatus.CANCELLED, OrderStatus.EXPIRED, OrderStatus.REPLACED}
)
WAITING = frozenset({TimeInForce.DAY, TimeInForce.GTC})
"""Orders that may rest, and wait for a session."""
AUCTIONS = frozenset({TimeInForce.OPG, TimeInForce.CLS})
"""Orders that trade at one moment only: when a session opens, or when it closes."""

_MARKET, _OPG, _CLS = OrderType.MARKET, TimeInForce.OPG, TimeInForce.CLS  # found faster than in their enums


class Execution(msgspec.Struct, gc=False, omit_defaults=True):
    quantity: int
    price: Money
    at: str
    busted: bool = False
    corrects: int = 0
    """The number of the execution in whose place this one stands; 0: it is one of its own."""


class Order(msgspec.Struct, gc=False, omit_defaults=True):
    """One order with its executions; the n-th has the id `{order id}-{n}`. Its one writer is the exchange.

    What stands below `executions`, but for `extended_hours`, is the exchange's own: in the journal, and in no answer.
    """

    id: str
    symbol: Symbol
    side: Side
    type: OrderType
    quantity: int
    max_price: Money | None
    callback_url: str
    price: Money | None = None
    stop_price: Money | None = None
    time_in_force: TimeInForce = TimeInForce.DAY
    replaces: Replaces | None = None
    status: OrderStatus = OrderStatus.ACCEPTED
    filled_quantity: int = 0
    reason: str | None = None
    executions: tuple[Execution, ...] = ()
    rank: int = 0
    """Its place in the line of all orders, by which they enter their books: lower is earlier."""
    triggered: bool = False
    """A stop that was reached: it is an ordinary order by now."""
    expires_at: str | None = None
    """The end of the session that it belongs to, once it has to wait; None: it waits for ever."""
    extended_hours: bool = False
    opens_at: str | None = None
    """Of an `opg` order: the opening at which it trades."""
    carried: int = 0
    """Its filled quantity is so much less than its book's figure, which counts from when its place was taken."""

    def __post_init__(self) -> None:
        """A million orders share the few texts that they have in common, also when they come from the journal."""
        self.symbol = Symbol(sys.intern(self.symbol))
        self.callback_url = sys.intern(self.callback_url)
        for execution in self.executions:
            execution.at = sys.intern(execution.at)

    @property
    def leaves_quantity(self) -> int:
        """Shares that are not filled yet."""
        return self.quantity - self.filled_quantity

    @property
    def filled_value(self) -> int:
        """What its executions cost or brought, in money; what was taken back did neither."""
        return sum(execution.quantity * execution.price for execution in self.executions if not execution.busted)

    @property
    def is_immediate(self) -> bool:
        """A market order that does not wait for an opening or a close."""
        return self.type is _MARKET and not self.has_its_moment

    @property
    def has_its_moment(self) -> bool:
        """Whether it trades when a session opens or closes, and at no other time."""
        return self.time_in_force is _OPG or self.time_in_force is _CLS

    @property
    def can_wait(self) -> bool:
        """Whether it may be taken outside the session."""
        return self.has_its_moment or (self.type is not _MARKET and self.time_in_force in WAITING)

    @property
    def is_finished(self) -> bool:
        return self.status in FINISHED

    def execute(self, execution: Execution) -> None:
        """Shares changed hands."""
        self.executions += (execution,)
        self.filled_quantity += execution.quantity
        if self.filled_quantity == self.quantity:
            self.status = OrderStatus.FILLED
        else:
            assert self.filled_quantity < self.quantity, self
            self.status = OrderStatus.PARTIALLY_FILLED

    def asks_the_same(self, other: "Order") -> bool:
        """Whether another order, as it came in, has this one's content.

        The callback URL is no part of it: a broker that came back at another address asks for the same trade.
        """
        return (
            self.symbol == other.symbol
            and self.side is other.side
            and self.type is other.type
            and self.quantity == other.quantity
            and self.max_price == other.max_price
            and self.price == other.price
            and self.stop_price == other.stop_price
            and self.time_in_force is other.time_in_force
            and self.replaces == other.replaces
            and self.extended_hours == other.extended_hours
        )

    def execution_id(self, number: int) -> str:
        return f"{self.id}-{number}"

    def state(self) -> OrderState:
        """The order as a lookup shows it."""
        executions = [
            ExecutionState(
                self.execution_id(number),
                execution.quantity,
                format_money(execution.price),
                execution.at,
                execution.busted,
                self.execution_id(execution.corrects) if execution.corrects else None,
            )
            for number, execution in enumerate(self.executions, 1)
        ]
        return OrderState(
            self.id,
            self.symbol,
            self.side,
            self.type,
            self.quantity,
            None if self.price is None else format_money(self.price),
            None if self.stop_price is None else format_money(self.stop_price),
            self.time_in_force,
            self.status,
            self.filled_quantity,
            self.reason,
            executions,
            self.extended_hours,
        )


class Orders:
    """Orders by id. The oldest finished one is forgotten when there are more than `finished_max` of them."""

    def __init__(self, finished_max: int) -> None:
        self._finished_max = finished_max
        self._orders: dict[str, Order] = {}
        self._open: dict[str, Order] = {}
        self._finished: deque[str] = deque()

    def get(self, order_id: str) -> Order | None:
        return self._orders.get(order_id)

    def add(self, order: Order) -> None:
        """Remember an order that is open and was not known."""
        self._orders[order.id] = self._open[order.id] = order

    def put(self, order: Order) -> None:
        """Remember an order, or its newer state. A finished one stays finished."""
        before = self._orders.get(order.id)
        if before is not None and order.id not in self._open:
            assert order.is_finished, order.id
            self._orders[order.id] = order  # an execution of it was taken back
            return
        self._orders[order.id] = order
        if order.is_finished:
            self._open.pop(order.id, None)
            self._finish(order)
        else:
            self._open[order.id] = order

    def open(self) -> list[Order]:
        """Those that are not finished, in their line."""
        return sorted(self._open.values(), key=lambda order: order.rank)

    def all(self) -> Iterator[Order]:
        """Every order that is remembered: the finished ones as they finished, then the open ones."""
        yield from (self._orders[order_id] for order_id in self._finished)
        yield from self.open()

    @property
    def open_count(self) -> int:
        return len(self._open)

    def _finish(self, order: Order) -> None:
        self._finished.append(order.id)
        if len(self._finished) > self._finished_max:
            del self._orders[self._finished.popleft()]
