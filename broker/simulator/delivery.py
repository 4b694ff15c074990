"""One callback URL: what waits for it, and the posts that bring it there."""

import asyncio
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import count

import aiohttp
import structlog

from broker.core.signing import HEADER_ID, HEADER_SIGNATURE, HEADER_TIMESTAMP, sign
from broker.simulator.faults import Faults
from broker.simulator.journal import Callback

log = structlog.get_logger(__name__)

_TRIES_ALONE = 8
"""After so many tries in vain (about 7 seconds) a single event lets the others go first."""


@dataclass(frozen=True, slots=True)
class DeliveryLimits:
    """How hard the exchange tries to deliver, and how much it keeps."""

    events_per_message_max: int = 256
    """Events in one message, at most the contract's 256."""

    in_flight_max: int = 4
    """Messages to one URL at the same time."""

    waiting_max: int = 100_000
    """Events that may wait for one URL; beyond this no more orders are taken for it."""

    urls_max: int = 1_000
    """URLs for which something may wait."""

    timeout_s: float = 5.0
    """Seconds for one message, from its connection to the answer."""

    retry_first_ms: int = 50
    """Milliseconds before the second try, plus or minus half; twice as long before each one after it."""

    retry_last_ms: int = 2_000
    """Milliseconds beyond which that pause does not grow."""

    def pause_s(self, tries: int) -> float:
        """Seconds to wait after so many tries in vain."""
        return min(self.retry_first_ms << min(tries - 1, 16), self.retry_last_ms) / 1000


class Poster:
    """Signs messages and posts them, for all URLs: one session."""

    def __init__(self, secret: bytes, limits: DeliveryLimits) -> None:
        self._secret = secret
        self._ids = count(1)
        self._run = secrets.token_hex(8)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),  # each URL has its own limit; one dead host must not take all
            timeout=aiohttp.ClientTimeout(total=limits.timeout_s),
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def post(self, url: str, batch: Sequence[Callback]) -> str | None:
        """Try once to deliver a message; what went wrong, or None."""
        body = batch[0].body if len(batch) == 1 else b"[%s]" % b",".join([callback.body for callback in batch])
        try:
            async with self._session.post(
                url, data=body, headers=self._headers(body), allow_redirects=False
            ) as response:
                return None if 200 <= response.status < 300 else f"answered {response.status}"
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            return f"{type(error).__name__}: {error}"

    async def close(self) -> None:
        await self._session.close()

    def _headers(self, body: bytes) -> dict[str, str]:
        """Fresh at each try, and by the real clock: receivers check how old a message is."""
        message_id = f"msg_{self._run}_{next(self._ids)}"
        timestamp = int(time.time())
        return {
            "Content-Type": "application/json",
            HEADER_ID: message_id,
            HEADER_TIMESTAMP: str(timestamp),
            HEADER_SIGNATURE: sign(self._secret, message_id, timestamp, body),
        }


class Outlet:
    """The queue of one URL and its senders, which exist only while something waits.

    A message that was not taken is tried again in halves, so that an event which its broker cannot digest ends up alone
    and does not keep the others.
    """

    def __init__(
        self,
        url: str,
        poster: Poster,
        faults: Faults,
        limits: DeliveryLimits,
        delivered: Callable[[Sequence[Callback]], None],
        tasks: set[asyncio.Task[None]],
    ) -> None:
        self._url = url
        self._poster = poster
        self._faults = faults
        self._limits = limits
        self._delivered = delivered
        self._tasks = tasks
        self._queue: deque[Callback] = deque()
        self._senders = 0
        self._fails = False

    def push(self, callbacks: Iterable[Callback]) -> None:
        """Send these too."""
        self._queue.extend(callbacks)
        self._staff()

    def _staff(self) -> None:
        if self._queue and self._senders < self._limits.in_flight_max:
            self._senders += 1
            task = asyncio.create_task(self._send_all(), name=f"callbacks to {self._url}")
            self._tasks.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("callbacks.sender_failed", url=self._url, exc_info=error)

    async def _send_all(self) -> None:
        try:
            while self._queue:
                await self._deliver(self._take())
        finally:
            self._senders -= 1  # in the same turn that found nothing: an event that comes in the next needs a sender

    def _take(self) -> list[Callback]:
        size = min(len(self._queue), self._limits.events_per_message_max)
        batch = [self._queue.popleft() for _ in range(size)]
        self._faults.shuffle(batch)
        return batch

    async def _deliver(self, batch: list[Callback]) -> None:
        """Try until the broker has taken it, or until a single event should let the others go first."""
        tries = 0
        while (error := await self._poster.post(self._url, batch)) is not None:
            self._note(error)
            if len(batch) > 1:
                batch = self._first_half(batch)
            tries = tries + 1 if len(batch) == 1 else 1
            if tries > _TRIES_ALONE and self._queue:
                self._queue.append(batch[0])
                return
            await asyncio.sleep(self._limits.pause_s(tries) * self._faults.jitter())
        self._note(None)
        self._delivered(batch)
        for _ in range(self._faults.settings.duplicates):
            await self._poster.post(self._url, batch)

    def _first_half(self, batch: list[Callback]) -> list[Callback]:
        middle = len(batch) // 2
        self._queue.extendleft(reversed(batch[middle:]))
        self._staff()
        return batch[:middle]

    def _note(self, error: str | None) -> None:
        """Log when the URL begins to fail and when it works again, not each try."""
        if self._fails != (error is not None):
            self._fails = error is not None
            if self._fails:
                log.warning("callbacks.failing", url=self._url, error=error)
            else:
                log.info("callbacks.delivered_again", url=self._url)
