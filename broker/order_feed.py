"""Follows customers' order updates: out of the database up to now, and from then on as they are committed.

What is committed here comes through the publisher, at once. What another process commits is found by asking. In either
case a reader goes by the sequence alone: what does not follow the last one it has, it reads from the database. So
nothing is lost where its memory is too small, an event was never published, or two processes take turns.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from weakref import WeakValueDictionary

import structlog

from broker.config import Config
from broker.core.messages import TradeEvent
from broker.core.types import CustomerId
from broker.db import DatabaseUnavailable
from broker.order_updates import OrderUpdates, encode_event
from broker.updates import Updates

log = structlog.get_logger()

_READS_AT_ONCE = 4
"""However many have to catch up, other readers find a connection. One of them is for those who are far behind."""
_PAUSE_S = 0.5
"""While the database is away."""

Numbered = tuple[int, bytes]
"""A message with its sequence."""


class BooksSetBack(Exception):
    """The database has lost what was heard of already, as after a fail-over: its numbers are given out again."""

    def __init__(self) -> None:
        super().__init__("The books were set back; ask for your orders, and connect again.")


class Turns:
    """Who may read the database now: nobody waits for those who are more than a page behind but others of them.

    Of those, one of each customer is in the queue: they wait for as many reads as there are customers, not streams.
    """

    def __init__(self, reads_at_once: int) -> None:
        self.near = asyncio.Semaphore(reads_at_once - 1)
        self._far_behind = asyncio.Semaphore(1)
        self._queueing: WeakValueDictionary[CustomerId, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def far_behind(self, customer_id: CustomerId) -> AsyncIterator[None]:
        """A turn of somebody who is more than a page behind."""
        own = self._queueing.setdefault(customer_id, asyncio.Lock())  # there while somebody has it or waits for it
        async with own, self._far_behind:
            yield


class Reader:
    """One client's place among its customer's updates: what follows comes in order, none twice, none left out."""

    def __init__(
        self,
        customer_id: CustomerId,
        order_updates: OrderUpdates,
        encode: Callable[[TradeEvent], bytes | None],
        turns: Turns,
        config: Config,
    ) -> None:
        self.customer_id = customer_id
        self.position = 0
        self._order_updates = order_updates
        self._encode = encode
        self._turns = turns
        self._queue_max = config.order_stream_queue_max
        self._page = config.order_stream_page
        self._queue: deque[Numbered] = deque()  # a run without gaps
        self._queues = True  # not once it was full, until what was forgotten is being read
        self.newest = 0  # that we have heard of
        self._is_set_back = False
        self._news = asyncio.Event()

    # -------------------------------------------------------------- in

    async def begin(self, since: int | None) -> int:
        """Take a place after `since`, or after the newest update; returns the newest. Raises DatabaseUnavailable."""
        newest = await self._order_updates.newest(self.customer_id)
        self.position = newest if since is None else since
        self.hear(newest)
        return newest

    def take(self, event: TradeEvent) -> None:
        """One more was committed here."""
        self.hear(event.seq)
        if not self._queues:
            return
        message = self._encode(event)
        if message is None or (self._queue and self._queue[-1][0] + 1 != event.seq):
            self._queue.clear()
        if message is None:
            return
        if len(self._queue) >= self._queue_max:
            self._queue.clear()
            self._queues = False
            return
        self._queue.append((event.seq, message))

    def hear(self, newest: int) -> None:
        """There is an update of this sequence, wherever it was committed."""
        if newest > self.newest:
            self.newest = newest
            self._news.set()

    def set_back(self) -> None:
        """What we have heard of is gone from the database: what follows our place may be anything."""
        self._is_set_back = True
        self._news.set()

    # -------------------------------------------------------------- out

    async def next(self, silence_s: float) -> Sequence[Numbered]:
        """What follows, as much as there is at once; nothing where there was silence for so long.

        While the database is away it waits. Raises BooksSetBack.
        """
        try:
            async with asyncio.timeout(silence_s):
                while self.newest <= self.position and not self._is_set_back:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            return ()
        batch: Sequence[Numbered] = ()
        while not batch:
            batch = self._queued() or await self._read()
            if self._is_set_back:
                raise BooksSetBack
            if not batch:
                await asyncio.sleep(_PAUSE_S)
        self.position = batch[-1][0]
        return batch

    def _queued(self) -> Sequence[Numbered]:
        while self._queue and self._queue[0][0] <= self.position:
            self._queue.popleft()
        if not self._queue or self._queue[0][0] != self.position + 1:
            return ()
        batch = [*self._queue]
        self._queue.clear()
        return batch

    async def _read(self) -> Sequence[Numbered]:
        self._queues = True  # from here on; what comes meanwhile follows this page, or the next one
        try:
            is_far_behind = self.newest - self.position > self._page
            async with self._turns.far_behind(self.customer_id) if is_far_behind else self._turns.near:
                return await self._order_updates.read(self.customer_id, self.position, self._page)
        except DatabaseUnavailable:
            return ()


class OrderFeed:
    """All readers of this process."""

    def __init__(
        self,
        order_updates: OrderUpdates,
        updates: Updates,
        config: Config,
        encode: Callable[[TradeEvent], bytes | None] = encode_event,
        reads_at_once: int = _READS_AT_ONCE,
    ) -> None:
        self._encode = encode
        self._order_updates = order_updates
        self._updates = updates
        self._config = config
        self._readers: set[Reader] = set()
        self._turns = Turns(reads_at_once)
        self._last: tuple[TradeEvent, bytes | None] | None = None

    @contextmanager
    def follow(self, customer_id: CustomerId) -> Iterator[Reader]:
        """A reader, which hears what is new for as long as the block lasts."""
        reader = Reader(customer_id, self._order_updates, self._encoded, self._turns, self._config)
        self._readers.add(reader)
        try:
            with self._updates.follow(customer_id, reader.take):
                yield reader
        finally:
            self._readers.discard(reader)

    def _encoded(self, event: TradeEvent) -> bytes | None:
        """All readers of a customer are told one after another: it is encoded once for all of them."""
        if self._last is None or self._last[0] is not event:
            self._last = event, self._encode(event)
        return self._last[1]

    async def check(self) -> None:
        """Tell every reader of what another process may have committed, or a fail-over lost.

        Raises DatabaseUnavailable and RefusedByDatabase.
        """
        customer_ids = {reader.customer_id for reader in self._readers}
        if not customer_ids:
            return
        heard = {reader: reader.newest for reader in self._readers}  # what was heard of by now, the answer has as well
        newest = await self._order_updates.newest_of(sorted(customer_ids))
        for reader, before in heard.items():
            now = newest.get(reader.customer_id, 0)
            if now < before:
                log.warning("order_stream.set_back", customer_id=reader.customer_id, heard=before, newest=now)
                reader.set_back()
        for reader in self._readers:
            reader.hear(newest.get(reader.customer_id, 0))  # 0: of one who came while we asked
