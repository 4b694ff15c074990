"""A reset as a decision, and market time."""

from datetime import UTC, datetime, timedelta

import pytest

from broker.clock import ClockState, MarketClock
from broker.core import trading
from broker.core.account import Holding
from broker.core.activities import Activity, ActivityType, Transfer, activities
from broker.core.messages import Refusal, Refused
from broker.core.money import Money
from broker.core.postings import CASH, Move
from broker.core.reset import AccountReset, ResetAccount, Shares, reset
from broker.core.types import Symbol
from tests.builders import AAPL, FixedMarket, account, conditions, dollars, order, trade_id

REAL = datetime(2026, 11, 22, 10, tzinfo=UTC)
MSFT = Symbol("MSFT")


def command(cash: str = "0", **positions: Shares) -> ResetAccount:
    return ResetAccount(account().customer_id, "r", dollars(cash), {Symbol(each): to for each, to in positions.items()})


# ------------------------------------------------------------------ the decision


def test_a_reset_moves_the_difference_and_no_more() -> None:
    one = account("1000.00", {"AAPL": 10, "MSFT": 5})
    one.positions[AAPL] = Holding(10, cost=dollars("1900.00"), gain=dollars("7.00"))
    wanted = command("1500.00", AAPL=Shares(12, dollars("2400.00")), MSFT=Shares(5, Money(0)))
    moves = (Move(CASH, dollars("500.00")), Move(AAPL, 2, dollars("500.00"), -dollars("7.00")))
    assert reset(one, wanted) == AccountReset(one.customer_id, "r", moves)


def test_what_is_not_named_is_gone() -> None:
    one = account("0", {"AAPL": 10, "MSFT": 5})
    moves = (Move(AAPL, -10), Move(MSFT, -5))
    assert reset(one, command()) == AccountReset(one.customer_id, "r", moves)
    assert {each.balance for each in one.positions.values()} == {0}


def test_an_account_that_is_there_already_moves_nothing() -> None:
    one = account("5.00")
    assert reset(one, command("5.00")) == AccountReset(one.customer_id, "r", ())


def test_open_orders_have_to_go_first() -> None:
    one = account("1000.00")
    trading.place(one, order(one, limit="1.00", number=1), conditions(FixedMarket({"AAPL": "10.00"})))
    refused = reset(one, command("5.00"))
    assert isinstance(refused, Refused)
    assert (refused.refusal, refused.figures) == (Refusal.OPEN_ORDERS, {"open_orders": 1})
    assert one.cash.balance == dollars("1000.00")


# ------------------------------------------------------------------ what a customer reads of it


def of_reset(cash: str, *shares: tuple[Symbol, int]) -> list[Activity]:
    return activities(Transfer(trade_id(1), "reset", "r:1001", REAL, dollars(cash), shares))


def test_its_activities_are_transfers_whose_cash_sums_to_what_was_posted() -> None:
    found = of_reset("-12.50", (AAPL, 10), (MSFT, -3))
    assert [(each.number, each.type, each.cash, each.symbol, each.quantity) for each in found] == [
        (1, ActivityType.RESET, -dollars("12.50"), None, None),
        (2, ActivityType.RESET, 0, AAPL, 10),
        (3, ActivityType.RESET, 0, MSFT, -3),
    ]
    assert found[1].description == "An operator put the account into a given state: +10 AAPL."


def test_one_of_shares_only_has_no_line_of_cash() -> None:
    assert [each.symbol for each in of_reset("0", (AAPL, 10))] == [AAPL]
    assert [each.symbol for each in of_reset("0")] == [None]


# ------------------------------------------------------------------ market time


class Wall:
    """Real time that a test sets."""

    def __init__(self) -> None:
        self.now = REAL

    def __call__(self) -> datetime:
        """What it is."""
        return self.now


THERE = datetime(2026, 11, 27, 17, 55, tzinfo=UTC)


def test_market_time_is_real_until_an_exchange_says_otherwise() -> None:
    wall = Wall()
    clock = MarketClock(wall)
    assert (clock.now(), clock.is_controlled) == (REAL, False)
    assert not clock.follow(None)
    assert not clock.follow(ClockState(REAL + timedelta(milliseconds=400)), REAL), "clocks of two machines differ"
    assert (clock.now(), clock.is_controlled) == (REAL, False)


def test_a_clock_that_is_elsewhere_runs_from_there() -> None:
    wall = Wall()
    clock = MarketClock(wall)
    assert clock.follow(ClockState(THERE), REAL)
    wall.now += timedelta(seconds=90)
    assert (clock.now(), clock.is_controlled) == (THERE + timedelta(seconds=90), True)
    assert clock.follow(None)
    assert (clock.now(), clock.is_controlled) == (wall.now, False)


def test_a_frozen_clock_stands_still() -> None:
    wall = Wall()
    clock = MarketClock(wall)
    assert clock.follow(ClockState(THERE, frozen=True), REAL)
    wall.now += timedelta(seconds=90)
    assert (clock.now(), clock.is_frozen) == (THERE, True)
    assert not clock.follow(ClockState(THERE, frozen=True), wall.now)
    assert clock.follow(ClockState(THERE), wall.now)
    wall.now += timedelta(seconds=1)
    assert (clock.now(), clock.is_frozen) == (THERE + timedelta(seconds=1), False)


@pytest.mark.parametrize(("off_ms", "follows"), [(0, False), (40, False), (-40, False), (200, True), (-200, True)])
def test_what_the_way_of_the_answer_explains_is_no_news(off_ms: int, follows: bool) -> None:
    wall = Wall()
    clock = MarketClock(wall)
    clock.follow(ClockState(THERE), REAL)
    wall.now += timedelta(milliseconds=100)  # of a question that was asked at REAL
    said = THERE + timedelta(milliseconds=50 + off_ms)
    assert clock.follow(ClockState(said), REAL) is follows
    assert clock.now() == (said + timedelta(milliseconds=50) if follows else THERE + timedelta(milliseconds=100))


def test_ids_begin_with_market_time_and_rise_while_it_stands_still() -> None:
    clock = MarketClock(Wall())
    clock.follow(ClockState(THERE, frozen=True))
    ids = [clock.new_id() for _ in range(1000)]
    assert ids == sorted(set(ids))
    assert {each.int >> 80 for each in ids} == {int(THERE.timestamp() * 1000)}
    assert {(each.version, each.variant) for each in ids} == {(7, "specified in RFC 4122")}
    clock.follow(ClockState(THERE + timedelta(milliseconds=1), frozen=True))
    assert clock.new_id() > ids[-1]
