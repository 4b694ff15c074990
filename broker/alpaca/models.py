"""What Alpaca's clients read, beside the order: with all of its fields, money and quantities as text."""

from datetime import date, datetime
from typing import Annotated, Any
from uuid import UUID

import msgspec

Day = date


class Account(msgspec.Struct):
    """A customer's account."""

    id: UUID
    account_number: str
    status: str
    crypto_status: str
    currency: str
    cash: str
    portfolio_value: str
    equity: str
    last_equity: str
    long_market_value: str
    short_market_value: str
    position_market_value: str
    buying_power: str
    regt_buying_power: str
    daytrading_buying_power: str
    non_marginable_buying_power: str
    options_buying_power: str
    effective_buying_power: str
    bod_dtbp: str
    initial_margin: str
    maintenance_margin: str
    last_maintenance_margin: str
    sma: str
    multiplier: str
    accrued_fees: str
    pending_transfer_in: str
    pending_transfer_out: str
    pattern_day_trader: bool
    trading_blocked: bool
    transfers_blocked: bool
    account_blocked: bool
    trade_suspended_by_user: bool
    shorting_enabled: bool
    daytrade_count: int
    options_approved_level: int
    options_trading_level: int
    balance_asof: date
    created_at: datetime


class Configuration(msgspec.Struct):
    """What a customer has set for its account. Only suspend_trade has an effect here."""

    dtbp_check: str = "entry"
    fractional_trading: bool = False
    max_margin_multiplier: str = "2"
    max_options_trading_level: int | None = None
    no_shorting: bool = True
    pdt_check: str = "entry"
    ptp_no_exception_entry: bool = False
    suspend_trade: bool = False
    trade_confirm_email: str = "all"


class ConfigurationBody(msgspec.Struct, omit_defaults=True):
    """The body of PATCH /v2/account/configurations; null leaves a field as it is."""

    dtbp_check: Annotated[str, msgspec.Meta(pattern="^(both|entry|exit)$")] | None = None
    fractional_trading: bool | None = None
    max_margin_multiplier: Annotated[str, msgspec.Meta(pattern="^[124]$")] | None = None
    max_options_trading_level: Annotated[int, msgspec.Meta(ge=0, le=3)] | None = None
    no_shorting: bool | None = None
    pdt_check: Annotated[str, msgspec.Meta(pattern="^(both|entry|exit)$")] | None = None
    ptp_no_exception_entry: bool | None = None
    suspend_trade: bool | None = None
    trade_confirm_email: Annotated[str, msgspec.Meta(pattern="^(all|none)$")] | None = None


class PortfolioHistory(msgspec.Struct):
    """What the account was worth; its figures are JSON numbers, as Alpaca's are."""

    timestamp: list[int]
    equity: list[float]
    profit_loss: list[float]
    profit_loss_pct: list[float | None]
    base_value: float
    base_value_asof: date
    timeframe: str
    cashflow: dict[str, list[float]]


class Activity(msgspec.Struct, omit_defaults=True):
    """A line of the customer's statement: an execution (FILL), or another movement, with fields of its own."""

    id: str
    account_id: UUID
    activity_type: str
    transaction_time: datetime | None = None
    type: str | None = None
    price: str | None = None
    qty: str | None = None
    side: str | None = None
    symbol: str | None = None
    leaves_qty: str | None = None
    order_id: UUID | None = None
    cum_qty: str | None = None
    order_status: str | None = None
    date: str | None = None
    net_amount: str | None = None
    description: str | None = None
    status: str | None = None
    per_share_amount: str | None = None
    execution_id: UUID | None = None


class Position(msgspec.Struct):
    """A customer's shares of a symbol. What the market has not priced is null."""

    asset_id: UUID
    symbol: str
    exchange: str
    asset_class: str
    asset_marginable: bool
    avg_entry_price: str
    qty: str
    qty_available: str
    side: str
    cost_basis: str
    market_value: str | None
    unrealized_pl: str | None
    unrealized_plpc: str | None
    unrealized_intraday_pl: str | None
    unrealized_intraday_plpc: str | None
    current_price: str | None
    lastday_price: str | None
    change_today: str | None


class ClosedPosition(msgspec.Struct):
    """What became of closing a position: its body is the order, or the error."""

    symbol: str
    status: int
    order_id: UUID | None
    body: dict[str, Any]


class CanceledOrder(msgspec.Struct):
    """What became of cancelling an order."""

    id: UUID
    status: int
    body: dict[str, Any] | None


class Asset(msgspec.Struct):
    """A symbol that is traded."""

    id: UUID
    asset_class: str = msgspec.field(name="class")
    exchange: str = "NASDAQ"
    symbol: str = ""
    name: str = ""
    status: str = "active"
    tradable: bool = True
    marginable: bool = True
    shortable: bool = False
    easy_to_borrow: bool = False
    fractionable: bool = False
    min_order_size: str = "1"
    min_trade_increment: str = "1"
    price_increment: str = "0.01"
    maintenance_margin_requirement: int = 25
    attributes: list[str] = []


class Clock(msgspec.Struct):
    """Whether the market is open, and when that changes."""

    timestamp: datetime
    is_open: bool
    next_open: datetime
    next_close: datetime


class CalendarDay(msgspec.Struct):
    """A trading day, in New York's time."""

    date: Day
    open: str
    close: str
    session_open: str
    session_close: str
    settlement_date: Day


class WatchlistName(msgspec.Struct):
    """A customer's list of symbols, without them."""

    id: UUID
    account_id: UUID
    name: str
    created_at: datetime
    updated_at: datetime


class Watchlist(WatchlistName):
    """A customer's list of symbols."""

    assets: list[Asset]


class NewWatchlist(msgspec.Struct):
    """The body of POST /v2/watchlists."""

    name: str
    symbols: list[str] = []


class WatchlistBody(msgspec.Struct):
    """The body that changes a watchlist: what is left out stays as it is."""

    name: str | None = None
    symbols: list[str] | None = None


class WatchlistSymbol(msgspec.Struct):
    """The body that adds a symbol to a watchlist."""

    symbol: str


class OptionContracts(msgspec.Struct):
    """There are none here."""

    option_contracts: list[dict[str, Any]] = []
    next_page_token: str | None = None


# ------------------------------------------------------------------ parameters


def _like(**schema: Any) -> msgspec.Meta:
    """What the document says of a parameter; broker.alpaca.requests reads it."""
    return msgspec.Meta(extra_json_schema=schema)


Flag = Annotated[str | None, _like(pattern="^([Tt][Rr][Uu][Ee]|[Ff][Aa][Ll][Ss][Ee]|[TtFf01])$")]
Count = Annotated[str | None, _like(pattern="^[1-9][0-9]{0,8}$")]
Moment = Annotated[str | None, _like(format="date-time")]
OneDay = Annotated[str | None, _like(format="date")]
Direction = Annotated[str | None, _like(enum=["asc", "desc"])]


class NestedQuery(msgspec.Struct):
    """Whether legs stand under their parents."""

    nested: Flag = None


class OrdersQuery(msgspec.Struct):
    """Which orders a list shows."""

    status: Annotated[str | None, _like(enum=["open", "closed", "all"])] = None
    limit: Count = None
    after: Moment = None
    until: Moment = None
    direction: Direction = None
    nested: Flag = None
    side: Annotated[str | None, _like(enum=["buy", "sell"])] = None
    symbols: str | None = None


class ClientOrderIdQuery(msgspec.Struct):
    """Which order."""

    client_order_id: Annotated[str, _like(minLength=1)]
    nested: Flag = None


class CloseQuery(msgspec.Struct):
    """How much of a position to close; all of it where neither is given."""

    qty: Count = None
    percentage: Annotated[str | None, _like(pattern="^[1-9][0-9]?([.][0-9]{1,9})?$")] = None


class CloseAllQuery(msgspec.Struct):
    """Whether to cancel the open orders before."""

    cancel_orders: Flag = None


class HistoryQuery(msgspec.Struct):
    """Which time a portfolio's history shows."""

    period: Annotated[str | None, _like(pattern="^([1-9][0-9]{0,3}[DWMA]|all)$")] = None
    timeframe: Annotated[str | None, _like(enum=["1Min", "5Min", "15Min", "1H", "1D"])] = None
    start: Moment = None
    end: Moment = None
    date_end: OneDay = None
    extended_hours: str | None = None
    intraday_reporting: str | None = None
    pnl_reset: str | None = None
    cashflow_types: str | None = None


class ActivitiesQuery(msgspec.Struct):
    """Which activities a list shows."""

    activity_types: str | None = None
    category: Annotated[str | None, _like(enum=["trade_activity", "non_trade_activity"])] = None
    date: OneDay = None
    after: Moment = None
    until: Moment = None
    direction: Direction = None
    page_size: Count = None
    page_token: str | None = None


class AssetsQuery(msgspec.Struct):
    """Which assets a list shows."""

    status: str | None = None
    asset_class: str | None = None
    exchange: str | None = None
    attributes: str | None = None


class CalendarQuery(msgspec.Struct):
    """Which days."""

    start: OneDay = None
    end: OneDay = None
    date_type: str | None = None


class NameQuery(msgspec.Struct):
    """Which watchlist."""

    name: Annotated[str, _like(minLength=1)]
