"""What becomes of a customer's orders, as messages: one for each event, in the order of commits, numbered without gaps.

The database is what counts. It has every event, so whoever knows the sequence of the last one it saw can read on; a
message that is made of an event in memory, at once after its commit, is the same to the byte.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from broker.core.messages import Step, TradeEvent
from broker.core.types import CustomerId
from broker.db import Database
from broker.reading import Row, order_execution, order_then

_OF_EXECUTIONS = {Step.EXECUTED, Step.BUSTED, Step.CORRECTED, Step.SUSPENSE}


def encode_row(row: Row) -> bytes:
    """The message of an event, from a row of order_updates.sql or what stands for one."""
    message = {
        "type": "order_update",
        "sequence": row["seq"],
        "event": row["step"],
        "at": row["updated_at"],
        "order": order_then(row),
        "execution": order_execution(row) if row["execution_id"] is not None else None,
    }
    return orjson.dumps(message, default=str, option=orjson.OPT_UTC_Z)


def encode_event(event: TradeEvent) -> bytes | None:
    """The message of an event that was committed just now; None where only the database knows all of it.

    The trade may be further on already: of it, only what never changes is looked at.
    """
    if event.step is Step.BUSTED:  # when the execution had happened is not in memory
        return None
    trade = event.trade
    return encode_row(
        {
            "seq": event.seq,
            "step": event.step,
            "status": event.status,
            "reason": event.reason,
            "filled_quantity": event.filled_quantity,
            "filled_value": event.filled_value,
            "acknowledged": event.acknowledged,
            "cancel_requested": event.cancel_requested,
            "updated_at": event.at,
            "trade_id": trade.trade_id,
            "client_order_id": trade.client_order_id,
            "symbol": trade.symbol,
            "side": trade.side,
            "order_type": trade.order_type,
            "time_in_force": trade.time_in_force,
            "quantity": event.quantity,
            "limit_price": trade.limit_price,
            "stop_price": trade.stop_price,
            "trail_amount": trade.trail_amount,
            "trail_bps": trade.trail_bps,
            "extended_hours": trade.extended_hours,
            "order_class": trade.order_class,
            "group_id": trade.group,
            "role": trade.role,
            "replaces": trade.replaces,
            "venue": trade.venue,
            "created_at": trade.created_at,
            **_execution(event),
        }
    )


def _execution(event: TradeEvent) -> Mapping[str, Any]:
    if event.step not in _OF_EXECUTIONS:
        return {"execution_id": None}
    assert event.report is not None
    assert event.entry is not None
    fill = event.entry.fill
    return {
        "execution_id": event.report.execution_id,
        "last_qty": fill.last_qty,
        "last_px": fill.last_px,
        "fee": fill.fee,
        "busted": False,  # it may be by now: then a later event says so
        "corrects": fill.corrects,
        "at": event.at,
    }


class OrderUpdates:
    """The messages of all events there ever were."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def newest(self, customer_id: CustomerId) -> int:
        """The sequence of the customer's newest event; 0 where there is none."""
        return (await self.newest_of([customer_id]))[customer_id]

    async def newest_of(self, customer_ids: Sequence[CustomerId]) -> dict[CustomerId, int]:
        """The same of several customers."""
        rows = await self._database.fetch("newest_events", customer_ids)
        return {row["customer_id"]: row["seq"] or 0 for row in rows}

    async def read(self, customer_id: CustomerId, after: int, limit: int) -> list[tuple[int, bytes]]:
        """The messages that follow a sequence, oldest first, each with its own."""
        rows = await self._database.fetch("order_updates", customer_id, after, limit)
        return [(row["seq"], encode_row(row)) for row in rows]
