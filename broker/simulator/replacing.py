"""Whether an order may take another one's place."""

from broker.simulator.admission import Inadmissible
from broker.simulator.orders import WAITING, Order, Orders

OTHER_ORDER = "a replacement keeps the symbol, side, type and hours, and the time in force unless both are day or gtc"


def order_to_replace(orders: Orders, new: Order) -> Order | None:
    """The order whose place a new one wants, None if it wants none. Raises Inadmissible where it cannot have it."""
    if new.replaces is None:
        return None
    old = orders.get(new.replaces.id)
    if old is None:
        raise Inadmissible("the order to replace is not known")
    if old.is_finished:
        raise Inadmissible(f"the order to replace is {old.status}")
    if old.filled_quantity != new.replaces.filled_quantity:
        raise Inadmissible(f"the order to replace has filled {old.filled_quantity} shares")
    if not _is_alike(old, new):
        raise Inadmissible(OTHER_ORDER)
    return old


def _is_alike(old: Order, new: Order) -> bool:
    kept = (old.symbol, old.side, old.type, old.extended_hours)
    if kept != (new.symbol, new.side, new.type, new.extended_hours):
        return False
    return old.time_in_force is new.time_in_force or {old.time_in_force, new.time_in_force} <= WAITING
