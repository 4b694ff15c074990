"""Pre-trade risk: a list of small named checks, each with a refusal of its own, run in the order in which they stand.

`AT_PLACING` is looked at when an order comes in, `AT_START` when its turn has come, on the account as it is then; the
first refusal counts. Every check is a pure function of one `Case`. They stand for the market access rule (SEC 15c3-5):
credit before everything, price and size controls, a restricted list, and a switch that stops it all.
"""

from collections.abc import Callable, Iterator
from datetime import timedelta

from broker.core.account import Account
from broker.core.conditions import Conditions, DayTradingRule
from broker.core.credit import Case
from broker.core.messages import Refusal, Refused
from broker.core.money import Money, format_money, in_dollars
from broker.core.types import AUCTIONS, AccountType, OrderType, Side, TimeInForce, Trade

PDT_TRADES_MAX = 3
"""Day trades in five business days that a margin account under the equity minimum may make: the fourth is refused."""


Check = Callable[[Case], Refused | None]


# ------------------------------------------------------------------ who may trade, and what


def trading_stopped(case: Case) -> Refused | None:
    """The kill switch, for all or for this customer."""
    reason = case.conditions.controls.stopped(case.account.customer_id)
    return None if reason is None else Refused(Refusal.TRADING_STOPPED, f"{reason}.")


def account_status(case: Case) -> Refused | None:
    """A suspended customer's orders are not sent."""
    reason = case.conditions.controls.suspended(case.account.customer_id)
    return None if reason is None else Refused(Refusal.ACCOUNT_SUSPENDED, f"{reason}.")


def suspended_by_you(case: Case) -> Refused | None:
    """A customer may stop its own new orders."""
    if not case.conditions.controls.stopped_by_itself(case.account.customer_id):
        return None
    return Refused(Refusal.SUSPENDED_BY_YOU, "new orders are rejected by user request.")


def symbol_listed(case: Case) -> Refused | None:
    """An exchange must list the symbol; while none has been heard, it decides itself."""
    symbol = case.trade.symbol
    if case.conditions.market.is_listed(symbol) is not False:
        return None
    return Refused(Refusal.UNKNOWN_SYMBOL, f"the exchange does not list {symbol}.", {"symbol": symbol})


def symbol_halted(case: Case) -> Refused | None:
    """Nothing is traded of a halted symbol."""
    reason = case.conditions.controls.halted(case.trade.symbol)
    return None if reason is None else Refused(Refusal.SYMBOL_HALTED, f"{reason}.", {"symbol": case.trade.symbol})


def symbol_restricted(case: Case) -> Refused | None:
    """A symbol on the restricted list may be sold, not bought."""
    if case.trade.side is Side.SELL:
        return None
    reason = case.conditions.controls.restricted(case.trade.symbol)
    return None if reason is None else Refused(Refusal.SYMBOL_RESTRICTED, f"{reason}.", {"symbol": case.trade.symbol})


def exchange_reachable(case: Case) -> Refused | None:
    """An exchange that has been away for long holds up nobody: its customers hear of it at once."""
    market, symbol = case.conditions.market, case.trade.symbol
    if market.is_reachable(symbol):
        return None
    venue = market.venue(symbol)
    detail = f"the exchange {venue}, where {symbol} is traded, does not answer; try again when it is back."
    return Refused(Refusal.EXCHANGE_UNAVAILABLE, detail, {"venue": venue})


def market_hours(case: Case) -> Refused | None:
    """Outside the session only an order that can wait is sent; shortly before an auction, none for it."""
    trade, conditions = case.trade, case.conditions
    lasts = trade.order_type is not OrderType.MARKET and trade.time_in_force in {TimeInForce.DAY, TimeInForce.GTC}
    detail = None
    if not conditions.policy.takes(trade.time_in_force, conditions.now):
        detail = f"{trade.time_in_force} orders are not taken so shortly before their auction, nor until the evening."
    elif not (conditions.is_open or lasts or trade.waits_for_open or trade.time_in_force in AUCTIONS):
        detail = "the market is closed, and this order cannot wait until it opens."
    return None if detail is None else Refused(Refusal.PAST_MARKET_HOURS, detail)


def quote_fresh(case: Case) -> Refused | None:
    """A market order takes whatever price there is, and a trailing stop follows it: not while nobody knows it."""
    trade, market = case.trade, case.conditions.market
    silent_s = market.stale_s(trade.symbol)
    detail = None
    if trade.order_type is OrderType.MARKET and silent_s is not None:
        detail = (
            f"quotes of {trade.symbol} have not been heard for {silent_s:.0f} s and may not hold any more; "
            "send a limit order, or try again when they are back."
        )
    elif trade.order_type is OrderType.TRAILING_STOP and case.quote is None:
        detail = f"no quote of {trade.symbol} is known, which a trailing stop follows; try again when there is one."
    if detail is None:
        return None
    return Refused(Refusal.STALE_QUOTE, detail, {"symbol": trade.symbol, "silent_s": round(silent_s or 0)})


# ------------------------------------------------------------------ credit


def margin_call(case: Case) -> Refused | None:
    """A margin account under its maintenance requirement buys nothing."""
    if case.trade.side is Side.SELL or case.account.account_type is AccountType.CASH or not case.figures.margin_call:
        return None
    missing, needed, equity = case.figures.margin_call, case.figures.maintenance_requirement, case.figures.equity
    detail = (
        f"the account needs {in_dollars(needed)} of equity to maintain its positions and has {in_dollars(equity)}; "
        f"{in_dollars(missing)} are missing."
    )
    figures = {"needed": format_money(needed), "equity": format_money(equity), "missing": format_money(missing)}
    return Refused(Refusal.MARGIN_CALL, detail, figures)


def shares_available(case: Case) -> Refused | None:
    """A SELL needs its shares, available."""
    trade = case.trade
    if trade.side is Side.BUY or trade.quantity <= case.shares:
        return None
    detail = f"the trade sells {trade.quantity} {trade.symbol}, {case.shares} available."
    return Refused(Refusal.INSUFFICIENT_SHARES, detail, {"needed": trade.quantity, "available": case.shares})


def buying_power(case: Case) -> Refused | None:
    """A BUY needs what it costs: cash, or buying power on margin."""
    trade, cost, funds = case.trade, case.cost, case.funds
    if trade.side is Side.SELL or (funds >= cost.least if cost else funds > case.fees):
        return None
    on_margin = case.account.account_type is AccountType.MARGIN
    refusal = Refusal.INSUFFICIENT_BUYING_POWER if on_margin else Refusal.INSUFFICIENT_FUNDS
    figures: dict[str, int | str] = {"available": format_money(funds), "quantity": trade.quantity}
    if cost is None:
        formula = f"buys {trade.quantity} {trade.symbol}"
    else:
        fees = f" + {in_dollars(cost.fees)} fees" if cost.fees else ""
        formula = f"needs {in_dollars(cost.least)} = {trade.quantity} x {in_dollars(cost.price)}{fees}"
        figures |= {"needed": format_money(cost.least), "price": format_money(cost.price)}
        if cost.fees:
            figures["fees"] = format_money(cost.fees)
    return Refused(refusal, f"the trade {formula}, {in_dollars(funds)} available.", figures)


# ------------------------------------------------------------------ sizes and prices


def position_limit(case: Case) -> Refused | None:
    """What a customer has and has ordered of a symbol stays under a limit."""
    trade, most = case.trade, case.limits.position_max
    if trade.side is Side.SELL:
        return None
    ordered = sum(
        each.leaves_quantity
        for each in case.account.working.values()
        if each.symbol == trade.symbol and each.side is Side.BUY and each.trade_id != trade.replaces
    )
    after = case.position.balance + ordered + trade.quantity
    if after <= most:
        return None
    detail = f"the position would be {after} {trade.symbol} with everything ordered, the limit is {most}."
    return Refused(Refusal.POSITION_LIMIT, detail, {"position": after, "limit": most})


def order_size(case: Case) -> Refused | None:
    """Shares in one order: above the limit it is a slip of the finger."""
    quantity, most = case.trade.quantity, case.limits.order_quantity_max
    if quantity <= most:
        return None
    detail = f"the order has {quantity} shares, the limit is {most}."
    return Refused(Refusal.ORDER_TOO_LARGE, detail, {"quantity": quantity, "limit": most})


def order_value(case: Case) -> Refused | None:
    """Dollars in one order: above the limit it is a slip of the finger."""
    trade, price, most = case.trade, case.price, case.limits.order_value_max
    value = Money(trade.quantity * price) if price is not None else Money(0)
    if value <= most or price is None:
        return None
    formula = f"{in_dollars(value)} = {trade.quantity} x {in_dollars(price)}"
    detail = f"the order is worth {formula}, the limit is {in_dollars(most)}."
    return Refused(Refusal.ORDER_VALUE_TOO_LARGE, detail, {"value": format_money(value), "limit": format_money(most)})


def price_collar(case: Case) -> Refused | None:
    """A limit far on the wrong side of the quote would trade at a price that nobody meant."""
    limit, quote, away = case.trade.limit_price, case.quote, case.limits.price_away_bps
    if case.trade.stop_price is not None:  # by then the market will be there
        quote = case.trade.stop_price
    if limit is None or quote is None:
        return None
    buys = case.trade.side is Side.BUY
    worst = Money(quote * (10_000 + away if buys else max(0, 10_000 - away)) // 10_000)
    if limit <= worst if buys else limit >= worst:
        return None
    side, words = ("ask", "at most") if buys else ("bid", "at least")
    side = side if case.trade.stop_price is None else "stop"
    detail = f"the limit is {in_dollars(limit)}, the {side} {in_dollars(quote)}: {words} {in_dollars(worst)} is taken."
    figures = {"limit_price": format_money(limit), side: format_money(quote), "worst": format_money(worst)}
    return Refused(Refusal.PRICE_TOO_FAR, detail, figures)


# ------------------------------------------------------------------ conduct


def order_rate(case: Case) -> Refused | None:
    """Orders of one customer in one second."""
    placed, most = case.account.placed, case.limits.orders_per_second
    if len(placed) < most:
        return None
    since = case.trade.created_at - timedelta(seconds=1)
    recent = sum(each.created_at > since for each in placed)
    if recent < most:
        return None
    detail = f"{recent} orders in the last second, the limit is {most}."
    return Refused(Refusal.TOO_MANY_ORDERS, detail, {"orders": recent, "limit": most})


def duplicate_order(case: Case) -> Refused | None:
    """The same order again within a moment, unless a client order id of its own says that it is meant."""
    window, trade = case.limits.duplicate_window_ms, case.trade
    if not window or trade.client_order_id not in {None, str(trade.trade_id)}:
        return None
    since = trade.created_at - timedelta(milliseconds=window)
    first = next((each for each in case.account.placed if each.created_at > since and _is_same(each, trade)), None)
    if first is None:
        return None
    detail = f"the same order was placed less than {window} ms ago, as {first.trade_id}."
    return Refused(Refusal.DUPLICATE_ORDER, detail, {"first": str(first.trade_id), "window_ms": window})


def _is_same(one: Trade, other: Trade) -> bool:
    def content(trade: Trade) -> object:
        return (trade.symbol, trade.side, trade.quantity, trade.order_type, trade.limit_price, trade.stop_price)

    return content(one) == content(other)


def wash_trade(case: Case) -> Refused | None:
    """An order must not trade with one of its own customer."""
    for each in case.account.working.values():
        if each.symbol == case.trade.symbol and each.side is not case.trade.side and _would_meet(case, each):
            detail = f"it could trade with your own order {each.trade_id}; cancel that one first."
            return Refused(Refusal.WASH_TRADE, detail, {"resting_order_id": str(each.trade_id)})
    return None


def _would_meet(case: Case, resting: Trade) -> bool:
    """Whether the order could reach the price at which the customer's other one rests."""
    if resting.limit_price is None or resting.stop_price is not None:
        return False  # a market order is gone in a moment, and a stop is not in the book
    reach = case.trade.limit_price
    if reach is None:
        if case.trade.stop_price is not None or case.trade.order_type is OrderType.TRAILING_STOP:
            return False
        reach = case.quote
    if reach is None:
        return True
    return resting.limit_price <= reach if case.trade.side is Side.BUY else resting.limit_price >= reach


def pattern_day_trader(case: Case) -> Refused | None:
    """FINRA's rule until 2026: of a margin account under $25,000 the fourth day trade in five days is refused."""
    account, policy, today = case.account, case.conditions.policy, case.conditions.today
    if policy.day_trading_rule is not DayTradingRule.PATTERN_DAY_TRADER or account.account_type is AccountType.CASH:
        return None
    if not account.day_trades.would_be_day_trade(today, case.trade.symbol, case.trade.side):
        return None
    open_sales = {
        each.symbol
        for each in account.working.values()
        if each.side is Side.SELL
        and each.trade_id != case.trade.replaces
        and account.day_trades.would_be_day_trade(today, each.symbol, Side.SELL)
    }
    count, equity = account.day_trades.count(today) + len(open_sales - {case.trade.symbol}), case.figures.equity
    if count < PDT_TRADES_MAX or equity >= policy.pdt_equity_min:
        return None
    detail = (
        f"{count} day trades in 5 business days with those that are ordered, and the equity is {in_dollars(equity)}: "
        f"another one needs {in_dollars(policy.pdt_equity_min)}."
    )
    figures: dict[str, int | str] = {
        "day_trades": count,
        "equity": format_money(equity),
        "needed": format_money(policy.pdt_equity_min),
    }
    return Refused(Refusal.PDT_LIMIT_REACHED, detail, figures)


AT_PLACING: tuple[Check, ...] = (order_rate, duplicate_order)

AT_START: tuple[Check, ...] = (
    trading_stopped,
    account_status,
    suspended_by_you,
    symbol_listed,
    symbol_halted,
    symbol_restricted,
    exchange_reachable,
    market_hours,
    quote_fresh,
    margin_call,
    shares_available,
    buying_power,
    position_limit,
    order_size,
    order_value,
    price_collar,
    wash_trade,
    pattern_day_trader,
)


AT_PLACING_EXIT: tuple[Check, ...] = (order_size, order_value, price_collar)
"""Of an exit that is placed together with its entry only the figures can be looked at."""

AT_TRIGGER: tuple[Check, ...] = (
    trading_stopped,
    account_status,
    symbol_listed,
    symbol_halted,
    symbol_restricted,
    exchange_reachable,
    margin_call,
    shares_available,
    buying_power,
    wash_trade,
)
"""Of an order that was held here, and accepted before, what may stand in its way by now."""


def refusals(checks: tuple[Check, ...], case: Case) -> Iterator[Refused]:
    """What these checks have against an order, in their order."""
    for check in checks:
        refused = check(case)
        if refused is not None:
            yield refused


def first_refusal(checks: tuple[Check, ...], case: Case) -> Refused | None:
    """The one that counts."""
    for check in checks:  # not next(refusals(…)): this is on the way of every order
        refused = check(case)
        if refused is not None:
            return refused
    return None


def may_be_refused_at_placing(account: Account, conditions: Conditions) -> bool:
    """Whether `AT_PLACING` has anything to look at: for nearly every order it has not."""
    limits = conditions.controls.limits(account.account_type, account.customer_id)
    return bool(limits.duplicate_window_ms) or len(account.placed) >= limits.orders_per_second
