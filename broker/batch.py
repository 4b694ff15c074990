"""What one batch of commands comes to: a decision for each, in order, and nothing done yet.

No await in here and no I/O: the batch is decided on one view of the world. Committing it and acting on it is the
shard's (broker.shards).
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import Any, Protocol, assert_never

from broker.core import trading
from broker.core.account import Account
from broker.core.messages import (
    Advance,
    Anomaly,
    CashMoved,
    Event,
    Market,
    MoveCash,
    PlaceTrade,
    Refusal,
    Repeat,
    Report,
    TradeEvent,
)
from broker.core.types import CustomerId, Trade, TradeId

Command = PlaceTrade | MoveCash | Advance | Report


class Overloaded(Exception):
    """A queue is full: nothing was done, try again in a moment. The message is the queue's name."""


@dataclass(slots=True)
class Placed:
    """The answer to PlaceTrade. `replayed`: the idempotency key was used before, this is the trade it made."""

    trade: Trade
    replayed: bool = False


@dataclass(slots=True)
class Booked:
    """The answer to MoveCash. `replayed`: the reference was booked before, with these figures."""

    moved: CashMoved
    replayed: bool = False


@dataclass(slots=True, eq=False)
class Item:
    """A command in the queue, and whoever waits for its answer."""

    customer_id: CustomerId
    command: Command
    reply: asyncio.Future[Any]
    deadline: float
    retried: bool = False  # an earlier attempt may have committed: look before deciding


@dataclass(slots=True)
class Known:
    """What was read for a batch beside its accounts."""

    trades: dict[TradeId, Trade] = field(default_factory=dict)
    keys: dict[tuple[CustomerId, str], Trade] = field(default_factory=dict)
    cash: dict[str, CashMoved] = field(default_factory=dict)


@dataclass(slots=True)
class Decided:
    """What a batch came to: events to commit, then answers to give."""

    now: datetime
    events: list[Event] = field(default_factory=list)
    touched: dict[CustomerId, Account] = field(default_factory=dict)
    answers: list[tuple[Item, Any]] = field(default_factory=list)
    anomalies: list[tuple[Anomaly, Report]] = field(default_factory=list)
    look_soon: list[TradeId] = field(default_factory=list)
    unfinished: list[CustomerId] = field(default_factory=list)  # more can start: come back to them
    fenced: set[CustomerId] = field(default_factory=set)  # of a commit whose outcome is unknown
    repeats: int = 0


class Limits(Protocol):
    """What of Config the decisions depend on."""

    @property
    def collar_bps(self) -> int: ...
    @property
    def batch_max(self) -> int: ...
    @property
    def customer_open_max(self) -> int: ...


class Batch:
    """One batch while it is decided. `recent` are trades that ended lately, `known` what was read for the batch."""

    def __init__(
        self,
        decided: Decided,
        accounts: Mapping[CustomerId, Account],
        recent: Mapping[TradeId, Trade],
        known: Known,
        market: Market,
        limits: Limits,
    ) -> None:
        self._decided = decided
        self._accounts = accounts
        self._recent = recent
        self._known = known
        self._market = market
        self._limits = limits
        self._steps_left = 2 * limits.batch_max  # of all customers together: a commit must not grow past its time-out

    def decide(self, items: Sequence[Item], *, advance: bool) -> Decided:
        """Every command against its account, in order; then, if wanted, start what can start."""
        decided = self._decided
        for item in items:
            account = self._accounts.get(item.customer_id)
            if account is None:
                decided.answers.append((item, None))
                continue
            decided.touched[item.customer_id] = account
            if item.retried:
                decided.fenced.add(item.customer_id)
            if not item.reply.done():  # else its client was told 503, and so it is not done
                decided.answers.append((item, self._one(item.command, account)))
        if advance:
            for account in decided.touched.values():
                self._advance(account)
        return decided

    def _one(self, command: Command, account: Account) -> object:
        match command:
            case PlaceTrade():
                return self._place(command, account)
            case Report():
                self._report(command, account)
                return None
            case MoveCash():
                return self._move_cash(command, account)
            case Advance():
                return None
            case _:
                assert_never(command)

    def _place(self, command: PlaceTrade, account: Account) -> Placed | Overloaded:
        earlier = self._known.trades.get(command.trade_id)  # an attempt whose outcome was unknown had committed
        if earlier is not None:
            return Placed(earlier)
        key = (account.customer_id, command.idempotency_key or "")
        earlier = self._known.keys.get(key)
        if earlier is not None:
            return Placed(earlier, replayed=earlier.trade_id != command.trade_id)
        if len(account.waiting) >= self._limits.customer_open_max:
            return Overloaded("customer")
        event = trading.place(account, command, self._decided.now)
        if command.idempotency_key:
            self._known.keys[key] = event.trade
        self._decided.events.append(event)
        return Placed(event.trade)

    def _report(self, report: Report, account: Account) -> None:
        trade_id = report.trade_id
        trade = account.working.get(trade_id) or self._recent.get(trade_id) or self._known.trades.get(trade_id)
        outcome = trading.settle(account, trade, report) if trade else Anomaly.UNKNOWN_TRADE
        if isinstance(outcome, TradeEvent):
            self._known.trades[trade_id] = outcome.trade  # what ends in this batch is still known to the rest of it
            self._decided.events.append(outcome)
        elif isinstance(outcome, Anomaly):
            self._decided.anomalies.append((outcome, report))
        elif outcome is Repeat.MORE_TO_COME:
            self._decided.look_soon.append(trade_id)
        else:
            self._decided.repeats += 1

    def _move_cash(self, command: MoveCash, account: Account) -> Booked | Refusal:
        earlier = self._known.cash.get(command.reference)
        if earlier is not None:
            return Booked(earlier, replayed=True)
        outcome = trading.move_cash(account, command)
        if isinstance(outcome, Refusal):
            return outcome
        self._known.cash[command.reference] = outcome
        self._decided.events.append(outcome)
        return Booked(outcome)

    def _advance(self, account: Account) -> None:
        """Start what can start; a long run of refusals goes on in the next batch."""
        steps = trading.start_next(account, self._market, self._limits.collar_bps)
        before = len(self._decided.events)
        self._decided.events.extend(islice(steps, self._steps_left))
        self._steps_left -= len(self._decided.events) - before
        if account.waiting and not account.working:
            self._decided.unfinished.append(account.customer_id)
