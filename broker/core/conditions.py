"""What a decision depends on besides the customer's account: the moment, the market, the operator's switches, policy.

One `Conditions` holds for a whole batch, so that all of it is decided on one view of the world.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from enum import StrEnum
from functools import cached_property
from typing import Protocol

from broker.core import hours
from broker.core.day_trades import trade_date
from broker.core.fees import FeeRule
from broker.core.margin import Rates
from broker.core.money import Money
from broker.core.types import AccountType, CustomerId, Side, Symbol, TimeInForce


class Market(Protocol):
    """What the decisions want to know of the market; None where it is not known (yet)."""

    def ask(self, symbol: Symbol) -> Money | None: ...
    def bid(self, symbol: Symbol) -> Money | None: ...
    def last(self, symbol: Symbol) -> Money | None: ...
    def is_listed(self, symbol: Symbol) -> bool | None: ...
    def venue(self, symbol: Symbol) -> str: ...
    def is_reachable(self, symbol: Symbol) -> bool: ...
    def stale_s(self, symbol: Symbol) -> float | None: ...


@dataclass(frozen=True, slots=True)
class Limits:
    """What one customer may place. An operator sets them for all, for an account type, or for one customer."""

    order_quantity_max: int = 1_000_000
    order_value_max: Money = Money(50_000_000 * 10_000)
    position_max: int = 10_000_000
    price_away_bps: int = 5_000
    orders_per_second: int = 5_000
    duplicate_window_ms: int = 0


class Controls(Protocol):
    """What operators have switched: each answer is the reason that they gave, or None."""

    def stopped(self, customer_id: CustomerId) -> str | None: ...
    def stopped_by_itself(self, customer_id: CustomerId) -> bool: ...
    def suspended(self, customer_id: CustomerId) -> str | None: ...
    def halted(self, symbol: Symbol) -> str | None: ...
    def restricted(self, symbol: Symbol) -> str | None: ...
    def limits(self, account_type: AccountType, customer_id: CustomerId) -> Limits: ...


class DayTradingRule(StrEnum):
    """How day trading on margin is held in check."""

    INTRADAY_MARGIN = "intraday_margin"  # FINRA's rule since 2026: no order may make an intraday margin deficit
    PATTERN_DAY_TRADER = "pattern_day_trader"  # the rule before it: the 4th day trade in 5 days needs $25,000
    OFF = "off"


@dataclass(frozen=True, slots=True)
class Policy:
    """How the broker does business; from Config."""

    collar_bps: int = 500
    fees: tuple[FeeRule, ...] = ()
    margin: Rates = Rates()
    margin_by_symbol: Mapping[str, Rates] = field(default_factory=dict)
    margin_equity_min: Money = Money(2_000 * 10_000)
    day_trading_rule: DayTradingRule = DayTradingRule.INTRADAY_MARGIN
    pdt_equity_min: Money = Money(25_000 * 10_000)
    is_open: Callable[[datetime], bool] = lambda _: True
    session_end: Callable[[datetime], datetime] = hours.midnight
    takes: Callable[[TimeInForce, datetime], bool] = lambda _, __: True
    """Whether orders of this time in force are taken at this moment: those of an auction not shortly before it."""

    def rates(self, symbol: Symbol) -> Rates:
        """The margin rates of a symbol."""
        return self.margin_by_symbol.get(symbol, self.margin)


@dataclass
class Conditions:
    """One view of the world, for a batch."""

    now: datetime
    market: Market
    controls: Controls
    policy: Policy

    @cached_property
    def today(self) -> date:
        """The trade date: New York's."""
        return trade_date(self.now)

    @cached_property
    def buy_fees(self) -> tuple[FeeRule, ...]:
        """The fees that a BUY may pay."""
        return tuple(rule for rule in self.policy.fees if rule.side is not Side.SELL)

    @cached_property
    def sell_fees(self) -> tuple[FeeRule, ...]:
        """The fees that a SELL may pay."""
        return tuple(rule for rule in self.policy.fees if rule.side is not Side.BUY)

    @cached_property
    def is_open(self) -> bool:
        """Whether the exchanges trade."""
        return self.policy.is_open(self.now)
