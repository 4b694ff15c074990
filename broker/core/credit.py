"""One order and the credit behind it: what it costs, what the account may spend, what its margin is.

The checks of `broker.core.risk` look at a `Case`; what is shown to customers is reckoned by the same functions.
"""

from dataclasses import dataclass, field
from functools import cached_property

from broker.core import margin
from broker.core.account import Account, Holding
from broker.core.conditions import Conditions, Limits
from broker.core.fees import max_fees, order_fees
from broker.core.holds import Cost, buy_cost
from broker.core.margin import MarginFigures
from broker.core.money import Money
from broker.core.types import AccountType, Side, Trade, TradeId


@dataclass
class Case:
    """One order before its checks, with what they look at. `freed` is the hold of the order that it replaces."""

    account: Account
    trade: Trade
    conditions: Conditions
    freed: int = 0
    limits: Limits = field(init=False)
    cost: Cost | None = field(init=False)  # of a BUY; None where it is not known, and of a SELL
    funds: Money = field(init=False)  # what this BUY may reserve, its fees included

    def __post_init__(self) -> None:
        """Look up what nearly every order needs: on the way of each, a property that remembers costs more."""
        account, conditions = self.account, self.conditions
        self.limits = conditions.controls.limits(account.account_type, account.customer_id)
        self.cost = None
        if self.trade.side is Side.BUY:
            ask = conditions.market.ask(self.trade.symbol)
            collar = conditions.policy.collar_bps
            self.cost = buy_cost(self.trade, ask, collar, conditions.buy_fees, conditions.today)
        free = account.cash.available + self.freed
        if account.account_type is AccountType.MARGIN and self.cost is not None:  # no loan without a price
            rates = conditions.policy.rates(self.trade.symbol)
            power = margin.spendable(self.figures, rates, self.cost.fees)
            free = max(0, min(power, free - account.cash.floor))
        self.funds = Money(free)

    @cached_property
    def figures(self) -> MarginFigures:
        """The account's margin, without what the replaced order holds."""
        return margin_figures(self.account, self.conditions, self.trade.replaces)

    @property
    def fees(self) -> Money:
        """What of a BUY's hold is for its fees."""
        if self.cost is not None:
            return self.cost.fees
        return max_fees(self.conditions.buy_fees, Side.BUY, self.trade.quantity, self.funds, self.conditions.today)

    @property
    def position(self) -> Holding:
        """What there is of the symbol."""
        return self.account.positions.get(self.trade.symbol) or Holding()

    @property
    def shares(self) -> int:
        """What a SELL may reserve."""
        return self.position.available + self.freed

    @property
    def quote(self) -> Money | None:
        """The price against which this order would trade."""
        market, symbol = self.conditions.market, self.trade.symbol
        return market.ask(symbol) if self.trade.side is Side.BUY else market.bid(symbol)

    @property
    def price(self) -> Money | None:
        """What one share is reckoned at: its limit, else its stop, else the quote."""
        trade = self.trade
        return trade.limit_price or trade.stop_price or self.quote

    @property
    def hold(self) -> int:
        """What an order that passed its checks reserves."""
        if self.trade.side is Side.SELL:
            return self.trade.quantity
        return self.funds if self.cost is None else min(self.funds, self.cost.most)


def margin_figures(account: Account, conditions: Conditions, without: TradeId | None = None) -> MarginFigures:
    """The margin figures of an account at the last prices, without the hold of one of its trades."""
    policy, market = conditions.policy, conditions.market
    return margin.figures(
        Money(account.cash.balance),
        [
            (Money(each.hold), policy.rates(each.symbol))
            for each in (*account.waiting, *account.held.values(), *account.working.values())
            if each.hold and each.side is Side.BUY and each.trade_id != without
        ],
        [
            (each.balance, market.last(symbol), policy.rates(symbol))
            for symbol, each in account.positions.items()
            if each.balance
        ],
        policy.margin,
        policy.margin_equity_min,
        account.account_type,
    )


def spending_power(account: Account, conditions: Conditions) -> Money:
    """What an account may spend on a symbol of ordinary rates: its cash, on margin its buying power."""
    if account.account_type is AccountType.CASH:
        return Money(account.cash.available)
    return margin_figures(account, conditions).buying_power


def withdrawable(account: Account, conditions: Conditions) -> Money:
    """The cash that an operator may take: what is available, and on margin what the positions do not need."""
    if account.account_type is AccountType.CASH:
        return Money(account.cash.available)
    return margin.withdrawable(margin_figures(account, conditions))


def sale_fees(case: Case, proceeds: Money) -> Money:
    """What the fees of a SELL come to if it fills in full for these proceeds."""
    rules, day = case.conditions.sell_fees, case.conditions.today
    fees = order_fees(rules, Side.SELL, case.trade.quantity, proceeds, day)
    return Money(min(proceeds, sum(fee.amount for fee in fees)))
