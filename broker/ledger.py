"""The ledger: the only module that writes trades and money.

A shard hands over the events that it decided on; they become rows here, and one call of commit_batch (schema.sql) makes
all of them durable or none. Reads are those that the shards decide on; what customers look at is in broker.reading.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime, time
from typing import Any
from uuid import UUID

import asyncpg

from broker.core.account import Account, Holding
from broker.core.corporate import AnyEvent
from broker.core.day_trades import first_counted_day
from broker.core.hours import NEW_YORK
from broker.core.messages import Anomaly, CashMoved, Report
from broker.core.money import Money
from broker.core.postings import CASH, House, house_owner
from broker.core.states import WORKING
from broker.core.types import (
    AccountType,
    CustomerId,
    Fill,
    OrderClass,
    OrderType,
    Role,
    Side,
    Status,
    Symbol,
    TimeInForce,
    Trade,
    TradeId,
)
from broker.db import Database, DatabaseUnavailable, RefusedByDatabase
from broker.rows import Rows


class Ledger:
    """One shard's hand on the database."""

    def __init__(self, database: Database, shard: int, new_id: Callable[[], UUID], today: Callable[[], date]) -> None:
        self._session = database.session()
        self._shard = shard
        self._new_id = new_id
        self._today = today
        # Accounts that were opened in an earlier commit; customers' own positions are known from their account.
        self._house_assets: set[tuple[int, str]] = set()

    async def load_accounts(self, customer_ids: Sequence[CustomerId]) -> dict[CustomerId, Account]:
        """The accounts of these customers with their open trades; a customer that does not exist is not in it."""
        rows = await self._session.fetch("load_accounts", customer_ids)
        accounts: dict[CustomerId, Account] = {}
        for row in rows:
            account = accounts.setdefault(row["owner_id"], Account(row["owner_id"]))
            holding = Holding(row["balance"], row["held"], row["floor"], Money(row["cost"]), Money(row["gain"]))
            if row["asset"] == CASH:
                account.cash, account.version, account.last_seq = holding, row["version"], row["last_seq"] or 0
                account.last_event = row["last_event"] or 0
                account.account_type = AccountType(row["account_type"])
            else:
                account.positions[Symbol(row["asset"])] = holding
        for row in await self._session.fetch("open_trades", customer_ids):
            trade = _trade(row)
            account = accounts[trade.customer_id]
            account.join_group(trade)
            if trade.status in WORKING:
                account.work(trade)
            elif trade.status is Status.HELD:
                account.held[trade.trade_id] = trade
            else:
                account.waiting.append(trade)
        await self._load_day_trades([each for each in accounts.values() if each.account_type is AccountType.MARGIN])
        return accounts

    async def _load_day_trades(self, accounts: Sequence[Account]) -> None:
        """What the rule on day trading counts, of margin accounts only."""
        if not accounts:
            return
        by_id = {account.customer_id: account for account in accounts}
        since = _first_id(first_counted_day(self._today()))
        for row in await self._session.fetch("recent_executions", list(by_id), since):
            day_trades = by_id[row["customer_id"]].day_trades
            day_trades.note(row["day"], Symbol(row["symbol"]), Side(row["side"]), row["trade_id"])

    async def trades_by_id(self, trade_ids: Sequence[TradeId]) -> dict[TradeId, Trade]:
        """Those of these trades that exist, finished ones too."""
        rows = await self._session.fetch("trades_by_id", trade_ids)
        return {row["trade_id"]: _trade(row) for row in rows}

    async def trades_by_key(self, keys: Sequence[tuple[CustomerId, str]]) -> dict[tuple[CustomerId, str], Trade]:
        """The trades that were placed with these idempotency keys."""
        rows = await self._session.fetch("trades_by_key", [key[0] for key in keys], [key[1] for key in keys])
        return {(row["customer_id"], row["idempotency_key"]): _trade(row) for row in rows}

    async def trades_by_client_id(self, ids: Sequence[tuple[CustomerId, str]]) -> dict[tuple[CustomerId, str], Trade]:
        """The trades that were placed under these client order ids."""
        rows = await self._session.fetch("trades_by_client_id", [each[0] for each in ids], [each[1] for each in ids])
        return {(row["customer_id"], row["client_order_id"]): _trade(row) for row in rows}

    async def cash_by_reference(self, references: Sequence[str]) -> dict[str, CashMoved]:
        """The movements of cash that were booked under these references."""
        rows = await self._session.fetch("transfers_by_reference", references)
        return {row["reference"]: CashMoved(row["customer_id"], Money(row["amount"]), row["reference"]) for row in rows}

    async def adjusted(self, references: Sequence[str]) -> set[str]:
        """Which of these references of corporate actions were booked."""
        return {row["reference"] for row in await self._session.fetch("corporate_references", references)}

    async def reset(self, references: Sequence[str]) -> set[str]:
        """Which of these references of resets were booked."""
        return {row["reference"] for row in await self._session.fetch("reset_references", references)}

    async def record_anomalies(self, anomalies: Iterable[tuple[Anomaly, Report]]) -> None:
        """Keep what the exchange said and nothing could be done with."""
        await self._session.fetch("record_anomalies", *_anomaly_columns(anomalies))

    async def commit(self, now: datetime, claims: Mapping[CustomerId, int], events: Sequence[AnyEvent]) -> None:
        """Make the events durable, all or none; each claimed customer's version rises by one.

        Raises StaleAccounts where a version is not the one in the database, RefusedByDatabase where a rule of the
        schema is broken, DatabaseUnavailable where it is not known whether they are durable.
        """
        rows = Rows(self._shard, self._new_id)
        for event in events:
            rows.add(event)
        opened = [key for key in rows.opened if key not in self._house_assets]
        # Sorted, so that two processes that claim the same customers never wait for each other in a circle.
        try:
            await self._session.fetch("commit_batch", now, sorted(claims.items()), sorted(opened), *rows.columns())
        except (DatabaseUnavailable, RefusedByDatabase):
            self._house_assets.clear()  # another primary may lack what the last one had
            raise
        self._house_assets.update(key for key in opened if key[0] < 0)

    async def close(self) -> None:
        """Let the connection go."""
        await self._session.close()


def _first_id(day: date) -> UUID:
    """No id that was given on this day (New York's) or later is below this one: ids begin with their time."""
    began = datetime.combine(day, time(), NEW_YORK)
    return UUID(int=int(began.timestamp() * 1000) << 80)


def _trade(row: asyncpg.Record) -> Trade:
    return Trade(
        trade_id=row["trade_id"],
        customer_id=row["customer_id"],
        seq=row["seq"],
        symbol=Symbol(row["symbol"]),
        side=Side(row["side"]),
        quantity=row["quantity"],
        created_at=row["created_at"],
        venue=row["venue"],
        order_type=OrderType(row["order_type"]),
        time_in_force=TimeInForce(row["time_in_force"]),
        limit_price=row["limit_price"],
        stop_price=row["stop_price"],
        client_order_id=row["client_order_id"],
        idempotency_key=row["idempotency_key"],
        replaces=row["replaces"],
        replaces_filled=row["replaces_filled"],
        order_class=OrderClass(row["order_class"]),
        group=row["group_id"],
        role=None if row["role"] is None else Role(row["role"]),
        trail_amount=row["trail_amount"],
        trail_bps=row["trail_bps"],
        extended_hours=row["extended_hours"],
        triggered=row["triggered"],
        waits_for_open=row["status"] == Status.HELD and row["order_type"] == OrderType.MARKET,
        status=Status(row["status"]),
        reason=row["reason"],
        hold=row["hold"],
        max_price=row["max_price"],
        filled_quantity=row["filled_quantity"],
        filled_value=Money(row["filled_value"]),
        acknowledged=row["acknowledged"],
        cancel_requested=row["cancel_requested"],
        events=row["events"],
        executions={each[0]: _fill(each) for each in row["executions"] or ()},
    )


def _fill(row: Sequence[Any]) -> Fill:
    _, last_qty, last_px, fee, gain, suspense, corrects, busted = row
    return Fill(last_qty, Money(last_px), Money(fee), Money(gain), suspense, busted, corrects)


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

    async def customers_with_open_trades(self) -> dict[CustomerId, int]:
        """Whose trades have not all ended, with the versions of their accounts."""
        rows = await self._database.fetch("customers_with_open_trades")
        return {row["customer_id"]: row["version"] for row in rows}

    async def record_anomalies(self, anomalies: Iterable[tuple[Anomaly, Report]]) -> None:
        """Keep reports that belong to no trade."""
        await self._database.fetch("record_anomalies", *_anomaly_columns(anomalies))


async def open_customer(
    database: Database,
    name: str,
    account_type: AccountType,
    key: tuple[str, bytes],
    cash: Money,
    transfer_id: UUID,
    credit: Money,
    at: datetime,
) -> CustomerId:
    """Create a customer with its cash account, its first key (id, hash) and its opening deposit, all or nothing.

    `credit` is the most that a margin account may ever owe, whatever its positions are worth.
    """
    external = house_owner(0, House.EXTERNAL)
    rows = await database.fetch("create_customer", name, account_type, *key, cash, transfer_id, external, credit, at)
    return CustomerId(rows[0]["customer_id"])
