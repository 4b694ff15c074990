"""Customers that place, cancel, replace and look at orders, try again until they are answered, and keep a ledger."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from decimal import Decimal
from itertools import count
from typing import Any

import aiohttp

from tests.acceptance.system import TERMINAL, order_of
from tests.chaos.world import Found, World

SYMBOLS = ["AAPL", "MSFT", "NVDA", "SPY"]
ATTEMPT_S = 8.0
PATIENCE_S = 60.0
IDLE_SOCKETS = 40
_KNOWN_MAX = 12
_EXCHANGE_KNOWS = {"submitted", "partially_filled", "filled", "cancelled", "expired"}
_ENDED = {status.lower() for status in TERMINAL}
_BUSY = {408, 429, 503}
_PLACED_BEFORE = "client_order_id_used"  # by a try of ours whose answer was lost


@dataclass(frozen=True)
class Asked:
    """What a customer wants to buy or sell, in the words of the books. `replaces` is the order in whose place."""

    symbol: str
    side: str
    quantity: int
    order_type: str = "market"
    limit_price: int | None = None
    stop_price: int | None = None
    time_in_force: str = "day"
    replaces: str | None = None


@dataclass
class Ledger:
    """What clients were told."""

    placed: dict[str, list[str]] = field(default_factory=dict)  # by customer: ids, in the order in which it placed them
    ended: dict[str, str] = field(default_factory=dict)  # ids that were said to have ended, and how
    filled: dict[str, int] = field(default_factory=dict)  # the most that was said to be filled
    asked: dict[tuple[str, str], Asked] = field(default_factory=dict)  # by customer and name: answered or not
    by_key: dict[tuple[str, str], str] = field(default_factory=dict)  # by customer and name: the id that was told
    cancelled: set[str] = field(default_factory=set)  # ids of which a cancel was acknowledged
    heard: Counter[str] = field(default_factory=Counter)
    requests: int = 0
    wanted: int = 0
    at_once: int = 0  # answered at the first try
    in_the_end: int = 0  # ... or at a later one
    refused: int = 0  # answered, but with a 4xx: neither a success nor a failure
    given_up: int = 0

    @property
    def acknowledged(self) -> int:
        """Orders whose client knows that they were placed."""
        return sum(map(len, self.placed.values()))


class Customer:
    """One customer: it does one thing after another, so its orders are placed in the order of its answers."""

    def __init__(
        self, world: World, ledger: Ledger, found: Found, told: dict[str, str], rng: random.Random, rate: float
    ) -> None:
        self._world = world
        self._ledger = ledger
        self._found = found
        self._id = told["customerId"]
        self._headers = {"Authorization": f"Bearer {told['token']}"}
        self._rng = rng
        self._rate = rate
        self._mine = ledger.placed.setdefault(self._id, [])
        self._asked: dict[str, Asked] = {}  # by order
        self._names = count(1)  # all customers use the same ones: a key belongs to its customer

    async def run(self, http: aiohttp.ClientSession, stop: asyncio.Event) -> None:
        """Until it is told to stop."""
        while not stop.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), self._rng.expovariate(self._rate))
            if not stop.is_set():
                await self._act(http)

    async def _act(self, http: aiohttp.ClientSession) -> None:
        rng, order_id = self._rng, ""
        body: dict[str, Any]
        act = rng.choice(["trade", "trade", "order", "order", "order", "cancel", "replace", "look"])
        if self._mine:
            order_id = rng.choice(self._mine[-_KNOWN_MAX:])
        name = f"order-{next(self._names)}"
        match act if self._mine or act in {"trade", "order"} else "order":
            case "trade":
                body = {
                    "stockTicker": rng.choice(SYMBOLS),
                    "type": rng.choice(["BUY", "BUY", "SELL"]),
                    "quantity": rng.randint(1, 9),
                }
                self._ask(name, Asked(body["stockTicker"], body["type"], body["quantity"]))
                await self._try(http, "POST", "/api/v1/trades", body, name)
            case "order":
                body = order_of(rng) | {"client_order_id": name}
                self._ask(name, asked_by(body))
                await self._try(http, "POST", "/api/v1/orders", body, name)
            case "replace":
                body = {
                    "quantity": rng.randint(1, 30),
                    "price": f"{rng.randint(200, 330)}.00",
                    "client_order_id": name,
                }
                old = self._asked[order_id]
                price = units(body["price"])
                self._ask(name, replace(old, quantity=body["quantity"], limit_price=price, replaces=order_id))
                await self._try(http, "PATCH", f"/api/v1/orders/{order_id}", body, name)
            case "cancel":
                await self._try(http, "DELETE", f"/api/v1/orders/{order_id}")
            case _:
                await self._try(http, "GET", f"/api/v1/orders/{order_id}")

    def _ask(self, name: str, asked: Asked) -> None:
        self._ledger.asked[self._id, name] = asked

    async def cancel_all(self, http: aiohttp.ClientSession) -> bool:
        """Whether the broker has heard that everything is to end."""
        return await self._try(http, "DELETE", "/api/v1/orders")

    async def _try(
        self, http: aiohttp.ClientSession, method: str, path: str, body: dict[str, Any] | None = None, name: str = ""
    ) -> bool:
        """The same request until it is answered."""
        self._ledger.wanted += 1
        until = time.monotonic() + PATIENCE_S
        for pause_s in _pauses():
            began = time.monotonic()
            answer = await self._call(http, method, path, body, name)
            if answer is not None:
                if answer[0] >= 400 and answer[1].get("code") != _PLACED_BEFORE:
                    self._ledger.refused += 1
                else:
                    self._ledger.at_once += pause_s == 0.05
                    self._ledger.in_the_end += 1
                self._note(method, path, answer[0], answer[1], name, began)
                return True
            if time.monotonic() + pause_s > until:
                break
            await asyncio.sleep(pause_s * self._rng.uniform(0.5, 1.0))
        self._ledger.given_up += 1
        return False

    async def _call(
        self, http: aiohttp.ClientSession, method: str, path: str, body: dict[str, Any] | None, name: str
    ) -> tuple[int, dict[str, Any]] | None:
        """Status and content, or None where it is to be asked again."""
        headers = self._headers | ({"Idempotency-Key": name} if path == "/api/v1/trades" else {})
        url = f"http://127.0.0.1:{self._world.links['client to broker'].port}{path}"
        self._ledger.requests += 1
        try:
            async with http.request(method, url, json=body, headers=headers) as response:
                answer: dict[str, Any] = await response.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
            self._ledger.heard["no answer"] += 1
            return None
        self._ledger.heard[str(response.status)] += 1
        if response.status in _BUSY:
            if "Retry-After" not in response.headers and response.status != 408:
                self._found.wrong(f"{response.status} without Retry-After to {method} {path}: {answer}")
            return None
        return response.status, answer

    def _note(self, method: str, path: str, status: int, answer: dict[str, Any], name: str, began: float) -> None:
        """Write down what was said. An answer that cannot be is a violation."""
        if status not in {200, 201, 202, 400, 409}:
            self._found.wrong(f"{status} to {method} {path}: {answer}")
            return
        if method == "DELETE" and path == "/api/v1/orders":
            return
        if status == 409 and answer.get("code") == _PLACED_BEFORE:
            self._placed(name, answer["order_id"])
            return
        order_id = answer.get("tradeId") or answer.get("id") or (answer.get("order") or {}).get("id")
        if order_id is None:
            return
        if method in {"POST", "PATCH"}:
            self._placed(name, order_id)
            said = str((answer.get("order") or answer).get("status", "")).lower()
            self._found.done_again(began, by_exchange="tradeId" not in answer and said in _EXCHANGE_KNOWS)
        if method == "DELETE" and status in {200, 202}:
            self._ledger.cancelled.add(order_id)
        self._remember(order_id, answer.get("order") or answer)

    def _placed(self, name: str, order_id: str) -> None:
        first = self._ledger.by_key.setdefault((self._id, name), order_id)
        if first != order_id:
            self._found.wrong(f"customer {self._id}: {name} has placed {first}, and then {order_id}")
        self._asked[order_id] = self._ledger.asked[self._id, name]
        if order_id not in self._mine[-_KNOWN_MAX:]:
            self._mine.append(order_id)

    def _remember(self, order_id: str, order: dict[str, Any]) -> None:
        status = str(order.get("status", "")).lower()
        before = self._ledger.ended.get(order_id)
        if before is not None and status != before:
            self._found.wrong(f"{order_id} was {before}, and then {status}")
        if status in _ENDED:
            self._ledger.ended[order_id] = status
        filled = int(order.get("filled_quantity") or order.get("filledQuantity") or 0)
        if filled < self._ledger.filled.get(order_id, 0):
            self._found.wrong(f"{order_id} had filled {self._ledger.filled[order_id]}, and then {filled}")
        self._ledger.filled[order_id] = filled


def asked_by(body: dict[str, Any]) -> Asked:
    """The body of POST /api/v1/orders, in the words of the books."""
    kind = "stop" if body["order_type"] == "stop_loss" else body["order_type"]
    price, stop_price = units(body.get("price")), units(body.get("stop_price"))
    side = body["side"].upper()
    return Asked(body["symbol"], side, body["quantity"], kind, price, stop_price, body["time_in_force"])


def units(dollars: str | None) -> int | None:
    """1/10,000 of a dollar, as the books have them; by no code of the broker's."""
    return None if dollars is None else int(Decimal(dollars) * 10_000)


def _pauses() -> Iterator[float]:
    pause_s = 0.05
    while True:
        yield pause_s
        pause_s = min(2 * pause_s, 1.0)


class Load:
    """All customers, and connections that do nothing."""

    def __init__(self, world: World, found: Found, rng: random.Random, per_second: float) -> None:
        self.ledger = Ledger()
        self._world = world
        self._stop = asyncio.Event()
        self._session: aiohttp.ClientSession | None = None
        share = per_second / len(world.tokens)
        seeds = [rng.random() for _ in world.tokens]
        self._customers = [
            Customer(world, self.ledger, found, told, random.Random(seed), share)
            for told, seed in zip(world.tokens, seeds, strict=True)
        ]
        self._tasks: list[asyncio.Task[None]] = []
        self._idle: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Everybody begins."""
        connector = aiohttp.TCPConnector(limit=0)
        self._session = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=ATTEMPT_S))
        self._tasks = [asyncio.create_task(each.run(self._session, self._stop)) for each in self._customers]
        self._idle = [asyncio.create_task(self._hold_open()) for _ in range(IDLE_SOCKETS)]

    async def finish(self) -> None:
        """Everybody ends what it is at, and begins nothing more."""
        self._stop.set()
        await asyncio.gather(*self._tasks)
        await self._let_go()

    async def cancel_all(self) -> bool:
        """Everybody's orders are to end; whether the broker has heard all of it."""
        timeout = aiohttp.ClientTimeout(total=ATTEMPT_S)
        async with aiohttp.ClientSession(timeout=timeout) as http:
            return all(await asyncio.gather(*(each.cancel_all(http) for each in self._customers)))

    async def abort(self) -> None:
        """At once."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._let_go()

    async def _let_go(self) -> None:
        for task in self._idle:
            task.cancel()
        await asyncio.gather(*self._idle, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    async def _hold_open(self) -> None:
        """A connection that does nothing; a new one where it was closed."""
        while True:
            with suppress(OSError):
                port = self._world.links["client to broker"].port
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                try:
                    await reader.read(1)
                finally:
                    writer.transport.abort()
            await asyncio.sleep(0.5)
