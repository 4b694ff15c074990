"""What one batch of commands comes to: a decision for each, in order, and nothing done yet.

No await in here and no I/O: the batch is decided on one view of the world. Committing it and acting on it is the
shard's (broker.shards).
"""

import asyncio
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol, assert_never

from broker.core import corporate, credit, groups, settlement, trading
from broker.core.account import Account
from broker.core.conditions import Conditions
from broker.core.corporate import AdjustPosition, AnyEvent, PositionAdjusted
from broker.core.messages import (
    Advance,
    Anomaly,
    CancelAll,
    CancelTrade,
    CashMoved,
    EstimateTrade,
    MarginLevel,
    MoveCash,
    PlaceTrade,
    Refused,
    Repeat,
    ReplaceTrade,
    Report,
    Step,
    TakeUp,
    TradeEvent,
    Wake,
)
from broker.core.reset import ResetAccount, reset
from broker.core.states import TERMINAL
from broker.core.types import AccountType, CustomerId, Trade, TradeId

Command = (
    PlaceTrade
    | ReplaceTrade
    | CancelTrade
    | CancelAll
    | EstimateTrade
    | MoveCash
    | AdjustPosition
    | ResetAccount
    | Advance
    | TakeUp
    | Wake
    | Report
)


class Overloaded(Exception):
    """A queue is full: nothing was done, try again in a moment. The message is the queue's name."""


class ReadAgain(Exception):
    """An order that was to end as never sent was read again: another broker may have sent it. Nothing was done."""


@dataclass(slots=True)
class Placed:
    """The answer to PlaceTrade. `replayed`: the idempotency key was used before, this is the trade it made."""

    trade: Trade
    replayed: bool = False


@dataclass(slots=True)
class Taken:
    """The client order id of a PlaceTrade or ReplaceTrade is this trade's; nothing was placed."""

    first: Trade


@dataclass(slots=True)
class Cancelling:
    """The answer to CancelTrade and CancelAll: those that are to be cancelled, or are now."""

    trades: list[Trade]


@dataclass(slots=True)
class Booked:
    """The answer to MoveCash. `replayed`: the reference was booked before, with these figures."""

    moved: CashMoved
    replayed: bool = False


@dataclass(slots=True)
class Adjusted:
    """The answer to AdjustPosition; None where there was nothing to adjust, or it was booked before."""

    adjusted: PositionAdjusted | None


@dataclass(slots=True)
class Reset:
    """The answer to ResetAccount. `replayed`: the reference was booked before, and nothing was done now."""

    customer_id: CustomerId
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
    client_ids: dict[tuple[CustomerId, str], Trade] = field(default_factory=dict)
    cash: dict[str, CashMoved] = field(default_factory=dict)
    adjusted: set[str] = field(default_factory=set)
    reset: set[str] = field(default_factory=set)


@dataclass(slots=True)
class Decided:
    """What a batch came to: events to commit, then answers to give."""

    events: list[AnyEvent] = field(default_factory=list)
    touched: dict[CustomerId, Account] = field(default_factory=dict)
    answers: list[tuple[Item, Any]] = field(default_factory=list)
    anomalies: list[tuple[Anomaly, Report]] = field(default_factory=list)
    doubted: set[CustomerId] = field(default_factory=set)  # whose books contradict them, as far as we remember them
    look_soon: list[TradeId] = field(default_factory=list)
    strays: list[Trade] = field(default_factory=list)  # ended here, and perhaps not at the exchange
    unfinished: list[CustomerId] = field(default_factory=list)  # more can start: come back to them
    fenced: set[CustomerId] = field(default_factory=set)  # of a commit whose outcome is unknown
    repeats: int = 0


class Bounds(Protocol):
    """What of Config a batch depends on."""

    @property
    def batch_max(self) -> int: ...
    @property
    def customer_open_max(self) -> int: ...


class Batch:
    """One batch while it is decided. `known` is what was read for it beside the accounts."""

    def __init__(
        self,
        accounts: Mapping[CustomerId, Account],
        known: Known,
        conditions: Conditions,
        bounds: Bounds,
    ) -> None:
        self._decided = Decided()
        self._accounts = accounts
        self._known = known
        self._conditions = conditions
        self._bounds = bounds
        self._steps_left = 2 * bounds.batch_max  # of all customers together: a commit must not grow past its time-out

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
        self._note_margin()
        self._number_events()
        return decided

    def _one(self, command: Command, account: Account) -> object:  # noqa: PLR0911, PLR0912 - a table, one line a row
        match command:
            case PlaceTrade():
                return self._place(command, account)
            case Report():
                return self._report(command, account)
            case ReplaceTrade():
                return self._replace(command, account)
            case CancelTrade():
                return self._cancel(command, account)
            case CancelAll():
                return self._cancel_all(command, account)
            case EstimateTrade():
                return trading.estimate(account, command.order, self._conditions)
            case MoveCash():
                return self._move_cash(command, account)
            case AdjustPosition():
                return self._adjust(command, account)
            case ResetAccount():
                return self._reset(command, account)
            case Wake():
                self._add(account, groups.wake(account, command, self._conditions))
                return command.trade_id in account.held
            case TakeUp():
                return self._take_up(command, account)
            case Advance():
                return None
            case _:
                assert_never(command)

    # -------------------------------------------------------------- orders

    def _place(self, command: PlaceTrade, account: Account) -> Placed | Taken | Refused | Overloaded:
        earlier = self._known.trades.get(command.trade_id)  # an attempt whose outcome was unknown had committed
        if earlier is not None:
            return Placed(earlier)
        key = (account.customer_id, command.idempotency_key or "")
        earlier = self._known.keys.get(key)
        if earlier is not None:
            return Placed(earlier, replayed=earlier.trade_id != command.trade_id)
        earlier = self._first_of(account, command.client_order_id)
        if earlier is not None:
            return Taken(earlier)
        if account.open_trades >= self._bounds.customer_open_max:
            return Overloaded("customer")
        if command.only_if_accepted:
            refused = groups.refusal(account, command, self._conditions)
            if refused is not None:
                return refused
        events = groups.place(account, command, self._conditions)
        trade = events[0].trade
        if command.idempotency_key:
            self._known.keys[key] = trade
        self._keep(account, trade)
        self._add(account, events)
        return Placed(trade)

    def _add(self, account: Account, events: Iterable[TradeEvent]) -> None:
        """Take these steps in, and those that they mean for other orders of their groups."""
        following = deque(events)
        while following:
            event = following.popleft()
            self._decided.events.append(event)
            if event.status in TERMINAL:  # what ends in this batch is still known to the rest of it
                self._known.trades[event.trade.trade_id] = event.trade
            if event.trade.group is not None:
                following.extendleft(reversed(groups.follow(account, event, self._conditions)))

    def _replace(self, command: ReplaceTrade, account: Account) -> Placed | Taken | Refused | Overloaded | Trade | None:
        """The new trade; else the old one where it has ended, None where there is none, or why it cannot be."""
        earlier = self._known.trades.get(command.trade_id)
        if earlier is not None:
            return Placed(earlier)
        earlier = self._first_of(account, command.client_order_id)
        if earlier is not None:
            return Taken(earlier)
        old = self._trade(account, command.replaces)
        if old is None or old.status in TERMINAL:
            return old
        if account.open_trades >= self._bounds.customer_open_max:
            return Overloaded("customer")
        outcome = trading.replace(account, old, command, self._conditions)
        if isinstance(outcome, Refused):
            return outcome
        trade = next(event.trade for event in outcome if event.step is Step.PLACED)
        self._keep(account, trade)
        self._keep(account, old)
        self._add(account, outcome)
        return Placed(trade)

    def _first_of(self, account: Account, client_order_id: str | None) -> Trade | None:
        return self._known.client_ids.get((account.customer_id, client_order_id)) if client_order_id else None

    def _keep(self, account: Account, trade: Trade) -> None:
        """The rest of the batch knows it, also when it has ended."""
        self._known.trades[trade.trade_id] = trade
        if trade.client_order_id:
            self._known.client_ids[account.customer_id, trade.client_order_id] = trade

    def _cancel(self, command: CancelTrade, account: Account) -> Cancelling | Trade | None:
        """What is being cancelled; else the trade where it has ended, or None where there is none."""
        trade = self._trade(account, command.trade_id)
        if trade is None or trade.status in TERMINAL:
            return trade
        self._keep(account, trade)
        self._add(account, groups.cancel(account, trade))
        return Cancelling([trade])

    def _cancel_all(self, command: CancelAll, account: Account) -> Cancelling:
        """Those that wait go first, so that none of them starts because another one ended."""
        trades = [*reversed(account.waiting), *account.held.values(), *account.working.values()]
        wanted = [each for each in trades if command.symbol in {None, each.symbol}]
        for trade in wanted:
            self._keep(account, trade)
            if trade.status not in TERMINAL:  # else it ended together with another one of its group
                self._add(account, groups.cancel(account, trade, command.reason))
        return Cancelling(wanted)

    def _trade(self, account: Account, trade_id: TradeId) -> Trade | None:
        """A trade of this account, open or finished."""
        trade = account.working.get(trade_id) or account.held.get(trade_id) or account.ended.get(trade_id)
        if trade is None and account.waiting:
            trade = next((each for each in account.waiting if each.trade_id == trade_id), None)
        if trade is None:
            trade = self._known.trades.get(trade_id)
        return trade if trade is not None and trade.customer_id == account.customer_id else None

    # -------------------------------------------------------------- the exchange

    def _take_up(self, command: TakeUp, account: Account) -> bool | None:
        """Claimed by the version of its customer: whoever decides on an older one reads again."""
        trade = account.working.get(command.trade_id)
        if trade is None:
            return None
        self._decided.fenced.add(account.customer_id)
        return trade.cancel_requested

    def _report(self, report: Report, account: Account) -> bool | ReadAgain:
        """Whether the exchange has executed what we have not seen, and nobody will ask for it of himself."""
        trade = self._trade(account, report.trade_id)
        if trade is None:
            self._note_anomaly(Anomaly.UNKNOWN_TRADE, report, account)
            return False
        if report.order is not None and report.order is not trade:
            return ReadAgain("the order was read again: another broker may have sent it")
        unseen = False
        if settlement.contradicts_the_end(trade, report):
            self._decided.strays.append(trade)
        for outcome in settlement.settle(account, trade, report, self._conditions):
            if isinstance(outcome, Anomaly):
                self._note_anomaly(outcome, report, account)
                unseen |= outcome is Anomaly.UNKNOWN_EXECUTION
            elif outcome is Repeat.MORE_TO_COME:
                self._decided.look_soon.append(report.trade_id)
                unseen |= trade.status in TERMINAL or report.filled_quantity > trade.quantity
            elif isinstance(outcome, Repeat):
                self._decided.repeats += 1
            elif isinstance(outcome, TradeEvent):
                self._add(account, [outcome])
            else:
                self._decided.events.append(outcome)
        return unseen

    def _note_anomaly(self, anomaly: Anomaly, report: Report, account: Account) -> None:
        self._decided.anomalies.append((anomaly, report))
        self._decided.doubted.add(account.customer_id)

    # -------------------------------------------------------------- operators

    def _move_cash(self, command: MoveCash, account: Account) -> Booked | Refused:
        earlier = self._known.cash.get(command.reference)
        if earlier is not None:
            return Booked(earlier, replayed=True)
        outcome = trading.move_cash(account, command, self._conditions)
        if isinstance(outcome, Refused):
            return outcome
        self._known.cash[command.reference] = outcome
        self._decided.events.append(outcome)
        return Booked(outcome)

    def _adjust(self, command: AdjustPosition, account: Account) -> Adjusted | Refused:
        if command.reference in self._known.adjusted:
            return Adjusted(None)
        self._advance(account)  # the symbol is halted: what waits in it is refused now, and is not open any more
        outcome = corporate.adjust(account, command)
        if isinstance(outcome, Refused):
            return outcome
        if outcome is not None:
            self._known.adjusted.add(command.reference)
            self._decided.events.append(outcome)
        return Adjusted(outcome)

    def _reset(self, command: ResetAccount, account: Account) -> Reset | Refused:
        if command.reference in self._known.reset:
            return Reset(account.customer_id, replayed=True)
        outcome = reset(account, command)
        if isinstance(outcome, Refused):
            return outcome
        self._known.reset.add(command.reference)
        self._decided.events.append(outcome)
        return Reset(account.customer_id)

    # -------------------------------------------------------------- what follows

    def _advance(self, account: Account) -> None:
        """Start what can start; a long run of refusals goes on in the next batch."""
        steps = trading.start_next(account, self._conditions)
        before = len(self._decided.events)
        for event in islice(steps, max(0, self._steps_left)):  # a step of a group's is several events
            self._add(account, [event])
        self._steps_left -= len(self._decided.events) - before
        if account.waiting and trading.may_start(account, self._conditions):
            self._decided.unfinished.append(account.customer_id)

    def _note_margin(self) -> None:
        """How near each margin account of the batch came to its maintenance requirement: the day's lowest is kept."""
        changed = {customer_of(event) for event in self._decided.events}
        for account in _on_margin(self._decided.touched.values()):
            if account.customer_id in changed:
                figures = credit.margin_figures(account, self._conditions)
                level = MarginLevel(account.customer_id, self._conditions.today, figures.intraday_level)
                self._decided.events.append(level)

    def _number_events(self) -> None:
        """In the order in which they are committed."""
        for event in self._decided.events:
            if isinstance(event, TradeEvent):
                event.seq = self._accounts[event.trade.customer_id].next_event()
                event.at = self._conditions.now


def _on_margin(accounts: Iterable[Account]) -> list[Account]:
    return [account for account in accounts if account.account_type is AccountType.MARGIN]


def customer_of(event: AnyEvent) -> CustomerId:
    """Whose event it is."""
    return event.trade.customer_id if isinstance(event, TradeEvent) else event.customer_id
