"""Who is woken up by which price, and what a trailing stop has seen."""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from broker import triggers
from broker.batch import Overloaded
from broker.core import trading
from broker.core.conditions import Conditions, Policy
from broker.core.messages import Wake
from broker.core.money import Money
from broker.core.types import CustomerId, OrderClass, OrderType, Role, Side, Symbol, Trade
from broker.shards import Unanswered
from broker.triggers import Triggers
from tests.builders import AAPL, NOW, account, conditions, dollars, order, trade_id
from tests.group_world import trailing as trailing_order


class Trails:
    """The table trail."""

    def __init__(self) -> None:
        self.rows: dict[UUID, int] = {}

    async def fetch(self, name: str, *arguments: Any) -> Sequence[dict[str, Any]]:
        ids = arguments[0]
        if name == "trails":
            return [{"trade_id": each, "high_water": self.rows[each]} for each in ids if each in self.rows]
        assert name == "save_trails"
        assert arguments[2] == [True] * len(ids), "they all sell"
        self.rows |= dict(zip(ids, arguments[1], strict=True))
        return []


class World:
    """Triggers with a market that a test moves, and all whom they woke up."""

    def __init__(self) -> None:
        self.woken: list[Wake] = []
        self.last: dict[Symbol, Money] = {}
        self.policy = Policy(session_end=lambda _: NOW + timedelta(hours=6))
        self.now: datetime = NOW
        self.is_busy = False
        self.is_unanswered = False
        self.is_there = True
        self.trails = Trails()
        self.triggers = Triggers(self.wake, self.last.get, self.conditions, self.trails)  # type: ignore[arg-type]

    def conditions(self) -> Conditions:
        return conditions(policy=self.policy, now=self.now)

    def wake(self, _: CustomerId, wake: Wake) -> asyncio.Future[Any]:
        if self.is_busy:
            raise Overloaded("shard")
        self.woken.append(wake)
        answer = asyncio.get_running_loop().create_future()
        if self.is_unanswered:
            answer.set_exception(Unanswered("in time"))
        else:
            answer.set_result(self.is_there)
        return answer

    def prices(self) -> list[tuple[int, str | None, str | None]]:
        """Whom it woke up since the last time, by which price, and where the stop was."""
        woken, self.woken = self.woken, []
        return [(each.trade_id.int, _text(each.price), _text(each.stop_price)) for each in woken]


def _text(price: Money | None) -> str | None:
    return None if price is None else f"{price / 10_000:.2f}"


def held(number: int, stop: str | None = None, amount: str | None = None, side: Side = Side.SELL) -> Trade:
    holder = account(shares={"AAPL": 100})
    command = trailing_order(holder, side, amount=amount) if amount else order(holder, side, stop=stop)
    trade = trading.place(holder, command, conditions())[0].trade
    trade.trade_id = trade_id(number)
    return trade


async def test_a_stop_wakes_up_at_its_price_or_beyond() -> None:
    world = World()
    world.triggers.hold(held(1, stop="180.00"))
    world.triggers.hold(held(2, stop="200.00", side=Side.BUY))
    for price in ("180.01", "199.99"):
        world.triggers.saw(AAPL, dollars(price))
    assert world.prices() == []
    world.triggers.saw(AAPL, dollars("180.00"))
    world.triggers.saw(AAPL, dollars("201.00"))
    assert world.prices() == [(1, "180.00", "180.00"), (2, "201.00", "200.00")]


async def test_what_was_woken_up_is_left_alone_for_a_moment() -> None:
    world = World()
    world.triggers.hold(held(1, stop="180.00"))
    for _ in range(3):
        world.triggers.saw(AAPL, dollars("179.00"))
    assert len(world.prices()) == 1


@pytest.mark.parametrize("why", ["is_busy", "is_unanswered"])
async def test_a_price_that_was_reached_is_told_until_it_is_answered(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the market has turned meanwhile: the shard was full, or the database away."""
    monkeypatch.setattr(triggers, "_QUIET_S", 0)
    world = World()
    world.triggers.hold(held(1, stop="180.00"))
    setattr(world, why, True)
    world.triggers.saw(AAPL, dollars("179.00"))
    await asyncio.sleep(0)
    world.prices()
    setattr(world, why, False)
    world.last[AAPL] = dollars("185.00")
    world.triggers.saw(AAPL, dollars("185.00"))
    await world.triggers.look()
    assert world.prices() == [(1, "179.00", "180.00")]
    await asyncio.sleep(0)
    await world.triggers.look()
    assert world.prices() == []


async def test_a_price_that_is_beyond_already_wakes_up_at_once() -> None:
    world = World()
    world.last[AAPL] = dollars("170.00")
    world.triggers.hold(held(1, stop="180.00"))
    assert world.prices() == [(1, "170.00", "180.00")]


@pytest.mark.parametrize("is_unanswered", [False, True])
async def test_what_another_process_has_ended_is_forgotten(is_unanswered: bool) -> None:
    world = World()
    world.is_there, world.is_unanswered = False, is_unanswered
    world.triggers.hold(held(1, stop="180.00"))
    world.triggers.saw(AAPL, dollars("180.00"))
    await asyncio.sleep(0)
    assert (AAPL in world.triggers.symbols) is is_unanswered


async def test_a_trailing_stop_follows_every_price() -> None:
    world = World()
    world.triggers.hold(held(1, amount="5.00"))
    for price in ("190.00", "195.00", "190.01", "191.00"):
        world.triggers.saw(AAPL, dollars(price))
    assert world.prices() == []
    world.triggers.saw(AAPL, dollars("190.00"))
    assert world.prices() == [(1, "190.00", "190.00")]


async def test_prices_outside_the_session_trigger_nothing_and_move_no_trailing_stop() -> None:
    world = World()
    world.triggers.hold(held(1, amount="5.00"))
    world.triggers.saw(AAPL, dollars("190.00"))
    world.policy = Policy(is_open=lambda _: False)
    for price in ("300.00", "100.00"):
        world.triggers.saw(AAPL, dollars(price))
    world.policy = Policy()
    world.triggers.saw(AAPL, dollars("185.01"))
    assert world.prices() == []
    world.triggers.saw(AAPL, dollars("185.00"))
    assert world.prices() == [(1, "185.00", "185.00")]


async def test_what_has_ended_or_is_of_another_symbol_hears_nothing() -> None:
    world = World()
    world.triggers.hold(held(1, stop="180.00"))
    world.triggers.saw(Symbol("MSFT"), dollars("1.00"))
    world.triggers.done(trade_id(1))
    world.triggers.done(trade_id(1))
    world.triggers.saw(AAPL, dollars("1.00"))
    assert (world.prices(), world.triggers.symbols) == ([], {})


async def test_a_replacement_goes_on_from_where_the_replaced_one_was() -> None:
    world = World()
    world.triggers.hold(held(1, amount="5.00"))
    world.triggers.saw(AAPL, dollars("195.00"))
    new = held(2, amount="10.00")
    new.replaces = trade_id(1)
    world.triggers.done(trade_id(1))  # its end comes first, as the shard acts on a batch
    world.triggers.hold(new)
    world.triggers.saw(AAPL, dollars("185.00"))
    assert world.prices() == [(2, "185.00", "185.00")]


async def test_what_it_has_seen_is_saved_and_read_again() -> None:
    world = World()
    world.triggers.hold(held(1, amount="5.00"))
    world.triggers.saw(AAPL, dollars("195.00"))
    await world.triggers.look()
    assert world.trails.rows == {trade_id(1): 1_950_000}
    after = World()
    after.trails = world.trails
    after.triggers = Triggers(after.wake, after.last.get, after.conditions, world.trails)  # type: ignore[arg-type]
    after.triggers.hold(held(1, amount="5.00"))
    after.triggers.saw(AAPL, dollars("192.00"))
    await after.triggers.look()
    assert world.trails.rows == {trade_id(1): 1_950_000}
    after.triggers.saw(AAPL, dollars("190.00"))
    assert after.prices() == [(1, "190.00", "190.00")]


@pytest.mark.parametrize("has_price", [True, False])
async def test_the_clock_ends_a_day_and_opens_the_market(has_price: bool) -> None:
    world = World()
    if has_price:
        world.last[AAPL] = dollars("190.00")
    waits, day = held(1), held(2, amount="5.00")
    assert waits.order_type is OrderType.MARKET
    world.policy = Policy(is_open=lambda _: world.now > NOW, session_end=lambda _: NOW + timedelta(hours=6))
    world.triggers.hold(waits)
    world.triggers.hold(day)
    await world.triggers.look()
    assert world.prices() == []
    world.now = NOW + timedelta(hours=1)
    await world.triggers.look()
    assert world.prices() == [(1, None, None)]
    world.now = NOW + timedelta(hours=6)
    world.triggers.done(trade_id(1))
    await world.triggers.look()
    assert world.prices() == [(2, None, None)]


async def test_a_mark_that_is_not_read_yet_is_not_overwritten() -> None:
    world = World()
    world.trails.rows[trade_id(1)] = 2_000_000
    world.triggers.hold(held(1, amount="5.00"))
    world.triggers.saw(AAPL, dollars("150.00"))
    loading = world.trails.fetch

    async def and_another_comes(name: str, *arguments: Any) -> Sequence[dict[str, Any]]:
        rows = await loading(name, *arguments)
        if name == "trails" and trade_id(2) not in arguments[0]:
            world.trails.rows[trade_id(2)] = 1_900_000
            world.triggers.hold(held(2, amount="5.00"))
            world.triggers.saw(AAPL, dollars("150.00"))
        return rows

    world.trails.fetch = and_another_comes  # type: ignore[method-assign]
    await world.triggers.look()
    assert world.trails.rows == {trade_id(1): 2_000_000, trade_id(2): 1_900_000}


async def test_an_exit_that_may_not_go_out_yet_is_tried_every_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triggers, "_QUIET_S", 0)
    world = World()
    take_profit = held(1, stop="180.00")
    take_profit.role, take_profit.order_class = Role.TAKE_PROFIT, OrderClass.BRACKET
    world.triggers.hold(take_profit)
    world.triggers.saw(AAPL, dollars("1.00"))
    assert world.prices() == []
    for _ in range(2):
        await world.triggers.look()
    assert world.prices() == [(1, None, None)] * 2
