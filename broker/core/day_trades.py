"""How many day trades a customer made in the last 5 business days (FINRA Rule 4210(f)(8)(B), the rule until 2026).

A day trade is a purchase and a later sale of a symbol on one trade date. Orders are counted, not shares: each change
from buying to selling is one, and an order stands where its first fill of the day stands: its later fills add nothing.
"""

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from functools import lru_cache
from typing import NamedTuple

from broker.core.hours import NEW_YORK, session
from broker.core.types import Side, Symbol

BUSINESS_DAYS = 5
"""The days that count, of which today is the last."""

ORDERS_MAX = 1_000
"""Orders that a day remembers. A forgotten one's later fill may count as a new order: one day trade too many."""

_ONE_DAY = timedelta(1)


class Execution(NamedTuple):
    """One fill, as far as day trades go."""

    day: date  # the trade date
    symbol: Symbol
    side: Side
    order_id: Hashable


def trade_date(at: datetime) -> date:
    """The New York calendar day of a moment that carries a time zone."""
    assert at.tzinfo is not None, "a moment without a time zone is not a moment"
    return at.astimezone(NEW_YORK).date()


@lru_cache(maxsize=64)
def first_counted_day(today: date) -> date:
    """The first of the 5 NYSE business days that end today; where today is none, that end before it."""
    day, left = today, BUSINESS_DAYS
    while True:
        left -= session(day) is not None
        if not left:
            return day
        day -= _ONE_DAY


def count_day_trades(executions: Iterable[Execution], today: date) -> int:
    """The day trades of the 5 business days that end today, from all executions in their order."""
    trades = DayTrades()
    for day, symbol, side, order_id in executions:
        if day <= today:  # a later one would make it forget what counts today
            trades.note(day, symbol, side, order_id)
    return trades.count(today)


@dataclass(slots=True)
class _Day:
    """One trade date: its day trades so far, and what tells whether the next order makes one."""

    count: int = 0
    last: dict[Symbol, Side] = field(default_factory=dict)
    orders: dict[Hashable, None] = field(default_factory=dict)  # in the order of their first fills

    def note(self, symbol: Symbol, side: Side, order_id: Hashable) -> None:
        if order_id is not None:
            if order_id in self.orders:
                return
            self._remember(order_id)
        self.count += self.would_count(symbol, side)
        self.last[symbol] = side

    def would_count(self, symbol: Symbol, side: Side) -> bool:
        return side is Side.SELL and self.last.get(symbol) is Side.BUY

    def _remember(self, order_id: Hashable) -> None:
        self.orders[order_id] = None
        if len(self.orders) > ORDERS_MAX:
            del self.orders[next(iter(self.orders))]


@dataclass(slots=True)
class DayTrades:
    """The day trades of one account, fill by fill; it forgets the days that no longer count."""

    _days: dict[date, _Day] = field(default_factory=dict)

    def note(self, day: date, symbol: Symbol, side: Side, order_id: Hashable = None) -> None:
        """Take one fill, in the order of execution; without an order_id it counts as an order of its own.

        A fill of a day that no longer counts is passed over.
        """
        if day not in self._days and not self._make_room(day):
            return
        self._days[day].note(symbol, side, order_id)

    def count(self, today: date) -> int:
        """The day trades of the 5 business days that end today."""
        start = first_counted_day(today)
        return sum(each.count for day, each in self._days.items() if start <= day <= today)

    def would_be_day_trade(self, today: date, symbol: Symbol, side: Side) -> bool:
        """Whether a new order would make one more day trade if it filled now."""
        day = self._days.get(today)
        return day is not None and day.would_count(symbol, side)

    def _make_room(self, day: date) -> bool:
        """Open a day and forget those too old to count beside the newest; False if this one is too old itself."""
        start = first_counted_day(max(day, *self._days) if self._days else day)
        if day < start:
            return False
        self._days = {each: figures for each, figures in self._days.items() if each >= start}
        self._days[day] = _Day()
        return True
