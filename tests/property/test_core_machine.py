"""Any interleaving of commands and of the exchange's words keeps every rule of the books.

The machine drives the core as a shard does; beside it runs the naive model (core_model.py). The test run takes at least
50,000 steps. By hand, for as long as you like:

    CORE_MACHINE_EXAMPLES=100000 .venv/bin/python -m pytest -s tests/property/test_core_machine.py
"""

import os
import pickle
from collections import Counter
from collections.abc import Iterable
from datetime import timedelta
from typing import Any, ClassVar
from uuid import UUID

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from broker.core import corporate, settlement, trading
from broker.core.account import Account, rests
from broker.core.conditions import Conditions
from broker.core.corporate import ActionKind, AdjustPosition, CorporateAction
from broker.core.messages import (
    Anomaly,
    CashMoved,
    MoveCash,
    PlaceTrade,
    Refused,
    Repeat,
    ReplaceTrade,
    Report,
    ReportType,
    Restricted,
    Step,
    TradeEvent,
)
from broker.core.money import Money
from broker.core.states import TERMINAL, WORKING
from broker.core.types import (
    AccountType,
    CustomerId,
    Fill,
    OrderType,
    Side,
    Status,
    Symbol,
    TimeInForce,
    Trade,
    TradeId,
)
from tests.builders import NOW, dollars
from tests.property.core_model import Model
from tests.property.core_world import (
    FEES,
    MovingMarket,
    check_start,
    customers,
    figures,
    orders,
    picks,
    prices,
    quantities,
    switches,
    symbols,
    view,
)

EXAMPLES = int(os.environ.get("CORE_MACHINE_EXAMPLES", "0"))
STEPS_MIN = 50_000
STEPS_EACH = 100


class Books(RuleBasedStateMachine):
    """Two customers who pay in cash, two on margin, one market, and an exchange that says anything."""

    steps = 0
    seen: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.on: set[str] = set()
        self.on_for = 0
        self.now = NOW
        self.market = MovingMarket(self.on)
        self.model = Model(FEES)
        self.ids = 0
        self.ended: list[Trade] = []
        self.touched: Account | None = None
        self.accounts = [Account(CustomerId(1001 + n)) for n in range(4)]
        for holder, cash in zip(self.accounts, ("30000", "2000", "12000", "2500"), strict=True):
            if holder.customer_id > 1002:
                holder.account_type, holder.cash.floor = AccountType.MARGIN, -dollars("9000")
            self._move_cash(holder, dollars(cash), view(self.now, self.market, self.on))

    def _tick(self) -> Conditions:
        Books.steps += 1
        self.now += timedelta(seconds=0.4)
        self.on_for -= 1
        if self.on_for < 0:
            self.on.clear()
        return view(self.now, self.market, self.on)

    def _new_id(self) -> TradeId:
        self.ids += 1
        return TradeId(UUID(int=self.ids))

    def _take(self, holder: Account, outcomes: Iterable[Any], world: Conditions) -> None:
        for event in outcomes:
            self.model.take(event, world.today)
            if isinstance(event, TradeEvent):
                Books.seen[event.step] += 1
                if event.step is Step.STARTED:
                    check_start(holder, event.trade, world, self.on)
                elif event.status in TERMINAL and event.step in {Step.EXECUTED, Step.ENDED}:
                    Books.seen[event.status] += 1
                    self.ended.append(event.trade)
            elif isinstance(event, Restricted):
                self.on.add(f"stop {event.customer_id}")
                self.on_for = 5
                Books.seen["restricted"] += 1

    def _advance(self, holder: Account, world: Conditions) -> None:
        self._take(holder, trading.start_next(holder, world), world)
        self.touched = holder
        assert not holder.waiting or holder.turns, "a trade waits and nobody's turn it is"

    def _pick(self, pick: int) -> tuple[Account, Trade] | None:
        """An open trade (of those that wait, the first of each customer), or one that ended lately."""
        if pick < 12 or not self.ended:
            trades = [trade for each in self.accounts for trade in (*each.working.values(), *list(each.waiting)[:1])]
        else:
            trades = self.ended[-4:]
        trade = trades[-1 - pick % len(trades)] if trades else None
        return trade and (self._holder(trade), trade)

    def _holder(self, trade: Trade) -> Account:
        return self.accounts[trade.customer_id - 1001]

    # ------------------------------------------------------------ customers

    @rule(**orders)
    def buy(self, who: int, symbol: Symbol, **order: Any) -> None:
        self._place(self.accounts[who], Side.BUY, symbol, **order)

    @rule(who=customers, symbol=symbols, **figures)
    def buy_at_once(self, who: int, symbol: Symbol, quantity: int, price: Money) -> None:
        """So that there are shares to sell."""
        self.market.asks[symbol] = price
        kind = (OrderType.MARKET, TimeInForce.DAY, price, price, "fill")
        self._place(self.accounts[who], Side.BUY, symbol, quantity, *kind)

    @rule(who=customers, symbol=symbols, **figures)
    def rest(self, who: int, symbol: Symbol, quantity: int, price: Money) -> None:
        """So that there are orders to replace."""
        self.market.asks[symbol] = Money(2 * price)
        kind = (OrderType.LIMIT, TimeInForce.GTC, price, price, "accept")
        self._place(self.accounts[who], Side.BUY, symbol, quantity, *kind)

    @rule(**orders)
    def sell(self, who: int, symbol: Symbol, quantity: int, **order: Any) -> None:
        """Mostly of what somebody has, and not more."""
        holder = self.accounts[who]
        for each in (*self.accounts[who:], *self.accounts[:who]):
            there = [name for name, position in each.positions.items() if position.available]
            if there and quantity < 26:
                holder, symbol = each, there[quantity % len(there)]
                quantity = min(quantity, each.positions[symbol].available)
                break
        self._place(holder, Side.SELL, symbol, quantity, **order)

    def _place(self, holder, side, symbol, quantity, type_, time_in_force, limit, stop, then) -> None:
        world = self._tick()
        command = PlaceTrade(
            self._new_id(),
            holder.customer_id,
            symbol,
            side,
            quantity,
            order_type=type_,
            time_in_force=time_in_force,
            limit_price=limit if type_ in {OrderType.LIMIT, OrderType.STOP_LIMIT} else None,
            stop_price=stop if type_ in {OrderType.STOP, OrderType.STOP_LIMIT} else None,
        )
        before = pickle.dumps(holder)
        estimate = trading.estimate(holder, command, world)
        assert pickle.dumps(holder) == before, "an estimate changes nothing"
        is_next = not holder.turns
        events = trading.place(holder, command, world)
        self._take(holder, events, world)
        self._advance(holder, world)
        trade = events[0].trade
        if is_next and trade.status is Status.REJECTED:
            assert estimate.refusals[0].reason == trade.reason
            Books.seen[estimate.refusals[0].refusal] += 1
        elif is_next:
            assert (estimate.refusals, estimate.hold) == ([], trade.hold)
        if then and trade.status is Status.IN_PROGRESS:
            if then == "accept":
                self._report(holder, Report(trade.trade_id, ReportType.ACCEPTED, "sim"), world)
            else:
                self._fill(trade, trade.quantity if then == "fill" else 1, self._fair(trade), world)

    @rule(pick=picks)
    def cancel(self, pick: int) -> None:
        picked, world = self._pick(pick), self._tick()
        if picked and picked[1].status not in TERMINAL:
            holder, trade = picked
            self._take(holder, trading.cancel(holder, trade), world)
            assert trading.cancel(holder, trade) == [] if trade.status not in TERMINAL else True
            self._advance(holder, world)

    @rule(pick=picks, quantity=st.none() | quantities, limit=st.none() | prices, stop=st.none() | prices)
    def replace(self, pick: int, quantity: int | None, limit: Money | None, stop: Money | None) -> None:
        picked, world = self._pick(pick), self._tick()
        if picked is None or picked[1].status in TERMINAL:
            return
        holder, old = picked
        limit, stop = (price if has else None for price, has in ((limit, old.limit_price), (stop, old.stop_price)))
        command = ReplaceTrade(self._new_id(), holder.customer_id, old.trade_id, quantity, limit, stop)
        before = pickle.dumps((holder, old))
        outcome = trading.replace(holder, old, command, world)
        if isinstance(outcome, Refused):
            Books.seen[outcome.refusal] += 1
            assert pickle.dumps((holder, old)) == before
        else:
            Books.seen["replacing"] += outcome[-1].step is Step.STARTED
            self._take(holder, outcome, world)
        self._advance(holder, world)

    # ------------------------------------------------------------ the exchange

    @rule(pick=picks, how=st.sampled_from(["all", "part", "part", "dear", "wild"]), again=picks, **figures)
    def fill(self, pick: int, how: str, again: int, quantity: int, price: Money) -> None:
        """A fill of any trade: new or repeated, possible or not."""
        picked, world = self._pick(pick), self._tick()
        if picked is None:
            return
        trade = picked[1]
        if how != "wild" and trade.leaves_quantity:
            quantity = min(quantity, trade.leaves_quantity) if how == "part" else trade.leaves_quantity
            price = Money(self._fair(trade) + (how == "dear"))
        known = list(trade.executions)
        self._fill(trade, quantity, price, world, known[again % len(known)] if known and again > 12 else None)

    def _fair(self, trade: Trade) -> Money:
        """A price at which an honest exchange could trade."""
        if trade.limit_price is not None or trade.max_price is None:
            return trade.limit_price or self.market.bid(trade.symbol) or Money(500_000)
        return Money(max(1, (trade.max_price - trade.filled_value) // trade.leaves_quantity))

    def _fill(self, trade: Trade, quantity: int, price: Money, world: Conditions, known: str | None = None) -> None:
        self.ids += 1
        fill, execution_id = Fill(quantity, price), known or f"e{self.ids}"
        self._report(self._holder(trade), Report(trade.trade_id, ReportType.FILLED, "sim", execution_id, fill), world)

    @rule(pick=picks, type_=st.sampled_from(["ACCEPTED", "ACCEPTED", "ACCEPTED", "REPLACED"]), more=st.booleans())
    def accept(self, pick: int, type_: str, more: bool) -> None:
        self._word(pick, type_, int(more), None)

    @rule(
        pick=picks,
        type_=st.sampled_from(["REJECTED", "CANCELLED", "EXPIRED"]),
        more=st.integers(-3, 2),
        reason=st.sampled_from([None, "random error", "max price exceeded"]),
    )
    def end(self, pick: int, type_: str, more: int, reason: str | None) -> None:
        self._word(pick, type_, more, reason)

    def _word(self, pick: int, type_: str, more: int, reason: str | None) -> None:
        """It counts so many shares more than we have seen; an end that counts more must wait."""
        picked, world = self._pick(pick), self._tick()
        if picked:
            holder, trade = picked
            was, filled = trade.status, self.model.orders[trade.trade_id].seen + more
            self._report(holder, Report(trade.trade_id, ReportType(type_), "sim", None, None, filled, reason), world)
            if was in WORKING and type_ != "ACCEPTED":
                assert (trade.status in TERMINAL) == (more <= 0)

    @precondition(lambda self: self.model.said)
    @rule(pick=st.integers(0, 40), corrects=st.booleans(), new=st.booleans(), **figures)
    def take_back(self, pick: int, corrects: bool, new: bool, quantity: int, price: Money) -> None:
        """A bust or a correction of an execution: known, unknown or taken back already."""
        world, said = self._tick(), list(self.model.said)
        trade_id, execution_id = said[-1 - pick % len(said)]
        if pick == 40:
            execution_id = "unknown"
        trade = self.model.orders[trade_id].trade
        holder = self._holder(trade)
        if not corrects:
            self._report(holder, Report(trade_id, ReportType.BUSTED, "sim", execution_id), world)
            return
        self.ids += 1
        fill, new_id = Fill(quantity, price), f"e{self.ids}" if new or pick % 3 else next(iter(trade.executions))
        self._report(holder, Report(trade_id, ReportType.CORRECTED, "sim", new_id, fill, corrects=execution_id), world)

    def _report(self, holder: Account, report: Report, world: Conditions) -> None:
        trade = self.model.orders[report.trade_id].trade
        before = pickle.dumps((holder, trade))
        outcomes = settlement.settle(holder, trade, report, world)
        assert outcomes
        events = [each for each in outcomes if not isinstance(each, Anomaly | Repeat)]
        Books.seen.update(each.value for each in outcomes if isinstance(each, Anomaly | Repeat))
        self._take(holder, events, world)
        after = pickle.dumps((holder, trade))
        assert events or after == before, "nothing was said to happen, and something did"
        again = settlement.settle(holder, trade, report, world)
        assert all(isinstance(each, Anomaly | Repeat) for each in again), f"heard twice: {again}"
        assert pickle.dumps((holder, trade)) == after, "a word that is repeated must change nothing"
        owing = [each.entry for each in events if isinstance(each, TradeEvent) and each.entry]
        if len(owing) == 1 and owing[0].owed_cash:
            assert holder.cash.available == holder.cash.floor, "it owes, and has"
        owed_cash, owed_shares = sum(each.owed_cash for each in owing), sum(each.owed_shares for each in owing)
        assert owed_cash >= 0 <= owed_shares, "a correction pays what its bust left owed, and no more"
        assert bool(owed_cash or owed_shares) == any(isinstance(each, Restricted) for each in events)
        self.model.check_order(trade)
        self._advance(holder, world)

    # ------------------------------------------------------------ operators, companies and the market

    @rule(who=customers, cash=st.integers(-20, 20))
    def move_cash(self, who: int, cash: int) -> None:
        self._move_cash(self.accounts[who], Money(cash * 500 * 9_999), self._tick())

    def _move_cash(self, holder: Account, amount: Money, world: Conditions) -> None:
        outcome = trading.move_cash(holder, MoveCash(holder.customer_id, amount, "r"), world)
        if isinstance(outcome, CashMoved) and amount:
            self._take(holder, [outcome], world)
            assert amount > 0 or holder.cash.available >= 0, "a withdrawal is no loan"
        self._advance(holder, world)

    @rule(symbol=symbols, price=st.none() | prices)
    def quote(self, symbol: Symbol, price: Money | None) -> None:
        self._tick()
        self.market.asks.pop(symbol, None)
        if price is not None:
            self.market.asks[symbol] = price

    @rule(switch=switches)
    def switch(self, switch: str) -> None:
        """On for a while; or a day goes by."""
        self._tick()
        if switch == "night":
            self.now += timedelta(hours=25)
        else:
            self.on.add(switch)
            self.on_for = 5

    @rule(
        kind=st.sampled_from(ActionKind),
        symbol=symbols,
        new=symbols,
        parts=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    )
    def act(self, kind: ActionKind, symbol: Symbol, new: Symbol, parts: tuple[int, int]) -> None:
        if kind is ActionKind.SYMBOL_CHANGE and new == symbol:
            return
        self._tick()
        action = CorporateAction("e", kind, symbol, *parts, Money(123_457), new, Money(parts[0] * 999))
        for holder in self.accounts:
            shares = holder.positions[symbol].balance if symbol in holder.positions else 0
            outcome = corporate.adjust(holder, AdjustPosition(holder.customer_id, action))
            if isinstance(outcome, corporate.PositionAdjusted):
                Books.seen[kind] += 1
                self.model.adjust(outcome, action, shares)
            self.model.check(holder)

    # ------------------------------------------------------------ what must always hold

    @invariant()
    def books_agree(self) -> None:
        """Only what the step touched can have changed: the rest is looked at in the end."""
        if self.touched is not None:
            self._check(self.touched)
            self.touched = None

    def _check(self, holder: Account) -> None:
        self.model.check(holder)
        at_work = [each for each in holder.working.values() if not rests(each) and not each.replaces_at_exchange]
        assert [each.trade_id for each in at_work] == list(holder.turns)
        assert not any(each.acknowledged and each.replaces in holder.working for each in holder.working.values())

    def teardown(self) -> None:
        for holder in self.accounts:
            self._check(holder)
        for order in self.model.orders.values():
            self.model.check_order(order.trade)


@pytest.mark.timeout(0 if EXAMPLES else 600)
def test_the_core_agrees_with_the_naive_model() -> None:
    """At least 50,000 steps; `-s` shows what they came through."""
    Books.steps, Books.seen = 0, Counter()
    examples = EXAMPLES or STEPS_MIN // STEPS_EACH * 6 // 5
    run_state_machine_as_test(Books, settings=settings(max_examples=examples, stateful_step_count=STEPS_EACH))
    seen = ", ".join(f"{what} {times}" for what, times in sorted(Books.seen.items()))
    print(f"{Books.steps} steps: {seen}")  # noqa: T201
    assert Books.steps >= min(STEPS_MIN, examples * STEPS_EACH // 2)
