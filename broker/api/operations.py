"""What whoever runs the broker asks it: is it alive, is it ready, how is it doing."""

from collections.abc import Awaitable, Callable

from aiohttp import web

from broker.db import Database, DatabaseUnavailable
from broker.http import json_response
from broker.metrics import Metrics


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

    async def healthz(self, _: web.Request) -> web.Response:
        """The process is alive."""
        return json_response({"status": "ok"})

    async def readyz(self, _: web.Request) -> web.Response:
        """The database and the exchange answer; 503 with which one does not."""
        checks = {"database": await self._database_answers(), "exchange": await self._exchange_answers()}
        ready = all(checks.values())
        answers = {name: "ok" if answers else "does not answer" for name, answers in checks.items()}
        return json_response({"status": "ready" if ready else "not ready", **answers}, 200 if ready else 503)

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
