"""The shards: every customer belongs to one, and a shard does one batch after another.

drain -> load -> decide -> commit -> act. While one commit is under way the next batch gathers, so the busier the
system, the larger the batches. The rule that this module keeps: nobody hears of anything, client or exchange, before
its commit; and whatever goes wrong, the accounts of the batch are forgotten and read again, so that every decision is
made on what the database has.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import Any

import structlog

from broker.batch import Batch, Command, Decided, Item, Known, Overloaded
from broker.config import Config
from broker.core import groups
from broker.core.account import Account
from broker.core.conditions import Conditions
from broker.core.corporate import AdjustPosition, AnyEvent
from broker.core.messages import (
    Advance,
    Anomaly,
    CancelAll,
    CancelTrade,
    MoveCash,
    PlaceTrade,
    ReplaceTrade,
    Report,
    Restricted,
    Step,
    TradeEvent,
    Wake,
)
from broker.core.reset import ResetAccount
from broker.core.states import TERMINAL
from broker.core.types import CustomerId, Status, Trade, TradeId
from broker.db import DatabaseUnavailable, RefusedByDatabase, StaleAccounts
from broker.metrics import Metrics
from broker.ports import Desk, Directory, Publisher, Store

log = structlog.get_logger()

_RECOVERED_AT_ONCE = 256
"""Customers whose open trades are being taken up: a batch."""
_CHANGES = {Step.PLACED, Step.HELD, Step.EXECUTED, Step.ENDED}
"""Steps that change a trade's status, beside its start."""


class Unanswered(Exception):
    """The commit did not come in time; whether it will is not known."""


class BrokenRule(Exception):
    """The database refused what we decided: a bug of ours. Nothing was done."""


class Shard:
    """One worker: a bounded queue, a cache of accounts, one commit at a time."""

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
        self._accounts: dict[CustomerId, Account] = {}  # least recently used first
        # Ordered: of a dict, to find the oldest takes longer the more were taken out before.
        self._recent: OrderedDict[TradeId, Trade] = OrderedDict()
        self._counted: dict[CustomerId, int] = {}  # open trades of each account in the cache
        self._open = 0  # ... and of all of them
        self._busy = False
        # Asked for once: looking a counter up by its label costs more than counting.
        self._trades_in = {status: metrics.trades.labels(status.value) for status in Status}
        self._queue_depth = metrics.queue_depth.labels(str(number))
        self._open_trades = metrics.open_trades.labels(str(number))

    # -------------------------------------------------------------- in

    def submit(self, customer_id: CustomerId, command: Command) -> asyncio.Future[Any]:
        """Queue a command; its future ends when it is durable. Raises Overloaded where there is no room.

        Trades and cash share one bound. What the exchange says, and what ends orders, has the same room again: it
        frees memory.
        """
        frees = isinstance(command, Report | Advance | Wake | CancelTrade | CancelAll)
        room = self._config.shard_queue_max * (2 if frees else 1)
        if len(self._queue) >= room:
            raise self._overloaded("shard")
        if isinstance(command, PlaceTrade) and self._open >= self._config.open_trades_max // self._config.shards:
            raise self._overloaded("open_trades")
        loop = asyncio.get_running_loop()
        item = Item(customer_id, command, loop.create_future(), loop.time() + self._config.place_wait_s)
        self._queue.append(item)
        self._waiting.append(item)
        self._filled.set()
        return item.reply

    def _overloaded(self, queue: str) -> Overloaded:
        self._metrics.overloaded.labels(queue).inc()
        return Overloaded(queue)

    def expire(self, now: float) -> None:
        """Tell those who waited too long that there is no answer. What is still queued of theirs is not done."""
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
        while True:
            await self._filled.wait()
            self._busy = True
            await self._process(self._drain())
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
            known = await self._load(items)
            conditions = self._conditions()
            batch = Batch(self._accounts, self._recent, known, conditions, self._config)
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
            self._forget(items)
            await self._isolate(items, error, advance=advance)
        else:
            self._act(decided, conditions.now)
        return True

    def _again(self, items: list[Item], why: str) -> None:
        self._metrics.commit_retries.labels(why).inc()
        self._forget(items)
        for item in reversed(items):
            item.retried = item.retried or why == "unavailable"
            self._queue.appendleft(item)
        self._filled.set()

    def _forget(self, items: Iterable[Item]) -> None:
        """Nothing that was decided on may be decided on again: finished trades change too, by late words."""
        customers = {item.customer_id for item in items}
        for customer_id in customers:
            if self._accounts.pop(customer_id, None) is not None:
                self._open -= self._counted.pop(customer_id)
        for trade in [trade for trade in self._recent.values() if trade.customer_id in customers]:
            del self._recent[trade.trade_id]

    async def _isolate(self, items: list[Item], error: Exception, *, advance: bool) -> None:
        """A rule is broken: find by whom, so that one poisoned command stops nobody else."""
        self._metrics.commit_retries.labels("refused").inc()
        if len(items) > 1 or (advance and not isinstance(items[0].command, Advance)):
            for number, item in enumerate(items):
                if not await self._process([item], advance=False):
                    first = self._queue.popleft()
                    self._queue.extendleft(reversed(items[number + 1 :]))
                    self._queue.appendleft(first)  # nobody overtakes
                    break
            for customer_id in {item.customer_id: None for item in items}:
                self._later(customer_id)
            return
        item = items[0]
        if isinstance(item.command, Advance):  # nobody else would come back to what waits there
            asyncio.get_running_loop().call_later(self._config.poison_pause_s, self._later, item.customer_id)
        log.error("command.breaks_a_rule", command=repr(item.command), error=repr(error), exc_info=error)
        self._metrics.anomalies.labels(Anomaly.REFUSED_BY_DATABASE.value).inc()
        if not isinstance(item.command, Report):
            _answer(item, BrokenRule(str(error)))
            return
        try:
            await self._store.record_anomalies([(Anomaly.REFUSED_BY_DATABASE, item.command)])
        except DatabaseUnavailable:
            self._again(items, "unavailable")
        except RefusedByDatabase as refused:  # not even kept: the exchange must say it again
            _answer(item, BrokenRule(str(refused)))
        else:
            _answer(item, None)

    def _later(self, customer_id: CustomerId) -> None:
        """Come back to a customer in another batch. Past the bound on purpose: it is about work already accepted."""
        loop = asyncio.get_running_loop()
        self._queue.append(Item(customer_id, Advance(customer_id), loop.create_future(), loop.time()))
        self._filled.set()

    # -------------------------------------------------------------- load

    async def _load(self, items: Sequence[Item]) -> Known:
        """Read what the batch needs and the cache does not have."""
        outdated = [item for item in items if self._is_outdated(item)]
        if outdated:
            self._forget(outdated)
        missing = {item.customer_id for item in items} - self._accounts.keys()
        if missing:
            for account in (await self._store.load_accounts(sorted(missing))).values():
                self._remember(account)
        known = Known()
        wanted = {(item.customer_id, id_) for item in items for id_ in self._unknown_trades(item)}
        if wanted:
            found = await self._store.trades_by_id(sorted({id_ for _, id_ in wanted}))
            # Somebody else's trade, which a customer may name, is none of this batch's business.
            known.trades = {id_: trade for id_, trade in found.items() if (trade.customer_id, id_) in wanted}
            self._refuse_if_outdated(known.trades.values())
            for trade in known.trades.values():
                if trade.status in TERMINAL:  # by a commit of ours that was not answered, or by another process
                    self._desk.done(trade.trade_id)
        keys = [
            (item.customer_id, item.command.idempotency_key)
            for item in items
            if isinstance(item.command, PlaceTrade) and item.command.idempotency_key
        ]
        if keys:
            known.keys = await self._store.trades_by_key(keys)
        await self._load_what_is_rare(items, known)
        return known

    def _is_outdated(self, item: Item) -> bool:
        """Whether another process has changed a customer of ours: what it holds back, we have to watch for as well."""
        if not isinstance(item.command, Advance) or item.command.version is None:
            return False
        account = self._accounts.get(item.customer_id)
        return account is not None and account.version < item.command.version

    async def _load_what_is_rare(self, items: Sequence[Item], known: Known) -> None:
        commands = [item.command for item in items]
        client_ids = [
            (each.customer_id, each.client_order_id)
            for each in commands
            if isinstance(each, PlaceTrade | ReplaceTrade)
            and each.client_order_id
            and each.client_order_id != str(each.trade_id)  # which nobody has used before
        ]
        if client_ids:
            known.client_ids = await self._store.trades_by_client_id(client_ids)
        references = [each.reference for each in commands if isinstance(each, MoveCash)]
        if references:
            known.cash = await self._store.cash_by_reference(references)
        references = [each.reference for each in commands if isinstance(each, AdjustPosition)]
        if references:
            known.adjusted = await self._store.adjusted(references)
        references = [each.reference for each in commands if isinstance(each, ResetAccount)]
        if references:
            known.reset = await self._store.reset(references)

    def _remember(self, account: Account) -> None:
        self._accounts[account.customer_id] = account
        self._count(account)
        for trade in account.working.values():
            self._desk.watch(trade)
        for trade in account.held.values():
            if groups.is_armed(account, trade):
                self._desk.hold(trade)

    def _count(self, account: Account) -> None:
        self._open += account.open_trades - self._counted.get(account.customer_id, 0)
        self._counted[account.customer_id] = account.open_trades

    def _unknown_trades(self, item: Item) -> Iterable[TradeId]:
        """The trades of a command that the cache cannot tell us about."""
        match item.command:
            case PlaceTrade(trade_id=trade_id):
                return [trade_id] if item.retried else []
            case Report(trade_id=trade_id) | CancelTrade(trade_id=trade_id):
                return [] if self._is_known(item.customer_id, trade_id) else [trade_id]
            case ReplaceTrade(trade_id=trade_id, replaces=old):
                unknown = [] if self._is_known(item.customer_id, old) else [old]
                return [*unknown, trade_id] if item.retried else unknown
            case _:
                return []

    def _is_known(self, customer_id: CustomerId, trade_id: TradeId) -> bool:
        if trade_id in self._recent:
            return True
        account = self._accounts.get(customer_id)
        return account is not None and (trade_id in account.working or trade_id in account.held)

    def _refuse_if_outdated(self, trades: Iterable[Trade]) -> None:
        """A trade that is open in the database and not in the cache: another process was at work on its customer."""
        for trade in trades:
            account = self._accounts.get(trade.customer_id)
            if trade.status in TERMINAL or account is None:
                continue
            waits = trade.trade_id in account.held or any(t.trade_id == trade.trade_id for t in account.waiting)
            at_rest = trade.status in {Status.PLACED, Status.HELD}
            if not (waits if at_rest else trade.trade_id in account.working):
                raise StaleAccounts(f"customer {trade.customer_id} has open trades that were not known")

    # -------------------------------------------------------------- commit and act

    async def _commit(self, decided: Decided, now: datetime) -> None:
        if decided.anomalies:
            await self._store.record_anomalies(decided.anomalies)
        loop = asyncio.get_running_loop()
        began = loop.time()
        changed = {_customer(event) for event in decided.events} | decided.fenced
        if not changed:
            return
        claims = {customer_id: decided.touched[customer_id].version for customer_id in changed}
        await self._store.commit(now, claims, decided.events)
        for customer_id in changed:
            decided.touched[customer_id].version += 1
        self._metrics.commit_seconds.observe(loop.time() - began)
        self._metrics.batch_size.observe(len(decided.answers))

    def _act(self, decided: Decided, now: datetime) -> None:
        """Now it is durable: tell the exchange, then the clients."""
        for event in decided.events:
            if isinstance(event, TradeEvent):
                self._act_on(event, now)
            elif isinstance(event, Restricted):
                log.error("customer.restricted", customer_id=event.customer_id, reason=event.reason)
                self._restrict(event.customer_id, event.reason)
        for anomaly, report in decided.anomalies:
            if (
                anomaly is Anomaly.UNKNOWN_EXECUTION
            ):  # its execution may be on its way, and this word will not come again
                self._desk.ask_again(report)
            self._metrics.anomalies.labels(anomaly.value).inc()
            log.error("exchange.anomaly", cause=anomaly.value, report=repr(report))
        for trade_id in decided.look_soon:
            self._desk.look_soon(trade_id)
        for customer_id in decided.unfinished:
            self._later(customer_id)
        self._metrics.duplicates.inc(decided.repeats)
        for item, answer in decided.answers:
            if isinstance(answer, Overloaded):
                self._overloaded(str(answer))
            _answer(item, answer)
        for account in decided.touched.values():
            self._count(account)
        self._open_trades.set(self._open)
        self._keep_recent(decided.touched)

    def _act_on(self, event: TradeEvent, now: datetime) -> None:
        trade = event.trade
        if self._verbose:
            log.debug("trade.changed", trade_id=str(trade.trade_id), status=event.status.value, reason=event.reason)
        self._publisher.publish(event)
        if event.step is Step.STARTED:
            self._trades_in[event.status].inc()
            if trade.status not in TERMINAL:
                self._desk.send(trade)
        elif event.step is Step.CANCEL_REQUESTED:
            self._desk.cancel(trade)
        elif event.step in _CHANGES:
            self._trades_in[event.status].inc()
            if event.status in TERMINAL:
                self._desk.done(trade.trade_id)
                self._recent[trade.trade_id] = trade
                self._metrics.settle_seconds.observe((now - trade.created_at).total_seconds())
        if event.step is Step.HELD or (trade.group is not None and event.status in TERMINAL):
            for each in groups.held_with(self._accounts[trade.customer_id], trade):
                self._desk.hold(each)

    def _keep_recent(self, touched: Mapping[CustomerId, Account]) -> None:
        """Let the memory go of what was not used for longest; never of an account with open trades."""
        while len(self._recent) > self._config.recent_trades_max:
            self._recent.popitem(last=False)
        if len(self._accounts) <= self._config.account_cache_max:
            return
        for customer_id in touched:
            self._accounts[customer_id] = self._accounts.pop(customer_id)
        excess = len(self._accounts) - self._config.account_cache_max
        oldest = list(islice(self._accounts.values(), 2 * excess))
        for account in [account for account in oldest if account.open_trades == 0][:excess]:
            del self._accounts[account.customer_id], self._counted[account.customer_id]


def _customer(event: AnyEvent) -> CustomerId:
    return event.trade.customer_id if isinstance(event, TradeEvent) else event.customer_id


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

    async def report(self, reports: Sequence[Report]) -> None:
        """Take in what the exchange says, from a callback or from asking it; ends when it is durable.

        Raises Overloaded, Unanswered or DatabaseUnavailable: then say it again. A trade that nobody knows goes to the
        inbox.
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
        replies = [self.submit(owner, report) for report in reports if (owner := owners[report.trade_id]) is not None]
        for reply in replies:
            await reply

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
