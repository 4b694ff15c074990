"""What whoever runs the broker asks it: is it alive, is it ready, how is it doing."""

import asyncio
from collections.abc import Awaitable, Callable

from aiohttp import web

from broker.answers import Health, Readiness
from broker.db import Database, DatabaseUnavailable, RefusedByDatabase
from broker.http import json_response
from broker.metrics import Metrics
from broker.openapi import operation

_HOLDS_S = 1.0
"""So long a look counts for all who ask whether we are ready: anybody may, and a look takes a connection of those that
carry orders."""


class OperationsApi:
    """Health and metrics; open, since they tell nothing about customers."""

    def __init__(self, database: Database, exchange_answers: Callable[[], Awaitable[bool]], metrics: Metrics) -> None:
        self._database = database
        self._exchange_answers = exchange_answers
        self._metrics = metrics
        self._look: asyncio.Task[Readiness] | None = None
        self._looked_at = 0.0

    def routes(self) -> list[web.RouteDef]:
        """What to mount."""
        return [
            web.get("/healthz", self.healthz),
            web.get("/readyz", self.readyz),
            web.get("/metrics", self.metrics),
        ]

    @operation("The process is alive", answer=Health)
    async def healthz(self, _: web.Request) -> web.Response:
        """The process is alive."""
        health: Health = {"status": "ok"}
        return json_response(health)

    @operation("The database and the exchange answer", answer=Readiness, others={503: Readiness})
    async def readyz(self, _: web.Request) -> web.Response:
        """The database and the exchange answer; 503 with which one does not. What was found holds for a second."""
        loop = asyncio.get_running_loop()
        if self._look is None or (self._look.done() and loop.time() - self._looked_at >= _HOLDS_S):
            self._look, self._looked_at = loop.create_task(self._readiness()), loop.time()
        readiness = await asyncio.shield(self._look)
        return json_response(readiness, 200 if readiness["status"] == "ready" else 503)

    async def _readiness(self) -> Readiness:
        database, exchange = await self._database_answers(), await self._exchange_answers()
        return {
            "status": "ready" if database and exchange else "not ready",
            "database": "ok" if database else "does not answer",
            "exchange": "ok" if exchange else "does not answer",
        }

    async def _database_answers(self) -> bool:
        try:
            await self._database.fetch("ping")
        except (DatabaseUnavailable, RefusedByDatabase):
            return False
        return True

    async def metrics(self, _: web.Request) -> web.Response:
        """Prometheus text."""
        headers = {"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        return web.Response(body=self._metrics.exposition(), headers=headers)
