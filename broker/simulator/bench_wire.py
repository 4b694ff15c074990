"""What an operator sends to the test bench, and what it answers (docs/exchange-contract.md)."""

from datetime import datetime
from typing import Annotated, Any

import msgspec

from broker.core.types import Symbol
from broker.simulator.script import Step
from broker.simulator.sessions import Hours
from broker.simulator.wire import Amount

ADVANCE_MAX_S = 40 * 366 * 86_400
"""Forty years: beyond any test, and far from where dates end."""

Reason = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]


class SetClock(msgspec.Struct, forbid_unknown_fields=True):
    """What is left out stays as it is; `now` null is the real time, which runs unless it is frozen here."""

    now: Annotated[str, msgspec.Meta(max_length=64)] | msgspec.UnsetType | None = msgspec.UNSET
    frozen: bool | msgspec.UnsetType = msgspec.UNSET


class Advance(msgspec.Struct, forbid_unknown_fields=True):
    seconds: Annotated[float, msgspec.Meta(gt=0, le=ADVANCE_MAX_S)]


class ClockState(msgspec.Struct):
    now: datetime
    frozen: bool
    hours: Hours


class PriceBody(msgspec.Struct, forbid_unknown_fields=True):
    price: Amount
    hold: bool = True


class HaltBody(msgspec.Struct, forbid_unknown_fields=True):
    reason: Reason | None = None


class ScriptBody(msgspec.Struct, forbid_unknown_fields=True):
    orders: Annotated[list[Step], msgspec.Meta(min_length=1)]
    symbol: Symbol | None = None


class ScriptState(msgspec.Struct):
    orders: list[dict[str, Any]]
