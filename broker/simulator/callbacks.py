"""Brings events to the brokers that they belong to: at least once, and while a broker is away for as long as it takes.

Each callback URL has a queue of its own, so a broker that does not answer never delays another. What is kept is
bounded: where too much waits for a URL, `has_room` says so and no more orders are taken for it.
"""

import asyncio
from collections.abc import Callable, Sequence
from itertools import groupby
from operator import attrgetter

from broker.simulator.agenda import Agenda
from broker.simulator.delivery import DeliveryLimits, Outlet, Poster
from broker.simulator.faults import Faults
from broker.simulator.journal import Callback

_URL = attrgetter("url")


class Callbacks:
    """Every event that has to reach a broker, until it is acknowledged. Made and used inside one event loop."""

    def __init__(
        self,
        secret: bytes,
        faults: Faults,
        limits: DeliveryLimits,
        acknowledged: Callable[[Sequence[Callback]], None],
    ) -> None:
        self._faults = faults
        self._limits = limits
        self._acknowledged = acknowledged
        self._poster = Poster(secret, limits)
        self._held = Agenda[Callback](self._release)
        self._tasks: set[asyncio.Task[None]] = set()
        self._outlets: dict[str, Outlet] = {}
        self._waiting: dict[str, int] = {}

    def waiting(self, url: str) -> int:
        """How many events of this URL are not acknowledged yet."""
        return self._waiting.get(url, 0)

    def has_room(self, url: str, events: int) -> bool:
        """Whether so many more events may wait for this URL."""
        if url not in self._waiting and len(self._waiting) >= self._limits.urls_max:
            return False
        return self.waiting(url) + events <= self._limits.waiting_max

    def overfull(self) -> list[str]:
        """The URLs for which more waits than may: what rests in a book goes on trading."""
        return [url for url, waiting in self._waiting.items() if waiting > self._limits.waiting_max]

    def push(self, callbacks: Sequence[Callback]) -> None:
        """Deliver these, beginning in the next turn of the event loop."""
        self._send(self._enter(callbacks))

    async def deliver_first(self, callbacks: Sequence[Callback]) -> None:
        """Try once to deliver these now; what that does not achieve goes the usual way."""
        for url, group in groupby(self._enter(callbacks), key=_URL):
            batch = list(group)
            if await self._poster.post(url, batch) is None:
                self._leave(batch)
            else:
                self._send(batch)

    async def close(self) -> None:
        """End all senders. What is not acknowledged by now is for the journal to remember."""
        self._held.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._poster.close()

    def _enter(self, callbacks: Sequence[Callback]) -> list[Callback]:
        """Count what waits from now on; an event that is to be lost leaves at once, as if it had been delivered."""
        for url, group in groupby(callbacks, key=_URL):
            self._waiting[url] = self.waiting(url) + sum(1 for _ in group)
        kept: list[Callback] = []
        lost: list[Callback] = []
        for callback in callbacks:
            (lost if self._faults.loses() else kept).append(callback)
        self._leave(lost)
        return kept

    def _leave(self, callbacks: Sequence[Callback]) -> None:
        for url, group in groupby(callbacks, key=_URL):
            self._waiting[url] -= sum(1 for _ in group)
            if not self._waiting[url]:
                del self._waiting[url]
                self._outlets.pop(url, None)
        if callbacks:
            self._acknowledged(callbacks)

    def _send(self, callbacks: Sequence[Callback]) -> None:
        at_once = []
        for callback in callbacks:
            hold_s = self._faults.hold_s()
            if hold_s:
                self._held.add(hold_s, callback)
            else:
                at_once.append(callback)
        self._release(at_once)

    def _release(self, callbacks: Sequence[Callback]) -> None:
        for url, group in groupby(callbacks, key=_URL):
            self._outlet(url).push(group)

    def _outlet(self, url: str) -> Outlet:
        if url not in self._outlets:
            self._outlets[url] = Outlet(url, self._poster, self._faults, self._limits, self._leave, self._tasks)
        return self._outlets[url]
