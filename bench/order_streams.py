"""Customers who follow their orders, a process of its own: when does each hear that its trade is FILLED?

There is no feed of all customers, and a thousand open streams would be a load of their own, so a sample of customers
follows: one order stream (Server-Sent Events) for each, and a fill counts as heard when its message has been read here.

    with following(port, tokens) as fills:
        fills.heard(trade_ids)  # unix times

    PLAN='{"port", "tokens"}' python -m bench.order_streams      (lines of JSON out and in)

{"following": n}; then for each {"trades": [id, ...]}: {"heard": [unix time, ...]}, as soon as all have been heard, and
null for what was not heard within 10 s.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import uvloop

from bench.servers import module, process

_FILLED = b'"status":"filled"'
_ORDER = b'"order":{"id":"'
_ID_LENGTH = 36
_PATIENCE_S = 10.0
_LINE_MAX = 1 << 24


class Fills:
    """The process of those who follow, as its parent sees it."""

    def __init__(self, running: Any) -> None:
        self._running = running

    def heard(self, trade_ids: Sequence[str]) -> list[float]:
        """When each of these trades was heard to be filled. Raises RuntimeError where one was not, in 10 s."""
        self._running.stdin.write(json.dumps({"trades": trade_ids}).encode() + b"\n")
        self._running.stdin.flush()
        times: list[float | None] = json.loads(self._running.stdout.readline())["heard"]
        known = [each for each in times if each is not None]
        if len(known) < len(trade_ids):
            raise RuntimeError(f"of {len(trade_ids)} fills only {len(known)} were heard")
        return known


@contextmanager
def following(port: int, tokens: Sequence[str]) -> Iterator[Fills]:
    """The customers with these tokens follow their orders, until the block ends."""
    plan = json.dumps({"port": port, "tokens": tokens})
    with process(*module("bench.order_streams"), PLAN=plan) as (running, line):
        assert json.loads(line) == {"following": len(tokens)}, line
        yield Fills(running)


# ------------------------------------------------------------------ the process


class Heard:
    """When each fill was heard."""

    def __init__(self) -> None:
        self.times: dict[str, float] = {}
        self.news = asyncio.Event()

    async def of(self, trade_ids: Sequence[str]) -> list[float | None]:
        """Of these trades; it waits for them."""
        try:
            async with asyncio.timeout(_PATIENCE_S):
                while not self.times.keys() >= set(trade_ids):
                    self.news.clear()
                    await self.news.wait()
        except TimeoutError:
            pass
        return [self.times.get(trade_id) for trade_id in trade_ids]


class Follower(asyncio.Protocol):
    """One customer's stream. HTTP/1.0, so that what comes is the stream alone, without chunks around it."""

    def __init__(self, token: str, heard: Heard, subscribed: "asyncio.Future[None]") -> None:
        self._request = f"GET /api/v1/orders/stream HTTP/1.0\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
        self._heard = heard
        self._subscribed = subscribed
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the stream."""
        out: Any = transport  # which uvloop's transports are, though of no class of asyncio's
        out.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Look for fills."""
        now = time.time()
        *events, self._rest = (self._rest + data).split(b"\n\n")
        for event in events:
            if _FILLED in event:
                at = event.index(_ORDER) + len(_ORDER)
                self._heard.times[event[at : at + _ID_LENGTH].decode()] = now
                self._heard.news.set()
            elif b"event: subscribed" in event and not self._subscribed.done():
                self._subscribed.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        """What is not heard any more would be missing in the figures: that is noticed there."""
        if not self._subscribed.done():
            self._subscribed.set_exception(ConnectionError(f"no stream: {self._rest!r}"))


async def main() -> None:
    """Follow until standard input ends."""
    plan = json.loads(os.environ["PLAN"])
    loop = asyncio.get_running_loop()
    heard = Heard()
    for token in plan["tokens"]:
        subscribed: asyncio.Future[None] = loop.create_future()
        follower = Follower(token, heard, subscribed)
        await loop.create_connection(lambda follower=follower: follower, "127.0.0.1", plan["port"])  # type: ignore[misc]
        async with asyncio.timeout(_PATIENCE_S):
            await subscribed
    print(json.dumps({"following": len(plan["tokens"])}), flush=True)
    reader = asyncio.StreamReader(_LINE_MAX)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async for line in reader:
        print(json.dumps({"heard": await heard.of(json.loads(line)["trades"])}), flush=True)
        heard.times.clear()


if __name__ == "__main__":
    uvloop.run(main())
