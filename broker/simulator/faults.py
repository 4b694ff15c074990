"""Misbehaviour on purpose: what an exchange can do to a broker, each as a setting that is off by default.

The decisions come from a seeded random source, so a run can be repeated. A fault that is off draws nothing from it.
"""

from dataclasses import dataclass, fields
from enum import Enum, auto
from itertools import pairwise
from random import Random
from typing import TypeVar

T = TypeVar("T")

RANDOM_ERROR = "random error"
REORDER_WITHIN_S = 0.1
"""How long `reorder` may keep an event back, so that later ones overtake it."""
_PROBABILITIES = ("lose", "reject", "partial", "error", "error_after", "timeout")


@dataclass(frozen=True, slots=True)
class Misbehaviour:
    """Every way in which the exchange can misbehave. Probabilities lie between 0 and 1."""

    delay_ms: int = 0
    """Milliseconds: each event's callback waits a random time, uniform from 0 up to this."""

    duplicates: int = 0
    """Times: each callback message that was delivered is sent this many times again."""

    reorder: bool = False
    """Yes or no: events are shuffled, within a message and across trades."""

    lose: float = 0.0
    """Probability for each event that it is never sent. Only a lookup shows what happened."""

    reject: float = 0.0
    """Probability for each order that it is taken and then REJECTED with the reason "random error"."""

    partial: float = 0.0
    """Probability for each market order, unless it is `fok`, that it trades in 2 to 4 parts (`partial_gap_ms`)."""

    partial_gap_ms: int = 50
    """Milliseconds before each part of such an order. Off where nothing fills in parts."""

    error: float = 0.0
    """Probability for each POST of orders or cancels that it is answered 500, and nothing was done."""

    error_after: float = 0.0
    """Probability for each POST of orders or cancels that it is answered 500, although they were taken."""

    timeout: float = 0.0
    """Probability for each POST of orders or cancels that they are taken and no answer comes (`timeout_s`)."""

    timeout_s: float = 60.0
    """Seconds for which such a request is held before its connection is closed without an answer."""

    callback_first: bool = False
    """Yes or no: events are delivered before the request that caused them is answered."""

    closed: bool = False
    """Yes or no: the market is closed. Orders that can wait do, the others are REJECTED: `past market hours`."""

    def __post_init__(self) -> None:
        for field in fields(self):
            highest = 1 if field.name in _PROBABILITIES else float("inf")
            value = getattr(self, field.name)
            if not 0 <= value <= highest:
                raise ValueError(f"{field.name} = {value}: at least 0 and at most {highest}")


class Reply(Enum):
    """How a POST of orders or cancels is answered."""

    HONEST = auto()
    ERROR = auto()
    ERROR_AFTER = auto()
    TIMEOUT = auto()


class Faults:
    """Draws what goes wrong next, from the settings and a seeded random source."""

    def __init__(self, settings: Misbehaviour, random: Random) -> None:
        self.settings = settings
        self._random = random
        self._timing = Random(random.getrandbits(64))  # noqa: S311 - draws whose number depends on the network

    def reply(self) -> Reply:
        """How the next POST of orders or cancels is answered."""
        if self._happens(self.settings.error):
            return Reply.ERROR
        if self._happens(self.settings.error_after):
            return Reply.ERROR_AFTER
        if self._happens(self.settings.timeout):
            return Reply.TIMEOUT
        return Reply.HONEST

    def rejects(self) -> bool:
        """Whether the next order is rejected without any reason of its own."""
        return self._happens(self.settings.reject)

    def parts(self, quantity: int) -> list[int]:
        """The shares of each part in which an order fills: all at once, or 2 to 4 parts of at least 1 share."""
        if quantity < 2 or not self._happens(self.settings.partial):
            return [quantity]
        count = self._random.randint(2, min(4, quantity))
        cuts = [0, *sorted(self._random.sample(range(1, quantity), count - 1)), quantity]
        return [after - before for before, after in pairwise(cuts)]

    def loses(self) -> bool:
        """Whether the next event is never sent."""
        return self._happens(self.settings.lose)

    def hold_s(self) -> float:
        """Seconds for which the next event is kept back."""
        hold = 0.0
        if self.settings.delay_ms:
            hold += self._random.uniform(0, self.settings.delay_ms / 1000)
        if self.settings.reorder:
            hold += self._random.uniform(0, REORDER_WITHIN_S)
        return hold

    def shuffle(self, batch: list[T]) -> None:
        """Put the events of one message into a random order, where that is asked for."""
        if self.settings.reorder:
            self._timing.shuffle(batch)

    def jitter(self) -> float:
        """A factor of 0.5 to 1.5 for a back-off, so that senders do not come all at once."""
        return self._timing.uniform(0.5, 1.5)

    def _happens(self, probability: float) -> bool:
        return probability > 0 and self._random.random() < probability
