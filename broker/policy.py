"""How this broker does business: the settings, as the decisions take them."""

from collections.abc import Sequence
from datetime import datetime

from broker.config import Config, read_margin_symbols
from broker.core import auctions, hours
from broker.core.conditions import DayTradingRule, Limits, Policy
from broker.core.fees import FeeRule, parse_fees
from broker.core.margin import Rates
from broker.core.money import UNITS_PER_DOLLAR, Money
from broker.core.types import TimeInForce


def policy_of(config: Config) -> Policy:
    """The policy that these settings say."""
    return Policy(
        collar_bps=config.collar_bps,
        fees=_that_charge(parse_fees(config.fees)),
        margin=Rates(config.margin_initial_bps, config.margin_maintenance_bps),
        margin_by_symbol=read_margin_symbols(config.margin_symbols),
        margin_equity_min=Money(config.margin_equity_min * UNITS_PER_DOLLAR),
        day_trading_rule=DayTradingRule(config.day_trading_rule),
        is_open=hours.is_open if config.hours == "XNYS" else _always,
        session_end=hours.session_end if config.hours == "XNYS" else hours.midnight,
        takes=auctions.takes if config.hours == "XNYS" else _any_time_in_force,
    )


def _that_charge(rules: Sequence[FeeRule]) -> tuple[FeeRule, ...]:
    """Without fees that are zero in all of their rows: every fill would be reckoned with them."""
    names = {rule.name for rule in rules if rule.per_value_e9 or rule.per_share_e9 or rule.per_order}
    return tuple(rule for rule in rules if rule.name in names)


def limits_of(config: Config) -> Limits:
    """What every customer may place, where an operator has set nothing else."""
    return Limits(
        order_quantity_max=config.order_quantity_max,
        order_value_max=Money(config.order_value_max * UNITS_PER_DOLLAR),
        position_max=config.position_max,
        price_away_bps=config.price_away_bps,
        orders_per_second=config.orders_per_second,
        duplicate_window_ms=config.duplicate_window_ms,
    )


def _always(_: datetime) -> bool:
    return True


def _any_time_in_force(_: TimeInForce, __: datetime) -> bool:
    return True
