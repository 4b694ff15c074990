"""The stream of quotes: how much it carries, beside a bare aiohttp broadcast of the same bytes in the same run.

    python -m bench.stream [--clients 1000] [--symbols 100] [--each 20] [--seconds 6]

Processes on this machine: an exchange that only ticks (bench.ticks), the server under test, the clients (bench.follow).
A delay is counted from the time that the exchange put into the tick to the client's reading of it. Prints its findings
and writes one line of JSON for each measurement to bench/results/.
"""

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.servers import BROKER, ENVIRONMENT, module, process

LIMIT_MS = 100
ROUNDS = 5
STEP = 1.3


@dataclass
class Server:
    """A server under test, with its clients connected."""

    name: str
    process: "subprocess.Popen[bytes]"
    clients: "subprocess.Popen[bytes]"
    ticks: str
    followers: float  # of one symbol, on average
    rows: list[dict[str, Any]] = field(default_factory=list)

    def at(self, messages_per_s: float, seconds: float, what: str) -> dict[str, Any]:
        """Tick so that so many messages a second would have to be sent, and measure."""
        self.rate(messages_per_s / self.followers)
        time.sleep(1.0)
        cpu = self.cpu_s()
        row = self.ask({"measure": seconds})
        row |= {
            "server": self.name,
            "what": what,
            "wanted_per_s": round(messages_per_s),
            "server_cpu": (self.cpu_s() - cpu) / seconds,
            "client_cpu": row.pop("cpu_s") / seconds,
            "rss_mb": self.rss_mb(),
        }
        self.rows.append(row)
        print(
            f"  {self.name:14} {what:22} wanted {messages_per_s:8,.0f}/s  came {row['per_s']:8,.0f}/s  "
            f"p50 {row['p50']:4} ms  p99 {row['p99']:5} ms  max {row['max']:5} ms  "
            f"CPU {row['server_cpu']:.2f} + {row['client_cpu']:.2f}  RSS {row['rss_mb']:.0f} MB  lost {row['lost']}",
            flush=True,
        )
        return row

    def highest(self, start: float, seconds: float) -> float:
        """The most messages a second that came with p99 below the limit; each step 30 % more."""
        best, wanted = 0.0, start
        while True:
            row = self.at(wanted, seconds, "rising")
            if row["p99"] >= LIMIT_MS or row["per_s"] < 0.95 * wanted:
                # Once more: on a small machine one stall of another process is no limit of this one.
                row = self.at(wanted, seconds, "rising, again")
                if row["p99"] >= LIMIT_MS or row["per_s"] < 0.95 * wanted:
                    return best
            best, wanted = row["per_s"], wanted * STEP

    def rate(self, ticks_per_s: float) -> None:
        urllib.request.urlopen(f"{self.ticks}/rate", data=str(ticks_per_s).encode()).close()

    def ask(self, words: dict[str, Any]) -> dict[str, Any]:
        assert self.clients.stdin is not None
        assert self.clients.stdout is not None
        self.clients.stdin.write(json.dumps(words).encode() + b"\n")
        self.clients.stdin.flush()
        answer: dict[str, Any] = json.loads(self.clients.stdout.readline())
        return answer

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def rss_mb(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024


@dataclass
class Setting:
    """What all servers are measured with."""

    clients: int
    symbols: int
    each: int
    seconds: float

    @property
    def names(self) -> list[str]:
        return [f"T{number:03}" for number in range(self.symbols)]

    @property
    def followers(self) -> float:
        return self.clients * self.each / self.symbols

    @property
    def usual(self) -> float:
        """Messages a second when every symbol ticks once a second."""
        return self.clients * self.each


@contextmanager
def connected(
    setting: Setting,
    name: str,
    server: "subprocess.Popen[bytes]",
    port: int,
    tokens: list[str],
    ticks: str,
    **plan: Any,
) -> Iterator[Server]:
    """The clients, connected to a server."""
    with _follow(setting, port, tokens, plan) as clients:
        yield Server(name, server, clients, ticks, setting.followers)


@contextmanager
def _follow(
    setting: Setting, port: int, tokens: list[str], plan: dict[str, Any]
) -> Iterator["subprocess.Popen[bytes]"]:
    words = {
        "port": port,
        "tokens": tokens,
        "clients": setting.clients,
        "symbols": setting.names,
        "each": setting.each,
        **plan,
    }
    clients = subprocess.Popen(module("bench.follow"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=ENVIRONMENT)
    assert clients.stdin is not None
    assert clients.stdout is not None
    try:
        clients.stdin.write(json.dumps(words).encode() + b"\n")
        clients.stdin.flush()
        answer = json.loads(clients.stdout.readline())
        assert answer == {"connected": setting.clients}, answer
        yield clients
    finally:
        clients.terminate()
        clients.wait(20)


@contextmanager
def broker(setting: Setting, folder: Path, ticks: str) -> Iterator[tuple["subprocess.Popen[bytes]", int, list[str]]]:
    """A broker whose second venue ticks; its first one trades."""
    routes = ",".join(f"{name}=ticks" for name in setting.names)
    flags = ("--port", "0", "--json", "--demo", "100", "--data", str(folder / "broker"))
    with process(BROKER, "serve", *flags, "--venues", f"ticks={ticks}", "--routes", routes) as (started, line):
        ready = json.loads(line)
        tokens = [customer["token"] for customer in ready["customers"]]
        yield started, int(ready["url"].rsplit(":", 1)[1]), tokens


def place(port: int, tokens: list[str], trades: int, per_s: float = 200.0) -> dict[str, float]:
    """PlaceTrade so many times a second, from many customers; what its answers took, counted from when each was due."""
    rng = random.Random(1)
    body = json.dumps({"stockTicker": "AAPL", "type": "BUY", "quantity": 1})
    plan = {
        "host": "127.0.0.1",
        "port": port,
        "path": "/api/v1/trades",
        "connections": 16,
        "per_s": per_s,
        "requests": [[rng.choice(tokens), body] for _ in range(trades)],
    }
    output = subprocess.run(
        module("bench.load"), input=json.dumps(plan).encode(), stdout=subprocess.PIPE, check=True, env=ENVIRONMENT
    ).stdout
    result = json.loads(output)
    assert result["statuses"] == {"201": trades}, result["statuses"]
    waits = sorted(result["latencies"])
    return {
        "per_s": trades / result["seconds"],
        "p50": waits[trades // 2] * 1000,
        "p99": waits[int(trades * 0.99)] * 1000,
    }


def orders(server: Server, setting: Setting, port: int, tokens: list[str]) -> Iterator[dict[str, Any]]:
    """PlaceTrade in turn without ticks and beside them."""
    alone, beside = [], []
    for _ in range(ROUNDS):
        server.rate(0)
        time.sleep(0.5)
        alone.append(place(port, tokens, 2000))
        server.rate(setting.usual / server.followers)
        time.sleep(0.5)
        beside.append(place(port, tokens, 2000))
    middle = {
        name: [statistics.median(row[name] for row in rows) for rows in (alone, beside)] for name in ("p50", "p99")
    }
    for name, (without, with_) in middle.items():
        times = with_ / without
        print(f"  PlaceTrade 200/s: {name} {without:.1f} ms, beside the stream {with_:.1f} ms: {times:.2f} times")
    sys.stdout.flush()
    yield {"server": "broker", "what": "PlaceTrade", "alone": alone, "beside": beside}


def measure(setting: Setting, folder: Path) -> Iterator[dict[str, Any]]:
    """All of it, in an order that lets one part begin where the other ended."""
    with process(*module("bench.ticks"), str(setting.symbols)) as (_, line):
        ticks = f"http://127.0.0.1:{int(line)}"
        with process(*module("bench.broadcast"), FEED=ticks) as (bare, port_line):
            with connected(setting, "bare broadcast", bare, int(port_line), [""], ticks) as server:
                server.at(setting.usual, setting.seconds, "each symbol once a second")
                bare_most = server.highest(setting.usual * 1.5, setting.seconds)
                server.rate(0)
            yield from server.rows
        with broker(setting, folder, ticks) as (started, port, tokens):
            before = Path(f"/proc/{started.pid}/status").read_text()
            rss = int(before.split("VmRSS:")[1].split()[0]) / 1024
            place(port, tokens, 1000)  # warm-up
            with connected(setting, "broker", started, port, tokens, ticks) as server:
                print(
                    f"  {setting.clients} clients cost {(server.rss_mb() - rss) * 1024 / setting.clients:.1f} KB each"
                )
                server.at(setting.usual, setting.seconds, "each symbol once a second")
                yield from orders(server, setting, port, tokens)
                most = server.highest(setting.usual * 1.5, setting.seconds)
                server.at(most * 2, setting.seconds * 2, "twice the most")
                server.at(most * 4, setting.seconds * 2, "four times the most")
                server.at(setting.usual, setting.seconds, "once a second, again")
                server.ask({"stop": setting.clients // 20})
                server.at(setting.usual, setting.seconds, "some stopped reading")
                server.at(setting.usual, 20, "... for 20 s more")
                server.rate(0)
            yield from server.rows
            with connected(setting, "broker, batch", started, port, tokens, ticks, batch=True) as server:
                server.at(setting.usual, setting.seconds, "each symbol once a second")
                batch_most = server.highest(setting.usual * 1.5, setting.seconds)
                server.rate(0)
            yield from server.rows
    print(
        f"\nMost messages a second with p99 < {LIMIT_MS} ms: broker {most:,.0f}, bare broadcast {bare_most:,.0f} "
        f"({most / bare_most:.0%}), broker in batches {batch_most:,.0f}."
    )


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--symbols", type=int, default=100)
    parser.add_argument("--each", type=int, default=20, help="symbols that one client follows")
    parser.add_argument("--seconds", type=float, default=6.0, help="of one measurement")
    options = parser.parse_args()
    setting = Setting(options.clients, options.symbols, options.each, options.seconds)
    machine = f"{os.cpu_count()} cores, Python {platform.python_version()}"
    print(f"{machine}; {setting.clients} clients x {setting.each} of {setting.symbols} symbols\n")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        rows = list(measure(setting, folder))
    results = Path(__file__).parent / "results"
    results.mkdir(exist_ok=True)
    stamp = datetime.now(UTC).strftime("%Y-%m-%d-%H%M")
    lines = [json.dumps({"machine": machine, **row}) for row in rows]
    (results / f"stream-{stamp}.jsonl").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
