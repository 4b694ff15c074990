"""The order books of all symbols, with those who always trade in them: a market maker, and somebody who makes noise.

Pure and seeded, as the market is: with the same seed, and no customers, the quotes are the same, tick by tick. What
customers do changes the books, never the fair price that the market maker follows.
"""

from random import Random

from broker.core.matching import Event, Order, OrderBook
from broker.core.money import Money
from broker.core.types import Side, Symbol, TimeInForce
from broker.simulator.maker import Maker
from broker.simulator.market import Market, Quote

_NOISE = "noise"
_TAPE = "tape"
_NOISE_SHARES_MAX = 50
_BEST_SIZE_MIN, _BEST_SIZE_MAX, _LOT = 3_000, 10_000, 100


class Books:
    """A book for each listed symbol. Its one writer is the exchange."""

    def __init__(self, market: Market, random: Random) -> None:
        self._market = market
        self._random = random
        self._books = {symbol: OrderBook() for symbol in market.quotes}
        for symbol, fair in market.quotes.items():
            _open(self._books[symbol], fair.last)
        self._makers = {
            symbol: Maker(self._books[symbol], fair, self._size()) for symbol, fair in market.quotes.items()
        }
        self.halted: dict[Symbol, str] = {}
        """Symbols in which nobody acts, and why; what rests there stays."""
        self._to_print: set[Symbol] = set()  # ... whose price was set meanwhile
        self._touched: set[Symbol] = set()  # by customers, since the last tick
        self._unseen: set[Symbol] = set()  # by whoever asks for changed quotes
        self.quotes = {symbol: self._quote(symbol, fair) for symbol, fair in market.quotes.items()}

    def lists(self, symbol: Symbol) -> bool:
        return symbol in self._books

    def enter(self, symbol: Symbol, order: Order) -> list[Event]:
        """A customer's order comes into its book."""
        self._touch(symbol)
        return self._books[symbol].enter(order)

    def cancel(self, symbol: Symbol, order_id: str) -> list[Event]:
        """A customer's order leaves it."""
        self._touch(symbol)
        return self._books[symbol].cancel(order_id)

    def rename(self, symbol: Symbol, order_id: str, new_id: str, quantity: int) -> list[Event]:
        """Another order takes this one's place in line; the quantity counts what was filled in that place."""
        self._touch(symbol)
        return self._books[symbol].replace(order_id, quantity, new_id=new_id)

    def is_empty(self, symbol: Symbol, side: Side) -> bool:
        """Whether nobody stands on this side."""
        return self._books[symbol].best(side) is None

    def best(self, symbol: Symbol, side: Side) -> Money | None:
        """The best price of a side."""
        best = self._books[symbol].best(side)
        return None if best is None else best[0]

    def halt(self, symbol: Symbol, reason: str) -> None:
        """Nobody acts in this book until it resumes; its caller sees to it that no customer's order enters."""
        self.halted[symbol] = reason

    def resume(self, symbol: Symbol) -> list[Event]:
        """The market maker is where the price is by now."""
        if self.halted.pop(symbol, None) is None:
            return []
        if symbol in self._to_print:
            return self._print(symbol)
        self._touch(symbol)
        return self._makers[symbol].move(self._market.quotes[symbol], self._size())

    def set_price(self, symbol: Symbol, price: Money, holds: bool) -> list[Event]:
        """The market moves there, as soon as it may, and stands still there (`holds`)."""
        self._market.place(symbol, price, holds)
        self._to_print.add(symbol)
        return [] if symbol in self.halted else self._print(symbol)

    def tick(self, moves: bool = True) -> list[tuple[Symbol, list[Event]]]:
        """Let the others act: what was taken comes back, and prices move with a little trade (`moves`).

        What happened, book by book; those in which nothing did are left out.
        """
        happened: list[tuple[Symbol, list[Event]]] = []
        moved = [symbol for symbol in self._market.tick() if symbol not in self.halted] if moves else []
        for symbol in moved:
            events = self._makers[symbol].move(self._market.quotes[symbol], self._size())
            happened.append((symbol, events + self._noise(symbol)))
        touched = sorted(self._touched.difference(moved, self.halted))
        happened += [(symbol, self._makers[symbol].refill()) for symbol in touched]
        self._unseen.update(moved, self._touched)
        self._touched.clear()
        return [(symbol, events) for symbol, events in happened if events]

    def requoted(self) -> list[Symbol]:
        """The symbols whose quote is another than when this was asked last."""
        changed = []
        for symbol in sorted(self._unseen):
            before = self.quotes[symbol]
            quote = self._quote(symbol, before)
            if quote != before:
                self.quotes[symbol] = quote
                changed.append(symbol)
        self._unseen.clear()
        return changed

    def _print(self, symbol: Symbol) -> list[Event]:
        """The market maker moves, whoever stands at the price or beyond trades there, and it is the last one."""
        self._to_print.discard(symbol)
        self._touch(symbol)
        book, price = self._books[symbol], self._market.quotes[symbol].last
        events = self._makers[symbol].move(self._market.quotes[symbol], self._size())
        for side, other in ((Side.BUY, Side.SELL), (Side.SELL, Side.BUY)):
            better = 1 if side is Side.BUY else -1
            there = sum(shares for at, shares in book.depth(side) if better * at >= better * price)
            if there:
                taker = Order(_TAPE, _TAPE, other, there, price, time_in_force=TimeInForce.IOC)
                events += book.enter(taker)
        events += self._trade_one(book, price)  # which reaches the stops there are
        events += self._makers[symbol].refill()
        return events if book.last == price else events + self._trade_one(book, price)

    def _trade_one(self, book: OrderBook, price: Money) -> list[Event]:
        """One share changes hands at this price."""
        events = book.enter(Order("tape seller", "tape seller", Side.SELL, 1, price))
        events += book.enter(Order("tape buyer", "tape buyer", Side.BUY, 1, price, time_in_force=TimeInForce.IOC))
        book.cancel("tape seller")  # where somebody else was faster
        return events

    def _touch(self, symbol: Symbol) -> None:
        self._touched.add(symbol)
        self._unseen.add(symbol)

    def _noise(self, symbol: Symbol) -> list[Event]:
        """Somebody buys or sells a few shares at the best price."""
        draw = self._random.random()
        side = Side.BUY if draw < 0.5 else Side.SELL
        return self._books[symbol].enter(Order(_NOISE, _NOISE, side, 1 + int(draw * 1e6) % _NOISE_SHARES_MAX))[1:]

    def _size(self) -> int:
        lots = (_BEST_SIZE_MAX - _BEST_SIZE_MIN) // _LOT + 1
        return _BEST_SIZE_MIN + int(self._random.random() * lots) * _LOT

    def _quote(self, symbol: Symbol, before: Quote) -> Quote:
        """The book's best prices, what stands there, and its last trade's; an empty side keeps its price."""
        book = self._books[symbol]
        bid, ask, last = book.best(Side.BUY), book.best(Side.SELL), book.last
        return Quote(
            symbol,
            before.bid if bid is None else bid[0],
            before.ask if ask is None else ask[0],
            before.last if last is None else last,
            0 if bid is None else bid[1],
            0 if ask is None else ask[1],
        )


def _open(book: OrderBook, price: Money) -> None:
    """One share changes hands, so that there is a last price from the beginning."""
    book.enter(Order("opening seller", "opening seller", Side.SELL, 1, price))
    book.enter(Order("opening buyer", "opening buyer", Side.BUY, 1, price))
