"""Alpaca's trading API as routes under /v2: whatever happens there, or under its other versions, has its form."""

from collections.abc import Callable
from datetime import datetime
from typing import Protocol
from uuid import UUID

from aiohttp import web

from broker.alpaca.account import AccountRoutes
from broker.alpaca.activities import ActivitiesRoutes
from broker.alpaca.assets import AssetsRoutes
from broker.alpaca.auth import AlpacaAuth
from broker.alpaca.errors import AlpacaError, answers
from broker.alpaca.orders import Desk, OrdersRoutes
from broker.alpaca.orders_read import Orders
from broker.alpaca.positions import PositionsRoutes, Quote
from broker.alpaca.symbols import Board, Symbols
from broker.alpaca.watchlists import WatchlistsRoutes
from broker.auth import Authenticator
from broker.config import Config
from broker.controls import Controls
from broker.core.money import Money
from broker.core.types import Symbol
from broker.db import Database
from broker.portfolio import Portfolio
from broker.shards import Shards
from broker.updates import Updates
from broker.worth import Worth

_UNKNOWN = ("/v1{rest:.*}", "/v2{rest:.*}", "/v3{rest:.*}", "//v{rest:.*}")
"""Where clients look for what there is not here: /v1beta1/news, /v3/clock; or with a URL of ours that ends in "/"."""


class Market(Board, Protocol):
    """What is listed, and what the day has brought each symbol."""

    def view(self, symbol: Symbol) -> Quote | None: ...


class AlpacaApi:
    """The trading API as one."""

    def __init__(
        self,
        database: Database,
        shards: Shards,
        updates: Updates,
        portfolio: Portfolio,
        controls: Controls,
        market: Market,
        last: Callable[[Symbol], Money | None],
        authenticator: Authenticator,
        new_id: Callable[[], UUID],
        now: Callable[[], datetime],
        config: Config,
    ) -> None:
        auth = AlpacaAuth(authenticator)
        orders = Orders(database)
        desk = Desk(shards, updates, database, orders, config)
        symbols = Symbols(market, controls, last, config.margin_maintenance_bps // 100)
        worth = Worth(database, last)
        self._parts = (
            AccountRoutes(database, portfolio, worth, controls, auth, now, config),
            ActivitiesRoutes(database, auth),
            OrdersRoutes(desk, orders, symbols, auth, new_id, config),
            PositionsRoutes(database, desk, symbols, market.view, auth, new_id),
            AssetsRoutes(symbols, now, config),
            WatchlistsRoutes(database, symbols, auth, new_id, config),
        )

    def routes(self) -> list[web.RouteDef]:
        """What to mount: after all other routes under /v2, since the last of these take whatever is left there."""
        routes = [route for part in self._parts for route in part.routes()]
        answered = [web.route(each.method, each.path, answers(each.handler), **each.kwargs) for each in routes]
        return [*answered, *(web.route("*", path, answers(_unknown)) for path in _UNKNOWN)]


async def _unknown(request: web.Request) -> web.StreamResponse:
    """404 for a path that there is not, 405 for one that takes other methods."""
    allowed: set[str] = set()
    for resource in request.app.router.resources():
        _, methods = await resource.resolve(request)
        allowed |= methods
    allowed.discard("*")
    if allowed:
        methods_there_are = ", ".join(sorted(allowed))
        sentence = f"method not allowed: this path takes {methods_there_are}"
        raise AlpacaError(405, None, sentence, headers={"Allow": methods_there_are})
    raise AlpacaError(404, None, "endpoint not found")
