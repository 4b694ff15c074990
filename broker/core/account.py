"""What a customer has, as its shard holds it in memory while it decides."""

from collections import deque
from dataclasses import dataclass, field

from broker.core.types import CustomerId, Symbol, Trade, TradeId


@dataclass(slots=True)
class Holding:
    """Cash (Money) or shares (whole): the same figures as a row of the table account."""

    balance: int = 0
    held: int = 0

    @property
    def available(self) -> int:
        """What a new trade or a withdrawal may take."""
        return self.balance - self.held

    def reserve(self, amount: int) -> None:
        """Put aside what a trade may need; the caller has checked that it is there."""
        assert 0 < amount <= self.available, f"reserve {amount} of {self}"
        self.held += amount

    def release(self, amount: int) -> None:
        """Give back what a trade no longer needs."""
        assert 0 <= amount <= self.held, f"release {amount} of {self}"
        self.held -= amount

    def add(self, amount: int) -> None:
        """Apply a posting; what is left must still cover what is reserved."""
        self.balance += amount
        assert self.available >= 0, f"posting {amount} overdraws {self}"


@dataclass(slots=True)
class Account:
    """One customer: cash, positions, and the trades that are not finished. Its one writer is its shard."""

    customer_id: CustomerId
    version: int = 0  # of its cash row, as read or as last committed
    last_seq: int = 0
    cash: Holding = field(default_factory=Holding)
    positions: dict[Symbol, Holding] = field(default_factory=dict)
    waiting: deque[Trade] = field(default_factory=deque)  # PLACED, oldest first
    working: dict[TradeId, Trade] = field(default_factory=dict)  # at the exchange

    @property
    def open_trades(self) -> int:
        """Trades that have not ended; with none, the account may leave the cache."""
        return len(self.waiting) + len(self.working)
