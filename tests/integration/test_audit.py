"""The audit log: what operators ask for is in it before it is done, and nothing in it can be changed unseen.

AUDIT_FLIPS says how many changes are tried, and TEST_SEED which:

    AUDIT_FLIPS=100000 .venv/bin/python -m pytest -s -o timeout=0 tests/integration/test_audit.py -k flipped
"""

import asyncio
import json
import os
import random
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import UUID, uuid4

import asyncpg
import pytest

from broker.audit import Audit, without_secrets
from broker.auth import new_key
from broker.cli import main
from broker.config import Config
from broker.db import Database, DatabaseUnavailable
from broker.metrics import Metrics
from broker.verify import rules, verify
from tests import documented
from tests.conftest import Broker, eventually, run_broker, the_seed
from tests.integration.test_schema import commit, new_trade

TOKEN = "t" * 40
FLIPS = int(os.environ.get("AUDIT_FLIPS", "1000"))
CHAINS_ARE_WHOLE, EVENTS_ARE_AS_AUDITED = (
    next(query for rule, query in rules() if rule == name)
    for name in ("audit chains are whole", "events are as audited")
)


async def records(broker: Broker) -> list[Any]:
    """The operators' chain from its beginning."""
    status, page = await broker.operator.call("GET", "/admin/v1/audit?after=0&limit=500")
    assert status == 200, page
    found: list[Any] = page["records"]
    return [(each["number"], each["actor"], each["action"], json.loads(each["content"])) for each in found]


# ------------------------------------------------------------------ operators' requests


async def test_a_request_is_recorded_before_it_is_done_and_so_is_its_answer(broker: Broker) -> None:
    customer = await broker.customer(cash="5.00")
    path = f"/admin/v1/customers/{customer.customer_id}/debits"
    assert (await broker.operator.call("POST", path, {"amount": "9.00", "reference": "r"}))[0] == 409
    assert (await broker.operator.call("POST", path, {"nonsense": 1}))[0] == 400
    assert (await broker.operator.call("GET", f"/admin/v1/customers/{customer.customer_id}"))[0] == 200
    assert (await broker.stranger.call("POST", path, {"amount": "9.00", "reference": "r"}))[0] == 401
    assert (await customer.call("POST", path, {"amount": "9.00", "reference": "r"}))[0] in {401, 403}

    found = await records(broker)
    assert [(number, actor, action) for number, actor, action, _ in found] == [
        (number, "admin-token", ("asked", "answered")[(number - 1) % 2]) for number in range(1, 7)
    ]
    assert [content["status"] for *_, action, content in found if action == "answered"] == [201, 409, 400]
    asked = [content for *_, action, content in found if action == "asked"]
    assert [each["path"] for each in asked] == ["/admin/v1/customers", path, path]
    assert asked[1]["method"] == "POST"
    assert asked[1]["body"] == {"amount": "9.00", "reference": "r"}
    assert [content["request_id"] for *_, content in found[::2]] == [
        content["request_id"] for *_, content in found[1::2]
    ]


async def test_every_route_of_operators_that_may_change_something_is_recorded(broker: Broker) -> None:
    """By the route table: a new one cannot be forgotten."""
    routes = [each for each in documented.routes() if each.path.startswith("/admin/") and each.method != "GET"]
    assert len(routes) > 10
    for route in routes:
        path = "".join("nothing" if i % 2 else part for i, part in enumerate(route.path.replace("}", "{").split("{")))
        before = len(await records(broker))
        await broker.operator.call(route.method, path, {"nonsense": 1})
        added = (await records(broker))[before:]
        assert [action for _, _, action, _ in added] == ["asked", "answered"], route
        assert (added[0][3]["method"], added[0][3]["path"]) == (route.method, path)


async def test_what_cannot_be_recorded_is_not_done(broker: Broker) -> None:
    (before,) = await broker.fetch("SELECT count(*) FROM customer")
    await broker.fetch("REVOKE EXECUTE ON FUNCTION record_operator FROM broker_runtime")
    status, answer = await broker.operator.call("POST", "/admin/v1/customers", {"cash": "1.00"})
    assert (status, answer["code"]) == (503, "audit_unavailable")
    assert await broker.fetch("SELECT count(*) FROM customer") == [before]
    await broker.fetch("GRANT EXECUTE ON FUNCTION record_operator TO broker_runtime")
    await broker.customer()


async def test_the_newest_come_first_and_after_reads_on(broker: Broker) -> None:
    for _ in range(2):
        await broker.customer()

    async def numbers(query: str) -> list[int]:
        status, page = await broker.operator.call("GET", f"/admin/v1/audit{query}")
        assert status == 200, page
        return [each["number"] for each in page["records"]]

    assert await numbers("") == [4, 3, 2, 1]
    assert await numbers("?limit=2") == [4, 3]
    assert await numbers("?after=1&limit=2") == [2, 3]
    assert await numbers("?after=4") == []
    assert await numbers("?chain=3") == []
    for query in ("?chain=17", "?after=-1", "?limit=0", "?other=1"):
        assert (await broker.operator.call("GET", f"/admin/v1/audit{query}"))[0] == 400


def test_no_secret_of_a_body_is_kept() -> None:
    body = {"name": "Ada", "deep": [{"webhookSecret": "s3cret", "apiToken": ["t"]}], "Password": "p"}
    hidden = {"name": "Ada", "deep": [{"webhookSecret": "***", "apiToken": "***"}], "Password": "***"}
    assert without_secrets(json.dumps(body).encode(), 1_000, TOKEN) == hidden
    assert without_secrets(b"", 1_000, TOKEN) is None
    assert without_secrets(b"token=abc", 1_000, TOKEN) == "9 bytes that are not JSON"
    assert without_secrets(b"[" * 100_000, 10**6, TOKEN) == "100000 bytes that are not JSON"
    assert without_secrets(b'{"name": "aaaaaaaaaa"}', 10, TOKEN) == "22 bytes"


async def test_no_secret_that_was_put_where_none_belongs_is_kept(broker: Broker) -> None:
    """A token in another field, or in the path."""
    other = new_key().token
    customer = await broker.customer()
    credits = f"/admin/v1/customers/{customer.customer_id}/credits"
    for secret in (other, broker.running.admin_token, f"Bearer {'s' * 20}", "postgres://me:planted@host/db"):
        for path in (f"/admin/v1/customers/{quote(secret, safe='')}/suspend", f"{credits}?x={quote(secret)}"):
            await broker.operator.call("POST", path, {"amount": "1.00", "reference": f"for {secret}", secret: [secret]})
    await broker.operator.call("POST", f"{credits}?admin_token=planted&x=1", {"amount": "1.00", "reference": "r"})
    await broker.operator.call("POST", f"{credits}?{'x' * 5_000}", {"amount": "1.00", "reference": "r"})
    kept = "".join(row["content"] for row in await broker.fetch("SELECT content FROM audit WHERE chain = 0"))
    for planted in (other.partition(".")[2], broker.running.admin_token, "s" * 20, "planted"):
        assert planted not in kept
    found = await records(broker)
    assert max(len(content.get("path", "")) for *_, content in found) == 1_000
    assert {"amount", "reference"} <= found[2][3]["body"].keys()
    assert found[2][3]["path"].startswith("/admin/v1/customers/key_")


class Away:
    """A database that may be away."""

    def __init__(self) -> None:
        self.is_away = True
        self.records: list[int] = []

    async def fetch(self, name: str, *arguments: Any) -> list[Any]:
        if self.is_away:
            raise DatabaseUnavailable("away")
        self.records.append(json.loads(arguments[2])["n"])
        return []


async def test_what_is_kept_is_bounded_and_written_before_anything_else(monkeypatch: pytest.MonkeyPatch) -> None:
    lost: list[Any] = []
    monkeypatch.setattr(
        "broker.audit.log.error", lambda event, **fields: lost.append((event, fields["kept"], fields["record"]["n"]))
    )
    database = Away()
    audit = Audit(database, Metrics(), Config(audit_kept_max=3))  # type: ignore[arg-type]
    for number in range(4):
        await audit.record_or_keep("admin-token", "asked", {"n": number})
    assert lost == [("audit.not_recorded", number < 3, number) for number in range(4)]
    with pytest.raises(DatabaseUnavailable):
        await audit.record("admin-token", "asked", {"n": 4})
    database.is_away = False
    await audit.record("admin-token", "asked", {"n": 5})
    await audit.record_or_keep("admin-token", "asked", {"n": 6})
    assert database.records == [0, 1, 2, 5, 6]


async def test_what_is_kept_is_written_by_itself_when_the_database_is_back(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database(dsn, Config())
    await database.open()
    audit = Audit(database, Metrics(), Config())
    running = asyncio.create_task(audit.run())

    async def away(*_: object) -> Any:
        raise DatabaseUnavailable("away")

    with monkeypatch.context() as patch:
        patch.setattr(Database, "fetch", away)
        await audit.record_or_keep("admin-token", "asked", {"n": 1})

    async def written() -> bool:
        return [row["action"] for row in await audit.page(0, None, 10)] == ["asked"]

    await eventually(written)
    running.cancel()
    await database.close()


async def test_the_heads_are_told_when_they_have_changed(
    dsn: str, customer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[dict[str, Any]] = []
    monkeypatch.setattr("broker.audit.log.info", lambda _, **fields: told.append(fields["heads"]))
    database = Database(dsn, Config())
    await database.open()
    audit = Audit(database, Metrics(), Config())
    await audit.tell()
    await audit.tell()
    await audit.record("admin-token", "asked", {"what": "\0 and \ud800"})
    await audit.tell()
    await database.close()
    first, second = told
    assert (first["0"][0], second["0"][0]) == (0, 1)
    assert {chain: head for chain, head in first.items() if chain != "0"} == {
        chain: head for chain, head in second.items() if chain != "0"
    }
    for heads in (first, second):
        assert (await verify(dsn, heads))[-1].row is None


# ------------------------------------------------------------------ what was changed afterwards

STEPS = ("placed", "started", "executed", "ended")
STATUSES = ("PLACED", "IN PROGRESS", "FILLED", "CANCELLED")


@pytest.fixture
async def owner(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """A superuser, whom no trigger stops."""
    connection = await asyncpg.connect(dsn, server_settings={"search_path": "broker"})
    await connection.execute("SET session_replication_role = replica")
    yield connection
    await connection.close()


@pytest.fixture
async def customer(dsn: str) -> int:
    """A customer with 12 events in 12 commits, beside two with 12 events in 6 commits; and an operator's request."""
    connection = await asyncpg.connect(dsn, server_settings={"search_path": "broker"})
    made = [
        await connection.fetchval(
            "SELECT create_customer('x', 'cash', $1, $2, 10000000, $3, -2, 0)", f"k{i}", bytes(32), uuid4()
        )
        for i in range(3)
    ]
    for seq in range(1, 7):
        both = made[1:]
        ids = [UUID(int=1000 * seq + who) for who in made]
        await commit(
            connection,
            claims=[(who, seq - 1) for who in both],
            placed=[new_trade(ids[who - made[0]], who, seq=seq, hold=0) for who in both],
            events=[_event(who, 2 * (seq - 1) + n, ids[who - made[0]], n) for who in both[::-1] for n in (1, 2)],
        )
        for number in (1, 2):
            await commit(
                connection,
                claims=[(made[0], 2 * (seq - 1) + number - 1)],
                placed=[new_trade(ids[0], made[0], seq=seq, hold=0)] if number == 1 else [],
                events=[_event(made[0], 2 * (seq - 1) + number, ids[0], number)],
            )
    await connection.close()
    return int(made[0])


def _event(customer: int, seq: int, trade: UUID, number: int) -> tuple[Any, ...]:
    return (customer, seq, trade, number, STEPS[number - 1], STATUSES[number - 1], "r", 0, 0, False, False, 5, None)


async def is_seen(connection: asyncpg.Connection) -> bool:
    """Whether `broker verify` finds something."""
    return bool(await connection.fetchrow(CHAINS_ARE_WHOLE) or await connection.fetchrow(EVENTS_ARE_AS_AUDITED))


def changed(value: Any, rng: random.Random) -> Any:
    """The value with one of its bits flipped, or as near to it as its type allows."""
    match value:
        case bool():
            return not value
        case int():
            return value ^ (1 << rng.randrange(14))
        case bytes():
            at = rng.randrange(len(value))
            return value[:at] + bytes([value[at] ^ (1 << rng.randrange(8))]) + value[at + 1 :]
        case UUID():
            return UUID(int=value.int ^ (1 << rng.randrange(128)))
        case None:
            return "x"
        case str() if value in STEPS:
            return rng.choice([each for each in STEPS if each != value])
        case str() if value in STATUSES:
            return rng.choice([each for each in STATUSES if each != value])
        case str():
            at = rng.randrange(len(value))
            return value[:at] + chr(ord(value[at]) ^ (1 << rng.randrange(4))) + value[at + 1 :]
        case _:
            return value + timedelta(microseconds=1 << rng.randrange(40))


async def test_a_thousand_flipped_bytes_are_seen(owner: asyncpg.Connection, customer: int) -> None:
    await owner.execute("SELECT record_operator('admin-token', 'asked', '{\"a\": 1}')")
    assert not await is_seen(owner)
    seed = the_seed()
    print(f"seed {seed}")  # noqa: T201 - pytest shows it with a failure
    rng = random.Random(seed)
    refused = 0
    for _ in range(FLIPS):
        table = rng.choice(["audit", "event", "event", "audit_head"])
        (row,) = await owner.fetch(f"SELECT ctid, * FROM {table} ORDER BY random() LIMIT 1")
        column = rng.choice([name for name in row.keys() if name != "ctid"])  # noqa: SIM118 - a record's keys
        value = changed(row[column], rng)
        transaction = owner.transaction()
        await transaction.start()
        try:
            await owner.execute(f"UPDATE {table} SET {column} = $1 WHERE ctid = $2", value, row["ctid"])
            assert await is_seen(owner), (table, column, row[column], value)
        except asyncpg.IntegrityConstraintViolationError:
            refused += 1  # not even a superuser gets it in: a check or a key of its own
        finally:
            await transaction.rollback()
    print(f"{FLIPS} changes, of which the database refused {refused}, and each other one was seen")  # noqa: T201
    assert refused < FLIPS / 5


@pytest.mark.parametrize(
    "attack",
    [
        "DELETE FROM audit WHERE (chain, number) = (SELECT chain, 3 FROM audit WHERE number = 5 LIMIT 1)",
        "DELETE FROM audit WHERE (chain, number) IN (SELECT chain, max(number) FROM audit GROUP BY chain LIMIT 1)",
        "DELETE FROM event WHERE customer_id = {0} AND seq = 4",
        "DELETE FROM event WHERE customer_id = {0} AND seq = 12",
        "DELETE FROM audit_head WHERE chain = 5",
        "UPDATE audit_head SET number = number - 1 WHERE number > 0",
        "UPDATE event SET chain = NULL, link = NULL WHERE customer_id = {0} AND seq = 5",
        "UPDATE event SET reason = 'another' WHERE customer_id = {0} AND seq = 5",
        "INSERT INTO audit SELECT chain, number + 1, at, actor, action, content, hash FROM audit_head JOIN audit USING"
        " (chain, number, hash) LIMIT 1",
        "INSERT INTO event SELECT customer_id, 13, trade_id, 9, step, status, reason, filled_quantity, filled_value,"
        " acknowledged, cancel_requested, quantity, execution_id, at, chain, link FROM event"
        " WHERE customer_id = {0} AND seq = 12",
        "INSERT INTO event SELECT customer_id, 13, trade_id, 9, step, status, reason, filled_quantity, filled_value,"
        " acknowledged, cancel_requested, quantity, execution_id, at, NULL, NULL FROM event"
        " WHERE customer_id = {0} AND seq = 12",
        "INSERT INTO event SELECT 999, 1, trade_id, 9, step, status, reason, filled_quantity, filled_value,"
        " acknowledged, cancel_requested, quantity, execution_id, at, NULL, NULL FROM event"
        " WHERE customer_id = {0} AND seq = 12",  # of a customer who has none in a chain
    ],
)
async def test_what_was_taken_out_or_put_in_is_seen(attack: str, owner: asyncpg.Connection, customer: int) -> None:
    assert not await is_seen(owner)
    assert not (await owner.execute(attack.format(customer))).endswith(" 0")
    assert await is_seen(owner)


async def test_a_chain_that_was_made_anew_lacks_the_heads_that_were_kept(
    dsn: str, owner: asyncpg.Connection, customer: int
) -> None:
    """Whoever may write everything can take the last event out with its record: only what is elsewhere shows it."""
    database = Database(dsn, Config())
    await database.open()
    heads = await Audit(database, Metrics(), Config()).heads()
    await database.close()
    chain = 1 + customer % 16
    await owner.execute("DELETE FROM event WHERE customer_id = $1 AND seq = 12", customer)
    await owner.execute("DELETE FROM audit WHERE chain = $1 AND number = 12", chain)
    await owner.execute(
        "UPDATE audit_head SET (number, hash) = (SELECT number, hash FROM audit WHERE chain = $1 AND number = 11) "
        "WHERE chain = $1",
        chain,
    )
    assert not await is_seen(owner)
    (finding,) = [finding for finding in await verify(dsn, heads) if "kept" in finding.rule]
    assert finding.row == {"chain": chain, "number": 12, "kept": heads[str(chain)][1], "found": None}


async def test_the_command_line_shows_keeps_and_checks(
    with_settings: Callable[..., Config], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with run_broker(with_settings()) as broker:
        await broker.customer()
        folder = ["--data", str(broker.config.data)]
        assert await asyncio.to_thread(main, ["audit", "show", *folder, "--limit", "1"]) == 0
        assert json.loads(capsys.readouterr().out)["records"][0]["action"] == "answered"
        assert await asyncio.to_thread(main, ["audit", "heads", *folder]) == 0
        kept = tmp_path / "heads.json"
        kept.write_text(capsys.readouterr().out)
        check = ["verify", "--database", broker.dsn, "--heads", str(kept)]
        assert await asyncio.to_thread(main, check) == 0
        assert "heads that were kept" in capsys.readouterr().out
        kept.write_text(kept.read_text().replace('"0": [\n      2', '"0": [\n      7'))
        assert await asyncio.to_thread(main, check) == 1
        assert "BROKEN  heads that were kept are in the audit log" in capsys.readouterr().out
        kept.write_text("{}")
        assert await asyncio.to_thread(main, check) == 2
