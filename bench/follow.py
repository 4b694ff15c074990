"""Clients of the stream, all in one process: raw sockets, since a general client would use more CPU than the server.

    python -m bench.follow      (lines of JSON in: first the plan, then what to measure; lines of JSON out)

plan: {"port", "tokens", "clients", "symbols": [...], "each": 20, "batch": false}      -> {"connected": n}
then: {"stop": 50}: so many clients stop reading                                       -> {"stopped": 50}
      {"measure": seconds}  -> {"messages", "reads", "per_s", "p50", "p99", "max" (ms), "cpu_s"}
"""

import asyncio
import base64
import json
import os
import random
import sys
import time
from typing import Any

import uvloop

_UPDATE = b'{"type":"quote_update"'
WATCHED = 5
"""Of one client in so many each message's delay is taken; of the others messages are counted. To read all of them would
cost more than to send them."""
_BUCKETS = 20_000  # of 1 ms; the last one holds all that is beyond


class Count:
    """What all clients received since the last look."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.messages = 0
        self.reads = 0
        self.delays = [0] * _BUCKETS


def _day_us(text: bytes, at: int) -> int:
    """Microseconds of the day of an RFC 3339 time that begins here, with six decimals or with none."""
    minutes = int(text[at + 11 : at + 13]) * 60 + int(text[at + 14 : at + 16])
    fraction = int(text[at + 20 : at + 26]) if text[at + 19 : at + 20] == b"." else 0
    return (minutes * 60 + int(text[at + 17 : at + 19])) * 1_000_000 + fraction


class Client(asyncio.Protocol):
    """One client: its handshake, its subscription, then frames."""

    def __init__(self, port: int, token: str, symbols: list[str], batch: bool, is_watched: bool, count: Count) -> None:
        self._is_watched = is_watched
        self._count = count
        self._rest = b""
        self._open = False
        self._batch = batch
        key = base64.b64encode(os.urandom(16)).decode()
        self._hello = (
            f"GET /api/v1/stream HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\nAuthorization: Bearer {token}\r\n\r\n"
        ).encode()
        wish: dict[str, Any] = {"action": "subscribe", "symbols": symbols}
        if batch:
            wish["batch"] = True
        self._wish = _masked(json.dumps(wish).encode(), 1)
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.lost = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.write(self._hello)

    def data_received(self, data: bytes) -> None:
        if self._rest:
            data = self._rest + data
        if not self._open:
            head, separator, data = data.partition(b"\r\n\r\n")
            if not separator:
                self._rest = head
                return
            assert head.startswith(b"HTTP/1.1 101"), head
            self._open = True
            self.transport.write(self._wish)
            self.ready.set_result(None)
        count, at, size = self._count, 0, len(data)
        count.reads += 1
        if not self._is_watched:
            count.messages += data.count(_UPDATE)
            if b"\x89\x00" in data:  # a ping: all else that comes is ASCII
                self.transport.write(_masked(b"", 10))
            return
        now = int(time.time() * 1e6) % 86_400_000_000
        while size - at >= 4:
            length = data[at + 1]
            begin = at + 2
            if length == 126:
                length = int.from_bytes(data[at + 2 : at + 4], "big")
                begin = at + 4
            elif length == 127:
                length = int.from_bytes(data[at + 2 : at + 10], "big")
                begin = at + 10
            end = begin + length
            if end > size:
                break
            if data[at] != 0x81:
                if data[at] == 0x89:  # a ping
                    self.transport.write(_masked(data[begin:end], 10))
            elif self._batch:
                self._batch_of(data[begin:end], now)
            elif data.startswith(_UPDATE, begin):
                count.messages += 1
                delay = (now - _day_us(data, data.rfind(b'"timestamp":"', begin, end) + 13)) // 1000
                count.delays[min(max(delay, 0), _BUCKETS - 1)] += 1
            at = end
        self._rest = data[at:]

    def _batch_of(self, text: bytes, now: int) -> None:
        at = text.find(_UPDATE)
        while at >= 0:
            at = text.find(b'"timestamp":"', at) + 13
            self._count.messages += 1
            self._count.delays[min(max((now - _day_us(text, at)) // 1000, 0), _BUCKETS - 1)] += 1
            at = text.find(_UPDATE, at)

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        if not self.ready.done():
            self.ready.set_exception(error or ConnectionError("closed before the handshake"))


def _masked(payload: bytes, opcode: int) -> bytes:
    size = len(payload)
    head = bytes((0x80 | opcode, 0x80 | size)) if size < 126 else bytes((0x80 | opcode, 0xFE)) + size.to_bytes(2, "big")
    return head + bytes(4) + payload  # a mask of zeros leaves the payload as it is


def _percentile(delays: list[int], share: float) -> int:
    wanted, seen = sum(delays) * share, 0
    for ms, number in enumerate(delays):
        seen += number
        if number and seen >= wanted:
            return ms
    return 0


async def main() -> None:
    """Do what the lines say."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=2**24)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    plan = json.loads(await reader.readline())
    rng, count = random.Random(1), Count()
    clients: list[Client] = []
    for number in range(plan["clients"]):
        mine = rng.sample(plan["symbols"], plan["each"])
        token = plan["tokens"][number % len(plan["tokens"])]
        client = Client(plan["port"], token, mine, plan.get("batch", False), number % WATCHED == WATCHED - 1, count)
        await loop.create_connection(lambda client=client: client, "127.0.0.1", plan["port"])  # type: ignore[misc]
        await client.ready
        clients.append(client)
    print(json.dumps({"connected": len(clients)}), flush=True)
    while line := await reader.readline():
        wanted = json.loads(line)
        if "stop" in wanted:
            for client in clients[: wanted["stop"]]:
                client.transport.pause_reading()
            print(json.dumps({"stopped": wanted["stop"]}), flush=True)
            continue
        count.reset()
        began, cpu = time.perf_counter(), time.process_time()
        await asyncio.sleep(wanted["measure"])
        seconds = time.perf_counter() - began
        result = {
            "messages": count.messages,
            "reads": count.reads,
            "per_s": count.messages / seconds,
            "p50": _percentile(count.delays, 0.5),
            "p99": _percentile(count.delays, 0.99),
            "max": _percentile(count.delays, 1.0),
            "cpu_s": time.process_time() - cpu,
            "lost": sum(client.lost for client in clients),
        }
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    sys.exit(uvloop.run(main()))
