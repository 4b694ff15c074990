"""An order as its book takes it.

A BUY without a limit of its own gets one here, so that it can never spend more than its max_price: what it may still
spend, for each share that it may still buy.
"""

from broker.core import matching
from broker.core.money import Money
from broker.core.types import PRICE_MAX, OrderType, TimeInForce
from broker.simulator.admission import on_grid
from broker.simulator.orders import Order

_AT_ONCE = (TimeInForce.IOC, TimeInForce.FOK)


def ticket(order: Order, quantity: int) -> matching.Order:
    """So many shares of an order, to enter. Its price is 0 where not even the lowest price is one it can pay."""
    stop_price = None if order.triggered else order.stop_price
    price, time_in_force = order.price, order.time_in_force
    if order.max_price is not None:
        price = highest_price(order)
        time_in_force = time_in_force if time_in_force in _AT_ONCE else TimeInForce.IOC
    return matching.Order(order.id, order.id, order.side, quantity, price, stop_price, time_in_force)


def highest_price(order: Order) -> Money:
    """The most that a share may cost so that all that are left stay within max_price."""
    assert order.max_price is not None
    left = order.max_price - order.filled_value if order.executions else order.max_price
    return on_grid(min(left // order.leaves_quantity, PRICE_MAX))


def keeps_place(old: Order, new: Order) -> bool:
    """Whether a replacement changes nothing but that fewer shares are wanted."""
    if old.type is OrderType.MARKET or new.quantity > old.leaves_quantity:
        return False
    if (old.price, old.stop_price) != (new.price, new.stop_price):
        return False
    # The limit that stands in the book is the old order's: it has to do for the new one too.
    return new.max_price is None or highest_price(new) >= highest_price(old)
