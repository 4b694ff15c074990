"""The fair prices: a random walk for each symbol, pulled back to where it began, on the cent grid.

What a symbol trades at is its book's; the market maker there follows what is here.

Pure and seeded: the random source comes in as an argument, and nothing here knows the time. With the same seed the
prices are the same, tick by tick.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from random import Random

from broker.core.money import UNITS_PER_DOLLAR, Money
from broker.core.types import Symbol

CENT = UNITS_PER_DOLLAR // 100
_MOVE_PROBABILITY = 0.25
"""How likely a symbol is to move in one tick: with 4 ticks a second each moves about once a second."""
_STEP_DIVISOR = 2_000
"""A step is at most 1/2000 of the price where it began (5 basis points), and never less than a cent."""
_PULL_DIVISOR = 50
"""A step takes back 1/50 of the distance from there."""
LOWEST_CENTS = 3
"""So that the bid stays positive: it lies at most 2 cents below the last price."""


@dataclass(frozen=True, slots=True)
class Ticker:
    """A listed symbol, and the price around which it moves."""

    symbol: Symbol
    name: str
    price: Money


@dataclass(frozen=True, slots=True)
class Quote:
    """What a symbol trades at. A fair one: always 0 < bid < last <= ask, whole cents, and nobody's shares."""

    symbol: Symbol
    bid: Money
    ask: Money
    last: Money
    bid_size: int = 0
    ask_size: int = 0


class _Walk:
    """One symbol's price in cents, and the band that it never leaves: a quarter up or down."""

    __slots__ = ("cents", "highest", "is_held", "lowest", "start", "step_max", "symbol")

    def __init__(self, ticker: Ticker) -> None:
        self.symbol = ticker.symbol
        self.is_held = False
        self.begin(max(ticker.price // CENT, LOWEST_CENTS))

    def begin(self, cents: int) -> None:
        """Walk around this price from now on."""
        self.start = self.cents = cents
        self.lowest = max(self.start * 3 // 4, LOWEST_CENTS)
        self.highest = max(self.start * 5 // 4, self.lowest + 1)
        self.step_max = max(self.start // _STEP_DIVISOR, 1)

    def step(self, random: Random) -> None:
        noise = int(random.random() * (2 * self.step_max + 1)) - self.step_max
        pull = (2 * (self.start - self.cents) + _PULL_DIVISOR) // (2 * _PULL_DIVISOR)
        self.cents = min(max(self.cents + noise + pull, self.lowest), self.highest)

    def quote(self, random: Random) -> Quote:
        """The price with a spread of 1 to 4 cents around it."""
        draw = int(random.random() * 6)
        below, above = 1 + draw % 2, draw // 2
        return Quote(
            self.symbol,
            bid=Money((self.cents - below) * CENT),
            ask=Money((self.cents + above) * CENT),
            last=Money(self.cents * CENT),
        )


class Market:
    """Every listed symbol with its fair quote of the moment. Its one writer is whoever calls `tick`."""

    def __init__(self, tickers: Iterable[Ticker], random: Random) -> None:
        self._random = random
        self.tickers = {ticker.symbol: ticker for ticker in tickers}
        self._walks = {ticker.symbol: _Walk(ticker) for ticker in self.tickers.values()}
        self.quotes = {symbol: walk.quote(random) for symbol, walk in self._walks.items()}

    def tick(self) -> list[Symbol]:
        """Let time move the prices once; the symbols whose quote is now another."""
        return [walk.symbol for walk in self._walks.values() if self._moves(walk)]

    def place(self, symbol: Symbol, price: Money, holds: bool) -> None:
        """Let a symbol be at this price, a cent between it and either side; and stand still there (`holds`)."""
        walk = self._walks[symbol]
        walk.begin(price // CENT)
        walk.is_held = holds
        self.quotes[symbol] = Quote(symbol, Money(price - CENT), Money(price + CENT), price)

    def release(self, symbol: Symbol) -> None:
        """Let it walk again from where it is."""
        self._walks[symbol].is_held = False

    def is_held(self, symbol: Symbol) -> bool:
        return self._walks[symbol].is_held

    def _moves(self, walk: _Walk) -> bool:
        if self._random.random() >= _MOVE_PROBABILITY:
            return False
        if walk.is_held:
            self._random.random(), self._random.random()  # what a step draws: no other symbol's price depends on it
            return False
        walk.step(self._random)
        quote = walk.quote(self._random)
        if quote == self.quotes[walk.symbol]:
            return False
        self.quotes[walk.symbol] = quote
        return True
