"""The desk that works with the exchange: every trade at work is here from its first send to its end.

Three loops: one sends what was started, in arrays; one sends cancels; one asks the exchange about every trade that has
been silent for too long (TradeExists), so that none is ever stuck. The rule: nothing is sent a second time before the
exchange was asked and said that it does not know the order; and what goes out again, waited for long, or was read again
is taken up first: another broker may have ended it, and none may end it any more as an order that was never sent. A
cancel is asked for until the trade has ended.
"""

import asyncio
import heapq
import random
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import structlog

from broker.config import Config
from broker.core.account import may_rest, rests
from broker.core.messages import Report, ReportType
from broker.core.trading import ASKED
from broker.core.types import CustomerId, Trade, TradeId
from broker.exchange import Exchange, ExchangeUnavailable, Refused
from broker.metrics import Metrics
from broker.reports import NOT_TAKEN, Reports
from broker.strays import Strays

log = structlog.get_logger()

_DOUBLINGS_MAX = 16
"""Past any sensible look_max_s; without a bound the power overflows after a day of asking."""


_ACCEPT_AFTER_S = 0.05
"""By then the exchange's own word on an order that it took has usually come: that it rests, or that it has traded."""

_LOOKS_LEFT_MAX = 10_000
"""So many looks that nobody waits for any more may lie about."""
_AWAY_LOOKS = 3
"""Who has answered nothing for so many first pauses was away; who does not answer some of the calls is only busy."""


@dataclass(slots=True, eq=False)
class _Watched:
    """A trade at work, and what we know of the exchange's knowing it."""

    trade: Trade
    queued_at: float  # when it was to go out: decided, and not committed yet
    due: float = 0.0
    looks: int = 0
    failures: int = 0  # so many calls about it were not answered since the last one that was
    sends: int = 0
    sent_at: float = 0.0  # when the last copy was on its way
    read_again: bool = False  # from the database: another broker may have sent it meanwhile
    cancelling: bool = False  # its cancel is durable: the trade itself may be ahead of its commit
    taken: bool = False  # the exchange has said that it has this order
    denied_since: float | None = None
    is_another: bool = False  # what the exchange has under its id is another order
    in_vain: bool = False  # its cancel came too late, and the exchange was asked since


class Dispatcher:
    """Sends trades, and asks about those that are overdue."""

    def __init__(
        self,
        exchange: Exchange,
        venue: str,
        take: Callable[[Sequence[Report]], Awaitable[object]],
        take_up: Callable[[Sequence[TradeId]], Awaitable[dict[TradeId, bool]]],
        config: Config,
        metrics: Metrics,
        rng: random.Random,
        stopped: Callable[[Trade], str | None] = lambda _: None,
    ) -> None:
        self._exchange = exchange
        self._stopped = stopped
        self._venue = venue
        self._take_up = take_up
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
        self._accepted: deque[tuple[float, TradeId]] = deque()  # of the last moment
        self._reports = Reports(exchange, take, config, self._now)
        self._report = self._reports.take
        self._strays = Strays(exchange, self._report, config, metrics, self._now)
        self._ticket = 0

    # -------------------------------------------------------------- what the shards say

    def send(self, trade: Trade, since: float) -> None:
        """A trade has started, durably: take it to the exchange. `since` is the loop's time before its commit."""
        if not self._watched:  # nobody has asked since: whether it is still away this one finds out
            self._down_since = None
        self._watched[trade.trade_id] = _Watched(trade, since)
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
            watched = self._watched[trade.trade_id] = _Watched(trade, self._now(), sends=1, sent_at=self._now())
            self._look_at(watched, self._now())
        watched.trade, watched.read_again = trade, True
        if trade.cancel_requested:
            self.cancel(trade)

    def look_soon(self, trade_id: TradeId) -> None:
        """The exchange counts executions of this trade that we have not seen."""
        watched = self._watched.get(trade_id)
        if watched is not None and watched.looks == 0:
            self._look_at(watched, self._now())
        elif watched is not None:  # it has just been asked, and has not said: not at once again
            self._look_later(watched)

    def look_for_stray(self, trade: Trade) -> None:
        """The trade has ended here, and the exchange may have it open all the same."""
        self._strays.suspect(trade)

    def done(self, trade_id: TradeId) -> None:
        """The trade has ended."""
        watched = self._watched.pop(trade_id, None)
        if watched is not None and watched.sends > 1:  # it may have been the first copy that ended
            self._strays.suspect(watched.trade)

    def owner(self, trade_id: TradeId) -> CustomerId | None:
        """Whose trade it is, where it is or lately was at work here."""
        return self._owners.get(trade_id)

    @property
    def down_for_s(self) -> float:
        """For how long the exchange has not answered; 0 while it does, and where there is nothing to ask it about."""
        return 0.0 if self._down_since is None or not self._watched else self._now() - self._down_since

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
        if any(watched.trade.venue != self._venue for watched in found):
            await self._refuse_others([watched for watched in found if watched.trade.venue != self._venue])
            found = [watched for watched in found if watched.trade.venue == self._venue]
        batch = [watched for watched in found if self._unwanted(watched.trade) is None]
        if len(batch) < len(found):
            await self._do_not_send([watched for watched in found if watched not in batch])
        batch = self._still_wanted(await self._still_at_work(batch))
        if not batch:
            return
        self._metrics.sent.inc(len(batch))
        try:
            with self._metrics.exchange_seconds.labels("execute").time():
                answers = await self._exchange.execute([watched.trade for watched in batch])
        except ExchangeUnavailable as error:
            self._failed("execute", error, batch)
            return
        finally:
            for watched in batch:
                watched.sends, watched.sent_at = watched.sends + 1, self._now()
                if watched.sends > 1 and watched.trade.trade_id not in self._watched:  # ended while this was on its way
                    self._strays.suspect(watched.trade)
        self._answered(batch)
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
            if trade_id not in refused and may_rest(watched.trade):
                self._accepted.append((self._now() + _ACCEPT_AFTER_S, trade_id))
        # What it has under the id may be another order: that it is ours the shard has to see.
        said = [known.get(trade_id, [self._refusal(trade_id, answer)]) for trade_id, answer in refused.items()]
        reports = [report for each in said for report in each]
        if reports:
            await self._report(reports)

    async def _still_at_work(self, batch: list[_Watched]) -> list[_Watched]:
        """Without those that another broker has ended, or is to cancel: a first copy that goes out at once is none."""
        long_ago = self._now() - self._config.exchange_timeout_s
        doubtful = [each for each in batch if each.sends or each.looks or each.read_again or each.queued_at < long_ago]
        if not doubtful:
            return batch
        try:
            at_work = await self._take_up([each.trade.trade_id for each in doubtful])
        except NOT_TAKEN as error:
            log.warning("orders.not_sent", error=str(error), orders=len(doubtful))
            for each in doubtful:
                self._look_later(each)
            return [each for each in batch if each not in doubtful]
        for each in doubtful:
            if each.trade.trade_id not in at_work:
                self.done(each.trade.trade_id)
            elif at_work[each.trade.trade_id]:
                each.cancelling = True
                self._look_later(each)
        return [each for each in batch if each not in doubtful or at_work.get(each.trade.trade_id) is False]

    def _still_wanted(self, batch: list[_Watched]) -> list[_Watched]:
        """Without those that were switched off or cancelled since we looked: the next turn withdraws them."""
        wanted = []
        for watched in batch:
            if self._unwanted(watched.trade) is None:
                wanted.append(watched)
            else:
                self._queue(watched.trade.trade_id)
        return wanted

    async def _refuse_others(self, found: Sequence[_Watched]) -> None:
        """An order of an exchange that is not configured any more is never sent here; what nobody has sent ends."""
        reports = []
        for watched in found:
            trade = watched.trade
            log.error("exchange.not_configured", venue=trade.venue, trade_id=str(trade.trade_id))
            self._look_later(watched)
            if self._was_never_sent(watched):
                reason = f"its exchange ({trade.venue}) is not configured here any more"
                refused = Report(trade.trade_id, ReportType.REJECTED, trade.venue, reason=reason)
                reports.append(replace(refused, never_taken=True, order=trade))
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
        """What never went out ends here; of what may have gone out, the exchange is asked first."""
        for watched in unwanted:  # also where the reports cannot be taken now: the next look tries again
            self._look_later(watched)
        reports = [self._withdrawn(watched.trade) for watched in unwanted if self._was_never_sent(watched)]
        if reports:
            await self._report(reports)

    def _was_never_sent(self, watched: _Watched) -> bool:
        """Not by us, nor by another broker: that would have taken it up after a while, and the exchange has it then."""
        trade, long_ago = watched.trade, self._now() - self._config.exchange_timeout_s
        is_heard_of = watched.sends or watched.looks or trade.acknowledged or trade.executions or trade.filled_quantity
        return not is_heard_of and not watched.read_again and watched.queued_at >= long_ago

    def _withdrawn(self, trade: Trade) -> Report:
        self._strays.suspect(trade)  # another broker may be sending it at this moment
        return self._not_there(trade, self._unwanted(trade))

    def _not_there(self, trade: Trade, reason: str | None) -> Report:
        return replace(self._over(trade, reason), never_taken=True, order=trade)

    def _over(self, trade: Trade, reason: str | None) -> Report:
        filled = trade.filled_quantity
        return Report(trade.trade_id, ReportType.CANCELLED, self._venue, filled_quantity=filled, reason=reason)

    def _refusal(self, trade_id: TradeId, answer: Refused) -> Report:
        return Report(trade_id, ReportType.REJECTED, self._venue, reason=answer.reason)

    def _failed(self, call: str, error: ExchangeUnavailable, batch: Sequence[_Watched]) -> None:
        """Unknown, not refused: every one of them will be asked about."""
        self._metrics.exchange_failures.labels(call).inc()
        self._down_since = self._down_since or self._now()
        log.warning("exchange.unavailable", call=call, orders=len(batch), error=str(error))
        for watched in batch:
            watched.denied_since = None  # only what it says counts as a denial
            watched.failures += 1
            self._look_later(watched)

    def _answered(self, batch: Sequence[_Watched]) -> None:
        """It is there. Where it was away, what waited for longer and longer meanwhile is looked at soon."""
        down_since, self._down_since = self._down_since, None
        for watched in batch:
            watched.failures = 0
        if down_since is None or self._now() - down_since < _AWAY_LOOKS * self._config.look_after_s:
            return
        for watched in [each for each in self._watched.values() if each.failures > 1]:
            watched.failures = 0
            self._look_at(watched, self._now() + self._rng.uniform(0, self._config.look_after_s))

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
            batch = [watched for watched in found if watched is not None and self._may_be_cancelled(watched)]
            if batch:
                await self._send_cancels(batch)

    def _may_be_cancelled(self, watched: _Watched) -> bool:
        """What is not sent yet is cancelled when it is; and somebody else's order, by our id, never."""
        return bool(watched.sends or watched.taken) and not watched.is_another

    async def _send_cancels(self, batch: Sequence[_Watched]) -> None:
        try:
            with self._metrics.exchange_seconds.labels("cancel").time():
                unsettled = await self._exchange.cancel([watched.trade.trade_id for watched in batch])
        except ExchangeUnavailable as error:
            self._failed("cancel", error, batch)
            return
        self._answered(batch)
        for watched in batch:
            if watched.trade.trade_id not in unsettled:
                watched.looks, watched.in_vain = 0, False
                self._look_later(watched)
            elif not watched.in_vain:  # it had ended, or is not there: what is true it says when asked, once at once
                watched.looks, watched.in_vain = 0, True
                self._look_at(watched, self._now())

    # -------------------------------------------------------------- asking

    def _now(self) -> float:
        return self._loop.time()

    @cached_property
    def _loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()  # which asks the system for the id of the process, each time

    def _look_later(self, watched: _Watched) -> None:
        """Twice as long after each look, and after each failure but the first, to a bound.

        With jitter, so that many do not come back at once.
        """
        if rests(watched.trade) and not watched.cancelling:
            delay = self._config.rest_look_s
        else:
            doublings = watched.looks + max(0, watched.failures - 1)
            doubled = self._config.look_after_s * 2 ** min(doublings, _DOUBLINGS_MAX)
            delay = min(doubled, self._config.look_max_s)
        self._look_at(watched, self._now() + delay * self._rng.uniform(0.75, 1.0))

    def _look_at(self, watched: _Watched, due: float) -> None:
        watched.due = due
        self._ticket += 1
        if len(self._due) > 2 * len(self._watched) + _LOOKS_LEFT_MAX:  # of trades that have ended, or are due later
            self._due = [(each.due, self._ticket, id_) for id_, each in self._watched.items() if each.due]
            heapq.heapify(self._due)
            return
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
            if self._accepted and self._accepted[0][0] <= self._now():
                await self._accept()  # first: an exchange that hangs when it is asked must not hold it up
            overdue = self._overdue()
            if overdue:
                await self._look(overdue)
            elif self._reports.are_due:
                await self._reports.ask_again(self._watched.__contains__)
            elif self._strays.are_due:
                await self._look_for_strays()
            else:
                await asyncio.sleep(0.02)

    async def ask(self, trade_ids: Sequence[TradeId]) -> None:
        """See Reports.ask."""
        await self._reports.ask(trade_ids)

    async def _look(self, overdue: Sequence[_Watched]) -> None:
        try:
            with self._metrics.exchange_seconds.labels("lookup").time():
                found = await self._exchange.lookup([watched.trade.trade_id for watched in overdue])
        except ExchangeUnavailable as error:
            self._failed("lookup", error, overdue)
            return
        self._answered(overdue)
        reports: list[Report] = []
        for watched in overdue:
            watched.looks += 1
            known = found.get(watched.trade.trade_id)
            watched.is_another = any(report.is_of_another(watched.trade) for report in known or ())
            if known is None:
                reports.extend(self._denied(watched))
            elif watched.is_another:
                reports.extend([*known, *self._displaced(watched)])
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
        if trade.venue != self._venue:  # one that is not configured any more: never to be sent here too
            log.error("exchange.not_configured", venue=trade.venue, trade_id=str(trade.trade_id))
            self._look_later(watched)
            return []
        watched.denied_since = watched.denied_since or now
        executed = bool(trade.filled_quantity or trade.executions)  # those in suspense, too
        had_it = watched.taken or trade.acknowledged or executed
        if had_it and now - watched.denied_since < self._config.forgotten_after_s:
            self._metrics.sweep_findings.labels("denied").inc()
            self._look_at(watched, now + self._config.forgotten_after_s / 4)
        elif executed:
            # It filled a part and lost the rest. Sending the order again could fill that part twice: it ends here.
            self._metrics.sweep_findings.labels("lost_after_partial").inc()
            log.error("exchange.lost_order_after_partial_fill", trade_id=str(trade.trade_id))
            self._look_later(watched)
            filled = f"{trade.filled_quantity} of {trade.quantity} {trade.symbol}"
            return [self._over(trade, f"the exchange lost the order after it had filled {filled}")]
        elif self._unwanted(trade) is not None:
            return self._withdraw(watched)
        else:
            self._metrics.sweep_findings.labels("resent").inc()
            watched.taken, watched.denied_since = False, None
            self._queue(trade.trade_id)
        return []

    def _displaced(self, watched: _Watched) -> list[Report]:
        """The exchange has another order under its id: so it has not this one, which ends when the exchange insists."""
        now, trade = self._now(), watched.trade
        watched.denied_since = watched.denied_since or now
        if now - watched.denied_since < self._config.forgotten_after_s:
            self._look_at(watched, now + self._config.forgotten_after_s / 4)
            return []
        log.error("exchange.another_order", trade_id=str(trade.trade_id))
        self._look_later(watched)
        return [self._not_there(trade, "the exchange has another order under its id")]

    def _withdraw(self, watched: _Watched) -> list[Report]:
        """End an order that the exchange does not have and nobody wants, once no copy can be on its way any more.

        Whether it once had it is not known after a restart, and another broker may be about to send it: as with an
        order that it had, one denial is not believed.
        """
        now, insists_s = self._now(), self._config.forgotten_after_s
        sure = max(watched.sent_at + self._config.exchange_timeout_s, (watched.denied_since or now) + insists_s)
        if now < sure:
            self._look_at(watched, min(sure, now + insists_s / 4))
            return []
        self._metrics.sweep_findings.labels("withdrawn").inc()
        self._look_later(watched)
        return [self._withdrawn(watched.trade)]

    async def _look_for_strays(self) -> None:
        try:
            await self._strays.look(self._watched.__contains__)
        except ExchangeUnavailable as error:
            log.warning("strays.not_looked_for", error=str(error))
