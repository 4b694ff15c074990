"""PlaceTrade: acknowledged and settled trades a second and what each takes, beside references measured in the same run.

    python -m bench.place_trade [--quick] [--trades 5000] [--rounds 3] [--connections 1 64 256]
                                [--rates 100 430 1000 1500 2000 2500] [--seconds 10]

Everything is a process of its own on this machine: PostgreSQL (durable: checked), the simulated exchange over real HTTP
both ways, the server under test, the load generator, the customers who listen. The servers take turns, round by round,
so that a machine whose speed drifts drifts for all of them; each is warmed up before. What is measured:

- 201: from the request to its answer. In the open loop from the moment that the request was due.
- FILLED as the client sees it: from the same moment until a customer who follows its orders on the order stream has
  read the message. A tenth of the customers follow, in a process of their own: streams of all would be a load of their
  own. The broker encodes and sends their messages meanwhile, so this costs it a little.
- settled/s: from the first start to the last settlement of all trades, by `updated_at`, once each of them is read as
  FILLED from the database. `settled p50` in the same way; it is the time of the decision, a commit before the truth,
  and it is all that there is of the plain way, which has no streams.
- CPU of server, exchange and PostgreSQL, transactions that write, and commands in a batch, for each trade.

A closed loop on 1 connection has a fifth of the trades. The references: a bare aiohttp echo of the same request, the
plain way (bench/plain.py), pgbench of the same rows (bench/pgbench.py), and peers (bench/peers.py). Prints tables and
the aims, and writes one line of JSON a row and the plots to bench/results/.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench import pgbench
from bench.figures import Spent, batches, commits, cpu_below_s, cpu_s, keep, machine, percentile, stolen_s
from bench.order_streams import Fills, following
from bench.peers import MISSING, gateway, orders, papertrade, program
from bench.report import BROKER, ECHO, ENGINE, ENGINE_ONE, PAPERTRADE, PGBENCH, PLAIN, Report, Row
from bench.servers import SYMBOLS, Exchange, broker, exchange, fetch, module, process

FOLLOWERS = 100
OPEN_CONNECTIONS = 512
"""So many that no request waits for one, short of a stall: then it counts its wait."""
PEER_CONNECTIONS = 64
_OPEN_TRADES = "SELECT FROM trade WHERE status IN ('PLACED', 'IN PROGRESS', 'PARTIALLY FILLED') LIMIT 1"
_ENDED = """SELECT trade_id::text, status, extract(epoch FROM updated_at)::float8 AS ended
    FROM trade WHERE trade_id = ANY($1::uuid[])"""


@dataclass(frozen=True)
class Server:
    """A server under test."""

    name: str
    port: int
    pid: int
    tokens: list[str]
    dsn: str | None = None
    exchange: Exchange | None = None
    metrics: str | None = None  # the URL of a broker, which has /metrics
    fills: Fills | None = None

    def spent(self) -> Spent:
        """What it has used up so far."""
        return Spent(
            cpu_s(self.pid),
            cpu_below_s(self.pid),
            cpu_s(self.exchange.process.pid) if self.exchange else 0.0,
            commits(self.dsn) if self.dsn else 0,
            *(batches(self.metrics) if self.metrics else ()),
        )


@dataclass(frozen=True)
class Setting:
    """How much is measured."""

    trades: int
    rounds: int
    connections: Sequence[int]
    rates: Sequence[float]
    seconds: float


def servers(stack: ExitStack, folder: Path) -> tuple[Server, Server, Server]:
    """The broker, the plain way and the bare echo, on one exchange; each with customers and a database of its own."""
    at = stack.enter_context(exchange())
    ready = stack.enter_context(broker(folder / "broker", at))
    fills = stack.enter_context(following(ready.port, ready.tokens[:FOLLOWERS]))
    with broker(folder / "plain", at) as maker:  # it makes the customers; then the plain way has its data
        tokens = maker.tokens
    environment = {"DATA": str(folder / "plain"), "EXCHANGE": at.url}
    plain, line = stack.enter_context(process(*module("bench.plain"), **environment))
    where: dict[str, Any] = json.loads(line)
    echo, port = stack.enter_context(process(*module("bench.echo")))
    return (
        Server(BROKER, ready.port, ready.process.pid, ready.tokens, ready.dsn, at, ready.url, fills),
        Server(PLAIN, where["port"], plain.pid, tokens, where["dsn"], at),
        Server(ECHO, int(port), echo.pid, ready.tokens),
    )


# ------------------------------------------------------------------ one measurement


def load(port: int, connections: int, requests: list[list[str]], **more: Any) -> dict[str, Any]:
    """Run the load generator."""
    plan = {"host": "127.0.0.1", "port": port, "path": "/api/v1/trades", "connections": connections, **more}
    command = module("bench.load")
    given = json.dumps({**plan, "requests": requests}).encode()
    result: dict[str, Any] = json.loads(subprocess.run(command, input=given, stdout=subprocess.PIPE, check=True).stdout)
    return result


def measure(
    server: Server, trades: int, rng: random.Random, connections: int, per_s: float | None = None, round_: int = 0
) -> Row:
    """One server, one round: the load, then wait until every trade has ended."""
    requests = [[rng.choice(server.tokens), _body(rng)] for _ in range(trades)]
    before = server.spent()
    result = load(server.port, connections, requests, per_s=per_s)
    assert result["statuses"] == {"201": trades}, result["statuses"]
    if server.dsn:
        _until_all_end(server.dsn)
    used = server.spent() - before
    row = Row(server.name, round_, connections, per_s, trades, trades / result["seconds"])
    row.ack_p50, row.ack_p99 = _p50_p99(result["latencies"])
    row.server_cpu_us = used.server_cpu_s / trades * 1e6
    if per_s is not None:
        row.late_p99 = percentile(result["late"], 0.99) * 1000
    if server.dsn:
        row.exchange_cpu_us = used.exchange_cpu_s / trades * 1e6
        row.postgres_cpu_us = used.postgres_cpu_s / trades * 1e6
        row.commits = used.commits / trades
        _settled(row, server.dsn, result)
    if server.metrics:
        row.batch = used.batched / used.batches
    if server.fills:
        _filled(row, server.fills, set(server.tokens[:FOLLOWERS]), requests, result)
    return row


def warm_up(server: Server, rng: random.Random) -> None:
    """Every customer trades once: what a server reads at somebody's first trade of the day is no part of a round."""
    requests = [[token, _body(rng)] for token in server.tokens]
    result = load(server.port, 64, requests)
    assert result["statuses"] == {"201": len(requests)}, result["statuses"]
    if server.dsn:
        _until_all_end(server.dsn)


def _body(rng: random.Random) -> str:
    return json.dumps({"stockTicker": rng.choice(SYMBOLS), "type": "BUY", "quantity": 1})


def _settled(row: Row, dsn: str, result: dict[str, Any]) -> None:
    """What the database says of these trades."""
    ended = {trade["trade_id"]: trade for trade in fetch(dsn, _ENDED, result["answers"])}
    mine = [ended[answer] for answer in result["answers"]]
    found = Counter(trade["status"] for trade in mine)
    assert found == {"FILLED": row.trades}, f"only settled trades count: {found}"
    times = [trade["ended"] for trade in mine]
    row.settled_per_s = row.trades / (max(times) - min(result["started"]))
    row.settled_p50, row.settled_p99 = _p50_p99(
        [end - start for end, start in zip(times, result["started"], strict=True)]
    )


def _filled(row: Row, fills: Fills, tokens: set[str], requests: list[list[str]], result: dict[str, Any]) -> None:
    """What the customers who follow have heard of these trades."""
    theirs = [number for number, (token, _) in enumerate(requests) if token in tokens]
    heard = fills.heard([result["answers"][number] for number in theirs])
    row.fills_heard = len(heard)
    row.filled_p50, row.filled_p99 = _p50_p99(
        [time_ - result["started"][number] for time_, number in zip(heard, theirs, strict=True)]
    )


def _until_all_end(dsn: str) -> None:
    while fetch(dsn, _OPEN_TRADES):
        time.sleep(0.05)


def _p50_p99(seconds: Sequence[float]) -> tuple[float, float]:
    return percentile(seconds, 0.5) * 1000, percentile(seconds, 0.99) * 1000


# ------------------------------------------------------------------ the references


def measure_pgbench(server: Server, dsn: str, trades: int, round_: int = 0) -> Row:
    """pgbench, on the database server of the broker."""
    before = server.spent()
    per_s, latencies = pgbench.run(dsn, trades)
    used = server.spent() - before
    row = Row(PGBENCH, round_, pgbench.CLIENTS, None, len(latencies), settled_per_s=per_s)
    row.settled_p50, row.settled_p99 = _p50_p99(latencies)
    row.postgres_cpu_us = used.postgres_cpu_s / len(latencies) * 1e6
    row.commits = used.commits / len(latencies)
    return row


def measure_papertrade(python: Path, folder: Path, trades: int, round_: int = 0) -> Row:
    """papertrade-india, on an empty database."""
    folder.mkdir()
    seconds, latencies = papertrade(python, folder, trades)
    row = Row(PAPERTRADE, round_, None, None, trades, settled_per_s=trades / seconds)
    row.settled_p50, row.settled_p99 = _p50_p99(latencies)
    return row


def measure_engine(
    name: str, engine: Path, folder: Path, markets: Sequence[str], trades: int, rng: random.Random, round_: int = 0
) -> Row:
    """matching-engine, with an empty log; each trade is two orders."""
    folder.mkdir()
    with gateway(engine, folder, markets) as (running, port):
        load(port, PEER_CONNECTIONS, orders(markets, max(1, trades // 5), rng))  # warm-up
        before = cpu_s(running.pid)
        result = load(port, PEER_CONNECTIONS, orders(markets, trades, rng), field="status")
        used = cpu_s(running.pid) - before
    shutil.rmtree(folder)
    assert Counter(result["answers"]) == {"resting": trades, "filled": trades}, Counter(result["answers"])
    row = Row(name, round_, PEER_CONNECTIONS, None, trades, 2 * trades / result["seconds"])
    row.settled_per_s = trades / result["seconds"]
    row.ack_p50, row.ack_p99 = _p50_p99(result["latencies"])
    row.server_cpu_us = used / trades * 1e6
    return row


# ------------------------------------------------------------------ all of them


def measure_all(setting: Setting, folder: Path, stack: ExitStack, found: dict[str, Any]) -> Iterator[Row]:
    """Every row, as it is measured; what is true of the whole run goes into `found`."""
    rng = random.Random(1)
    three = servers(stack, folder)
    mine = three[0]
    assert mine.dsn
    found["machine"] = machine(mine.dsn, folder)
    database = pgbench.prepare(mine.dsn) if pgbench.program() else None
    python = program(PAPERTRADE, "python")
    engine = program(ENGINE, "matching-engine")
    for name, missing, why in (
        (PGBENCH, database is None, "not found beside the programs of PostgreSQL"),
        (PAPERTRADE, python is None, MISSING[PAPERTRADE]),
        (ENGINE, engine is None, MISSING[ENGINE]),
    ):
        if missing:
            yield Row(name, skipped=why)
    for server in three:
        warm_up(server, rng)
    if database:
        measure_pgbench(mine, database, max(8, setting.trades // 5))
    for round_ in range(1, setting.rounds + 1):
        for connections in setting.connections:
            trades = setting.trades if connections > 1 else setting.trades // 5
            for server in three:
                yield measure(server, trades, rng, connections, round_=round_)
        if database:
            yield measure_pgbench(mine, database, setting.trades, round_)
        if python:
            yield measure_papertrade(python, folder / f"papertrade-{round_}", setting.trades, round_)
        if engine:
            for name, markets in ((ENGINE, SYMBOLS), (ENGINE_ONE, SYMBOLS[:1])):
                yield measure_engine(name, engine, folder / "engine", markets, setting.trades, rng, round_)
        for rate in setting.rates:
            trades = round(rate * setting.seconds)
            yield measure(mine, trades, rng, OPEN_CONNECTIONS, rate, round_)


def _said(row: Row) -> str:
    if row.skipped:
        return f"  {row.server}: {row.skipped}"
    at = f"{row.connections} connections" if row.connections else "in process"
    if row.offered_per_s:
        at = f"{row.offered_per_s:,.0f}/s offered"
    figures = [
        f"201 {row.acknowledged_per_s:,.0f}/s, p50 {row.ack_p50:.1f} p99 {row.ack_p99:.1f} ms"
        if row.acknowledged_per_s
        else "",
        f"settled {row.settled_per_s:,.0f}/s" if row.settled_per_s else "",
        f"FILLED p50 {row.filled_p50:.1f} p99 {row.filled_p99:.1f} ms" if row.filled_p50 else "",
    ]
    return f"  {row.round}: {row.server:28} {at:18} {'; '.join(figure for figure in figures if figure)}"


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trades", type=int, default=5000, help="in one round of a closed loop, and of a reference")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 64, 256], help="of the closed loop")
    parser.add_argument("--rates", type=float, nargs="*", default=[100, 430, 1000, 1500, 2000, 2500])
    parser.add_argument("--seconds", type=float, default=10.0, help="of one round of an open loop")
    parser.add_argument("--quick", action="store_true", help="a look, in about a minute: figures that prove nothing")
    options = parser.parse_args()
    setting = Setting(options.trades, options.rounds, options.connections, options.rates, options.seconds)
    if options.quick:
        setting = Setting(1000, 1, options.connections, (430, 1000, 2000), 3.0)
    began, stolen = time.monotonic(), stolen_s()
    found: dict[str, Any] = {"load_before": round(os.getloadavg()[0], 2)}
    rows: list[Row] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for row in measure_all(setting, folder, stack, found):
            rows.append(row)
            print(_said(row), file=sys.stderr, flush=True)
    took = time.monotonic() - began
    found |= {"run_s": round(took, 1), "stolen_cpu_s": round(stolen_s() - stolen, 1)}
    path = keep("place_trade", map(asdict, rows), **found)
    report = Report(rows)
    head = (
        f"{found['machine']}",
        f"{setting.trades:,} trades in a closed loop, {setting.seconds:g} s in an open one; rounds: {setting.rounds}, "
        "figures are medians with the least and the most",
        f"took {took:.0f} s, of which other guests of the host had {found['stolen_cpu_s']} CPU seconds; "
        f"the load average before was {found['load_before']}",
        "",
    )
    print("\n".join((*head, *report.tables(), "", *report.aims())))
    print(f"\n{path}")
    plots = program("plots", "python")
    if plots:
        subprocess.run((str(plots), "-m", "bench.plots", str(path)), check=True)
    else:
        print("No plots: `make bench` installs what draws them.")


if __name__ == "__main__":
    main()
