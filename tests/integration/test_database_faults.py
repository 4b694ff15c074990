"""What the database says when it cannot or will not, and what that comes to: an unknown outcome, a refusal, a retry."""

import asyncio
import random
from collections.abc import AsyncIterator

import asyncpg
import pytest

from broker import db
from broker.config import Config
from broker.db import Database, DatabaseUnavailable, RefusedByDatabase, Session, StaleAccounts
from tests.conftest import the_seed


@pytest.fixture
async def database(dsn: str) -> AsyncIterator[Database]:
    """With a small pool, that is soon used up."""
    opened = Database(dsn, Config(pool_max=3))
    await opened.open()
    yield opened
    await opened.close()


@pytest.mark.parametrize(
    ("state", "meaning"),
    [
        ("40P01", DatabaseUnavailable),  # 41: deadlock, serialization: the shard decides and commits again
        ("40001", DatabaseUnavailable),
        ("23514", RefusedByDatabase),  # 42: a rule of the schema: never tried again
        ("22003", RefusedByDatabase),
        ("53100", DatabaseUnavailable),  # 40: disk full
        ("57P01", DatabaseUnavailable),  # 35, 36: it goes down, it comes up
        ("57P03", DatabaseUnavailable),
        ("55P03", DatabaseUnavailable),  # 43: a lock that was not had in time
        ("25006", DatabaseUnavailable),  # 37: a standby that was not promoted yet
        ("XX001", RefusedByDatabase),  # 46: a damaged page: to try again would not mend it
        ("BR001", StaleAccounts),
    ],
)
async def test_41_42_each_failure_has_its_meaning(
    database: Database, monkeypatch: pytest.MonkeyPatch, state: str, meaning: type[Exception]
) -> None:
    raising = f"DO $$ BEGIN RAISE EXCEPTION 'as asked' USING ERRCODE = '{state}'; END $$"
    asked = db.query
    monkeypatch.setattr(db, "query", lambda name: raising if name == "raise" else asked(name))
    session = Session(database)
    for ask in (session.fetch, database.fetch):
        with pytest.raises(meaning):
            await ask("raise")
        assert await ask("ping")  # and the next one finds a connection that works
    await session.close()


async def test_45_the_pool_is_whole_after_two_thousand_cancellations(database: Database) -> None:
    seed = the_seed()
    print(f"seed {seed}")  # noqa: T201 - pytest shows it with a failure
    rng = random.Random(seed)
    for _ in range(100):
        tasks = [asyncio.create_task(database.fetch("ping")) for _ in range(20)]
        for _ in range(rng.randrange(6)):
            await asyncio.sleep(0)
        for each in tasks:
            each.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    async with asyncio.timeout(30):
        while database.pool_use()[1:] != (0, 0):
            await asyncio.sleep(0.01)
    answers = await asyncio.gather(*(database.fetch("ping") for _ in range(20)))
    assert len(answers) == 20
    assert database.pool_use()[2] == 0


async def test_46_pages_have_checksums(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    assert await connection.fetchval("SHOW data_checksums") == "on"
    await connection.close()
