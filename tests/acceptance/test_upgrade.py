"""From one schema version to the next while the broker of the version before goes on working, and back again.

The old broker is the last release before this schema, taken out of the repository's history. Where there is no history
(a checkout without one), its calls of commit_batch stand in for it: those have not changed.
"""

import asyncio
import json
import os
import shutil
import signal
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import date
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import aiohttp
import asyncpg
import pytest

import broker.schema
from broker.embedded import EmbeddedPostgres
from broker.schema import install
from broker.verify import verify
from tests.acceptance.system import BROKER, PATIENT
from tests.integration.test_schema import commit, event, figures, new_trade

ROOT = Path(__file__).parents[2]
V4 = Path(broker.schema.__file__).parent / "sql" / "migrate" / "schema_4.sql"
OLD_BROKER = ROOT / "tests" / "data" / "broker_of_schema_4.tar.xz"
"""The code at a4a66fe, the last commit with schema version 4: a checkout need not have the history."""
GAP_MAX_S = 5.0
"""A commit waits while the migration has its locks; the bound is wide, since what else runs here may hold it up."""


@pytest.fixture
async def fourth(postgres: EmbeddedPostgres) -> AsyncIterator[str]:
    """A database of version 4 with nothing in it."""
    name = f"fourth_{uuid4().hex[:8]}"
    await _execute(postgres.dsn, f"CREATE DATABASE {name}")
    dsn = postgres.dsn.replace("@/postgres", f"@/{name}")
    await _execute(dsn, V4.read_text("utf-8"))
    yield dsn
    await _execute(postgres.dsn, f"DROP DATABASE {name} WITH (FORCE)")


async def _execute(dsn: str, sql: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(sql)
    finally:
        await connection.close()


class Worker:
    """Commits trade after trade of one customer, as a shard of version 4 does."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self.customer = 0
        self.done: list[UUID] = []
        self.errors: list[str] = []
        self.longest_s = 0.0

    async def run(self, stop: asyncio.Event) -> None:
        """One commit after another, until told to stop; what fails in a way that a shard repeats is repeated."""
        settings = {"search_path": "broker", "role": "broker_runtime", "lock_timeout": "2000"}
        connection = await asyncpg.connect(self._dsn, server_settings=settings)
        key = f"k{uuid4().hex[:8]}"
        query = "SELECT create_customer('x', 'cash', $1, $2, 10000000, $3, -2, 0)"
        self.customer = await connection.fetchval(query, key, bytes(32), uuid4())
        loop = asyncio.get_running_loop()
        while not stop.is_set():
            id_, seq, began = uuid4(), len(self.done) + 1, loop.time()
            events = [
                (self.customer, 2 * seq - 1, id_, 1, "placed", "PLACED", "r", 0, 0, False, False, 5, None),
                (self.customer, 2 * seq, id_, 2, "ended", "CANCELLED", "r", 0, 0, False, False, 5, None),
            ]
            try:
                await commit(
                    connection,
                    claims=[(self.customer, seq - 1)],
                    placed=[new_trade(id_, self.customer, seq=seq, hold=0, status="CANCELLED")],
                    events=events,
                )
            except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError) as error:
                self.errors.append(repr(error))
                continue
            self.longest_s = max(self.longest_s, loop.time() - began)
            self.done.append(id_)
        await connection.close()

    async def reaches(self, most: int) -> None:
        """Wait for so many commits in all."""
        async with asyncio.timeout(30):
            while len(self.done) < most:
                await asyncio.sleep(0.005)


@asynccontextmanager
async def working(dsn: str, count: int) -> AsyncIterator[list[Worker]]:
    stop, workers = asyncio.Event(), [Worker(dsn) for _ in range(count)]
    async with asyncio.TaskGroup() as tasks:
        for each in workers:
            tasks.create_task(each.run(stop))
        try:
            yield workers
        finally:
            stop.set()


async def _everything_is_there(dsn: str, workers: list[Worker]) -> None:
    assert [finding for finding in await verify(dsn) if finding.row] == []
    connection = await asyncpg.connect(dsn, server_settings={"search_path": "broker"})
    rows = await connection.fetch("SELECT trade_id, customer_id FROM trade ORDER BY customer_id, seq")
    await connection.close()
    for each in workers:
        assert [row["trade_id"] for row in rows if row["customer_id"] == each.customer] == each.done


async def test_62_a_schema_changes_beside_a_working_broker_of_the_version_before(fourth: str) -> None:
    async with working(fourth, 4) as workers:
        for each in workers:
            await each.reaches(10)
        await install(fourth)
        before = [len(each.done) for each in workers]
        for each, count in zip(workers, before, strict=True):
            await each.reaches(count + 10)
    assert max(each.longest_s for each in workers) < GAP_MAX_S
    assert [error for each in workers for error in each.errors] == []
    await _everything_is_there(fourth, workers)
    connection = await asyncpg.connect(fourth, server_settings={"search_path": "broker"})
    for each in workers:
        links = await connection.fetch("SELECT seq, link FROM event WHERE customer_id = $1 ORDER BY seq", each.customer)
        outside = [row["link"] is None for row in links]
        assert outside == sorted(outside, reverse=True), "first those of before, then all that came after"
        assert not outside[-1]
    await connection.close()


def _ended(customer: int, seq: int, trade: UUID) -> tuple[Any, ...]:
    return (customer, seq, trade, 2, "ended", "CANCELLED", "r", 0, 0, False, False, 5, None)


@pytest.mark.parametrize("is_order", [True, False])
@pytest.mark.parametrize("held_at", ["account", "trade", "event", "margin_day", "control"])
async def test_62_the_migration_and_a_commit_of_the_version_before_never_wait_for_each_other(
    held_at: str, is_order: bool, fourth: str
) -> None:
    """The commit is stopped where it comes to a table, and the migration begins meanwhile; then both go on."""
    settings = {"search_path": "broker"}
    holder, old, new, watcher = [await asyncpg.connect(fourth, server_settings=settings) for _ in range(4)]
    query = "SELECT create_customer('x', 'margin', 'k', $1, 10000000, $2, -2, 5)"
    customer = await old.fetchval(query, bytes(32), uuid4())

    async def waits(connection: asyncpg.Connection) -> bool:
        query = "SELECT EXISTS (SELECT FROM pg_locks WHERE pid = $1 AND NOT granted)"
        return bool(await watcher.fetchval(query, connection.get_server_pid()))

    async def waits_or_is_done(connection: asyncpg.Connection, task: asyncio.Future[Any]) -> None:
        async with asyncio.timeout(30):
            while not task.done() and not await waits(connection):
                await asyncio.sleep(0.005)

    ids = [uuid4(), uuid4()]
    placed = [(*new_trade(id_, customer, seq=seq, hold=0)[:-1], 1) for seq, id_ in enumerate(ids, 1)]
    await commit(old, claims=[(customer, 0)], placed=placed[:1], events=[event(customer, 1, ids[0])])
    transaction = holder.transaction()
    await transaction.start()
    await holder.execute(f"LOCK TABLE {held_at} IN SHARE MODE")
    committing = asyncio.ensure_future(
        commit(
            old,
            claims=[(customer, 1)],
            opened=[(customer, "AAPL"), (-1, "$USD")],
            placed=placed[1:] if is_order else [],
            events=[event(customer, 2, ids[1])] if is_order else [_ended(customer, 2, ids[0])],
            settled=[] if is_order else [figures(ids[0], "CANCELLED", 0, 0, 0, events=2)],
            levels=[(customer, date(2026, 1, 5), 5)],
            controls=[(f"customer:{customer}", "r")],
        )
    )
    await waits_or_is_done(old, committing)
    assert not committing.done()
    text = f"BEGIN; {(V4.parent / '5.sql').read_text('utf-8')}; COMMIT"
    migrating = asyncio.ensure_future(new.execute(text))
    await waits_or_is_done(new, migrating)
    await transaction.rollback()
    await asyncio.wait_for(asyncio.gather(committing, migrating), 30)
    for each in (holder, old, new, watcher):
        await each.close()
    assert await _version(fourth) == 5
    assert [finding for finding in await verify(fourth) if finding.row] == []


async def test_63_a_migration_that_is_killed_half_way_has_done_nothing(fourth: str) -> None:
    """Killed at each of its statements in turn, under load; then it goes through."""
    async with working(fourth, 2) as workers:
        for number in (1, 3, 6, 10, 15, 20, 25):
            await _killed_at(fourth, number)
            assert await _version(fourth) == 4
        for each in workers:
            await each.reaches(len(each.done) + 3)
        await install(fourth)
    assert await _version(fourth) == 5
    await _everything_is_there(fourth, workers)


async def _killed_at(dsn: str, number: int) -> None:
    """Begin to migrate, and have the connection cut after this statement."""
    steps = (V4.parent / "5.sql").read_text("utf-8")
    statements = [each for each in _statements(steps) if each.strip()]
    assert len(statements) > 25
    connection = await asyncpg.connect(dsn)
    with suppress(asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):  # it has to wait: killed while it does
        await connection.execute("BEGIN; SET LOCAL lock_timeout = '1s'; " + ";".join(statements[:number]))
    pid = connection.get_server_pid()
    await _execute(dsn, f"SELECT pg_terminate_backend({pid})")
    connection.terminate()


def _statements(text: str) -> list[str]:
    """The statements of a file; a semicolon within $$ is none's end."""
    statements, inside = [""], False
    for number, part in enumerate(text.split("$$")):
        inside = number % 2 == 1
        if inside:
            statements[-1] += f"$${part}$$"
            continue
        without = "\n".join(line.partition("--")[0] for line in part.splitlines())
        first, *others = without.split(";")
        statements[-1] += first
        statements += others
    return statements


async def _version(dsn: str) -> int:
    connection = await asyncpg.connect(dsn)
    try:
        return int(await connection.fetchval("SELECT max(version) FROM broker.schema_version"))
    finally:
        await connection.close()


async def test_64_a_broker_starts_on_a_newer_schema_that_says_that_it_works_with_it(dsn: str) -> None:
    await _execute(dsn, "INSERT INTO broker.schema_version (version, works_with) VALUES (6, 5)")
    await install(dsn)
    assert await _version(dsn) == 6


# ------------------------------------------------------------------ the old broker itself


@pytest.fixture(scope="module")
def old_code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The old broker's code."""
    folder = tmp_path_factory.mktemp("old_broker")
    shutil.unpack_archive(OLD_BROKER, folder)
    return folder


@asynccontextmanager
async def serving(dsn: str, folder: Path, code: Path | None = None) -> AsyncIterator[dict[str, Any]]:
    """A broker as a process: of this version, or of other code."""
    program = [str(BROKER)] if code is None else [sys.executable, "-m", "broker"]
    environment = {**os.environ, "BROKER_LOG_LEVEL": "error", "BROKER_ADMIN_TOKEN": "t" * 40}
    flags = ["serve", "--port", "0", "--data", str(folder), "--database", dsn, "--json", "--demo", "2", *PATIENT]
    with (folder / "log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            *program, *flags, stdout=PIPE, stderr=log, cwd=code or ROOT, env=environment, limit=2**22
        )
    try:
        assert process.stdout is not None
        line = await asyncio.wait_for(process.stdout.readline(), 60)
        assert line, (folder / "log").read_text()[-2000:]
        yield json.loads(line)
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(process.wait(), 30)


class Trader:
    """Somebody who places orders one after another at a broker, and knows what was acknowledged."""

    def __init__(self, ready: dict[str, Any]) -> None:
        self._url, self._token = ready["url"], ready["customers"][0]["token"]
        self.customer_id = ready["customers"][0]["customerId"]
        self.acknowledged: list[str] = []
        self.refused: list[Any] = []

    async def run(self, stop: asyncio.Event) -> None:
        """Place, until told to stop."""
        headers = {"Authorization": f"Bearer {self._token}"}
        async with aiohttp.ClientSession(headers=headers) as http:
            while not stop.is_set():
                order = {"stockTicker": "AAPL", "type": "BUY", "quantity": 1}
                async with http.post(f"{self._url}/api/v1/trades", json=order) as response:
                    answer = await response.json()
                    if response.status == 201:
                        self.acknowledged.append(answer["tradeId"])
                    else:
                        self.refused.append((response.status, answer))

    async def reaches(self, most: int) -> None:
        """Wait for so many in all."""
        async with asyncio.timeout(60):
            while len(self.acknowledged) < most:
                await asyncio.sleep(0.005)


async def test_62_64_an_old_broker_goes_on_beside_a_new_one_and_may_come_back(
    fourth: str, old_code: Path, tmp_path: Path
) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "new").mkdir()
    stop = asyncio.Event()
    async with serving(fourth, tmp_path / "old", old_code) as old, asyncio.TaskGroup() as tasks:
        trader = Trader(old)
        tasks.create_task(trader.run(stop))
        await trader.reaches(5)
        assert await _version(fourth) == 4
        async with serving(fourth, tmp_path / "new"):
            await trader.reaches(len(trader.acknowledged) + 10)
            assert await _version(fourth) == 5
        stop.set()
    assert trader.refused == []
    # Back again: what is new in the database does not disturb the old broker, once it may start.
    await _execute(fourth, "DELETE FROM broker.schema_version WHERE version = 5")
    await _execute(
        fourth, "INSERT INTO broker.api_key (key_id, secret_hash, scopes) VALUES ('o', sha256(''), '{admin}')"
    )
    async with serving(fourth, tmp_path / "old", old_code) as old:
        stop, again = asyncio.Event(), Trader(old)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(again.run(stop))
            await again.reaches(5)
            stop.set()
    await _execute(fourth, "INSERT INTO broker.schema_version (version, works_with) VALUES (5, 4)")
    async with serving(fourth, tmp_path / "new"):
        connection = await asyncpg.connect(fourth, server_settings={"search_path": "broker"})
        async with asyncio.timeout(30):
            while await connection.fetchval("SELECT count(*) FROM trade WHERE ended_at IS NULL"):
                await asyncio.sleep(0.05)
        known = {str(row["trade_id"]) for row in await connection.fetch("SELECT trade_id FROM trade")}
        outside = await connection.fetchval("SELECT count(*) FROM event WHERE link IS NULL")
        await connection.close()
    assert set(trader.acknowledged) | set(again.acknowledged) <= known
    assert outside > 0
    assert [finding for finding in await verify(fourth) if finding.row] == []
