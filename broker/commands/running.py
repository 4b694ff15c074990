"""What the commands share: running until a signal comes, and the error of a command that cannot be carried out."""

import asyncio
import gc
import resource
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress

import uvloop

_OPEN_FILES = 65_536
"""Open files where the system sets no limit."""


class UsageError(Exception):
    """The command cannot be carried out; the message says why and what to do."""

    def __init__(self, sentence: str, exit_code: int = 1) -> None:
        super().__init__(sentence)
        self.exit_code = exit_code


def raise_open_files() -> None:
    """Allow as many open sockets as the system permits us: the usual 1,024 are for programs, not for servers."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = hard if hard != resource.RLIM_INFINITY else max(soft, _OPEN_FILES)
    with suppress(ValueError, OSError):  # macOS has a lower limit than it says: then it stays as it is
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def run_until_signalled(work: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    """Run a program on uvloop; SIGTERM and SIGINT set the event that asks it to stop."""

    # Nearly all objects of a trade die by themselves, and what start-up made stays: looking for cycles rarely, and not
    # among the latter, took about a tenth off a trade's CPU and a third off its p99 when it was tried.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)

    raise_open_files()

    async def program() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await work(stop)

    uvloop.run(program())
