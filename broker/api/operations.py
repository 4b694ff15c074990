"""What whoever runs the broker asks it: is it alive, is it ready, how is it doing."""

from collections.abc import Awaitable, Callable

from aiohttp import web

from broker.answers import Health, Readiness
from broker.db import Database, DatabaseUnavailable
from broker.http import json_response
from broker.metrics import Metrics
from broker.openapi import operation


class OperationsApi:
    """Health and metrics; open, since they tell nothing about customers."""

    def __init__(self, database: Database, exchange_answers: Callable[[], Awaitable[bool]], metrics: Metrics) -> None:
        self._database = database
        self._exchange_answers = exchange_answers
        self._metrics = metrics

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
        """The database and the exchange answer; 503 with which one does not."""
        database, exchange = await self._database_answers(), await self._exchange_answers()
        ready = database and exchange
        readiness: Readiness = {
            "status": "ready" if ready else "not ready",
            "database": "ok" if database else "does not answer",
            "exchange": "ok" if exchange else "does not answer",
        }
        return json_response(readiness, 200 if ready else 503)

    async def _database_answers(self) -> bool:
        try:
            await self._database.fetch("ping")
        except DatabaseUnavailable:
            return False
        return True

    async def metrics(self, _: web.Request) -> web.Response:
        """Prometheus text."""
        headers = {"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        return web.Response(body=self._metrics.exposition(), headers=headers)
