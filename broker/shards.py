"""The shards: every customer belongs to one, and a shard does one batch after another.

drain -> load -> decide -> commit -> act. While one commit is under way the next batch gathers, so the busier the
system, the larger the batches. The rule that this module keeps: nobody hears of anything, client or exchange, before
its commit; and whatever goes wrong, the accounts of the batch are forgotten and read again, so that every decision is
made on what the database has.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import Any, Protocol, assert_never

import structlog

from broker.config import Config
from broker.core import trading
from broker.core.account import Account
from broker.core.messages import (
    Advance,
    Anomaly,
    CashMoved,
    Event,
    Market,
    MoveCash,
    PlaceTrade,
    Refusal,
    Repeat,
    Report,
    TradeEvent,
)
from broker.core.states import TERMINAL
from broker.core.types import CustomerId, Status, Trade, TradeId
from broker.db import DatabaseUnavailable, RefusedByDatabase, StaleAccounts
from broker.metrics import Metrics

log = structlog.get_logger()


class Overloaded(Exception):
    """A queue is full: nothing was done, try again in a moment."""


class Unanswered(Exception):
    """The commit did not come in time; whether it will is not known."""


class BrokenRule(Exception):
    """The database refused what we decided: a bug of ours. Nothing was done."""


@dataclass(slots=True)
class Placed:
    """The answer to PlaceTrade. `replayed`: the idempotency key was used before, this is the trade it made."""

    trade: Trade
    replayed: bool = False


@dataclass(slots=True)
class Booked:
    """The answer to MoveCash. `replayed`: the reference was booked before, with these figures."""

    moved: CashMoved
    replayed: bool = False


class Store(Protocol):
    """What a shard needs of the database. `broker.ledger.Ledger` is one."""

    async def load_accounts(self, customer_ids: Sequence[CustomerId]) -> dict[CustomerId, Account]: ...
    async def trades_by_id(self, trade_ids: Sequence[TradeId]) -> dict[TradeId, Trade]: ...
    async def trades_by_key(self, keys: Sequence[tuple[CustomerId, str]]) -> dict[tuple[CustomerId, str], Trade]: ...
    async def cash_by_reference(self, references: Sequence[str]) -> dict[str, CashMoved]: ...
    async def record_anomalies(self, anomalies: Iterable[tuple[Anomaly, Report]]) -> None: ...
    async def commit(self, now: datetime, claims: Mapping[CustomerId, int], events: Sequence[Event]) -> None: ...


class Desk(Protocol):
    """Who takes started trades to the exchange. `broker.dispatch.Dispatcher` is one."""

    def send(self, trade: Trade) -> None: ...
    def watch(self, trade: Trade) -> None: ...
    def look_soon(self, trade_id: TradeId) -> None: ...
    def done(self, trade_id: TradeId) -> None: ...


Command = PlaceTrade | MoveCash | Advance | Report


@dataclass(slots=True, eq=False)
class _Item:
    """A command in the queue, and whoever waits for its answer."""

    customer_id: CustomerId
    command: Command
    reply: asyncio.Future[Any]
    deadline: float
    retried: bool = False  # an earlier attempt may have committed: look before deciding


@dataclass(slots=True)
class _Known:
    """What was read for a batch beside its accounts."""

    trades: dict[TradeId, Trade] = field(default_factory=dict)
    keys: dict[tuple[CustomerId, str], Trade] = field(default_factory=dict)
    cash: dict[str, CashMoved] = field(default_factory=dict)


@dataclass(slots=True)
class _Decided:
    """What a batch came to: events to commit, then answers to give."""

    now: datetime
    events: list[Event] = field(default_factory=list)
    touched: dict[CustomerId, Account] = field(default_factory=dict)
    answers: list[tuple[_Item, Any]] = field(default_factory=list)
    anomalies: list[tuple[Anomaly, Report]] = field(default_factory=list)
    look_soon: list[TradeId] = field(default_factory=list)


class Shard:
    """One worker: a bounded queue, a cache of accounts, one commit at a time."""

    def __init__(
        self,
        number: int,
        store: Store,
        desk: Desk,
        market: Market,
        clock: Callable[[], datetime],
        config: Config,
        metrics: Metrics,
    ) -> None:
        self._store = store
        self._desk = desk
        self._market = market
        self._clock = clock
        self._config = config
        self._metrics = metrics
        self._queue: deque[_Item] = deque()
        self._filled = asyncio.Event()
        self._waiting: deque[_Item] = deque()  # by deadline: every item waits equally long
        self._accounts: dict[CustomerId, Account] = {}  # least recently used first
        self._recent: dict[TradeId, Trade] = {}
        self._open = 0
        self._busy = False
        self._queue_depth = metrics.queue_depth.labels(str(number))
        self._open_trades = metrics.open_trades.labels(str(number))

    # -------------------------------------------------------------- in

    def submit(self, customer_id: CustomerId, command: Command) -> asyncio.Future[Any]:
        """Queue a command; its future ends when it is durable. Raises Overloaded where there is no room.

        Trades and cash share one bound. What the exchange says has the same room again: it frees memory.
        """
        room = self._config.shard_queue_max * (2 if isinstance(command, Report | Advance) else 1)
        if len(self._queue) >= room:
            raise self._overloaded("shard")
        if isinstance(command, PlaceTrade) and self._open >= self._config.open_trades_max // self._config.shards:
            raise self._overloaded("open_trades")
        loop = asyncio.get_running_loop()
        item = _Item(customer_id, command, loop.create_future(), loop.time() + self._config.place_wait_s)
        self._queue.append(item)
        self._waiting.append(item)
        self._filled.set()
        return item.reply

    def _overloaded(self, queue: str) -> Overloaded:
        self._metrics.overloaded.labels(queue).inc()
        return Overloaded(f"the broker's queue ({queue}) is full")

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

    def _drain(self) -> list[_Item]:
        size = min(len(self._queue), self._config.batch_max)
        items = [self._queue.popleft() for _ in range(size)]
        if not self._queue:
            self._filled.clear()
        self._queue_depth.set(len(self._queue))
        return items

    async def _process(self, items: list[_Item], *, advance: bool = True) -> None:
        """One batch, from load to act; what cannot be committed now is forgotten and queued again."""
        try:
            known = await self._load(items)
            decided = self._decide(items, known, advance=advance)
            await self._commit(decided)
        except StaleAccounts:
            self._again(items, "stale")
        except DatabaseUnavailable as error:
            log.warning("database.unavailable", error=str(error))
            self._again(items, "unavailable")
            await asyncio.sleep(0.05)  # one shard's pause; a restarted PostgreSQL is back within a second
        except (RefusedByDatabase, AssertionError) as error:
            self._forget(items)
            await self._isolate(items, error, advance=advance)
        else:
            self._act(decided)

    def _again(self, items: list[_Item], why: str) -> None:
        self._metrics.commit_retries.labels(why).inc()
        self._forget(items)
        for item in reversed(items):
            item.retried = True
            self._queue.appendleft(item)
        self._filled.set()

    def _forget(self, items: Iterable[_Item]) -> None:
        for item in items:
            account = self._accounts.pop(item.customer_id, None)
            if account is not None:
                self._open -= len(account.waiting) + len(account.working)

    async def _isolate(self, items: list[_Item], error: Exception, *, advance: bool) -> None:
        """A rule is broken: find by whom, so that one poisoned command stops nobody else."""
        self._metrics.commit_retries.labels("refused").inc()
        if len(items) > 1 or (advance and not isinstance(items[0].command, Advance)):
            for item in items:
                await self._process([item], advance=False)
            for customer_id in {item.customer_id: None for item in items}:
                self._later(customer_id)
            return
        item = items[0]
        log.error("command.breaks_a_rule", command=repr(item.command), error=repr(error), exc_info=error)
        self._metrics.anomalies.labels(Anomaly.REFUSED_BY_DATABASE.value).inc()
        if not isinstance(item.command, Report):
            _answer(item, BrokenRule(str(error)))
            return
        try:
            await self._store.record_anomalies([(Anomaly.REFUSED_BY_DATABASE, item.command)])
        except DatabaseUnavailable:
            self._again(items, "unavailable")
        else:
            _answer(item, None)

    def _later(self, customer_id: CustomerId) -> None:
        """Come back to a customer in another batch. Past the bound on purpose: it is about work already accepted."""
        loop = asyncio.get_running_loop()
        self._queue.append(_Item(customer_id, Advance(customer_id), loop.create_future(), loop.time()))
        self._filled.set()

    # -------------------------------------------------------------- load

    async def _load(self, items: Sequence[_Item]) -> _Known:
        """Read what the batch needs and the cache does not have."""
        missing = {item.customer_id for item in items} - self._accounts.keys()
        if missing:
            for account in (await self._store.load_accounts(sorted(missing))).values():
                self._remember(account)
        known = _Known()
        trade_ids = [id_ for item in items if (id_ := self._unknown_trade(item)) is not None]
        if trade_ids:
            known.trades = await self._store.trades_by_id(trade_ids)
            self._refuse_if_outdated(known.trades.values())
        keys = [
            (item.customer_id, item.command.idempotency_key)
            for item in items
            if isinstance(item.command, PlaceTrade) and item.command.idempotency_key
        ]
        if keys:
            known.keys = await self._store.trades_by_key(keys)
        references = [item.command.reference for item in items if isinstance(item.command, MoveCash)]
        if references:
            known.cash = await self._store.cash_by_reference(references)
        return known

    def _remember(self, account: Account) -> None:
        self._accounts[account.customer_id] = account
        self._open += len(account.waiting) + len(account.working)
        for trade in account.working.values():
            self._desk.watch(trade)

    def _unknown_trade(self, item: _Item) -> TradeId | None:
        """The trade of a command that the cache cannot tell us about."""
        command = item.command
        if isinstance(command, PlaceTrade):
            return command.trade_id if item.retried else None
        if not isinstance(command, Report) or command.trade_id in self._recent:
            return None
        account = self._accounts.get(item.customer_id)
        return None if account and command.trade_id in account.working else command.trade_id

    def _refuse_if_outdated(self, trades: Iterable[Trade]) -> None:
        """A trade that is open in the database and not in the cache: another process was at work on its customer."""
        for trade in trades:
            account = self._accounts.get(trade.customer_id)
            if trade.status in TERMINAL or account is None:
                continue
            if trade.trade_id not in account.working and all(t.trade_id != trade.trade_id for t in account.waiting):
                raise StaleAccounts(f"customer {trade.customer_id} has open trades that were not known")

    # -------------------------------------------------------------- decide

    def _decide(self, items: Sequence[_Item], known: _Known, *, advance: bool) -> _Decided:
        """Every command against its account, in order. No await in here: one batch, one view of the world."""
        decided = _Decided(self._clock())
        for item in items:
            account = self._accounts.get(item.customer_id)
            if account is None:
                decided.answers.append((item, None))
                continue
            decided.touched[item.customer_id] = account
            if not item.reply.done():  # else its client was told 503, and so it is not done
                decided.answers.append((item, self._decide_one(item, account, known, decided)))
        if advance:
            for account in decided.touched.values():
                self._advance(account, decided)
        return decided

    def _decide_one(self, item: _Item, account: Account, known: _Known, decided: _Decided) -> object:
        command = item.command
        match command:
            case PlaceTrade():
                return self._place(item, command, account, known, decided)
            case Report():
                self._report(command, account, known, decided)
                return None
            case MoveCash():
                return self._move_cash(command, account, known, decided)
            case Advance():
                return None
            case _:
                assert_never(command)

    def _place(
        self, item: _Item, command: PlaceTrade, account: Account, known: _Known, decided: _Decided
    ) -> Placed | Overloaded:
        earlier = known.trades.get(command.trade_id)  # an attempt whose outcome was unknown had committed
        if earlier is not None:
            return Placed(earlier)
        key = (account.customer_id, command.idempotency_key or "")
        earlier = known.keys.get(key)
        if earlier is not None:
            return Placed(earlier, replayed=earlier.trade_id != command.trade_id)
        if len(account.waiting) >= self._config.customer_open_max:
            return self._overloaded("customer")
        event = trading.place(account, command, decided.now)
        if command.idempotency_key:
            known.keys[key] = event.trade
        self._open += 1
        decided.events.append(event)
        return Placed(event.trade)

    def _report(self, report: Report, account: Account, known: _Known, decided: _Decided) -> None:
        trade_id = report.trade_id
        trade = account.working.get(trade_id) or self._recent.get(trade_id) or known.trades.get(trade_id)
        outcome = trading.settle(account, trade, report) if trade else Anomaly.UNKNOWN_TRADE
        if isinstance(outcome, TradeEvent):
            known.trades[trade_id] = outcome.trade  # what ends in this batch is still known to the rest of it
            decided.events.append(outcome)
        elif isinstance(outcome, Anomaly):
            decided.anomalies.append((outcome, report))
        elif outcome is Repeat.MORE_TO_COME:
            decided.look_soon.append(trade_id)
        else:
            self._metrics.duplicates.inc()

    def _move_cash(self, command: MoveCash, account: Account, known: _Known, decided: _Decided) -> Booked | Refusal:
        earlier = known.cash.get(command.reference)
        if earlier is not None:
            return Booked(earlier, replayed=True)
        outcome = trading.move_cash(account, command)
        if isinstance(outcome, Refusal):
            return outcome
        known.cash[command.reference] = outcome
        decided.events.append(outcome)
        return Booked(outcome)

    def _advance(self, account: Account, decided: _Decided) -> None:
        """Start what can start; a long run of refusals goes on in the next batch."""
        steps = trading.start_next(account, self._market, self._config.collar_bps)
        decided.events.extend(islice(steps, self._config.batch_max))
        if account.waiting and not account.working:
            self._later(account.customer_id)

    # -------------------------------------------------------------- commit and act

    async def _commit(self, decided: _Decided) -> None:
        if decided.anomalies:
            await self._store.record_anomalies(decided.anomalies)
        if not decided.events:
            return
        loop = asyncio.get_running_loop()
        began = loop.time()
        changed = {_customer(event) for event in decided.events}
        claims = {customer_id: decided.touched[customer_id].version for customer_id in changed}
        await self._store.commit(decided.now, claims, decided.events)
        for customer_id in changed:
            decided.touched[customer_id].version += 1
        self._metrics.commit_seconds.observe(loop.time() - began)
        self._metrics.batch_size.observe(len(decided.answers))

    def _act(self, decided: _Decided) -> None:
        """Now it is durable: tell the exchange, then the clients."""
        for event in decided.events:
            if isinstance(event, TradeEvent):
                self._act_on(event, decided.now)
        for anomaly, report in decided.anomalies:
            self._metrics.anomalies.labels(anomaly.value).inc()
            log.error("exchange.anomaly", cause=anomaly.value, report=repr(report))
        for trade_id in decided.look_soon:
            self._desk.look_soon(trade_id)
        for item, answer in decided.answers:
            _answer(item, answer)
        self._open_trades.set(self._open)
        self._keep_recent(decided.touched)

    def _act_on(self, event: TradeEvent, now: datetime) -> None:
        trade = event.trade
        self._metrics.trades.labels(event.status.value).inc()
        if event.status is Status.IN_PROGRESS:
            self._desk.send(trade)
        elif event.status in TERMINAL:
            self._open -= 1
            self._desk.done(trade.trade_id)
            self._recent[trade.trade_id] = trade
            self._metrics.settle_seconds.observe((now - trade.created_at).total_seconds())

    def _keep_recent(self, touched: Mapping[CustomerId, Account]) -> None:
        """Let the memory go of what was not used for longest; never of an account with open trades."""
        while len(self._recent) > self._config.recent_trades_max:
            del self._recent[next(iter(self._recent))]
        if len(self._accounts) <= self._config.account_cache_max:
            return
        for customer_id in touched:
            self._accounts[customer_id] = self._accounts.pop(customer_id)
        excess = len(self._accounts) - self._config.account_cache_max
        oldest = list(islice(self._accounts.values(), 2 * excess))
        for account in [account for account in oldest if account.idle][:excess]:
            del self._accounts[account.customer_id]


def _customer(event: Event) -> CustomerId:
    return event.trade.customer_id if isinstance(event, TradeEvent) else event.customer_id


def _answer(item: _Item, answer: object) -> None:
    if item.reply.done():
        return
    if isinstance(answer, Exception):
        item.reply.set_exception(answer)
        item.reply.exception()
    else:
        item.reply.set_result(answer)


class Directory(Protocol):
    """Whose trade is it, when no shard has it in memory. `broker.ledger.TradeDirectory` is one."""

    async def owners(self, trade_ids: Sequence[TradeId]) -> dict[TradeId, CustomerId]: ...
    async def record_anomalies(self, anomalies: Iterable[tuple[Anomaly, Report]]) -> None: ...


class Shards:
    """All the shards: who asks for a customer gets its shard."""

    def __init__(
        self, shards: Sequence[Shard], desk_owner: Callable[[TradeId], CustomerId | None], directory: Directory
    ) -> None:
        self._shards = shards
        self._desk_owner = desk_owner
        self._directory = directory

    def submit(self, customer_id: CustomerId, command: Command) -> Awaitable[Any]:
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

    async def recover(self, customer_ids: Sequence[CustomerId]) -> None:
        """Take up the open trades of these customers again: after a start."""
        for customer_id in customer_ids:
            while True:
                try:
                    self.submit(customer_id, Advance(customer_id))
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
