"""The market maker: orders on both sides of a symbol's fair price, so that whoever comes can trade.

A few levels near the price take what comes every day, each farther and deeper than the one before. Behind them lies
one so deep that an ordinary market order always fills, and so near that it never fills far from the quote.
"""

from broker.core.matching import Event, Order, OrderBook
from broker.core.money import Money
from broker.core.types import Side, TimeInForce
from broker.simulator.market import CENT, Quote

MAKER = "market maker"

_LEVELS = ((0, 1), (1, 2), (2, 4), (4, 8), (8, 16))
"""Each with its distance from the best price, in steps, and its size, in that of the best level."""
_STEP_DIVISOR = 2_000
"""A step is 1/2000 of the price (5 basis points), and never less than a cent."""
_FAR_DIVISOR = 50
"""The last level lies 1/50 of the price away: well inside what a broker reserves above the ask."""
_FAR_SIZE = 10_000_000
_FAR_SLACK_DIVISOR = 200
"""... and stays where it is until that place is 1/200 of the price off: most moves leave it alone."""
_SLACK_DIVISOR = 4
"""So do the other levels, each until it is a quarter of its distance off; the best one has none."""


class _Place:
    """One order of the market maker's, which comes and goes at the price and size that are wanted."""

    __slots__ = ("order", "order_id", "price", "side", "size")

    def __init__(self, side: Side, level: int) -> None:
        self.order_id = f"{MAKER} {side} {level}"
        self.side = side
        self.order: Order | None = None
        self.price = 0
        self.size = 0

    @property
    def stands(self) -> bool:
        """Whether enough of the order is left: half of it will do."""
        return self.order is not None and self.order.leaves * 2 >= self.size

    def wants(self, price: int, size: int, slack: int) -> bool:
        """Note what is wanted; whether the order that stands is too far from it."""
        order = self.order
        is_near = order is not None and order.price is not None and abs(order.price - price) <= slack
        if order is not None and is_near and order.leaves * 2 >= size:
            return False
        self.price, self.size = price, size
        return True

    def leave(self, book: OrderBook) -> None:
        if self.order is not None and self.order.leaves:
            book.cancel(self.order_id)
        self.order = None

    def enter(self, book: OrderBook) -> list[Event]:
        if self.price <= 0:
            return []
        self.order = Order(self.order_id, MAKER, self.side, self.size, Money(self.price), time_in_force=TimeInForce.GTC)
        return book.enter(self.order)[1:]


class Maker:
    """The market maker in one book."""

    def __init__(self, book: OrderBook, fair: Quote, size: int) -> None:
        self._book = book
        self._fair = fair
        self._size = size
        # The farthest first: that is the order in which they enter, so that nothing which a new order triggers
        # finds an empty book.
        self._bids = _places(Side.BUY)
        self._asks = _places(Side.SELL)
        self._stand(self._bids, self._asks)

    def move(self, fair: Quote, size: int) -> list[Event]:
        """Quote around another price, with so many shares at the best level; what happened to others thereby."""
        rises = fair.bid >= self._fair.bid
        self._fair, self._size = fair, size
        # The side that moves away first: it trades with nobody, and is there when the other one does.
        return self._stand(self._asks, self._bids) if rises else self._stand(self._bids, self._asks)

    def refill(self) -> list[Event]:
        """Put back what was taken. Whoever takes begins with the best: where that stands, nothing is missing."""
        if self._bids[-1].stands and self._asks[-1].stands:
            return []
        return self._stand(self._asks, self._bids)

    def _stand(self, first: list[_Place], second: list[_Place]) -> list[Event]:
        changing = [place for side in (first, second) for place in self._changing(side)]
        for place in changing:
            place.leave(self._book)
        return [event for place in changing for event in place.enter(self._book)]

    def _changing(self, places: list[_Place]) -> list[_Place]:
        fair, last = self._fair, self._fair.last
        step = max(last // _STEP_DIVISOR // CENT, 1) * CENT
        far = max(last // _FAR_DIVISOR // CENT, 1) * CENT
        best, outward = (fair.bid, -1) if places is self._bids else (fair.ask, 1)
        slack = last // _FAR_SLACK_DIVISOR
        changing = [places[0]] if places[0].wants(best + outward * far, _FAR_SIZE, slack) else []
        for place, (steps, times) in zip(places[1:], reversed(_LEVELS), strict=True):
            away = min(steps * step, far)
            if place.wants(best + outward * away, times * self._size, away // _SLACK_DIVISOR):
                changing.append(place)
        return changing


def _places(side: Side) -> list[_Place]:
    """The last level first, the best one last."""
    return [_Place(side, level) for level in reversed(range(len(_LEVELS) + 1))]
