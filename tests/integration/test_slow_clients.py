"""Clients that are slow, silent or too many: they are cut off in time, and nobody else hears of them."""

import asyncio
import json
import os
import resource
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from statistics import median

import aiohttp
import pytest

from broker.config import Config
from tests.acceptance.system import PATIENT, System
from tests.conftest import Broker, Client, eventually, run_broker

IDLE = 10_000
DESCRIPTORS_OF_OURS = 1_000
WITHIN_S = 30.0
HEAD = b"POST /api/v1/trades HTTP/1.1\r\nHost: b\r\nAuthorization: Bearer "


def address(url: str) -> tuple[str, int]:
    host, port = url.removeprefix("http://").split(":")
    return host, int(port)


@asynccontextmanager
async def open_sockets(url: str, count: int, data: Sequence[bytes] = (b"",)) -> AsyncIterator[list[socket.socket]]:
    """So many connections with the smallest buffers there are; each has sent its data, and none is read from."""
    loop = asyncio.get_running_loop()
    sockets: list[socket.socket] = []
    try:
        for number in range(count):
            made = socket.socket()
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            made.setblocking(False)
            sockets.append(made)
            await loop.sock_connect(made, address(url))
            await loop.sock_sendall(made, data[number % len(data)])
        yield sockets
    finally:
        for each in sockets:
            each.close()


async def is_closed(made: socket.socket) -> None:
    """Wait until the other side hangs up."""
    with suppress(ConnectionError):
        while await asyncio.get_running_loop().sock_recv(made, 65_536):
            pass


async def buys(client: Client) -> None:
    status, placed = await client.place("BUY", "AAPL", 1)
    assert status == 201, placed


async def order_s(*clients: Client) -> float:
    """How long an order takes now: the median of 21, one after another. A machine that stands still is not in it."""
    took = []
    for number in range(21):
        began = time.monotonic()
        await buys(clients[number % len(clients)])
        took.append(time.monotonic() - began)
    return median(took)


def is_unnoticed(beside_s: float, *alone_s: float) -> None:
    """Orders beside the slow ones take about as long as before or after, however slow the machine is."""
    assert beside_s <= 3 * max(alone_s) + 0.1, (beside_s, alone_s)


@dataclass
class Apart:
    """A broker in a process of its own, with descriptors of its own, and its customers."""

    system: System
    clients: list[Client]
    hot: Client

    @property
    def url(self) -> str:
        """Where it listens."""
        return str(self.system.ready["url"])

    @property
    def pid(self) -> int:
        """Its process."""
        assert self.system.broker is not None
        return self.system.broker.pid

    def connections(self) -> int:
        """Its open files, most of which are connections."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    async def has_few(self) -> bool:
        """Those that were too many are gone."""
        return self.connections() < 200


@pytest.fixture(scope="module")
async def apart(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Apart]:
    """One for all tests here."""
    folder = tmp_path_factory.mktemp("apart")
    flags = [*PATIENT, "--queue-wait-s", "20"]
    async with System(folder, customers=6, flags=flags) as running, aiohttp.ClientSession() as http:
        tokens = [each["token"] for each in running.ready["customers"]]
        *clients, hot = [Client(http, running.ready["url"], token) for token in tokens]
        yield Apart(running, clients, hot)


@contextmanager
def descriptors(apart: Apart, soft: int) -> Iterator[None]:
    """So many open files are allowed to it."""
    before = resource.prlimit(apart.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(apart.pid, resource.RLIMIT_NOFILE, (soft, before[1]))
    try:
        yield
    finally:
        resource.prlimit(apart.pid, resource.RLIMIT_NOFILE, before)


async def test_ten_thousand_idle_connections_change_nothing_for_others(apart: Apart) -> None:
    """As many as the limit of open files lets a test open, where that is less: here and in the broker they count."""
    count = min(IDLE, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - DESCRIPTORS_OF_OURS)
    before_s = await order_s(*apart.clients)
    async with open_sockets(apart.url, count):
        beside_s = await order_s(*apart.clients)
        assert apart.connections() >= count
    await eventually(apart.has_few, WITHIN_S)
    is_unnoticed(beside_s, before_s, await order_s(*apart.clients))


async def test_33_out_of_descriptors_who_comes_late_is_hung_up_on_and_orders_go_on(apart: Apart) -> None:
    client = apart.clients[0]
    await buys(client)  # this connection is there before
    with descriptors(apart, 400):
        async with open_sockets(apart.url, 600) as sockets:
            async with asyncio.timeout(WITHIN_S):
                await is_closed(sockets[-1])
            assert apart.connections() < 400, "the rest is for the database, the exchange and webhooks"
            _, placed = await client.place("BUY", "AAPL", 1)
            assert (await client.ended(placed["tradeId"]))["status"] == "FILLED"
            async with client.http.get(client.url + "/metrics") as response:
                lines = (await response.text()).splitlines()
        await eventually(lambda: may_come(apart), WITHIN_S)
    hung_up = [line for line in lines if line.startswith('broker_overloaded_total{queue="connections"}')]
    assert float(hung_up[0].split()[-1]) > 0
    written = (apart.system.folder / "serve.log").read_text().splitlines()
    events = [json.loads(line)["event"] for line in written]
    assert events.count("connections.at_limit") in {1, 2}, "an alarm every ten seconds, and not one for each"


async def may_come(apart: Apart) -> bool:
    """Whether a new connection is taken."""
    async with aiohttp.ClientSession() as http:
        with suppress(aiohttp.ClientError):
            await buys(Client(http, apart.url, apart.clients[1].token))
            return True
    return False


async def test_33_with_no_descriptor_left_at_all_the_broker_lives_on(apart: Apart) -> None:
    await buys(apart.clients[0])
    with descriptors(apart, apart.connections() + 5):
        async with open_sockets(apart.url, 100):
            await buys(apart.clients[0])
    await eventually(lambda: may_come(apart), WITHIN_S)


async def test_33_a_crowd_on_the_main_port_shuts_out_neither_operators_nor_the_exchange(
    with_settings: Callable[..., Config],
) -> None:
    apart = with_settings(
        admin_listen="127.0.0.1:0", callback_listen="127.0.0.1:0", connections_max=5, look_after_s=60.0
    )
    async with run_broker(apart) as broker:
        running = broker.running
        operator = Client(broker.http, running.admin_url, running.admin_token)
        _, created = await operator.call("POST", "/admin/v1/customers", {"cash": "100000.00"})
        customer = Client(broker.http, running.url, created["token"])
        await buys(customer)  # this connection is there before
        async with open_sockets(running.url, 10) as sockets:
            async with asyncio.timeout(WITHIN_S):
                await is_closed(sockets[-1])
            async with aiohttp.ClientSession() as http:  # with a connection of its own
                newcomer = Client(http, running.admin_url, running.admin_token)
                assert (await newcomer.call("GET", "/admin/v1/controls"))[0] == 200
            _, placed = await customer.place("BUY", "AAPL", 1)
            ended = await customer.ended(placed["tradeId"])  # by its callback: nobody asks for a minute
            assert ended["status"] == "FILLED"


async def test_slow_heads_and_bodies_hold_up_nobody_and_are_cut_off(with_settings: Callable[..., Config]) -> None:
    async with run_broker(with_settings(head_wait_s=1.0, body_wait_s=1.0, keepalive_s=60.0)) as broker:
        client = await broker.customer()
        token = str(client.token).encode()
        slow_head = HEAD + token + b"\r\nX-"
        slow_body = HEAD + token + b"\r\nContent-Length: 1000\r\n\r\n{"
        before_s = await order_s(client)
        async with open_sockets(broker.running.url, 200, [slow_head, slow_body, b"P"]) as sockets:
            dripping = asyncio.create_task(drip(sockets))
            beside_s = await order_s(client)
            async with asyncio.timeout(WITHIN_S):
                await asyncio.gather(*map(is_closed, sockets))
            dripping.cancel()
        is_unnoticed(beside_s, before_s, await order_s(client))


async def test_51_beside_a_customer_who_orders_without_a_pause_others_orders_take_no_longer(apart: Apart) -> None:
    alone_s, beside_s = [], []
    for _ in range(5):  # in turn: what else the machine does is in both
        alone_s.append(await order_s(*apart.clients))
        async with flood(apart.hot) as answers:
            beside_s.append(await order_s(*apart.clients))
        assert set(answers) <= {201, 429, 503}
        assert answers.total() > 0
    is_unnoticed(median(beside_s), median(alone_s))


@asynccontextmanager
async def flood(client: Client) -> AsyncIterator[Counter[int]]:
    """32 connections of one customer, on each of which one order follows another; how they were answered."""
    answers = Counter[int]()

    async def order() -> None:
        while True:
            status, _ = await client.place("BUY", "AAPL", 1)
            answers[status] += 1

    tasks = [asyncio.create_task(order()) for _ in range(32)]
    try:
        yield answers
    finally:
        for each in tasks:
            each.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def drip(sockets: Sequence[socket.socket]) -> None:
    """A byte now and then on each: never silent, and never done."""
    while True:
        for each in sockets:
            with suppress(OSError):
                each.send(b"x")
        await asyncio.sleep(0.1)


async def test_clients_that_read_nothing_hold_up_nobody(broker: Broker) -> None:
    reader, client = await broker.customer(), await broker.customer()
    ask = f"GET /openapi.json HTTP/1.1\r\nHost: b\r\nAuthorization: Bearer {reader.token}\r\n\r\n".encode()
    before_s = await order_s(client)
    async with open_sockets(broker.running.url, 50, [ask * 20]):
        beside_s = await order_s(client)
        assert (await client.call("GET", "/api/v1/trades"))[0] == 200
    is_unnoticed(beside_s, before_s, await order_s(client))


async def test_who_reads_nothing_of_a_large_answer_is_cut_off(with_settings: Callable[..., Config]) -> None:
    async with run_broker(with_settings(answer_wait_s=0.5, keepalive_s=60.0)) as broker:
        client = await broker.customer()
        fields = f"Host: b\r\nAuthorization: Bearer {client.token}\r\n\r\n"
        ask = f"GET /v2/calendar?start=1970-01-01&end=2099-12-31 HTTP/1.1\r\n{fields}".encode()
        async with open_sockets(broker.running.url, 20, [ask * 4]) as sockets:
            await asyncio.sleep(5.0)
            await buys(client)
            read = [0] * len(sockets)
            for number, each in enumerate(sockets):  # what the kernel had of it, and the end
                async with asyncio.timeout(WITHIN_S):
                    with suppress(ConnectionError):
                        while part := await asyncio.get_running_loop().sock_recv(each, 1 << 20):
                            read[number] += len(part)
        assert max(read) < 4_000_000, "the broker let go of the rest"


async def test_a_head_has_a_time_limit_of_its_own(with_settings: Callable[..., Config]) -> None:
    """A connection may be silent for long, as proxies' are; once a request has begun it has to come."""
    async with run_broker(with_settings(keepalive_s=60.0, head_wait_s=0.2)) as broker:
        client = await broker.customer()
        request = HEAD + str(client.token).encode() + b"\r\nContent-Length: 2\r\n\r\n{}"
        async with open_sockets(broker.running.url, 3, [b"", request[:30], request]) as (silent, first, second):
            loop = asyncio.get_running_loop()
            async with asyncio.timeout(WITHIN_S):
                assert await loop.sock_recv(second, 65_536)
                await loop.sock_sendall(second, request[:30])
                await asyncio.gather(is_closed(first), is_closed(second))
            is_gone = asyncio.create_task(is_closed(silent))
            await buys(client)
            assert not is_gone.done()
            is_gone.cancel()
