"""The contract's words as types, and the one place that reads them from bytes (docs/exchange-contract.md).

Structs instead of dataclasses, outside the garbage collector (`gc=False`): thousands are made each second, a million
are kept, none of them can be part of a cycle.
"""

from enum import StrEnum
from typing import Annotated, Any, TypeVar

import msgspec

from broker.core.types import QUANTITY_MAX, OrderType, Side, Symbol, TimeInForce

ORDERS_PER_REQUEST_MAX = 256
IDS_PER_LOOKUP_MAX = 100
_UUID = r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$(?!\n)"

Id = Annotated[str, msgspec.Meta(pattern=_UUID)]
Amount = Annotated[str, msgspec.Meta(max_length=32)]
Quantity = Annotated[int, msgspec.Meta(ge=1, le=QUANTITY_MAX)]


class OrderStatus(StrEnum):
    """Where an order stands; an event of the same name says that it got there."""

    ACCEPTED = "ACCEPTED"
    PARTIALLY_FILLED = "PARTIALLY_FILLED"
    FILLED = "FILLED"
    REJECTED = "REJECTED"
    CANCELLED = "CANCELLED"
    EXPIRED = "EXPIRED"
    REPLACED = "REPLACED"


class Amendment(StrEnum):
    """What an event says of an execution that stood already; the order stays where it is."""

    BUSTED = "BUSTED"
    CORRECTED = "CORRECTED"


class Answer(StrEnum):
    """What became of an order that came in."""

    ACCEPTED = "ACCEPTED"
    EXISTS = "EXISTS"
    INVALID = "INVALID"


class CancelAnswer(StrEnum):
    """What became of the wish to cancel an order."""

    ACCEPTED = "ACCEPTED"
    TOO_LATE = "TOO_LATE"
    UNKNOWN = "UNKNOWN"


class Replaces(msgspec.Struct, gc=False, frozen=True, forbid_unknown_fields=True):
    """The order whose place another one takes, and what the sender believes that it has filled."""

    id: Id
    filled_quantity: Annotated[int, msgspec.Meta(ge=0, le=QUANTITY_MAX)]


class NewOrder(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """An order as a broker sends it. A field that we do not know is refused: ignoring it could cost money."""

    id: Id
    symbol: Annotated[Symbol, msgspec.Meta(min_length=1, max_length=32)]
    side: Side
    type: OrderType
    quantity: Quantity
    callback_url: Annotated[str, msgspec.Meta(max_length=2048)]
    max_price: Amount | None = None
    price: Amount | None = None
    stop_price: Amount | None = None
    time_in_force: TimeInForce = TimeInForce.DAY
    replaces: Replaces | None = None
    extended_hours: bool = False


class Unreadable(msgspec.Struct, gc=False):
    """One member of an array that is no order, and why; its neighbours are none the worse for it."""

    id: str | None
    reason: str


class Result(msgspec.Struct, gc=False):
    id: str | None
    status: Answer
    reason: str | None = None


class CancelResult(msgspec.Struct, gc=False):
    id: str
    status: CancelAnswer
    reason: str | None = None


class Event(msgspec.Struct, gc=False):
    type: OrderStatus | Amendment
    order_id: str
    execution_id: str | None
    quantity: int | None
    price: str | None
    filled_quantity: int
    reason: str | None
    at: str
    corrects: str | msgspec.UnsetType = msgspec.UNSET
    """The one field that stands in one type of event only."""


class Quote(msgspec.Struct, gc=False):
    """A symbol's, as the feed tells it."""

    symbol: str
    bid: str
    ask: str
    last: str
    at: str
    bid_size: int
    ask_size: int


class Trade(msgspec.Struct, gc=False):
    """One execution in a book, as the feed tells it."""

    symbol: str
    price: str
    quantity: int
    at: str


class Listed(msgspec.Struct, gc=False):
    """A symbol, where it stands, and what an operator has set there."""

    symbol: str
    name: str
    bid: str
    ask: str
    last: str
    halted: bool
    halt_reason: str | None
    held: bool


class ExecutionState(msgspec.Struct, gc=False):
    execution_id: str
    quantity: int
    price: str
    at: str
    busted: bool = False
    corrects: str | None = None


class OrderState(msgspec.Struct, gc=False):
    id: str
    symbol: str
    side: Side
    type: OrderType
    quantity: int
    price: str | None
    stop_price: str | None
    time_in_force: TimeInForce
    status: OrderStatus
    filled_quantity: int
    reason: str | None
    executions: list[ExecutionState]
    extended_hours: bool = False


class Bust(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """The operator takes an execution back."""

    reason: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]


class Correction(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """The operator puts other figures in the place of an execution's."""

    quantity: Quantity | None = None
    price: Amount | None = None


class BadBody(Exception):
    """The request's body is not in the contract's form; the message says how."""


T = TypeVar("T")
_ONE = msgspec.json.Decoder(NewOrder)
_ARRAY = msgspec.json.Decoder(list[NewOrder])
_IDS = msgspec.json.Decoder(
    Annotated[
        list[Annotated[str, msgspec.Meta(max_length=64)]],
        msgspec.Meta(min_length=1, max_length=ORDERS_PER_REQUEST_MAX),
    ]
)


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
    for name in ("id", "replaces.id"):
        if error.endswith(f"`$.{name}`"):
            return f"{name} must be a UUID in lower case"
    return error[:200]


def parse_cancels(body: bytes) -> list[str]:
    """Read the order ids of a request. Raises BadBody."""
    try:
        order_ids: list[str] = _IDS.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise BadBody(f"the body is an array of 1 to {ORDERS_PER_REQUEST_MAX} order ids") from error
    return order_ids


def parse_body(body: bytes, kind: type[T]) -> T:
    """Read what an operator sends. Raises BadBody."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise BadBody(str(error)[:200]) from error
