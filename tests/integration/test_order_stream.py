"""GET /api/v1/orders/stream: every step of a customer's orders in order, live and out of the database the same."""

import asyncio
import json
import random
import socket as sockets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import WSCloseCode, WSMsgType
from aiohttp.test_utils import TestServer
from structlog.testing import capture_logs

from broker.config import Config
from broker.core import signing
from broker.core.messages import Step, TradeEvent
from broker.core.types import CustomerId
from broker.db import Database, DatabaseUnavailable, RefusedByDatabase
from broker.order_updates import OrderUpdates
from broker.updates import Updates
from tests.conftest import Broker, Client, eventually, narrow, run_broker
from tests.integration.test_orders import becomes, get, limit, order
from tests.integration.test_stream import close_patiently
from tests.integration.test_webhook import KEY, Desk, QuietExchange, event, fill

STREAM = "/api/v1/orders/stream"
WITHIN_S = 15.0


# ------------------------------------------------------------------ clients


@dataclass
class Socket:
    """A client with a WebSocket."""

    ws: aiohttp.ClientWebSocketResponse

    async def raw(self) -> str:
        message = await self.ws.receive(WITHIN_S)
        assert message.type is WSMsgType.TEXT, message
        return str(message.data)

    async def next(self) -> Any:
        return json.loads(await self.raw())

    async def updates(self, count: int) -> list[str]:
        return [await self.raw() for _ in range(count)]

    async def closed(self) -> tuple[int | None, str]:
        """How it was closed, whatever came before."""
        while (message := await self.ws.receive(WITHIN_S)).type is WSMsgType.TEXT:
            pass
        # What was said, not how our own answer to it went: the broker may have hung up by then.
        return message.data if message.type is WSMsgType.CLOSE else self.ws.close_code, str(message.extra)


@asynccontextmanager
async def socket(client: Client, query: str = "", *, token: str | None = None, **headers: str) -> AsyncIterator[Socket]:
    """A WebSocket with the client's token in its header, or with `token` in its first message."""
    if token is None and client.token is not None:
        headers["Authorization"] = f"Bearer {client.token}"
    async with client.http.ws_connect(client.url + STREAM + query, headers=headers) as ws:
        if token is not None:
            await ws.send_json({"action": "authenticate", "token": token})
        yield Socket(ws)


@dataclass
class Events:
    """A client with an event stream."""

    response: aiohttp.ClientResponse

    async def block(self) -> list[str]:
        """The lines up to the next empty one."""
        lines = []
        async with asyncio.timeout(WITHIN_S):
            while line := (await self.response.content.readline()).decode().removesuffix("\n"):
                lines.append(line)
        return lines

    async def fields(self) -> dict[str, str]:
        """One event; pings before it are passed over."""
        while (lines := await self.block()) == [": ping"]:
            pass
        return dict(line.split(": ", 1) for line in lines)

    async def next(self) -> Any:
        return json.loads((await self.fields())["data"])

    async def updates(self, count: int) -> list[str]:
        return [(await self.fields())["data"] for _ in range(count)]


@asynccontextmanager
async def events(client: Client, query: str = "", **headers: str) -> AsyncIterator[Events]:
    """An event stream, after its `retry`."""
    headers["Authorization"] = f"Bearer {client.token}"
    async with client.http.get(client.url + STREAM + query, headers=headers) as response:
        assert response.status == 200, await response.text()
        stream = Events(response)
        assert await stream.block() == ["retry: 1000"]
        yield stream


async def refused(client: Client, query: str = "", **headers: str) -> tuple[int, str]:
    """The answer to an event stream that is not opened: status and code. A WebSocket must be answered the same."""
    status, answer = await client.call("GET", STREAM + query, headers=headers)
    with pytest.raises(aiohttp.WSServerHandshakeError) as refusal:
        async with socket(client, query, **headers):
            pass
    assert refusal.value.status == status
    return status, answer["code"]


async def rejected(client: Client) -> None:
    """An order that needs no exchange: it is placed and ended in one commit."""
    status, _ = await order(client, quantity=1_000_000)
    assert status == 400


async def replayed(broker: Broker, client: Client) -> list[str]:
    """All updates of a customer, from the database."""
    database = Database(broker.dsn, broker.config)
    await database.open()
    try:
        found = await OrderUpdates(database).read(CustomerId(int(client.customer_id)), 0, 100_000)
    finally:
        await database.close()
    assert [sequence for sequence, _ in found] == list(range(1, len(found) + 1))
    return [message.decode() for _, message in found]


# ------------------------------------------------------------------ what a message says


async def test_an_update_shows_the_order_as_the_orders_api_does(broker: Broker) -> None:
    customer = await broker.customer()
    async with socket(customer) as stream:
        assert await stream.next() == {"type": "subscribed", "sequence": 0}
        _, placed = await order(customer, client_order_id="mine", quantity=3)
        filled = await becomes(customer, placed["id"], "filled")
        seen = [await stream.next() for _ in range(2)]
        while seen[-1]["event"] != "executed":  # what it says of a market order before that is up to the exchange
            seen.append(await stream.next())
    told = [(each["event"], each["order"]["status"], each["order"]["leaves_quantity"]) for each in seen]
    assert told[:2] == [("placed", "pending", 3), ("started", "validated", 3)]
    assert told[2:] in ([("executed", "filled", 0)], [("accepted", "submitted", 3), ("executed", "filled", 0)])
    assert [(each["type"], each["sequence"]) for each in seen] == [
        ("order_update", number) for number in range(1, len(seen) + 1)
    ]
    (execution,) = filled.pop("executions")
    del filled["held"], filled["fees"]
    assert list(seen[-1]) == ["type", "sequence", "event", "at", "order", "execution"]
    assert list(seen[-1]["order"]) == list(filled)
    assert (seen[-1]["order"], seen[-1]["execution"], seen[-1]["at"]) == (filled, execution, filled["updated_at"])
    assert not any(each["execution"] for each in seen[:-1])
    assert {key: seen[0]["order"][key] for key in ("client_order_id", "symbol", "side", "quantity", "venue")} == {
        "client_order_id": "mine",
        "symbol": "AAPL",
        "side": "buy",
        "quantity": 3,
        "venue": "sim",
    }
    assert seen[0]["order"]["updated_at"] == seen[0]["at"] == filled["created_at"]


async def test_an_event_stream_tells_the_same_with_ids(with_settings: Callable[..., Config]) -> None:
    async with run_broker(with_settings(stream_ping_s=0.1)) as broker:
        customer = await broker.customer()
        async with events(customer) as stream:
            headers = stream.response.headers
            assert headers["Content-Type"] == "text/event-stream"
            assert (headers["Cache-Control"], headers["X-Accel-Buffering"]) == ("no-cache", "no")
            assert headers["X-Request-Id"]
            first = await stream.fields()
            assert first == {"id": "0", "event": "subscribed", "data": '{"type":"subscribed","sequence":0}'}
            assert await stream.block() == [": ping"]
            await rejected(customer)
            got = [await stream.fields() for _ in range(2)]
        assert [(each["id"], each["event"]) for each in got] == [("1", "order_update"), ("2", "order_update")]
        assert [each["data"] for each in got] == await replayed(broker, customer)


@asynccontextmanager
async def quiet_desk(with_settings: Callable[..., Config]) -> AsyncIterator[Desk]:
    """A broker on an exchange that says only what a test tells it to say."""
    exchange = QuietExchange()
    async with TestServer(exchange.app()) as server:
        secret, url = signing.encode_secret(KEY), str(server.make_url("/"))
        settings = with_settings(
            **{"exchange": url, "webhook_secrets": secret, "look_after_s": 60.0, "look_max_s": 60.0},
            **{"order_wait_s": 0.01, "order_stream_check_s": 600.0},
        )
        async with run_broker(settings) as broker:
            yield Desk(broker, exchange, await broker.customer(cash="10000.00"))
            await broker.books_are_right()


async def every_kind_of_step(desk: Desk) -> None:
    """Two fills in one callback, replace, cancel, bust, correction, and an execution that nobody can have."""

    async def at_exchange(order_id: str) -> str:
        async def arrived() -> bool:
            return order_id in desk.exchange.orders

        await eventually(arrived)
        return order_id

    async def says(*content: Any) -> None:
        assert await desk.says(list(content)) == (204, None)

    customer = desk.customer
    bought = await desk.order()
    await says(
        event(bought, "ACCEPTED"), fill(bought, "e-1", 4), fill(bought, "e-2", 6, "99.95", type="FILLED")
    )  # one commit
    await says({"type": "BUSTED", "order_id": bought, "execution_id": "e-1", "reason": "a mistake"})
    corrected = {"type": "CORRECTED", "order_id": bought, "execution_id": "e-3", "corrects": "e-2"}
    await says(corrected | {"quantity": 6, "price": "99.00", "reason": "the price"})
    await says(fill(bought, "e-4", 5))  # after its end: suspense

    _, resting = await order(customer, order_type="limit", price="90.00", client_order_id="first")
    await says(event(await at_exchange(resting["id"]), "ACCEPTED"))
    status, new = await customer.call("PATCH", f"/api/v1/orders/{resting['id']}", {"price": "91.00"})
    assert status == 201, new
    await says(event(await at_exchange(new["id"]), "ACCEPTED"))
    status, cancelling = await customer.call("DELETE", f"/api/v1/orders/{new['id']}")
    assert (status, cancelling["cancel_requested"]) == (202, True)
    await says(event(new["id"], "CANCELLED", reason="asked"))
    await rejected(customer)
    _, stop = await order(customer, side="sell", order_type="stop_limit", stop_price="90", price="89.50", quantity=1)
    await says(event(await at_exchange(stop["id"]), "EXPIRED", reason="the session ended"))
    exits = {"order_class": "oco", "stop_loss": {"stop_price": "80"}}
    _, take_profit = await order(customer, side="sell", order_type="limit", price="120", quantity=3, **exits)
    await says(fill(await at_exchange(take_profit["id"]), "e-5", 1, "120.00"))
    await says(event(take_profit["id"], "CANCELLED", 1, reason="the exchange's own"))


async def test_every_step_is_told_the_same_live_and_replayed(
    with_settings: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the byte; and what is live comes from memory, but for a bust."""
    reads: list[int] = []
    read = OrderUpdates.read

    async def counted(self: OrderUpdates, customer_id: CustomerId, after: int, limit: int) -> Any:
        reads.append(after)
        return await read(self, customer_id, after, limit)

    monkeypatch.setattr(OrderUpdates, "read", counted)
    async with quiet_desk(with_settings) as desk, socket(desk.customer) as one, events(desk.customer) as other:
        await one.next()
        await other.next()
        await every_kind_of_step(desk)
        expected = await replayed(desk.broker, desk.customer)
        live = await one.updates(len(expected))
        busts = [number for number, text in enumerate(live) if json.loads(text)["event"] == "busted"]
        assert live == expected
        assert await other.updates(len(expected)) == expected
        # No price reaches a stop here: test_the_stop_loss_of_a_bracket_sells_what_is_left has that step.
        assert {json.loads(text)["event"] for text in live} == set(Step) - {Step.TRIGGERED}
        assert reads.count(0) == 1, "that was our own look"
        assert set(reads) - {0} <= set(busts), "something else was not told from memory"
        for query in ("?since=0", f"?since={len(expected) // 2}"):
            since = int(query[7:])
            async with socket(desk.customer, query) as late, events(desk.customer, query) as later:
                assert await late.next() == await later.next() == {"type": "subscribed", "sequence": since}
                assert await late.updates(len(expected) - since) == expected[since:]
                assert await later.updates(len(expected) - since) == expected[since:]


async def test_what_was_taken_back_is_shown_as_it_was_at_each_step(with_settings: Callable[..., Config]) -> None:
    async with quiet_desk(with_settings) as desk:
        await every_kind_of_step(desk)
        seen = [json.loads(text) for text in await replayed(desk.broker, desk.customer)]
        executions = {
            (each["event"], each["execution"]["execution_id"]): each["execution"] for each in seen if each["execution"]
        }
        first = next(each for each in seen if each["event"] == "executed")
        rest = await get(desk.customer, first["order"]["id"])
        assert first["execution"]["busted"] is False, "it was not, then"
        assert executions["busted", "e-1"] == {**first["execution"], "busted": True}
        assert executions["busted", "e-1"] == next(each for each in rest["executions"] if each["execution_id"] == "e-1")
        assert executions["corrected", "e-3"] == next(
            each for each in rest["executions"] if each["execution_id"] == "e-3"
        )
        assert executions.keys() == {
            *{("executed", "e-1"), ("executed", "e-2"), ("busted", "e-1"), ("busted", "e-2")},
            *{("corrected", "e-3"), ("suspense", "e-4"), ("executed", "e-5")},
        }
        assert [
            (each["order"]["status"], each["order"]["filled_quantity"], each["order"]["average_price"])
            for each in seen
            if each["order"]["id"] == first["order"]["id"]
        ] == [
            ("pending", 0, None),
            ("validated", 0, None),
            ("submitted", 0, None),
            ("partially_filled", 4, "100.00"),
            *[("filled", 10, "99.97")] * 5,
        ]


async def test_an_execution_at_another_venue_is_found(broker: Broker) -> None:
    """Whoever executes it: what counts is the trade that it names."""
    customer = await broker.customer()
    _, placed = await order(customer, quantity=1)
    await becomes(customer, placed["id"], "filled")
    connection = "ALTER TABLE execution DISABLE TRIGGER USER"
    for statement in (connection, "UPDATE execution SET venue = 'elsewhere'", connection.replace("DIS", "EN", 1)):
        await broker.fetch(statement)
    found = [json.loads(text) for text in await replayed(broker, customer)]
    assert [each["event"] for each in found if each["execution"]] == ["executed"]


# ------------------------------------------------------------------ where it begins


async def test_without_since_it_begins_now(broker: Broker) -> None:
    customer = await broker.customer()
    await rejected(customer)
    async with socket(customer) as one, events(customer) as other:
        assert await one.next() == await other.next() == {"type": "subscribed", "sequence": 2}
        await rejected(customer)
        assert await one.updates(2) == await other.updates(2) == (await replayed(broker, customer))[2:]


async def test_with_since_it_goes_on_after_it_and_then_live(broker: Broker) -> None:
    customer = await broker.customer()
    for _ in range(3):
        await rejected(customer)
    async with socket(customer, "?since=4") as one, events(customer, "?since=4") as other:
        assert await one.next() == await other.next() == {"type": "subscribed", "sequence": 4}
        await rejected(customer)
        expected = (await replayed(broker, customer))[4:]
        assert await one.updates(4) == await other.updates(4) == expected


async def test_the_last_event_id_is_stronger_than_since(broker: Broker) -> None:
    customer = await broker.customer()
    await rejected(customer)
    last = {"Last-Event-ID": "1"}
    async with events(customer, "?since=0", **last) as stream:
        assert await stream.next() == {"type": "subscribed", "sequence": 1}
        assert (await stream.next())["sequence"] == 2


@pytest.mark.parametrize(
    "query", ["?since=", "?since=-1", "?since=1.0", "?since=x", "?since=%D9%A1", f"?since={10**18}", "?after=1"]
)
async def test_since_is_read_strictly(broker: Broker, query: str) -> None:
    customer = await broker.customer()
    assert await refused(customer, query) == (400, "invalid_query")
    header = {"Last-Event-ID": query.partition("=")[2] or "x"}
    if "since" in query and query.isascii() and "%" not in query:
        assert await refused(customer, **header) == (400, "invalid_query")


async def test_since_ahead_of_the_newest_is_refused(broker: Broker) -> None:
    customer = await broker.customer()
    await rejected(customer)
    assert await refused(customer, "?since=3") == (400, "invalid_query")
    _, answer = await customer.call("GET", f"{STREAM}?since=3")
    assert answer["error"] == "since is 3, and the sequence of your newest order update is 2."
    async with socket(customer, "?since=3", token=customer.token) as stream:
        assert await stream.next() == {"type": "error", **answer}
        assert await stream.closed() == (WSCloseCode.POLICY_VIOLATION, answer["error"])


# ------------------------------------------------------------------ whose it is


async def test_each_customer_hears_of_its_own_orders(broker: Broker) -> None:
    one, other = await broker.customer(), await broker.customer()
    async with socket(one) as first, socket(one) as second, events(other) as third:
        for stream in (first, second, third):
            await stream.next()
        await rejected(one)
        await rejected(other)
        await rejected(one)
        assert await first.updates(4) == await second.updates(4) == await replayed(broker, one)
        assert await third.updates(2) == await replayed(broker, other)
        for stream in (first, third):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(stream.next(), 0.1)


async def test_a_socket_says_who_it_is_in_its_header_or_its_first_message(broker: Broker) -> None:
    customer = await broker.customer()
    assert await refused(broker_client(customer, "key_0.no")) == (401, "unauthorized")
    status, answer = await broker.stranger.call("GET", STREAM)
    assert (status, answer["code"]) == (401, "unauthorized")
    async with socket(broker.stranger, token=customer.token) as stream:
        assert await stream.next() == {"type": "subscribed", "sequence": 0}
        await rejected(customer)
        assert await stream.updates(2) == await replayed(broker, customer)
    async with socket(broker.stranger, token="key_0.no") as stream:
        assert (await stream.next())["code"] == "unauthorized"
        assert (await stream.closed())[0] == WSCloseCode.POLICY_VIOLATION


def broker_client(customer: Client, token: str) -> Client:
    return Client(customer.http, customer.url, token)


async def test_who_does_not_say_who_it_is_goes(with_settings: Callable[..., Config]) -> None:
    async with run_broker(with_settings(stream_auth_s=0.1)) as broker, socket(broker.stranger) as stream:
        assert await stream.next() == {
            "type": "error",
            "code": "unauthorized",
            "error": "Nobody said in time who this is. "
            'Say who you are first: {"action": "authenticate", "token": "…"}.',
        }
        assert (await stream.closed())[0] == WSCloseCode.POLICY_VIOLATION


async def test_a_suspended_customer_may_look_on(broker: Broker) -> None:
    customer = await broker.customer()
    await rejected(customer)
    await broker.operator.call("POST", f"/admin/v1/customers/{customer.customer_id}/suspend")
    async with socket(customer, "?since=0") as one, events(customer, "?since=0") as other:
        await one.next()
        await other.next()
        assert await one.updates(2) == await other.updates(2) == await replayed(broker, customer)


async def test_a_revoked_key_ends_both_kinds(broker: Broker) -> None:
    customer, other = await broker.customer(), await broker.customer()
    async with socket(customer) as one, events(customer) as two, socket(other) as third:
        for stream in (one, two, third):
            await stream.next()
        assert customer.token is not None
        key_id = customer.token.split(".", maxsplit=1)[0]
        await broker.operator.call("DELETE", f"/admin/v1/customers/{customer.customer_id}/keys/{key_id}")
        reason = "The key of this stream was revoked."
        assert await one.closed() == (WSCloseCode.POLICY_VIOLATION, reason)
        assert await two.fields() == {
            "event": "closed",
            "data": json.dumps({"type": "closed", "reason": reason}, separators=(",", ":")),
        }
        assert await two.response.content.read() == b""
        await rejected(other)
        assert (await third.next())["sequence"] == 1


async def test_a_broker_that_stops_says_so(config: Config) -> None:
    async with run_broker(config) as broker:
        customer = await broker.customer()
        one = await broker.http.ws_connect(
            broker.running.url + STREAM, headers={"Authorization": f"Bearer {customer.token}"}
        )
        headers = {"Authorization": f"Bearer {customer.token}"}
        response = await broker.http.get(broker.running.url + STREAM, headers=headers)
        two = Events(response)
        await one.receive()
        await two.block()
        await two.block()
        farewells = asyncio.gather(Socket(one).closed(), two.next())
    reason = "The broker stops. Connect again in a moment."
    assert await farewells == [(WSCloseCode.GOING_AWAY, reason), {"type": "closed", "reason": reason}]


# ------------------------------------------------------------------ limits


async def test_there_are_limits_for_a_customer_and_for_all(with_settings: Callable[..., Config]) -> None:
    settings = with_settings(stream_customer_max=2, stream_sockets_max=3, order_stream_check_s=0.05)
    async with run_broker(settings) as broker:
        customer, other = await broker.customer(), await broker.customer()
        async with socket(customer) as one, events(customer) as two:
            await one.next()
            await two.next()
            assert await refused(customer) == (429, "too_many_streams")
            async with socket(other) as third:
                await third.next()
                assert await refused(other) == (503, "too_many_streams")

        await metrics_say(broker, lambda text: "\nbroker_streams 0.0\n" in text)
        async with events(customer) as again:
            await again.next()


async def test_what_a_client_says_is_answered_and_ends_nothing(broker: Broker) -> None:
    customer = await broker.customer()
    async with socket(customer) as stream:
        await stream.next()
        for text, code in (("{", "invalid_json"), ('{"a":1,"a":2}', "invalid_json"), ("[" * 9_000, "invalid_json")):
            await stream.ws.send_str(text)
            answer = await stream.next()
            assert (answer["type"], answer["code"]) == ("error", code)
        for text in ('{"action": "subscribe"}', "1", "null", "[]"):
            await stream.ws.send_str(text)
            assert await stream.next() == {
                "type": "error",
                "code": "invalid_message",
                "error": "This stream takes no messages: it only tells.",
            }
        await stream.ws.send_bytes(b"\xff")
        assert (await stream.next())["code"] == "invalid_message"
        await rejected(customer)
        assert await stream.updates(2) == await replayed(broker, customer)
        await stream.ws.send_str("x" * 70_000)
        assert (await stream.closed())[0] == WSCloseCode.MESSAGE_TOO_BIG


async def test_what_is_said_at_once_is_answered_after_the_first_message(broker: Broker) -> None:
    customer = await broker.customer()
    async with socket(broker.stranger, token=customer.token) as stream:
        for _ in range(3):
            await stream.ws.send_str("{")
        assert [(await stream.next())["type"] for _ in range(4)] == ["subscribed", *["error"] * 3]


async def test_clients_that_leave_at_any_moment_are_no_fault_of_ours(
    with_settings: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of the handshake, of authenticating, and of what they are told."""
    rng = random.Random(7)
    fetch = Database.fetch

    async def takes_its_time(self: Database, name: str, *arguments: object) -> Any:
        rows = await fetch(self, name, *arguments)
        if name in {"customer_of_key", "newest_events"}:
            await asyncio.sleep(0.02 * rng.random())
        return rows

    async def come_and_go(broker: Broker, customer: Client) -> None:
        host, port = customer.url.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        handshake = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        handshake += "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n"
        token = f"Authorization: Bearer {rng.choice([str(customer.token), 'key_0.no'])}\r\n"
        words = [f"GET {STREAM}?since=0 HTTP/1.1\r\nHost: here\r\n"]
        words += rng.choice([[token], [handshake], [token, handshake]])
        introduction = json.dumps({"action": "authenticate", "token": customer.token})
        frame = f"\x81{chr(0x80 | len(introduction))}\0\0\0\0{introduction}"
        words += ["\r\n", rng.choice(["", frame, "\x81\x85abcdefghi", "\x88\x80abcd"])]
        writer.write("".join(words).encode("latin-1"))
        await asyncio.sleep(rng.random() * rng.choice([0.001, 0.03, 0.1]))
        writer.transport.abort()

    async with run_broker(with_settings(order_stream_check_s=0.05, key_cache_s=0.02)) as broker:
        customer = await broker.customer()
        await asyncio.gather(*(limit(customer, "100", quantity=1) for _ in range(50)))
        monkeypatch.setattr(Database, "fetch", takes_its_time)
        with capture_logs() as logged:
            for _ in range(10):
                await asyncio.gather(*(come_and_go(broker, customer) for _ in range(30)), rejected(customer))
            await metrics_say(broker, lambda text: "\nbroker_streams 0.0\n" in text)
        assert not [each for each in logged if each["log_level"] == "error"]


# ------------------------------------------------------------------ nothing is lost


async def test_what_does_not_fit_in_memory_is_read_from_the_database(
    with_settings: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty orders end in one commit, and three events may wait: the stream reads, and misses nothing."""
    reads: list[int] = []
    read = OrderUpdates.read

    async def counted(self: OrderUpdates, customer_id: CustomerId, after: int, limit: int) -> Any:
        reads.append(after)
        assert limit == 7
        return await read(self, customer_id, after, limit)

    async with run_broker(with_settings(order_stream_queue_max=3, order_stream_page=7)) as broker:
        customer = await broker.customer()
        for _ in range(20):
            await limit(customer, "100", quantity=1)
        monkeypatch.setattr(OrderUpdates, "read", counted)
        async with socket(customer) as one, events(customer) as other:
            assert await one.next() == await other.next() == {"type": "subscribed", "sequence": 60}
            await customer.call("DELETE", "/api/v1/orders")
            seen = await one.updates(40)
            assert await other.updates(40) == seen
            assert reads, "the queue was never full"
            monkeypatch.undo()
            assert seen == (await replayed(broker, customer))[60:]


@dataclass
class Slow:
    """A client of an event stream that takes only what it is told to: with the smallest buffer that there is."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def sequences(self, count: int) -> list[int]:
        """Of the next order updates."""
        found: list[int] = []
        while len(found) < count:
            async with asyncio.timeout(WITHIN_S):
                block = (await self.reader.readuntil(b"\n\n")).decode()
            if "event: order_update\n" in block:
                found.append(int(block.split("\n")[0].removeprefix("id: ")))
        return found

    async def paced(self, count: int) -> list[int]:
        """The same, taken for longer than the seconds after which one that takes nothing goes."""
        found: list[int] = []
        while len(found) < count:
            found += await self.sequences(36)
            await asyncio.sleep(0.15)
        return found


@asynccontextmanager
async def slow(client: Client) -> AsyncIterator[Slow]:
    """In HTTP/1.0 the body comes as it is."""
    host, port = client.url.removeprefix("http://").split(":")
    connection = sockets.socket()
    connection.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 4_096)
    connection.setblocking(False)
    await asyncio.get_running_loop().sock_connect(connection, (host, int(port)))
    reader, writer = await asyncio.open_connection(sock=connection, limit=4_096)
    try:
        writer.write(f"GET {STREAM} HTTP/1.0\r\nAuthorization: Bearer {client.token}\r\n\r\n".encode())
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.0 200 OK\r\n")
        await reader.readuntil(b"event: subscribed\n")
        yield Slow(reader, writer)
    finally:
        writer.transport.abort()


async def test_a_slow_client_reads_on_at_its_own_pace(with_settings: Callable[..., Config]) -> None:
    """Far more than all buffers between it and us can hold; another stream of its customer is not held up."""
    settings = with_settings(order_stream_queue_max=10, stream_buffer_max=4_096, stream_stall_s=3.0)
    async with run_broker(settings) as broker:
        customer = await broker.customer(cash="10000000.00")
        async with slow(customer) as client, socket(customer) as quick:
            await quick.next()
            reading = asyncio.create_task(client.paced(900))
            await asyncio.gather(*(limit(customer, "100", quantity=1) for _ in range(300)))
            last = (await quick.updates(900))[-1]
            assert json.loads(last)["sequence"] == 900
            assert await reading == list(range(1, 901))
            await rejected(customer)
            assert await client.sequences(2) == [901, 902]


def cut_off(text: str) -> bool:
    return "\nbroker_stream_cut_total 1.0\n" in text


async def metrics_say(broker: Broker, probe: Callable[[str], bool]) -> None:
    async def look() -> bool:
        async with broker.http.get(broker.running.url + "/metrics") as response:
            return probe(await response.text())

    await eventually(look)


async def test_a_client_that_takes_nothing_is_cut_off(with_settings: Callable[..., Config]) -> None:
    settings = with_settings(stream_stall_s=0.3, stream_buffer_max=4_096)
    async with run_broker(settings) as broker:
        customer = await broker.customer(cash="10000000.00")
        async with slow(customer) as client:
            await asyncio.gather(*(limit(customer, "100", quantity=1) for _ in range(200)))
            await metrics_say(broker, cut_off)
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await client.sequences(600)


async def test_a_socket_that_takes_nothing_is_told_why_it_is_cut_off(
    with_settings: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    close_patiently(monkeypatch)
    settings = with_settings(stream_stall_s=0.4, stream_buffer_max=4_096)
    async with run_broker(settings) as broker:
        customer = await broker.customer(cash="10000000.00")
        async with narrow(customer) as client, socket(client) as stream:
            await stream.next()
            transport = stream.ws._response.connection.transport  # type: ignore[union-attr]
            transport.pause_reading()
            await asyncio.gather(*(limit(customer, "100", quantity=1) for _ in range(100)))
            await metrics_say(broker, cut_off)
            transport.resume_reading()
            code, reason = await stream.closed()
            assert code == WSCloseCode.POLICY_VIOLATION
            assert reason == "You took nothing for 0.4 s. Connect again, with since."


async def test_what_another_process_does_arrives_as_well(with_settings: Callable[..., Config], tmp_path: Path) -> None:
    settings = with_settings(order_stream_check_s=0.05)
    elsewhere = with_settings(data=tmp_path / "elsewhere")
    async with run_broker(settings) as broker, run_broker(elsewhere) as other:
        customer = await broker.customer()
        there = Client(other.http, other.running.url, customer.token, customer.customer_id)
        async with socket(customer) as one, events(customer) as two:
            await one.next()
            await two.next()
            for client in (there, customer, there):
                await rejected(client)
                await one.updates(1)
                await two.updates(1)
                seen = (await one.next(), await two.next())
                assert seen == tuple([json.loads((await replayed(broker, customer))[-1])] * 2)


async def test_an_event_that_was_not_published_is_found(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer to its commit was lost: the next one shows that it is missing."""
    customer = await broker.customer()
    publish = Updates.publish
    lost = {2, 5, 23}

    def forgetful(self: Updates, event: TradeEvent) -> None:
        if event.seq not in lost:
            publish(self, event)

    monkeypatch.setattr(Updates, "publish", forgetful)
    async with socket(customer) as stream:
        await stream.next()
        for _ in range(3):
            await rejected(customer)
        for _ in range(5):
            await limit(customer, "100", quantity=1)
        assert await stream.updates(21) == await replayed(broker, customer)
        await customer.call("DELETE", "/api/v1/orders")  # 22 to 26 are one commit
        assert await stream.updates(10) == (await replayed(broker, customer))[21:]


async def test_when_the_books_were_set_back_open_streams_end_and_say_so(
    with_settings: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a fail-over that lost commits. Before that the database refuses to say, which ends nothing."""
    newest_of = OrderUpdates.newest_of
    refusals: list[int] = []
    lost = False

    async def newest(self: OrderUpdates, customer_ids: Any) -> Any:
        found = await newest_of(self, customer_ids)
        if lost and len(refusals) < 3:
            refusals.append(1)
            raise RefusedByDatabase("read only", None)
        return {each: seq - lost for each, seq in found.items()}

    async with run_broker(with_settings(order_stream_check_s=0.05)) as broker:
        customer, other = await broker.customer(), await broker.customer()
        await rejected(customer)
        monkeypatch.setattr(OrderUpdates, "newest_of", newest)
        async with socket(customer) as one, events(customer) as two, socket(customer, "?since=0") as three:
            await one.next()
            await two.next()
            assert len(await three.updates(3)) == 3
            lost = True
            reason = "The books were set back; ask for your orders, and connect again."
            assert await asyncio.gather(one.closed(), three.closed()) == [(WSCloseCode.SERVICE_RESTART, reason)] * 2
            assert await two.fields() == {"event": "closed", "data": f'{{"type":"closed","reason":"{reason}"}}'}
            assert len(refusals) == 3
        lost = False
        async with socket(other) as stream:
            assert await stream.next() == {"type": "subscribed", "sequence": 0}


async def test_without_the_database_it_is_503_and_an_open_stream_waits(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    customer = await broker.customer()
    await rejected(customer)
    fetch = Database.fetch
    away = {"newest_events"}
    tries = []

    async def fails(self: Database, name: str, *arguments: object) -> Any:
        if name in away:
            tries.append(name)
            raise DatabaseUnavailable("it is away")
        return await fetch(self, name, *arguments)

    monkeypatch.setattr(Database, "fetch", fails)
    assert await refused(customer) == (503, "database_unavailable")
    async with socket(broker.stranger, token=customer.token) as stream:
        assert (await stream.next())["code"] == "database_unavailable"
        assert (await stream.closed())[0] == WSCloseCode.INTERNAL_ERROR
    away = {"order_updates"}
    tries.clear()
    async with socket(customer, "?since=0") as one, events(customer, "?since=0") as two:
        assert await one.next() == await two.next() == {"type": "subscribed", "sequence": 0}

        async def tried_again() -> bool:
            return len(tries) >= 4

        await eventually(tried_again)
        away = set()
        assert await one.updates(2) == await two.updates(2) == await replayed(broker, customer)
