"""A run: rounds of some minutes, each on a fresh system, so that the disk stays bounded and a failure near its seed."""

import asyncio
import random
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import aiohttp

from tests.chaos.faults import Faults
from tests.chaos.load import Load
from tests.chaos.reckoning import cancels_kept, compare, settled
from tests.chaos.report import Report
from tests.chaos.world import Found, World

ROUND_S = 300.0
CUSTOMERS = 60
PER_SECOND = 60.0
RECOVERS_WITHIN_S = 60.0
DUPLICATES = "duplicate callbacks (at least)"
_COUNTERS = {
    "broker_duplicate_callbacks_total": DUPLICATES,
    'broker_commit_retries_total{why="stale"}': "batches fenced off by a version (at least)",
    'broker_commit_retries_total{why="unavailable"}': "batches decided again for the database (at least)",
}
_NO_DISK = "full disk: a small file system cannot be mounted here (it takes root)."


async def run(folder: Path, seed: int, seconds: float, tell: Callable[[str], None]) -> Report:
    """Rounds until the time is over. What goes wrong is in the report."""
    report = Report(seed)
    began = time.monotonic()
    while (left := seconds - (time.monotonic() - began)) > 0:
        # Rather one round that is longer than a last one that is too short for anything.
        round_s = left if left < 1.5 * ROUND_S else ROUND_S
        rng = random.Random(f"{seed} {report.rounds}")
        before = report.found.wrongs
        await _round(folder / f"round-{report.rounds}", rng, round_s, report)
        report.rounds += 1
        report.minutes = (time.monotonic() - began) / 60
        found = report.found.wrongs - before
        tell(
            f"round {report.rounds}: {report.minutes:.1f} min, {sum(report.found.faults.values()):,} faults, "
            f"{report.counts['acknowledged']:,} orders acknowledged, {found} violations"
        )
    return report


async def _round(folder: Path, rng: random.Random, seconds: float, report: Report) -> None:
    found = report.found
    world = World(folder, rng, found, CUSTOMERS)
    load: Load | None = None
    faults: Faults | None = None
    before = found.wrongs
    counters = asyncio.create_task(asyncio.sleep(0))
    try:
        await world.start()
        if not world.mounted and _NO_DISK not in report.skipped:
            report.skipped.append(_NO_DISK)
        load = Load(world, found, random.Random(rng.random()), PER_SECOND)
        load.start()
        counters = asyncio.create_task(_count(world, found))
        faults = Faults(world, found, random.Random(rng.random()), seconds / 4)
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await faults.run()
        await faults.heal()
        healed = time.monotonic()
        while found.recovering and time.monotonic() - healed < RECOVERS_WITHIN_S:
            await asyncio.sleep(0.1)
        if found.recovering:
            found.wrong(f"nothing was done any more after a fault of {set(found.recovering)}")
            found.forget()
        await load.finish()
        report.settle_s.append(await settled(world, found, healed, resting_may_stay=True))
        await cancels_kept(world, load.ledger, found)
        if not await load.cancel_all():
            found.wrong("orders cannot be cancelled any more")
        await settled(world, found, time.monotonic(), resting_may_stay=False)
        assert world.exchange is not None
        await world.exchange.kill()
        await compare(world, load.ledger, found)
    finally:
        counters.cancel()
        await asyncio.gather(counters, return_exceptions=True)
        if faults is not None:
            await faults.end_zombies()
        if load is not None:
            await load.abort()
            report.add(load.ledger)
        if found.wrongs > before:
            _keep_logs(world, folder.with_name(f"{folder.name}-logs"))
        await world.stop()


def _keep_logs(world: World, kept: Path) -> None:
    kept.mkdir(parents=True, exist_ok=True)
    for log in [*world.folder.glob("*.log"), world.folder / "database" / "postgres.log"]:
        with suppress(OSError):
            shutil.copy(log, kept)


async def _count(world: World, found: Found) -> None:
    """What brokers have counted; those that are killed take the last second with them."""
    seen: dict[tuple[str, str], float] = {}
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as http:
        while True:
            await asyncio.sleep(1)
            for child in [world.broker, *world.others]:
                if child is None:
                    continue
                with suppress(aiohttp.ClientError, OSError, TimeoutError):
                    async with http.get(f"http://127.0.0.1:{child.port}/metrics") as response:
                        text = await response.text()
                    for line in text.splitlines():
                        name, _, value = line.rpartition(" ")
                        if name in _COUNTERS:
                            more = float(value) - seen.get((child.name, name), 0.0)
                            seen[child.name, name] = float(value)
                            found.notes[_COUNTERS[name]] += int(more)
