"""`make chaos MINUTES=60 SEED=7`: break the system for as long as you like, and see whether the books are right."""

import argparse
import asyncio
import secrets
import signal
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import uvloop

from broker import log
from tests.chaos.report import Report
from tests.chaos.run import run


def say(text: str) -> None:
    """For whoever watches."""
    print(text, flush=True)  # noqa: T201 - it is a program


async def _until_signalled(folder: Path, seed: int, seconds: float) -> Report | None:
    """The report; None where a signal ended it."""
    work = asyncio.ensure_future(run(folder, seed, seconds, say))
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait({work, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if stop.is_set():
        work.cancel()  # once, so that a second signal does not interrupt the clearing away
    with suppress(asyncio.CancelledError):
        return await work
    return None


def main() -> int:
    """0 where nothing was wrong, 1 where something was, 2 where it was ended early."""
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=None, help="of faults and load; any by default, and printed")
    parser.add_argument("--report", type=Path, help="a file for the report, as JSON; beside it as Markdown")
    parser.add_argument("--folder", type=Path, help="where the systems live [a temporary folder]")
    options = parser.parse_args()
    seed = secrets.randbits(32) if options.seed is None else options.seed
    log.configure("error")
    folder = options.folder or Path(tempfile.mkdtemp(prefix="chaos-"))
    folder.chmod(0o755)
    say(f"seed {seed}, folder {folder}")
    report = uvloop.run(_until_signalled(folder, seed, options.minutes * 60))
    with suppress(OSError):
        folder.rmdir()  # what is left there are the logs of rounds that failed
    if report is None:
        say("ended early: there is no report")
        return 2
    if options.report:
        report.write(options.report)
    say("\n" + report.as_markdown())
    return 1 if report.found.wrongs else 0


if __name__ == "__main__":
    sys.exit(main())
