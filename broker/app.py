"""The life of a broker: in which order it starts, and how it stops. What it is made of: broker.assembly.

One TaskGroup holds every eternal task; if one of them ends, that is an error and the broker stops.
"""

import asyncio
import os
import secrets
import socket
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import asyncpg
import structlog
from aiohttp import web

from broker import exchange as exchange_module
from broker.assembly import Parts, Running, assemble
from broker.config import Config, ConfigError, default_data
from broker.data_folder import DataFolder, shared_webhook_secret
from broker.db import Database
from broker.embedded import EmbeddedPostgres
from broker.schema import install
from broker.simulator.clock import BadMoment, Clock, parse_moment
from broker.simulator.server import SimulatedExchange
from broker.simulator.settings import ExchangeSettings

log = structlog.get_logger()

_REMEMBERED = 100_000
"""Finished orders that the exchange inside a broker remembers, at 50 MB: the broker asks within a minute."""


class StartError(Exception):
    """The broker cannot start; the message says why and what to do."""


async def serve(config: Config, stop: asyncio.Event, on_ready: Callable[[Running], Awaitable[None]]) -> None:
    """Run a broker until `stop` is set. Raises StartError and the sentences of those it is made of."""
    exchange_clock = _exchange_clock(config)
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(DataFolder(config.data))
        listener = stack.enter_context(_listen(config.host, config.port))
        url = _url(config.host, listener)
        dsn, embedded = await _database(config, folder, stack)
        await _install(dsn)
        database = Database(dsn, config)
        await database.open()
        stack.push_async_callback(database.close)
        keys, exchange_url = await _exchange(config, folder, exchange_clock, stack)
        session = await stack.enter_async_context(_client(config))
        parts = assemble(config, url, exchange_url, keys, database, session, folder)
        stack.push_async_callback(parts.market.close)
        await parts.bench.follow_at_start()  # first of all: what is decided and read depends on the time
        await parts.controls.load()  # before anything can be decided: not knowing what is switched off, nothing starts
        await parts.market.bars.load()  # before the feeds begin: what is read must not be what they told
        async with asyncio.TaskGroup() as tasks:
            work = [*parts.work, *([embedded.supervise()] if embedded else [])]
            eternal = [tasks.create_task(_for_ever(each)) for each in work]
            await _ready(parts, listener, on_ready, stack)
            await stop.wait()
            await _drain(config, parts)
            for task in eternal:
                task.cancel()


# ------------------------------------------------------------------ what it stands on


async def _database(config: Config, folder: DataFolder, stack: AsyncExitStack) -> tuple[str, EmbeddedPostgres | None]:
    """The DSN of the database; without one configured, a PostgreSQL starts in the data folder."""
    if config.database:
        return config.database, None
    embedded = await EmbeddedPostgres.start(folder.path, log)
    stack.push_async_callback(embedded.stop)
    return embedded.dsn, embedded


async def _install(dsn: str) -> None:
    try:
        await install(dsn)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError, ValueError) as error:
        sentence = f"The database cannot be reached: {error}. Check --database (or BROKER_DATABASE)."
        raise StartError(sentence) from error


def _exchange_clock(config: Config) -> Clock:
    """That of the exchange inside the broker. Raises ConfigError."""
    clock = Clock()
    try:
        clock.set(parse_moment(config.clock) if config.clock else None, config.freeze)
    except BadMoment as error:
        raise ConfigError(f"clock cannot be used: {error}") from error
    return clock


async def _exchange(config: Config, folder: DataFolder, clock: Clock, stack: AsyncExitStack) -> tuple[list[bytes], str]:
    """The exchange's secrets and URL; without one configured, a simulated exchange starts in here."""
    if config.exchange:
        return _shared_keys(config), config.exchange.rstrip("/")
    key = secrets.token_bytes(32)
    settings = ExchangeSettings(
        hours=config.hours,
        seed=config.seed,
        journal=folder.path / "exchange",
        finished_max=_REMEMBERED,
        clock=clock,
    )
    simulated = SimulatedExchange(settings, key)
    stack.push_async_callback(simulated.stop)
    # Other venues beside it are programs of their own, and sign with a secret that both sides know.
    others = _shared_keys(config) if config.venues else []
    return [key, *others], await simulated.start()


def _shared_keys(config: Config) -> list[bytes]:
    text = config.webhook_secrets or shared_webhook_secret(default_data())
    try:
        return exchange_module.decode_secrets(text)
    except ValueError as error:
        raise ConfigError(f"BROKER_WEBHOOK_SECRETS cannot be used: {error}.") from error


def _client(config: Config) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=config.exchange_timeout_s),
        connector=aiohttp.TCPConnector(limit=config.send_in_flight_max + 8),
    )


# ------------------------------------------------------------------ start and stop


def _listen(host: str, port: int) -> socket.socket:
    """Bind before anything else starts: a port in use should be heard of at once."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        why = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror  # not at Python's length
        sentence = f"Cannot listen on {host}:{port}: {why}. Name another port with --port, or 0 for a free one."
        raise StartError(sentence) from error


def _url(host: str, listener: socket.socket) -> str:
    """The URL under which this machine reaches the listener; an address that means all becomes loopback."""
    reached = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)  # noqa: S104
    shown = f"[{reached}]" if ":" in reached else reached
    return f"http://{shown}:{listener.getsockname()[1]}"


async def _ready(
    parts: Parts,
    listener: socket.socket,
    on_ready: Callable[[Running], Awaitable[None]],
    stack: AsyncExitStack,
) -> None:
    wait = [venue.quotes.wait_known(parts.config.quotes_wait_s) for venue in parts.router.venues.values()]
    await asyncio.gather(*wait)
    parts.runner = web.AppRunner(
        parts.app,
        access_log=None,
        keepalive_timeout=parts.config.keepalive_s,
        lingering_time=1.0,
        shutdown_timeout=parts.config.drain_s / 2,
    )
    await parts.runner.setup()
    stack.push_async_callback(parts.runner.cleanup)
    await web.SockSite(parts.runner, listener, backlog=1024).start()
    parts.running.folder.write_running(parts.running.url)
    log.info("broker.ready", url=parts.running.url)
    await on_ready(parts.running)


async def _drain(config: Config, parts: Parts) -> None:
    """Let nobody new in, finish what is queued; what is at the exchange is asked about at the next start."""
    log.info("broker.stopping")
    assert parts.runner is not None
    parts.streams.end_all()
    await parts.runner.cleanup()
    if not await parts.shards.drain(config.drain_s / 2):
        log.warning("broker.drain_incomplete", note="what was acknowledged is durable and goes on at the next start")
    await parts.market.bars.save()
    for ledger in parts.ledgers:
        await ledger.close()


async def _for_ever(work: Coroutine[Any, Any, None]) -> None:
    await work
    raise RuntimeError(f"{work!r} ended, and it never should")
