"""Tells customers of their orders' events: each is POSTed to their URL, signed, in order, until it is taken.

The events themselves are the queue, and what stands in a webhook's row is how far it got. So nothing is lost, whatever
happens here; what a broker that died had not saved is sent once more, under the same webhook-id. A webhook is ours for
as long as nobody has changed its `next_try_at` since we put it off: that is the lease, and what keeps two brokers on
one database from sending the same twice.

Only so many requests are open for one customer, those of webhooks that were deleted meanwhile among them: whoever adds
and deletes in turn has no more of the places than others.
"""

import asyncio
import random
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib.metadata import version
from typing import Protocol
from uuid import UUID

import aiohttp
import structlog
from yarl import URL

from broker.addresses import ASKS_FOR, AddressRefused, Resolver, check_url, connector
from broker.config import Config
from broker.core import signing
from broker.core.types import CustomerId
from broker.db import Database, DatabaseUnavailable, RefusedByDatabase
from broker.metrics import Metrics

log = structlog.get_logger()

_PAGE = 100
"""Events that are read at once, and so kept in memory for each delivery."""

_TURN_S = 10.0
"""How long one webhook goes on before others have their turn."""

_SAVE_S = 1.0
"""How often it is saved how far one got: what a crash repeats."""

_IDLE_S = 2.0
"""How long a connection is kept for the next event."""

_REST = 9
"""Looking takes at most a tenth of the time, however many webhooks there are."""

_SHARE = 4
"""One customer has at most a fourth of the places, so that slow receivers of one leave most to the others."""

_FIRST_RETRY_S = 1.0


class Events(Protocol):
    """Where the events come from."""

    async def read(self, customer_id: CustomerId, after: int, limit: int) -> list[tuple[int, bytes]]:
        """Those that follow a sequence, oldest first, each with its own and as the bytes that go out."""
        ...


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an event was not taken."""

    sentence: str
    retry_after_s: float = 0.0
    is_final: bool = False


@dataclass(slots=True)
class _Turn:
    """A webhook while it is ours, and how far it got; `lease` is the next_try_at that we gave it."""

    webhook_id: UUID
    customer_id: CustomerId
    url: str
    secret: bytes = field(repr=False)
    delivered: int
    failures: int
    lease: datetime
    saved_at: float
    has_more: bool = False
    is_deleted: bool = False


# ------------------------------------------------------------------ decisions


def backoff_s(failures: int, retry_after_s: float, most_s: float, rng: random.Random) -> float:
    """How long to wait after so many failures in a row: doubling, half of it at random, and what the receiver asked."""
    doubled = min(_FIRST_RETRY_S * 2.0 ** min(failures - 1, 30), most_s)
    return max(doubled * rng.uniform(0.5, 1.0), min(retry_after_s, most_s))


def read_answer(status: int, retry_after: str | None, now: datetime) -> Failure | None:
    """What an answer means; None is that the event was taken."""
    if 200 <= status < 300:
        return None
    if status == 410:
        return Failure("The receiver answered 410: it wants no more.", is_final=True)
    if 300 <= status < 400:
        return Failure(f"The receiver answered {status}; a redirect is not followed.")
    wanted_s = _seconds(retry_after, now) if status in {429, 503} else 0.0
    return Failure(f"The receiver answered {status}.", wanted_s)


def _seconds(retry_after: str | None, now: datetime) -> float:
    """What a Retry-After header asks for: seconds, or a date. What it cannot mean is nothing."""
    if retry_after is None:
        return 0.0
    if retry_after.isascii() and retry_after.isdigit():
        return float(retry_after[:9])
    try:
        until = parsedate_to_datetime(retry_after[:40])
    except (ValueError, OverflowError):
        return 0.0
    return max(0.0, ((until if until.tzinfo else until.replace(tzinfo=UTC)) - now).total_seconds())


_FAILURES: tuple[tuple[type[Exception], str], ...] = (
    (TimeoutError, "No answer in time."),
    (aiohttp.ClientConnectorDNSError, "The URL's host was not found."),
    (aiohttp.ClientConnectorCertificateError, "The receiver's certificate is not valid."),
    (aiohttp.ClientSSLError, "No connection: TLS failed."),
    (aiohttp.ClientConnectorError, "No connection."),
    (aiohttp.InvalidURL, "The URL's host cannot be connected to."),
    (aiohttp.ServerDisconnectedError, "The receiver closed the connection without an answer."),
    (aiohttp.ClientResponseError, "The receiver's answer is not HTTP."),
    (Exception, "The connection broke."),
)


def explain(error: Exception) -> str:
    """Why there was no answer, as a sentence; nothing that the receiver sent stands in it, nor an address."""
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(cause, AddressRefused):
        return "The URL leads to an address that is not public."
    if isinstance(cause, ConnectionRefusedError):
        return "No connection: it was refused."
    return next(sentence for kind, sentence in _FAILURES if isinstance(error, kind))


# ------------------------------------------------------------------ delivery


class Webhooks:
    """Delivers to all webhooks that are due, several at once, each by itself in order."""

    def __init__(
        self, database: Database, events: Events, config: Config, metrics: Metrics, rng: random.Random
    ) -> None:
        self._database = database
        self._events = events
        self._config = config
        self._deliveries = metrics.hook_deliveries
        self._rng = rng
        # Between two renewals lie at most a second, an answer, and a read and a write of the database.
        self._lease_s = 2 * config.hook_timeout_s + 3 * config.place_wait_s
        self._of_one_max = min(config.hooks_max, max(1, config.hooks_in_flight_max // _SHARE))
        self._turns: dict[asyncio.Task[None], _Turn] = {}
        self._deleted: set[UUID] = set()  # since the last look began, which may have leased them before
        self._wake = asyncio.Event()

    def wake(self, deleted: UUID | None = None) -> None:
        """Look for what is due at once; or let the webhook that was deleted start no further delivery."""
        if deleted is None:
            self._wake.set()
            return
        self._deleted.add(deleted)
        for turn in self._turns.values():
            turn.is_deleted |= turn.webhook_id == deleted

    async def run(self) -> None:
        """Look for webhooks that are due and deliver to them, for ever."""
        resolver = Resolver(self._config.hook_addresses)
        try:
            async with self._session(resolver) as session, asyncio.TaskGroup() as turns:
                while True:
                    began = time.monotonic()
                    await self._look(session, turns)
                    await self._pause(time.monotonic() - began)
        finally:
            await resolver.close()

    def _session(self, resolver: Resolver) -> aiohttp.ClientSession:
        config = self._config
        return aiohttp.ClientSession(
            connector=connector(config.hook_addresses, resolver, config.hooks_in_flight_max, _IDLE_S),
            timeout=aiohttp.ClientTimeout(total=config.hook_timeout_s),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Content-Type": "application/json", "User-Agent": f"stockbroker/{version('stockbroker')}"},
            skip_auto_headers={"Accept-Encoding"},
            auto_decompress=False,
            trust_env=False,
        )

    async def _look(self, session: aiohttp.ClientSession, turns: asyncio.TaskGroup) -> None:
        """Take as many of those that are due as there is room for."""
        self._deleted.clear()
        room = self._config.hooks_in_flight_max - len(self._turns)
        if room <= 0:
            return
        try:
            rows = await self._database.fetch("lease_webhooks", room, self._lease_s)
        except (DatabaseUnavailable, RefusedByDatabase) as error:
            log.warning("webhooks.not_looked_for", error=str(error))
            return
        over: list[_Turn] = []
        for row in self._rng.sample(rows, len(rows)):  # by chance, so that of one customer's each has its turn
            turn = _Turn(
                row["webhook_id"],
                row["customer_id"],
                row["url"],
                row["secret"],
                row["delivered"],
                row["failures"],
                row["next_try_at"],
                time.monotonic(),
                is_deleted=row["webhook_id"] in self._deleted,
            )
            if self._of(turn.customer_id) >= self._of_one_max:
                over.append(turn)
                continue
            task = turns.create_task(self._take_turn(session, turn))
            self._turns[task] = turn
            task.add_done_callback(self._ended)
        for turn in over:
            await self._let_go(turn, None)
        if over and len(rows) == room:
            self.wake()  # others may be due, and come first now

    def _of(self, customer_id: CustomerId) -> int:
        return sum(turn.customer_id == customer_id for turn in self._turns.values())

    async def _pause(self, took_s: float) -> None:
        every_s = self._config.hook_look_s
        await asyncio.sleep(min(_REST * took_s, every_s))
        try:
            async with asyncio.timeout(every_s):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()

    def _ended(self, task: asyncio.Task[None]) -> None:
        is_full = len(self._turns) >= self._config.hooks_in_flight_max
        if is_full or self._of(self._turns[task].customer_id) >= self._of_one_max:
            self.wake()  # somebody may wait for the place
        del self._turns[task]

    async def _take_turn(self, session: aiohttp.ClientSession, turn: _Turn) -> None:
        """Deliver what there is, and whatever happens, save how far it got and let the webhook go."""
        failure = None
        ASKS_FOR.set(turn.customer_id)
        try:
            failure = await self._deliver(session, turn)
        except (DatabaseUnavailable, RefusedByDatabase) as error:
            log.warning("webhooks.events_not_read", webhook_id=str(turn.webhook_id), error=str(error))
        except Exception as error:  # this task's guard: no receiver may end the others' turns
            log.error("webhooks.turn_failed", webhook_id=str(turn.webhook_id), exc_info=error)
            failure = Failure("This is a fault of the broker. It is in its log.")
        finally:  # also at the broker's stop: what was taken need not be sent again
            await self._let_go(turn, failure)

    async def _deliver(self, session: aiohttp.ClientSession, turn: _Turn) -> Failure | None:
        """Send event after event, until there is no more, one is not taken, the turn is over, or it is not ours."""
        try:
            url = URL(check_url(turn.url, self._config.hook_addresses), encoded=True)
        except ValueError as error:  # what may be has changed since
            return Failure(str(error))
        until = time.monotonic() + _TURN_S
        while page := await self._events.read(turn.customer_id, turn.delivered, _PAGE):
            for seq, body in page:
                if turn.is_deleted:
                    return None
                if time.monotonic() >= until:
                    turn.has_more = True
                    return None
                failure = await self._send(session, turn, url, seq, body)
                if failure is not None:
                    return failure
                turn.delivered, turn.failures = seq, 0
                if time.monotonic() - turn.saved_at >= _SAVE_S and not await self._save(turn, self._lease_s):
                    return None
        return None

    async def _send(
        self, session: aiohttp.ClientSession, turn: _Turn, url: URL, seq: int, body: bytes
    ) -> Failure | None:
        """One event; None where it was taken. The answer's body is not read: with one, the connection is closed."""
        message_id, now = f"{turn.webhook_id}-{seq}", time.time()
        headers = {
            signing.HEADER_ID: message_id,
            signing.HEADER_TIMESTAMP: str(int(now)),
            signing.HEADER_SIGNATURE: signing.sign(turn.secret, message_id, int(now), body),
        }
        try:
            async with session.post(url, data=body, headers=headers, allow_redirects=False) as answer:
                failure = read_answer(
                    answer.status, answer.headers.get("Retry-After"), datetime.fromtimestamp(now, UTC)
                )
        except (aiohttp.ClientError, OSError, ValueError, RuntimeError) as error:  # uvloop raises RuntimeError at times
            failure = Failure(explain(error))
        if failure is None:
            self._deliveries.labels("delivered").inc()
        return failure

    # -------------------------------------------------------------- how far it got

    async def _save(self, turn: _Turn, lease_s: float) -> bool:
        """Save how far it got and renew the lease; False where the webhook is not ours any more."""
        rows = await self._database.fetch("save_webhook", turn.webhook_id, turn.lease, turn.delivered, lease_s)
        if rows:
            turn.lease, turn.saved_at = rows[0]["next_try_at"], time.monotonic()
        return bool(rows)

    async def _let_go(self, turn: _Turn, failure: Failure | None) -> None:
        try:
            if failure is not None:
                await self._fail(turn, failure)
            elif await self._save(turn, 0) and turn.has_more:
                self.wake()
        except (DatabaseUnavailable, RefusedByDatabase) as error:  # the lease runs out by itself
            log.warning("webhooks.not_saved", webhook_id=str(turn.webhook_id), error=str(error))

    async def _fail(self, turn: _Turn, failure: Failure) -> None:
        config = self._config
        pause_s = backoff_s(turn.failures + 1, failure.retry_after_s, config.hook_retry_max_s, self._rng)
        rows = await self._database.fetch(
            "fail_webhook",
            turn.webhook_id,
            turn.lease,
            turn.delivered,
            failure.sentence,
            pause_s,
            failure.is_final,
            config.hook_give_up_s,
        )
        disabled = any(row["disabled_at"] is not None for row in rows)
        self._deliveries.labels("disabled" if disabled else "failed").inc()
        if disabled:
            ids = {"webhook_id": str(turn.webhook_id), "customer_id": turn.customer_id}
            log.info("webhooks.disabled", **ids, why=failure.sentence)
