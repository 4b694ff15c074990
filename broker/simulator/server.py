"""The life of the simulated exchange: what starts with it, ticks in it and stops with it."""

import asyncio
from collections.abc import AsyncIterator
from random import Random
from typing import Self

import structlog
from aiohttp import web

from broker.simulator.feed import Feed
from broker.simulator.market import Market
from broker.simulator.routes import FEED, MARKET, ROUTES, STOPPING, VENUE, errors_as_json
from broker.simulator.settings import ExchangeSettings
from broker.simulator.tickers import listed_tickers
from broker.simulator.venue import Venue

log = structlog.get_logger(__name__)

_BODY_MAX = 1024 * 1024
_STOP_WITHIN_S = 0.5


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
        venue = Venue(settings, self._secret, market)
        feed = Feed(market, settings.clock, settings.feed_sockets_max, settings.feed_messages_max)
        app[MARKET], app[VENUE], app[FEED], app[STOPPING] = market, venue, feed, asyncio.Event()
        ticking = asyncio.create_task(_tick(feed, settings.tick_ms), name="market ticks")
        try:
            await venue.open()
            yield
        finally:
            ticking.cancel()
            await asyncio.gather(ticking, return_exceptions=True)
            await venue.close()


async def _release_requests(app: web.Application) -> None:
    """Requests that are held and sockets that stay open would keep the server from stopping."""
    if STOPPING in app:
        app[STOPPING].set()
        await app[FEED].close()


async def _tick(feed: Feed, tick_ms: int) -> None:
    """Move the market for ever. A tick that fails is a bug: it is logged, and the market stands still."""
    while tick_ms:
        await asyncio.sleep(tick_ms / 1000)
        try:
            feed.tick()
        except Exception:
            log.exception("market.tick_failed")
            raise
