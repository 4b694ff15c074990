"""More than the broker can do: what is let in is done, the rest hears so at once, and what frees it always gets in."""

import asyncio
import gc
import json
import socket
import struct
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest
from aiohttp.test_utils import TestServer

from broker.config import Config
from broker.core import signing
from tests.conftest import Broker, Client, eventually, run_broker
from tests.integration.test_webhook import KEY, Desk, Event, QuietExchange, fill

BUY = {"stockTicker": "AAPL", "type": "BUY", "quantity": 1}
WITHIN_S = 30.0

Answered = tuple[int, str | None, str]
"""A status, Retry-After and an error code."""


@asynccontextmanager
async def stalled(broker: Broker, table: str = "account") -> AsyncIterator[None]:
    """Nothing can be committed until the block ends: somebody holds a lock."""
    connection = await asyncpg.connect(broker.dsn, server_settings={"search_path": "broker"})
    try:
        async with connection.transaction():
            await connection.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
            yield
    finally:
        await connection.close()


async def place(client: Client, **kwargs: Any) -> tuple[int, str | None, str]:
    """The status, Retry-After and error code of a trade's answer."""
    headers = {"Authorization": f"Bearer {client.token}"}
    async with client.http.post(f"{client.url}/api/v1/trades", json=BUY, headers=headers, **kwargs) as response:
        answer = await response.json()
        return response.status, response.headers.get("Retry-After"), answer.get("code", "")


async def figure(broker: Broker, name: str) -> float:
    """A figure of /metrics, over its labels; 0 where there is none."""
    async with broker.http.get(f"{broker.running.url}/metrics") as response:
        lines = (await response.text()).splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.partition(" ")[0].partition("{")[0] == name)


async def all_end(broker: Broker) -> None:
    """Every trade that was placed has ended."""
    open_ = "SELECT FROM trade WHERE status NOT IN ('FILLED', 'REJECTED', 'CANCELLED')"

    async def ended() -> bool:
        return not await broker.fetch(open_)

    await eventually(ended, WITHIN_S)


async def customers(broker: Broker, count: int) -> list[Client]:
    return [await broker.customer() for _ in range(count)]


def tight(with_settings: Callable[..., Config], **changes: Any) -> Config:
    """One shard that takes a few commands at a time."""
    return with_settings(**{"shards": 1, "batch_max": 8, "queue_wait_s": 0.01, **changes})


async def test_50_beyond_its_bound_a_shard_refuses_before_it_reads_and_what_it_acknowledged_is_there(
    with_settings: Callable[..., Config],
) -> None:
    async with run_broker(tight(with_settings)) as broker:
        clients = await customers(broker, 10)
        stranger = Client(broker.http, broker.running.url, "key_x.not-a-key")
        async with stalled(broker):
            waiting = [asyncio.create_task(place(clients[number % 10])) for number in range(40)]
            await eventually(lambda: is_refused(stranger))  # whosever it is: nobody looks, while there is no room
            waiting += [asyncio.create_task(place(clients[number % 10])) for number in range(40)]
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        answers = Counter(await asyncio.gather(*waiting))
        placed = answers.pop((201, None, ""))
        assert set(answers) == {(503, "1", "overloaded")}
        assert placed == len(await broker.fetch("SELECT FROM trade"))
        assert await eventually(lambda: is_taken(clients[0])), "as soon as there is room again"
        await all_end(broker)
        await broker.books_are_right()


async def is_refused(client: Client) -> bool:
    answer = await place(client)
    assert answer[0] == 401 or answer == (503, "1", "overloaded")
    return answer[0] == 503


async def is_taken(client: Client) -> bool:
    return (await place(client))[0] == 201


async def test_50_orders_without_a_key_on_connections_that_stay_do_not_close_the_door(
    with_settings: Callable[..., Config],
) -> None:
    async with run_broker(with_settings(shards=1, shard_queue_max=8)) as broker:
        customer = await broker.customer()
        host, port = broker.running.url.removeprefix("http://").split(":")
        refused = b"POST /api/v1/trades HTTP/1.1\r\nHost: b\r\nContent-Length: 2\r\n\r\n{}"
        async with AsyncExitStack() as stack:
            for _ in range(20):  # more than there is room for
                reader, writer = await asyncio.open_connection(host, int(port))
                stack.callback(writer.close)
                writer.write(refused)
                assert (await reader.readline()).split()[1] == b"401"
            assert (await place(customer))[0] == 201


async def test_50_cancels_and_the_kill_switch_get_in_where_new_orders_do_not(
    with_settings: Callable[..., Config],
) -> None:
    async with run_broker(tight(with_settings)) as broker:
        clients = await customers(broker, 10)
        stranger = Client(broker.http, broker.running.url, "key_x.not-a-key")
        resting = {"symbol": "AAPL", "side": "buy", "quantity": 1, "order_type": "limit", "price": "100.00"}
        status, order = await clients[0].call("POST", "/api/v1/orders", resting)
        assert status == 201, order
        async with stalled(broker):
            waiting = [asyncio.create_task(place(clients[number % 10])) for number in range(40)]
            await eventually(lambda: is_refused(stranger))
            path = f"/api/v1/orders/{order['id']}"
            cancel = asyncio.create_task(clients[0].call("DELETE", path))
            status, answer = await broker.operator.call("PUT", "/admin/v1/controls/all", {"reason": "overload"})
            assert (status, answer["engaged"]) == (200, True), answer
        status, cancelled = await cancel
        assert (status, cancelled["status"]) in {(200, "cancelled"), (202, "submitted")}, cancelled
        for status, _, code in await asyncio.gather(*waiting):
            assert status in {201, 503}, code
        await all_end(broker)
        await broker.books_are_right()


async def test_44_on_a_slow_disk_batches_grow_and_nothing_is_lost(dsn: str, config: Config) -> None:
    connection = await asyncpg.connect(dsn)
    database = await connection.fetchval("SELECT current_database()")
    for setting in ("commit_delay = 100000", "commit_siblings = 0"):  # every commit waits 0.1 s for its flush
        await connection.execute(f"ALTER DATABASE {database} SET {setting}")
    await connection.close()
    async with run_broker(config) as broker:
        clients = await customers(broker, 10)
        batches, commands = (
            await figure(broker, "broker_batch_size_count"),
            await figure(broker, "broker_batch_size_sum"),
        )
        answers = Counter(await asyncio.gather(*(place(clients[number % 10]) for number in range(200))))
        assert answers == {(201, None, ""): 200}, "what the next batch takes is not refused, however slow it is"
        await all_end(broker)
        batches = await figure(broker, "broker_batch_size_count") - batches
        commands = await figure(broker, "broker_batch_size_sum") - commands
        assert commands / batches > 4, "one commit for many"
        assert await broker.fetch("SELECT status, count(*) FROM trade GROUP BY 1") == [("FILLED", 200)]
        await broker.books_are_right()


async def test_44_of_a_database_that_stands_still_the_next_batch_waits_and_nothing_that_was_refused_is_done(
    with_settings: Callable[..., Config],
) -> None:
    async with run_broker(tight(with_settings, place_wait_s=5.0)) as broker:
        clients = await customers(broker, 5)
        stranger = Client(broker.http, broker.running.url, "key_x.not-a-key")
        async with stalled(broker):
            waiting = [asyncio.create_task(place(clients[number % 5])) for number in range(30)]
            await eventually(lambda: is_refused(stranger))
            answers = Counter(await asyncio.gather(*waiting, *(place(clients[0]) for _ in range(30))))
            assert not [answer for answer in answers if answer[0] != 503 or answer[1] != "1"], answers
            assert answers[503, "1", "overloaded"] > 0
            assert answers[503, "1", "database_unavailable"] > 0
        assert await eventually(lambda: is_taken(clients[0]))
        await all_end(broker)
        await broker.books_are_right()


async def test_45_reads_that_find_no_connection_give_up_and_leave_the_pool_whole(
    with_settings: Callable[..., Config],
) -> None:
    config = with_settings(place_wait_s=1.0, pool_max=4)
    async with run_broker(config) as broker:
        client = await broker.customer()
        assert (await client.call("GET", "/api/v1/trades"))[0] == 200
        async with stalled(broker, "trade"):
            answers = await asyncio.gather(*(client.call("GET", "/api/v1/trades") for _ in range(300)))
            assert {status for status, _ in answers} == {503}

        async def all_answered() -> bool:
            answers = await asyncio.gather(*(client.call("GET", "/api/v1/trades") for _ in range(50)))
            return {status for status, _ in answers} == {200}

        await eventually(all_answered, WITHIN_S)
        await pool_is_whole(broker, config)


async def test_45_reads_whose_clients_hang_up_leave_the_pool_whole(with_settings: Callable[..., Config]) -> None:
    config = with_settings(pool_max=4)
    async with run_broker(config) as broker:
        client = await broker.customer()
        request = f"GET /api/v1/trades HTTP/1.1\r\nHost: b\r\nAuthorization: Bearer {client.token}\r\n\r\n".encode()
        for _ in range(20):
            await asyncio.gather(*(hang_up_after(broker, request) for _ in range(100)))
        answers = await asyncio.gather(*(client.call("GET", "/api/v1/trades") for _ in range(50)))
        assert {status for status, _ in answers} == {200}
        await pool_is_whole(broker, config)


async def pool_is_whole(broker: Broker, config: Config) -> None:
    """No connection is lost at work, and there are no more than there may be."""
    sql = (
        "SELECT count(*) AS all, count(*) FILTER (WHERE state <> 'idle') AS busy FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name = 'stockbroker'"
    )

    async def at_rest() -> bool:
        return not (await broker.fetch(sql))[0]["busy"]

    await eventually(at_rest, WITHIN_S)
    assert (await broker.fetch(sql))[0]["all"] <= config.pool_max + config.shards + 2


async def hang_up_after(broker: Broker, data: bytes) -> None:
    """Send this and be gone at once, with a reset."""
    host, port = broker.running.url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.write(data)
    await asyncio.sleep(0)
    writer.close()


async def test_54_who_hangs_up_in_the_middle_has_a_whole_trade_or_none(broker: Broker) -> None:
    clients = await customers(broker, 10)

    def request(client: Client) -> bytes:
        body = b'{"stockTicker": "AAPL", "type": "BUY", "quantity": 1}'
        head = f"POST /api/v1/trades HTTP/1.1\r\nHost: b\r\nAuthorization: Bearer {client.token}\r\n"
        head += "Content-Type: application/json\r\n"
        return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body

    whole = [request(clients[number % 10]) for number in range(100)]
    cut = [each[: -1 - number % 60] for number, each in enumerate(whole)]
    await asyncio.gather(*(hang_up_after(broker, each) for each in [*whole, *cut]))
    assert (await place(clients[0]))[0] == 201  # behind all of them
    await all_end(broker)
    rows = await broker.fetch(
        "SELECT status, (SELECT count(*) FROM event WHERE event.trade_id = trade.trade_id) AS events,"
        " (SELECT count(*) FROM execution WHERE execution.trade_id = trade.trade_id) AS executions FROM trade"
    )
    assert 1 <= len(rows) <= 101
    assert {(row["status"], row["executions"]) for row in rows} == {("FILLED", 1)}
    assert len({row["events"] for row in rows}) <= 2, "each went the whole way"
    await broker.books_are_right()


async def test_51_beside_a_customer_who_sends_a_thousand_orders_others_get_theirs(
    with_settings: Callable[..., Config],
) -> None:
    async with run_broker(with_settings(customer_open_max=50)) as broker:
        hot, *others = await customers(broker, 11)
        flood = [asyncio.create_task(place(hot)) for _ in range(1000)]
        done, _ = await asyncio.wait(flood, return_when=asyncio.FIRST_COMPLETED)
        assert done
        for other in others:
            assert (await place(other))[0] == 201
        answers = Counter(await asyncio.gather(*flood))
        assert set(answers) <= {(201, None, ""), (503, "1", "overloaded"), (429, "1", "rate_limited")}
        assert answers[503, "1", "overloaded"] > 0, "it has no more at work than it may have"
        await all_end(broker)
        await broker.books_are_right()


ORDERS, READS = 500, 1_000
KEPT_OBJECTS, KEPT_BYTES = 30, 20_000
"""What may stay of a request. It is 9 and 5,000 of an order and nothing of a read; quotes come in beside them."""


@pytest.fixture
async def quiet(with_settings: Callable[..., Config]) -> AsyncIterator[Desk]:
    """A broker whose one queue has room for four commands, beside an exchange that says only what a test says."""
    exchange = QuietExchange()
    async with TestServer(exchange.app()) as server:
        settings = {"exchange": str(server.make_url("/")), "webhook_secrets": signing.encode_secret(KEY)}
        settings |= {"shards": 1, "batch_max": 4, "shard_queue_max": 4, "look_after_s": 600.0}
        async with run_broker(with_settings(**settings)) as broker:
            yield Desk(broker, exchange, await broker.customer(cash="1000000.00"))
            await broker.books_are_right()


async def test_12_a_callback_that_finds_no_room_is_told_when_to_come_again_and_its_event_is_settled_once(
    quiet: Desk,
) -> None:
    """A storm at a queue that is full for certain: nobody's event is lost with a 503, and none counts twice."""
    events, at_once = 100, 200  # every one is said twice
    trade_id = await quiet.order(quantity=events)
    fills = [
        fill(trade_id, f"e{n}", 1, filled_quantity=n, type="FILLED" if n == events else "PARTIALLY_FILLED")
        for n in range(1, events + 1)
    ]

    async def deliver(each: Event) -> Answered:
        body = json.dumps(each).encode()
        url = f"{quiet.broker.running.url}/webhooks/exchange"
        async with quiet.broker.http.post(url, data=body, headers=quiet.signed(body)) as response:
            text = await response.text()
            code = json.loads(text)["code"] if text else ""
            return response.status, response.headers.get("Retry-After"), code

    refused: Counter[Answered] = Counter()

    async def until_taken(each: Event) -> None:
        while (answer := await deliver(each))[0] != 204:
            refused[answer] += 1
            await asyncio.sleep(0.02)
        assert answer == (204, None, "")

    async with asyncio.TaskGroup() as storm, stalled(quiet.broker):  # and then there is room
        for number in range(at_once):
            storm.create_task(until_taken(fills[number % events]))
        await eventually(lambda: are(refused.total() >= at_once), WITHIN_S)
    assert set(refused) == {(503, "1", "overloaded")}
    assert (await quiet.customer.trade(trade_id))["status"] == "FILLED"
    settled = await quiet.broker.fetch("SELECT execution_id, last_qty FROM execution")
    assert sorted(map(tuple, settled)) == sorted((f"e{n}", 1) for n in range(1, events + 1))
    assert await quiet.inbox() == []
    assert await quiet.broker.fetch("SELECT count(*) FROM transfer WHERE kind = 'fill'") == [(events,)]


async def are(answer: bool) -> bool:
    return answer


@dataclass(frozen=True)
class Kept:
    """What this process holds: broker, database driver and clients together."""

    tasks: int
    requests: int
    objects: int
    memory: int

    @classmethod
    def now(cls) -> "Kept":
        gc.collect()
        objects = gc.get_objects()
        requests = sum(type(each).__name__ in {"Request", "BaseRequest"} for each in objects)
        return cls(len(asyncio.all_tasks()), requests, len(objects), tracemalloc.get_traced_memory()[0])

    def since(self, before: "Kept") -> "Kept":
        return Kept(
            self.tasks - before.tasks,
            self.requests - before.requests,
            self.objects - before.objects,
            self.memory - before.memory,
        )


@pytest.fixture
def traced() -> Iterator[None]:
    """What is allocated counts."""
    tracemalloc.start()
    yield
    tracemalloc.stop()


async def test_27_what_is_kept_of_requests_is_let_go(broker: Broker, traced: None) -> None:
    """What grows with requests is back where it was, once they are answered; of an order its customer's stays."""
    clients = await customers(broker, 10)

    async def at_rest() -> bool:
        names = ("broker_queue_depth", "broker_open_trades")
        return not any([await figure(broker, name) for name in names])

    async def orders(count: int) -> Kept:
        for _ in range(count // 50):
            answers = Counter(await asyncio.gather(*(place(clients[number % 10]) for number in range(50))))
            assert answers == {(201, None, ""): 50}
        await all_end(broker)
        await eventually(at_rest)
        return Kept.now()

    async def reads(count: int) -> Kept:
        for _ in range(count // 50):
            answers = await asyncio.gather(*(clients[n % 10].call("GET", "/api/v1/balance") for n in range(50)))
            assert {status for status, _ in answers} == {200}
        return Kept.now()

    await reads(100)
    first = await orders(100)  # connections, statements and caches are there now
    ordered = (await orders(ORDERS)).since(first)
    second = await reads(100)
    read = (await reads(READS)).since(second)
    for what, count, kept in (("orders", ORDERS, ordered), ("reads", READS, read)):
        assert kept.tasks < count / 10, (what, kept)
        assert kept.requests < count / 10, (what, kept)
        assert kept.objects < count * KEPT_OBJECTS, (what, kept)
        assert kept.memory < count * KEPT_BYTES, (what, kept)
