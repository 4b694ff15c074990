"""What an order can cost, and so has to reserve: cash of a BUY, shares of a SELL."""

from dataclasses import dataclass
from datetime import date

from broker.core import trailing
from broker.core.fees import FeeRule, max_fees
from broker.core.money import Money
from broker.core.types import OrderType, Side, Trade


@dataclass(slots=True)
class Cost:
    """What a BUY comes to. `price` is what one share is reckoned at."""

    price: Money
    fees: Money
    least: Money  # with fees: what must be there for the order to be sent
    most: Money  # with fees: what is reserved where it is there, since the price may move before the order fills


def with_collar(value: int, collar_bps: int) -> Money:
    """A value and the collar on it, in 1/10,000, rounded up."""
    return Money(-(-value * (10_000 + collar_bps) // 10_000))


def buy_cost(trade: Trade, ask: Money | None, collar_bps: int, rules: tuple[FeeRule, ...], day: date) -> Cost | None:
    """What a BUY can cost; None for a market order while no quote is known.

    A limit order: its price for every share. A market order: the ask, plus a collar where the cash is there. A stop
    order the same at its stop price, or at the ask where that is higher already; a trailing stop where it is now.
    """
    price = trade.limit_price
    if price is not None:
        value = most = Money(trade.quantity * price)
    else:
        if trade.stop_price is not None:
            price = max(trade.stop_price, ask or trade.stop_price)
        elif ask is None:
            return None
        elif trade.order_type is OrderType.TRAILING_STOP:
            price = Money(ask + trailing.distance(trade, ask))
        else:
            price = ask
        value = Money(trade.quantity * price)
        most = with_collar(value, collar_bps)
    fees = max_fees(rules, Side.BUY, trade.quantity, most, day) if rules else Money(0)
    return Cost(price, fees, Money(value + fees), Money(most + fees))


def full_hold(trade: Trade, rules: tuple[FeeRule, ...], day: date) -> int:
    """What an order that replaces another has to hold once it stands alone."""
    if trade.side is Side.SELL:
        return trade.quantity
    value = Money(trade.quantity * trade.limit_price) if trade.limit_price is not None else trade.max_price
    assert value is not None
    return value + max_fees(rules, Side.BUY, trade.quantity, value, day)
