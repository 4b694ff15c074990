"""A whole broker as one process, with a database and an exchange of its own, and programs that are run against it."""

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.acceptance.system import PATIENT, System

ROOT = Path(__file__).parents[2]
CLIENTS = Path(sys.executable).parents[1] / "clients"
"""Where `make dev` puts the clients that need an environment of their own."""


@dataclass
class Alone(System):
    """The broker as a newcomer runs it: everything in one process. `faults` are flags of `broker serve`."""

    async def start_exchange(self) -> None:
        """It is in the broker."""

    async def start_broker(self) -> None:
        """Start it, or start it again on the same port and folder."""
        flags = ["--port", str(self.broker_port), "--data", str(self.folder / "broker"), *self.faults]
        self.broker, self.ready = await self._start("serve", *flags, *PATIENT, "--demo", str(self.customers))
        self.broker_port = int(self.ready["url"].rsplit(":", 1)[1])

    @property
    def url(self) -> str:
        """Where it listens."""
        return str(self.ready["url"])

    def keys(self) -> list[tuple[str, str]]:
        """The keys of its customers, each as (id, secret)."""
        return [(customer["keyId"], customer["secret"]) for customer in self.ready["customers"]]


def python_of(client: str) -> Path:
    """The interpreter of a client's environment."""
    found = CLIENTS / client / "bin" / "python"
    assert found.exists(), f"{found} is not there: make dev"
    return found


async def run_program(
    program: Sequence[str | Path], told: object = None, environment: dict[str, str] | None = None, within_s: float = 110
) -> tuple[str, str]:
    """What a program printed on standard output and error, given this as JSON on standard input; it must succeed."""
    process = await asyncio.create_subprocess_exec(
        *program, stdin=PIPE, stdout=PIPE, stderr=PIPE, cwd=ROOT, env={**os.environ, **(environment or {})}
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(json.dumps(told).encode()), within_s)
    except TimeoutError:
        process.kill()
        await process.wait()
        raise
    assert process.returncode == 0, f"{program} ended with {process.returncode}:\n{(out + err).decode()[-8000:]}"
    return out.decode(), err.decode()


async def answer_of(program: Sequence[str | Path], told: object = None, **more: Any) -> Any:
    """What a program printed, as JSON."""
    out, _ = await run_program(program, told, **more)
    return json.loads(out)
