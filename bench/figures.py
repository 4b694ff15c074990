"""The arithmetic and the counters behind the tables: percentiles, spreads, CPU, commits, batches, results on file.

CPU comes from /proc, so a bench runs on Linux. Commits are counted by the transaction ids that PostgreSQL has given
out: each transaction that writes takes one, and the count is exact at once, where pg_stat_database may lag 10 s behind.
"""

import json
import math
import os
import platform
import re
import statistics
import time
import urllib.request
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from bench.servers import check_durable, fetch

RESULTS = Path(__file__).parent / "results"
_SYNCS = 200
_IN_MEMORY = {"tmpfs", "ramfs"}


# ------------------------------------------------------------------ arithmetic


def percentile(values: Iterable[float], share: float) -> float:
    """The smallest value that at least this share of all is not above (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * share) - 1)]


@dataclass(frozen=True)
class Spread:
    """A figure over the rounds."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Of at least one value."""
        return cls(statistics.median(values), min(values), max(values))

    def text(self, digits: int = 0) -> str:
        """Median, and least to most in brackets where that is more than one number."""
        median, least, most = (f"{each:,.{digits}f}" for each in (self.median, self.least, self.most))
        return median if least == most else f"{median} ({least}-{most})"


# ------------------------------------------------------------------ counters


@dataclass(frozen=True)
class Spent:
    """What a server has used up so far: CPU in seconds, transactions that wrote, batches and what was in them."""

    server_cpu_s: float
    postgres_cpu_s: float = 0.0
    exchange_cpu_s: float = 0.0
    commits: int = 0
    batches: float = 0.0
    batched: float = 0.0

    def __sub__(self, earlier: Self) -> "Spent":
        """What was used up since then."""
        return Spent(
            self.server_cpu_s - earlier.server_cpu_s,
            self.postgres_cpu_s - earlier.postgres_cpu_s,
            self.exchange_cpu_s - earlier.exchange_cpu_s,
            self.commits - earlier.commits,
            self.batches - earlier.batches,
            self.batched - earlier.batched,
        )


def cpu_s(pid: int) -> float:
    """CPU seconds of one process, user and system."""
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def cpu_below_s(pid: int) -> float:
    """CPU seconds of all processes below this one, which is a broker's PostgreSQL; those that have ended count too."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = _stat(int(entry.name))
            except OSError:  # it has just ended: its parent has its time
                continue
    total, known = 0, {pid}
    while known:
        known = {child for child, fields in parents.items() if int(fields[1]) in known}
        total += sum(int(ticks) for child in known for ticks in parents[child][11:15])
    return total / os.sysconf("SC_CLK_TCK")


def _stat(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()


def commits(dsn: str) -> int:
    """How many transactions have written in this cluster."""
    return int(fetch(dsn, "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint")[0][0])


def batches(url: str) -> tuple[float, float]:
    """How many batches a broker has committed, and how many commands were in them: from its /metrics."""
    with urllib.request.urlopen(f"{url}/metrics") as answer:
        text = answer.read().decode()
    count, commands = (sum_of(text, f"broker_batch_size_{what}") for what in ("count", "sum"))
    return count, commands


def sum_of(exposition: str, name: str) -> float:
    """A metric of a Prometheus text, over all of its labels."""
    return sum(float(value) for value in re.findall(rf"^{name}(?:\{{.*\}})? (\S+)$", exposition, re.MULTILINE))


# ------------------------------------------------------------------ the machine, and what is kept


def machine(dsn: str, folder: Path) -> str:
    """What it runs on, in one line. Raises RuntimeError where what is committed would not be on a disk."""
    durable = check_durable(dsn)
    kind = file_system(folder, Path("/proc/mounts").read_text())
    if kind in _IN_MEMORY:
        raise RuntimeError(f"{folder} is {kind}, memory and no disk: name another folder with TMPDIR")
    memory = int(re.findall(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())[0]) / 1024**2
    model = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return (
        f"{os.cpu_count()} cores ({model[0] if model else platform.machine()}), {memory:.0f} GiB, "
        f"Linux {platform.release()}, Python {platform.python_version()}, PostgreSQL {durable['server_version']}; "
        f"fsync, synchronous_commit and full_page_writes on; {kind}, where one fdatasync of 8 KiB takes "
        f"{sync_ms(folder):.2f} ms (median)"
    )


def file_system(folder: Path, mounts: str) -> str:
    """The kind of file system that a folder is in."""
    kinds = {line.split()[1]: line.split()[2] for line in mounts.splitlines()}
    return next(kinds[str(place)] for place in (folder.resolve(), *folder.resolve().parents) if str(place) in kinds)


def sync_ms(folder: Path) -> float:
    """What it takes to have 8 KiB on this disk, in milliseconds: the floor of a durable answer."""
    path, took = folder / "sync", []
    file = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        for _ in range(_SYNCS):
            os.pwrite(file, bytes(8192), 0)
            began = time.perf_counter()
            os.fdatasync(file)
            took.append(time.perf_counter() - began)
    finally:
        os.close(file)
        path.unlink()
    return statistics.median(took) * 1000


def stolen_s() -> float:
    """CPU seconds that other guests of the host have taken from this machine, since it started."""
    return int(Path("/proc/stat").read_text().split("\n", 1)[0].split()[8]) / os.sysconf("SC_CLK_TCK")


def keep(name: str, rows: Iterable[dict[str, Any]], **common: Any) -> Path:
    """Write one line of JSON a row to bench/results/, without what is None; returns the file."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}-{datetime.now(UTC):%Y-%m-%d-%H%M}.jsonl"
    lines = [json.dumps({**common, **{key: value for key, value in row.items() if value is not None}}) for row in rows]
    path.write_text("\n".join(lines) + "\n")
    return path
