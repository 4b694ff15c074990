"""Orders from the database in Alpaca's form, alone or with their legs."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from broker.alpaca.orders_out import ENDED, Order, Row, order
from broker.alpaca.requests import as_uuid
from broker.core.types import CustomerId, OrderClass, Role, Side, Status
from broker.db import Database


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which orders a list shows."""

    status: str = "open"
    after: datetime | None = None
    until: datetime | None = None
    side: Side | None = None
    symbols: Sequence[str] | None = None
    newest_first: bool = True
    limit: int = 50


class Orders:
    """One customer's orders, at a time: every query carries the customer."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def one(self, customer_id: CustomerId, trade_id: UUID, *, nested: bool = False) -> Order | None:
        """The order, or None where this customer has no such order."""
        return await self._only(
            customer_id, await self._database.fetch("alpaca_orders_by_id", customer_id, [trade_id]), nested
        )

    async def row(self, customer_id: CustomerId, trade_id: UUID) -> Row | None:
        """Its row."""
        rows = await self._database.fetch("alpaca_orders_by_id", customer_id, [trade_id])
        return rows[0] if rows else None

    async def by_client_id(
        self, customer_id: CustomerId, client_order_id: str, *, nested: bool = False
    ) -> Order | None:
        """The order that has this client_order_id, or is shown with it."""
        rows = await self._database.fetch("alpaca_order_by_client_id", customer_id, client_order_id)
        own_id = as_uuid(client_order_id)
        if not rows and own_id is not None:  # one without a client_order_id is shown with its own id as one
            by_id = await self._database.fetch("alpaca_orders_by_id", customer_id, [own_id])
            rows = [row for row in by_id if row["client_order_id"] is None]
        return await self._only(customer_id, rows, nested)

    async def several(self, customer_id: CustomerId, trade_ids: Sequence[UUID]) -> dict[UUID, Order]:
        """These orders, by their ids."""
        if not trade_ids:
            return {}
        rows = await self._database.fetch("alpaca_orders_by_id", customer_id, list(trade_ids))
        return {shown.id: shown for shown in map(shown_of, rows)}

    async def page(self, customer_id: CustomerId, wanted: Wanted, *, nested: bool) -> list[Order]:
        """A page of orders; nested, legs stand under their parents only."""
        filters = (wanted.after, wanted.until, wanted.side, wanted.symbols)
        if wanted.status == "open":
            rows = await self._database.fetch(
                "alpaca_orders_open", customer_id, *filters, wanted.newest_first, wanted.limit
            )
        else:
            name = "alpaca_orders_newest" if wanted.newest_first else "alpaca_orders_oldest"
            rows = await self._database.fetch(name, customer_id, *filters, wanted.status == "closed", wanted.limit)
        if not nested:
            return [shown_of(row) for row in rows]
        found = await self._nested(customer_id, rows)
        # A leg that has ended does not bring its open parent among those that have.
        return [each for each in found if each.status in ENDED.values()] if wanted.status == "closed" else found

    async def _only(self, customer_id: CustomerId, rows: Sequence[Any], nested: bool) -> Order | None:
        if not rows:
            return None
        row = rows[0]
        if nested and is_parent(row):
            return (await self._nested(customer_id, rows))[0]
        return shown_of(row)

    async def _nested(self, customer_id: CustomerId, rows: Sequence[Any]) -> list[Order]:
        """Each order without a group and each parent, once, where it or the first of its legs stood."""
        group_ids = list({row["group_id"] for row in rows if row["group_id"] is not None})
        members: dict[UUID, list[Any]] = {}
        if group_ids:
            found = await self._database.fetch("alpaca_groups", customer_id, group_ids)
            for row in sorted(found, key=lambda row: row["seq"]):
                members.setdefault(row["group_id"], []).append(row)
        shown: dict[UUID, Order] = {}
        for row in rows:
            group = members.get(row["group_id"], [])
            parents = [each for each in group if is_parent(each)]
            parent = row if is_parent(row) or not parents else parents[-1]
            is_newest = not parents or parent["trade_id"] == parents[-1]["trade_id"]
            legs = [shown_of(each) for each in group if is_newest and _is_leg(each)]
            shown.setdefault(parent["trade_id"], shown_of(parent, legs))
        return list(shown.values())


def shown_of(row: Row, legs: Sequence[Order] | None = None) -> Order:
    """The order of a row of the queries here."""
    return order(row, legs=legs, replaced_by=row["replaced_by"], high_water=row["high_water"])


def is_parent(row: Row) -> bool:
    """Whether its group's other orders are its legs: the entry's, or the take profit's of an OCO, or its own."""
    if row["role"] is None:
        return True
    first = Role.TAKE_PROFIT if OrderClass(row["order_class"]) is OrderClass.OCO else Role.ENTRY
    return Role(row["role"]) is first


def _is_leg(row: Row) -> bool:
    return not is_parent(row) and Status(row["status"]) is not Status.REPLACED
