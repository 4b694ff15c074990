"""When the exchange trades, and to which session's end an order lives. Pure: the time comes in as an argument."""

from datetime import UTC, datetime
from enum import Enum, auto
from typing import Literal, NamedTuple, Self

from broker.core import hours

Hours = Literal["always", "XNYS"]
NEVER = datetime.max.replace(tzinfo=UTC)


class Phase(Enum):
    """Who may trade at a moment."""

    CLOSED = auto()  # nobody
    EXTENDED = auto()  # orders for extended hours
    REGULAR = auto()  # every order


class Sessions:
    """New York's sessions; or one from each midnight of New York to the next; or none at all (`closed`)."""

    def __init__(self, mode: Hours, closed: bool = False) -> None:
        self.mode = mode
        self._closed = closed

    def phase(self, at: datetime) -> Phase:
        if self._closed:
            return Phase.CLOSED
        if self.mode == "always" or hours.is_open(at):
            return Phase.REGULAR
        return Phase.EXTENDED if hours.is_extended(at) else Phase.CLOSED

    def end(self, at: datetime, extended: bool = False) -> datetime | None:
        """The end of the session that runs at this moment, or else of the next one; None where none ever comes.

        For an order for extended hours (`extended`) they belong to the session.
        """
        if self._closed:
            return None
        if self.mode == "always":
            return hours.midnight(at)
        return hours.extended_end(at) if extended else hours.session_end(at)

    def next_open(self, at: datetime) -> datetime | None:
        """The first moment after this one at which a regular session begins; None where none ever does."""
        if self._closed:
            return None
        return hours.midnight(at) if self.mode == "always" else hours.next_open(at)

    def next_change(self, at: datetime) -> datetime:
        """The first moment after this one at which another phase or another session begins."""
        if self._closed:
            return NEVER
        return hours.midnight(at) if self.mode == "always" else hours.next_change(at)


class Ends(NamedTuple):
    """Until when an order lives that is taken now; None where no session ever comes."""

    regular: str | None
    extended: str | None
    opening: str | None
    """The next opening ..."""
    opened: str | None
    """... and the end of the session that begins there."""

    @classmethod
    def after(cls, at: datetime, sessions: Sessions) -> Self:
        opening = sessions.next_open(at)
        opened = None if opening is None else sessions.end(opening)
        moments = (sessions.end(at), sessions.end(at, extended=True), opening, opened)
        return cls(*(None if moment is None else stamp(moment) for moment in moments))


def stamp(at: datetime) -> str:
    """A moment as events tell it."""
    return at.isoformat(timespec="microseconds")
