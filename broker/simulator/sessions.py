"""When the exchange trades, and to which session's end an order lives. Pure: the time comes in as an argument."""

from datetime import UTC, datetime
from typing import Literal

from broker.core import hours

Hours = Literal["always", "XNYS"]
NEVER = datetime.max.replace(tzinfo=UTC)


class Sessions:
    """New York's sessions; or one from each midnight of New York to the next; or none at all (`closed`)."""

    def __init__(self, mode: Hours, closed: bool = False) -> None:
        self._mode = mode
        self._closed = closed

    def is_open(self, at: datetime) -> bool:
        return not self._closed and (self._mode == "always" or hours.is_open(at))

    def end(self, at: datetime) -> datetime | None:
        """The end of the session that runs at this moment, or else of the next one; None where none ever comes."""
        if self._closed:
            return None
        return hours.midnight(at) if self._mode == "always" else hours.session_end(at)

    def next_change(self, at: datetime) -> datetime:
        """The first moment after this one at which a session begins or ends."""
        if self._closed:
            return NEVER
        if self._mode == "always":
            return hours.midnight(at)
        return hours.session_end(at) if hours.is_open(at) else hours.next_open(at)
