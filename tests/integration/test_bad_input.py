"""Whatever comes in over HTTP: it changes nothing, the answer says what is wrong with it, and nobody else waits."""

import asyncio
import gc
import gzip
import json
import time
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass
from typing import Any

import pytest
from structlog.testing import capture_logs

from broker.config import Config
from tests.conftest import Broker, Client, eventually, run_broker

TRADES = "/api/v1/trades"
WEBHOOK = "/webhooks/exchange"
BODY_MAX = Config().body_max
ANSWER_WITHIN_S = 10.0
WORK_MAX_S = 0.3
"""Seconds of work that anybody else has to wait for: the loop's own time, so that a busy machine is not blamed."""


# ------------------------------------------------------------------ raw HTTP, most of which no client would send


JSON = "Content-Type: application/json"


def request(method: str, path: str, body: bytes = b"", *headers: str, length: bool = True) -> bytes:
    """The bytes of a customer's request, with TOKEN for its token. Headers take any byte, as a lone surrogate."""
    lines = [f"{method} {path} HTTP/1.1", "Host: broker", "Authorization: Bearer TOKEN", *headers]
    if length:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode("utf-8", "surrogateescape") + b"\r\n\r\n" + body


def post(body: bytes | str, *headers: str, length: bool = True) -> bytes:
    """A PlaceTrade with this body, which it says is JSON."""
    return request("POST", TRADES, body if isinstance(body, bytes) else body.encode(), JSON, *headers, length=length)


def order(**fields: str) -> str:
    """A good order, with these fields' JSON instead; a field that is empty is left out."""
    texts = {"stockTicker": '"AAPL"', "type": '"BUY"', "quantity": "10"} | fields
    return "{" + ", ".join(f'"{name}": {text}' for name, text in texts.items() if text) + "}"


def in_chunks(body: bytes | str, *headers: str) -> bytes:
    """A PlaceTrade whose length is not said."""
    body = body if isinstance(body, bytes) else body.encode()
    whole = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    return post(whole, "Transfer-Encoding: chunked", *headers, length=False)


def bomb(megabytes: int) -> bytes:
    """A gzip of so many megabytes: one piece again and again, which a full flush makes possible."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    piece = packer.compress(b"[" * 10_000_000) + packer.flush(zlib.Z_FULL_FLUSH)
    header = 10
    return piece + piece[header:] * (megabytes // 10 - 1)


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    def is_error(self, code: str) -> bool:
        """Whether it is exactly an object with a sentence and this code."""
        if self.headers["content-type"] != "application/json":
            return False
        error = json.loads(self.body)
        sentence = str(error.get("error"))
        reads_well = " " in sentence and sentence.endswith(".") and len(sentence) <= 300
        return reads_well and error == {"error": sentence, "code": code}


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
    for _ in range(5):
        with suppress(
            ConnectionResetError
        ):  # what was not read of a request when it was refused takes the answer along
            return await _send(broker, data)
    return await _send(broker, data)


async def _send(broker: Broker, data: bytes) -> Answer:
    async with asyncio.timeout(ANSWER_WITHIN_S), connected(broker) as (reader, writer):
        writer.write(data)
        return await read_answer(reader, has_body=not data.startswith(b"HEAD"))


# ------------------------------------------------------------------ what must stay as it was


async def everything(broker: Broker) -> list[Any]:
    """All that a request could have changed."""
    tables = ("customer", "api_key", "account", "transfer", "posting", "trade", "execution", "event", "inbox")
    return [[tuple(row) for row in await broker.fetch(f"SELECT * FROM {table} ORDER BY 1, 2")] for table in tables]


@asynccontextmanager
async def nobody_waits(broker: Broker) -> AsyncIterator[None]:
    """Ask for /healthz without a pause meanwhile: never may others' work stand in front of one of these for long."""
    waited: list[float] = []

    async def ask() -> None:
        async with connected(broker) as (reader, writer):
            while True:
                before = time.thread_time()
                writer.write(b"GET /healthz HTTP/1.1\r\nHost: broker\r\n\r\n")
                assert (await read_answer(reader)).status == 200
                waited.append(time.thread_time() - before)

    gc.collect()
    gc.freeze()  # whatever pytest has piled up so far is no work of the broker's
    try:
        async with asyncio.TaskGroup() as tasks:
            asking = tasks.create_task(ask())
            yield
            asking.cancel()
    finally:
        gc.unfreeze()
    assert waited
    assert max(waited) < WORK_MAX_S, f"/healthz waited for {max(waited):.3f} s of work"


# ------------------------------------------------------------------ the table

NOT_JSON: dict[str, bytes | str] = {
    "nothing": "",
    "blank": "  \n ",
    "text": "buy 10 AAPL",
    "a form": "stockTicker=AAPL&type=BUY&quantity=10",
    "single quotes": order().replace('"', "'"),
    "a trailing comma": order()[:-1] + ",}",
    "a comment": order() + "// please",
    "two objects": order() * 2,
    "cut off": order()[:-1],
    "NaN": order(quantity="NaN"),
    "Infinity": order(quantity="Infinity"),
    "-Infinity": order(quantity="-Infinity"),
    "4301 digits": order(quantity="1" * 4301),
    "60,000 digits": order(quantity="9" * 60_000),
    "an exponent of 20 digits": order(quantity="1e" + "9" * 20),
    "60,000 decimals": order(quantity="1." + "9" * 60_000),
    "a leading zero": order(quantity="010"),
    "a plus": order(quantity="+10"),
    "hexadecimal": order(quantity="0x10"),
    "an underscore": order(quantity="1_0"),
    "full-width digits": order(quantity="\uff11\uff10"),
    "Arabic digits": order(quantity="\u0661\u0660"),
    "a quantity twice": order()[:-1] + ', "quantity": 1000000}',
    "a ticker twice, once escaped": order()[:-1] + r', "stock\u0054icker": "MSFT"}',
    "60,000 nested lists": "[" * 60_000,
    "10,000 nested objects": '{"a":' * 10_000,
    "nested where a number belongs": order(quantity="[" * 30_000 + "]" * 30_000),
    "a raw newline": order(stockTicker='"AA\nPL"'),
    "a raw NUL": order(stockTicker='"AA\0PL"'),
    "a lone surrogate as a ticker": order(stockTicker=r'"\ud800"'),
    "a lone low surrogate": order(stockTicker=r'"AAPL\udc00"'),
    "a lone surrogate as a type": order(type=r'"\uD800"'),
    "a lone surrogate as a customer": order(customerId=r'"\ud800"'),
    "a lone surrogate as a field": order()[:-1] + r', "\ud800": 1}',
    "a surrogate in bytes": order(stockTicker='"\ud800"').encode("utf-8", "surrogatepass"),
    "invalid UTF-8": order().encode() + b"\xff",
    "overlong UTF-8": order().encode().replace(b"AAPL", b"\xc1\x81APL"),
    "Latin-1": order(stockTicker='"É"').encode("latin-1"),
    "a BOM": "\ufeff" + order(),
    "UTF-16": order().encode("utf-16"),
    "UTF-32": order().encode("utf-32"),
}

NOT_AN_ORDER = {
    "an array": f"[{order()}]",
    "no ticker": order(stockTicker=""),
    "no type": order(type=""),
    "no quantity": order(quantity=""),
    "an unknown field": order(price='"1.00"'),
    "an unknown field of 60,000 characters": order(**{"x" * 60_000: "1"}),
    "a field in another case": order(quantity="", Quantity="10"),
    "a ticker of 200 characters": order(stockTicker='"' + "A" * 200 + '"'),
    "a ticker of 60,000 characters": order(stockTicker='"' + "A" * 60_000 + '"'),
    "an injection": order(stockTicker='"\'; DROP TABLE trade; --"'),
}
NO_OBJECTS = '[] [{}] "AAPL" 7 7.5 -0 null true {}'
NO_QUANTITIES = rf"""
    0 -0 -1 -0.0 1.5 10.0 1e1 1e400 -1e400 1E+999999 1E-999999 "10" "1_0" "\u00207\u0020" "\uff11\uff10" "\u0661\u0660"
    "" true false null [] [10] {{}} 10000001 4294967297 18446744073709551617 {10**30} {-(10**30)}
    """
NO_TICKERS = r"""
    7 null true [] ["AAPL"] {} "" "\u0020" "aapl" "Aapl" "\u0020AAPL" "AAPL\u0020" "AAPL\n" "AAPL\u0000" "\u0000"
    "\u0410APL" "\uff21\uff21\uff30\uff2c" "ÄAPL" "A-B" "A/B" "$USD" "*" "😀" "\ud83d\ude00" "A\u0041PL\u2028"
    "ABCDEFGHIJKLM" ".A" "1A"
    """
NO_TYPES = r'null true 1 [] {} "" "buy" "Buy" "\u0020BUY" "BUY\n" "BUY\u0000" "SHORT" "\uff22\uff35\uff39" "BUY,SELL"'
NO_CUSTOMERS = "true 1.5 [] {}"
OTHER_CUSTOMERS = rf'1 0 -1 {10**30} "" "\u0020" "1" "1\u0000" "\uff11" "1;1" "1001.0" "01001" "{"1" * 60_000}"'

QUERIES = f"""
    status= status=OPEN status=FILLED, status=FILLED%00 status=%EF%AC%81lled status=%ff status=1 status=FILLED;PLACED
    symbol= symbol=aapl symbol=AAPL%0A symbol=%00 symbol=%D0%90APL symbol=ABCDEFGHIJKLM symbol=* symbol=%ff
    limit= limit=0 limit=501 limit=-1 limit=abc limit=1.5 limit=1e2 limit=%2B5 limit=%205 limit=1_0 limit=%EF%BC%91
    limit=%00 limit=true limit=10; limit={"9" * 5000} limit=1&limit=2 status=FILLED&status=REJECTED
    cursor= cursor=0 cursor=-5 cursor=abc cursor=1000000000000000001 cursor={"9" * 4000} cursor=%00 cursor=%D9%A1
    from= from=yesterday from=2026-13-01 from=2026-02-30 from=1700000000 from=NaN from=%00 from=0 from={"9" * 4000}
    from=0001-01-01T00:00:00%2B23:59 to=9999-12-31T23:59:59-23:59 to=%EF%BC%92020-01-01 to=2026-01-01T25:00:00Z
    from=2026-01-01T00:00:00%2B99:00 to=10000-01-01 from=2026-01-01&from=2026-01-02
    colour=red LIMIT=1 limit[]=1 %00=1 %ff=1 = =1 customerId=1001 {"x" * 4000}=1
    """
NO_TRADES = f"1 -1 0 null ..%2Fbalance %00 %ff %F0%9F%90%98 ' * 1;2 %0d%0aX:y {'a' * 4000} {'0' * 32}"
NO_PATHS = """
    / // /api /api/v1 /api/v1/trades/ /api/v2/trades /API/v1/trades /api/v1//trades /%00 /%ff /api/v1/../../healthz
    /.env /api/v1/trades%3Flimit=1 /api/v1/trades/%7B%7D /api/v1/trades/1/2 /metrics/ /admin
    """
NO_KEYS = ("", "a b", "a\tb", "a" * 201, "a" * 8000, "é", "ключ", "\udcff", "a\x80")


def rows(code: int, name: str, requests: dict[str, bytes]) -> dict[str, tuple[bytes, int, str]]:
    """Requests that all get this answer."""
    return {f"{name}: {about[:50]}": (data, code, name) for about, data in requests.items()}


LARGE = order().encode().ljust(BODY_MAX + 1)

REFUSED = {
    **rows(400, "invalid_json", {name: post(body) for name, body in NOT_JSON.items()}),
    **rows(400, "invalid_request", {name: post(body) for name, body in NOT_AN_ORDER.items()}),
    **rows(400, "invalid_request", {text: post(text) for text in NO_OBJECTS.split(" ")}),
    **rows(400, "invalid_request", {f"quantity {text}": post(order(quantity=text)) for text in NO_QUANTITIES.split()}),
    **rows(400, "invalid_request", {f"ticker {text}": post(order(stockTicker=text)) for text in NO_TICKERS.split()}),
    **rows(400, "invalid_request", {f"type {text}": post(order(type=text)) for text in NO_TYPES.split()}),
    **rows(400, "invalid_request", {f"customer {text}": post(order(customerId=text)) for text in NO_CUSTOMERS.split()}),
    **rows(403, "not_your_customer", {text: post(order(customerId=text)) for text in OTHER_CUSTOMERS.split()}),
    **rows(400, "invalid_query", {query: request("GET", f"{TRADES}?{query}") for query in QUERIES.split()}),
    **rows(404, "no_such_trade", {id_: request("GET", f"{TRADES}/{id_}") for id_ in NO_TRADES.split()}),
    **rows(404, "no_such_route", {path: request("GET", path) for path in NO_PATHS.split()}),
    **rows(404, "no_such_route", {"a tunnel": request("CONNECT", "broker:80")}),
    **rows(405, "method_not_allowed", {verb: request(verb, TRADES) for verb in ("HEAD", "PUT", "DELETE", "OPTIONS")}),
    **rows(405, "method_not_allowed", {"to read by POST": request("POST", "/api/v1/balance", b"{}")}),
    **rows(
        400,
        "invalid_idempotency_key",
        {f"{len(key)} {key!r}": post(order(), f"Idempotency-Key: {key}") for key in NO_KEYS}
        | {"two": post(order(), "Idempotency-Key: a", "Idempotency-Key: b")},
    ),
    **rows(
        413,
        "body_too_large",
        {
            "whole": post(LARGE),
            "in chunks": in_chunks(LARGE),
            "far, in chunks": in_chunks(b"[" * 3_000_000),
            "100,000 nested lists": post("[" * 100_000),
            "or so it says": post(b"{", f"Content-Length: {10**15}", length=False),
            "a callback": request("POST", WEBHOOK, b" " * (Config().webhook_body_max + 1)),
        },
    ),
    **rows(
        415,
        "unsupported_encoding",
        {
            "gzip": post(gzip.compress(order().encode()), "Content-Encoding: gzip"),
            "gzip in chunks": in_chunks(gzip.compress(LARGE), "Content-Encoding: GZIP"),
            "no gzip": post(order(), "Content-Encoding: gzip"),
            "deflate": post(zlib.compress(order().encode()), "Content-Encoding: deflate"),
            "two": post(order(), "Content-Encoding: gzip, br"),
            "unknown": post(order(), "Content-Encoding: zip"),
            "a bomb": post(bomb(60), "Content-Encoding: gzip"),
            "a bomb for the webhook": request("POST", WEBHOOK, bomb(800), "Content-Encoding: gzip"),
        },
    ),
    **rows(
        415,
        "unsupported_content_type",
        {
            "not said": request("POST", TRADES, order().encode()),
            "not said, in chunks": in_chunks(order()).replace(f"{JSON}\r\n".encode(), b""),
            "not said, and no JSON": request("POST", TRADES, b" "),
            "empty": request("POST", TRADES, order().encode(), "Content-Type:"),
            "a form": request("POST", TRADES, order().encode(), "Content-Type: application/x-www-form-urlencoded"),
        },
    ),
    **rows(431, "headers_too_large", {"40,000 bytes": post(order(), "X: " + "a" * 40_000)}),
    **rows(414, "url_too_long", {"40,000 bytes": request("GET", "/" + "a" * 40_000)}),
    **rows(404, "no_such_route", {"a bomb": request("POST", "/", bomb(800), "Content-Encoding: gzip")}),
}

# Refused by the HTTP parser before there is a request, on a connection that is then closed.
MALFORMED_HTTP = {
    "a newline in a key": post(order(), "Idempotency-Key: a\nX: b"),
    "a carriage return in a key": post(order(), "Idempotency-Key: a\rX: b"),
    "NUL in a key": post(order(), "Idempotency-Key: a\0b"),
    "DEL in a key": post(order(), "Idempotency-Key: \x7f"),
    "a folded header": post(order(), "Idempotency-Key: a", " b"),
    "NUL in the token": post(order()).replace(b"TOKEN", b"TOKEN\0"),
    "a length and chunks": in_chunks(order(), "Content-Length: 9"),
    "two lengths": post(order(), "Content-Length: 3"),
    "a length below zero": post(order(), "Content-Length: -1", length=False),
    "a length that is none": post(order(), "Content-Length: 0x10", length=False),
    "a chunk without a size": post(b"zz\r\n", "Transfer-Encoding: chunked", length=False),
    "a chunk longer than its size": post(b"1\r\nabc\r\n0\r\n\r\n", "Transfer-Encoding: chunked", length=False),
    "200 headers": post(order(), *["X: a"] * 200),
    "no path": request("GET", "*"),
    "raw UTF-8 in the path": request("GET", "/ä"),
    "a space in the path": request("GET", f"{TRADES} x"),
    "no host": b"GET /healthz HTTP/1.1\r\n\r\n",
    "no method": b"\r\n\r\n / HTTP/1.1\r\n\r\n",
    "an unknown method": request("FETCH", TRADES),
    "another protocol": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 50 + b"\r\n\r\n",
}


async def test_bad_input_changes_nothing_is_named_and_delays_nobody(broker: Broker) -> None:
    customer = await broker.customer()
    token = str(customer.token).encode()
    before = await everything(broker)
    wrong, ids = [], []
    with capture_logs() as logs:
        async with nobody_waits(broker):
            for name, (data, status, code) in REFUSED.items():
                answer = await send(broker, data.replace(b"TOKEN", token))
                ids.append((answer.headers.get("x-request-id"), name))
                if answer.status != status or (answer.body and not answer.is_error(code)):
                    wrong.append((name, answer))
            for name, data in MALFORMED_HTTP.items():
                answer = await send(broker, data.replace(b"TOKEN", token))
                ids.append((answer.headers.get("x-request-id"), name))
                if answer.status != 400 or not answer.is_error("malformed_http"):
                    wrong.append((name, answer))
    assert wrong == []
    assert [name for id_, name in ids if id_ is None] == []
    assert len({id_ for id_, _ in ids}) == len(ids), "each has an id of its own"
    noted = [entry for entry in logs if entry["event"].startswith("request.")]
    assert noted == [], "what a client gets wrong is no news: anybody could fill the disk"
    assert await everything(broker) == before
    _, placed = await customer.place("BUY", "AAPL", 1)
    assert (await customer.ended(placed["tradeId"]))["status"] == "FILLED"


async def test_a_body_that_does_not_say_what_it_is_is_refused_wherever_one_is_read(broker: Broker) -> None:
    """A web page may send such a one anywhere without asking, and what it is would be guessed. (Not so in Alpaca's.)"""
    customer, operator = await broker.customer(), broker.operator
    order_id, key = "01a201c6-99e6-770c-83c3-b03531a2249b", f"/admin/v1/customers/{customer.customer_id}/keys"
    routes: list[tuple[Client, str, str]] = [
        *((customer, "POST", path) for path in (TRADES, "/api/v1/orders", "/api/v1/orders/estimate")),
        (customer, "PATCH", f"/api/v1/orders/{order_id}"),
        (customer, "POST", "/api/v1/webhooks"),
        (operator, "POST", "/admin/v1/customers"),
        (operator, "POST", key),
        (operator, "PUT", "/admin/v1/controls/all"),
        (operator, "PUT", "/admin/v1/limits/all"),
        (operator, "POST", "/admin/v1/corporate-actions"),
        (operator, "PUT", f"/admin/v1/customers/{customer.customer_id}/state"),
        (operator, "POST", "/admin/v1/exchange/clock/advance"),
    ]
    before, found = await everything(broker), dict[tuple[str, str], tuple[int, object]]()
    for client, method, path in routes:
        headers = {"Authorization": f"Bearer {client.token}"}
        sent = {"data": order().encode(), "headers": headers, "skip_auto_headers": ["Content-Type"]}
        async with client.http.request(method, client.url + path, **sent) as response:
            found[method, path] = (response.status, (await response.json())["code"])
    assert found == {(method, path): (415, "unsupported_content_type") for _, method, path in routes}
    assert await everything(broker) == before


async def test_where_there_is_no_body_nothing_has_to_be_said_of_it(broker: Broker) -> None:
    customer, operator = await broker.customer(), broker.operator
    key = f"/admin/v1/customers/{customer.customer_id}/keys"
    for client, method, path, status in (
        (operator, "POST", "/admin/v1/customers", 201),
        (operator, "POST", key, 201),
        (customer, "DELETE", "/api/v1/orders", 202),
        (customer, "DELETE", "/v2/orders", 207),
        (operator, "POST", f"/admin/v1/customers/{customer.customer_id}/suspend", 200),
    ):
        head = request(method, path).replace(b"TOKEN", str(client.token).encode())
        for data in (head, request(method, path, length=False).replace(b"TOKEN", str(client.token).encode())):
            answer = await send(broker, data)
            assert answer.status == status, (path, answer)


async def test_what_fails_before_the_handlers_has_a_request_id_too(broker: Broker) -> None:
    token = str((await broker.customer()).token).encode()
    answer = await send(broker, post(order(), "Expect: a-miracle").replace(b"TOKEN", token))
    assert (answer.status, answer.is_error("http_error")) == (417, True)
    assert answer.headers.get("x-request-id")


# ------------------------------------------------------------------ those who send slowly, or not at all


def unfinished_requests(customer: Client, operator: Client) -> dict[str, bytes]:
    """Requests whose bodies do not come, or not as a whole, to every kind of route that takes one."""
    chunks = in_chunks(order()).partition(b"\r\n\r\n")[2]
    parts = {
        "nothing": ("Content-Length: 50", b""),
        "all but the end": ("Content-Length: 57", order().encode()),
        "no last chunk": ("Transfer-Encoding: chunked", chunks[:-5]),
        "half a chunk": ("Transfer-Encoding: chunked", chunks[:9]),
    }
    routes = {TRADES: customer.token, "/admin/v1/customers": operator.token, WEBHOOK: "none"}
    return {
        f"{name} to {path}": request("POST", path, b"", header, length=False).replace(b"TOKEN", str(token).encode())
        + part
        for path, token in routes.items()
        for name, (header, part) in parts.items()
    }


async def test_a_body_that_does_not_come_is_answered_in_time_and_holds_nobody_up(
    with_settings: Callable[..., Config],
) -> None:
    async with run_broker(with_settings(body_wait_s=0.3)) as broker:
        unfinished = unfinished_requests(await broker.customer(), broker.operator)
        before = await everything(broker)
        began = time.monotonic()
        async with nobody_waits(broker):
            answers = await asyncio.gather(*(send(broker, data) for data in unfinished.values()))
        assert time.monotonic() - began >= 0.3
        timed_out = [(answer.status, answer.is_error("body_timeout")) for answer in answers]
        assert dict(zip(unfinished, timed_out, strict=True)) == dict.fromkeys(unfinished, (408, True))
        assert await everything(broker) == before


async def test_a_body_that_drips_is_cut_off(with_settings: Callable[..., Config]) -> None:
    async def drip(writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(b" ")
            await asyncio.sleep(0.01)

    async with run_broker(with_settings(body_wait_s=0.2)) as broker:
        customer = await broker.customer()
        head = request("POST", TRADES, b"", "Content-Length: 1000", length=False)
        async with asyncio.timeout(ANSWER_WITHIN_S), connected(broker) as (reader, writer):
            writer.write(head.replace(b"TOKEN", str(customer.token).encode()))
            dripping = asyncio.create_task(drip(writer))
            assert (await read_answer(reader)).is_error("body_timeout")
            dripping.cancel()


@pytest.mark.parametrize("sent", [b"", b"\r\n", b"POST /api/v1/trades HTTP/1.1\r\nHost: b"])
async def test_a_connection_that_sends_no_request_is_closed(sent: bytes, with_settings: Callable[..., Config]) -> None:
    async with (
        run_broker(with_settings(keepalive_s=0.2, head_wait_s=0.2)) as broker,
        connected(broker) as (reader, writer),
    ):
        writer.write(sent)
        async with asyncio.timeout(ANSWER_WITHIN_S):
            assert await reader.read() == b""


async def test_who_hangs_up_in_the_middle_is_no_fault_of_ours(broker: Broker) -> None:
    unfinished = unfinished_requests(await broker.customer(), broker.operator)
    before = await everything(broker)

    async def all_given_up() -> bool:
        async with broker.http.get(f"{broker.running.url}/metrics") as response:
            lines = (await response.text()).splitlines()
        given_up = [line for line in lines if line.startswith('broker_http_requests_total{code="400"')]
        return sum(float(line.split()[-1]) for line in given_up) == len(unfinished)

    with capture_logs() as logs:
        for data in unfinished.values():
            async with connected(broker) as (_, writer):
                writer.write(data)
        await eventually(all_given_up)
    assert logs == []
    assert await everything(broker) == before
