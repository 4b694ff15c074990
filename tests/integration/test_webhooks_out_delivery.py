"""Webhooks to customers, as their programs see them: a real broker, real receivers on loopback."""

import asyncio
import json
import random
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import structlog
from aiohttp import web
from standardwebhooks import Webhook as Verifier
from structlog.testing import capture_logs

from broker import webhooks
from broker.config import Config
from broker.db import Database, DatabaseUnavailable, query
from broker.metrics import Metrics
from broker.order_updates import OrderUpdates
from broker.webhooks import Webhooks
from tests.conftest import Broker, Client, eventually, run_broker

QUICK: dict[str, Any] = {
    "hook_addresses": "any",
    "hook_look_s": 0.02,
    "hook_timeout_s": 30.0,  # a machine that stands still for a moment is no failure of a receiver's
    "hook_retry_max_s": 0.05,
}


IMPATIENT = QUICK | {"hook_timeout_s": 0.3}
"""For receivers that never answer; what they did take may come again."""


@dataclass
class Delivery:
    """One request as it came."""

    headers: dict[str, str]
    body: bytes

    @property
    def message_id(self) -> str:
        """What stays over tries."""
        return self.headers["webhook-id"]

    @property
    def sequence(self) -> int:
        """The event's."""
        return int(json.loads(self.body)["sequence"])


Answer = Callable[[Delivery], Awaitable[web.StreamResponse]]


async def ok(_: Delivery) -> web.StreamResponse:
    """Take it."""
    return web.Response(status=204)


def status(code: int, headers: dict[str, str] | None = None) -> Answer:
    """Answer so."""

    async def answer(_: Delivery) -> web.StreamResponse:
        return web.Response(status=code, headers=headers)

    return answer


async def never(_: Delivery) -> web.StreamResponse:
    """No answer."""
    await asyncio.sleep(3600)
    raise AssertionError("unreachable")


@dataclass
class Receiver:
    """A customer's program: it answers with what is next in `answers`, then with `then`."""

    url: str = ""
    seen: list[Delivery] = field(default_factory=list)
    taken: list[Delivery] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    then: Answer = ok

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """One delivery."""
        delivery = Delivery({name.lower(): value for name, value in request.headers.items()}, await request.read())
        self.seen.append(delivery)
        answer = await (self.answers.pop(0) if self.answers else self.then)(delivery)
        if 200 <= answer.status < 300:
            self.taken.append(delivery)
        return answer

    async def has_taken(self, count: int) -> list[Delivery]:
        """All that was taken, once there is so much of it."""

        async def enough() -> bool:
            return len(self.taken) >= count

        await eventually(enough)
        return self.taken


@asynccontextmanager
async def receiving(port: int = 0, then: Answer = ok) -> AsyncIterator[Receiver]:
    """A receiver that runs until the block ends."""
    receiver = Receiver(then=then)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", receiver.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port, reuse_address=True)
    await site.start()
    receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}/events"
    try:
        yield receiver
    finally:
        await runner.cleanup()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    """A receiver that takes everything, unless told otherwise."""
    async with receiving() as running:
        yield running


@pytest.fixture
async def hooked(with_settings: Callable[..., Config]) -> AsyncIterator[Broker]:
    """A broker that delivers anywhere, and quickly."""
    async with run_broker(with_settings(**QUICK)) as broker:
        yield broker


async def register(client: Client, url: str, **more: object) -> Any:
    """A new webhook of the client's."""
    code, created = await client.call("POST", "/api/v1/webhooks", {"url": url, **more})
    assert code == 201, created
    return created


async def trade_something(client: Client, count: int = 1) -> None:
    """Trades that have ended; each is a few events."""
    for _ in range(count):
        code, trade = await client.place("BUY", "AAPL", 1)
        assert code == 201, trade
        await client.ended(trade["tradeId"])


async def messages(broker: Broker, client: Client) -> list[tuple[int, bytes]]:
    """What the order stream of this customer has sent, from its beginning."""
    database = Database(broker.dsn, broker.config)
    await database.open()
    try:
        return await OrderUpdates(database).read(_customer(client), 0, 10_000)
    finally:
        await database.close()


def _customer(client: Client) -> Any:
    return int(client.customer_id)


async def shown(client: Client, webhook_id: str) -> Any:
    """The webhook, as its owner reads it."""
    code, webhook = await client.call("GET", f"/api/v1/webhooks/{webhook_id}")
    assert code == 200, webhook
    return webhook


async def once(client: Client, webhook_id: str, is_so: Callable[[Any], bool]) -> Any:
    """The webhook, once it is so."""

    async def look() -> Any:
        webhook = await shown(client, webhook_id)
        return webhook if is_so(webhook) else None

    return await eventually(look)


# ------------------------------------------------------------------ what arrives


async def test_every_event_arrives_once_in_order_and_as_the_order_stream_sends_it(
    hooked: Broker, receiver: Receiver
) -> None:
    customer = await hooked.customer()
    created = await register(customer, receiver.url)
    await trade_something(customer, 3)
    expected = await messages(hooked, customer)
    taken = await receiver.has_taken(len(expected))
    assert len(expected) >= 9
    assert [delivery.body for delivery in taken] == [body for _, body in expected]
    assert [delivery.message_id for delivery in taken] == [f"{created['webhook_id']}-{seq}" for seq, _ in expected]
    webhook = await once(customer, created["webhook_id"], lambda webhook: webhook["delivered"] == len(expected))
    assert webhook["status"] == "active"
    assert (webhook["failures"], webhook["failing_since"], webhook["last_error"], webhook["next_try_at"]) == (
        0,
        None,
        None,
        None,
    )


async def test_deliveries_are_signed_by_the_standard_webhooks_rules(hooked: Broker, receiver: Receiver) -> None:
    customer = await hooked.customer()
    created = await register(customer, receiver.url)
    await trade_something(customer)
    for delivery in await receiver.has_taken(3):
        assert Verifier(created["secret"]).verify(delivery.body, delivery.headers)
        assert delivery.headers["content-type"] == "application/json"
        assert delivery.headers["user-agent"].startswith("stockbroker/")
        assert not delivery.headers.keys() & {"cookie", "authorization"}


async def test_a_webhook_may_begin_with_events_of_before(hooked: Broker, receiver: Receiver) -> None:
    customer = await hooked.customer()
    await trade_something(customer)
    past = await messages(hooked, customer)
    created = await register(customer, receiver.url, since=1)
    assert created["delivered"] == 1
    taken = await receiver.has_taken(len(past) - 1)
    assert [delivery.sequence for delivery in taken] == [seq for seq, _ in past[1:]]


async def test_without_since_it_begins_with_what_happens_now(hooked: Broker, receiver: Receiver) -> None:
    customer = await hooked.customer()
    await trade_something(customer)
    past = await messages(hooked, customer)
    created = await register(customer, receiver.url)
    assert created["delivered"] == len(past)
    await trade_something(customer)
    assert (await receiver.has_taken(1))[0].sequence == len(past) + 1


async def test_customers_hear_of_their_own_events_only(hooked: Broker) -> None:
    async with receiving() as one, receiving() as other:
        customers = [await hooked.customer(), await hooked.customer()]
        for customer, place in zip(customers, (one, other), strict=True):
            await register(customer, place.url)
        await asyncio.gather(*(trade_something(customer, 2) for customer in customers))
        for customer, place in zip(customers, (one, other), strict=True):
            expected = [body for _, body in await messages(hooked, customer)]
            assert [delivery.body for delivery in await place.has_taken(len(expected))] == expected


async def test_pages_turns_and_renewed_leases_lose_nothing_and_repeat_nothing(
    hooked: Broker, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def slowly(_: Delivery) -> web.StreamResponse:
        await asyncio.sleep(0.005)
        return web.Response()

    monkeypatch.setattr(webhooks, "_PAGE", 3)
    monkeypatch.setattr(webhooks, "_SAVE_S", 0.01)
    monkeypatch.setattr(webhooks, "_TURN_S", 0.03)
    receiver.then = slowly
    customer = await hooked.customer()
    await trade_something(customer, 5)
    expected = [body for _, body in await messages(hooked, customer)]
    created = await register(customer, receiver.url, since=0)
    await receiver.has_taken(len(expected))
    await once(customer, created["webhook_id"], lambda webhook: webhook["delivered"] == len(expected))
    assert [delivery.body for delivery in receiver.seen] == expected


async def test_an_answer_with_a_body_is_as_good_and_the_body_is_not_read(hooked: Broker, receiver: Receiver) -> None:
    sent = 0

    async def endless(_: Delivery) -> web.StreamResponse:
        return web.Response(body=counted())

    async def counted() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(1000):
            sent += 1
            yield bytes(100_000)

    receiver.then = endless
    customer = await hooked.customer()
    created = await register(customer, receiver.url)
    await trade_something(customer)
    await once(customer, created["webhook_id"], lambda webhook: webhook["delivered"] >= 3)
    assert sent < 500 * len(receiver.seen)


# ------------------------------------------------------------------ what fails


@pytest.mark.parametrize(
    ("failure", "sentence"),
    [
        (status(500), "The receiver answered 500."),
        (status(404), "The receiver answered 404."),
        (never, "No answer in time."),
    ],
    ids=["500", "404", "no answer"],
)
async def test_a_failed_delivery_is_repeated_under_the_same_id_before_any_other(
    failure: Answer, sentence: str, with_settings: Callable[..., Config], receiver: Receiver
) -> None:
    async with run_broker(with_settings(**(IMPATIENT if failure is never else QUICK))) as broker:
        await _repeats(failure, broker, receiver)


async def _repeats(failure: Answer, hooked: Broker, receiver: Receiver) -> None:
    """The second event fails twice."""
    failed: list[Delivery] = []

    async def answer(delivery: Delivery) -> web.StreamResponse:
        if delivery.sequence != 2 or len(failed) == 2:
            return await ok(delivery)
        failed.append(delivery)
        return await failure(delivery)

    customer = await hooked.customer()
    receiver.then = answer
    created = await register(customer, receiver.url)
    await trade_something(customer)
    expected = [seq for seq, _ in await messages(hooked, customer)]
    await once(customer, created["webhook_id"], lambda webhook: webhook["delivered"] == len(expected))
    seen = [delivery.sequence for delivery in receiver.seen]
    assert [sequence for sequence, _ in groupby(seen)] == expected
    if failure is never:  # whoever has so little time may give up what would have been answered
        assert seen.count(2) >= 3
    else:
        assert seen == [1, 2, 2, *expected[1:]]
    assert len({delivery.message_id for delivery in receiver.seen}) == len(expected)
    assert len({delivery.body for delivery in receiver.seen}) == len(expected)
    for delivery in receiver.seen:
        Verifier(created["secret"]).verify(delivery.body, delivery.headers)
    webhook = await once(customer, created["webhook_id"], lambda webhook: webhook["delivered"] == len(expected))
    assert webhook["status"] == "active"
    text = (await hooked.stranger.http.get(f"{hooked.running.url}/metrics")).text
    metrics = await text()
    assert f'broker_hook_deliveries_total{{end="delivered"}} {len(expected)}.0' in metrics
    assert f'broker_hook_deliveries_total{{end="failed"}} {len(seen) - len(expected)}.0' in metrics


async def test_while_it_fails_its_owner_reads_since_when_and_why(
    with_settings: Callable[..., Config], receiver: Receiver
) -> None:
    receiver.then = status(500)
    async with run_broker(with_settings(**QUICK | {"hook_retry_max_s": 60.0})) as broker:
        customer = await broker.customer()
        created = await register(customer, receiver.url)
        await trade_something(customer)
        webhook = await once(customer, created["webhook_id"], lambda webhook: webhook["failures"] >= 2)
        assert webhook["status"] == "failing"
        assert webhook["delivered"] == 0
        assert webhook["last_error"] == "The receiver answered 500."
        assert webhook["failing_since"] < webhook["next_try_at"]
        receiver.then = ok
        code, webhook = await customer.call("POST", f"/api/v1/webhooks/{created['webhook_id']}/enable")
        assert (code, webhook["status"], webhook["last_error"]) == (200, "active", None)
        await receiver.has_taken(3)


async def test_a_receiver_that_is_down_gets_everything_when_it_is_back(hooked: Broker) -> None:
    async with receiving() as receiver:
        port = int(receiver.url.split(":")[2].split("/")[0])
    customer = await hooked.customer()
    created = await register(customer, receiver.url)
    await trade_something(customer, 2)
    webhook = await once(customer, created["webhook_id"], lambda webhook: webhook["failures"] >= 2)
    assert webhook["last_error"] == "No connection: it was refused."
    expected = [body for _, body in await messages(hooked, customer)]
    async with receiving(port) as receiver:
        assert [delivery.body for delivery in await receiver.has_taken(len(expected))] == expected


async def test_what_is_not_http_is_a_failure_as_well(hooked: Broker) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"220 mail.example.com ESMTP\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(talk, "127.0.0.1", 0) as server:
        customer = await hooked.customer()
        created = await register(customer, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
        await trade_something(customer)
        webhook = await once(customer, created["webhook_id"], lambda webhook: webhook["failures"] > 0)
        assert webhook["last_error"] == "The receiver's answer is not HTTP."


@pytest.mark.parametrize("code", [301, 302, 307, 308])
async def test_a_redirect_is_not_followed(code: int, hooked: Broker, receiver: Receiver) -> None:
    async with receiving() as elsewhere:
        receiver.then = status(code, {"Location": elsewhere.url})
        customer = await hooked.customer()
        created = await register(customer, receiver.url)
        await trade_something(customer)
        webhook = await once(customer, created["webhook_id"], lambda webhook: webhook["failures"] > 0)
        assert webhook["last_error"] == f"The receiver answered {code}; a redirect is not followed."
        assert elsewhere.seen == []


async def test_cookies_are_not_kept(hooked: Broker, receiver: Receiver) -> None:
    receiver.then = status(200, {"Set-Cookie": "a=b; Path=/"})
    customer = await hooked.customer()
    await register(customer, receiver.url.replace("127.0.0.1", "localhost"))  # a cookie jar would not keep an address's
    await trade_something(customer)
    assert all("cookie" not in delivery.headers for delivery in await receiver.has_taken(3))


async def test_retry_after_is_waited_for(with_settings: Callable[..., Config], receiver: Receiver) -> None:
    receiver.answers = [status(429, {"Retry-After": "30"})]
    async with run_broker(with_settings(**QUICK | {"hook_retry_max_s": 60.0})) as broker:
        customer = await broker.customer()
        created = await register(customer, receiver.url)
        await trade_something(customer)
        webhook = await once(customer, created["webhook_id"], lambda webhook: webhook["failures"] == 1)
        rows = await broker.fetch("SELECT next_try_at - failing_since AS pause FROM webhook")
        assert rows[0]["pause"].total_seconds() == 30
        assert webhook["last_error"] == "The receiver answered 429."


async def test_one_that_fails_for_too_long_is_disabled_until_its_owner_enables_it(
    with_settings: Callable[..., Config], receiver: Receiver
) -> None:
    receiver.then = status(500)
    async with run_broker(with_settings(**QUICK | {"hook_give_up_s": 0.2})) as broker:
        customer = await broker.customer()
        created = await register(customer, receiver.url)
        await trade_something(customer)
        webhook = await once(customer, created["webhook_id"], lambda webhook: webhook["status"] == "disabled")
        assert webhook["failures"] >= 2
        assert webhook["disabled_at"] is not None
        assert webhook["next_try_at"] is None
        before = len(receiver.seen)
        receiver.then = ok
        await trade_something(customer)
        assert len(receiver.seen) == before
        code, webhook = await customer.call("POST", f"/api/v1/webhooks/{created['webhook_id']}/enable")
        assert (code, webhook["status"], webhook["failures"], webhook["disabled_at"]) == (200, "active", 0, None)
        expected = [body for _, body in await messages(broker, customer)]
        assert [delivery.body for delivery in await receiver.has_taken(len(expected))] == expected


async def test_410_disables_at_once(hooked: Broker, receiver: Receiver) -> None:
    receiver.answers = [ok, status(410)]
    customer = await hooked.customer()
    created = await register(customer, receiver.url)
    await trade_something(customer)
    webhook = await once(customer, created["webhook_id"], lambda webhook: webhook["status"] == "disabled")
    assert (webhook["delivered"], webhook["failures"]) == (1, 1)
    assert webhook["last_error"] == "The receiver answered 410: it wants no more."
    assert [delivery.sequence for delivery in receiver.seen] == [1, 2]


async def test_a_deleted_webhook_hears_nothing_more(hooked: Broker, receiver: Receiver) -> None:
    customer = await hooked.customer()
    created = await register(customer, receiver.url)
    await trade_something(customer)
    past = len(await messages(hooked, customer))
    await receiver.has_taken(past)
    assert await customer.call("DELETE", f"/api/v1/webhooks/{created['webhook_id']}") == (204, None)
    async with receiving() as other:
        await register(customer, other.url)
        await trade_something(customer)
        await other.has_taken(1)
    assert len(receiver.seen) == past


async def test_a_slow_receiver_holds_up_nobody_else(hooked: Broker) -> None:
    async with receiving(then=never) as slow, receiving() as other:
        customer = await hooked.customer()
        await register(customer, slow.url)
        await register(customer, other.url)
        await trade_something(customer)
        expected = len(await messages(hooked, customer))
        await other.has_taken(expected)
        assert slow.taken == []


async def test_slow_names_of_one_customer_hold_up_nobody_else(
    with_settings: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody makes webhooks with ever new names that do not resolve, and deletes them; others hear as before."""
    real, may_answer, blocked = socket.getaddrinfo, threading.Event(), []

    def getaddrinfo(host: Any, *others: Any, **more: Any) -> Any:
        if str(host).endswith(".slow.example"):
            blocked.append(host)
            may_answer.wait(60)
        name = "127.0.0.1" if str(host).endswith(".example") else host
        return real(name, *others, **more)

    async def churn(customer: Client, number: int) -> None:
        created = await register(customer, f"http://{number}.slow.example/", since=0)
        await asyncio.sleep(0.05)
        await customer.call("DELETE", f"/api/v1/webhooks/{created['webhook_id']}")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    settings = IMPATIENT | {"hook_timeout_s": 2.0, "requests_per_second": 1000.0, "requests_burst": 1000}
    async with run_broker(with_settings(**settings)) as broker, receiving() as receiver:
        honest, attacker = await broker.customer(), await broker.customer()
        await trade_something(attacker)
        for number in range(40):
            await churn(attacker, number)
        await register(honest, receiver.url.replace("127.0.0.1", "honest.example"))
        await trade_something(honest)
        expected = await messages(broker, honest)
        for number in range(40, 60):
            await churn(attacker, number)
        assert [delivery.body for delivery in await receiver.has_taken(len(expected))] == [body for _, body in expected]
        assert {delivery.message_id for delivery in receiver.seen} == {each.message_id for each in receiver.taken}

        async def all_counted() -> bool:
            text = await (await broker.http.get(f"{broker.running.url}/metrics")).text()
            return f'broker_hook_deliveries_total{{end="delivered"}} {len(expected)}.0' in text

        await eventually(all_counted)
        assert len(blocked) <= 2
        may_answer.set()


async def test_deleted_webhooks_count_among_the_requests_of_one_customer_at_once(hooked: Broker) -> None:
    async with receiving(then=never) as slow, receiving() as other:
        customer, neighbour = await hooked.customer(), await hooked.customer()
        await trade_something(customer)
        for number in range(20):
            created = await register(customer, f"{slow.url}/{number}", since=0)
            await asyncio.sleep(0.05)
            await customer.call("DELETE", f"/api/v1/webhooks/{created['webhook_id']}")
        await register(neighbour, other.url)
        await trade_something(neighbour)
        await other.has_taken(3)
        assert 1 <= len(slow.seen) <= 5


async def test_more_webhooks_than_one_customer_may_deliver_to_at_once_all_get_their_turn(
    with_settings: Callable[..., Config], receiver: Receiver
) -> None:
    at_once = most = 0

    async def count(_: Delivery) -> web.StreamResponse:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0.02)
        at_once -= 1
        return web.Response()

    receiver.then = count
    async with run_broker(with_settings(**QUICK | {"hooks_in_flight_max": 8})) as broker:
        customer = await broker.customer()
        await trade_something(customer)
        for number in range(5):
            await register(customer, f"{receiver.url}/{number}", since=0)
        await receiver.has_taken(5 * len(await messages(broker, customer)))
        assert most == 2


async def test_a_webhook_that_is_deleted_starts_no_further_delivery(hooked: Broker, receiver: Receiver) -> None:
    may_answer = asyncio.Event()

    async def slowly(_: Delivery) -> web.StreamResponse:
        await may_answer.wait()
        return web.Response()

    receiver.then = slowly
    customer = await hooked.customer()
    await trade_something(customer, 3)
    created = await register(customer, receiver.url, since=0)

    async def is_on_its_way() -> bool:
        return bool(receiver.seen)

    await eventually(is_on_its_way)
    assert (await customer.call("DELETE", f"/api/v1/webhooks/{created['webhook_id']}"))[0] == 204
    may_answer.set()
    await receiver.has_taken(1)
    async with receiving() as other:  # what is due after it has been
        await register(customer, other.url, since=0)
        await other.has_taken(len(await messages(hooked, customer)))
    assert len(receiver.seen) == 1


async def test_nor_does_one_that_is_deleted_while_it_is_leased(receiver: Receiver) -> None:
    webhook_id, leased = uuid4(), 0

    class Leasing:
        async def fetch(self, name: str, *_: object) -> list[Any]:
            nonlocal leased
            if name != "lease_webhooks" or leased == 2:
                return []
            leased += 1
            row = {"customer_id": 1, "url": f"{receiver.url}/{leased}", "secret": b"x", "delivered": 0, "failures": 0}
            if leased == 2:
                return [row | {"webhook_id": uuid4(), "next_try_at": None}]
            hooks.wake(webhook_id)  # the row is gone, and the answer with it on its way
            return [row | {"webhook_id": webhook_id, "next_try_at": None}]

    class OneEvent:
        async def read(self, _: object, after: int, __: int) -> list[tuple[int, bytes]]:
            return [(1, b'{"sequence":1}')] if after == 0 else []

    hooks = Webhooks(Leasing(), OneEvent(), Config(**QUICK), Metrics(), random.Random(1))  # type: ignore[arg-type]
    running = asyncio.create_task(hooks.run())
    await receiver.has_taken(1)
    running.cancel()
    await asyncio.wait([running])
    assert [delivery.message_id.startswith(str(webhook_id)) for delivery in receiver.seen] == [False]


@pytest.mark.parametrize("retry_after", ["99999999999 Jan 2026 00:00:00 GMT", "1 Jan 26 0:0:0 +99999999999999999999"])
async def test_a_receiver_that_answers_nonsense_is_tried_again(
    hooked: Broker, receiver: Receiver, retry_after: str
) -> None:
    receiver.answers = [status(503, {"Retry-After": retry_after})]
    customer = await hooked.customer()
    await register(customer, receiver.url)
    await trade_something(customer)
    await receiver.has_taken(len(await messages(hooked, customer)))


async def test_a_fault_in_one_turn_ends_no_other(
    hooked: Broker, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it is that a receiver brings to light: its webhook has failed, and the others go on."""
    real = webhooks.read_answer

    def faulty(code: int, *others: Any) -> Any:
        return 1 // 0 if code == 299 else real(code, *others)

    monkeypatch.setattr(webhooks, "read_answer", faulty)
    async with receiving(then=status(299)) as strange:
        customer = await hooked.customer()
        with capture_logs() as logged:
            created = await register(customer, strange.url)
            await register(customer, receiver.url)
            await trade_something(customer)
            webhook = await once(customer, created["webhook_id"], lambda webhook: webhook["failures"] > 1)
        await receiver.has_taken(len(await messages(hooked, customer)))
    assert webhook["last_error"] == "This is a fault of the broker. It is in its log."
    faults = [each for each in logged if each["event"] == "webhooks.turn_failed"]
    assert faults[0]["webhook_id"] == created["webhook_id"]
    assert isinstance(faults[0]["exc_info"], ZeroDivisionError)


async def test_more_webhooks_than_places_all_get_their_turn(with_settings: Callable[..., Config]) -> None:
    settings = IMPATIENT | {"hooks_in_flight_max": 1}
    async with run_broker(with_settings(**settings)) as broker, receiving() as receiver:
        customers = [await broker.customer() for _ in range(4)]
        for number, customer in enumerate(customers):
            await register(customer, f"{receiver.url}/{number}")
        async with receiving(then=never) as slow:
            await register(customers[0], slow.url)
            await asyncio.gather(*(trade_something(customer) for customer in customers))
            expected = {body for customer in customers for _, body in await messages(broker, customer)}

            async def all_taken() -> bool:
                return {delivery.body for delivery in receiver.taken} == expected

            await eventually(all_taken, 30)

            async def slow_had_its_turn() -> bool:
                return bool(slow.seen)

            await eventually(slow_had_its_turn, 30)
            assert slow.taken == []


# ------------------------------------------------------------------ restarts and neighbours


async def test_what_a_broker_did_not_hear_taken_comes_again_after_its_restart(
    with_settings: Callable[..., Config], receiver: Receiver
) -> None:
    config = with_settings(**QUICK)
    receiver.answers = [ok, never]
    async with run_broker(config) as broker:
        customer = await broker.customer()
        await register(customer, receiver.url)
        await trade_something(customer)

        async def second_is_on_its_way() -> bool:
            return len(receiver.seen) == 2

        await eventually(second_is_on_its_way)
        expected = await messages(broker, customer)
    assert len(receiver.taken) == 1
    async with run_broker(config):
        taken = await receiver.has_taken(len(expected))
    assert [delivery.body for delivery in taken] == [body for _, body in expected]
    assert receiver.seen[1].message_id == receiver.seen[2].message_id


async def test_the_lease_of_a_broker_that_died_runs_out(hooked: Broker, receiver: Receiver) -> None:
    customer = await hooked.customer()
    created = await register(customer, receiver.url)
    await hooked.fetch(
        "UPDATE webhook SET next_try_at = now() + interval '1 hour'"
    )  # somebody's, who does not come back
    await trade_something(customer)
    assert (await shown(customer, created["webhook_id"]))["delivered"] == 0
    assert receiver.seen == []
    await hooked.fetch("UPDATE webhook SET next_try_at = now()")
    await receiver.has_taken(3)


async def test_whoever_lost_a_lease_saves_nothing(hooked: Broker) -> None:
    customer = await hooked.customer()
    created = await register(customer, "http://127.0.0.1:1/", since=0)
    rows = await hooked.fetch("SELECT next_try_at FROM webhook")
    stale = rows[0]["next_try_at"]
    await hooked.fetch("UPDATE webhook SET next_try_at = next_try_at + interval '1 hour'")
    webhook_id = created["webhook_id"]
    assert await hooked.fetch(query("save_webhook"), webhook_id, stale, 5, 10.0) == []
    assert await hooked.fetch(query("fail_webhook"), webhook_id, stale, 5, "no", 1.0, False, 10.0) == []
    assert (await shown(customer, webhook_id))["delivered"] == 0


async def test_two_brokers_on_one_database_deliver_each_event_once(
    with_settings: Callable[..., Config], receiver: Receiver, tmp_path: Path
) -> None:
    config = with_settings(**QUICK)
    async with run_broker(config) as one, run_broker(replace(config, data=tmp_path / "other")):
        customers = [await one.customer() for _ in range(4)]
        for number, customer in enumerate(customers):
            await register(customer, f"{receiver.url}/{number}")
        await asyncio.gather(*(trade_something(customer, 3) for customer in customers))
        expected = [body for customer in customers for _, body in await messages(one, customer)]
        await receiver.has_taken(len(expected))
        assert sorted(delivery.body for delivery in receiver.seen) == sorted(expected)


async def test_a_database_that_is_away_for_a_while_ends_nothing(dsn: str) -> None:
    class Away:
        calls = 0

        async def fetch(self, name: str, *_: object) -> list[Any]:
            self.calls += 1
            raise DatabaseUnavailable(name)

    away, config = Away(), Config(**QUICK)
    hooks = Webhooks(away, None, config, Metrics(), None)  # type: ignore[arg-type]
    running = asyncio.create_task(hooks.run())

    async def looked_again() -> bool:
        return away.calls >= 3

    await eventually(looked_again)
    assert not running.done()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


# ------------------------------------------------------------------ where it may not lead


async def test_the_network_of_the_operator_is_out_of_reach(with_settings: Callable[..., Config]) -> None:
    settings = QUICK | {"hook_addresses": "public"}
    async with run_broker(with_settings(**settings)) as broker, receiving() as receiver:
        port = int(receiver.url.split(":")[2].split("/")[0])
        customer = await broker.customer()
        for url in (receiver.url, f"https://127.0.0.1:{port}/", "https://169.254.169.254/", "https://0x7f.1/"):
            code, error = await customer.call("POST", "/api/v1/webhooks", {"url": url})
            assert (code, error["code"]) == (400, "invalid_request")
            assert error["error"].startswith("url must ")
        created = await register(customer, f"https://leads-inside.example:{port}/")
        await broker.fetch("UPDATE webhook SET url = $1", f"https://localhost:{port}/")  # as such a name resolves
        await trade_something(customer)
        webhook = await once(customer, created["webhook_id"], lambda webhook: webhook["failures"] > 0)
        assert webhook["last_error"] == "The URL leads to an address that is not public."
        assert receiver.seen == []


async def test_what_was_allowed_before_is_not_delivered_to_any_more(
    with_settings: Callable[..., Config], receiver: Receiver
) -> None:
    async with run_broker(with_settings(**QUICK)) as broker:
        customer = await broker.customer()
        created = await register(customer, receiver.url)
    async with run_broker(with_settings(**QUICK | {"hook_addresses": "public"})) as broker:
        customer = replace(customer, http=broker.http, url=broker.running.url)
        await trade_something(customer)
        webhook = await once(customer, created["webhook_id"], lambda webhook: webhook["failures"] > 0)
        assert webhook["last_error"] == "url must begin with https://."
        assert receiver.seen == []


# ------------------------------------------------------------------ the routes


async def test_a_webhook_is_shown_to_its_owner_without_its_secret(hooked: Broker) -> None:
    customer = await hooked.customer()
    created = await register(customer, "http://example.invalid/a?b=c")
    assert created["secret"].startswith("whsec_")
    webhook = {name: value for name, value in created.items() if name != "secret"}
    assert webhook == {
        "webhook_id": created["webhook_id"],
        "url": "http://example.invalid/a?b=c",
        "status": "active",
        "delivered": 0,
        "failures": 0,
        "failing_since": None,
        "last_error": None,
        "next_try_at": None,
        "disabled_at": None,
        "created_at": created["created_at"],
    }
    assert await shown(customer, created["webhook_id"]) == webhook
    assert await customer.call("GET", "/api/v1/webhooks") == (200, {"webhooks": [webhook]})
    path = f"/api/v1/webhooks/{created['webhook_id']}/enable"
    assert await customer.call("POST", path) == (200, webhook)


async def test_somebody_elses_webhook_is_not_found(hooked: Broker) -> None:
    owner, other = await hooked.customer(), await hooked.customer()
    created = await register(owner, "http://example.invalid/")
    for wanted in (created["webhook_id"], str(uuid4()), "x", "1"):
        one = f"/api/v1/webhooks/{wanted}"
        for method, path in (("GET", one), ("DELETE", one), ("POST", f"{one}/enable")):
            code, error = await other.call(method, path)
            assert (code, error["code"]) == (404, "no_such_webhook"), (method, path)
    assert await other.call("GET", "/api/v1/webhooks") == (200, {"webhooks": []})
    assert await shown(owner, created["webhook_id"])


async def test_every_route_wants_a_token(hooked: Broker) -> None:
    one = f"/api/v1/webhooks/{uuid4()}"
    every = "/api/v1/webhooks"
    for method, path in (("POST", every), ("GET", every), ("GET", one), ("DELETE", one), ("POST", f"{one}/enable")):
        assert (await hooked.stranger.call(method, path))[0] == 401


async def test_the_same_url_a_second_time_names_the_first(hooked: Broker) -> None:
    customer, other = await hooked.customer(), await hooked.customer()
    created = await register(customer, "http://example.invalid/a")
    code, error = await customer.call("POST", "/api/v1/webhooks", {"url": "http://EXAMPLE.invalid:80/a#x"})
    assert (code, error["code"], error["webhook_id"]) == (409, "webhook_exists", created["webhook_id"])
    await register(other, "http://example.invalid/a")


async def test_a_customer_has_so_many_webhooks_and_no_more(hooked: Broker) -> None:
    customer = await hooked.customer()
    bodies = [{"url": f"http://example.invalid/{number}"} for number in range(20)]
    answers = await asyncio.gather(*(customer.call("POST", "/api/v1/webhooks", body) for body in bodies))
    assert sorted(code for code, _ in answers) == [201] * 5 + [409] * 15
    assert {error["code"] for code, error in answers if code == 409} == {"too_many_webhooks"}
    first = next(created for code, created in answers if code == 201)
    await customer.call("DELETE", f"/api/v1/webhooks/{first['webhook_id']}")
    await register(customer, "http://example.invalid/again")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"url": None},
        {"url": 1},
        {"url": ""},
        {"url": "x"},
        {"url": "http://a.b/" + "a" * 2000},
        {"url": "http://user:password@example.com/"},
        {"url": "http://a.b/", "since": -1},
        {"url": "http://a.b/", "since": 1},  # nothing has happened yet
        {"url": "http://a.b/", "since": 2**63},
        {"url": "http://a.b/", "since": "0"},
        {"url": "http://a.b/", "since": 0.5},
        {"url": "http://a.b/", "secret": "whsec_x"},
        [],
        "http://a.b/",
    ],
    ids=lambda body: json.dumps(body)[:40],
)
async def test_what_is_no_webhook_is_refused_with_a_sentence(body: object, hooked: Broker) -> None:
    customer = await hooked.customer()
    code, error = await customer.call("POST", "/api/v1/webhooks", body)
    assert (code, error["code"]) == (400, "invalid_request"), error
    assert error["error"].endswith(".")
    assert await customer.call("GET", "/api/v1/webhooks") == (200, {"webhooks": []})


async def test_a_suspended_customer_changes_no_webhooks_and_may_look_and_delete(hooked: Broker) -> None:
    customer = await hooked.customer()
    created = await register(customer, "http://example.invalid/")
    await hooked.operator.call("POST", f"/admin/v1/customers/{customer.customer_id}/suspend")
    one = f"/api/v1/webhooks/{created['webhook_id']}"
    for path, body in (("/api/v1/webhooks", {"url": "http://a.b/"}), (f"{one}/enable", None)):
        code, error = await customer.call("POST", path, body)
        assert (code, error["code"]) == (403, "customer_suspended")
    assert (await customer.call("GET", one))[0] == 200
    assert (await customer.call("DELETE", one))[0] == 204


async def test_neither_secrets_nor_urls_reach_the_log(with_settings: Callable[..., Config], receiver: Receiver) -> None:
    was = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(0), cache_logger_on_first_use=False)
    try:
        with capture_logs() as lines:
            async with run_broker(with_settings(**QUICK | {"hook_give_up_s": 0.05})) as broker:
                receiver.then = status(500)
                customer = await broker.customer()
                created = await register(customer, f"{receiver.url}?token=hidden")
                await trade_something(customer)
                await once(customer, created["webhook_id"], lambda webhook: webhook["status"] == "disabled")
    finally:
        structlog.configure(**was)
    assert [line["customer_id"] for line in lines if line["event"] == "webhooks.disabled"] == [_customer(customer)]
    text = repr(lines)
    assert created["secret"].removeprefix("whsec_") not in text
    assert "hidden" not in text
