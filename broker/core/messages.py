"""What goes into a decision and what comes out of it: commands, the exchange's reports, events and refusals.

Commands are imperative, events past tense; a refusal is a value, never an exception.
"""

from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Protocol

from broker.core.money import Money
from broker.core.types import CustomerId, Fill, Side, Status, Symbol, Trade, TradeId

# ------------------------------------------------------------------ commands


@dataclass(slots=True)
class PlaceTrade:
    """A customer's order to buy or sell at the market."""

    trade_id: TradeId
    customer_id: CustomerId
    symbol: Symbol
    side: Side
    quantity: int
    idempotency_key: str | None = None


@dataclass(slots=True)
class Advance:
    """Look whether a customer's next trade can start: after a restart, or where one batch had to stop short."""

    customer_id: CustomerId


@dataclass(slots=True)
class MoveCash:
    """An operator's credit (above zero) or debit (below), once for each reference."""

    customer_id: CustomerId
    amount: Money
    reference: str


class ReportType(StrEnum):
    """What an event of the exchange says. The words are those of docs/exchange-contract.md."""

    ACCEPTED = "ACCEPTED"
    PARTIALLY_FILLED = "PARTIALLY_FILLED"
    FILLED = "FILLED"
    REJECTED = "REJECTED"
    CANCELLED = "CANCELLED"
    EXPIRED = "EXPIRED"


@dataclass(slots=True)
class Report:
    """One event of the exchange about one trade, from a callback or from a lookup."""

    trade_id: TradeId
    type: ReportType
    venue: str
    execution_id: str | None = None
    fill: Fill | None = None
    filled_quantity: int = 0
    reason: str | None = None


class Market(Protocol):
    """What the decisions want to know of the market; None where it is not known (yet)."""

    def ask(self, symbol: Symbol) -> Money | None: ...
    def is_listed(self, symbol: Symbol) -> bool | None: ...


# ------------------------------------------------------------------ events


@dataclass(slots=True)
class TradeEvent:
    """A trade took a step; `execution` is there when shares changed hands."""

    trade: Trade
    number: int
    status: Status
    reason: str
    report: Report | None = None


@dataclass(slots=True)
class CashMoved:
    """An operator's movement of cash, to be posted."""

    customer_id: CustomerId
    amount: Money
    reference: str


Event = TradeEvent | CashMoved


class Refusal(StrEnum):
    """Why a trade is not sent, in the order in which they are checked. The values are the words a customer reads."""

    UNKNOWN_SYMBOL = "unknown symbol"
    INSUFFICIENT_SHARES = "insufficient shares"
    INSUFFICIENT_FUNDS = "insufficient funds"


class Anomaly(Enum):
    """A word of the exchange that changes nothing and must not be lost: it goes to the inbox and is counted."""

    UNKNOWN_TRADE = "unknown_trade"
    NEVER_SENT = "never_sent"
    CONTRADICTS_EXECUTION = "contradicts_execution"
    FILL_AFTER_END = "fill_after_end"
    OVERFILL = "overfill"
    ABOVE_MAX_PRICE = "above_max_price"
    REFUSED_BY_DATABASE = "refused_by_database"


class Repeat(Enum):
    """A word of the exchange that we know already, or that only says that it is at work."""

    NOTHING_NEW = "nothing_new"
    MORE_TO_COME = "more_to_come"  # it counts executions that we have not seen: ask for them
