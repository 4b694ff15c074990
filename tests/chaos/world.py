"""PostgreSQL, exchange and brokers as processes with a Link between each two: killed, stopped and started again."""

import asyncio
import ctypes
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg
import structlog

from broker.embedded import EmbeddedPostgres
from broker.pg_binaries import is_server
from broker.simulator.journal import Journal, Record
from tests.acceptance.system import BROKER, SECRET
from tests.chaos.link import Ends, Link

START_WITHIN_S = 60.0
_SHOWN_MAX = 200
DISK_BYTES = 768 * 2**20
ADMIN = "chaos-admin-token"
AWAY = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, TimeoutError)

_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def _die_with_us() -> None:
    if _LIBC is not None:
        _LIBC.prctl(_PDEATHSIG, int(signal.SIGKILL))


@dataclass
class Found:
    """What a run has come to: what was done to the system, how long it took to recover, and what was wrong."""

    faults: Counter[str] = field(default_factory=Counter)
    recovery: dict[str, list[float]] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)  # the first of them
    wrongs: int = 0  # how many there were
    notes: Counter[str] = field(default_factory=Counter)
    _waiting: list[tuple[str, float]] = field(default_factory=list)

    def wrong(self, sentence: str) -> None:
        """Something is as it must never be."""
        self.wrongs += 1
        if len(self.violations) < _SHOWN_MAX:
            self.violations.append(sentence)

    def killed(self, what: str) -> None:
        """From now on until something is done again, it recovers."""
        self._waiting.append((what, time.monotonic()))

    def done_again(self, asked_at: float, *, by_exchange: bool) -> None:
        """Something that was asked for at this moment was done; `by_exchange`: the exchange has had its part in it."""
        over = [each for each in self._waiting if each[1] <= asked_at and (by_exchange or each[0] != "exchange")]
        for what, since in over:
            self._waiting.remove((what, since))
            self.recovery.setdefault(what, []).append(time.monotonic() - since)

    def forget(self) -> None:
        """What has not recovered will not."""
        self._waiting.clear()

    @property
    def recovering(self) -> list[str]:
        """What was killed, and nothing was done since."""
        return [what for what, _ in self._waiting]


@dataclass(eq=False)
class Child:
    """A process of ours."""

    name: str
    process: Process
    folder: Path
    port: int = 0
    ready: dict[str, Any] = field(default_factory=dict)
    may_end: bool = False  # we have ended it, or it has never been ready

    def signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            self.process.send_signal(number)

    async def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.may_end = True
        self.signal(signal.SIGKILL)
        await self.process.wait()


class World:
    """One system in one folder. `found` hears of what nobody asked for."""

    def __init__(self, folder: Path, rng: random.Random, found: Found, customers: int) -> None:
        self.folder = folder
        self.found = found
        self.customers = customers
        self.tokens: list[dict[str, str]] = []
        self.mounted = False
        self.broker: Child | None = None
        self.others: list[Child] = []  # brokers that were stopped and replaced, and go on for a while
        self.exchange: Child | None = None
        self.exchange_port = 0
        self.changing = asyncio.Lock()  # whoever replaces the broker
        self.postgres_stopped: list[int] = []
        self.arrived: dict[str, None] = {}  # the ids of all orders, as they came to the exchange
        self._rng = rng
        self._postgres: EmbeddedPostgres | None = None
        self._tasks: list[asyncio.Task[Any]] = []
        self._children: list[Child] = []
        self._number = 0
        self.links = {
            "client to broker": Link("client to broker", self._reach_broker),
            "broker to exchange": Link("broker to exchange", self._reach_exchange),
            "exchange to broker": Link("exchange to broker", self._reach_broker),
            "broker to database": Link("broker to database", self._reach_database),
        }

    # ------------------------------------------------------------------ start and end

    async def start(self) -> None:
        """Everything, once; the customers are made."""
        self._mount()
        for link in self.links.values():
            await link.start()
        (self.folder / "database").mkdir()
        # It is ours and no broker's: brokers come and go beside each other.
        self._postgres = await EmbeddedPostgres.start(self.folder / "database", structlog.get_logger())
        self._tasks.append(asyncio.create_task(self._postgres.supervise()))
        await self.start_exchange(["--duplicates", "2"])  # until it is first killed, so that every run has seen some
        await self.start_broker("--demo", str(self.customers))
        assert self.broker is not None
        self.tokens = self.broker.ready["customers"]

    async def stop(self) -> None:
        """End every process, and remove the folder."""
        for child in self._children:
            child.may_end = True
            child.signal(signal.SIGKILL)
        for child in self._children:
            await child.process.wait()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.go_on_postgres()
        if self._postgres is not None:
            await self._postgres.stop()
        for link in self.links.values():
            await link.stop()
        if self.mounted:
            unmount = await asyncio.create_subprocess_exec("umount", "--lazy", self.folder)
            await unmount.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _mount(self) -> None:
        """A disk of its own, small enough to be filled; without the right to mount one there are no full disks."""
        self.folder.mkdir(parents=True, exist_ok=True)
        mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=0755", "chaos", str(self.folder)]
        with suppress(OSError):
            self.mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0

    # ------------------------------------------------------------------ brokers

    async def start_broker(self, *flags: str) -> Child:
        """A broker beside those that are there; from now on it is the one that is reached. Tried until it comes up."""
        while True:
            child = await self._spawn_broker(*flags)
            if await self._comes_up(child):
                break
            self.found.notes["broker starts that failed"] += 1
            await asyncio.sleep(0.2)
        child.port = int(child.ready["url"].rsplit(":", 1)[1])
        self.broker = child
        self._tasks.append(asyncio.create_task(self._watch(child)))
        return child

    async def _spawn_broker(self, *flags: str) -> Child:
        used = {child.folder for child in self._children if child.process.returncode is None}
        folder = next(each for number in range(1000) if (each := self.folder / f"broker-{number}") not in used)
        links = {name: link.port for name, link in self.links.items()}
        return await self._spawn(
            "serve",
            folder,
            *("--port", "0", "--data", str(folder)),
            *("--exchange", f"http://127.0.0.1:{links['broker to exchange']}"),
            *("--public-url", f"http://127.0.0.1:{links['exchange to broker']}"),
            *("--database", f"postgresql://postgres@127.0.0.1:{links['broker to database']}/postgres"),
            *flags,
        )

    async def start_and_kill(self, after_s: float) -> None:
        """A broker that is killed while it starts."""
        child = await self._spawn_broker()
        await asyncio.sleep(after_s)
        await child.kill()

    async def _watch(self, child: Child) -> None:
        """A broker that was ready ends when it is told to, and never else."""
        code = await child.process.wait()
        if child.may_end:
            return
        said = self.log_of("serve")
        self.found.wrong(f"a broker ended by itself, with {code}: {said[-1500:]}")
        async with self.changing:
            if self.broker is child:
                await self.start_broker()

    # ------------------------------------------------------------------ the exchange and the database

    def journal(self) -> list[Record]:
        """What the exchange has written down since it last started; it must have ended."""
        journal = Journal(self.folder / "exchange")
        try:
            return list(journal.replay())
        finally:
            journal.close()

    def note_arrivals(self) -> None:
        """Its next start puts the journal into another order."""
        for record in self.journal():
            if record.order is not None:
                self.arrived.setdefault(record.order.id)

    async def start_exchange(self, faults: list[str]) -> None:
        """Start it, or start it again on the same port and journal."""
        while True:
            self.note_arrivals()
            folder = self.folder / "exchange"
            flags = ["--port", str(self.exchange_port), "--data", str(folder), *faults]
            child = await self._spawn("exchange", folder, *flags)
            if await self._comes_up(child):
                break
            self.found.notes["exchange starts that failed"] += 1
            await asyncio.sleep(0.2)
        child.port = self.exchange_port = int(child.ready["url"].rsplit(":", 1)[1])
        self.exchange = child

    @property
    def dsn(self) -> str:
        """The way to the database that no fault lies on."""
        assert self._postgres is not None
        return self._postgres.dsn

    async def fetch(self, sql: str, *arguments: object) -> list[asyncpg.Record]:
        """Ask the database. Raises one of AWAY."""
        connection = await asyncpg.connect(
            self.dsn, timeout=5, command_timeout=20, server_settings={"search_path": "broker"}
        )
        try:
            return await connection.fetch(sql, *arguments)
        finally:
            connection.terminate()

    def postmaster(self) -> int | None:
        """The process id of the database; None while there is none: another process may have its number by now."""
        cluster = (self.folder / "database" / "postgres").resolve()
        with suppress(OSError, ValueError):
            pid = int((cluster / "postmaster.pid").read_text().split("\n", 1)[0])
            return pid if is_server(pid, cluster) else None
        return None

    def signal_postmaster(self, number: signal.Signals) -> bool:
        """Whether there was one."""
        pid = self.postmaster()
        if pid is None:
            return False
        with suppress(ProcessLookupError):
            os.kill(pid, number)
            return True
        return False

    def stop_postgres(self) -> bool:
        """SIGSTOP to all of its processes."""
        pid = self.postmaster()
        if pid is None:
            return False
        for each in (pid, *_children_of(pid)):
            with suppress(ProcessLookupError):
                os.kill(each, signal.SIGSTOP)
                self.postgres_stopped.append(each)
        return True

    def go_on_postgres(self) -> None:
        """SIGCONT to those that were stopped."""
        for each in self.postgres_stopped:
            with suppress(ProcessLookupError):
                os.kill(each, signal.SIGCONT)
        self.postgres_stopped.clear()

    # ------------------------------------------------------------------ processes

    async def _spawn(self, command: str, folder: Path, *flags: str) -> Child:
        environment = {
            **os.environ,
            "BROKER_WEBHOOK_SECRETS": SECRET,
            "BROKER_ADMIN_TOKEN": ADMIN,
            "BROKER_LOG_LEVEL": "error",
        }
        self._number += 1
        self._children = [child for child in self._children if child.process.returncode is None]
        self._tasks = [task for task in self._tasks if not task.done()]
        with (self.folder / f"{command}.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                BROKER,
                command,
                *flags,
                "--json",
                stdout=PIPE,
                stderr=log,
                env=environment,
                limit=2**22,
                start_new_session=True,  # Ctrl-C is for us
                preexec_fn=_die_with_us,
            )
        child = Child(f"{command} {self._number}", process, folder)
        self._children.append(child)
        return child

    async def _comes_up(self, child: Child) -> bool:
        assert child.process.stdout is not None
        line = b""
        try:
            line = await asyncio.wait_for(child.process.stdout.readline(), START_WITHIN_S)
        except TimeoutError:
            self.found.notes[f"starts of {child.name.split()[0]} that took too long"] += 1
        except asyncio.CancelledError:
            await child.kill()
            raise
        if not line:
            await child.kill()
            return False
        child.ready = json.loads(line)
        return True

    def log_of(self, command: str) -> str:
        """The end of what processes of this kind have said."""
        with suppress(OSError), (self.folder / f"{command}.log").open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - 8_000))
            return log.read().decode(errors="replace")
        return ""

    # ------------------------------------------------------------------ where the links lead

    async def _reach_broker(self) -> Ends:
        """The newest, or one that was away and believes that it still is the one."""
        assert self.broker is not None
        awake = [child for child in self.others if child.process.returncode is None]
        child = self._rng.choice(awake) if awake and self._rng.random() < 0.5 else self.broker
        return await asyncio.open_connection("127.0.0.1", child.port)

    async def _reach_exchange(self) -> Ends:
        return await asyncio.open_connection("127.0.0.1", self.exchange_port)

    async def _reach_database(self) -> Ends:
        assert self._postgres is not None
        where = parse_qs(urlsplit(self._postgres.dsn).query)
        return await asyncio.open_unix_connection(f"{where['host'][0]}/.s.PGSQL.{where['port'][0]}")


def _children_of(pid: int) -> Iterator[int]:
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False)
    yield from map(int, found.stdout.split())
