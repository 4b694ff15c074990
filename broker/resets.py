"""Resets of many accounts: end what is open in each, then put it into the wanted state.

Each customer is reset once for each reference, so the same request once more goes on with what could not be finished in
time. While a customer's orders are being cancelled, new ones are refused: a bot may go on ordering.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import structlog

from broker.batch import Cancelling, Reset
from broker.controls import Controls
from broker.core.messages import CancelAll
from broker.core.money import Money
from broker.core.reset import ResetAccount, Shares
from broker.core.types import CustomerId, Symbol, TradeId
from broker.db import Database
from broker.fan_out import FanOut

log = structlog.get_logger()

_WHY = "Cancelled by an operator, who resets the account."
_LOOK_S, _LOOK_MAX_S = 0.02, 0.5


class NoPrice(Exception):
    """A position was given without a price, and none is known. The message is the symbol."""


class NotListed(Exception):
    """A position was given in what no exchange lists: a slip, that nobody could sell. The message is the symbol."""


class NotFinished(Exception):
    """Some customers could not be reset yet; asking once more goes on with them."""

    def __init__(self, customers: int, left: int, open_orders: int) -> None:
        super().__init__(f"{left} of {customers} customers are not reset, {open_orders} orders are open")
        self.customers = customers
        self.left = left
        self.open_orders = open_orders


@dataclass(frozen=True, slots=True)
class State:
    """What an account shall have; the price of a share is what it cost, None is that of its last trade."""

    cash: Money
    positions: Mapping[Symbol, tuple[int, Money | None]]


@dataclass(frozen=True, slots=True)
class Done:
    """Every customer is in the wanted state. `already_booked`: those who were before, under the same reference."""

    customers: int
    already_booked: int
    cancelled_orders: int


class Resets:
    """Resets accounts. `last` is the price of a symbol's last trade; `is_listed` is None where that is not known."""

    wait_s = 10.0
    """How long the exchange may take to end what is open, and the shards to book; then the operator is told."""

    def __init__(
        self,
        controls: Controls,
        database: Database,
        fan_out: FanOut,
        last: Callable[[Symbol], Money | None],
        is_listed: Callable[[Symbol], bool | None],
    ) -> None:
        self._is_listed = is_listed
        self._controls = controls
        self._database = database
        self._fan_out = fan_out
        self._last = last

    async def known(self, customers: Sequence[CustomerId] | None, most: int) -> list[CustomerId]:
        """Those of these customers that exist, or of all. Raises DatabaseUnavailable."""
        return [row["customer_id"] for row in await self._database.fetch("customer_ids", customers, most)]

    def positions(self, state: State) -> dict[Symbol, Shares]:
        """The positions with what they cost. Raises NoPrice and NotListed."""
        shares = {}
        for symbol, (quantity, price) in state.positions.items():
            if self._is_listed(symbol) is False:
                raise NotListed(symbol)
            each = self._last(symbol) if price is None else price
            if each is None:
                raise NoPrice(symbol)
            shares[symbol] = Shares(quantity, Money(quantity * each))
        return shares

    async def carry_out(
        self, customers: Sequence[CustomerId], cash: Money, positions: Mapping[Symbol, Shares], reference: str
    ) -> Done:
        """Put each of these customers, who exist, into the state. Raises NotFinished."""
        left = {each: ResetAccount(each, f"{reference}:{each}", cash, positions) for each in customers}
        until = asyncio.get_running_loop().time() + self.wait_s
        already = await self._reset(left, until)
        cancelled = set[TradeId]()
        if left:  # nobody who has no open orders is disturbed
            with self._controls.reset_of([*left]):
                already += await self._clear(left, len(customers), cancelled, until)
        log.warning("accounts.reset", customers=len(customers), reference=reference)
        return Done(len(customers), already, len(cancelled))

    async def _clear(
        self, left: dict[CustomerId, ResetAccount], customers: int, cancelled: set[TradeId], until: float
    ) -> int:
        """End what is open and try again, until none is left. Raises NotFinished."""
        loop, pause = asyncio.get_running_loop(), _LOOK_S
        already = 0
        while left:
            commands = [CancelAll(each, None, _WHY) for each in left]
            given = (await self._fan_out.ask(commands, until - loop.time())).given
            open_orders = {trade.trade_id for each in given if isinstance(each, Cancelling) for trade in each.trades}
            cancelled |= open_orders
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LOOK_MAX_S)
            already += await self._reset(left, until)
            if left and loop.time() >= until:
                raise NotFinished(customers, len(left), len(open_orders))
        return already

    async def _reset(self, left: dict[CustomerId, ResetAccount], until: float) -> int:
        """Reset those of them that can be, and take them out; how many had been, under the same reference."""
        seconds = until - asyncio.get_running_loop().time()
        answers = await self._fan_out.ask(list(left.values()), seconds)
        done = [each for each in answers.given if isinstance(each, Reset)]
        for each in done:
            del left[each.customer_id]
        return sum(each.replayed for each in done)
