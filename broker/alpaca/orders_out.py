"""An order as Alpaca shows it: the one place that turns a row of `trade` into its words."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

import msgspec

from broker.alpaca.ids import asset_id
from broker.core import trailing
from broker.core.money import Money, average, format_money
from broker.core.types import CustomerId, OrderType, Role, Side, Status, Trade


class Row(Protocol):
    """Columns by their names: a row of `trade`, or of an event with its trade as it was then."""

    def __getitem__(self, name: str, /) -> Any: ...


class Order(msgspec.Struct):
    """Alpaca's Order. Money and quantities are text."""

    id: UUID
    client_order_id: str
    created_at: datetime
    updated_at: datetime
    submitted_at: datetime
    filled_at: datetime | None
    expired_at: datetime | None
    expires_at: datetime | None
    canceled_at: datetime | None
    failed_at: datetime | None
    replaced_at: datetime | None
    replaced_by: UUID | None
    replaces: UUID | None
    asset_id: UUID
    symbol: str
    asset_class: str
    notional: str | None
    qty: str
    filled_qty: str
    filled_avg_price: str | None
    order_class: str
    order_type: str
    type: str
    side: str
    position_intent: str
    time_in_force: str
    limit_price: str | None
    stop_price: str | None
    status: str
    extended_hours: bool
    legs: list["Order"] | None
    trail_percent: str | None
    trail_price: str | None
    hwm: str | None
    ratio_qty: str | None
    subtag: str | None
    source: str | None
    reason: str  # beyond Alpaca's, whose clients let it pass: why it stands where it stands, in a sentence


ENDED = {
    Status.FILLED: "filled",
    Status.REJECTED: "rejected",
    Status.CANCELLED: "canceled",
    Status.EXPIRED: "expired",
    Status.REPLACED: "replaced",
}
"""The words of orders that are over."""


def order_status(row: Row) -> str:
    """Alpaca's word for where an order stands."""
    status = Status(row["status"])
    if status in ENDED:
        return ENDED[status]
    if row["cancel_requested"]:
        return "pending_cancel"
    if status is Status.PARTIALLY_FILLED:
        return "partially_filled"
    if status is Status.HELD:
        return _held(row)
    return "new" if status is Status.IN_PROGRESS and row["acknowledged"] else "pending_new"


def _held(row: Row) -> str:
    if row["role"] is not None and Role(row["role"]) is not Role.ENTRY:
        return "held"
    return "new" if OrderType(row["order_type"]) is OrderType.TRAILING_STOP else "accepted"


def order(
    row: Row,
    *,
    legs: Sequence[Order] | None = None,
    replaced_by: UUID | None = None,
    high_water: Money | None = None,
) -> Order:
    """The order. `high_water`: of a trailing stop on hold, the best price that the market had since."""
    status, ended_at = order_status(row), row["ended_at"]  # a bust comes later, and changes only updated_at
    filled = row["filled_quantity"]
    buys = Side(row["side"]) is Side.BUY
    kind = str(row["order_type"])
    trade_id = _uuid(row["trade_id"])
    return Order(
        id=trade_id,
        client_order_id=row["client_order_id"] or str(trade_id),
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        submitted_at=row["created_at"],
        filled_at=ended_at if status == "filled" else None,
        expired_at=ended_at if status == "expired" else None,
        expires_at=None,
        canceled_at=ended_at if status == "canceled" else None,
        failed_at=ended_at if status == "rejected" else None,
        replaced_at=ended_at if status == "replaced" else None,
        replaced_by=None if replaced_by is None else _uuid(replaced_by),
        replaces=None if row["replaces"] is None else _uuid(row["replaces"]),
        asset_id=asset_id(row["symbol"]),
        symbol=row["symbol"],
        asset_class="us_equity",
        notional=None,
        qty=str(row["quantity"]),
        filled_qty=str(filled),
        filled_avg_price=format_money(average(Money(row["filled_value"]), filled)) if filled else None,
        order_class=str(row["order_class"]),
        order_type=kind,
        type=kind,
        side="buy" if buys else "sell",
        position_intent="buy_to_open" if buys else "sell_to_close",
        time_in_force=str(row["time_in_force"]),
        limit_price=_money(row["limit_price"]),
        stop_price=_money(_stop_price(row, high_water)),
        status=status,
        extended_hours=row["extended_hours"],
        legs=list(legs) if legs else None,
        trail_percent=None if row["trail_bps"] is None else _percent(row["trail_bps"]),
        trail_price=_money(row["trail_amount"]),
        hwm=_money(high_water),
        ratio_qty=None,
        subtag=None,
        source=None,
        reason=row["reason"],
    )


def _stop_price(row: Row, high_water: Money | None) -> Money | None:
    """Of a trailing stop that still follows the market, where it would trigger now."""
    stop: Money | None = row["stop_price"]
    if stop is not None or high_water is None:
        return stop
    symbol, side, quantity, created_at = row["symbol"], Side(row["side"]), row["quantity"], row["created_at"]
    trade = Trade(row["trade_id"], CustomerId(0), 0, symbol, side, quantity, created_at, "")
    trade.trail_amount, trade.trail_bps = row["trail_amount"], row["trail_bps"]
    return trailing.stop_price(trade, high_water)


def _uuid(value: UUID) -> UUID:
    """A driver's own UUIDs are made the standard ones, which the encoder knows."""
    return value if type(value) is UUID else UUID(int=value.int)


def _money(amount: int | None) -> str | None:
    return None if amount is None else format_money(Money(amount))


def _percent(bps: int) -> str:
    """1/10,000 as a per cent with at most two decimals."""
    whole, rest = divmod(bps, 100)
    return f"{whole}.{rest:02d}".rstrip("0").rstrip(".")
