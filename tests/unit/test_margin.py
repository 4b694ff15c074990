"""Margin by the figures that the documentation quotes."""

import pytest

from broker.core.margin import (
    DEFAULT_RATES,
    PAID_IN_FULL,
    Hold,
    Long,
    MarginFigures,
    Rates,
    can_hold,
    figures,
    makes_deficit,
    spendable,
    withdrawable,
)
from broker.core.money import Money, format_money, parse_money
from broker.core.types import AccountType


def dollars(text: str) -> Money:
    return parse_money(text)


def on_margin(cash: str, *positions: Long, holds: tuple[Hold, ...] = ()) -> MarginFigures:
    return figures(dollars(cash), holds, positions)


def long(quantity: int, price: str | None) -> Long:
    return (quantity, None if price is None else dollars(price), DEFAULT_RATES)


def hold(cost: str, rates: Rates = DEFAULT_RATES) -> Hold:
    return (dollars(cost), rates)


def told(account: MarginFigures) -> dict[str, str]:
    names = (
        "market_value",
        "equity",
        "initial_requirement",
        "maintenance_requirement",
        "excess",
        "buying_power",
        "maintenance_excess",
        "margin_call",
    )
    return {name: format_money(getattr(account, name)) for name in names}


# ------------------------------------------------------------------ the worked example: $10,000 buys $15,000 of shares


def test_cash_of_10000_may_buy_20000() -> None:
    assert told(on_margin("10000")) == {
        "market_value": "0.00",
        "equity": "10000.00",
        "initial_requirement": "0.00",
        "maintenance_requirement": "0.00",
        "excess": "10000.00",
        "buying_power": "20000.00",
        "maintenance_excess": "10000.00",
        "margin_call": "0.00",
    }


def test_an_open_buy_of_15000_counts_at_its_initial_rate() -> None:
    account = on_margin("10000", holds=(hold("15000"),))
    assert (account.excess, account.buying_power) == (dollars("2500"), dollars("5000"))
    assert account.available == dollars("-5000")
    assert account.equity == dollars("10000")


def test_its_fill_of_100_shares_at_150_changes_nothing_but_the_requirement() -> None:
    assert told(on_margin("-5000", long(100, "150"))) == {
        "market_value": "15000.00",
        "equity": "10000.00",
        "initial_requirement": "7500.00",
        "maintenance_requirement": "3750.00",
        "excess": "2500.00",
        "buying_power": "5000.00",
        "maintenance_excess": "6250.00",
        "margin_call": "0.00",
    }


def test_at_100_a_share_nothing_more_can_be_bought() -> None:
    assert told(on_margin("-5000", long(100, "100"))) == {
        "market_value": "10000.00",
        "equity": "5000.00",
        "initial_requirement": "5000.00",
        "maintenance_requirement": "2500.00",
        "excess": "0.00",
        "buying_power": "0.00",
        "maintenance_excess": "2500.00",
        "margin_call": "0.00",
    }


def test_at_66_a_share_50_dollars_are_called() -> None:
    account = on_margin("-5000", long(100, "66"))
    assert told(account) == {
        "market_value": "6600.00",
        "equity": "1600.00",
        "initial_requirement": "3300.00",
        "maintenance_requirement": "1650.00",
        "excess": "-1700.00",
        "buying_power": "0.00",
        "maintenance_excess": "-50.00",
        "margin_call": "50.00",
    }
    assert account.is_call
    assert makes_deficit(account)
    assert not account.has_credit


def test_the_call_begins_below_two_thirds_of_a_hundred() -> None:
    # a loan of $5,000 and 25 %: the shares must be worth $6,666.67
    assert not on_margin("-5000", long(100, "66.67")).is_call
    assert on_margin("-5000", long(100, "66.66")).margin_call == dollars("0.50")


# ------------------------------------------------------------------ decisions


def test_the_last_unit_decides() -> None:
    account = on_margin("10000")
    assert can_hold(account, dollars("20000"), DEFAULT_RATES)
    assert not can_hold(account, dollars("20000.0001"), DEFAULT_RATES)
    cheap = Rates(3_000, 2_500)
    assert can_hold(account, dollars("33333.3333"), cheap)
    assert not can_hold(account, dollars("33333.3334"), cheap)


def test_fees_are_paid_in_full() -> None:
    account = on_margin("10000")
    assert can_hold(account, dollars("19998"), DEFAULT_RATES, fees=dollars("1"))
    assert not can_hold(account, dollars("19998"), DEFAULT_RATES, fees=dollars("1.0001"))
    held = on_margin("10000", holds=(hold("19998"), hold("1", PAID_IN_FULL)))
    assert held.excess_e4 == 0


def test_a_symbol_of_its_own_rate_has_a_buying_power_of_its_own() -> None:
    account = on_margin("10000")
    assert spendable(account, PAID_IN_FULL) == dollars("10000")
    assert spendable(account, Rates(7_500, 5_000)) == dollars("13333.3333")
    reserved = on_margin("10000", holds=(hold("10000", PAID_IN_FULL),))
    assert reserved.buying_power == 0


def test_a_house_rate_is_what_the_account_is_told_by() -> None:
    account = figures(dollars("10000"), (), (), rates=Rates(8_000, 4_000))
    assert account.buying_power == dollars("12500")


def test_a_position_without_a_price_is_no_collateral() -> None:
    unknown = on_margin("-5000", long(100, "150"), long(1_000, None))
    assert unknown == on_margin("-5000", long(100, "150"))


def test_below_2000_there_is_no_credit() -> None:
    at, below = on_margin("2000"), on_margin("1999.9999")
    assert (at.buying_power, below.buying_power) == (dollars("4000"), dollars("1999.9999"))
    assert can_hold(below, dollars("1999.9999"), DEFAULT_RATES)
    assert not can_hold(below, dollars("2000"), DEFAULT_RATES)
    lower = figures(dollars("1000"), (), (), minimum_equity=dollars("1000"))
    assert lower.buying_power == dollars("2000")


def test_a_cash_account_has_its_cash() -> None:
    holds, positions = [hold("4000")], [long(100, "150")]
    account = figures(dollars("10000"), holds, positions, account_type=AccountType.CASH)
    assert account.buying_power == dollars("6000")
    assert can_hold(account, dollars("5999"), DEFAULT_RATES, fees=dollars("1"))
    assert not can_hold(account, dollars("6000"), DEFAULT_RATES, fees=dollars("0.0001"))
    overdrawn = figures(dollars("3000"), holds, positions, account_type=AccountType.CASH)
    assert overdrawn.buying_power == 0


def test_only_cash_that_is_settled_and_free_may_leave() -> None:
    assert withdrawable(on_margin("10000", holds=(hold("4000"),)), dollars("1000")) == dollars("5000")
    assert withdrawable(on_margin("10000", holds=(hold("15000"),))) == 0
    assert withdrawable(on_margin("-5000", long(100, "150"))) == 0


@pytest.mark.parametrize(("initial", "maintenance"), [(0, 0), (-1, -1), (10_001, 2_500), (5_000, 5_001), (5_000, -1)])
def test_rates_that_cannot_work_are_refused(initial: int, maintenance: int) -> None:
    with pytest.raises(ValueError, match="margin rate"):
        Rates(initial, maintenance)
