"""What a customer's account is worth: equity, margin, positions with their gains, and their history.

Everything comes from the database at each call, with the quotes of the moment; equity and margin are reckoned by the
functions that the risk checks decide with, so that what is shown is what is decided.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import structlog

from broker import answers
from broker.core import cost_basis, credit
from broker.core.account import Account, Holding
from broker.core.activities import Activity, ActivityType, Made, Transfer, activities
from broker.core.conditions import Conditions, DayTradingRule
from broker.core.day_trades import DayTrades, first_counted_day
from broker.core.history import (
    Period,
    Timeframe,
    first_id,
    percent,
    points,
)
from broker.core.hours import NEW_YORK
from broker.core.margin import MarginFigures
from broker.core.money import Money, format_money
from broker.core.postings import CASH
from broker.core.risk import PDT_TRADES_MAX
from broker.core.types import AccountType, CustomerId, Side, Symbol, Trade, TradeId
from broker.db import Database
from broker.worth import Worth

log = structlog.get_logger()

_LAST_ID = UUID(int=2**128 - 1)
_SKEW = timedelta(hours=1)
"""An id is given a moment before or after the time that its transfer is booked under; nothing is this far off."""


@dataclass(frozen=True, slots=True)
class ExecutionFilter:
    """Which executions a list shows; None shows all."""

    symbol: Symbol | None = None
    order_id: UUID | None = None
    since: datetime | None = None
    until: datetime | None = None
    before: UUID = _LAST_ID
    limit: int = 100


@dataclass(frozen=True, slots=True)
class ActivityFilter:
    """Which activities a list shows; `before` is the id of one, as its transfer and its number in it."""

    types: frozenset[ActivityType] = frozenset(ActivityType)
    since: datetime | None = None
    until: datetime | None = None
    before: tuple[UUID, int] = (_LAST_ID, 1)
    limit: int = 100


class Portfolio:
    """Figures of accounts, from the database and the quotes of the moment."""

    def __init__(self, database: Database, conditions: Callable[[], Conditions]) -> None:
        self._database = database
        self._conditions = conditions
        self._worth = Worth(database, self._last)

    def _last(self, symbol: Symbol) -> Money | None:
        return self._conditions().market.last(symbol)

    # -------------------------------------------------------------- what it is worth now

    async def account(self, customer_id: CustomerId) -> answers.AccountFigures:
        """The account in figures."""
        conditions = self._conditions()
        rows = await self._database.fetch("account_figures", customer_id, conditions.today)
        account, own = _account(customer_id, rows), next(row for row in rows if row["asset"] == CASH)
        figures = credit.margin_figures(account, conditions)
        day_trades = await self._day_trades(customer_id, conditions.today)
        return {
            "customer_id": str(customer_id),
            "account_type": account.account_type,
            "status": "suspended" if own["status"] == "suspended" else "restricted" if own["restricted"] else "active",
            "trading_stopped": conditions.controls.stopped(customer_id),
            "currency": "USD",
            "cash": format_money(Money(account.cash.balance)),
            "held": format_money(Money(account.cash.held)),
            "available": format_money(Money(account.cash.available)),
            "market_value": format_money(figures.market_value),
            "equity": format_money(figures.equity),
            "buying_power": format_money(_buying_power(account, conditions)),
            **_margin(account, figures, own["lowest"]),
            **_day_trading(account, day_trades, conditions.policy.day_trading_rule),
            **_gains(account, conditions),
        }

    async def _day_trades(self, customer_id: CustomerId, today: date) -> int:
        since = first_id(datetime.combine(first_counted_day(today), time(), NEW_YORK))
        day_trades = DayTrades()
        for row in await self._database.fetch("recent_executions", [customer_id], since):
            day_trades.note(row["day"], Symbol(row["symbol"]), Side(row["side"]), row["trade_id"])
        return day_trades.count(today)

    async def positions(self, customer_id: CustomerId) -> answers.Positions:
        """The customer's shares."""
        rows = await self._database.fetch("positions", customer_id)
        conditions = self._conditions()
        return {"customerId": str(customer_id), "positions": [_position(row, conditions) for row in rows]}

    async def position(self, customer_id: CustomerId, symbol: str) -> answers.Position | None:
        """The customer's shares of one symbol, or None where there are none."""
        rows = await self._database.fetch("position", customer_id, symbol)
        return _position(rows[0], self._conditions()) if rows else None

    # -------------------------------------------------------------- what happened

    async def executions(self, customer_id: CustomerId, wanted: ExecutionFilter) -> answers.Executions:
        """A page of executions, newest first; `next_cursor` leads to the next one, or is null."""
        before, since = _bounds(wanted.before, wanted.since, wanted.until)
        arguments = (customer_id, before, since, wanted.symbol, wanted.since, wanted.until, wanted.limit + 1)
        if wanted.order_id is None:
            rows = await self._database.fetch("customer_executions", *arguments)
        else:
            rows = await self._database.fetch("order_executions", *arguments, wanted.order_id)
        page = rows[: wanted.limit]
        more = len(rows) > wanted.limit
        return {
            "executions": [_execution(row) for row in page],
            "next_cursor": str(page[-1]["transfer_id"]) if more else None,
        }

    async def activities(self, customer_id: CustomerId, wanted: ActivityFilter) -> answers.Activities:
        """A page of what moved cash or shares, newest first; `next_cursor` leads to the next one, or is null."""
        before, since = _bounds(wanted.before[0], wanted.since, wanted.until)
        rows = await self._database.fetch(
            "activities",
            customer_id,
            before,
            since,
            _kinds(wanted.types),
            wanted.types == {ActivityType.FEE},
            wanted.since,
            wanted.until,
            wanted.limit + 2,  # of the first, all may be on the page before
        )
        found = [
            activity
            for row in rows
            for activity in reversed(activities(_transfer(row)))
            if activity.type in wanted.types and (activity.transfer.transfer_id, activity.number) < wanted.before
        ]
        page = found[: wanted.limit]
        more = len(found) > wanted.limit
        return {"activities": [_activity(each) for each in page], "next_cursor": _id(page[-1]) if more else None}

    # -------------------------------------------------------------- what it was worth

    async def history(self, customer_id: CustomerId, period: Period, timeframe: Timeframe) -> answers.History:
        """Equity and gain at the points of a period, the last of them now."""
        conditions = self._conditions()
        opened = await self._worth.opened(customer_id) or conditions.now
        times = points(period, timeframe, opened, conditions.now)
        shown = await self._worth.at(customer_id, times)
        return {
            "period": period,
            "timeframe": timeframe,
            "base_value": format_money(shown.equity[0]),
            "timestamps": times,
            "equity": [format_money(each) for each in shown.equity],
            "net_deposits": [format_money(each) for each in shown.net_deposits],
            "profit_loss": [format_money(each) for each in shown.profit_loss],
            "profit_loss_pct": [_percent(each) for each in shown.profit_loss_pct],
        }


# ------------------------------------------------------------------ the account


def _account(customer_id: CustomerId, rows: Sequence[asyncpg.Record]) -> Account:
    """As much of the account as its margin depends on."""
    account = Account(customer_id)
    for row in rows:
        holding = Holding(row["balance"], row["held"], row["floor"], Money(row["cost"]), Money(row["gain"]))
        if row["asset"] == CASH:
            account.cash, account.account_type = holding, AccountType(row["account_type"])
            buys = [_buy(customer_id, each) for each in row["buys"] or ()]
            account.working = {trade.trade_id: trade for trade in buys}
        else:
            account.positions[Symbol(row["asset"])] = holding
    return account


def _buy(customer_id: CustomerId, row: Sequence[Any]) -> Trade:
    trade_id, seq, symbol, quantity, created_at, venue, hold = row
    return Trade(TradeId(trade_id), customer_id, seq, Symbol(symbol), Side.BUY, quantity, created_at, venue, hold=hold)


def _buying_power(account: Account, conditions: Conditions) -> Money:
    """What may be spent on a symbol of ordinary rates: never more than the credit that the database allows."""
    power = credit.spending_power(account, conditions)
    return Money(max(0, min(power, account.cash.available - account.cash.floor)))


def _margin(account: Account, figures: MarginFigures, lowest: int | None) -> answers.MarginFigures:
    if account.account_type is AccountType.CASH:
        return {
            "initial_margin": None,
            "maintenance_margin": None,
            "margin_excess": None,
            "intraday_level": None,
            "intraday_lowest": None,
            "margin_call": format_money(Money(0)),
            "margin_state": "none",
        }
    level = figures.intraday_level
    return {
        "initial_margin": format_money(figures.initial_requirement),
        "maintenance_margin": format_money(figures.maintenance_requirement),
        "margin_excess": format_money(figures.excess),
        "intraday_level": format_money(level),
        "intraday_lowest": format_money(level if lowest is None else min(level, Money(lowest))),
        "margin_call": format_money(figures.margin_call),
        "margin_state": "call" if figures.is_call else "ok",
    }


def _day_trading(account: Account, count: int, rule: DayTradingRule) -> answers.DayTradingFigures:
    applies = rule is DayTradingRule.PATTERN_DAY_TRADER and account.account_type is AccountType.MARGIN
    return {
        "day_trades": count,
        "day_trading_rule": rule,
        "pattern_day_trader": count > PDT_TRADES_MAX if applies else None,
    }


def _gains(account: Account, conditions: Conditions) -> answers.Gains:
    unrealized = 0
    unpriced: list[str] = []
    for symbol, each in sorted(account.positions.items()):
        price = conditions.market.last(symbol)
        if each.balance and price is None:
            unpriced.append(symbol)
        elif each.balance and price is not None:
            unrealized += each.balance * price - each.cost
    return {
        "realized_pnl": format_money(Money(sum(each.gain for each in account.positions.values()))),
        "unrealized_pnl": format_money(Money(unrealized)),
        "unpriced": unpriced,
    }


def _position(row: asyncpg.Record, conditions: Conditions) -> answers.Position:
    quantity, cost = row["quantity"], Money(row["cost"])
    price = conditions.market.last(Symbol(row["symbol"]))
    value = None if price is None else Money(quantity * price)
    gain = None if value is None else Money(value - cost)
    return {
        "symbol": row["symbol"],
        "quantity": quantity,
        "held": row["held"],
        "available": row["available"],
        "averageCost": format_money(cost_basis.average_price(cost, quantity)) if cost else None,
        "costBasis": format_money(cost),
        "currentPrice": _money(price),
        "currentValue": _money(value),
        "unrealizedPnl": _money(gain),
        "unrealizedPnlPct": None if gain is None else _percent(percent(gain, cost)),
        "realizedPnl": format_money(Money(row["gain"])),
        "lastModified": row["last_modified"],
    }


def _money(amount: Money | None) -> str | None:
    return None if amount is None else format_money(amount)


def _percent(e4: int | None) -> str | None:
    """1/10,000 of a per cent are written as money is: with 2 to 4 decimals."""
    return None if e4 is None else format_money(Money(e4))


# ------------------------------------------------------------------ executions and activities


def _bounds(before: UUID, since: datetime | None, until: datetime | None) -> tuple[UUID, UUID]:
    """Where in the ids to look: somewhat more than between these times."""
    last = before if until is None else min(before, first_id(until + _SKEW if until.year < 9999 else until))
    return last, first_id(since - _SKEW if since.year > 1970 else since) if since else UUID(int=0)


def _execution(row: asyncpg.Record) -> answers.Execution:
    quantity, price = row["last_qty"], row["last_px"]
    return {
        "execution_id": row["execution_id"],
        "order_id": row["trade_id"],
        "symbol": row["symbol"],
        "side": row["side"].lower(),
        "quantity": quantity,
        "price": format_money(price),
        "value": format_money(Money(quantity * price)),
        "fee": format_money(row["fee"]),
        "realized_pnl": format_money(row["gain"]) if row["side"] == Side.SELL else None,
        "venue": row["venue"],
        "busted": row["busted"],
        "corrects": row["corrects"],
        "executed_at": row["at"],
    }


_KINDS = {ActivityType.FEE: [ActivityType.FILL, ActivityType.BUST]}
"""The kinds of transfer in which a type of activity is found, where they do not have its name."""


def _kinds(types: frozenset[ActivityType]) -> list[str] | None:
    if types == frozenset(ActivityType):
        return None
    return sorted({str(kind) for type_ in types for kind in _KINDS.get(type_, [type_])})


def _transfer(row: asyncpg.Record) -> Transfer:
    made = None
    if row["trade_id"] is not None:
        made = Made(
            row["trade_id"], Side(row["side"]), row["last_qty"], row["last_px"], Money(row["fee"]), row["corrects"]
        )
    shares = list(zip(row["symbols"] or (), row["shares"] or (), strict=True))
    return Transfer(row["transfer_id"], row["kind"], row["reference"], row["at"], Money(row["cash"]), shares, made)


def _id(activity: Activity) -> str:
    suffix = f".{activity.number}" if activity.number > 1 else ""
    return f"{activity.transfer.transfer_id}{suffix}"


def _activity(activity: Activity) -> answers.Activity:
    transfer = activity.transfer
    return {
        "id": _id(activity),
        "type": activity.type,
        "at": transfer.at,
        "description": activity.description,
        "symbol": activity.symbol,
        "quantity": activity.quantity,
        "price": _money(activity.price),
        "cash": format_money(activity.cash),
        "fee": _money(activity.fee),
        "reference": transfer.reference,
        "order_id": transfer.execution.order_id if transfer.execution else None,
    }
