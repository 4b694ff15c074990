"""Each step of a trade, once it is durable, for whoever waits for it."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from broker.core.messages import TradeEvent
from broker.core.types import CustomerId, TradeId

Key = TypeVar("Key")
Listener = TypeVar("Listener")


class Watch:
    """The steps of some trades since the watch began."""

    def __init__(self) -> None:
        self.events: list[TradeEvent] = []
        self._news = asyncio.Event()

    def add(self, event: TradeEvent) -> None:
        """One more step."""
        self.events.append(event)
        self._news.set()

    async def until(self, is_enough: Callable[[list[TradeEvent]], bool], seconds: float) -> bool:
        """Wait for steps that are enough; False where they did not come in time."""
        try:
            async with asyncio.timeout(seconds):
                while not is_enough(self.events):
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            return False
        return True


class Updates:
    """Hands out the steps of trades: to whoever watches some trades, and to whoever follows all of a customer.

    There is a watch for each request that waits and a follower for each open stream, so these bound their number.
    """

    def __init__(self) -> None:
        self._watches: dict[TradeId, list[Watch]] = {}
        self._followers: dict[CustomerId, list[Callable[[TradeEvent], None]]] = {}

    def publish(self, event: TradeEvent) -> None:
        """A step is durable. Every step of every trade comes through here."""
        trade = event.trade
        watches = self._watches.get(trade.trade_id)
        if watches is not None:
            for watch in watches:
                watch.add(event)
        followers = self._followers.get(trade.customer_id)
        if followers is not None:
            for follower in followers:
                follower(event)

    @contextmanager
    def watch(self, *trade_ids: TradeId) -> Iterator[Watch]:
        """Follow these trades as long as the block lasts; one that does not exist yet as well."""
        watch = Watch()
        for trade_id in trade_ids:
            self._watches.setdefault(trade_id, []).append(watch)
        try:
            yield watch
        finally:
            for trade_id in trade_ids:
                _remove(self._watches, trade_id, watch)

    @contextmanager
    def follow(self, customer_id: CustomerId, take: Callable[[TradeEvent], None]) -> Iterator[None]:
        """Call `take` with each step of the customer's trades, in the order of commits, as long as the block lasts.

        It is called by the shard between two batches: it must be quick, and may not fail.
        """
        self._followers.setdefault(customer_id, []).append(take)
        try:
            yield
        finally:
            _remove(self._followers, customer_id, take)


def _remove(listeners: dict[Key, list[Listener]], key: Key, one: Listener) -> None:
    listeners[key].remove(one)
    if not listeners[key]:
        del listeners[key]
