"""Fills a data folder with customers and their past trades, as if a broker had worked on it for months.

    python -m bench.fill FOLDER [--customers 1000000] [--trades 10000000]

Each customer has a key, cash and equally many trades, all of them FILLED within the last 90 days; `broker verify` finds
every rule kept. The rows are written in the order of their times and with the triggers off (bench/fill.sql). Indexes in
whose order they do not come are built afterwards, as loosely as they would have grown.
"""

import argparse
import asyncio
import hashlib
import itertools
import math
import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import structlog
from uuid_utils.compat import uuid7

from bench.plain import OneVenue
from broker import log
from broker.config import Config
from broker.controls import Controls
from broker.core import trading
from broker.core.conditions import Conditions
from broker.core.messages import PlaceTrade
from broker.core.types import CustomerId, Side, TradeId
from broker.data_folder import DataFolder, read_json, write_private
from broker.db import Database
from broker.embedded import EmbeddedPostgres
from broker.ledger import Ledger
from broker.market.quotes import Quote
from broker.policy import limits_of, policy_of
from broker.schema import install
from broker.simulator.tickers import listed_tickers

FIRST = 1001
"""The first customer's id; the others follow."""

_TICKERS = listed_tickers()[:100]
_SQL = Path(__file__).with_suffix(".sql").read_text(encoding="utf-8")
_DAYS, _OPENED = timedelta(days=90), timedelta(days=100)
"""How long ago the first trade was, and the first customer came; the last one came before the first trade."""

_CHUNK = 50_000
"""Customers or trades in one transaction."""
_SAID_EVERY = 500_000

_COMMIT = 500
"""Trades in one commit that leaves them open."""

_UNORDERED = ("account_pkey", "trade_customer_id_seq_key", "event_pkey", "posting_pkey")
_GROWN_FILL = 70
"""Per cent of a page in use, in an index that has grown by insertions all over it: pages split in halves."""

_SETTINGS = {
    "search_path": "broker",
    "session_replication_role": "replica",  # triggers and foreign keys are off
    "synchronous_commit": "off",  # a machine that fails meanwhile has filled nothing
    "work_mem": "1GB",
    "maintenance_work_mem": "1GB",
    "idle_in_transaction_session_timeout": "0",
    "jit": "off",
}


def token(customer_id: int) -> str:
    """The bearer token of a customer that was made here."""
    return f"key_{_md5(f'key {customer_id}')[:16]}.{_md5(f'secret {customer_id}')}"


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


# ------------------------------------------------------------------ the past


async def fill(dsn: str, customers: int, trades: int) -> None:
    """Fill an empty database of this schema; its owner has to be a superuser."""
    sessions = [await _session(dsn) for _ in range(os.cpu_count() or 1)]
    first = sessions[0]
    try:
        assert not await first.fetchval("SELECT EXISTS (SELECT FROM customer)"), "only an empty database is filled"
        unordered = await _set_aside(first)
        await _fill_rows(sessions, customers, trades)
        _say("accounts")
        await first.execute("SELECT pg_temp.fill_accounts()")
        # As a database that was migrated to schema 5: its history is in no chain.
        await first.execute(
            "SELECT broker.add_to_audit(0::smallint, now(), 'broker', 'before', count(*)::text) FROM broker.event"
        )
        await _build(first, unordered)
        _say("vacuum, and statistics for the planner")
        await first.execute("VACUUM (FREEZE, ANALYZE)")
        await first.execute("CHECKPOINT")
        size = await first.fetchval("SELECT pg_database_size(current_database())")
        _say(f"filled: {size / 1e9:.2f} GB")
    finally:
        for session in sessions:
            await session.close()


async def _session(dsn: str) -> asyncpg.Connection:
    session = await asyncpg.connect(dsn, server_settings=_SETTINGS, command_timeout=3600)
    await session.execute(_SQL)
    symbols = [(number, each.symbol, each.price) for number, each in enumerate(_TICKERS)]
    await session.copy_records_to_table("symbol", schema_name="pg_temp", records=symbols)
    return session


async def _fill_rows(sessions: Sequence[asyncpg.Connection], customers: int, trades: int) -> None:
    now = datetime.now(UTC)
    every = (_OPENED - _DAYS) / max(customers, 1)
    await _each_chunk(sessions, "customers", customers, "fill_customers($1, $2, $3, $4)", now - _OPENED, every)
    next_id = "SELECT setval(pg_get_serial_sequence('customer', 'customer_id'), $1)"
    await sessions[0].execute(next_id, FIRST + customers - 1)
    times = now - _DAYS, _DAYS / max(trades, 1)
    call = "fill_trades($1, $2, $3, $4, $5, $6, $7)"
    figures = customers, _stride(customers), *times, trading.PLACED_REASON
    await _each_chunk(sessions, "trades", trades, call, *figures)


async def _each_chunk(
    sessions: Sequence[asyncpg.Connection], what: str, number: int, call: str, *arguments: object
) -> None:
    """Call a function of bench/fill.sql for all numbers, chunk after chunk, in all sessions at once."""
    firsts = iter(range(0, number, _CHUNK))
    began, done = time.monotonic(), 0

    async def work(session: asyncpg.Connection) -> None:
        nonlocal done
        for first in firsts:
            following = min(first + _CHUNK, number)
            await session.execute(f"SELECT pg_temp.{call}", first, following - 1, *arguments)
            done += following - first
            if done == number or done // _SAID_EVERY > (done - following + first) // _SAID_EVERY:
                _say(f"{done:,} of {number:,} {what}, {done / (time.monotonic() - began):,.0f} a second")

    await asyncio.gather(*map(work, sessions))


def _stride(number: int) -> int:
    """How far to go round so many places to come to each once, and to none near the last ones: the golden section."""
    return next(each for each in itertools.count(round(number * 0.618)) if math.gcd(each, number) == 1)


async def _set_aside(connection: asyncpg.Connection) -> list[tuple[str, str, str]]:
    """Drop what is to be built afterwards: table, name and definition of each."""
    found: list[tuple[str, str, str]] = []
    for name in _UNORDERED:
        sql = "SELECT conrelid::regclass::text, pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = $1"
        row = await connection.fetchrow(sql, name)
        assert row is not None, f"the schema has no {name} any more"
        table, definition = row
        await connection.execute(f"ALTER TABLE {table} DROP CONSTRAINT {name}")
        found.append((table, name, definition))
    return found


async def _build(connection: asyncpg.Connection, unordered: Sequence[tuple[str, str, str]]) -> None:
    for table, name, definition in unordered:
        _say(f"index {name}")
        loose = f"WITH (fillfactor = {_GROWN_FILL})"
        await connection.execute(f"ALTER TABLE {table} ADD CONSTRAINT {name} {definition} {loose}")
        await connection.execute(f"ALTER INDEX {name} RESET (fillfactor)")


_began = time.monotonic()


def _say(what: str) -> None:
    print(f"  {time.monotonic() - _began:6.1f} s  {what}", flush=True)


# ------------------------------------------------------------------ open trades


async def leave_open(dsn: str, customer_ids: Sequence[int]) -> list[TradeId]:
    """Commit a market order of each of these customers that no exchange has heard of; returns their ids.

    It is what a broker leaves that was killed after the commit and before it could send: IN PROGRESS, its cash held.
    """
    database, policy = Database(dsn, Config(database_timeout_s=60)), policy_of(Config())
    controls, market, now = Controls(database, limits_of(Config())), OneVenue(math.inf), datetime.now(UTC)
    market.replace({each.symbol: Quote(each.price, each.price, each.price, 0, 0, now) for each in _TICKERS})
    conditions = Conditions(now, market, controls, policy)
    ledger = Ledger(database, 0, uuid7, lambda: conditions.today)
    left: list[TradeId] = []
    try:
        for first in range(0, len(customer_ids), _COMMIT):
            ids = [CustomerId(each) for each in customer_ids[first : first + _COMMIT]]
            accounts = await ledger.load_accounts(ids)
            events = []
            for number, account in enumerate(accounts.values(), first):
                symbol = _TICKERS[number % len(_TICKERS)].symbol
                command = PlaceTrade(TradeId(uuid7()), account.customer_id, symbol, Side.BUY, 1)
                events += [*trading.place(account, command, conditions), *trading.start_next(account, conditions)]
                assert account.working, f"it was refused: {events[-1].reason}"
                for event in events[-2:]:
                    event.seq = account.next_event()
                left.append(command.trade_id)
            await ledger.commit(now, {account.customer_id: account.version for account in accounts.values()}, events)
    finally:
        await ledger.close()
    return left


# ------------------------------------------------------------------ the data folder


@asynccontextmanager
async def database_of(folder: Path) -> AsyncIterator[str]:
    """The owner's DSN of a data folder's own PostgreSQL, with the schema in it, while no broker runs on the folder."""
    with DataFolder(folder):
        embedded = await EmbeddedPostgres.start(folder, structlog.get_logger())
        try:
            await install(embedded.dsn)
            yield embedded.dsn
        finally:
            await embedded.stop()


async def fill_folder(folder: Path, customers: int, trades: int) -> None:
    """Fill a data folder, unless it was filled with as many before. Raises ValueError where it is anything else."""
    wanted, note = {"customers": customers, "trades": trades}, folder / "filled.json"
    found = read_json(note)
    if found == wanted:
        return
    if found or (folder / "postgres").exists():
        raise ValueError(
            f"{folder} is not filled with {wanted}, it has {found or 'something else'}: name another folder"
        )
    async with database_of(folder) as dsn:
        await fill(dsn, customers, trades)
    write_private(note, wanted)


def main() -> None:
    """Fill."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="data folder, as of broker serve --data")
    parser.add_argument("--customers", type=int, default=1_000_000)
    parser.add_argument("--trades", type=int, default=10_000_000)
    options = parser.parse_args()
    log.configure("warning")
    asyncio.run(fill_folder(options.folder, options.customers, options.trades))


if __name__ == "__main__":
    main()
