"""PlaceTrade: acknowledged and settled trades a second, beside two references that are measured in the same run.

    python -m bench.place_trade [--trades 10000] [--connections 1 64] [--rounds 3]

Everything is a process of its own on this machine: PostgreSQL (durable: checked), the simulated exchange over real HTTP
both ways, the server under test, the load generator. The servers take turns, round by round, so that a machine whose
speed drifts drifts for all of them. Prints a table and, for programs, one line of JSON a row in bench/results/.
"""

import argparse
import asyncio
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg

from broker.core.signing import encode_secret

BROKER = str(Path(sys.executable).with_name("broker"))
CUSTOMERS = 500
SYMBOLS = ["AAPL", "MSFT", "GOOGL", "AMZN", "NVDA", "META", "TSLA", "SPY", "QQQ", "JPM"]
ENVIRONMENT = {
    **os.environ,
    "BROKER_WEBHOOK_SECRETS": encode_secret(bytes(range(32))),
    "BROKER_LOG_LEVEL": "warning",
}


@dataclass
class Row:
    """One server's figures in one round. Times in ms."""

    server: str
    connections: int
    trades: int
    acknowledged_per_s: float
    ack_p50: float
    ack_p99: float
    settled_per_s: float | None = None
    filled_p50: float | None = None
    filled_p99: float | None = None
    server_cpu_us: float | None = None  # of the server's process, for each trade


@dataclass
class Server:
    """A server under test."""

    name: str
    port: int
    process: subprocess.Popen[bytes]
    tokens: list[str]
    dsn: str | None = None


@contextmanager
def _process(*command: str, **environment: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env={**ENVIRONMENT, **environment})
    assert process.stdout is not None
    try:
        yield process, process.stdout.readline().decode()
    finally:
        process.terminate()
        process.wait(15)


def _module(name: str) -> tuple[str, ...]:
    return sys.executable, "-m", name


def _servers(stack: ExitStack, folder: Path) -> list[Server]:
    """The broker, the plain way and the bare echo; broker and plain way each with an exchange and a database."""
    flags = ("--port", "0", "--json")
    _, line = stack.enter_context(_process(BROKER, "exchange", *flags))
    exchange = json.loads(line)["url"]
    broker_flags = (*flags, "--exchange", exchange, "--demo", str(CUSTOMERS))
    broker, line = stack.enter_context(_process(BROKER, "serve", *broker_flags, "--data", str(folder / "broker")))
    ready = json.loads(line)
    tokens = [customer["token"] for customer in ready["customers"]]
    # The plain way works on a database of its own, made and then left alone by a second broker.
    alone = ("--recover-every-s", "1000000", "--data", str(folder / "plain"))
    _, line = stack.enter_context(_process(BROKER, "serve", *broker_flags, *alone))
    database = json.loads(line)
    plain, port = stack.enter_context(_process(*_module("bench.plain"), DSN=database["database"], EXCHANGE=exchange))
    echo, echo_port = stack.enter_context(_process(*_module("bench.echo")))
    return [
        Server("broker", int(ready["url"].rsplit(":", 1)[1]), broker, tokens, ready["database"]),
        Server("plain way", int(port), plain, [c["token"] for c in database["customers"]], database["database"]),
        Server("bare echo", int(echo_port), echo, tokens),
    ]


def _load(server: Server, connections: int, trades: int, rng: random.Random) -> Any:
    def body() -> str:
        return json.dumps({"stockTicker": rng.choice(SYMBOLS), "type": "BUY", "quantity": 1})

    plan = {
        "host": "127.0.0.1",
        "port": server.port,
        "path": "/api/v1/trades",
        "connections": connections,
        "requests": [[rng.choice(server.tokens), body()] for _ in range(trades)],
    }
    command = _module("bench.load")
    output = subprocess.run(command, input=json.dumps(plan).encode(), stdout=subprocess.PIPE, check=True).stdout
    result = json.loads(output)
    assert result["statuses"] == {"201": trades}, result["statuses"]
    return result


async def _fetch(dsn: str, sql: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(dsn, server_settings={"search_path": "broker"})
    try:
        return list(await connection.fetch(sql))
    finally:
        await connection.close()


def _until_all_end(dsn: str) -> None:
    open_trades = "SELECT FROM trade WHERE status IN ('PLACED', 'IN PROGRESS', 'PARTIALLY FILLED') LIMIT 1"
    while asyncio.run(_fetch(dsn, open_trades)):
        time.sleep(0.05)


def _cpu_us(process: subprocess.Popen[bytes]) -> float:
    fields = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) * 1e6 / os.sysconf("SC_CLK_TCK")


def _ms(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))] * 1000


def measure(server: Server, connections: int, trades: int, rng: random.Random) -> Row:
    """One server, one round: closed loop, then wait until every trade has ended."""
    before = _cpu_us(server.process)
    result = _load(server, connections, trades, rng)
    row = Row(
        server.name,
        connections,
        trades,
        trades / result["seconds"],
        _ms(result["latencies"], 0.5),
        _ms(result["latencies"], 0.99),
    )
    if server.dsn:
        _until_all_end(server.dsn)
        row.server_cpu_us = (_cpu_us(server.process) - before) / trades
        sql = "SELECT trade_id::text, status, extract(epoch FROM updated_at)::float8 AS ended FROM trade"
        ended = {trade["trade_id"]: trade for trade in asyncio.run(_fetch(server.dsn, sql))}
        mine = [ended[answer] for answer in result["answers"]]
        assert {trade["status"] for trade in mine} == {"FILLED"}, "only settled trades count"
        waits = [trade["ended"] - began for trade, began in zip(mine, result["started"], strict=True)]
        row.settled_per_s = trades / (max(trade["ended"] for trade in mine) - min(result["started"]))
        row.filled_p50, row.filled_p99 = _ms(waits, 0.5), _ms(waits, 0.99)
    return row


def _durable(dsn: str) -> dict[str, str]:
    names = ("fsync", "synchronous_commit", "full_page_writes", "server_version")
    found = {name: asyncio.run(_fetch(dsn, f"SHOW {name}"))[0][0] for name in names}
    assert [found[name] for name in names[:3]] == ["on"] * 3, found
    return found


def _median(rows: list[Row], server: str, connections: int, figure: str) -> float:
    mine = [row for row in rows if (row.server, row.connections) == (server, connections)]
    return float(statistics.median(getattr(row, figure) for row in mine))


def _table(rows: list[Row], connections: list[int]) -> Iterator[str]:
    yield "| connections | server | 201/s | 201 p50 / p99 ms | settled/s | FILLED p50 / p99 ms | CPU us/trade |"
    yield "|---|---|---|---|---|---|---|"
    for number in connections:
        for server in ("broker", "plain way", "bare echo"):

            def figure(name: str, digits: int = 0, server: str = server, number: int = number) -> str:
                return f"{_median(rows, server, number, name):,.{digits}f}"

            ack = f"{figure('acknowledged_per_s')} | {figure('ack_p50', 1)} / {figure('ack_p99', 1)}"
            rest = "| | | |"
            if server != "bare echo":
                filled = f"{figure('filled_p50', 1)} / {figure('filled_p99', 1)}"
                rest = f"| {figure('settled_per_s')} | {filled} | {figure('server_cpu_us')} |"
            yield f"| {number} | {server} | {ack} {rest}"
    for number in connections:
        acks = [_median(rows, server, number, "acknowledged_per_s") for server in ("broker", "bare echo")]
        settled = [_median(rows, server, number, "settled_per_s") for server in ("broker", "plain way")]
        yield ""
        yield (
            f"At {number} connections: acknowledgements {acks[0] / acks[1]:.0%} of the bare echo's; "
            f"settled trades {settled[0] / settled[1]:.1f} times the plain way's."
        )


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trades", type=int, default=10_000, help="trades in one round at the most connections")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    rng = random.Random(1)
    rows: list[Row] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        servers = _servers(stack, folder)
        assert servers[0].dsn
        durable = _durable(servers[0].dsn)
        for server in servers:
            measure(server, 64, 1000, rng)  # warm-up
        for _ in range(options.rounds):
            for connections in options.connections:
                trades = options.trades if connections > 8 else options.trades // 10
                rows += [measure(server, connections, trades, rng) for server in servers]
    machine = f"{os.cpu_count()} cores, Python {platform.python_version()}, PostgreSQL {durable['server_version']}"
    print(f"{machine}, fsync and synchronous_commit on; medians of {options.rounds} rounds\n")
    print("\n".join(_table(rows, options.connections)))
    results = Path(__file__).parent / "results"
    results.mkdir(exist_ok=True)
    stamp = datetime.now(UTC).strftime("%Y-%m-%d-%H%M")
    lines = [json.dumps({"machine": machine, **asdict(row)}) for row in rows]
    (results / f"place_trade-{stamp}.jsonl").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
