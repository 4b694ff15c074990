"""What the exchange says, one example for each thing that can be wrong with it; numbers are rows of the fault list."""

import pickle
from dataclasses import replace

import pytest

from broker.core import settlement, trading
from broker.core.account import Account, Holding
from broker.core.conditions import Policy
from broker.core.fees import parse_fees
from broker.core.messages import Anomaly, Described, Event, Repeat, Report, ReportType, Restricted, Step, TradeEvent
from broker.core.money import Money
from broker.core.postings import CASH, EntryKind, House, entry_postings, house_owner
from broker.core.types import AccountType, CustomerId, Fill, Side, Trade
from tests.builders import AAPL, FixedMarket, account, conditions, dollars, end, fill, order, settle, working

MARKET = FixedMarket({"AAPL": "100"})
CUSTOMER = 1001
CLEARING, FEES, RECEIVABLE, SUSPENSE = (
    house_owner(0, house) for house in (House.CLEARING, House.FEES, House.RECEIVABLE, House.SUSPENSE)
)
COMMISSION = Policy(fees=parse_fees("COMMISSION 2026-01-01 both order=1.00 value=0.001"))


def bust(trade: Trade, execution_id: str = "e1") -> Report:
    return Report(trade.trade_id, ReportType.BUSTED, "sim", execution_id)


def correction(trade: Trade, quantity: int, price: str, new: str = "e2", corrects: str = "e1") -> Report:
    return Report(trade.trade_id, ReportType.CORRECTED, "sim", new, Fill(quantity, dollars(price)), corrects=corrects)


def posted(outcomes: object) -> list[dict[tuple[int, str], Money]]:
    """The lines of each transfer, by their row; each is balanced."""
    transfers = []
    for event in outcomes:  # type: ignore[attr-defined]
        if isinstance(event, TradeEvent) and event.entry:
            lines = entry_postings(CustomerId(CUSTOMER), 0, AAPL, event.entry)
            for asset in (CASH, "AAPL"):
                assert sum(line.amount for line in lines if line.asset == asset) == 0, lines
            transfers.append({(line.owner_id, line.asset): Money(line.amount) for line in lines})
    return transfers


def hear(holder: Account, trade: Trade, report: Report, policy: Policy | None = None) -> list[Event]:
    return list(settlement.settle(holder, trade, report, conditions(policy=policy)))


def figures(holder: Account) -> tuple[Money, int, int]:
    """Cash, shares and what is reserved of either."""
    position = holder.positions.get(AAPL, Holding())
    return Money(holder.cash.balance), position.balance, holder.cash.held + position.held


def filled(holder: Account, side: Side = Side.BUY, quantity: int = 10, price: str = "100") -> Trade:
    """A trade that was filled by one execution, e1."""
    trade = working(holder, MARKET, side, quantity)
    settle(holder, trade, fill(trade, quantity, price, "e1", "FILLED"))
    return trade


# ------------------------------------------------------------------ 1-4: executions are settled once


def test_1_a_repeated_execution_changes_nothing() -> None:
    holder = account(cash="2000")
    trade = working(holder, MARKET)
    settle(holder, trade, fill(trade, 4, "100"))
    before = pickle.dumps((holder, trade))
    assert settle(holder, trade, fill(trade, 4, "100")) is Repeat.NOTHING_NEW
    assert pickle.dumps((holder, trade)) == before


def test_what_one_exchange_says_of_an_order_that_another_has_changes_nothing() -> None:
    """Its key lets it speak of its own orders; it must not settle those of others."""
    holder = account(cash="2000")
    trade = working(holder, MARKET)
    before = pickle.dumps((holder, trade))
    for report in (
        fill(trade, 4, "100"),
        fill(trade, 10, "100", "e1", "FILLED"),
        bust(trade),
        correction(trade, 1, "1"),
    ):
        assert settle(holder, trade, replace(report, venue="west")) is Anomaly.OTHER_VENUE
    assert pickle.dumps((holder, trade)) == before


OTHER_ORDERS = [Described("MSFT"), Described("AAPL", "SELL"), Described("AAPL", "BUY", 500), Described(quantity=9)]


@pytest.mark.parametrize("described", OTHER_ORDERS)
def test_17_whatever_is_said_of_another_order_under_our_id_changes_nothing(described: Described) -> None:
    holder = account(cash="2000")
    trade = working(holder, MARKET)
    settle(holder, trade, fill(trade, 4, "100", "e1"))
    words = (
        fill(trade, 6, "100", "e2", "FILLED"),
        fill(trade, 500, "1", "e2"),
        fill(trade, 4, "100", "e1"),
        end(trade, "CANCELLED", filled=4),
        end(trade, "REJECTED"),
        Report(trade.trade_id, ReportType.ACCEPTED, "sim"),
        Report(trade.trade_id, ReportType.REPLACED, "sim", filled_quantity=4),
        bust(trade),
        correction(trade, 1, "1"),
    )
    for ended in (False, True):
        if ended:
            settle(holder, trade, end(trade, "CANCELLED", filled=4))
        before = pickle.dumps((holder, trade))
        for each in words:
            report = replace(each, described=described)
            assert settle(holder, trade, report) is Anomaly.ANOTHER_ORDER
            assert not settlement.contradicts_the_end(trade, report), "it is not ours to look for, and to cancel"
        assert pickle.dumps((holder, trade)) == before


@pytest.mark.parametrize("described", [None, Described(), Described("AAPL"), Described("AAPL", "BUY", 10)])
def test_17_what_is_said_of_our_order_as_it_was_sent_is_taken(described: Described | None) -> None:
    holder = account(cash="2000")
    trade = working(holder, MARKET)
    for number in (1, 2):  # also of one that has filled in part: the quantity is that of the order
        report = replace(fill(trade, 4, "100", f"e{number}"), described=described)
        (event,) = settlement.settle(holder, trade, report, conditions())
        assert isinstance(event, TradeEvent)
    assert trade.filled_quantity == 8


@pytest.mark.parametrize(("quantity", "price"), [(4, "99.99"), (5, "100")])
def test_2_an_execution_with_other_figures_is_never_believed(quantity: int, price: str) -> None:
    holder = account(cash="2000")
    trade = working(holder, MARKET)
    settle(holder, trade, fill(trade, 4, "100"))
    before = pickle.dumps((holder, trade))
    assert settle(holder, trade, fill(trade, quantity, price)) is Anomaly.CONTRADICTS_EXECUTION
    assert pickle.dumps((holder, trade)) == before


def test_3_a_fill_before_the_acceptance_settles_and_acknowledges() -> None:
    holder = account(cash="2000")
    trade = working(holder, MARKET, limit="100")
    assert list(holder.turns) == [trade.trade_id]
    settle(holder, trade, fill(trade, 4, "100"))
    assert (trade.status, trade.acknowledged, list(holder.turns)) == ("PARTIALLY FILLED", True, [])
    accepted = Report(trade.trade_id, ReportType.ACCEPTED, "sim")
    assert settle(holder, trade, accepted) is Repeat.NOTHING_NEW
    assert trade.reason == "Filled 4 of 10 AAPL so far, at $100.00 on average."


# ------------------------------------------------------------------ 6-10: what cannot be the customer's


@pytest.mark.parametrize("side", Side)
def test_6_a_late_fill_on_a_closed_order_goes_to_suspense(side: Side) -> None:
    holder = account(cash="2000", shares={"AAPL": 10})
    trade = working(holder, MARKET, side)
    settle(holder, trade, end(trade, "CANCELLED", "no buyers"))
    outcomes = hear(holder, trade, fill(trade, 3, "100"))
    sign = 1 if side is Side.BUY else -1
    assert [type(each) for each in outcomes] == [Anomaly, TradeEvent]
    assert outcomes[0] is Anomaly.FILL_AFTER_END
    assert outcomes[1].step is Step.SUSPENSE
    assert posted(outcomes) == [
        {
            (SUSPENSE, CASH): -sign * dollars("300"),
            (CLEARING, CASH): sign * dollars("300"),
            (SUSPENSE, "AAPL"): sign * 3,
            (CLEARING, "AAPL"): -sign * 3,
        }
    ]
    assert figures(holder) == (dollars("2000"), 10, 0)
    assert (trade.status, trade.reason, trade.filled_quantity) == ("CANCELLED", "no buyers", 0)
    assert settle(holder, trade, fill(trade, 3, "100")) is Repeat.NOTHING_NEW


def test_7_filled_before_the_last_partial_waits_for_it() -> None:
    holder = account(cash="2000")
    trade = working(holder, MARKET)
    settle(holder, trade, fill(trade, 7, "100", "e2", "FILLED"))
    assert trade.status == "PARTIALLY FILLED"
    settle(holder, trade, fill(trade, 3, "100", "e1"))
    assert (trade.status, figures(holder)) == ("FILLED", (dollars("1000"), 10, 0))


def test_8_an_overfill_goes_to_suspense_as_a_whole_and_the_order_ends() -> None:
    holder = account(cash="2000")
    trade = working(holder, MARKET)
    settle(holder, trade, fill(trade, 4, "100", "e1"))
    outcomes = hear(holder, trade, fill(trade, 7, "100", "e2"))
    assert outcomes[0] is Anomaly.OVERFILL
    assert [event.step for event in outcomes[1:]] == [Step.SUSPENSE, Step.ENDED]
    assert posted(outcomes)[0][SUSPENSE, "AAPL"] == 7
    assert (trade.status, trade.filled_quantity, trade.hold, holder.open_trades) == ("CANCELLED", 4, 0, 0)
    assert figures(holder) == (dollars("1600"), 4, 0)


@pytest.mark.parametrize("prices", [("100.01", "100"), ("100", "100.01")])
def test_8_an_order_with_shares_in_suspense_ends_with_its_last_fill(prices: tuple[str, str]) -> None:
    """The exchange has filled it and will say no more, whichever part was wrong."""
    holder = account(cash="2000")
    trade = working(holder, MARKET, limit="100")
    settle(holder, trade, fill(trade, 5, prices[0], "e1"))
    assert holder.open_trades == 1
    settle(holder, trade, fill(trade, 5, prices[1], "e2", "FILLED"))
    words = "the exchange executed it in a way that could not be booked to you"
    assert (trade.status, trade.reason, trade.filled_quantity, holder.open_trades) == ("CANCELLED", words, 5, 0)
    assert figures(holder) == (dollars("1500"), 5, 0)


def test_8_the_end_of_an_order_counts_shares_in_suspense() -> None:
    holder = account(cash="2000")
    trade = working(holder, MARKET, limit="100")
    assert settle(holder, trade, fill(trade, 6, "100.01", "e1"))[0] is Anomaly.ABOVE_MAX_PRICE
    settle(holder, trade, end(trade, "CANCELLED", "no buyers", filled=6))
    assert (trade.status, trade.reason, holder.open_trades) == ("CANCELLED", "no buyers", 0)


@pytest.mark.parametrize(
    ("limit", "price", "booked"),
    [(None, "105", "1050"), (None, "105.01", "0"), ("100", "100", "1000"), ("100", "100.01", "0")],
)
def test_above_the_price_that_the_exchange_was_told_it_is_not_the_customers(limit, price, booked) -> None:
    holder = account(cash="2000")
    trade = working(holder, MARKET, **({"limit": limit} if limit else {}))
    outcomes = hear(holder, trade, fill(trade, 10, price))
    assert (outcomes[0] is Anomaly.ABOVE_MAX_PRICE) == (booked == "0")
    assert holder.cash == Holding(dollars("2000") - dollars(booked), 0)


def test_a_sale_below_its_limit_is_not_the_customers_who_keeps_the_shares() -> None:
    holder = account(shares={"AAPL": 10})
    trade = working(holder, MARKET, Side.SELL, 10, limit="100")
    assert hear(holder, trade, fill(trade, 4, "100"))[0].status == "PARTIALLY FILLED"
    outcomes = hear(holder, trade, fill(trade, 6, "99.99", "e2"))
    assert outcomes[0] is Anomaly.BELOW_LIMIT
    assert (trade.status, holder.positions[AAPL].balance, holder.positions[AAPL].held) == ("CANCELLED", 6, 0)
    assert holder.cash.balance == dollars("400")


def test_a_part_above_the_limit_is_not_paid_from_what_the_rest_reserved() -> None:
    holder = account(cash="2000")
    trade = working(holder, MARKET, limit="100")
    assert hear(holder, trade, fill(trade, 5, "150"))[0] is Anomaly.ABOVE_MAX_PRICE
    assert (trade.status, trade.hold, figures(holder)[0]) == ("IN PROGRESS", dollars("1000"), dollars("2000"))


def test_a_fill_in_suspense_says_that_the_exchange_has_the_order_and_the_next_one_starts() -> None:
    """Where every other word of it was lost, nothing else would ever say so: an order looked up tells its fills."""
    holder = account(cash="5000")
    trade = working(holder, MARKET, limit="100")
    trading.place(holder, order(holder, Side.BUY, 1), conditions(MARKET))
    assert list(trading.start_next(holder, conditions(MARKET))) == []
    outcomes = hear(holder, trade, fill(trade, 5, "150"))
    assert [event.step for event in outcomes if isinstance(event, TradeEvent)] == [Step.ACCEPTED, Step.SUSPENSE]
    assert [event.step for event in trading.start_next(holder, conditions(MARKET))] == [Step.STARTED]


def test_9_rejected_after_a_part_releases_only_the_rest() -> None:
    holder = account(cash="2000")
    trade = working(holder, MARKET)
    settle(holder, trade, fill(trade, 4, "100"))
    assert settle(holder, trade, end(trade, "REJECTED", "random error", filled=4)) == ("CANCELLED", "random error")
    assert figures(holder) == (dollars("1600"), 4, 0)


def test_10_filled_after_rejected_is_suspense_and_the_first_end_stays() -> None:
    holder = account(cash="2000")
    trade = working(holder, MARKET)
    settle(holder, trade, end(trade, "REJECTED", "random error"))
    assert hear(holder, trade, fill(trade, 10, "100", type_="FILLED"))[0] is Anomaly.FILL_AFTER_END
    assert (trade.status, figures(holder)) == ("REJECTED", (dollars("2000"), 0, 0))


@pytest.mark.parametrize("type_", ["CANCELLED", "EXPIRED", "REJECTED", "REPLACED"])
def test_an_end_that_counts_unseen_fills_waits_for_them(type_: str) -> None:
    holder = account(cash="2000")
    trade = working(holder, MARKET, limit="100")
    assert settle(holder, trade, end(trade, type_, filled=4)) is Repeat.MORE_TO_COME
    settle(holder, trade, fill(trade, 4, "100"))
    settle(holder, trade, end(trade, type_, filled=4))
    assert trade.status == ("CANCELLED" if type_ == "REJECTED" else type_)
    assert figures(holder) == (dollars("1600"), 4, 0)


def test_49_a_fill_that_raced_the_expiry_is_honoured_since_the_expiry_counts_it() -> None:
    holder = account(cash="2000")
    trade = working(holder, MARKET, limit="100")
    assert settle(holder, trade, end(trade, "EXPIRED", filled=10)) is Repeat.MORE_TO_COME
    assert settle(holder, trade, fill(trade, 10, "100"))[0] == "FILLED"
    assert settle(holder, trade, end(trade, "EXPIRED", filled=10)) is Repeat.NOTHING_NEW


# ------------------------------------------------------------------ 57-59: executions that are taken back


def test_57_the_bust_of_a_buy_gives_the_cash_back_and_takes_the_shares() -> None:
    holder = account(cash="2000")
    trade = filled(holder)
    outcomes = hear(holder, trade, bust(trade))
    assert posted(outcomes) == [
        {
            (CUSTOMER, CASH): dollars("1000"),
            (CLEARING, CASH): -dollars("1000"),
            (CUSTOMER, "AAPL"): -10,
            (CLEARING, "AAPL"): 10,
        }
    ]
    assert holder.cash == Holding(dollars("2000"))
    assert holder.positions[AAPL] == Holding()
    assert (trade.status, trade.filled_quantity, trade.executions["e1"].busted) == ("FILLED", 10, True)
    assert outcomes[0].reason == "The exchange took 10 AAPL at $100.00 back."


def test_57_the_bust_of_a_sale_gives_the_shares_back_at_what_they_had_cost() -> None:
    holder = account(cash="2000")
    filled(holder, quantity=10, price="100")
    trade = filled(holder, Side.SELL, 4, "130")
    assert holder.positions[AAPL] == Holding(6, cost=dollars("600"), gain=dollars("120"))
    settle(holder, trade, bust(trade))
    assert holder.positions[AAPL] == Holding(10, cost=dollars("1000"), gain=Money(0))
    assert holder.cash == Holding(dollars("1000"))


def test_57_with_the_cash_gone_the_customer_owes_it_and_is_restricted() -> None:
    holder = account(shares={"AAPL": 10})
    trade = filled(holder, Side.SELL)
    holder.cash.add(-dollars("700"))
    outcomes = hear(holder, trade, bust(trade))
    assert posted(outcomes) == [
        {
            (CUSTOMER, CASH): -dollars("300"),
            (RECEIVABLE, CASH): -dollars("700"),
            (CLEARING, CASH): dollars("1000"),
            (CUSTOMER, "AAPL"): 10,
            (CLEARING, "AAPL"): -10,
        }
    ]
    assert figures(holder) == (0, 10, 0)
    reason = f"$700.00 are owed since the exchange took an execution of {trade.trade_id} back"
    assert outcomes[1:] == [Restricted(CustomerId(CUSTOMER), reason)]


def test_57_with_the_shares_gone_the_customer_owes_them() -> None:
    holder = account(cash="2000")
    trade = filled(holder)
    filled(holder, Side.SELL, 10, "130")
    outcomes = hear(holder, trade, bust(trade))
    assert posted(outcomes)[0][RECEIVABLE, "AAPL"] == -10
    assert outcomes[1].reason.startswith("10 AAPL are owed")
    assert holder.positions[AAPL] == Holding(0, gain=dollars("1300"))
    assert holder.cash == Holding(dollars("3300"))


def test_57_what_is_reserved_is_not_taken_and_credit_is() -> None:
    holder = account(shares={"AAPL": 10}, type_=AccountType.MARGIN, credit="400")
    trade = filled(holder, Side.SELL)
    holder.cash.add(-dollars("900"))
    holder.cash.reserve(dollars("200"))
    outcomes = hear(holder, trade, bust(trade))
    assert holder.cash == Holding(-dollars("200"), dollars("200"), floor=-dollars("400"))
    assert posted(outcomes)[0][RECEIVABLE, CASH] == -dollars("700")


def test_57_the_bust_of_what_is_in_suspense_leaves_the_customer_alone() -> None:
    holder = account(cash="2000")
    trade = working(holder, MARKET)
    settle(holder, trade, end(trade, "CANCELLED"))
    settle(holder, trade, fill(trade, 3, "100"))
    outcomes = hear(holder, trade, bust(trade))
    assert posted(outcomes)[0][SUSPENSE, "AAPL"] == -3
    assert posted(hear(holder, trade, correction(trade, 4, "99")))[0][SUSPENSE, CASH] == -dollars("396")
    assert figures(holder) == (dollars("2000"), 0, 0)


def test_57_an_order_at_work_goes_on_after_a_bust_and_counts_it_as_filled() -> None:
    holder = account(cash="2000")
    trade = working(holder, MARKET, limit="100")
    settle(holder, trade, fill(trade, 4, "100"))
    settle(holder, trade, bust(trade))
    assert (trade.status, trade.filled_quantity, trade.hold) == ("PARTIALLY FILLED", 4, dollars("600"))
    settle(holder, trade, fill(trade, 6, "100", "e2"))
    assert (trade.status, figures(holder)) == ("FILLED", (dollars("1400"), 6, 0))


@pytest.mark.parametrize(
    ("side", "quantity", "price", "cash", "shares", "held_back"),
    [
        (Side.BUY, 10, "101", "990", 20, 0),
        (Side.BUY, 10, "99", "1010", 20, 0),
        (Side.BUY, 12, "100", "800", 22, 0),
        (Side.SELL, 10, "99", "2990", 0, 0),
        (Side.SELL, 8, "100", "2800", 2, 0),
    ],
)
def test_58_a_correction_is_the_bust_and_the_new_one_at_once(side, quantity, price, cash, shares, held_back) -> None:
    holder = account(cash="2000", shares={"AAPL": 10})
    trade = filled(holder, side)
    outcomes = hear(holder, trade, correction(trade, quantity, price))
    assert [event.step for event in outcomes] == [Step.BUSTED, Step.CORRECTED]
    assert [event.report.execution_id for event in outcomes] == ["e1", "e2"]
    assert len(posted(outcomes)) == 2
    assert figures(holder) == (dollars(cash), shares, held_back)
    assert (trade.status, trade.filled_quantity) == ("FILLED", 10)
    assert settle(holder, trade, correction(trade, quantity, price)) is Repeat.NOTHING_NEW


def test_58_a_correction_up_that_is_not_there_is_owed() -> None:
    holder = account(cash="1000")
    trade = filled(holder)
    outcomes = hear(holder, trade, correction(trade, 10, "101"))
    assert posted(outcomes)[1][RECEIVABLE, CASH] == -dollars("10")
    assert isinstance(outcomes[-1], Restricted)
    assert figures(holder) == (0, 10, 0)


def test_58_a_correction_is_corrected_in_its_turn_and_nothing_is_corrected_twice() -> None:
    holder = account(cash="2000")
    trade = filled(holder)
    settle(holder, trade, correction(trade, 10, "101", "e2", "e1"))
    before = pickle.dumps((holder, trade))
    assert settle(holder, trade, correction(trade, 10, "102", "e3", "e1")) is Anomaly.CONTRADICTS_EXECUTION
    assert settle(holder, trade, correction(trade, 10, "102", "e2", "e1")) is Anomaly.CONTRADICTS_EXECUTION
    assert settle(holder, trade, correction(trade, 10, "101", "e2", "e2")) is Anomaly.CONTRADICTS_EXECUTION
    assert pickle.dumps((holder, trade)) == before
    settle(holder, trade, correction(trade, 10, "102", "e3", "e2"))
    assert figures(holder) == (dollars("980"), 10, 0)


def test_58_corrected_shares_in_suspense_are_counted_once() -> None:
    """Else the order would end while four of its shares can still be filled."""
    holder = account(cash="2000")
    trade = working(holder, MARKET, limit="100")
    settle(holder, trade, fill(trade, 3, "100.01", "e1"))
    settle(holder, trade, correction(trade, 3, "100.02", "e2", "e1"))
    settle(holder, trade, fill(trade, 4, "100.01", "e3"))
    assert trade.status == "IN PROGRESS"
    assert settle(holder, trade, end(trade, "CANCELLED", filled=10)) is Repeat.MORE_TO_COME
    settle(holder, trade, fill(trade, 3, "100", "e4"))
    assert (trade.status, trade.filled_quantity) == ("CANCELLED", 3)


def test_58_the_correction_of_an_execution_in_suspense_is_of_the_suspense_account_too() -> None:
    holder = account(cash="2000")
    trade = filled(holder)
    settle(holder, trade, fill(trade, 2, "100", "late"))
    cash, shares = holder.cash.balance, holder.positions[AAPL].balance
    outcomes = settlement.settle(holder, trade, correction(trade, 2, "90", "right", corrects="late"), conditions())
    entries = [each.entry for each in outcomes if isinstance(each, TradeEvent) and each.entry]
    assert [each.kind for each in entries] == [EntryKind.BUST, EntryKind.SUSPENSE]
    assert (holder.cash.balance, holder.positions[AAPL].balance) == (cash, shares)


def test_59_a_bust_that_is_repeated_or_unknown_does_nothing() -> None:
    holder = account(cash="2000")
    trade = filled(holder)
    assert settle(holder, trade, bust(trade, "e9")) is Anomaly.UNKNOWN_EXECUTION
    assert settle(holder, trade, correction(trade, 1, "1", corrects="e9")) is Anomaly.UNKNOWN_EXECUTION
    settle(holder, trade, bust(trade))
    before = pickle.dumps((holder, trade))
    assert settle(holder, trade, bust(trade)) is Repeat.NOTHING_NEW
    again = fill(trade, 10, "100")
    again.filled_quantity = 10
    assert settle(holder, trade, again) is Repeat.NOTHING_NEW
    assert pickle.dumps((holder, trade)) == before


# ------------------------------------------------------------------ fees


@pytest.mark.parametrize("side", Side)
def test_fees_do_not_depend_on_how_the_order_was_filled(side: Side) -> None:
    """$1.00 and a thousandth of $1,000."""
    for cut in ([10], [4, 6], [1] * 10):
        holder = account(cash="2000", shares={"AAPL": 10})
        trade = working(holder, MARKET, side, policy=COMMISSION)
        paid = Money(0)
        for number, quantity in enumerate(cut):
            lines = posted(hear(holder, trade, fill(trade, quantity, "100", f"e{number}"), COMMISSION))
            paid = Money(paid + lines[0].get((FEES, CASH), 0))
        assert (trade.status, paid) == ("FILLED", dollars("2"))
        assert figures(holder)[0] == dollars("998" if side is Side.BUY else "2998")


def test_a_bust_gives_its_fee_back_and_a_correction_takes_it_again() -> None:
    holder = account(cash="2000")
    trade = working(holder, MARKET, policy=COMMISSION)
    hear(holder, trade, fill(trade, 10, "100"), COMMISSION)
    outcomes = hear(holder, trade, correction(trade, 10, "99"), COMMISSION)
    assert [lines[FEES, CASH] for lines in posted(outcomes)] == [-dollars("2"), dollars("2")]
    assert figures(holder)[0] == dollars("1008")


def test_a_fill_at_the_max_price_is_the_customers_with_its_commission() -> None:
    holder = account(cash="2000")
    trade = working(holder, MARKET, policy=COMMISSION)
    assert (trade.max_price, trade.hold) == (dollars("1050"), dollars("1052.05"))
    assert hear(holder, trade, fill(trade, 10, "105"), COMMISSION)[0].status == "FILLED"
    assert figures(holder) == (dollars("2000") - dollars("1052.05"), 10, 0)


def test_what_was_reserved_for_fees_buys_no_shares() -> None:
    """$1,051.00 for nine shares would fit into the hold: their fees are less than those of ten."""
    policy = Policy(fees=parse_fees("COMMISSION 2026-01-01 both share=1"))
    holder = account(cash="2000")
    trade = working(holder, MARKET, policy=policy)
    assert (trade.max_price, trade.hold) == (dollars("1050"), dollars("1060"))
    assert hear(holder, trade, fill(trade, 1, "1050.01"), policy)[0] is Anomaly.ABOVE_MAX_PRICE
    assert figures(holder)[0] == dollars("2000")


def test_without_a_quote_the_commission_is_kept_out_of_the_max_price() -> None:
    holder = account(cash="52")
    trade = working(holder, FixedMarket(), policy=COMMISSION)
    assert (trade.hold, trade.max_price) == (dollars("52"), dollars("50.94"))
    assert hear(holder, trade, fill(trade, 10, "5.094"), COMMISSION)[0].status == "FILLED"
    assert figures(holder) == (0, 10, 0)


def test_rates_that_rose_since_the_order_was_sent_cost_no_more_than_was_reserved() -> None:
    holder = account(cash="2000")
    trade = working(holder, MARKET, limit="100")
    assert trade.hold == dollars("1000")
    outcomes = hear(holder, trade, fill(trade, 10, "100"), COMMISSION)
    assert (outcomes[0].status, outcomes[0].entry.fee) == ("FILLED", 0)
    assert figures(holder) == (dollars("1000"), 10, 0)


def test_the_fees_of_a_sale_take_no_more_than_it_brings() -> None:
    holder = account(shares={"AAPL": 10})
    trade = working(holder, MARKET, Side.SELL, 1, policy=COMMISSION)
    outcomes = hear(holder, trade, fill(trade, 1, "0.40"), COMMISSION)
    assert posted(outcomes)[0][FEES, CASH] == dollars("0.40")
    assert figures(holder) == (0, 9, 0)


def test_58_a_corrected_sale_leaves_cost_and_gain_as_if_it_had_been_right_at_once() -> None:
    holder = account(cash="2000")
    bought = working(holder, MARKET, quantity=20, limit="100")
    hear(holder, bought, fill(bought, 20, "100", "b"))
    sold = working(holder, MARKET, Side.SELL, 10)
    hear(holder, sold, fill(sold, 10, "150", "s"))
    report = Report(sold.trade_id, ReportType.CORRECTED, "sim", "s2", Fill(10, dollars("151")), 10, corrects="s")
    hear(holder, sold, report)
    position = holder.positions[AAPL]
    assert (position.balance, position.cost, position.gain) == (10, dollars("1000"), dollars("510"))


def test_why_an_order_was_cancelled_is_what_whoever_asked_for_it_said_also_after_a_fill() -> None:
    holder = account(cash="100000")
    trade = working(holder, FixedMarket({"AAPL": "190.20"}))
    trading.cancel(holder, trade, "Cancelled by an operator: news pending.")
    first = Report(trade.trade_id, ReportType.PARTIALLY_FILLED, "sim", "e1", Fill(3, dollars("190")), 3)
    settlement.settle(holder, trade, first, conditions())
    assert _reason_of_end(holder, trade, 3) == "Cancelled by an operator: news pending."


def test_who_asked_for_a_cancel_is_not_made_up_after_a_restart() -> None:
    holder = account(cash="100000")
    trade = working(holder, FixedMarket({"AAPL": "190.20"}))
    trade.cancel_requested, trade.reason = True, "Filled 3 of 10 AAPL."
    assert _reason_of_end(holder, trade, 0) == "Cancelled, as was asked for."


def _reason_of_end(holder: Account, trade: Trade, filled: int) -> str:
    ended = Report(trade.trade_id, ReportType.CANCELLED, "sim", filled_quantity=filled, reason="asked")
    (event,) = settlement.settle(holder, trade, ended, conditions())
    assert isinstance(event, TradeEvent)
    return event.reason
