"""Deliberate mistakes in the real code, each of which the simulation has to notice.

A mutation is a patch of one function, made as a hurried change would make it. One that no seed notices would mean that
the world is too kind, or that nobody looks.
"""

import asyncio
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast
from unittest.mock import patch
from uuid import UUID

from broker.batch import Batch
from broker.core import groups, settlement, trading
from broker.core.account import Account
from broker.core.credit import Case
from broker.core.messages import PlaceTrade, Repeat, Report, ReportType, Step, TradeEvent
from broker.core.money import Money
from broker.core.states import TERMINAL
from broker.core.types import CustomerId, Symbol, TimeInForce, Trade
from broker.db import DatabaseUnavailable, StaleAccounts
from broker.dispatch import Dispatcher
from broker.memory import Memory
from broker.shards import Shard, Shards, _answer
from broker.triggers import Triggers
from tests.sim.scenario import plan_of, run
from tests.sim.world import Violation, _Controls

MUTATIONS: dict[str, tuple[Any, str, Any, str, dict[str, float]]] = {}


def mutation(owner: Any, name: str, rule: str, **faults: float) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """`make(original)` is what stands in the place of `owner.name`; `rule` is said by whoever notices it.

    Where it rarely shows, `faults` are those in which it shows sooner.
    """

    def register(make: Callable[..., Any]) -> Callable[..., Any]:
        MUTATIONS[make.__name__] = (owner, name, make, rule, faults)
        return make

    return register


@contextmanager
def mutated(name: str) -> Iterator[None]:
    """The code with this mistake in it."""
    owner, attribute, make, *_ = MUTATIONS[name]
    with patch.object(owner, attribute, make(getattr(owner, attribute))):
        yield


def seeds_to_catch(name: str, first: int = 0, most: int = 1_000) -> tuple[int, str] | None:
    """How many seeds it takes until one breaks the rule that this breaks, and what is said; None where none does.

    That something else goes wrong is not enough: it might be the mistake's way of being made, and not the mistake.
    """
    *_, rule, faults = MUTATIONS[name]
    with mutated(name):
        for number in range(most):
            plan = plan_of(first + number)
            error = run(replace(plan, faults=replace(plan.faults, **faults))).error
            if isinstance(error, Violation) and re.search(rule, str(error)):
                return number + 1, str(error)
    return None


# ------------------------------------------------------------------ the database


@mutation(Shard, "_claim", "the database refused what was decided")
def the_version_is_not_claimed(_: Any) -> Any:
    async def claim(self: Shard, decided: Any, customers: Any, now: Any, events: Any) -> None:
        await self._store.commit(now, {}, events)

    return claim


@mutation(Shard, "_commit", "told before its commit|is not durable")
def an_unknown_outcome_counts_as_done(original: Any) -> Any:
    async def commit(self: Shard, *arguments: Any) -> None:
        try:
            await original(self, *arguments)
        except DatabaseUnavailable:
            return

    return commit


@mutation(Shard, "_commit", "told before its commit|is not durable")
def a_stale_account_counts_as_done(original: Any) -> Any:
    async def commit(self: Shard, *arguments: Any) -> None:
        try:
            await original(self, *arguments)
        except StaleAccounts:
            return

    return commit


@mutation(Memory, "forget", "stuck|no answer")
def the_cache_is_kept_after_a_failure(_: Any) -> Any:
    return lambda self, items: None


@mutation(Memory, "_unknown_trades", "the database refused what was decided|no answer")
def a_retried_order_is_not_looked_up(original: Any) -> Any:
    def unknown(self: Memory, item: Any) -> Any:
        return original(self, _not_retried(item))

    def _not_retried(item: Any) -> Any:
        class View:
            customer_id, command, retried = item.customer_id, item.command, False

        return View

    return unknown


# ------------------------------------------------------------------ before the commit


@mutation(Shard, "_commit", "was acknowledged, and is not durable")
def acknowledged_before_the_commit(original: Any) -> Any:
    async def commit(self: Shard, decided: Any, now: Any) -> None:
        for item, answer in decided.answers:
            _answer(item, answer)
        await original(self, decided, now)

    return commit


@mutation(Shard, "_commit", "before its start was durable|that nobody placed")
def sent_before_the_commit(original: Any) -> Any:
    async def commit(self: Shard, decided: Any, now: Any) -> None:
        for event in decided.events:
            if isinstance(event, TradeEvent) and event.step is Step.STARTED:
                self._desk.send(event.trade, self._loop.time())
        await original(self, decided, now)

    return commit


@mutation(Shard, "_commit", "told before its commit")
def told_before_the_commit(original: Any) -> Any:
    async def commit(self: Shard, decided: Any, now: Any) -> None:
        for event in decided.events:
            if isinstance(event, TradeEvent):
                self._publisher.publish(event)
        await original(self, decided, now)

    return commit


@mutation(Shards, "report", "a callback about")
def the_callback_is_answered_before_the_commit(_: Any) -> Any:
    async def report(self: Shards, reports: Any) -> set[Any]:
        owners = await self._directory.owners([each.trade_id for each in reports])
        for each in reports:
            if each.trade_id in owners:
                self.submit(owners[each.trade_id], each)
        return set()

    return report


# ------------------------------------------------------------------ commands


@mutation(Shard, "submit", "was never asked for")
def an_order_is_queued_twice(original: Any) -> Any:
    def submit(self: Shard, customer_id: CustomerId, command: Any) -> Any:
        if isinstance(command, PlaceTrade):
            original(self, customer_id, replace(command, trade_id=UUID(int=command.trade_id.int + 1_000)))
        return original(self, customer_id, command)

    return submit


@mutation(Batch, "_place", "the key .* made")
def the_idempotency_key_is_forgotten(original: Any) -> Any:
    def place(self: Batch, command: Any, account: Account) -> Any:
        return original(self, replace(command, idempotency_key=None), account)

    return place


@mutation(Shard, "expire", "was not answered within")
def nobody_is_told_that_it_takes_too_long(_: Any) -> Any:
    return lambda self, now: None


@mutation(trading, "may_start", "reached the exchange after|trades_start_in_order")
def nobody_waits_for_a_turn(_: Any) -> Any:
    return lambda account, conditions: True


@mutation(Batch, "_move_cash", "no answer to MoveCash")
def cash_is_moved_again(original: Any) -> Any:
    def move(self: Batch, command: Any, account: Account) -> Any:
        self._known.cash.clear()
        return original(self, command, account)

    return move


# ------------------------------------------------------------------ settlement


@mutation(settlement, "_release", "in memory, and")
def a_hold_is_released_twice(original: Any) -> Any:
    def release(account: Account, trade: Trade) -> None:
        holding, hold = account.holding(trade), trade.hold
        original(account, trade)
        holding.held = max(0, holding.held - hold)

    return release


@mutation(settlement, "_filled", "execution_pkey")
def a_known_execution_is_settled_again(original: Any) -> Any:
    def filled(account: Account, trade: Trade, report: Report, conditions: Any) -> Any:
        trade.executions.pop(report.execution_id or "", None)
        return original(account, trade, report, conditions)

    return filled


@mutation(settlement, "_filled", "nothing of it is durable|not in the books")
def a_late_fill_is_dropped(original: Any) -> Any:
    def filled(account: Account, trade: Trade, report: Report, conditions: Any) -> Any:
        if trade.status in TERMINAL:
            return (Repeat.NOTHING_NEW,)
        return original(account, trade, report, conditions)

    return filled


@mutation(
    settlement,
    "_ended",
    "not in the books|in suspense",
    **dict.fromkeys(("overfill", "after_end", "too_dear", "restarts", "stops", "rejected", "refused", "kills"), 0),
    **{"parts": 0.9, "no_liquidity": 0.9, "word_late": 0.5, "word_lost": 0.1},
)
def an_end_does_not_wait_for_its_executions(original: Any) -> Any:
    def ended(account: Account, trade: Trade, report: Report, conditions: Any) -> Any:
        return original(account, trade, replace(report, filled_quantity=0), conditions)

    return ended


@mutation(settlement, "_taken_back", "nothing of it is durable|busted was executed")
def a_bust_is_ignored(_: Any) -> Any:
    return lambda account, trade, report: (Repeat.NOTHING_NEW,)


@mutation(settlement, "_take_place", "at the exchange REPLACED|suspense")
def a_replaced_order_goes_on(_: Any) -> Any:
    return lambda account, trade, conditions: []


@mutation(settlement, "_why_not_the_customers", "never_overfilled|stuck")
def an_overfill_is_the_customers(_: Any) -> Any:
    return lambda trade, fill: None


@mutation(settlement, "_apply", "executions_are_settled_once|busts_reverse|should have")
def a_sale_pays_twice(original: Any) -> Any:
    def apply(account: Account, position: Any, entry: Any) -> None:
        if entry.shares < 0:
            entry.cash *= 2
        original(account, position, entry)

    return apply


@mutation(Batch, "_report", "not in the books")
def nobody_asks_for_what_was_taken_back_too_early(original: Any) -> Any:
    def report(self: Batch, *arguments: Any) -> bool:
        original(self, *arguments)
        return False

    return report


# ------------------------------------------------------------------ the desk


@mutation(Dispatcher, "_failed", "was refused without need")
def a_5xx_is_a_refusal(original: Any) -> Any:
    def failed(self: Dispatcher, call: str, error: Any, batch: Any) -> None:
        original(self, call, error, batch)
        if call == "execute":
            reports = [Report(each.trade.trade_id, ReportType.REJECTED, "sim", reason="no answer") for each in batch]
            asyncio.get_running_loop().create_task(self._report(reports))

    return failed


@mutation(Dispatcher, "_send", "stuck|that nobody placed")
def sent_again_under_a_new_id(original: Any) -> Any:
    async def send(self: Dispatcher, trade_ids: Any) -> None:
        for trade_id in trade_ids:
            watched = self._watched.get(trade_id)
            if watched is not None and watched.sends:
                watched.trade = replace(watched.trade, trade_id=UUID(int=trade_id.int + watched.sends))
        await original(self, trade_ids)

    return send


@mutation(Dispatcher, "run_sweep", "stuck")
def nobody_asks_the_exchange(_: Any) -> Any:
    async def run(self: Dispatcher) -> None:
        await asyncio.get_running_loop().create_future()

    return run


@mutation(Dispatcher, "_denied", "was refused without need")
def one_denial_is_believed(original: Any) -> Any:
    def denied(self: Dispatcher, watched: Any) -> list[Report]:
        if watched.taken or watched.trade.acknowledged:
            return [Report(watched.trade.trade_id, ReportType.REJECTED, "sim", reason="unknown order")]
        return list(original(self, watched))

    return denied


@mutation(Dispatcher, "_denied", "stuck")
def nothing_is_sent_again(original: Any) -> Any:
    def denied(self: Dispatcher, watched: Any) -> list[Report]:
        queue = self._outgoing.copy()
        reports = original(self, watched)
        self._outgoing = queue
        self._look_later(watched)
        return list(reports)

    return denied


@mutation(Dispatcher, "cancel", "stuck|was to be cancelled")
def cancels_are_ignored(_: Any) -> Any:
    return lambda self, trade: None


@mutation(Dispatcher, "_refusal", "stuck")
def a_refusal_is_taken_for_a_cancel_of_ours(original: Any) -> Any:
    def refusal(self: Dispatcher, trade_id: Any, answer: Any) -> Report:
        return replace(original(self, trade_id, answer), type=ReportType.ACCEPTED)

    return refusal


@mutation(Dispatcher, "watch", "stuck")
def what_was_found_at_work_is_not_asked_about(_: Any) -> Any:
    return lambda self, trade: self._own(trade)


@mutation(Dispatcher, "done", "the desk still asks about it")
def what_has_ended_is_forgotten_by_nobody(_: Any) -> Any:
    return lambda self, trade_id: None


@mutation(Dispatcher, "owner", "nothing of it is durable|stuck")
def a_report_goes_to_the_wrong_customer(original: Any) -> Any:
    def owner(self: Dispatcher, trade_id: Any) -> Any:
        found = original(self, trade_id)
        return None if found is None else CustomerId(found + 1)

    return owner


# ------------------------------------------------------------------ recovery


@mutation(Shards, "recover", "stuck")
def recovery_is_skipped(_: Any) -> Any:
    async def recover(self: Shards, versions: Any) -> None:
        """Somebody else will."""

    return recover


@mutation(Shard, "_again", "a callback about")
def words_that_could_not_be_committed_count_as_taken(original: Any) -> Any:
    def again(self: Shard, items: Any, why: str) -> None:
        for item in items:
            if isinstance(item.command, Report):
                _answer(item, False)
        original(self, [item for item in items if not isinstance(item.command, Report)], why)

    return again


@mutation(Memory, "_remember", "is held, and its price was reached")
def what_was_found_on_hold_is_not_watched_for(_: Any) -> Any:
    def remember(self: Memory, account: Account) -> None:
        self.accounts[account.customer_id] = account
        self._count(account)
        for trade in account.working.values():
            self._desk.watch(trade)

    return remember


# ------------------------------------------------------------------ what was asked for


def _with(**change: Callable[[PlaceTrade], Any]) -> Any:
    """What is placed is not quite what was asked for."""

    def make(original: Any) -> Any:
        def new_trade(account: Account, command: PlaceTrade, conditions: Any) -> Trade:
            other = {name: of(command) for name, of in change.items()}
            return cast("Trade", original(account, replace(command, **other), conditions))

        return new_trade

    return make


@mutation(trading, "new_trade", "asked for with quantity")
def one_share_more(original: Any) -> Any:
    return _with(quantity=lambda command: command.quantity + 1)(original)


@mutation(trading, "new_trade", "asked for with symbol")
def another_symbol(original: Any) -> Any:
    return _with(symbol=lambda _: Symbol("MSFT"))(original)


@mutation(trading, "new_trade", "asked for with limit_price")
def a_cent_more(original: Any) -> Any:
    return _with(limit_price=lambda command: command.limit_price and Money(command.limit_price + 100))(original)


@mutation(trading, "new_trade", "asked for with time_in_force")
def what_was_to_be_immediate_rests(original: Any) -> Any:
    lasts = {TimeInForce.IOC: TimeInForce.GTC}
    return _with(time_in_force=lambda command: lasts.get(command.time_in_force, command.time_in_force))(original)


@mutation(trading, "_stand_in", "asked for with quantity")
def a_replacement_is_for_one_share_more(original: Any) -> Any:
    def stand_in(account: Account, old: Trade, wanted: PlaceTrade, conditions: Any) -> Any:
        return original(account, old, replace(wanted, quantity=wanted.quantity + 1), conditions)

    return stand_in


@mutation(Batch, "_move_cash", "again was never asked for")
def a_deposit_is_booked_twice(original: Any) -> Any:
    def move(self: Batch, command: Any, account: Account) -> Any:
        answer = original(self, command, account)
        if command.amount > 0 and not getattr(answer, "replayed", True):
            original(self, replace(command, reference=f"{command.reference} again"), account)
        return answer

    return move


# ------------------------------------------------------------------ what waits, and what is let in


@mutation(Triggers, "_look", "is held, and its price was reached")
def nobody_looks_at_prices(_: Any) -> Any:
    return lambda self, held, price: None


@mutation(groups, "_trigger", "is held, and its price was reached: Held")
def a_stop_loss_goes_out_only_when_it_stands_alone(original: Any) -> Any:
    def trigger(account: Account, trade: Trade, stop: Money, conditions: Any) -> Any:
        return [] if groups._others(account, trade) else original(account, trade, stop, conditions)

    return trigger


@mutation(Case, "shares", "was refused without need.*insufficient shares")
def of_shares_one_is_kept_back(original: Any) -> Any:
    return property(lambda self: original.fget(self) - 1)


@mutation(Case, "__post_init__", "was refused without need.*insufficient funds")
def only_half_of_the_cash_counts(original: Any) -> Any:
    def init(self: Case) -> None:
        original(self)
        self.funds = Money(self.funds // 2)

    return init


@mutation(_Controls, "stopped", "was refused without need.*trading stopped")
def everybody_is_stopped_with_whoever_owes(_: Any) -> Any:
    return lambda self, customer_id: next(iter(self.restricted_.values()), None)


# ------------------------------------------------------------------ keys


@mutation(Batch, "_first_of", "was answered with")
def a_client_order_id_is_anybodys(_: Any) -> Any:
    def first_of(self: Batch, account: Account, client_order_id: str | None) -> Trade | None:
        known = self._known.client_ids.items()
        return next((trade for (_, id_), trade in known if id_ == client_order_id), None)

    return first_of


@mutation(Batch, "_keep", "the database refused what was decided|the key|nobody knows it")
def the_rest_of_the_batch_does_not_know_it(_: Any) -> Any:
    return lambda self, account, trade: None
