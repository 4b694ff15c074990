"""Hostile HTTP, WebSocket frames and callbacks against a real broker: `make fuzz MINUTES=10`, or REQUESTS=1000000.

Prints a table. Ends with 1 where anything was answered, shown or changed that must not be.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import uvloop

from tests.fuzz.campaign import Campaign


def _table(report: dict[str, Any]) -> str:
    lines = [f"{'class':52}{'requests':>12}"]
    lines += [f"{name:52}{number:>12,}" for name, number in report["sent"].items()]
    lines += [f"{'all':52}{report['requests']:>12,}", ""]
    lines += [f"answers {status:44}{number:>12,}" for status, number in report["statuses"].items()]
    shown = ["seed", "seconds", "requests_per_second", "websocket_frames", "forged_callbacks", "closed_unanswered"]
    shown += ["healthz_ms", "memory_mb", "honest_trades", "honest_errors", "log"]
    lines += ["", *(f"{name.replace('_', ' ')}: {report[name]}" for name in shown), ""]
    lines += [f"FAILED: {failure}" for failure in report["failures"]] or ["nothing was let in, shown or changed"]
    return "\n".join(lines)


def main() -> int:
    """Run it as the flags say."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--requests", type=int, help="end after so many requests")
    parser.add_argument("--minutes", type=float, help="end after so long")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=1, help="attackers at once")
    parser.add_argument("--report", type=Path, help="where the whole report goes, in JSON")
    given = parser.parse_args()
    requests = given.requests or (10**12 if given.minutes else 100_000)
    seconds = given.minutes * 60 if given.minutes else 86_400.0

    def tell(line: str) -> None:
        print(line, end="\r", file=sys.stderr, flush=True)  # noqa: T201

    async def run(folder: Path) -> dict[str, Any]:
        return await Campaign(folder, given.seed, requests, seconds, given.processes, tell).run()

    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        report = uvloop.run(run(Path(folder)))
    if given.report is not None:
        given.report.write_text(json.dumps(report, indent=2) + "\n")
    print(_table(report))  # noqa: T201
    return 1 if report["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
