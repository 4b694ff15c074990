"""The world around the broker: its processes, its database, the network between them, and those who watch.

The broker's own code runs in it as it is: shards, desk, router, triggers, recovery. Here are only the parts that
touch the outside in the real one. Whoever watches looks at once (nobody hears of what is not durable) and at the end.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from typing import Any, TypeVar
from uuid import UUID

from broker import assembly
from broker.batch import Command, Overloaded
from broker.config import Config
from broker.core.conditions import Conditions, Limits, Policy
from broker.core.messages import Advance, Report, TradeEvent, Wake
from broker.core.money import Money
from broker.core.types import AccountType, CustomerId, Symbol, TradeId
from broker.db import DatabaseUnavailable, RefusedByDatabase, StaleAccounts
from broker.dispatch import Dispatcher
from broker.exchange import ExchangeUnavailable, _Event
from broker.metrics import Metrics
from broker.router import Router, Venue
from broker.shards import BrokenRule, Shard, Shards, Unanswered
from broker.triggers import Triggers
from tests.sim import checks
from tests.sim.asked import Asked
from tests.sim.exchange import VENUE, Exchange, Execution
from tests.sim.faults import NONE, Faults
from tests.sim.loop import PROCESS, SimLoop
from tests.sim.store import MemoryStore

T = TypeVar("T")
BEGINNING = datetime(2026, 11, 27, 15, 0, tzinfo=UTC)
SYMBOLS = (Symbol("AAPL"), Symbol("MSFT"))
_PATIENCE_S = 12.0
"""So long a client of the network waits for any answer."""
_ON_WAY_BACK = 0.3
"""How often the database's answer takes its time: else nothing could happen between a commit and the news of it."""
_CALL_S = 0.002
_HELD_UP_S = 0.5
"""A call of the database, and one that is held up: as half of them are, so that much happens meanwhile."""

_METRICS = Metrics()
_POLICY = Policy()
_LIMITS = Limits()


class Violation(AssertionError):
    """A promise of the broker's was broken."""


class Unavailable(Exception):
    """No answer, or a 503: whether it was done is not known."""


@cache
def config_of(shards: int, *, tight: bool) -> Config:
    """The broker's settings; where they are tight its caches, queues and batches are of a size that fills up."""
    config = Config(shards=shards, recover_every_s=20.0)
    if tight:
        config = replace(
            config,
            batch_max=3,
            shard_queue_max=4,
            customer_open_max=3,
            account_cache_max=1,
            recent_trades_max=2,
            send_batch_max=2,
            send_in_flight_max=2,
            look_batch_max=2,
        )
    return config


class World:
    """Everything outside of the broker, and the brokers in it."""

    def __init__(self, seed: int, faults: Faults, loop: SimLoop) -> None:
        self.seed = seed
        self.loop = loop
        self.faults = faults
        self.drawn = faults
        self.sometimes: Counter[str] = Counter()
        self.trace: list[tuple[Any, ...]] = []
        self._ids = 0
        self._rng = self.rng("world")
        self._store_rng = self.rng("store")
        self.config = config_of(self._rng.choice((1, 1, 2)), tight=bool(faults.tight))
        self.store = MemoryStore(self.now, self._hook)
        self.exchange = Exchange(self)
        self.controls = _Controls()
        self.quotes = _Quotes(self)
        self.processes: dict[int, Process] = {}
        self.started = 0
        self.wanted = 2 if faults.second_process else 1
        self._database_away_until = 0.0
        self._sequences: Counter[CustomerId] = Counter()
        self._prices = {symbol: Money(1_000_000) for symbol in SYMBOLS}
        self.trails: dict[UUID, int] = {}
        self.highest = dict(self._prices)
        self.asked: dict[TradeId, Asked] = {}
        """What each customer said under each id."""
        self.heals_at = 0.0
        """Until then something goes on that went wrong before: a stop, an outage, a word that is late."""
        self.settled_s = 0.0
        self.busy_seconds: set[int] = set()
        """Seconds in which somebody asked the database or the exchange for something."""

    def rng(self, name: str) -> random.Random:
        """A stream of chances of its own, so that one part's appetite changes no other's luck."""
        return random.Random(f"{self.seed} {name}")

    # -------------------------------------------------------------- time and ids

    def now(self) -> datetime:
        """The wall clock, which is the loop's."""
        return BEGINNING + timedelta(seconds=self.loop.time())

    def new_id(self) -> UUID:
        """Ascending, as those of the real one: time first."""
        self._ids += 1
        milliseconds = int((BEGINNING.timestamp() + self.loop.time()) * 1000)
        return UUID(int=milliseconds << 80 | 7 << 76 | 2 << 62 | self._ids)

    def price(self, symbol: Symbol) -> Money:
        """What the market trades at."""
        return self._prices[symbol]

    def move_price(self, symbol: Symbol, price: Money) -> None:
        """The market moves, and every broker hears of it."""
        self._prices[symbol] = price
        self.highest[symbol] = max(self.highest[symbol], price)
        for process in self.alive():
            process.context.run(process.triggers.saw, symbol, price)

    # -------------------------------------------------------------- who watches

    def saw(self, what: str) -> None:
        """A state that is worth reaching was reached."""
        self.sometimes[what] += 1
        self.log("saw", what)

    def log(self, *words: Any) -> None:
        """A line of the trace."""
        self.trace.append((round(self.loop.time(), 6), *words))

    def fail(self, words: str) -> None:
        """A promise was broken: the run ends here."""
        self.loop.errors.append(Violation(words))

    def goes_on_until(self, moment: float) -> None:
        """What went wrong does so until then, also where everything else is well by now."""
        self.heals_at = max(self.heals_at, moment)

    def sequence(self, customer_id: CustomerId, seq: int) -> None:
        """I7: a customer's orders reach the exchange in the order in which they were accepted."""
        if seq < self._sequences[customer_id]:
            self.fail(
                f"order {seq} of {customer_id} reached the exchange after its order {self._sequences[customer_id]}"
            )
        self._sequences[customer_id] = seq

    def check_taken(self, events: Sequence[_Event], done: Execution) -> None:
        """The webhook answered 2xx: what it was told is durable."""
        if events[0].type.value == "BUSTED":
            is_kept = (VENUE, done.execution_id) in self.store.busts
        else:
            is_kept = (VENUE, done.execution_id) in self.store.executions
        if not is_kept and not any(repr(done.execution_id) in caught.payload for caught in self.store.inbox):
            self.fail(f"a callback about {done.execution_id} was answered, and nothing of it is durable")

    def check_told(self, event: TradeEvent) -> None:
        """A step was published: it is durable."""
        stored = self.store.trades.get(event.trade.trade_id)
        if stored is None or stored.events < event.number:
            self.fail(f"step {event.number} ({event.step}) of {event.trade.trade_id} was told before its commit")

    def held_up(self, rng: random.Random, seconds: float) -> float:
        """How long a way takes that takes so long at most where nothing holds it up."""
        return rng.random() * (_HELD_UP_S if self.faults is not NONE and rng.random() < 0.5 else seconds)

    # -------------------------------------------------------------- the database's network

    async def _hook(self, call: str, apply: Callable[[], T], /) -> T:
        """A call: it may fail before, after, or be done later; whoever called may die in any of these moments."""
        loop, rng, faults = self.loop, self._store_rng, self.faults
        answer: asyncio.Future[T] = loop.create_future()
        process = PROCESS.get()
        self.busy_seconds.add(int(loop.time()))
        chance = rng.random()
        delay = self.held_up(rng, _CALL_S)
        way_back = self.held_up(rng, _CALL_S) if rng.random() < _ON_WAY_BACK else 0.0
        if rng.random() < faults.slow_commit:
            delay += rng.random() * rng.choice((0.2, 3.0))
            way_back *= rng.choice((1, 4))
        dies = rng.random() < faults.kills_at_calls
        dies_before = rng.random() < 0.5

        def unavailable(words: str) -> None:
            self.saw(f"the database fails {words}")
            if not answer.done():
                answer.set_exception(DatabaseUnavailable(words))

        def late() -> None:
            try:
                self._apply(call, apply)
                self.saw("a late commit lands") if call == "commit" else None
            except (DatabaseUnavailable, RefusedByDatabase, StaleAccounts):
                self.saw("a late commit is fenced off")

        def serve() -> None:
            if dies and dies_before:
                self.kill(process)
            away = self._database_away_until > loop.time()
            if away or chance < faults.before_commit:
                unavailable("before")
                return
            limit = faults.before_commit + faults.late_commit
            if call == "commit" and chance < limit:
                at = loop.time() + rng.random() * rng.choice((0.2, 10.0))
                self.goes_on_until(at)
                loop.call_at(at, late, context=loop.world)
                unavailable("and commits later")
                return
            if call == "commit" and chance < (limit := limit + faults.refused_commit):
                self.saw("the database refuses")
                if not answer.done():
                    answer.set_exception(RefusedByDatabase("a rule of the simulation", "simulated"))
                return
            try:
                result = self._apply(call, apply)
            except (RefusedByDatabase, StaleAccounts) as error:
                if isinstance(error, RefusedByDatabase):
                    self._refused(error)
                else:
                    self.saw("an account is stale")
                if not answer.done():
                    answer.set_exception(error)
                return
            if call == "commit":
                self.log("commit", process)
            if dies and not dies_before:
                self.kill(process)
            if chance < limit + faults.after_commit:
                unavailable("after " + ("a commit" if call == "commit" else "a read"))
            elif way_back:
                loop.call_at(loop.time() + way_back, arrive, result, context=loop.world)
            elif not answer.done():
                answer.set_result(result)

        def arrive(result: T) -> None:
            if not answer.done():
                answer.set_result(result)

        loop.call_at(loop.time() + delay, serve, context=loop.world)
        return await answer

    def _apply(self, call: str, apply: Callable[[], T]) -> T:
        """Do it; what a commit refuses to a customer has to be impossible now."""
        before = len(self.store.events)
        result = apply()
        if call == "commit":
            events = self.store.events[before:]
            for number, event in enumerate(events, 1):
                problem = checks.refused_without_need(self, event, events[number:])
                if problem is not None:
                    self.fail(problem)
        return result

    def _refused(self, error: RefusedByDatabase) -> None:
        """What the database refuses we should not have decided; but two processes may meet in a client order id."""
        self.log("refused by database", str(error))
        if error.constraint != "trade_client_order_id":
            self.fail(f"the database refused what was decided: {error}")

    def database_goes_away(self, seconds: float) -> None:
        """It takes no call for a while."""
        self.saw("the database is away")
        self._database_away_until = self.loop.time() + seconds
        self.goes_on_until(self._database_away_until)

    # -------------------------------------------------------------- processes

    def alive(self) -> list["Process"]:
        """The processes that run, or are stopped."""
        return list(self.processes.values())

    def boot(self) -> None:
        """Start a broker."""
        self.started += 1
        self.log("boot", self.started)
        self.processes[self.started] = Process(self, self.started)

    def kill(self, number: int) -> None:
        """SIGKILL; somebody starts another one soon."""
        process = self.processes.pop(number, None)
        if process is None:
            return
        self.saw("a kill during recovery" if process.shards.recovering else "a kill")
        self.log("kill", number)
        self.loop.dead.add(number)
        for each in process.pending:
            if not each.done():
                each.set_exception(Unavailable("connection reset"))
        after = self._rng.random() * self._rng.choice((0.05, 1.0, 8.0))
        self.goes_on_until(self.loop.time() + after)
        self.loop.call_at(self.loop.time() + after, self.boot, context=self.loop.world)

    def stop(self, number: int, seconds: float) -> None:
        """SIGSTOP, and SIGCONT after a while: it goes on as if nothing had happened."""
        if number in self.processes:
            self.saw("a process is stopped")
            self.log("stop", number)
            self.loop.stop_process(number)
            self.goes_on_until(self.loop.time() + seconds)
            self.loop.call_at(self.loop.time() + seconds, self._go_on, number, context=self.loop.world)

    def _go_on(self, number: int) -> None:
        self.log("continue", number)
        self.loop.continue_process(number)

    async def ask(self, work: Callable[["Process"], Awaitable[T]]) -> T:
        """A request to one of the brokers, over a network that may lose the answer. Raises Unavailable."""
        processes = self.alive()
        if not processes:
            raise Unavailable("connection refused")
        process = processes[0] if len(processes) == 1 else self._rng.choice(processes)
        answer: asyncio.Future[T] = self.loop.create_future()
        process.pending[answer] = None
        self.loop.spawn(self._handle(process, work, answer), process.context)
        timeout = self.loop.call_at(
            self.loop.time() + _PATIENCE_S, self._give_up, process.number, answer, context=self.loop.world
        )
        try:
            return await answer
        finally:
            timeout.cancel()
            process.pending.pop(answer, None)

    def _give_up(self, number: int, answer: "asyncio.Future[Any]") -> None:
        if answer.done():
            return
        if not self.drawn.stops:  # else it may have been stopped all the while
            self.fail(f"a request to {number} was not answered within {_PATIENCE_S:g} s")
        answer.set_exception(Unavailable("timeout"))

    async def _handle(
        self, process: "Process", work: Callable[["Process"], Awaitable[T]], answer: "asyncio.Future[T]"
    ) -> None:
        """What the HTTP edge does: it answers when the work is done, 503 where it was not."""
        try:
            result = await work(process)
        except (
            Overloaded,
            Unanswered,
            BrokenRule,
            DatabaseUnavailable,
            RefusedByDatabase,
            ExchangeUnavailable,
        ) as error:
            self.saw(f"503: {type(error).__name__}")
            if not answer.done():
                answer.set_exception(Unavailable(str(error)))
            return
        if self._rng.random() < self.faults.reply_lost:
            self.saw("a reply is lost")
            if not answer.done():
                answer.set_exception(Unavailable("connection reset"))
        elif not answer.done():
            answer.set_result(result)

    async def call_back(self, reports: list[Report]) -> bool:
        """The exchange's webhook; whether it was answered with 2xx."""

        async def take(process: "Process") -> bool:
            unseen = await process.shards.report(reports)
            if unseen:
                self.saw("the exchange is asked before its word is taken")
                await process.desk.ask(sorted(unseen))
            return True

        try:
            return await self.ask(take)
        except Unavailable:
            return False


class Process:
    """One broker: the parts of broker.assembly that are no edge, put together as there."""

    def __init__(self, world: World, number: int) -> None:
        self.number = number
        self.context = world.loop.process(number)
        self.pending: dict[asyncio.Future[Any], None] = {}  # ordered: a set would be so by address
        self.world = world
        config = world.config
        rng = world.rng(f"process {number}")

        async def take(reports: Sequence[Report]) -> None:
            await shards.report(reports)

        async def take_up(trade_ids: Sequence[TradeId]) -> dict[TradeId, bool]:
            return await shards.take_up(trade_ids)

        def conditions() -> Conditions:
            return Conditions(world.now(), router, world.controls, _POLICY)

        def wake(customer_id: CustomerId, command: Wake) -> "asyncio.Future[Any]":
            return shards.submit(customer_id, command)

        self.triggers = Triggers(wake, world.price, conditions, _Trails(world))  # type: ignore[arg-type]
        directory = world.store.directory()
        desk = Dispatcher(world.exchange, VENUE, take, take_up, config, _METRICS, rng)
        self.desk = desk
        venue = Venue(VENUE, world.exchange, desk, world.quotes)  # type: ignore[arg-type]
        router = Router([venue], {}, config.venue_down_after_s, self.triggers)
        ledgers = [
            world.store.ledger(shard, world.new_id, lambda: conditions().today) for shard in range(config.shards)
        ]
        self.workers = workers = [
            Shard(shard, ledger, router, self, conditions, world.controls.restrict, config, _METRICS)
            for shard, ledger in enumerate(ledgers)
        ]
        self.shards = shards = _WatchedShards(workers, router.owner, directory, _METRICS)
        recover = partial(assembly._recover, directory, shards, asyncio.Event(), config.recover_every_s)  # type: ignore[arg-type]
        work = [*(worker.run for worker in workers), recover, shards.expire]
        work += [desk.run_sending, desk.run_cancelling, desk.run_sweep, self.triggers.run]
        self.tasks = [world.loop.spawn(self._guard(each), self.context) for each in work]

    async def _guard(self, work: Callable[[], Awaitable[None]]) -> None:
        await work()
        raise Violation("an eternal task has ended")

    def publish(self, event: TradeEvent) -> None:
        """The streams."""
        self.world.check_told(event)
        self.world.log("told", event.trade.trade_id, event.step.value, event.status.value, event.number)


class _WatchedShards(Shards):
    """The shards, with whom of theirs recovery has asked for and not got yet."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.recovering: set[asyncio.Future[Any]] = set()

    def submit(self, customer_id: CustomerId, command: Command) -> "asyncio.Future[Any]":
        """See Shards."""
        reply = super().submit(customer_id, command)
        if isinstance(command, Advance) and command.version is not None:
            self.recovering.add(reply)
            reply.add_done_callback(self.recovering.discard)
        return reply


class _Controls:
    """The operators' switches. Only one is ever used: a customer who owes something is stopped."""

    def __init__(self) -> None:
        self.restricted_: dict[CustomerId, str] = {}

    def restrict(self, customer_id: CustomerId, reason: str) -> None:
        self.restricted_.setdefault(customer_id, reason)

    def stopped(self, customer_id: CustomerId) -> str | None:
        return self.restricted_.get(customer_id)

    def stopped_by_itself(self, customer_id: CustomerId) -> bool:
        return False

    def suspended(self, customer_id: CustomerId) -> str | None:
        return None

    def halted(self, symbol: Symbol) -> str | None:
        return None

    def restricted(self, symbol: Symbol) -> str | None:
        return None

    def limits(self, account_type: AccountType, customer_id: CustomerId) -> Limits:
        return _LIMITS


class _Quotes:
    """The feed: always heard."""

    connected = True
    is_live = False
    stale_for_s = None

    def __init__(self, world: World) -> None:
        self.ask = self.bid = self.last = world.price

    def is_listed(self, symbol: Symbol) -> bool | None:
        return True


class _Trails:
    """How far trailing stops have followed the market: the one table that triggers write themselves."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def fetch(self, name: str, *columns: Any) -> list[dict[str, Any]]:
        trails = self._world.trails

        def apply() -> list[dict[str, Any]]:
            if name == "trails":
                return [{"trade_id": each, "high_water": trails[each]} for each in columns[0] if each in trails]
            assert name == "save_trails", name
            for trade_id, water, is_sale in zip(*columns, strict=True):
                before = trails.get(trade_id, water)
                trails[trade_id] = max(before, water) if is_sale else min(before, water)
            return []

        return await self._world._hook(name, apply)
