"""Builders with overrides: a test names only what it is about."""

from datetime import UTC, datetime
from uuid import UUID

from broker.core import trading
from broker.core.account import Account, Holding
from broker.core.messages import PlaceTrade, Report, ReportType, TradeEvent
from broker.core.money import Money, parse_money
from broker.core.types import CustomerId, Fill, Side, Symbol, Trade, TradeId

NOW = datetime(2026, 11, 27, 14, 30, tzinfo=UTC)
AAPL = Symbol("AAPL")


def trade_id(number: int) -> TradeId:
    """A trade id that a reader can tell from another."""
    return TradeId(UUID(int=number))


def dollars(text: str) -> Money:
    """Money from its decimal text."""
    return parse_money(text)


class FixedMarket:
    """Prices that stand still."""

    def __init__(self, asks: dict[str, str] | None = None) -> None:
        self.asks = {Symbol(symbol): dollars(ask) for symbol, ask in (asks or {}).items()}

    def ask(self, symbol: Symbol) -> Money | None:
        """The ask, where there is one."""
        return self.asks.get(symbol)

    def is_listed(self, symbol: Symbol) -> bool | None:
        """Whether it has a price; None while nothing has."""
        return symbol in self.asks if self.asks else None


def account(cash: str = "0", shares: dict[str, int] | None = None) -> Account:
    """A customer with cash and shares, all available."""
    positions = {Symbol(symbol): Holding(quantity) for symbol, quantity in (shares or {}).items()}
    return Account(CustomerId(1001), cash=Holding(dollars(cash)), positions=positions)


def place(
    holder: Account, side: Side = Side.BUY, quantity: int = 10, symbol: str = "AAPL", number: int | None = None
) -> Trade:
    """Place a trade; it waits."""
    id_ = trade_id(number if number is not None else holder.last_seq + 1)
    command = PlaceTrade(id_, holder.customer_id, Symbol(symbol), side, quantity)
    return trading.place(holder, command, NOW).trade


def working(holder: Account, market: FixedMarket, side: Side = Side.BUY, quantity: int = 10) -> Trade:
    """A trade at the exchange."""
    trade = place(holder, side, quantity)
    events = list(trading.start_next(holder, market, collar_bps=500))
    assert [event.status for event in events] == ["IN PROGRESS"], events
    return trade


def fill(trade: Trade, quantity: int, price: str, execution_id: str = "e1", type_: str = "PARTIALLY_FILLED") -> Report:
    """The exchange reports an execution."""
    return Report(
        trade.trade_id,
        ReportType(type_),
        "sim",
        execution_id,
        Fill(quantity, dollars(price)),
        trade.filled_quantity + quantity,
    )


def end(trade: Trade, type_: str, reason: str | None = None, filled: int = 0) -> Report:
    """The exchange reports the end of an order."""
    return Report(trade.trade_id, ReportType(type_), "sim", filled_quantity=filled, reason=reason)


def settle(holder: Account, trade: Trade, report: Report) -> object:
    """What the report does: its event, as (status, reason), or the anomaly or repeat."""
    outcome = trading.settle(holder, trade, report)
    return (str(outcome.status), outcome.reason) if isinstance(outcome, TradeEvent) else outcome
