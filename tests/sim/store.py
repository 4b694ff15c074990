"""The database of the simulation: broker.ports' Store and Directory in memory, with the rules of schema.sql.

A commit goes through the same rows as the ledger's (broker.rows) and is applied in the order of commit_batch, each
trigger and constraint where PostgreSQL has it: all of it or nothing. What is stored is never changed in place and never
handed out, so neither side can change the other's. That the two do the same is held by test_store_conformance.py.
"""

import re
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from operator import attrgetter
from typing import Any, Protocol, TypeVar
from uuid import UUID

from broker.core.account import Account, Holding
from broker.core.corporate import AnyEvent
from broker.core.day_trades import first_counted_day
from broker.core.hours import NEW_YORK
from broker.core.messages import Anomaly, CashMoved, Report
from broker.core.money import Money
from broker.core.postings import CASH, House, house_owner
from broker.core.states import TERMINAL, WORKING
from broker.core.types import (
    AccountType,
    CustomerId,
    Fill,
    Side,
    Status,
    Symbol,
    Trade,
    TradeId,
)
from broker.db import RefusedByDatabase, StaleAccounts
from broker.rows import Row, Rows
from tests.sim import store_verify
from tests.sim.store_rows import (
    AccountRow,
    Caught,
    EventRow,
    Execution,
    Key,
    PostingRow,
    Transfer,
    caught_of,
    changed_trade,
    copy_of,
    held_of,
    placed_trade,
    without_executions,
)
from tests.sim.store_rules import BIGINT, check_range, check_rules, cost_is_right, may_change, require

T = TypeVar("T")

HOUSE_FLOOR = -9_000_000_000_000_000_000
_FIRST_CUSTOMER = 1001
_MISSING = object()
_NOT_UNFILLED = frozenset({Status.PARTIALLY_FILLED, Status.FILLED, Status.EXPIRED})
_ASSET = re.compile(r"\$USD|[A-Z][A-Z0-9.]{0,11}", re.ASCII)
_SCOPE = re.compile(r"all|(customer|self):[0-9]+|(halt|restrict):[A-Z][A-Z0-9.]{0,11}", re.ASCII)


class Hook(Protocol):
    """The network between a broker and its database: calls `apply` at once, later, or not, and answers or fails."""

    def __call__(self, call: str, apply: Callable[[], T], /) -> Awaitable[T]: ...


async def at_once(_: str, apply: Callable[[], T], /) -> T:
    """A network that is always there."""
    return apply()


@dataclass(slots=True)
class Customer:
    """A row of `customer`, as far as trading goes."""

    customer_id: CustomerId
    account_type: AccountType


class MemoryStore:
    """The database: it outlives the brokers that work on it. `hook` is the network on the way to it."""

    def __init__(self, now: Callable[[], datetime], hook: Hook | None = None) -> None:
        self.now = now
        self.hook: Hook = hook or at_once
        self.customers: dict[CustomerId, Customer] = {}
        self.accounts: dict[Key, AccountRow] = {}
        self.trades: dict[TradeId, Trade] = {}
        self.transfers: dict[UUID, Transfer] = {}
        self.postings: list[PostingRow] = []
        self.executions: dict[tuple[str, str], Execution] = {}
        self.busts: dict[tuple[str, str], UUID] = {}
        self.margin_days: dict[tuple[CustomerId, date], Money] = {}
        self.controls: dict[str, str] = {}
        self.inbox: dict[Caught, datetime] = {}
        self.commits = 0
        self._events: dict[tuple[CustomerId, int], EventRow] = {}
        self._last_event: dict[CustomerId, int] = {}
        # The unique indexes.
        self._seqs: dict[tuple[CustomerId, int], TradeId] = {}
        self._keys: dict[tuple[CustomerId, str], TradeId] = {}
        self._client_ids: dict[tuple[CustomerId, str], TradeId] = {}
        self._lines: dict[tuple[UUID, int, str], None] = {}
        self._references: dict[tuple[str, str], UUID] = {}
        self._settled_by: dict[UUID, tuple[str, str]] = {}
        self._busted_by: dict[UUID, tuple[str, str]] = {}
        self._undo: list[tuple[dict[Any, Any], Any, Any]] = []
        self._posted = 0  # how many postings there were before this commit

    # -------------------------------------------------------------- what a test looks at

    @property
    def events(self) -> list[EventRow]:
        """All events, in the order of commits."""
        return list(self._events.values())

    @property
    def versions(self) -> dict[CustomerId, int]:
        """How often each customer was claimed."""
        return {each: self.accounts[each, CASH].version for each in self.customers}

    def verify(self) -> list[str]:
        """The rules of broker/sql/verify that are broken, a sentence each."""
        return store_verify.broken(self)

    def open_customer(
        self, cash: int, account_type: AccountType = AccountType.CASH, credit: int = 0, at: datetime | None = None
    ) -> CustomerId:
        """A customer with an opening deposit, as create_customer makes one."""
        customer_id = CustomerId(_FIRST_CUSTOMER + len(self.customers))
        self.customers[customer_id] = Customer(customer_id, account_type)
        floor = -credit if account_type is AccountType.MARGIN else 0
        self.accounts[customer_id, CASH] = AccountRow(floor=floor)
        if cash > 0:
            external = house_owner(0, House.EXTERNAL)
            self.accounts.setdefault((external, CASH), AccountRow(floor=HOUSE_FLOOR))
            transfer_id = UUID(int=customer_id)
            transfer = (transfer_id, "cash", f"opening:{customer_id}", customer_id)
            lines = [(transfer_id, customer_id, CASH, cash, 0, 0), (transfer_id, external, CASH, -cash, 0, 0)]
            self._transfers([transfer], lines, at or self.now())
            self._undo.clear()
        return customer_id

    # -------------------------------------------------------------- the brokers' hands on it

    def ledger(self, shard: int, new_id: Callable[[], UUID], today: Callable[[], date]) -> "MemoryLedger":
        """One shard's hand on it."""
        return MemoryLedger(self, shard, new_id, today)

    def directory(self) -> "MemoryDirectory":
        """What the shards ask together."""
        return MemoryDirectory(self)

    def record(self, caught: Sequence[Caught]) -> None:
        """record_anomalies: each is kept once."""
        for each in caught:
            self.inbox.setdefault(each, self.now())

    # -------------------------------------------------------------- commit_batch

    def commit(
        self, at: datetime, claims: Sequence[tuple[CustomerId, int]], opened: Sequence[Key], columns: Sequence[Any]
    ) -> None:
        """All of it or nothing."""
        try:
            self._apply(at, claims, opened, columns)
        except BaseException:
            self._roll_back()
            raise
        self._undo.clear()
        self.commits += 1

    def _apply(
        self, at: datetime, claims: Sequence[tuple[CustomerId, int]], opened: Sequence[Key], columns: Sequence[Any]
    ) -> None:
        """In the order of commit_batch."""
        settled, transfers, postings, executions, busts, placed, started, logged, levels, controls = columns
        self._posted = len(self.postings)
        self._claim(claims)
        for key in opened:
            self._open(key)
        if settled:
            self._update(settled)
        if transfers:
            self._transfers(transfers, postings, at)
        if executions:
            self._execute(executions, at)
        if busts:
            self._bust(busts)
        if started:
            self._update(started)
        if placed:
            self._place(placed, at)
        if levels:
            self._level(levels)
        for scope, reason in controls:
            require(_SCOPE.fullmatch(scope) is not None, "control_scope_check")
            require(reason != "", "control_reason_check")
            if scope not in self.controls:
                self._set(self.controls, scope, reason)
        for row in logged:
            self._log(row, at)

    def _set(self, table: dict[Any, Any], key: Any, value: Any) -> None:
        self._undo.append((table, key, table.get(key, _MISSING)))
        table[key] = value

    def _roll_back(self) -> None:
        for table, key, value in reversed(self._undo):
            if value is _MISSING:
                del table[key]
            else:
                table[key] = value
        self._undo.clear()
        del self.postings[self._posted :]

    def _claim(self, claims: Sequence[tuple[CustomerId, int]]) -> None:
        if len(dict(claims)) < len(claims):
            raise StaleAccounts("a customer is claimed twice")
        for customer_id, version in claims:
            row = self.accounts.get((customer_id, CASH))
            if row is None or row.version != version:
                raise StaleAccounts("an account changed after it was read")
            balance, held, floor, cost, gain, _ = row
            self._set(self.accounts, (customer_id, CASH), AccountRow(balance, held, floor, cost, gain, version + 1))

    def _open(self, key: Key) -> None:
        if key not in self.accounts:
            require(_ASSET.fullmatch(key[1]) is not None, "asset_check")
            self._set(self.accounts, key, AccountRow(floor=HOUSE_FLOOR if key[0] < 0 else 0))

    def _update(self, rows: Sequence[Row]) -> None:
        """Trades change: the statement, its triggers in the order of their names, and the count of its rows."""
        changes: dict[TradeId, tuple[Trade, Trade]] = {}
        for row in rows:
            was = self.trades.get(row[0])
            if was is not None and was.trade_id not in changes:
                changes[was.trade_id] = (was, changed_trade(was, row))
        for was, is_now in changes.values():
            require(may_change(was, is_now), "status_change_allowed")
            self._set(self.trades, is_now.trade_id, is_now)
        held: defaultdict[Key, int] = defaultdict(int)
        for was, is_now in changes.values():
            held[held_of(was)] += is_now.hold - was.hold
        self._hold(held)
        for _, is_now in changes.values():
            check_rules(is_now)
        require(len(changes) == len(rows), "changed_trade_exists")

    def _hold(self, amounts: Mapping[Key, int]) -> None:
        complete = True
        for key, amount in amounts.items():
            if amount:
                row = self.accounts.get(key)
                if row is None:
                    complete = False
                    continue
                balance, held, floor, cost, gain, version = row
                self._write(key, AccountRow(balance, held + amount, floor, cost, gain, version))
        require(complete, "hold_has_account")

    def _write(self, key: Key, row: AccountRow) -> None:
        if not (-BIGINT <= row.balance < BIGINT and -BIGINT <= row.balance - row.held < BIGINT):
            raise RefusedByDatabase("bigint out of range", None)
        require(row.held >= 0, "held_not_negative")
        require(row.balance - row.held >= row.floor, "never_overdrawn")
        self._set(self.accounts, key, row)

    def _transfers(self, transfers: Sequence[Row], postings: Sequence[Row], at: datetime) -> None:
        for transfer_id, kind, reference, customer_id in transfers:
            require(reference != "", "transfer_reference_check")
            require(transfer_id not in self.transfers, "transfer_pkey")
            self._set(self.transfers, transfer_id, Transfer(transfer_id, str(kind), reference, customer_id, at))
            if kind in {"cash", "corporate", "reset"}:
                if (kind, reference) in self._references and kind == "cash":
                    raise StaleAccounts("cash_reference")
                require((kind, reference) not in self._references, f"{kind}_reference")
                self._set(self._references, (kind, reference), transfer_id)
        self._post(postings)

    def _post(self, postings: Sequence[Row]) -> None:
        """apply_postings: the only writer of balances."""
        sums: defaultdict[tuple[UUID, str], int] = defaultdict(int)
        deltas: dict[Key, tuple[int, int, int]] = {}
        for transfer_id, owner_id, asset, amount, cost, gain in postings:
            require(_ASSET.fullmatch(asset) is not None, "asset_check")
            require(bool(amount or cost or gain), "posting_moves_something")
            require((transfer_id, owner_id, asset) not in self._lines, "posting_pkey")
            self._set(self._lines, (transfer_id, owner_id, asset), None)
            sums[transfer_id, asset] += amount
            before = deltas.get((owner_id, asset), (0, 0, 0))
            deltas[owner_id, asset] = (before[0] + amount, before[1] + cost, before[2] + gain)
        require(not any(sums.values()), "transfer_balances")
        for row in postings:
            require(row[0] in self.transfers, "posting_has_transfer")
        complete, costs_are_right = True, True
        for key, (amount, cost, gain) in deltas.items():
            account = self.accounts.get(key)
            if account is None:
                complete = False
                continue
            balance, held, floor, old_cost, old_gain, version = account
            changed = AccountRow(balance + amount, held, floor, old_cost + cost, old_gain + gain, version)
            self._write(key, changed)
            costs_are_right &= key[0] < 0 or cost_is_right(key[1], changed)
        require(costs_are_right, "cost_is_of_shares_that_are_there")
        require(complete, "posting_has_account")
        self.postings.extend(PostingRow._make(row) for row in postings)

    def _execute(self, rows: Sequence[Row], at: datetime) -> None:
        for row in rows:
            done = Execution._make((*row, at))
            require(done.last_qty > 0, "execution_last_qty_check")
            require(done.last_px > 0, "execution_last_px_check")
            require(done.fee >= 0, "execution_fee_check")
            key = (done.venue, done.execution_id)
            require(key not in self.executions, "execution_pkey")
            require(done.transfer_id not in self._settled_by, "execution_transfer_id_key")
            self._set(self.executions, key, done)
            self._set(self._settled_by, done.transfer_id, key)
        for row in rows:
            require(row[2] in self.trades, "execution_has_trade")
        for trade_id in dict.fromkeys(row[2] for row in rows):
            self._note_executions(trade_id)

    def _bust(self, rows: Sequence[Row]) -> None:
        for venue, execution_id, transfer_id in rows:
            require((venue, execution_id) not in self.busts, "bust_pkey")
            require(transfer_id not in self._busted_by, "bust_transfer_id_key")
            self._set(self.busts, (venue, execution_id), transfer_id)
            self._set(self._busted_by, transfer_id, (venue, execution_id))
        for row in rows:
            require(row[:2] in self.executions, "bust_venue_execution_id_fkey")
        for trade_id in dict.fromkeys(self.executions[row[:2]].trade_id for row in rows):
            self._note_executions(trade_id)

    def _note_executions(self, trade_id: TradeId) -> None:
        """The trade as the view trade_with_executions has it."""
        of_it = [each for each in self.executions.values() if each.trade_id == trade_id]
        of_it.sort(key=lambda each: (each.at, each.execution_id))
        trade = copy_of(self.trades[trade_id])
        trade.executions = {
            each.execution_id: Fill(
                each.last_qty,
                each.last_px,
                each.fee,
                each.gain,
                each.suspense,
                (each.venue, each.execution_id) in self.busts,
                each.corrects,
            )
            for each in of_it
        }
        self._set(self.trades, trade_id, trade)

    def _place(self, rows: Sequence[Row], at: datetime) -> None:
        placed = [placed_trade(row, at) for row in rows]
        for trade in placed:
            require(_ASSET.fullmatch(trade.symbol) is not None and trade.symbol != CASH, "ticker_check")
            require(trade.trade_id not in self.trades, "trade_pkey")
            self._set(self.trades, trade.trade_id, trade)
            self._index(self._seqs, (trade.customer_id, trade.seq), trade, "trade_customer_id_seq_key")
            if trade.idempotency_key is not None:
                self._index(self._keys, (trade.customer_id, trade.idempotency_key), trade, "trade_idempotency")
            if trade.client_order_id is not None:
                key = (trade.customer_id, trade.client_order_id)
                require(key not in self._client_ids, "trade_client_order_id")
                self._set(self._client_ids, key, trade.trade_id)
        for trade in placed:
            require(trade.status not in _NOT_UNFILLED, "trade_begins_unfilled")
        for trade in placed:
            require(trade.customer_id in self.customers, "trade_has_customer")
        held: defaultdict[Key, int] = defaultdict(int)
        for trade in placed:
            held[held_of(trade)] += max(0, trade.hold)
        self._hold(held)
        for trade in placed:
            check_rules(trade)

    def _index(self, index: dict[Any, TradeId], key: Any, trade: Trade, name: str) -> None:
        """Somebody else was faster with the same thing: whoever reads again finds it."""
        if key in index:
            raise StaleAccounts(name)
        self._set(index, key, trade.trade_id)

    def _log(self, row: Row, at: datetime) -> None:
        event = EventRow._make((*row, at))
        require(event.number > 0, "event_number_check")
        require(event.seq > 0, "event_seq_check")
        key = (event.customer_id, event.seq)
        require(key not in self._events, "event_pkey")
        self._set(self._events, key, event)
        if event.seq > self._last_event.get(event.customer_id, 0):
            self._set(self._last_event, event.customer_id, event.seq)

    def _level(self, rows: Sequence[Row]) -> None:
        require(len({row[:2] for row in rows}) == len(rows), None)  # a row cannot be upserted twice
        for customer_id, day, level in rows:
            self._set(self.margin_days, (customer_id, day), min(level, self.margin_days.get((customer_id, day), level)))
        for row in rows:
            require(row[0] in self.customers, "margin_day_customer_id_fkey")

    # -------------------------------------------------------------- what is read

    def account_rows(self, customer_ids: Sequence[CustomerId]) -> dict[CustomerId, Account]:
        """load_accounts.sql: figures, versions and last numbers, without trades."""
        accounts: dict[CustomerId, Account] = {}
        wanted = set(customer_ids) & self.customers.keys()
        for (owner_id, asset), row in sorted(each for each in self.accounts.items() if each[0][0] in wanted):
            customer_id = CustomerId(owner_id)
            account = accounts.setdefault(customer_id, Account(customer_id))
            holding = Holding(row.balance, row.held, row.floor, Money(row.cost), Money(row.gain))
            if asset == CASH:
                account.cash, account.version = holding, row.version
                account.last_seq = max((seq for owner, seq in self._seqs if owner == customer_id), default=0)
                account.last_event = self._last_event.get(customer_id, 0)
                account.account_type = self.customers[customer_id].account_type
            else:
                account.positions[Symbol(asset)] = holding
        return accounts

    def open_trades(self, customer_ids: Sequence[CustomerId]) -> list[Trade]:
        """open_trades.sql: copies, each customer's in the order placed."""
        found = [
            trade
            for trade in self.trades.values()
            if trade.status not in TERMINAL and trade.customer_id in customer_ids
        ]
        return [copy_of(trade) for trade in sorted(found, key=attrgetter("customer_id", "seq"))]

    def recent_executions(
        self, customer_ids: Sequence[CustomerId], since: UUID
    ) -> list[tuple[CustomerId, date, Symbol, Side, TradeId]]:
        """recent_executions.sql: what the rule on day trading counts."""
        found: list[tuple[Execution, Trade]] = []
        for posting in self.postings:
            if posting.owner_id in customer_ids and posting.transfer_id >= since and posting.asset != CASH:
                key = self._settled_by.get(posting.transfer_id)
                if key is not None and not self.executions[key].suspense:
                    found.append((self.executions[key], self.trades[self.executions[key].trade_id]))
        found.sort(key=lambda each: (each[0].at, each[0].execution_id))
        return [
            (trade.customer_id, done.at.astimezone(NEW_YORK).date(), trade.symbol, trade.side, trade.trade_id)
            for done, trade in found
        ]

    def trades_by_id(self, trade_ids: Sequence[TradeId]) -> dict[TradeId, Trade]:
        """trades_by_id.sql."""
        return {each: copy_of(self.trades[each]) for each in trade_ids if each in self.trades}

    def trades_by_key(self, keys: Sequence[tuple[CustomerId, str]]) -> dict[tuple[CustomerId, str], Trade]:
        """trades_by_key.sql: without their executions."""
        return {key: without_executions(self.trades[self._keys[key]]) for key in keys if key in self._keys}

    def trades_by_client_id(self, ids: Sequence[tuple[CustomerId, str]]) -> dict[tuple[CustomerId, str], Trade]:
        """trades_by_client_id.sql: without their executions."""
        return {key: without_executions(self.trades[self._client_ids[key]]) for key in ids if key in self._client_ids}

    def cash_by_reference(self, references: Sequence[str]) -> dict[str, CashMoved]:
        """transfers_by_reference.sql."""
        moved: dict[str, CashMoved] = {}
        for reference in self.booked("cash", references):
            transfer = self.transfers[self._references["cash", reference]]
            for each in self.postings:
                if each.transfer_id == transfer.transfer_id and each.owner_id == transfer.customer_id:
                    customer_id = CustomerId(transfer.customer_id)
                    moved[reference] = CashMoved(customer_id, Money(each.amount), reference)
        return moved

    def booked(self, kind: str, references: Sequence[str]) -> set[str]:
        """Which of these references of a kind were booked."""
        return {reference for reference in references if (kind, reference) in self._references}

    def open_customers(self) -> dict[CustomerId, int]:
        """customers_with_open_trades.sql."""
        owners = {trade.customer_id for trade in self.trades.values() if trade.status not in TERMINAL}
        return {each: self.accounts[each, CASH].version for each in sorted(owners)}


class MemoryLedger:
    """One shard's hand on the store: what broker.ledger.Ledger is on PostgreSQL."""

    def __init__(self, store: MemoryStore, shard: int, new_id: Callable[[], UUID], today: Callable[[], date]) -> None:
        self._store = store
        self._shard = shard
        self._new_id = new_id
        self._today = today

    async def load_accounts(self, customer_ids: Sequence[CustomerId]) -> dict[CustomerId, Account]:
        """In several reads, as the ledger does it: somebody may commit between them."""
        store, ids = self._store, list(customer_ids)
        accounts = await store.hook("load_accounts", lambda: store.account_rows(ids))
        for trade in await store.hook("open_trades", lambda: store.open_trades(ids)):
            account = accounts[trade.customer_id]
            account.join_group(trade)
            if trade.status in WORKING:
                account.work(trade)
            elif trade.status is Status.HELD:
                account.held[trade.trade_id] = trade
            else:
                account.waiting.append(trade)
        on_margin = [each for each, account in accounts.items() if account.account_type is AccountType.MARGIN]
        if on_margin:
            since = _first_id(first_counted_day(self._today()))
            rows = await store.hook("recent_executions", lambda: store.recent_executions(on_margin, since))
            for customer_id, day, symbol, side, trade_id in rows:
                accounts[customer_id].day_trades.note(day, symbol, side, trade_id)
        return accounts

    async def trades_by_id(self, trade_ids: Sequence[TradeId]) -> dict[TradeId, Trade]:
        """Those of these trades that exist, finished ones too."""
        ids = list(trade_ids)
        return await self._store.hook("trades_by_id", lambda: self._store.trades_by_id(ids))

    async def trades_by_key(self, keys: Sequence[tuple[CustomerId, str]]) -> dict[tuple[CustomerId, str], Trade]:
        """The trades that were placed with these idempotency keys."""
        wanted = list(keys)
        return await self._store.hook("trades_by_key", lambda: self._store.trades_by_key(wanted))

    async def trades_by_client_id(self, ids: Sequence[tuple[CustomerId, str]]) -> dict[tuple[CustomerId, str], Trade]:
        """The trades that were placed under these client order ids."""
        wanted = list(ids)
        return await self._store.hook("trades_by_client_id", lambda: self._store.trades_by_client_id(wanted))

    async def cash_by_reference(self, references: Sequence[str]) -> dict[str, CashMoved]:
        """The movements of cash that were booked under these references."""
        wanted = list(references)
        return await self._store.hook("cash_by_reference", lambda: self._store.cash_by_reference(wanted))

    async def adjusted(self, references: Sequence[str]) -> set[str]:
        """Which of these references of corporate actions were booked."""
        wanted = list(references)
        return await self._store.hook("adjusted", lambda: self._store.booked("corporate", wanted))

    async def reset(self, references: Sequence[str]) -> set[str]:
        """Which of these references of resets were booked."""
        wanted = list(references)
        return await self._store.hook("reset", lambda: self._store.booked("reset", wanted))

    async def record_anomalies(self, anomalies: Iterable[tuple[Anomaly, Report]]) -> None:
        """Keep what the exchange said and nothing could be done with."""
        caught = caught_of(anomalies)
        await self._store.hook("record_anomalies", lambda: self._store.record(caught))

    async def commit(self, now: datetime, claims: Mapping[CustomerId, int], events: Sequence[AnyEvent]) -> None:
        """Make the events durable, all or none. The rows are made now: a late commit is of what was decided then."""
        rows = Rows(self._shard, self._new_id)
        for event in events:
            rows.add(event)
        claimed, opened, columns = sorted(claims.items()), sorted(rows.opened), rows.columns()
        check_range([claimed, *columns])
        await self._store.hook("commit", lambda: self._store.commit(now, claimed, opened, columns))

    async def close(self) -> None:
        """There is no connection."""


class MemoryDirectory:
    """What broker.ledger.TradeDirectory is on PostgreSQL."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def owners(self, trade_ids: Sequence[TradeId]) -> dict[TradeId, CustomerId]:
        """The customers of those trades that exist."""
        store, ids = self._store, list(trade_ids)
        return await store.hook(
            "owners", lambda: {each: store.trades[each].customer_id for each in ids if each in store.trades}
        )

    async def customers_with_open_trades(self) -> dict[CustomerId, int]:
        """Whose trades have not all ended, with the versions of their accounts."""
        return await self._store.hook("customers_with_open_trades", self._store.open_customers)

    async def record_anomalies(self, anomalies: Iterable[tuple[Anomaly, Report]]) -> None:
        """Keep reports that belong to no trade."""
        caught = caught_of(anomalies)
        await self._store.hook("record_anomalies", lambda: self._store.record(caught))


def _first_id(day: date) -> UUID:
    """No id that was given on this day (New York's) or later is below this one."""
    began = datetime.combine(day, time(), NEW_YORK)
    return UUID(int=int(began.timestamp() * 1000) << 80)
