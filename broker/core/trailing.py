"""Stops that are watched here: whether a price reaches one, and where a trailing stop has followed the market to.

A trailing stop stays at its distance behind the best price since it began: below the highest for a SELL, above the
lowest for a BUY. It follows, and never goes back.
"""

from broker.core.money import UNITS_PER_DOLLAR, Money
from broker.core.types import Side, Trade

CENT = UNITS_PER_DOLLAR // 100
_BPS = 10_000


def better(side: Side, water: Money | None, price: Money) -> Money:
    """The best of the prices so far and this one: the high-water mark (of a BUY, the low)."""
    if water is None:
        return price
    return max(water, price) if side is Side.SELL else min(water, price)


def distance(trade: Trade, price: Money) -> int:
    """How far behind this price the stop is: the amount, or the part of the price, rounded up."""
    if trade.trail_amount is not None:
        return trade.trail_amount
    assert trade.trail_bps is not None
    return -(-price * trade.trail_bps // _BPS)


def stop_price(trade: Trade, water: Money) -> Money | None:
    """Where the stop is by now, on the price grid and never nearer than the distance; None where that is 0 or less."""
    away = distance(trade, water)
    stop = _down(water - away) if trade.side is Side.SELL else -_down(-(water + away))
    return Money(stop) if stop > 0 else None


def _down(price: int) -> int:
    """Onto the grid: whole cents from $1 on, $0.0001 below (SEC Rule 612). A negative one goes away from zero."""
    return price if abs(price) < UNITS_PER_DOLLAR else price // CENT * CENT


def is_reached(side: Side, stop: Money, price: Money) -> bool:
    """Whether a trade at this price triggers the stop."""
    return price <= stop if side is Side.SELL else price >= stop
