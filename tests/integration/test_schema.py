"""What PostgreSQL itself refuses: attacks as the runtime role, through commit_batch, and as the schema's owner.

The runtime role has no right to write at all, so most attacks end there; the same attacks as the owner show that the
rules hold for whoever may write.
"""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from broker.core.states import TRANSITIONS
from broker.verify import verify

NOW = datetime(2026, 11, 27, 14, 30, tzinfo=UTC)
FLOOR = -9_000_000_000_000_000_000
Row = tuple[Any, ...]


@pytest.fixture
async def owner(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """The schema's owner."""
    connection = await asyncpg.connect(dsn, server_settings={"search_path": "broker"})
    yield connection
    await connection.close()


@pytest.fixture
async def runtime(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """The role of a running broker."""
    connection = await asyncpg.connect(dsn, server_settings={"search_path": "broker", "role": "broker_runtime"})
    yield connection
    await connection.close()


@pytest.fixture
async def customers(runtime: asyncpg.Connection) -> list[int]:
    """Two customers with $1,000.00 each; the first holds $600.00 of it for a trade at work, and has 5 AAPL."""
    made = [
        await runtime.fetchval(
            "SELECT create_customer($1, 'cash', $2, $3, $4, $5, -2, 0)", "x", f"k{i}", bytes(32), 10_000_000, uuid4()
        )
        for i in range(2)
    ]
    bought, transfer = uuid4(), uuid4()
    await commit(
        runtime,
        claims=[(made[0], 0)],
        opened=[(-1, "$USD"), (-1, "AAPL"), (made[0], "AAPL")],
        placed=[new_trade(bought, made[0], seq=1, hold=1_000_000)],
    )
    await commit(
        runtime,
        claims=[(made[0], 1)],
        settled=[figures(bought, "FILLED", 0, 5, 1_000_000, 2)],
        transfers=[(transfer, "fill", "sim:e1", made[0])],
        postings=fill_of(transfer, made[0], 5, 1_000_000),
        executions=[execution("e1", bought, 5, 200_000, transfer)],
    )
    await commit(runtime, claims=[(made[0], 2)], placed=[new_trade(AT_WORK, made[0], seq=2, hold=6_000_000)])
    return made


AT_WORK = UUID(int=77)


def new_trade(
    id_: UUID,
    customer: int,
    seq: int,
    hold: int,
    quantity: int = 5,
    side: str = "BUY",
    type_: str = "market",
    limit: int | None = None,
    stop: int | None = None,
    client_id: str | None = None,
    group: tuple[str, UUID | None, str | None] = ("simple", None, None),
    trail: tuple[int | None, int | None] = (None, None),
    extended_hours: bool = False,
    status: str | None = None,
) -> Row:
    status = status or ("IN PROGRESS" if hold else "PLACED")
    return (
        *(id_, customer, seq, "AAPL", side, quantity, "sim", type_, "day", limit, stop, None, client_id, None, None),
        *(*group, *trail, extended_hours, False, status, "r", hold, None, False, False, 2),
    )


def with_columns(row: Row, changes: dict[int, object]) -> Row:
    return tuple(changes.get(number, value) for number, value in enumerate(row))


def figures(
    id_: UUID,
    status: str,
    hold: int,
    filled: int,
    value: int,
    events: int,
    reason: str = "r",
    quantity: int = 5,
    stop: int | None = None,
    triggered: bool = False,
) -> Row:
    return (id_, quantity, stop, triggered, status, reason, hold, None, filled, value, True, False, events)


def execution(id_: str, trade: UUID, quantity: int, price: int, transfer: UUID) -> Row:
    return ("sim", id_, trade, quantity, price, 0, 0, False, None, transfer)


def event(customer: int, seq: int, trade: UUID) -> Row:
    return (customer, seq, trade, 1, "placed", "PLACED", "r", 0, 0, False, False, 5, None)


def fill_of(transfer: UUID, customer: int, shares: int, cost: int) -> list[Row]:
    return [
        (transfer, customer, "$USD", -cost, 0, 0),
        (transfer, -1, "$USD", cost, 0, 0),
        (transfer, customer, "AAPL", shares, cost, 0),
        (transfer, -1, "AAPL", -shares, 0, 0),
    ]


COLUMNS = (
    *("claims", "opened", "settled", "transfers", "postings", "executions", "busts", "placed", "started", "events"),
    *("levels", "controls"),
)


async def commit(connection: asyncpg.Connection, **rows: list[Row]) -> None:
    """One call of commit_batch; a posting may leave cost and gain out, a transfer whom it is about."""
    rows["postings"] = [(*row, 0, 0)[:6] for row in rows.get("postings", [])]
    rows["transfers"] = [(*row, 0)[:4] for row in rows.get("transfers", [])]
    holes = ", ".join(f"${number}" for number in range(1, len(COLUMNS) + 2))
    await connection.execute(f"SELECT commit_batch({holes})", NOW, *(rows.get(name, []) for name in COLUMNS))


# ------------------------------------------------------------------ as the runtime role


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE account SET balance = balance + 1",
        "UPDATE account SET held = 0",
        "UPDATE account SET floor = -1000000",
        "UPDATE account SET version = 0",
        "DELETE FROM account",
        "INSERT INTO account (owner_id, asset, floor) VALUES (1001, 'MSFT', -5)",
        "INSERT INTO posting VALUES (gen_random_uuid(), 1001, '$USD', 5)",
        "INSERT INTO transfer VALUES (gen_random_uuid(), 'cash', 'x', 1, now())",
        "UPDATE posting SET amount = 1",
        "DELETE FROM execution",
        "TRUNCATE event",
        "UPDATE trade SET status = 'PLACED'",
        "INSERT INTO status_change VALUES ('FILLED', 'PLACED')",
        "UPDATE api_key SET secret_hash = $$x$$",
        "UPDATE customer SET account_type = $$cash$$",
        "ALTER TABLE account DROP CONSTRAINT never_overdrawn",
        "ALTER TABLE posting DISABLE TRIGGER ALL",
        "DROP TABLE inbox",
        "CREATE TABLE broker.mine (x int)",
        "CREATE FUNCTION broker.f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "SET session_replication_role = replica",
    ],
)
async def test_the_runtime_role_may_not(statement: str, runtime: asyncpg.Connection, customers: list[int]) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await runtime.execute(statement)


LEDGER = {"posting", "transfer", "execution", "event", "bust", "audit", "audit_head", "trade", "account"}
"""What the runtime role can only read: it is written through functions."""
WRITES = {
    "api_key": {
        *("INSERT (key_id)", "INSERT (customer_id)", "INSERT (secret_hash)", "INSERT (scopes)", "INSERT (expires_at)"),
        *("UPDATE (revoked_at)", "UPDATE (expires_at)", "UPDATE (replaced_by)"),
    },
    "customer": {"UPDATE (status)"},
    "inbox": {"INSERT (cause)", "INSERT (venue)", "INSERT (payload)"},
    "control": {"INSERT", "DELETE", "UPDATE (reason)"},
    "risk_limit": {"INSERT", "DELETE", "UPDATE (value)"},
    "price_sample": {"INSERT", "DELETE"},
    **{
        each: {"INSERT", "UPDATE", "DELETE"}
        for each in ("bar", "webhook", "trail", "watchlist", "account_configuration")
    },
    "corporate_action": {
        *("INSERT (event_id)", "INSERT (content)", "INSERT (price)", "UPDATE (holders)", "UPDATE (finished_at)"),
    },
}
"""Everything that the runtime role may write by itself; of a table that is not here, nothing."""
CALLS = {"commit_batch", "create_customer", "record_operator", "oldest_transaction", "tell_of_keys", "tell_of_controls"}


async def test_the_runtime_role_may_write_what_is_listed_here_and_nothing_else(owner: asyncpg.Connection) -> None:
    """By the catalogue: a new table cannot be forgotten."""
    tables = await owner.fetch(
        """
        SELECT relname AS name, has_table_privilege('broker_runtime', oid, 'SELECT') AS reads, array(
            SELECT privilege FROM unnest('{INSERT,UPDATE,DELETE,TRUNCATE,REFERENCES,TRIGGER}'::text[]) AS privilege
            WHERE has_table_privilege('broker_runtime', pg_class.oid, privilege)
        ) || array(
            SELECT format('%s (%s)', privilege, attname)
            FROM pg_attribute, unnest('{INSERT,UPDATE,REFERENCES}'::text[]) AS privilege
            WHERE attrelid = pg_class.oid AND attnum > 0 AND NOT attisdropped
            AND NOT has_table_privilege('broker_runtime', pg_class.oid, privilege)
            AND has_column_privilege('broker_runtime', pg_class.oid, attnum, privilege)
        ) AS writes
        FROM pg_class WHERE relnamespace = 'broker'::regnamespace AND relkind IN ('r', 'v', 'p', 'm', 'f', 'S')
        """
    )
    found = {row["name"]: set(row["writes"]) for row in tables}
    assert found.keys() >= LEDGER
    assert not LEDGER & WRITES.keys()
    assert {name: writes for name, writes in found.items() if writes} == WRITES
    functions = await owner.fetch(
        """
        SELECT proname, prosecdef, proconfig FROM pg_proc
        WHERE pronamespace = 'broker'::regnamespace AND has_function_privilege('broker_runtime', oid, 'EXECUTE')
        """
    )
    assert {row["proname"] for row in functions} == CALLS
    for row in functions:  # a function with the owner's rights looks for nothing where others may put something
        assert not row["prosecdef"] or "search_path=broker, pg_temp" in row["proconfig"]


async def test_the_runtime_role_owns_nothing_makes_nothing_and_becomes_nobody(owner: asyncpg.Connection) -> None:
    (role,) = await owner.fetch("SELECT * FROM pg_roles WHERE rolname = 'broker_runtime'")
    flags = ("rolsuper", "rolcreaterole", "rolcreatedb", "rolreplication", "rolbypassrls", "rolcanlogin")
    assert not any(role[flag] for flag in flags)
    for what in ("broker", "public"):
        assert not await owner.fetchval("SELECT has_schema_privilege('broker_runtime', $1, 'CREATE')", what)
    assert not await owner.fetchval("SELECT has_database_privilege('broker_runtime', current_database(), 'CREATE')")
    assert await owner.fetch("SELECT FROM pg_auth_members WHERE member = 'broker_runtime'::regrole") == []
    owned = "SELECT FROM pg_class WHERE relowner = 'broker_runtime'::regrole"
    assert await owner.fetch(owned) == []


async def test_the_runtime_role_may_not_touch_the_ledger(runtime: asyncpg.Connection) -> None:
    for table in sorted(LEDGER):
        column = await runtime.fetchval(
            "SELECT attname FROM pg_attribute WHERE attrelid = $1::regclass AND attnum = 1", f"broker.{table}"
        )
        for statement in (
            f"UPDATE {table} SET {column} = {column}",
            f"DELETE FROM {table}",
            f"TRUNCATE {table}",
            f"INSERT INTO {table} SELECT * FROM {table}",
            f"ALTER TABLE {table} DISABLE TRIGGER ALL",
            f"DROP TABLE {table}",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await runtime.execute(statement)


# ------------------------------------------------------------------ through the one function it may call


def attacks(first: int, second: int) -> dict[str, tuple[str, dict[str, list[Row]]]]:
    """Each attack with the rule that must refuse it."""
    t = uuid4()
    cash = [(t, "cash", "ref")]
    return {
        "a transfer that is not balanced": (
            "transfer_balances",
            {"transfers": cash, "postings": [(t, first, "$USD", 5), (t, second, "$USD", -4)]},
        ),
        "a transfer with one leg": ("transfer_balances", {"transfers": cash, "postings": [(t, first, "$USD", 5)]}),
        "balanced over assets, not within each": (
            "transfer_balances",
            {"transfers": cash, "postings": [(t, first, "$USD", 5), (t, first, "AAPL", -5)]},
        ),
        "a posting to an account that does not exist": (
            "posting_has_account",
            {"transfers": cash, "postings": [(t, first, "MSFT", 5), (t, second, "MSFT", -5)]},
        ),
        "a posting without its transfer": (
            "posting_has_transfer",
            {"transfers": [(uuid4(), "cash", "x")], "postings": [(t, first, "$USD", 5), (t, second, "$USD", -5)]},
        ),
        "balanced, but overdraws": (
            "never_overdrawn",
            {"transfers": cash, "postings": [(t, second, "$USD", -10_000_001), (t, first, "$USD", 10_000_001)]},
        ),
        "spends what is reserved": (
            "never_overdrawn",
            {"transfers": cash, "postings": [(t, first, "$USD", -4_000_000), (t, second, "$USD", 4_000_000)]},
        ),
        "sells what it does not have": (
            "never_overdrawn",
            {"placed": [new_trade(uuid4(), first, seq=3, hold=6, quantity=6, side="SELL")]},
        ),
        "reserves more than there is": (
            "never_overdrawn",
            {"placed": [new_trade(uuid4(), second, 1, hold=10_000_001)]},
        ),
        "reserves what it has no account of": (
            "hold_has_account",
            {"placed": [new_trade(uuid4(), second, seq=1, hold=5, side="SELL")]},
        ),
        "the same reference twice": (
            "cash_reference",
            {
                "transfers": [(t, "cash", f"opening:{first}")],
                "postings": [(t, first, "$USD", 5), (t, -2, "$USD", -5)],
            },
        ),
        "the same execution twice": (
            "execution_pkey",
            {"executions": [execution("e1", AT_WORK, 1, 1, uuid4())]},
        ),
        "an execution of no trade": (
            "execution_has_trade",
            {"executions": [execution("e9", uuid4(), 1, 1, uuid4())]},
        ),
        "more filled than ordered": (
            "never_overfilled",
            {"settled": [figures(AT_WORK, "PARTIALLY FILLED", 5, 6, 100, 3)]},
        ),
        "ended, and still holding": ("status_fits_figures", {"settled": [figures(AT_WORK, "CANCELLED", 5, 0, 0, 3)]}),
        "filled, but not all": ("status_fits_figures", {"settled": [figures(AT_WORK, "FILLED", 0, 4, 100, 3)]}),
        "back to the start": ("status_change_allowed", {"settled": [figures(AT_WORK, "PLACED", 0, 0, 0, 3)]}),
        "the same place in a customer's queue twice": (
            "trade_customer_id_seq_key",
            {"placed": [new_trade(uuid4(), first, seq=2, hold=0)]},
        ),
        "a change of a trade that does not exist": (
            "changed_trade_exists",
            {"settled": [figures(uuid4(), "FILLED", 0, 5, 100, 3)]},
        ),
        "the same client order id twice": (
            "trade_client_order_id",
            {"placed": [new_trade(uuid4(), second, seq, hold=0, client_id="mine") for seq in (1, 2)]},
        ),
        "a reservation below nothing": (
            "hold_not_negative",
            {"placed": [new_trade(uuid4(), second, 1, hold=-5, status="PLACED")]},
        ),
        "an order for nothing": ("trade_is_complete", {"placed": [new_trade(uuid4(), second, 1, hold=0, quantity=0)]}),
        "an order for more than anybody has": (
            "trade_is_complete",
            {"placed": [new_trade(uuid4(), second, 1, hold=0, quantity=10_000_001)]},
        ),
        "shares for nothing": (
            "value_follows_quantity",
            {"settled": [figures(AT_WORK, "FILLED", 0, 5, 0, 3)]},
        ),
        "an order that replaces none and knows what that had filled": (
            "replaces_filled_is_of_another",
            {"placed": [with_columns(new_trade(uuid4(), second, 1, hold=0), {14: 3})]},
        ),
        "an idempotency key without end": (
            "idempotency_key_fits",
            {"placed": [with_columns(new_trade(uuid4(), second, 1, hold=0), {11: "x" * 201})]},
        ),
        "a trail of all of the price": (
            "prices_fit_the_type",
            {"placed": [new_trade(uuid4(), second, 1, hold=0, type_="trailing_stop", trail=(None, 10_000))]},
        ),
        "a limit of nothing": (
            "prices_fit_the_type",
            {"placed": [new_trade(uuid4(), second, 1, hold=0, type_="limit", limit=0)]},
        ),
        "a sale that holds less than it leaves": (
            "sell_holds_what_it_leaves",
            {"placed": [new_trade(uuid4(), first, 3, hold=4, side="SELL")]},
        ),
        "a client order id without end": (
            "client_order_id_fits",
            {"placed": [new_trade(uuid4(), second, 1, hold=0, client_id="x" * 201)]},
        ),
        "a limit order without a limit": (
            "prices_fit_the_type",
            {"placed": [new_trade(uuid4(), second, 1, hold=0, type_="limit")]},
        ),
        "a market order with a stop": (
            "prices_fit_the_type",
            {"placed": [new_trade(uuid4(), second, 1, hold=0, stop=5)]},
        ),
        "a leg of no group": (
            "a_group_has_roles",
            {"placed": [new_trade(uuid4(), second, 1, hold=0, group=("bracket", None, "entry"))]},
        ),
        "a group of one that stands alone": (
            "a_group_has_roles",
            {"placed": [new_trade(uuid4(), second, 1, hold=0, group=("simple", uuid4(), "entry"))]},
        ),
        "an entry of an oco": (
            "a_group_has_roles",
            {"placed": [new_trade(uuid4(), second, 1, hold=0, group=("oco", uuid4(), "entry"))]},
        ),
        "a trailing stop without a trail": (
            "prices_fit_the_type",
            {"placed": [new_trade(uuid4(), second, 1, hold=0, type_="trailing_stop")]},
        ),
        "a trailing stop with two": (
            "prices_fit_the_type",
            {"placed": [new_trade(uuid4(), second, 1, hold=0, type_="trailing_stop", trail=(100, 100))]},
        ),
        "a trailing stop with a price before it was reached": (
            "prices_fit_the_type",
            {"placed": [new_trade(uuid4(), second, 1, hold=0, type_="trailing_stop", trail=(100, None), stop=5)]},
        ),
        "a market order for extended hours": (
            "only_limits_trade_outside_the_session",
            {"placed": [new_trade(uuid4(), second, 1, hold=0, extended_hours=True)]},
        ),
        "another quantity of an order at the exchange": (
            "status_change_allowed",
            {"settled": [figures(AT_WORK, "IN PROGRESS", 6_000_000, 0, 0, 3, quantity=4)]},
        ),
        "a trigger of an order at the exchange": (
            "status_change_allowed",
            {"settled": [figures(AT_WORK, "IN PROGRESS", 6_000_000, 0, 0, 3, triggered=True)]},
        ),
        "shares without their cost gone with them": (
            "cost_is_of_shares_that_are_there",
            {
                "transfers": cash,
                "postings": [(t, first, "AAPL", -5, 0, 0), (t, -1, "AAPL", 5, 0, 0)],
            },
        ),
        "cash that costs something": (
            "cost_is_of_shares_that_are_there",
            {"transfers": cash, "postings": [(t, first, "$USD", 5, 3, 0), (t, second, "$USD", -5, 0, 0)]},
        ),
        "a posting of nothing": (
            "posting_moves_something",
            {"transfers": cash, "postings": [(t, first, "$USD", 0, 0, 0)]},
        ),
        "an execution taken back twice": (
            "bust_pkey",
            {"busts": [("sim", "e1", uuid4()), ("sim", "e1", uuid4())]},
        ),
        "a bust of no execution": ("bust_venue_execution_id_fkey", {"busts": [("sim", "e8", uuid4())]}),
        "the same place among a customer's events twice": (
            "event_pkey",
            {"events": [event(first, 1, AT_WORK), event(first, 1, AT_WORK)]},
        ),
        "a trade of nobody": ("trade_has_customer", {"placed": [new_trade(uuid4(), 5, seq=1, hold=0)]}),
    }


@pytest.mark.parametrize("name", attacks(0, 0).keys())
async def test_commit_batch_refuses(name: str, runtime: asyncpg.Connection, customers: list[int], dsn: str) -> None:
    rule, rows = attacks(*customers)[name]
    before = await runtime.fetch("SELECT * FROM account ORDER BY 1, 2")
    with pytest.raises(asyncpg.IntegrityConstraintViolationError) as refusal:
        await commit(runtime, **rows)
    assert refusal.value.constraint_name == rule
    assert await runtime.fetch("SELECT * FROM account ORDER BY 1, 2") == before
    # The scene itself leaves out the events, and nothing else may be wrong.
    broken = {finding.rule for finding in await verify(dsn) if finding.row}
    assert broken == {"events are gapless"}


async def test_a_purchase_costs_no_more_than_its_limit(runtime: asyncpg.Connection, customers: list[int]) -> None:
    limited = uuid4()
    await commit(runtime, placed=[new_trade(limited, customers[1], 1, hold=500, type_="limit", limit=100)])
    with pytest.raises(asyncpg.CheckViolationError) as refusal:
        await commit(runtime, settled=[figures(limited, "FILLED", 0, 5, 501, 3)])
    assert refusal.value.constraint_name == "filled_within_the_limit"


async def test_a_finished_trade_cannot_change(runtime: asyncpg.Connection, customers: list[int]) -> None:
    filled = await runtime.fetchval("SELECT trade_id FROM trade WHERE status = 'FILLED'")
    for status, hold, quantity in (("CANCELLED", 0, 3), ("PARTIALLY FILLED", 5, 3), ("FILLED", 0, 5)):
        with pytest.raises(asyncpg.CheckViolationError) as refusal:
            await commit(runtime, settled=[figures(filled, status, hold, quantity, 100, 3)])
        assert refusal.value.constraint_name in {"status_change_allowed", "ended_when_it_has"}


async def test_an_overflow_is_an_error_and_not_a_wrong_figure(
    runtime: asyncpg.Connection, customers: list[int]
) -> None:
    t = uuid4()
    lines = [(t, customers[0], "$USD", 2**63 - 1), (t, -2, "$USD", -(2**63 - 1))]
    with pytest.raises((asyncpg.NumericValueOutOfRangeError, asyncpg.CheckViolationError)):
        await commit(runtime, transfers=[(t, "cash", "big")], postings=lines)


async def test_a_stale_claim_writes_nothing(runtime: asyncpg.Connection, customers: list[int]) -> None:
    with pytest.raises(asyncpg.PostgresError) as refusal:
        await commit(
            runtime, claims=[(customers[0], 2), (customers[1], 0)], placed=[new_trade(uuid4(), customers[1], 1, hold=0)]
        )
    assert refusal.value.sqlstate == "BR001"
    assert await runtime.fetchval("SELECT version FROM account WHERE owner_id = $1", customers[1]) == 0
    assert await runtime.fetchval("SELECT count(*) FROM trade") == 2


async def test_a_legal_transfer_passes(runtime: asyncpg.Connection, customers: list[int]) -> None:
    t = uuid4()
    lines = [(t, customers[0], "$USD", -7), (t, customers[1], "$USD", 7)]
    await commit(runtime, transfers=[(t, "cash", "legal")], postings=lines)
    assert await runtime.fetchval("SELECT amount FROM balances WHERE customer_id = $1", customers[1]) == 10_000_007


# ------------------------------------------------------------------ as the owner: history stays, whoever it is


@pytest.mark.parametrize("actor_and_action", ["'broker', 'asked'", "'admin-token', 'events'", "'broker', 'events'"])
async def test_the_runtime_role_makes_no_record_that_is_not_an_operators(
    actor_and_action: str, runtime: asyncpg.Connection
) -> None:
    with pytest.raises(asyncpg.CheckViolationError) as refusal:
        await runtime.execute(f"SELECT record_operator({actor_and_action}, '{{}}')")
    assert refusal.value.constraint_name == "record_is_an_operators"


async def test_the_runtime_role_cannot_choose_when_a_record_was_made(runtime: asyncpg.Connection) -> None:
    with pytest.raises(asyncpg.UndefinedFunctionError):
        await runtime.execute("SELECT record_operator('2020-01-01'::timestamptz, 'admin-token', 'asked', '{}')")
    async with runtime.transaction():
        number = await runtime.fetchval("SELECT record_operator('admin-token', 'asked', '{}')")
        later = await runtime.fetchval("SELECT at > now() FROM audit WHERE (chain, number) = (0, $1)", number)
    assert later


KEY_CHANGES = {
    "revoked_at = NULL": "revoked",
    "revoked_at = revoked_at + interval '1 second'": "revoked",
    "expires_at = NULL": "ending",
    "expires_at = expires_at + interval '1 second'": "ending",
    "scopes = '{read,trade}'": "ending",
    "customer_id = customer_id + 1": "open",
    "secret_hash = sha256('x')": "open",
}


@pytest.mark.parametrize("change", KEY_CHANGES)
async def test_a_key_only_ever_ends_sooner(change: str, owner: asyncpg.Connection, customers: list[int]) -> None:
    await owner.execute(
        """
        INSERT INTO api_key (key_id, customer_id, secret_hash, scopes, revoked_at, expires_at) VALUES
        ('revoked', $1, sha256(''), '{read}', now(), NULL),
        ('ending', $1, sha256(''), '{read}', NULL, now()),
        ('open', $1, sha256(''), '{read}', NULL, NULL)
        """,
        customers[0],
    )
    with pytest.raises(asyncpg.CheckViolationError) as refusal:
        await owner.execute(f"UPDATE api_key SET {change} WHERE key_id = $1", KEY_CHANGES[change])
    assert refusal.value.constraint_name == "a_key_only_ends"


async def test_the_runtime_role_may_end_a_key_and_end_it_sooner(
    runtime: asyncpg.Connection, customers: list[int]
) -> None:
    for change in (
        "expires_at = now()",
        "expires_at = now() - interval '1 s'",
        "revoked_at = now()",
        "revoked_at = revoked_at",
    ):
        assert await runtime.execute(f"UPDATE api_key SET {change} WHERE customer_id = $1", customers[0]) == "UPDATE 1"


@pytest.mark.parametrize("table", ["posting", "transfer", "execution", "event", "bust"])
@pytest.mark.parametrize("statement", ["UPDATE {} SET at = now()", "DELETE FROM {}", "TRUNCATE {} CASCADE"])
async def test_even_the_owner_cannot_change_history(
    statement: str, table: str, owner: asyncpg.Connection, customers: list[int]
) -> None:
    text = statement.format(table).replace("posting SET at = now()", "posting SET amount = 2 * amount")
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="history is only ever added to"):
        await owner.execute(text)


async def test_even_the_owner_cannot_post_what_does_not_balance(
    owner: asyncpg.Connection, customers: list[int]
) -> None:
    t = uuid4()
    await owner.execute("INSERT INTO transfer VALUES ($1, 'cash', 'o', 1, now())", t)
    with pytest.raises(asyncpg.CheckViolationError) as refusal:
        await owner.execute("INSERT INTO posting VALUES ($1, $2, '$USD', 5)", t, customers[0])
    assert refusal.value.constraint_name == "transfer_balances"


async def test_even_the_owner_cannot_give_a_customer_credit(owner: asyncpg.Connection, customers: list[int]) -> None:
    with pytest.raises(asyncpg.CheckViolationError) as refusal:
        await owner.execute("UPDATE account SET floor = -1 WHERE owner_id = $1 AND asset = '$USD'", customers[0])
    assert refusal.value.constraint_name == "credit_needs_a_margin_account"


async def test_a_margin_account_owes_cash_up_to_its_credit_and_no_shares(
    runtime: asyncpg.Connection, owner: asyncpg.Connection
) -> None:
    made = await runtime.fetchval(
        "SELECT create_customer('m', 'margin', 'k', $1, 100, $2, -2, 500)", bytes(32), uuid4()
    )

    async def move(cash: int) -> None:
        t = uuid4()
        lines = [(t, made, "$USD", cash), (t, -2, "$USD", -cash)]
        await commit(runtime, transfers=[(t, "cash", str(t), made)], postings=lines)

    await move(-600)
    for cash in (-1, -600):
        with pytest.raises(asyncpg.CheckViolationError) as refusal:
            await move(cash)
        assert refusal.value.constraint_name == "never_overdrawn"
    with pytest.raises(asyncpg.CheckViolationError) as refusal:
        await owner.execute("INSERT INTO account (owner_id, asset, floor) VALUES ($1, 'AAPL', -5)", made)
    assert refusal.value.constraint_name == "credit_needs_a_margin_account"


async def test_nobody_has_to_have_more_than_nothing(owner: asyncpg.Connection) -> None:
    with pytest.raises(asyncpg.CheckViolationError) as refusal:
        await owner.execute("INSERT INTO account (owner_id, asset, floor) VALUES (1, '$USD', 5)")
    assert refusal.value.constraint_name in {"floor_is_not_above_zero", "never_overdrawn"}
    with pytest.raises(asyncpg.CheckViolationError) as refusal:
        await owner.execute("INSERT INTO account (owner_id, asset, balance, floor) VALUES (1, '$USD', 9, 5)")
    assert refusal.value.constraint_name == "floor_is_not_above_zero"


async def test_a_finished_trade_takes_one_more_event_and_nothing_else(
    runtime: asyncpg.Connection, customers: list[int]
) -> None:
    """An execution that is taken back is noted on its trade, whose figures stay."""
    filled = await runtime.fetchval("SELECT trade_id FROM trade WHERE status = 'FILLED'")
    await commit(runtime, settled=[figures(filled, "FILLED", 0, 5, 1_000_000, 3)])
    for row in (
        figures(filled, "FILLED", 0, 5, 1_000_000, 3),
        figures(filled, "FILLED", 0, 5, 1_000_001, 4),
        figures(filled, "FILLED", 0, 5, 1_000_000, 4, reason="another"),
    ):
        with pytest.raises(asyncpg.CheckViolationError) as refusal:
            await commit(runtime, settled=[row])
        assert refusal.value.constraint_name == "status_change_allowed"


async def test_what_is_held_here_may_shrink_and_be_triggered_once(
    runtime: asyncpg.Connection, customers: list[int]
) -> None:
    """The exits of a group and trailing stops; of one at the exchange, none of it changes any more."""
    stop = uuid4()
    await commit(
        runtime,
        claims=[(customers[1], 0)],
        placed=[new_trade(stop, customers[1], 1, hold=0, type_="trailing_stop", trail=(100, None), status="HELD")],
    )

    def held(events: int, quantity: int, price: int | None, triggered: bool) -> Row:
        return figures(stop, "HELD", 0, 0, 0, events, "r", quantity, price, triggered)

    await commit(runtime, settled=[held(3, 4, None, triggered=False)])
    await commit(runtime, settled=[held(4, 4, 90, triggered=True)])
    for row in (held(5, 5, 90, triggered=True), held(5, 4, 91, triggered=True), held(5, 4, None, triggered=False)):
        with pytest.raises(asyncpg.CheckViolationError) as refusal:
            await commit(runtime, settled=[row])
        assert refusal.value.constraint_name in {"status_change_allowed", "prices_fit_the_type"}


async def test_what_an_order_holds_less_of_is_free_for_one_that_begins_in_the_same_batch(
    runtime: asyncpg.Connection,
) -> None:
    """A trailing stop holds an estimate until its price is reached, and then what it may cost."""
    made = await runtime.fetchval("SELECT create_customer('c', 'cash', 'k', $1, 1000, $2, -2, 0)", bytes(32), uuid4())
    stop = uuid4()
    held = new_trade(stop, made, 1, hold=900, type_="trailing_stop", trail=(100, None), status="HELD")
    await commit(runtime, placed=[held])
    await commit(
        runtime,
        started=[figures(stop, "IN PROGRESS", 600, 0, 0, 3, stop=90, triggered=True)],
        placed=[new_trade(uuid4(), made, 2, hold=400)],
    )
    assert await runtime.fetchval("SELECT held FROM account WHERE owner_id = $1 AND asset = '$USD'", made) == 1000


# ------------------------------------------------------------------ the schema and the code agree


async def test_status_change_is_the_table_of_the_core(owner: asyncpg.Connection) -> None:
    pairs = {(row["before"], row["after"]) for row in await owner.fetch("SELECT * FROM status_change")}
    assert pairs == {(before, after) for before, following in TRANSITIONS.items() for after in following}


async def test_money_columns_cannot_be_null_or_nan(owner: asyncpg.Connection) -> None:
    columns = await owner.fetch(
        "SELECT table_name, column_name, is_nullable, data_type FROM information_schema.columns"
        " WHERE table_schema = 'broker' AND column_name IN"
        " ('balance', 'held', 'floor', 'version', 'amount', 'hold', 'quantity', 'filled_quantity', 'filled_value',"
        " 'last_qty', 'last_px') AND table_name IN ('account', 'posting', 'trade', 'execution')"
    )
    assert len(columns) == 11
    assert {(row["is_nullable"], row["data_type"]) for row in columns} == {("NO", "bigint")}
