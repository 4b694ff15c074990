"""The sessions of a running broker: none of them can take back rights that it gave up."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import asyncpg
import pytest

from broker.config import Config
from broker.db import Database
from broker.schema import SchemaError
from tests.conftest import Broker, run_broker

LOGIN = "app_of_the_tests"


@pytest.fixture
async def owner(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(dsn)
    for statement in (f"CREATE ROLE {LOGIN} LOGIN", f"GRANT broker_runtime TO {LOGIN}"):
        await connection.execute(statement)
    yield connection
    await connection.execute(f"DROP ROLE {LOGIN}")
    await connection.close()


def of(dsn: str, role: str) -> str:
    return dsn.replace("//postgres@", f"//{role}@")


async def works_as(broker: Broker, dsn: str) -> set[str]:
    """Buys something, and tells as whom the broker's sessions began."""
    customer = await broker.customer()
    status, trade = await customer.call("POST", "/api/v1/trades", {"stockTicker": "AAPL", "type": "BUY", "quantity": 1})
    assert status in {201, 202}, trade
    await broker.books_are_right()
    connection = await asyncpg.connect(dsn)
    try:
        sessions = await connection.fetch(
            "SELECT usename FROM pg_stat_activity "
            "WHERE application_name = 'stockbroker' AND datname = current_database()"
        )
    finally:
        await connection.close()
    return {row["usename"] for row in sessions}


async def test_a_broker_works_by_the_login_that_it_was_given(
    owner: asyncpg.Connection, config: Config, dsn: str
) -> None:
    async with run_broker(replace(config, runtime_database=of(dsn, LOGIN))) as broker:
        assert await works_as(broker, dsn) == {LOGIN}


async def test_its_session_cannot_become_anybody_else(owner: asyncpg.Connection, config: Config, dsn: str) -> None:
    session = await Database(dsn, config, of(dsn, LOGIN)).connect()
    try:
        await session.execute("SET ROLE NONE")
        for statement in (
            "SET ROLE postgres",
            "SET session_replication_role = replica",
            "DELETE FROM broker.execution",
            "UPDATE broker.account SET balance = 1",
            "SELECT pg_read_file('/etc/passwd')",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await session.execute(statement)
    finally:
        await session.close()


async def test_a_login_with_more_rights_is_refused(owner: asyncpg.Connection, config: Config, dsn: str) -> None:
    with pytest.raises(SchemaError, match="may become the owner"):
        async with run_broker(replace(config, runtime_database=dsn)):
            pass


async def test_a_login_without_rights_is_refused(owner: asyncpg.Connection, config: Config, dsn: str) -> None:
    await owner.execute(f"REVOKE broker_runtime FROM {LOGIN}")
    with pytest.raises(SchemaError, match="GRANT broker_runtime"):
        async with run_broker(replace(config, runtime_database=of(dsn, LOGIN))):
            pass


async def test_beside_a_postgresql_of_its_own_it_logs_in_as_the_runtime_role(config: Config, tmp_path: Path) -> None:
    async with run_broker(replace(config, database=None, data=tmp_path / "own")) as broker:
        assert await works_as(broker, broker.running.dsn) == {"broker_runtime"}
