"""Switches while they are read: nobody's are lost, in any order of what is sent, done and answered."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

import pytest

from broker.controls import Controls, customer_scope, own_scope
from broker.core.conditions import Limits
from broker.core.types import CustomerId, Side
from broker.db import DatabaseUnavailable
from tests.builders import FixedMarket, account, working

NEVER_S = 3600.0
ONE, TWO = CustomerId(1001), CustomerId(1002)
HALT = "halt:AAPL"
READS = ("controls", "risk_limits", "suspended_customers")


class Tables:
    """What the database holds."""

    def __init__(self) -> None:
        self.rows: dict[str, str] = {}
        self.limits: dict[str, int] = {}
        self.suspended: set[int] = set()

    def do(self, name: str, *arguments: Any) -> list[dict[str, Any]]:
        if name == "controls":
            return [{"scope": scope, "reason": reason} for scope, reason in self.rows.items()]
        if name == "risk_limits":
            return [{"scope": s, "name": "position_max", "value": value} for s, value in self.limits.items()]
        if name == "suspended_customers":
            return [{"customer_id": each} for each in self.suspended]
        if name == "engage_control":
            self.rows[arguments[0]] = arguments[1]
        elif name == "release_control":
            return [{"scope": arguments[0]}] if self.rows.pop(arguments[0], None) is not None else []
        elif name == "set_limits":
            self.limits[arguments[0]] = arguments[2][0]
        return []


class Gated(Tables):
    """A database in which every statement waits to be let in, and its answer to be let out."""

    def __init__(self, gated: Sequence[str]) -> None:
        super().__init__()
        self.gated = gated
        self.waiting: list[asyncio.Future[None]] = []
        self.away = False
        self.shown: dict[str, str] = {}
        self.loads = 0
        self._read: dict[str, str] = {}

    async def gate(self) -> None:
        self.waiting.append(asyncio.get_running_loop().create_future())
        await self.waiting[-1]

    async def fetch(self, name: str, *arguments: Any) -> list[dict[str, Any]]:
        if name in self.gated or name not in READS:
            await self.gate()
        if self.away and name not in READS:
            raise DatabaseUnavailable("away")
        found = self.do(name, *arguments)
        if name == "controls":
            self._read = dict(self.rows)
        if name in self.gated or name not in READS:
            await self.gate()
        if name == READS[-1]:
            self.shown = self._read
            self.loads += 1
        return found


async def settled() -> None:
    """Whatever can go on without the database has."""
    for _ in range(5):
        await asyncio.sleep(0)


class Case:
    """A controls of its own, what is done with it here, and what others do, each at any moment."""

    def __init__(self, gated: Sequence[str]) -> None:
        self.database = Gated(gated)
        self.controls = Controls(self.database, Limits())  # type: ignore[arg-type]
        self.here: list[Callable[[], Awaitable[object]]] = []
        self.others: list[Callable[[], None]] = []
        self.touched: set[str] = set()
        self.holds: Callable[[], bool] = lambda: True

    async def doing(self, number: int, what: Callable[[], Awaitable[object]]) -> None:
        if number == 0:  # a second one begins at once: what matters is when its statements are done and answered
            await self.database.gate()
        with suppress(DatabaseUnavailable):
            await what()

    def elsewhere(self, scope: str, is_on: bool) -> Callable[[], None]:
        """Another process switches, and we are told."""

        def switch() -> None:
            self.database.do("engage_control" if is_on else "release_control", scope, "theirs")
            self.controls.notice()

        return switch

    async def go(self, choices: list[tuple[int, int]]) -> None:
        """Let one thing happen after the other, as was chosen; then the rest, and the books must agree."""
        tasks = [asyncio.create_task(self.controls.run(NEVER_S))]
        tasks += [asyncio.create_task(self.doing(*each)) for each in enumerate(self.here)]
        others, step = list(self.others), 0
        try:
            await settled()
            while self.database.waiting or others:
                options = len(self.database.waiting) + bool(others)
                if self.database.loads:  # one read among what goes on; afterwards in the order in which it came
                    chosen = 0
                else:
                    if step == len(choices):
                        choices.append((0, options))
                    assert choices[step][1] == options, "the same choices led elsewhere"
                    chosen = choices[step][0]
                    step += 1
                if chosen < len(self.database.waiting):
                    self.database.waiting.pop(chosen).set_result(None)
                else:
                    others.pop(0)()
                await settled()
                self.check()
            assert self.controls.switches() == self.database.rows
            assert self.controls._limits == {s: {"position_max": n} for s, n in self.database.limits.items()}
            assert self.controls._suspended == self.database.suspended
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def check(self) -> None:
        """What one whole read has shown is known, and what was done here is not undone by it."""
        known = self.controls.switches()
        if self.database.loads == 1:
            assert known.keys() - self.touched == self.database.shown.keys() - self.touched
        assert self.holds(), known


async def every_order(make: Callable[[], Case]) -> int:
    """Go through every order in which the steps of a case can happen: how many there are."""
    choices: list[tuple[int, int]] = []
    orders = 0
    while True:
        try:
            await make().go(choices)
        except AssertionError as error:
            error.add_note(f"choices: {choices}")
            raise
        orders += 1
        while choices and choices[-1][0] + 1 == choices[-1][1]:
            choices.pop()
        if not choices:
            return orders
        choices[-1] = choices[-1][0] + 1, choices[-1][1]


def is_on(case: Case, scope: str) -> bool:
    return scope in case.controls.switches()


def engaged(case: Case) -> None:
    """Turned on here: from then on it is on."""
    called = False

    async def engage() -> None:
        nonlocal called
        called = True
        await case.controls.engage(HALT, "ours")

    case.here = [engage]
    case.holds = lambda: not called or is_on(case, HALT)


def released(case: Case) -> None:
    """Turned off here: from the answer on it is off, and the answer says that it was on."""
    case.database.rows[HALT] = "ours"
    case.controls.restrict(HALT, "ours")
    answers: list[bool] = []

    async def release() -> None:
        answers.append(await case.controls.release(HALT))

    case.here = [release]
    case.holds = lambda: not answers or (answers == [True] and not is_on(case, HALT))


def released_and_engaged(case: Case) -> None:
    released(case)
    (release,) = case.here
    again = False

    async def both() -> None:
        nonlocal again
        await release()
        again = True
        await case.controls.engage(HALT, "again")

    case.here = [both]
    case.holds = lambda: not again or is_on(case, HALT)


def engaged_and_released(case: Case) -> None:
    async def both() -> None:
        await case.controls.engage(HALT, "ours")
        await case.controls.release(HALT)

    case.here = [both]


def released_beside_engaged(case: Case) -> None:
    """Two at once: what is on at last is what the database has."""
    released(case)
    case.here.append(lambda: case.controls.engage(HALT, "again"))
    case.holds = lambda: True


def not_released(case: Case) -> None:
    """On, but not stored; that it is turned off fails, so it stays on at every moment until it is stored."""
    case.controls.hold(HALT, "ours")
    case.database.away = True

    async def release() -> None:
        try:
            await case.controls.release(HALT)
        finally:
            case.database.away = False
            await case.controls.engage("all", "as well")  # stores the other one, too

    case.here = [release]
    case.touched |= {"all"}
    case.holds = lambda: is_on(case, HALT)


def own_switches(case: Case) -> None:
    """A customer switches beside an operator."""
    own = own_scope(ONE)
    engaged(case)
    case.here.append(lambda: case.controls.engage(own, "its own"))
    case.touched |= {own}


HERE = [engaged, released, released_and_engaged, engaged_and_released, not_released]
TWO_AT_ONCE = [released_beside_engaged, own_switches]
ONE_STEP = [engaged, released]
OTHERS: dict[str, list[tuple[str, bool]]] = {
    "another is turned on": [(customer_scope(TWO), True)],
    "the same is turned on": [(HALT, True)],
    "the same is turned off": [(HALT, False)],
}


@pytest.mark.parametrize(
    ("here", "others"),
    [*itertools.product(HERE, OTHERS), *((each, "another is turned on") for each in TWO_AT_ONCE)],
)
async def test_no_order_loses_a_switch(here: Callable[[Case], None], others: str) -> None:
    """One read, one or two changes here and one elsewhere: their statements and answers in every order."""

    def make() -> Case:
        case = Case(READS[::2] if here in ONE_STEP else READS[:1])
        case.touched = {HALT}
        here(case)
        if others != "another is turned on":
            case.holds = lambda: True  # the other may undo it
        case.others = [case.controls.notice, *(case.elsewhere(*each) for each in OTHERS[others])]
        return case

    orders = await every_order(make)
    assert orders > 50


async def test_no_order_loses_limits_or_a_suspension() -> None:
    def make() -> Case:
        case = Case(READS)
        limited = suspended = False

        async def limit() -> None:
            nonlocal limited
            await case.controls.set_limits("type:cash", {"position_max": 5})
            limited = True

        async def suspend() -> None:
            nonlocal suspended
            case.database.suspended.add(ONE)
            await case.database.gate()
            case.controls.note_status(ONE, "suspended")
            suspended = True

        async def both() -> None:
            await limit()
            await suspend()

        case.here = [both]
        case.others = [case.elsewhere("all", True)]
        case.holds = lambda: all(
            (
                not limited or case.controls.own_limits("type:cash") == {"position_max": 5},
                not suspended or case.controls.suspended(ONE) is not None,
            )
        )
        return case

    orders = await every_order(make)
    assert orders > 50


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


class Distant(Tables):
    """A database that takes as long for a read as for a write, and tells of every write."""

    def __init__(self) -> None:
        super().__init__()
        self.told: Callable[[], None] = lambda: None
        self.reads = 0
        self.stuck: Callable[[str], bool] = lambda _: False

    async def fetch(self, name: str, *arguments: Any) -> list[dict[str, Any]]:
        self.reads += name == READS[0]
        await turns(20)
        if arguments and self.stuck(arguments[0]):
            await asyncio.Event().wait()
        found = self.do(name, *arguments)
        if name not in READS:
            self.told()
        await turns(20)
        return found


async def switches_for_ever(controls: Controls, customer_id: CustomerId) -> None:
    while True:
        await controls.engage(own_scope(customer_id), "its own")
        await controls.release(own_scope(customer_id))


async def test_customers_who_switch_without_end_do_not_keep_another_process_from_being_heard() -> None:
    database = Distant()
    controls = Controls(database, Limits())  # type: ignore[arg-type]
    database.told = controls.notice
    tasks = [asyncio.create_task(switches_for_ever(controls, CustomerId(n))) for n in range(4)]
    tasks.append(asyncio.create_task(controls.run(NEVER_S)))
    try:
        await turns(1000)
        database.do("engage_control", "all", "theirs")
        controls.notice()
        before = database.reads
        while database.reads < before + 3:
            await turns(1)
        assert controls.stopped(ONE) == "theirs"
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_customers_own_switches_hold_up_neither_an_operator_nor_what_is_heard() -> None:
    """Not even those whose writing never ends."""
    database = Distant()
    database.stuck = lambda scope: scope.startswith("self:")
    controls = Controls(database, Limits())  # type: ignore[arg-type]
    controls.hold(own_scope(TWO), "not stored")
    tasks = [asyncio.create_task(switches_for_ever(controls, CustomerId(n))) for n in range(50)]
    tasks.append(asyncio.create_task(controls.run(0.01)))
    try:
        await asyncio.sleep(0.05)
        async with asyncio.timeout(5):
            await controls.engage(HALT, "now")
            assert database.rows == {HALT: "now"}
            assert await controls.release(HALT)
            database.do("engage_control", "all", "theirs")
            while controls.stopped(ONE) != "theirs":
                await asyncio.sleep(0)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_what_is_not_stored_is_stored_without_anybody_asking() -> None:
    database = Distant()
    controls = Controls(database, Limits())  # type: ignore[arg-type]
    kept = {"all": "a drill", own_scope(ONE): "its own"}
    for scope, reason in kept.items():
        controls.hold(scope, reason)
    running = asyncio.create_task(controls.run(0.01))
    async with asyncio.timeout(5):
        while database.rows != kept:
            await asyncio.sleep(0.001)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


@pytest.mark.parametrize(
    ("scope", "side", "reason"),
    [
        ("all", Side.SELL, "trading stopped: r."),
        ("halt:AAPL", Side.SELL, "symbol halted: r."),
        ("restrict:AAPL", Side.BUY, "symbol restricted: r."),
        ("restrict:AAPL", Side.SELL, None),
        ("halt:MSFT", Side.BUY, None),
    ],
)
async def test_what_had_started_does_not_go_out_after_a_switch(scope: str, side: Side, reason: str | None) -> None:
    controls = Controls(Gated(()), Limits())  # type: ignore[arg-type]
    trade = working(account(cash="100000", shares={"AAPL": 100}), FixedMarket({"AAPL": "190.20"}), side)
    assert controls.why_not_sent(trade) is None
    controls.restrict(scope, "r")
    assert controls.why_not_sent(trade) == reason


async def test_of_a_suspended_customer_nothing_goes_out() -> None:
    controls = Controls(Gated(()), Limits())  # type: ignore[arg-type]
    trade = working(account(cash="100000"), FixedMarket({"AAPL": "190.20"}))
    controls.note_status(trade.customer_id, "suspended")
    words = controls.why_not_sent(trade)
    assert words is not None
    assert words.startswith("account suspended: ")
