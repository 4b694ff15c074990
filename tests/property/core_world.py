"""The world in which the machine drives the core: quotes that move, switches, limits, fees and margin rates."""

from datetime import datetime

from hypothesis import strategies as st

from broker.core.account import Account
from broker.core.conditions import Conditions, Limits, Policy
from broker.core.fees import parse_fees
from broker.core.holds import buy_cost
from broker.core.margin import PAID_IN_FULL, Rates
from broker.core.money import Money
from broker.core.types import AUCTIONS, AccountType, CustomerId, OrderType, Side, Symbol, TimeInForce, Trade
from tests.builders import AAPL, FixedMarket, dollars

SYMBOLS = [AAPL, Symbol("MSFT"), Symbol("TSLA")]
FEES = parse_fees(
    "COMMISSION 2026-01-01 both order=1.00; COMMISSION 2026-11-30 both order=1.50 value=0.002;"
    "SEC 2026-01-01 sell value=0.0000206; TAF 2026-01-01 sell share=0.0195 cap=0.40"
)
LIMITS = Limits(
    order_quantity_max=28,
    order_value_max=dollars("7000"),
    position_max=60,
    price_away_bps=30_000,
    orders_per_second=3,
    duplicate_window_ms=1_500,
)
RATES = {"MSFT": Rates(7_500, 4_000), "TSLA": PAID_IN_FULL}


customers = st.integers(0, 3)
symbols = st.sampled_from(SYMBOLS)
quantities = st.integers(1, 30)
prices = st.integers(1, 60).map(lambda n: Money(n * 49_999))
figures = {"quantity": quantities, "price": prices}
picks = st.integers(0, 15)
switches = st.sampled_from(
    ["all", "closed", "unreachable", "stale", *SYMBOLS, "halt AAPL", "halt MSFT", "suspend 1001", *["night"] * 3]
)
orders = {
    "who": customers,
    "symbol": symbols,
    "quantity": quantities,
    # Trailing stops and groups have a machine of their own: test_groups_machine.py.
    "type_": st.sampled_from([each for each in OrderType if each is not OrderType.TRAILING_STOP]),
    "time_in_force": st.sampled_from([each for each in TimeInForce if each not in AUCTIONS]),
    "limit": prices,
    "stop": prices,
    "then": st.sampled_from(["", "accept", "accept", "fill", "part"]),
}


class Controls:
    """The operators' switches: what is in `on` is on."""

    def __init__(self, on: set[str]) -> None:
        self._on = on

    def stopped(self, customer_id: CustomerId) -> str | None:
        return "stopped" if {"all", f"stop {customer_id}"} & self._on else None

    def stopped_by_itself(self, customer_id: CustomerId) -> bool:
        return False

    def suspended(self, customer_id: CustomerId) -> str | None:
        return "suspended" if f"suspend {customer_id}" in self._on else None

    def halted(self, symbol: Symbol) -> str | None:
        return "halted" if f"halt {symbol}" in self._on else None

    def restricted(self, symbol: Symbol) -> str | None:
        return "restricted" if symbol in self._on else None

    def limits(self, account_type: AccountType, customer_id: CustomerId) -> Limits:
        return LIMITS


class MovingMarket(FixedMarket):
    """Quotes that come, move and go, with a spread."""

    def __init__(self, on: set[str]) -> None:
        super().__init__({"AAPL": "190.20", "MSFT": "41.50"})
        self._on = on

    def bid(self, symbol: Symbol) -> Money | None:
        ask = self.asks.get(symbol)
        return None if ask is None else Money(max(1, ask - 1_000))

    def is_listed(self, symbol: Symbol) -> bool | None:
        return True

    def is_reachable(self, symbol: Symbol) -> bool:
        return "unreachable" not in self._on

    def stale_s(self, symbol: Symbol) -> float | None:
        return 20.0 if "stale" in self._on else None


def view(now: datetime, market: FixedMarket, on: set[str]) -> Conditions:
    """One view of it."""
    policy = Policy(fees=FEES, margin_by_symbol=RATES, is_open=lambda _: "closed" not in on)
    return Conditions(now, market, Controls(on), policy)


def check_start(holder: Account, trade: Trade, world: Conditions, on: set[str]) -> None:
    """A trade that was started may trade, has what it needs, and leaves credit."""
    assert not {"all", f"stop {trade.customer_id}", f"suspend {trade.customer_id}"} & on
    assert not {f"halt {trade.symbol}", "unreachable"} & on
    assert trade.order_type is not OrderType.MARKET or "stale" not in on, "nobody knows the price"
    if trade.side is Side.SELL:
        return
    assert trade.symbol not in on, "a restricted symbol is bought"
    old = holder.working.get(trade.replaces) if trade.replaces else None
    cost = buy_cost(trade, world.market.ask(trade.symbol), world.policy.collar_bps, FEES, world.today)
    if cost is not None:
        assert trade.hold <= cost.most
        assert trade.hold + (old.hold if old else 0) >= cost.least
    if holder.account_type is AccountType.MARGIN and (old is None or trade.hold):
        check_credit(holder, world)


def check_credit(holder: Account, world: Conditions) -> None:
    """Regulation T, added up from the account: equity covers the initial margin of positions and holds."""
    equity = holder.cash.balance
    initial_e4 = 0
    for symbol, position in holder.positions.items():
        value = position.balance * (world.market.last(symbol) or 0)
        equity += value
        initial_e4 += value * world.policy.rates(symbol).initial_bps
    for each in holder.working.values():
        if each.side is Side.BUY:
            initial_e4 += each.hold * world.policy.rates(each.symbol).initial_bps
    if equity >= world.policy.margin_equity_min:
        assert initial_e4 <= 10_000 * equity, "bought beyond the buying power"
    else:
        assert holder.cash.available >= 0, "bought on credit without the minimum of equity"
