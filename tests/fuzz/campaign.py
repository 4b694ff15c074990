"""A broker as `broker serve` makes it, under attack: honest customers beside the attackers, and the books at the end.

What is attacked is told apart: `others` are customers whom nobody honest serves meanwhile, so nothing of theirs may
change; `honest` trades, and every trade of its own that was acknowledged is there, and no other; `attackers` have keys
of their own, with which they may do what customers may, and nothing else.
"""

import asyncio
import contextlib
import json
import random
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg

from broker.core.signing import decode_secret
from tests.acceptance.system import SECRET, System
from tests.fuzz.arsenal import Orders
from tests.fuzz.verdict import Tally, length_of

OTHERS, HONEST, ATTACKERS = slice(0, 3), slice(3, 4), slice(4, 10)
CUSTOMERS = 10
PAGE = 4096
LONG_S = 300.0
"""From here on a run says whether memory stays, and whether others are served meanwhile."""
LOOKUP_MAX = 100
RESTING_PRICE = "1.00"
UNLIMITED = ["--auth-failures-per-minute", "1000000000", "--requests-per-second", "1000000"]
UNLIMITED += ["--requests-burst", "1000000"]
"""Whoever is refused for asking too often never gets to what lies behind."""
_SNAPSHOTS = {
    "customers": "SELECT customer_id, name, account_type, status FROM customer",
    "keys": "SELECT * FROM api_key",
    "switches and limits": "SELECT scope, reason FROM control WHERE scope NOT LIKE 'self:%'",
    "limits": "SELECT * FROM risk_limit",
    "corporate actions": "SELECT * FROM corporate_action",
    "what the exchange is said to have said": "SELECT * FROM inbox",
    "bookings other than fills": "SELECT * FROM transfer WHERE kind <> 'fill'",
    "busts": "SELECT * FROM bust",
    "others' accounts": "SELECT * FROM account WHERE owner_id = ANY ($1)",
    "others' orders": "SELECT * FROM trade WHERE customer_id = ANY ($1)",
    "others' events": "SELECT * FROM event WHERE customer_id = ANY ($1)",
    "others' webhooks": "SELECT webhook_id, customer_id, url, secret FROM webhook WHERE customer_id = ANY ($1)",
    "others' watchlists": "SELECT * FROM watchlist WHERE customer_id = ANY ($1)",
    "others' configurations": "SELECT * FROM account_configuration WHERE customer_id = ANY ($1)",
}
"""What no attacker may change, whatever it sends."""


@dataclass(slots=True)
class Beside:
    """What was seen beside the attack."""

    probes_ms: list[float] = field(default_factory=list)
    memory_mb: list[float] = field(default_factory=list)
    acknowledged: list[str] = field(default_factory=list)
    honest_errors: "Counter[str]" = field(default_factory=Counter)


@dataclass(slots=True)
class Campaign:
    """One run."""

    folder: Path
    seed: int
    requests: int
    seconds: float
    processes: int = 1
    tell: Any = None  # a function of a line, now and then
    beside: Beside = field(default_factory=Beside)

    async def run(self) -> dict[str, Any]:
        """The report; `failures` in it is empty when all was well."""
        async with System(self.folder, customers=CUSTOMERS, flags=UNLIMITED) as system, aiohttp.ClientSession() as http:
            stage = await _Stage.prepare(system, http)
            before = await stage.snapshot()
            began = time.monotonic()
            async with self._honest(stage):
                tally, done = await self._attack(stage)
            seconds = time.monotonic() - began
            failures = [f"{number} times: {kind}" for kind, number in tally.violations.items()]
            failures += await self._judge(stage, before)
            failures += lasting(seconds, self.beside, statuses_of(tally))
        return self._report(tally, done, seconds, failures)

    # -------------------------------------------------------------- those who are honest

    @contextlib.asynccontextmanager
    async def _honest(self, stage: "_Stage") -> AsyncIterator[None]:
        work = [self._probe(stage), self._trade(stage), self._watch(stage)]
        tasks = [asyncio.create_task(each) for each in work]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
        for each in ended:
            if not isinstance(each, asyncio.CancelledError):
                raise RuntimeError("an honest client gave up") from each

    async def _probe(self, stage: "_Stage") -> None:
        """GET /healthz again and again on one connection."""
        reader, writer = await asyncio.open_connection("127.0.0.1", stage.system.broker_port)
        try:
            while True:
                began = time.perf_counter()
                writer.write(b"GET /healthz HTTP/1.1\r\nHost: b\r\n\r\n")
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(length_of(head))
                if head[9:12] != b"200":
                    self.beside.honest_errors[f"healthz {head[9:12].decode()}"] += 1
                self.beside.probes_ms.append((time.perf_counter() - began) * 1000)
                await asyncio.sleep(0.005)
        finally:
            writer.close()

    async def _trade(self, stage: "_Stage") -> None:
        rng = random.Random(self.seed)
        (honest,) = stage.customers[HONEST]
        while True:
            body = {"stockTicker": "AAPL", "type": rng.choice(["BUY", "SELL"]), "quantity": 1}
            key = f"honest-{len(self.beside.acknowledged)}"
            placing = asyncio.create_task(
                stage.call(honest["token"], "POST", "/api/v1/trades", body, {"Idempotency-Key": key})
            )
            try:
                await asyncio.shield(placing)
            finally:  # also when the attack is over meanwhile: what was asked for is still heard
                status, placed = await placing
                if status == 201:
                    self.beside.acknowledged.append(placed["tradeId"])
                else:
                    self.beside.honest_errors[f"{status} {placed.get('code')}"] += 1
            await asyncio.sleep(0.1)

    async def _watch(self, stage: "_Stage") -> None:
        assert stage.system.broker is not None
        statm = Path(f"/proc/{stage.system.broker.pid}/statm")
        while True:
            self.beside.memory_mb.append(int(statm.read_text().split()[1]) * PAGE / 2**20)  # noqa: ASYNC240 - of no disk
            await asyncio.sleep(1)

    # -------------------------------------------------------------- the attack

    async def _attack(self, stage: "_Stage") -> tuple[Tally, int]:
        share = self.requests // self.processes
        attackers = [
            asyncio.create_task(self._attacker(asdict(stage.orders(self.seed * 100 + number, share, self.seconds))))
            for number in range(self.processes)
        ]
        tally, done = Tally(), 0
        for each in await asyncio.gather(*attackers):
            done += each["requests"]
            told = each["tally"]
            tally.frames += told["frames"]
            tally.examples += told["examples"]
            for name in ("sent", "heard", "closed", "violations"):
                getattr(tally, name).update(told[name])
        return tally, done

    async def _attacker(self, orders: dict[str, Any]) -> dict[str, Any]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.fuzz.attacker"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=Path(__file__).parents[2],
            limit=2**24,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(orders).encode())
            process.stdin.close()
            told: dict[str, Any] = {}
            began = time.monotonic()
            async for line in process.stdout:
                told = json.loads(line)
                if self.tell is not None and "tally" not in told:
                    rate = told["requests"] / (time.monotonic() - began)
                    self.tell(f"{told['requests']:,} requests, {rate:,.0f}/s, {self.beside.memory_mb[-1:]} MB")
            await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode == 0, f"an attacker ended with {process.returncode}, seed {orders['seed']}"
        assert "tally" in told
        return told

    # -------------------------------------------------------------- the end

    async def _judge(self, stage: "_Stage", before: dict[str, list[Any]]) -> list[str]:
        failures = []
        for name, rows in (await stage.snapshot()).items():
            if rows != before[name]:
                gone = [row for row in before[name] if row not in rows][:3]
                come = [row for row in rows if row not in before[name]][:3]
                failures.append(f"changed: {name}: {gone} became {come}")
        await stage.cancel_attackers()
        await all_end_but(stage.system, stage.others)
        failures += differences(*await stage.executed())
        (honest,) = stage.customers[HONEST]
        rows = await stage.rows("SELECT trade_id::text FROM trade WHERE customer_id = $1", int(honest["customerId"]))
        if sorted(row[0] for row in rows) != sorted(self.beside.acknowledged):
            failures.append(f"the honest customer has {len(rows)} trades, told were {len(self.beside.acknowledged)}")
        if not self.beside.acknowledged:
            failures.append("the honest customer never got through")
        log = (self.folder / "serve.log").read_text()
        if "Traceback" in log or "request.failed" in log or "stream.failed" in log:
            failures.append(f"the broker's log has a bug in it: {log[-3000:]}")
        assert stage.system.broker is not None
        if stage.system.broker.returncode is not None:
            failures.append("the broker is gone")
        else:
            await stage.system.verify()
        return failures

    def _report(self, tally: Tally, done: int, seconds: float, failures: list[str]) -> dict[str, Any]:
        probes = sorted(self.beside.probes_ms) or [0.0]
        memory = self.beside.memory_mb or [0.0]
        log = (self.folder / "serve.log").read_text().splitlines()
        events: Counter[str] = Counter(json.loads(line).get("event", "?") if line[:1] == "{" else "?" for line in log)
        return {
            "seed": self.seed,
            "requests": done,
            "seconds": round(seconds, 1),
            "requests_per_second": round(done / seconds),
            "websocket_frames": tally.frames,
            "sent": dict(sorted(tally.sent.items())),
            "statuses": dict(sorted(statuses_of(tally).items())),
            "heard": dict(sorted(tally.heard.items())),
            "closed_unanswered": dict(tally.closed),
            "forged_callbacks": sum(number for name, number in tally.sent.items() if name.startswith("forged")),
            "healthz_ms": {
                "probes": len(probes),
                "p50": round(probes[len(probes) // 2], 2),
                "p99": round(probes[int(len(probes) * 0.99)], 2),
                "p99.9": round(probes[int(len(probes) * 0.999)], 2),
                "max": round(probes[-1], 2),
            },
            "memory_mb": {
                "begin": round(memory[0]),
                "third": round(memory[len(memory) // 3]),
                "end": round(memory[-1]),
                "max": round(max(memory)),
            },
            "honest_trades": len(self.beside.acknowledged),
            "honest_errors": dict(self.beside.honest_errors),
            "log": dict(events),
            "failures": failures,
            "examples": tally.examples,
        }


def statuses_of(tally: Tally) -> "Counter[str]":
    """How often each status was answered."""
    statuses: Counter[str] = Counter()
    for name, number in tally.heard.items():
        statuses[name.rpartition(" ")[2]] += number
    return statuses


def lasting(seconds: float, beside: Beside, statuses: Mapping[str, int]) -> list[str]:
    """What only a long run can say: memory stays, and who asks is served."""
    if seconds <= LONG_S:
        return []
    failures = []
    third, end = beside.memory_mb[len(beside.memory_mb) // 3], beside.memory_mb[-1]
    if end > 1.3 * third:
        failures.append(f"memory: {third:.0f} MB after a third of the run, {end:.0f} MB at its end")
    if statuses.get("503", 0) > 0.01 * sum(statuses.values()):
        failures.append(f"answered 503 to {statuses['503']} of {sum(statuses.values())} requests, without overload")
    if beside.honest_errors:
        failures.append(f"honest calls failed: {dict(beside.honest_errors)}")
    return failures


Executed = tuple[str, str, int, str]
"""An execution: its id, its order, its quantity and its price."""


def differences(ours: set[Executed], theirs: set[Executed]) -> list[str]:
    """What was executed in our books, and at the exchange: it is the same."""
    failures = [f"in the books, and not at the exchange: {each}" for each in sorted(ours - theirs)[:3]]
    return failures + [f"at the exchange, and not in the books: {each}" for each in sorted(theirs - ours)[:3]]


def dollars(units: int) -> str:
    """As the contract with the exchange has it."""
    return f"{units // 10_000}.{units % 10_000:04}"


async def all_end_but(system: System, others: list[int]) -> None:
    """Wait until no order but those of these customers is open: theirs rest."""
    open_ = (
        "SELECT customer_id, status, count(*) FROM trade WHERE status NOT IN "
        "('FILLED', 'REJECTED', 'CANCELLED', 'EXPIRED', 'REPLACED') GROUP BY 1, 2"
    )
    until = time.monotonic() + 60
    while still := [row for row in await system.fetch(open_) if row["customer_id"] not in others]:
        assert time.monotonic() < until, f"open after the attack: {still}"
        await asyncio.sleep(0.1)


# ------------------------------------------------------------------ who is there


@dataclass(slots=True)
class _Stage:
    """The customers, and what they have."""

    system: System
    http: aiohttp.ClientSession
    customers: list[dict[str, str]]
    documents: list[Any]
    ids: dict[str, list[str]]
    revoked: str
    executions: list[dict[str, Any]]
    figures: list[str] = field(default_factory=list)

    @property
    def others(self) -> list[int]:
        """The customers of whom nothing may change."""
        return [int(each["customerId"]) for each in self.customers[OTHERS]]

    @classmethod
    async def prepare(cls, system: System, http: aiohttp.ClientSession) -> "_Stage":
        """Give the others something that could be taken from them."""
        stage = cls(system, http, system.ready["customers"], [], {}, "", [])
        for path in ("/openapi.json", "/openapi-alpaca.json"):
            async with http.get(f"{system.ready['url']}{path}") as response:
                stage.documents.append(await response.json())
        ids: dict[str, list[str]] = {
            name: [] for name in ("tradeId", "orderId", "order_id", "webhookId", "watchlist_id")
        }
        for number, other in enumerate(stage.customers[OTHERS]):
            token = other["token"]
            amount = f"{number + 2}7182818.{number + 2}9"
            credit = {"amount": amount, "reference": f"canary-{number}"}
            path = f"/admin/v1/customers/{other['customerId']}/credits"
            status, moved = await stage.call(system.ready["adminToken"], "POST", path, credit)
            assert status == 201, moved
            stage.figures.append(amount)
            for n in range(3):
                filled = {"symbol": "AAPL", "side": "buy", "order_type": "market", "quantity": 5}
                resting = filled | {"order_type": "limit", "price": RESTING_PRICE, "time_in_force": "gtc"}
                for kind, body in (("f", filled), ("r", resting)):
                    named = body | {"client_order_id": f"canary-{kind}-{number}-{n}"}
                    status, made = await stage.call(token, "POST", "/api/v1/orders", named)
                    assert status == 201, made
                    for name in ("tradeId", "orderId", "order_id"):
                        ids[name].append(made["id"])
            status, hook = await stage.call(token, "POST", "/api/v1/webhooks", {"url": "https://canary-hook.invalid/x"})
            assert status == 201, hook
            ids["webhookId"].append(hook["webhook_id"])
            named = {"name": f"canary-{number}", "symbols": ["AAPL"]}
            status, made = await stage.call(token, "POST", "/v2/watchlists", named)
            assert status == 200, made
            ids["watchlist_id"].append(made["id"])
        ids["keyId"] = [each["keyId"] for each in stage.customers[OTHERS]]
        ids["customerId"] = [each["customerId"] for each in stage.customers[OTHERS]]
        ids["clientOrderId"] = ids["orderId"]  # that of an order without another one; the attackers have none of these
        stage.ids = ids
        mine = stage.customers[ATTACKERS][0]["customerId"]
        admin = system.ready["adminToken"]
        status, key = await stage.call(admin, "POST", f"/admin/v1/customers/{mine}/keys")
        assert status == 201, key
        stage.revoked = key["token"]
        status, _ = await stage.call(admin, "DELETE", f"/admin/v1/customers/{mine}/keys/{key['keyId']}")
        assert status == 200
        await stage._settled()
        for other in stage.customers[OTHERS]:
            status, balance = await stage.call(other["token"], "GET", "/api/v1/balance")
            assert status == 200, balance
            stage.figures += [balance["amount"], balance["available"]]
        return stage

    async def _settled(self) -> None:
        """Wait until the others' orders are filled, or rest; keep what the exchange has said of them."""
        sql = (
            "SELECT status, acknowledged FROM trade WHERE customer_id = ANY ($1) AND client_order_id LIKE 'canary-{}%'"
        )
        until = time.monotonic() + 30
        while True:
            filled = await self.rows(sql.format("f"), self.others)
            resting = await self.rows(sql.format("r"), self.others)
            if all(row[0] == "FILLED" for row in filled) and all(row[1] for row in resting):
                break
            assert time.monotonic() < until, (filled, resting)
            await asyncio.sleep(0.05)
        said = await self.rows(
            "SELECT e.trade_id::text, e.execution_id, e.last_qty, e.last_px, t.filled_quantity, t.quantity "
            "FROM execution e JOIN trade t USING (trade_id) WHERE t.customer_id = ANY ($1)",
            self.others,
        )
        self.executions = [
            {
                "type": "FILLED" if quantity == whole else "PARTIALLY_FILLED",
                "order_id": trade_id,
                "execution_id": execution_id,
                "quantity": quantity,
                "price": dollars(price),
                "filled_quantity": filled,
            }
            for trade_id, execution_id, quantity, price, filled, whole in said
        ]
        assert self.executions

    async def call(
        self, token: str, method: str, path: str, body: object = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        """An honest request."""
        every = {"Authorization": f"Bearer {token}", **(headers or {})}
        url = f"{self.system.ready['url']}{path}"
        async with self.http.request(method, url, json=body, headers=every) as response:
            return response.status, await response.json(content_type=None)

    async def rows(self, sql: str, *arguments: object) -> list[tuple[Any, ...]]:
        """Look into the database."""
        dsn = self.system.ready["database"]
        connection = await asyncpg.connect(dsn, server_settings={"search_path": "broker"})
        try:
            return [tuple(row) for row in await connection.fetch(sql, *arguments)]
        finally:
            await connection.close()

    async def snapshot(self) -> dict[str, list[Any]]:
        """All that no attacker may change."""
        found = {}
        for name, sql in _SNAPSHOTS.items():
            arguments = [self.others] if "$1" in sql else []
            found[name] = sorted((await self.rows(sql, *arguments)), key=repr)
        return found

    async def executed(self) -> tuple[set[Executed], set[Executed]]:
        """What was executed, by our books and by the exchange."""
        sql = "SELECT execution_id, trade_id::text, last_qty, last_px FROM execution"
        ours = {(each, trade, quantity, dollars(price)) for each, trade, quantity, price in await self.rows(sql)}
        ids = [row[0] for row in await self.rows("SELECT trade_id::text FROM trade")]
        theirs = set()
        for start in range(0, len(ids), LOOKUP_MAX):
            named = ",".join(ids[start : start + LOOKUP_MAX])
            async with self.http.get(f"http://127.0.0.1:{self.system.exchange_port}/v1/orders?ids={named}") as response:
                assert response.status == 200, await response.text()
                orders = (await response.json())["orders"]
            for order in orders:
                for each in order["executions"]:
                    price = dollars(int(Decimal(each["price"]) * 10_000))
                    theirs.add((each["execution_id"], order["id"], each["quantity"], price))
        return ours, theirs

    async def cancel_attackers(self) -> None:
        """Their resting orders end."""
        for each in self.customers[ATTACKERS]:
            while (await self.call(each["token"], "DELETE", "/api/v1/orders"))[0] >= 500:
                await asyncio.sleep(0.2)

    def orders(self, seed: int, requests: int, seconds: float) -> Orders:
        """What an attacker is told."""
        return Orders(
            port=self.system.broker_port,
            seed=seed,
            requests=requests,
            seconds=seconds,
            documents=self.documents,
            tokens=[each["token"] for each in self.customers[ATTACKERS]],
            revoked=self.revoked,
            admin_token=self.system.ready["adminToken"],
            others=self.ids,
            figures=self.figures,
            key=decode_secret(SECRET).hex(),
            retired=bytes(range(1, 33)).hex(),
            executions=self.executions,
        )
