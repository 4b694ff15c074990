"""Alpaca's events of a customer's orders: each event of ours in its words, with the order as it was then.

What a stream is told stands in a few lines: the event's word and the order's id, the message itself, and of a fill also
the message `new`, for those who have not heard yet that the exchange took the order.
"""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from broker.alpaca.ids import execution_id
from broker.alpaca.orders_out import Order, Row, order, order_status
from broker.core.messages import Step, TradeEvent
from broker.core.money import Money, format_money
from broker.core.types import CustomerId, OrderType, Status
from broker.db import Database
from broker.order_updates import OrderUpdates

_AT_ONCE = 50
"""Events that are encoded before others get their turn on the loop: about 2 ms."""
_SILENT = b""
"""The line of a step that Alpaca has no event for."""
_PLACES_MAX = 256
"""Places that somebody may be catching up from, with the positions there; beyond it, they are summed up again."""
_FILLS = {"fill", "partial_fill"}
_OF_EXECUTIONS = {Step.EXECUTED, Step.BUSTED, Step.CORRECTED}
_ENDED = {"fill", "canceled", "expired", "replaced", "rejected"}


class TradeUpdate(msgspec.Struct):
    """An event. Price and quantity are those of this execution; `position_qty` is what there is after it."""

    event: str
    timestamp: datetime
    order: Order
    execution_id: UUID | None = None
    price: str | None = None
    qty: str | None = None
    position_qty: str | None = None


class _Message(msgspec.Struct):
    stream: str
    data: TradeUpdate


_encode = msgspec.json.Encoder().encode


def event_word(row: Row) -> str | None:  # noqa: PLR0911 - a table, one line a row
    """Alpaca's word for a step; None where it has none."""
    match Step(row["step"]):
        case Step.PLACED | Step.HELD | Step.ENDED:
            return order_status(row)
        case Step.ACCEPTED:  # a trailing stop was `new` from when it was held here
            return None if OrderType(row["order_type"]) is OrderType.TRAILING_STOP else "new"
        case Step.EXECUTED:
            return "fill" if Status(row["status"]) is Status.FILLED else "partial_fill"
        case Step.CANCEL_REQUESTED:
            return "pending_cancel"
        case Step.RESTATED:
            return "restated"
        case Step.BUSTED:
            return "trade_bust"
        case Step.CORRECTED:
            return "trade_correct"
        case _:
            return None


def encode_row(row: Row, position: int | None = None) -> bytes:
    """What a stream is told of an event: a row of alpaca_data_updates.sql, or what stands for one.

    `position` is what the customer had of the symbol after an execution.
    """
    word = event_word(row)
    if word is None:
        return _SILENT
    lines = [f"{word} {row['trade_id']}".encode(), _message(word, row, position)]
    if word in _FILLS:
        lines.append(_message("new", _before(row)))
    return b"\n".join(lines)


def _message(word: str, row: Row, position: int | None = None) -> bytes:
    update = TradeUpdate(
        word, row["updated_at"], order(row, replaced_by=row["replaced_by"], high_water=row["high_water"])
    )
    if row["execution_id"] is not None:
        update.execution_id = execution_id(row["venue"], row["execution_id"])
        update.price, update.qty = format_money(Money(row["last_px"])), str(row["last_qty"])
        update.position_qty = None if position is None else str(position)
    return _encode(_Message("trade_updates", update))


def _before(row: Row) -> dict[str, Any]:
    """The order when the exchange had it and nothing was filled yet."""
    names = _COLUMNS
    figures = {"status": Status.IN_PROGRESS, "acknowledged": True, "filled_quantity": 0, "filled_value": 0}
    nothing = {"ended_at": None, "execution_id": None}
    return {**{name: row[name] for name in names}, **figures, "cancel_requested": False, **nothing}


_OF_TRADE = (
    "trade_id",
    "client_order_id",
    "symbol",
    "side",
    "order_type",
    "time_in_force",
    "limit_price",
    "stop_price",
    "replaces",
    "order_class",
    "role",
    "trail_amount",
    "trail_bps",
    "extended_hours",
    "triggered",
    "venue",
    "created_at",
)
_OF_EVENT = (
    "seq",
    "step",
    "status",
    "reason",
    "quantity",
    "filled_quantity",
    "filled_value",
    "acknowledged",
    "cancel_requested",
)
_COLUMNS = (*_OF_TRADE, *_OF_EVENT, "group_id", "updated_at", "high_water", "replaced_by")


def encode_event(event: TradeEvent) -> bytes | None:
    """The same of an event that was committed just now; None where only the database knows all of it.

    That is what a customer had after an execution, by whom an order was replaced, and how far a trailing stop has come.
    The trade may be further on already: of it, only what never changes is looked at.
    """
    trade = event.trade
    is_fixed = trade.order_type is not OrderType.TRAILING_STOP and event.status is not Status.REPLACED
    if event.step in _OF_EXECUTIONS or not is_fixed:
        return None
    row: dict[str, Any] = {name: getattr(trade, name) for name in _OF_TRADE}
    row |= {name: getattr(event, name) for name in _OF_EVENT}
    row |= {"group_id": trade.group, "updated_at": event.at, "high_water": None, "replaced_by": None}
    row["ended_at"] = event.at if event.step is Step.ENDED else None
    return encode_row({**row, "execution_id": None})


class TradeUpdates(OrderUpdates):
    """The same of all events there ever were."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._database = database
        self._places: dict[tuple[CustomerId, int], dict[str, int]] = {}  # the customer's positions there

    async def read(self, customer_id: CustomerId, after: int, limit: int) -> list[tuple[int, bytes]]:
        """What is told of the events that follow a sequence, oldest first, each with its own."""
        rows = await self._database.fetch("alpaca_data_updates", customer_id, after, limit)
        is_all = len(rows) < limit
        positions = _before_these(rows) if is_all else await self._positions(customer_id, after)
        found: list[tuple[int, bytes]] = []
        for begin in range(0, len(rows), _AT_ONCE):
            for row in rows[begin : begin + _AT_ONCE]:
                position = None
                if row["execution_id"] is not None:
                    position = positions[row["symbol"]] = positions.get(row["symbol"], 0) + row["moved"]
                found.append((row["seq"], encode_row(row, position)))
            await asyncio.sleep(0)
        if not is_all:
            self._keep((customer_id, found[-1][0]), positions)
        return found

    async def _positions(self, customer_id: CustomerId, after: int) -> dict[str, int]:
        """What the customer had of each symbol before a page, with more behind it: summed up once, then carried on."""
        carried = self._places.get((customer_id, after))
        if carried is not None:
            return {**carried}
        behind = await self._database.fetch("alpaca_data_positions", customer_id, after)
        return {row["symbol"]: row["quantity"] for row in behind}

    def _keep(self, place: tuple[CustomerId, int], positions: dict[str, int]) -> None:
        self._places[place] = positions
        if len(self._places) > _PLACES_MAX:
            del self._places[next(iter(self._places))]

    async def begin(self, customer_id: CustomerId, limit: int) -> tuple[int, list[str]]:
        """The place of who begins now, and the orders that the exchange has not acknowledged by then, newest first.

        Of one moment: what happens to any order after it is an event that follows.
        """
        rows = await self._database.fetch("alpaca_data_unacknowledged", customer_id, limit)
        return rows[0]["seq"], [str(row["trade_id"]) for row in rows if row["trade_id"] is not None]


def _before_these(rows: Sequence[Row]) -> dict[str, int]:
    """Where nothing lies behind a page, what the customer had before it is what there is now, less what they moved."""
    made = [row for row in rows if row["execution_id"] is not None]
    positions = {row["symbol"]: row["balance"] for row in made}
    for row in made:
        positions[row["symbol"]] -= row["moved"]
    return positions


class Telling:
    """What one stream has told: that an order is new comes before its first fill, whatever the exchange said first.

    It remembers only orders of which it is still to be told: as many as a customer may have open.
    """

    def __init__(self, waiting: Mapping[str, None], most: int) -> None:
        self.waiting = dict(waiting)
        self._most = most

    def messages(self, told: bytes) -> list[bytes]:
        """The messages of an event, in their order."""
        if told == _SILENT:
            return []
        head, message, *new = told.split(b"\n")
        word, trade_id = head.decode().split(" ")
        is_waiting = trade_id in self.waiting
        if word in {"new", *_FILLS, *_ENDED}:
            self.waiting.pop(trade_id, None)
        elif word == "pending_new":
            self.waiting[trade_id] = None
            if len(self.waiting) > self._most:
                del self.waiting[next(iter(self.waiting))]
        return [*new, message] if is_waiting and word in _FILLS else [message]
