"""The promises that only a whole system under fire can show. Each test prints its seed."""

import asyncio
import json
import random
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from broker.config import Config
from tests.acceptance.system import PATIENT, Clients, System, all_end, check, reaches
from tests.acceptance.test_rolling import STOPS_WITHIN_S, terminated
from tests.conftest import eventually, the_seed

pytestmark = pytest.mark.timeout(180)


async def test_64_clients_place_10000_trades_for_500_customers(tmp_path: Path) -> None:
    async with System(tmp_path, customers=500, flags=PATIENT) as system:
        clients = Clients(system, random.Random(1))
        await clients.run(clients=64, trades=10_048)  # 157 each
        assert (clients.refused, clients.unanswered) == (0, 0)
        trades = await check(system, clients)
        assert len(trades) == clients.count == 10_048
        statuses = Counter(trade["status"] for trade in trades.values())
        assert statuses["FILLED"] > 5_000, statuses
        assert all(
            trade["reason"].startswith("insufficient") for trade in trades.values() if trade["status"] == "REJECTED"
        )
        await reached_the_exchange_in_order(system)


async def reached_the_exchange_in_order(system: System) -> None:
    """A customer's trades arrived there in the order placed: the exchange's journal has them as they came."""
    trades = await system.fetch("SELECT trade_id::text AS id, customer_id, seq FROM trade")
    placed = {trade["id"]: (trade["customer_id"], trade["seq"]) for trade in trades}
    last: dict[int, int] = {}
    arrived: set[str] = set()
    for line in (system.folder / "exchange" / "exchange.journal").read_text().splitlines():
        order_id = json.loads(line).get("order", {}).get("id")
        if order_id is None or order_id in arrived:
            continue
        arrived.add(order_id)
        customer_id, seq = placed[order_id]
        assert seq > last.get(customer_id, 0), f"customer {customer_id}: {seq} after {last[customer_id]}"
        last[customer_id] = seq
    assert len(arrived) > 5_000


@pytest.mark.parametrize("what", ["broker", "postgres", "exchange"])
async def test_kill_9_in_the_middle_loses_nothing_and_settles_nothing_twice(what: str, tmp_path: Path) -> None:
    seed = the_seed()
    print(f"seed {seed}")  # noqa: T201 - pytest shows it with a failure
    rng = random.Random(seed)
    async with System(tmp_path) as system:
        clients = Clients(system, rng)
        load = asyncio.create_task(clients.run(clients=16, trades=6_000))
        await reaches(1, lambda: clients.count, load)
        for _ in range(7):
            await asyncio.sleep(rng.uniform(0.05, 0.6))
            await system.kill(what)
        if clients.count <= 100:
            await reaches(101, lambda: clients.count, load)
        load.cancel()
        await asyncio.gather(load, return_exceptions=True)
        await check(system, clients)


@pytest.mark.parametrize(
    "faults",
    [
        ["--duplicates", "2", "--reorder", "--delay-ms", "30"],
        ["--callback-first"],
        ["--lose", "1"],
        ["--error", "0.2", "--error-after", "0.2", "--timeout", "0.02", "--timeout-s", "2"],
        ["--partial", "0.7", "--partial-gap-ms", "10", "--duplicates", "1", "--reorder", "--lose", "0.2"],
        ["--reject", "0.3", "--reorder", "--lose", "0.1"],
    ],
    ids=" ".join,
)
async def test_whatever_the_exchange_does_the_end_is_the_same(faults: list[str], tmp_path: Path) -> None:
    async with System(tmp_path, faults=faults, flags=PATIENT) as system:
        clients = Clients(system, random.Random(7))
        await clients.run(clients=16, trades=320)
        trades = await check(system, clients, within_s=60)
        assert len(trades) == clients.count == 320
        reasons = Counter(trade["reason"] for trade in trades.values() if trade["status"] == "REJECTED")
        if "--reject" in faults:
            assert reasons["random error"] > 50
        others = [reason for reason in reasons if not reason.startswith(("insufficient", "random error"))]
        assert not others
        assert not await system.fetch("SELECT * FROM inbox")


async def test_an_idempotency_key_holds_across_kill_9(tmp_path: Path) -> None:
    async with System(tmp_path, flags=PATIENT) as system, aiohttp.ClientSession() as http:

        async def place(quantity: int) -> tuple[int, Any, str | None]:
            headers = {"Idempotency-Key": "k1", "Authorization": f"Bearer {system.ready['customers'][0]['token']}"}
            body = {"stockTicker": "AAPL", "type": "BUY", "quantity": quantity}
            async with http.post(system.ready["url"] + "/api/v1/trades", json=body, headers=headers) as response:
                return response.status, await response.json(), response.headers.get("Idempotency-Replayed")

        first = await place(3)
        await system.kill("broker")
        assert await place(3) == (201, first[1], "true")
        assert (await place(4))[0] == 422
        assert len(await all_end(system, 30)) == 1


async def test_a_frozen_database_is_a_503_within_two_seconds_and_nothing_is_half_done(tmp_path: Path) -> None:
    async with System(tmp_path) as system, aiohttp.ClientSession() as http:
        tokens = [customer["token"] for customer in system.ready["customers"]]

        async def call(method: str, path: str, token: str) -> tuple[int, str | None, float]:
            began = time.monotonic()
            body = {"stockTicker": "AAPL", "type": "BUY", "quantity": 1} if method == "POST" else None
            headers = {"Authorization": f"Bearer {token}"}
            async with http.request(method, system.ready["url"] + path, json=body, headers=headers) as response:
                answer = await response.json()
                assert response.status == 201 or answer["code"] == "database_unavailable", answer
                return response.status, response.headers.get("Retry-After"), time.monotonic() - began

        async def is_placed() -> bool:
            return (await call("POST", "/api/v1/trades", tokens[0]))[0] == 201

        await eventually(is_placed, 30)
        await system.signal_postgres(signal.SIGSTOP)
        try:
            calls = [call("POST", "/api/v1/trades", token) for token in tokens]
            calls += [call("GET", path, tokens[0]) for path in ("/api/v1/trades", "/api/v1/balance")]
            answers = await asyncio.gather(*calls)
        finally:
            await system.signal_postgres(signal.SIGCONT)
        assert {(status, retry) for status, retry, _ in answers} == {(503, "1")}
        assert Config().place_wait_s < 2
        assert max(seconds for _, _, seconds in answers) < 10
        clients = Clients(system, random.Random(5))
        async with asyncio.timeout(60):
            while clients.count <= 30:
                await clients.run(clients=4, trades=40)  # it serves again, without anybody's help
        await check(system, clients)


async def test_sigterm_under_load_ends_in_time_and_loses_nothing(tmp_path: Path) -> None:
    async with System(tmp_path) as system:
        clients = Clients(system, random.Random(9))
        load = asyncio.create_task(clients.run(clients=16, trades=3_000))
        await reaches(51, lambda: clients.count, load)
        assert system.broker is not None
        assert await terminated(system.broker) < STOPS_WITHIN_S
        load.cancel()
        await asyncio.gather(load, return_exceptions=True)
        await system.start_broker()
        await check(system, clients)


async def test_a_closed_market_says_so(tmp_path: Path) -> None:
    async with System(tmp_path, faults=["--closed"]) as system:
        clients = Clients(system, random.Random(3))
        await clients.run(clients=4, trades=20)
        trades = await check(system, clients)
        bought = [trade["reason"] for trade in trades.values() if not trade["reason"].startswith("insufficient")]
        assert bought
        assert set(bought) == {"past market hours"}
