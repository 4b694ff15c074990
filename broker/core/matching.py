"""A price-time-priority order book for one symbol: orders in, events out, integers only.

The book knows no account, clock or socket. What happens is told as a list of events, in order; the caller keeps it.
The rules, which are the usual ones of US exchanges:

* The best price trades first; at one price, who came first. A trade happens at the price of the resting order.
* A market order trades with what is there, and what is left of it is cancelled. IOC likewise, within its limit. FOK
  trades in full at once or not at all.
* A stop order waits until a trade happens at its stop price or beyond, then enters as a market or limit order, after
  all that were triggered before it. Of several that one order triggers, buys go first, then the nearer stop, then the
  older one.
* A replacement that only takes quantity away keeps its place; every other one goes to the end of the line.
* Nobody trades with himself: an order that meets a resting one of its own owner is cancelled there, what it traded
  before stays.
"""

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import NamedTuple

from broker.core.money import Money
from broker.core.types import Side, TimeInForce


class Why(StrEnum):
    """Why an order was cancelled or not taken."""

    ASKED = "asked"
    NO_LIQUIDITY = "no liquidity"  # a market order found nothing more to trade with
    IMMEDIATE = "immediate or cancel"
    ALL_OR_NOTHING = "fill or kill"
    SELF_TRADE = "self trade"
    DUPLICATE = "duplicate order id"
    UNKNOWN = "unknown order id"
    INVALID = "invalid order"


@dataclass(slots=True, eq=False)
class Order:
    """An order as it enters and, while it is in the book, as it stands there. No price: a market order."""

    order_id: str
    owner: str
    side: Side
    quantity: int
    price: Money | None = None
    stop_price: Money | None = None
    time_in_force: TimeInForce = TimeInForce.DAY
    filled: int = 0
    leaves: int = -1  # what may still trade; set when it enters


class Accepted(NamedTuple):
    """The order is in, to trade or to rest."""

    order_id: str


class Rejected(NamedTuple):
    """The order, cancel or replacement was not taken, and nothing changed."""

    order_id: str
    why: Why


class Traded(NamedTuple):
    """Shares changed hands at the resting order's price."""

    taker_id: str
    maker_id: str
    quantity: int
    price: Money


class Cancelled(NamedTuple):
    """What was left of the order is out."""

    order_id: str
    quantity: int
    why: Why


class Expired(NamedTuple):
    """The session ended, and what was left of the order with it."""

    order_id: str
    quantity: int


class Triggered(NamedTuple):
    """A stop order became an ordinary one."""

    order_id: str


class Replaced(NamedTuple):
    """The order has a new quantity or price; `kept_place` tells whether it stayed in line."""

    order_id: str
    kept_place: bool


Event = Accepted | Rejected | Traded | Cancelled | Expired | Triggered | Replaced

# For what happens with every order: to look a member up in its enum, or to call the class of an event, takes longer
# than the work in the book.
_BUY, _IOC, _FOK, _ASKED = Side.BUY, TimeInForce.IOC, TimeInForce.FOK, Why.ASKED
_event = tuple.__new__
_NO_LIMIT = float("-inf")  # before every price, whatever the side


class _Level(deque[Order]):
    """The orders at one price, oldest first. Cancelled ones stay, empty, until they are reached or are too many."""

    __slots__ = ("dead", "quantity")
    dead: int
    quantity: int


class _Half:
    """One side of the book. Prices are kept as keys that grow towards the best: the price for bids, its negative for
    asks, so that one piece of code serves both and the best is the last of a sorted list."""

    __slots__ = ("keys", "levels", "sign")

    def __init__(self, sign: int) -> None:
        self.sign = sign
        self.keys: list[int] = []
        self.levels: dict[int, _Level] = {}

    def add(self, order: Order) -> None:
        assert order.price is not None
        key = self.sign * order.price
        level = self.levels.get(key)
        if level is None:
            level = self.levels[key] = _Level()
            level.quantity = level.dead = 0
            insort(self.keys, key)
        level.append(order)
        level.quantity += order.leaves

    def remove(self, order: Order) -> None:
        assert order.price is not None
        key = self.sign * order.price
        level = self.levels[key]
        level.quantity -= order.leaves
        order.leaves = 0
        if not level.quantity:
            del self.levels[key]
            del self.keys[bisect_left(self.keys, key)]
            return
        level.dead += 1
        if level.dead > 16 and level.dead * 2 > len(level):
            live = [resting for resting in level if resting.leaves]
            level.clear()
            level.extend(live)
            level.dead = 0


_Stop = tuple[int, int, Order]
"""A stop order behind its place in line: the key of its stop price, and a ticket that no other has."""


class OrderBook:
    """The resting and the stop orders of one symbol."""

    def __init__(self) -> None:
        self._bids, self._asks = _Half(1), _Half(-1)
        # Stop orders, nearest last: buys by falling, sells by rising stop price; behind it, later ones first.
        self._stops: dict[Side, list[_Stop]] = {Side.BUY: [], Side.SELL: []}
        self._waiting: dict[str, _Stop] = {}  # the same, by order id
        self._orders: dict[str, Order] = {}
        self._ticket = 0
        self._last: Money | None = None

    # -------------------------------------------------------------- in

    def enter(self, order: Order) -> list[Event]:
        """A new order, and all that follows from it."""
        order_id, stop_price = order.order_id, order.stop_price
        if order_id in self._orders:
            return [Rejected(order_id, Why.DUPLICATE)]
        if order.filled or not _are_possible(order.quantity, order.price, stop_price):
            return [Rejected(order_id, Why.INVALID)]
        order.leaves = order.quantity
        events: list[Event] = [_event(Accepted, (order_id,))]
        if stop_price is not None:
            if not self._is_reached(order.side, stop_price):
                self._add_stop(order)
                return events
            events.append(Triggered(order_id))
        if self._waiting:
            self._run(order, events)
        else:
            self._match(order, events)  # as there is nothing that it may trigger
        return events

    def cancel(self, order_id: str) -> list[Event]:
        """Take an order out."""
        order = self._orders.pop(order_id, None)
        if order is None:
            return [Rejected(order_id, Why.UNKNOWN)]
        leaves = order.leaves
        self._leave(order)
        return [_event(Cancelled, (order_id, leaves, _ASKED))]

    def replace(
        self,
        order_id: str,
        quantity: int,
        price: Money | None = None,
        stop_price: Money | None = None,
        new_id: str | None = None,
    ) -> list[Event]:
        """Give an order a new total quantity (what is filled counts), price and stop price; None keeps the old one.

        `new_id` is what the order is called from then on, as where an exchange makes a new order of it; the first event
        still names the old one.
        """
        order = self._orders.get(order_id)
        if order is None:
            return [Rejected(order_id, Why.UNKNOWN)]
        if new_id is not None and new_id in self._orders:
            return [Rejected(order_id, Why.DUPLICATE)]
        price = order.price if price is None else price
        stop_price = order.stop_price if stop_price is None else stop_price
        leaves = quantity - order.filled
        if leaves <= 0 or not _are_possible(quantity, price, stop_price):
            return [Rejected(order_id, Why.INVALID)]
        if (price, stop_price) == (order.price, order.stop_price) and quantity <= order.quantity:
            self._shrink(order, quantity)
            if new_id is not None:
                self._rename(order, new_id)
            return [Replaced(order_id, kept_place=True)]
        was_waiting = order_id in self._waiting
        del self._orders[order_id]
        self._leave(order)
        # A new object: the old one may still stand, empty, in the line that it left.
        name = order_id if new_id is None else new_id
        order = replace(order, order_id=name, quantity=quantity, price=price, stop_price=stop_price, leaves=leaves)
        events: list[Event] = [Replaced(order_id, kept_place=False)]
        if was_waiting and stop_price is not None and not self._is_reached(order.side, stop_price):
            self._add_stop(order)
        else:
            if was_waiting:
                events.append(Triggered(order.order_id))
            self._run(order, events)
        return events

    def end_session(self) -> list[Event]:
        """Let every DAY order expire, oldest first; one that has a new name counts as new."""
        expiring = [order for order in self._orders.values() if order.time_in_force is TimeInForce.DAY]
        events: list[Event] = [Expired(order.order_id, order.leaves) for order in expiring]
        for order in expiring:
            del self._orders[order.order_id]
            self._leave(order)
        return events

    # -------------------------------------------------------------- what is there

    def best(self, side: Side) -> tuple[Money, int] | None:
        """The best price of a side, with the quantity that rests there."""
        return next(self.depth(side), None)

    def depth(self, side: Side) -> Iterator[tuple[Money, int]]:
        """The prices of a side with what rests at each, best first."""
        half = self._bids if side is _BUY else self._asks
        for key in reversed(half.keys):
            yield Money(half.sign * key), half.levels[key].quantity

    @property
    def open_orders(self) -> list[str]:
        """The ids of all orders that are in: resting, or stops that wait."""
        return list(self._orders)

    @property
    def last(self) -> Money | None:
        """The price of the last trade."""
        return self._last

    # -------------------------------------------------------------- trading

    def _run(self, order: Order, events: list[Event]) -> None:
        """Trade and rest an order, then every stop that its trades trigger, and theirs."""
        triggered = deque([order])
        while triggered:
            seen = len(events)
            self._match(triggered.popleft(), events)
            triggered.extend(self._triggered_by(events[seen:]))
            if triggered:
                events.append(Triggered(triggered[0].order_id))

    def _match(self, order: Order, events: list[Event]) -> None:
        """Trade an order with those who face it, and rest what is left."""
        if order.time_in_force is _FOK and not self._fills_at_once(order):
            events.append(Cancelled(order.order_id, order.leaves, Why.ALL_OR_NOTHING))
            return
        own, facing = self._bids, self._asks
        if order.side is not _BUY:
            own, facing = facing, own
        keys, price = facing.keys, order.price
        worst = _NO_LIMIT if price is None else facing.sign * price
        while keys and keys[-1] >= worst:
            if not self._trade(order, facing, events):
                return
        if price is None:
            events.append(Cancelled(order.order_id, order.leaves, Why.NO_LIQUIDITY))
        elif order.time_in_force is _IOC:
            events.append(Cancelled(order.order_id, order.leaves, Why.IMMEDIATE))
        else:
            own.add(order)
            self._orders[order.order_id] = order

    def _trade(self, order: Order, facing: _Half, events: list[Event]) -> bool:
        """Trade an order with the best level that faces it. True if that was not enough, and nothing is in its way."""
        level, orders = facing.levels[facing.keys[-1]], self._orders
        order_id, owner, leaves = order.order_id, order.owner, order.leaves
        while leaves and level:
            maker = level[0]
            there = maker.leaves
            if not there:
                level.popleft()
                level.dead -= 1
                continue
            if maker.owner == owner:
                events.append(Cancelled(order_id, leaves, Why.SELF_TRADE))
                break
            maker_id = maker.order_id
            if there <= leaves:
                quantity = there
                level.popleft()
                del orders[maker_id]
            else:
                quantity = leaves
            leaves -= quantity
            maker.leaves = there - quantity
            maker.filled += quantity
            events.append(_event(Traded, (order_id, maker_id, quantity, maker.price)))
            self._last = maker.price
        quantity = order.leaves - leaves
        order.filled += quantity
        order.leaves = leaves
        level.quantity -= quantity
        if not level.quantity:
            del facing.levels[facing.keys.pop()]
        return leaves > 0 and not level

    def _fills_at_once(self, order: Order) -> bool:
        """Whether all of it would trade now, before it met an order of its own owner."""
        half = self._asks if order.side is _BUY else self._bids
        price, wanted = order.price, order.leaves
        worst = _NO_LIMIT if price is None else half.sign * price
        for key in reversed(half.keys):
            if key < worst:
                return False
            for maker in half.levels[key]:
                if maker.leaves and maker.owner == order.owner:
                    return False
                wanted -= maker.leaves
                if wanted <= 0:
                    return True
        return False

    # -------------------------------------------------------------- stops and places

    def _is_reached(self, side: Side, stop_price: Money) -> bool:
        if self._last is None:
            return False
        return self._last >= stop_price if side is Side.BUY else self._last <= stop_price

    def _add_stop(self, order: Order) -> None:
        assert order.stop_price is not None
        self._ticket += 1
        key = -order.stop_price if order.side is Side.BUY else order.stop_price
        stop = (key, -self._ticket, order)
        insort(self._stops[order.side], stop)
        self._waiting[order.order_id] = stop
        self._orders[order.order_id] = order

    def _triggered_by(self, events: list[Event]) -> Iterator[Order]:
        """The stop orders that these trades trigger, taken out, in the order in which they enter."""
        prices = [event.price for event in events if isinstance(event, Traded)]
        if not prices:
            return
        for side, reached in ((Side.BUY, -max(prices)), (Side.SELL, min(prices))):
            stops = self._stops[side]
            while stops and stops[-1][0] >= reached:
                order = stops.pop()[2]
                del self._orders[order.order_id], self._waiting[order.order_id]
                yield order

    def _leave(self, order: Order) -> None:
        """Take an order out of the line in which it stands."""
        if order.stop_price is not None and order.order_id in self._waiting:
            stops = self._stops[order.side]
            del stops[bisect_left(stops, self._waiting.pop(order.order_id))]
        else:
            (self._bids if order.side is _BUY else self._asks).remove(order)

    def _shrink(self, order: Order, quantity: int) -> None:
        """Take a total quantity that is not larger."""
        fewer = order.quantity - quantity
        order.quantity = quantity
        order.leaves -= fewer
        if order.order_id not in self._waiting:
            assert order.price is not None
            half = self._bids if order.side is _BUY else self._asks
            half.levels[half.sign * order.price].quantity -= fewer

    def _rename(self, order: Order, new_id: str) -> None:
        self._orders[new_id] = self._orders.pop(order.order_id)
        if order.order_id in self._waiting:
            self._waiting[new_id] = self._waiting.pop(order.order_id)
        order.order_id = new_id


def _are_possible(quantity: int, price: Money | None, stop_price: Money | None) -> bool:
    return quantity > 0 and (price is None or price > 0) and (stop_price is None or stop_price > 0)
