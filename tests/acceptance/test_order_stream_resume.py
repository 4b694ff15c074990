"""Clients of order updates that are killed and come again, a hundred times during ten thousand trades: what one saw,
all its lives together, is what the database has, once each, in order."""

import asyncio
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from broker.config import Config
from tests.conftest import Client, eventually, run_broker

TRADES, CUSTOMERS, KILLS = 10_000, 10, 100
SEED = 20261122


@dataclass
class Follower:
    """A client that is killed after random updates, and goes on after the last one that it saw."""

    client: Client
    rng: random.Random
    seen: list[str] = field(default_factory=list)
    newest: int = 0
    kills: int = 0

    async def follow(self) -> None:
        """One life after another; nobody kills the last one."""
        least = 2 * TRADES // CUSTOMERS  # what there will be for each: a trade is placed, and it ends
        for end in sorted(self.rng.sample(range(1, least), KILLS // CUSTOMERS)):
            await self._live(end)
            self.kills += 1
        await self._live(None)

    async def _live(self, end: int | None) -> None:
        """Until so many updates were seen, as a WebSocket or an event stream."""
        await (self._as_socket(end) if self.rng.random() < 0.5 else self._as_event_stream(end))

    async def _as_socket(self, end: int | None) -> None:
        headers = {"Authorization": f"Bearer {self.client.token}"}
        url = f"{self.client.url}/api/v1/orders/stream?since={self.newest}"
        async with self.client.http.ws_connect(url, headers=headers) as ws:
            assert json.loads(await ws.receive_str()) == {"type": "subscribed", "sequence": self.newest}
            while len(self.seen) != end:
                self._saw(await ws.receive_str())
            _abort(ws._response)

    async def _as_event_stream(self, end: int | None) -> None:
        headers = {"Authorization": f"Bearer {self.client.token}", "Last-Event-ID": str(self.newest)}
        url = f"{self.client.url}/api/v1/orders/stream?since=0"
        async with self.client.http.get(url, headers=headers) as response:
            while len(self.seen) != end:
                line = await response.content.readline()
                assert line, "the stream ended"
                if line.startswith(b'data: {"type":"order_update"'):
                    self._saw(line.decode().removeprefix("data: ").removesuffix("\n"))
            _abort(response)

    def _saw(self, text: str) -> None:
        self.seen.append(text)
        self.newest = json.loads(text)["sequence"]


def _abort(response: aiohttp.ClientResponse) -> None:
    """Without a word, with whatever is on its way."""
    assert response.connection is not None
    assert response.connection.transport is not None
    response.connection.transport.abort()


async def trade(client: Client, count: int) -> None:
    """Buy and sell, one after the other."""
    for number in range(count):
        status, answer = await client.place("BUY" if number % 2 == 0 else "SELL", "AAPL", 1)
        assert status == 201, answer


_EVENTS = """SELECT seq, trade_id::text, step::text, filled_quantity, reason FROM event
    WHERE customer_id = $1 ORDER BY seq"""


async def test_a_client_killed_a_hundred_times_misses_nothing_and_sees_nothing_twice(
    with_settings: Callable[..., Config],
) -> None:
    rng = random.Random(SEED)
    # Small, so that updates come live, out of memory and out of the database.
    async with run_broker(with_settings(order_stream_queue_max=50, order_stream_page=40)) as broker:
        customers = [await broker.customer() for _ in range(CUSTOMERS)]
        followers = [Follower(customer, random.Random(rng.random())) for customer in customers]
        following = [asyncio.create_task(follower.follow()) for follower in followers]
        await asyncio.gather(*(trade(customer, TRADES // CUSTOMERS) for customer in customers))

        async def nothing_is_open() -> bool:
            rows = await broker.fetch("SELECT count(*) FROM trade WHERE hold > 0 OR status = 'PLACED'")
            return bool(rows[0][0] == 0)

        await eventually(nothing_is_open, within_s=30)
        events = [
            [tuple(row) for row in await broker.fetch(_EVENTS, int(customer.customer_id))] for customer in customers
        ]

        async def everything_was_seen() -> bool:
            assert not any(task.done() for task in following), following
            return all(follower.newest >= len(rows) for follower, rows in zip(followers, events, strict=True))

        await eventually(everything_was_seen, within_s=30)
        for task in following:
            task.cancel()
        await asyncio.wait(following)
        for follower, rows in zip(followers, events, strict=True):
            assert [_row(json.loads(text)) for text in follower.seen] == rows
        assert sum(follower.kills for follower in followers) == KILLS
        assert sum(len(rows) for rows in events) >= 2 * TRADES
        await broker.books_are_right()


def _row(update: Any) -> tuple[Any, ...]:
    shown = update["order"]
    return (update["sequence"], shown["id"], update["event"], shown["filled_quantity"], shown["reason"])
