"""Corporate actions: what a split, a symbol change or a cash dividend does to one customer's position.

Each is booked once for each (event, account), by its reference. Open orders in the symbol have to be gone before shares
change: their prices and quantities were meant for the old ones.
"""

from dataclasses import dataclass
from enum import StrEnum

from broker.core import cost_basis
from broker.core.account import Account, Holding
from broker.core.messages import Event, Refusal, Refused
from broker.core.money import Money
from broker.core.postings import CASH, Move
from broker.core.reset import AccountReset
from broker.core.types import CustomerId, Symbol


class ActionKind(StrEnum):
    """What a company does to its shares."""

    SPLIT = "split"
    SYMBOL_CHANGE = "symbol_change"
    CASH_DIVIDEND = "cash_dividend"


@dataclass(frozen=True, slots=True)
class CorporateAction:
    """One event of a company's, under the operator's id for it.

    Of a split: `numerator` new shares for `denominator` old ones, and the price of one new share, at which fractions
    are paid in cash. Of a symbol change the new symbol. Of a dividend the dollars for each share.
    """

    event_id: str
    kind: ActionKind
    symbol: Symbol
    numerator: int = 1
    denominator: int = 1
    price: Money = Money(0)
    new_symbol: Symbol | None = None
    per_share: Money = Money(0)


@dataclass(slots=True)
class AdjustPosition:
    """Carry a corporate action out for one customer."""

    customer_id: CustomerId
    action: CorporateAction

    @property
    def reference(self) -> str:
        """What books it: once for each event and customer."""
        return f"{self.action.event_id}:{self.customer_id}"


@dataclass(slots=True)
class PositionAdjusted:
    """What a corporate action changed; each move is posted against the broker's corporate row."""

    customer_id: CustomerId
    reference: str
    moves: tuple[Move, ...]


AnyEvent = Event | PositionAdjusted | AccountReset
"""All that a commit can hold."""


def adjust(account: Account, command: AdjustPosition) -> PositionAdjusted | Refused | None:
    """Change the account; None where it has no shares. Refused while the customer has open orders in the symbol."""
    action = command.action
    position = account.positions.get(action.symbol)
    if position is None or not position.balance:
        return None
    if action.kind is not ActionKind.CASH_DIVIDEND:
        open_orders = sum(
            each.symbol in {action.symbol, action.new_symbol}
            for each in (*account.waiting, *account.held.values(), *account.working.values())
        )
        if open_orders:
            detail = f"{open_orders} orders in {action.symbol} are open; they have to be cancelled first."
            return Refused(Refusal.OPEN_ORDERS, detail, {"open_orders": open_orders})
    moves = tuple(move for move in _moves(position, action) if any(move[1:]))
    for move in moves:
        _apply(account, move)
    return PositionAdjusted(account.customer_id, command.reference, moves) if moves else None


def _moves(position: Holding, action: CorporateAction) -> tuple[Move, ...]:
    match action.kind:
        case ActionKind.CASH_DIVIDEND:
            return (Move(CASH, position.balance * action.per_share),)
        case ActionKind.SYMBOL_CHANGE:
            assert action.new_symbol is not None
            return (
                Move(action.symbol, -position.balance, -position.cost, -position.gain),
                Move(action.new_symbol, position.balance, position.cost, position.gain),
            )
        case ActionKind.SPLIT:
            return _split(position, action)


def _split(position: Holding, action: CorporateAction) -> tuple[Move, ...]:
    """Whole new shares; a fraction is sold back at the price of a share, rounded down, with its part of the cost."""
    shares, fraction = cost_basis.split(position.balance, action.numerator, action.denominator)
    cash = cost_basis.cash_in_lieu(fraction, action.denominator, action.price)
    cost_out, gain = Money(0), Money(0)
    if fraction:
        cost_out, gain = cost_basis.sell(position.cost, position.balance * action.numerator, fraction, cash)
    return (
        Move(action.symbol, shares - position.balance, -cost_out, gain),
        Move(CASH, cash),
    )


def _apply(account: Account, move: Move) -> None:
    if move.asset == CASH:
        account.cash.add(move.amount)
        return
    holding = account.positions.setdefault(Symbol(move.asset), Holding())
    holding.add(move.amount)
    holding.cost = Money(holding.cost + move.cost)
    holding.gain = Money(holding.gain + move.gain)
