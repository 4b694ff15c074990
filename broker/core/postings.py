"""Double entry: what each movement of cash and shares posts. The postings of a transfer sum to zero for each asset."""

from enum import IntEnum
from typing import NamedTuple

from broker.core.money import Money
from broker.core.types import CustomerId, Side, Symbol

CASH = "$USD"
"""The asset of dollars: no ticker can look like it (USD itself is a listed fund)."""


class House(IntEnum):
    """The broker's own rows, of which every shard has a set of its own."""

    CLEARING = 1  # what the exchange owes us (above zero) or is owed
    EXTERNAL = 2  # the world outside: deposits come from here, withdrawals go there


def house_owner(shard: int, house: House) -> int:
    """The owner id of a shard's house row; always below zero."""
    return -(10 * shard + house)


class Posting(NamedTuple):
    """One line of a transfer; `amount` is Money for CASH and shares for a ticker."""

    owner_id: int
    asset: str
    amount: int


def fill_postings(
    customer: CustomerId, clearing: int, side: Side, symbol: Symbol, last_qty: int, last_px: Money
) -> tuple[Posting, ...]:
    """Cash one way and shares the other, between the customer and the shard's clearing rows."""
    bought = last_qty if side is Side.BUY else -last_qty
    paid = bought * last_px
    return (
        Posting(customer, CASH, -paid),
        Posting(clearing, CASH, paid),
        Posting(customer, symbol, bought),
        Posting(clearing, symbol, -bought),
    )


def cash_postings(customer: CustomerId, external: int, amount: Money) -> tuple[Posting, ...]:
    """A deposit (above zero) or a withdrawal (below)."""
    return (Posting(customer, CASH, amount), Posting(external, CASH, -amount))
