"""What becomes of an order: taken or not, traded at the quote of the moment or refused, with the events to tell.

No socket, no clock, no task: orders and the time come in, results and events come out. `_trade` is where an order
meets the market. Today the other side of each trade is the quote itself; a book with price-time priority, limits and
stops belongs there too, since an order already may rest, fill in parts and end unfilled.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime

from broker.core.money import Money, format_money
from broker.core.types import Side, Symbol
from broker.simulator.faults import RANDOM_ERROR, Faults
from broker.simulator.market import Market
from broker.simulator.orders import Execution, Order, Orders, order_from
from broker.simulator.wire import Answer, Event, NewOrder, OrderStatus, Result, Unreadable, invalid_reason

UNKNOWN_SYMBOL = "unknown symbol"
PAST_MARKET_HOURS = "past market hours"
MAX_PRICE_EXCEEDED = "max price exceeded"
OTHER_CONTENT = "this id belongs to an order with other content"


@dataclass(slots=True)
class Outcome:
    """What one call changed: everything that has to be recorded and told."""

    results: list[Result] = field(default_factory=list)
    changed: list[Order] = field(default_factory=list)
    events: list[tuple[str, Event]] = field(default_factory=list)
    """Each with the URL that it goes to."""
    resting: list[tuple[str, list[int]]] = field(default_factory=list)
    """Orders that trade later, and the shares of each part: call `fill` for one after another."""


class Exchange:
    """The orders of all brokers. Its methods are decisions: none suspends, each returns its outcome."""

    def __init__(
        self,
        market: Market,
        orders: Orders,
        faults: Faults,
        trades_at: Callable[[datetime], bool],
        fills_at_once: bool = True,
    ) -> None:
        self._market = market
        self._faults = faults
        self._trades_at = trades_at
        self._fills_at_once = fills_at_once
        self.orders = orders

    def accept(self, batch: Iterable[NewOrder | Unreadable], at: datetime) -> Outcome:
        """Take each order that can be taken, and trade it where nothing is in the way."""
        outcome = Outcome()
        is_open = self._trades_at(at)
        stamp = at.isoformat(timespec="microseconds")
        for new in batch:
            result = self._answer(new)
            outcome.results.append(result)
            if result.status is Answer.ACCEPTED:
                assert isinstance(new, NewOrder)
                order = order_from(new)
                self._begin(order, is_open, stamp, outcome)
                self._record(order, outcome)
        return outcome

    def fill(self, order_id: str, quantity: int, at: datetime) -> Outcome:
        """Trade a part of a resting order now; where it may not trade any more, end it. No-op on a finished one."""
        outcome = Outcome()
        order = self.orders.get(order_id)
        if order is None or order.is_finished:
            return outcome
        stamp = at.isoformat(timespec="microseconds")
        reason = self._refusal(order, quantity, self._trades_at(at))
        if reason is None:
            self._trade(order, quantity, stamp, outcome)
        else:
            self._end(order, _end_of_resting(order, reason), reason, stamp, outcome)
        self._record(order, outcome)
        return outcome

    def _answer(self, new: NewOrder | Unreadable) -> Result:
        if isinstance(new, Unreadable):
            return Result(new.id, Answer.INVALID, new.reason)
        reason = invalid_reason(new)
        if reason is not None:
            return Result(new.id, Answer.INVALID, reason)
        known = self.orders.get(new.id)
        if known is None:
            return Result(new.id, Answer.ACCEPTED)
        if known.asks_the_same(new):
            return Result(new.id, Answer.EXISTS)
        return Result(new.id, Answer.INVALID, OTHER_CONTENT)

    def _begin(self, order: Order, is_open: bool, at: str, outcome: Outcome) -> None:
        """The first moment of an order: it is rejected, fills, or rests and says so."""
        reason = self._refusal(order, order.quantity, is_open)
        if reason is None and self._faults.rejects():
            reason = RANDOM_ERROR
        if reason is not None:
            self._end(order, OrderStatus.REJECTED, reason, at, outcome)
            return
        parts = self._faults.parts(order.quantity)
        if len(parts) == 1 and self._fills_at_once:
            self._trade(order, order.quantity, at, outcome)
            return
        outcome.resting.append((order.id, parts))
        _tell(order, outcome, at)

    def _refusal(self, order: Order, quantity: int, is_open: bool) -> str | None:
        """The first reason, in order of precedence, for which this many shares cannot trade now."""
        quote = self._market.quotes.get(Symbol(order.symbol))
        if quote is None:
            return UNKNOWN_SYMBOL
        if not is_open:
            return PAST_MARKET_HOURS
        if order.max_price is not None and order.filled_value + quantity * quote.ask > order.max_price:
            return MAX_PRICE_EXCEEDED
        return None

    def _trade(self, order: Order, quantity: int, at: str, outcome: Outcome) -> None:
        """Execute at the quote: a BUY pays the ask, a SELL gets the bid."""
        assert 0 < quantity <= order.leaves_quantity, order
        quote = self._market.quotes[Symbol(order.symbol)]
        price = quote.ask if order.side is Side.BUY else quote.bid
        execution = Execution(quantity, price, at)
        order.executions += (execution,)
        order.filled_quantity += quantity
        order.status = OrderStatus.PARTIALLY_FILLED if order.leaves_quantity else OrderStatus.FILLED
        _tell(order, outcome, at, execution)

    def _end(self, order: Order, status: OrderStatus, reason: str, at: str, outcome: Outcome) -> None:
        order.status = status
        order.reason = reason
        _tell(order, outcome, at)

    def _record(self, order: Order, outcome: Outcome) -> None:
        self.orders.put(order)
        outcome.changed.append(order)


def _end_of_resting(order: Order, reason: str) -> OrderStatus:
    """Past the close an order expires; otherwise what has traded already cannot be rejected any more."""
    if reason == PAST_MARKET_HOURS:
        return OrderStatus.EXPIRED
    return OrderStatus.CANCELLED if order.executions else OrderStatus.REJECTED


def _tell(order: Order, outcome: Outcome, at: str, execution: Execution | None = None) -> None:
    """Put the event that brought the order to where it now stands into the outcome."""
    event = Event(
        type=order.status,
        order_id=order.id,
        execution_id=None if execution is None else f"{order.id}-{len(order.executions)}",
        quantity=None if execution is None else execution.quantity,
        price=None if execution is None else format_money(Money(execution.price)),
        filled_quantity=order.filled_quantity,
        reason=order.reason,
        at=at,
    )
    outcome.events.append((order.callback_url, event))
