"""Market time: the exchange's clock, which is the real one unless a test controls it.

All that is about the market asks here what time it is: sessions, the time of an order and of an execution, bars, what
day it is. What is about machines does not: time-outs, leases, caches, signatures.
"""

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from uuid_utils.compat import uuid7

_REAL_WITHIN = timedelta(seconds=1)
"""A running clock that is no further off is a real one of another machine."""
_JITTER = timedelta(milliseconds=5)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_COUNTER_BITS, _RANDOM_BITS = 42, 32


@dataclass(frozen=True, slots=True)
class ClockState:
    """What an exchange says of its clock: what time it is there, and whether it stands still."""

    now: datetime
    frozen: bool = False


def _real_now() -> datetime:
    return datetime.now(UTC)


class MarketClock:
    """What time it is at the exchange."""

    def __init__(self, real_now: Callable[[], datetime] = _real_now) -> None:
        self._real_now = real_now
        self._ahead: timedelta | None = timedelta()  # of real time; None while it stands still
        self._stands_at = _EPOCH
        self._last_ms, self._counter = -1, 0  # of the ids

    def now(self) -> datetime:
        """The moment, in UTC."""
        return self._stands_at if self._ahead is None else self._real_now() + self._ahead

    @property
    def is_controlled(self) -> bool:
        """Whether it is another time than the real one, or stands still."""
        return self._ahead != timedelta()

    @property
    def is_frozen(self) -> bool:
        """Whether it stands still."""
        return self._ahead is None

    def follow(self, state: ClockState | None, asked_at: datetime | None = None) -> bool:
        """Go on as the exchange says; True where that is another time. None is an exchange whose time is the real one.

        `asked_at` is the real time of the question: between it and now the exchange has looked at its clock. What
        that explains is no news, so that time does not tremble with each question.
        """
        before = self._ahead, self._stands_at
        if state is None:
            self._ahead = timedelta()
        elif state.frozen:
            self._ahead, self._stands_at = None, state.now
        else:
            answered_at = self._real_now()
            half = (answered_at - (asked_at or answered_at)) / 2
            ahead = state.now - (answered_at - half)
            if abs(ahead) < _REAL_WITHIN:
                self._ahead = timedelta()
            elif self._ahead is None or abs(ahead - self._ahead) > half + _JITTER:
                self._ahead = ahead
        if self._ahead is not None:
            self._stands_at = _EPOCH
        return (self._ahead, self._stands_at) != before

    # -------------------------------------------------------------- ids

    def new_id(self) -> UUID:
        """An id that begins with this moment; at one moment each is above the one before (RFC 9562, version 7)."""
        if not self.is_controlled:
            return uuid7()
        moment = (self.now() - _EPOCH) // _MILLISECOND
        if moment != self._last_ms:
            self._last_ms, self._counter = moment, secrets.randbits(_COUNTER_BITS - 1)
        self._counter += 1
        high, low = self._counter >> 30, self._counter & (1 << 30) - 1
        random = secrets.randbits(_RANDOM_BITS)
        return UUID(int=moment << 80 | 7 << 76 | high << 64 | 2 << 62 | low << 32 | random)
