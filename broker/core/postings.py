"""Double entry: what each movement of cash and shares posts. The postings of a transfer sum to zero for each asset."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import NamedTuple

from broker.core.types import CustomerId, Fill, Side, Symbol

CASH = "$USD"
"""The asset of dollars: no ticker can look like it (USD itself is a listed fund)."""


class House(IntEnum):
    """The broker's own rows, of which every shard has a set of its own."""

    CLEARING = 1  # what the exchange owes us (above zero) or is owed
    EXTERNAL = 2  # the world outside: deposits come from here, withdrawals go there
    FEES = 3  # what customers paid on their sales and orders
    RECEIVABLE = 4  # below zero: what customers owe since an execution was taken back from them
    SUSPENSE = 5  # executions that no customer can have
    CORPORATE = 6  # splits, symbol changes and dividends come from here and go there


def house_owner(shard: int, house: House) -> int:
    """The owner id of a shard's house row; always below zero."""
    return -(10 * shard + house)


class Posting(NamedTuple):
    """One line of a transfer; `amount` is Money for CASH and shares for a ticker.

    A customer's line of shares carries what its cost and realized gain change by: they are sums of postings as well.
    """

    owner_id: int
    asset: str
    amount: int
    cost: int = 0
    gain: int = 0


class Move(NamedTuple):
    """A line of a customer's whose other side is one of the broker's own rows."""

    asset: str
    amount: int
    cost: int = 0
    gain: int = 0


class EntryKind(StrEnum):
    """What kind of transfer an execution makes."""

    FILL = "fill"
    SUSPENSE = "suspense"
    BUST = "bust"


@dataclass(slots=True)
class Entry:
    """The figures of one transfer between a customer (or the broker's suspense account) and the exchange.

    Signs are the customer's: shares and cash above zero come to it. `cash` is after the fee. What a customer from whom
    an execution is taken back does not have any more is `owed_cash` and `owed_shares`: the transfer takes it from the
    broker's receivables.
    """

    kind: EntryKind
    fill: Fill
    shares: int
    cash: int
    fee: int = 0
    cost: int = 0
    gain: int = 0
    owed_cash: int = 0
    owed_shares: int = 0
    is_first: bool = False  # of this symbol for this customer: there is no row of it yet


def fill_entry(side: Side, fill: Fill, cost: int, gain: int) -> Entry:
    """A settled execution: shares one way, cash and the fee the other."""
    shares = fill.last_qty if side is Side.BUY else -fill.last_qty
    return Entry(EntryKind.FILL, fill, shares, -shares * fill.last_px - fill.fee, fill.fee, cost, gain)


def suspense_entry(side: Side, fill: Fill) -> Entry:
    """An execution that the exchange made and no customer can have: the broker takes it."""
    shares = fill.last_qty if side is Side.BUY else -fill.last_qty
    return Entry(EntryKind.SUSPENSE, fill, shares, -shares * fill.last_px)


def entry_postings(customer: CustomerId, shard: int, symbol: Symbol, entry: Entry) -> list[Posting]:
    """The lines of an entry; there is none that moves nothing."""
    owner = house_owner(shard, House.SUSPENSE) if entry.fill.suspense else customer
    clearing = house_owner(shard, House.CLEARING)
    lines = [
        Posting(owner, CASH, entry.cash + entry.owed_cash),
        Posting(clearing, CASH, -entry.cash - entry.fee),
        Posting(owner, symbol, entry.shares + entry.owed_shares, entry.cost, entry.gain),
        Posting(clearing, symbol, -entry.shares),
    ]
    if entry.fee:
        lines.append(Posting(house_owner(shard, House.FEES), CASH, entry.fee))
    if entry.owed_cash or entry.owed_shares:
        receivable = house_owner(shard, House.RECEIVABLE)
        lines += [Posting(receivable, CASH, -entry.owed_cash), Posting(receivable, symbol, -entry.owed_shares)]
    return [line for line in lines if line.amount or line.gain or line.cost]


def move_postings(customer: CustomerId, other: int, moves: Iterable[Move]) -> list[Posting]:
    """The moves of a customer's against one of the broker's rows: deposits, dividends, splits."""
    lines = []
    for move in moves:
        lines.append(Posting(customer, *move))
        if move.amount:
            lines.append(Posting(other, move.asset, -move.amount))
    return lines
