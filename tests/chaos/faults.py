"""What is done to the system, each kind in a loop of its own, so that faults overlap as they like. All of it is seeded.

Each loop goes through its kinds as they are listed until each has come once; from then on by their weights.
"""

import asyncio
import math
import os
import random
import signal
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import aiohttp
import asyncpg

from tests.chaos.link import Link
from tests.chaos.world import AWAY, Child, Found, World

STOP_S = (2.0, 70.0)
_SIGTERM_WITHIN_S = 30.0
_MISBEHAVIOUR = [
    [],
    ["--duplicates", "2"],
    ["--duplicates", "2", "--reorder", "--delay-ms", "30"],
    ["--lose", "0.3"],
    ["--lose", "0.3", "--duplicates", "2", "--reorder", "--partial", "0.5", "--partial-gap-ms", "20"],
    ["--callback-first", "--duplicates", "2"],
    ["--error", "0.1", "--error-after", "0.1", "--duplicates", "2"],
    ["--timeout", "0.05", "--timeout-s", "8", "--lose", "0.1"],
    ["--reject", "0.1", "--partial", "0.3"],
]


class NotNow(Exception):
    """What was to be broken is away already, through another fault."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of fault: how often it comes beside the others of its loop, and what it does."""

    name: str
    weight: int
    strike: Callable[[], Awaitable[None]]


class Faults:
    """Everything that is done to one system. `stop_max_s` bounds how long anything stands still."""

    def __init__(self, world: World, found: Found, rng: random.Random, stop_max_s: float) -> None:
        self._world = world
        self._found = found
        self._stop_max_s = min(stop_max_s, STOP_S[1])
        self._rngs = {name: random.Random(rng.random()) for name in ("broker", "database", "exchange", "links", "rest")}
        self._zombies: set[asyncio.Task[None]] = set()
        self._filling: list[int] = []

    async def run(self) -> None:
        """Until it is cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for each in self._loops():
                tasks.create_task(each)

    async def end_zombies(self) -> None:
        """Those that were stopped and replaced are gone."""
        for task in self._zombies:
            task.cancel()
        await asyncio.gather(*self._zombies, return_exceptions=True)

    async def heal(self) -> None:
        """Everything is let go: what was stopped goes on or is gone, all links carry, the disk has room."""
        await self.end_zombies()
        self._empty_disk()
        for link in self._world.links.values():
            link.heal()
            link.reset()
        self._world.go_on_postgres()
        for child in (*self._world.others, self._world.exchange, self._world.broker):
            if child is not None:
                child.signal(signal.SIGCONT)
        exchange = self._world.exchange
        if exchange is not None:
            await exchange.kill()
        await self._world.start_exchange([])  # one that behaves, and whose clock is right
        async with self._world.changing:
            if self._world.broker is None or self._world.broker.process.returncode is not None:
                await self._world.start_broker()

    def _loops(self) -> Iterator[Coroutine[None, None, None]]:
        broker = [
            Kind("broker: zombie", 12, self._zombie),
            Kind("broker: SIGKILL", 4, self._kill_broker),
            Kind("broker: SIGKILL while it starts", 1, self._kill_starting_broker),
            Kind("broker: SIGTERM", 1, self._terminate_broker),
            Kind("broker: SIGSTOP, SIGCONT", 1, self._stop_broker),
        ]
        yield self._loop("broker", broker, (0.2, 2.0))
        database = [
            Kind("database: SIGKILL", 6, lambda: self._end_postgres(signal.SIGKILL, "SIGKILL")),
            Kind("database: immediate restart", 5, lambda: self._end_postgres(signal.SIGQUIT, "immediate restart")),
            Kind("database: SIGKILL while it recovers", 1, self._kill_recovering_postgres),
            Kind("database: SIGSTOP, SIGCONT", 1, self._stop_postgres),
            Kind("database: table locked", 2, self._lock_table),
        ]
        yield self._loop("database", database, (2.0, 12.0))
        exchange = [
            Kind("exchange: SIGKILL", 8, self._kill_exchange),
            Kind("exchange: SIGSTOP, SIGCONT", 1, self._stop_exchange),
        ]
        yield self._loop("exchange", exchange, (2.0, 14.0))
        of_each = [list(self._link_kinds(name)) for name in self._world.links]
        for kinds in of_each:
            self._rngs["links"].shuffle(kinds)
        links = [kind for turn in zip(*of_each, strict=True) for kind in turn]
        yield self._loop("links", links, (0.5, 3.0))
        rest = [
            Kind("database: backends terminated", 40, self._terminate_backends),
            Kind("exchange: clock jump", 2, self._jump_clock),
            *([Kind("disk full", 1, self._fill_disk)] if self._world.mounted else []),
        ]
        yield self._loop("rest", rest, (0.3, 2.0))

    async def _loop(self, name: str, kinds: Sequence[Kind], pause_s: tuple[float, float]) -> None:
        rng = self._rngs[name]
        first = deque(kinds)
        while True:
            await asyncio.sleep(rng.uniform(*pause_s))
            is_first = bool(first)
            kind = first.popleft() if first else rng.choices(kinds, [kind.weight for kind in kinds])[0]
            try:
                await kind.strike()
            except (NotNow, aiohttp.ClientError, *AWAY):
                if is_first:
                    first.append(kind)

    def _done(self, what: str, times: int = 1) -> None:
        self._found.faults[what] += times

    def _stop_s(self, rng: random.Random, longest: float = STOP_S[1]) -> float:
        """Seconds to stand still: as many between 2 and 4 as between 20 and 40."""
        longest = max(STOP_S[0], min(longest, self._stop_max_s))
        return math.exp(rng.uniform(math.log(STOP_S[0]), math.log(longest)))

    # ------------------------------------------------------------------ broker: rows 14, 25, 26, 31

    async def _kill_broker(self) -> None:
        async with self._world.changing:
            await self._kill_current()
            await self._world.start_broker()

    async def _kill_current(self) -> None:
        if self._world.broker is not None:
            self._done("SIGKILL of a broker")
            self._found.killed("broker")
            await self._world.broker.kill()

    async def _kill_starting_broker(self) -> None:
        rng = self._rngs["broker"]
        async with self._world.changing:
            await self._kill_current()
            for _ in range(rng.randint(1, 3)):
                await self._world.start_and_kill(rng.uniform(0.2, 1.5))
                self._done("SIGKILL of a broker that starts")
            await self._world.start_broker()

    async def _terminate_broker(self) -> None:
        async with self._world.changing:
            child = self._world.broker
            if child is None:
                raise NotNow
            child.may_end = True
            self._done("SIGTERM of a broker")
            child.signal(signal.SIGTERM)
            await self._ends_well(child)
            await self._world.start_broker()

    async def _ends_well(self, child: Child) -> None:
        """At SIGTERM it ends, and says 0, whatever else is away."""
        try:
            code = await asyncio.wait_for(child.process.wait(), _SIGTERM_WITHIN_S)
        except TimeoutError:
            self._found.wrong(f"a broker had not ended {_SIGTERM_WITHIN_S} s after SIGTERM")
            await child.kill()
        else:
            if code != 0:
                said = self._world.log_of("serve")[-1500:]
                self._found.wrong(f"a broker ended with {code} after SIGTERM: {said}")

    async def _stop_broker(self) -> None:
        rng = self._rngs["broker"]
        async with self._world.changing:
            child = self._world.broker
            if child is None:
                raise NotNow
            child.signal(signal.SIGSTOP)
            self._done("SIGSTOP of a broker")
            try:
                await asyncio.sleep(self._stop_s(rng, 10))
            finally:
                child.signal(signal.SIGCONT)

    async def _zombie(self) -> None:
        """Stopped, and another one takes over; then it goes on beside that one, as if nothing had happened."""
        rng = self._rngs["broker"]
        async with self._world.changing:
            child = self._world.broker
            if child is None:
                raise NotNow
            child.signal(signal.SIGSTOP)
            self._found.killed("broker (by SIGSTOP)")
            # Its connections stay open, and nobody answers on them: as with a machine that is gone.
            try:
                await self._world.start_broker()
            finally:
                task = asyncio.create_task(self._come_back(child, self._stop_s(rng), rng.uniform(1, 5)))
                self._zombies.add(task)
                task.add_done_callback(self._zombies.discard)

    async def _come_back(self, child: Child, stopped_s: float, awake_s: float) -> None:
        try:
            await asyncio.sleep(stopped_s)
            child.signal(signal.SIGCONT)
            self._done("SIGSTOP of a broker that was replaced (zombie)")
            self._world.others.append(child)
            for name in ("client to broker", "exchange to broker"):
                self._world.links[name].reset()  # whoever connects anew may come to either of the two
            await asyncio.sleep(awake_s)
        finally:
            if child in self._world.others:
                self._world.others.remove(child)
            self._found.notes["replaced brokers cleared away"] += 1  # no fault: the other one does the work by now
            await child.kill()

    # ------------------------------------------------------------------ database: rows 34, 35, 36, 43

    async def _end_postgres(self, number: signal.Signals, word: str) -> None:
        if not self._world.signal_postmaster(number):
            raise NotNow
        self._done(f"{word} of PostgreSQL")
        self._found.killed("database")

    async def _kill_recovering_postgres(self) -> None:
        rng = self._rngs["database"]
        await self._end_postgres(signal.SIGKILL, "SIGKILL")
        for _ in range(rng.randint(1, 3)):
            before = self._world.postmaster()
            for _ in range(200):
                if self._world.postmaster() not in {None, before}:
                    break
                await asyncio.sleep(0.01)
            await asyncio.sleep(rng.uniform(0, 0.3))
            await self._end_postgres(signal.SIGKILL, "SIGKILL")

    async def _stop_postgres(self) -> None:
        if not self._world.stop_postgres():
            raise NotNow
        self._done("SIGSTOP of PostgreSQL")
        try:
            await asyncio.sleep(self._stop_s(self._rngs["database"], 20))
        finally:
            self._world.go_on_postgres()

    async def _lock_table(self) -> None:
        """Somebody changes a table, and takes time over it."""
        connection = await asyncpg.connect(self._world.dsn, timeout=5, command_timeout=10)
        try:
            async with connection.transaction():
                await connection.execute("LOCK TABLE broker.trade IN ACCESS EXCLUSIVE MODE")
                self._done("table locked")
                await asyncio.sleep(self._rngs["database"].uniform(1, 5))
        finally:
            connection.terminate()

    async def _terminate_backends(self) -> None:
        rows = await self._world.fetch(
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'stockbroker' ORDER BY pid"
        )
        rng = self._rngs["rest"]
        chosen = rng.sample(rows, min(len(rows), rng.choice([1, 1, 2, 3])))
        if chosen:
            ended = await self._world.fetch(
                "SELECT pg_terminate_backend(pid) AS ended FROM unnest($1::int[]) AS pid",
                [row["pid"] for row in chosen],
            )
            self._done("pg_terminate_backend", sum(row["ended"] for row in ended))

    # ------------------------------------------------------------------ exchange: rows 13, 25, 47

    async def _kill_exchange(self) -> None:
        child = self._world.exchange
        if child is None:
            raise NotNow
        self._done("SIGKILL of the exchange")
        self._found.killed("exchange")
        await child.kill()
        rng = self._rngs["exchange"]
        seed = ["--seed", str(rng.randrange(2**31))]
        await self._world.start_exchange([*seed, *rng.choice(_MISBEHAVIOUR)])

    async def _stop_exchange(self) -> None:
        child = self._world.exchange
        if child is None:
            raise NotNow
        child.signal(signal.SIGSTOP)
        self._done("SIGSTOP of the exchange")
        try:
            await asyncio.sleep(self._stop_s(self._rngs["exchange"], 20))
        finally:
            child.signal(signal.SIGCONT)

    async def _jump_clock(self) -> None:
        """An hour on or back, or a second."""
        rng = self._rngs["rest"]
        url = f"http://127.0.0.1:{self._world.exchange_port}/v1/clock"
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=3)) as http:
            async with http.get(url) as response:
                now = datetime.fromisoformat((await response.json())["now"])
            moved = now + timedelta(seconds=rng.choice([-3600, 3600, -1, 1, rng.uniform(-3600, 3600)]))
            async with http.put(url, json={"now": moved.isoformat()}) as response:
                if response.status == 200:
                    self._done("clock jump at the exchange")

    # ------------------------------------------------------------------ links: rows 13, 22, 34

    def _link_kinds(self, name: str) -> Iterator[Kind]:
        link = self._world.links[name]

        def slow() -> None:
            link.delay_s = self._rngs["links"].uniform(0.02, 1.0)

        yield self._link_kind(link, "cut", 2, link.cut, 4)
        yield self._link_kind(link, "reset", 3, link.reset, 0)
        yield self._link_kind(link, "slow", 2, slow, 4)
        yield self._link_kind(link, "half open", 2, lambda: link.hold("there", "back"), 8)
        yield self._link_kind(link, "answers lost", 2, lambda: link.hold("back"), 3)

    def _link_kind(self, link: Link, word: str, weight: int, begin: Callable[[], None], longest_s: float) -> Kind:
        async def strike() -> None:
            rng = self._rngs["links"]
            self._done(f"link {link.name}: {word}")
            begin()
            try:
                await asyncio.sleep(rng.uniform(0, longest_s))
                if word in {"half open", "answers lost"} and rng.random() < 0.7:
                    link.reset()  # what was held is lost; else it comes late
            finally:
                link.heal()

        return Kind(f"link {link.name}: {word}", weight, strike)

    # ------------------------------------------------------------------ disk: row 40

    async def _fill_disk(self) -> None:
        """Data, write-ahead log, journal and logs have no room for a while."""
        path = self._world.folder / "fill"
        rng = self._rngs["rest"]
        free = os.statvfs(self._world.folder)
        handle = os.open(path, os.O_CREAT | os.O_WRONLY)
        self._filling.append(handle)
        try:
            os.posix_fallocate(handle, 0, free.f_bavail * free.f_bsize)
            self._done("disk full")
            await asyncio.sleep(rng.uniform(1, 5))
        finally:
            self._empty_disk()

    def _empty_disk(self) -> None:
        for handle in self._filling:
            os.ftruncate(handle, 0)
            os.close(handle)
        self._filling.clear()
