"""Does the broker stay as fast when its tables have grown, how soon is it back with many open trades, how large is it?

    python -m bench.grown [--customers 1000000] [--trades 10000000] [--open 100000] [--active 10000] [--rounds 3]
                          [--keep FOLDER]

Two brokers, each with an exchange and a PostgreSQL of its own, take turns: a small one (1,000 customers, no past
trades) and a grown one (bench.fill). Each round is as many trades as there are active customers, first at 64
connections as fast as they go (peak), then at 430 a second. Who is active is drawn at random: on the grown one once as
many as the small one has, so that only the tables differ, and once all of --active.

A trade counts as FILLED from the moment at which its fill was decided, for all of them; until that is durable it is one
commit more, whose mean is in the table. Only trades that are FILLED in the database count at all.

The grown broker then starts again with open trades of the kind that makes most work: market orders, each of another
customer, committed, of which the exchange has never heard. Each has to be read, asked about, sent and settled.

Filling takes some minutes and some 25 GB at full size: --keep leaves the folder behind, and takes it as it is later.
"""

import argparse
import asyncio
import itertools
import json
import math
import random
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg

from bench import figures
from bench.figures import Spread, percentile
from bench.fill import FIRST, database_of, fill_folder, leave_open, token
from bench.servers import ENVIRONMENT, SYMBOLS, Broker, Exchange, broker, exchange, fetch, module, started
from broker import log
from broker.core.types import TradeId

SMALL = 1000
CONNECTIONS = 64
PER_S = 430.0
PEAK, STEADY = "peak", "430/s"
AIM_RECOVERY_S = 30.0
AIM_MB = 400.0

_OPEN = "status IN ('PLACED', 'HELD', 'IN PROGRESS', 'PARTIALLY FILLED')"
_PATIENCE_S = 300.0
_PROBE_S = 0.1


@dataclass
class Case:
    """A broker, and who is active on it."""

    name: str
    broker: Broker
    active: list[int]


@dataclass
class Row:
    """One case, one round. Times in ms, CPU in us."""

    case: str
    active: int
    load: str  # "first trades" (of each active customer), "peak" or "430/s"
    round: int
    trades: int
    acknowledged_per_s: float
    ack_p50: float
    ack_p99: float
    settled_per_s: float
    filled_p50: float
    filled_p99: float
    broker_cpu: float  # for each trade
    postgres_cpu: float  # for each trade
    commit: float  # mean
    batch: float  # commands in one commit, mean
    misses: float  # pages for each trade that PostgreSQL had not in its own memory
    stolen_s: float  # CPU seconds that other guests of the host took meanwhile


# ------------------------------------------------------------------ load


def measure(case: Case, load: str, number: int, customers: Sequence[int], per_s: float | None = None) -> Row:
    """One trade of each of these customers; ends when all are settled."""
    before = _counters(case.broker)
    result = _place(case.broker, customers, per_s)
    _until_none_is_open(case.broker.dsn)
    spent = {name: after - before[name] for name, after in _counters(case.broker).items()}
    figure = "trade_id::text, status, extract(epoch FROM updated_at)::float8 AS ended"
    sql = f"SELECT {figure} FROM trade WHERE trade_id = ANY($1)"
    ended = {row["trade_id"]: row for row in fetch(case.broker.dsn, sql, result["answers"])}
    mine = [ended[answer] for answer in result["answers"]]
    assert {row["status"] for row in mine} == {"FILLED"}, "only settled trades count"
    waits = [(row["ended"] - began) * 1000 for row, began in zip(mine, result["started"], strict=True)]
    acks = [each * 1000 for each in result["latencies"]]
    trades = len(customers)
    return Row(
        case=case.name,
        active=len(case.active),
        load=load,
        round=number,
        trades=trades,
        acknowledged_per_s=trades / result["seconds"],
        ack_p50=percentile(acks, 0.5),
        ack_p99=percentile(acks, 0.99),
        settled_per_s=trades / (max(row["ended"] for row in mine) - min(result["started"])),
        filled_p50=percentile(waits, 0.5),
        filled_p99=percentile(waits, 0.99),
        broker_cpu=spent["broker_cpu_s"] * 1e6 / trades,
        postgres_cpu=spent["postgres_cpu_s"] * 1e6 / trades,
        commit=spent["commit_s"] * 1000 / spent["commits"],
        batch=spent["batched"] / spent["commits"],
        misses=spent["misses"] / trades,
        stolen_s=spent["stolen_s"],
    )


def _place(server: Broker, customers: Sequence[int], per_s: float | None) -> Any:
    bodies = [json.dumps({"stockTicker": symbol, "type": "BUY", "quantity": 1}) for symbol in SYMBOLS]
    plan = {
        "host": "127.0.0.1",
        "port": server.port,
        "path": "/api/v1/trades",
        "connections": CONNECTIONS,
        "requests": [[token(each), random.choice(bodies)] for each in customers],
        "per_s": per_s,
    }
    command, text = module("bench.load"), json.dumps(plan).encode()
    output = subprocess.run(command, input=text, stdout=subprocess.PIPE, check=True, env=ENVIRONMENT).stdout
    result = json.loads(output)
    assert result["statuses"] == {"201": len(customers)}, result["statuses"]
    return result


def _until_none_is_open(dsn: str) -> None:
    until = time.monotonic() + _PATIENCE_S
    while fetch(dsn, f"SELECT FROM trade WHERE {_OPEN} LIMIT 1"):
        assert time.monotonic() < until, f"trades are open after {_PATIENCE_S} s"
        time.sleep(0.05)


def _counters(server: Broker) -> dict[str, float]:
    with urllib.request.urlopen(f"{server.url}/metrics") as answer:
        metrics = answer.read().decode()
    misses = "SELECT blks_read FROM pg_stat_database WHERE datname = current_database()"
    return {
        "broker_cpu_s": figures.cpu_s(server.process.pid),
        "postgres_cpu_s": figures.cpu_below_s(server.process.pid),
        "commit_s": figures.sum_of(metrics, "broker_commit_seconds_sum"),
        "commits": figures.sum_of(metrics, "broker_commit_seconds_count"),
        "batched": figures.sum_of(metrics, "broker_batch_size_sum"),
        "misses": float(fetch(server.dsn, misses)[0][0]),
        "stolen_s": figures.stolen_s(),
    }


# ------------------------------------------------------------------ growth and memory


@dataclass
class Memory:
    """The broker's process, without its PostgreSQL, in MB: when it was ready, later, and at most."""

    customers: int
    active: int
    ready: float
    all_active: float  # when each active customer had placed its first trade
    end: float
    most: float


def grow(small: Path, grown: Path, customers: int, active: int, rounds: int) -> tuple[list[Row], Memory, str]:
    """Both brokers in turn; the memory is the grown one's, of which no more than `active` customers have traded."""
    drawn = random.sample(range(FIRST, FIRST + customers), active)
    rows: list[Row] = []
    with ExitStack() as stack:
        few = min(SMALL, active)
        all_small = list(range(FIRST, FIRST + few))
        grown_broker = stack.enter_context(started(grown, customers=0))
        small_broker = stack.enter_context(started(small, customers=0))
        machine = figures.machine(grown_broker.dsn, grown)
        ready = _memory_mb(grown_broker, "VmRSS")
        cases = [Case("small", small_broker, all_small), Case("grown", grown_broker, drawn[:few])]
        if active > few:
            cases.append(Case("grown", grown_broker, drawn))
        rows += [measure(case, "first trades", 0, case.active) for case in (cases[0], cases[-1])]
        all_active = _memory_mb(grown_broker, "VmRSS")
        for number in range(1, rounds + 1):
            turn = number % len(cases)  # nobody is always first
            for case in (*cases[turn:], *cases[:turn]):
                for load, per_s in ((PEAK, None), (STEADY, PER_S)):
                    rows.append(measure(case, load, number, random.choices(case.active, k=active), per_s))
                    _say(rows[-1])
        end, most = (_memory_mb(grown_broker, name) for name in ("VmRSS", "VmHWM"))
    return rows, Memory(customers, active, ready, all_active, end, most), machine


def _memory_mb(server: Broker, name: str) -> float:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.split(f"{name}:")[1].split()[0]) / 1024


def _say(row: Row) -> None:
    print(
        f"  {row.load:6} {row.case}, {row.active:,} active: 201 {row.acknowledged_per_s:,.0f}/s "
        f"{row.ack_p50:.1f} / {row.ack_p99:.1f} ms, settled {row.settled_per_s:,.0f}/s, "
        f"FILLED {row.filled_p50:.1f} / {row.filled_p99:.1f} ms",
        flush=True,
    )


# ------------------------------------------------------------------ recovery


@dataclass
class Recovery:
    """A start with open trades; seconds from the start of the process."""

    customers: int
    open_trades: int
    empty_ready_s: float  # a start on the same tables without any
    ready_s: float  # /readyz answered 200
    first_ack_s: float  # the first new PlaceTrade was answered 201
    settled_s: float  # all of them were settled
    probes: int  # new trades meanwhile, ten a second
    refused: dict[str, int]  # of those, by status code
    slowest_ack_ms: float
    broker_cpu_s: float
    postgres_cpu_s: float
    most_mb: float


def recover(folder: Path, customers: int, open_trades: int) -> Recovery:
    """Leave so many trades open, start, and place new ones of other customers until all of those are settled."""
    drawn = random.sample(range(FIRST, FIRST + customers), min(customers, open_trades + SMALL))
    left, others = drawn[:open_trades], drawn[open_trades:]
    assert others, "no customer is left that could place a new trade"
    with exchange() as at:
        with _start(folder, at) as (_, _, empty_ready_s):
            pass
        trades = asyncio.run(_leave_open(folder, left))
        with _start(folder, at) as (running, began, ready_s):
            watch = Watch(running, began, trades, others)
            asyncio.run(watch.run())
            return Recovery(
                customers=customers,
                open_trades=len(trades),
                empty_ready_s=empty_ready_s,
                ready_s=ready_s,
                first_ack_s=watch.first_ack_s,
                settled_s=watch.settled_s,
                probes=sum(watch.statuses.values()),
                refused={str(status): number for status, number in watch.statuses.items() if status != 201},
                slowest_ack_ms=max(watch.acks) * 1000,
                broker_cpu_s=figures.cpu_s(running.process.pid),
                postgres_cpu_s=figures.cpu_below_s(running.process.pid),
                most_mb=_memory_mb(running, "VmHWM"),
            )


@contextmanager
def _start(folder: Path, at: Exchange) -> Iterator[tuple[Broker, float, float]]:
    """A broker that is ready, when its start began, and how many seconds that took."""
    began = time.monotonic()
    with broker(folder, at, customers=0) as running:
        while not _is_ready(running.url):
            assert time.monotonic() < began + _PATIENCE_S, f"not ready after {_PATIENCE_S} s"
            time.sleep(0.01)
        yield running, began, time.monotonic() - began


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/readyz") as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError:
        return False


async def _leave_open(folder: Path, customer_ids: Sequence[int]) -> list[TradeId]:
    async with database_of(folder) as dsn:
        return await leave_open(dsn, customer_ids)


class Watch:
    """What happens after a start: how the open trades end, and how new ones fare meanwhile."""

    def __init__(self, running: Broker, began: float, trades: Sequence[TradeId], others: Sequence[int]) -> None:
        self.statuses: Counter[int] = Counter()
        self.acks: list[float] = []
        self.first_ack_s = math.inf
        self.settled_s = math.inf
        self._running = running
        self._began = began
        self._trades = trades
        self._others = itertools.cycle(others)

    async def run(self) -> None:
        """Until all of them are settled, each by one execution, and a new one was acknowledged."""
        async with aiohttp.ClientSession() as http, asyncio.TaskGroup() as tasks:
            settled = tasks.create_task(self._until_settled())
            while not (settled.done() and self.acks):
                tasks.create_task(self._probe(http))
                await asyncio.sleep(_PROBE_S)

    async def _probe(self, http: aiohttp.ClientSession) -> None:
        """A new trade; others go on when its answer takes long."""
        headers = {"Authorization": f"Bearer {token(next(self._others))}"}
        order = {"stockTicker": SYMBOLS[0], "type": "BUY", "quantity": 1}
        sent = time.monotonic()
        async with http.post(f"{self._running.url}/api/v1/trades", json=order, headers=headers) as answer:
            await answer.read()
        now = time.monotonic()
        self.statuses[answer.status] += 1
        if answer.status == 201:
            self.acks.append(now - sent)
            self.first_ack_s = min(self.first_ack_s, now - self._began)

    async def _until_settled(self) -> None:
        connection = await asyncpg.connect(self._running.dsn, server_settings={"search_path": "broker"})
        try:
            placed_at = await connection.fetchval("SELECT created_at FROM trade WHERE trade_id = $1", self._trades[0])
            left = f"SELECT count(*) FROM trade WHERE {_OPEN} AND created_at = $1"
            while number := await connection.fetchval(left, placed_at):
                passed = time.monotonic() - self._began
                assert passed < _PATIENCE_S, f"{number} trades are open after {passed:.0f} s"
                await asyncio.sleep(0.2)
            self.settled_s = time.monotonic() - self._began
            settled = """SELECT count(*) FROM trade WHERE trade_id = ANY($1) AND status = 'FILLED'
                AND (SELECT count(*) FROM execution WHERE execution.trade_id = trade.trade_id) = 1"""
            assert await connection.fetchval(settled, self._trades) == len(self._trades), "each is settled once"
        finally:
            await connection.close()


# ------------------------------------------------------------------ the report


def _table(rows: Sequence[Row]) -> Iterator[str]:
    yield (
        "| tables | active | load | 201/s | 201 p50 / p99 ms | settled/s | FILLED p50 / p99 ms "
        "| CPU us a trade: broker, PostgreSQL | commit ms, of so many | pages read a trade |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for case, active, load in dict.fromkeys((row.case, row.active, row.load) for row in rows):
        mine = [row for row in rows if (row.case, row.active, row.load) == (case, active, load)]

        def of(name: str, digits: int = 0, mine: list[Row] = mine) -> str:
            return Spread.of([getattr(row, name) for row in mine]).text(digits)

        yield (
            f"| {case} | {active:,} | {load} | {of('acknowledged_per_s')} | {of('ack_p50', 1)} / {of('ack_p99', 1)} "
            f"| {of('settled_per_s')} | {of('filled_p50', 1)} / {of('filled_p99', 1)} "
            f"| {of('broker_cpu')}, {of('postgres_cpu')} | {of('commit', 1)}, {of('batch')} | {of('misses', 1)} |"
        )


@dataclass
class Ratio:
    """Grown to small, round by round, and what it may be."""

    active: int
    load: str
    figure: str
    spread: Spread
    aim: str
    kept: bool


def _ratios(rows: Sequence[Row]) -> Iterator[Ratio]:
    rounds = [row for row in rows if row.round]
    for active in dict.fromkeys(row.active for row in rounds if row.case == "grown"):
        for load, name in ((PEAK, "settled_per_s"), (STEADY, "ack_p99"), (STEADY, "filled_p99")):
            mine = [row for row in rounds if row.load == load]
            small = {row.round: getattr(row, name) for row in mine if row.case == "small"}
            grown = {row.round: getattr(row, name) for row in mine if row.case == "grown" and row.active == active}
            spread = Spread.of([grown[number] / small[number] for number in small])
            if load == PEAK:
                yield Ratio(active, load, name, spread, "at least 0.80", spread.median >= 0.80)
            else:
                yield Ratio(active, load, name, spread, "at most 1.20", spread.median <= 1.20)


def _verdict(kept: bool) -> str:
    return "kept" if kept else "MISSED"


def _report(rows: Sequence[Row], memory: Memory, recovery: Recovery, past: int) -> Iterator[str]:
    yield f"Small: {SMALL:,} customers, no past trades. Grown: {memory.customers:,} customers, {past:,} past trades.\n"
    yield from _table(rows)
    yield "\nGrown to small, round by round, median (least-most):\n"
    for each in _ratios(rows):
        words = f"{each.spread.text(2)}, aim {each.aim}: {_verdict(each.kept)}"
        yield f"- {each.load}, {each.active:,} active, {each.figure}: {words}"
    yield (
        f"\nMemory of the grown broker's process: {memory.ready:.0f} MB when ready, {memory.all_active:.0f} MB with "
        f"{memory.active:,} active, {memory.end:.0f} MB at the end, {memory.most:.0f} MB at most; "
        f"aim below {AIM_MB:.0f} MB: {_verdict(memory.most < AIM_MB)}"
    )
    yield (
        f"\nStart with {recovery.open_trades:,} open trades: ready after {recovery.ready_s:.1f} s (without any "
        f"{recovery.empty_ready_s:.1f} s), the first new trade acknowledged after {recovery.first_ack_s:.1f} s, all "
        f"settled after {recovery.settled_s:.1f} s; aim below {AIM_RECOVERY_S:.0f} s: "
        f"{_verdict(recovery.settled_s < AIM_RECOVERY_S)}. New trades meanwhile: {recovery.probes}, refused "
        f"{recovery.refused or 'none'}, slowest acknowledgement {recovery.slowest_ack_ms:.0f} ms. CPU of broker "
        f"{recovery.broker_cpu_s:.1f} s, of PostgreSQL {recovery.postgres_cpu_s:.1f} s; {recovery.most_mb:.0f} MB at "
        "most."
    )


def main() -> None:
    """Fill, measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--customers", type=int, default=1_000_000)
    parser.add_argument("--trades", type=int, default=10_000_000, help="past trades")
    parser.add_argument("--open", type=int, default=100_000, help="open trades at the start, each of another customer")
    parser.add_argument("--active", type=int, default=10_000, help="customers that trade, and trades in one round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--keep", type=Path, help="data folder of the grown broker, filled before or now, and kept")
    options = parser.parse_args()
    log.configure("warning")
    with tempfile.TemporaryDirectory() as temporary:
        small, grown = Path(temporary) / "small", options.keep or Path(temporary) / "grown"
        asyncio.run(fill_folder(small, SMALL, 0))
        asyncio.run(fill_folder(grown, options.customers, options.trades))
        rows, memory, machine = grow(small, grown, options.customers, options.active, options.rounds)
        recovery = recover(grown, options.customers, options.open)
    print("\n".join(["", machine, "", *_report(rows, memory, recovery, options.trades)]))
    kept = [
        *({"what": "load", **asdict(row)} for row in rows),
        *({"what": "ratio", **asdict(ratio)} for ratio in _ratios(rows)),
        {"what": "memory", **asdict(memory)},
        {"what": "recovery", **asdict(recovery)},
    ]
    figures.keep("grown", kept, machine=machine, customers=options.customers, past_trades=options.trades)


if __name__ == "__main__":
    main()
