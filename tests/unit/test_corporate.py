"""Splits, symbol changes and dividends on one account: what moves, and what must not."""

import pytest

from broker.core.account import Account
from broker.core.corporate import ActionKind, AdjustPosition, CorporateAction, PositionAdjusted, adjust
from broker.core.messages import Refusal, Refused
from broker.core.money import Money
from broker.core.postings import CASH, Move
from broker.core.types import Side, Symbol
from tests.builders import AAPL, FixedMarket, account, dollars, place, working

NEW = Symbol("APPL")


def holder(shares: int = 15, cost: str = "1500.00", gain: str = "0") -> Account:
    """Somebody with AAPL and no cash."""
    one = account("0", {"AAPL": shares})
    one.positions[AAPL].cost = dollars(cost)
    one.positions[AAPL].gain = dollars(gain)
    return one


def split(numerator: int, denominator: int, price: str = "0") -> CorporateAction:
    return CorporateAction("e", ActionKind.SPLIT, AAPL, numerator, denominator, dollars(price))


RENAMED = CorporateAction("e", ActionKind.SYMBOL_CHANGE, AAPL, new_symbol=NEW)
DIVIDEND = CorporateAction("e", ActionKind.CASH_DIVIDEND, AAPL, per_share=dollars("0.24"))


def carry_out(one: Account, action: CorporateAction) -> PositionAdjusted | Refused | None:
    return adjust(one, AdjustPosition(one.customer_id, action))


def moves(one: Account, action: CorporateAction) -> tuple[Move, ...]:
    adjusted = carry_out(one, action)
    assert isinstance(adjusted, PositionAdjusted)
    assert adjusted.reference == "e:1001"
    return adjusted.moves


def figures(one: Account, symbol: Symbol = AAPL) -> tuple[int, int, int]:
    position = one.positions[symbol]
    return position.balance, position.cost, position.gain


def test_a_split_without_a_fraction_keeps_the_cost():
    one = holder()
    assert moves(one, split(4, 1)) == (Move(AAPL, 45),)
    assert figures(one) == (60, dollars("1500.00"), 0)


def test_the_fraction_of_a_split_is_sold_at_the_price_of_a_new_share():
    one = holder(gain="1.00")
    # 15 shares, 1 for 10: 1 share and a half, which cost $500.00 and brings $520.00.
    assert moves(one, split(1, 10, "1040.00")) == (
        Move(AAPL, -14, -dollars("500.00"), dollars("20.00")),
        Move(CASH, dollars("520.00")),
    )
    assert figures(one) == (1, dollars("1000.00"), dollars("21.00"))
    assert one.cash.balance == dollars("520.00")


def test_a_position_smaller_than_one_new_share_becomes_cash():
    one = holder(3, "100.00")
    assert moves(one, split(1, 10, "1000.00")) == (
        Move(AAPL, -3, -dollars("100.00"), dollars("200.00")),
        Move(CASH, dollars("300.00")),
    )
    assert figures(one) == (0, 0, dollars("200.00"))


def test_a_worthless_fraction_is_gone_with_its_cost():
    assert moves(holder(3, "30.00"), split(1, 2)) == (Move(AAPL, -2, -dollars("10.00"), -dollars("10.00")),)


def test_a_symbol_change_takes_cost_and_gain_along_and_adds_to_what_is_there():
    one = holder(10, "100.00", "-5.00")
    one.positions[NEW] = type(one.positions[AAPL])(1, cost=dollars("9.00"), gain=dollars("1.00"))
    assert moves(one, RENAMED) == (
        Move(AAPL, -10, -dollars("100.00"), dollars("5.00")),
        Move(NEW, 10, dollars("100.00"), -dollars("5.00")),
    )
    assert (figures(one), figures(one, NEW)) == ((0, 0, 0), (11, dollars("109.00"), -dollars("4.00")))


def test_a_dividend_pays_for_every_share_those_on_hold_too():
    one = holder(10)
    one.positions[AAPL].held = 4
    assert moves(one, DIVIDEND) == (Move(CASH, dollars("2.40")),)
    assert one.cash.balance == dollars("2.40")


@pytest.mark.parametrize("action", [split(2, 1), RENAMED, DIVIDEND])
def test_who_has_none_gets_nothing(action: CorporateAction):
    nobody, sold_out = account("5"), holder(0, "0")
    assert carry_out(nobody, action) is carry_out(sold_out, action) is None
    assert nobody.cash.balance == dollars("5")


def test_a_dividend_of_nothing_books_nothing():
    assert carry_out(holder(), CorporateAction("e", ActionKind.CASH_DIVIDEND, AAPL, per_share=Money(0))) is None


@pytest.mark.parametrize("action", [split(2, 1), RENAMED])
def test_open_orders_have_to_be_gone_first(action: CorporateAction):
    waits, works = holder(), holder()
    place(waits)
    working(works, FixedMarket({"AAPL": "100"}), Side.SELL, 5)
    for one in (waits, works):
        before = figures(one)
        refused = carry_out(one, action)
        assert isinstance(refused, Refused)
        assert (refused.refusal, refused.figures) == (Refusal.OPEN_ORDERS, {"open_orders": 1})
        assert refused.reason == "open orders: 1 orders in AAPL are open; they have to be cancelled first."
        assert figures(one) == before
        assert carry_out(one, DIVIDEND) is not None


def test_an_order_in_the_new_symbol_is_in_the_way_of_a_change_and_one_in_another_is_not():
    for symbol, expected in (("APPL", Refused), ("MSFT", PositionAdjusted)):
        one = holder()
        place(one, symbol=symbol)
        assert isinstance(carry_out(one, RENAMED), expected)
