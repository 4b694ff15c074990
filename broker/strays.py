"""Strays: orders that have ended in the books and may still be open at the exchange, where nobody would watch them.

A second copy of an order, one that another broker sent while it was withdrawn here, an exchange that contradicts
itself: what is suspected is looked up once no copy can be on its way any more, and cancelled there until it has ended.
As everywhere one denial is not believed: the exchange may have just come back without its books.
"""

import heapq
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass

import structlog

from broker.config import Config
from broker.core.messages import Report, ReportType
from broker.core.types import Trade, TradeId
from broker.exchange import Exchange
from broker.metrics import Metrics

log = structlog.get_logger()

_ENDS = {ReportType.REJECTED, ReportType.CANCELLED, ReportType.EXPIRED, ReportType.REPLACED}
_DOUBLINGS_MAX = 8
_LOOKS_MAX = 12
"""Some ten minutes, by default, for an exchange that neither cancels an order nor says how it ended."""


@dataclass(slots=True)
class _Suspect:
    """An order that is suspected, and how often it was looked up for that."""

    trade: Trade
    looks: int = 0
    denied_since: float | None = None


class Strays:
    """Those that are suspected at one exchange."""

    def __init__(
        self,
        exchange: Exchange,
        report: Callable[[Sequence[Report]], Awaitable[None]],
        config: Config,
        metrics: Metrics,
        now: Callable[[], float],
    ) -> None:
        self._exchange = exchange
        self._report = report
        self._config = config
        self._metrics = metrics
        self._now = now
        self._suspects: OrderedDict[TradeId, _Suspect] = OrderedDict()
        self._due: list[tuple[float, TradeId]] = []  # each of them once

    def suspect(self, trade: Trade) -> None:
        """It has ended here, or is about to: look it up when every copy of it has arrived."""
        if trade.trade_id in self._suspects:
            return
        self._suspects[trade.trade_id] = _Suspect(trade)
        self._look_later(trade.trade_id)
        if len(self._suspects) > self._config.recent_trades_max:
            dropped, _ = self._suspects.popitem(last=False)
            log.error("exchange.stray_dropped", trade_id=str(dropped))

    @property
    def are_due(self) -> bool:
        """Whether there is something to look up now."""
        return bool(self._due) and self._due[0][0] <= self._now()

    async def look(self, is_at_work: Callable[[TradeId], bool]) -> None:
        """Ask about those that are due, and cancel what is open. Raises ExchangeUnavailable; then again later.

        What is at work has not ended yet: it is watched anyway.
        """
        due = self._pop_due()
        ended = [trade_id for trade_id in due if not is_at_work(trade_id)]
        settled: set[TradeId] = set()
        try:
            if ended:
                settled = await self._settled(ended)
        finally:
            for trade_id in due:
                if trade_id in settled:
                    self._suspects.pop(trade_id, None)
                else:
                    self._look_later(trade_id)

    def _pop_due(self) -> list[TradeId]:
        due: list[TradeId] = []
        while self.are_due and len(due) < self._config.look_batch_max:
            _, trade_id = heapq.heappop(self._due)
            if trade_id in self._suspects:
                due.append(trade_id)
        return due

    def _look_later(self, trade_id: TradeId) -> None:
        """Twice as long after each look, up to what an order that rests may wait."""
        suspect = self._suspects.get(trade_id)
        if suspect is None:  # dropped meanwhile
            return
        doubled = self._config.exchange_timeout_s * 2 ** min(suspect.looks, _DOUBLINGS_MAX)
        suspect.looks += 1
        heapq.heappush(self._due, (self._now() + min(doubled, self._config.rest_look_s), trade_id))

    async def _settled(self, trade_ids: Sequence[TradeId]) -> set[TradeId]:
        """Those that have ended there too, or that it insists on not knowing."""
        answer = await self._exchange.lookup(trade_ids)
        found = {trade_id: answer[trade_id] for trade_id in trade_ids if trade_id in answer}  # and nobody else's
        may_be_open = [trade_id for trade_id, reports in found.items() if self._may_be_open(trade_id, reports)]
        too_late = await self._exchange.cancel(may_be_open) if may_be_open else set()
        open_there = set(may_be_open) - too_late
        for trade_id in open_there:
            log.error("exchange.order_after_its_end", trade_id=str(trade_id))
            self._metrics.sweep_findings.labels("open_after_end").inc()
        await self._take(reports for trade_id, reports in found.items() if trade_id not in too_late)
        unclear: set[TradeId] = set()
        if too_late:  # it may have traded since it was looked up; one that has filled has no end of its own
            again = await self._exchange.lookup(sorted(too_late))
            await self._take(again.get(trade_id, found[trade_id]) for trade_id in too_late)
            unclear = {trade_id for trade_id in too_late if not self._is_clear(trade_id, again.get(trade_id))}
        denied = {trade_id for trade_id in trade_ids if self._insists(trade_id, is_known=trade_id in found)}
        return (found.keys() - open_there - unclear) | denied

    async def _take(self, found: Iterable[Sequence[Report]]) -> None:
        """Each for itself: what cannot be taken in spoils no other's."""
        for reports in found:
            await self._report(reports)

    def _may_be_open(self, trade_id: TradeId, reports: Sequence[Report]) -> bool:
        """Not where it is another order that the exchange has under this id: a cancel would go to that one."""
        suspect = self._suspects.get(trade_id)
        if suspect is not None and any(report.is_of_another(suspect.trade) for report in reports):
            return False
        return not reports or reports[-1].type not in _ENDS

    def _is_clear(self, trade_id: TradeId, reports: Sequence[Report] | None) -> bool:
        """Whether it says how an order ended that it does not cancel; in the end, nobody asks any more."""
        suspect = self._suspects.get(trade_id)
        if reports and reports[-1].type is not ReportType.ACCEPTED:
            return True
        if suspect is not None and suspect.looks < _LOOKS_MAX:
            return False
        log.error("exchange.stray_unclear", trade_id=str(trade_id))
        return True

    def _insists(self, trade_id: TradeId, *, is_known: bool) -> bool:
        suspect = self._suspects.get(trade_id)
        if suspect is None or is_known:
            if suspect is not None:
                suspect.denied_since = None
            return False
        if suspect.denied_since is None:
            suspect.denied_since = self._now()
        return self._now() - suspect.denied_since >= self._config.forgotten_after_s
