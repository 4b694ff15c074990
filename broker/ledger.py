"""The ledger: the only module that writes trades and money.

A shard hands over the events that it decided on; they become rows here, and one call of commit_batch (schema.sql) makes
all of them durable or none. Reads are those that the shards decide on; what customers look at is in broker.reading.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg

from broker.core.account import Account, Holding
from broker.core.messages import Anomaly, CashMoved, Event, Report, TradeEvent
from broker.core.money import Money
from broker.core.postings import CASH, House, Posting, cash_postings, fill_postings, house_owner
from broker.core.states import WORKING
from broker.core.types import CustomerId, Fill, Side, Status, Symbol, Trade, TradeId
from broker.db import Database

Row = tuple[Any, ...]


class Ledger:
    """One shard's hand on the database."""

    def __init__(self, database: Database, shard: int, new_id: Callable[[], UUID]) -> None:
        self._session = database.session()
        self._new_id = new_id
        self._clearing = house_owner(shard, House.CLEARING)
        self._external = house_owner(shard, House.EXTERNAL)
        # Accounts that were opened in an earlier commit; customers' own positions are known from their account.
        self._house_assets: set[tuple[int, str]] = set()

    async def load_accounts(self, customer_ids: Sequence[CustomerId]) -> dict[CustomerId, Account]:
        """The accounts of these customers with their open trades; a customer that does not exist is not in it."""
        rows = await self._session.fetch("load_accounts", customer_ids)
        accounts: dict[CustomerId, Account] = {}
        for row in rows:
            account = accounts.setdefault(row["owner_id"], Account(row["owner_id"]))
            holding = Holding(row["balance"], row["held"])
            if row["asset"] == CASH:
                account.cash, account.version, account.last_seq = holding, row["version"], row["last_seq"] or 0
            else:
                account.positions[Symbol(row["asset"])] = holding
        for row in await self._session.fetch("open_trades", customer_ids):
            trade = _trade(row)
            account = accounts[trade.customer_id]
            if trade.status in WORKING:
                account.working[trade.trade_id] = trade
            else:
                account.waiting.append(trade)
        return accounts

    async def trades_by_id(self, trade_ids: Sequence[TradeId]) -> dict[TradeId, Trade]:
        """Those of these trades that exist, finished ones too."""
        rows = await self._session.fetch("trades_by_id", trade_ids)
        return {row["trade_id"]: _trade(row) for row in rows}

    async def trades_by_key(self, keys: Sequence[tuple[CustomerId, str]]) -> dict[tuple[CustomerId, str], Trade]:
        """The trades that were placed with these idempotency keys."""
        rows = await self._session.fetch("trades_by_key", [key[0] for key in keys], [key[1] for key in keys])
        return {(row["customer_id"], row["idempotency_key"]): _trade(row) for row in rows}

    async def cash_by_reference(self, references: Sequence[str]) -> dict[str, CashMoved]:
        """The movements of cash that were booked under these references."""
        rows = await self._session.fetch("transfers_by_reference", references)
        return {row["reference"]: CashMoved(row["owner_id"], Money(row["amount"]), row["reference"]) for row in rows}

    async def record_anomalies(self, anomalies: Iterable[tuple[Anomaly, Report]]) -> None:
        """Keep what the exchange said and nothing could be done with."""
        await self._session.fetch("record_anomalies", *_anomaly_columns(anomalies))

    async def commit(self, now: datetime, claims: Mapping[CustomerId, int], events: Sequence[Event]) -> None:
        """Make the events durable, all or none; each claimed customer's version rises by one.

        Raises StaleAccounts where a version is not the one in the database, RefusedByDatabase where a rule of the
        schema is broken, DatabaseUnavailable where it is not known whether they are durable.
        """
        batch = self._batch(events)
        opened = [key for key in batch.opened if key not in self._house_assets]
        # Sorted, so that two processes that claim the same customers never wait for each other in a circle.
        await self._session.fetch(
            "commit_batch",
            now,
            sorted(claims.items()),
            sorted(opened),
            batch.settled,
            batch.transfers,
            batch.postings,
            batch.executions,
            batch.placed,
            batch.started,
            batch.events,
        )
        self._house_assets.update(key for key in opened if key[0] < 0)

    def _batch(self, events: Sequence[Event]) -> "_Batch":
        batch = _Batch()
        for event in events:
            if isinstance(event, CashMoved):
                lines = cash_postings(event.customer_id, self._external, event.amount)
                self._post(batch, "cash", event.reference, lines)
            else:
                self._trade_event(batch, event)
        return batch

    def _trade_event(self, batch: "_Batch", event: TradeEvent) -> None:
        trade, report = event.trade, event.report
        execution_id = report.execution_id if report else None
        batch.events.append((trade.trade_id, event.number, event.status, event.reason, execution_id))
        if report and report.fill:
            fill = report.fill
            lines = fill_postings(
                trade.customer_id, self._clearing, trade.side, trade.symbol, fill.last_qty, fill.last_px
            )
            transfer_id = self._post(batch, "fill", f"{report.venue}:{execution_id}", lines)
            batch.executions.append(
                (report.venue, execution_id, trade.trade_id, fill.last_qty, fill.last_px, transfer_id)
            )
        # The trade's row is written once for the whole batch, as it stands after its last event.
        if event.number == trade.events:
            batch.write(trade, is_new=trade.trade_id in batch.begun or event.number == 1, status=event.status)
        elif event.number == 1:
            batch.begun.add(trade.trade_id)

    def _post(self, batch: "_Batch", kind: str, reference: str, lines: Sequence[Posting]) -> UUID:
        transfer_id = self._new_id()
        batch.transfers.append((transfer_id, kind, reference))
        for line in lines:
            batch.postings.append((transfer_id, *line))
            if line.asset != CASH or line.owner_id < 0:
                batch.opened.add((line.owner_id, line.asset))
        return transfer_id

    async def close(self) -> None:
        """Let the connection go."""
        await self._session.close()


class _Batch:
    """The rows of one commit, in the shapes of commit_batch's arguments."""

    __slots__ = ("begun", "events", "executions", "opened", "placed", "postings", "settled", "started", "transfers")

    def __init__(self) -> None:
        self.begun: set[TradeId] = set()
        self.opened: set[tuple[int, str]] = set()
        self.settled: list[Row] = []
        self.transfers: list[Row] = []
        self.postings: list[Row] = []
        self.executions: list[Row] = []
        self.placed: list[Row] = []
        self.started: list[Row] = []
        self.events: list[Row] = []

    def write(self, trade: Trade, *, is_new: bool, status: Status) -> None:
        """The trade's row as it stands: a new one, one that begins to hold, or one that may only release."""
        if is_new:
            self.placed.append(
                (
                    trade.trade_id,
                    trade.customer_id,
                    trade.seq,
                    trade.symbol,
                    trade.side,
                    trade.quantity,
                    trade.idempotency_key,
                    trade.status,
                    trade.reason,
                    trade.hold,
                    trade.events,
                )
            )
            return
        rows = self.started if status is Status.IN_PROGRESS else self.settled
        rows.append(
            (
                trade.trade_id,
                trade.status,
                trade.reason,
                trade.hold,
                trade.filled_quantity,
                trade.filled_value,
                trade.events,
            )
        )


def _trade(row: asyncpg.Record) -> Trade:
    return Trade(
        trade_id=row["trade_id"],
        customer_id=row["customer_id"],
        seq=row["seq"],
        symbol=Symbol(row["symbol"]),
        side=Side(row["side"]),
        quantity=row["quantity"],
        created_at=row["created_at"],
        idempotency_key=row["idempotency_key"],
        status=Status(row["status"]),
        reason=row["reason"],
        hold=row["hold"],
        filled_quantity=row["filled_quantity"],
        filled_value=Money(row["filled_value"]),
        events=row["events"],
        executions={each[0]: Fill(each[1], Money(each[2])) for each in row["executions"] or ()},
    )


def _anomaly_columns(anomalies: Iterable[tuple[Anomaly, Report]]) -> tuple[list[str], list[str], list[str]]:
    rows = list(anomalies)
    return (
        [anomaly.value for anomaly, _ in rows],
        [report.venue for _, report in rows],
        [repr(report) for _, report in rows],
    )


class TradeDirectory:
    """Whose trades are they, for what no shard has in memory."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def owners(self, trade_ids: Sequence[TradeId]) -> dict[TradeId, CustomerId]:
        """The customers of those trades that exist."""
        rows = await self._database.fetch("owners_of_trades", trade_ids)
        return {row["trade_id"]: row["customer_id"] for row in rows}

    async def customers_with_open_trades(self) -> list[CustomerId]:
        """Whose trades have not all ended."""
        return [row["customer_id"] for row in await self._database.fetch("customers_with_open_trades")]

    async def record_anomalies(self, anomalies: Iterable[tuple[Anomaly, Report]]) -> None:
        """Keep reports that belong to no trade."""
        await self._database.fetch("record_anomalies", *_anomaly_columns(anomalies))


async def open_customer(
    database: Database, name: str, account_type: str, key: tuple[str, bytes], cash: Money, transfer_id: UUID
) -> CustomerId:
    """Create a customer with its cash account, its first key (id, hash) and its opening deposit, all or nothing."""
    external = house_owner(0, House.EXTERNAL)
    rows = await database.fetch("create_customer", name, account_type, *key, cash, transfer_id, external)
    return CustomerId(rows[0]["customer_id"])
