"""The whole system as processes, to be killed: PostgreSQL, exchange and broker, each on its own, and clients that keep
a ledger of what they were told."""

import asyncio
import json
import os
import random
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import aiohttp
import asyncpg

from broker.core.signing import encode_secret

BROKER = Path(sys.executable).with_name("broker")
SECRET = encode_secret(bytes(range(32)))
PATIENT = ["--place-wait-s", "20"]
"""For tests in which no trade may be refused: a machine that stands still for a moment is no fault of the broker's."""
TERMINAL = {"FILLED", "REJECTED", "CANCELLED", "EXPIRED", "REPLACED"}


@dataclass
class System:
    """A broker with its embedded PostgreSQL, and an exchange, on a folder. Ports stay the same over restarts."""

    folder: Path
    faults: list[str] = field(default_factory=list)
    customers: int = 20
    flags: list[str] = field(default_factory=list)  # of `broker serve`
    broker: Process | None = None
    exchange: Process | None = None
    ready: dict[str, Any] = field(default_factory=dict)
    exchange_port: int = 0
    broker_port: int = 0

    async def __aenter__(self) -> Self:
        try:
            await self.start_exchange()
            await self.start_broker()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        for process in (self.broker, self.exchange):
            if process is not None and process.returncode is None:
                process.send_signal(signal.SIGTERM)
                await asyncio.wait_for(process.wait(), 30)

    async def start_exchange(self) -> None:
        """Start it, or start it again on the same port."""
        flags = ["--port", str(self.exchange_port), "--data", str(self.folder / "exchange"), *self.faults]
        self.exchange, ready = await self._start("exchange", *flags)
        self.exchange_port = int(ready["url"].rsplit(":", 1)[1])

    async def start_broker(self) -> None:
        """Start it, or start it again on the same port and folder."""
        exchange = f"http://127.0.0.1:{self.exchange_port}"
        flags = ["--port", str(self.broker_port), "--data", str(self.folder / "broker"), "--exchange", exchange]
        self.broker, self.ready = await self._start("serve", *flags, *self.flags, "--demo", str(self.customers))
        self.broker_port = int(self.ready["url"].rsplit(":", 1)[1])

    async def _start(self, command: str, *flags: str) -> tuple[Process, dict[str, Any]]:
        environment = {**os.environ, "BROKER_WEBHOOK_SECRETS": SECRET, "BROKER_LOG_LEVEL": "error"}
        with (self.folder / f"{command}.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                BROKER, command, *flags, "--json", stdout=PIPE, stderr=log, env=environment, limit=2**22
            )
        assert process.stdout is not None
        line = await asyncio.wait_for(process.stdout.readline(), 30)
        assert line, f"{command} did not start: {(self.folder / f'{command}.log').read_text()[-2000:]}"
        return process, json.loads(line)

    @property
    def postmaster(self) -> int:
        """The process id of the broker's PostgreSQL."""
        return int((self.folder / "broker" / "postgres" / "postmaster.pid").read_text().split("\n", 1)[0])

    async def signal_postgres(self, number: signal.Signals) -> None:
        """Send a signal to the postmaster and all of its processes."""
        children = await asyncio.create_subprocess_exec("pgrep", "-P", str(self.postmaster), stdout=PIPE)
        out, _ = await children.communicate()
        for pid in (self.postmaster, *map(int, out.split())):
            os.kill(pid, number)

    async def kill(self, what: str) -> None:
        """SIGKILL one of them and, unless it comes back by itself, start it again."""
        if what == "postgres":
            with suppress(ProcessLookupError, FileNotFoundError):  # it is still on its way up from the last time
                os.kill(self.postmaster, signal.SIGKILL)  # the broker starts it again
            return
        process = self.broker if what == "broker" else self.exchange
        assert process is not None
        process.kill()
        await process.wait()
        await (self.start_broker() if what == "broker" else self.start_exchange())

    async def fetch(self, sql: str) -> list[asyncpg.Record]:
        """Look into the database."""
        connection = await asyncpg.connect(self.ready["database"], server_settings={"search_path": "broker"})
        try:
            return await connection.fetch(sql)
        finally:
            await connection.close()

    async def verify(self) -> str:
        """`broker verify` beside the running broker; what it printed. Fails unless all is well."""
        process = await asyncio.create_subprocess_exec(
            BROKER, "verify", "--data", str(self.folder / "broker"), stdout=PIPE, stderr=PIPE
        )
        out, err = await process.communicate()
        assert process.returncode == 0, (out + err).decode()
        return out.decode()


@dataclass
class Clients:
    """Concurrent clients that place trades and write down which were acknowledged, in which order for each customer."""

    system: System
    rng: random.Random
    acknowledged: dict[str, list[str]] = field(default_factory=dict)
    unanswered: int = 0
    refused: int = 0

    async def run(self, clients: int, trades: int) -> None:
        """Each customer belongs to one client, so that the order of its answers is the order of its placing."""
        customers = self.system.ready["customers"]
        share = trades // clients
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as http, asyncio.TaskGroup() as tasks:
            for number in range(clients):
                mine = customers[number::clients] or [customers[number % len(customers)]]
                tasks.create_task(self._client(http, mine, share, random.Random(self.rng.random())))

    async def _client(self, http: aiohttp.ClientSession, customers: list[Any], trades: int, rng: random.Random) -> None:
        for _ in range(trades):
            customer = rng.choice(customers)
            body = {
                "stockTicker": rng.choice(["AAPL", "MSFT", "NVDA", "SPY"]),
                "type": rng.choice(["BUY", "BUY", "SELL"]),
                "quantity": rng.randint(1, 3),
            }
            headers = {"Authorization": f"Bearer {customer['token']}"}
            url = f"http://127.0.0.1:{self.system.broker_port}/api/v1/trades"
            try:
                async with http.post(url, json=body, headers=headers) as response:
                    answer = await response.json(content_type=None)
                    if response.status == 201:
                        self.acknowledged.setdefault(customer["customerId"], []).append(answer["tradeId"])
                    else:
                        assert response.status == 503, answer
                        self.refused += 1
                        await asyncio.sleep(0.05)
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
                self.unanswered += 1
                await asyncio.sleep(0.05)

    @property
    def count(self) -> int:
        """How many trades were answered 201."""
        return sum(map(len, self.acknowledged.values()))


@dataclass
class OrderClients:
    """Concurrent clients that place orders of every type, cancel and replace them, and write down what they heard."""

    system: System
    rng: random.Random
    acknowledged: dict[str, str] = field(default_factory=dict)  # order id -> the last status that was heard
    cancelled: set[str] = field(default_factory=set)  # ids of orders whose cancellation was taken
    heard: "Counter[str]" = field(default_factory=Counter)

    async def run(self, clients: int, steps: int) -> None:
        """Each client acts for customers of its own."""
        customers = self.system.ready["customers"]
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as http, asyncio.TaskGroup() as tasks:
            for number in range(clients):
                rng = random.Random(self.rng.random())
                tasks.create_task(self._client(http, customers[number::clients], steps // clients, rng))

    async def _client(self, http: aiohttp.ClientSession, customers: list[Any], steps: int, rng: random.Random) -> None:
        mine: dict[str, list[str]] = {customer["customerId"]: [] for customer in customers}
        for _ in range(steps):
            customer = rng.choice(customers)
            known = mine[customer["customerId"]]
            act = rng.choice(["place", "place", "place", "cancel", "replace"]) if known else "place"
            order_id = rng.choice(known[-10:]) if known else ""
            if act == "place":
                answer = await self._call(http, customer, "POST", "", order_of(rng))
            elif act == "cancel":
                answer = await self._call(http, customer, "DELETE", f"/{order_id}")
                if answer is not None and answer.get("id"):
                    self.cancelled.add(answer["id"])
            else:
                body = {"quantity": rng.randint(1, 30), "price": f"{rng.randint(200, 330)}.00"}
                answer = await self._call(http, customer, "PATCH", f"/{order_id}", body)
            if answer is None:
                await asyncio.sleep(0.05)
            elif answer.get("id"):
                known.append(answer["id"])
                self.acknowledged[answer["id"]] = answer["status"]

    async def _call(
        self, http: aiohttp.ClientSession, customer: Any, method: str, path: str, body: Any = None
    ) -> dict[str, Any] | None:
        url = f"http://127.0.0.1:{self.system.broker_port}/api/v1/orders{path}"
        headers = {"Authorization": f"Bearer {customer['token']}"}
        try:
            async with http.request(method, url, json=body, headers=headers) as response:
                answer: dict[str, Any] = await response.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
            self.heard["unanswered"] += 1
            return None
        self.heard[f"{method} {response.status} {answer.get('status', answer.get('code'))}"] += 1
        assert response.status in {200, 201, 202, 400, 409, 503}, answer
        return None if response.status == 503 else answer

    async def cancel_all(self) -> None:
        """Ask for the end of everything, as often as it takes for the broker to hear it."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as http:
            for customer in self.system.ready["customers"]:
                while await self._call(http, customer, "DELETE", "") is None:
                    await asyncio.sleep(0.1)


def order_of(rng: random.Random) -> dict[str, Any]:
    """An order of any type around AAPL's price of some $270, so that some trade at once and some rest."""
    side, price = rng.choice(["buy", "buy", "sell"]), rng.randint(240, 300)
    order = {"symbol": "AAPL", "side": side, "quantity": rng.randint(1, 30)}
    kind = rng.choice(["market", "limit", "limit", "stop_loss", "stop_limit"])
    order |= {"order_type": kind, "time_in_force": rng.choice(["day", "gtc", "gtc", "ioc", "fok"])}
    if kind in {"limit", "stop_limit"}:
        order["price"] = f"{price}.00"
    if kind in {"stop_loss", "stop_limit"}:
        order["stop_price"] = f"{price + (5 if side == 'buy' else -5)}.50"
    return order


async def reaches(least: int, count: Callable[[], int], load: asyncio.Task[None], within_s: float = 60) -> None:
    """Wait until so much was done under this load; fails when the load ends, or the time, before that."""
    loop = asyncio.get_running_loop()
    until = loop.time() + within_s
    while count() < least:
        assert not load.done(), f"the load has ended after {count()} of {least}: {load}"
        assert loop.time() < until, f"{count()} of {least} within {within_s} s: there was no load"
        await asyncio.sleep(0.01)


async def all_end(system: System, within_s: float) -> dict[str, asyncpg.Record]:
    """Every trade in the database once none is open; fails when that takes longer."""
    loop = asyncio.get_running_loop()
    until = loop.time() + within_s
    while True:
        try:
            trades = await system.fetch("SELECT trade_id::text, customer_id, seq, status, reason FROM trade")
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            trades = None
        still = [trade for trade in trades if trade["status"] not in TERMINAL] if trades is not None else ["?"]
        if trades is not None and not still:
            return {trade["trade_id"]: trade for trade in trades}
        assert loop.time() < until, f"{len(still)} trades are still open after {within_s} s, as {still[0]}"
        await asyncio.sleep(0.1)


async def check(system: System, clients: Clients, within_s: float = 30) -> dict[str, asyncpg.Record]:
    """What was acknowledged has ended, in the order in which it was placed, and the books are right."""
    trades = await all_end(system, within_s)
    for customer_id, trade_ids in clients.acknowledged.items():
        missing = [trade_id for trade_id in trade_ids if trade_id not in trades]
        assert not missing, f"acknowledged and lost: {missing}"
        seqs = [trades[trade_id]["seq"] for trade_id in trade_ids]
        assert seqs == sorted(seqs), f"customer {customer_id}: not in the order placed"
    assert "all is well" in await system.verify()
    return trades
