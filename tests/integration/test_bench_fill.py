"""What the bench of size measures on: a filled database keeps every rule, and a broker goes on working on it."""

import random
from collections.abc import Callable
from pathlib import Path

import asyncpg
import pytest

from bench.fill import FIRST, fill, fill_folder, leave_open, token
from broker.config import Config
from broker.data_folder import write_private
from broker.verify import verify
from tests.conftest import Broker, Client, eventually, run_broker

CUSTOMERS, TRADES = 50, 500
INDEXES = "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'broker' ORDER BY 1"
CONSTRAINTS = """SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint
    WHERE connamespace = 'broker'::regnamespace AND contype IN ('p', 'u', 'n') ORDER BY 1"""


async def rows(dsn: str, sql: str, *arguments: object) -> list[tuple[object, ...]]:
    connection = await asyncpg.connect(dsn, server_settings={"search_path": "broker"})
    try:
        return [tuple(row) for row in await connection.fetch(sql, *arguments)]
    finally:
        await connection.close()


async def no_rule_is_broken(dsn: str) -> None:
    assert not [finding for finding in await verify(dsn) if finding.row is not None]


async def test_a_filled_database_keeps_every_rule(dsn: str) -> None:
    schema = await rows(dsn, INDEXES), await rows(dsn, CONSTRAINTS)
    await fill(dsn, CUSTOMERS, TRADES)
    await no_rule_is_broken(dsn)
    assert (await rows(dsn, INDEXES), await rows(dsn, CONSTRAINTS)) == schema
    assert await rows(dsn, "SELECT min(customer_id), max(customer_id), count(*) FROM customer") == [
        (FIRST, FIRST + CUSTOMERS - 1, CUSTOMERS)
    ]
    each = "SELECT DISTINCT status::text, count(*) FROM trade GROUP BY customer_id, status"
    assert await rows(dsn, each) == [("FILLED", TRADES // CUSTOMERS)]
    assert await rows(dsn, "SELECT count(DISTINCT trade_id), count(DISTINCT transfer_id) FROM execution") == [
        (TRADES, TRADES)
    ]
    in_order = """SELECT bool_and(trade_id > before)
        FROM (SELECT trade_id, lag(trade_id) OVER (ORDER BY created_at) AS before FROM trade) AS pair"""
    assert await rows(dsn, in_order) == [(True,)]


@pytest.mark.parametrize(("customers", "trades"), [(7, 38), (38, 7), (3, 0)])
async def test_no_number_has_to_be_round(dsn: str, customers: int, trades: int) -> None:
    await fill(dsn, customers, trades)
    await no_rule_is_broken(dsn)
    counted = "SELECT (SELECT count(*) FROM customer), (SELECT count(*) FROM trade)"
    assert await rows(dsn, counted) == [(customers, trades)]


async def test_a_broker_trades_on_it_and_settles_what_was_left_open(
    config: Config, with_settings: Callable[..., Config]
) -> None:
    assert config.database
    await fill(config.database, CUSTOMERS, TRADES)
    ids = random.Random(1).sample(range(FIRST, FIRST + CUSTOMERS), 20)
    left = await leave_open(config.database, ids)
    await no_rule_is_broken(config.database)
    states = "SELECT DISTINCT status::text, hold > 0 FROM trade WHERE trade_id = ANY($1)"
    assert await rows(config.database, states, left) == [("IN PROGRESS", True)]
    async with run_broker(with_settings(shards=1)) as broker:
        customer = Client(broker.http, broker.running.url, token(ids[0]))
        status, placed = await customer.place("BUY", "AAPL", 1)
        assert status == 201
        assert (await customer.ended(placed["tradeId"]))["status"] == "FILLED"
        await eventually(lambda: all_filled(broker, left))
        await broker.books_are_right()
        created = await broker.customer()
        assert int(created.customer_id) == FIRST + CUSTOMERS


async def all_filled(broker: Broker, trade_ids: list[object]) -> bool:
    once = "SELECT count(*) FROM trade JOIN execution USING (trade_id) WHERE trade_id = ANY($1) AND status = 'FILLED'"
    return (await broker.fetch(once, trade_ids))[0][0] == len(trade_ids)


async def test_a_folder_that_holds_anything_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "postgres").mkdir()
    with pytest.raises(ValueError, match="name another folder"):
        await fill_folder(tmp_path, CUSTOMERS, TRADES)
    write_private(tmp_path / "filled.json", {"customers": 3, "trades": TRADES})
    with pytest.raises(ValueError, match="name another folder"):
        await fill_folder(tmp_path, CUSTOMERS, TRADES)
    await fill_folder(tmp_path, 3, TRADES)  # which it is already
    assert list((tmp_path / "postgres").iterdir()) == []
