"""Each rule on the simulation's books finds what breaks it: the rules of broker/sql/verify, by their names."""

import copy
import random
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from broker.core.messages import Step
from broker.core.money import Money
from broker.core.postings import CASH
from broker.core.types import OrderClass, Role, Status, TradeId
from broker.verify import rules
from tests.sim import store_verify
from tests.sim.faults import NONE
from tests.sim.loop import SimLoop
from tests.sim.store import MemoryStore
from tests.sim.store_rows import PostingRow
from tests.sim.test_every_await import Customer, _fill, _filled
from tests.sim.world import SYMBOLS, World

GONE = UUID(int=1)
ONLY_IN_POSTGRESQL = {"audit chains are whole", "events are as audited"}


async def _three_trades(world: World) -> None:
    """Three market orders, one after the other, all filled."""
    world.exchange._later = lambda order: world.loop.call_at(  # type: ignore[method-assign,assignment]
        world.loop.time() + 0.05, _fill, world, order, order.quantity, context=world.loop.world
    )
    world.boot()
    customer = Customer(world)
    for _ in range(3):
        await customer.until(await customer.place(), _filled)


@pytest.fixture
def store() -> MemoryStore:
    """Books that are right."""
    loop = SimLoop(random.Random(1))
    world = World(1, NONE, loop)
    loop.run_until_complete(loop.spawn(_three_trades(world)))
    loop.dead.update(world.processes)
    loop.close()
    assert world.store.verify() == []
    return world.store


def account(store: MemoryStore, asset: str = CASH, **change: int) -> None:
    """Change figures of the customer's account by so much."""
    key = (next(iter(store.customers)), asset)
    row = store.accounts[key]
    store.accounts[key] = row._replace(**{name: getattr(row, name) + by for name, by in change.items()})


def trade(store: MemoryStore, number: int, **figures: Any) -> TradeId:
    """Set figures of a trade."""
    id_ = list(store.trades)[number]
    changed = store.trades[id_] = copy.copy(store.trades[id_])
    for name, value in figures.items():
        setattr(changed, name, value)
    return id_


def event(store: MemoryStore, number: int, **figures: Any) -> None:
    """Set figures of an event."""
    key = list(store._events)[number]
    store._events[key] = store._events[key]._replace(**figures)


def execution(store: MemoryStore, **figures: Any) -> tuple[str, str]:
    """Set figures of an execution."""
    key = next(iter(store.executions))
    store.executions[key] = store.executions[key]._replace(**figures)
    return key


def post(store: MemoryStore, owner_id: int, amount: int) -> None:
    """A line more."""
    store.postings.append(PostingRow(GONE, owner_id, CASH, amount, 0, 0))


def group(store: MemoryStore, *orders: tuple[Role, Status, int]) -> None:
    """The trades belong together, with these roles, statuses and filled shares."""
    first = next(iter(store.trades))
    for number, (role, status, filled) in enumerate(orders):
        figures = {"group": first, "order_class": OrderClass.BRACKET, "filled_quantity": filled}
        trade(store, number, role=role, status=status, **figures)


def starts_early(store: MemoryStore) -> None:
    """The second trade starts although the first has not ended."""
    first, second = list(store.trades)[:2]
    for key, each in list(store._events.items()):
        if each.trade_id == first and each.step is Step.EXECUTED:
            store._events[key] = each._replace(at=each.at + timedelta(days=1), seq=each.seq + 1_000)
    assert first != second


ENTRY, PROFIT, STOP = Role.ENTRY, Role.TAKE_PROFIT, Role.STOP_LOSS
BREAKS: dict[str, Callable[[MemoryStore], object]] = {
    "no account is overdrawn": lambda s: account(s, balance=-2_000_000_000),
    "transfers sum to zero": lambda s: post(s, next(iter(s.customers)), 1),
    "balances are their postings": lambda s: account(s, balance=1),
    "postings have accounts and transfers": lambda s: post(s, 999, 1),
    "held is what open trades hold": lambda s: account(s, held=1),
    "trades are their executions": lambda s: trade(s, 0, filled_quantity=9),
    "finished trades hold nothing": lambda s: trade(s, 0, hold=1),
    "executions are settled once": lambda s: execution(s, last_px=Money(1)),
    "fills have executions": lambda s: s.executions.pop(next(iter(s.executions))),
    "events are gapless": lambda s: trade(s, 0, events=7),
    "events follow the state table": lambda s: event(s, 0, status=Status.FILLED),
    "customers number their trades": lambda s: trade(s, 2, seq=7),
    "trades start in order": starts_early,
    "cost less gain is bought less sold": lambda s: account(s, SYMBOLS[0], gain=1),
    "busts reverse their executions": lambda s: s.busts.update({next(iter(s.executions)): GONE}),
    "only margin accounts owe cash": lambda s: account(s, floor=-1),
    "replaced trades have a successor": lambda s: trade(s, 0, status=Status.REPLACED, reason="Replaced by order 2."),
    "customers number their events": lambda s: s._events.pop(list(s._events)[3]),
    "of two exits one is at the exchange": lambda s: group(
        s, (PROFIT, Status.IN_PROGRESS, 0), (STOP, Status.IN_PROGRESS, 0)
    ),
    "groups sell what they bought": lambda s: group(s, (ENTRY, Status.CANCELLED, 3), (PROFIT, Status.CANCELLED, 4)),
    "held exits wait for an open order": lambda s: group(s, (ENTRY, Status.CANCELLED, 0), (PROFIT, Status.HELD, 0)),
    "cost is of shares that are there": lambda s: account(s, SYMBOLS[0], cost=-100_000_000),
}


@pytest.mark.parametrize("rule", BREAKS)
def test_what_breaks_a_rule_is_found(rule: str, store: MemoryStore) -> None:
    """By this rule, whatever others say of it."""
    BREAKS[rule](store)
    assert rule in {words.partition(":")[0].replace("_", " ") for words in store.verify()}


def test_the_rules_are_those_of_the_broker() -> None:
    """All that `broker verify` looks at, but for what is only there in PostgreSQL."""
    names = [check.__name__.replace("_", " ") for check in store_verify.CHECKS]
    assert names == [rule for rule, _ in rules() if rule not in ONLY_IN_POSTGRESQL] == list(BREAKS)
