"""What the steps share: a customer's clients, whose calls are written down, and ways to wait and to be refused.

It runs under every version of alpaca-py that is driven, so it needs nothing but that and the standard library.
"""

import asyncio
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from types import SimpleNamespace
from typing import Any

from alpaca.common.exceptions import APIError
from alpaca.data.historical import StockHistoricalDataClient
from alpaca.data.live import StockDataStream
from alpaca.data.requests import StockLatestQuoteRequest
from alpaca.trading.client import TradingClient
from alpaca.trading.enums import OrderSide, TimeInForce
from alpaca.trading.requests import LimitOrderRequest, MarketOrderRequest
from alpaca.trading.stream import TradingStream

BUY, SELL, DAY, GTC = OrderSide.BUY, OrderSide.SELL, TimeInForce.DAY, TimeInForce.GTC
ENDED = {"filled", "canceled", "expired", "replaced", "rejected"}
Step = Callable[["Desk"], None]
STEPS: dict[str, Step] = {}


def step(function: Step) -> Step:
    """A thing that a bot does, on an account of its own; it fails by an exception."""
    assert function.__name__ not in STEPS
    STEPS[function.__name__] = function
    return function


class Recorded:
    """A client of the SDK that writes down which of its methods have been called and have answered."""

    def __init__(self, client: Any, driven: set[str]) -> None:
        self._client, self._driven = client, driven

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._client, name)
        if not callable(value):
            return value

        def call(*args: Any, **kwargs: Any) -> Any:
            answer = value(*args, **kwargs)
            self._driven.add(f"{type(self._client).__name__}.{name}")
            return answer

        return call


@dataclass
class Desk:
    """One customer, who has $100,000 to begin with, and the SDK's clients for it."""

    url: str
    key: str
    secret: str
    driven: set[str]
    other: "Desk | None" = None  # another customer, for what must stay apart
    streams: list[Any] = field(default_factory=list)

    @cached_property
    def trading(self) -> Any:
        return Recorded(TradingClient(self.key, self.secret, url_override=self.url), self.driven)

    @cached_property
    def data(self) -> Any:
        return Recorded(StockHistoricalDataClient(self.key, self.secret, url_override=self.url), self.driven)

    def market(self, side: OrderSide = BUY, qty: float = 10, symbol: str = "AAPL", **more: Any) -> Any:
        """Place an order at the market."""
        more.setdefault("time_in_force", DAY)
        return self.trading.submit_order(MarketOrderRequest(symbol=symbol, qty=qty, side=side, **more))

    def limit(self, price: float, side: OrderSide = BUY, qty: float = 10, symbol: str = "AAPL", **more: Any) -> Any:
        """Place an order with a limit."""
        more.setdefault("time_in_force", DAY)
        return self.trading.submit_order(
            LimitOrderRequest(symbol=symbol, qty=qty, side=side, limit_price=price, **more)
        )

    def bought(self, qty: float = 10, symbol: str = "AAPL", **more: Any) -> Any:
        """The order by which this was bought, once it is filled."""
        return self.in_status(self.market(BUY, qty, symbol, **more), "filled")

    def resting(self, price: float | None = None, **more: Any) -> Any:
        """An order to buy that the exchange has and that nobody will sell to."""
        return self.in_status(self.limit(self.far_below() if price is None else price, **more), "new")

    def in_status(self, order: Any, *statuses: str) -> Any:
        """The order as soon as it is in one of these statuses."""

        def probe() -> Any:
            now = self.trading.get_order_by_id(order.id)
            assert now.status.value in statuses or now.status.value not in ENDED, f"{now.status}, not {statuses}: {now}"
            return now if now.status.value in statuses else None

        return eventually(probe, f"order {order.id} in {statuses}")

    def now(self) -> datetime:
        """The time at the exchange."""
        return self.trading.get_clock().timestamp

    def quote(self, symbol: str = "AAPL") -> Any:
        """The newest quote, with both sides."""
        return self.data.get_stock_latest_quote(StockLatestQuoteRequest(symbol_or_symbols=symbol))[symbol]

    def far_below(self, symbol: str = "AAPL") -> float:
        """A price well under the market, in whole dollars."""
        return float(int(self.quote(symbol).bid_price * 0.8))

    def far_above(self, symbol: str = "AAPL") -> float:
        """A price well over the market, in whole dollars."""
        return float(int(self.quote(symbol).ask_price * 1.2))

    def trade_updates(self) -> "Heard":
        """What the stream of this customer's orders says from now on."""
        stream = TradingStream(self.key, self.secret, url_override=self.stream_url("/stream"))
        heard = Heard(stream)
        stream.subscribe_trade_updates(heard.handle)
        self.driven.add("TradingStream.subscribe_trade_updates")
        heard.start()
        return heard

    def market_data(self, feed: str = "iex") -> StockDataStream:
        """A stream of market data, to subscribe with."""
        return StockDataStream(self.key, self.secret, url_override=self.stream_url(f"/v2/{feed}"))

    def stream_url(self, path: str) -> str:
        return self.url.replace("http", "ws", 1) + path


class Heard:
    """A stream of the SDK's in a thread of its own, and what its handlers have been given."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.messages: list[Any] = []
        self.confirmed: list[Any] = []  # what the broker has said of the stream's subscriptions

    async def handle(self, message: Any) -> None:
        self.messages.append(message)

    def start(self) -> "Heard":
        """Run it, and wait until the broker has confirmed what it follows: the SDK itself gives no sign of that."""
        dispatch = self.stream._dispatch

        async def watched(message: Any) -> None:
            await dispatch(message)
            if message.get("T") == "subscription" or message.get("stream") == "listening":
                self.confirmed.append(message)

        self.stream._dispatch = watched
        threading.Thread(target=lambda: asyncio.run(self.stream._run_forever()), daemon=True).start()
        eventually(lambda: self.stream._running and self.confirmed, "the stream is connected, and follows")
        return self

    def stop(self) -> None:
        self.stream.stop()

    def until(self, enough: Callable[[list[Any]], Any], what: str, within_s: float = 15) -> Any:
        """The messages, once there are enough of them."""

        def probe() -> Any:
            return enough(list(self.messages))

        try:
            return eventually(probe, what, within_s)
        except AssertionError as error:
            raise AssertionError(f"{error}; heard {self.messages}") from None


def events_of(order: Any) -> Callable[[list[Any]], list[Any]]:
    """From what was heard, that of one order."""
    return lambda messages: [each for each in messages if str(each.order.id) == str(order.id)]


def eventually(probe: Callable[[], Any], what: str, within_s: float = 15) -> Any:
    """The first true answer of a probe."""
    until = time.monotonic() + within_s
    while True:
        answer = probe()
        if answer:
            return answer
        assert time.monotonic() < until, f"not within {within_s} s: {what}"
        time.sleep(0.02)


@contextmanager
def refused(status: int, code: int | tuple[int, ...], *words: str) -> Iterator[SimpleNamespace]:
    """What is done in this block is answered with this status and code, and with these words in its message."""
    caught = SimpleNamespace(body=None)
    try:
        yield caught
    except APIError as error:
        caught.body = json.loads(str(error))
        message = getattr(error, "message", caught.body["message"])  # old versions have no such property
        said = (error.status_code, error.code, message)
    else:
        raise AssertionError(f"it was taken, and should have been refused with {status} {code}")
    assert said[0] == status, f"{said} is not {status}"
    assert said[1] == code or (isinstance(code, tuple) and said[1] in code), f"{said} is not {code}"
    assert all(word.lower() in message.lower() for word in words), f"{said} says not {words}"


@contextmanager
def sdk_log(name: str) -> Iterator[list[str]]:
    """What the SDK logs under a name while the block runs: its streams say of failures nowhere else."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger(name)
    logger.addHandler(handler)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)
