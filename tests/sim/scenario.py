"""One seed from its beginning to its end: clients at work, misfortunes, a quiet end, and everything looked at.

What makes a seed is a `Plan`, drawn from its number; a failing one is shrunk by leaving parts of its plan out.
"""

import asyncio
import gc
import hashlib
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

from broker.batch import Booked, Cancelling, Placed, Taken
from broker.core.messages import CancelAll, CancelTrade, Leg, MoveCash, PlaceTrade, ReplaceTrade
from broker.core.money import Money
from broker.core.states import TERMINAL
from broker.core.types import OrderClass, OrderType, Side, Status, TimeInForce, Trade, TradeId
from tests.sim import checks
from tests.sim.asked import Asked, differences
from tests.sim.faults import NONE, Faults, draw
from tests.sim.loop import SimLoop
from tests.sim.world import SYMBOLS, Unavailable, Violation, World

_SETTLES_S = 75.0
"""When nothing goes wrong any more everything has ended, or rests, within a minute: an order that rests is asked about
so often. The rest is slack: a call that is not answered, and how seldom we look here."""
_FORGOTTEN_S = 110.0
"""... and where the exchange forgets orders that it took: found when next looked at, denied for half a minute, sent."""
_FALLS_TO, _RISES_TO = Money(70 * 10_000), Money(130 * 10_000)
"""Past every stop and trail of the simulation."""
_TRIES = 200
"""... of a customer, and then it counts as never answered. Where half of all database calls fail, 60 were too few."""
_TOO_MANY_TRIES = 5
"""A customer who has as many open orders as are let in waits no longer for one to end."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What happens in a seed, before anybody is unlucky."""

    seed: int
    clients: int
    actions: int
    faults: Faults


def plan_of(seed: int) -> Plan:
    """The plan of this seed."""
    rng = random.Random(f"{seed} plan")
    return Plan(seed, rng.choice((1, 2, 2, 3)), rng.choice((1, 2, 3, 4, 6)), draw(rng))


@dataclass(slots=True)
class Outcome:
    """How a seed ended."""

    plan: Plan
    error: BaseException | None
    sometimes: Counter[str]
    trace: list[tuple[Any, ...]]
    seconds: float
    steps: int
    digest: str
    settled_s: float = 0.0
    """How long it took, when nothing went wrong any more, until everything had ended or rested."""
    busy_s: int = 0
    """Seconds in which the database or the exchange was asked for something."""


def run(plan: Plan) -> Outcome:
    """Live through one seed. The garbage collector, which would end tasks at moments of its own, waits outside."""
    gc.collect(0 if plan.seed % 64 else 2)
    gc.disable()
    loop = SimLoop(random.Random(f"{plan.seed} loop"))
    world = World(plan.seed, plan.faults, loop)
    error: BaseException | None = None
    try:
        loop.run_until_complete(loop.spawn(_live(world, plan)))
        if loop.errors:
            error = loop.errors[0]
    except Exception as caught:  # noqa: BLE001 - whatever it is, it is what the seed found
        error = caught
    finally:
        loop.dead.update(world.processes)
        loop.close()
        gc.enable()
    digest = hashlib.sha256(repr((world.trace, loop.steps, repr(error))).encode()).hexdigest()[:16]
    return Outcome(
        plan,
        error,
        world.sometimes,
        world.trace,
        loop.time(),
        loop.steps,
        digest,
        world.settled_s,
        len(world.busy_seconds),
    )


async def _live(world: World, plan: Plan) -> None:
    for _ in range(world.wanted):
        world.boot()
    clients = [Client(world, number) for number in range(plan.clients)]
    work = [world.loop.spawn(each.live(plan.actions)) for each in clients]
    work.append(world.loop.spawn(_market(world)))
    misfortunes = world.loop.spawn(_misfortunes(world))
    await asyncio.gather(*work, misfortunes)
    world.faults = NONE
    world.log("quiet")
    world.loop.slack_s = 2.0
    world.settled_s = await _settle(world)
    await _move_past_all_stops(world)
    checks.note_what_was_reached(world)
    problems = [*checks.at_the_end(world), *(words for each in clients for words in each.problems())]
    if problems:
        raise Violation("; ".join(problems))


async def _settle(world: World, *more: Callable[[World], list[str]]) -> float:
    """Wait until everything has ended, or rests; how long that took since the last misfortune was over."""
    most = _FORGOTTEN_S if world.drawn.restarts else _SETTLES_S
    began = world.loop.time()
    while open_ := [*checks.unsettled(world), *(words for each in more for words in each(world))]:
        took = world.loop.time() - max(began, world.heals_at)
        if took > most:
            raise Violation(f"stuck after {most:g} s without faults: {'; '.join(open_)}")
        await world.loop.pause(2.0)
        if more:
            is_low = world.price(SYMBOLS[0]) == _FALLS_TO
            for symbol in SYMBOLS:
                world.move_price(symbol, _RISES_TO if is_low else _FALLS_TO)
    return max(0.0, world.loop.time() - max(began, world.heals_at))


async def _move_past_all_stops(world: World) -> None:
    """Down and up: nothing that waits for a price may stay."""
    held = {each.trade_id for each in world.store.trades.values() if each.status is Status.HELD}
    if not held:
        return
    for price in (_FALLS_TO, _RISES_TO):
        for symbol in SYMBOLS:
            world.move_price(symbol, price)
        await world.loop.pause(2.0)
    await _settle(world, checks.held_too_long)
    if any(world.store.trades[each].status is not Status.HELD for each in held):
        world.saw("held until its price came")


async def _market(world: World) -> None:
    """Prices move now and then: what is held for a price wakes up."""
    rng = world.rng("market")
    for _ in range(rng.choice((0, 1, 3, 3))):
        await world.loop.pause(rng.random() * 10)
        world.move_price(rng.choice(SYMBOLS), Money(rng.randint(80, 120) * 10_000))


async def _misfortunes(world: World) -> None:
    """What happens to the whole world, at moments of its own."""
    rng, faults = world.rng("misfortunes"), world.faults
    span = rng.choice((3.0, 20.0))
    events = [("outage", faults.outages), ("restart", faults.restarts), ("bust", faults.busts)]
    events += [("stranger", faults.strangers), ("away", faults.database_away)]
    events += [("kill", faults.kills), ("stop", faults.stops)]
    moments = sorted((rng.random() * span, name) for name, count in events for _ in range(int(count)))
    for at, name in moments:
        await world.loop.pause(max(0.0, at - world.loop.time()))
        alive = world.alive()
        match name:
            case "outage":
                world.exchange.go_away(rng.choice((1.0, 10.0, 40.0)))
            case "restart":
                world.exchange.restart()
            case "bust":
                world.exchange.take_back()
            case "stranger":
                world.exchange.speak_of_strangers()
            case "away":
                world.database_goes_away(rng.choice((0.2, 3.0, 10.0)))
            case "kill" if alive:
                world.kill(rng.choice(alive).number)
            case "stop" if alive:
                world.stop(rng.choice(alive).number, rng.choice((2.0, 60.0)))
    await world.loop.pause(rng.random() * 3)


class Client:
    """A customer: it wants things, says them again where it hears nothing, and remembers what it was told."""

    def __init__(self, world: World, number: int) -> None:
        self._world = world
        self._rng = world.rng(f"client {number}")
        self._number = number
        self._requests = 0
        self.opening = self._rng.choice((2_000, 20_000, 100_000)) * 10_000
        self.customer_id = world.store.open_customer(self.opening)
        self.told: dict[TradeId, Trade] = {}
        self.asked_to_end: set[TradeId] = set()
        self.by_key: dict[str, TradeId] = {}
        self.booked: dict[str, int] = {}
        self.cash_asked: dict[str, set[int]] = {}
        self._tasks = self._rng.choice((1, 1, 2, 3))
        self._gives_up = self._rng.choice((0.0, 0.0, 0.3))

    async def live(self, actions: int) -> None:
        """One thing after another, or some at once."""
        shares = [range(first, actions, self._tasks) for first in range(self._tasks)]
        await asyncio.gather(*(self._live(len(share)) for share in shares if share))

    async def _live(self, actions: int) -> None:
        rng = self._rng
        for _ in range(actions):
            await self._world.loop.pause(rng.random() * rng.choice((0.001, 0.5, 5.0)))
            kind = rng.choices(
                (self._place, self._cancel, self._cancel_all, self._replace, self._move_cash), (10, 3, 1, 3, 1)
            )[0]
            await kind()

    def _new_id(self) -> TradeId:
        return TradeId(self._world.new_id())

    def _note(self, command: PlaceTrade | ReplaceTrade) -> Any:
        """Under this id, and those of its exits, such an order may be placed."""
        self._world.asked[command.trade_id] = Asked(command)
        if isinstance(command, PlaceTrade):
            for leg in command.legs:
                self._world.asked[leg.trade_id] = Asked(command, leg)
        return command

    async def _maybe_twice(self, say: Callable[[Any], Awaitable[None]], first: Any, other: Any) -> None:
        """The same at once, or, under the same name, something else: that counts only once, and one of them."""
        if self._rng.random() < 0.75:
            await say(first)
            return
        second = self._rng.choice((first, other))
        self._world.saw("the same request at once" if second == first else "another request under the same key")
        await asyncio.gather(say(first), say(second))

    # -------------------------------------------------------------- what it wants

    async def _place(self) -> None:
        rng = self._rng
        name = self._next_name()
        identity = rng.choice(("key", "key", "client_order_id", "none"))
        wanted: dict[str, Any] = {
            "symbol": rng.choice(SYMBOLS),
            "side": Side.BUY,
        }
        quantity = rng.choice((1, 5, 10, 30))
        owned = self._world.store.accounts.get((self.customer_id, wanted["symbol"]))
        if rng.random() < (0.5 if owned is not None and owned.balance > 0 else 0.1):
            wanted["side"] = Side.SELL
            if owned is not None and owned.balance and rng.random() < 0.5:
                quantity = owned.balance  # all that there is
        if identity != "none":
            wanted["idempotency_key" if identity == "key" else "client_order_id"] = name
        shape = rng.choice(("market", "market", "limit", "limit", "gtc", "ioc", "trail", "bracket"))
        buys = wanted["side"] is Side.BUY
        near = Money(rng.choice((95, 100, 105)) * 10_000)
        if shape in {"limit", "gtc", "ioc"}:
            tif = {"limit": TimeInForce.DAY, "gtc": TimeInForce.GTC, "ioc": TimeInForce.IOC}[shape]
            wanted |= {"order_type": OrderType.LIMIT, "limit_price": near, "time_in_force": tif}
        elif shape == "trail":
            wanted |= {"order_type": OrderType.TRAILING_STOP, "trail_bps": 500}
        elif shape == "bracket":
            wanted |= {"order_class": OrderClass.BRACKET, "time_in_force": TimeInForce.GTC}
            wanted |= {"order_type": OrderType.LIMIT, "limit_price": near}

        def command(quantity: int) -> PlaceTrade:
            trade_id = self._new_id()
            legs: tuple[Leg, ...] = ()
            if shape == "bracket":
                take, stop = (115, 85) if buys else (85, 115)
                legs = (
                    Leg(self._new_id(), limit_price=Money(take * 10_000)),
                    Leg(self._new_id(), stop_price=Money(stop * 10_000)),
                )
            placed = PlaceTrade(trade_id, self.customer_id, quantity=quantity, legs=legs, **wanted)
            self._note(placed)
            return placed

        async def say(quantity: int) -> None:
            answer = await self._ask(lambda: command(quantity), again=identity != "none")
            self._hear_placed(name if identity != "none" else None, answer)

        await (say(quantity) if identity == "none" else self._maybe_twice(say, quantity, quantity + 2))

    def _next_name(self) -> str:
        """Of a key or a client order id: those of other customers are the same ones."""
        self._requests += 1
        return f"k{self._requests}"

    def _hear_placed(self, key: str | None, answer: object) -> None:
        """A trade was placed, now or before: it is durable, and of a key there is only one."""
        trade = answer.trade if isinstance(answer, Placed) else answer.first if isinstance(answer, Taken) else None
        if trade is None:
            return
        if isinstance(answer, Taken) or (isinstance(answer, Placed) and answer.replayed):
            self._world.saw("the same request again is answered with the first trade")
        if trade.trade_id not in self._world.store.trades:
            self._world.fail(f"{trade.trade_id} was acknowledged, and is not durable")
        if trade.customer_id != self.customer_id:
            self._world.fail(f"{self.customer_id} was answered with {trade.trade_id} of {trade.customer_id}")
        if key is not None and self.by_key.setdefault(key, trade.trade_id) != trade.trade_id:
            self._world.fail(f"the key {key} made {self.by_key[key]} and {trade.trade_id}")
        self.told[trade.trade_id] = trade

    async def _cancel(self) -> None:
        if not self.told:
            return
        trade_id = self._rng.choice([*self.told])
        answer = await self._ask(lambda: CancelTrade(self.customer_id, trade_id), again=True)
        if isinstance(answer, str):
            return
        if answer is None:
            self._world.fail(f"{trade_id} was acknowledged, and nobody knows it when it is to be cancelled")
        self._hear_cancelling(answer)

    async def _cancel_all(self) -> None:
        self._hear_cancelling(await self._ask(lambda: CancelAll(self.customer_id), again=True))

    def _hear_cancelling(self, answer: object) -> None:
        if not isinstance(answer, Cancelling):
            return
        for each in answer.trades:
            self.asked_to_end.add(each.trade_id)
            stored = self._world.store.trades[each.trade_id]
            if not stored.cancel_requested and stored.status not in TERMINAL:
                self._world.fail(f"the cancel of {each.trade_id} was acknowledged, and is not durable")

    async def _replace(self) -> None:
        open_ = [each for each in self.told if self._world.store.trades[each].status not in TERMINAL]
        if not open_:
            return
        rng = self._rng
        old = rng.choice(open_)
        name = self._next_name()
        price = rng.choice((None, Money(rng.choice((90, 98, 103)) * 10_000)))
        quantity = rng.choice((None, 3, 12))
        answer = await self._ask(
            lambda: self._note(
                ReplaceTrade(
                    self._new_id(),
                    self.customer_id,
                    old,
                    quantity=quantity,
                    limit_price=price,
                    client_order_id=name,
                )
            ),
            again=True,
        )
        self._hear_placed(name, answer)

    async def _move_cash(self) -> None:
        rng = self._rng
        reference = f"{self._number}-{self._next_name()}"  # one of the operator's: it is nobody else's

        async def say(amount: Money) -> None:
            self.cash_asked.setdefault(reference, set()).add(amount)
            answer = await self._ask(lambda: MoveCash(self.customer_id, amount, reference), again=True)
            if not isinstance(answer, Booked):
                return
            if answer.moved.amount not in self.cash_asked[reference]:
                self._world.fail(f"cash under {reference} is {answer.moved.amount}, not {amount}")
            if self.booked.setdefault(reference, answer.moved.amount) != answer.moved.amount:
                self._world.fail(f"cash under {reference} was {self.booked[reference]} and {answer.moved.amount}")
            if not self._world.store.booked("cash", [reference]):
                self._world.fail(f"cash under {reference} was acknowledged, and is not durable")

        amount = rng.choice((-500, 700)) * 10_000
        await self._maybe_twice(say, Money(amount), Money(amount + 10_000))

    async def _ask(self, command: Any, *, again: bool) -> Any:
        """Say it until it is answered, or until it is too tiresome; an answer of "" is none."""
        rng, loop = self._rng, self._world.loop
        pause = 0.1
        for tries in range(_TRIES):
            wanted = command()
            try:
                answer = await self._world.ask(lambda process: process.shards.submit(wanted.customer_id, wanted))  # noqa: B023
            except Unavailable as error:
                is_full = str(error) == "customer" and tries >= _TOO_MANY_TRIES
                if not again or is_full or rng.random() < self._gives_up:
                    self._world.saw("a client gives up")
                    return ""
                await loop.pause(pause * (0.5 + rng.random()))
                pause = min(5.0, pause * 2)
            else:
                self._world.log("answer", self.customer_id, type(wanted).__name__, type(answer).__name__)
                return answer
        self._world.fail(f"{_TRIES} tries, and no answer to {command()!r}")
        return ""

    # -------------------------------------------------------------- what it finds at the end

    def problems(self) -> Iterator[str]:
        """What it was told, and is not so."""
        store = self._world.store
        for trade in store.trades.values():
            if trade.customer_id == self.customer_id:
                if trade.trade_id in self._world.asked:
                    yield from differences(self._world.asked, trade.trade_id, trade)
                else:
                    yield f"{trade.trade_id} was never asked for"
        for trade_id, told in self.told.items():
            trade = store.trades.get(trade_id)
            if trade is None:
                yield f"{trade_id} was acknowledged, and is lost"
            elif trade.customer_id != self.customer_id or (trade.seq, trade.symbol, trade.side) != (
                told.seq,
                told.symbol,
                told.side,
            ):
                yield f"{trade_id} is another one than the one that was acknowledged"
        for trade_id in self.asked_to_end:
            if store.trades[trade_id].status not in TERMINAL:
                yield f"{trade_id} was to be cancelled, and is {store.trades[trade_id].status}"
        moved = checks.cash_moves(store, self.customer_id)
        for reference, amount in moved.items():
            is_opening = reference == f"opening:{self.customer_id}" and amount == self.opening
            if not is_opening and amount not in self.cash_asked.get(reference, ()):
                yield f"cash of {amount} under {reference} was never asked for"
        for reference, amount in self.booked.items():
            if moved.get(reference) != amount:
                yield f"cash of {amount} under {reference} was acknowledged, and {moved.get(reference)} was booked"
