"""Brackets, OCO and OTO orders, trailing stops, and what else is held here."""

from copy import deepcopy
from dataclasses import replace
from datetime import timedelta
from typing import NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core import credit, groups, trading
from broker.core import trailing as trails
from broker.core.conditions import Limits, Policy
from broker.core.fees import parse_fees
from broker.core.messages import CancelAll, CancelTrade, Refusal, Refused, ReplaceTrade, Wake
from broker.core.money import Money
from broker.core.types import AccountType, OrderClass, OrderType, Role, Side, Status, TimeInForce, Trade
from tests.builders import AAPL, NOW, FixedControls, FixedMarket, account, conditions, dollars, order, trade_id
from tests.group_world import GroupWorld, group, trailing

BRACKET, OCO, OTO = OrderClass.BRACKET, OrderClass.OCO, OrderClass.OTO


def bracket(entry_limit: str | None = None, quantity: int = 10) -> GroupWorld:
    """Orders 1 (the entry, at work), 2 (the take profit) and 3 (the stop loss)."""
    world = GroupWorld(account(cash="10000"), FixedMarket({"AAPL": "190.00"}))
    command = group(world.holder, BRACKET, "200.00", "180.00", quantity=quantity, limit=entry_limit)
    assert world.do(command) == [
        (1, "placed", "PLACED"),
        (2, "placed", "PLACED"),
        (2, "held", "HELD"),
        (3, "placed", "PLACED"),
        (3, "held", "HELD"),
        (1, "started", "IN PROGRESS"),
    ]
    return world


def filled_bracket() -> GroupWorld:
    """The entry has filled: the take profit is at the exchange."""
    world = bracket()
    assert world.fill(1, 10, "190.00") == [(1, "executed", "FILLED"), (2, "started", "IN PROGRESS")]
    world.say(2, "ACCEPTED")
    return world


def shares(world: GroupWorld) -> tuple[int, int]:
    """The position: what there is, and what of it is on hold."""
    position = world.holder.positions[world.trade(1).symbol]
    return position.balance, position.held


# ------------------------------------------------------------------ brackets


def test_the_exits_of_a_bracket_are_held_until_its_entry_has_filled_in_full() -> None:
    world = bracket()
    assert world.fill(1, 4, "190.00") == [(1, "executed", "PARTIALLY FILLED")]
    assert world.wake(3, "100.00") == []
    assert world.fill(1, 6, "190.00") == [(1, "executed", "FILLED"), (2, "started", "IN PROGRESS")]
    assert world.open() == {2: "IN PROGRESS", 3: "HELD"}
    assert shares(world) == (10, 10)
    take_profit, stop_loss = world.trade(2), world.trade(3)
    assert (take_profit.side, take_profit.order_type, take_profit.role) == (
        Side.SELL,
        OrderType.LIMIT,
        Role.TAKE_PROFIT,
    )
    assert (stop_loss.side, stop_loss.order_type, stop_loss.role) == (Side.SELL, OrderType.STOP, Role.STOP_LOSS)
    assert {each.group for each in world.trades.values()} == {trade_id(1)}
    assert [each.seq for each in world.trades.values()] == [1, 2, 3]


def test_the_take_profit_fills_and_the_stop_loss_is_cancelled() -> None:
    world = filled_bracket()
    assert world.fill(2, 10, "200.00") == [(2, "executed", "FILLED"), (3, "ended", "CANCELLED")]
    assert world.trade(3).reason == "The other exit of its group has filled."
    assert (world.open(), shares(world)) == ({}, (0, 0))


def test_the_stop_loss_waits_until_the_exchange_has_let_the_take_profit_go() -> None:
    world = filled_bracket()
    assert world.wake(3, "180.01") == []
    assert world.wake(3, "180.00") == [(3, "triggered", "HELD"), (2, "cancel_requested", "IN PROGRESS")]
    assert world.wake(3, "179.00") == []
    assert world.say(2, "CANCELLED", "asked") == [(2, "ended", "CANCELLED"), (3, "started", "IN PROGRESS")]
    assert world.trade(2).reason == "The stop loss of its group was reached."
    assert shares(world) == (10, 10)
    assert world.fill(3, 10, "179.50") == [(3, "executed", "FILLED")]
    assert shares(world) == (0, 0)


def test_a_take_profit_that_fills_before_its_cancel_arrives_sells_nothing_twice() -> None:
    world = filled_bracket()
    world.wake(3, "180.00")
    assert world.fill(2, 10, "200.00") == [(2, "executed", "FILLED"), (3, "ended", "CANCELLED")]
    assert (world.open(), shares(world)) == ({}, (0, 0))


def test_of_a_take_profit_that_fills_in_part_the_stop_loss_sells_the_rest() -> None:
    world = filled_bracket()
    assert world.fill(2, 3, "200.00") == [(2, "executed", "PARTIALLY FILLED"), (3, "restated", "HELD")]
    assert world.trade(3).quantity == 7
    world.wake(3, "180.00")
    assert world.fill(2, 2, "200.00") == [(2, "executed", "PARTIALLY FILLED"), (3, "restated", "HELD")]
    assert world.say(2, "CANCELLED", "asked") == [(2, "ended", "CANCELLED"), (3, "started", "IN PROGRESS")]
    assert world.fill(3, 5, "179.50") == [(3, "executed", "FILLED")]
    assert shares(world) == (0, 0)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_whoever_cancels_one_of_a_bracket_cancels_all_of_it(number: int) -> None:
    world = bracket()
    world.do(CancelTrade(world.holder.customer_id, trade_id(number)))
    assert world.trade(1).cancel_requested
    world.say(1, "CANCELLED", "asked")
    assert world.open() == {}
    assert {each.status for each in world.trades.values()} == {Status.CANCELLED}
    assert world.holder.cash.held == 0


@pytest.mark.parametrize("number", [2, 3])
def test_whoever_cancels_one_exit_cancels_the_other(number: int) -> None:
    world = filled_bracket()
    world.do(CancelTrade(world.holder.customer_id, trade_id(number)))
    world.say(2, "CANCELLED", "asked")
    assert (world.open(), shares(world)) == ({}, (10, 0))


def test_after_a_cancel_no_price_brings_a_stop_loss_out() -> None:
    world = filled_bracket()
    steps = world.do(CancelTrade(world.holder.customer_id, trade_id(2)))
    assert steps == [(2, "cancel_requested", "IN PROGRESS"), (3, "ended", "CANCELLED")]
    assert world.wake(3, "180.00") == []
    world.say(2, "CANCELLED", "asked")
    assert (world.open(), shares(world)) == ({}, (10, 0))


def test_a_cancel_overrules_a_stop_loss_that_was_about_to_go_out() -> None:
    world = filled_bracket()
    world.wake(3, "180.00")
    assert world.do(CancelTrade(world.holder.customer_id, trade_id(2))) == [(3, "ended", "CANCELLED")]
    assert world.say(2, "CANCELLED", "asked") == [(2, "ended", "CANCELLED")]
    assert (world.open(), shares(world)) == ({}, (10, 0))


def test_an_entry_that_fills_although_it_was_to_be_cancelled_has_its_exits() -> None:
    world = bracket("189.00")
    world.do(CancelTrade(world.holder.customer_id, trade_id(1)))
    assert world.open() == {1: "IN PROGRESS", 2: "HELD", 3: "HELD"}
    assert world.fill(1, 10, "189.00") == [(1, "executed", "FILLED"), (2, "started", "IN PROGRESS")]


def test_all_of_a_group_are_cancelled_once() -> None:
    world = bracket("189.00")
    steps = world.do(CancelAll(world.holder.customer_id))
    assert sorted(steps) == [
        (1, "cancel_requested", "IN PROGRESS"),
        (2, "ended", "CANCELLED"),
        (3, "ended", "CANCELLED"),
    ]


def never_compared(one: Trade, other: object) -> NoReturn:
    """It takes forty fields to find two equal, and there is only one of each."""
    raise AssertionError(f"{one.trade_id} was compared")


def test_an_order_leaves_the_queue_without_being_compared_with_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands may wait, and nothing else is decided meanwhile."""
    world = GroupWorld(account(cash="10000"), FixedMarket({"AAPL": "190.00"}), Policy(is_open=lambda _: False))
    opening = order(world.holder, number=1, quantity=1)
    opening.waits_for_open = True
    world.do(opening)
    world.policy = Policy()
    world.do(order(world.holder, number=2, quantity=1))  # it keeps the turn
    for number in range(3, 9):
        world.do(order(world.holder, number=number, quantity=1, limit="180.00"))
    world.do(group(world.holder, OCO, None, "200.00", number=9, quantity=1, limit="180.00"))
    world.do(Wake(world.holder.customer_id, trade_id(1)))  # it is held no longer, and waits with its hold
    assert [each.trade_id.int for each in world.holder.waiting] == [1, *range(3, 10)]
    monkeypatch.setattr(Trade, "__eq__", never_compared)
    world.do(CancelTrade(world.holder.customer_id, trade_id(5)))
    assert replaced(world, 4, 20, limit_price=dollars("181.00")) == [(20, "placed", "PLACED"), (4, "ended", "REPLACED")]
    world.do(CancelAll(world.holder.customer_id))
    assert (world.open(), world.holder.cash.held) == ({2: "IN PROGRESS"}, world.trade(2).hold)


@pytest.mark.parametrize(
    ("word", "end"), [("CANCELLED", "CANCELLED"), ("EXPIRED", "EXPIRED"), ("REJECTED", "CANCELLED")]
)
def test_with_an_entry_that_ends_unfilled_its_exits_end(word: str, end: str) -> None:
    world = bracket("189.00")
    steps = world.say(1, word, "so it is")
    assert steps == [(1, "ended", word), (2, "ended", end), (3, "ended", end)]
    assert world.trade(2).reason == f"Order {trade_id(1)} of its group is {word.lower()}."


def test_an_entry_that_ends_filled_in_part_leaves_its_shares_without_exits() -> None:
    """As Alpaca has it: the exits become active only when the entry has filled completely."""
    world = bracket("189.00")
    world.fill(1, 4, "189.00")
    assert world.say(1, "EXPIRED") == [(1, "ended", "EXPIRED"), (2, "ended", "EXPIRED"), (3, "ended", "EXPIRED")]
    assert shares(world) == (4, 0)


def test_a_take_profit_that_the_exchange_ends_ends_the_stop_loss() -> None:
    world = filled_bracket()
    assert world.say(2, "EXPIRED") == [(2, "ended", "EXPIRED"), (3, "ended", "EXPIRED")]
    assert (world.open(), shares(world)) == ({}, (10, 0))


def test_a_group_that_is_refused_leaves_nothing_behind() -> None:
    world = GroupWorld(account(cash="100"), FixedMarket({"AAPL": "190.00"}))
    steps = world.do(group(world.holder, BRACKET, "200.00", "180.00"))
    assert steps[-3:] == [(1, "ended", "REJECTED"), (2, "ended", "CANCELLED"), (3, "ended", "CANCELLED")]
    assert world.open() == {}


def test_an_exit_that_may_not_go_out_yet_waits_until_it_may() -> None:
    world = bracket()
    world.controls = FixedControls(halt_AAPL="news")
    assert world.fill(1, 10, "190.00") == [(1, "executed", "FILLED"), (2, "held", "HELD")]
    assert world.trade(2).reason == "It waits: symbol halted: news."
    wake = Wake(world.holder.customer_id, trade_id(2))
    assert world.do(wake) == []
    world.controls = FixedControls(stopped_by_itself="yes")
    assert world.do(wake) == [(2, "started", "IN PROGRESS")], "it is no new order"


def test_what_is_traded_outside_the_session_triggers_nothing() -> None:
    world = filled_bracket()
    world.policy = Policy(is_open=lambda _: False)
    assert world.wake(3, "100.00") == []
    world.policy = Policy()
    assert world.wake(3, "180.00")[0] == (3, "triggered", "HELD")


def test_why_a_take_profit_is_cancelled_is_said_also_when_the_exchange_had_not_acknowledged_it() -> None:
    world = bracket()
    world.fill(1, 10, "190.00")
    world.wake(3, "180.00")
    world.say(2, "ACCEPTED")
    world.say(2, "CANCELLED", "asked")
    assert world.trade(2).reason == "The stop loss of its group was reached."


def test_a_take_profit_is_not_cancelled_for_a_stop_loss_that_may_not_go_out() -> None:
    world = filled_bracket()
    world.controls = FixedControls(stopped="the kill switch")
    assert world.wake(3, "180.00") == [(3, "held", "HELD")]
    assert world.wake(3, "179.00") == [], "said once"
    world.controls = FixedControls()
    assert world.wake(3, "179.00") == [(3, "triggered", "HELD"), (2, "cancel_requested", "IN PROGRESS")]
    world.controls = FixedControls(stopped="the kill switch")
    assert world.say(2, "CANCELLED", "asked") == [(2, "ended", "CANCELLED"), (3, "held", "HELD")]
    world.controls = FixedControls()
    assert world.do(Wake(world.holder.customer_id, trade_id(3))) == [(3, "started", "IN PROGRESS")]


def test_an_exit_that_waits_for_cash_says_so_once_however_the_price_moves() -> None:
    """What it needs changes with every price; that it is the cash that it waits for does not."""
    world = GroupWorld(account(shares={"AAPL": 10}), FixedMarket({"AAPL": "100.00"}))
    world.do(group(world.holder, BRACKET, "95.00", "105.00", side=Side.SELL, limit="100.00"))
    world.fill(1, 10, "100.00")
    said = []
    for cents in range(100):
        world.market.asks[AAPL] = Money(dollars("106.00") + cents * 100)
        said += world.wake(3, f"106.{cents:02}")
    assert said == [(3, "held", "HELD")]
    assert world.trade(3).reason.startswith("It waits: insufficient funds: the trade needs $1,060.00")
    world.controls = FixedControls(halt_AAPL="news")
    assert world.wake(3, "107.00") == [(3, "held", "HELD")], "it waits for something else"
    assert world.trade(3).reason == "It waits: symbol halted: news."


def test_an_exit_whose_figures_are_a_slip_of_the_finger_is_refused_with_its_entry() -> None:
    world = GroupWorld(account(cash="10000"), FixedMarket({"AAPL": "190.00"}))
    command = group(world.holder, BRACKET, "200.00", "180.00", stop_limit="20.00")
    steps = world.do(command)
    assert steps == [(1, "placed", "PLACED"), (1, "ended", "REJECTED")]
    assert world.trade(1).reason.startswith("price too far from the market: the limit is $20.00")
    command.only_if_accepted, command.trade_id = True, trade_id(9)
    assert isinstance(world.decide(command).answers[0][1], Refused)


def test_the_clock_ends_no_exit_of_a_group() -> None:
    """Its day ends with the order that is at the exchange, which says so."""
    world = filled_bracket()
    world.policy, world.now = Policy(session_end=lambda _: NOW), NOW + timedelta(days=1)
    assert world.do(Wake(world.holder.customer_id, trade_id(3))) == []


# ------------------------------------------------------------------ OCO and OTO


def test_of_an_oco_the_take_profit_rests_and_the_stop_loss_is_held() -> None:
    world = GroupWorld(account(shares={"AAPL": 10}), FixedMarket({"AAPL": "190.00"}))
    steps = world.do(group(world.holder, OCO, None, "180.00", side=Side.SELL, limit="200.00"))
    assert steps[-1] == (1, "started", "IN PROGRESS")
    assert world.open() == {2: "HELD", 1: "IN PROGRESS"}
    assert world.trade(2).side is Side.SELL
    world.say(1, "ACCEPTED")
    assert world.wake(2, "180.00") == [(2, "triggered", "HELD"), (1, "cancel_requested", "IN PROGRESS")]
    assert world.say(1, "CANCELLED", "asked") == [(1, "ended", "CANCELLED"), (2, "started", "IN PROGRESS")]


def test_an_oco_whose_take_profit_waits_for_its_turn_can_be_stopped_too() -> None:
    world = GroupWorld(account(cash="10000", shares={"AAPL": 10}), FixedMarket({"AAPL": "190.00"}))
    world.do(order(world.holder, number=9))
    world.do(group(world.holder, OCO, None, "180.00", side=Side.SELL, limit="200.00"))
    assert world.open() == {1: "PLACED", 2: "HELD", 9: "IN PROGRESS"}
    assert world.wake(2, "179.00") == [
        (2, "triggered", "HELD"),
        (1, "ended", "CANCELLED"),
        (2, "started", "IN PROGRESS"),
    ]


@pytest.mark.parametrize(("exits", "type_"), [(("200.00", None), OrderType.LIMIT), ((None, "180.00"), OrderType.STOP)])
def test_the_one_exit_of_an_oto_goes_to_the_exchange(exits: tuple[str | None, str | None], type_: OrderType) -> None:
    world = GroupWorld(account(cash="10000"), FixedMarket({"AAPL": "190.00"}))
    world.do(group(world.holder, OTO, *exits))
    assert world.fill(1, 10, "190.00") == [(1, "executed", "FILLED"), (2, "started", "IN PROGRESS")]
    assert world.trade(2).order_type is type_
    assert world.fill(2, 10, "200.00") == [(2, "executed", "FILLED")]


def test_an_exit_waits_for_nobody_and_nobody_for_it() -> None:
    world = filled_bracket()
    world.do(order(world.holder, number=9, quantity=1))
    assert list(world.holder.turns) == [trade_id(9)]
    world.wake(3, "180.00")
    world.say(2, "CANCELLED", "asked")
    assert list(world.holder.turns) == [trade_id(9)]
    world.fill(9, 1, "190.00")
    assert not world.holder.turns


# ------------------------------------------------------------------ replacing in a group


def replaced(world: GroupWorld, old: int, new: int, **figures: object) -> list[tuple[int, str, str]]:
    command = ReplaceTrade(trade_id(new), world.holder.customer_id, trade_id(old))
    for name, figure in figures.items():
        setattr(command, name, figure)
    return world.do(command)


def test_a_stop_loss_that_is_held_is_replaced_here() -> None:
    world = filled_bracket()
    steps = replaced(world, 3, 4, stop_price=dollars("185.00"))
    assert steps == [(4, "placed", "PLACED"), (3, "ended", "REPLACED"), (4, "held", "HELD")]
    assert world.wake(4, "185.00")[0] == (4, "triggered", "HELD")


def test_a_take_profit_is_replaced_at_the_exchange_and_its_group_goes_on() -> None:
    world = filled_bracket()
    assert replaced(world, 2, 4, limit_price=dollars("210.00"))[-1] == (4, "started", "IN PROGRESS")
    assert world.say(4, "ACCEPTED") == [(2, "ended", "REPLACED"), (4, "accepted", "IN PROGRESS")]
    assert world.open() == {3: "HELD", 4: "IN PROGRESS"}
    assert world.fill(4, 10, "210.00") == [(4, "executed", "FILLED"), (3, "ended", "CANCELLED")]


def test_with_an_entry_that_the_exchange_replaces_unasked_its_exits_end() -> None:
    world = bracket(entry_limit="190.00")
    world.say(1, "ACCEPTED")
    assert world.say(1, "REPLACED") == [(1, "ended", "REPLACED"), (2, "ended", "CANCELLED"), (3, "ended", "CANCELLED")]
    assert world.open() == {}


def test_a_replacement_that_the_exchange_refuses_leaves_the_group_as_it_was() -> None:
    world = filled_bracket()
    replaced(world, 2, 4, limit_price=dollars("210.00"))
    assert world.say(4, "REJECTED", "no") == [(4, "ended", "REJECTED")]
    assert world.open() == {2: "IN PROGRESS", 3: "HELD"}


def test_a_stop_loss_waits_for_a_replacement_that_is_on_its_way() -> None:
    world = filled_bracket()
    replaced(world, 2, 4, limit_price=dollars("210.00"))
    steps = world.wake(3, "180.00")
    assert steps == [
        (3, "triggered", "HELD"),
        (2, "cancel_requested", "IN PROGRESS"),
        (4, "cancel_requested", "IN PROGRESS"),
    ]
    assert world.say(2, "CANCELLED", "asked") == [(2, "ended", "CANCELLED")]
    assert world.say(4, "REJECTED", "no") == [(4, "ended", "REJECTED"), (3, "started", "IN PROGRESS")]


def test_of_a_group_only_what_is_open_is_remembered() -> None:
    """Else a customer who replaces an exit for days, or tries to, fills the memory."""
    world = filled_bracket()
    for number in range(4, 54):
        assert replaced(world, number - 1, number, stop_price=dollars("181.00"))[-1] == (number, "held", "HELD")
    assert [each.trade_id.int for each in world.holder.groups[trade_id(1)]] == [2, 52, 53], "and the last replaced one"
    world.controls = FixedControls(Limits(orders_per_second=1))
    for number in range(54, 104):
        assert replaced(world, 53, number, stop_price=dollars("182.00"))[-1] == (number, "ended", "REJECTED")
    assert [each.trade_id.int for each in world.holder.groups[trade_id(1)]] == [2, 53, 103]
    assert world.fill(2, 4, "200.00") == [(2, "executed", "PARTIALLY FILLED"), (53, "restated", "HELD")]
    assert world.fill(2, 6, "200.00") == [(2, "executed", "FILLED"), (53, "ended", "CANCELLED")]
    assert (world.holder.groups, shares(world)) == ({}, (0, 0))


def test_an_entry_is_replaced_and_its_exits_wait_for_the_new_one() -> None:
    world = bracket("189.00")
    world.say(1, "ACCEPTED")
    replaced(world, 1, 4, limit_price=dollars("188.00"))
    world.say(4, "ACCEPTED")
    assert world.open() == {2: "HELD", 3: "HELD", 4: "IN PROGRESS"}
    assert world.fill(4, 10, "188.00") == [(4, "executed", "FILLED"), (2, "started", "IN PROGRESS")]


def test_an_entry_that_fills_before_its_replacement_arrives_lets_the_exits_go() -> None:
    world = bracket("189.00")
    world.say(1, "ACCEPTED")
    replaced(world, 1, 4, limit_price=dollars("188.00"))
    steps = world.fill(1, 10, "189.00") + world.say(4, "REJECTED", "the order to replace is FILLED")
    assert steps == [(1, "executed", "FILLED"), (2, "started", "IN PROGRESS"), (4, "ended", "REJECTED")]
    assert world.open() == {2: "IN PROGRESS", 3: "HELD"}


@pytest.mark.parametrize("kind", [BRACKET, OTO])
def test_when_an_entry_fills_before_its_replacement_its_exits_are_watched(kind: OrderClass) -> None:
    world = GroupWorld(account(cash="10000"), FixedMarket({"AAPL": "190.00"}))
    world.do(group(world.holder, kind, "200.00" if kind is BRACKET else None, "180.00", limit="189.00"))
    world.say(1, "ACCEPTED")
    replaced(world, 1, 9, limit_price=dollars("188.00"))
    assert world.fill(1, 10, "189.00")[1] == (2, "started", "IN PROGRESS")
    watched = [each.trade_id.int for each in groups.held_with(world.holder, world.trade(1))]
    assert watched == ([3] if kind is BRACKET else [])
    assert world.say(9, "REJECTED", "the order to replace is FILLED") == [(9, "ended", "REJECTED")]
    assert 2 in world.open()


def test_of_orders_of_a_group_only_the_prices_are_replaced() -> None:
    world = filled_bracket()
    answer = world.decide(ReplaceTrade(trade_id(4), world.holder.customer_id, trade_id(2), quantity=5)).answers[0][1]
    assert isinstance(answer, Refused)
    assert "only the prices" in answer.detail


# ------------------------------------------------------------------ trailing stops


def trailing_world(amount: str | None = "5.00", bps: int | None = None) -> GroupWorld:
    world = GroupWorld(account(cash="10000", shares={"AAPL": 10}), FixedMarket({"AAPL": "190.00"}))
    steps = world.do(trailing(world.holder, amount=amount, bps=bps))
    assert steps == [(1, "placed", "PLACED"), (1, "held", "HELD")]
    return world


def test_a_trailing_stop_is_held_with_its_shares_and_holds_up_nobody() -> None:
    world = trailing_world()
    assert shares(world) == (10, 10)
    assert world.do(order(world.holder, number=2, quantity=1))[-1] == (2, "started", "IN PROGRESS")


def test_a_trailing_stop_goes_out_with_the_price_that_it_had_come_to() -> None:
    world = trailing_world()
    assert world.wake(1, "194.51", stop="194.50") == []
    assert world.wake(1, "194.49", stop="194.50") == [(1, "started", "IN PROGRESS")]
    trade = world.trade(1)
    assert (trade.stop_price, trade.triggered, trade.hold) == (dollars("194.50"), True, 10)
    assert world.fill(1, 10, "194.40") == [(1, "executed", "FILLED")]
    assert shares(world) == (0, 0)


def test_a_trailing_buy_reserves_what_it_can_cost() -> None:
    world = GroupWorld(account(cash="10000"), FixedMarket({"AAPL": "190.00"}))
    world.do(trailing(world.holder, Side.BUY, bps=500))
    assert world.trade(1).hold == dollars("2094.75")  # 10 x ($190.00 + 5 %) + 5 %
    assert world.holder.cash.held == dollars("2094.75")
    assert world.wake(1, "180.00", stop="180.00") == [(1, "started", "IN PROGRESS")]
    assert world.holder.cash.held == dollars("1995.00")  # the ask stands still in this market


def test_a_trailing_stop_of_the_day_ends_with_the_session() -> None:
    world = trailing_world()
    world.policy = Policy(session_end=lambda _: NOW + timedelta(hours=6))
    wake = Wake(world.holder.customer_id, trade_id(1))
    assert world.do(wake) == []
    world.now = NOW + timedelta(hours=6)
    assert world.do(wake) == [(1, "ended", "EXPIRED")]
    assert shares(world) == (10, 0)


def test_a_trailing_stop_is_cancelled_at_once() -> None:
    world = trailing_world()
    assert world.do(CancelTrade(world.holder.customer_id, trade_id(1))) == [(1, "ended", "CANCELLED")]
    assert shares(world) == (10, 0)


def test_a_trailing_stop_gets_another_trail() -> None:
    world = trailing_world()
    steps = replaced(world, 1, 2, trail=dollars("3.00"))
    assert steps == [(2, "placed", "PLACED"), (1, "ended", "REPLACED"), (2, "held", "HELD")]
    assert (world.trade(2).trail_amount, shares(world)) == (dollars("3.00"), (10, 10))


@pytest.mark.parametrize("trail", ["0.005", "100", "0"])
def test_a_percentage_that_is_none_is_no_new_trail(trail: str) -> None:
    world = trailing_world(amount=None, bps=500)
    command = ReplaceTrade(trade_id(2), world.holder.customer_id, trade_id(1), trail=dollars(trail))
    answer = world.decide(command).answers[0][1]
    assert isinstance(answer, Refused)
    assert answer.refusal is Refusal.CANNOT_BE_REPLACED
    assert replaced(world, 1, 3, trail=dollars("7.5"))[-1] == (3, "held", "HELD")
    assert world.trade(3).trail_bps == 750


def test_a_trailing_stop_that_may_not_go_when_its_price_comes_stays_with_its_shares() -> None:
    world = trailing_world()
    world.controls = FixedControls(stopped="the kill switch")
    assert world.wake(1, "180.00", stop="185.00") == [(1, "held", "HELD")]
    assert (shares(world), world.trade(1).triggered) == ((10, 10), False)
    world.controls = FixedControls()
    assert world.wake(1, "180.00", stop="185.00") == [(1, "started", "IN PROGRESS")]


def test_a_trailing_stop_that_is_at_the_exchange_is_only_cancelled() -> None:
    world = trailing_world()
    world.wake(1, "180.00", stop="185.00")
    world.say(1, "ACCEPTED")
    answer = world.decide(ReplaceTrade(trade_id(2), world.holder.customer_id, trade_id(1), trail=dollars("1"))).answers
    assert isinstance(answer[0][1], Refused)
    assert "only be cancelled" in answer[0][1].detail


def test_a_trailing_stop_needs_a_quote_to_follow() -> None:
    world = GroupWorld(account(cash="10000"), FixedMarket())
    assert world.do(trailing(world.holder, Side.BUY, amount="5.00"))[-1] == (1, "ended", "REJECTED")
    assert world.trade(1).reason.startswith("stale quote: no quote of AAPL is known")


# ------------------------------------------------------------------ its own reservation pays for it


def on_margin(cash: str = "10000") -> GroupWorld:
    """A customer with as much credit as cash."""
    holder = account(cash=cash, type_=AccountType.MARGIN, credit="100000")
    return GroupWorld(holder, FixedMarket({"AAPL": "100.00"}))


def test_on_margin_a_trailing_buy_goes_out_with_the_buying_power_that_it_holds() -> None:
    world = on_margin()
    world.do(trailing(world.holder, Side.BUY, 120, amount="1.00"))
    assert world.trade(1).hold == dollars("12726")  # of a buying power of $20,000
    world.market.asks[AAPL] = dollars("101.00")
    assert world.wake(1, "101.00", stop="101.00") == [(1, "started", "IN PROGRESS")]
    assert (world.trade(1).hold, world.holder.cash.held) == (dollars("12726"), dollars("12726"))


def test_on_margin_a_stop_that_buys_goes_out_with_what_the_other_exit_holds() -> None:
    world = on_margin()
    world.do(group(world.holder, OCO, None, "105.00", quantity=120, limit="95.00"))
    assert world.trade(1).hold == dollars("11400")
    world.market.asks[AAPL] = dollars("105.00")
    assert world.wake(2, "105.00") == [(2, "triggered", "HELD"), (1, "cancel_requested", "IN PROGRESS")]
    assert world.say(1, "CANCELLED", "asked") == [(1, "ended", "CANCELLED"), (2, "started", "IN PROGRESS")]
    assert (world.trade(2).hold, world.holder.cash.held) == (dollars("13230"), dollars("13230"))


def test_what_another_order_holds_does_not_pay_for_a_stop() -> None:
    world = on_margin()
    world.do(group(world.holder, OCO, None, "105.00", quantity=120, limit="95.00"))
    world.say(1, "ACCEPTED")
    world.do(order(world.holder, number=3, quantity=85, limit="90.00"))
    world.market.asks[AAPL] = dollars("105.00")
    assert world.wake(2, "105.00") == [(2, "held", "HELD")]
    words = "insufficient buying power: the trade needs $12,600.00 = 120 x $105.00, $12,350.00 available."
    assert world.trade(2).reason == f"It waits: {words}"


def test_a_trailing_buy_costs_what_its_stop_has_come_to_and_not_its_distance_more() -> None:
    world = GroupWorld(account(cash="116"), FixedMarket({"AAPL": "100.00"}))
    world.do(trailing(world.holder, Side.BUY, 1, bps=1_000))
    assert world.trade(1).hold == dollars("115.50")
    world.market.asks[AAPL] = dollars("112.00")
    assert world.wake(1, "112.00", stop="110.00") == [(1, "started", "IN PROGRESS")]
    assert world.holder.cash.held == dollars("116")


@given(
    type_=st.sampled_from(AccountType),
    cash=st.integers(100, 4_000),
    quantity=st.integers(1, 40),
    trail=st.integers(1, 20),
    resting=st.integers(0, 20),
    ask=st.integers(80, 130),
    side=st.sampled_from(Side),
    has_fees=st.booleans(),
)
def test_what_may_go_out_is_what_can_be_reserved(
    type_: AccountType, cash: int, quantity: int, trail: int, resting: int, ask: int, side: Side, has_fees: bool
) -> None:
    """A held order is let go exactly when the checks of its start, which come after it gave back its hold, say so."""
    policy = Policy(fees=parse_fees("COMMISSION 2026-01-01 both order=1.00")) if has_fees else Policy()
    holder = account(str(cash), {"AAPL": 20}, type_, credit="2500" if type_ is AccountType.MARGIN else "0")
    world = GroupWorld(holder, FixedMarket({"AAPL": "100.00"}), policy)
    world.do(trailing(holder, side, quantity, amount=f"{trail}.00"))
    world.do(order(holder, number=2, quantity=max(1, resting), limit="60.00"))
    held = world.trade(1)
    if held.status is not Status.HELD:
        return
    stop = trails.stop_price(held, dollars("100.00"))
    world.market.asks[AAPL] = dollars(f"{ask}.00")
    there = deepcopy((holder, held))
    refused = trading.why_not_yet(holder, replace(held, stop_price=stop), conditions(world.market, policy=policy))
    assert (holder, held) == there, "a look changes nothing"
    held.triggered, held.stop_price = True, stop
    event = trading.start(holder, held, conditions(world.market, policy=policy))
    assert event.refused == refused
    assert holder.cash.balance - holder.cash.held >= holder.cash.floor
    assert holder.cash.held == sum(each.hold for each in holder.working.values() if each.side is Side.BUY)


# ------------------------------------------------------------------ waiting for the opening


def test_a_market_order_that_may_wait_is_held_until_the_market_opens() -> None:
    world = GroupWorld(account(cash="10000"), FixedMarket({"AAPL": "190.00"}), Policy(is_open=lambda _: False))
    first, second = order(world.holder, number=1), order(world.holder, number=2, quantity=1)
    first.waits_for_open = second.waits_for_open = True
    assert world.do(first)[-1] == (1, "held", "HELD")
    assert world.do(second)[-1] == (2, "held", "HELD")
    assert world.do(Wake(world.holder.customer_id, trade_id(1))) == []
    world.policy = Policy()
    assert world.do(Wake(world.holder.customer_id, trade_id(2))) == [(2, "started", "IN PROGRESS")]
    assert world.do(Wake(world.holder.customer_id, trade_id(1))) == []
    assert world.fill(2, 1, "190.00") == [(2, "executed", "FILLED"), (1, "started", "IN PROGRESS")]
    world.fill(1, 10, "190.00")
    assert world.holder.cash.held == 0


def test_an_entry_may_wait_for_the_opening_too() -> None:
    world = GroupWorld(account(cash="10000"), FixedMarket({"AAPL": "190.00"}), Policy(is_open=lambda _: False))
    command = group(world.holder, BRACKET, "200.00", "180.00")
    command.waits_for_open = True
    assert world.do(command)[-1] == (1, "held", "HELD")
    assert [each.trade_id.int for each in groups.held_with(world.holder, world.trade(1))] == [1]
    world.policy = Policy()
    assert world.do(Wake(world.holder.customer_id, trade_id(1))) == [(1, "started", "IN PROGRESS")]
    assert world.fill(1, 10, "190.00") == [(1, "executed", "FILLED"), (2, "started", "IN PROGRESS")]


def test_on_margin_what_waits_for_its_turn_with_its_cash_counts() -> None:
    holder = account(cash="5000", type_=AccountType.MARGIN, credit="50000")
    world = GroupWorld(holder, FixedMarket({"AAPL": "190.00"}), Policy(is_open=lambda _: False))
    world.do(order(holder, number=1, quantity=1, limit="150.00"))  # keeps the turn
    command = order(holder, number=2)
    command.waits_for_open = True
    world.do(command)
    world.say(1, "ACCEPTED")
    before = credit.spending_power(holder, conditions(world.market))
    holder.turns[trade_id(1)] = None
    world.policy = Policy()
    world.do(Wake(holder.customer_id, trade_id(2)))
    assert [each.trade_id.int for each in holder.waiting] == [2]
    assert credit.spending_power(holder, conditions(world.market)) == before


def test_one_that_may_not_wait_is_refused() -> None:
    world = GroupWorld(account(cash="10000"), FixedMarket({"AAPL": "190.00"}), Policy(is_open=lambda _: False))
    assert world.do(order(world.holder))[-1] == (1, "ended", "REJECTED")


def test_orders_of_an_auction_wait_at_the_exchange_and_hold_up_nobody() -> None:
    world = GroupWorld(account(cash="10000"), FixedMarket({"AAPL": "190.00"}), Policy(is_open=lambda _: False))
    assert world.do(order(world.holder, time_in_force=TimeInForce.OPG))[-1] == (1, "started", "IN PROGRESS")
    world.say(1, "ACCEPTED")
    assert not world.holder.turns
    world.policy = Policy(takes=lambda time_in_force, _: time_in_force is not TimeInForce.CLS)
    assert world.do(order(world.holder, number=2, time_in_force=TimeInForce.CLS))[-1] == (2, "ended", "REJECTED")


# ------------------------------------------------------------------ refused as things stand


def test_an_order_that_would_be_refused_can_be_left_out() -> None:
    world = GroupWorld(account(cash="100"), FixedMarket({"AAPL": "190.00"}))
    command = order(world.holder)
    command.only_if_accepted = True
    decided = world.decide(command)
    answer = decided.answers[0][1]
    assert isinstance(answer, Refused)
    assert answer.refusal is Refusal.INSUFFICIENT_FUNDS
    assert (decided.events, world.holder.last_seq, world.open()) == ([], 0, {})
