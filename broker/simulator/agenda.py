"""What is due later, on one timer of the event loop instead of one for each item."""

import asyncio
import heapq
from collections.abc import Callable
from itertools import count
from typing import Generic, TypeVar

T = TypeVar("T")


class Agenda(Generic[T]):
    """Hands each item to `act` when its time has come, together with whatever else is due by then."""

    def __init__(self, act: Callable[[list[T]], None]) -> None:
        self._act = act
        self._loop = asyncio.get_running_loop()
        self._heap: list[tuple[float, int, T]] = []
        self._order = count()  # what is due at the same time keeps its order, and items are never compared
        self._timer: asyncio.Handle | None = None
        self._fires_at = 0.0  # kept here: a handle of uvloop cannot always tell

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, delay_s: float, item: T) -> None:
        """Put an item down for `delay_s` seconds from now."""
        heapq.heappush(self._heap, (self._loop.time() + delay_s, next(self._order), item))
        if self._timer is None or self._heap[0][0] < self._fires_at:
            self._arm()

    def close(self) -> None:
        """Forget everything: nothing is handed out any more."""
        self._heap.clear()
        self._arm()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._heap:
            self._fires_at = self._heap[0][0]
            self._timer = self._loop.call_at(self._fires_at, self._fire)

    def _fire(self) -> None:
        now = self._loop.time()
        due: list[T] = []
        while self._heap and self._heap[0][0] <= now:
            due.append(heapq.heappop(self._heap)[2])
        self._timer = None
        self._arm()
        if due:
            self._act(due)
