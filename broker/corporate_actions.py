"""Corporate actions, carried out for everybody who holds the symbol: a split, a symbol change, a cash dividend.

The order of work: halt the symbol, cancel what is open in it and wait for the exchange's word, settle who its holders
are, adjust each of them, end the halt. Each step can be done again: what ended half-way, be it the request or the
broker, is taken up by sending the same request once more. An event is remembered with its content and its holders, so
it never comes to mean something else, and never reaches somebody who bought after it.
"""

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import structlog

from broker.batch import Adjusted
from broker.controls import Controls
from broker.core.corporate import ActionKind, AdjustPosition, CorporateAction, PositionAdjusted
from broker.core.money import MONEY_MAX, Money
from broker.core.postings import CASH
from broker.core.types import PRICE_MAX, CustomerId, Symbol
from broker.db import Database
from broker.fan_out import FanOut

log = structlog.get_logger()

SHARES_MAX = 10**12
"""Shares of one symbol that all customers have after a split: more is a slip of the finger, and far below BIGINT."""
_LOOK_S, _LOOK_MAX_S = 0.1, 5.0


class CannotBeCarriedOut(Exception):
    """The action makes no sense as it is; nothing was done. The message says why, without a full stop."""


class AnotherEvent(Exception):
    """The event's id stands for an action with other content; nothing was done."""


class NotFinished(Exception):
    """The action is under way, and asking once more goes on with it."""

    def __init__(self, open_orders: int = 0, holders: int = 0, not_adjusted: int = 0) -> None:
        super().__init__(f"{open_orders} orders are open, {not_adjusted} of {holders} holders are not adjusted")
        self.open_orders = open_orders
        self.holders = holders
        self.not_adjusted = not_adjusted


@dataclass(frozen=True, slots=True)
class Done:
    """An action that was carried out in full. `repeated`: it had been before, and this request changed nothing."""

    action: CorporateAction
    holders: int
    adjusted: int = 0
    already_booked: int = 0
    cancelled_orders: int = 0
    cash_paid: Money = Money(0)
    repeated: bool = False


@dataclass(slots=True)
class _Event:
    """An event as it is remembered."""

    action: CorporateAction
    holders: Sequence[CustomerId] | None
    finished: bool


class CorporateActions:
    """Carries corporate actions out, one at a time. `last` is the price of a symbol's last trade."""

    cancel_wait_s = 10.0
    """How long the exchange may take to end what is open; then the operator hears how much that is."""
    adjust_wait_s = 60.0
    """How long all holders may take."""

    def __init__(
        self,
        database: Database,
        controls: Controls,
        fan_out: FanOut,
        last: Callable[[Symbol], Money | None],
    ) -> None:
        self._database = database
        self._controls = controls
        self._fan_out = fan_out
        self._last = last
        self._one_at_a_time = asyncio.Lock()

    async def carry_out(self, action: CorporateAction) -> Done:
        """All of it, from wherever an earlier attempt stopped. A price of 0 is the last quote's.

        Raises CannotBeCarriedOut, AnotherEvent, NotFinished or DatabaseUnavailable.
        """
        async with self._one_at_a_time:
            event = await self._remember(action)
            if event.finished:
                await self._end_halt(action)  # the first request may not have come so far
                holders = len(event.holders or ())
                return Done(event.action, holders, already_booked=len(await self._booked(event)), repeated=True)
            cancelled = 0 if action.kind is ActionKind.CASH_DIVIDEND else await self._clear(action)
            await self._database.fetch("settle_holders", action.event_id, action.symbol)
            done = await self._adjust(await self._recall(action))
            await self._database.fetch("finish_corporate_action", action.event_id)
            await self._end_halt(action)
            log.warning("corporate_action.done", event_id=action.event_id, holders=done.holders, adjusted=done.adjusted)
            return replace(done, cancelled_orders=cancelled)

    # -------------------------------------------------------------- what is remembered

    async def _remember(self, action: CorporateAction) -> _Event:
        """The event, as it came first. Raises AnotherEvent or CannotBeCarriedOut."""
        rows = await self._database.fetch("corporate_action", action.event_id)
        if not rows:
            price = await self._check(action)
            await self._database.fetch("register_corporate_action", action.event_id, _content(action), price)
        return await self._recall(action)

    async def _recall(self, action: CorporateAction) -> _Event:
        row = (await self._database.fetch("corporate_action", action.event_id))[0]
        if row["content"] != _content(action):
            raise AnotherEvent
        return _Event(replace(action, price=Money(row["price"])), row["holders"], row["finished_at"] is not None)

    async def _check(self, action: CorporateAction) -> Money:
        """The price of a new share. Raises CannotBeCarriedOut for what could not be booked."""
        row = (await self._database.fetch("shares_held", action.symbol))[0]
        shares = row["shares"]
        if shares * action.numerator > SHARES_MAX * action.denominator:
            raise CannotBeCarriedOut(f"customers would have more than {SHARES_MAX} {action.symbol}")
        if shares * action.per_share > MONEY_MAX:
            raise CannotBeCarriedOut("it pays more than any account may have")
        if action.kind is not ActionKind.SPLIT or action.denominator == 1 or action.price:
            return action.price
        last = self._last(action.symbol)
        if last is None:
            raise CannotBeCarriedOut(f"no quote of {action.symbol} is known, so the price of a new share is needed")
        price = Money(last * action.denominator // action.numerator)  # the quote is still that of an old share
        if price > PRICE_MAX:
            raise CannotBeCarriedOut("a new share would be worth more than any share, so its price is needed")
        return price

    async def _booked(self, event: _Event) -> set[str]:
        """The references of those of its holders that are adjusted."""
        references = [AdjustPosition(each, event.action).reference for each in event.holders or ()]
        return {row["reference"] for row in await self._database.fetch("corporate_references", references)}

    # -------------------------------------------------------------- the halt and the open orders

    async def _clear(self, action: CorporateAction) -> int:
        """Halt the symbols and end all orders in them: how many were cancelled. Raises NotFinished."""
        on, why = self._controls.switches(), _why(action)
        for scope in _halts(action):
            if scope not in on:
                await self._controls.engage(scope, why)
        loop = asyncio.get_running_loop()
        until = loop.time() + self.cancel_wait_s
        if not await self._fan_out.settle(self.cancel_wait_s):
            raise NotFinished
        symbols, cancelled = _symbols(action), None
        while True:
            still_open = await self._fan_out.customers_with_open_trades(symbols)
            orders = sum(still_open.values())
            cancelled = orders if cancelled is None else cancelled
            if not orders:
                return cancelled
            if loop.time() >= until:
                raise NotFinished(open_orders=orders)
            for symbol in symbols:
                await self._fan_out.cancel(list(still_open), symbol, f"Cancelled for a {why}.", until - loop.time())
            await asyncio.sleep(_LOOK_S)

    async def _end_halt(self, action: CorporateAction) -> None:
        """A halt that somebody else switched on stays."""
        for scope in _halts(action):
            if self._controls.switches().get(scope) == _why(action):
                await self._controls.release(scope)

    # -------------------------------------------------------------- the holders

    async def _adjust(self, event: _Event) -> Done:
        """Adjust every holder that is not adjusted yet. Raises NotFinished where some could not be.

        Somebody who goes on ordering has, for the moment until they are refused, open orders: so it is tried again.
        """
        assert event.holders is not None
        commands = [AdjustPosition(each, event.action) for each in event.holders]
        until = asyncio.get_running_loop().time() + self.adjust_wait_s
        before = booked = await self._booked(event)
        adjusted: list[PositionAdjusted] = []
        pause = _LOOK_S
        while True:
            left = [each for each in commands if each.reference not in booked]
            answers = await self._fan_out.ask(left, until - asyncio.get_running_loop().time())
            given = [each for each in answers.given if isinstance(each, Adjusted)]
            adjusted += [each.adjusted for each in given if each.adjusted is not None]
            if len(given) == len(left):
                break
            if asyncio.get_running_loop().time() >= until:
                raise NotFinished(holders=len(commands), not_adjusted=len(left) - len(given))
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LOOK_MAX_S)
            booked = await self._booked(event)
        cash = sum(move.amount for each in adjusted for move in each.moves if move.asset == CASH)
        return Done(event.action, len(commands), len(adjusted), len(before), cash_paid=Money(cash))


def _content(action: CorporateAction) -> str:
    """What the operator asked for: a repeated request must ask for the same."""
    return json.dumps(asdict(action), sort_keys=True)


def _symbols(action: CorporateAction) -> list[Symbol]:
    return [each for each in (action.symbol, action.new_symbol) if each is not None]


def _halts(action: CorporateAction) -> list[str]:
    return [] if action.kind is ActionKind.CASH_DIVIDEND else [f"halt:{each}" for each in _symbols(action)]


def _why(action: CorporateAction) -> str:
    return f"{action.kind.replace('_', ' ')} of {action.symbol}, corporate action {action.event_id}"
