"""Brokers that replace each other on one port, under load: no request fails, and no trade is lost.

As processes: a PostgreSQL, an exchange, and brokers that share a port, each with a data folder of its own.
"""

import asyncio
import json
import os
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Self

import aiohttp
import asyncpg
import pytest

from broker.config import Config
from broker.core.signing import encode_secret
from broker.verify import verify
from tests.acceptance.system import PATIENT, TERMINAL
from tests.conftest import eventually

BROKER = Path(sys.executable).with_name("broker")
TOKEN = "operator-of-both"
STOPS_WITHIN_S = 2 * Config().drain_s + 1.0
"""It takes about one second, and at most five by its settings. While the machine stands still no time passes."""
ROUNDS = 3
CLIENTS = 7
"""Of each kind; with 60 customers each of them comes to every customer."""


@dataclass
class Fleet:
    """Brokers on one port, one database and one exchange. Each process has a folder and a log."""

    folder: Path
    dsn: str
    flags: list[str] = field(default_factory=list)
    exchange_flags: list[str] = field(default_factory=list)
    exchange: Process | None = None
    exchange_url: str = ""
    port: int = 0
    shared: bool = True
    recovers_every_s: int = 600  # what an old one was at work on is taken up without that look
    started: list[Process] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start_broker(self) -> Process:
        """One more; it is ready when this returns."""
        number = len(self.started)
        flags = ["--port", str(self.port), "--data", str(self.folder / f"broker-{number}")]
        flags += ["--recover-every-s", str(self.recovers_every_s), *(["--reuse-port"] if self.shared else [])]
        flags += ["--database", self.dsn, "--exchange", self.exchange_url, *self.flags]
        process, ready = await self._start("serve", f"broker-{number}", flags)
        self.port = int(ready["url"].rsplit(":", 1)[1])
        self.started.append(process)
        return process

    async def start_exchange(self) -> None:
        flags = ["--port", "0", "--data", str(self.folder / "exchange"), *self.exchange_flags]
        self.exchange, ready = await self._start("exchange", "exchange", flags)
        self.exchange_url = ready["url"]

    async def _start(self, command: str, name: str, flags: list[str]) -> tuple[Process, dict[str, Any]]:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("BROKER_")} | {
            "BROKER_WEBHOOK_SECRETS": encode_secret(bytes(range(32))),
            "BROKER_ADMIN_TOKEN": TOKEN,
            "BROKER_LOG_LEVEL": "warning",
        }
        with (self.folder / f"{name}.log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                BROKER, command, *flags, "--json", stdout=PIPE, stderr=log, env=environment
            )
        assert process.stdout is not None
        line = await asyncio.wait_for(process.stdout.readline(), 30)
        assert line, (self.folder / f"{name}.log").read_text()[-2000:]
        return process, json.loads(line)

    def log_of(self, number: int) -> str:
        return (self.folder / f"broker-{number}.log").read_text()

    async def fetch(self, sql: str, *arguments: object) -> list[asyncpg.Record]:
        connection = await asyncpg.connect(self.dsn, server_settings={"search_path": "broker"})
        try:
            return await connection.fetch(sql, *arguments)
        finally:
            await connection.close()


@asynccontextmanager
async def fleet(folder: Path, dsn: str, *flags: str, exchange_flags: tuple[str, ...] = ()) -> AsyncIterator[Fleet]:
    """An exchange and one broker."""
    running = Fleet(folder, dsn, list(flags), list(exchange_flags))
    try:
        await running.start_exchange()
        await running.start_broker()
        yield running
    finally:
        for process in (*running.started, running.exchange):
            if process is not None and process.returncode is None:
                process.kill()
                await process.wait()


class Awake:
    """A clock that stands still when the machine does: of a pause in which nothing ran, only 0.2 s pass."""

    def __init__(self) -> None:
        self.passed_s = 0.0

    async def __aenter__(self) -> Self:
        self._ticking = asyncio.create_task(self._tick())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._ticking.cancel()

    async def _tick(self) -> None:
        last = time.monotonic()
        while True:
            await asyncio.sleep(0.05)
            now = time.monotonic()
            self.passed_s += min(now - last, 0.2)
            last = now


async def terminated(process: Process) -> float:
    """SIGTERM, and the end with code 0; how long it took."""
    async with Awake() as clock:
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 60) == 0
        return clock.passed_s


# ------------------------------------------------------------------ clients


@dataclass
class Load:
    """Clients of one fleet. What was not answered as it should be is in `failed`: there is no second try."""

    url: str
    customers: list[dict[str, Any]]
    acknowledged: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    answered: int = 0
    stopped: bool = False

    async def kept_alive(self, http: aiohttp.ClientSession, number: int) -> None:
        """One connection for many requests."""
        for turn in count(number, CLIENTS):
            if self.stopped:
                return
            await self._place(http, turn)
            await asyncio.sleep(0.01)

    async def connecting(self, http: aiohttp.ClientSession, number: int) -> None:
        """A connection for each request."""
        for turn in count(number, CLIENTS):
            if self.stopped:
                return
            await self._place(http, turn)
            await self._expect(http, "GET", f"{self.url}/api/v1/balance", turn, 200)
            await asyncio.sleep(0.01)

    async def _place(self, http: aiohttp.ClientSession, number: int) -> None:
        body = {"stockTicker": "AAPL", "type": "BUY", "quantity": 1}
        answer = await self._expect(http, "POST", f"{self.url}/api/v1/trades", number, 201, json=body)
        if answer is not None:
            self.acknowledged.append(answer["tradeId"])

    async def _expect(
        self, http: aiohttp.ClientSession, method: str, url: str, number: int, expected: int, **kwargs: Any
    ) -> Any:
        headers = {"Authorization": f"Bearer {self.customers[number % len(self.customers)]['token']}"}
        try:
            async with http.request(method, url, headers=headers, **kwargs) as response:
                answer = await response.json()
                if response.status == expected:
                    self.answered += 1
                    return answer
                self.failed.append(f"{method} {url}: {response.status} {answer}")
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            self.failed.append(f"{method} {url}: {error!r}")
        return None


async def customers_of(running: Fleet, wanted: int) -> list[dict[str, Any]]:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with aiohttp.ClientSession(headers=headers) as http:
        made = []
        for _ in range(wanted):
            async with http.post(f"{running.url}/admin/v1/customers", json={"cash": "100000000.00"}) as response:
                assert response.status == 201, await response.text()
                made.append(await response.json())
        return made


# ------------------------------------------------------------------ the tests


@pytest.mark.timeout(180)
async def test_26_no_request_fails_while_brokers_replace_each_other(dsn: str, tmp_path: Path) -> None:
    """Three times a new one starts beside the old one, which then gets SIGTERM: clients notice nothing.

    Every customer trades through whichever process it comes to, often through both at once.
    """
    async with fleet(tmp_path, dsn, *PATIENT) as running:
        load = Load(running.url, await customers_of(running, 60))
        fresh = aiohttp.TCPConnector(force_close=True)
        async with (
            aiohttp.ClientSession() as kept,
            aiohttp.ClientSession(connector=fresh) as new,
            asyncio.TaskGroup() as tasks,
        ):
            for number in range(CLIENTS):
                tasks.create_task(load.kept_alive(kept, number))
                tasks.create_task(load.connecting(new, number))
            took = []
            try:
                for _ in range(ROUNDS):
                    before = load.answered
                    successor = await running.start_broker()
                    await eventually(lambda before=before: _true(load.answered > before + 50 or load.failed), 30)
                    took.append(await terminated(running.started[-2]))
                    assert successor.returncode is None
                    before = load.answered
                    await eventually(lambda before=before: _true(load.answered > before + 50 or load.failed), 30)
            finally:
                load.stopped = True
        assert load.failed == []
        assert max(took) < STOPS_WITHIN_S

        await all_ended(running, load)
        broken = [finding for finding in await verify(dsn) if finding.row is not None]
        assert not broken, broken
        assert await terminated(running.started[-1]) < STOPS_WITHIN_S


async def test_26_sigterm_under_load_ends_in_time_and_loses_nothing(dsn: str, tmp_path: Path) -> None:
    """Alone on its port: clients are turned away at once, and what was acknowledged goes on at the next start."""
    async with fleet(tmp_path, dsn, *PATIENT) as running:
        running.shared = False
        await terminated(running.started[-1])
        alone = await running.start_broker()
        load = Load(running.url, await customers_of(running, 60))
        async with aiohttp.ClientSession() as kept, asyncio.TaskGroup() as tasks:
            for number in range(2 * CLIENTS):
                tasks.create_task(load.kept_alive(kept, number))
            try:
                await eventually(lambda: _true(load.answered > 100 or load.failed), 30)
                assert load.failed == []
                assert await terminated(alone) < STOPS_WITHIN_S
            finally:
                load.stopped = True
        await running.start_broker()
        await all_ended(running, load)
        broken = [finding for finding in await verify(dsn) if finding.row is not None]
        assert not broken, broken


async def all_ended(running: Fleet, load: Load) -> None:
    """Every trade that was acknowledged is there, and ends."""
    assert load.acknowledged
    sql = "SELECT count(*) FROM trade WHERE trade_id = ANY($1::uuid[]) AND status::text = ANY($2::text[])"

    async def probe() -> bool:
        ended = (await running.fetch(sql, load.acknowledged, sorted(TERMINAL)))[0][0]
        return bool(ended == len(load.acknowledged))

    await eventually(probe, 30)


async def _true(value: object) -> bool:
    return bool(value)
