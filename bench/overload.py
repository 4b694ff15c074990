"""Overload: three times the peak for minutes. What is let in keeps its pace, the rest hears no at once.

    python -m bench.overload [--minutes 5] [--times 3] [--connections 1000]

In one run, on one broker: a light load; the peak, by a closed loop of 256 connections; `times` that peak, offered open
loop over many connections by a thousand customers who do not listen to Retry-After; 5 s of rest; the light load again.
Then the light load beside one customer who sends a thousand times what each of the others does.

The generator shares the two cores with the broker, its PostgreSQL and the exchange, and takes more of them the more it
offers, so what it really offered is in the figures, and its part of the CPU. Goodput is what was acknowledged (201) and
what was filled, a second, as the database has it; latencies count from the moment a request fell due. Prints a table
with the aims, and writes one line of JSON a row to bench/results/.
"""

import argparse
import json
import os
import random
import re
import subprocess
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.figures import cpu_below_s, cpu_s, keep, machine, percentile, stolen_s, sum_of
from bench.servers import MOST_A_SHARE, Broker, fetch, module, started
from broker.simulator.tickers import listed_tickers

LIGHT_PER_S = 200.0
LIGHT_CONNECTIONS = 64
PEAK_CONNECTIONS = 256
PEAK_ROUNDS = 3
_REST_S = 5.0
_CHEAP = sorted((each.price, each.symbol) for each in listed_tickers() if each.price < MOST_A_SHARE)[:20]
"""So that the customers' cash lasts for minutes."""
_FILLED = (
    "SELECT count(*) FROM trade WHERE status = 'FILLED' AND updated_at BETWEEN to_timestamp($1) AND to_timestamp($2)"
)
_OPEN = "SELECT count(*) FROM trade WHERE status IN ('PLACED', 'IN PROGRESS', 'PARTIALLY FILLED')"


@dataclass
class Row:
    """One stretch of load."""

    name: str
    per_s: float | None
    seconds: float
    offered_per_s: float
    unsent: int
    lost: int
    placed_per_s: float
    placed_p50: float
    placed_p99: float
    placed_most: float
    filled_per_s: float
    refused_per_s: float = 0.0
    refused_p50: float | None = None
    refused_p99: float | None = None
    without_retry_after: int = 0
    statuses: dict[str, int] = field(default_factory=dict)
    cpu: dict[str, float] = field(default_factory=dict)  # cores used
    placed_each_second: list[int] = field(default_factory=list)
    rss_mb: list[float] = field(default_factory=list)  # once a second
    refused_at: dict[str, float] = field(default_factory=dict)  # door or shard
    batch: float = 0.0  # commands in one
    commit_ms: float = 0.0
    server_cpu_us: float = 0.0  # the broker's, for each 201 and whatever was refused beside it
    refusals: dict[str, int] = field(default_factory=dict)  # by code


class Bench:
    """The broker under load."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._rng = random.Random(1)

    def offer(
        self, name: str, per_s: float | None, seconds: float, connections: int, tokens: Sequence[str] | None = None
    ) -> Row:
        """One stretch of load, from one process."""
        with self._offering(per_s, seconds, connections, tokens or self._broker.tokens) as generator:
            return self._row(name, per_s, generator)

    def beside(self, name: str, seconds: float) -> tuple[Row, Row]:
        """The light load of all but one customer, and that one's thousandfold beside it."""
        hot, *others = self._broker.tokens
        each = LIGHT_PER_S / len(others)
        with self._offering(1000 * each, seconds, LIGHT_CONNECTIONS, [hot]) as loud:
            row = self.offer(name, LIGHT_PER_S, seconds, LIGHT_CONNECTIONS, others)
            return row, self._row(f"{name}, the hot one", 1000 * each, loud)

    @contextmanager
    def _offering(
        self, per_s: float | None, seconds: float, connections: int, tokens: Sequence[str]
    ) -> Iterator["subprocess.Popen[bytes]"]:
        requests = [[token, self._body()] for token in tokens for _ in range(max(1, 2000 // len(tokens)))]
        self._rng.shuffle(requests)
        plan = {"port": self._broker.port, "connections": connections, "per_s": per_s, "seconds": seconds}
        with subprocess.Popen(module("bench.offer"), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as running:
            assert running.stdin
            running.stdin.write(json.dumps({**plan, "requests": requests}).encode())
            running.stdin.close()
            yield running

    def _body(self) -> str:
        symbol = self._rng.choice(_CHEAP)[1]
        return json.dumps({"stockTicker": symbol, "type": "BUY", "quantity": 1})

    def _row(self, name: str, per_s: float | None, generator: "subprocess.Popen[bytes]") -> Row:
        """What a generator found, with what the machine did meanwhile."""
        before, began, generator_cpu, refused_before = self._cpu(), time.time(), 0.0, self._refused_at()
        batches_before = self._batches()
        rss: list[float] = []
        ended = threading.Event()

        def watch() -> None:
            nonlocal generator_cpu
            while not ended.wait(1.0):
                rss.append(_rss_mb(self._broker.process.pid))
                try:
                    generator_cpu = cpu_s(generator.pid)
                except OSError:  # it has just ended
                    return

        watcher = threading.Thread(target=watch)
        watcher.start()
        assert generator.stdout
        found = json.loads(generator.stdout.read())
        ended.set()
        watcher.join()
        took = time.time() - began
        seconds = found["seconds"]
        cpu = {who: round((used - before[who]) / took, 2) for who, used in self._cpu().items()}
        cpu["generator"] = round(generator_cpu / took, 2)
        answers: dict[str, Any] = found["answers"]
        placed = answers.get("201") or {"count": 0, "p50": 0.0, "p99": 0.0, "most": 0.0, "each_second": []}
        refused = {status: each for status, each in answers.items() if status in {"429", "503"}}
        until = time.time() - (took - seconds) / 2
        filled = fetch(self._broker.dsn, _FILLED, until - seconds, until)[0][0]
        row = Row(
            name,
            per_s,
            seconds,
            found["sent"] / seconds,
            found["unsent"],
            found["lost"],
            placed["count"] / seconds,
            placed["p50"],
            placed["p99"],
            placed["most"],
            filled / seconds,
            sum(each["count"] for each in refused.values()) / seconds,
            max((each["p50"] for each in refused.values()), default=None),
            max((each["p99"] for each in refused.values()), default=None),
            found["refused_without_retry_after"],
            {status: each["count"] for status, each in answers.items()},
            cpu,
            placed["each_second"],
            rss,
            {where: most - refused_before.get(where, 0) for where, most in self._refused_at().items()},
            refusals=found["refusals"],
            server_cpu_us=(self._cpu()["broker"] - before["broker"]) / max(1, placed["count"]) * 1e6,
        )
        batches, commands, commit_s = (now - then for now, then in zip(self._batches(), batches_before, strict=True))
        row.batch, row.commit_ms = commands / max(1, batches), commit_s / max(1, batches) * 1000
        print(said(row), flush=True)
        return row

    def _cpu(self) -> dict[str, float]:
        pid = self._broker.process.pid
        return {
            "broker": cpu_s(pid),
            "postgres": cpu_below_s(pid),
            "exchange": cpu_s(self._broker.exchange.process.pid),
        }

    def _batches(self) -> tuple[float, float, float]:
        text = self._metrics()
        names = ("batch_size_count", "batch_size_sum", "commit_seconds_sum")
        batches, commands, seconds = (sum_of(text, f"broker_{name}") for name in names)
        return batches, commands, seconds

    def _metrics(self) -> str:
        with urllib.request.urlopen(f"{self._broker.url}/metrics") as answer:
            return str(answer.read().decode())

    def _refused_at(self) -> dict[str, float]:
        found = re.findall(r'^broker_overloaded_total{queue="(.*)"} (\S+)$', self._metrics(), re.MULTILINE)
        return {where: float(number) for where, number in found}

    def until_all_end(self) -> None:
        """Every trade that was placed has ended."""
        while fetch(self._broker.dsn, _OPEN)[0][0]:
            time.sleep(0.05)


def _rss_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1024**2, 1)


def said(row: Row) -> str:
    """One line."""
    refused = ""
    if row.refused_p50 is not None:
        refused = f"; no {row.refused_per_s:,.0f}/s p50 {row.refused_p50:.1f} p99 {row.refused_p99:.1f} ms"
    return (
        f"  {row.name:24} offered {row.offered_per_s:,.0f}/s; 201 {row.placed_per_s:,.0f}/s "
        f"p50 {row.placed_p50:.1f} p99 {row.placed_p99:.1f} most {row.placed_most:.0f} ms; "
        f"filled {row.filled_per_s:,.0f}/s{refused}; {row.statuses}; unsent {row.unsent}, lost {row.lost}; "
        f"at {row.refused_at}; {row.refusals}; batch {row.batch:.0f} in {row.commit_ms:.0f} ms; "
        f"{row.server_cpu_us:.0f} us a 201; "
        f"cores {row.cpu}; RSS {row.rss_mb[0] if row.rss_mb else 0:.0f}-{max(row.rss_mb, default=0):.0f} MB"
    )


def measure(bench: Bench, minutes: float, times: float, connections: int) -> list[Row]:
    """All stretches, in order."""
    bench.offer("warm-up", None, 3, 64)
    bench.until_all_end()
    rows = [bench.offer("light, before", LIGHT_PER_S, 10, LIGHT_CONNECTIONS)]
    for _ in range(PEAK_ROUNDS):
        rows.append(bench.offer("peak", None, 5, PEAK_CONNECTIONS))
        bench.until_all_end()
    peak = percentile([row.placed_per_s for row in rows[1:]], 0.5)
    rows.append(bench.offer(f"{times:g}x peak", times * peak, minutes * 60, connections))
    time.sleep(_REST_S)
    rows.append(bench.offer("light, 5 s after", LIGHT_PER_S, 10, LIGHT_CONNECTIONS))
    bench.until_all_end()
    rows += bench.beside("light, beside a hot one", 10)
    return rows


def aims(rows: Sequence[Row]) -> list[str]:
    """What was to be reached, and whether it was."""
    before, after, beside = (
        next(row for row in rows if row.name.startswith(name))
        for name in ("light, before", "light, 5", "light, beside")
    )
    peaks = [row for row in rows if row.name == "peak"]
    over = next(row for row in rows if row.name.endswith("x peak"))
    peak, peak_filled, peak_p99 = (
        percentile([getattr(row, name) for row in peaks], 0.5)
        for name in ("placed_per_s", "filled_per_s", "placed_p99")
    )
    settled_rss = over.rss_mb[min(30, len(over.rss_mb) // 4) :]
    return [
        f"offered: {over.offered_per_s / peak:.2f} times the peak of {peak:,.0f}/s for {over.seconds:.0f} s",
        f"goodput at least 0.80 of the peak: 201 {over.placed_per_s / peak:.2f}, filled "
        f"{over.filled_per_s / peak_filled:.2f}",
        f"201, p99: {over.placed_p99:.0f} ms, at the peak {peak_p99:.0f} ms",
        f"refusals: p50 {over.refused_p50 or 0:.1f}, p99 {over.refused_p99 or 0:.1f} ms; without Retry-After: "
        f"{over.without_retry_after}; other answers than 201, 429 and 503: "
        f"{sum(n for status, n in over.statuses.items() if status not in {'201', '429', '503'})}",
        f"memory of the broker: {settled_rss[0]:.0f} MB after a quarter of a minute's load at most, "
        f"{settled_rss[-1]:.0f} MB at its end, {max(over.rss_mb):.0f} MB at most",
        f"5 s after: 201 p50 {after.placed_p50:.1f} p99 {after.placed_p99:.1f} ms, before {before.placed_p50:.1f} and "
        f"{before.placed_p99:.1f} ms",
        f"beside a hot customer: p99 {beside.placed_p99:.1f} ms, {beside.placed_p99 / before.placed_p99:.2f} times "
        "that of before; below 2 times",
    ]


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0, help="of the overload")
    parser.add_argument("--times", type=float, default=3.0, help="the peak that is offered")
    parser.add_argument("--connections", type=int, default=1000, help="of the overload")
    options = parser.parse_args()
    began, stolen = time.monotonic(), stolen_s()
    load_before = round(os.getloadavg()[0], 2)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        broker = stack.enter_context(started(folder / "broker"))
        found = {"machine": machine(broker.dsn, folder), "load_before": load_before}
        print(found["machine"], flush=True)
        rows = measure(Bench(broker), options.minutes, options.times, options.connections)
    found |= {"run_s": round(time.monotonic() - began, 1), "stolen_cpu_s": round(stolen_s() - stolen, 1)}
    path = keep("overload", map(asdict, rows), **found)
    print("\n".join(("", *aims(rows), f"{path}")))


if __name__ == "__main__":
    main()
