"""Whatever comes in over HTTP: it changes nothing, the answer says what is wrong with it, and nobody else has to wait."""

import asyncio
import gzip
import json
import time
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from typing import Any

import pytest
from structlog.testing import capture_logs

from broker.config import Config
from tests.conftest import Broker, Client, run_broker

TRADES = "/api/v1/trades"
BODY_MAX = Config().body_max
CALLBACK_MAX = Config().webhook_body_max
ANSWER_WITHIN_S = 1.0
WORK_MAX_S = 0.1
"""Seconds of work that anybody else has to wait for: the loop's own time, so that a busy machine is not blamed."""


# ------------------------------------------------------------------ raw HTTP: aiohttp's client would not send most of it


def request(method: str, path: str, body: bytes = b"", *headers: str, length: bool = True) -> bytes:
    """The bytes of a request of the customer's; TOKEN becomes its token. Headers may hold any byte (surrogateescape)."""
    lines = [f"{method} {path} HTTP/1.1", "Host: broker", "Authorization: Bearer TOKEN", *headers]
    if length:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode("utf-8", "surrogateescape") + b"\r\n\r\n" + body


def post(body: bytes | str, *headers: str, **kwargs: Any) -> bytes:
    """A PlaceTrade with this body."""
    return request(
        "POST", TRADES, body.encode("utf-8", "surrogatepass") if isinstance(body, str) else body, *headers, **kwargs
    )


def order(**fields: str) -> str:
    """A good order, with these fields' JSON instead; a field that is empty is left out."""
    texts = {"stockTicker": '"AAPL"', "type": '"BUY"', "quantity": "10"} | fields
    return "{" + ", ".join(f'"{name}": {text}' for name, text in texts.items() if text) + "}"


def chunked(body: bytes) -> bytes:
    return b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes


@asynccontextmanager
async def connected(broker: Broker) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    host, port = broker.running.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    with closing(writer):
        yield reader, writer


async def read_answer(reader: asyncio.StreamReader, *, has_body: bool = True) -> Answer:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:-2])}
    body = await reader.readexactly(int(headers["content-length"])) if has_body else b""
    return Answer(int(head[0].split()[1]), headers, body)


async def send(broker: Broker, data: bytes) -> Answer:
    async with asyncio.timeout(ANSWER_WITHIN_S), connected(broker) as (reader, writer):
        writer.write(data)
        return await read_answer(reader, has_body=not data.startswith(b"HEAD"))


# ------------------------------------------------------------------ what must stay as it was


async def everything(broker: Broker) -> list[Any]:
    """All that a request could have changed."""
    tables = ("customer", "api_key", "account", "transfer", "posting", "trade", "execution", "event", "inbox")
    return [[tuple(row) for row in await broker.fetch(f"SELECT * FROM {table} ORDER BY 1, 2")] for table in tables]


@asynccontextmanager
async def watching_healthz(broker: Broker) -> AsyncIterator[list[float]]:
    """Ask for /healthz again and again meanwhile; how much work of others each of these requests waited for."""
    waited: list[float] = []

    async def ask() -> None:
        async with connected(broker) as (reader, writer):
            while True:
                before = time.thread_time()
                writer.write(b"GET /healthz HTTP/1.1\r\nHost: broker\r\n\r\n")
                assert (await read_answer(reader)).status == 200
                waited.append(time.thread_time() - before)

    async with asyncio.TaskGroup() as tasks:
        asking = tasks.create_task(ask())
        yield waited
        asking.cancel()


# ------------------------------------------------------------------ the table

NOT_JSON: dict[str, bytes | str] = {
    "nothing": "",
    "blank": "  \n ",
    "text": "buy 10 AAPL",
    "form": "stockTicker=AAPL&type=BUY&quantity=10",
    "single quotes": order().replace('"', "'"),
    "trailing comma": order()[:-1] + ",}",
    "comment": order() + "// please",
    "two objects": order() * 2,
    "cut off": order()[:-1],
    "NaN": order(quantity="NaN"),
    "Infinity": order(quantity="Infinity"),
    "-Infinity": order(quantity="-Infinity"),
    "quantity of 4301 digits": order(quantity="1" * 4301),
    "quantity of 60,000 digits": order(quantity="9" * 60_000),
    "quantity of 60,000 decimals": order(quantity="1." + "9" * 60_000),
    "leading zero": order(quantity="010"),
    "plus": order(quantity="+10"),
    "hexadecimal": order(quantity="0x10"),
    "underscore": order(quantity="1_0"),
    "full-width digits": order(quantity="１０"),
    "Arabic digits": order(quantity="١٠"),
    "quantity twice": order()[:-1] + ', "quantity": 1000000}',
    "ticker twice, once escaped": order()[:-1] + ', "stock\\u0054icker": "MSFT"}',
    "60,000 nested lists": "[" * 60_000,
    "10,000 nested objects": '{"a":' * 10_000,
    "nested in a good one": order(quantity="[" * 30_000 + "]" * 30_000),
    "raw newline in text": order(stockTicker='"AA\nPL"'),
    "raw NUL in text": order(stockTicker='"AA\0PL"'),
    "lone surrogate in ticker": order(stockTicker=r'"\ud800"'),
    "lone low surrogate": order(stockTicker=r'"AAPL\udc00"'),
    "lone surrogate in type": order(type=r'"\uD800"'),
    "lone surrogate in customerId": order(customerId=r'"\ud800"'),
    "lone surrogate as a field": order()[:-1] + r', "\ud800": 1}',
    "surrogate in raw bytes": order(stockTicker='"\ud800"'),
    "invalid UTF-8": order().encode() + b"\xff",
    "overlong UTF-8": order(stockTicker='"').encode()[:17] + b'\xc1\x81", "type": "BUY", "quantity": 10}',
    "Latin-1": order(stockTicker='"É"').encode("latin-1"),
    "BOM": "\ufeff" + order(),
    "UTF-16": order().encode("utf-16"),
    "UTF-32": order().encode("utf-32"),
}

NOT_AN_ORDER: dict[str, str] = {
    "array": f"[{order()}]",
    "empty array": "[]",
    "string": '"AAPL"',
    "number": "7",
    "decimal": "7.5",
    "null": "null",
    "true": "true",
    "empty object": "{}",
    "no ticker": order(stockTicker=""),
    "no type": order(type=""),
    "no quantity": order(quantity=""),
    "unknown field": order(price='"1.00"'),
    "unknown field of 60,000 characters": order(**{"x" * 60_000: "1"}),
    "field in another case": order(quantity="", Quantity="10"),
    **{
        f"quantity {text}": order(quantity=text)
        for text in (
            "0",
            "-0",
            "-1",
            "-0.0",
            "1.5",
            "10.0",
            "1e1",
            "1e400",
            "-1e400",
            "1E+999999",
            "1E-999999",
            '"10"',
            '"1_0"',
            '" 7 "',
            '"１０"',
            '"١٠"',
            '""',
            "true",
            "false",
            "null",
            "[]",
            "[10]",
            "{}",
            "10000001",
            "4294967297",
            "18446744073709551617",
        )
    },
    "quantity 10**30": order(quantity=str(10**30)),
    "quantity -10**30": order(quantity=str(-(10**30))),
    **{
        f"ticker {text}": order(stockTicker=text)
        for text in (
            "7",
            "null",
            "true",
            "[]",
            '["AAPL"]',
            "{}",
            '""',
            '" "',
            '"aapl"',
            '"Aapl"',
            '" AAPL"',
            '"AAPL "',
            r'"AAPL\n"',
            r'"AAPL\u0000"',
            '"АAPL"',
            '"ＡＡＰＬ"',
            '"ÄAPL"',
            '"A-B"',
            '"A/B"',
            '".A"',
            '"1A"',
            '"$USD"',
            '"*"',
            '"😀"',
            r'"A\u0041PL\u2028"',
            '"ABCDEFGHIJKLM"',
            '"\'; DROP TABLE trade; --"',
        )
    },
    "ticker of 200 characters": order(stockTicker='"' + "A" * 200 + '"'),
    "ticker of 60,000 characters": order(stockTicker='"' + "A" * 60_000 + '"'),
    **{
        f"type {text}": order(type=text)
        for text in (
            "null",
            "true",
            "1",
            "[]",
            "{}",
            '""',
            '"buy"',
            '"Buy"',
            '" BUY"',
            r'"BUY\n"',
            '"SHORT"',
            '"ＢＵＹ"',
            r'"BUY\u0000"',
        )
    },
    **{f"customerId {text}": order(customerId=text) for text in ("true", "1.5", "[]", "{}")},
}

NOT_YOURS = {
    "1",
    "0",
    "-1",
    str(10**30),
    '""',
    '" "',
    '"1"',
    r'"1\u0000"',
    '"１００１"',
    '"1001 OR 1=1"',
    '"' + "1" * 60_000 + '"',
}

QUERIES = (
    *("status=", "status=OPEN", "status=FILLED,", "status=FILLED%00", "status=%EF%AC%81lled", "status=%ff", "status=1"),
    *("symbol=", "symbol=aapl", "symbol=AAPL%0A", "symbol=%00", "symbol=%D0%90APL", "symbol=" + "A" * 13, "symbol=*"),
    *("limit=", "limit=0", "limit=501", "limit=-1", "limit=abc", "limit=1.5", "limit=1e2", "limit=%2B5", "limit=%205"),
    *("limit=1_0", "limit=" + "9" * 5000, "limit=%EF%BC%91", "limit=%00", "limit=true", "limit=10;"),
    *(
        "cursor=",
        "cursor=0",
        "cursor=-5",
        "cursor=abc",
        "cursor=1000000000000000001",
        "cursor=" + "9" * 4000,
        "cursor=%00",
    ),
    *(
        "from=",
        "from=yesterday",
        "from=2026-13-01",
        "from=2026-02-30",
        "from=1700000000",
        "from=NaN",
        "from=%00",
        "from=0",
    ),
    *("from=0001-01-01T00:00:00%2B23:59", "to=9999-12-31T23:59:59-23:59", "to=%EF%BC%92020-01-01", "to=" + "9" * 4000),
    *("from=2026-01-01T00:00:00%2B99:00", "to=2026-01-01T25:00:00Z", "to=10000-01-01"),
    *("colour=red", "LIMIT=1", "limit[]=1", "%00=1", "%ff=1", "=", "=1", "customerId=1001", "x" * 4000 + "=1"),
    *("limit=1&limit=2", "status=FILLED&status=REJECTED"),
)

NO_SUCH_TRADE = ("1", "-1", "0", "null", "..%2Fbalance", "%00", "%ff", "%F0%9F%90%98", "'", "*", "a" * 4000, "1;2")

BAD_KEYS = ("", "a b", "a\tb", "a" * 201, "a" * 8000, "ключ", "\udcff", "é", "a\x80")

# What the HTTP parser refuses before there is a request: a 400 (in its own words) on a connection that it then closes.
MALFORMED_HTTP: dict[str, bytes] = {
    "newline in a key": post(order(), "Idempotency-Key: a\nX: b"),
    "carriage return in a key": post(order(), "Idempotency-Key: a\rX: b"),
    "NUL in a key": post(order(), "Idempotency-Key: a\0b"),
    "DEL in a key": post(order(), "Idempotency-Key: \x7f"),
    "folded header": post(order(), "Idempotency-Key: a", " b"),
    "NUL in the token": post(order()).replace(b"TOKEN", b"TOK\0EN"),
    "length and chunks": post(chunked(order().encode()), "Transfer-Encoding: chunked"),
    "two lengths": post(order(), "Content-Length: 3"),
    "length below zero": post(order(), "Content-Length: -1", length=False),
    "length that is none": post(order(), "Content-Length: 0x10", length=False),
    "chunk without a size": post(b"zz\r\n", "Transfer-Encoding: chunked", length=False),
    "chunk longer than its size": post(b"1\r\nabc\r\n0\r\n\r\n", "Transfer-Encoding: chunked", length=False),
    "header of 9,000 bytes": post(order(), "X: " + "a" * 9000),
    "200 headers": post(order(), *["X: a"] * 200),
    "path of 9,000 bytes": request("GET", "/" + "a" * 9000),
    "no path": request("GET", "*"),
    "raw UTF-8 in the path": request("GET", "/ä"),
    "space in the path": request("GET", "/api/v1/trades x"),
    "no host": b"GET /healthz HTTP/1.1\r\n\r\n",
    "no method": b"\r\n\r\n / HTTP/1.1\r\n\r\n",
    "unknown expectation": post(order(), "Expect: a miracle"),
    "unknown method": request("FETCH", TRADES),
    "another protocol": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 50 + b"\r\n\r\n",
}


def bomb(megabytes: int) -> bytes:
    """A gzip of so many megabytes: one piece, repeated, since each piece ends with a full flush."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    piece = packer.compress(b"[" * 10_000_000) + packer.flush(zlib.Z_FULL_FLUSH)
    header = 10
    return piece + piece[header:] * (megabytes // 10 - 1)


LARGE = order().encode().ljust(BODY_MAX + 1)

REQUESTS: dict[str, tuple[bytes, int, str]] = {
    **{name: (post(body), 400, "invalid_json") for name, body in NOT_JSON.items()},
    **{name: (post(body), 400, "invalid_request") for name, body in NOT_AN_ORDER.items()},
    **{f"customerId {text[:20]}": (post(order(customerId=text)), 403, "not_your_customer") for text in NOT_YOURS},
    **{f"?{query[:40]}": (request("GET", f"{TRADES}?{query}"), 400, "invalid_query") for query in QUERIES},
    **{f"/{id_[:20]}": (request("GET", f"{TRADES}/{id_}"), 404, "no_such_trade") for id_ in NO_SUCH_TRADE},
    **{f"key {key[:9]!r}{len(key)}": (post(order(), f"Idempotency-Key: {key}"), 400, "invalid_idempotency_key")
       for key in BAD_KEYS},
    "two keys": (post(order(), "Idempotency-Key: a", "Idempotency-Key: b"), 400, "invalid_idempotency_key"),
    "too large": (post(LARGE), 413, "body_too_large"),
    "100,000 nested lists": (post("[" * 100_000), 413, "body_too_large"),
    "says that it is too large": (post(b"{", f"Content-Length: {10**15}", length=False), 413, "body_too_large"),
    "too large, in chunks": (post(chunked(LARGE), "Transfer-Encoding: chunked", length=False), 413, "body_too_large"),
    "far too large, in chunks": (
        post(chunked(b"[" * 3_000_000), "Transfer-Encoding: chunked", length=False), 413, "body_too_large"
    ),
    "gzip": (post(gzip.compress(order().encode()), "Content-Encoding: gzip"), 415, "unsupported_encoding"),
    "no gzip": (post(order(), "Content-Encoding: gzip"), 415, "unsupported_encoding"),
    "deflate": (post(zlib.compress(order().encode()), "Content-Encoding: deflate"), 415, "unsupported_encoding"),
    "two compressions": (post(order(), "Content-Encoding: gzip, br"), 415, "unsupported_encoding"),
    "compressed in chunks": (
        post(chunked(gzip.compress(LARGE)), "Content-Encoding: GZIP", "Transfer-Encoding: chunked", length=False),
        415,
        "unsupported_encoding",
    ),
    "gzip bomb": (post(bomb(60), "Content-Encoding: gzip"), 415, "unsupported_encoding"),
    "gzip bomb for the webhook": (
        request("POST", "/webhooks/exchange", bomb(800), "Content-Encoding: gzip"), 415, "unsupported_encoding"
    ),
    "gzip bomb for nobody": (request("POST", "/", bomb(800), "Content-Encoding: gzip"), 404, "no_such_route"),
    "callback too large": (request("POST", "/webhooks/exchange", b" " * (CALLBACK_MAX + 1)), 413, "body_too_large"),
    **{f"{method} {TRADES}": (request(method, TRADES), 405, "method_not_allowed")
       for method in ("HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")},
    "POST balance": (request("POST", "/api/v1/balance", b"{}"), 405, "method_not_allowed"),
    "GET webhook": (request("GET", "/webhooks/exchange"), 405, "method_not_allowed"),
    **{path: (request("GET", path), 404, "no_such_route") for path in (
        "/", "//", "/api", "/api/v1", "/api/v1/trades/", "/api/v2/trades", "/API/v1/trades", "/api/v1//trades", "/%00",
        "/%ff", "/api/v1/../../healthz", "/.env", "/api/v1/trades%3Flimit=1", "/api/v1/trades/%7B%7D",
    )},
    "CONNECT": (request("CONNECT", "broker:80"), 404, "no_such_route"),
}  # fmt: skip


def in_the_error_form(answer: Answer, code: str) -> bool:
    """Exactly an object with a sentence and the machine's name of the error."""
    if answer.headers["content-type"] != "application/json":
        return False
    error = json.loads(answer.body)
    sentence = str(error.get("error"))
    well_formed = " " in sentence and sentence.endswith(".") and len(sentence) <= 300
    return well_formed and error == {"error": sentence, "code": code}


async def test_bad_input_changes_nothing_is_named_and_delays_nobody(broker: Broker) -> None:
    customer = await broker.customer()
    before = await everything(broker)
    wrong = []
    with capture_logs() as logs:
        async with watching_healthz(broker) as waited:
            for name, (data, status, code) in REQUESTS.items():
                waited.clear()
                answer = await send(broker, data.replace(b"TOKEN", customer.token.encode()))
                while not waited:
                    await asyncio.sleep(0)
                told = data.startswith(b"HEAD") or in_the_error_form(answer, code)
                if answer.status != status or not told or max(waited) > WORK_MAX_S:
                    wrong.append((name, answer.status, answer.body[:300], max(waited)))
            for name, data in MALFORMED_HTTP.items():
                answer = await send(broker, data.replace(b"TOKEN", customer.token.encode()))
                if answer.status not in {400, 417}:
                    wrong.append((name, answer.status, answer.body[:300], 0))
    assert wrong == []
    assert await everything(broker) == before
    assert logs == [], "what a client gets wrong is no news, and could fill the disk"
    _, placed = await customer.place("BUY", "AAPL", 1)
    assert (await customer.ended(placed["tradeId"]))["status"] == "FILLED"


# ------------------------------------------------------------------ those who send slowly, or not at all

PARTS: dict[str, tuple[str, bytes]] = {
    "never sent": ("Content-Length: 50", b""),
    "never finished": ("Content-Length: 50", order().encode()[:49]),
    "never ended chunks": ("Transfer-Encoding: chunked", chunked(order().encode())[:-5]),
    "half a chunk": ("Transfer-Encoding: chunked", b"32\r\n{"),
}


def slow_requests(customer: Client, operator: Client) -> dict[str, bytes]:
    """The beginnings of requests whose bodies do not come."""
    routes = {TRADES: customer.token, "/admin/v1/customers": operator.token, "/webhooks/exchange": "none"}
    return {
        f"{path} {name}": request("POST", path, b"", header, length=False).replace(b"TOKEN", str(token).encode()) + part
        for path, token in routes.items()
        for name, (header, part) in PARTS.items()
    }


async def test_a_body_that_does_not_come_is_answered_in_time_and_holds_nobody_up(
    with_settings: Callable[..., Config],
) -> None:
    async with run_broker(with_settings(body_wait_s=0.3)) as broker:
        customer = await broker.customer()
        before = await everything(broker)
        slow = slow_requests(customer, broker.operator)
        async with watching_healthz(broker) as waited:
            began = time.monotonic()
            answers = await asyncio.gather(*(send(broker, data) for data in slow.values()))
            took = time.monotonic() - began
        assert [(a.status, in_the_error_form(a, "body_timeout")) for a in answers] == [(408, True)] * len(slow)
        assert 0.3 <= took < ANSWER_WITHIN_S
        assert max(waited) < WORK_MAX_S
        assert await everything(broker) == before


async def test_a_body_that_drips_is_cut_off(with_settings: Callable[..., Config]) -> None:
    async with run_broker(with_settings(body_wait_s=0.2)) as broker:
        customer = await broker.customer()
        head = request("POST", TRADES, b"", "Content-Length: 1000", length=False)
        async with asyncio.timeout(ANSWER_WITHIN_S), connected(broker) as (reader, writer):
            writer.write(head.replace(b"TOKEN", str(customer.token).encode()))
            dripping = asyncio.create_task(drip(writer))
            assert (await read_answer(reader)).status == 408
            dripping.cancel()


async def drip(writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b" ")
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("sent", [b"", b"POST /api/v1/trades HTTP/1.1\r\nHost: b", b"\r\n"])
async def test_a_connection_that_sends_no_request_is_closed(sent: bytes, with_settings: Callable[..., Config]) -> None:
    async with run_broker(with_settings(keepalive_s=0.2)) as broker, connected(broker) as (reader, writer):
        writer.write(sent)
        async with asyncio.timeout(2):
            assert await reader.read() == b""


async def test_who_hangs_up_in_the_middle_is_no_fault_of_ours(broker: Broker) -> None:
    customer = await broker.customer()
    before = await everything(broker)
    with capture_logs() as logs:
        for data in slow_requests(customer, broker.operator).values():
            async with connected(broker) as (_, writer):
                writer.write(data)
                await writer.drain()
            await customer.call("GET", "/healthz")  # by its answer the broker has seen the other connection end
    assert logs == []
    assert await everything(broker) == before
