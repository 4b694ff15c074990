"""The desk that works with the exchange: every trade at work is here from its first send to its end.

Three loops: one sends what was started, in arrays; one sends cancels; one asks the exchange about every trade that has
been silent for too long (TradeExists), so that none is ever stuck. The rule: nothing is sent a second time before the
exchange was asked and said that it does not know the order. A cancel is asked for until the trade has ended.
"""

import asyncio
import heapq
import random
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import structlog

from broker.batch import Overloaded
from broker.config import Config
from broker.core.account import may_rest, rests
from broker.core.messages import Report, ReportType
from broker.core.trading import ASKED
from broker.core.types import CustomerId, Trade, TradeId
from broker.db import DatabaseUnavailable, RefusedByDatabase
from broker.exchange import Exchange, ExchangeUnavailable, Refused
from broker.metrics import Metrics
from broker.shards import BrokenRule, Unanswered

log = structlog.get_logger()

_DOUBLINGS_MAX = 16
"""Past any sensible look_max_s; without a bound the power overflows after a day of asking."""


_ACCEPT_AFTER_S = 0.05
"""By then the exchange's own word on an order that it took has usually come: that it rests, or that it has traded."""

_NOT_TAKEN = (Overloaded, Unanswered, BrokenRule, DatabaseUnavailable, RefusedByDatabase)
"""Why reports could not be taken in: the sweep asks again."""


@dataclass(slots=True, eq=False)
class _Watched:
    """A trade at work, and what we know of the exchange's knowing it."""

    trade: Trade
    due: float = 0.0
    looks: int = 0
    sends: int = 0
    sent_at: float = 0.0  # when the last copy was on its way
    cancelling: bool = False  # its cancel is durable: the trade itself may be ahead of its commit
    taken: bool = False  # the exchange has said that it has this order
    denied_since: float | None = None


class Dispatcher:
    """Sends trades, and asks about those that are overdue."""

    def __init__(
        self,
        exchange: Exchange,
        venue: str,
        take: Callable[[Sequence[Report]], Awaitable[None]],
        config: Config,
        metrics: Metrics,
        rng: random.Random,
        stopped: Callable[[Trade], str | None] = lambda _: None,
    ) -> None:
        self._exchange = exchange
        self._stopped = stopped
        self._venue = venue
        self._take = take
        self._config = config
        self._metrics = metrics
        self._rng = rng
        self._watched: dict[TradeId, _Watched] = {}
        self._owners: OrderedDict[TradeId, CustomerId] = OrderedDict()  # of finished trades too: repeats come late
        self._outgoing: deque[TradeId] = deque()
        self._has_outgoing = asyncio.Event()
        self._cancels: dict[TradeId, None] = {}  # in the order in which they came, each once
        self._has_cancels = asyncio.Event()
        self._down_since: float | None = None
        self._due: list[tuple[float, int, TradeId]] = []
        self._accepted: deque[tuple[float, TradeId]] = deque()  # no more than are watched
        self._again: deque[tuple[float, TradeId]] = deque(maxlen=config.recent_trades_max)
        self._ticket = 0

    # -------------------------------------------------------------- what the shards say

    def send(self, trade: Trade) -> None:
        """A trade has started, durably: take it to the exchange."""
        self._watched[trade.trade_id] = _Watched(trade)
        self._own(trade)
        self._queue(trade.trade_id)

    def cancel(self, trade: Trade) -> None:
        """What is left of the trade is to end: ask the exchange, until it has."""
        watched = self._watched.get(trade.trade_id)
        if watched is not None:
            watched.cancelling = True
        self._cancels[trade.trade_id] = None
        self._has_cancels.set()

    def watch(self, trade: Trade) -> None:
        """A trade was found at work in the database: whether it was ever sent is not known, so ask."""
        self._own(trade)
        watched = self._watched.get(trade.trade_id)
        if watched is None:
            watched = self._watched[trade.trade_id] = _Watched(trade, sends=1, sent_at=self._now())
            self._look_at(watched, self._now())
        watched.trade = trade
        if trade.cancel_requested:
            self.cancel(trade)

    def ask_again(self, report: Report) -> None:
        """The exchange took back what we have not seen yet: ask for all of it, also where the trade ends meanwhile."""
        self._again.append((self._now() + self._config.look_after_s, report.trade_id))

    def look_soon(self, trade_id: TradeId) -> None:
        """The exchange counts executions of this trade that we have not seen."""
        watched = self._watched.get(trade_id)
        if watched is not None and watched.looks == 0:
            self._look_at(watched, self._now())
        elif watched is not None:  # it has just been asked, and has not said: not at once again
            self._look_later(watched)

    def done(self, trade_id: TradeId) -> None:
        """The trade has ended."""
        self._watched.pop(trade_id, None)

    def owner(self, trade_id: TradeId) -> CustomerId | None:
        """Whose trade it is, where it is or lately was at work here."""
        return self._owners.get(trade_id)

    @property
    def down_for_s(self) -> float:
        """For how long the exchange has not answered; 0 while it does."""
        return 0.0 if self._down_since is None else self._now() - self._down_since

    def _own(self, trade: Trade) -> None:
        self._owners[trade.trade_id] = trade.customer_id
        if len(self._owners) > self._config.open_trades_max + self._config.recent_trades_max:
            self._owners.popitem(last=False)

    # -------------------------------------------------------------- sending

    def _queue(self, trade_id: TradeId) -> None:
        self._outgoing.append(trade_id)
        self._has_outgoing.set()

    async def run_sending(self) -> None:
        """Send what waits, in arrays, for ever; a few requests at once, so that one slow answer delays few."""
        slots = asyncio.Semaphore(self._config.send_in_flight_max)
        async with asyncio.TaskGroup() as tasks:
            while True:
                await self._has_outgoing.wait()
                await slots.acquire()
                size = min(len(self._outgoing), self._config.send_batch_max)
                batch = [self._outgoing.popleft() for _ in range(size)]
                if not self._outgoing:
                    self._has_outgoing.clear()
                task = tasks.create_task(self._send(batch))
                task.add_done_callback(lambda _: slots.release())

    async def _send(self, trade_ids: Sequence[TradeId]) -> None:
        found = [watched for trade_id in trade_ids if (watched := self._watched.get(trade_id)) is not None]
        batch = [watched for watched in found if self._unwanted(watched.trade) is None]
        if len(batch) < len(found):
            await self._do_not_send([watched for watched in found if watched not in batch])
        if not batch:
            return
        self._metrics.sent.inc(len(batch))
        try:
            answers = await self._exchange.execute([watched.trade for watched in batch])
        except ExchangeUnavailable as error:
            self._failed("execute", error, batch)
            return
        finally:
            for watched in batch:
                watched.sends, watched.sent_at = watched.sends + 1, self._now()
        self._down_since = None
        refused = {w.trade.trade_id: a for w, a in zip(batch, answers, strict=True) if isinstance(a, Refused)}
        sent_before = [w.trade.trade_id for w in batch if w.trade.trade_id in refused and w.sends > 1]
        try:  # an earlier copy of the order may have been taken: ask before believing
            known = await self._exchange.lookup(sent_before) if sent_before else {}
        except ExchangeUnavailable as error:
            self._failed("lookup", error, batch)
            return
        for watched in batch:
            trade_id = watched.trade.trade_id
            watched.taken = trade_id not in refused or trade_id in known
            self._look_later(watched)
            if watched.cancelling:
                self.cancel(watched.trade)
            if watched.taken and may_rest(watched.trade):
                self._accepted.append((self._now() + _ACCEPT_AFTER_S, trade_id))
        reports = [self._refusal(trade_id, answer) for trade_id, answer in refused.items() if trade_id not in known]
        if reports:
            await self._report(reports)

    async def _accept(self) -> None:
        """That an order was taken lets the customer's next one start, also where the exchange's own word was lost."""
        now = self._now()
        reports = []
        while self._accepted and self._accepted[0][0] <= now:
            watched = self._watched.get(self._accepted.popleft()[1])
            if watched is not None and not watched.trade.acknowledged:
                reports.append(Report(watched.trade.trade_id, ReportType.ACCEPTED, self._venue))
        if reports:
            await self._report(reports)

    def _unwanted(self, trade: Trade) -> str | None:
        """Why this order is not to go out any more: its cancel was asked for, or an operator has stopped it."""
        watched = self._watched.get(trade.trade_id)
        return ASKED if watched and watched.cancelling else self._stopped(trade)

    async def _do_not_send(self, unwanted: Sequence[_Watched]) -> None:
        """What never went out ends here; of what did go out once, the exchange is asked first."""
        for watched in unwanted:
            if watched.sends:
                self._look_later(watched)
        reports = [self._withdrawn(watched.trade) for watched in unwanted if not watched.sends]
        if reports:
            for watched in unwanted:  # where the reports cannot be taken now, the next look tries again
                self._look_later(watched)
            await self._report(reports)

    def _withdrawn(self, trade: Trade) -> Report:
        reason = self._unwanted(trade)
        return Report(
            trade.trade_id,
            ReportType.CANCELLED,
            self._venue,
            filled_quantity=trade.filled_quantity,
            reason=reason,
        )

    def _refusal(self, trade_id: TradeId, answer: Refused) -> Report:
        return Report(trade_id, ReportType.REJECTED, self._venue, reason=answer.reason)

    def _failed(self, call: str, error: ExchangeUnavailable, batch: Sequence[_Watched]) -> None:
        """Unknown, not refused: every one of them will be asked about."""
        self._metrics.exchange_failures.labels(call).inc()
        self._down_since = self._down_since or self._now()
        log.warning("exchange.unavailable", call=call, orders=len(batch), error=str(error))
        for watched in batch:
            watched.denied_since = None  # only what it says counts as a denial
            self._look_later(watched)

    # -------------------------------------------------------------- cancelling

    async def run_cancelling(self) -> None:
        """Send cancels, in arrays, for ever; one that is not answered is sent again when its trade is asked about."""
        while True:
            await self._has_cancels.wait()
            trade_ids = list(self._cancels)[: self._config.send_batch_max]
            for trade_id in trade_ids:
                del self._cancels[trade_id]
            if not self._cancels:
                self._has_cancels.clear()
            found = [self._watched.get(trade_id) for trade_id in trade_ids]
            batch = [watched for watched in found if watched is not None and watched.sends]
            if batch:  # what is not sent yet is cancelled when it is
                await self._send_cancels(batch)

    async def _send_cancels(self, batch: Sequence[_Watched]) -> None:
        try:
            unsettled = await self._exchange.cancel([watched.trade.trade_id for watched in batch])
        except ExchangeUnavailable as error:
            self._failed("cancel", error, batch)
            return
        self._down_since = None
        for watched in batch:
            watched.looks = 0
            if watched.trade.trade_id in unsettled:  # it had ended, or is not there: what is true it says when asked
                self._look_at(watched, self._now())
            else:
                self._look_later(watched)

    # -------------------------------------------------------------- asking

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _look_later(self, watched: _Watched) -> None:
        """Twice as long after each look, to a bound, with jitter so that many do not come back at once."""
        if rests(watched.trade) and not watched.cancelling:
            delay = self._config.rest_look_s
        else:
            doubled = self._config.look_after_s * 2 ** min(watched.looks, _DOUBLINGS_MAX)
            delay = min(doubled, self._config.look_max_s)
        self._look_at(watched, self._now() + delay * self._rng.uniform(0.75, 1.0))

    def _look_at(self, watched: _Watched, due: float) -> None:
        watched.due = due
        self._ticket += 1
        heapq.heappush(self._due, (due, self._ticket, watched.trade.trade_id))

    def _overdue(self) -> list[_Watched]:
        found: list[_Watched] = []
        now = self._now()
        while self._due and self._due[0][0] <= now and len(found) < self._config.look_batch_max:
            due, _, trade_id = heapq.heappop(self._due)
            watched = self._watched.get(trade_id)
            if watched is not None and watched.due == due:  # else it has ended, or is due at another time
                found.append(watched)
        return found

    async def run_sweep(self) -> None:
        """Ask about overdue trades, for ever."""
        while True:
            overdue = self._overdue()
            if overdue:
                await self._look(overdue)
            elif self._accepted and self._accepted[0][0] <= self._now():
                await self._accept()
            elif self._again and self._again[0][0] <= self._now():
                await self._ask_again()
            else:
                await asyncio.sleep(0.02)

    async def _ask_again(self) -> None:
        _, trade_id = self._again.popleft()
        try:
            await self.ask([trade_id])
        except (ExchangeUnavailable, *_NOT_TAKEN) as error:
            log.warning("reports.not_taken", error=str(error), trade_id=str(trade_id))
            self._again.append((self._now() + self._config.look_max_s, trade_id))

    async def ask(self, trade_ids: Sequence[TradeId]) -> None:
        """Ask about these trades now and take in what the exchange says of them.

        Raises ExchangeUnavailable, and what taking in raises.
        """
        size = self._config.look_batch_max
        for start in range(0, len(trade_ids), size):
            found = await self._exchange.lookup(trade_ids[start : start + size])
            await self._take([report for reports in found.values() for report in reports])

    async def _look(self, overdue: Sequence[_Watched]) -> None:
        try:
            found = await self._exchange.lookup([watched.trade.trade_id for watched in overdue])
        except ExchangeUnavailable as error:
            self._failed("lookup", error, overdue)
            return
        self._down_since = None
        reports: list[Report] = []
        for watched in overdue:
            watched.looks += 1
            known = found.get(watched.trade.trade_id)
            if known is None:
                reports.extend(self._denied(watched))
            else:
                watched.taken, watched.denied_since = True, None
                reports.extend(known)
                self._look_later(watched)
                if watched.cancelling:
                    self.cancel(watched.trade)
        if reports:
            self._metrics.sweep_findings.labels("known").inc(len(reports))
            await self._report(reports)

    def _denied(self, watched: _Watched) -> list[Report]:
        """The exchange does not know the order: send it, unless it had it before; then only when it insists."""
        now, trade = self._now(), watched.trade
        if (
            trade.venue != self._venue
        ):  # it is at an exchange that is not configured any more: never to be sent here too
            log.error("exchange.not_configured", venue=trade.venue, trade_id=str(trade.trade_id))
            self._look_later(watched)
            return []
        watched.denied_since = watched.denied_since or now
        had_it = watched.taken or trade.acknowledged or trade.filled_quantity > 0
        if had_it and now - watched.denied_since < self._config.forgotten_after_s:
            self._metrics.sweep_findings.labels("denied").inc()
            self._look_at(watched, now + self._config.forgotten_after_s / 4)
        elif trade.filled_quantity:
            # It filled a part and lost the rest. Sending the order again could fill that part twice: it ends here.
            self._metrics.sweep_findings.labels("lost_after_partial").inc()
            log.error("exchange.lost_order_after_partial_fill", trade_id=str(trade.trade_id))
            self._look_later(watched)
            return [self._lost(trade)]
        elif self._unwanted(trade) is not None:
            return self._withdraw(watched)
        else:
            self._metrics.sweep_findings.labels("resent").inc()
            watched.taken, watched.denied_since = False, None
            self._queue(trade.trade_id)
        return []

    def _withdraw(self, watched: _Watched) -> list[Report]:
        """End an order that the exchange does not have and nobody wants, once no copy can be on its way any more."""
        arrived = watched.sent_at + self._config.exchange_timeout_s
        if self._now() < arrived:
            self._look_at(watched, arrived)
            return []
        self._metrics.sweep_findings.labels("withdrawn").inc()
        self._look_later(watched)
        return [self._withdrawn(watched.trade)]

    def _lost(self, trade: Trade) -> Report:
        filled = trade.filled_quantity
        reason = f"the exchange lost the order after it had filled {filled} of {trade.quantity} {trade.symbol}"
        return Report(trade.trade_id, ReportType.CANCELLED, self._venue, filled_quantity=filled, reason=reason)

    async def _report(self, reports: Sequence[Report]) -> None:
        """Take reports in; where that is not possible now, the sweep will ask again."""
        try:
            await self._take(reports)
        except _NOT_TAKEN as error:
            log.warning("reports.not_taken", error=str(error), reports=len(reports))
