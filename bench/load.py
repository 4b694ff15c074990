"""The load generator, a process of its own: many keep-alive connections, all open before the clock starts.

Closed loop: each connection sends its next request when the last was answered. Open loop ("per_s"): requests fall due
at a fixed rate, and each goes out on any connection that is free then. A latency counts from the moment that the
request was due, also where it had to wait for a free connection or for this process, so a stall is not hidden. The
client is hand-made: a general one would use more CPU than the server that it measures.

    python -m bench.load < plan.json > result.json

plan: {"host", "port", "path", "connections", "requests": [[token, body], [token, body, its own path], ...],
       "per_s": requests a second or left out, "field": what to keep of an answer ["tradeId"]}
result: {"seconds", "started": [unix time, ...], "latencies": [seconds, ...], "late": [seconds, ...],
         "statuses": {"201": n}, "answers": [that field, ...]}
`started` is when a request was due, or sent in a closed loop; `late` is how much later it was sent.
"""

import asyncio
import json
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from typing import Any

import uvloop

_SETTLED_S = 0.2
"""After the connections are open, so that the server has taken all of them before the clock starts."""


class Results:
    """What all connections found, by the request's number."""

    def __init__(self, size: int) -> None:
        self.started = [0.0] * size
        self.latencies = [0.0] * size
        self.late = [0.0] * size
        self.answers = [b""] * size
        self.statuses: Counter[str] = Counter()
        self.open = size
        self.done = asyncio.get_running_loop().create_future()


class Connection(asyncio.Protocol):
    """One connection, which has one request under way at most."""

    def __init__(self, results: Results) -> None:
        self.is_free: Callable[[Connection], None] = lambda _: None
        self._results = results
        self._buffer = b""
        self._number = 0
        self._due = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way out."""
        self._transport: Any = transport

    def send(self, number: int, request: bytes, due: float | None = None) -> None:
        """Send a request; one that was due earlier, by time.perf_counter(), counts from then.

        The loop's clock is as coarse as a millisecond: one that goes out before it is due counts from its sending.
        """
        now = time.perf_counter()
        self._number = number
        self._due = now if due is None else min(due, now)
        self._results.late[number] = now - self._due
        self._results.started[number] = time.time() - self._results.late[number]
        self._transport.write(request)

    def close(self) -> None:
        """Hang up."""
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        """Take an answer, once it is whole."""
        self._buffer += data
        head, separator, rest = self._buffer.partition(b"\r\n\r\n")
        if not separator:
            return
        at = head.lower().index(b"content-length:") + 15
        length = int(head[at:].split(b"\r\n", 1)[0])
        if len(rest) < length:
            return
        results = self._results
        results.latencies[self._number] = time.perf_counter() - self._due
        results.statuses[head[9:12].decode()] += 1
        results.answers[self._number] = rest[:length]
        self._buffer = rest[length:]
        results.open -= 1
        if not results.open:
            results.done.set_result(None)
        self.is_free(self)

    def connection_lost(self, error: Exception | None) -> None:
        """Before the end nobody may hang up."""
        if not self._results.done.done():
            self._results.done.set_exception(ConnectionError("the server closed a connection"))


def closed_loop(connections: list[Connection], requests: list[bytes]) -> None:
    """Every connection takes the next request as soon as it is free."""
    shared: Iterator[tuple[int, bytes]] = iter(enumerate(requests))

    def go_on(connection: Connection) -> None:
        for number, request in shared:
            connection.send(number, request)
            return

    for connection in connections:
        connection.is_free = go_on
        go_on(connection)


def open_loop(connections: list[Connection], requests: list[bytes], per_s: float) -> None:
    """A request falls due every 1 / per_s seconds, whatever became of those before it."""
    free = list(connections)  # the one that was used last comes first, so that no more than needed are in use
    waiting: deque[int] = deque()
    loop = asyncio.get_running_loop()
    began, start = time.perf_counter(), loop.time()

    def fall_due(number: int) -> None:
        if number + 1 < len(requests):
            loop.call_at(start + (number + 1) / per_s, fall_due, number + 1)
        waiting.append(number)
        send()

    def go_on(connection: Connection) -> None:
        free.append(connection)
        send()

    def send() -> None:
        while waiting and free:
            number = waiting.popleft()
            free.pop().send(number, requests[number], began + number / per_s)

    for connection in connections:
        connection.is_free = go_on
    fall_due(0)


def _request(plan: dict[str, Any], token: str, body: str, path: str | None = None) -> bytes:
    return (
        f"POST {path or plan['path']} HTTP/1.1\r\nHost: {plan['host']}\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    ).encode()


async def run(plan: dict[str, Any]) -> dict[str, Any]:
    """Send every request of the plan once."""
    requests = [_request(plan, *request) for request in plan["requests"]]
    results = Results(len(requests))
    loop = asyncio.get_running_loop()
    connections: list[Connection] = []
    for _ in range(plan["connections"]):
        _, connection = await loop.create_connection(lambda: Connection(results), plan["host"], plan["port"])
        connections.append(connection)
    await asyncio.sleep(_SETTLED_S)
    began = time.perf_counter()
    if plan.get("per_s") is None:
        closed_loop(connections, requests)
    else:
        open_loop(connections, requests, plan["per_s"])
    await results.done
    seconds = time.perf_counter() - began
    for connection in connections:
        connection.close()
    return {
        "seconds": seconds,
        "started": results.started,
        "latencies": results.latencies,
        "late": results.late,
        "statuses": results.statuses,
        "answers": [_field(answer, plan.get("field", "tradeId")) for answer in results.answers],
    }


def _field(answer: bytes, name: str) -> str | None:
    try:
        return str(json.loads(answer)[name])
    except (ValueError, KeyError):
        return None


if __name__ == "__main__":
    json.dump(uvloop.run(run(json.load(sys.stdin))), sys.stdout)
