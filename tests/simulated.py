"""A simulated exchange without a network: one symbol, and a market that moves when a test says so."""

from datetime import UTC, datetime
from random import Random
from typing import Any

import msgspec

from broker.core.money import parse_money
from broker.core.types import OrderType, Side, Symbol, TimeInForce
from broker.simulator.books import Books
from broker.simulator.exchange import Exchange
from broker.simulator.faults import Faults, Misbehaviour
from broker.simulator.market import Market, Quote, Ticker
from broker.simulator.orders import Order, Orders
from broker.simulator.outcome import Outcome
from broker.simulator.script import Script
from broker.simulator.sessions import Hours, Sessions
from broker.simulator.wire import Amendment, Answer, Event, NewOrder, OrderStatus, Replaces, Unreadable

AT = datetime(2026, 11, 27, 14, 30, tzinfo=UTC)
STAMP = "2026-11-27T14:30:00.000000+00:00"
URL = "http://127.0.0.1:8080/webhooks/exchange"
AAPL = Symbol("AAPL")
BEST_SIZE = 6_500  # what `Level` makes the best level


def order_id(n: int = 1) -> str:
    return f"01990000-0000-7000-8000-{n:012d}"


def buy(n: int = 1, **overrides: Any) -> NewOrder:
    fields = {
        "id": order_id(n),
        "symbol": "AAPL",
        "side": Side.BUY,
        "type": OrderType.MARKET,
        "quantity": 10,
        "max_price": "1997.10",
        "callback_url": URL,
    }
    return NewOrder(**{**fields, **overrides})


def sell(n: int = 1, **overrides: Any) -> NewOrder:
    return buy(n, side=Side.SELL, max_price=None, **overrides)


def limit(n: int, side: Side, price: str, **overrides: Any) -> NewOrder:
    return buy(n, **{"side": side, "type": OrderType.LIMIT, "price": price, "max_price": None, **overrides})


def stop(n: int, side: Side, stop_price: str, **overrides: Any) -> NewOrder:
    max_price = "1997.10" if side is Side.BUY else None
    fields = {"side": side, "type": OrderType.STOP, "stop_price": stop_price, "max_price": max_price}
    return buy(n, **{**fields, **overrides})


def stop_limit(n: int, side: Side, stop_price: str, price: str, **overrides: Any) -> NewOrder:
    return limit(n, side, price, **{"type": OrderType.STOP_LIMIT, "stop_price": stop_price, **overrides})


def in_place_of(n: int, filled_quantity: int = 0) -> Replaces:
    return Replaces(order_id(n), filled_quantity)


def event(kind: OrderStatus | Amendment, n: int = 1, **overrides: Any) -> Event:
    fields = {
        "type": kind,
        "order_id": order_id(n),
        "execution_id": None,
        "quantity": None,
        "price": None,
        "filled_quantity": 0,
        "reason": None,
        "at": STAMP,
    }
    return Event(**{**fields, **overrides})


def accepted(n: int = 1) -> Event:
    return event(OrderStatus.ACCEPTED, n)


def filled(n: int, quantity: int, price: str, number: int = 1, total: int | None = None) -> Event:
    """The order's last execution."""
    return _execution(OrderStatus.FILLED, n, quantity, price, number, total)


def partly(n: int, quantity: int, price: str, number: int = 1, total: int | None = None) -> Event:
    """An execution that leaves something."""
    return _execution(OrderStatus.PARTIALLY_FILLED, n, quantity, price, number, total)


def _execution(kind: OrderStatus, n: int, quantity: int, price: str, number: int, total: int | None) -> Event:
    figures = {"quantity": quantity, "price": price, "filled_quantity": quantity if total is None else total}
    return event(kind, n, execution_id=f"{order_id(n)}-{number}", **figures)


class Level(Random):
    """Draws always the same: a best level of 6,500 shares, and noise that sells (or buys, below 0.5) one share."""

    draw = 0.5

    def random(self) -> float:
        return self.draw


class StillMarket(Market):
    """Quotes that a test sets."""

    moved = False

    def tick(self) -> list[Symbol]:
        moved, self.moved = self.moved, False
        return [AAPL] if moved else []


class Bench:
    """An exchange with one symbol, AAPL at 190.18 / 190.20, whose time and faults a test sets."""

    def __init__(
        self,
        finished_max: int = 1000,
        fills_at_once: bool = True,
        hours: Hours = "always",
        at: datetime = AT,
        quote: tuple[str, str] = ("190.18", "190.20"),
        **faults: Any,
    ) -> None:
        self.at = at
        self.market = StillMarket([Ticker(AAPL, "Apple Inc.", parse_money("190.19"))], Random(1))
        self._set(*quote)
        self.noise = Level()
        self.books = Books(self.market, self.noise)
        self.script = Script(100)
        settings = Misbehaviour(**faults)
        self.exchange = Exchange(
            self.books,
            Orders(finished_max),
            Faults(settings, Random(1)),
            Sessions(hours, settings.closed),
            self.script,
            fills_at_once,
        )

    def _set(self, bid: str, ask: str) -> None:
        self.market.quotes[AAPL] = Quote(AAPL, parse_money(bid), parse_money(ask), parse_money(bid))

    def quote(self, bid: str, ask: str) -> list[Event]:
        """The fair price moves, and somebody sells one share."""
        self._set(bid, ask)
        self.market.moved = True
        return self.tick()

    def tick(self) -> list[Event]:
        return told(self.exchange.tick(self.at))

    @property
    def best(self) -> tuple[int, int, int]:
        """Bid, ask and last, as the feed would tell them now."""
        self.books.requoted()
        quote = self.books.quotes[AAPL]
        return quote.bid, quote.ask, quote.last

    def accept(self, *orders: NewOrder | Unreadable) -> Outcome:
        return self.exchange.accept(orders, self.at)

    def events(self, *orders: NewOrder) -> list[Event]:
        outcome = self.accept(*orders)
        assert {result.status for result in outcome.results} == {Answer.ACCEPTED}, outcome.results
        return told(outcome)

    def cancel(self, *numbers: int) -> Outcome:
        return self.exchange.cancel([order_id(n) for n in numbers], self.at)

    def fill(self, quantity: int, n: int = 1) -> list[Event]:
        return told(self.exchange.fill(order_id(n), quantity, self.at))

    def order(self, n: int = 1) -> Order:
        order = self.exchange.orders.get(order_id(n))
        assert order is not None
        return order

    def state(self, n: int = 1) -> dict[str, Any]:
        return msgspec.to_builtins(self.order(n).state())

    def recovered(self, at: datetime | None = None, **overrides: Any) -> tuple["Bench", list[Event]]:
        """The same exchange after a kill: what it remembers went through JSON; and what it tells at once."""
        again = Bench(at=at or self.at, **overrides)
        for order in self.exchange.orders.all():
            again.exchange.orders.put(msgspec.json.decode(msgspec.json.encode(order), type=Order))
        return again, told(again.exchange.recover(again.at))


def told(outcome: Outcome) -> list[Event]:
    return [each for _, each in outcome.events]


GTC, DAY, IOC, FOK = TimeInForce.GTC, TimeInForce.DAY, TimeInForce.IOC, TimeInForce.FOK
