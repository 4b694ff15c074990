"""Orders that meet a step of the script. What it fills is filled beside the books, at a price that is there."""

from broker.core.matching import Why
from broker.core.money import Money
from broker.core.types import OrderType, Side, TimeInForce
from broker.simulator.books import Books
from broker.simulator.floor import MAX_PRICE_EXCEEDED, Floor
from broker.simulator.orders import WAITING, Order
from broker.simulator.outcome import Outcome
from broker.simulator.script import Delay, Due, Fill, Partial, Reject, Step
from broker.simulator.tickets import highest_price
from broker.simulator.wire import OrderStatus

_HALTED_MS = 100
"""Where the symbol is halted, what is due is looked at again after this."""


class Stage:
    """Carries the steps out."""

    def __init__(self, books: Books, floor: Floor) -> None:
        self._books = books
        self._floor = floor

    def begin(self, order: Order, step: Step, outcome: Outcome) -> None:
        """The order meets its step in the moment in which it is taken."""
        match step:
            case Reject():
                self._floor.end(order, OrderStatus.REJECTED, step.reason, outcome)
            case Delay():
                self._floor.set_aside(order)
                outcome.due.append(Due(order.id, step.ms, ()))
            case Fill():
                self._fill(order, Due(order.id, 0, (order.quantity,)), outcome)
            case Partial():
                self._fill(order, Due(order.id, step.ms, self._parts(order, step)), outcome)

    def go_on(self, order: Order, due: Due, outcome: Outcome) -> None:
        """What was due later; a halt puts it off."""
        if order.symbol in self._books.halted:
            outcome.due.append(due._replace(after_ms=max(due.after_ms, _HALTED_MS)))
        elif due.parts:
            self._fill(order, due, outcome)
        else:
            self._floor.call_back(order)
            self._floor.enter(order, order.leaves_quantity, outcome)

    def _parts(self, order: Order, step: Partial) -> tuple[int, ...]:
        """All or nothing: what is not filled in one piece is not filled at all."""
        if order.time_in_force is not TimeInForce.FOK:
            return step.shares
        return (order.quantity,) if sum(step.shares) >= order.quantity else ()

    def _fill(self, order: Order, due: Due, outcome: Outcome) -> None:
        if not due.parts:
            self._floor.end_unfilled(order, Why.ALL_OR_NOTHING, outcome)
            return
        price = self._price(order)
        if price is None:
            no_money = order.max_price is not None and not self._books.is_empty(order.symbol, Side.SELL)
            self._floor.call_back(order)
            self._floor.end_unfilled(order, MAX_PRICE_EXCEEDED if no_money else Why.NO_LIQUIDITY, outcome)
            return
        order.triggered = order.stop_price is not None
        first, *rest = due.parts
        self._floor.execute(order, min(first, order.leaves_quantity), price, outcome)
        if order.is_finished:
            self._floor.call_back(order)
        elif rest:
            self._floor.set_aside(order)
            outcome.due.append(Due(order.id, due.after_ms, tuple(rest)))
        else:
            self._keep_rest(order, outcome)

    def _keep_rest(self, order: Order, outcome: Outcome) -> None:
        """What can rest does, and trades no more; the rest of what cannot ends."""
        if order.type is not OrderType.MARKET and order.time_in_force in WAITING:
            self._floor.set_aside(order)
            return
        self._floor.call_back(order)
        why = Why.IMMEDIATE if order.time_in_force is TimeInForce.IOC else Why.NO_LIQUIDITY
        self._floor.end_unfilled(order, why, outcome)

    def _price(self, order: Order) -> Money | None:
        """The best price of the other side, and never one beyond the order's limit; None where it can pay none."""
        buys = order.side is Side.BUY
        best = self._books.best(order.symbol, Side.SELL if buys else Side.BUY)
        if order.price is not None:
            return order.price if best is None else (min if buys else max)(best, order.price)
        if best is None or (order.max_price is not None and best > highest_price(order)):
            return None
        return best
