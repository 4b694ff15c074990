"""No secret is in a log, in /metrics, in an error, in a process list, or in the books: a real broker at its most
talkative, honest and wrong calls of every kind, and a search for what was planted."""

import asyncio
import io
import json
import os
import subprocess
import sys
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest
import structlog

from broker.app import StartError, serve
from broker.assembly import Running
from broker.config import ConfigError, load
from broker.core.signing import encode_secret
from broker.log import redacted
from broker.simulator.server import SimulatedExchange
from broker.simulator.settings import ExchangeSettings
from tests.conftest import eventually, logging_at

BROKER = Path(sys.executable).with_name("broker")
WITHIN_S = 30.0
KEY = b"planted-webhook-secret-of-32-bytes"[:32]
ADMIN = "planted-admin-token"
WRONG = "planted-wrong-token"
DSN_PASSWORD = "planted-dsn@pass:word/1"
EXCHANGE_PASSWORD = "planted-exchange-password"
KEPT_SECRET = {"secrets.json", "secrets.lock"}
"""Where secrets live: mode 0600."""


def environment(changes: Mapping[str, object]) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("BROKER_")}
    return kept | {name: str(value) for name, value in changes.items()}


def with_password(dsn: str, password: str) -> str:
    """PostgreSQL trusts its own socket: it takes any."""
    scheme, _, rest = dsn.partition("://")
    user, _, where = rest.partition("@")
    quoted = password.replace("@", "%40").replace(":", "%3A").replace("/", "%2F")
    return f"{scheme}://{user.partition(':')[0]}:{quoted}@{where}"


@dataclass
class Talkative:
    """A broker at log level debug; what it was given and what it gave, to be searched for."""

    process: asyncio.subprocess.Process
    folder: Path
    url: str
    planted: set[str] = field(default_factory=set)

    @property
    def said(self) -> str:
        return (self.folder / "out").read_text() + (self.folder / "err").read_text()

    async def call(self, method: str, path: str, token: str | None = None, **kwargs: Any) -> tuple[int, Any]:
        headers = dict(kwargs.pop("headers", {})) | ({"Authorization": f"Bearer {token}"} if token else {})
        async with (
            aiohttp.ClientSession() as http,
            http.request(method, self.url + path, headers=headers, **kwargs) as response,
        ):
            return response.status, await response.json(content_type=None) if response.content_type.endswith(
                "json"
            ) else await response.text()


@pytest.fixture
async def talkative(dsn: str, tmp_path: Path) -> AsyncIterator[tuple[Talkative, SimulatedExchange]]:
    files = {"database": with_password(dsn, DSN_PASSWORD), "token": ADMIN, "secrets": encode_secret(KEY)}
    for name, content in files.items():
        (tmp_path / name).write_text(content + "\n")
    async with SimulatedExchange(ExchangeSettings(), KEY) as exchange:
        settings = {
            "BROKER_LOG_LEVEL": "debug",
            "BROKER_DATABASE_FILE": tmp_path / "database",
            "BROKER_ADMIN_TOKEN_FILE": tmp_path / "token",
            "BROKER_WEBHOOK_SECRETS_FILE": tmp_path / "secrets",
            "BROKER_EXCHANGE": exchange.url.replace("://", f"://desk:{EXCHANGE_PASSWORD}@"),
            "BROKER_HOOK_ADDRESSES": "any",
        }
        with (tmp_path / "out").open("wb") as out, (tmp_path / "err").open("wb") as err:
            process = await asyncio.create_subprocess_exec(
                BROKER, "serve", "--port", "0", "--data", tmp_path / "data",
                stdin=DEVNULL, stdout=out, stderr=err, env=environment(settings),
            )  # fmt: skip

        async def ready() -> Any:
            assert process.returncode is None, (tmp_path / "err").read_text()
            return (tmp_path / "out").read_text().endswith("Ctrl-C.\n")

        try:
            await eventually(ready, WITHIN_S)
            url = json.loads((tmp_path / "data" / "running.json").read_text())["url"]
            planted = {ADMIN, WRONG, DSN_PASSWORD, files["database"], EXCHANGE_PASSWORD, files["secrets"]}
            planted |= {"planted-", files["secrets"].removeprefix("whsec_"), "planted-dsn%40pass"}
            yield Talkative(process, tmp_path, url, planted), exchange
            process.terminate()
            assert await asyncio.wait_for(process.wait(), WITHIN_S) == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


async def calls_of_every_kind(broker: Talkative) -> None:
    """Right and wrong: whatever gives a secret or takes one."""
    status, created = await broker.call("POST", "/admin/v1/customers", ADMIN, json={"cash": "100000.00"})
    assert status == 201, created
    one = f"/admin/v1/customers/{created['customerId']}"
    status, key = await broker.call("POST", f"{one}/keys", ADMIN)
    assert status == 201, key
    token, secret = created["token"], key["secret"]
    broker.planted |= {created["secret"], secret}
    hook = {"url": "http://127.0.0.1:1/planted-path-of-a-webhook"}
    status, made = await broker.call("POST", "/api/v1/webhooks", token, json=hook)
    assert status == 201, made
    broker.planted |= {made["secret"], made["secret"].removeprefix("whsec_")}
    trade = {"stockTicker": "AAPL", "type": "BUY", "quantity": 1}
    status, placed = await broker.call("POST", "/api/v1/trades", token, json=trade)
    assert status == 201, placed

    async def filled() -> bool:
        _, found = await broker.call("GET", f"/api/v1/trades/{placed['tradeId']}", token)
        return bool(found["status"] == "FILLED")

    await eventually(filled)
    key_id = token.partition(".")[0]
    alpaca = {"APCA-API-KEY-ID": key_id, "APCA-API-SECRET-KEY": created["secret"]}
    assert (await broker.call("GET", "/v2/account", headers=alpaca))[0] == 200
    assert (await broker.call("GET", "/v2/account", headers=alpaca | {"APCA-API-SECRET-KEY": WRONG}))[0] in {401, 403}
    for wrong in (WRONG, f"{key_id}.{WRONG}", f"{token}x", f"Bearer {token}", created["secret"], f"{ADMIN}x"):
        for path in ("/api/v1/balance", "/admin/v1/controls", "/api/v1/orders/stream"):
            status, answer = await broker.call("GET", path, wrong)
            assert status in {401, 429}, (path, answer)
            assert WRONG not in json.dumps(answer), answer
    for path in (f"/api/v1/trades?token={token}", f"/api/v1/trades/{secret}", f"/{token}", f"/api/v1/bars/{secret}"):
        await broker.call("GET", path, token)
    for body in (f'{{"secret": "{secret}"', f'["{ADMIN}"]', json.dumps({"stockTicker": token}), f'{{"{token}": 1}}'):
        for path in ("/api/v1/trades", "/api/v1/orders", "/v2/orders", "/webhooks/exchange"):
            await broker.call("POST", path, token, data=body, headers=alpaca | {"Content-Type": "application/json"})
    signed = {"webhook-id": "1", "webhook-timestamp": "1", "webhook-signature": f"v1,{WRONG}"}
    assert (await broker.call("POST", "/webhooks/exchange", headers=signed, data=b"{}"))[0] == 401
    await websockets(broker, token, key_id, created["secret"])
    await malformed(broker, [token, ADMIN, secret])


async def websockets(broker: Talkative, token: str, key_id: str, secret: str) -> None:
    """A token in the header, in the first message, and where none belongs."""
    async with aiohttp.ClientSession() as http:
        async with http.ws_connect(
            f"{broker.url}/api/v1/stream", headers={"Authorization": f"Bearer {token}"}
        ) as socket:
            await socket.send_str(json.dumps({"action": "subscribe", "symbols": [token]}))
            await socket.send_str(token)
            await socket.receive(timeout=WITHIN_S)
        for said in (
            {"action": "authenticate", "token": token},
            {"action": "authenticate", "token": WRONG},
            {"x": token},
        ):
            async with http.ws_connect(f"{broker.url}/api/v1/stream") as socket:
                await socket.send_str(json.dumps(said))
                if said.get("token") != token:
                    await socket.receive(timeout=WITHIN_S)
        for path in ("/stream", "/v2/iex"):
            for each in (secret, WRONG):
                async with http.ws_connect(f"{broker.url}{path}") as socket:
                    await socket.send_str(json.dumps({"action": "auth", "key": key_id, "secret": each}))
                    await socket.receive(timeout=WITHIN_S)


async def malformed(broker: Talkative, secrets: list[str]) -> None:
    """HTTP that is none, with a secret in every part of it."""
    port = int(broker.url.rpartition(":")[2])
    for secret in secrets:
        for request in (
            f"GET /api/v1/balance HTTP/1.1\r\nHost: x\r\nAuthorization Bearer {secret}\r\n\r\n",
            f"GET /api/v1/balance HTTP/9.9 {secret}\r\n\r\n",
            f"{secret}\r\n\r\n",
            f"GET /{secret}\x00 HTTP/1.1\r\nHost: x\r\n\r\n",
            f"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {secret}{'x' * 40_000}\r\n\r\n",
            f"POST /api/v1/trades HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{secret}\r\n",
        ):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request.encode())
            writer.write_eof()
            with suppress(ConnectionError):
                assert secret not in (await asyncio.wait_for(reader.read(), WITHIN_S)).decode(errors="replace")
            writer.close()


async def trouble(broker: Talkative, exchange: SimulatedExchange, dsn: str) -> None:
    """The exchange goes, and all of the database's connections: each is worth a line in the log."""
    lines = broker.said.count("\n")
    await exchange.stop()
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    finally:
        await connection.close()

    async def noticed() -> bool:
        await broker.call("GET", "/readyz")
        return broker.said.count("\n") > lines

    await eventually(noticed, WITHIN_S)


@pytest.mark.timeout(180)
async def test_no_secret_turns_up_anywhere(talkative: tuple[Talkative, SimulatedExchange], dsn: str) -> None:
    broker, exchange = talkative
    await calls_of_every_kind(broker)
    status, metrics = await broker.call("GET", "/metrics")
    assert status == 200
    await trouble(broker, exchange, dsn)
    found = {
        "the log": broker.said,
        "/metrics": metrics,
        "the process list": process_list(broker.process.pid),
        "the document": json.dumps((await broker.call("GET", "/openapi.json"))[1]),
        "the books": await books(dsn),
    }
    for path in (broker.folder / "data").rglob("*"):
        if path.is_file():
            assert path.stat().st_mode & 0o077 == 0 or path.suffix == ".lock" or path.name == "lock", path
            if path.name not in KEPT_SECRET:
                found[str(path)] = path.read_text(errors="replace")
    assert '"level":"debug"' in found["the log"]
    leaks = [(where, secret) for where, text in found.items() for secret in broker.planted if secret in text]
    assert leaks == []


def process_list(pid: int) -> str:
    shown = Path(f"/proc/{pid}/cmdline")
    return shown.read_text() if shown.exists() else ""


async def books(dsn: str) -> str:
    """Every row of every table, but of those that sign: an outgoing webhook's secret has to be known to sign with."""
    connection = await asyncpg.connect(dsn)
    try:
        tables = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'broker'")
        rows = []
        for (table,) in tables:
            if table != "webhook":
                rows += await connection.fetch(f'SELECT t::text FROM broker."{table}" AS t')
        assert rows
        return "\n".join(row[0] for row in rows)
    finally:
        await connection.close()


STARTS = [
    {"BROKER_DATABASE": "postgresql://desk:planted@127.0.0.1:1/books"},
    {"BROKER_DATABASE": "postgresql://desk:pw@planted:x@127.0.0.1:1/books"},
    {"BROKER_DATABASE": "postgresql://desk:planted@127.0.0.1:port/books"},
    {"BROKER_DATABASE": "mysql://desk:planted@127.0.0.1/books"},
    {"BROKER_DATABASE": "host=127.0.0.1 port=1 user=desk password=planted"},
    {"BROKER_DATABASE": "postgresql://desk@127.0.0.1:1/books?password=planted"},
    {"BROKER_QUOTES": "redis//:planted@127.0.0.1:1/0"},
    {"BROKER_EXCHANGE": "ftp://desk:planted@127.0.0.1"},
    {"BROKER_VENUES": "west=ftp://desk:planted@127.0.0.1"},
    {"BROKER_PUBLIC_URL": "desk:planted@127.0.0.1"},
    {"BROKER_WEBHOOK_SECRETS": "whsec_planted!", "BROKER_EXCHANGE": "http://127.0.0.1:1"},
    {"BROKER_ADMIN_TOKEN": "planted with blanks"},
]


async def failed_start(settings: Mapping[str, str]) -> Exception:
    async def never(_: Running) -> None:
        raise AssertionError("it has started")

    try:
        await serve(load({}, settings), asyncio.Event(), never)
    except (StartError, ConfigError) as error:
        return error
    raise AssertionError("it has started and ended")


@pytest.mark.parametrize("settings", STARTS)
async def test_a_start_that_fails_shows_no_secret(settings: dict[str, str], dsn: str, tmp_path: Path) -> None:
    also = {"BROKER_PORT": "0", "BROKER_DATABASE": dsn, "BROKER_DATA": str(tmp_path / "data")}
    error = await failed_start(also | settings)
    said = [str(error), *map(str, causes(error))]
    assert not [text for text in said if "planted" in redacted(text)], said


def causes(error: BaseException) -> Iterator[BaseException]:
    """What a traceback would show as well."""
    while error.__cause__ is not None:
        error = error.__cause__
        yield error


def test_what_looks_like_a_secret_goes_into_no_log_line() -> None:
    """Whoever logs an error logs what it repeats: so the last step of all takes secrets out."""
    written = io.StringIO()
    with logging_at("error", written):
        fields = {
            "dsn": "postgresql://desk:planted/p@ss:w@127.0.0.1/books",
            "words": "host=h password='planted one' user=desk",
            "query": "postgresql://h/books?user=desk&password=planted&sslmode=require",
            "header": "Authorization: Bearer planted.token",
            "key": "key_0123456789abcdef.planted-secret_x",
            "hook": "whsec_planted/+=",
        }
        structlog.get_logger().error("something.failed", **fields)
    assert "planted" not in written.getvalue()
    line = json.loads(written.getvalue())
    assert {name: line[name] for name in fields} == {
        "dsn": "postgresql://desk:***@127.0.0.1/books",
        "words": "host=h password=*** user=desk",
        "query": "postgresql://h/books?user=desk&password=***&sslmode=require",
        "header": "Authorization: Bearer ***",
        "key": "key_0123456789abcdef.***",
        "hook": "whsec_***",
    }


def test_a_secret_may_come_from_a_file_or_a_variable_and_not_from_both(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{ADMIN}\n")
    from_file = {"BROKER_ADMIN_TOKEN_FILE": str(tmp_path / "token")}
    assert load({}, from_file).admin_token == ADMIN
    command = [sys.executable, "-m", "broker", "key", "list", "--url", "http://127.0.0.1:1", "--data", str(tmp_path)]
    ran = subprocess.run(command, env=os.environ | from_file, capture_output=True, text=True, check=False)
    assert "admin token" not in ran.stderr, "an operator's command takes it from there as well"
    with pytest.raises(ConfigError, match=r"^BROKER_ADMIN_TOKEN and BROKER_ADMIN_TOKEN_FILE are both set"):
        load({}, from_file | {"BROKER_ADMIN_TOKEN": ADMIN})
    with pytest.raises(ConfigError, match=r"which cannot be read: No such file or directory$"):
        load({}, {"BROKER_ADMIN_TOKEN_FILE": str(tmp_path / "none")})
    (tmp_path / "bytes").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match=r"which cannot be read: it is no text$"):
        load({}, {"BROKER_ADMIN_TOKEN_FILE": str(tmp_path / "bytes")})
