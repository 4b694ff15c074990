"""What all tests share: one real PostgreSQL for the run, a fresh database for each test that wants one, a broker."""

import asyncio
import gc
import itertools
import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TextIO

import aiohttp
import asyncpg
import pytest
import structlog
import uvloop
from aiohttp import web_app
from hypothesis import HealthCheck, settings

from broker import log
from broker.app import serve
from broker.assembly import Running
from broker.commands.running import raise_open_files
from broker.config import Config
from broker.core.bars import day_of
from broker.embedded import EmbeddedPostgres
from broker.schema import install
from broker.verify import verify
from tests import documented

raise_open_files()  # a test with 1,000 clients holds both ends of their connections
log.configure("error")  # what a test expects to fail is no news
_LOGGING = structlog.get_config()
settings.register_profile(
    "ci",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    print_blob=True,
    derandomize="TEST_SEED" not in os.environ,
)
settings.load_profile("ci")


def the_seed() -> int:
    """What a test that rolls dice begins with: every run is the same, and TEST_SEED=… makes another one."""
    return int(os.environ.get("TEST_SEED", "20261127"))


@contextmanager
def logging_at(level: str, stream: TextIO | None = None) -> Iterator[None]:
    """Log otherwise for a while. What the log goes to afterwards is not the stream that is captured for one test."""
    log.configure(level, stream)
    try:
        yield
    finally:
        log.configure("error")
        structlog.configure(**_LOGGING)


_LONG = ("tests/chaos/", "tests/sim/", "tests/property/test_core_machine.py", "tests/acceptance/")
"""What takes longest begins first: else one worker ends alone with it."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long ones first, each file as a whole, and otherwise in their order."""
    items.sort(key=lambda item: not item.nodeid.startswith(_LONG))


def pytest_collection_finish() -> None:
    """What was made up to here stays: nobody looks for garbage among it in the middle of a test."""
    gc.collect()
    gc.freeze()


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> dict[str, Callable[[], Any]]:
    """The tests run on the loop that the broker runs on."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="session")
async def postgres(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EmbeddedPostgres]:
    """One PostgreSQL for the whole run, with the schema in its template database."""
    server = await EmbeddedPostgres.start(tmp_path_factory.mktemp("pg"), structlog.get_logger())
    await _sql(server.dsn, "CREATE DATABASE template_broker")
    await install(_database_dsn(server, "template_broker"))
    yield server
    await server.stop()


_numbers = itertools.count(1)


@pytest.fixture
async def dsn(postgres: EmbeddedPostgres) -> AsyncIterator[str]:
    """A database of one's own with the schema and nothing else; the DSN is its owner's."""
    name = f"test_{next(_numbers)}"
    await _sql(postgres.dsn, f"CREATE DATABASE {name} TEMPLATE template_broker")
    yield _database_dsn(postgres, name)
    await _sql(postgres.dsn, f"DROP DATABASE {name} WITH (FORCE)")


def _database_dsn(server: EmbeddedPostgres, name: str) -> str:
    return server.dsn.replace("@/postgres", f"@/{name}")


async def _sql(dsn: str, statement: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


@dataclass
class Client:
    """A customer's (or the operator's) way to a broker: answers are (status, JSON)."""

    http: aiohttp.ClientSession
    url: str
    token: str | None
    customer_id: str = ""
    headers: dict[str, str] = field(default_factory=dict)

    async def call(self, method: str, path: str, body: object = None, **kwargs: Any) -> tuple[int, Any]:
        """One request; `body` goes out as JSON."""
        headers = dict(self.headers) | kwargs.pop("headers", {})
        if self.token is not None:
            headers.setdefault("Authorization", f"Bearer {self.token}")
        async with self.http.request(method, self.url + path, json=body, headers=headers, **kwargs) as response:
            content = await response.json(content_type=None) if response.content_type == "application/json" else None
            documented.check(method, path, response.status, content)
            return response.status, content

    async def place(self, type_: str, symbol: str, quantity: int, **kwargs: Any) -> tuple[int, Any]:
        """PlaceTrade."""
        body = {"stockTicker": symbol, "type": type_, "quantity": quantity}
        return await self.call("POST", "/api/v1/trades", body, **kwargs)

    async def trade(self, trade_id: str) -> Any:
        """GetTrade."""
        status, trade = await self.call("GET", f"/api/v1/trades/{trade_id}")
        assert status == 200, trade
        return trade

    async def ended(self, trade_id: str, within_s: float = 10) -> Any:
        """The trade once it has ended."""
        return await eventually(lambda: self._ended(trade_id), within_s)

    async def _ended(self, trade_id: str) -> Any:
        trade = await self.trade(trade_id)
        return trade if trade["status"] in {"FILLED", "REJECTED", "CANCELLED", "EXPIRED"} else None


async def eventually(probe: Callable[[], Awaitable[Any]], within_s: float = 10) -> Any:
    """The first true answer of a probe; fails when there is none in time."""
    loop = asyncio.get_running_loop()
    until = loop.time() + within_s
    while True:
        answer = await probe()
        if answer:
            return answer
        assert loop.time() < until, f"not within {within_s} s; the last answer was {answer!r}"
        await asyncio.sleep(0.01)


@asynccontextmanager
async def narrow(client: Client) -> AsyncIterator[Client]:
    """The same customer with the smallest buffers there are: who does not read is soon behind."""

    def make(address: Any) -> socket.socket:
        family, type_, protocol, _, _ = address
        made = socket.socket(family, type_, protocol)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        made.setblocking(False)
        return made

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(socket_factory=make)) as http:
        yield replace(client, http=http)


@dataclass
class Broker:
    """A broker that runs in this process, and how to reach it."""

    running: Running
    http: aiohttp.ClientSession
    dsn: str
    config: Config

    @property
    def operator(self) -> Client:
        """The operator."""
        return Client(self.http, self.running.url, self.running.admin_token)

    @property
    def stranger(self) -> Client:
        """Somebody without a token."""
        return Client(self.http, self.running.url, None)

    async def customer(self, cash: str = "100000.00") -> Client:
        """A new customer."""
        status, created = await self.operator.call("POST", "/admin/v1/customers", {"cash": cash})
        assert status == 201, created
        return Client(self.http, self.running.url, created["token"], created["customerId"])

    async def fetch(self, sql: str, *arguments: object) -> list[asyncpg.Record]:
        """Look into the database."""
        connection = await asyncpg.connect(self.dsn, server_settings={"search_path": "broker"})
        try:
            return await connection.fetch(sql, *arguments)
        finally:
            await connection.close()

    async def books_are_right(self) -> None:
        """Every rule of `broker verify`."""
        broken = [finding for finding in await verify(self.dsn) if finding.row is not None]
        assert not broken, broken


@asynccontextmanager
async def run_broker(config: Config) -> AsyncIterator[Broker]:
    """A broker on this configuration, until the block ends."""
    stop, ready = asyncio.Event(), asyncio.get_running_loop().create_future()

    async def on_ready(running: Running) -> None:
        ready.set_result(running)

    task = asyncio.create_task(serve(config, stop, on_ready))
    await asyncio.wait([task, ready], return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        await task
    connector = aiohttp.TCPConnector(limit=2000, keepalive_timeout=5)  # the broker keeps them for longer than that
    async with aiohttp.ClientSession(connector=connector) as http:
        try:
            yield Broker(ready.result(), http, ready.result().dsn, config)
        finally:
            stop.set()
            await task


@pytest.fixture(autouse=True)
def forget_handlers() -> Iterator[None]:
    """aiohttp remembers the last thousand handlers, and by them the brokers of tests that are over.

    They are millions of objects in the end: to look for garbage among them stopped other tests for seconds.
    """
    yield
    web_app._cached_build_middleware.cache_clear()


@pytest.fixture
def config(dsn: str, tmp_path: Path) -> Config:
    """A configuration on a fresh database, on any free port; two shards, so that they are tried together.

    Answers are waited for so long that no test fails because the machine stood still for a moment.
    """
    return Config(
        port=0,
        database=dsn,
        data=tmp_path / "data",
        log_level="error",
        keepalive_s=600.0,
        head_wait_s=60.0,
        body_wait_s=60.0,
        answer_wait_s=60.0,
        shards=2,
        place_wait_s=15.0,
        order_wait_s=15.0,
        queue_wait_s=15.0,
        auth_failures_per_minute=100_000,  # all tests come from one address
    )


@pytest.fixture
async def broker(config: Config) -> AsyncIterator[Broker]:
    """A running broker with a simulated exchange, on a fresh database; at the end its books must be right."""
    async with run_broker(config) as running:
        yield running
        await running.books_are_right()


@pytest.fixture
async def no_midnight() -> None:
    """New York's day does not end within the next half minute: else wait for the new one."""
    while day_of(datetime.now(UTC)) != day_of(datetime.now(UTC) + timedelta(seconds=30)):
        await asyncio.sleep(1)


@pytest.fixture
def with_settings(config: Config) -> Callable[..., Config]:
    """The configuration of this test with some settings changed."""
    return lambda **changes: replace(config, **changes)


@pytest.fixture
def forgotten_tasks() -> Iterator[None]:
    """For a test with a client that closes its loop with tasks pending: asyncio says so when they are collected."""
    yield
    asyncio_log = logging.getLogger("asyncio")
    asyncio_log.disabled = True
    gc.collect()
    asyncio_log.disabled = False
