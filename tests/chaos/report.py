"""What a run came to, for programs (JSON), for who watches, and for docs/reliability.md (Markdown)."""

import json
import platform
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.load import Ledger
from tests.chaos.world import Found

_SIGKILLS = ("SIGKILL of",)


@dataclass
class Report:
    """The sum of all rounds."""

    seed: int
    minutes: float = 0.0
    rounds: int = 0
    found: Found = field(default_factory=Found)
    counts: Counter[str] = field(default_factory=Counter)
    heard: Counter[str] = field(default_factory=Counter)
    settle_s: list[float] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def add(self, ledger: Ledger) -> None:
        """What the clients of a round have met."""
        self.heard.update(ledger.heard)
        self.counts.update(
            {
                "operations": ledger.wanted,
                "requests": ledger.requests,
                "acknowledged": ledger.acknowledged,
                "answered 503": ledger.heard["503"],
                "answered at the first try": ledger.at_once,
                "answered in the end": ledger.in_the_end,
                "refused (4xx)": ledger.refused,
                "given up after 60 s": ledger.given_up,
            }
        )

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        # What was refused was answered, but whether it should have been, nobody knows here: it counts for neither.
        wanted = max(self.counts["operations"] - self.counts["refused (4xx)"], 1)
        return {
            "seed": self.seed,
            "minutes": round(self.minutes, 2),
            "rounds": self.rounds,
            "machine": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
            "faults": dict(sorted(self.found.faults.items())),
            "sigkills": sum(n for what, n in self.found.faults.items() if what.startswith(_SIGKILLS)),
            "clients": dict(self.counts),
            "answers": dict(sorted(self.heard.items())),
            "success_raw": round(self.counts["answered at the first try"] / wanted, 6),
            "success_with_retry": round(self.counts["answered in the end"] / wanted, 6),
            "recovery_s": {what: _spread(times) for what, times in sorted(self.found.recovery.items())},
            "settled_after_s": _spread(self.settle_s),
            "seen": dict(sorted(self.found.notes.items())),
            "skipped": self.skipped,
            "violations": self.found.wrongs,
            "what_was_wrong": self.found.violations,
        }

    def as_markdown(self) -> str:
        """As tables."""
        figures = self.as_json()
        lines = [
            f"{figures['minutes']:g} minutes in {figures['rounds']} rounds, seed {self.seed}, {figures['machine']}: "
            f"**{self.found.wrongs} violations**, {figures['sigkills']} SIGKILLs in sum.",
            "",
            "| fault | times |",
            "|---|---|",
            *(f"| {what} | {times:,} |" for what, times in figures["faults"].items()),
            "",
            "| clients and books | |",
            "|---|---|",
            *(f"| {what} | {times:,} |" for what, times in {**figures["clients"], **figures["seen"]}.items()),
            f"| success at the first try | {figures['success_raw']:.4%} |",
            f"| success with retries | {figures['success_with_retry']:.4%} |",
            "",
            "| from the fault until something is done again, seconds | times | p50 | max |",
            "|---|---|---|---|",
            *(_row(what, spread) for what, spread in figures["recovery_s"].items()),
            _row("from the last fault until nothing is under way", figures["settled_after_s"]),
        ]
        lines += [f"\nNot done: {sentence}" for sentence in self.skipped]
        if self.found.violations:
            lines += ["", "Violations:", *(f"- {each}" for each in self.found.violations)]
        return "\n".join(lines) + "\n"

    def write(self, path: Path) -> None:
        """The JSON, and beside it the Markdown."""
        path.write_text(json.dumps(self.as_json(), indent=1) + "\n")
        path.with_suffix(".md").write_text(self.as_markdown())


def _spread(times: list[float]) -> dict[str, float]:
    if not times:
        return {"times": 0}
    ordered = sorted(times)
    return {
        "times": len(ordered),
        "p50": round(ordered[len(ordered) // 2], 2),
        "max": round(ordered[-1], 2),
    }


def _row(what: str, spread: dict[str, float]) -> str:
    return f"| {what} | {spread['times']} | {spread.get('p50', '')} | {spread.get('max', '')} |"
