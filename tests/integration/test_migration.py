"""A database of an older version is brought up to this one, with everything that was in it."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg
import pytest

import broker.schema
from broker.app import serve
from broker.assembly import Running
from broker.config import Config
from broker.embedded import EmbeddedPostgres
from broker.schema import _INSTALL_LOCK, SchemaError, install
from broker.verify import verify
from tests.builders import NOW
from tests.conftest import eventually

V1 = Path(__file__).parents[1] / "data" / "schema_v1.sql"
V2 = Path(broker.schema.__file__).parent / "sql" / "migrate" / "schema_2.sql"


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


@pytest.fixture
async def second(postgres: EmbeddedPostgres) -> AsyncIterator[str]:
    """A database of version 2: a trade was filled in two parts, and between them an order was placed and cancelled.

    The clock was set back before the last commit, in which the order ended.
    """
    name = f"old_{uuid4().hex[:8]}"
    await execute(postgres.dsn, f"CREATE DATABASE {name}")
    dsn = postgres.dsn.replace("@/postgres", f"@/{name}")
    await execute(dsn, V2.read_text("utf-8"))
    await trade_on_2(dsn)
    yield dsn
    await execute(postgres.dsn, f"DROP DATABASE {name} WITH (FORCE)")


FIRST, OTHER = UUID(int=1), UUID(int=2)


async def trade_on_2(dsn: str) -> None:
    connection = await asyncpg.connect(dsn, server_settings={"search_path": "broker"})
    who = await connection.fetchval(
        "SELECT create_customer('Ada', 'cash', 'k1', $1, 10000000, $2, -2, 0)", bytes(32), uuid4()
    )
    names = ["opened", "settled", "transfers", "postings", "executions", "busts", "placed", "started", "events"]
    version, seconds = itertools.count(), iter((0, 10, 20, 30, 40, 5))

    async def commit(**rows: list[tuple[object, ...]]) -> None:
        holes = ", ".join(f"${number}" for number in range(1, 14))
        number, at = next(version), NOW + timedelta(seconds=next(seconds))
        columns = [*(rows.get(name, []) for name in names), [], []]
        await connection.execute(f"SELECT commit_batch({holes})", at, [(who, number)], *columns)

    def new(id_: UUID, seq: int, type_: str, limit: int | None, hold: int, most: int | None) -> tuple[object, ...]:
        prices = (type_, "gtc", limit, None)
        kept = (None, None, None, None)
        return (
            id_,
            who,
            seq,
            "AAPL",
            "BUY",
            10,
            "sim",
            *prices,
            *kept,
            "IN PROGRESS",
            "sent",
            hold,
            most,
            False,
            False,
            2,
        )

    def fill(execution: str, quantity: int, number: int) -> dict[str, list[tuple[object, ...]]]:
        moved, value = UUID(int=100 + number), quantity * 1000
        lines = [
            (who, "$USD", -value, 0),
            (-1, "$USD", value, 0),
            (who, "AAPL", quantity, value),
            (-1, "AAPL", -quantity, 0),
        ]
        return {
            "transfers": [(moved, "fill", f"sim:{execution}", who)],
            "postings": [(moved, *line, 0) for line in lines],
            "executions": [("sim", execution, FIRST, quantity, 1000, 0, 0, False, None, moved)],
        }

    def events(id_: UUID, *steps: tuple[int, str, str, str | None]) -> list[tuple[object, ...]]:
        return [(id_, number, step, status, "why", execution) for number, step, status, execution in steps]

    started = [(1, "placed", "PLACED", None), (2, "started", "IN PROGRESS", None)]
    await commit(
        opened=[(-1, "$USD"), (-1, "AAPL"), (who, "AAPL")],
        placed=[new(FIRST, 1, "limit", 1000, 10_000, None)],
        events=events(FIRST, *started),
    )
    part = (FIRST, "PARTIALLY FILLED", "why", 6_000, None, 4, 4_000, True, False, 4)
    words = [(3, "accepted", "IN PROGRESS", None), (4, "executed", "PARTIALLY FILLED", "e1")]
    await commit(settled=[part], events=events(FIRST, *words), **fill("e1", 4, 1))
    await commit(placed=[new(OTHER, 2, "limit", 900, 9_000, None)], events=events(OTHER, *started))
    asked = (OTHER, "IN PROGRESS", "why", 9_000, None, 0, 0, True, True, 4)
    words = [(3, "accepted", "IN PROGRESS", None), (4, "cancel_requested", "IN PROGRESS", None)]
    await commit(started=[asked], events=events(OTHER, *words))
    whole = (FIRST, "FILLED", "why", 0, None, 10, 10_000, True, False, 5)
    await commit(settled=[whole], events=events(FIRST, (5, "executed", "FILLED", "e2")), **fill("e2", 6, 2))
    gone = (OTHER, "CANCELLED", "why", 0, None, 0, 0, True, True, 5)
    await commit(settled=[gone], events=events(OTHER, (5, "ended", "CANCELLED", None)))
    await connection.close()


async def test_events_get_their_customers_numbers_and_the_figures_of_their_time(second: str) -> None:
    await install(second)
    assert not [finding for finding in await verify(second) if finding.row]
    connection = await asyncpg.connect(second, server_settings={"search_path": "broker"})
    rows = await connection.fetch(
        """
        SELECT seq, trade_id, step, filled_quantity, filled_value, acknowledged, cancel_requested
        FROM event WHERE customer_id = 1001 ORDER BY seq
        """
    )
    await connection.close()
    assert [tuple(row) for row in rows] == [
        (1, FIRST, "placed", 0, 0, False, False),
        (2, FIRST, "started", 0, 0, False, False),
        (3, FIRST, "accepted", 0, 0, True, False),
        (4, FIRST, "executed", 4, 4_000, True, False),
        (5, OTHER, "placed", 0, 0, False, False),
        (6, OTHER, "started", 0, 0, False, False),
        (7, OTHER, "accepted", 0, 0, True, False),
        (8, OTHER, "cancel_requested", 0, 0, True, True),
        (9, OTHER, "ended", 0, 0, True, True),
        (10, FIRST, "executed", 10, 10_000, True, False),
    ]


async def test_the_second_version_becomes_a_fresh_one(second: str, dsn: str) -> None:
    await install(second)
    assert await described(second) == await described(dsn)


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


async def test_a_broker_that_waits_for_anothers_migration_stops_when_it_is_told_to(config: Config) -> None:
    connection = await asyncpg.connect(config.database)
    await connection.execute("SELECT pg_advisory_lock($1)", _INSTALL_LOCK)
    stop = asyncio.Event()

    async def never(_: Running) -> None:
        raise AssertionError("it is not ready")

    async def waits() -> bool:
        waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND database = $1::oid"
        database = await connection.fetchval("SELECT oid FROM pg_database WHERE datname = current_database()")
        return bool(await connection.fetchval(waiting, database))

    serving = asyncio.create_task(serve(config, stop, never))
    await eventually(waits)
    stop.set()
    await asyncio.wait_for(serving, 20)
    await eventually(lambda: is_false(waits))
    await connection.close()


async def is_false(probe: Callable[[], Awaitable[bool]]) -> bool:
    return not await probe()
