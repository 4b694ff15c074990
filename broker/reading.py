"""What customers look at: their trades, balance and positions, straight from the database, never from a cache.

Every query carries the customer of the token, so somebody else's trade is not found, whatever its id.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg

from broker.core.money import Money, average, format_money
from broker.core.types import CustomerId, Status
from broker.db import Database

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class TradeFilter:
    """Which trades a list shows; None shows all."""

    statuses: Sequence[Status] | None = None
    symbol: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    before_seq: int = 2**62
    limit: int = 100


class Reading:
    """Answers of the reading routes, in the form that goes out."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def trade(self, customer_id: CustomerId, trade_id: UUID) -> Json | None:
        """One trade with its executions, or None where this customer has no such trade."""
        rows = await self._database.fetch("trade", customer_id, trade_id)
        if not rows:
            return None
        executions = await self._database.fetch("executions", trade_id)
        return {**_trade(rows[0]), "executions": [_execution(each) for each in executions]}

    async def trades(self, customer_id: CustomerId, wanted: TradeFilter) -> Json:
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

    async def balance(self, customer_id: CustomerId) -> Json:
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

    async def positions(self, customer_id: CustomerId) -> Json:
        """The customer's shares."""
        rows = await self._database.fetch("positions", customer_id)
        return {
            "customerId": str(customer_id),
            "positions": [
                {
                    "symbol": row["symbol"],
                    "quantity": row["quantity"],
                    "held": row["held"],
                    "available": row["available"],
                    "lastModified": row["last_modified"],
                }
                for row in rows
            ],
        }


def _trade(row: asyncpg.Record) -> Json:
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


def _execution(row: asyncpg.Record) -> Json:
    return {
        "executionId": row["execution_id"],
        "quantity": row["last_qty"],
        "price": format_money(row["last_px"]),
        "executedAt": row["at"],
    }
