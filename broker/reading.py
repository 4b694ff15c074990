"""What customers look at: their trades, balance and positions, straight from the database, never from a cache.

Every query carries the customer of the token, so somebody else's trade is not found, whatever its id. Here is also the
one place that says how an order and an execution look in JSON (order updates look the same).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

import asyncpg

from broker import answers
from broker.core.money import Money, average, format_money
from broker.core.types import CustomerId, OrderType, Status
from broker.db import Database

Json = dict[str, Any]


class Row(Protocol):
    """Columns by their names: a row of the database, or what stands for one."""

    def __getitem__(self, name: str, /) -> Any: ...


@dataclass(frozen=True, slots=True)
class TradeFilter:
    """Which trades a list shows; None shows all."""

    statuses: Sequence[Status] | None = None
    symbol: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    before_seq: int = 2**62
    limit: int = 100


ORDER_TYPES = {
    OrderType.MARKET: "market",
    OrderType.LIMIT: "limit",
    OrderType.STOP: "stop_loss",
    OrderType.STOP_LIMIT: "stop_limit",
    OrderType.TRAILING_STOP: "trailing_stop",
}
"""The orders API's words for the types."""

STATUS_WORDS: dict[str, tuple[Status, bool | None]] = {
    "pending": (Status.PLACED, None),
    "held": (Status.HELD, None),
    "validated": (Status.IN_PROGRESS, False),
    "submitted": (Status.IN_PROGRESS, True),
    "partially_filled": (Status.PARTIALLY_FILLED, None),
    "filled": (Status.FILLED, None),
    "cancelled": (Status.CANCELLED, None),
    "rejected": (Status.REJECTED, None),
    "expired": (Status.EXPIRED, None),
    "replaced": (Status.REPLACED, None),
}
"""The orders API's words for where an order stands: the status, and whether the exchange has acknowledged it."""


def order_status(status: Status, *, acknowledged: bool) -> str:
    """The orders API's word: checked and reserved is `validated`, at the exchange `submitted`."""
    return next(
        word
        for word, (each, at_exchange) in STATUS_WORDS.items()
        if each is status and at_exchange in {None, acknowledged}
    )


@dataclass(frozen=True, slots=True)
class OrderFilter:
    """Which orders a list shows; None shows all."""

    words: Sequence[str] | None = None
    symbol: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    before_seq: int = 2**62
    limit: int = 100


class Reading:
    """Answers of the reading routes, in the form that goes out."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def trade(self, customer_id: CustomerId, trade_id: UUID) -> answers.TradeWithExecutions | None:
        """One trade with its executions, or None where this customer has no such trade."""
        rows = await self._database.fetch("trade", customer_id, trade_id)
        if not rows:
            return None
        executions = await self._database.fetch("executions", trade_id)
        return {**_trade(rows[0]), "executions": [_execution(each) for each in executions]}

    async def trades(self, customer_id: CustomerId, wanted: TradeFilter) -> answers.Trades:
        """A page of trades, newest first; `nextCursor` leads to the next one, or is null."""
        rows = await self._database.fetch(
            "trades",
            customer_id,
            wanted.before_seq,
            wanted.statuses,
            wanted.symbol,
            wanted.since,
            wanted.until,
            wanted.limit + 1,
        )
        page = rows[: wanted.limit]
        more = len(rows) > wanted.limit
        return {"trades": [_trade(row) for row in page], "nextCursor": str(page[-1]["seq"]) if more else None}

    async def order(self, customer_id: CustomerId, trade_id: UUID) -> answers.OrderWithExecutions | None:
        """One order with its executions, or None where this customer has no such order."""
        return await self._with_executions(await self._database.fetch("trade", customer_id, trade_id))

    async def order_by_client_id(
        self, customer_id: CustomerId, client_order_id: str
    ) -> answers.OrderWithExecutions | None:
        """The order that was placed under this client_order_id, with its executions."""
        return await self._with_executions(
            await self._database.fetch("trade_by_client_id", customer_id, client_order_id)
        )

    async def _with_executions(self, rows: Sequence[asyncpg.Record]) -> answers.OrderWithExecutions | None:
        if not rows:
            return None
        row = rows[0]
        executions = await self._database.fetch("executions", row["trade_id"]) if row["acknowledged"] else []
        fees = sum(each["fee"] for each in executions if not each["busted"])
        return {
            **_order(row),
            "fees": format_money(Money(fees)),
            "executions": [order_execution(each) for each in executions],
        }

    async def orders(self, customer_id: CustomerId, wanted: OrderFilter) -> answers.Orders:
        """A page of orders, newest first; `next_cursor` leads to the next one, or is null."""
        pairs = [STATUS_WORDS[word] for word in wanted.words or ()]
        rows = await self._database.fetch(
            "orders",
            customer_id,
            wanted.before_seq,
            [status for status, _ in pairs] if wanted.words else None,
            [acknowledged for _, acknowledged in pairs] if wanted.words else None,
            wanted.symbol,
            wanted.since,
            wanted.until,
            wanted.limit + 1,
        )
        page = rows[: wanted.limit]
        more = len(rows) > wanted.limit
        return {"orders": [_order(row) for row in page], "next_cursor": str(page[-1]["seq"]) if more else None}

    async def balance(self, customer_id: CustomerId) -> answers.Balance:
        """The customer's cash in dollars."""
        row = (await self._database.fetch("balance", customer_id))[0]
        return {
            "customerId": str(customer_id),
            "amount": format_money(row["amount"]),
            "held": format_money(row["held"]),
            "available": format_money(row["available"]),
            "currency": "USD",
            "lastModified": row["last_modified"],
        }


def _trade(row: asyncpg.Record) -> answers.Trade:
    filled = row["filled_quantity"]
    return {
        "tradeId": row["trade_id"],
        "stockTicker": row["symbol"],
        "type": row["side"],
        "quantity": row["quantity"],
        "createdAt": row["created_at"],
        "status": row["status"],
        "reason": row["reason"],
        "filledQuantity": filled,
        "averagePrice": format_money(average(Money(row["filled_value"]), filled)) if filled else None,
        "updatedAt": row["updated_at"],
    }


def _order(row: asyncpg.Record) -> answers.Order:
    held = format_money(row["hold"]) if row["side"] == "BUY" else str(row["hold"])
    return {**_order_head(row), "held": held, **_order_tail(row)}


def order_then(row: Row) -> answers.OrderThen:
    """An order as it was at one of its events. What it held then is not kept; a trailing stop has a price from when
    that was reached.
    """
    then: answers.OrderThen = {**_order_head(row), **_order_tail(row)}
    if row["order_type"] == OrderType.TRAILING_STOP and row["status"] in {Status.PLACED, Status.HELD}:
        then["stop_price"] = None
    return then


def _order_head(row: Row) -> answers.OrderHead:
    filled = row["filled_quantity"]
    return {
        "id": row["trade_id"],
        "client_order_id": row["client_order_id"],
        "symbol": row["symbol"],
        "side": row["side"].lower(),
        "order_type": ORDER_TYPES[OrderType(row["order_type"])],
        "time_in_force": row["time_in_force"],
        "quantity": row["quantity"],
        "price": _price(row["limit_price"]),
        "stop_price": _price(row["stop_price"]),
        "trail_amount": _price(row["trail_amount"]),
        "trail_percent": _percent(row["trail_bps"]),
        "extended_hours": row["extended_hours"],
        "order_class": row["order_class"],
        "group_id": row["group_id"],
        "role": row["role"],
        "status": order_status(Status(row["status"]), acknowledged=row["acknowledged"]),
        "reason": row["reason"],
        "filled_quantity": filled,
        "leaves_quantity": row["quantity"] - filled,
        "average_price": format_money(average(Money(row["filled_value"]), filled)) if filled else None,
    }


def _price(amount: int | None) -> str | None:
    return None if amount is None else format_money(Money(amount))


def _percent(bps: int | None) -> str | None:
    """1/10,000 as a percentage."""
    return None if bps is None else f"{bps // 100}.{bps % 100:02}"


def _order_tail(row: Row) -> answers.OrderTail:
    return {
        "cancel_requested": row["cancel_requested"],
        "replaces": row["replaces"],
        "venue": row["venue"],
        "created_at": row["created_at"],
        "updated_at": row["updated_at"],
    }


def order_execution(row: Row) -> answers.OrderExecution:
    """An execution as the orders API shows it."""
    return {
        "execution_id": row["execution_id"],
        "quantity": row["last_qty"],
        "price": format_money(row["last_px"]),
        "fee": format_money(row["fee"]),
        "busted": row["busted"],
        "corrects": row["corrects"],
        "executed_at": row["at"],
    }


def _execution(row: asyncpg.Record) -> answers.TradeExecution:
    return {
        "executionId": row["execution_id"],
        "quantity": row["last_qty"],
        "price": format_money(row["last_px"]),
        "executedAt": row["at"],
    }
