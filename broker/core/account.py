"""What a customer has, as its shard holds it in memory while it decides."""

from collections import deque
from dataclasses import dataclass, field
from datetime import datetime

from broker.core.day_trades import DayTrades
from broker.core.money import Money
from broker.core.states import TERMINAL
from broker.core.types import AUCTIONS, AccountType, CustomerId, OrderType, Side, Symbol, Trade, TradeId


@dataclass(slots=True)
class Holding:
    """Cash (Money) or shares (whole): the same figures as a row of the table account."""

    balance: int = 0
    held: int = 0
    floor: int = 0  # how low the balance may go with everything reserved taken off: below 0 only for margin cash
    cost: Money = Money(0)  # of shares: what those that are there cost
    gain: Money = Money(0)  # of shares: what sales have brought above their cost

    @property
    def available(self) -> int:
        """What a sale or a withdrawal may take."""
        return self.balance - self.held

    def reserve(self, amount: int) -> None:
        """Put aside what a trade may need; the caller has checked that it is there."""
        assert 0 <= amount <= self.available - self.floor, f"reserve {amount} of {self}"
        self.held += amount

    def release(self, amount: int) -> None:
        """Give back what a trade no longer needs."""
        assert 0 <= amount <= self.held, f"release {amount} of {self}"
        self.held -= amount

    def add(self, amount: int) -> None:
        """Apply a posting; what is left must still cover what is reserved."""
        self.balance += amount
        assert amount >= 0 or self.available >= self.floor, f"posting {amount} overdraws {self}"


@dataclass(slots=True)
class Account:
    """One customer: cash, positions, and the trades that are not finished. Its one writer is its shard."""

    customer_id: CustomerId
    account_type: AccountType = AccountType.CASH
    version: int = 0  # of its cash row, as read or as last committed
    last_seq: int = 0  # of its trades
    last_event: int = 0  # the seq of its newest event
    cash: Holding = field(default_factory=Holding)
    positions: dict[Symbol, Holding] = field(default_factory=dict)
    waiting: deque[Trade] = field(default_factory=deque)  # for their turn, oldest first
    held: dict[TradeId, Trade] = field(default_factory=dict)  # here: for their entry, their price or the opening
    working: dict[TradeId, Trade] = field(default_factory=dict)  # at the exchange
    groups: dict[TradeId, list[Trade]] = field(default_factory=dict)  # of which an order is open: see join_group
    ended: dict[TradeId, Trade] = field(default_factory=dict)  # lately: whoever keeps the account keeps this bounded
    turns: dict[TradeId, None] = field(default_factory=dict)  # of those, whom the next waits for: one at each exchange
    day_trades: DayTrades = field(default_factory=DayTrades)
    placed: deque[Trade] = field(default_factory=deque)  # lately: what the checks of conduct look back on ...
    placed_until: datetime | None = None  # ... and when they look back on none of it any more

    @property
    def open_trades(self) -> int:
        """Trades that have not ended; with none, the account may leave the cache."""
        return len(self.waiting) + len(self.held) + len(self.working)

    def next_event(self) -> int:
        """The number of its next event: whoever saw the 7th and then the 9th missed one."""
        self.last_event += 1
        return self.last_event

    def join_group(self, trade: Trade) -> None:
        """An order belongs together with others; of one that stands alone nothing has to be known.

        Those of its group that have ended leave it now, since there is no end to how often one is replaced; and not
        when they end, since `groups.follow` then asks what took their place.
        """
        if trade.group is not None:
            others = [each for each in self.groups.get(trade.group, ()) if each.status not in TERMINAL]
            self.groups[trade.group] = [*others, trade]

    def queue(self, trade: Trade) -> None:
        """Let an order that was held here wait for its turn, before those that were placed after it."""
        del self.held[trade.trade_id]
        place = next((number for number, each in enumerate(self.waiting) if each.seq > trade.seq), len(self.waiting))
        self.waiting.insert(place, trade)

    def leave_queue(self, trade: Trade) -> None:
        """Take out an order that waits for its turn.

        By identity, since == looks at forty fields of each; from the end, where a cancel of all of them begins.
        """
        place = next((number for number, each in enumerate(reversed(self.waiting), 1) if each is trade), 0)
        assert place, f"{trade.trade_id} does not wait"
        del self.waiting[-place]

    def work(self, trade: Trade) -> None:
        """Put a trade among those at the exchange; one found there after a start is its customer's turn again."""
        self.working[trade.trade_id] = trade
        if not overtakes(trade) and not rests(trade):
            self.turns[trade.trade_id] = None

    def end(self, trade: Trade) -> None:
        """Take a trade out; the next may start."""
        del self.working[trade.trade_id]
        self.pass_turn(trade)

    def pass_turn(self, trade: Trade) -> None:
        """The next trade need not wait for this one any more."""
        self.turns.pop(trade.trade_id, None)

    def holding(self, trade: Trade) -> Holding:
        """What the trade reserves of: cash to buy, shares to sell."""
        return self.cash if trade.side is Side.BUY else self.positions[trade.symbol]


def overtakes(trade: Trade) -> bool:
    """Whether it waits for nobody's turn, and nobody for its: it is about an order that had its turn, or was held."""
    return trade.replaces_at_exchange or trade.is_exit_on_hold or trade.order_type is OrderType.TRAILING_STOP


def may_rest(trade: Trade) -> bool:
    """Whether it may stay at the exchange for hours or days: limit and stop orders, and those of an auction."""
    return trade.order_type is not OrderType.MARKET or trade.time_in_force in AUCTIONS


def rests(trade: Trade) -> bool:
    """Whether the exchange has it and it may stay there for days: such orders do not hold up the queue."""
    return trade.acknowledged and may_rest(trade)
