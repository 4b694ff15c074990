"""The composition root: what a running broker is made of, in which order it starts, and how it stops.

One TaskGroup holds every eternal task; if one of them ends, that is an error and the broker stops.
"""

import asyncio
import os
import random
import secrets
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import aiohttp
import asyncpg
import structlog
from aiohttp import web
from uuid_utils.compat import uuid7

from broker import exchange as exchange_module
from broker.api.admin import AdminApi
from broker.api.controls import ControlsApi
from broker.api.operations import OperationsApi
from broker.api.orders import OrdersApi
from broker.api.portfolio import PortfolioApi
from broker.api.trades import TradesApi
from broker.auth import Authenticator
from broker.config import Config, ConfigError, default_data, read_venues
from broker.controls import Controls, customer_scope
from broker.core.conditions import Conditions
from broker.core.money import UNITS_PER_DOLLAR, Money
from broker.core.types import CustomerId
from broker.customers import Customers
from broker.data_folder import DataFolder, shared_webhook_secret
from broker.db import Database, DatabaseUnavailable
from broker.dispatch import Dispatcher
from broker.embedded import EmbeddedPostgres
from broker.exchange import HttpVenue, Webhook
from broker.http import build_app, with_body
from broker.ledger import Ledger, TradeDirectory
from broker.market import Feed, Quotes
from broker.metrics import Metrics
from broker.policy import limits_of, policy_of
from broker.portfolio import Portfolio
from broker.price_samples import PriceSamples
from broker.reading import Reading
from broker.router import Router, Venue, read_routes
from broker.schema import install
from broker.shards import Shard, Shards
from broker.simulator.server import SimulatedExchange
from broker.simulator.settings import ExchangeSettings
from broker.updates import Updates

log = structlog.get_logger()

VENUE = "sim"
"""The name of the first venue: executions are unique for each venue."""
_REMEMBERED = 100_000
"""Finished orders that the exchange inside a broker remembers, at 50 MB: the broker asks within a minute."""


class StartError(Exception):
    """The broker cannot start; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Running:
    """A broker that is ready, as whoever started it needs to know it."""

    url: str
    exchange_url: str
    dsn: str
    admin_token: str
    customers: Customers
    authenticator: Authenticator
    folder: DataFolder


async def serve(config: Config, stop: asyncio.Event, on_ready: Callable[[Running], Awaitable[None]]) -> None:
    """Run a broker until `stop` is set. Raises StartError and the sentences of those it is made of."""
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(DataFolder(config.data))
        listener = stack.enter_context(_listen(config.host, config.port))
        url = _url(config.host, listener)
        dsn, embedded = await _database(config, folder, stack)
        await _install(dsn)
        database = Database(dsn, config)
        await database.open()
        stack.push_async_callback(database.close)
        keys, exchange_url = await _exchange(config, folder, stack)
        session = await stack.enter_async_context(_client(config))
        parts = _assemble(config, url, exchange_url, keys, database, session, folder)
        await parts.controls.load()  # before anything can be decided: not knowing what is switched off, nothing starts
        async with asyncio.TaskGroup() as tasks:
            work = [*parts.work, *([embedded.supervise()] if embedded else [])]
            eternal = [tasks.create_task(_for_ever(each)) for each in work]
            await _ready(parts, listener, on_ready, stack)
            await stop.wait()
            await _drain(config, parts)
            for task in eternal:
                task.cancel()


# ------------------------------------------------------------------ the parts


@dataclass(slots=True)
class _Parts:
    """A broker before it listens."""

    running: Running
    app: web.Application
    shards: Shards
    router: Router
    controls: Controls
    ledgers: list[Ledger]
    work: list[Coroutine[Any, Any, None]]
    config: Config
    runner: web.AppRunner | None = None


def _assemble(
    config: Config,
    url: str,
    exchange_url: str,
    keys: list[bytes],
    database: Database,
    session: aiohttp.ClientSession,
    folder: DataFolder,
) -> _Parts:
    metrics = Metrics()

    async def take(reports: Any) -> None:  # the desks and the shards know each other: the knot is tied here
        await shards.report(reports)

    controls = Controls(database, limits_of(config))
    router = _router(config, url, exchange_url, session, take, controls, metrics)
    policy, updates = policy_of(config), Updates()

    def conditions() -> Conditions:
        return Conditions(datetime.now(UTC), router, controls, policy)

    def restrict(customer_id: CustomerId, reason: str) -> None:
        controls.restrict(customer_scope(customer_id), reason)

    ledgers = [Ledger(database, number, uuid7, lambda: conditions().today) for number in range(config.shards)]
    workers = [
        Shard(number, ledger, router, updates, conditions, restrict, config, metrics)
        for number, ledger in enumerate(ledgers)
    ]
    directory = TradeDirectory(database)
    shards = Shards(workers, router.owner, directory, metrics)
    admin_token = config.admin_token or folder.secret("adminToken")
    authenticator = Authenticator(database, admin_token, config)
    credit_max = Money(config.margin_credit_max * UNITS_PER_DOLLAR)
    customers = Customers(database, authenticator, controls, uuid7, credit_max)
    reading = Reading(database)
    portfolio, samples = Portfolio(database, conditions), PriceSamples(database, conditions)
    routes = [
        *TradesApi(shards, reading, authenticator, uuid7, config, metrics).routes(),
        *OrdersApi(shards, reading, updates, authenticator, uuid7, config, metrics).routes(),
        *PortfolioApi(portfolio, authenticator, config).routes(),
        *AdminApi(customers, shards, reading, authenticator, config).routes(),
        *ControlsApi(controls, customers, shards, directory, router.last, authenticator, config).routes(),
        *OperationsApi(database, lambda: _exchanges_answer(session, router), metrics).routes(),
        *_webhooks(config, keys, router, shards, metrics),
    ]
    work = [worker.run() for worker in workers]
    work += [_recover(directory, shards, config.recover_every_s), shards.expire()]
    work += [controls.run(config.controls_every_s), samples.run(config.price_sample_s)]
    for venue in router.venues.values():
        feed = Feed(venue.exchange.url, venue.quotes, session, config, random.Random())  # noqa: S311 - jitter
        work += [venue.desk.run_sending(), venue.desk.run_cancelling(), venue.desk.run_sweep(), feed.run()]
    running = Running(url, exchange_url, database.dsn, admin_token, customers, authenticator, folder)
    return _Parts(running, build_app(config, metrics, routes), shards, router, controls, ledgers, work, config)


def _router(
    config: Config,
    url: str,
    exchange_url: str,
    session: aiohttp.ClientSession,
    take: Callable[[Any], Awaitable[None]],
    controls: Controls,
    metrics: Metrics,
) -> Router:
    """All exchanges: the one of --exchange first, then those of --venues."""
    callback = (config.public_url or url).rstrip("/") + "/webhooks/exchange"
    rng = random.Random()  # noqa: S311 - jitter, no secrets
    venues = []
    for name, base in {VENUE: exchange_url, **read_venues(config.venues)}.items():
        callback_url = callback if name == VENUE else f"{callback}/{name}"
        exchange = HttpVenue(name, base, callback_url, session, config.lookup_body_max)
        desk = Dispatcher(exchange, name, take, config, metrics, rng, controls.why_not_sent)
        venues.append(Venue(name, exchange, desk, Quotes()))
    names = {venue.name for venue in venues}
    try:
        routes = read_routes(config.routes, names.__contains__)
    except ValueError as error:
        raise ConfigError(f"routes cannot be used: {error}") from error
    metrics.exchange_up.set_function(lambda: float(all(venue.quotes.known for venue in venues)))
    return Router(venues, routes, config.venue_down_after_s)


def _webhooks(
    config: Config, keys: list[bytes], router: Router, shards: Shards, metrics: Metrics
) -> Iterator[web.RouteDef]:
    """Each exchange has a callback path of its own, so that an execution id is unique to its exchange."""
    for name, venue in router.venues.items():
        webhook = Webhook(
            name,
            keys,
            config.webhook_window_s,
            config.webhook_events_max,
            shards.report,
            venue.desk.ask,
            time.time,
            metrics,
        )
        handler = with_body(webhook.handle, config.webhook_body_max, config.body_wait_s)
        path = "/webhooks/exchange" if name == VENUE else f"/webhooks/exchange/{name}"
        yield web.post(path, handler)


async def _exchanges_answer(session: aiohttp.ClientSession, router: Router) -> bool:
    """Whether every exchange says that it takes orders."""
    answers = await asyncio.gather(
        *(exchange_module.probe(session, venue.exchange.url) for venue in router.venues.values())
    )
    return all(answers)


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


async def _exchange(config: Config, folder: DataFolder, stack: AsyncExitStack) -> tuple[list[bytes], str]:
    """The exchange's secrets and URL; without one configured, a simulated exchange starts in here."""
    if config.exchange:
        return _shared_keys(config), config.exchange.rstrip("/")
    key = secrets.token_bytes(32)
    settings = ExchangeSettings(
        hours=config.hours, seed=config.seed, journal=folder.path / "exchange", finished_max=_REMEMBERED
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
    parts: _Parts,
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


async def _recover(directory: TradeDirectory, shards: Shards, every_s: float) -> None:
    """Take up open trades that no shard has in memory, for ever.

    First those of before the start; later those that a late commit, or one of a process that died, may have left.
    """
    while True:
        try:
            await shards.recover(await directory.customers_with_open_trades())
        except DatabaseUnavailable as error:
            log.warning("recovery.postponed", error=str(error))
        await asyncio.sleep(every_s)


async def _drain(config: Config, parts: _Parts) -> None:
    """Let nobody new in, finish what is queued; what is at the exchange is asked about at the next start."""
    log.info("broker.stopping")
    assert parts.runner is not None
    await parts.runner.cleanup()
    if not await parts.shards.drain(config.drain_s / 2):
        log.warning("broker.drain_incomplete", note="what was acknowledged is durable and goes on at the next start")
    for ledger in parts.ledgers:
        await ledger.close()


async def _for_ever(work: Coroutine[Any, Any, None]) -> None:
    await work
    raise RuntimeError(f"{work!r} ended, and it never should")
