"""What is held here wakes up: stop losses and trailing stops by the market's prices, others by the clock.

Every price that the feed tells passes through `saw`, so no price between two looks is missed; once a second all are
looked at again, so a word that was lost on the way to a shard costs a second. Nothing is decided here: a `Wake` goes to
the customer's shard, and where the core finds that nothing has come, nothing happens.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import structlog

from broker.batch import Overloaded
from broker.core import trailing
from broker.core.conditions import Conditions
from broker.core.groups import needs_no_price
from broker.core.messages import Wake
from broker.core.money import Money
from broker.core.types import CustomerId, OrderType, Side, Symbol, TimeInForce, Trade, TradeId
from broker.db import Database, DatabaseUnavailable, RefusedByDatabase

log = structlog.get_logger()

_LOOK_S = 1.0
"""How often all of them are looked at, and the marks of trailing stops are saved: what a crash may cost one."""
_QUIET_S = 0.9
"""Who was told to wake up is left alone for so long: its shard is at work."""


_ENDED_MAX = 1_000
"""Marks of trailing stops that ended lately: what replaces one, a moment later, goes on from there."""


@dataclass(slots=True, eq=False)
class _Held:
    trade: Trade
    water: Money | None = None  # of a trailing stop: the best price since it began
    is_loaded: bool = False  # the mark that was saved before a start is in it
    is_saved: bool = True
    reached: Wake | None = None  # its price was seen: told until its shard has answered
    quiet_until: float = 0.0  # it was told a moment ago


class Triggers:
    """The orders that are held here and wait for a price, the opening, the end of their day, or to be allowed out.

    Bounded by `open_trades_max`: each of them is an open order.
    """

    def __init__(
        self,
        wake: Callable[[CustomerId, Wake], asyncio.Future[Any]],
        last: Callable[[Symbol], Money | None],
        conditions: Callable[[], Conditions],
        database: Database,
    ) -> None:
        self._wake = wake
        self._last = last
        self._conditions = conditions
        self._database = database
        self._held: dict[TradeId, _Held] = {}
        self._ended: dict[TradeId, Money] = {}
        self.symbols: dict[Symbol, dict[TradeId, _Held]] = {}
        """Those that wait for a price, by symbol: whoever hears prices asks here whether anybody waits for one."""

    # -------------------------------------------------------------- what the shards say

    def hold(self, trade: Trade) -> None:
        """Watch for this order; it may be known already."""
        held = self._held.get(trade.trade_id)
        if held is None:
            held = self._held[trade.trade_id] = _Held(trade)
            if trade.replaces in self._ended:
                held.water, held.is_saved = self._ended[trade.replaces], False
        held.trade = trade
        if trade.order_type is OrderType.MARKET or needs_no_price(trade):
            return
        self.symbols.setdefault(trade.symbol, {})[trade.trade_id] = held
        price = self._last(trade.symbol)
        if price is not None:
            self._look(held, price)

    def done(self, trade_id: TradeId) -> None:
        """It has ended, or gone to the exchange."""
        held = self._held.pop(trade_id, None)
        if held is None:
            return
        of_symbol = self.symbols.get(held.trade.symbol, {})
        of_symbol.pop(trade_id, None)
        if not of_symbol:
            self.symbols.pop(held.trade.symbol, None)
        if held.water is not None:
            self._ended[trade_id] = held.water
            if len(self._ended) > _ENDED_MAX:
                del self._ended[next(iter(self._ended))]

    # -------------------------------------------------------------- what the market says

    def saw(self, symbol: Symbol, price: Money) -> None:
        """Somebody traded at this price."""
        for held in [*self.symbols.get(symbol, {}).values()]:
            self._look(held, price)

    def _look(self, held: _Held, price: Money) -> None:
        """A price of the session: what is traded outside of it triggers nothing, and moves no trailing stop."""
        if not self._conditions().is_open:
            return
        trade = held.trade
        stop = trade.stop_price
        if trade.order_type is OrderType.TRAILING_STOP:
            water = trailing.better(trade.side, held.water, price)
            if water != held.water:
                held.water, held.is_saved = water, False
            stop = trailing.stop_price(trade, water)
        if stop is not None and trailing.is_reached(trade.side, stop, price):
            held.reached = Wake(trade.customer_id, trade.trade_id, price, stop)
            self._tell(held, held.reached)

    def _tell(self, held: _Held, wake: Wake) -> None:
        now = asyncio.get_running_loop().time()
        if now < held.quiet_until:
            return
        held.quiet_until = now + _QUIET_S
        try:
            answer = self._wake(wake.customer_id, wake)
        except Overloaded:  # its shard is busy: the next look says it again
            return
        answer.add_done_callback(partial(self._answered, held, wake))

    def _answered(self, held: _Held, wake: Wake, answer: asyncio.Future[Any]) -> None:
        """It was looked at, and what there was to do is done. With no answer it is told again."""
        if answer.cancelled() or answer.exception() is not None:
            return
        if held.reached is wake:
            held.reached = None
        if answer.result() is False:  # another process may have ended it, or sent it
            self.done(wake.trade_id)

    # -------------------------------------------------------------- what the clock says

    async def run(self) -> None:
        """Look at all of them once a second, for ever."""
        while True:
            await asyncio.sleep(_LOOK_S)
            await self.look()

    async def look(self) -> None:
        """Look at all of them now."""
        try:
            await self._load()
            await self._save()
        except (DatabaseUnavailable, RefusedByDatabase) as error:
            log.warning("trails.not_saved", error=str(error))
        conditions = self._conditions()
        for held in [*self._held.values()]:
            trade = held.trade
            if held.reached is not None:
                self._tell(held, held.reached)
            elif needs_no_price(trade) or _is_due(trade, conditions):
                self._tell(held, Wake(trade.customer_id, trade.trade_id))
            elif trade.order_type is not OrderType.MARKET:
                price = self._last(trade.symbol)
                if price is not None:
                    self._look(held, price)

    def _trails(self) -> list[_Held]:
        return [each for each in self._held.values() if each.trade.order_type is OrderType.TRAILING_STOP]

    async def _load(self) -> None:
        """What a broker before this one had seen, of the order or of the one in whose place it stands."""
        unread = [each for each in self._trails() if not each.is_loaded]
        if not unread:
            return
        ids = [each.trade.trade_id for each in unread]
        ids += [each.trade.replaces for each in unread if each.trade.replaces is not None]
        marks = {row["trade_id"]: Money(row["high_water"]) for row in await self._database.fetch("trails", ids)}
        for held in unread:
            held.is_loaded = True
            for mark in (marks.get(held.trade.trade_id), marks.get(held.trade.replaces or held.trade.trade_id)):
                if mark is not None:
                    held.water = trailing.better(held.trade.side, held.water, mark)

    async def _save(self) -> None:
        """Only marks that are loaded: an older one in the database may be better than what was seen since."""
        changed = [
            (each, each.water)
            for each in self._trails()
            if each.is_loaded and not each.is_saved and each.water is not None
        ]
        if not changed:
            return
        columns = zip(
            *((each.trade.trade_id, water, each.trade.side is Side.SELL) for each, water in changed), strict=True
        )
        await self._database.fetch("save_trails", *map(list, columns))
        for held, water in changed:
            held.is_saved = held.water == water


def _is_due(trade: Trade, conditions: Conditions) -> bool:
    """Whether the market has opened for it, or its day is over."""
    if trade.order_type is OrderType.MARKET and conditions.is_open:
        return True
    if trade.is_exit_on_hold or trade.time_in_force is not TimeInForce.DAY:
        return False
    return conditions.policy.session_end(trade.created_at) <= conditions.now
