"""Figures of /metrics that nobody counts as they happen: what the database has to add up, and how late the loop is."""

import asyncio
from time import monotonic

import structlog

from broker.config import Config
from broker.core.money import UNITS_PER_DOLLAR
from broker.db import Database, DatabaseUnavailable, RefusedByDatabase
from broker.metrics import Metrics

log = structlog.get_logger()

_TICK_S = 0.25
"""Often enough to meet a stall of as long, and rare enough to cost nothing."""


class Sampled:
    """Looks every few seconds, so that /metrics itself asks nobody."""

    def __init__(self, database: Database, metrics: Metrics, config: Config) -> None:
        self._database = database
        self._metrics = metrics
        self._every_s = config.metrics_sample_s
        metrics.follow_pool(database)

    async def run(self) -> None:
        """Take a sample now and then, for ever."""
        while True:
            await self.take()
            await asyncio.sleep(self._every_s)

    async def take(self) -> None:
        """One sample; without the database only that there is none."""
        try:
            (row,) = await self._database.fetch("sampled_figures")
        except (DatabaseUnavailable, RefusedByDatabase) as error:
            log.warning("metrics.not_sampled", error=str(error))
            self._metrics.database_up.set(0)
            return
        self._metrics.database_up.set(1)
        self._metrics.cash_held.set(row["cash_held"] / UNITS_PER_DOLLAR)
        self._metrics.shares_held.set(row["shares_held"])
        self._metrics.oldest_trade_seconds.set(row["oldest_s"])
        self._metrics.oldest_unacknowledged_seconds.set(row["unacknowledged_s"])
        self._metrics.oldest_transaction_seconds.set(row["transaction_s"])
        self._metrics.oldest_transaction_age.set(row["transaction_age"])

    async def watch_loop(self) -> None:
        """Measure how late a timer comes, for ever."""
        while True:
            due = monotonic() + _TICK_S
            await asyncio.sleep(_TICK_S)
            self._metrics.loop_lag_seconds.observe(max(monotonic() - due, 0))
