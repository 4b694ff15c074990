"""Resets: an operator puts a customer's account into a given state, to begin a test from.

History stays: the way from what is there to what shall be is one transfer, whose other side is the world outside. It is
booked once for each reference. Open orders have to be gone before: they hold what the reset would take.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from broker.core.account import Account, Holding
from broker.core.messages import Refusal, Refused
from broker.core.money import Money
from broker.core.postings import CASH, Move
from broker.core.types import CustomerId, Symbol


class Shares(NamedTuple):
    """A position as it shall be: `cost` is what all of it cost."""

    quantity: int
    cost: Money


@dataclass(slots=True)
class ResetAccount:
    """Put an account into a state: this cash, these positions and no others, nothing gained so far."""

    customer_id: CustomerId
    reference: str
    cash: Money
    positions: Mapping[Symbol, Shares]


@dataclass(slots=True)
class AccountReset:
    """What a reset changed, maybe nothing; each move is posted against the world outside."""

    customer_id: CustomerId
    reference: str
    moves: tuple[Move, ...]


def reset(account: Account, command: ResetAccount) -> AccountReset | Refused:
    """Put the account into the wanted state. Refused while the customer has open orders."""
    if account.open_trades:
        detail = f"{account.open_trades} orders are open; they have to be cancelled first."
        return Refused(Refusal.OPEN_ORDERS, detail, {"open_orders": account.open_trades})
    symbols = dict.fromkeys([*account.positions, *command.positions])
    moves = [_move(account.cash, CASH, command.cash, Money(0))]
    for symbol in symbols:
        quantity, cost = command.positions.get(symbol, _NONE)
        moves.append(_move(account.positions.setdefault(symbol, Holding()), symbol, quantity, cost))
    kept = tuple(move for move in moves if any(move[1:]))
    return AccountReset(account.customer_id, command.reference, kept)


_NONE = Shares(0, Money(0))


def _move(holding: Holding, asset: str, balance: int, cost: Money) -> Move:
    """What brings a holding there; it is there then."""
    assert not holding.held, f"nothing is open, but {holding} of {asset} holds something"
    move = Move(asset, balance - holding.balance, cost - holding.cost, -holding.gain)
    holding.balance, holding.cost, holding.gain = balance, cost, Money(0)
    return move
