"""Margin, for any account: what may be bought is exact, and never rises for a bad reason."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from hypothesis import assume, given
from hypothesis import strategies as st

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
from broker.core.money import Money
from broker.core.types import PRICE_MAX, QUANTITY_MAX, AccountType


@dataclass(frozen=True)
class Portfolio:
    """What the figures are made from."""

    cash: Money
    holds: Sequence[Hold] = ()
    positions: Sequence[Long] = ()


def margin_figures(kind: AccountType, portfolio: Portfolio, rates: Rates = DEFAULT_RATES) -> MarginFigures:
    return figures(portfolio.cash, portfolio.holds, portfolio.positions, rates, account_type=kind)


amounts = st.integers(0, 10**8) | st.integers(0, 10**15)
rates = st.integers(1, 10_000).flatmap(lambda initial: st.builds(Rates, st.just(initial), st.integers(0, initial)))
prices = st.integers(1, PRICE_MAX).map(Money)
quantities = st.integers(1, 1_000) | st.integers(1, QUANTITY_MAX)
longs = st.tuples(quantities, st.none() | prices, st.just(DEFAULT_RATES) | rates)
holds = st.tuples(amounts.map(Money), st.just(DEFAULT_RATES) | rates)
portfolios = st.builds(
    Portfolio,
    cash=st.tuples(st.sampled_from([1, 1, -1]), amounts).map(lambda pair: Money(pair[0] * pair[1])),
    holds=st.lists(holds, max_size=3).map(tuple),
    positions=st.lists(longs, max_size=4).map(tuple),
)
types = st.sampled_from(AccountType)


def with_hold(portfolio: Portfolio, *more: Hold) -> Portfolio:
    return replace(portfolio, holds=(*portfolio.holds, *more))


@given(types, portfolios, rates)
def test_buying_power_is_the_largest_cost_that_can_be_held(
    kind: AccountType, portfolio: Portfolio, symbol: Rates
) -> None:
    account = margin_figures(kind, portfolio, symbol)
    most = spendable(account, symbol)
    assert most == account.buying_power >= 0
    assert not can_hold(account, Money(most + 1), symbol)
    assert most == 0 or can_hold(account, most, symbol)


@given(types, portfolios, holds)
def test_a_hold_never_raises_buying_power(kind: AccountType, portfolio: Portfolio, hold: Hold) -> None:
    before, after = margin_figures(kind, portfolio), margin_figures(kind, with_hold(portfolio, hold))
    assert after.buying_power <= before.buying_power
    assert after.equity == before.equity


@given(types, portfolios, amounts, prices)
def test_cash_and_a_better_price_never_lower_it(
    kind: AccountType, portfolio: Portfolio, deposit: int, price: Money
) -> None:
    before = margin_figures(kind, portfolio)
    richer = margin_figures(kind, replace(portfolio, cash=Money(portfolio.cash + deposit)))
    assert richer.buying_power >= before.buying_power
    dearer = [(quantity, max(known or Money(0), price), each) for quantity, known, each in portfolio.positions]
    risen = margin_figures(kind, replace(portfolio, positions=dearer))
    assert risen.buying_power >= before.buying_power
    assert risen.margin_call <= before.margin_call


@given(types, portfolios)
def test_an_unknown_price_never_raises_it(kind: AccountType, portfolio: Portfolio) -> None:
    blind = [(quantity, None, each) for quantity, _, each in portfolio.positions]
    unknown = margin_figures(kind, replace(portfolio, positions=blind))
    assert unknown.buying_power <= margin_figures(kind, portfolio).buying_power


@given(portfolios)
def test_credit_never_gives_less_than_cash(portfolio: Portfolio) -> None:
    cash = margin_figures(AccountType.CASH, portfolio)
    assert margin_figures(AccountType.MARGIN, portfolio).buying_power >= cash.buying_power


@given(portfolios, st.integers(1, 1_000), st.integers(1, 10**10).map(Money), rates, st.integers(0, 10**6).map(Money))
def test_what_can_be_held_can_be_filled(
    portfolio: Portfolio, quantity: int, price: Money, symbol: Rates, fees: Money
) -> None:
    cost = Money(quantity * price)
    before = margin_figures(AccountType.MARGIN, portfolio)
    assume(can_hold(before, cost, symbol, fees))
    open_ = margin_figures(AccountType.MARGIN, with_hold(portfolio, (cost, symbol), (fees, PAID_IN_FULL)))
    filled = margin_figures(
        AccountType.MARGIN,
        Portfolio(
            Money(portfolio.cash - cost - fees), portfolio.holds, (*portfolio.positions, (quantity, price, symbol))
        ),
    )
    assert open_.equity == before.equity == filled.equity + fees
    assert open_.excess_e4 == filled.excess_e4
    if before.has_credit:
        assert filled.excess_e4 >= 0
        assert not makes_deficit(filled)
    else:
        assert filled.available >= 0


@given(portfolios, st.data())
def test_a_cash_account_that_holds_what_it_can_never_overdraws(portfolio: Portfolio, data: st.DataObject) -> None:
    cash = abs(portfolio.cash)
    account = Portfolio(Money(cash))
    for _ in range(3):
        before = margin_figures(AccountType.CASH, account)
        cost = Money(data.draw(st.integers(0, cash + 1)))
        if can_hold(before, cost, DEFAULT_RATES):
            account = with_hold(account, (cost, DEFAULT_RATES))
    assert sum(cost for cost, _ in account.holds) <= cash
    assert margin_figures(AccountType.CASH, account).available >= 0


@given(types, portfolios)
def test_the_figures_agree_with_exact_fractions(kind: AccountType, portfolio: Portfolio) -> None:
    account = margin_figures(kind, portfolio)
    worth = [(quantity * (price or 0), each) for quantity, price, each in portfolio.positions]
    equity = portfolio.cash + sum(value for value, _ in worth)
    initial = sum((Fraction(value * each.initial_bps, 10_000) for value, each in worth), Fraction(0))
    keep = sum((Fraction(value * each.maintenance_bps, 10_000) for value, each in worth), Fraction(0))
    held = sum((Fraction(cost * each.initial_bps, 10_000) for cost, each in portfolio.holds), Fraction(0))
    assert account.equity == equity
    assert initial <= account.initial_requirement < initial + 1
    assert keep <= account.maintenance_requirement < keep + 1
    assert Fraction(account.excess_e4, 10_000) == equity - initial - held
    assert account.excess <= equity - initial - held < account.excess + 1
    assert account.is_call == makes_deficit(account) == (account.intraday_level < 0) == (equity < keep)
    assert account.margin_call == max(0, account.maintenance_requirement - equity)


@given(portfolios, st.integers(0, 10**15))
def test_a_withdrawal_takes_no_loan_and_leaves_what_is_reserved(portfolio: Portfolio, unsettled: int) -> None:
    most = withdrawable(margin_figures(AccountType.MARGIN, portfolio), Money(unsettled))
    assert most >= 0
    if most:
        after = margin_figures(AccountType.MARGIN, replace(portfolio, cash=Money(portfolio.cash - most)))
        assert after.available >= unsettled
        assert after.excess_e4 >= 0
        assert not after.is_call
