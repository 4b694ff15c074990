"""What an attacker sends, by class and weight. It is a function of the seed alone, but for ids and time."""

import base64
import random
import re
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import orjson

from tests.fuzz import frames, malformed, values
from tests.fuzz.forgery import Forger, event, right
from tests.fuzz.grammar import Grammar, Known, Operation

_HEAVY = {"/metrics", "/openapi.json", "/openapi-alpaca.json", "/v2/calendar"}
"""What takes the broker ten milliseconds and more is asked for now and then only: the attack is to get on."""
_IDS = {"tradeId", "orderId", "webhookId", "clientOrderId", "order_id", "watchlist_id"}


@dataclass(frozen=True, slots=True)
class Orders:
    """What an attacker needs to know."""

    port: int
    seed: int
    requests: int
    seconds: float
    documents: list[Any]
    tokens: list[str]  # of customers that are the attacker's own
    revoked: str
    admin_token: str
    others: dict[str, list[str]]  # ids of what belongs to others, by the name of the parameter
    figures: list[str]  # amounts of money that only others have
    key: str  # that of the exchange, in hexadecimal: to sign what is late, or said twice, and to know what to change
    retired: str
    executions: list[dict[str, Any]]  # what the exchange has said already
    connections: int = 24


@dataclass(frozen=True, slots=True)
class Case:
    """One request. `refused`: it must be answered with an error; `places`: it is a good order, if not a wise one."""

    name: str
    data: bytes
    refused: bool = False
    alpaca: bool = False
    places: bool = False


class Arsenal:
    """Makes requests of every class, by weight. `own` are the newest orders that they have placed."""

    def __init__(self, orders: Orders, rng: random.Random, own: deque[str]) -> None:
        self._orders = orders
        self._rng = rng
        self._grammar = Grammar(orders.documents, Known(orders.others), rng)
        streams = set(frames.STREAMS)
        operations = [each for each in self._grammar.operations if each.path not in streams]
        light = [each for each in operations if each.path not in _HEAVY]
        self._all = light
        self._heavy = operations
        self._guarded = [each for each in light if not each.is_public]
        self._customers = [each for each in self._guarded if not each.is_admin]
        self._admin = [each for each in self._guarded if each.is_admin]
        self._admin_bodies = [each for each in self._admin if each.body is not None]
        self._with_ids = [each for each in self._customers if any(f"{{{name}}}" in each.path for name in _IDS)]
        self._bad = list(self._bad_headers())
        key = bytes.fromhex(orders.key)
        now = int(time.time())
        trades = orders.others.get("tradeId", [])
        heard = [right(key, event(rng, rng.choice(trades)), now - rng.randint(0, 200), f"msg_{n}") for n in range(200)]
        self._key = key
        self._forger = Forger(bytes.fromhex(orders.retired), heard, trades, time.time, own)
        makers: dict[Callable[[], Case], float] = {
            self._without_token: 24,
            self._hostile: 22,
            self._of_others: 8,
            self._random_id: 12,
            self._not_the_operator: 6,
            self._wrong_operator: 6,
            self._odd_headers: 6,
            self._forged: 13,
            self._late: 1,
            self._replayed: 2,
            self._order: 0.3,
        }
        self._makers, self._weights = list(makers), list(makers.values())

    def batch(self, size: int) -> list[Case]:
        """Requests that leave their connection open."""
        return [make() for make in self._rng.choices(self._makers, self._weights, k=size)]

    def last(self) -> Case:
        """A request that ends its connection."""
        chance = self._rng.random()
        if chance < 0.6:
            return Case("malformed HTTP", malformed.refused(self._rng), refused=True)
        if chance < 0.9:
            return Case("odd HTTP", malformed.odd(self._rng), alpaca=True)
        return Case("garbage", malformed.garbage(self._rng))

    # -------------------------------------------------------------- HTTP

    def _request(self, operation: Operation, headers: str, body: bytes | None, target: str | None = None) -> bytes:
        target = target or self._grammar.target(operation)
        if body is None and operation.body is not None:
            body = self._grammar.body(operation)
        head = f"{operation.method} {_one_line(target)} HTTP/1.1\r\nHost: b\r\n{headers}"
        if body is None:
            return (head + "\r\n").encode("utf-8", "surrogateescape")
        if "content-type:" not in headers.lower() and self._rng.random() < 0.95:  # without it, it is refused unread
            head += "Content-Type: application/json\r\n"
        if self._rng.random() < 0.1 and len(body) < 60_000:
            chunk = b"%x\r\n%s\r\n" % (len(body), body) if body else b""
            return (
                (head + "Transfer-Encoding: chunked\r\n\r\n").encode("utf-8", "surrogateescape") + chunk + b"0\r\n\r\n"
            )
        return (head + f"Content-Length: {len(body)}\r\n\r\n").encode("utf-8", "surrogateescape") + body

    def _token(self, operation: Operation) -> str:
        token = self._rng.choice(self._orders.tokens)
        if operation.is_alpaca and self._rng.random() < 0.7:
            key, _, secret = token.partition(".")
            return f"APCA-API-KEY-ID: {key}\r\nAPCA-API-SECRET-KEY: {secret}\r\n"
        return f"Authorization: Bearer {token}\r\n"

    def _bad_headers(self) -> Iterator[str]:
        """Headers that open nothing."""
        mine = self._orders.tokens[0]
        key, _, secret = mine.partition(".")
        keys = [key, *self._orders.others["keyId"], "key_", "key_" + "0" * 16, "key_" + "0" * 5_000]
        tokens = [
            mine[:-1],
            mine + "x",
            mine.swapcase(),
            key,
            f"{key}.",
            f".{secret}",
            f"{secret}.{key}",
            mine[:30],
            "x" * 8_000,
        ]
        tokens += [
            self._orders.revoked,
            self._orders.admin_token[:-1],
            "",
            "null",
            "é" + mine,
            mine + "\udcff",
            " " + mine,
        ]
        tokens += [f"{each}.{self._rng.randbytes(24).hex()}" for each in keys] + [
            "' OR 1=1 --",
            mine * 3,
            "\udcff" * 40,
            ".",
        ]
        tokens += [f"{key}.{secret[:n]}" for n in (1, 8, 20, 42)] + [secret, base64.b64encode(mine.encode()).decode()]
        yield ""
        for token in tokens:
            yield f"Authorization: Bearer {token}\r\n"
            yield f"APCA-API-KEY-ID: {token.partition('.')[0]}\r\nAPCA-API-SECRET-KEY: {token.partition('.')[2]}~\r\n"
            yield f"Authorization: Basic {token}\r\n"
        for scheme in ("Token", "Digest", "Bearer,", "Bearer\t", "Bearer:", "", "Negotiate"):
            yield f"Authorization: {scheme}{mine}\r\n"
        yield f"X-Authorization: Bearer {mine}\r\n"
        yield f"Cookie: token={mine}; Authorization=Bearer {mine}\r\n"
        yield f"Authorization: Basic {base64.b64encode(f'{key}:~{secret}'.encode()).decode()}\r\n"

    def _without_token(self) -> Case:
        operation = self._rng.choice(self._guarded)
        return Case(
            "no token, or a wrong one",
            self._request(operation, self._rng.choice(self._bad), None),
            True,
            operation.is_alpaca,
        )

    def _hostile(self) -> Case:
        operation = self._rng.choice(self._all if self._rng.random() < 0.995 else self._heavy)
        if operation.is_admin:
            return self._not_the_operator()
        return Case(
            "hostile body or query", self._request(operation, self._token(operation), None), alpaca=operation.is_alpaca
        )

    def _of_others(self) -> Case:
        operation = self._rng.choice(self._with_ids)
        target = re.sub(
            r"\{(\w+)\}", lambda match: self._rng.choice(self._orders.others.get(match[1], ["AAPL"])), operation.path
        )
        data = self._request(operation, self._token(operation), None, target)
        return Case("somebody else's id", data, True, operation.is_alpaca)

    def _random_id(self) -> Case:
        operation = self._rng.choice(self._with_ids)
        target = re.sub(r"\{(\w+)\}", lambda match: str(uuid.UUID(int=self._rng.getrandbits(128))), operation.path)
        return Case(
            "random id", self._request(operation, self._token(operation), None, target), True, operation.is_alpaca
        )

    def _not_the_operator(self) -> Case:
        operation = self._rng.choice(self._admin)
        return Case(
            "a customer's token for the operator's routes", self._request(operation, self._token(operation), None), True
        )

    def _wrong_operator(self) -> Case:
        """The operator's own token, with what is certainly no good."""
        operation = self._rng.choice(self._admin_bodies)
        body = self._grammar.body(operation)
        body = self._rng.choice(
            [
                b"[" + body + b"]",
                b'{"x":NaN}',
                b'{"x":1,"x":2}',
                b'{"\\ud800":1}',
                body[:-1] + b',"no_such":1}',
            ]
        )
        headers = f"Authorization: Bearer {self._orders.admin_token}\r\n"
        return Case("the operator's token with a broken body", self._request(operation, headers, body), True)

    def _odd_headers(self) -> Case:
        rng = self._rng
        names = [
            "Content-Type",
            "Accept",
            "Idempotency-Key",
            "Content-Encoding",
            "Origin",
            "X-Forwarded-For",
            "Cookie",
            "If-None-Match",
        ]
        names += [
            "X-HTTP-Method-Override",
            "Range",
            "Accept-Encoding",
            "X-Request-Id",
            "Referer",
            "Forwarded",
            "Idempotency-Key",
        ]
        chosen = {rng.choice(names): rng.choice(values.HEADERS) for _ in range(rng.choice([1, 1, 2, 5, 30]))}
        odd = "".join(f"{name}: {value}\r\n" for name, value in chosen.items())
        operation = rng.choice(self._customers)
        return Case(
            "odd headers", self._request(operation, self._token(operation) + odd, None), alpaca=operation.is_alpaca
        )

    def _order(self) -> Case:
        """An order that rests until its customer ends it: there is something of one's own to forge a fill of."""
        body = (
            b'{"symbol":"AAPL","side":"buy","quantity":100,"order_type":"limit","price":"1.00","time_in_force":"gtc"}'
        )
        token = self._rng.choice(self._orders.tokens)
        head = (
            f"POST /api/v1/orders HTTP/1.1\r\nHost: b\r\nAuthorization: Bearer {token}\r\n"
            "Content-Type: application/json\r\n"
        )
        return Case("an order that rests", f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body, places=True)

    # -------------------------------------------------------------- callbacks

    def _forged(self) -> Case:
        kind, signed = self._forger.forge(self._rng)
        return Case(f"forged callback: {kind}", signed.request(), refused=True)

    def _late(self) -> Case:
        """Rightly signed, of long ago or far ahead, and not true: the exchange is asked, which says otherwise."""
        at = int(time.time()) + self._rng.choice([-1, 1]) * self._rng.randint(400, 10**6)
        signed = right(self._key, self._forger.fill(self._rng), at, f"msg_{self._rng.getrandbits(48):x}")
        return Case("callback of another time", signed.request())

    def _replayed(self) -> Case:
        """What the exchange has said, once more."""
        body = orjson.dumps(self._rng.choice(self._orders.executions))
        signed = right(self._key, body, int(time.time()), f"msg_{self._rng.getrandbits(48):x}")
        return Case("callback that is repeated", signed.request())


def _one_line(target: str) -> str:
    """As a line of HTTP can have it; what HTTP itself cannot carry is the work of `malformed`."""
    return quote(target, safe="/?&=%:,;+*()!~.-_@$[]#", errors="surrogateescape")
