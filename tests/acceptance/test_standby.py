"""A primary and a standby that has to have every commit: nothing acknowledged is lost when the primary is."""

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit
from uuid import uuid4

import asyncpg
import pytest
import structlog

from broker.config import Config
from broker.db import Database, DatabaseUnavailable, Session
from broker.embedded import EmbeddedPostgres
from broker.pg_binaries import find_programs
from broker.schema import install
from broker.verify import verify
from tests.conftest import Client, eventually, run_broker

PG_BASEBACKUP = find_programs(None).bin / "pg_basebackup"
needs_base_backup = pytest.mark.skipif(not PG_BASEBACKUP.exists(), reason="these programs have no pg_basebackup")


@dataclass
class Pair:
    """A primary and its standby."""

    primary: EmbeddedPostgres
    standby: EmbeddedPostgres

    @property
    def dsn(self) -> str:
        """Whichever of the two takes writes."""
        hosts, ports = zip(*(_socket(each) for each in (self.primary, self.standby)), strict=True)
        return (
            f"postgresql://postgres@/postgres?host={quote(','.join(hosts))}&port={','.join(ports)}"
            "&target_session_attrs=read-write"
        )

    async def require_standby(self, name: str) -> None:
        """Commits wait from now on until a standby of this name has them."""
        await execute(self.primary.dsn, f"ALTER SYSTEM SET synchronous_standby_names = '{name}'")
        await execute(self.primary.dsn, "SELECT pg_reload_conf()")

        async def known() -> bool:
            return bool(await execute(self.primary.dsn, "SHOW synchronous_standby_names") == name)

        await eventually(known)

        async def is_synchronous() -> bool:
            query = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"
            return bool(await execute(self.primary.dsn, query))

        await eventually(is_synchronous)


def _socket(server: EmbeddedPostgres) -> tuple[str, str]:
    found = parse_qs(urlsplit(server.dsn).query)
    return found["host"][0], found["port"][0]


async def execute(dsn: str, sql: str) -> object:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


def kill(folder: Path) -> None:
    """End the server of a data folder at once; its processes notice, and end."""
    postmaster = int((folder / "postgres" / "postmaster.pid").read_text().split("\n", 1)[0])
    os.kill(postmaster, signal.SIGKILL)


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    """Two servers of our own; nothing waits for the standby yet."""
    primary = await EmbeddedPostgres.start(tmp_path / "primary", structlog.get_logger())
    try:
        await install(primary.dsn)
        host, port = _socket(primary)
        copy = tmp_path / "standby" / "postgres"
        copy.parent.mkdir()
        command = [str(PG_BASEBACKUP), "-h", host, "-p", port, "-U", "postgres", "-D", str(copy), "-R", "-c", "fast"]
        await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True)
        with (copy / "postgresql.auto.conf").open("a") as conf:
            conf.write(f"primary_conninfo = 'host={host} port={port} user=postgres application_name=standby'\n")
        standby = await EmbeddedPostgres.start(copy.parent, structlog.get_logger())
        try:
            yield Pair(primary, standby)
        finally:
            await standby.stop()
    finally:
        await primary.stop()


async def test_39_a_commit_whose_wait_for_the_standby_was_cut_short_is_not_acknowledged(
    dsn: str, postgres: EmbeddedPostgres
) -> None:
    """The server answers that it is done, with a warning; and a retry would find it done."""
    session, other = Session(Database(dsn, Config())), await asyncpg.connect(postgres.dsn)
    await session.fetch("ping")
    pid = await other.fetchval("SELECT pid FROM pg_stat_activity WHERE application_name = 'stockbroker'")

    async def waits(*, ours: bool) -> bool:
        query = "SELECT bool_or(pid = $1) = $2 FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
        return bool(await other.fetchval(query, pid, ours))

    try:
        await other.execute("SET synchronous_commit = local")
        await other.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        await other.execute("SELECT pg_reload_conf()")
        asked = asyncio.create_task(_create_customer(session))
        while not await waits(ours=True):  # until the server has heard of the setting, commits go through
            if asked.done():
                asked = asyncio.create_task(_create_customer(session))
            await asyncio.sleep(0.01)
        await other.execute("SELECT pg_cancel_backend($1)", pid)
        with pytest.raises(DatabaseUnavailable, match="standby"):
            await asked
        again = asyncio.create_task(session.fetch("ping"))  # not even a look: it would show what may be lost
        await eventually(lambda: waits(ours=False))
        assert not again.done()
    finally:
        await other.execute("ALTER SYSTEM RESET synchronous_standby_names")
        await other.execute("SELECT pg_reload_conf()")
    assert await asyncio.wait_for(again, 30)
    await session.close()
    await other.close()


async def _create_customer(session: Session) -> object:
    now = datetime.now(UTC)
    return await session.fetch("create_customer", "x", "cash", f"k{uuid4().hex}", bytes(32), 0, uuid4(), -2, 0, now)


@needs_base_backup
async def test_37_a_failover_to_the_standby_loses_nothing_that_was_acknowledged(pair: Pair, tmp_path: Path) -> None:
    """The primary is killed under load; the same broker goes on with the standby."""
    await pair.require_standby("standby")
    config = Config(port=0, database=pair.dsn, data=tmp_path / "data", log_level="error", place_wait_s=5.0)
    async with run_broker(config) as broker:
        customers = [await broker.customer() for _ in range(5)]
        load, stop = Load(), asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            for customer in customers:
                tasks.create_task(load.place(customer, stop))
            await load.reaches(50)
            kill(tmp_path / "primary")
            await execute(pair.standby.dsn, "SELECT pg_promote()")
            await load.reaches(len(load.acknowledged) + 50)
            stop.set()

        async def all_ended() -> bool:
            connection = await asyncpg.connect(pair.standby.dsn, server_settings={"search_path": "broker"})
            try:
                return not await connection.fetchval("SELECT count(*) FROM trade WHERE ended_at IS NULL")
            finally:
                await connection.close()

        await eventually(all_ended, 60)
    connection = await asyncpg.connect(pair.standby.dsn, server_settings={"search_path": "broker"})
    known = {str(row["trade_id"]) for row in await connection.fetch("SELECT trade_id FROM trade")}
    inbox = await connection.fetch("SELECT * FROM inbox")
    await connection.close()
    assert set(load.acknowledged) <= known
    assert inbox == []  # nothing was sent to the exchange that the standby did not have
    assert [finding for finding in await verify(pair.standby.dsn) if finding.row] == []


@dataclass
class Load:
    """Customers who place trades, and what they were told."""

    acknowledged: list[str] = field(default_factory=list)

    async def place(self, customer: Client, stop: asyncio.Event) -> None:
        """One trade after another; a 503 is a reason to try again."""
        while not stop.is_set():
            status, answer = await customer.place("BUY", "AAPL", 1)
            assert status in {201, 503}, answer
            if status == 201:
                self.acknowledged.append(answer["tradeId"])
            else:
                await asyncio.sleep(0.05)

    async def reaches(self, most: int) -> None:
        """Wait for so many in all."""
        async with asyncio.timeout(60):
            while len(self.acknowledged) < most:
                await asyncio.sleep(0.01)
