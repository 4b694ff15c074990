"""An operator's commands to many customers at once: so many in flight, patient where a queue is full, and for a
bounded time. Whoever could not be reached is counted, never passed over in silence.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from broker.batch import Cancelling, Overloaded
from broker.core.corporate import AdjustPosition
from broker.core.messages import Advance, CancelAll
from broker.core.reset import ResetAccount
from broker.core.types import CustomerId, Symbol
from broker.db import Database
from broker.shards import BrokenRule, Shards, Unanswered

AT_ONCE = 256
"""Commands in flight: as many as two commits take, so that customers' own orders are held up by no more than those."""
_PAUSE_S = 0.05


@dataclass(slots=True)
class Answers:
    """What came back, and how many commands have no answer: they were not queued, or it is not known what they did."""

    given: list[Any] = field(default_factory=list)
    missing: int = 0


@dataclass(slots=True)
class Cancelled:
    """Orders that are being cancelled, or are now; and customers whose orders could not be reached."""

    orders: int = 0
    customers: int = 0
    not_reached: int = 0
    complete: bool = True


class FanOut:
    """The way to many customers."""

    def __init__(self, database: Database, shards: Shards, shard_count: int) -> None:
        self._database = database
        self._shards = shards
        self._shard_count = shard_count

    async def ask(
        self, commands: Sequence[CancelAll | AdjustPosition | ResetAccount | Advance], seconds: float
    ) -> Answers:
        """Submit the commands, a part after the other; what has no answer when the time is over is given up."""
        until = asyncio.get_running_loop().time() + seconds
        answers, left = Answers(), iter(commands)
        while part := list(islice(left, AT_ONCE)):
            replies = [await self._queue(each, until) for each in part]
            for reply in replies:
                try:
                    if reply is not None:
                        answers.given.append(await reply)
                except (Unanswered, BrokenRule):  # the shard has logged why
                    pass
            if asyncio.get_running_loop().time() >= until:
                break
        answers.missing = len(commands) - len(answers.given)
        return answers

    async def _queue(self, command: CancelAll | AdjustPosition | ResetAccount | Advance, until: float) -> Any:
        """The reply to come; None where the customer's queue stays full."""
        while True:
            try:
                return self._shards.submit(command.customer_id, command)
            except Overloaded:
                if asyncio.get_running_loop().time() >= until:
                    return None
                await asyncio.sleep(_PAUSE_S)

    async def settle(self, seconds: float) -> bool:
        """Wait until all is durable that was decided before now; False where that takes longer.

        A switch holds for every decision from now on. What the batches under way have decided is not in the database
        yet, and so would be missed by whoever looks there for open orders.
        """
        one_each = [CustomerId(number) for number in range(self._shard_count)]  # no customers: they begin at 1001
        return not (await self.ask([Advance(each) for each in one_each], seconds)).missing

    async def cancel(
        self, customers: Sequence[CustomerId], symbol: Symbol | None, why: str, seconds: float
    ) -> Cancelled:
        """End what is left of these customers' open orders, or of those in one symbol."""
        answers = await self.ask([CancelAll(each, symbol, why) for each in customers], seconds)
        given = [each for each in answers.given if isinstance(each, Cancelling)]
        orders = sum(len(each.trades) for each in given)
        return Cancelled(orders, sum(bool(each.trades) for each in given), answers.missing, not answers.missing)

    async def customers_with_open_trades(self, symbols: Sequence[Symbol]) -> dict[CustomerId, int]:
        """Who has open orders in these symbols, and how many. Raises DatabaseUnavailable."""
        rows = await self._database.fetch("customers_with_open_trades_in", symbols)
        return {row["customer_id"]: row["trades"] for row in rows}
