"""An operator takes an execution back, or puts another one in its place; the order itself stays where it is.

Only the one order's execution: whoever stood on the other side of the trade keeps his, as a broker sees one side only.
"""

from enum import StrEnum

from broker.core.money import Money
from broker.simulator.orders import Execution, Order, Orders
from broker.simulator.outcome import Outcome
from broker.simulator.wire import Amendment


class Refusal(StrEnum):
    """Why an execution stands as it is."""

    UNKNOWN = "no execution has this id"
    BUSTED = "the execution is busted already"
    TOO_MANY = "an order cannot have traded more shares than it has"


def find(orders: Orders, execution_id: str) -> tuple[Order, int] | Refusal:
    """The order and the number of an execution that can be taken back."""
    order_id, _, text = execution_id.rpartition("-")
    order = orders.get(order_id)
    if order is None or not (text.isascii() and text.isdecimal() and len(text) < 10):
        return Refusal.UNKNOWN
    number = int(text)
    if not 1 <= number <= len(order.executions) or order.execution_id(number) != execution_id:
        return Refusal.UNKNOWN
    return Refusal.BUSTED if order.executions[number - 1].busted else (order, number)


def bust(order: Order, number: int, reason: str, outcome: Outcome) -> None:
    """Take an execution back."""
    order.executions[number - 1].busted = True
    outcome.tell_amended(order, Amendment.BUSTED, number, reason)


def correct(order: Order, number: int, quantity: int | None, price: Money | None, outcome: Outcome) -> Refusal | None:
    """Put another execution in its place; what is None stays as it was."""
    old = order.executions[number - 1]
    new = Execution(
        old.quantity if quantity is None else quantity,
        old.price if price is None else price,
        outcome.at,
        corrects=number,
    )
    others = sum(each.quantity for each in order.executions if not each.busted) - old.quantity
    if others + new.quantity > order.quantity:
        return Refusal.TOO_MANY
    old.busted = True
    order.executions += (new,)
    outcome.tell_amended(order, Amendment.CORRECTED, len(order.executions))
    return None
