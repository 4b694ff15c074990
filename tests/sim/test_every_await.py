"""The main flows with one misfortune, at every place where there can be one.

Each flow runs once without any, and its calls and steps are counted. Then it runs once more for each call of the
database and the exchange, which fails before it is done, after, or is done late; and once for each step of the loop,
at which the broker is killed: a process does nothing between two steps, so those are all the moments there are. In the
end everything must have ended as in the run without misfortunes, with the books right. By hand, in as many schedules as
you like, and with calls that fail in pairs:

    AWAIT_SCHEDULES=100 .venv/bin/python -m pytest -s -n 2 tests/sim/test_every_await.py
"""

import asyncio
import gc
import os
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest

from broker.batch import Booked, Cancelling, Known, Placed, Taken
from broker.core.messages import CancelTrade, Leg, MoveCash, PlaceTrade, ReplaceTrade, Report, ReportType
from broker.core.money import Money
from broker.core.states import TERMINAL
from broker.core.types import CustomerId, OrderClass, OrderType, Side, Status, TimeInForce, Trade, TradeId
from broker.db import DatabaseUnavailable, RefusedByDatabase, StaleAccounts
from broker.dispatch import Dispatcher
from broker.exchange import ExchangeUnavailable
from broker.memory import Memory
from broker.shards import Shards
from tests.sim import checks
from tests.sim.exchange import Order
from tests.sim.faults import NONE
from tests.sim.loop import SimLoop, Stuck
from tests.sim.world import SYMBOLS, Unavailable, World

T = TypeVar("T")

OPENING = 100_000 * 10_000
LATE_S = 1.5
SETTLES_S = 300.0
KILLS_IN_A_ROW = 4
SCHEDULES = int(os.environ.get("AWAIT_SCHEDULES", "1"))
"""Orders in which what is ready runs; each flow goes through all of its misfortunes in each of them."""
BY_HAND = SCHEDULES > 1
pytestmark = pytest.mark.timeout(0 if BY_HAND else 120)
HOW = ("before", "after", "late")
"""When a call that fails is done: never, before its answer is lost, or after it was given up."""


@dataclass
class Misfortune:
    """Which calls fail and how; when the broker is killed, in steps of the loop: since the beginning, or its start."""

    schedule: int = 0
    calls: dict[int, str] = field(default_factory=dict)
    kill_at: int = 0
    kill_after_start: int = 0


@dataclass
class Run:
    """What a run came to."""

    calls: int = 0
    steps: int = 0
    kills: int = 0
    end: object = None  # of each trade and account


class Customer:
    """Somebody who says it again until there is an answer."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.customer_id: CustomerId = world.store.open_customer(OPENING)
        self.told: list[TradeId] = []

    async def ask(self, make: Callable[[], Any]) -> Any:
        """The answer."""
        while True:
            wanted = make()
            try:
                return await self.world.ask(lambda process: process.shards.submit(self.customer_id, wanted))  # noqa: B023
            except Unavailable:
                await self.world.loop.pause(0.2)

    async def place(self, quantity: int = 10, limit: int | None = None, *, bracket: bool = False) -> TradeId:
        """A market order, or a limit order that rests until it is cancelled; placed once however often it is said."""
        number = len(self.told)

        def order() -> PlaceTrade:
            exits = [(Money(115 * 10_000), None), (None, Money(85 * 10_000))] if bracket else []
            return PlaceTrade(
                TradeId(self.world.new_id()),
                self.customer_id,
                SYMBOLS[0],
                Side.BUY,
                quantity,
                idempotency_key=f"order {number}",
                order_type=OrderType.MARKET if limit is None else OrderType.LIMIT,
                time_in_force=TimeInForce.DAY if limit is None else TimeInForce.GTC,
                limit_price=None if limit is None else Money(limit * 10_000),
                order_class=OrderClass.BRACKET if bracket else OrderClass.SIMPLE,
                legs=tuple(Leg(TradeId(self.world.new_id()), *prices) for prices in exits),
            )

        answer = await self.ask(order)
        assert isinstance(answer, Placed)
        self.told.append(answer.trade.trade_id)
        return answer.trade.trade_id

    async def replace(self, old: TradeId, limit: int) -> TradeId:
        """Another price, asked for once however often it is said."""
        answer = await self.ask(
            lambda: ReplaceTrade(
                TradeId(self.world.new_id()),
                self.customer_id,
                old,
                limit_price=Money(limit * 10_000),
                client_order_id="another",
            )
        )
        assert isinstance(answer, Placed | Taken), answer
        trade = answer.trade if isinstance(answer, Placed) else answer.first
        self.told.append(trade.trade_id)
        return trade.trade_id

    async def move_cash(self, dollars: int) -> None:
        """A deposit or a withdrawal, booked once however often it is said."""
        command = MoveCash(self.customer_id, Money(dollars * 10_000), f"cash {dollars}")
        answer = await self.ask(lambda: command)
        assert isinstance(answer, Booked)

    async def cancel(self, trade_id: TradeId) -> None:
        """What is left of it is to end."""
        answer = await self.ask(lambda: CancelTrade(self.customer_id, trade_id))
        assert isinstance(answer, Cancelling | Trade), answer

    async def until(self, trade_id: TradeId, so: Callable[[Trade], bool]) -> None:
        """The books say so."""
        while not so(self.world.store.trades[trade_id]):
            await self.world.loop.pause(0.05)


# ------------------------------------------------------------------ the flows


@dataclass(frozen=True)
class Flow:
    """What a customer does, and what the market gives an order: shares, and after how long."""

    name: str
    live: Callable[[Customer], Awaitable[None]]
    fills: Callable[[Order], list[tuple[float, int]]]


def _filled(trade: Trade) -> bool:
    return trade.status is Status.FILLED


def _ended(trade: Trade) -> bool:
    return trade.status in TERMINAL


async def _place(customer: Customer) -> None:
    await customer.until(await customer.place(), _filled)


async def _place_and_cancel(customer: Customer) -> None:
    trade_id = await customer.place(limit=100)
    await customer.until(trade_id, lambda trade: trade.filled_quantity > 0)
    await customer.cancel(trade_id)
    await customer.until(trade_id, _ended)


async def _place_and_replace(customer: Customer) -> None:
    old = await customer.place(limit=90)
    await customer.until(old, lambda trade: trade.acknowledged)
    await customer.until(await customer.replace(old, 100), _filled)


async def _go_on_after_a_crash(customer: Customer) -> None:
    resting = await customer.place(limit=90)
    await customer.until(resting, lambda trade: trade.acknowledged)
    filling = await customer.place()
    waiting = await customer.place(5)
    await customer.until(filling, lambda trade: trade.status is not Status.PLACED)
    for process in customer.world.alive():
        customer.world.kill(process.number)
    await customer.until(filling, _filled)
    await customer.until(waiting, _filled)
    await customer.cancel(resting)
    await customer.until(resting, _ended)


async def _place_bracket(customer: Customer) -> None:
    entry = await customer.place(bracket=True)
    await customer.until(entry, _filled)
    for trade in list(customer.world.store.trades.values()):
        await customer.until(trade.trade_id, _ended)


async def _move_cash(customer: Customer) -> None:
    await customer.move_cash(-60_000)
    await customer.move_cash(5_000)


def _at_once(order: Order) -> list[tuple[float, int]]:
    """All of it where the price is the market's."""
    return [(0.05, order.quantity)] if order.limit_price != Money(90 * 10_000) else []


def _a_part(_: Order) -> list[tuple[float, int]]:
    return [(0.05, 4)]


def _soon(order: Order) -> list[tuple[float, int]]:
    """So late that the broker was killed meanwhile."""
    return [(0.4, order.quantity)] if order.limit_price is None else []


FLOWS = [
    Flow("place, fill", _place, _at_once),
    Flow("place, fill in part, cancel", _place_and_cancel, _a_part),
    Flow("place, replace, fill", _place_and_replace, _at_once),
    Flow("crash, recover, fill, cancel", _go_on_after_a_crash, _soon),
    Flow("place a bracket, fill, take profit", _place_bracket, _at_once),
    Flow("withdraw, deposit", _move_cash, _at_once),
]


# ------------------------------------------------------------------ one run


def run(flow: Flow, misfortune: Misfortune) -> Run:
    """The flow from its beginning until everything has ended. The same misfortune makes the same run."""
    gc.disable()
    loop = SimLoop(random.Random(f"{flow.name} {misfortune.schedule}"))
    world = World(1, NONE, loop)
    outcome = Run()
    try:
        loop.run_until_complete(loop.spawn(_live(world, flow, misfortune, outcome)))
    finally:
        loop.dead.update(world.processes)
        loop.close()
        gc.enable()
    return outcome


async def _live(world: World, flow: Flow, misfortune: Misfortune, outcome: Run) -> None:
    loop, store, exchange = world.loop, world.store, world.exchange

    def kill() -> None:
        for process in world.alive():
            world.kill(process.number)
            outcome.kills += 1

    def boot() -> None:
        start()
        if misfortune.kill_after_start and world.started <= KILLS_IN_A_ROW:
            loop.traps[loop.steps + misfortune.kill_after_start] = kill

    def fill(order: Order) -> None:
        for after, quantity in flow.fills(order):
            loop.call_at(loop.time() + after, _fill, world, order, quantity, context=loop.world)

    start, world.boot = world.boot, boot  # type: ignore[method-assign]
    exchange._later = fill  # type: ignore[method-assign]
    network, venue = store.hook, exchange._call
    store.hook = lambda call, apply: _call(world, misfortune, outcome, DatabaseUnavailable, network, call, apply)
    exchange._call = lambda call, apply, _=(): _call(  # type: ignore[method-assign,assignment]
        world, misfortune, outcome, ExchangeUnavailable, venue, call, apply
    )
    if misfortune.kill_at:
        loop.traps[misfortune.kill_at] = kill
    world.boot()
    customer = Customer(world)
    await flow.live(customer)
    outcome.steps = loop.steps
    until = loop.time() + SETTLES_S
    while (open_ := checks.unsettled(world)) and loop.time() < until:
        await loop.pause(3.0)
    assert not open_, f"stuck: {open_}"
    assert not (problems := list(checks.at_the_end(world))), problems
    assert set(customer.told) <= store.trades.keys(), "what was acknowledged is there"
    outcome.end = (
        [(trade.role, trade.status, trade.filled_quantity) for trade in store.trades.values()],
        [(asset, row.balance, row.held) for (owner, asset), row in store.accounts.items() if owner > 0],
    )


def _fill(world: World, order: Order, quantity: int) -> None:
    if order.is_open:
        world.exchange._fill(order, quantity)


async def _call(
    world: World,
    misfortune: Misfortune,
    outcome: Run,
    lost: type[Exception],
    network: Callable[[str, Callable[[], T]], Awaitable[T]],
    call: str,
    apply: Callable[[], T],
) -> T:
    """A call of the database or the exchange; the unlucky one fails, done or not."""
    outcome.calls += 1
    how = misfortune.calls.get(outcome.calls)
    if how == "before":
        raise lost(f"{call}: not done")
    if how == "late":

        def late() -> None:
            with suppress(StaleAccounts, RefusedByDatabase):  # whoever decided meanwhile was faster
                apply()

        world.loop.call_at(world.loop.time() + LATE_S, late, context=world.loop.world)
        raise lost(f"{call}: done later")
    answer = await network(call, apply)
    if how == "after":
        raise lost(f"{call}: done, and not answered")
    return answer


# ------------------------------------------------------------------ the tests

flows = pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.name)


def failures(flow: Flow) -> Iterator[Misfortune]:
    """Each call fails once, in each way."""
    for schedule in range(SCHEDULES):
        calls = run(flow, Misfortune(schedule)).calls
        for first in range(1, calls + 1):
            for how in HOW:
                yield Misfortune(schedule, {first: how})
                if BY_HAND:
                    for second in range(first + 1, calls + 4):
                        yield from (Misfortune(schedule, {first: how, second: then}) for then in HOW)


def kills(flow: Flow) -> Iterator[Misfortune]:
    """A kill at each step."""
    for schedule in range(SCHEDULES):
        steps = run(flow, Misfortune(schedule)).steps
        yield from (Misfortune(schedule, kill_at=step) for step in range(1, steps + 1))


def kills_in_a_row(flow: Flow) -> Iterator[Misfortune]:
    """Kills at the same step of one process after the other."""
    for schedule in range(SCHEDULES):
        steps = run(flow, Misfortune(schedule)).steps
        yield from (Misfortune(schedule, kill_after_start=step) for step in range(1, steps + 1, 1 if BY_HAND else 2))


def suffer(flow: Flow, misfortunes: Iterator[Misfortune]) -> tuple[int, int]:
    """All of them, one at a time, and what was tried: runs, and kills. Each must end as without any."""
    ends = [run(flow, Misfortune(schedule)).end for schedule in range(SCHEDULES)]
    runs = killed = 0
    for each in misfortunes:
        outcome = run(flow, each)
        assert outcome.end == ends[each.schedule], each
        runs, killed = runs + 1, killed + outcome.kills
    return runs, killed


def tell(words: str) -> None:
    """What was tried; `-s` shows it."""
    print(f"\n{words}", end=" ")  # noqa: T201


@flows
def test_34_every_call_of_a_flow_fails_once(flow: Flow) -> None:
    """Before, after and long after it is done: nothing is lost, nothing is done twice, and the trade ends."""
    calls = sum(run(flow, Misfortune(schedule)).calls for schedule in range(SCHEDULES))
    runs, _ = suffer(flow, failures(flow))
    tell(f"{flow.name}: {calls} calls, schedules {SCHEDULES}: {runs} runs with failures")
    assert runs >= len(HOW) * calls > 0


@flows
def test_24_the_broker_is_killed_at_every_await(flow: Flow) -> None:
    """Whatever it was about to do, the next process ends it as it would have."""
    runs, killed = suffer(flow, kills(flow))
    tell(f"{flow.name}: killed at {killed} of {runs} steps, schedules {SCHEDULES}")
    assert killed > 0.85 * runs  # at the others none is running: it has ended, or is to be started again


@flows
def test_25_the_broker_is_killed_at_every_await_of_its_recovery_again_and_again(flow: Flow) -> None:
    """Four in a row, each so many steps after its start: recovery can be begun again, and gets on."""
    runs, killed = suffer(flow, kills_in_a_row(flow))
    tell(f"{flow.name}: {killed} kills, up to {KILLS_IN_A_ROW} in a row, in {runs} runs")
    assert killed > runs


@flows
def test_the_same_misfortune_makes_the_same_run(flow: Flow) -> None:
    """Else the steps that are counted are not those at which it is killed."""
    misfortune = Misfortune(1, {5: "after"}, kill_at=70)
    assert run(flow, misfortune) == run(flow, misfortune)


# ------------------------------------------------------------------ that it can fail


def _recovers_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    async def recover(self: Shards, versions: Any) -> None:
        pass

    monkeypatch.setattr(Shards, "recover", recover)


def _asks_about_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Dispatcher, "_overdue", lambda _: [])


def _takes_a_failure_for_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    def failed(self: Dispatcher, call: str, error: Exception, batch: Any) -> None:
        reports = [Report(each.trade.trade_id, ReportType.REJECTED, self._venue) for each in batch]
        asyncio.get_running_loop().create_task(self._report(reports))

    monkeypatch.setattr(Dispatcher, "_failed", failed)


def _does_not_look_what_was_done(monkeypatch: pytest.MonkeyPatch) -> None:
    async def load(self: Memory, items: Any) -> Known:
        missing = {item.customer_id for item in items} - self.accounts.keys()
        for account in (await self._store.load_accounts(sorted(missing))).values():
            self._remember(account)
        return Known()

    monkeypatch.setattr(Memory, "load", load)


@pytest.mark.parametrize(
    ("flow", "misfortunes", "broken"),
    [
        (FLOWS[0], kills, _recovers_nobody),
        (FLOWS[0], failures, _asks_about_nothing),
        (FLOWS[1], failures, _takes_a_failure_for_a_refusal),
        (FLOWS[0], failures, _does_not_look_what_was_done),
    ],
)
def test_a_broker_that_is_wrong_is_found_out(
    flow: Flow,
    misfortunes: Callable[[Flow], Iterator[Misfortune]],
    broken: Callable[[pytest.MonkeyPatch], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A test that cannot fail shows nothing."""
    broken(monkeypatch)
    with pytest.raises((AssertionError, Stuck)):
        suffer(flow, misfortunes(flow))
