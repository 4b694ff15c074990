"""What a running broker is made of: every part is made here, once, and given what it needs."""

import asyncio
import itertools
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import aiohttp
import structlog
from aiohttp import web
from uuid_utils.compat import uuid7

from broker import exchange as exchange_module
from broker.alpaca.api import AlpacaApi
from broker.alpaca.data_api import AlpacaDataApi
from broker.alpaca.errors import as_alpaca_error
from broker.alpaca.errors import error_response as alpaca_response
from broker.api.admin import AdminApi
from broker.api.audit import AuditApi
from broker.api.bench import BenchApi
from broker.api.bench_exchange import ExchangeApi
from broker.api.controls import ControlsApi
from broker.api.docs import DocsApi
from broker.api.market import MarketApi
from broker.api.operations import OperationsApi
from broker.api.order_stream import OrderStreamApi
from broker.api.orders import OrdersApi
from broker.api.portfolio import PortfolioApi
from broker.api.stream import StreamApi
from broker.api.trades import TradesApi
from broker.api.webhooks import WebhooksApi
from broker.audit import Audit
from broker.auth import Authenticator
from broker.batch import Overloaded
from broker.bench_client import Bench
from broker.clock import MarketClock
from broker.config import Config, ConfigError, read_venues
from broker.controls import Controls, customer_scope
from broker.core.conditions import Conditions
from broker.core.messages import Wake
from broker.core.money import UNITS_PER_DOLLAR, Money
from broker.core.types import CustomerId, Symbol, TradeId
from broker.customers import Customers
from broker.data_folder import DataFolder
from broker.db import Database, DatabaseUnavailable, RefusedByDatabase
from broker.dispatch import Dispatcher
from broker.door import Door, Guarded
from broker.exchange import HttpVenue, Webhook
from broker.fan_out import FanOut
from broker.gate import Gate
from broker.http import as_api_error, build_app, error_response, with_body
from broker.ledger import Ledger, TradeDirectory
from broker.listen import listen
from broker.listeners import Place, Urls, places, routes_at
from broker.market.data import MarketData
from broker.market.quotes import Quotes
from broker.metrics import Metrics
from broker.order_updates import OrderUpdates
from broker.policy import limits_of, policy_of
from broker.portfolio import Portfolio
from broker.price_samples import PriceSamples
from broker.reading import Reading
from broker.resets import Resets
from broker.router import Router, Venue, read_routes
from broker.sampled import Sampled
from broker.shards import Shard, Shards
from broker.streams import Streams
from broker.triggers import Triggers
from broker.updates import Updates
from broker.webhooks import Webhooks

log = structlog.get_logger()

VENUE = "sim"
"""The name of the first venue: executions are unique for each venue."""


@dataclass(frozen=True, slots=True)
class Running:
    """A broker that is ready, as whoever started it needs to know it."""

    url: str
    admin_url: str
    exchange_url: str
    dsn: str
    admin_token: str
    customers: Customers
    authenticator: Authenticator
    folder: DataFolder


@dataclass(slots=True)
class Parts:
    """A broker before it listens."""

    running: Running
    apps: Mapping[Place, web.Application]
    door: Door
    shards: Shards
    router: Router
    controls: Controls
    ledgers: list[Ledger]
    streams: Streams
    market: MarketData
    bench: Bench
    work: list[Coroutine[Any, Any, None]]
    config: Config
    metrics: Metrics

    @property
    def app(self) -> web.Application:
        """What is on the main port."""
        return self.apps[Place.MAIN]


def assemble(
    config: Config,
    urls: Urls,
    exchange_url: str,
    keys: list[bytes],
    database: Database,
    session: aiohttp.ClientSession,
    folder: DataFolder,
) -> Parts:
    """The parts, which know each other and do nothing yet. Raises ConfigError where a setting cannot be used."""
    metrics, clock = Metrics(), MarketClock()

    async def take(reports: Any) -> None:  # the desks and the shards know each other: the knot is tied here
        await shards.report(reports)

    controls = Controls(database, limits_of(config))
    policy, updates = policy_of(config), Updates()

    async def take_up(trade_ids: Sequence[TradeId]) -> dict[TradeId, bool]:
        return await shards.take_up(trade_ids)

    def conditions() -> Conditions:
        return Conditions(clock.now(), router, controls, policy)

    def wake(customer_id: CustomerId, command: Wake) -> asyncio.Future[Any]:
        return shards.submit(customer_id, command)

    def fresh(symbol: Symbol) -> Money | None:
        return None if router.stale_s(symbol) is not None else router.last(symbol)

    triggers = Triggers(wake, fresh, conditions, database)
    directory = TradeDirectory(database)
    router = _router(config, urls, exchange_url, session, take, take_up, controls, triggers, metrics)

    def restrict(customer_id: CustomerId, reason: str) -> None:
        controls.restrict(customer_scope(customer_id), reason)

    ledgers = [Ledger(database, number, clock.new_id, lambda: conditions().today) for number in range(config.shards)]
    workers = [
        Shard(number, ledger, router, updates, conditions, restrict, config, metrics)
        for number, ledger in enumerate(ledgers)
    ]
    shards = Shards(workers, router.owner, directory, metrics)
    admin_token = config.admin_token or folder.secret("adminToken")
    authenticator = Authenticator(database, admin_token, config)
    credit_max = Money(config.margin_credit_max * UNITS_PER_DOLLAR)
    customers = Customers(database, authenticator, controls, clock.new_id, clock.now, credit_max)
    reading = Reading(database)
    portfolio, samples = Portfolio(database, conditions), PriceSamples(database, conditions)
    events = OrderUpdates(database)
    hooks = Webhooks(database, events, config, metrics, random.Random())  # noqa: S311 - jitter
    bench = Bench(exchange_url, session, clock, config)
    resets = Resets(controls, database, FanOut(database, shards, config.shards), router.last, router.is_listed)
    streams = Streams(authenticator, database, config, metrics)
    market = _market(config, router, database, session, clock, metrics)
    order_stream = OrderStreamApi(streams, events, updates, config, metrics)
    alpaca_data = AlpacaDataApi(
        market, streams, updates, controls.switches, database, authenticator, clock.now, config, metrics
    )
    audit, sampled = Audit(database, metrics, config), Sampled(database, metrics, config)
    audit_api = AuditApi(audit, admin_token, config)
    routes = [
        *alpaca_data.routes(),
        *TradesApi(shards, reading, clock.new_id, config).routes(),
        *order_stream.routes(),
        *OrdersApi(shards, reading, updates, clock.new_id, config).routes(),
        *StreamApi(streams, market.board, market.hub, config).routes(),
        *MarketApi(market.board, market.bars, controls, clock.now, config).routes(),
        *PortfolioApi(portfolio, config).routes(),
        *WebhooksApi(database, events, hooks.wake, uuid7, config).routes(),
        *AdminApi(customers, shards, reading, config).routes(),
        *ControlsApi(controls, customers, shards, directory, router.last, router.is_listed, config).routes(),
        *BenchApi(resets, customers, clock.new_id, config).routes(),
        *ExchangeApi(bench, router.last, config).routes(),
        *AlpacaApi(
            database,
            shards,
            updates,
            portfolio,
            controls,
            market.board,
            router.last,
            authenticator,
            clock.new_id,
            clock.now,
            config,
        ).routes(),
        *OperationsApi(database, lambda: _exchanges_answer(session, router), metrics).routes(),
        *audit_api.routes(),
        *_webhooks(config, keys, router, shards, metrics),
    ]
    work = [worker.run() for worker in workers]
    left = asyncio.Event()
    work += [_recover(directory, shards, left, config.recover_every_s), shards.expire(), triggers.run()]
    told = {"broker_keys": authenticator.notice, "broker_controls": controls.notice, "broker_left": left.set}
    work += [listen(database, told, config.key_cache_s), authenticator.run()]
    work += [controls.run(config.controls_every_s), samples.run(config.price_sample_s)]
    work += [bench.run(), audit.run(), sampled.run(), sampled.watch_loop()]
    work += [hooks.run(), streams.run(), order_stream.run(), *market.work(), *alpaca_data.work()]
    for venue in router.venues.values():
        work += [venue.desk.run_sending(), venue.desk.run_cancelling(), venue.desk.run_sweep()]
    running = Running(urls.main, urls.admin, exchange_url, database.dsn, admin_token, customers, authenticator, folder)
    mounted = {place: _mounted(place, routes, config) for place in places(config)}
    gate = Gate(authenticator, config, itertools.chain(*mounted.values()))
    door = _door(shards, config, metrics)
    inside = [gate.middleware, door.middleware, audit_api.middleware]
    apps = {place: build_app(config, metrics, each, inside) for place, each in mounted.items()}
    return Parts(running, apps, door, shards, router, controls, ledgers, streams, market, bench, work, config, metrics)


def _mounted(place: Place, routes: Sequence[web.RouteDef], config: Config) -> list[web.RouteDef]:
    """What is on one port, with the document that describes it where people come."""
    mounted = routes_at(place, routes, places(config))
    return [*mounted, *DocsApi(mounted).routes()] if place in {Place.MAIN, Place.ADMIN} else mounted


def _router(
    config: Config,
    urls: Urls,
    exchange_url: str,
    session: aiohttp.ClientSession,
    take: Callable[[Any], Awaitable[None]],
    take_up: Callable[[Sequence[TradeId]], Awaitable[dict[TradeId, bool]]],
    controls: Controls,
    triggers: Triggers,
    metrics: Metrics,
) -> Router:
    """All exchanges: the one of --exchange first, then those of --venues."""
    outside = config.public_url or urls.callback
    inside = outside if urls.inside == urls.callback else urls.inside  # which nobody else can reach
    rng = random.Random()  # noqa: S311 - jitter, no secrets
    venues = []
    for name, base in {VENUE: exchange_url, **read_venues(config.venues)}.items():
        callback = (inside if name == VENUE else outside).rstrip("/") + "/webhooks/exchange"
        callback_url = callback if name == VENUE else f"{callback}/{name}"
        exchange = HttpVenue(name, base, callback_url, session, config.lookup_body_max)
        desk = Dispatcher(exchange, name, take, take_up, config, metrics, rng, controls.why_not_sent)
        venues.append(Venue(name, exchange, desk, Quotes(config.quote_stale_s)))
    names = {venue.name for venue in venues}
    try:
        routes = read_routes(config.routes, names.__contains__)
    except ValueError as error:
        raise ConfigError(f"routes cannot be used: {error}") from error
    metrics.exchange_up.set_function(
        lambda: float(all(venue.is_heard or not venue.desk.down_for_s for venue in venues))
    )
    metrics.quotes_stale.set_function(
        lambda: sum(not venue.quotes.symbols or venue.quotes.stale_for_s is not None for venue in venues)
    )
    return Router(venues, routes, config.venue_down_after_s, triggers)


def _market(
    config: Config,
    router: Router,
    database: Database,
    session: aiohttp.ClientSession,
    clock: MarketClock,
    metrics: Metrics,
) -> MarketData:
    venues = [(venue.name, venue.exchange.url, venue.quotes) for venue in router.venues.values()]
    return MarketData(venues, router.venue, database, session, clock.now, router.triggers, config, metrics)


def _door(shards: Shards, config: Config, metrics: Metrics) -> Door:
    """Where new orders come in, each with the answer of its dialect for when there is no room."""
    ours, alpacas = as_api_error(Overloaded("door")), as_alpaca_error(Overloaded("door"))
    assert ours is not None
    assert alpacas is not None
    guarded = [
        Guarded("POST", "/api/v1/trades", error_response(ours)),
        Guarded("POST", "/api/v1/orders", error_response(ours)),
        Guarded("PATCH", "/api/v1/orders/{orderId}", error_response(ours)),
        Guarded("POST", "/v2/orders", alpaca_response(alpacas)),
        Guarded("PATCH", "/v2/orders/{order_id}", alpaca_response(alpacas)),
    ]
    return Door(guarded, shards.room, config, metrics)


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


async def _recover(directory: TradeDirectory, shards: Shards, left: asyncio.Event, every_s: float) -> None:
    """Take up open trades that no shard has in memory, for ever.

    First those of before the start; later those that a late commit, or one of a process that died, may have left. A
    process that stops says so when it is done: `left`.
    """
    while True:
        left.clear()
        try:
            await shards.recover(await directory.customers_with_open_trades())
        except (DatabaseUnavailable, RefusedByDatabase) as error:  # refused: where it does not let us in
            log.warning("recovery.postponed", error=str(error))
        with suppress(TimeoutError):
            async with asyncio.timeout(every_s):
                await left.wait()
