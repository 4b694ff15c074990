"""The ledger in a customer's words: a transfer as one or more activities whose cash sums to what it posted."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from broker.core.money import Money, in_dollars
from broker.core.types import Side, Symbol

_OPENING = "opening:"
"""How create_customer (schema.sql) begins its references."""


class ActivityType(StrEnum):
    """What happened."""

    FILL = "fill"
    FEE = "fee"
    CASH = "cash"
    BUST = "bust"
    CORPORATE = "corporate"
    RESET = "reset"


@dataclass(frozen=True, slots=True)
class Made:
    """The execution that a transfer settles or takes back."""

    order_id: UUID
    side: Side
    last_qty: int
    last_px: Money
    fee: Money = Money(0)
    corrects: str | None = None


@dataclass(frozen=True, slots=True)
class Transfer:
    """What one transfer posted for a customer."""

    transfer_id: UUID
    kind: str
    reference: str
    at: datetime
    cash: Money
    shares: Sequence[tuple[Symbol, int]] = ()
    execution: Made | None = None


@dataclass(frozen=True, slots=True)
class Activity:
    """One line of a customer's statement; `number` tells those of one transfer apart, 1 is the first."""

    transfer: Transfer
    number: int
    type: ActivityType
    description: str
    cash: Money
    symbol: Symbol | None = None
    quantity: int | None = None
    price: Money | None = None
    fee: Money | None = None  # of a fill: what the activity of type fee after it takes


def activities(transfer: Transfer) -> list[Activity]:
    """Those of one transfer, in their order."""
    if transfer.execution is not None:
        return _of_execution(transfer, transfer.execution)
    if transfer.kind == ActivityType.CORPORATE:
        return _corporate(transfer)
    if transfer.kind == ActivityType.RESET:
        return _reset(transfer)
    return [Activity(transfer, 1, ActivityType(transfer.kind), _movement(transfer), transfer.cash)]


def _of_execution(transfer: Transfer, made: Made) -> list[Activity]:
    """The fee is an activity of its own; what was owed after a bust or correction is not among the cash that moved."""
    busted = transfer.kind == ActivityType.BUST
    fee = Money(-made.fee if busted else made.fee)
    symbol, quantity = transfer.shares[0] if transfer.shares else (None, 0)
    words = f"{made.last_qty} {symbol or 'shares'} at {in_dollars(made.last_px)}"
    buys = made.side is Side.BUY
    if busted:
        words = f"The exchange took back: {'bought' if buys else 'sold'} {words}."
    elif made.corrects is not None:
        words = f"The exchange corrected execution {made.corrects}: {'bought' if buys else 'sold'} {words}."
    else:
        words = f"{'Bought' if buys else 'Sold'} {words}."
    type_, cash = ActivityType(transfer.kind), Money(transfer.cash + fee)
    found = [Activity(transfer, 1, type_, words, cash, symbol, quantity, made.last_px, fee)]
    if fee:
        words = f"Fees {'given back' if busted else 'on it'}: {in_dollars(made.fee)}."
        found.append(Activity(transfer, 2, ActivityType.FEE, words, Money(-fee), symbol))
    return found


def _corporate(transfer: Transfer) -> list[Activity]:
    """A line for each symbol; the cash stands on the last one."""
    if not transfer.shares:
        return [Activity(transfer, 1, ActivityType.CORPORATE, "Dividend in cash.", transfer.cash)]
    last = len(transfer.shares)
    return [
        Activity(
            transfer,
            number,
            ActivityType.CORPORATE,
            f"Corporate action: {quantity:+} {symbol}.",
            transfer.cash if number == last else Money(0),
            symbol,
            quantity,
        )
        for number, (symbol, quantity) in enumerate(transfer.shares, 1)
    ]


def _reset(transfer: Transfer) -> list[Activity]:
    """A line for the cash, and one for each symbol: what an operator brought or took, which nobody gained or lost."""
    words = "An operator put the account into a given state"
    cash = [(f"{words}: cash.", transfer.cash, None, None)] if transfer.cash or not transfer.shares else []
    lines = [
        *cash,
        *((f"{words}: {quantity:+} {symbol}.", Money(0), symbol, quantity) for symbol, quantity in transfer.shares),
    ]
    return [Activity(transfer, number, ActivityType.RESET, *line) for number, line in enumerate(lines, 1)]


def _movement(transfer: Transfer) -> str:
    if transfer.reference.startswith(_OPENING):
        return "Opening deposit."
    return "Deposit." if transfer.cash > 0 else "Withdrawal."
