"""Cancel and replace: what is on hold at every moment, in whatever order the exchange answers."""

import pytest

from broker.core import settlement, trading
from broker.core.account import Account, Holding
from broker.core.conditions import Conditions, Limits, Policy
from broker.core.fees import parse_fees
from broker.core.messages import Refusal, Refused, Repeat, ReplaceTrade, Report, ReportType, Step
from broker.core.types import AccountType, Side, Trade
from tests.builders import (
    AAPL,
    FixedControls,
    FixedMarket,
    accept,
    account,
    conditions,
    dollars,
    end,
    fill,
    order,
    settle,
    trade_id,
    working,
)

MARKET = FixedMarket({"AAPL": "100"})
REPLACED, ACCEPTED = ReportType.REPLACED, ReportType.ACCEPTED


def resting(holder: Account, side: Side = Side.BUY, quantity: int = 10, limit: str = "100") -> Trade:
    """A limit order that the exchange has."""
    trade = working(holder, MARKET, side, quantity, limit=limit)
    accept(holder, trade)
    return trade


def amend(
    holder: Account,
    old: Trade,
    quantity: int | None = None,
    limit: str | None = None,
    stop: str | None = None,
    world: Conditions | None = None,
) -> Trade:
    """A replacement that is on its way."""
    events = replace(holder, old, quantity, limit, stop, world)
    assert not isinstance(events, Refused), events
    assert [event.step for event in events] == [Step.PLACED, Step.STARTED]
    return events[0].trade


def replace(
    holder: Account,
    old: Trade,
    quantity: int | None = None,
    limit: str | None = None,
    stop: str | None = None,
    world: Conditions | None = None,
):
    prices = [dollars(price) if price else None for price in (limit, stop)]
    command = ReplaceTrade(trade_id(holder.last_seq + 1), holder.customer_id, old.trade_id, quantity, *prices)
    return trading.replace(holder, old, command, world or conditions(MARKET))


def word(trade: Trade, type_: ReportType) -> Report:
    return Report(trade.trade_id, type_, "sim")


def holds(holder: Account, *trades: Trade) -> list[str | int]:
    """What each trade holds; together it is what the account has on hold."""
    held = holder.cash.held + sum(position.held for position in holder.positions.values())
    assert held == sum(trade.hold for trade in trades)
    return [trade.hold if trade.side is Side.SELL else f"{trade.hold / 10_000:g}" for trade in trades]


# ------------------------------------------------------------------ cancel


def test_a_waiting_trade_is_cancelled_at_once() -> None:
    holder = account(cash="2000")
    first = working(holder, MARKET)
    waiting = trading.place(holder, order(holder, quantity=1), conditions(MARKET))[0].trade
    events = trading.cancel(holder, waiting)
    assert [(event.step, event.status, event.reason) for event in events] == [
        (Step.ENDED, "CANCELLED", "Cancelled at your request.")
    ]
    assert (list(holder.waiting), list(holder.turns)) == ([], [first.trade_id])


def test_a_trade_at_the_exchange_is_asked_to_be_cancelled_once() -> None:
    holder = account(cash="2000")
    trade = resting(holder)
    events = trading.cancel(holder, trade)
    assert [(event.step, event.status) for event in events] == [(Step.CANCEL_REQUESTED, "IN PROGRESS")]
    assert (trade.cancel_requested, trade.hold) == (True, dollars("1000"))
    assert trading.cancel(holder, trade) == []


def test_what_fills_before_the_cancel_arrives_is_the_customers() -> None:
    holder = account(cash="2000")
    trade = resting(holder)
    trading.cancel(holder, trade)
    settle(holder, trade, fill(trade, 4, "100"))
    assert settle(holder, trade, end(trade, "CANCELLED", trading.ASKED, filled=4)) == ("CANCELLED", trading.REQUESTED)
    assert holder.cash == Holding(dollars("1600"))


def test_a_replacement_on_its_way_is_cancelled_with_the_one_that_it_replaces() -> None:
    holder = account(cash="2000")
    old = resting(holder)
    new = amend(holder, old, limit="101")
    assert [event.trade.seq for event in trading.cancel(holder, old)] == [1, 2]
    assert trading.cancel(holder, new) == []
    settle(holder, old, end(old, "CANCELLED"))
    settle(holder, new, end(new, "REJECTED", "the order is finished"))
    assert (old.status, new.status, holder.cash) == ("CANCELLED", "REJECTED", Holding(dollars("2000")))


# ------------------------------------------------------------------ replace: what is on hold


@pytest.mark.parametrize(
    ("side", "change", "before", "after"),
    [
        (Side.BUY, {"limit": "110"}, ["1000", "100"], ["0", "1100"]),
        (Side.BUY, {"limit": "90"}, ["1000", "0"], ["0", "900"]),
        (Side.BUY, {"quantity": 15}, ["1000", "500"], ["0", "1500"]),
        (Side.BUY, {"quantity": 4}, ["1000", "0"], ["0", "400"]),
        (Side.BUY, {"quantity": 20, "limit": "50"}, ["1000", "0"], ["0", "1000"]),
        (Side.SELL, {"limit": "110"}, [10, 0], [0, 10]),
        (Side.SELL, {"quantity": 12}, [10, 2], [0, 12]),
        (Side.SELL, {"quantity": 3}, [10, 0], [0, 3]),
    ],
)
def test_only_what_is_needed_more_is_reserved_and_the_rest_passes(side, change, before, after) -> None:
    holder = account(cash="2000", shares={"AAPL": 12})
    old = resting(holder, side)
    new = amend(holder, old, **change)
    assert holds(holder, old, new) == before
    settlement.settle(holder, new, word(new, ACCEPTED), conditions(MARKET))
    assert holds(holder, old, new) == after
    assert (old.status, old.reason) == ("REPLACED", f"Replaced by order {new.trade_id}.")
    assert (new.replaces, new.acknowledged, list(holder.working)) == (old.trade_id, True, [new.trade_id])
    settle(holder, new, end(new, "CANCELLED"))
    assert holds(holder, old, new) in (["0", "0"], [0, 0])


def test_an_order_for_all_that_is_there_can_be_repriced_down() -> None:
    holder = account(cash="1000")
    old = resting(holder)
    new = amend(holder, old, limit="99.99")
    assert (holder.cash.available, new.hold) == (0, 0)
    assert new.reason == "Sent to the exchange, with $999.90 reserved."
    settlement.settle(holder, new, word(new, ACCEPTED), conditions(MARKET))
    assert holder.cash == Holding(dollars("1000"), dollars("999.90"))


def test_on_margin_the_buying_power_of_the_old_one_is_the_new_ones() -> None:
    holder = account(cash="10000", type_=AccountType.MARGIN, credit="50000")
    old = resting(holder, quantity=200)
    assert isinstance(replace(holder, old, 201)[-1].refused, Refused)
    new = amend(holder, old, quantity=198, limit="101")
    assert (old.hold, new.hold) == (dollars("20000"), 0)
    settlement.settle(holder, new, word(new, ACCEPTED), conditions(MARKET))
    assert holds(holder, old, new) == ["0", "19998"]


def test_a_figure_that_is_not_named_stays_and_the_quantity_is_what_was_left() -> None:
    holder = account(cash="2000")
    old = resting(holder)
    settle(holder, old, fill(old, 4, "100"))
    new = amend(holder, old, limit="101")
    assert (new.quantity, new.replaces_filled, new.limit_price) == (6, 4, dollars("101"))
    assert holds(holder, old, new) == ["600", "6"]


def test_a_quantity_for_both_together_leaves_out_what_has_filled() -> None:
    """As FIX and Alpaca count it: 12 in all, of which 4 have filled."""
    holder = account(cash="2000")
    old = resting(holder)
    settle(holder, old, fill(old, 4, "100"))
    command = ReplaceTrade(trade_id(9), holder.customer_id, old.trade_id, quantity=12, counts_filled=True)
    events = trading.replace(holder, old, command, conditions(MARKET))
    assert not isinstance(events, Refused)
    assert events[0].trade.quantity == 8
    command = ReplaceTrade(trade_id(10), holder.customer_id, events[0].trade.trade_id, quantity=4, counts_filled=True)
    command.replaces = old.trade_id
    assert refused(trading.replace(holder, old, command, conditions(MARKET))) == "4 of it have filled already."


def test_a_stop_order_keeps_its_max_price_through_a_replacement() -> None:
    policy = Policy(fees=parse_fees("COMMISSION 2026-01-01 buy order=1.00"))
    holder = account(cash="5000")
    old = working(holder, MARKET, policy=policy, stop="110")
    settlement.settle(holder, old, word(old, ACCEPTED), conditions(MARKET, policy=policy))
    assert (old.max_price, old.hold) == (dollars("1155"), dollars("1156"))
    world = conditions(MARKET, policy=policy)
    new = amend(holder, old, stop="120", world=world)
    assert (new.max_price, new.hold) == (dollars("1260"), dollars("105"))
    settlement.settle(holder, new, word(new, ACCEPTED), world)
    assert holds(holder, old, new) == ["0", "1261"]


# ------------------------------------------------------------------ replace: in whatever order the exchange answers


def test_accepted_first_and_then_replaced() -> None:
    holder = account(cash="2000")
    old = resting(holder)
    new = amend(holder, old, limit="110")
    assert settle(holder, new, word(new, ACCEPTED)) == [
        ("REPLACED", f"Replaced by order {new.trade_id}."),
        ("IN PROGRESS", "The exchange has it."),
    ]
    assert settle(holder, old, word(old, REPLACED)) is Repeat.NOTHING_NEW
    assert settle(holder, new, word(new, ACCEPTED)) is Repeat.NOTHING_NEW


def test_replaced_first_says_the_same() -> None:
    holder = account(cash="2000")
    old = resting(holder)
    new = amend(holder, old, limit="110")
    assert settle(holder, old, word(old, REPLACED)) == [
        ("REPLACED", f"Replaced by order {new.trade_id}."),
        ("IN PROGRESS", "The exchange has it."),
    ]
    assert holds(holder, old, new) == ["0", "1100"]
    assert settle(holder, new, word(new, ACCEPTED)) is Repeat.NOTHING_NEW


def test_a_fill_of_the_new_one_first_takes_its_place_and_its_hold() -> None:
    holder = account(cash="1100")
    old = resting(holder)
    new = amend(holder, old, limit="110")
    assert [status for status, _ in settle(holder, new, fill(new, 10, "110", type_="FILLED"))] == ["REPLACED", "FILLED"]
    assert holder.cash == Holding(0)
    assert holder.open_trades == 0


def test_a_fill_of_the_new_one_that_cannot_be_the_customers_takes_its_place_too() -> None:
    holder = account(cash="2000")
    old = resting(holder)
    new = amend(holder, old, limit="110")
    outcomes = settle(holder, new, fill(new, 4, "111"))
    assert (old.status, new.status, len(outcomes)) == ("REPLACED", "IN PROGRESS", 4)
    assert holds(holder, old, new) == ["0", "1100"]


@pytest.mark.parametrize("type_", ["CANCELLED", "EXPIRED"])
def test_an_end_of_the_new_one_first_means_that_it_had_been_taken(type_: str) -> None:
    holder = account(cash="2000")
    old = resting(holder)
    new = amend(holder, old, limit="110")
    settle(holder, new, end(new, type_))
    assert (old.status, new.status, holder.cash) == ("REPLACED", type_, Holding(dollars("2000")))


def test_the_old_one_ends_otherwise_and_the_new_one_is_refused() -> None:
    holder = account(cash="2000")
    old = resting(holder)
    new = amend(holder, old, limit="110")
    settle(holder, old, end(old, "CANCELLED"))
    assert holds(holder, new) == ["100"]
    settle(holder, new, end(new, "REJECTED", "the order is finished"))
    assert (old.status, new.status, holder.cash) == ("CANCELLED", "REJECTED", Holding(dollars("2000")))


def test_a_replacement_that_never_arrived_and_is_given_up_leaves_the_old_one_where_it_is() -> None:
    holder = account(cash="2000")
    old = resting(holder)
    new = amend(holder, old, limit="110")
    given_up = end(new, "CANCELLED", "asked")
    given_up.never_taken = True
    settle(holder, new, given_up)
    assert (old.status, new.status, holds(holder, old)) == ("IN PROGRESS", "CANCELLED", ["1000"])


def test_refused_by_the_exchange_the_old_one_lives_on_and_the_extra_is_free() -> None:
    holder = account(cash="2000")
    old = resting(holder)
    new = amend(holder, old, limit="110")
    settle(holder, new, end(new, "REJECTED", "it has filled another quantity"))
    assert (old.status, holds(holder, old)) == ("IN PROGRESS", ["1000"])
    settle(holder, old, fill(old, 10, "100", type_="FILLED"))
    assert holder.cash == Holding(dollars("1000"))


def test_what_the_old_one_fills_meanwhile_lessens_what_passes() -> None:
    """The exchange must refuse this; if it does not, the new one has what is left."""
    holder = account(cash="2000")
    old = resting(holder)
    new = amend(holder, old)
    settle(holder, old, fill(old, 4, "100"))
    settlement.settle(holder, new, word(new, ACCEPTED), conditions(MARKET))
    assert holds(holder, old, new) == ["0", "600"]


def test_the_next_trade_need_not_wait_for_a_replacement() -> None:
    holder = account(cash="5000")
    new = amend(holder, resting(holder), limit="101")
    following = working(holder, MARKET)
    assert (list(holder.turns), new.status) == ([following.trade_id], "IN PROGRESS")


def test_a_replacement_is_replaced_in_its_turn() -> None:
    holder = account(cash="2000")
    trade = resting(holder)
    for limit in ("101", "102", "99"):
        before, trade = trade, amend(holder, trade, limit=limit)
        settlement.settle(holder, before, word(before, REPLACED), conditions(MARKET))
    assert holds(holder, trade) == ["990"]


# ------------------------------------------------------------------ replace: when it cannot be


def test_a_waiting_order_is_replaced_without_the_exchange() -> None:
    """The new one is an order like any other: it waits for its turn, and the exchange never hears of the old one."""
    holder = account(cash="5000")
    first = working(holder, MARKET)
    old = trading.place(holder, order(holder, limit="100"), conditions(MARKET))[0].trade
    events = replace(holder, old, limit="90")
    assert [(event.step, event.status) for event in events] == [(Step.PLACED, "PLACED"), (Step.ENDED, "REPLACED")]
    new = events[0].trade
    assert old.reason == f"Replaced by order {new.trade_id} before it was sent."
    assert (list(holder.waiting), new.replaces, new.replaces_at_exchange) == ([new], old.trade_id, False)
    settle(holder, first, end(first, "REJECTED"))
    assert [event.step for event in trading.start_next(holder, conditions(MARKET))] == [Step.STARTED]
    assert (list(holder.turns), new.hold) == ([new.trade_id], dollars("900"))


def refused(outcome: object) -> str:
    assert isinstance(outcome, Refused), outcome
    assert outcome.refusal is Refusal.CANNOT_BE_REPLACED
    return outcome.detail


def test_a_market_order_is_not_replaced() -> None:
    holder = account(cash="2000")
    trade = working(holder, MARKET)
    assert refused(replace(holder, trade, 5)) == "a market order cannot be replaced, only cancelled."


def test_an_order_that_the_exchange_has_not_acknowledged_is_not_replaced() -> None:
    holder = account(cash="2000")
    trade = working(holder, MARKET, limit="100")
    words = "the exchange has not acknowledged it yet; try again in a moment."
    assert refused(replace(holder, trade, 5)) == words


def test_an_order_that_is_being_cancelled_is_not_replaced() -> None:
    holder = account(cash="2000")
    trade = resting(holder)
    trading.cancel(holder, trade)
    assert refused(replace(holder, trade, 5)) == "it is being cancelled."


def test_an_order_is_not_replaced_twice_at_once() -> None:
    holder = account(cash="2000")
    old = resting(holder)
    new = amend(holder, old, limit="110")
    assert refused(replace(holder, old, limit="90")) == "another order is about to replace it."
    words = "the exchange has not acknowledged it yet; try again in a moment."
    assert refused(replace(holder, new, limit="90")) == words


@pytest.mark.parametrize(
    ("prices", "change", "words"),
    [
        ({"limit": "100"}, {"stop": "90"}, "a limit order has no stop price."),
        ({"stop": "110"}, {"limit": "90"}, "a stop order has no limit price."),
    ],
)
def test_a_replacement_is_of_the_same_type(prices, change, words) -> None:
    holder = account(cash="2000")
    trade = working(holder, MARKET, **prices)
    accept(holder, trade)
    assert refused(replace(holder, trade, **change)) == words


def test_a_refused_replacement_ends_alone() -> None:
    holder = account(cash="1000")
    old = resting(holder)
    events = replace(holder, old, limit="100.01")
    assert [(event.step, event.status) for event in events] == [(Step.PLACED, "PLACED"), (Step.ENDED, "REJECTED")]
    words = "insufficient funds: the trade needs $1,000.10 = 10 x $100.01, $1,000.00 available."
    assert (events[1].reason, old.status, holds(holder, old)) == (words, "IN PROGRESS", ["1000"])
    assert replace(holder, old, limit="99")[-1].step is Step.STARTED


def test_a_replacement_passes_all_the_checks_of_an_order() -> None:
    holder = account(cash="5000", shares={"AAPL": 5})
    old = resting(holder)
    world = conditions(MARKET, FixedControls(Limits(position_max=17)))
    assert replace(holder, old, 13, world=world)[-1].reason == (
        "position limit: the position would be 18 AAPL with everything ordered, the limit is 17."
    )
    assert replace(holder, old, 12, world=world)[-1].step is Step.STARTED
    assert holder.positions[AAPL].balance == 5


def test_the_fees_of_the_new_one_are_reserved_once() -> None:
    policy = Policy(fees=parse_fees("COMMISSION 2026-01-01 both order=1.00"))
    world = conditions(MARKET, policy=policy)
    holder = account(cash="1101")
    old = working(holder, MARKET, policy=policy, limit="100")
    settlement.settle(holder, old, word(old, ACCEPTED), world)
    new = amend(holder, old, limit="110", world=world)
    assert holds(holder, old, new) == ["1001", "100"]
    settlement.settle(holder, new, word(new, ACCEPTED), world)
    assert holds(holder, old, new) == ["0", "1101"]
    settlement.settle(holder, new, fill(new, 10, "110", type_="FILLED"), world)
    assert holder.cash == Holding(0)
