"""The answers of our own API as types: what the code builds, what /openapi.json says, what the tests hold it to.

They cost nothing at run time: an answer is the plain dict that it was. Names are the wire's: the routes of trades say
`tradeId`, the later ones `order_id`.
"""

from datetime import date, datetime
from typing import Annotated, Literal, NotRequired, TypedDict
from uuid import UUID

from msgspec import Meta

from broker.core.activities import ActivityType
from broker.core.conditions import DayTradingRule
from broker.core.corporate import ActionKind
from broker.core.history import Period, Timeframe
from broker.core.types import SYMBOL_PATTERN, AccountType, OrderClass, Role, Side, Status, TimeInForce

Dollars = Annotated[str, Meta(pattern=r"^-?[0-9]+\.[0-9]{2,4}$", description="dollars with 2 to 4 decimals")]
Percent = Annotated[str, Meta(pattern=r"^-?[0-9]+\.[0-9]{2,4}$", description="per cent with 2 to 4 decimals")]
Shares = Annotated[int, Meta(ge=0, description="whole shares")]
Moment = Annotated[datetime, Meta(tz=True, description="a time in UTC")]
Ticker = Annotated[str, Meta(pattern=SYMBOL_PATTERN)]
CustomerNumber = Annotated[str, Meta(pattern="^[0-9]{1,18}$")]
Cursor = Annotated[str, Meta(description="the cursor of the next page")]
Word = Literal["buy", "sell"]


# ------------------------------------------------------------------ trades and balance


class TradeExecution(TypedDict):
    """An execution of a trade."""

    executionId: str
    quantity: Shares
    price: Dollars
    executedAt: Moment


class PlacedTrade(TypedDict):
    """A trade as it was at the moment of placing."""

    tradeId: UUID
    stockTicker: Ticker
    type: Side
    quantity: Shares
    createdAt: Moment
    status: Annotated[Status, Meta(extra_json_schema={"const": Status.PLACED.value})]
    reason: str


class Trade(TypedDict):
    """A trade."""

    tradeId: UUID
    stockTicker: Ticker
    type: Side
    quantity: Shares
    createdAt: Moment
    status: Status
    reason: str
    filledQuantity: Shares
    averagePrice: Dollars | None
    updatedAt: Moment


class TradeWithExecutions(Trade):
    """A trade and how it was filled."""

    executions: list[TradeExecution]


class Trades(TypedDict):
    """A page of trades, newest first."""

    trades: list[Trade]
    nextCursor: Cursor | None


class Balance(TypedDict):
    """A customer's cash."""

    customerId: CustomerNumber
    amount: Dollars
    held: Dollars
    available: Dollars
    currency: Literal["USD"]
    lastModified: Moment


# ------------------------------------------------------------------ orders


def _one_of(words: str) -> Meta:
    """These words: the code has them in tables, and so as text."""
    return Meta(extra_json_schema={"enum": words.split()})


OrderType = Annotated[str, _one_of("market limit stop_loss stop_limit trailing_stop")]
OrderStatus = Annotated[
    str,
    _one_of("pending held validated submitted partially_filled filled cancelled rejected expired replaced"),
]


class OrderHead(TypedDict):
    """What an order is, and where it stands."""

    id: UUID
    client_order_id: str | None
    symbol: Ticker
    side: Word
    order_type: OrderType
    time_in_force: TimeInForce
    quantity: Shares
    price: Dollars | None
    stop_price: Dollars | None
    trail_amount: Dollars | None
    trail_percent: Percent | None
    extended_hours: bool
    order_class: OrderClass
    group_id: UUID | None
    role: Role | None
    status: OrderStatus
    reason: str
    filled_quantity: Shares
    leaves_quantity: Shares
    average_price: Dollars | None


class OrderTail(TypedDict):
    """Where an order goes, and since when."""

    cancel_requested: bool
    replaces: UUID | None
    venue: str
    created_at: Moment
    updated_at: Moment


class OrderThen(OrderHead, OrderTail):
    """An order as it was at one of its events."""


class Order(OrderHead, OrderTail):
    """An order; `held` is in dollars of a buy, in shares of a sell."""

    held: Annotated[str, Meta(pattern=r"^[0-9]+(\.[0-9]{2,4})?$")]


class OrderExecution(TypedDict):
    """An execution of an order."""

    execution_id: str
    quantity: Shares
    price: Dollars
    fee: Dollars
    busted: bool
    corrects: str | None
    executed_at: Moment


class OrderWithExecutions(Order):
    """An order and how it was filled."""

    fees: Dollars
    executions: list[OrderExecution]


class Orders(TypedDict):
    """A page of orders, newest first."""

    orders: list[Order]
    next_cursor: Cursor | None


class CancellingOrders(TypedDict):
    """The ids of the orders that are to be cancelled."""

    cancelling: list[UUID]


PossibleRefusal = Annotated[
    dict[str, int | str],
    Meta(description="code, error, and the figures in it", extra_json_schema={"required": ["code", "error"]}),
]


class Estimate(TypedDict):
    """What an order would do; `price` and `cost` are null where no price is known."""

    symbol: Ticker
    side: Word
    quantity: Shares
    price: Dollars | None
    cost: Dollars | None
    fees: Dollars
    hold: Annotated[str, Meta(pattern=r"^[0-9]+(\.[0-9]{2,4})?$")]
    hold_unit: str
    buying_power: Dollars
    buying_power_after: Dollars
    would_be_refused: bool
    refusals: list[PossibleRefusal]


# ------------------------------------------------------------------ the account


class MarginFigures(TypedDict):
    """What an account owes the rules of margin; null in a cash account."""

    initial_margin: Dollars | None
    maintenance_margin: Dollars | None
    margin_excess: Dollars | None
    intraday_level: Dollars | None
    intraday_lowest: Dollars | None
    margin_call: Dollars
    margin_state: Literal["none", "ok", "call"]


class DayTradingFigures(TypedDict):
    """How often an account traded within a day."""

    day_trades: int
    day_trading_rule: DayTradingRule
    pattern_day_trader: bool | None


class Gains(TypedDict):
    """What an account won and lost."""

    realized_pnl: Dollars
    unrealized_pnl: Dollars
    unpriced: list[Ticker]


class AccountFigures(MarginFigures, DayTradingFigures, Gains):
    """An account in figures."""

    customer_id: CustomerNumber
    account_type: AccountType
    status: Literal["active", "restricted", "suspended"]
    trading_stopped: str | None
    currency: Literal["USD"]
    cash: Dollars
    held: Dollars
    available: Dollars
    market_value: Dollars
    equity: Dollars
    buying_power: Dollars


class Position(TypedDict):
    """The shares of one symbol."""

    symbol: Ticker
    quantity: int
    held: Shares
    available: int
    averageCost: Dollars | None
    costBasis: Dollars
    currentPrice: Dollars | None
    currentValue: Dollars | None
    unrealizedPnl: Dollars | None
    unrealizedPnlPct: Percent | None
    realizedPnl: Dollars
    lastModified: Moment


class Positions(TypedDict):
    """All shares of a customer."""

    customerId: CustomerNumber
    positions: list[Position]


class Execution(TypedDict):
    """An execution, with the order that it belongs to."""

    execution_id: str
    order_id: UUID
    symbol: Ticker
    side: Word
    quantity: Shares
    price: Dollars
    value: Dollars
    fee: Dollars
    realized_pnl: Dollars | None
    venue: str
    busted: bool
    corrects: str | None
    executed_at: Moment


class Executions(TypedDict):
    """A page of executions, newest first."""

    executions: list[Execution]
    next_cursor: Cursor | None


class Activity(TypedDict):
    """Something that moved cash or shares."""

    id: str
    type: ActivityType
    at: Moment
    description: str
    symbol: Ticker | None
    quantity: int | None
    price: Dollars | None
    cash: Dollars
    fee: Dollars | None
    reference: str
    order_id: UUID | None


class Activities(TypedDict):
    """A page of activities, newest first."""

    activities: list[Activity]
    next_cursor: Cursor | None


class History(TypedDict):
    """What an account was worth at each of the timestamps."""

    period: Period
    timeframe: Timeframe
    base_value: Dollars
    timestamps: list[Moment]
    equity: list[Dollars]
    net_deposits: list[Dollars]
    profit_loss: list[Dollars]
    profit_loss_pct: list[Percent | None]


# ------------------------------------------------------------------ the market


class PastBar(TypedDict):
    """What was traded in one timeframe."""

    starts_at: Moment
    open: Dollars
    high: Dollars
    low: Dollars
    close: Dollars
    volume: Shares
    average_price: Dollars
    trades: int


class PastBars(TypedDict):
    """Bars of a symbol, oldest first; `next_start` is where the next page begins."""

    symbol: Ticker
    timeframe: str
    bars: list[PastBar]
    next_start: Moment | None


class ListedSymbol(TypedDict):
    """A symbol that can be traded; `halted` and `restricted` say why it cannot now."""

    symbol: Ticker
    name: str | None
    venue: str
    halted: str | None
    restricted: str | None


class ListedSymbols(TypedDict):
    """What can be traded."""

    symbols: list[ListedSymbol]


class Clock(TypedDict):
    """Whether the market is open; null where it never closes."""

    timestamp: Moment
    is_open: bool
    next_open: Moment | None
    next_close: Moment | None


class TradingDay(TypedDict):
    """A day on which the market opens."""

    date: date
    opens_at: Moment
    closes_at: Moment
    early_close: bool


class Calendar(TypedDict):
    """Trading days."""

    calendar: list[TradingDay]


# ------------------------------------------------------------------ webhooks


class Webhook(TypedDict):
    """Where order updates go, and how that stands."""

    webhook_id: UUID
    url: str
    status: Literal["active", "failing", "disabled"]
    delivered: int
    failures: int
    failing_since: Moment | None
    last_error: str | None
    next_try_at: Moment | None
    disabled_at: Moment | None
    created_at: Moment


class NewWebhook(Webhook):
    """A webhook with the secret that its messages are signed with, which is shown once."""

    secret: str


class Webhooks(TypedDict):
    """A customer's webhooks, oldest first."""

    webhooks: list[Webhook]


# ------------------------------------------------------------------ operators


KeyScope = Literal["read", "trade", "admin"]


class NewKey(TypedDict):
    """A key; its secret is shown once, and the token is what a client sends."""

    customerId: CustomerNumber
    keyId: str
    secret: str
    token: str


class IssuedKey(NewKey):
    """One more key of a customer: what it is good for, and until when."""

    scopes: list[KeyScope]
    expires_at: Moment | None


class RotatedKey(IssuedKey):
    """A key in the place of another one, which goes on opening until the overlap ends."""

    replaces: str
    overlap_until: Moment


class ShownKey(TypedDict):
    """A key of an operator; its secret is shown once, and the token is what a client sends."""

    keyId: str
    secret: str
    token: str


class IssuedOperatorKey(ShownKey):
    """One more key of an operator, and when it ends."""

    scopes: list[KeyScope]
    expires_at: Moment | None


class RotatedOperatorKey(IssuedOperatorKey):
    """A key in the place of another one, which goes on opening until the overlap ends."""

    replaces: str
    overlap_until: Moment


class Key(TypedDict):
    """A key without its secret."""

    keyId: str
    scopes: list[KeyScope]
    createdAt: Moment
    expires_at: Moment | None
    revokedAt: Moment | None


class OperatorKeys(TypedDict):
    """All keys of operators, the oldest first. The admin token is none of them."""

    keys: list[Key]


class RevokedKey(TypedDict):
    """A key that opens nothing any more."""

    keyId: str
    revokedAt: Moment


class Customer(TypedDict):
    """A customer."""

    customerId: CustomerNumber
    name: str
    accountType: AccountType
    status: Literal["active", "suspended"]
    createdAt: Moment


class CustomerWithKeys(Customer):
    """A customer with cash and keys."""

    balance: Balance
    keys: list[Key]


class CashMoved(TypedDict):
    """Cash that was booked under a reference."""

    customerId: CustomerNumber
    amount: Dollars
    reference: str
    balance: Balance


class Control(TypedDict):
    """A switch that is on."""

    scope: str
    reason: str


class Controls(TypedDict):
    """Every switch that is on."""

    controls: list[Control]


class EngagedControl(TypedDict):
    """A switch that was turned on; with `cancel_open`, how many orders are being cancelled."""

    scope: str
    engaged: Literal[True]
    reason: str
    cancelling: NotRequired[int]
    customers: NotRequired[int]
    not_reached: NotRequired[int]
    note: NotRequired[str]


class ReleasedControl(TypedDict):
    """A switch that was turned off."""

    scope: str
    engaged: Literal[False]
    was_engaged: bool


class LimitFigures(TypedDict):
    """The limits of orders."""

    order_quantity_max: int
    order_value_max: Dollars
    position_max: int
    price_away_bps: int
    orders_per_second: int
    duplicate_window_ms: int


class Limits(TypedDict):
    """The limits that hold in a scope, and the names of those that are its own."""

    scope: str
    limits: LimitFigures
    own: list[str]


class CorporateActionDone(TypedDict):
    """What a corporate action changed."""

    event_id: str
    type: ActionKind
    symbol: Ticker
    price: NotRequired[Dollars]
    repeated: bool
    cancelled_orders: int
    holders: int
    adjusted: int
    already_booked: int
    cash_paid: Dollars


class AuditRecord(TypedDict):
    """A record of a chain. Its hash is over the record and the hash of the one before."""

    number: int
    at: Moment
    actor: str
    action: str
    content: str
    hash: str


class AuditRecords(TypedDict):
    """Records of a chain, by number."""

    records: list[AuditRecord]


class AuditHeads(TypedDict):
    """The last number and hash of each chain: whoever keeps them can show later that nothing was changed."""

    heads: dict[str, list[int | str]]


# ------------------------------------------------------------------ whoever watches


class Health(TypedDict):
    """The process is alive."""

    status: Literal["ok"]


Reachable = Literal["ok", "does not answer"]


class Readiness(TypedDict):
    """Whether the broker can work."""

    status: Literal["ready", "not ready"]
    database: Reachable
    exchange: Reachable
