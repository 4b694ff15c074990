"""Any interleaving of a customer's commands, of prices, and of the exchange's words keeps the rules of order groups.

Of two exits at most one can trade at any moment, no more is sold than was bought, what is reserved is what open orders
reserve, and nothing that is held here waits for something that cannot come any more.

By hand, for longer: GROUPS_MACHINE_EXAMPLES=5000 .venv/bin/python -m pytest tests/property/test_groups_machine.py
"""

import os
from collections import defaultdict
from datetime import timedelta
from uuid import UUID

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from broker.core import groups, trailing
from broker.core.conditions import Policy
from broker.core.messages import CancelAll, CancelTrade, Leg, PlaceTrade, ReplaceTrade, Report, ReportType, Wake
from broker.core.money import Money
from broker.core.states import TERMINAL, WORKING
from broker.core.types import Fill, OrderClass, OrderType, Role, Side, Status, TimeInForce, Trade, TradeId
from tests.builders import AAPL, FixedControls, FixedMarket, account, dollars
from tests.group_world import GroupWorld

prices = st.integers(170, 210).map(lambda price: dollars(f"{price}.00"))
picks = st.integers(0, 30)
EXITS = {Role.TAKE_PROFIT, Role.STOP_LOSS}


class Groups(RuleBasedStateMachine):
    """One customer; its exchange takes, fills, refuses and ends orders as it likes, and cancels late or never."""

    @initialize(
        cash=st.sampled_from(["100000", "4000"]),
        held=st.sampled_from([0, 15]),
        begun=st.lists(st.sampled_from(OrderClass), max_size=2),
        is_filled=st.booleans(),
    )
    def begin(self, cash: str, held: int, begun: list[OrderClass], is_filled: bool) -> None:
        self.market = FixedMarket({"AAPL": "190.00"})
        self.is_open = True
        policy = Policy(is_open=lambda _: self.is_open, session_end=lambda at: at + timedelta(hours=6))
        self.world = GroupWorld(account(cash=cash, shares={"AAPL": held}), self.market, policy)
        self.held_before = held
        self.ids = 0
        for kind in begun:
            side, profit, loss = Side.BUY, dollars("200.00"), dollars("180.00")
            self.place(kind, side, 10, None, profit, loss, None, only_profit=False, waits=False)
            if is_filled and kind is not OrderClass.OCO:
                self.fill(0, 10)

    def new_id(self) -> TradeId:
        self.ids += 1
        return TradeId(UUID(int=self.ids))

    @property
    def holder(self):  # type: ignore[no-untyped-def]
        return self.world.holder

    def pick(self, trades: list[Trade], number: int) -> Trade | None:
        return trades[number % len(trades)] if trades else None

    def open_trades(self) -> list[Trade]:
        return [*self.holder.waiting, *self.holder.held.values(), *self.holder.working.values()]

    # -------------------------------------------------------------- the customer

    @rule(
        kind=st.sampled_from(OrderClass),
        side=st.sampled_from(Side),
        quantity=st.integers(1, 12),
        limit=st.none() | prices,
        profit=prices,
        loss=prices,
        stop_limit=st.none() | prices,
        only_profit=st.booleans(),
        waits=st.booleans(),
    )
    def place(
        self,
        kind: OrderClass,
        side: Side,
        quantity: int,
        limit: Money | None,
        profit: Money,
        loss: Money,
        stop_limit: Money | None,
        only_profit: bool,
        waits: bool,
    ) -> None:
        take_profit, stop_loss = Leg(self.new_id(), profit), Leg(self.new_id(), stop_limit, loss)
        legs: dict[OrderClass, tuple[Leg, ...]] = {
            OrderClass.SIMPLE: (),
            OrderClass.BRACKET: (take_profit, stop_loss),
            OrderClass.OTO: (take_profit if only_profit else stop_loss,),
            OrderClass.OCO: (stop_loss,),
        }
        limit = profit if kind is OrderClass.OCO else limit
        type_ = OrderType.MARKET if limit is None else OrderType.LIMIT
        self.world.do(
            PlaceTrade(
                self.new_id(),
                self.holder.customer_id,
                AAPL,
                side,
                quantity,
                None,
                type_,
                TimeInForce.GTC if kind is OrderClass.OCO else TimeInForce.DAY,
                limit,
                order_class=kind,
                legs=legs[kind],
                waits_for_open=waits,
            )
        )

    @rule(side=st.sampled_from(Side), quantity=st.integers(1, 12), bps=st.integers(1, 900), by_amount=st.booleans())
    def trail(self, side: Side, quantity: int, bps: int, by_amount: bool) -> None:
        amount, part = (Money(bps * 100), None) if by_amount else (None, bps)
        self.world.do(
            PlaceTrade(
                self.new_id(),
                self.holder.customer_id,
                AAPL,
                side,
                quantity,
                None,
                OrderType.TRAILING_STOP,
                trail_amount=amount,
                trail_bps=part,
            )
        )

    @rule(which=picks)
    def cancel(self, which: int) -> None:
        trade = self.pick(self.open_trades(), which)
        if trade is not None:
            self.world.do(CancelTrade(self.holder.customer_id, trade.trade_id))

    @rule()
    def cancel_all(self) -> None:
        self.world.do(CancelAll(self.holder.customer_id))
        assert not self.holder.waiting
        assert all(each.role in EXITS for each in self.holder.held.values()), "their entries may still fill"

    @rule(which=picks, price=prices)
    def replace(self, which: int, price: Money) -> None:
        trade = self.pick(self.open_trades(), which)
        if trade is not None:
            command = ReplaceTrade(self.new_id(), self.holder.customer_id, trade.trade_id)
            command.limit_price = price if trade.limit_price is not None else None
            command.stop_price = price if trade.stop_price is not None else None
            command.trail = Money(200) if trade.order_type is OrderType.TRAILING_STOP else None
            self.world.do(command)

    # -------------------------------------------------------------- the market

    @rule(price=prices)
    def move(self, price: Money) -> None:
        self.market.asks[AAPL] = price
        for trade in [*self.holder.held.values()]:
            stop = trailing.stop_price(trade, price) if trade.order_type is OrderType.TRAILING_STOP else None
            self.world.do(Wake(self.holder.customer_id, trade.trade_id, price, stop))

    @rule(price=prices)
    def trigger_trailing(self, price: Money) -> None:
        for trade in [*self.holder.held.values()]:
            self.world.do(Wake(self.holder.customer_id, trade.trade_id, price, price))

    @rule()
    def open_or_close(self) -> None:
        self.is_open = not self.is_open

    @rule()
    def halt_or_resume(self) -> None:
        is_halted = self.world.controls.halted(AAPL) is not None
        self.world.controls = FixedControls() if is_halted else FixedControls(halt_AAPL="news")

    @rule(hours=st.integers(1, 7))
    def time_passes(self, hours: int) -> None:
        self.world.now += timedelta(hours=hours)
        for trade in [*self.holder.held.values()]:
            self.world.do(Wake(self.holder.customer_id, trade.trade_id))

    # -------------------------------------------------------------- the exchange

    def say(self, trade: Trade, type_: ReportType, fill: Fill | None = None) -> None:
        filled = trade.filled_quantity + (fill.last_qty if fill else 0)
        self.world.executions += 1
        id_ = f"e{self.world.executions}" if fill else None
        self.world.do(Report(trade.trade_id, type_, "sim", id_, fill, filled, "so it is"))

    @rule(which=picks)
    def accept(self, which: int) -> None:
        trade = self.pick([*self.holder.working.values()], which)
        if trade is not None and trade.status is Status.IN_PROGRESS:
            self.say(trade, ReportType.ACCEPTED)

    @rule(which=picks, quantity=st.integers(1, 12) | st.just(12))
    def fill(self, which: int, quantity: int) -> None:
        """Also what was to be cancelled: the exchange was faster. What is to replace another one first does so."""
        trade = self.pick([*self.holder.working.values()], which)
        if trade is None:
            return
        if trade.replaces_at_exchange and not trade.acknowledged:
            self.say(trade, ReportType.ACCEPTED)
        price = trade.limit_price or Money(min(self.market.asks[AAPL], (trade.max_price or 10**9) // trade.quantity))
        self.say(trade, ReportType.PARTIALLY_FILLED, Fill(min(quantity, trade.leaves_quantity), Money(price)))

    @rule(which=picks, type_=st.sampled_from([ReportType.CANCELLED, ReportType.EXPIRED, ReportType.REJECTED]))
    def end(self, which: int, type_: ReportType) -> None:
        trade = self.pick([*self.holder.working.values()], which)
        if trade is None or (type_ is ReportType.REJECTED and (trade.acknowledged or trade.filled_quantity)):
            return
        if trade.replaces_at_exchange and not trade.acknowledged:
            type_ = ReportType.REJECTED
        self.say(trade, type_)
        # A replacement of an order that has ended is refused, sooner or later.
        for each in [*self.holder.working.values()]:
            if each.replaces == trade.trade_id and not each.acknowledged:
                self.say(each, ReportType.REJECTED)

    # -------------------------------------------------------------- the rules

    @invariant()
    def what_is_reserved_is_what_open_orders_reserve(self) -> None:
        holds: dict[Side, int] = defaultdict(int)
        for trade in self.open_trades():
            holds[trade.side] += trade.hold
        assert self.holder.cash.held == holds[Side.BUY]
        position = self.holder.positions.get(AAPL)
        assert (position.held if position else 0) == holds[Side.SELL]
        assert all(trade.hold == 0 for trade in self.world.trades.values() if trade.status in TERMINAL)

    @invariant()
    def of_two_exits_one_can_trade(self) -> None:
        at_exchange: dict[TradeId, list[Trade]] = defaultdict(list)
        for trade in self.holder.working.values():
            if trade.group is not None and trade.role in EXITS:
                at_exchange[trade.group].append(trade)
        for trades in at_exchange.values():
            assert len({each.role for each in trades}) == 1, trades
            assert sum(each.hold for each in trades if each.side is Side.SELL) <= max(t.quantity for t in trades)

    @invariant()
    def no_group_sells_more_than_it_bought(self) -> None:
        bought: dict[TradeId, int] = defaultdict(int)
        sold: dict[TradeId, int] = defaultdict(int)
        for trade in self.world.trades.values():
            if trade.group is not None and trade.order_class is not OrderClass.OCO:
                (sold if trade.role in EXITS else bought)[trade.group] += trade.filled_quantity
        assert all(sold[each] <= bought[each] for each in sold)

    @invariant()
    def nothing_is_held_for_what_cannot_come(self) -> None:
        for trade in self.holder.held.values():
            assert trade.status is Status.HELD
            if trade.group is None or trade.role is Role.ENTRY:
                assert trade.order_type in {OrderType.MARKET, OrderType.TRAILING_STOP}
                assert groups.held_with(self.holder, trade)[0] is trade, "nobody would wake it up"
                continue
            others = [each for each in groups.open_orders(self.holder, trade.group) if each is not trade]
            if trade.triggered:
                assert all(each.cancel_requested for each in others), others
            elif not groups.needs_no_price(trade):
                assert others, trade  # its entry, or the exit that it is the other one of
            watched = groups.held_with(self.holder, trade)
            waits_for_entry = any(each.role is Role.ENTRY for each in others)
            assert trade in watched or waits_for_entry or trade.role is Role.ENTRY
            going = [each for each in others if each.role in EXITS and each.status in WORKING]
            assert all(trade.quantity <= max(each.quantity for each in going) for _ in going[:1])

    @invariant()
    def shares_and_cash_are_there(self) -> None:
        position = self.holder.positions.get(AAPL)
        bought = sum(t.filled_quantity for t in self.world.trades.values() if t.side is Side.BUY)
        sold = sum(t.filled_quantity for t in self.world.trades.values() if t.side is Side.SELL)
        assert (position.balance if position else 0) == self.held_before + bought - sold >= 0
        assert self.holder.cash.available >= 0

    def teardown(self) -> None:
        """Whatever happened: when the customer cancels everything and the exchange says so, nothing is left."""
        self.world.do(CancelAll(self.holder.customer_id))
        for _ in range(len(self.world.trades) + 1):
            for trade in [*self.holder.working.values()]:
                if trade.trade_id in self.holder.working:
                    never = trade.replaces_at_exchange and not trade.acknowledged
                    self.say(trade, ReportType.REJECTED if never else ReportType.CANCELLED)
        self.world.do(CancelAll(self.holder.customer_id))
        for trade in [*self.holder.working.values()]:
            self.say(trade, ReportType.CANCELLED)
        assert self.open_trades() == []
        assert self.holder.cash.held == 0


def test_order_groups_keep_their_rules_whatever_happens() -> None:
    examples = int(os.environ.get("GROUPS_MACHINE_EXAMPLES", "400"))
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Groups, settings=settings(max_examples=examples, stateful_step_count=40, deadline=None, derandomize=True)
    )
