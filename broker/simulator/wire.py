"""The contract's words as types, and the one place that reads them from bytes (docs/exchange-contract.md).

Structs instead of dataclasses, outside the garbage collector (`gc=False`): thousands are made each second, a million
are kept, none of them can be part of a cycle.
"""

from enum import StrEnum
from functools import lru_cache
from typing import Annotated, Any
from urllib.parse import urlsplit

import msgspec

from broker.core.money import Money, parse_money
from broker.core.types import QUANTITY_MAX, Side

ORDERS_PER_REQUEST_MAX = 256
IDS_PER_LOOKUP_MAX = 100
_UUID = r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$(?!\n)"


class OrderStatus(StrEnum):
    """Where an order stands; an event of the same name says that it got there."""

    ACCEPTED = "ACCEPTED"
    PARTIALLY_FILLED = "PARTIALLY_FILLED"
    FILLED = "FILLED"
    REJECTED = "REJECTED"
    CANCELLED = "CANCELLED"
    EXPIRED = "EXPIRED"


class OrderType(StrEnum):
    MARKET = "market"


class Answer(StrEnum):
    """What became of an order that came in."""

    ACCEPTED = "ACCEPTED"
    EXISTS = "EXISTS"
    INVALID = "INVALID"


class NewOrder(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """An order as a broker sends it. A field that we do not know is refused: ignoring it could cost money."""

    id: Annotated[str, msgspec.Meta(pattern=_UUID)]
    symbol: Annotated[str, msgspec.Meta(min_length=1, max_length=32)]
    side: Side
    type: OrderType
    quantity: Annotated[int, msgspec.Meta(ge=1, le=QUANTITY_MAX)]
    callback_url: Annotated[str, msgspec.Meta(max_length=2048)]
    max_price: Annotated[str, msgspec.Meta(max_length=32)] | None = None


class Unreadable(msgspec.Struct, gc=False):
    """One member of an array that is no order, and why; its neighbours are none the worse for it."""

    id: str | None
    reason: str


class Result(msgspec.Struct, gc=False):
    id: str | None
    status: Answer
    reason: str | None = None


class Event(msgspec.Struct, gc=False):
    type: OrderStatus
    order_id: str
    execution_id: str | None
    quantity: int | None
    price: str | None
    filled_quantity: int
    reason: str | None
    at: str


class ExecutionState(msgspec.Struct, gc=False):
    execution_id: str
    quantity: int
    price: str
    at: str


class OrderState(msgspec.Struct, gc=False):
    id: str
    symbol: str
    side: Side
    type: OrderType
    quantity: int
    status: OrderStatus
    filled_quantity: int
    reason: str | None
    executions: list[ExecutionState]


class BadBody(Exception):
    """The request's body is not one order, nor an array of 1 to 256."""


_ONE = msgspec.json.Decoder(NewOrder)
_ARRAY = msgspec.json.Decoder(list[NewOrder])


def parse_orders(body: bytes) -> tuple[list[NewOrder | Unreadable], bool]:
    """Read the orders of a request, and whether they came as an array. Raises BadBody."""
    is_array = body.lstrip(b" \t\r\n").startswith(b"[")
    try:
        orders = _parse_well_formed(body, is_array)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise BadBody("the body is not JSON in UTF-8") from error
    if not 1 <= len(orders) <= ORDERS_PER_REQUEST_MAX:
        raise BadBody(f"an array holds 1 to {ORDERS_PER_REQUEST_MAX} orders, this one {len(orders)}")
    return orders, is_array


def _parse_well_formed(body: bytes, is_array: bool) -> list[NewOrder | Unreadable]:
    """All at once; where one member is no order, each alone to say which."""
    try:
        return [*_ARRAY.decode(body)] if is_array else [_ONE.decode(body)]
    except msgspec.ValidationError:
        members = msgspec.json.decode(body)
    return [_parse_member(member) for member in (members if is_array else [members])]


def _parse_member(member: Any) -> NewOrder | Unreadable:
    if not isinstance(member, dict):
        raise BadBody("an order is a JSON object")
    try:
        return msgspec.convert(member, NewOrder)
    except msgspec.ValidationError as error:
        order_id = member.get("id")
        known = isinstance(order_id, str) and len(order_id) <= 64
        return Unreadable(order_id if known else None, _sentence(str(error)))


def _sentence(error: str) -> str:
    """What msgspec says, without the pattern of the id and without what a sender may have made long."""
    return "id must be a UUID in lower case" if error.endswith("`$.id`") else error[:200]


def invalid_reason(order: NewOrder) -> str | None:
    """What the types cannot say about an order: the first thing wrong with it, or None."""
    if order.side is Side.BUY and not _is_positive_amount(order.max_price):
        return "a BUY needs a max_price, a positive decimal with at most 4 places"
    if order.side is Side.SELL and order.max_price is not None:
        return "a SELL has no max_price"
    if not _is_http_url(order.callback_url):
        return "callback_url must be an http or https URL"
    return None


def max_price_of(order: NewOrder) -> Money | None:
    """The limit of a valid order in money."""
    return None if order.max_price is None else parse_money(order.max_price)


def _is_positive_amount(text: str | None) -> bool:
    try:
        return text is not None and parse_money(text) > 0
    except ValueError:
        return False


@lru_cache(maxsize=1024)
def _is_http_url(text: str) -> bool:
    try:
        url = urlsplit(text)
        return url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:
        return False
