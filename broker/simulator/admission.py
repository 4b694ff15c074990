"""Whether an order can be taken at all: what its fields must be for its type. Read once; what is left is in money."""

from functools import lru_cache
from urllib.parse import urlsplit

from broker.core.money import UNITS_PER_DOLLAR, Money, format_money, parse_money
from broker.core.types import PRICE_MAX, OrderType, Side
from broker.simulator.market import LOWEST_CENTS
from broker.simulator.orders import AUCTIONS, WAITING, Order
from broker.simulator.wire import NewOrder

CENT = UNITS_PER_DOLLAR // 100

_LIMITED = frozenset({OrderType.LIMIT, OrderType.STOP_LIMIT})
_STOPPED = frozenset({OrderType.STOP, OrderType.STOP_LIMIT})
_AUCTIONED = frozenset({OrderType.MARKET, OrderType.LIMIT})


class Inadmissible(Exception):
    """The first thing that is wrong with an order."""


def admit(new: NewOrder) -> Order:
    """The order as it is when it has just been taken. Raises Inadmissible."""
    _check_times(new)
    price = _price(new, "price", new.price, new.type in _LIMITED)
    stop_price = _price(new, "stop_price", new.stop_price, new.type in _STOPPED)
    max_price = _max_price(new)
    if not _is_http_url(new.callback_url):
        raise Inadmissible("callback_url must be an http or https URL")
    return Order(
        new.id,
        new.symbol,
        new.side,
        new.type,
        new.quantity,
        max_price,
        new.callback_url,
        price,
        stop_price,
        new.time_in_force,
        new.replaces,
        extended_hours=new.extended_hours,
    )


def on_grid(price: int) -> Money:
    """The highest price on the grid that is not above this one: whole cents from one dollar on, $0.0001 below it."""
    return Money(price if price < UNITS_PER_DOLLAR else price - price % CENT)


def execution_price(text: str) -> Money:
    """A price that an operator puts in an execution's place. Raises Inadmissible."""
    return _readable_price("price", text)


def settable_price(text: str) -> Money:
    """A price that an operator lets the market move to. Raises Inadmissible."""
    price = _amount(text)
    if price % CENT or not LOWEST_CENTS * CENT <= price <= PRICE_MAX // 2:
        lowest, highest = format_money(Money(LOWEST_CENTS * CENT)), format_money(Money(PRICE_MAX // 2))
        raise Inadmissible(f"price is in whole cents, from {lowest} to {highest}")
    return price


def _check_times(new: NewOrder) -> None:
    """Whether an order of this type may trade when it wants to."""
    if new.type is OrderType.TRAILING_STOP:
        raise Inadmissible("a trailing stop waits at the broker: it comes here as a stop")
    if new.time_in_force in AUCTIONS and new.type not in _AUCTIONED:
        raise Inadmissible(f"{new.time_in_force} is for market and limit orders")
    if new.extended_hours and not (new.type is OrderType.LIMIT and new.time_in_force in WAITING):
        raise Inadmissible("extended_hours is for limit orders that are day or gtc")


def _price(new: NewOrder, name: str, text: str | None, is_needed: bool) -> Money | None:
    """A price that this type of order has, or has not."""
    if text is None and not is_needed:
        return None
    if text is None or not is_needed:
        raise Inadmissible(f"a {new.type} order {'needs a' if is_needed else 'has no'} {name}")
    price = _readable_price(name, text)
    if on_grid(price) != price:
        raise Inadmissible(f"from 1.00 on, {name} is in whole cents")
    return price


def _readable_price(name: str, text: str) -> Money:
    price = _amount(text)
    if not 0 < price <= PRICE_MAX:
        raise Inadmissible(
            f"{name} must be above 0 and at most {format_money(PRICE_MAX)}, with at most 4 decimals",
        )
    return price


def _max_price(new: NewOrder) -> Money | None:
    """What the order may spend: of a BUY that has no limit of its own."""
    if new.side is Side.SELL or new.type in _LIMITED:
        if new.max_price is not None:
            raise Inadmissible(f"a {new.type} {new.side} has no max_price")
        return None
    max_price = Money(0) if new.max_price is None else _amount(new.max_price)
    if max_price <= 0:
        raise Inadmissible(f"a {new.type} BUY needs a max_price, a positive decimal with at most 4 places")
    return max_price


def _amount(text: str) -> Money:
    """The amount that a text is; 0, which is no price, where it is none."""
    try:
        return parse_money(text)
    except ValueError:
        return Money(0)


@lru_cache(maxsize=1024)
def _is_http_url(text: str) -> bool:
    try:
        url = urlsplit(text)
        return url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:
        return False
