"""Builders with overrides: a test names only what it is about."""

from datetime import UTC, datetime
from uuid import UUID

from broker.core import settlement, trading
from broker.core.account import Account, Holding
from broker.core.conditions import Conditions, Limits, Policy
from broker.core.messages import PlaceTrade, Report, ReportType, TradeEvent
from broker.core.money import Money, parse_money
from broker.core.types import AccountType, CustomerId, Fill, OrderType, Side, Symbol, TimeInForce, Trade, TradeId

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

    def bid(self, symbol: Symbol) -> Money | None:
        """The same: there is no spread."""
        return self.asks.get(symbol)

    def last(self, symbol: Symbol) -> Money | None:
        """The same."""
        return self.asks.get(symbol)

    def is_listed(self, symbol: Symbol) -> bool | None:
        """Whether it has a price; None while nothing has."""
        return symbol in self.asks if self.asks else None

    def venue(self, symbol: Symbol) -> str:
        """There is one."""
        return "sim"

    def is_reachable(self, symbol: Symbol) -> bool:
        """It answers."""
        return True

    def stale_s(self, symbol: Symbol) -> float | None:
        """Its quotes hold."""
        return None


class FixedControls:
    """Switches that a test sets."""

    def __init__(self, limits: Limits | None = None, **switches: str) -> None:
        self.switches = switches
        self.all_limits = limits or Limits()

    def stopped(self, customer_id: CustomerId) -> str | None:
        """The kill switch."""
        return self.switches.get("stopped")

    def stopped_by_itself(self, customer_id: CustomerId) -> bool:
        """The customer's own switch."""
        return "stopped_by_itself" in self.switches

    def suspended(self, customer_id: CustomerId) -> str | None:
        """The customer."""
        return self.switches.get("suspended")

    def halted(self, symbol: Symbol) -> str | None:
        """The symbol, for both sides."""
        return self.switches.get(f"halt_{symbol}")

    def restricted(self, symbol: Symbol) -> str | None:
        """The symbol, for buyers."""
        return self.switches.get(f"restrict_{symbol}")

    def limits(self, account_type: AccountType, customer_id: CustomerId) -> Limits:
        """The same for all."""
        return self.all_limits


def conditions(
    market: FixedMarket | None = None,
    controls: FixedControls | None = None,
    policy: Policy | None = None,
    now: datetime = NOW,
) -> Conditions:
    """A view of the world in which nothing is in the way."""
    return Conditions(now, market or FixedMarket(), controls or FixedControls(), policy or Policy())


def account(
    cash: str = "0", shares: dict[str, int] | None = None, type_: AccountType = AccountType.CASH, credit: str = "0"
) -> Account:
    """A customer with cash and shares, all available."""
    positions = {Symbol(symbol): Holding(quantity) for symbol, quantity in (shares or {}).items()}
    holding = Holding(dollars(cash), floor=-dollars(credit))
    return Account(CustomerId(1001), type_, cash=holding, positions=positions)


def order(
    holder: Account,
    side: Side = Side.BUY,
    quantity: int = 10,
    symbol: str = "AAPL",
    limit: str | None = None,
    stop: str | None = None,
    number: int | None = None,
    time_in_force: TimeInForce = TimeInForce.DAY,
    client_order_id: str | None = None,
) -> PlaceTrade:
    """An order of the type that its prices say."""
    types = {(False, False): OrderType.MARKET, (True, False): OrderType.LIMIT, (False, True): OrderType.STOP}
    return PlaceTrade(
        trade_id(number if number is not None else holder.last_seq + 1),
        holder.customer_id,
        Symbol(symbol),
        side,
        quantity,
        order_type=types.get((limit is not None, stop is not None), OrderType.STOP_LIMIT),
        time_in_force=time_in_force,
        limit_price=dollars(limit) if limit else None,
        stop_price=dollars(stop) if stop else None,
        client_order_id=client_order_id,
    )


def place(
    holder: Account, side: Side = Side.BUY, quantity: int = 10, symbol: str = "AAPL", number: int | None = None
) -> Trade:
    """Place a trade; it waits."""
    return trading.place(holder, order(holder, side, quantity, symbol, number=number), conditions())[0].trade


def working(
    holder: Account,
    market: FixedMarket,
    side: Side = Side.BUY,
    quantity: int = 10,
    policy: Policy | None = None,
    **prices: str,
) -> Trade:
    """A trade at the exchange."""
    world = conditions(market, policy=policy)
    trade = trading.place(holder, order(holder, side, quantity, **prices), world)[0].trade  # type: ignore[arg-type]
    events = list(trading.start_next(holder, world))
    assert [event.status for event in events] == ["IN PROGRESS"], events
    return trade


def accept(holder: Account, trade: Trade, policy: Policy | None = None) -> None:
    """The exchange says that it has the order."""
    settlement.settle(holder, trade, Report(trade.trade_id, ReportType.ACCEPTED, "sim"), conditions(policy=policy))


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


def settle(holder: Account, trade: Trade, report: Report, world: Conditions | None = None) -> object:
    """What the report does: its event, as (status, reason), or the anomaly or repeat; a list where it is several."""
    outcomes = [
        (str(each.status), each.reason) if isinstance(each, TradeEvent) else each
        for each in settlement.settle(holder, trade, report, world or conditions())
    ]
    return outcomes[0] if len(outcomes) == 1 else outcomes
