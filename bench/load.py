"""The load generator, a process of its own: many keep-alive connections, each sending its next request when the last
was answered (closed loop), or at its time (open loop: "per_s"; its latency is then counted from that time, so that a
stall is not hidden). A hand-made client: a general one would use more CPU than the server that it measures.

    python -m bench.load < plan.json > result.json

plan: {"host", "port", "path", "connections", "requests": [[token, body], …], "per_s": requests a second or left out}
result: {"seconds", "started": [unix time, …], "latencies": [seconds, …], "statuses": {"201": n}, "answers": [id, …]}
"""

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any

import uvloop


class Client(asyncio.Protocol):
    """One connection: takes the next request from a shared list until there is none."""

    def __init__(
        self,
        requests: Iterator[tuple[int, bytes]],
        per_s: float | None,
        results: "Results",
        done: asyncio.Future[None],
    ) -> None:
        self._requests = requests
        self._per_s = per_s
        self._results = results
        self._done = done
        self._buffer = b""
        self._number = 0
        self._began = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._next()

    def _next(self) -> None:
        try:
            self._number, request = next(self._requests)
        except StopIteration:
            self._transport.close()
            return
        if self._per_s is None:
            self._send(request)
            return
        due = self._results.began + self._number / self._per_s
        asyncio.get_running_loop().call_later(max(0.0, due - time.perf_counter()), self._send, request, due)

    def _send(self, request: bytes, due: float | None = None) -> None:
        self._results.started[self._number] = time.time()
        self._began = time.perf_counter() if due is None else due
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, separator, rest = self._buffer.partition(b"\r\n\r\n")
        if not separator:
            return
        at = head.lower().index(b"content-length:") + 15
        length = int(head[at:].split(b"\r\n", 1)[0])
        if len(rest) < length:
            return
        self._results.latencies[self._number] = time.perf_counter() - self._began
        self._results.statuses[head[9:12].decode()] += 1
        self._results.answers[self._number] = rest[:length]
        self._buffer = rest[length:]
        self._next()

    def connection_lost(self, error: Exception | None) -> None:
        if not self._done.done():
            self._done.set_result(None)


class Results:
    """What all connections found, by the request's number."""

    def __init__(self, size: int) -> None:
        self.began = time.perf_counter()
        self.started = [0.0] * size
        self.latencies = [0.0] * size
        self.answers = [b""] * size
        self.statuses: Counter[str] = Counter()


def _request(plan: dict[str, Any], token: str, body: str) -> bytes:
    return (
        f"POST {plan['path']} HTTP/1.1\r\nHost: {plan['host']}\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    ).encode()


def _same(client: Client) -> Client:
    return client


async def run(plan: dict[str, Any]) -> dict[str, Any]:
    """Send every request of the plan once."""
    requests = [_request(plan, token, body) for token, body in plan["requests"]]
    results = Results(len(requests))
    shared = iter(enumerate(requests))
    loop = asyncio.get_running_loop()
    ends: list[asyncio.Future[None]] = []
    began = time.perf_counter()
    for _ in range(plan["connections"]):
        done = loop.create_future()
        ends.append(done)
        client = Client(shared, plan.get("per_s"), results, done)
        await loop.create_connection(partial(_same, client), plan["host"], plan["port"])
    await asyncio.gather(*ends)
    seconds = time.perf_counter() - began
    return {
        "seconds": seconds,
        "started": results.started,
        "latencies": results.latencies,
        "statuses": results.statuses,
        "answers": [_trade_id(answer) for answer in results.answers],
    }


def _trade_id(answer: bytes) -> str | None:
    try:
        return str(json.loads(answer)["tradeId"])
    except (ValueError, KeyError):
        return None


if __name__ == "__main__":
    json.dump(uvloop.run(run(json.load(sys.stdin))), sys.stdout)
