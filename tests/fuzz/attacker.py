"""A process that attacks a broker over raw sockets as fast as it can, and judges every answer.

It is told on standard input, as JSON, what to attack (`Orders`), and says on standard output what came of it: a line of
JSON every second, the last one complete.
"""

import asyncio
import json
import random
import sys
import time
from collections import deque

import uvloop

from tests.fuzz import frames, malformed
from tests.fuzz.arsenal import Arsenal, Case, Orders
from tests.fuzz.verdict import Connection, Tally, judge, length_of, secret, shows_others

BATCH = 32
"""Requests that are sent at once on a connection."""
ANSWER_WITHIN_S = 30.0
_SECRET = ("tradeId", "webhookId", "watchlist_id", "keyId")
IDLE_S = 0.15
"""What is odd may wait for more: who hears nothing for so long hangs up."""


class Attacker:
    """Sends until it has sent enough, or time is over."""

    def __init__(self, orders: Orders) -> None:
        self._orders = orders
        self._rng = random.Random(orders.seed)
        self._own: deque[str] = deque(maxlen=200)
        self._arsenal = Arsenal(orders, self._rng, self._own)
        ids = (each for name in _SECRET for each in orders.others[name])
        self._others = secret([*ids, *orders.figures])
        self._until = time.monotonic() + orders.seconds
        self.tally = Tally()

    @property
    def is_over(self) -> bool:
        """Whether it was enough."""
        return self.tally.sent.total() >= self._orders.requests or time.monotonic() >= self._until

    async def run(self) -> None:
        """The whole attack."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(self._orders.connections):
                tasks.create_task(self._attack())
            tasks.create_task(self._frames())

    async def _attack(self) -> None:
        loop = asyncio.get_running_loop()
        while not self.is_over:
            try:
                _, connection = await loop.create_connection(
                    lambda: Connection(self.tally, self._others, self._own), "127.0.0.1", self._orders.port
                )
            except OSError:
                self.tally.closed["no connection"] += 1
                await asyncio.sleep(0.05)
                continue
            try:
                await self._use(connection)
            finally:
                connection.close()

    async def _use(self, connection: Connection) -> None:
        for _ in range(self._rng.choice([1, 1, 2, 4])):
            cases = self._arsenal.batch(BATCH)
            if not await _answered(connection, cases, ANSWER_WITHIN_S):
                self.tally.violate("no answer in time", connection.unanswered()[0], b"")
                return
            if connection.is_closed:
                return
        if self._rng.random() < 0.1:
            half = Case("half a request", self._rng.choice(malformed.HALF))
            connection.send([half])
            return
        last = self._arsenal.last()
        if not await _answered(connection, [last], ANSWER_WITHIN_S if last.refused else IDLE_S) and last.refused:
            self.tally.violate("no answer in time", last, b"")

    # -------------------------------------------------------------- frames

    async def _frames(self) -> None:
        while not self.is_over:
            try:
                await self._socket()
            except OSError:  # the broker ends a stream as it likes, once it is one
                self.tally.closed["WebSocket"] += 1

    async def _socket(self) -> None:
        rng = self._rng
        path = rng.choice(frames.STREAMS)
        token = rng.choice(self._orders.tokens)
        key, _, secret = token.partition(".")
        mine = [
            f"Authorization: Bearer {token}",
            f"APCA-API-KEY-ID: {key}\r\nAPCA-API-SECRET-KEY: {secret}",
            "",
            "Authorization: Bearer x",
        ]
        headers = [each for each in [rng.choice(mine)] if each]
        if rng.random() < 0.2:
            headers.append(
                rng.choice(
                    [
                        "Origin: https://evil.example",
                        "Sec-WebSocket-Extensions: permessage-deflate",
                        "Content-Type: application/msgpack",
                    ]
                )
            )
        case = Case("WebSocket", frames.handshake(path, *headers), alpaca=not path.startswith("/api/"))
        self.tally.sent[case.name] += 1
        reader, writer = await asyncio.open_connection("127.0.0.1", self._orders.port)
        try:
            writer.write(case.data)
            if not await self._shaken(reader, case):
                return
            if rng.random() < 0.5:
                said = {"action": "authenticate", "token": token}
                if case.alpaca:
                    said = {"action": "auth", "key": key, "secret": secret}
                writer.write(frames.frame(1, json.dumps(said).encode()))
            sent = [frames.harmless(rng) for _ in range(rng.choice([0, 1, 5, 30]))]
            last = frames.last(rng)
            writer.write(b"".join([*sent, last]))
            self.tally.frames += len(sent) + 1
            await self._listen(reader, Case(case.name, b"".join([*sent, last])))
        finally:
            writer.transport.abort()

    async def _shaken(self, reader: asyncio.StreamReader, case: Case) -> bool:
        """Whether it is a stream now. A handshake is answered, too."""
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                head = await reader.readuntil(b"\r\n\r\n")
                status = int(head[9:12])
                body = b"" if status == 101 else await reader.readexactly(length_of(head))
        except (OSError, TimeoutError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            self.tally.violate("a handshake without an answer", case, repr(error).encode())
            return False
        if status == 101:
            self.tally.heard["WebSocket 101"] += 1
            return True
        judge(self.tally, case, status, head, body, self._others)
        return False

    async def _listen(self, reader: asyncio.StreamReader, case: Case) -> None:
        """All that comes back until the broker has nothing more to say."""
        heard = b""
        try:
            async with asyncio.timeout(IDLE_S * 2):
                while piece := await reader.read(65_536):
                    heard = (heard + piece)[-200_000:]
        except TimeoutError:
            pass
        for sign, kind in (
            (b"internal_error", "answered 500"),
            (b'"code":500', "answered 500"),
            (b"Traceback", "shows a traceback"),
        ):
            if sign in heard:
                self.tally.violate(kind, case, heard[-500:])
        if shows_others(case, heard, self._others):
            self.tally.violate("shows what belongs to others", case, heard[-500:])


async def _answered(connection: Connection, cases: list[Case], within_s: float) -> bool:
    """Whether all were answered, or the connection closed, in time."""
    done, _ = await asyncio.wait({connection.send(cases)}, timeout=within_s)
    return bool(done)


async def main() -> None:
    """Read the orders, attack, tell."""
    orders = Orders(**json.load(sys.stdin))
    attacker = Attacker(orders)

    async def tell() -> None:
        while True:
            await asyncio.sleep(1)
            print(json.dumps({"requests": attacker.tally.sent.total()}), flush=True)  # noqa: T201 - it is heard by a program

    telling = asyncio.create_task(tell())
    await attacker.run()
    telling.cancel()
    print(json.dumps({"requests": attacker.tally.sent.total(), "tally": attacker.tally.told()}), flush=True)  # noqa: T201


if __name__ == "__main__":
    uvloop.run(main())
