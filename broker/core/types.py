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


class OrderType(StrEnum):
    """What an order waits for before it trades, and how far it goes (FIX OrdType)."""

    MARKET = "market"  # trades at once, at the best prices there are
    LIMIT = "limit"  # trades at its price or better, and rests until then
    STOP = "stop"  # becomes a market order when a trade happens at its stop price or beyond
    STOP_LIMIT = "stop_limit"  # becomes a limit order then


class TimeInForce(StrEnum):
    """How long an order may rest (FIX TimeInForce)."""

    DAY = "day"  # until the session ends
    GTC = "gtc"  # until it is cancelled
    IOC = "ioc"  # not at all: what does not trade at once is cancelled
    FOK = "fok"  # not at all, and all or nothing


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
