"""The load generator of the overload bench, a process of its own: offers trades at a fixed rate for minutes.

What falls due goes out on any connection that is free; a latency counts from the moment it fell due, so waiting for
this process or for a free connection counts as well. Unlike bench.load it takes refusals for answers, does what they
say only in that it goes on, and keeps of each answer no more than its status, its second and its latency.

    python -m bench.offer < plan.json > result.json

plan: {"port", "connections", "per_s", "seconds", "requests": [[token, body], ...] taken in turn}; "per_s": null:
a closed loop
result: {"seconds", "sent", "unsent": due and not sent at the end, "refused_without_retry_after": n, "refusals": {code:
         n}, "lost": connections,
         "answers": {"201": {"count", "p50", "p99", "most", "each_second": [n, ...]}, ...}}   (ms)
"""

import asyncio
import json
import sys
import time
from array import array
from collections import Counter, deque
from typing import Any

import uvloop

from bench.figures import percentile

_TICK_S = 0.002
_PATIENCE_S = 10.0


class Answers:
    """All answers with one status."""

    def __init__(self) -> None:
        self.latencies = array("f")
        self.seconds = array("H")

    def figures(self) -> dict[str, Any]:
        """Count, percentiles in ms, and how many in each second."""
        each_second = [0] * (max(self.seconds) + 1)
        for second in self.seconds:
            each_second[second] += 1
        p50, p99, most = (percentile(self.latencies, share) * 1000 for share in (0.5, 0.99, 1.0))
        return {"count": len(self.latencies), "p50": p50, "p99": p99, "most": most, "each_second": each_second}


class Offer:
    """What was offered, and what came of it."""

    def __init__(self, requests: list[bytes], per_s: float | None, seconds: float) -> None:
        self._requests = requests
        self._per_s = per_s
        self._seconds = seconds
        self.answers: dict[bytes, Answers] = {}
        self.free: list[Connection] = []
        self.waiting: deque[float] = deque()  # when each fell due
        self.sent = 0
        self.lost = 0
        self.silent = 0  # refusals without Retry-After
        self.refusals: Counter[bytes] = Counter()
        self.began = 0.0

    async def run(self) -> float:
        """Offer for so many seconds, then wait for the answers; the seconds that it took."""
        self.began = time.perf_counter()
        connections = len(self.free)
        fallen_due = 0
        if self._per_s is None:
            self.waiting.extend([self.began] * connections)
            self.go_on()
        while (passed := time.perf_counter() - self.began) < self._seconds:
            if self._per_s is not None:
                due = int(passed * self._per_s)
                self.waiting.extend(self.began + number / self._per_s for number in range(fallen_due, due))
                fallen_due = due
                self.go_on()
            await asyncio.sleep(_TICK_S)
        took, self._per_s = time.perf_counter() - self.began, 0.0  # from here on nothing goes out any more
        until = time.perf_counter() + _PATIENCE_S
        while len(self.free) + self.lost < connections and time.perf_counter() < until:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        return took

    def go_on(self) -> None:
        """Send what is due on what is free."""
        while self.waiting and self.free and self._per_s != 0.0:
            self.free.pop().send(self._requests[self.sent % len(self._requests)], self.waiting.popleft())
            self.sent += 1

    def answered(self, connection: "Connection", status: bytes, due: float, head: bytes, body: bytes) -> None:
        """Take an answer down."""
        now = time.perf_counter()
        answers = self.answers.setdefault(status, Answers())
        answers.latencies.append(now - due)
        answers.seconds.append(int(now - self.began))
        if status != b"201":
            self.refusals[body] += 1
            self.silent += b"retry-after:" not in head.lower()
        self.free.append(connection)
        if self._per_s is None:
            self.waiting.append(now)
        self.go_on()


class Connection(asyncio.Protocol):
    """One connection, which has one request under way at most."""

    def __init__(self, offer: Offer) -> None:
        self._offer = offer
        self._buffer = b""
        self._due = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is free."""
        self._transport: Any = transport
        self._offer.free.append(self)

    def send(self, request: bytes, due: float) -> None:
        """Send a request that fell due then."""
        self._due = due
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Take an answer, once it is whole."""
        self._buffer += data
        head, separator, rest = self._buffer.partition(b"\r\n\r\n")
        if not separator:
            return
        at = head.lower().index(b"content-length:") + 15
        if len(rest) < int(head[at:].split(b"\r\n", 1)[0]):
            return
        self._buffer = b""
        self._offer.answered(self, head[9:12], self._due, head, rest)

    def connection_lost(self, error: Exception | None) -> None:
        """A broker that hangs up has lost its client an answer."""
        self._offer.lost += 1


def _request(token: str, body: str) -> bytes:
    return (
        f"POST /api/v1/trades HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    ).encode()


def _by_code(refusals: Counter[bytes]) -> Counter[str]:
    found: Counter[str] = Counter()
    for body, count in refusals.items():
        found[json.loads(body)["code"]] += count
    return found


async def run(plan: dict[str, Any]) -> dict[str, Any]:
    """Offer what the plan says."""
    requests = [_request(*each) for each in plan["requests"]]
    offer = Offer(requests, plan["per_s"], plan["seconds"])
    loop = asyncio.get_running_loop()
    for _ in range(plan["connections"]):
        await loop.create_connection(lambda: Connection(offer), "127.0.0.1", plan["port"])
    await asyncio.sleep(0.2)
    took = await offer.run()
    return {
        "seconds": took,
        "sent": offer.sent,
        "unsent": len(offer.waiting),
        "refused_without_retry_after": offer.silent,
        "lost": offer.lost,
        "refusals": _by_code(offer.refusals),
        "answers": {status.decode(): answers.figures() for status, answers in offer.answers.items()},
    }


if __name__ == "__main__":
    json.dump(uvloop.run(run(json.load(sys.stdin))), sys.stdout)
