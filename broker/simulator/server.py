"""The life of the simulated exchange: what starts with it, ticks in it and stops with it."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from random import Random
from typing import Self

import structlog
from aiohttp import web

from broker.simulator.books import Books
from broker.simulator.feed import Feed
from broker.simulator.keys import FEED, MARKET, STOPPING, VENUE
from broker.simulator.market import Market
from broker.simulator.replies import errors_as_json
from broker.simulator.routes import ROUTES
from broker.simulator.settings import ExchangeSettings
from broker.simulator.tickers import listed_tickers
from broker.simulator.venue import Venue

log = structlog.get_logger(__name__)

_BODY_MAX = 1024 * 1024
_STOP_WITHIN_S = 0.5
_WATCH_S = 0.25


class SimulatedExchange:
    """One exchange: `start` it on a port of its own, or mount its `app` in an application that has one.

    It starts once; after `stop` make another. With a journal folder that one goes on where this one ended.
    """

    def __init__(self, settings: ExchangeSettings, secret: bytes) -> None:
        self._settings = settings
        self._secret = secret
        self._runner: web.AppRunner | None = None
        self.url = ""
        self.app = self._application()

    async def start(self) -> str:
        """Recover from the journal, then listen; the base URL, without a slash at its end."""
        self._runner = web.AppRunner(self.app, access_log=None, shutdown_timeout=_STOP_WITHIN_S)
        try:
            await self._runner.setup()
            await web.TCPSite(self._runner, self._settings.host, self._settings.port).start()
        except BaseException:
            await self.stop()
            raise
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        log.info("exchange.started", url=self.url, hours=self._settings.hours)
        return self.url

    async def stop(self) -> None:
        """Stop within a second. Callbacks that are not delivered are for the journal to remember."""
        if self._runner is not None:
            runner, self._runner = self._runner, None
            await runner.cleanup()
            log.info("exchange.stopped", url=self.url)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def _application(self) -> web.Application:
        app = web.Application(middlewares=[errors_as_json], client_max_size=_BODY_MAX)
        app.add_routes(ROUTES)
        app.cleanup_ctx.append(self._working)
        app.on_shutdown.append(_release_requests)
        return app

    async def _working(self, app: web.Application) -> AsyncIterator[None]:
        """Everything that lives between the application's start and its end."""
        settings = self._settings
        market = Market(listed_tickers(), Random(f"{settings.seed} market"))  # noqa: S311 - prices, no secrets
        books = Books(market, Random(f"{settings.seed} noise"))  # noqa: S311 - as above
        feed = Feed(books.quotes, settings.clock, settings.feed_sockets_max, settings.feed_messages_max)
        venue = Venue(settings, self._secret, market, books, feed)
        app[MARKET], app[VENUE], app[FEED], app[STOPPING] = market, venue, feed, asyncio.Event()
        tasks: list[asyncio.Task[None]] = []
        try:
            await venue.open()
            tasks.append(asyncio.create_task(_tick(venue, feed, settings.tick_ms), name="market ticks"))
            tasks.append(asyncio.create_task(_watch(venue), name="sessions"))
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await venue.close()


async def _release_requests(app: web.Application) -> None:
    """Requests that are held and sockets that stay open would keep the server from stopping."""
    if STOPPING in app:
        app[STOPPING].set()
        await app[FEED].close()


async def _tick(venue: Venue, feed: Feed, tick_ms: int) -> None:
    """Let the market act for ever. Where prices stand still, what customers took comes back all the same."""
    while True:
        await asyncio.sleep(tick_ms / 1000 or _WATCH_S)
        with _logged("market.tick_failed"):
            venue.tick(moves=tick_ms > 0)
            feed.publish()


async def _watch(venue: Venue) -> None:
    """Let sessions begin and end in time, however far apart the ticks are."""
    while True:
        await asyncio.sleep(_WATCH_S)
        with _logged("exchange.watch_failed"):
            venue.advance()


@contextmanager
def _logged(event: str) -> Iterator[None]:
    """What fails here is a bug: it is logged, and the task that it ends stands still."""
    try:
        yield
    except Exception:
        log.exception(event)
        raise
