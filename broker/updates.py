"""Each step of a trade, once it is durable, for whoever waits for it."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from broker.core.messages import TradeEvent
from broker.core.types import TradeId


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
    """Hands out the steps of trades. There is a watch for each request that waits, so requests bound their number."""

    def __init__(self) -> None:
        self._watches: dict[TradeId, list[Watch]] = {}

    def publish(self, event: TradeEvent) -> None:
        """A step is durable."""
        for watch in self._watches.get(event.trade.trade_id, ()):
            watch.add(event)

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
                self._watches[trade_id].remove(watch)
                if not self._watches[trade_id]:
                    del self._watches[trade_id]
