"""What time it is at the exchange: the real time, shifted, or standing still, as an operator wants it.

It is for trading hours and for the `at` of events and quotes. Whatever waits (ticks, delays, deliveries) goes by the
real time, as do the timestamps of signatures.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

YEAR_MIN, YEAR_MAX = 1990, 2099
"""The years in which the clock may be: those whose trading days are known, with room on either side."""


class BadMoment(Exception):
    """A moment that the clock cannot show."""


def _real_time() -> datetime:
    return datetime.now(UTC)


class Clock:
    """Calling it tells the time. Its one writer is the exchange's operator."""

    def __init__(self, real_time: Callable[[], datetime] = _real_time) -> None:
        self.real_time = real_time
        self._offset = timedelta(0)
        self._stands_at: datetime | None = None

    def __call__(self) -> datetime:
        return self.now()

    def now(self) -> datetime:
        """The time that it shows, in UTC."""
        return self.real_time() + self._offset if self._stands_at is None else self._stands_at

    @property
    def frozen(self) -> bool:
        """Whether it stands still."""
        return self._stands_at is not None

    def set(self, now: datetime | None, frozen: bool = False) -> None:
        """Show this time from now on (None: the real one), and stand still there (`frozen`). Raises BadMoment."""
        at = self.real_time() if now is None else utc(now)
        self._offset = timedelta(0) if now is None else at - self.real_time()
        self._stands_at = at if frozen else None

    def advance(self, seconds: float) -> None:
        """Show a time so much later. Raises BadMoment."""
        self.set(later(self.now(), seconds), self.frozen)


def utc(at: datetime) -> datetime:
    """The same moment in UTC. Raises BadMoment where it has no offset, or lies too far away."""
    if at.tzinfo is None:
        raise BadMoment("a moment needs its offset from UTC, as in 2026-11-27T12:55-05:00")
    if not YEAR_MIN <= at.year <= YEAR_MAX:
        raise BadMoment(f"the clock goes from the year {YEAR_MIN} to {YEAR_MAX}")
    return at.astimezone(UTC)


def later(at: datetime, seconds: float) -> datetime:
    """The moment so many seconds later. Raises BadMoment where it lies too far away."""
    try:
        return utc(at + timedelta(seconds=seconds))
    except OverflowError as error:
        raise BadMoment(f"the clock goes from the year {YEAR_MIN} to {YEAR_MAX}") from error


def parse_moment(text: str) -> datetime:
    """Read a moment of ISO 8601 with its offset from UTC. Raises BadMoment."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise BadMoment(f"{text!r} is no moment like 2026-11-27T12:55-05:00") from error
    return utc(at)
