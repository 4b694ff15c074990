"""The words of the trade: ids, sides, statuses, and the trade itself."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import NewType
from uuid import UUID

from broker.core.money import Money

CustomerId = NewType("CustomerId", int)
TradeId = NewType("TradeId", UUID)
Symbol = NewType("Symbol", str)

QUANTITY_MAX = 10_000_000
"""Shares in one trade: with PRICE_MAX the value stays far inside BIGINT."""

PRICE_MAX = Money(1_000_000 * 10_000)
"""$1,000,000 a share: above every listed share."""

SYMBOL_PATTERN = r"^[A-Z][A-Z0-9.]{0,11}$(?!\n)"
"""An ASCII ticker. The look-ahead is there because `$` alone lets a trailing newline pass."""


class Side(StrEnum):
    BUY = "BUY"
    SELL = "SELL"


class Status(StrEnum):
    """Where a trade stands. The only table of changes between them is `broker.core.states`."""

    PLACED = "PLACED"
    IN_PROGRESS = "IN PROGRESS"
    PARTIALLY_FILLED = "PARTIALLY FILLED"
    FILLED = "FILLED"
    REJECTED = "REJECTED"
    CANCELLED = "CANCELLED"
    EXPIRED = "EXPIRED"


@dataclass(slots=True)
class Fill:
    """The figures of one execution: whole shares, and the price of each."""

    last_qty: int
    last_px: Money


@dataclass(slots=True)
class Trade:
    """One trade of one customer, as the database has it. Its one writer is the shard that owns the customer."""

    trade_id: TradeId
    customer_id: CustomerId
    seq: int  # 1, 2, 3 ... in the order in which the customer placed them
    symbol: Symbol
    side: Side
    quantity: int
    created_at: datetime
    idempotency_key: str | None = None
    status: Status = Status.PLACED
    reason: str = ""
    hold: int = 0  # what it has reserved: Money of a BUY, shares of a SELL
    filled_quantity: int = 0
    filled_value: Money = Money(0)
    events: int = 0  # how many event rows it has: they number 1 to this
    executions: dict[str, Fill] = field(default_factory=dict)

    @property
    def leaves_quantity(self) -> int:
        """Shares that are not filled yet."""
        return self.quantity - self.filled_quantity
