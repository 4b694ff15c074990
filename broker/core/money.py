"""Money and prices: integers of $0.0001 inside, decimal text at the edge, a float nowhere."""

import re
from typing import NewType

Money = NewType("Money", int)
"""An amount or a price in units of $0.0001."""

UNITS_PER_DOLLAR = 10_000
MONEY_MAX = Money(10**13 * UNITS_PER_DOLLAR)
"""$10 trillion: above any account, and far enough below BIGINT that no sum of balances overflows."""

_DECIMAL = re.compile(r"(-?)([0-9]{1,14})(?:\.([0-9]{1,4}))?", re.ASCII)


def parse_money(text: str) -> Money:
    """Read a decimal like "1902.5" exactly.

    Raises ValueError for anything but ASCII digits with at most 14 before and 4 after the point. The
    pattern stands before any conversion, so an exponent or a million digits costs nothing.
    """
    match = _DECIMAL.fullmatch(text)
    if match is None:
        raise ValueError("an amount is digits with at most 4 decimals, like 1902.50")
    sign, dollars, fraction = match.groups()
    units = int(dollars) * UNITS_PER_DOLLAR + int((fraction or "").ljust(4, "0"))
    if units > MONEY_MAX:
        raise ValueError("an amount is at most 10 trillion dollars")
    return Money(-units if sign else units)


def is_on_tick(price: Money) -> bool:
    """Whether an order may have this price: whole cents from $1.00, $0.0001 below it (SEC Rule 612)."""
    return price < UNITS_PER_DOLLAR or price % (UNITS_PER_DOLLAR // 100) == 0


def format_money(amount: Money) -> str:
    """Write an amount as a decimal with at least 2 and at most 4 places: "1902.50", "0.0001"."""
    dollars, units = divmod(abs(amount), UNITS_PER_DOLLAR)
    fraction = f"{units:04d}"
    if fraction.endswith("00"):
        fraction = fraction[:2]
    return f"{'-' if amount < 0 else ''}{dollars}.{fraction}"


def in_dollars(amount: Money) -> str:
    """Write an amount for a sentence: "$1,902.50"."""
    dollars, units = divmod(abs(amount), UNITS_PER_DOLLAR)
    cents, rest = divmod(units, 100)
    fraction = f"{units:04d}" if rest else f"{cents:02d}"
    return f"{'-' if amount < 0 else ''}${dollars:,}.{fraction}"


def average(value: Money, quantity: int) -> Money:
    """The price per share of a value, rounded half up to $0.0001: for display, never for settlement."""
    return Money((2 * value + quantity) // (2 * quantity))
