"""What the next orders meet, as a test wants it: one step for each of them, in the order in which they come."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, NamedTuple

import msgspec

from broker.core.types import Symbol
from broker.simulator.wire import Quantity

PARTS_MAX = 100
MS_MAX = 600_000
"""Ten minutes: what waits longer is forgotten rather than meant."""

Milliseconds = Annotated[int, msgspec.Meta(ge=1, le=MS_MAX)]


class Reject(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="do", tag="reject"):
    """The order is taken, and then rejected."""

    reason: Annotated[str, msgspec.Meta(min_length=1, max_length=200)] = "rejected by the script"


class Partial(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="do", tag="partial"):
    """So many shares are filled, at once or in parts with a pause before each but the first."""

    quantity: Quantity | msgspec.UnsetType = msgspec.UNSET
    parts: Annotated[tuple[Quantity, ...], msgspec.Meta(min_length=1, max_length=PARTS_MAX)] | msgspec.UnsetType = (
        msgspec.UNSET
    )
    ms: Milliseconds = 50

    def __post_init__(self) -> None:
        if (self.quantity is msgspec.UNSET) == (self.parts is msgspec.UNSET):
            raise ValueError("a partial fill has a quantity or parts")

    @property
    def shares(self) -> tuple[int, ...]:
        """Those of each part."""
        if self.parts is not msgspec.UNSET:
            return self.parts
        assert self.quantity is not msgspec.UNSET
        return (self.quantity,)


class Delay(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="do", tag="delay"):
    """The order is taken at once, and comes to its book so much later."""

    ms: Milliseconds


class Fill(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="do", tag="fill"):
    """All of the order is filled at once."""


Step = Reject | Partial | Delay | Fill


class Due(NamedTuple):
    """What is to happen to an order after so many milliseconds: these parts are filled; none: it comes to its book."""

    order_id: str
    after_ms: int
    parts: tuple[int, ...]


class ScriptFull(Exception):
    """More steps than may wait."""


class Script:
    """The steps that no order has met yet."""

    def __init__(self, steps_max: int) -> None:
        self._steps_max = steps_max
        self._steps: list[tuple[Symbol | None, Step]] = []

    @property
    def is_empty(self) -> bool:
        return not self._steps

    def add(self, symbol: Symbol | None, steps: Sequence[Step]) -> None:
        """The next orders of a symbol, or of any (None), meet these after those that are there. Raises ScriptFull."""
        if len(self._steps) + len(steps) > self._steps_max:
            raise ScriptFull(f"at most {self._steps_max} steps wait for orders, and {len(self._steps)} do")
        self._steps += [(symbol, step) for step in steps]

    def take(self, symbol: Symbol, can_trade: bool) -> Step | None:
        """The step that an order of this symbol meets, None where there is none for it.

        An order that cannot trade when it comes meets a rejection only; another step is for one that can.
        """
        for place, (wanted, step) in enumerate(self._steps):
            if wanted in (None, symbol):
                if not can_trade and not isinstance(step, Reject):
                    return None
                del self._steps[place]
                return step
        return None

    def clear(self) -> None:
        self._steps.clear()

    def left(self) -> Iterator[dict[str, Any]]:
        """Each step as it came, with its symbol."""
        for symbol, step in self._steps:
            yield {"symbol": symbol, **msgspec.to_builtins(step)}
