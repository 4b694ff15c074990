"""The words of the trade: ids, sides, types, statuses, and the trade itself."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import NewType
from uuid import UUID

from broker.core.money import Money

CustomerId = NewType("CustomerId", int)
TradeId = NewType("TradeId", UUID)
Symbol = NewType("Symbol", str)

QUANTITY_MAX = 10_000_000
"""Shares in one trade: with PRICE_MAX the value stays far inside BIGINT."""

PRICE_MAX = Money(1_000_000 * 10_000)
"""$1,000,000 a share: above every listed share."""

SYMBOL_PATTERN = r"^[A-Z][A-Z0-9.]{0,11}$(?!\n)"
"""An ASCII ticker. The look-ahead is there because `$` alone lets a trailing newline pass."""


class Side(StrEnum):
    BUY = "BUY"
    SELL = "SELL"


class OrderType(StrEnum):
    """What an order waits for before it trades, and how far it goes (FIX OrdType)."""

    MARKET = "market"  # trades at once, at the best prices there are
    LIMIT = "limit"  # trades at its price or better, and rests until then
    STOP = "stop"  # becomes a market order when a trade happens at its stop price or beyond
    STOP_LIMIT = "stop_limit"  # becomes a limit order then
    TRAILING_STOP = "trailing_stop"  # a stop that follows the market at a distance; it waits here, not at the exchange


class TimeInForce(StrEnum):
    """How long an order may rest (FIX TimeInForce)."""

    DAY = "day"  # until the session ends
    GTC = "gtc"  # until it is cancelled
    IOC = "ioc"  # not at all: what does not trade at once is cancelled
    FOK = "fok"  # not at all, and all or nothing
    OPG = "opg"  # trades when the next session opens; what is left then is cancelled
    CLS = "cls"  # trades when the session closes; what is left then is cancelled


AUCTIONS = frozenset({TimeInForce.OPG, TimeInForce.CLS})


class Status(StrEnum):
    """Where a trade stands. The only table of changes between them is `broker.core.states`."""

    PLACED = "PLACED"
    HELD = "HELD"  # it waits here: for its entry, its price, or the opening
    IN_PROGRESS = "IN PROGRESS"
    PARTIALLY_FILLED = "PARTIALLY FILLED"
    FILLED = "FILLED"
    REJECTED = "REJECTED"
    CANCELLED = "CANCELLED"
    EXPIRED = "EXPIRED"
    REPLACED = "REPLACED"


class OrderClass(StrEnum):
    """How an order belongs together with others (FIX ContingencyType)."""

    SIMPLE = "simple"  # it stands alone
    BRACKET = "bracket"  # an entry, and when it has filled a take profit and a stop loss, of which one trades
    OCO = "oco"  # one cancels the other: a take profit and a stop loss
    OTO = "oto"  # one triggers the other: an entry, and when it has filled one exit


class Role(StrEnum):
    """What an order is in its group."""

    ENTRY = "entry"
    TAKE_PROFIT = "take_profit"  # the exit with a limit
    STOP_LOSS = "stop_loss"  # the exit with a stop


class AccountType(StrEnum):
    """Whether a customer may owe cash."""

    CASH = "cash"
    MARGIN = "margin"


@dataclass(slots=True)
class Fill:
    """One execution: whole shares, and the price of each. Two are the same when the exchange says the same of them."""

    last_qty: int
    last_px: Money
    fee: Money = field(default=Money(0), compare=False)
    gain: Money = field(default=Money(0), compare=False)  # what a sale brought above the average cost of its shares
    suspense: bool = field(default=False, compare=False)  # booked to the broker's suspense account, not the customer's
    busted: bool = field(default=False, compare=False)  # the exchange took it back
    corrects: str | None = field(default=None, compare=False)  # the execution in whose place it stands

    @property
    def value(self) -> Money:
        """What the shares cost or brought, without fees."""
        return Money(self.last_qty * self.last_px)


@dataclass(slots=True)
class Trade:
    """One trade of one customer, as the database has it. Its one writer is the shard that owns the customer."""

    trade_id: TradeId
    customer_id: CustomerId
    seq: int  # 1, 2, 3 ... in the order in which the customer placed them
    symbol: Symbol
    side: Side
    quantity: int
    created_at: datetime
    venue: str
    order_type: OrderType = OrderType.MARKET
    time_in_force: TimeInForce = TimeInForce.DAY
    limit_price: Money | None = None
    stop_price: Money | None = None
    client_order_id: str | None = None
    idempotency_key: str | None = None
    replaces: TradeId | None = None  # the trade in whose place it stands, or is to stand
    replaces_filled: int | None = None  # what that one had filled when this was decided; None: it was never sent
    order_class: OrderClass = OrderClass.SIMPLE
    group: TradeId | None = None  # the first order of its group: those that replace one of the group are in it, too
    role: Role | None = None
    trail_amount: Money | None = None  # of a trailing stop: how far behind the best price it stays ...
    trail_bps: int | None = None  # ... or that in 1/10,000 of the best price
    extended_hours: bool = False  # it may also trade before the opening and after the close
    triggered: bool = False  # its price was reached while it was held here
    waits_for_open: bool = False  # a market order that is held outside the session; only HELD says so in the database
    status: Status = Status.PLACED
    reason: str = ""
    hold: int = 0  # what it has reserved: Money of a BUY, shares of a SELL
    max_price: Money | None = None  # of a BUY without a limit: the most that the exchange may spend on all of it
    filled_quantity: int = 0
    filled_value: Money = Money(0)
    acknowledged: bool = False  # the exchange has said that it has it
    cancel_requested: bool = False
    cancel_reason: str = field(default="", compare=False)  # as whoever asked for it said; of memory only
    events: int = 0  # how many event rows it has: they number 1 to this
    executions: dict[str, Fill] = field(default_factory=dict)

    @property
    def leaves_quantity(self) -> int:
        """Shares that are not filled yet."""
        return self.quantity - self.filled_quantity

    @property
    def is_exit_on_hold(self) -> bool:
        """Whether it began as a leg that waits here for other orders of its group."""
        if self.role is Role.TAKE_PROFIT:
            return self.order_class is not OrderClass.OCO
        return self.role is Role.STOP_LOSS

    @property
    def replaces_at_exchange(self) -> bool:
        """Whether the exchange is to put it in the place of another one, in one step."""
        return self.replaces_filled is not None
