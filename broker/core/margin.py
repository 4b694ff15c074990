"""What an account may buy: cash only, or on margin by Regulation T (initial) and FINRA Rule 4210 (maintenance).

Rates are in 1/10,000 and come from the caller. What decides is kept in 1/10,000 of a Money unit (`_e4`), where nothing
is rounded; what is shown is rounded against the customer. A position without a price is worth nothing as collateral.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from broker.core.money import UNITS_PER_DOLLAR, Money
from broker.core.types import AccountType

_FULL_BPS = 10_000
_NONE = Money(0)

MINIMUM_EQUITY = Money(2_000 * UNITS_PER_DOLLAR)
"""$2,000: below it a margin account gets no credit (FINRA Rule 4210(b))."""


@dataclass(frozen=True, slots=True)
class Rates:
    """What part of a position's value the customer's own money must cover, in 1/10,000.

    To buy it (Regulation T: 50 %), and to keep it (FINRA: 25 %). Raises ValueError outside 0 to 100 %, and where
    keeping would take more than buying: each purchase would then be a margin call.
    """

    initial_bps: int = 5_000
    maintenance_bps: int = 2_500

    def __post_init__(self) -> None:
        """Refuse rates that cannot work."""
        if not 0 < self.initial_bps <= _FULL_BPS:
            raise ValueError("an initial margin rate is 1 to 10000 of 1/10,000")
        if not 0 <= self.maintenance_bps <= self.initial_bps:
            raise ValueError("a maintenance margin rate is 0 to the initial rate")


DEFAULT_RATES = Rates()

PAID_IN_FULL = Rates(_FULL_BPS, _FULL_BPS)
"""The rates of what no credit is given for: fees, and shares without loan value."""


Long = tuple[int, Money | None, Rates]
"""A position: whole shares, their price where it is known, and the rates of its symbol."""

Hold = tuple[Money, Rates]
"""What an open BUY has reserved: its full cost, and the rates of its symbol (for its fees: PAID_IN_FULL)."""


@dataclass(frozen=True, slots=True)
class MarginFigures:
    """An account in figures: what it is worth, what it must keep, what it may buy."""

    market_value: Money  # of the positions with a price
    equity: Money  # cash and market value
    initial_requirement: Money  # of the positions, without the holds; rounded up
    maintenance_requirement: Money  # of the positions; rounded up
    excess_e4: int  # equity above the initial requirement of positions and holds, in 1/10,000 Money
    available: Money  # cash that nothing has reserved; below zero where a hold is on credit
    has_credit: bool  # a margin account with the minimum of equity
    buying_power: Money  # what is `spendable` at the account's own rates

    @property
    def excess(self) -> Money:
        """Equity above the initial requirement of positions and holds, rounded down; below zero it is missing."""
        return Money(self.excess_e4 // _FULL_BPS)

    @property
    def maintenance_excess(self) -> Money:
        """Equity above the maintenance requirement; below zero it is missing."""
        return Money(self.equity - self.maintenance_requirement)

    @property
    def margin_call(self) -> Money:
        """How much equity is missing to maintenance; 0 without a call."""
        return max(_NONE, Money(-self.maintenance_excess))

    @property
    def is_call(self) -> bool:
        """Whether the customer must bring money or sell (FINRA Rule 4210(c))."""
        return self.margin_call > 0

    @property
    def intraday_level(self) -> Money:
        """Equity above maintenance at this moment: below zero it is an intraday margin deficit (SR-FINRA-2025-017)."""
        return self.maintenance_excess


def figures(
    cash: Money,
    holds: Iterable[Hold],
    positions: Iterable[Long],
    rates: Rates = DEFAULT_RATES,
    minimum_equity: Money = MINIMUM_EQUITY,
    account_type: AccountType = AccountType.MARGIN,
) -> MarginFigures:
    """The figures of an account: `cash` below zero is a loan, `rates` are those that its buying power is told by.

    An open BUY counts at the initial rate of its own symbol, so that its fill at what it holds changes no excess.
    """
    market_value, initial_e4, maintenance_e4 = _collateral(positions)
    held, held_e4 = _reserved(holds)
    equity = Money(cash + market_value)
    excess_e4 = _FULL_BPS * equity - initial_e4 - held_e4
    available = Money(cash - held)
    has_credit = account_type is AccountType.MARGIN and equity >= minimum_equity
    return MarginFigures(
        market_value=market_value,
        equity=equity,
        initial_requirement=_rounded_up(initial_e4),
        maintenance_requirement=_rounded_up(maintenance_e4),
        excess_e4=excess_e4,
        available=available,
        has_credit=has_credit,
        buying_power=_most(excess_e4, available, has_credit, rates),
    )


def spendable(figures: MarginFigures, rates: Rates, fees: Money = _NONE) -> Money:
    """The largest cost, with these fees in it, that `can_hold` accepts for a symbol with these rates; 0 for none."""
    if not figures.has_credit or not fees:
        return _most(figures.excess_e4, figures.available, figures.has_credit, rates)
    left = figures.excess_e4 - fees * _FULL_BPS
    return Money(left // rates.initial_bps + fees) if left >= 0 else _NONE


def can_hold(figures: MarginFigures, cost: Money, rates: Rates, fees: Money = _NONE) -> bool:
    """Whether a further hold of `cost` fits for a symbol with these rates, with its fees paid in full.

    Without credit it must be there in cash.
    """
    if not figures.has_credit:
        return cost + fees <= figures.available
    return cost * rates.initial_bps + fees * _FULL_BPS <= figures.excess_e4


def makes_deficit(figures_after: MarginFigures) -> bool:
    """Whether a purchase that leaves the account so makes an intraday margin deficit: it is then refused.

    Ask it of purchases only: a sale lowers the requirement, and must pass while there is a deficit.
    """
    return figures_after.intraday_level < 0


def withdrawable(figures: MarginFigures, unsettled: Money = _NONE) -> Money:
    """What may leave the account: cash that is settled and not reserved, never a loan."""
    return max(_NONE, Money(figures.available - unsettled))


def _collateral(positions: Iterable[Long]) -> tuple[Money, int, int]:
    """Market value, and what it takes to buy and to keep it, in 1/10,000 Money."""
    market_value = initial_e4 = maintenance_e4 = 0
    for quantity, price, rates in positions:
        if price is not None:
            value = quantity * price
            market_value += value
            initial_e4 += value * rates.initial_bps
            maintenance_e4 += value * rates.maintenance_bps
    return Money(market_value), initial_e4, maintenance_e4


def _reserved(holds: Iterable[Hold]) -> tuple[Money, int]:
    """What the open BUYs cost, and what of it must be the customer's own, in 1/10,000 Money."""
    held = held_e4 = 0
    for cost, rates in holds:
        held += cost
        held_e4 += cost * rates.initial_bps
    return Money(held), held_e4


def _rounded_up(e4: int) -> Money:
    return Money(-(-e4 // _FULL_BPS))


def _most(excess_e4: int, available: Money, has_credit: bool, rates: Rates) -> Money:
    return max(_NONE, Money(excess_e4 // rates.initial_bps) if has_credit else available)
