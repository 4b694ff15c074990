"""Whether an order is one: which prices, times in force and exits belong to which type, whatever the account has."""

from broker.core.messages import Leg, PlaceTrade
from broker.core.money import Money, in_dollars
from broker.core.types import AUCTIONS, OrderClass, OrderType, Side, TimeInForce

_LIMITED = frozenset({OrderType.LIMIT, OrderType.STOP_LIMIT})
_STOPPED = frozenset({OrderType.STOP, OrderType.STOP_LIMIT})
_LASTING = frozenset({TimeInForce.DAY, TimeInForce.GTC})
_AT_MOST_LIMITED = frozenset({OrderType.MARKET, OrderType.LIMIT})
_CENT = 100


def problem(order: PlaceTrade) -> str | None:
    """The first thing that is wrong with an order as a whole, as a sentence; None where nothing is."""
    found = _prices(order) or _trail(order) or _time(order)
    return found or (_group(order) if order.order_class is not OrderClass.SIMPLE or order.legs else None)


def _name(order: PlaceTrade) -> str:
    return f"{order.order_type.replace('_', '-')} order"


def _prices(order: PlaceTrade) -> str | None:
    for name, price, types in (
        ("limit price", order.limit_price, _LIMITED),
        ("stop price", order.stop_price, _STOPPED),
    ):
        belongs = order.order_type in types
        if belongs and price is None:
            return f"a {_name(order)} needs a {name}."
        if price is not None and not belongs:
            return f"a {_name(order)} has no {name}."
    return None


def _trail(order: PlaceTrade) -> str | None:
    trails = [each for each in (order.trail_amount, order.trail_bps) if each is not None]
    if order.order_type is not OrderType.TRAILING_STOP:
        return f"a {_name(order)} has no trail." if trails else None
    if len(trails) != 1:
        return "a trailing-stop order needs a trail: an amount or a percentage, not both."
    if order.trail_bps is not None and not 0 < order.trail_bps < 10_000:
        return "a trail is above 0 and below 100 percent."
    if trails[0] <= 0:
        return "a trail is above 0."
    return None if order.time_in_force in _LASTING else "a trailing-stop order is day or gtc."


def _time(order: PlaceTrade) -> str | None:
    if order.time_in_force in AUCTIONS and order.order_type not in _AT_MOST_LIMITED:
        return f"an order that is {order.time_in_force} is a market or a limit order."
    lasting = order.order_type is OrderType.LIMIT and order.time_in_force in _LASTING
    if order.extended_hours and not lasting:
        return "only a limit order that is day or gtc can trade in extended hours."
    return None


# ------------------------------------------------------------------ groups


def _group(order: PlaceTrade) -> str | None:
    kind, take_profit, stop_loss = order.order_class, _take_profit(order), _stop_loss(order)
    found = None
    if kind is OrderClass.SIMPLE:
        found = "exits belong to a bracket, oco or oto order."
    elif order.time_in_force not in _LASTING or order.extended_hours:
        found = f"{_a(kind)} order is day or gtc, and not for extended hours."
    elif kind is OrderClass.OCO:
        if order.order_type is not OrderType.LIMIT or take_profit is not None or stop_loss is None:
            found = "an oco order is a limit order, its take profit, with a stop loss."
    elif order.order_type not in _AT_MOST_LIMITED:
        found = f"the entry of {_a(kind)} order is a market or a limit order."
    elif kind is OrderClass.BRACKET and (take_profit is None or stop_loss is None):
        found = "a bracket order has a take profit and a stop loss."
    elif kind is OrderClass.OTO and (take_profit is None) is (stop_loss is None):
        found = "an oto order has a take profit or a stop loss, one of them."
    return found or _price_order(order, take_profit, stop_loss)


def _a(kind: OrderClass) -> str:
    return f"a {kind}" if kind is OrderClass.BRACKET else f"an {kind}"


def _take_profit(order: PlaceTrade) -> Leg | None:
    return next((leg for leg in order.legs if leg.stop_price is None), None)


def _stop_loss(order: PlaceTrade) -> Leg | None:
    return next((leg for leg in order.legs if leg.stop_price is not None), None)


def _price_order(order: PlaceTrade, take_profit: Leg | None, stop_loss: Leg | None) -> str | None:
    """What takes the profit lies on the good side of what stops the loss, by a cent at least, and the entry between."""
    is_oco = order.order_class is OrderClass.OCO
    sells = (order.side is Side.SELL) is is_oco  # whether the exits sell
    profit = order.limit_price if is_oco else take_profit.limit_price if take_profit else None
    loss = stop_loss.stop_price if stop_loss else None
    entry = None if is_oco else order.limit_price
    side = "above" if sells else "below"
    for better, worse, words in (
        (profit, loss, "the take profit must be {side} the stop loss, {worse}."),
        (profit, entry, "the take profit must be {side} the entry's limit, {worse}."),
        (entry, loss, "the entry's limit must be {side} the stop loss, {worse}."),
    ):
        if better is not None and worse is not None and _ahead(better, worse, sells) < _CENT:
            return words.format(side=side, worse=in_dollars(worse))
    return None


def _ahead(better: Money, worse: Money, sells: bool) -> int:
    return better - worse if sells else worse - better
