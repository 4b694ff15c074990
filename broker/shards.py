"""The shards: every customer belongs to one, and a shard does one batch after another.

drain -> load -> decide -> commit -> act. While one commit is under way the next batch gathers, so the busier the
system, the larger the batches. The rule that this module keeps: nobody hears of anything, client or exchange, before
its commit; and whatever goes wrong, the accounts of the batch are forgotten and read again, so that every decision is
made on what the database has.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import Any

import structlog

from broker.batch import Batch, Command, Decided, Item, Overloaded, customer_of
from broker.config import Config
from broker.core import groups
from broker.core.conditions import Conditions
from broker.core.corporate import AnyEvent
from broker.core.messages import (
    Advance,
    Anomaly,
    CancelAll,
    CancelTrade,
    EstimateTrade,
    PlaceTrade,
    Refusal,
    ReplaceTrade,
    Report,
    Restricted,
    Step,
    TakeUp,
    TradeEvent,
    Wake,
)
from broker.core.states import TERMINAL
from broker.core.types import CustomerId, Status, TradeId
from broker.db import DatabaseUnavailable, RefusedByDatabase, StaleAccounts
from broker.memory import Memory
from broker.metrics import Metrics
from broker.ports import Desk, Directory, Publisher, Store

log = structlog.get_logger()

_RECOVERED_AT_ONCE = 256
"""Customers whose open trades are being taken up: two batches, of which one gathers."""
_CHANGES = {Step.PLACED, Step.HELD, Step.EXECUTED, Step.ENDED}
"""Steps that change a trade's status, beside its start."""


class Unanswered(Exception):
    """The commit did not come in time; whether it will is not known."""


class BrokenRule(Exception):
    """The database refused what we decided: a bug of ours. Nothing was done."""


class Shard:
    """One worker: a bounded queue, a memory of accounts, one commit at a time."""

    def __init__(
        self,
        number: int,
        store: Store,
        desk: Desk,
        publisher: Publisher,
        conditions: Callable[[], Conditions],
        restrict: Callable[[CustomerId, str], None],
        config: Config,
        metrics: Metrics,
    ) -> None:
        self._store = store
        self._desk = desk
        self._publisher = publisher
        self._conditions = conditions
        self._restrict = restrict
        self._config = config
        self._metrics = metrics
        self._verbose = config.log_level == "debug"  # asked once: on the hot path even a line not written costs
        self._queue: deque[Item] = deque()
        self._filled = asyncio.Event()
        self._waiting: deque[Item] = deque()  # by deadline: every item waits equally long
        self._memory = Memory(store, desk, config)
        self._busy = False
        self._since: float | None = None  # when the batch under way was first tried
        self._full_batch_s = 0.0  # what a full one took of late
        self._room = config.shard_queue_max  # so many may wait
        # Asked for once: looking a counter up by its label costs more than counting.
        self._trades_in = {status: metrics.trades.labels(status.value) for status in Status}
        self._refusals = {refusal: metrics.refusals.labels(refusal.name.lower()) for refusal in Refusal}
        self._queue_depth = metrics.queue_depth.labels(str(number))
        self._open_trades = metrics.open_trades.labels(str(number))

    # -------------------------------------------------------------- in

    def submit(self, customer_id: CustomerId, command: Command) -> asyncio.Future[Any]:
        """Queue a command; its future ends when it is durable. Raises Overloaded where there is no room.

        New orders are let in while they would not wait for long, what operators do while there is any room. What the
        exchange says, and what ends orders, has the same room again: it frees memory.
        """
        if isinstance(command, PlaceTrade | ReplaceTrade | EstimateTrade):
            room = self._room
        else:
            frees = isinstance(command, Report | Advance | TakeUp | Wake | CancelTrade | CancelAll)
            room = self._config.shard_queue_max * (2 if frees else 1)
        if len(self._queue) >= room:
            raise self._overloaded("shard")
        open_max = self._config.open_trades_max // self._config.shards
        if isinstance(command, PlaceTrade) and self._memory.open_trades >= open_max:
            raise self._overloaded("open_trades")
        loop = self._loop
        item = Item(customer_id, command, loop.create_future(), loop.time() + self._config.place_wait_s)
        self._queue.append(item)
        self._waiting.append(item)
        self._filled.set()
        return item.reply

    @cached_property
    def _loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()  # which asks the system for the id of the process, each time

    def _overloaded(self, queue: str) -> Overloaded:
        self._metrics.overloaded.labels(queue).inc()
        return Overloaded(queue)

    @property
    def room(self) -> int:
        """So many new orders are taken now: more would wait too long."""
        return max(0, self._room - len(self._queue))

    def _fit(self, batch: int, seconds: float) -> None:
        """Let so many wait as are done within queue_wait_s; the next batch's always, since waiting costs them nothing.

        Only a full batch tells how fast this goes: what another one took, it would take with more in it as well.
        """
        most = self._config.batch_max
        if batch == most:
            self._full_batch_s = (self._full_batch_s + seconds) / 2 if self._full_batch_s else seconds
        room = self._config.shard_queue_max
        if self._full_batch_s:
            room = min(room, max(most, int(most * self._config.queue_wait_s / self._full_batch_s)))
        self._room = room

    def expire(self, now: float) -> None:
        """Tell those who waited too long that there is no answer. What is still queued of theirs is not done."""
        if self._since is not None and now - self._since > self._config.queue_wait_s:
            self._room = min(self._room, self._config.batch_max)  # it does not get on: one batch more, until it does
        while self._waiting and (self._waiting[0].reply.done() or self._waiting[0].deadline <= now):
            item = self._waiting.popleft()
            if not item.reply.done():
                item.reply.set_exception(Unanswered("the database did not answer in time"))
                item.reply.exception()  # whoever waited may be gone: that is not an error of ours

    @property
    def at_rest(self) -> bool:
        """Nothing is queued and nothing is being committed."""
        return not self._queue and not self._busy

    # -------------------------------------------------------------- the loop

    async def run(self) -> None:
        """Do one batch after another, for ever."""
        loop = self._loop
        while True:
            await self._filled.wait()
            self._busy = True
            since = self._since = self._since or loop.time()
            items = self._drain()
            if await self._process(items):
                self._fit(len(items), loop.time() - since)
                self._since = None
            self._busy = False

    def _drain(self) -> list[Item]:
        size = min(len(self._queue), self._config.batch_max)
        items = [self._queue.popleft() for _ in range(size)]
        if not self._queue:
            self._filled.clear()
        self._queue_depth.set(len(self._queue))
        return items

    async def _process(self, items: list[Item], *, advance: bool = True) -> bool:
        """One batch, from load to act; what cannot be committed now is forgotten and queued again."""
        try:
            known = await self._memory.load(items)
            conditions = self._conditions()
            since = self._loop.time()
            batch = Batch(self._memory.accounts, known, conditions, self._config)
            decided = batch.decide(items, advance=advance)
            await self._commit(decided, conditions.now)
        except StaleAccounts:
            self._again(items, "stale")
            return False
        except DatabaseUnavailable as error:
            log.warning("database.unavailable", error=str(error))
            self._again(items, "unavailable")
            await asyncio.sleep(0.05)  # one shard's pause; a restarted PostgreSQL is back within a second
            return False
        except Exception as error:  # noqa: BLE001 - this task's guard: one batch's bug must not end the shard
            self._memory.forget(items)
            return await self._isolate(items, error, advance=advance)
        self._act(decided, conditions.now, since)
        return True

    def _again(self, items: list[Item], why: str) -> None:
        self._metrics.commit_retries.labels(why).inc()
        self._memory.forget(items)
        for item in reversed(items):
            item.retried = item.retried or why == "unavailable"
            self._queue.appendleft(item)
        self._filled.set()

    async def _isolate(self, items: list[Item], error: Exception, *, advance: bool) -> bool:
        """A rule is broken: find by whom, so that one poisoned command stops nobody else. False: to be gone on with."""
        self._metrics.commit_retries.labels("refused").inc()
        if len(items) > 1 or (advance and not isinstance(items[0].command, Advance)):
            alone = [(item, False) for item in items]
            # What follows from the commands may be what is wrong: that, too, is tried by each customer alone.
            alone += [(self._advance(each), True) for each in dict.fromkeys(item.customer_id for item in items)]
            for number, (item, goes_on) in enumerate(alone):
                if not await self._process([item], advance=goes_on):
                    first = self._queue.popleft()
                    self._queue.extendleft(reversed([item for item, _ in alone[number + 1 :]]))
                    self._queue.appendleft(first)  # nobody overtakes
                    self._filled.set()
                    return False
            return True
        item = items[0]
        if isinstance(item.command, Advance):  # nobody else would come back to what waits there
            self._loop.call_later(self._config.poison_pause_s, self._later, item.customer_id)
        log.error("command.breaks_a_rule", command=repr(item.command), error=repr(error), exc_info=error)
        self._metrics.anomalies.labels(Anomaly.REFUSED_BY_DATABASE.value).inc()
        if not isinstance(item.command, Report):
            _answer(item, BrokenRule(str(error)))
            return True
        try:
            await self._store.record_anomalies([(Anomaly.REFUSED_BY_DATABASE, item.command)])
        except DatabaseUnavailable:
            self._again(items, "unavailable")
            return False
        except RefusedByDatabase as refused:  # not even kept: the exchange must say it again
            _answer(item, BrokenRule(str(refused)))
        else:
            _answer(item, None)
        return True

    def _later(self, customer_id: CustomerId) -> None:
        """Come back to a customer in another batch. Past the bound on purpose: it is about work already accepted."""
        self._queue.append(self._advance(customer_id))
        self._filled.set()

    def _advance(self, customer_id: CustomerId) -> Item:
        return Item(customer_id, Advance(customer_id), self._loop.create_future(), self._loop.time())

    # -------------------------------------------------------------- commit and act

    async def _commit(self, decided: Decided, now: datetime) -> None:
        if decided.anomalies:
            # It may contradict only what we remember, where another process has been at work on these customers.
            await self._claim(decided, decided.doubted, now, [])
            await self._store.record_anomalies(decided.anomalies)
        began = self._loop.time()
        changed = {customer_of(event) for event in decided.events} | decided.fenced
        if not changed:
            return
        await self._claim(decided, changed, now, decided.events)
        self._metrics.commit_seconds.observe(self._loop.time() - began)
        self._metrics.batch_size.observe(len(decided.answers))

    async def _claim(
        self, decided: Decided, customers: set[CustomerId], now: datetime, events: Sequence[AnyEvent]
    ) -> None:
        """Commit these events; each of these customers is as it was decided on, or nothing is done."""
        claims = {customer_id: decided.touched[customer_id].version for customer_id in customers}
        await self._store.commit(now, claims, events)
        for customer_id in customers:
            decided.touched[customer_id].version += 1

    def _act(self, decided: Decided, now: datetime, since: float) -> None:
        """Now it is durable: tell the exchange, then the clients."""
        for event in decided.events:
            if isinstance(event, TradeEvent):
                self._act_on(event, now, since)
            elif isinstance(event, Restricted):
                log.error("customer.restricted", customer_id=event.customer_id, reason=event.reason)
                self._restrict(event.customer_id, event.reason)
        for anomaly, report in decided.anomalies:
            self._metrics.anomalies.labels(anomaly.value).inc()
            log.error("exchange.anomaly", cause=anomaly.value, report=repr(report))
        for trade_id in decided.look_soon:
            self._desk.look_soon(trade_id)
        for trade in decided.strays:
            self._desk.look_for_stray(trade)
        for customer_id in decided.unfinished:
            self._later(customer_id)
        self._metrics.duplicates.inc(decided.repeats)
        latest = self._loop.time() + self._config.place_wait_s  # the deadline of what came this moment
        for item, answer in decided.answers:
            if isinstance(answer, Overloaded):
                self._overloaded(str(answer))
            elif isinstance(item.command, PlaceTrade):
                self._metrics.place_seconds.observe(latest - item.deadline)
            _answer(item, answer)
        self._memory.keep(decided.touched)
        self._open_trades.set(self._memory.open_trades)

    def _act_on(self, event: TradeEvent, now: datetime, since: float) -> None:
        trade = event.trade
        if self._verbose:
            log.debug("trade.changed", trade_id=str(trade.trade_id), status=event.status.value, reason=event.reason)
        self._publisher.publish(event)
        if event.step is Step.STARTED:
            self._trades_in[event.status].inc()
            if trade.status not in TERMINAL:
                self._desk.send(trade, since)
        elif event.step is Step.CANCEL_REQUESTED:
            self._desk.cancel(trade)
        elif event.step in _CHANGES:
            self._trades_in[event.status].inc()
            if event.status in TERMINAL:
                self._desk.done(trade.trade_id)
                self._memory.remember_end(trade)
                if event.refused is not None:
                    self._refusals[event.refused.refusal].inc()
                self._metrics.settle_seconds.observe((now - trade.created_at).total_seconds())
        if event.step is Step.HELD or (trade.group is not None and event.status in TERMINAL):
            for each in groups.held_with(self._memory.accounts[trade.customer_id], trade):
                self._desk.hold(each)


def _answer(item: Item, answer: object) -> None:
    if item.reply.done():
        return
    if isinstance(answer, Exception):
        item.reply.set_exception(answer)
        item.reply.exception()
    else:
        item.reply.set_result(answer)


class Shards:
    """All the shards: who asks for a customer gets its shard."""

    def __init__(
        self,
        shards: Sequence[Shard],
        desk_owner: Callable[[TradeId], CustomerId | None],
        directory: Directory,
        metrics: Metrics,
    ) -> None:
        self._shards = shards
        self._desk_owner = desk_owner
        self._directory = directory
        self._metrics = metrics

    def submit(self, customer_id: CustomerId, command: Command) -> asyncio.Future[Any]:
        """Queue a command at the customer's shard. Raises Overloaded; awaiting may raise Unanswered or BrokenRule."""
        return self._shards[customer_id % len(self._shards)].submit(customer_id, command)

    def room(self) -> int:
        """So many new orders are taken now, whosever they are."""
        return sum(shard.room for shard in self._shards)

    async def report(self, reports: Sequence[Report]) -> set[TradeId]:
        """Take in what the exchange says, from a callback or from asking it; ends when it is durable.

        Raises Overloaded, Unanswered or DatabaseUnavailable: then say it again. A trade that nobody knows goes to the
        inbox. Of the trades in the answer it has executed what we have not seen, and nobody will ask about them of
        himself: the exchange is to be asked before it hears that its word was taken.
        """
        owners = {report.trade_id: self._desk_owner(report.trade_id) for report in reports}
        strangers = [trade_id for trade_id, owner in owners.items() if owner is None]
        if strangers:
            owners.update(await self._directory.owners(strangers))
            unknown = [(Anomaly.UNKNOWN_TRADE, report) for report in reports if owners[report.trade_id] is None]
            if unknown:
                log.error("exchange.unknown_trade", reports=[repr(report) for _, report in unknown])
                await self._directory.record_anomalies(unknown)
                self._metrics.anomalies.labels(Anomaly.UNKNOWN_TRADE.value).inc(len(unknown))
        unseen: set[TradeId] = set()
        replies: list[tuple[TradeId, asyncio.Future[Any]]] = []
        for report in reports:
            owner = owners[report.trade_id]
            if owner is None:
                continue
            try:
                reply = self.submit(owner, report)
            except Overloaded:  # more at once than a queue takes? then the rest follows: else it would never be heard
                if not replies:
                    raise
                unseen.update([trade_id for trade_id, earlier in replies if await earlier])
                replies.clear()
                reply = self.submit(owner, report)
            replies.append((report.trade_id, reply))
        unseen.update([trade_id for trade_id, reply in replies if await reply])
        return unseen

    async def take_up(self, trade_ids: Sequence[TradeId]) -> dict[TradeId, bool]:
        """Claim orders at work before a copy of them goes out; those that are, and whether their cancel was asked for.

        Raises Overloaded, Unanswered, BrokenRule or DatabaseUnavailable: then nothing may go out.
        """
        owners = {trade_id: self._desk_owner(trade_id) for trade_id in trade_ids}
        strangers = [trade_id for trade_id, owner in owners.items() if owner is None]
        if strangers:
            owners.update(await self._directory.owners(strangers))
        replies = {
            trade_id: self.submit(owner, TakeUp(owner, trade_id))
            for trade_id, owner in owners.items()
            if owner is not None
        }
        answers = {trade_id: await reply for trade_id, reply in replies.items()}
        return {trade_id: answer for trade_id, answer in answers.items() if answer is not None}

    async def expire(self) -> None:
        """Tell those who waited too long, for ever: one look for all instead of a timer for each."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(0.05)
            for shard in self._shards:
                shard.expire(loop.time())

    async def recover(self, versions: Mapping[CustomerId, int]) -> None:
        """Take up the open trades of these customers again: after a start, or where another process was at work.

        A few at a time, so that whoever trades meanwhile finds room and stands behind no more than those.
        """
        under_way: set[asyncio.Future[Any]] = set()
        for customer_id, version in versions.items():
            if len(under_way) >= _RECOVERED_AT_ONCE:
                _, under_way = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
            while True:
                try:
                    under_way.add(self.submit(customer_id, Advance(customer_id, version)))
                    break
                except Overloaded:
                    await asyncio.sleep(0.01)

    async def drain(self, seconds: float) -> bool:
        """Wait until all that was queued is committed; False if that took longer."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while not all(shard.at_rest for shard in self._shards):
            if loop.time() >= until:
                return False
            await asyncio.sleep(0.005)
        return True
