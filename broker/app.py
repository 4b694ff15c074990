"""The life of a broker: in which order it starts, and how it stops. What it is made of: broker.assembly.

One TaskGroup holds every eternal task; if one of them ends, that is an error and the broker stops.
"""

import asyncio
import secrets
import signal
from collections.abc import Awaitable, Callable, Coroutine, Sequence
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
from broker.db import Database, DatabaseUnavailable, RefusedByDatabase
from broker.door import Door
from broker.embedded import EmbeddedPostgres
from broker.http import Runner
from broker.listeners import Listener, Serving, open_listeners, reload_tls, urls_of
from broker.schema import check_runtime_login, install, let_runtime_role_in
from broker.simulator.clock import BadMoment, Clock, parse_moment
from broker.simulator.server import SimulatedExchange
from broker.simulator.settings import ExchangeSettings

log = structlog.get_logger()

_REMEMBERED = 100_000
"""Finished orders that the exchange inside a broker remembers, at 50 MB: the broker asks within a minute."""


_SAY_LEFT_S = 0.5


class StartError(Exception):
    """The broker cannot start; the message says why and what to do."""


async def serve(config: Config, stop: asyncio.Event, on_ready: Callable[[Running], Awaitable[None]]) -> None:
    """Run a broker until `stop` is set. Raises StartError and the sentences of those it is made of."""
    exchange_clock = _exchange_clock(config)
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(DataFolder(config.data))
        listeners = stack.enter_context(open_listeners(config))
        dsn, embedded = await _database(config, folder, stack)
        if not await _install(dsn, stop):
            return
        database = Database(dsn, config, await _runtime_dsn(config, embedded))
        await _while_starting(database.open())
        stack.push_async_callback(database.close)
        keys, exchange_url = await _exchange(config, folder, exchange_clock, stack)
        session = await stack.enter_async_context(_client(config))
        parts = assemble(config, urls_of(listeners), exchange_url, keys, database, session, folder)
        stack.push_async_callback(parts.market.close)
        await parts.bench.follow_at_start()  # first of all: what is decided and read depends on the time
        await _while_starting(
            parts.controls.load()
        )  # before anything can be decided: not knowing what is switched off, nothing starts
        await parts.market.bars.load()  # before the feeds begin: what is read must not be what they told
        async with asyncio.TaskGroup() as tasks:
            work = [*parts.work, *([embedded.supervise()] if embedded else [])]
            eternal = [tasks.create_task(_for_ever(each)) for each in work]
            serving = await _ready(parts, listeners, on_ready, stack)
            await stop.wait()
            await _drain(config, parts, serving)
            await _say_left(config, database)
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


async def _while_starting(work: Awaitable[None]) -> None:
    """A database that went away since the schema was looked at is no fault of ours."""
    try:
        await work
    except DatabaseUnavailable as error:
        raise StartError(f"The database does not answer: {error}. Start again when it does.") from error


async def _install(dsn: str, stop: asyncio.Event) -> bool:
    """The schema; False where we are told to stop while another broker is at work on it, which may take long."""
    installing, stopping = asyncio.ensure_future(install(dsn)), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait((installing, stopping), return_when=asyncio.FIRST_COMPLETED)
        if not installing.done():
            log.info("broker.stopped_while_installing")
            return False
        await installing
        return True
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError, ValueError) as error:
        sentence = f"The database cannot be reached: {error}. Check --database (or BROKER_DATABASE)."
        raise StartError(sentence) from error
    finally:
        for each in (installing, stopping):
            each.cancel()
        await asyncio.gather(installing, stopping, return_exceptions=True)


async def _runtime_dsn(config: Config, embedded: EmbeddedPostgres | None) -> str | None:
    """By which the broker works from now on: a session of the owner's that gave up its rights could take them back."""
    try:
        if embedded is not None:
            await let_runtime_role_in(embedded.dsn)
            return embedded.runtime_dsn
        if config.runtime_database is not None:
            await check_runtime_login(config.runtime_database)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError, ValueError) as error:
        sentence = f"The database cannot be reached: {error}. Check --runtime-database (or BROKER_RUNTIME_DATABASE)."
        raise StartError(sentence) from error
    return config.runtime_database


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
        connector=aiohttp.TCPConnector(limit=0, limit_per_host=config.send_in_flight_max + 8),  # none waits for another
    )


# ------------------------------------------------------------------ start and stop


async def _ready(
    parts: Parts,
    listeners: Sequence[Listener],
    on_ready: Callable[[Running], Awaitable[None]],
    stack: AsyncExitStack,
) -> Serving:
    config, running = parts.config, parts.running
    wait = [venue.quotes.wait_known(config.quotes_wait_s) for venue in parts.router.venues.values()]
    await asyncio.gather(*wait)
    serving = Serving(config, parts.metrics, lambda app: _runner(config, parts.door, app))
    stack.push_async_callback(serving.stop)
    for listener in listeners:
        await serving.start(listener, parts.apps[listener.place])
    if config.tls_cert is not None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, reload_tls, config, listeners)
        stack.callback(loop.remove_signal_handler, signal.SIGHUP)
    try:
        running.folder.write_running(running.url, running.admin_url, config.tls_cert)
    except OSError as error:
        raise StartError(f"The data folder {running.folder.path} cannot be written: {error.strerror}.") from error
    log.info("broker.ready", url=running.url)
    await on_ready(running)
    return serving


def _runner(config: Config, door: Door, app: web.Application) -> web.AppRunner:
    return Runner(
        app,
        door=door,
        access_log=None,
        keepalive_timeout=config.keepalive_s,
        lingering_time=1.0,
        shutdown_timeout=config.drain_s / 2,
    )


async def _drain(config: Config, parts: Parts, serving: Serving) -> None:
    """Let nobody new in, finish what is queued; what is at the exchange is asked about at the next start."""
    log.info("broker.stopping")
    await serving.leave()
    parts.streams.end_all()
    if config.reuse_port:  # somebody else is there for those who come again
        await serving.say_goodbye(config.drain_s / 3)
    await serving.stop()
    if not await parts.shards.drain(config.drain_s / 2):
        log.warning("broker.drain_incomplete", note="what was acknowledged is durable and goes on at the next start")
    await parts.market.bars.save()
    for ledger in parts.ledgers:
        await ledger.close()


async def _say_left(config: Config, database: Database) -> None:
    """Others on the same database take up at once what this one was at work on, instead of finding it in a minute."""
    if config.database is None:
        return
    try:
        async with asyncio.timeout(_SAY_LEFT_S):
            await database.fetch("broker_left")
    except (DatabaseUnavailable, RefusedByDatabase, TimeoutError) as error:
        log.warning("broker.left_unsaid", error=str(error))


async def _for_ever(work: Coroutine[Any, Any, None]) -> None:
    await work
    raise RuntimeError(f"{work!r} ended, and it never should")
