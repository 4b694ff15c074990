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


class _Level:
    """The orders at one price, oldest first. Cancelled ones stay, empty, until they are reached or are too many."""

    __slots__ = ("dead", "orders", "quantity")

    def __init__(self) -> None:
        self.orders: deque[Order] = deque()
        self.quantity = 0
        self.dead = 0


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
            insort(self.keys, key)
        level.orders.append(order)
        level.quantity += order.leaves

    def take(self, order: Order, quantity: int) -> None:
        """Take quantity off a resting order; what becomes empty goes."""
        assert order.price is not None
        key = self.sign * order.price
        level = self.levels[key]
        order.leaves -= quantity
        level.quantity -= quantity
        if not level.quantity:
            self.drop(key)
        elif not order.leaves:
            level.dead += 1
            if level.dead > 16 and level.dead * 2 > len(level.orders):
                level.orders = deque(resting for resting in level.orders if resting.leaves)
                level.dead = 0

    def drop(self, key: int) -> None:
        del self.levels[key]
        if self.keys[-1] == key:
            self.keys.pop()
        else:
            del self.keys[bisect_left(self.keys, key)]


class OrderBook:
    """The resting and the stop orders of one symbol."""

    def __init__(self) -> None:
        self._halves = {Side.BUY: _Half(1), Side.SELL: _Half(-1)}
        # Stop orders, nearest last: buys by falling, sells by rising stop price; behind it, later ones first.
        self._stops: dict[Side, list[tuple[int, int, Order]]] = {Side.BUY: [], Side.SELL: []}
        self._orders: dict[str, Order] = {}
        self._ticket = 0
        self._last: Money | None = None

    # -------------------------------------------------------------- in

    def enter(self, order: Order) -> list[Event]:
        """A new order, and all that follows from it."""
        why = self._refusal(order)
        if why is not None:
            return [Rejected(order.order_id, why)]
        order.leaves = order.quantity
        events: list[Event] = [Accepted(order.order_id)]
        if order.stop_price is not None and not self._is_reached(order.side, order.stop_price):
            self._add_stop(order)
        else:
            if order.stop_price is not None:
                events.append(Triggered(order.order_id))
            self._run(order, events)
        return events

    def cancel(self, order_id: str) -> list[Event]:
        """Take an order out."""
        order = self._orders.get(order_id)
        if order is None:
            return [Rejected(order_id, Why.UNKNOWN)]
        leaves = order.leaves
        self._remove(order)
        return [Cancelled(order_id, leaves, Why.ASKED)]

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
            order.quantity = quantity
            if order.leaves != leaves:
                self._shrink(order, order.leaves - leaves)
            if new_id is not None:
                self._orders[new_id] = self._orders.pop(order_id)
                order.order_id = new_id
            return [Replaced(order_id, kept_place=True)]
        was_waiting = self._waits(order)
        self._remove(order)
        # A new object: the old one may still stand, empty, in the line that it left.
        order = replace(
            order, order_id=new_id or order_id, quantity=quantity, price=price, stop_price=stop_price, leaves=leaves
        )
        events: list[Event] = [Replaced(order_id, kept_place=False)]
        if was_waiting and stop_price is not None and not self._is_reached(order.side, stop_price):
            self._add_stop(order)
        else:
            if was_waiting:
                events.append(Triggered(order.order_id))
            self._run(order, events)
        return events

    def end_session(self) -> list[Event]:
        """Let every DAY order expire, oldest first."""
        expiring = [order for order in self._orders.values() if order.time_in_force is TimeInForce.DAY]
        events: list[Event] = [Expired(order.order_id, order.leaves) for order in expiring]
        for order in expiring:
            self._remove(order)
        return events

    # -------------------------------------------------------------- what is there

    def best(self, side: Side) -> tuple[Money, int] | None:
        """The best price of a side, with the quantity that rests there."""
        return next(self.depth(side), None)

    def depth(self, side: Side) -> Iterator[tuple[Money, int]]:
        """The prices of a side with what rests at each, best first."""
        half = self._halves[side]
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

    def _refusal(self, order: Order) -> Why | None:
        if order.order_id in self._orders:
            return Why.DUPLICATE
        if not _are_possible(order.quantity, order.price, order.stop_price) or order.filled:
            return Why.INVALID
        return None

    def _run(self, order: Order, events: list[Event]) -> None:
        """Trade and rest an order, then every stop that its trades trigger, and theirs."""
        triggered: deque[Order] = deque()
        while True:
            before = len(events)
            self._match(order, events)
            triggered.extend(self._triggered_by(events[before:]))
            if not triggered:
                return
            order = triggered.popleft()
            events.append(Triggered(order.order_id))

    def _match(self, order: Order, events: list[Event]) -> None:
        if order.time_in_force is TimeInForce.FOK and not self._fills_at_once(order):
            events.append(Cancelled(order.order_id, order.leaves, Why.ALL_OR_NOTHING))
            return
        half = self._halves[Side.SELL if order.side is Side.BUY else Side.BUY]
        worst = _worst_key(half, order.price)
        owner, order_id, keys, leaves = order.owner, order.order_id, half.keys, order.leaves
        while leaves and keys and keys[-1] >= worst:
            key = keys[-1]
            level = half.levels[key]
            queue = level.orders
            maker = queue[0]
            if not maker.leaves:
                queue.popleft()
                level.dead -= 1
                continue
            if maker.owner == owner:
                order.leaves = leaves
                events.append(Cancelled(order_id, leaves, Why.SELF_TRADE))
                return
            quantity = min(leaves, maker.leaves)
            leaves -= quantity
            order.filled += quantity
            maker.filled += quantity
            maker.leaves -= quantity
            level.quantity -= quantity
            price = maker.price
            assert price is not None
            self._last = price
            events.append(Traded(order_id, maker.order_id, quantity, price))
            if not maker.leaves:
                del self._orders[maker.order_id]
                queue.popleft()
                if not level.quantity:
                    half.drop(key)
        order.leaves = leaves
        if leaves:
            self._rest(order, events)

    def _rest(self, order: Order, events: list[Event]) -> None:
        if order.price is None:
            events.append(Cancelled(order.order_id, order.leaves, Why.NO_LIQUIDITY))
        elif order.time_in_force is TimeInForce.IOC:
            events.append(Cancelled(order.order_id, order.leaves, Why.IMMEDIATE))
        else:
            self._halves[order.side].add(order)
            self._orders[order.order_id] = order

    def _fills_at_once(self, order: Order) -> bool:
        """Whether all of it would trade now, before it met an order of its own owner."""
        half = self._halves[Side.SELL if order.side is Side.BUY else Side.BUY]
        worst, wanted = _worst_key(half, order.price), order.leaves
        for key in reversed(half.keys):
            if key < worst:
                return False
            for maker in half.levels[key].orders:
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
        insort(self._stops[order.side], (key, -self._ticket, order))
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
                del self._orders[order.order_id]
                yield order

    def _waits(self, order: Order) -> bool:
        """Whether it is a stop order that was not triggered yet."""
        return order.stop_price is not None and any(stop[2] is order for stop in self._stops[order.side])

    def _remove(self, order: Order) -> None:
        del self._orders[order.order_id]
        if self._waits(order):
            stops = self._stops[order.side]
            del stops[next(i for i, stop in enumerate(stops) if stop[2] is order)]
        else:
            self._halves[order.side].take(order, order.leaves)

    def _shrink(self, order: Order, quantity: int) -> None:
        if self._waits(order):
            order.leaves -= quantity
        else:
            self._halves[order.side].take(order, quantity)


def _worst_key(half: _Half, price: Money | None) -> float:
    """The last key at which an order with this limit trades with a half of the book."""
    return float("-inf") if price is None else half.sign * price


def _are_possible(quantity: int, price: Money | None, stop_price: Money | None) -> bool:
    return quantity > 0 and (price is None or price > 0) and (stop_price is None or stop_price > 0)
