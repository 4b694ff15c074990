"""A database of an older version is brought up to this one, with everything that was in it."""

from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg
import pytest

from broker.embedded import EmbeddedPostgres
from broker.schema import SchemaError, install
from broker.verify import verify
from tests.builders import NOW

V1 = Path(__file__).parents[1] / "data" / "schema_v1.sql"


@pytest.fixture
async def old(postgres: EmbeddedPostgres) -> AsyncIterator[str]:
    """A database of version 1, in which a customer bought 10 AAPL, sold 4, and has an order at work."""
    name = f"old_{uuid4().hex[:8]}"
    await execute(postgres.dsn, f"CREATE DATABASE {name}")
    dsn = postgres.dsn.replace("@/postgres", f"@/{name}")
    await execute(dsn, V1.read_text("utf-8"))
    await trade(dsn)
    yield dsn
    await execute(postgres.dsn, f"DROP DATABASE {name} WITH (FORCE)")


async def execute(dsn: str, sql: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(sql)
    finally:
        await connection.close()


async def trade(dsn: str) -> None:
    connection = await asyncpg.connect(dsn, server_settings={"search_path": "broker"})

    async def commit(*columns: list[tuple[object, ...]]) -> None:
        await connection.execute("SELECT commit_batch($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)", NOW, *columns)

    who = await connection.fetchval(
        "SELECT create_customer('Ada', 'cash', 'k1', $1, 10000000, $2, -2)", bytes(32), uuid4()
    )
    ids = [UUID(int=number) for number in range(1, 4)]
    opened = [(-1, "$USD"), (-1, "AAPL"), (who, "AAPL")]
    for number, (id_, side, quantity, price) in enumerate(
        [(ids[0], "BUY", 10, 1000), (ids[1], "SELL", 4, 1500)], start=1
    ):
        sign, hold = (1, quantity * price) if side == "BUY" else (-1, quantity)
        placed = [(id_, who, number, "AAPL", side, quantity, None, "IN PROGRESS", "sent", hold, 2)]
        events = [(id_, 1, "PLACED", "stored", None), (id_, 2, "IN PROGRESS", "sent", None)]
        await commit([(who, 2 * number - 2)], opened, [], [], [], [], placed, [], events)
        moved = UUID(int=100 + number)
        value = quantity * price * sign
        lines = [
            (who, "$USD", -value),
            (-1, "$USD", value),
            (who, "AAPL", quantity * sign),
            (-1, "AAPL", -quantity * sign),
        ]
        await commit(
            [(who, 2 * number - 1)],
            [],
            [(id_, "FILLED", "filled", 0, quantity, quantity * price, 3)],
            [(moved, "fill", f"sim:e{number}")],
            [(moved, *line) for line in lines],
            [("sim", f"e{number}", id_, quantity, price, moved)],
            [],
            [],
            [(id_, 3, "FILLED", "filled", f"e{number}")],
        )
    placed = [(ids[2], who, 3, "AAPL", "BUY", 1, "key", "IN PROGRESS", "sent", 2000, 2)]
    events = [(ids[2], 1, "PLACED", "stored", None), (ids[2], 2, "IN PROGRESS", "sent", None)]
    await commit([(who, 4)], [], [], [], [], [], placed, [], events)
    await connection.close()


async def test_everything_is_there_afterwards_and_the_books_are_right(old: str) -> None:
    await install(old)
    assert not [finding for finding in await verify(old) if finding.row]
    connection = await asyncpg.connect(old, server_settings={"search_path": "broker"})
    position = await connection.fetchrow(
        "SELECT balance, cost, gain FROM account WHERE owner_id = 1001 AND asset = 'AAPL'"
    )
    assert tuple(position) == (6, 6000, 2000)
    row = await connection.fetchrow("SELECT * FROM trade WHERE idempotency_key = 'key'")
    assert (row["order_type"], row["max_price"], row["hold"], row["venue"]) == ("market", 2000, 2000, "sim")
    assert await connection.fetchval(
        "SELECT array_agg(step ORDER BY number) FROM event WHERE trade_id = $1", UUID(int=1)
    ) == [
        "placed",
        "started",
        "executed",
    ]
    assert await connection.fetchval("SELECT to_regnamespace('broker_before')") is None
    assert (
        await connection.fetchval("SELECT create_customer('B', 'cash', 'k2', $1, 0, $2, -2, 0)", bytes(32), uuid4())
        == 1002
    )
    await connection.close()
    await install(old)


async def test_a_migrated_schema_is_a_fresh_one(old: str, dsn: str) -> None:
    await install(old)
    assert await described(old) == await described(dsn)


async def described(dsn: str) -> list[str]:
    """Every column, constraint, index, trigger and function, as text."""
    connection = await asyncpg.connect(dsn)
    rows = await connection.fetch(
        """
        SELECT format('%s.%s %s %s %s', table_name, column_name, data_type, is_nullable, column_default) AS line
        FROM information_schema.columns WHERE table_schema = 'broker'
        UNION ALL SELECT conrelid::regclass || conname || pg_get_constraintdef(oid) FROM pg_constraint
        WHERE connamespace = 'broker'::regnamespace AND conrelid <> 0
        UNION ALL SELECT indexdef FROM pg_indexes WHERE schemaname = 'broker'
        UNION ALL SELECT pg_get_triggerdef(pg_trigger.oid) || tgenabled::text FROM pg_trigger
        JOIN pg_class ON pg_class.oid = tgrelid WHERE relnamespace = 'broker'::regnamespace AND NOT tgisinternal
        UNION ALL SELECT prosrc FROM pg_proc WHERE pronamespace = 'broker'::regnamespace
        UNION ALL SELECT grantee || privilege_type || table_name FROM information_schema.role_table_grants
        WHERE table_schema = 'broker'
        """
    )
    await connection.close()
    return sorted(row["line"] for row in rows)


async def test_a_database_of_a_newer_broker_is_refused(dsn: str) -> None:
    await execute(dsn, "INSERT INTO broker.schema_version (version) VALUES (99)")
    with pytest.raises(SchemaError, match="schema version 99, this broker needs"):
        await install(dsn)


async def test_a_database_that_another_broker_works_on_is_not_migrated(old: str) -> None:
    connection = await asyncpg.connect(old)
    async with connection.transaction():
        await connection.execute("SELECT FROM broker.account FOR UPDATE")
        with pytest.raises(SchemaError, match="another broker works on it"):
            await install(old)
    await connection.close()
    await install(old)
