"""Any interleaving of commands and reports keeps every rule of the books.

The machine drives the core as a shard does; beside it runs a naive model that only adds up what was posted.
"""

from collections import Counter
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from broker.core import trading
from broker.core.account import Account
from broker.core.messages import Anomaly, MoveCash, Repeat, Report, ReportType, TradeEvent
from broker.core.money import Money
from broker.core.postings import CASH, cash_postings, fill_postings
from broker.core.states import TERMINAL, TRANSITIONS
from broker.core.types import Fill, Side, Status, Symbol, Trade
from tests.builders import AAPL, FixedMarket, account, place

CLEARING, EXTERNAL = -1, -2
SYMBOLS = [AAPL, Symbol("MSFT")]
quantities = st.integers(1, 30)
prices = st.integers(1, 500_0000).map(Money)


class Books(RuleBasedStateMachine):
    """Two customers, one market, an exchange that says anything."""

    @initialize(cash=st.lists(st.integers(0, 100_000), min_size=2, max_size=2))
    def open_accounts(self, cash: list[int]) -> None:
        self.market = FixedMarket({"AAPL": "190.20", "MSFT": "415.50"})
        self.accounts = [account(), account()]
        self.accounts[1].customer_id = 1002  # type: ignore[assignment]
        self.posted: Counter[tuple[int, str]] = Counter()
        self.trades: list[Trade] = []
        self.history: dict[Any, list[Status]] = {}
        self.started: list[Trade] = []
        self.executions = 0
        for holder, dollars in zip(self.accounts, cash, strict=True):
            self.move(holder, Money(dollars * 10_000))

    # ------------------------------------------------------------ what the model does

    def post(self, lines: Any) -> None:
        """Only balanced transfers are posted."""
        sums: Counter[str] = Counter()
        for line in lines:
            sums[line.asset] += line.amount
            self.posted[line.owner_id, line.asset] += line.amount
        assert not any(sums.values()), f"unbalanced: {lines}"

    def move(self, holder: Account, amount: Money) -> None:
        outcome = trading.move_cash(holder, MoveCash(holder.customer_id, amount, "r"))
        if isinstance(outcome, trading.CashMoved) and amount:
            self.post(cash_postings(holder.customer_id, EXTERNAL, amount))

    def note(self, event: TradeEvent) -> None:
        """Follow each trade's history; it must be a path through the table."""
        history = self.history.setdefault(event.trade.trade_id, [Status.PLACED])
        assert event.status in TRANSITIONS[history[-1]]
        history.append(event.status)
        assert event.number == len(history)
        if event.status is Status.IN_PROGRESS:
            self.started.append(event.trade)
        fill = event.report.fill if event.report else None
        if fill:
            trade = event.trade
            self.post(fill_postings(trade.customer_id, CLEARING, trade.side, trade.symbol, fill.last_qty, fill.last_px))

    def advance(self, holder: Account) -> None:
        for event in trading.start_next(holder, self.market, collar_bps=500):
            self.note(event)

    # ------------------------------------------------------------ what can happen

    @rule(who=st.integers(0, 1), side=st.sampled_from(Side), quantity=quantities, symbol=st.sampled_from(SYMBOLS))
    def place_trade(self, who: int, side: Side, quantity: int, symbol: Symbol) -> None:
        holder = self.accounts[who]
        self.trades.append(place(holder, side, quantity, symbol, number=len(self.trades)))
        self.advance(holder)

    @rule(who=st.integers(0, 1), dollars=st.integers(-50_000, 50_000))
    def move_cash(self, who: int, dollars: int) -> None:
        self.move(self.accounts[who], Money(dollars * 10_000))
        self.advance(self.accounts[who])

    @rule(symbol=st.sampled_from(SYMBOLS), price=st.none() | prices)
    def quote(self, symbol: Symbol, price: Money | None) -> None:
        if price is None:
            self.market.asks.pop(symbol, None)
        else:
            self.market.asks[symbol] = price

    @precondition(lambda self: self.trades)
    @rule(data=st.data(), quantity=quantities, price=prices, known=st.booleans())
    def fill(self, data: st.DataObject, quantity: int, price: Money, known: bool) -> None:
        """A fill of any trade, at work or not, new or repeated, possible or not."""
        trade = data.draw(st.sampled_from(self.trades))
        self.executions += 1
        id_ = next(iter(trade.executions), "none") if known else f"e{self.executions}"
        if data.draw(st.booleans()):
            quantity = max(1, trade.leaves_quantity)
            if trade.side is Side.BUY and trade.hold:
                price = Money(max(1, trade.hold // quantity))
        self.report(trade, Report(trade.trade_id, ReportType.FILLED, "sim", id_, Fill(quantity, price), quantity))

    @precondition(lambda self: self.trades)
    @rule(
        data=st.data(),
        type_=st.sampled_from(["REJECTED", "CANCELLED", "EXPIRED", "ACCEPTED"]),
        filled=st.integers(0, 30),
        reason=st.sampled_from([None, "random error", "max price exceeded"]),
    )
    def end(self, data: st.DataObject, type_: str, filled: int, reason: str | None) -> None:
        trade = data.draw(st.sampled_from(self.trades))
        self.report(trade, Report(trade.trade_id, ReportType(type_), "sim", None, None, filled, reason))

    def report(self, trade: Trade, report: Report) -> None:
        holder = next(each for each in self.accounts if each.customer_id == trade.customer_id)
        before = (holder.cash.balance, holder.cash.held, trade.hold, trade.status, trade.filled_quantity)
        outcome = trading.settle(holder, trade, report)
        if isinstance(outcome, TradeEvent):
            self.note(outcome)
            again = trading.settle(holder, trade, report)
            assert again is Repeat.NOTHING_NEW, "a word that is repeated must change nothing"
            self.advance(holder)
        else:
            assert isinstance(outcome, Anomaly | Repeat)
            assert before == (holder.cash.balance, holder.cash.held, trade.hold, trade.status, trade.filled_quantity)

    # ------------------------------------------------------------ what must always hold

    @invariant()
    def balances_are_their_postings(self) -> None:
        for holder in getattr(self, "accounts", ()):
            assert holder.cash.balance == self.posted[holder.customer_id, CASH]
            for symbol, position in holder.positions.items():
                assert position.balance == self.posted[holder.customer_id, symbol]

    @invariant()
    def nothing_is_overdrawn_and_holds_are_those_of_the_trades_at_work(self) -> None:
        for holder in getattr(self, "accounts", ()):
            held: Counter[str] = Counter()
            for trade in self.trades:
                if trade.customer_id == holder.customer_id:
                    held[CASH if trade.side is Side.BUY else trade.symbol] += trade.hold
            assert holder.cash.held == held[CASH]
            assert holder.cash.available >= 0
            for symbol, position in holder.positions.items():
                assert position.held == held[symbol]
                assert position.available >= 0

    @invariant()
    def trades_agree_with_their_executions(self) -> None:
        for trade in getattr(self, "trades", ()):
            assert trade.filled_quantity == sum(fill.last_qty for fill in trade.executions.values()) <= trade.quantity
            assert trade.filled_value == sum(fill.last_qty * fill.last_px for fill in trade.executions.values())
            assert trade.status not in TERMINAL or trade.hold == 0
            assert (trade.status is Status.FILLED) == (trade.filled_quantity == trade.quantity)

    @invariant()
    def one_trade_at_a_time_in_the_order_placed(self) -> None:
        for holder in getattr(self, "accounts", ()):
            assert len(holder.working) <= 1
            assert not holder.waiting or holder.working, "a trade waits and nothing is at work"
            seqs = [trade.seq for trade in self.started if trade.customer_id == holder.customer_id]
            assert seqs == sorted(seqs)


Books.TestCase.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
TestBooks = Books.TestCase
