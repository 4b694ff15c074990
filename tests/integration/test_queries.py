"""Every named query is valid on a fresh schema, and the hot ones use an index whatever the tables' size."""

from importlib import resources
from typing import Any
from uuid import uuid4

import asyncpg
import orjson
import pytest

from bench.fill import fill
from broker.config import Config
from broker.db import Database, query
from tests.builders import NOW
from tests.integration.test_schema import commit, execution, figures, fill_of, new_trade

NAMES = sorted(
    file.name.removesuffix(".sql")
    for file in resources.files("broker").joinpath("sql").iterdir()
    if file.name.endswith(".sql")
)


async def test_every_query_can_be_prepared_by_the_runtime_role(dsn: str) -> None:
    connection = await Database(dsn, Config()).connect()
    for name in NAMES:
        await connection.prepare(query(name))
    await connection.close()


HOT: dict[str, tuple[Any, ...]] = {
    "load_accounts": ([1001],),
    "open_trades": ([1001],),
    "trades_by_id": ([uuid4()],),
    "trades_by_key": ([1001], ["k"]),
    "owners_of_trades": ([uuid4()],),
    "transfers_by_reference": (["r"],),
    "customer_of_key": ("k",),
    "revoked_keys": (NOW,),
    "suspended_customers": (),
    "balance": (1001,),
    "positions": (1001,),
    "trade": (1001, uuid4()),
    "executions": (uuid4(),),
    "trade_by_client_id": (1001, "c"),
    "trades_by_client_id": ([1001], ["c"]),
    "recent_executions": ([1001], uuid4()),
    "corporate_references": (["r"],),
    "orders": (1001, 2**62, None, None, None, None, None, 100),
    "trades": (1001, 2**62, None, None, None, None, 100),
    "customers_with_open_trades": (),
    "order_updates": (1001, 0, 500),
    "newest_events": ([1001],),
    "lease_webhooks": (32, 25.0),
    "save_webhook": (uuid4(), NOW, 5, 25.0),
    "fail_webhook": (uuid4(), NOW, 5, "why", 1.0, False, 100.0),
    "webhooks_of_customer": (1001,),
    "webhook": (1001, uuid4()),
    "enable_webhook": (1001, uuid4()),
    "delete_webhook": (1001, uuid4()),
    "bars": ("AAPL", "1Min", NOW, NOW, 100),
    "bars_at": (["AAPL"], ["1Min"], [NOW]),
    "bar_symbols": (),
    "load_bars": (NOW, NOW),
    "has_bars": ("AAPL",),
    "delete_bars": ("AAPL", NOW, 100),
    "save_bars": (["AAPL"], ["1Min"], [NOW], *[[1]] * 7),
    "trails": ([uuid4()],),
    "save_trails": ([uuid4()], [1], [True]),
    "alpaca_orders_by_id": (1001, [uuid4()]),
    "alpaca_order_by_client_id": (1001, "c"),
    "alpaca_groups": (1001, [uuid4()]),
    "alpaca_orders_open": (1001, None, None, None, None, True, 50),
    "alpaca_orders_newest": (1001, None, None, None, None, False, 50),
    "alpaca_orders_oldest": (1001, None, None, None, None, False, 50),
    "alpaca_activities_newest": (1001, uuid4(), uuid4(), None, None, None, 100),
    "alpaca_activities_oldest": (1001, uuid4(), uuid4(), None, None, None, 100),
    "alpaca_data_updates": (1001, 0, 500),
    "alpaca_data_positions": (1001, 0),
}


@pytest.mark.parametrize("name", HOT)
async def test_a_hot_query_scans_no_table(name: str, dsn: str) -> None:
    """On empty tables too, where the planner would like to: what it plans then, it keeps when they have grown."""
    connection = await Database(dsn, Config()).connect()
    plan = "\n".join(row[0] for row in await connection.fetch("EXPLAIN " + query(name), *HOT[name]))
    await connection.close()
    assert "Index" in plan
    assert "Seq Scan" not in plan, plan


PAGES_MAX, PAGES_OF_A_ROW = 200, 8
"""Pages that a hot query may touch, and for each row of its answer. Each of the large tables has over 400."""


async def test_a_hot_query_touches_few_pages_of_grown_tables(dsn: str) -> None:
    await fill(dsn, 1_500, 30_000)
    connection = await Database(dsn, Config()).connect()
    over: dict[str, float] = {}
    answered: dict[str, float] = {}
    for name, arguments in HOT.items():
        work = connection.transaction()
        await work.start()
        explain = "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + query(name)
        (explained,) = orjson.loads(await connection.fetchval(explain, *arguments))
        await work.rollback()
        plan = explained["Plan"]
        assert "Seq Scan" not in str(plan), name
        pages = plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
        over[name] = pages - PAGES_OF_A_ROW * plan["Actual Rows"] - PAGES_MAX
        answered[name] = plan["Actual Rows"]
    await connection.close()
    assert answered["orders"] == 20, "the customer has no orders, and this shows nothing"
    assert {name: pages for name, pages in over.items() if pages > 0} == {}


async def test_the_commits_statements_scan_no_table(dsn: str) -> None:
    """auto_explain shows the plans inside commit_batch and its triggers."""
    connection: asyncpg.Connection = await asyncpg.connect(dsn, server_settings=Database(dsn, Config()).settings())
    plans: list[str] = []
    connection.add_log_listener(lambda _, message: plans.append(message.message))
    await connection.execute("SET role none; LOAD 'auto_explain'; SET client_min_messages = log")
    await connection.execute("SET auto_explain.log_min_duration = 0; SET auto_explain.log_nested_statements = on")
    customer = await connection.fetchval(
        "SELECT create_customer('x', 'cash', 'k', $1, 10000000, $2, -2, 0)", bytes(32), uuid4()
    )
    trade, transfer = uuid4(), uuid4()
    opened = [(-1, "$USD"), (-1, "AAPL"), (customer, "AAPL")]
    placed = [new_trade(trade, customer, 1, hold=200, quantity=1)]
    events = [(customer, 1, trade, 1, "placed", "PLACED", "r", 0, 0, False, False, 1, None)]
    now = await connection.fetchval("SELECT now()")
    none: list[Any] = []
    await connection.fetch(
        query("commit_batch"), now, [(customer, 0)], opened, *[none] * 5, placed, none, events, none, none
    )
    settled = [figures(trade, "FILLED", 0, 1, 100, 2, quantity=1)]
    transfers = [(transfer, "fill", "sim:e", customer)]
    postings = fill_of(transfer, customer, 1, 100)
    executions = [execution("e", trade, 1, 100, transfer)]
    busts = [("sim", "e", uuid4())]
    await connection.fetch(
        query("commit_batch"),
        now,
        [(customer, 1)],
        none,
        settled,
        transfers,
        postings,
        executions,
        busts,
        *[none] * 3,
        [(customer, NOW.date(), 5)],
        [(f"customer:{customer}", "r")],
    )
    await connection.close()
    seen = [plan for plan in plans if "commit_batch" not in plan.split("\n")[0]]
    assert len(seen) > 10, "auto_explain showed nothing"
    scans = [plan for plan in seen if "Seq Scan on" in plan and "Seq Scan on status_change" not in plan]
    assert not scans, scans[0]


@pytest.mark.parametrize("batch", [1, 150])
async def test_what_a_commit_reads_does_not_grow_with_the_tables(batch: int, dsn: str) -> None:
    """Its plans are kept: here they are made on small tables, where reading all of one would be the fastest."""
    connection: asyncpg.Connection = await asyncpg.connect(dsn, server_settings=Database(dsn, Config()).settings())
    owner: asyncpg.Connection = await asyncpg.connect(dsn, server_settings={"search_path": "broker"})
    made = [await a_customer(connection, number) for number in range(batch)]
    for _ in range(2):
        await place_and_settle(connection, made)
    await owner.execute(
        "INSERT INTO account (owner_id, asset) SELECT n, '$USD' FROM generate_series(10001, 30000) AS n"
    )
    await connection.execute("SELECT pg_stat_force_next_flush()")
    before = await rows_read(owner)
    await place_and_settle(connection, made[:1])
    await connection.execute("SELECT pg_stat_force_next_flush()")
    read = await rows_read(owner) - before
    await connection.close()
    await owner.close()
    assert 0 < read < 50


async def a_customer(connection: asyncpg.Connection, number: int) -> int:
    made = "SELECT create_customer('x', 'cash', $1, $2, 10000000, $3, -2, 0)"
    return int(await connection.fetchval(made, f"k{number}", bytes(32), uuid4()))


async def place_and_settle(connection: asyncpg.Connection, customers: list[int]) -> None:
    """One trade of each, in two commits."""
    of_these = "SELECT owner_id, version FROM account WHERE asset = '$USD' AND owner_id = ANY($1)"
    versions = dict(await connection.fetch(of_these, customers))
    trades = [(customer, uuid4(), uuid4()) for customer in customers]
    claims = [(customer, versions[customer]) for customer in customers]
    placed = [new_trade(trade, customer, versions[customer] + 1, hold=200, quantity=1) for customer, trade, _ in trades]
    await commit(connection, claims=claims, placed=placed)
    await commit(
        connection,
        claims=[(customer, version + 1) for customer, version in claims],
        opened=[(-1, "$USD"), (-1, "AAPL"), *((customer, "AAPL") for customer in customers)],
        settled=[figures(trade, "FILLED", 0, 1, 100, 3, quantity=1) for _, trade, _ in trades],
        transfers=[(transfer, "fill", "r") for *_, transfer in trades],
        postings=[line for customer, _, transfer in trades for line in fill_of(transfer, customer, 1, 100)],
        executions=[execution(str(transfer), trade, 1, 100, transfer) for _, trade, transfer in trades],
    )


async def rows_read(connection: asyncpg.Connection) -> int:
    """Of all tables together, through an index or without."""
    counts = "SELECT sum(coalesce(idx_tup_fetch, 0) + seq_tup_read) FROM pg_stat_user_tables"
    return int(await connection.fetchval(counts + " WHERE relname <> 'status_change'"))
