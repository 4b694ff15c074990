"""The simulation's store and PostgreSQL do the same: whatever one answers, reads or refuses, so does the other.

A seeded walk drives a real shard, or two that do not know of each other, on both at once: each call of the store goes
to both, and the answers are compared. Before many a commit its rows are bent in one place and offered to both, inside a
transaction that is taken back: both must say the same, name the same rule, and have the same accounts and trades then.
By hand, for as many walks as you like:

    CONFORMANCE_WALKS=100 .venv/bin/python -m pytest -s tests/sim/test_store_conformance.py
"""

# mypy: disable-error-code="no-any-return"

import asyncio
import copy
import os
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from enum import Enum
from itertools import count
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from broker.batch import Command
from broker.config import Config
from broker.core.account import Account
from broker.core.corporate import ActionKind, AdjustPosition, AnyEvent, CorporateAction
from broker.core.day_trades import trade_date
from broker.core.messages import (
    Advance,
    Anomaly,
    CancelAll,
    CancelTrade,
    CashMoved,
    Leg,
    MoveCash,
    PlaceTrade,
    ReplaceTrade,
    Report,
    ReportType,
    Step,
    Wake,
)
from broker.core.money import Money
from broker.core.reset import ResetAccount, Shares
from broker.core.states import TERMINAL
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
from broker.db import _STALE_KEYS, Database, RefusedByDatabase, StaleAccounts, _guarded, query
from broker.ledger import Ledger, TradeDirectory, _trade, open_customer
from broker.metrics import Metrics
from broker.rows import Rows
from broker.shards import Shard
from broker.updates import Updates
from broker.verify import verify
from tests.builders import NOW, dollars
from tests.conftest import logging_at
from tests.property.core_world import SYMBOLS, MovingMarket, view
from tests.sim.store import MemoryLedger, MemoryStore

SEEDS = range(1, 1 + int(os.environ.get("CONFORMANCE_WALKS", "4")))
STEPS = 130
BENDS = 5
RULES_MIN = 40

seen: Counter[str] = Counter()
"""What the walks came through: a rule that no bent commit broke was not compared."""


ESSENTIAL = [
    "event_pkey",
    "execution_pkey",
    "never_overdrawn",
    "never_overfilled",
    "status_change_allowed",
    "status_fits_figures",
    "trade_client_order_id",
    "trade_pkey",
    "transfer_balances",
    "transfer_pkey",
]


class Pair:
    """PostgreSQL and the store beside it, with one clock and the same ids."""

    def __init__(self, database: Database, outside: asyncpg.Connection, seed: int) -> None:
        self.rng = random.Random(seed)
        self.now = NOW
        self.database = database
        self.outside = outside
        self.memory = MemoryStore(lambda: self.now)
        self.one_at_a_time = asyncio.Lock()
        self.directories = TradeDirectory(database), self.memory.directory()
        self.differences: list[AssertionError] = []
        self._keys = count(1)

    def ids(self, series: int) -> Callable[[], UUID]:
        """Ids as uuid7 gives them: they begin with their time."""
        numbers = count(1)
        return lambda: UUID(int=(int(self.now.timestamp() * 1000) << 80) + (series << 64) + next(numbers))

    def today(self) -> date:
        """New York's."""
        return trade_date(self.now)

    async def customer(self, cash: str, account_type: AccountType, credit: str = "0") -> CustomerId:
        """The same customer on both."""
        number = next(self._keys)
        figures = dollars(cash), UUID(int=1000 + number), dollars(credit)  # the id that the store gives
        key = (f"k{number}", bytes(32))
        real = await open_customer(self.database, "x", account_type, key, *figures, self.now)
        assert self.memory.open_customer(dollars(cash), account_type, dollars(credit)) == real
        return real


async def both(real: object, memory: object, call: str, *arguments: Any) -> Any:
    """What both answer, which is the same; or what both raise."""
    answers: list[Any] = []
    for each in (real, memory):
        try:
            answers.append(await getattr(each, call)(*arguments))
        except (StaleAccounts, RefusedByDatabase) as error:
            answers.append(error)
    first, second = answers
    assert verdict(first) == verdict(second), f"PostgreSQL: {first!r}, in memory: {second!r}"
    if isinstance(second, Exception):
        raise second
    assert first == second
    return second


def verdict(answer: object) -> str:
    """The kind of an outcome: the rule that it names, too."""
    if isinstance(answer, RefusedByDatabase):
        return f"refused: {answer.constraint}"
    if isinstance(answer, StaleAccounts):
        return f"stale: {next((key for key in _STALE_KEYS if key in str(answer)), 'version')}"
    return "done"


class BothStores:
    """Store: each call goes to both."""

    def __init__(self, pair: Pair, shard: int) -> None:
        self._pair = pair
        self._shard = shard
        ids, bent = pair.ids(shard), pair.ids(shard + 8)
        self._real = Ledger(pair.database, shard, ids, pair.today)
        self._memory = MemoryLedger(pair.memory, shard, pair.ids(shard), pair.today)
        self._bent_ids = bent

    async def _both(self, call: str, *arguments: Any) -> Any:
        async with self._pair.one_at_a_time:
            try:
                return await both(self._real, self._memory, call, *arguments)
            except AssertionError as error:  # a shard takes it for a broken rule, and goes on
                self._pair.differences.append(error)
                raise

    async def load_accounts(self, customer_ids: Sequence[CustomerId]) -> dict[CustomerId, Account]:
        """As a store."""
        return await self._both("load_accounts", customer_ids)

    async def trades_by_id(self, trade_ids: Sequence[TradeId]) -> dict[TradeId, Trade]:
        """As a store."""
        return await self._both("trades_by_id", trade_ids)

    async def trades_by_key(self, keys: Sequence[tuple[CustomerId, str]]) -> dict[tuple[CustomerId, str], Trade]:
        """As a store."""
        return await self._both("trades_by_key", keys)

    async def trades_by_client_id(self, ids: Sequence[tuple[CustomerId, str]]) -> dict[tuple[CustomerId, str], Trade]:
        """As a store."""
        return await self._both("trades_by_client_id", ids)

    async def cash_by_reference(self, references: Sequence[str]) -> dict[str, CashMoved]:
        """As a store."""
        return await self._both("cash_by_reference", references)

    async def adjusted(self, references: Sequence[str]) -> set[str]:
        """As a store."""
        return await self._both("adjusted", references)

    async def reset(self, references: Sequence[str]) -> set[str]:
        """As a store."""
        return await self._both("reset", references)

    async def record_anomalies(self, anomalies: Iterable[tuple[Anomaly, Report]]) -> None:
        """As a store."""
        await self._both("record_anomalies", list(anomalies))

    async def commit(self, now: datetime, claims: Mapping[CustomerId, int], events: Sequence[AnyEvent]) -> None:
        """As a store, after bent commits that both must refuse or take alike."""
        versions = self._pair.memory.versions
        is_stale = any(versions[each] != version for each, version in claims.items())
        for _ in range(1 if is_stale else BENDS):
            await self._bend(now, claims, events)
        try:
            await self._both("commit", now, claims, events)
            seen["committed"] += 1
        except StaleAccounts:
            seen["decided again"] += 1
            raise
        except RefusedByDatabase as error:
            if error.constraint != "execution_pkey":  # an execution of one trade that is told of another one
                self._pair.differences.append(AssertionError(f"what a shard decided is refused: {error}"))
            raise

    async def _bend(self, now: datetime, claims: Mapping[CustomerId, int], events: Sequence[AnyEvent]) -> None:
        """Offer both a commit that differs in one place, and take it back."""
        rows = Rows(self._shard, self._bent_ids)
        for event in events:
            rows.add(event)
        parts: list[list[Any]] = [sorted(claims.items()), sorted(rows.opened), *map(list, rows.columns())]
        words = Bender(self._pair.rng, self._pair.memory).bend(parts)
        if words is None:
            return
        async with self._pair.one_at_a_time:
            try:
                await self._offer(now, parts, words)
            except AssertionError as error:
                self._pair.differences.append(error)
                raise

    async def _offer(self, now: datetime, parts: list[list[Any]], words: str) -> None:
        memory, outside = self._pair.memory, self._pair.outside
        before = copy.copy(vars(memory)) | {name: copy.copy(table) for name, table in tables(memory).items()}
        transaction = outside.transaction()
        await transaction.start()
        try:
            real = await outcome(lambda: outside.fetch(query("commit_batch"), now, *parts))
            try:
                memory._apply(now, parts[0], parts[1], parts[2:])
                simulated = "done"
            except (StaleAccounts, RefusedByDatabase) as error:
                simulated = verdict(error)
            assert simulated == real, f"PostgreSQL: {real}, in memory: {simulated}, with {words} of {parts}"
            seen[real] += 1
            if real == "done":
                ids = [row[0] for number in (2, 7, 8) for row in parts[number]] + [row[2] for row in parts[5]]
                ids += [memory.executions[row[:2]].trade_id for row in parts[6]]
                assert await rows_of(outside, ids) == rows_in(memory, ids), f"with {words} of {parts}"
                others = memory.trades.keys() - set(ids)
                assert all(memory.trades[each] is before["trades"][each] for each in others)
        finally:
            await transaction.rollback()
        memory._roll_back()
        assert tables(memory) == {name: before[name] for name in tables(memory)}, "what is taken back leaves no trace"


async def outcome(work: Callable[[], Any]) -> str:
    """The kind of what PostgreSQL says."""
    try:
        await _guarded(work)
    except (StaleAccounts, RefusedByDatabase) as error:
        return verdict(error)
    return "done"


def tables(memory: MemoryStore) -> dict[str, Any]:
    """All that the store keeps."""
    return {name: value for name, value in vars(memory).items() if isinstance(value, dict | list) and name != "_undo"}


async def rows_of(connection: asyncpg.Connection, ids: Sequence[TradeId]) -> tuple[dict[Any, Any], dict[Any, Any]]:
    """The accounts and these trades, as a connection sees them."""
    accounts = await connection.fetch("SELECT owner_id, asset, balance, held, floor, cost, gain, version FROM account")
    trades = await connection.fetch(query("trades_by_id"), ids)
    return {tuple(row)[:2]: tuple(row)[2:] for row in accounts}, {row["trade_id"]: _trade(row) for row in trades}


def rows_in(memory: MemoryStore, ids: Sequence[TradeId]) -> tuple[dict[Any, Any], dict[Any, Any]]:
    """The same in memory."""
    return {key: tuple(row) for key, row in memory.accounts.items()}, {each: memory.trades[each] for each in ids}


# ------------------------------------------------------------------ bent commits

NAMES = {
    0: ("customer_id", "version"),
    1: ("owner_id", "asset"),
    2: "trade_id quantity stop_price triggered status reason hold max_price filled_quantity filled_value acknowledged "
    "cancel_requested events",
    3: "transfer_id kind reference customer_id",
    4: "transfer_id owner_id asset amount cost gain",
    5: "venue execution_id trade_id last_qty last_px fee gain suspense corrects transfer_id",
    6: "venue execution_id transfer_id",
    7: "trade_id customer_id seq symbol side quantity venue order_type time_in_force limit_price stop_price "
    "idempotency_key client_order_id replaces replaces_filled order_class group role trail_amount trail_bps "
    "extended_hours triggered status reason hold max_price acknowledged cancel_requested events",
    8: "trade_id quantity stop_price triggered status reason hold max_price filled_quantity filled_value acknowledged "
    "cancel_requested events",
    9: "customer_id seq trade_id number step status reason filled_quantity filled_value acknowledged cancel_requested "
    "quantity execution_id",
    10: "customer_id day level",
    11: "scope reason",
}
"""The columns of each argument of commit_batch, from the claims on."""
COLUMNS = {number: names.split() if isinstance(names, str) else list(names) for number, names in NAMES.items()}
ENUMS: dict[str, type[Enum]] = {
    "status": Status,
    "side": Side,
    "order_type": OrderType,
    "time_in_force": TimeInForce,
    "order_class": OrderClass,
    "role": Role,
    "step": Step,
}
MAYBE_NONE = {
    "stop_price",
    "limit_price",
    "max_price",
    "idempotency_key",
    "client_order_id",
    "replaces",
    "replaces_filled",
    "group",
    "role",
    "trail_amount",
    "trail_bps",
    "corrects",
}


FAVOURITES = [
    (5, "execution_id"),
    (4, "amount"),
    (7, "idempotency_key"),
    (7, "client_order_id"),
    (7, "seq"),
    (7, "hold"),
    (3, "reference"),
    (2, "filled_quantity"),
    (2, "status"),
    (8, "status"),
    (8, "hold"),
    (11, "scope"),
]
"""Where the rules are that matter most: they are to be met in every run."""


@dataclass
class Bender:
    """Changes one place of a commit's rows."""

    rng: random.Random
    memory: MemoryStore

    def bend(self, parts: list[list[Any]]) -> str | None:
        """What was done, or None where nothing could be."""
        rng = self.rng
        there = [number for number, rows in enumerate(parts) if rows and (number or rng.random() < 0.1)]
        if not there:
            return None
        favourites = [(number, COLUMNS[number].index(name)) for number, name in FAVOURITES if number in there]
        if favourites and rng.random() < 0.4:
            number, column = rng.choice(favourites)
        else:
            number = rng.choice(there)
            column = rng.randrange(-1, len(COLUMNS[number]))
        place = rng.randrange(len(parts[number]))
        if column < 0:
            return self._twice_or_not_at_all(parts[number], f"row {place} of {number}", place)
        row = list(parts[number][place])
        name = COLUMNS[number][column]
        row[column] = self._other(name, row[column])
        parts[number][place] = tuple(row)
        return f"{name} of row {place} of {number} as {row[column]!r}"

    def _twice_or_not_at_all(self, rows: list[Any], words: str, place: int) -> str:
        if self.rng.random() < 0.5:
            rows.append(rows[place])
            return f"{words} twice"
        del rows[place]
        return f"{words} left out"

    def _other(self, name: str, value: Any) -> Any:
        rng = self.rng
        if name in MAYBE_NONE and rng.random() < 0.3:
            return None
        if name in ENUMS:
            return rng.choice(list(ENUMS[name]))
        if isinstance(value, bool):
            return not value
        if name == "kind":
            return rng.choice(["fill", "cash", "suspense", "bust", "corporate", "reset"])
        if name == "asset":
            return rng.choice(["$USD", *SYMBOLS, "GONE", "bad"])
        if name == "symbol":
            return rng.choice([*SYMBOLS, "GONE", "bad"])
        if name == "scope":
            return rng.choice(["all", "customer:1001", "nobody"])
        if name in {"trade_id", "replaces", "group"}:
            return rng.choice([*list(self.memory.trades)[-12:], UUID(int=1)])
        if name == "transfer_id":
            return rng.choice([*list(self.memory.transfers)[-6:], UUID(int=2**90 + rng.randrange(2**60))])
        if name == "customer_id":
            return rng.choice([*self.memory.customers, 999])
        if name == "owner_id":
            return rng.choice([*self.memory.customers, -1, -2, 999])
        if name == "execution_id":
            return rng.choice([each[1] for each in self.memory.executions] or ["e?"])
        if name in {"idempotency_key", "client_order_id"}:
            known = [key[1] for key in (*self.memory._keys, *self.memory._client_ids)]
            return rng.choice([*known, "", "x" * 200, "x" * 201])
        if name == "reference":
            return rng.choice([*(each.reference for each in self.memory.transfers.values()), ""])
        if name == "day":
            return value + timedelta(1)
        if isinstance(value, str) or name in {"corrects", "venue"}:
            return rng.choice(["", "other"])
        number = value or 0
        small = [0, 1, -1, -number, number + 1, number - 1, 2 * number]
        return rng.choice([*small, 10_000_001, 9_999] if name in {"events", "number", "trail_bps"} else [*small, 2**62])


# ------------------------------------------------------------------ the walk


class NoDesk:
    """Nobody goes to an exchange: the walk says what it says."""

    def send(self, trade: Trade, since: float) -> None: ...
    def hold(self, trade: Trade) -> None: ...
    def cancel(self, trade: Trade) -> None: ...
    def watch(self, trade: Trade) -> None: ...
    def look_soon(self, trade_id: TradeId) -> None: ...
    def look_for_stray(self, trade: Trade) -> None: ...
    def ask_again(self, report: Report) -> None: ...
    def done(self, trade_id: TradeId) -> None: ...


@dataclass
class Walk:
    """Customers, operators and an exchange that say anything, in a seeded order."""

    pair: Pair
    shards: list[Shard]
    on: set[str]
    market: MovingMarket
    people: list[CustomerId] = field(default_factory=list)
    numbers: Iterable[int] = field(default_factory=lambda: count(1))

    async def run(self, steps: int) -> None:
        """A few commands at once, so that they come in batches."""
        for _ in range(steps):
            rng = self.pair.rng
            self.pair.now += timedelta(seconds=rng.choice([0.0, 0.4, 0.4, 0.4, 1_200.0, -3.0]))
            if rng.random() < 0.1:
                self.on.symmetric_difference_update({rng.choice(["closed", "halt MSFT", "night"])})
            if rng.random() < 0.3:
                self.market.asks[rng.choice(SYMBOLS)] = self._price()
            replies = []
            for _ in range(rng.choice([1, 1, 2, 4])):
                command = self._command()
                shard = self.shards[rng.random() < 0.15]
                replies.append(shard.submit(command_owner(command, self.pair.memory), command))
            answers = await asyncio.gather(*replies, return_exceptions=True)
            for error in (*self.pair.differences, *answers):
                if isinstance(error, BaseException):
                    raise error

    def _price(self) -> Money:
        return Money(self.pair.rng.randint(1, 60) * 49_999)

    def _command(self) -> Command:
        rng = self.pair.rng
        make = rng.choices(
            [self._place, self._report, self._take_back, self._replace, self._cancel, self._operate, self._wake],
            [10, 14, 2, 2, 1, 2, 2],
        )[0]
        return make() or self._place()

    def _who(self) -> CustomerId:
        return self.pair.rng.choice(self.people)

    def _id(self) -> TradeId:
        number = next(iter(self.numbers))
        return TradeId(UUID(int=(int(self.pair.now.timestamp() * 1000) << 80) + (99 << 64) + number))

    def _trades(self, *, ended: bool = True) -> list[Trade]:
        return [each for each in self.pair.memory.trades.values() if ended or each.status not in TERMINAL]

    def _place(self) -> PlaceTrade:
        rng = self.pair.rng
        type_, who = rng.choice([OrderType.MARKET, OrderType.MARKET, *OrderType]), self._who()
        has_limit, has_stop = (
            type_ in {OrderType.LIMIT, OrderType.STOP_LIMIT},
            type_ in {OrderType.STOP, OrderType.STOP_LIMIT},
        )
        there = [
            key[1] for key, row in self.pair.memory.accounts.items() if key[0] == who and row.balance - row.held > 0
        ]
        shares = [Symbol(each) for each in there if each != "$USD"]
        side = Side.SELL if shares and rng.random() < 0.5 else Side.BUY
        order_class = OrderClass.SIMPLE
        legs: tuple[Leg, ...] = ()
        if type_ in {OrderType.MARKET, OrderType.LIMIT} and rng.random() < 0.25:
            order_class = OrderClass.BRACKET if side is Side.BUY else rng.choice([OrderClass.BRACKET, OrderClass.OTO])
            legs = (Leg(self._id(), limit_price=self._price()), Leg(self._id(), stop_price=self._price()))
            legs = legs if order_class is OrderClass.BRACKET else legs[:1]
        trailing = type_ is OrderType.TRAILING_STOP
        early = type_ is OrderType.LIMIT and not legs and rng.random() < 0.1
        lasting = [TimeInForce.DAY, TimeInForce.GTC]
        return PlaceTrade(
            self._id(),
            who,
            rng.choice(shares) if side is Side.SELL else rng.choice(SYMBOLS),
            side,
            rng.randint(1, 12),
            idempotency_key=rng.choice([None, f"key {rng.randrange(40)}"]),
            order_type=type_,
            time_in_force=rng.choice(lasting if early else [*lasting, TimeInForce.IOC, TimeInForce.FOK]),
            limit_price=self._price() if has_limit else None,
            stop_price=self._price() if has_stop else None,
            client_order_id=rng.choice([None, f"id {rng.randrange(40)}"]),
            order_class=order_class,
            legs=legs,
            trail_bps=500 if trailing else None,
            extended_hours=early,
            waits_for_open=rng.random() < 0.5,
        )

    def _report(self) -> Report | None:
        rng, trades = self.pair.rng, self._trades(ended=self.pair.rng.random() < 0.15)
        if not trades:
            return None
        trade = rng.choice(trades[-20:])
        type_ = rng.choice([ReportType.ACCEPTED, ReportType.FILLED, ReportType.FILLED, *ReportType])
        seen_quantity = sum(each.last_qty for each in trade.executions.values() if each.corrects is None)
        if type_ in {ReportType.FILLED, ReportType.PARTIALLY_FILLED}:
            quantity = rng.choice([trade.leaves_quantity, 1, rng.randint(1, 13)]) or 1
            price = trade.limit_price or self._fair(trade, quantity)
            price = rng.choice([price, price, price, self._price()])
            known = [*trade.executions, *(key[1] for key in self.pair.memory.executions)]
            id_ = rng.choice(known) if known and rng.random() < 0.2 else f"e{next(iter(self.numbers))}"
            return Report(trade.trade_id, type_, "sim", id_, Fill(quantity, price), seen_quantity + quantity)
        if type_ in {ReportType.BUSTED, ReportType.CORRECTED}:
            return self._take_back()
        return Report(trade.trade_id, type_, "sim", filled_quantity=seen_quantity + rng.choice([0, 0, 0, 1]))

    def _fair(self, trade: Trade, quantity: int) -> Money:
        if trade.side is Side.BUY and trade.max_price:
            return Money(max(1, (trade.max_price - trade.filled_value) // max(quantity, trade.leaves_quantity)))
        return self.market.bid(trade.symbol) or self._price()

    def _take_back(self) -> Report | None:
        """A bust or a correction of an execution, once or again."""
        rng, done = self.pair.rng, list(self.pair.memory.executions.values())
        if not done:
            return None
        wrong = rng.choice(done[-12:])
        if rng.random() < 0.5:
            return Report(wrong.trade_id, ReportType.BUSTED, "sim", wrong.execution_id)
        id_, fill = f"e{next(iter(self.numbers))}", Fill(rng.randint(1, 12), self._price())
        return Report(wrong.trade_id, ReportType.CORRECTED, "sim", id_, fill, corrects=wrong.execution_id)

    def _replace(self) -> ReplaceTrade | None:
        rng, trades = self.pair.rng, self._trades(ended=False)
        if not trades:
            return None
        old = rng.choice(trades)
        limit = self._price() if old.limit_price is not None else None
        stop = self._price() if old.stop_price is not None else None
        quantity = None if old.group else rng.choice([None, rng.randint(1, 12)])
        id_ = rng.choice([None, f"id {rng.randrange(40)}"])
        return ReplaceTrade(self._id(), old.customer_id, old.trade_id, quantity, limit, stop, id_)

    def _cancel(self) -> CancelTrade | CancelAll | None:
        rng, trades = self.pair.rng, self._trades()
        if not trades:
            return None
        trade = rng.choice(trades[-20:])
        if rng.random() < 0.2:
            return CancelAll(trade.customer_id, rng.choice([None, trade.symbol]))
        return CancelTrade(trade.customer_id, trade.trade_id)

    def _operate(self) -> Command:
        """Cash, a corporate action, or a reset, of new and of old references."""
        rng, who = self.pair.rng, self._who()
        match rng.randrange(5):
            case 0 | 1:
                amount = Money(rng.randint(-20, 20) * 4_999_500 or 1)
                return MoveCash(who, amount, f"cash {rng.randrange(30)}")
            case 2:
                ratio = (rng.choice([1, 2, 3]), rng.choice([1, 2]))
                action = CorporateAction(f"event {rng.randrange(20)}", ActionKind.SPLIT, rng.choice(SYMBOLS), *ratio)
                return AdjustPosition(who, action)
            case 3:
                held = {rng.choice(SYMBOLS): Shares(rng.randint(1, 9), Money(rng.randint(1, 10**6)))}
                return ResetAccount(who, f"reset {rng.randrange(9)}", dollars("20000"), held)
            case _:
                return Advance(who)

    def _wake(self) -> Wake | None:
        held = [each for each in self._trades(ended=False) if each.status is Status.HELD]
        if not held:
            return None
        trade = self.pair.rng.choice(held)
        return Wake(trade.customer_id, trade.trade_id, self._price(), self._price())


def command_owner(command: Command, memory: MemoryStore) -> CustomerId:
    """Whose shard it goes to."""
    if isinstance(command, Report):
        return memory.trades[command.trade_id].customer_id
    return command.customer_id


@asynccontextmanager
async def walk(dsn: str, config: Config, seed: int) -> AsyncIterator[Walk]:
    """A walk on a fresh database."""
    database = Database(dsn, config)
    await database.open()
    outside = await database.connect()
    pair = Pair(database, outside, seed)
    on: set[str] = set()
    market = MovingMarket(on)
    shards, stores = [], [BothStores(pair, number) for number in range(2)]
    for number, store in enumerate(stores):
        shards.append(
            Shard(
                number,
                store,
                NoDesk(),
                Updates(),
                lambda: view(pair.now, market, on),
                lambda *_: None,
                config,
                Metrics(),
            )
        )
    tasks = [asyncio.create_task(shard.run()) for shard in shards]
    try:
        yield Walk(pair, shards, on, market)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for store in stores:
            await store._real.close()
        await outside.close()
        await database.close()


async def compare_reads(pair: Pair) -> None:
    """All that is ever read, of everything there is."""
    memory = pair.memory
    real, simulated = (
        Ledger(pair.database, 0, pair.ids(7), pair.today),
        MemoryLedger(memory, 0, pair.ids(7), pair.today),
    )
    trades, transfers = list(memory.trades.values()), list(memory.transfers.values())
    ids = [each.trade_id for each in trades] + [TradeId(UUID(int=1))]
    references = [each.reference for each in transfers] + ["never booked"]
    questions: list[tuple[str, Sequence[Any]]] = [
        ("load_accounts", [*memory.customers, CustomerId(999)]),
        ("trades_by_id", ids),
        ("trades_by_key", [(each.customer_id, each.idempotency_key or "") for each in trades]),
        ("trades_by_client_id", [(each.customer_id, each.client_order_id or "") for each in trades]),
        ("cash_by_reference", references),
        ("adjusted", references),
        ("reset", references),
    ]
    for call, question in questions:
        await both(real, simulated, call, question)
    await both(*pair.directories, "owners", ids)
    await both(*pair.directories, "customers_with_open_trades")
    found = await real.trades_by_id(ids)
    orders = {each.trade_id: (list(each.executions), list(found[each.trade_id].executions)) for each in trades}
    assert all(mine == theirs for mine, theirs in orders.values()), "executions come in the order of their times"
    await real.close()


async def compare_tables(pair: Pair) -> None:
    """Every row that there is."""
    memory, fetch = pair.memory, pair.outside.fetch
    everything = list(memory.trades)
    assert await rows_of(pair.outside, everything) == rows_in(memory, everything)
    assert await pair.outside.fetchval("SELECT count(*) FROM trade") == len(everything)
    posted = await fetch("SELECT transfer_id, owner_id, asset, amount, cost, gain FROM posting")
    assert sorted(map(tuple, posted)) == sorted(map(tuple, memory.postings))
    transfers = await fetch("SELECT transfer_id, kind, reference, customer_id, at FROM transfer")
    assert sorted(map(tuple, transfers)) == sorted(map(tuple, memory.transfers.values()))
    executions = await fetch(
        "SELECT venue, execution_id, trade_id, last_qty, last_px, fee, gain, suspense, corrects, transfer_id, at "
        "FROM execution"
    )
    assert {tuple(row)[:2]: tuple(row) for row in executions} == {k: tuple(v) for k, v in memory.executions.items()}
    busts = await fetch("SELECT venue, execution_id, transfer_id FROM bust")
    assert {tuple(row)[:2]: row["transfer_id"] for row in busts} == memory.busts
    events = await fetch(
        "SELECT customer_id, seq, trade_id, number, step, status, reason, filled_quantity, filled_value, acknowledged, "
        "cancel_requested, quantity, execution_id, at FROM event ORDER BY customer_id, seq"
    )
    assert list(map(tuple, events)) == sorted(map(tuple, memory.events))
    levels = await fetch("SELECT customer_id, day, lowest FROM margin_day")
    assert {tuple(row)[:2]: row["lowest"] for row in levels} == memory.margin_days
    assert {row["scope"]: row["reason"] for row in await fetch("SELECT * FROM control")} == memory.controls
    caught = await fetch("SELECT cause, venue, payload FROM inbox")
    assert {tuple(row) for row in caught} == {tuple(each) for each in memory.inbox}


@pytest.fixture
def quiet() -> Iterator[None]:
    """What the exchange makes up is no news."""
    with logging_at("critical"):
        yield


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("seed", SEEDS)
async def test_memory_and_postgresql_say_the_same(seed: int, dsn: str, config: Config) -> None:
    """Every call, every commit, and every commit that is bent in one place."""
    async with walk(dsn, config, seed) as each:
        pair = each.pair
        for cash, type_, credit in [
            ("30000", AccountType.CASH, "0"),
            ("0", AccountType.CASH, "0"),
            ("12000", AccountType.MARGIN, "9000"),
        ]:
            each.people.append(await pair.customer(cash, type_, credit))
        await each.run(STEPS)
        await compare_reads(pair)
        await compare_tables(pair)
        broken = {words.partition(":")[0].replace("_", " ") for words in pair.memory.verify()}
        assert broken == {finding.rule for finding in await verify(dsn) if finding.row is not None}
        assert not broken, pair.memory.verify()


def test_the_walks_came_through_the_rules() -> None:
    """A rule that nothing broke was not compared; `-s` shows how often each was."""
    rules = {each for each in seen if each.startswith(("refused", "stale"))}
    print(f"{len(rules)} rules: {dict(sorted(seen.items()))}")  # noqa: T201
    assert len(rules) >= RULES_MIN
    assert {f"stale: {key}" for key in (*_STALE_KEYS, "version")} <= rules
    assert {f"refused: {rule}" for rule in ESSENTIAL} <= rules
    assert seen["decided again"], "the second shard was never in the first one's way"
