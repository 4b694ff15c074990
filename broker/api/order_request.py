"""What a client sends to place or replace an order, and the command that it becomes."""

from collections.abc import Callable
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID

import msgspec

from broker.api.amounts import Dollars, DollarsOrNull, read_money
from broker.core import shapes
from broker.core.messages import Leg, PlaceTrade, ReplaceTrade
from broker.core.money import Money, format_money, is_on_tick
from broker.core.types import (
    PRICE_MAX,
    QUANTITY_MAX,
    SYMBOL_PATTERN,
    CustomerId,
    OrderClass,
    Side,
    Symbol,
    TimeInForce,
    TradeId,
)
from broker.http import ApiError
from broker.reading import ORDER_TYPES

_SIDES = {"buy": Side.BUY, "sell": Side.SELL}
_TYPES = {word: type_ for type_, word in ORDER_TYPES.items()}
_QUANTITY = f"a whole number of shares from 1 to {QUANTITY_MAX}"
_BPS_PER_PERCENT = 100

Quantity = Annotated[int, msgspec.Meta(ge=1, le=QUANTITY_MAX, description=_QUANTITY)]
ClientOrderId = Annotated[
    str, msgspec.Meta(pattern=r"^[!-~]{1,128}$(?!\n)", description="1 to 128 visible ASCII characters")
]


class TakeProfit(msgspec.Struct, forbid_unknown_fields=True):
    """The exit with a limit."""

    price: Dollars


class StopLoss(msgspec.Struct, forbid_unknown_fields=True):
    """The exit with a stop; with a price it is a stop-limit order."""

    stop_price: Dollars
    price: DollarsOrNull = None


class OrderRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The body of POST /api/v1/orders."""

    symbol: Annotated[
        str,
        msgspec.Meta(pattern=SYMBOL_PATTERN, description="a ticker of 1 to 12 characters A-Z, 0-9 and '.', like AAPL"),
    ]
    side: Annotated[str, msgspec.Meta(pattern="^(buy|sell)$(?!\n)", description='"buy" or "sell"')]
    quantity: Quantity
    order_type: Annotated[
        str,
        msgspec.Meta(
            pattern="^(market|limit|stop_loss|stop_limit|trailing_stop)$(?!\n)",
            description='"market", "limit", "stop_loss", "stop_limit" or "trailing_stop"',
        ),
    ]
    price: DollarsOrNull = None
    stop_price: DollarsOrNull = None
    trail_amount: DollarsOrNull = None
    trail_percent: DollarsOrNull = None
    time_in_force: Annotated[
        str,
        msgspec.Meta(
            pattern="^(day|gtc|ioc|fok|opg|cls)$(?!\n)", description='"day", "gtc", "ioc", "fok", "opg" or "cls"'
        ),
    ] = "day"
    extended_hours: Annotated[bool, msgspec.Meta(description="true or false")] = False
    order_class: Annotated[
        str,
        msgspec.Meta(pattern="^(simple|bracket|oco|oto)$(?!\n)", description='"simple", "bracket", "oco" or "oto"'),
    ] = "simple"
    take_profit: Annotated[TakeProfit, msgspec.Meta(description='like {"price": "200.00"}')] | None = None
    stop_loss: (
        Annotated[StopLoss, msgspec.Meta(description='like {"stop_price": "180.00", "price": "179.50"}')] | None
    ) = None
    client_order_id: ClientOrderId | None = None


class ReplaceRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The body of PATCH /api/v1/orders/{orderId}: what is left out stays as it is."""

    quantity: Quantity | None = None
    price: DollarsOrNull = None
    stop_price: DollarsOrNull = None
    trail: DollarsOrNull = None
    time_in_force: Annotated[str, msgspec.Meta(pattern="^(day|gtc)$(?!\n)", description='"day" or "gtc"')] | None = None
    client_order_id: ClientOrderId | None = None


def place_command(customer_id: CustomerId, wanted: OrderRequest, new_id: Callable[[], UUID]) -> PlaceTrade:
    """The order that a client wants. Raises ApiError 400 where it is none."""
    command = PlaceTrade(
        TradeId(new_id()),
        customer_id,
        Symbol(wanted.symbol),
        _SIDES[wanted.side],
        wanted.quantity,
        None,
        _TYPES[wanted.order_type],
        TimeInForce(wanted.time_in_force),
        _price("price", wanted.price),
        _price("stop_price", wanted.stop_price),
        wanted.client_order_id,
        OrderClass(wanted.order_class),
        _legs(wanted, new_id),
        _price("trail_amount", wanted.trail_amount),
        _bps(wanted.trail_percent),
        wanted.extended_hours,
    )
    _fits("price", command.limit_price, wanted.order_type, {"limit", "stop_limit"})
    _fits("stop_price", command.stop_price, wanted.order_type, {"stop_loss", "stop_limit"})
    problem = shapes.problem(command)
    if problem is not None:
        raise ApiError(400, "invalid_request", problem[:1].upper() + problem[1:])
    return command


def _legs(wanted: OrderRequest, new_id: Callable[[], UUID]) -> tuple[Leg, ...]:
    legs = []
    if wanted.take_profit is not None:
        legs.append(Leg(TradeId(new_id()), limit_price=_needed("take_profit.price", wanted.take_profit.price)))
    if wanted.stop_loss is not None:
        stop = _needed("stop_loss.stop_price", wanted.stop_loss.stop_price)
        legs.append(Leg(TradeId(new_id()), _price("stop_loss.price", wanted.stop_loss.price), stop))
    return tuple(legs)


def replace_command(
    customer_id: CustomerId, replaces: TradeId, wanted: ReplaceRequest, new_id: Callable[[], UUID]
) -> ReplaceTrade:
    """What a client wants in an order's place. Raises ApiError 400 where nothing would change."""
    command = ReplaceTrade(
        TradeId(new_id()),
        customer_id,
        replaces,
        wanted.quantity,
        _price("price", wanted.price),
        _price("stop_price", wanted.stop_price),
        wanted.client_order_id,
        None if wanted.time_in_force is None else TimeInForce(wanted.time_in_force),
        None if wanted.trail is None else read_money("trail", wanted.trail, "a trail", "1.50"),
    )
    changes = (command.quantity, command.limit_price, command.stop_price, command.time_in_force, command.trail)
    if all(each is None for each in changes):
        sentence = "Name quantity, price, stop_price, trail or time_in_force: what is to be another."
        raise ApiError(400, "invalid_request", sentence)
    return command


def _fits(name: str, price: Money | None, order_type: str, types: set[str]) -> None:
    """What `shapes` says as well, in the words of this API."""
    if order_type in types and price is None:
        raise ApiError(400, "invalid_request", f"A {order_type} order needs a {name}.")
    if price is not None and order_type not in types:
        raise ApiError(400, "invalid_request", f"A {order_type} order has no {name}.")


def _needed(name: str, value: Any) -> Money:
    price = _price(name, value)
    if price is None:
        raise ApiError(400, "invalid_request", f"{name} is missing.")
    return price


def _price(name: str, value: Any) -> Money | None:
    """Raises ApiError 400 for what is not an exact price on the grid: cents from $1, $0.0001 below (SEC Rule 612)."""
    if value is None:
        return None
    price = read_money(name, value, "a price", "190.20")
    if not 0 < price <= PRICE_MAX:
        raise ApiError(400, "invalid_request", f"{name} must be above 0 and at most {format_money(PRICE_MAX)}.")
    if not is_on_tick(price):
        raise ApiError(400, "invalid_request", f"{name} of $1.00 or more must be in whole cents.")
    return price


def _bps(value: Any) -> int | None:
    """A percentage in 1/10,000. Raises ApiError 400."""
    if value is None:
        return None
    percent = read_money("trail_percent", value, "a percentage", "1.5")
    bps = Decimal(format_money(percent)) * _BPS_PER_PERCENT
    if bps != int(bps) or not 0 < bps < 100 * _BPS_PER_PERCENT:
        raise ApiError(400, "invalid_request", "trail_percent must be above 0 and below 100, with at most 2 decimals.")
    return int(bps)
