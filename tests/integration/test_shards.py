"""The shard loop when things go wrong around it: on a real ledger, with a store that fails where it is told to."""

import asyncio
import copy
import math
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from uuid_utils.compat import uuid7

from broker.auth import new_key
from broker.batch import Booked, Cancelling, Overloaded, Placed, ReadAgain
from broker.config import Config
from broker.core import trading
from broker.core.conditions import Conditions, Policy
from broker.core.messages import (
    Advance,
    Anomaly,
    CancelTrade,
    EstimateTrade,
    Leg,
    MoveCash,
    PlaceTrade,
    Refusal,
    ReplaceTrade,
    Report,
    ReportType,
    TakeUp,
)
from broker.core.money import Money
from broker.core.types import AccountType, CustomerId, Fill, OrderClass, OrderType, Side, Symbol, Trade, TradeId
from broker.db import Database, DatabaseUnavailable, StaleAccounts
from broker.ledger import Ledger, TradeDirectory, open_customer
from broker.metrics import Metrics
from broker.shards import Shard, Unanswered
from broker.updates import Updates
from broker.verify import verify
from tests.builders import NOW, FixedControls, FixedMarket, dollars
from tests.conftest import eventually


class FaultyStore(Ledger):
    """A ledger that fails at the next commits as its `plan` says: before, after (the reply is lost), or for ever."""

    plan: Sequence[str] = ()
    down = False
    commits = 0

    async def commit(self, now: datetime, claims: Mapping[CustomerId, int], events: Sequence[Any]) -> None:
        self.commits += 1
        step, self.plan = (self.plan[0], self.plan[1:]) if self.plan else ("", ())
        if self.down or step == "before":
            raise DatabaseUnavailable("the connection was lost before the commit")
        await super().commit(now, claims, events)
        if step == "after":
            raise DatabaseUnavailable("the connection was lost after the commit")


class RecordingDesk:
    """Writes down what the shard wants of the exchange."""

    def __init__(self) -> None:
        self.sent: list[TradeId] = []
        self.watched: list[TradeId] = []
        self.held: list[TradeId] = []
        self.cancels: list[TradeId] = []
        self.over: list[TradeId] = []
        self.strays: list[TradeId] = []
        self.trades: dict[TradeId, Trade] = {}

    def send(self, trade: Trade, since: float) -> None:
        self.sent.append(trade.trade_id)
        self.trades[trade.trade_id] = trade

    def hold(self, trade: Trade) -> None:
        self.held.append(trade.trade_id)

    def cancel(self, trade: Trade) -> None:
        self.cancels.append(trade.trade_id)

    def watch(self, trade: Trade) -> None:
        self.watched.append(trade.trade_id)
        self.trades[trade.trade_id] = trade

    def look_soon(self, trade_id: TradeId) -> None:
        raise AssertionError("nobody counts executions that we have not seen")

    def look_for_stray(self, trade: Trade) -> None:
        self.strays.append(trade.trade_id)

    def done(self, trade_id: TradeId) -> None:
        self.over.append(trade_id)


RETRIES = "broker_commit_retries_total", {"why": "unavailable"}


class Bench:
    """A shard at work, and its surroundings."""

    def __init__(self, database: Database, config: Config) -> None:
        self.database = database
        self.store = FaultyStore(database, 0, uuid7, NOW.date)
        self.desk = RecordingDesk()
        self.market = FixedMarket({"AAPL": "190.20"})
        self.metrics = Metrics()
        self.updates = Updates()
        self.controls = FixedControls()
        self.restricted: list[CustomerId] = []
        self.shard = Shard(
            0,
            self.store,
            self.desk,
            self.updates,
            self.conditions,
            lambda customer, _: self.restricted.append(customer),
            config,
            self.metrics,
        )

    def conditions(self) -> Conditions:
        return Conditions(datetime.now(UTC), self.market, self.controls, Policy())

    async def customer(self, cash: str = "100000") -> CustomerId:
        key = new_key()
        stored = key.key_id, key.secret_hash
        cash_type = AccountType.CASH
        return await open_customer(self.database, "x", cash_type, stored, dollars(cash), uuid7(), Money(0), NOW)

    def place(self, customer: CustomerId, quantity: int = 1, **fields: Any) -> asyncio.Future[Placed]:
        command = PlaceTrade(TradeId(uuid7()), customer, Symbol("AAPL"), Side.BUY, quantity, **fields)
        return self.shard.submit(customer, command)

    def fill(self, trade: Trade, execution_id: str | None = None, price: str = "190") -> asyncio.Future[None]:
        id_ = execution_id or f"{trade.trade_id}-1"
        figures = Fill(trade.quantity, dollars(price))
        report = Report(trade.trade_id, ReportType.FILLED, "sim", id_, figures, trade.quantity)
        return self.shard.submit(trade.customer_id, report)

    async def fetch(self, sql: str) -> list[asyncpg.Record]:
        connection = await asyncpg.connect(self.database.dsn, server_settings={"search_path": "broker"})
        try:
            return await connection.fetch(sql)
        finally:
            await connection.close()

    async def all_filled(self) -> None:
        """Fill whatever is sent until nothing is open."""
        while await self.fetch("SELECT FROM trade WHERE status IN ('PLACED', 'IN PROGRESS')"):
            for trade in [trade for id_, trade in self.desk.trades.items() if id_ not in self.desk.over]:
                await self.fill(trade)

    async def gives_up(self, retries: int = 1) -> None:
        """All who wait hear that there is no answer, after the database was away for so many commits."""

        async def retried() -> bool:
            return (self.metrics.registry.get_sample_value(*RETRIES) or 0) >= retries

        await eventually(retried)
        self.shard.expire(math.inf)

    async def books_are_right(self) -> None:
        assert not [finding for finding in await verify(self.database.dsn) if finding.row]


@asynccontextmanager
async def at_work(dsn: str, **settings: Any) -> AsyncIterator[Bench]:
    """Nobody waits too long for an answer, however busy the machine is, unless the test says so: see `gives_up`."""
    config = Config(**{"database": dsn, "shards": 1, "place_wait_s": 60.0} | settings)
    database = Database(dsn, config)
    await database.open()
    bench = Bench(database, config)
    tasks = [asyncio.create_task(bench.shard.run()), asyncio.create_task(expire(bench.shard))]
    try:
        yield bench
        assert not tasks[0].done(), tasks[0].exception()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await bench.store.close()
        await database.close()


async def expire(shard: Shard) -> None:
    while True:
        await asyncio.sleep(0.01)
        shard.expire(asyncio.get_running_loop().time())


@pytest.fixture
async def bench(dsn: str) -> AsyncIterator[Bench]:
    async with at_work(dsn) as bench:
        yield bench
        await bench.books_are_right()


@pytest.mark.parametrize("plan", [["before"], ["after"], ["before", "after", "before"]])
async def test_a_lost_commit_is_looked_up_and_done_exactly_once(plan: list[str], bench: Bench) -> None:
    customer = await bench.customer()
    bench.store.plan = plan
    placed = await bench.place(customer)
    assert [row["trade_id"] for row in await bench.fetch("SELECT trade_id FROM trade")] == [placed.trade.trade_id]
    # Either it was sent after its commit, or, where the reply was lost, it is asked about.
    assert {*bench.desk.sent, *bench.desk.watched} == {placed.trade.trade_id}
    bench.store.plan = plan
    await bench.fill(bench.desk.trades[placed.trade.trade_id])
    assert [row["status"] for row in await bench.fetch("SELECT status FROM trade")] == ["FILLED"]


async def test_a_lost_commit_of_many_keeps_their_order(bench: Bench) -> None:
    customer = await bench.customer()
    bench.store.plan = ["after", "before", "after", "before"]
    placed = await asyncio.gather(*(bench.place(customer) for _ in range(100)))
    assert [each.trade.seq for each in placed] == list(range(1, 101))
    await bench.all_filled()


async def test_cash_is_booked_once_whatever_happens_to_the_commit(bench: Bench) -> None:
    customer = await bench.customer("0")
    bench.store.plan = ["after", "before"]
    booked = await bench.shard.submit(customer, MoveCash(customer, Money(50_000), "ref-1"))
    assert isinstance(booked, Booked)
    again = await bench.shard.submit(customer, MoveCash(customer, Money(50_000), "ref-1"))
    assert (again.moved, again.replayed) == (booked.moved, True)
    too_much = await bench.shard.submit(customer, MoveCash(customer, Money(-50_001), "ref-2"))
    assert too_much.refusal is Refusal.INSUFFICIENT_FUNDS
    assert [row["amount"] for row in await bench.fetch("SELECT amount FROM balances")] == [50_000]


async def test_a_reference_is_booked_once_for_all_customers_and_shards(dsn: str) -> None:
    async with at_work(dsn) as one, at_work(dsn) as other:
        customers = await one.customer("0"), await other.customer("0")
        for number in range(20):
            booked = await asyncio.gather(
                *(
                    worker.shard.submit(customer, MoveCash(customer, Money(amount), f"ref-{number}"))
                    for worker, customer, amount in zip((one, other), customers, (7, 9), strict=True)
                )
            )
            assert booked[0].moved == booked[1].moved, "both booked it"
            assert [each.replayed for each in booked].count(False) == 1
        assert len(await one.fetch("SELECT FROM transfer")) == 20
        await one.books_are_right()


async def test_two_workers_that_both_believe_they_own_a_customer_cannot_break_its_money(dsn: str) -> None:
    async with at_work(dsn) as one, at_work(dsn) as other:
        customer = await one.customer("1000")
        workers = (one, other)
        await asyncio.gather(*(workers[i % 2].place(customer) for i in range(60)))

        async def fill_everything(worker: Bench) -> None:
            while await worker.fetch("SELECT FROM trade WHERE status IN ('PLACED', 'IN PROGRESS')"):
                known = {**one.desk.trades, **other.desk.trades}
                for trade in [trade for id_, trade in known.items() if id_ not in worker.desk.over]:
                    await worker.fill(trade)

        await asyncio.gather(*map(fill_everything, workers))
        filled = await one.fetch("SELECT seq FROM trade WHERE status = 'FILLED' ORDER BY seq")
        assert len(filled) == 5  # $1,000.00 pays for five at $190.00
        conflicts = sum(
            worker.metrics.registry.get_sample_value("broker_commit_retries_total", {"why": "stale"}) or 0
            for worker in workers
        )
        assert conflicts > 0, "they never met"
        await one.books_are_right()


async def test_31_what_contradicts_only_an_outdated_memory_is_no_anomaly(dsn: str) -> None:
    """One that was held up hears once more of a fill of an order that, as far as it knows, was never sent."""
    async with at_work(dsn) as held_up, at_work(dsn) as successor:
        customer = await held_up.customer()
        first, second = await asyncio.gather(held_up.place(customer), held_up.place(customer))
        await successor.fill(first.trade)  # ... and sends the second
        assert successor.desk.sent == [second.trade.trade_id]
        await successor.fill(second.trade)
        await held_up.fill(second.trade)
        assert [row["status"] for row in await held_up.fetch("SELECT status FROM trade")] == ["FILLED", "FILLED"]
        assert not await held_up.fetch("SELECT FROM inbox")
        await held_up.books_are_right()


async def test_a_poisoned_command_stops_nobody_else(bench: Bench) -> None:
    customers = [await bench.customer() for _ in range(5)]
    placed = await asyncio.gather(*(bench.place(customer) for customer in customers))
    trades = [bench.desk.trades[each.trade.trade_id] for each in placed]
    await bench.fill(trades[0], execution_id="shared")
    # Another trade claims the same execution: the database refuses that one, and only that one.
    await asyncio.gather(bench.fill(trades[1], execution_id="shared"), *map(bench.fill, trades[2:]))
    rows = await bench.fetch("SELECT status, count(*) AS trades FROM trade GROUP BY status ORDER BY status")
    assert [tuple(row) for row in rows] == [("IN PROGRESS", 1), ("FILLED", 4)]
    assert [row["cause"] for row in await bench.fetch("SELECT cause FROM inbox")] == [Anomaly.REFUSED_BY_DATABASE.value]
    await bench.fill(trades[1])  # what the exchange says next about it still counts
    assert len(await bench.fetch("SELECT FROM trade WHERE status = 'FILLED'")) == 5


async def test_while_the_database_is_away_nothing_is_half_done(dsn: str) -> None:
    async with at_work(dsn) as bench:
        customer = await bench.customer()
        bench.store.down = True
        waiting = [bench.place(customer) for _ in range(10)]
        await bench.gives_up()
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(result) for result in results] == [Unanswered] * 10
        bench.store.down = False
        placed = await bench.place(customer)
        assert placed.trade.seq == 1, "what was answered 503 came back later"
        await bench.all_filled()
        await bench.books_are_right()


async def test_a_full_queue_refuses_at_once(dsn: str) -> None:
    async with at_work(dsn, shard_queue_max=5) as bench:
        customer = await bench.customer()
        waiting = [bench.place(customer) for _ in range(5)]
        with pytest.raises(Overloaded):
            bench.place(customer)
        report = Report(TradeId(uuid4()), ReportType.FILLED, "sim", "e", Fill(1, dollars("1")), 1)
        waiting.append(bench.shard.submit(customer, report))  # what the exchange says has room of its own
        await asyncio.gather(*waiting)


async def test_one_customer_cannot_fill_the_memory(dsn: str) -> None:
    async with at_work(dsn, customer_open_max=3) as bench:
        customer, other = await bench.customer(), await bench.customer()
        results = await asyncio.gather(*(bench.place(customer) for _ in range(10)), return_exceptions=True)
        assert [type(result) for result in results].count(Overloaded) >= 6
        assert isinstance(await bench.place(other), Placed)


async def test_a_long_run_of_refusals_goes_on_over_batches(dsn: str) -> None:
    async with at_work(dsn, batch_max=10) as bench:
        customer = await bench.customer("200")
        placed = await asyncio.gather(*(bench.place(customer) for _ in range(101)))
        await bench.fill(bench.desk.trades[placed[0].trade.trade_id])
        await bench.all_filled()
        rows = await bench.fetch("SELECT status, count(*) AS trades FROM trade GROUP BY status ORDER BY status")
        assert [tuple(row) for row in rows] == [("FILLED", 1), ("REJECTED", 100)]
        await bench.books_are_right()


async def test_accounts_leave_the_cache_and_come_back(dsn: str) -> None:
    async with at_work(dsn, account_cache_max=2) as bench:
        customers = [await bench.customer() for _ in range(8)]
        for _ in range(2):
            for customer in customers:
                placed = await bench.place(customer)
                await bench.fill(bench.desk.trades[placed.trade.trade_id])
        assert len(bench.shard._memory.accounts) <= 3
        assert [
            row["last"] for row in await bench.fetch("SELECT max(seq) AS last FROM trade GROUP BY customer_id")
        ] == [2] * 8
        await bench.books_are_right()


async def test_nobody_hears_of_a_trade_before_its_commit(bench: Bench) -> None:
    customer = await bench.customer()
    released, committing = asyncio.Event(), asyncio.Event()
    commit = bench.store.commit

    async def held_back(*arguments: Any) -> None:
        committing.set()
        await released.wait()
        await commit(*arguments)

    bench.store.commit = held_back  # type: ignore[method-assign]
    answer = bench.place(customer)
    await committing.wait()
    assert (answer.done(), bench.desk.sent) == (False, [])
    released.set()
    assert (await answer).trade.trade_id in bench.desk.sent


async def test_repeats_of_a_finished_trade_cost_no_query_and_change_nothing(bench: Bench) -> None:
    customer = await bench.customer()
    placed = await bench.place(customer)
    trade = bench.desk.trades[placed.trade.trade_id]
    await bench.fill(trade)
    commits = bench.store.commits
    for _ in range(5):
        await bench.fill(trade)
    assert bench.store.commits == commits
    assert bench.metrics.registry.get_sample_value("broker_duplicate_callbacks_total") == 5
    replacement = Bench(bench.database, replace(Config(), shards=1))  # after a restart it is read from the database
    task = asyncio.create_task(replacement.shard.run())
    await replacement.fill(trade)
    task.cancel()
    await replacement.store.close()
    assert len(await bench.fetch("SELECT FROM execution")) == 1


async def test_an_end_whose_commit_was_not_answered_ends_at_the_desk_too(bench: Bench) -> None:
    customer = await bench.customer()
    placed = await bench.place(customer)
    bench.store.plan = ["after"]
    await bench.fill(bench.desk.trades[placed.trade.trade_id])
    assert bench.desk.over == [placed.trade.trade_id], "it would be asked about for ever, or even sent again"


async def test_a_commit_that_lands_after_its_client_was_told_503_is_fenced_off(dsn: str) -> None:
    """The server works on for a while on what we gave up: either it is in time to be seen, or it fails."""
    async with at_work(dsn) as bench:
        customer = await bench.customer()
        fenced = asyncio.Event()
        commit, late = bench.store.commit, Ledger(bench.database, 0, uuid7, NOW.date)
        landed: list[asyncio.Task[None]] = []

        async def land(*arguments: Any) -> None:
            await fenced.wait()
            await late.commit(*arguments)

        async def given_up(now: datetime, claims: Mapping[CustomerId, int], events: Sequence[Any]) -> None:
            bench.store.commit = commit  # type: ignore[method-assign]
            landed.append(asyncio.create_task(land(now, dict(claims), copy.deepcopy(list(events)))))
            bench.shard.expire(math.inf)
            raise DatabaseUnavailable("TimeoutError")

        bench.store.commit = given_up  # type: ignore[method-assign]
        with pytest.raises(Unanswered):
            await bench.place(customer)
        await eventually(lambda: _now(bench.shard.at_rest))
        fenced.set()
        with pytest.raises(StaleAccounts):
            await landed[0]
        await late.close()
        assert not await bench.fetch("SELECT FROM trade")


async def test_a_trade_that_another_worker_started_is_read_again(dsn: str) -> None:
    async with at_work(dsn) as one, at_work(dsn) as other:
        customer = await one.customer()
        first, second = [(await other.place(customer)).trade for _ in range(2)]  # the other one: at work, waiting
        await one.fill(copy.deepcopy(first))  # this one ends the first and starts the second
        await other.fill(copy.deepcopy(second))  # ... whose callback comes to the other one
        assert [row["status"] for row in await one.fetch("SELECT status FROM trade")] == ["FILLED", "FILLED"]
        await one.books_are_right()


async def test_a_finished_trade_is_forgotten_with_its_account(dsn: str) -> None:
    """Another worker may have changed both since: one is not read again without the other."""
    async with at_work(dsn, account_cache_max=1) as one, at_work(dsn) as other:
        customer = await one.customer()
        trade = (await one.place(customer)).trade
        await one.fill(copy.deepcopy(trade), "e1")
        for _ in range(3):  # the account leaves the cache
            await one.place(await one.customer(cash="1"))
        assert customer not in one.shard._memory.accounts
        await other.shard.submit(customer, Report(trade.trade_id, ReportType.BUSTED, "sim", "e1"))
        await one.shard.submit(customer, MoveCash(customer, dollars("1"), "a gift"))  # ... and comes back
        late = Report(trade.trade_id, ReportType.FILLED, "sim", "e2", Fill(1, dollars("190")), 2)
        await one.shard.submit(customer, late)
        steps = await one.fetch(f"SELECT step FROM event WHERE trade_id = '{trade.trade_id}' ORDER BY number")
        assert [row["step"] for row in steps][-2:] == ["busted", "suspense"]
        assert one.metrics.registry.get_sample_value(RETRIES[0], {"why": "refused"}) == 0
        await one.books_are_right()


async def test_what_another_worker_holds_back_is_watched_by_all(dsn: str) -> None:
    """The one that placed a trailing stop may be gone for good; recovery finds that its account has moved on."""
    async with at_work(dsn) as first, at_work(dsn) as second:
        customer = await first.customer()
        await second.place(customer, order_type=OrderType.LIMIT, limit_price=dollars("100"))
        trailing = first.place(customer, order_type=OrderType.TRAILING_STOP, trail_amount=dollars("5"))
        stop = (await trailing).trade
        assert (first.desk.held, second.desk.held) == ([], []), "its turn comes when the limit order rests"
        await first.shard.submit(customer, Report(next(iter(second.desk.trades)), ReportType.ACCEPTED, "sim"))
        assert first.desk.held == [stop.trade_id]
        versions = await TradeDirectory(second.database).customers_with_open_trades()
        await second.shard.submit(customer, Advance(customer))
        assert second.desk.held == []
        await second.shard.submit(customer, Advance(customer, versions[customer]))
        assert second.desk.held == [stop.trade_id]


async def test_isolation_keeps_the_order_when_the_database_falters_in_it(bench: Bench) -> None:
    customers = [await bench.customer() for _ in range(3)]
    one, two = [bench.desk.trades[(await bench.place(customer)).trade.trade_id] for customer in customers[:2]]
    await bench.fill(one, execution_id="shared")
    poison = bench.fill(two, execution_id="shared")
    bench.store.plan = ["", "", "before", "before", "", "before"]
    placed = await asyncio.gather(poison, *(bench.place(customers[2], quantity) for quantity in range(1, 8)))
    assert [each.trade.seq for each in placed[1:]] == list(range(1, 8))


async def test_a_read_only_database_is_one_that_is_away(dsn: str) -> None:
    async with at_work(dsn) as bench:
        customer = await bench.customer()
        trade = (await bench.place(customer)).trade
        name = (await bench.fetch("SELECT current_database()"))[0][0]
        owner = await asyncpg.connect(dsn)
        others = """
            SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
            WHERE datname = $1 AND pid <> pg_backend_pid()
        """
        await owner.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        await owner.fetch(others, name)
        attempts = bench.fill(trade), bench.place(customer)
        await bench.gives_up(retries=3)  # the first one may be of the connection that was cut
        for attempt in attempts:
            with pytest.raises(Unanswered):
                await attempt
        await owner.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = off")
        await owner.fetch(others, name)
        await owner.close()
        await bench.fill(trade)
        assert [row["status"] for row in await bench.fetch("SELECT status FROM trade")] == ["FILLED"]


async def test_a_trade_that_breaks_a_rule_of_ours_is_tried_again_later(dsn: str) -> None:
    async with at_work(dsn, poison_pause_s=0.1) as bench:
        customer = await bench.customer()
        bench.market.asks[Symbol("AAPL")] = Money(0)  # the feed refuses that: here it stands for any bug in a decision
        placed = await bench.place(customer)
        assert [row["status"] for row in await bench.fetch("SELECT status FROM trade")] == ["PLACED"]
        bench.market.asks[Symbol("AAPL")] = dollars("190.20")
        await eventually(lambda: _now(placed.trade.trade_id in bench.desk.sent))
        await bench.all_filled()
        await bench.books_are_right()


async def _now(value: bool) -> bool:
    return value


async def test_the_refusals_of_many_customers_go_out_in_commits_of_bounded_size(dsn: str) -> None:
    async with at_work(dsn, batch_max=16) as bench:
        customers = [await bench.customer("200") for _ in range(16)]
        sizes: list[int] = []
        commit = bench.store.commit

        async def measured(now: datetime, claims: Mapping[CustomerId, int], events: Sequence[Any]) -> None:
            sizes.append(len(events))
            await commit(now, claims, events)

        bench.store.commit = measured  # type: ignore[method-assign]
        await asyncio.gather(*(bench.place(customer) for customer in customers for _ in range(20)))
        await bench.all_filled()
        await eventually(lambda: _none_open(bench))
        assert max(sizes) <= 16 + 2 * 16
        await bench.books_are_right()


async def _none_open(bench: Bench) -> bool:
    return not await bench.fetch("SELECT FROM trade WHERE status IN ('PLACED', 'IN PROGRESS')")


# ------------------------------------------------------------------ cancel and replace


async def resting(bench: Bench, customer: CustomerId, price: str = "100") -> Trade:
    """A limit order for 10 AAPL that the exchange has."""
    command = PlaceTrade(
        *(TradeId(uuid7()), customer, Symbol("AAPL"), Side.BUY, 10),
        order_type=OrderType.LIMIT,
        limit_price=dollars(price),
    )
    placed = await bench.shard.submit(customer, command)
    await bench.shard.submit(customer, said(placed.trade, ReportType.ACCEPTED))
    return placed.trade


def said(trade: Trade, type_: ReportType) -> Report:
    return Report(trade.trade_id, type_, "sim")


def reprice(old: Trade, price: str) -> ReplaceTrade:
    return ReplaceTrade(TradeId(uuid7()), old.customer_id, old.trade_id, limit_price=dollars(price))


@pytest.mark.parametrize("plan", [["after"], ["before"], ["after", "after"], ["before", "after"]])
async def test_a_lost_commit_of_a_replacement_is_done_exactly_once(bench: Bench, plan: list[str]) -> None:
    customer = await bench.customer("1000")
    old = await resting(bench, customer)
    command = reprice(old, "90")
    bench.store.plan = plan
    placed = await bench.shard.submit(customer, command)
    assert placed.trade.trade_id == command.trade_id
    await bench.shard.submit(customer, said(placed.trade, ReportType.ACCEPTED))
    rows = await bench.fetch("SELECT status::text, hold, replaces FROM trade ORDER BY seq")
    assert [tuple(row) for row in rows] == [
        ("REPLACED", 0, None),
        ("IN PROGRESS", dollars("900"), old.trade_id),
    ]
    assert bench.desk.over == [old.trade_id]


@pytest.mark.parametrize("plan", [["after"], ["before"], ["after", "after"]])
async def test_a_lost_commit_of_a_cancel_is_done_exactly_once_and_reaches_the_exchange(
    bench: Bench, plan: list[str]
) -> None:
    customer = await bench.customer()
    trade = await resting(bench, customer)
    bench.store.plan = plan
    outcome = await bench.shard.submit(customer, CancelTrade(customer, trade.trade_id))
    assert isinstance(outcome, Cancelling)
    asked = bench.desk.cancels == [trade.trade_id] or bench.desk.trades[trade.trade_id].cancel_requested
    assert asked, "found requested in the database when it watches the trade again, the desk asks for it"
    await bench.shard.submit(customer, said(trade, ReportType.CANCELLED))
    steps = await bench.fetch("SELECT step::text FROM event ORDER BY number")
    assert [row["step"] for row in steps] == ["placed", "started", "accepted", "cancel_requested", "ended"]


async def test_a_customer_with_resting_orders_goes_on_after_its_account_was_read_again(bench: Bench) -> None:
    """A restart, or a commit that failed: resting orders do not hold up the queue then either."""
    customer = await bench.customer()
    await resting(bench, customer)
    bench.store.plan = ["before"]
    placed = await bench.place(customer)
    assert placed.trade.trade_id in bench.desk.sent
    second = await bench.place(customer)
    assert second.trade.trade_id not in bench.desk.sent, "a market order waits for the one before it"


async def test_an_estimate_writes_nothing(bench: Bench) -> None:
    customer = await bench.customer()
    before = bench.store.commits
    order = PlaceTrade(TradeId(uuid7()), customer, Symbol("AAPL"), Side.BUY, 10)
    estimate = await bench.shard.submit(customer, EstimateTrade(order))
    assert (estimate.cost, estimate.refusals) == (dollars("1902"), [])
    assert bench.store.commits == before
    assert (await bench.fetch("SELECT version, held FROM account WHERE owner_id > 0"))[0]["held"] == 0


async def test_what_the_exchange_took_back_and_the_customer_has_not_restricts_it(bench: Bench) -> None:
    customer = await bench.customer("200")
    placed = await bench.place(customer)
    await bench.fill(placed.trade, "e1", "190")
    sold = await bench.shard.submit(customer, PlaceTrade(TradeId(uuid7()), customer, Symbol("AAPL"), Side.SELL, 1))
    await bench.fill(sold.trade, "e2", "190")
    bust = Report(placed.trade.trade_id, ReportType.BUSTED, "sim", "e1")
    bench.store.plan = ["after"]
    await bench.shard.submit(customer, bust)
    await bench.shard.submit(customer, bust)
    control = await bench.fetch("SELECT scope, reason FROM control")
    assert [row["scope"] for row in control] == [f"customer:{customer}"]
    assert "1 AAPL are owed" in control[0]["reason"]
    assert (await bench.fetch("SELECT count(*) FROM bust"))[0][0] == 1
    owed = await bench.fetch("SELECT balance FROM account WHERE owner_id = -4 AND asset = 'AAPL'")
    assert owed[0]["balance"] == -1


@pytest.mark.parametrize("plan", [["before"], ["after"]])
async def test_a_late_word_about_a_finished_trade_survives_a_lost_commit(bench: Bench, plan: list[str]) -> None:
    """The trade among the recent ones was changed by the attempt that failed: it is read again."""
    customer = await bench.customer("1000")
    placed = await bench.place(customer)
    await bench.fill(placed.trade, "e1", "190")
    bench.store.plan = plan
    bust = Report(placed.trade.trade_id, ReportType.BUSTED, "sim", "e1")
    await bench.shard.submit(customer, bust)
    assert (await bench.fetch("SELECT count(*) FROM bust"))[0][0] == 1
    late = Report(placed.trade.trade_id, ReportType.FILLED, "sim", "e2", Fill(1, dollars("190")), 2)
    bench.store.plan = plan
    await bench.shard.submit(customer, late)
    assert [row["suspense"] for row in await bench.fetch("SELECT suspense FROM execution ORDER BY at")] == [False, True]
    await bench.books_are_right()


async def test_of_a_bust_that_overtakes_its_execution_the_exchange_is_to_be_asked(bench: Bench) -> None:
    customer = await bench.customer("1000")
    placed = await bench.place(customer)
    bust = Report(placed.trade.trade_id, ReportType.BUSTED, "sim", "e1")
    assert await bench.shard.submit(customer, bust) is True
    await bench.fill(placed.trade, "e1", "190")
    assert await bench.shard.submit(customer, bust) is False


async def test_what_the_exchange_has_open_after_its_end_here_is_looked_for(bench: Bench) -> None:
    customer = await bench.customer("1000")
    trade = (await bench.place(customer)).trade
    await bench.shard.submit(customer, said(trade, ReportType.ACCEPTED))
    assert bench.desk.strays == []
    await bench.shard.submit(customer, said(trade, ReportType.CANCELLED))
    assert bench.desk.strays == []
    await bench.shard.submit(customer, said(trade, ReportType.ACCEPTED))
    assert bench.desk.strays == [trade.trade_id]
    late = Report(trade.trade_id, ReportType.PARTIALLY_FILLED, "sim", "e1", Fill(1, dollars("190")), 1)
    await bench.shard.submit(customer, late)
    assert bench.desk.strays == [trade.trade_id] * 2
    await bench.shard.submit(customer, late)  # which is known now: else it would be looked for as long as it is told
    await bench.shard.submit(customer, replace(said(trade, ReportType.ACCEPTED), venue="other"))
    assert bench.desk.strays == [trade.trade_id] * 2


async def test_an_end_that_counts_less_than_was_executed_is_asked_about(bench: Bench) -> None:
    customer = await bench.customer("1000")
    trade = (await bench.place(customer, 3)).trade
    late = Report(trade.trade_id, ReportType.PARTIALLY_FILLED, "sim", "e2", Fill(2, dollars("190")), 3)
    await bench.shard.submit(customer, late)
    assert bench.desk.strays == []
    await bench.shard.submit(customer, replace(said(trade, ReportType.CANCELLED), filled_quantity=1))
    assert bench.desk.strays == [trade.trade_id]


async def test_of_a_filled_order_a_late_word_is_only_late(bench: Bench) -> None:
    customer = await bench.customer("1000")
    trade = (await bench.place(customer)).trade
    await bench.fill(trade)
    await bench.shard.submit(customer, said(trade, ReportType.ACCEPTED))
    assert bench.desk.strays == []


def given_up(trade: Trade) -> Report:
    return replace(said(trade, ReportType.CANCELLED), never_taken=True, order=trade)


async def test_what_another_broker_takes_up_is_not_ended_as_never_sent(dsn: str) -> None:
    async with at_work(dsn) as one, at_work(dsn) as other:
        customer = await one.customer("1000")
        trade = (await one.place(customer)).trade
        assert await other.shard.submit(customer, TakeUp(customer, trade.trade_id)) is False
        with pytest.raises(ReadAgain):
            await one.shard.submit(customer, given_up(trade))
        assert [row["status"] for row in await one.fetch("SELECT status FROM trade")] == ["IN PROGRESS"]
        assert await one.shard.submit(customer, said(trade, ReportType.CANCELLED)) is False  # the exchange's own word
        assert [row["status"] for row in await one.fetch("SELECT status FROM trade")] == ["CANCELLED"]


async def test_what_was_ended_as_never_sent_is_not_taken_up(dsn: str) -> None:
    async with at_work(dsn) as one, at_work(dsn) as other:
        customer = await one.customer("1000")
        placed = await one.place(customer)
        await other.shard.submit(customer, Advance(customer))  # it has it in memory, at work
        await one.shard.submit(customer, given_up(placed.trade))
        assert await other.shard.submit(customer, TakeUp(customer, placed.trade.trade_id)) is None


async def test_what_is_taken_up_says_whether_its_cancel_was_asked_for(bench: Bench) -> None:
    customer = await bench.customer("1000")
    trade = (await bench.place(customer)).trade
    await bench.shard.submit(customer, CancelTrade(customer, trade.trade_id))
    assert await bench.shard.submit(customer, TakeUp(customer, trade.trade_id)) is True


async def test_somebody_elses_trade_stops_no_shard(bench: Bench) -> None:
    """Another worker wrote the other customer, and this one names its trade."""
    mine, other = await bench.customer(), await bench.customer()
    await bench.place(other)
    late = Ledger(bench.database, 0, uuid7, NOW.date)
    account = (await late.load_accounts([other]))[other]
    world = bench.conditions()
    command = PlaceTrade(TradeId(uuid7()), other, Symbol("AAPL"), Side.BUY, 1)
    events = trading.place(account, command, world)
    for event in events:
        event.seq = account.next_event()
    await late.commit(datetime.now(UTC), {other: account.version}, events)
    await late.close()
    assert await bench.shard.submit(mine, CancelTrade(mine, command.trade_id)) is None


# ------------------------------------------------------------------ fail-over


async def test_a_house_account_that_a_new_primary_lacks_is_opened_again(bench: Bench) -> None:
    """What this process remembers as there was lost with the old primary's last commits."""
    bench.store._house_assets.update({(-1, "AAPL"), (-1, "USD")})
    trade = (await bench.place(await bench.customer())).trade
    await bench.fill(bench.desk.trades[trade.trade_id])
    assert [tuple(row) for row in await bench.fetch("SELECT status::text FROM trade")] == [("FILLED",)]
    assert await bench.fetch("SELECT FROM inbox") == []


# ------------------------------------------------------------------ one customer's trouble is nobody else's


def bracket(customer: CustomerId, quantity: int) -> PlaceTrade:
    legs = (
        Leg(TradeId(uuid7()), limit_price=dollars("300")),
        Leg(TradeId(uuid7()), stop_price=dollars("100")),
    )
    return PlaceTrade(
        TradeId(uuid7()),
        customer,
        Symbol("AAPL"),
        Side.BUY,
        quantity,
        order_class=OrderClass.BRACKET,
        legs=legs,
    )


async def test_a_hundred_refused_brackets_hold_up_nobody_else(bench: Bench) -> None:
    """Each is one step with three events: a batch may have more of those than it takes."""
    customer, other = await bench.customer("10000"), await bench.customer()
    first = await bench.place(customer)
    placed = [bench.shard.submit(customer, bracket(customer, 100)) for _ in range(100)]
    await asyncio.gather(*placed)  # they wait for their turn; each costs more than there is
    filled, placed_by_other = bench.fill(bench.desk.trades[first.trade.trade_id]), bench.place(other)
    await filled
    theirs = (await placed_by_other).trade.trade_id
    await eventually(lambda: is_sent(bench, theirs))

    async def all_refused() -> bool:
        rows = await bench.fetch(f"SELECT count(*) FROM trade WHERE customer_id = {customer} AND status = 'REJECTED'")
        return bool(rows[0]["count"] >= 100)

    await eventually(all_refused)
    assert not bench.metrics.registry.get_sample_value(RETRIES[0], {"why": "refused"})
    await bench.books_are_right()


async def is_sent(bench: Bench, trade_id: TradeId) -> bool:
    return trade_id in bench.desk.sent


async def test_whose_turn_cannot_be_decided_keeps_nobody_else_from_theirs(dsn: str) -> None:
    """The bug lies in what follows from the orders, not in the orders: each of these alone is taken."""
    async with at_work(dsn, poison_pause_s=0.2) as bench:
        poisoned, healthy, late = [await bench.customer() for _ in range(3)]
        bench.market.asks[Symbol("MSFT")] = Money(0)
        wrong = PlaceTrade(TradeId(uuid7()), poisoned, Symbol("MSFT"), Side.BUY, 1)
        _, placed = await asyncio.gather(bench.shard.submit(poisoned, wrong), bench.place(healthy))
        await eventually(lambda: is_sent(bench, placed.trade.trade_id))
        later = await bench.place(late)
        await eventually(lambda: is_sent(bench, later.trade.trade_id))
        before = bench.metrics.registry.get_sample_value(RETRIES[0], {"why": "refused"}) or 0
        await asyncio.sleep(1.0)
        after = bench.metrics.registry.get_sample_value(RETRIES[0], {"why": "refused"}) or 0
        assert 0 < after - before <= 12, "it is come back to, after a pause each time"
        assert wrong.trade_id not in bench.desk.sent


async def test_what_a_fill_ends_in_the_same_batch_is_known_to_who_cancels_it(bench: Bench) -> None:
    customer = await bench.customer()
    entry = await bench.shard.submit(customer, order := bracket(customer, 10))
    await bench.fill(bench.desk.trades[entry.trade.trade_id])
    take_profit, stop_loss = (leg.trade_id for leg in order.legs)
    exits = bench.fill(bench.desk.trades[take_profit], price="300")
    cancel = bench.shard.submit(customer, CancelTrade(customer, stop_loss))
    await exits
    assert (await cancel).trade_id == stop_loss
