"""What may go wrong in one seed: a draw in which each fault is left out half of the time (swarm testing).

With everything wrong at once nothing gets far; with some faults left out, others come in states that they would
otherwise never meet.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any


def _fault(*choices: float) -> Any:
    """A fault that is off, or one of these."""
    return field(default=0, metadata={"choices": choices})


@dataclass(frozen=True, slots=True)
class Faults:
    """How likely each fault is; of those that are counted, how many there are."""

    # calls to the exchange
    call_fails: float = _fault(0.1, 0.3)
    answer_lost: float = _fault(0.1, 0.3)
    call_slow: float = _fault(0.1, 0.3)
    outages: float = _fault(1, 2)
    restarts: float = _fault(1, 3)
    # its words
    word_lost: float = _fault(0.1, 0.5, 1.0)
    word_twice: float = _fault(0.2, 0.6)
    word_late: float = _fault(0.1, 0.5)
    word_contradicts: float = _fault(0.2, 0.5)
    strangers: float = _fault(1, 3)
    # what becomes of orders
    refused: float = _fault(0.1, 0.3)
    copy_refused: float = _fault(0.5)
    rejected: float = _fault(0.1, 0.3)
    parts: float = _fault(0.5, 0.9)
    no_liquidity: float = _fault(0.5, 0.9)
    expires: float = _fault(0.3, 0.8)
    overfill: float = _fault(0.1, 0.3)
    after_end: float = _fault(0.2, 0.5)
    too_dear: float = _fault(0.1, 0.2)
    busts: float = _fault(1, 3)
    # the database
    before_commit: float = _fault(0.02, 0.1)
    after_commit: float = _fault(0.02, 0.1)
    late_commit: float = _fault(0.02, 0.1)
    slow_commit: float = _fault(0.02, 0.1)
    refused_commit: float = _fault(0.02, 0.1)
    database_away: float = _fault(1, 2)
    # processes
    kills: float = _fault(1, 2, 4)
    kills_at_calls: float = _fault(0.005, 0.02)
    second_process: float = _fault(1)
    stops: float = _fault(1, 2)
    reply_lost: float = _fault(0.1, 0.3)
    tight: float = _fault(1)

    @property
    def left_out(self) -> list[str]:
        """The names of those that are off."""
        return [each.name for each in fields(self) if not getattr(self, each.name)]


def draw(rng: random.Random) -> Faults:
    """Those of a seed."""
    share = rng.choice([0.2, 0.4, 0.6])
    pick: Callable[..., float] = lambda each: rng.choice(each.metadata["choices"])  # noqa: E731
    return Faults(**{each.name: pick(each) if rng.random() < share else 0 for each in fields(Faults)})


NONE = Faults()
"""A world in which all goes well: the end of every run."""
