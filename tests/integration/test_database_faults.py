"""What the database says when it cannot or will not, and what that comes to: an unknown outcome, a refusal, a retry."""

import asyncio
import random
import re
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import asyncpg
import pytest

from broker import db
from broker.config import Config
from broker.db import Database, DatabaseUnavailable, RefusedByDatabase, Session, StaleAccounts
from tests.conftest import run_broker, the_seed


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


async def verified(folder: Path) -> tuple[int | None, str]:
    """The exit code of `broker verify` on a broker that is stopped, and what it said."""
    command = [sys.executable, "-m", "broker", "verify", "--data", str(folder)]
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=PIPE)
    out, err = await process.communicate()
    return process.returncode, (out + err).decode()


MARK = b"a-flipped-bit"
"""A text that no rule of the books reads: that it is another is known by nothing but its page's checksum."""


async def test_46_a_flipped_bit_on_disk_is_said_and_not_served(with_settings: Callable[..., Config]) -> None:
    config = with_settings(database=None)
    async with run_broker(config) as broker:
        customer = await broker.customer()
        order = {"symbol": "AAPL", "side": "buy", "quantity": 1, "order_type": "limit", "price": "100.00"}
        status, placed = await customer.call("POST", "/api/v1/orders", order | {"client_order_id": MARK.decode()})
        assert status == 201, placed
        path = f"/api/v1/orders/{placed['id']}"
        assert (await customer.call("GET", path))[0] == 200
        (found,) = await broker.fetch("SELECT pg_relation_filepath('trade') AS file")
    code, said = await verified(config.data)
    assert code == 0, said
    table = config.data / "postgres" / found["file"]
    content = bytearray(table.read_bytes())
    assert content.count(MARK) > 0, "it was written when the server stopped"
    for at in [match.start() for match in re.finditer(MARK, content)]:  # each version of its row
        content[at] ^= 1
    table.write_bytes(content)

    code, said = await verified(config.data)
    assert (code, "invalid page" in said) == (2, True), said
    async with run_broker(config) as broker:
        again = replace(customer, http=broker.http, url=broker.running.url)
        status, answer = await again.call("GET", path)
        assert (status, answer["code"]) == (500, "internal_error"), answer
