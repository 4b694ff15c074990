"""The simulated exchange's routes beside the contract, which no other exchange has: its clock, its prices, its script.

The broker reads the clock, because market time is the exchange's, and passes on what an operator asks for.
"""

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import aiohttp
import msgspec
import structlog

from broker.clock import ClockState, MarketClock
from broker.config import Config
from broker.exchange import ExchangeUnavailable, read_at_most

log = structlog.get_logger()

_ANSWER_MAX = 1024 * 1024
"""Bytes in an answer: a script of 1,000 orders and some room."""
_NOT_HERE_S = 60.0
"""An exchange that has no clock is asked this rarely: another one may be started in its place."""


class _Clock(msgspec.Struct):
    now: datetime
    frozen: bool = False


_decode_clock = msgspec.json.Decoder(_Clock).decode


@dataclass(frozen=True, slots=True)
class Answer:
    """What the exchange answered: a status and JSON."""

    status: int
    content: Any


class NotSimulated(Exception):
    """The exchange has no such route: it is not the simulated one."""


class Bench:
    """One exchange's own routes, and the broker's clock that follows its clock."""

    def __init__(self, url: str, session: aiohttp.ClientSession, clock: MarketClock, config: Config) -> None:
        self._url = url.rstrip("/")
        self._session = session
        self._clock = clock
        self._config = config
        self._following = asyncio.Lock()  # an answer that was overtaken would turn the clock back

    async def call(self, method: str, path: str, body: bytes | None = None) -> Answer:
        """Pass a call on. Raises NotSimulated or ExchangeUnavailable."""
        status, raw = await self._request(method, path, body)
        try:
            content = msgspec.json.decode(raw) if raw else None
        except (ValueError, RecursionError) as error:
            if status in {404, 405}:
                raise NotSimulated(path) from error
            raise ExchangeUnavailable(f"{method} {path} answered no JSON") from error
        if status in {404, 405} and not _is_about_what_it_names(content):
            raise NotSimulated(path)
        if status >= 500:
            raise ExchangeUnavailable(f"{method} {path} answered {status}")
        return Answer(status, content)

    async def _request(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        headers = {"Content-Type": "application/json"} if body else None
        try:
            async with self._session.request(method, self._url + path, data=body, headers=headers) as response:
                return response.status, await read_at_most(response.content, _ANSWER_MAX)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ExchangeUnavailable(f"{type(error).__name__}: {error}") from error

    # -------------------------------------------------------------- the clock

    async def follow(self) -> bool:
        """Set the broker's clock by the exchange's; False where the exchange has none. Raises ExchangeUnavailable."""
        async with self._following:
            asked_at = datetime.now(UTC)
            status, raw = await self._request("GET", "/v1/clock", None)
            if status in {404, 405}:
                changed = self._clock.follow(None)
            elif status != 200:
                raise ExchangeUnavailable(f"GET /v1/clock answered {status}")
            else:
                changed = self._clock.follow(_state(raw), asked_at)
            if changed:
                now, frozen = self._clock.now().isoformat(), self._clock.is_frozen
                log.warning("clock.changed", now=now, frozen=frozen, controlled=self._clock.is_controlled)
            return status == 200

    async def follow_at_start(self) -> None:
        """Before anything is decided; an exchange that does not say in time is followed as soon as it does."""
        try:
            async with asyncio.timeout(self._config.clock_wait_s):
                await self.follow()
        except (TimeoutError, ExchangeUnavailable) as error:
            log.warning("clock.not_known", error=str(error) or "no answer in time")

    async def run(self) -> None:
        """Follow the exchange's clock, for ever: somebody may set it who does not ask the broker."""
        while True:
            pause = self._config.clock_every_s
            try:
                if not await self.follow():
                    pause = max(pause, _NOT_HERE_S)
            except ExchangeUnavailable as error:
                log.debug("clock.not_known", error=str(error))  # its desk says loudly that it is away
            await asyncio.sleep(pause)


def _state(raw: bytes) -> ClockState:
    """Raises ExchangeUnavailable for what is not in form: then the clock goes on as it did."""
    try:
        clock = _decode_clock(raw)
        if clock.now.tzinfo is None:
            raise ValueError("its time has no time zone")
        return ClockState(clock.now.astimezone(UTC), clock.frozen)
    except (ValueError, RecursionError, OverflowError) as error:
        raise ExchangeUnavailable(f"the exchange's clock is not in form: {error}") from error


def _is_about_what_it_names(content: object) -> bool:
    """Whether a 404 is about a symbol or the like, and not about the path."""
    return isinstance(content, dict) and content.get("error") not in {None, "Not Found", "Method Not Allowed"}
