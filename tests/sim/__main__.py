# ruff: noqa: T201 - printing is what it is for
"""`python -m tests.sim --seed S --runs N`: live through so many seeds, and say what was found.

A seed that fails is shrunk: parts of its plan are left out for as long as it still fails. What is left is printed with
the end of its trace.
"""

import argparse
import json
import os
import platform
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

import structlog

from tests.sim.checks import SOMETIMES
from tests.sim.faults import Faults
from tests.sim.scenario import Outcome, Plan, plan_of, run

_CHUNK = 50
_TRACE_LINES = 40


@dataclass(slots=True)
class Tally:
    """What many seeds came to."""

    seeds: int = 0
    virtual_s: float = 0.0
    steps: int = 0
    active_s: int = 0  # of the virtual ones: those in which somebody asked the database or the exchange
    settled_s: list[float] = field(default_factory=list)  # of each seed: until all had ended, after its last misfortune
    busy_s: float = 0.0  # of one core
    sometimes: Counter[str] = field(default_factory=Counter)
    failed: list[int] = field(default_factory=list)

    def add(self, other: "Tally") -> None:
        self.seeds += other.seeds
        self.virtual_s += other.virtual_s
        self.steps += other.steps
        self.active_s += other.active_s
        self.settled_s += other.settled_s
        self.busy_s += other.busy_s
        self.sometimes.update(other.sometimes)
        self.failed += other.failed

    @property
    def never(self) -> list[str]:
        """The states that no seed has reached."""
        return [each for each in SOMETIMES if not self.sometimes[each]]


def live(seeds: Iterable[int]) -> Tally:
    """Through these seeds, here."""
    quiet()
    tally = Tally()
    began = time.perf_counter()
    for seed in seeds:
        outcome = run(plan_of(seed))
        tally.seeds += 1
        tally.virtual_s += outcome.seconds
        tally.steps += outcome.steps
        tally.active_s += outcome.busy_s
        tally.settled_s.append(outcome.settled_s)
        tally.sometimes.update(outcome.sometimes)
        if outcome.error is not None:
            tally.failed.append(seed)
    tally.busy_s = time.perf_counter() - began
    return tally


def quiet() -> None:
    """What the broker logs of all these faults nobody could read."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))


# ------------------------------------------------------------------ shrinking


def shrink(plan: Plan) -> tuple[Plan, Outcome]:
    """The smallest plan that still fails in the same way, by leaving out one thing after another."""
    outcome = run(plan)
    assert outcome.error is not None, "there is nothing to shrink"
    rule = rule_of(outcome.error)
    is_smaller = True
    while is_smaller:
        is_smaller = False
        for candidate in _smaller(plan):
            found = run(candidate)
            if found.error is not None and rule_of(found.error) == rule:
                plan, outcome, is_smaller = candidate, found, True
                break
    return plan, outcome


def rule_of(error: BaseException) -> tuple[str, str]:
    """What kind of failure it is: its class, and its first sentence without ids and figures."""
    words = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|-?\b[ek]?\d[\d.]*", "#", str(error))
    return type(error).__name__, words.split("; ")[0]


def literal(plan: Plan) -> str:
    """The plan as one writes it down: in the list of test_simulation.py."""
    faults = ", ".join(f"{name}={value!r}" for name, value in asdict(plan.faults).items() if value)
    return f"Plan(seed={plan.seed}, clients={plan.clients}, actions={plan.actions}, faults=Faults({faults}))"


def _smaller(plan: Plan) -> Iterator[Plan]:
    for name in (each.name for each in fields(Faults) if getattr(plan.faults, each.name)):
        yield replace(plan, faults=replace(plan.faults, **{name: 0}))
    if plan.clients > 1:
        yield replace(plan, clients=plan.clients - 1)
    for actions in range(1, plan.actions):
        yield replace(plan, actions=actions)


def tell(seed: int) -> None:
    """What went wrong in a seed, as short as it can be made."""
    plan, outcome = shrink(plan_of(seed))
    print(f"\nSEED {seed} FAILED: {type(outcome.error).__name__}: {outcome.error}")
    print(f"shrunk to {literal(plan)}")
    for line in outcome.trace[-_TRACE_LINES:]:
        print("   ", *line)
    print(f"again: make sim SEED={seed} RUNS=1")


# ------------------------------------------------------------------ the command


def main(arguments: list[str] | None = None) -> int:
    """Run the seeds; 1 where one of them failed, or a state that is worth reaching was never reached."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description="deterministic simulation of the broker")
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--runs", type=int, default=1_000, help="so many seeds")
    parser.add_argument("--minutes", type=float, default=0, help="go on for so long instead")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="processes at once")
    parser.add_argument("--report", type=Path, help="append the figures to this file, a line of JSON")
    options = parser.parse_args(arguments)
    quiet()
    began = time.perf_counter()
    tally = _all(options.seed, options.runs, options.minutes * 60, options.jobs)
    took = time.perf_counter() - began
    _print(tally, took)
    for seed in tally.failed[:3]:
        tell(seed)
    if options.report:
        figures = _figures(tally, took) | {"first_seed": options.seed, "jobs": options.jobs}
        with options.report.open("a", encoding="utf-8") as file:
            file.write(json.dumps(figures) + "\n")
    return 1 if tally.failed or (tally.seeds >= 1_000 and tally.never) else 0


def _all(first: int, runs: int, seconds: float, jobs: int) -> Tally:
    tally = Tally()
    until = time.perf_counter() + seconds
    if jobs == 1 or (runs < _CHUNK and not seconds):
        while not tally.seeds or time.perf_counter() < until:
            tally.add(live(range(first + tally.seeds, first + tally.seeds + runs)))
        return tally
    with ProcessPoolExecutor(jobs, initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN)) as pool:
        last = first + runs
        next_seed = first
        try:
            while next_seed < last or time.perf_counter() < until:
                most = next_seed + 8 * jobs * _CHUNK
                end = most if seconds else min(last, most)
                wave = [range(seed, min(seed + _CHUNK, end)) for seed in range(next_seed, end, _CHUNK)]
                next_seed = end
                for part in pool.map(live, wave):
                    tally.add(part)
                print(f"  {tally.seeds:,} seeds, {len(tally.failed)} failed", file=sys.stderr)
        except KeyboardInterrupt:  # whoever has seen enough of a long run hears what it came to
            pool.shutdown(cancel_futures=True)
    return tally


def _figures(tally: Tally, took: float) -> dict[str, object]:
    some = tally.sometimes
    return {
        "seeds": tally.seeds,
        "failed": tally.failed,
        "kills": some["a kill"] + some["a kill during recovery"],
        "stops": some["a process is stopped"],
        "database_errors": sum(count for name, count in some.items() if name.startswith("the database fails")),
        "repeated_words": some["a word is said twice"],
        "virtual_hours": round(tally.virtual_s / 3600, 1),
        "active_virtual_hours": round(tally.active_s / 3600, 1),
        "settled_s_p99": round(_quantile(tally.settled_s, 0.99), 1),
        "settled_s_max": round(max(tally.settled_s, default=0.0), 1),
        "steps": tally.steps,
        "seconds": round(took, 1),
        "seeds_per_second": round(tally.seeds / took, 1),
        "virtual_per_core_second": round(tally.virtual_s / max(tally.busy_s, 1e-9)),
        "sometimes": dict(sorted(some.items())),
        "never": tally.never,
        "python": platform.python_version(),
    }


def _quantile(values: list[float], share: float) -> float:
    return sorted(values)[int(share * (len(values) - 1))] if values else 0.0


def _print(tally: Tally, took: float) -> None:
    figures = _figures(tally, took)
    print(
        f"{tally.seeds:,} seeds in {took:.0f} s ({figures['seeds_per_second']} a second): {len(tally.failed)} failed"
        + (f", the first {tally.failed[:10]}" if tally.failed else "")
    )
    print(
        f"{figures['kills']:,} kills, {figures['stops']:,} stops, {figures['database_errors']:,} database errors, "
        f"{figures['repeated_words']:,} repeated words; {figures['virtual_hours']:,} virtual hours, of them "
        f"{figures['active_virtual_hours']:,} with a call of the database or the exchange, "
        f"{figures['virtual_per_core_second']:,} virtual seconds for one of a core's"
    )
    print(
        f"until everything had ended after the last misfortune: p99 {figures['settled_s_p99']} s, "
        f"at most {figures['settled_s_max']} s"
    )
    for name in sorted({*SOMETIMES, *tally.sometimes}):
        print(f"{tally.sometimes[name]:>9,}  {name}" + ("" if tally.sometimes[name] else "   <- NEVER"))


if __name__ == "__main__":
    raise SystemExit(main())
