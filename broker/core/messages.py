"""What goes into a decision and what comes out of it: commands, the exchange's reports, events and refusals.

Commands are imperative, events past tense; a refusal is a value, never an exception.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from enum import Enum, StrEnum

from broker.core.money import Money
from broker.core.postings import Entry
from broker.core.types import (
    CustomerId,
    Fill,
    OrderClass,
    OrderType,
    Side,
    Status,
    Symbol,
    TimeInForce,
    Trade,
    TradeId,
)

# ------------------------------------------------------------------ commands


@dataclass(slots=True)
class Leg:
    """An exit that belongs to an order that is placed with it: a limit (take profit), a stop or a stop-limit."""

    trade_id: TradeId
    limit_price: Money | None = None
    stop_price: Money | None = None


@dataclass(slots=True)
class PlaceTrade:
    """A customer's order, maybe with its exits.

    `legs` are those of a bracket (take profit, stop loss), of an OTO (either), or of an OCO (the stop loss: the order
    itself is the take profit). `only_if_accepted`: where the checks refuse it as things stand, that is the answer and
    nothing is stored. `waits_for_open`: a market order outside the session is held until it opens, not refused.
    """

    trade_id: TradeId
    customer_id: CustomerId
    symbol: Symbol
    side: Side
    quantity: int
    idempotency_key: str | None = None
    order_type: OrderType = OrderType.MARKET
    time_in_force: TimeInForce = TimeInForce.DAY
    limit_price: Money | None = None
    stop_price: Money | None = None
    client_order_id: str | None = None
    order_class: OrderClass = OrderClass.SIMPLE
    legs: tuple[Leg, ...] = ()
    trail_amount: Money | None = None
    trail_bps: int | None = None
    extended_hours: bool = False
    only_if_accepted: bool = False
    waits_for_open: bool = False


@dataclass(slots=True)
class ReplaceTrade:
    """Put another order in the place of an open one; None keeps the old figure.

    `quantity` is the new one's own, or with `counts_filled` what both are for together (FIX OrderQty).
    """

    trade_id: TradeId
    customer_id: CustomerId
    replaces: TradeId
    quantity: int | None = None
    limit_price: Money | None = None
    stop_price: Money | None = None
    client_order_id: str | None = None
    time_in_force: TimeInForce | None = None
    trail: Money | None = None  # of a trailing stop, in 1/10,000 of a dollar or of a percent, as the old one has it
    counts_filled: bool = False


@dataclass(slots=True)
class CancelTrade:
    """End what is left of an open trade."""

    customer_id: CustomerId
    trade_id: TradeId


@dataclass(slots=True)
class CancelAll:
    """End what is left of all open trades of a customer, or of those in one symbol."""

    customer_id: CustomerId
    symbol: Symbol | None = None
    reason: str = "Cancelled at your request."


@dataclass(slots=True)
class EstimateTrade:
    """What would this order do? Nothing changes."""

    order: PlaceTrade

    @property
    def customer_id(self) -> CustomerId:
        """Whose."""
        return self.order.customer_id


@dataclass(slots=True)
class Wake:
    """Look whether what an order on hold waits for has come: its price, the opening, or the end of its day.

    `price` is the last trade's that was seen. `stop_price` is where a trailing stop has followed the market to. The
    answer is whether it is still held.
    """

    customer_id: CustomerId
    trade_id: TradeId
    price: Money | None = None
    stop_price: Money | None = None


@dataclass(slots=True)
class Advance:
    """Look whether a customer's next trade can start: after a restart, or where one batch had to stop short.

    `version` is the account's in the database: one in memory that is older is read again.
    """

    customer_id: CustomerId
    version: int | None = None


@dataclass(slots=True)
class TakeUp:
    """Claim an order at work before a copy of it is sent, so that no other broker withdraws it as never sent.

    The answer is whether its cancel was asked for; None where it is not at work any more.
    """

    customer_id: CustomerId
    trade_id: TradeId


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
    REPLACED = "REPLACED"
    BUSTED = "BUSTED"
    CORRECTED = "CORRECTED"


@dataclass(slots=True)
class Described:
    """Which order it is that the exchange speaks of, in its own words; None is what it does not say."""

    symbol: str | None = None
    side: str | None = None
    quantity: int | None = None

    def is_of(self, trade: Trade) -> bool:
        """Whether that is the order which was sent. It has the quantity of then: only what is held here is restated."""
        return (
            self.symbol in {None, trade.symbol}
            and self.side in {None, trade.side}
            and self.quantity in {None, trade.quantity}
        )


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
    corrects: str | None = None  # of a correction: the execution in whose place this one stands
    described: Described | None = None  # of what was looked up
    never_taken: bool = field(default=False, repr=False)  # our own desk's word: the exchange does not have the order
    order: "Trade | None" = field(default=None, repr=False, compare=False)  # ... and this is how the desk knows it

    def is_of_another(self, trade: Trade) -> bool:
        """Whether the exchange has another order under the id of this one, which it then cannot have."""
        return self.described is not None and not self.described.is_of(trade)


# ------------------------------------------------------------------ events


class Step(StrEnum):
    """What happened to a trade: the kind of its event."""

    PLACED = "placed"
    HELD = "held"  # it waits here, for its entry, its price or the opening
    TRIGGERED = "triggered"  # its price was reached; the other exit has to go first
    RESTATED = "restated"  # it is for fewer shares, since the other exit sold some
    STARTED = "started"  # checked, reserved, to be sent
    ACCEPTED = "accepted"  # the exchange has it
    EXECUTED = "executed"
    CANCEL_REQUESTED = "cancel_requested"
    ENDED = "ended"
    SUSPENSE = "suspense"  # an execution that cannot be the customer's was booked to the broker
    BUSTED = "busted"
    CORRECTED = "corrected"


@dataclass(slots=True)
class TradeEvent:
    """A trade took a step; `entry` is there when cash and shares moved with it."""

    trade: Trade
    number: int
    status: Status
    reason: str
    step: Step
    report: Report | None = None
    entry: Entry | None = None
    refused: "Refused | None" = None
    seq: int = 0  # the customer's 1st, 2nd, 3rd ... event; this and the time are given when its batch is decided
    at: datetime | None = None
    filled_quantity: int = field(init=False)
    filled_value: Money = field(init=False)
    acknowledged: bool = field(init=False)
    cancel_requested: bool = field(init=False)
    quantity: int = field(init=False)

    def __post_init__(self) -> None:
        """Keep the figures of this step: the trade goes on, maybe in the same batch."""
        trade = self.trade
        self.filled_quantity = trade.filled_quantity
        self.filled_value = trade.filled_value
        self.acknowledged = trade.acknowledged
        self.cancel_requested = trade.cancel_requested
        self.quantity = trade.quantity


@dataclass(slots=True)
class CashMoved:
    """An operator's movement of cash, to be posted."""

    customer_id: CustomerId
    amount: Money
    reference: str


@dataclass(slots=True)
class MarginLevel:
    """How far a margin account's equity was above its maintenance requirement; of a day, the lowest is kept."""

    customer_id: CustomerId
    day: date
    level: Money


@dataclass(slots=True)
class Restricted:
    """A customer owes what an execution that was taken back had brought: no new orders until an operator says so."""

    customer_id: CustomerId
    reason: str


Event = TradeEvent | CashMoved | MarginLevel | Restricted


class Refusal(StrEnum):
    """Why a trade is not sent, in the order in which they are checked. The values are the words a customer reads."""

    TRADING_STOPPED = "trading stopped"
    ACCOUNT_SUSPENDED = "account suspended"
    SUSPENDED_BY_YOU = "suspended by you"
    UNKNOWN_SYMBOL = "unknown symbol"
    SYMBOL_HALTED = "symbol halted"
    SYMBOL_RESTRICTED = "symbol restricted"
    EXCHANGE_UNAVAILABLE = "exchange unavailable"
    PAST_MARKET_HOURS = "past market hours"
    STALE_QUOTE = "stale quote"
    MARGIN_CALL = "margin call"
    INSUFFICIENT_SHARES = "insufficient shares"
    INSUFFICIENT_FUNDS = "insufficient funds"
    INSUFFICIENT_BUYING_POWER = "insufficient buying power"
    POSITION_LIMIT = "position limit"
    ORDER_TOO_LARGE = "order too large"
    ORDER_VALUE_TOO_LARGE = "order value too large"
    PRICE_TOO_FAR = "price too far from the market"
    TOO_MANY_ORDERS = "too many orders"
    DUPLICATE_ORDER = "duplicate order"
    WASH_TRADE = "wash trade"
    PDT_LIMIT_REACHED = "PDT limit reached"
    CANNOT_BE_REPLACED = "cannot be replaced"
    OPEN_ORDERS = "open orders"


@dataclass(slots=True)
class Refused:
    """A refusal with its formula as a sentence, and the figures in it."""

    refusal: Refusal
    detail: str
    figures: Mapping[str, int | str] = field(default_factory=dict)

    @property
    def reason(self) -> str:
        """The sentence that the trade keeps."""
        return f"{self.refusal}: {self.detail}"


class Anomaly(Enum):
    """A word of the exchange that must not be lost: it goes to the inbox, is counted, and somebody should look.

    The last four were booked to the broker's suspense account; the others change nothing.
    """

    UNKNOWN_TRADE = "unknown_trade"
    OTHER_VENUE = "other_venue"
    NEVER_SENT = "never_sent"
    ANOTHER_ORDER = "another_order"
    CONTRADICTS_EXECUTION = "contradicts_execution"
    UNKNOWN_EXECUTION = "unknown_execution"
    REFUSED_BY_DATABASE = "refused_by_database"
    FILL_AFTER_END = "fill_after_end"
    OVERFILL = "overfill"
    ABOVE_MAX_PRICE = "above_max_price"
    BELOW_LIMIT = "below_limit"


class Repeat(Enum):
    """A word of the exchange that we know already, or that only says that it is at work."""

    NOTHING_NEW = "nothing_new"
    MORE_TO_COME = "more_to_come"  # it counts executions that we have not seen: ask for them
