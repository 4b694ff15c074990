"""The command `broker`, as processes of its own: what it prints, how it ends, and what it says when it cannot."""

import asyncio
import json
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from broker.config import Config
from tests.conftest import Broker, run_broker

BROKER = Path(sys.executable).with_name("broker")
WITHIN_S = 30.0
STOPS_WITHIN_S = 5.0
AT_ONCE = asyncio.Semaphore(3)
"""Processes that start at the same time: each takes half a second of one core."""


@dataclass(frozen=True)
class Ended:
    """A process that has ended."""

    code: int
    out: str
    err: str


def environment(**changes: str) -> dict[str, str]:
    """Ours without any setting of a broker."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("BROKER_", "COLUMNS"))}
    return kept | {"COLUMNS": "100"} | changes


async def start(*arguments: object, **variables: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        BROKER,
        *map(str, arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(**variables),
    )


async def run(*arguments: object, **variables: str) -> Ended:
    """Run `broker` to its end."""
    async with AT_ONCE:
        process = await start(*arguments, **variables)
        try:
            async with asyncio.timeout(WITHIN_S):
                out, err = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
    assert process.returncode is not None
    return Ended(process.returncode, out.decode(), err.decode())


@dataclass
class Serving:
    """A `broker serve` that is ready."""

    process: asyncio.subprocess.Process
    printed: str
    """What it printed until it was ready: a line of JSON, or the banner."""

    @property
    def ready(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.printed)
        return answer


@asynccontextmanager
async def serving(*arguments: object, **variables: str) -> AsyncIterator[Serving]:
    """A `broker serve` until the block ends; then SIGTERM must end it in time, with code 0 and no traceback."""
    process = await start("serve", "--port", 0, "--log-level", "warning", *arguments, **variables)
    assert process.stdout is not None
    try:
        printed = ""
        async with asyncio.timeout(WITHIN_S):
            while not printed.endswith(("}\n", "Ctrl-C.\n")):
                line = (await process.stdout.readline()).decode()
                assert line, (await process.communicate())[1].decode()
                printed += line
        yield Serving(process, printed)
        began = time.monotonic()
        process.terminate()
        _, err = await asyncio.wait_for(process.communicate(), WITHIN_S)
        assert (process.returncode, b"Traceback" in err) == (0, False), err.decode()
        assert time.monotonic() - began < STOPS_WITHIN_S
    finally:
        if process.returncode is None:
            process.kill()


@pytest.fixture(scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Serving, Path]]:
    """A broker with everything of its own, and its data folder."""
    folder = tmp_path_factory.mktemp("served")
    async with serving("--demo", 2, "--json", "--data", folder) as running:
        yield running, folder


# ------------------------------------------------------------------ help

HELP = {
    "": ("serve", "exchange", "customer", "verify", "BROKER_ADMIN_TOKEN"),
    "serve": ("--demo", "--json", "--port", "[8080]", "--database", "--exchange", "limits:", "--place-wait-s"),
    "exchange": ("--port", "[8090]", "--hours", "--data", "misbehaviour:", "--lose", "--duplicates", "--closed"),
    "customer": ("create", "show", "suspend", "activate", "key", "revoke", "credit", "debit", "--url", "--data"),
    "customer create": ("--name", "--cash"),
    "customer credit": ("customer_id", "amount", "reference"),
    "verify": ("--data", "--database", "Works beside a running broker"),
}


async def test_every_command_explains_itself() -> None:
    texts = await asyncio.gather(*(run(*command.split(), "--help") for command in HELP))
    for (command, words), text in zip(HELP.items(), texts, strict=True):
        assert (text.code, text.err) == (0, "")
        assert text.out.startswith(f"usage: broker {command}".rstrip())
        assert [word for word in words if word not in " ".join(text.out.split())] == []
        assert "SUPPRESS" not in text.out
        assert max(len(line) for line in text.out.splitlines()) <= 100
    version = await run("--version")
    assert re.fullmatch(r"stockbroker \d+\.\d+\.\d+\n", version.out)


# ------------------------------------------------------------------ serve


async def test_ready_is_one_line_of_json_with_what_a_program_needs(served: tuple[Serving, Path]) -> None:
    ready = served[0].ready
    assert served[0].printed.count("\n") == 1
    assert list(ready) == ["event", "url", "adminToken", "exchangeUrl", "database", "customers"]
    assert ready["event"] == "ready"
    assert len(ready["customers"]) == 2
    async with aiohttp.ClientSession() as http:
        for customer in ready["customers"]:
            assert list(customer) == ["customerId", "keyId", "secret", "token"]
            assert customer["token"] == f"{customer['keyId']}.{customer['secret']}"
            headers = {"Authorization": f"Bearer {customer['token']}"}
            async with http.get(f"{ready['url']}/api/v1/balance", headers=headers) as response:
                balance = await response.json()
            assert (balance["customerId"], balance["amount"]) == (customer["customerId"], "100000.00")
        headers = {"Authorization": f"Bearer {ready['adminToken']}"}
        path = f"/admin/v1/customers/{ready['customers'][0]['customerId']}"
        async with http.get(ready["url"] + path, headers=headers) as response:
            assert response.status == 200
        async with http.get(ready["exchangeUrl"] + "/healthz") as response:
            assert response.status == 200
    connection = await asyncpg.connect(ready["database"])
    assert await connection.fetchval("SELECT count(*) FROM broker.customer") == 2
    await connection.close()


async def test_what_a_data_folder_holds_is_for_its_owner_alone(served: tuple[Serving, Path]) -> None:
    folder = served[1]
    for name in ("secrets.json", "running.json", "demo.json"):
        assert (folder / name).stat().st_mode & 0o077 == 0, name


async def test_a_folder_and_a_port_belong_to_one_broker(served: tuple[Serving, Path], tmp_path: Path) -> None:
    running, folder = served
    url = running.ready["url"]
    second = await run("serve", "--port", 0, "--data", folder)
    assert (second.code, second.out) == (1, "")
    assert second.err == (
        f"broker: Another broker runs on the data folder {folder} (process {running.process.pid}, {url}). "
        "Stop it first, or name another folder with --data.\n"
    )
    port = url.rpartition(":")[2]
    same_port = await run("serve", "--port", port, "--data", tmp_path)
    assert (same_port.code, same_port.out) == (1, "")
    assert same_port.err == (
        f"broker: Cannot listen on 127.0.0.1:{port}: Address already in use. "
        "Name another port with --port, or 0 for a free one.\n"
    )
    exchange_port = await run(
        "exchange", "--port", port, "--data", tmp_path / "exchange", BROKER_WEBHOOK_SECRETS=SECRET
    )
    assert (exchange_port.code, exchange_port.out) == (1, "")
    assert exchange_port.err == f"broker: Cannot listen on 127.0.0.1:{port}: Address already in use.\n"


SECRET = "whsec_" + "A" * 44


async def test_the_commands_of_the_banner_work_as_they_are_pasted(dsn: str, tmp_path: Path) -> None:
    """And a second start on the same data shows the same customers: a pasted command goes on working."""
    async with serving("--demo", 2, "--json", "--data", tmp_path, "--database", dsn) as first:
        tokens = [customer["token"] for customer in first.ready["customers"]]
        admin_token = first.ready["adminToken"]
    if shutil.which("curl") is None:
        pytest.skip("there is no curl")
    async with serving("--demo", 2, "--data", tmp_path, "--database", dsn) as second:
        assert re.findall(r"customer \d+  token (\S+)", second.printed) == tokens
        assert f"Admin token  {admin_token}\n" in second.printed
        place, list_, balance = [line.strip() for line in second.printed.splitlines() if line.startswith("  curl")]
        placed = await shell(place)
        assert (placed["status"], placed["quantity"]) == ("PLACED", 10)
        placed_at = time.monotonic()
        while (trade := (await shell(list_))["trades"][0])["status"] != "FILLED":
            assert time.monotonic() - placed_at < 1.0, trade
        assert trade["tradeId"] == placed["tradeId"]
        assert (await shell(balance))["held"] == "0.00"


async def shell(command: str) -> Any:
    """What a command prints, run as a newcomer's shell would run it."""
    process = await asyncio.create_subprocess_exec("/bin/sh", "-c", command, stdout=asyncio.subprocess.PIPE)
    out, _ = await asyncio.wait_for(process.communicate(), WITHIN_S)
    assert process.returncode == 0, out
    return json.loads(out)


async def test_ctrl_c_ends_it_as_well(dsn: str, tmp_path: Path) -> None:
    async with serving("--json", "--data", tmp_path, "--database", dsn) as running:
        assert running.ready["customers"] == []
        running.process.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(running.process.wait(), STOPS_WITHIN_S) == 0
        assert not (tmp_path / "running.json").exists()


# ------------------------------------------------------------------ verify


async def test_verify_works_beside_a_running_broker_and_on_a_stopped_one(
    served: tuple[Serving, Path], tmp_path: Path
) -> None:
    running, folder = served
    rules = len(list(Path("broker/sql/verify").iterdir()))
    async with serving("--demo", 1, "--json", "--data", tmp_path / "stopped") as stopped:
        assert len(stopped.ready["customers"]) == 1
    verified = await asyncio.gather(
        run("verify", "--data", folder),
        run("verify", "--database", running.ready["database"]),
        run("verify", BROKER_DATABASE=running.ready["database"]),
        run("verify", "--data", tmp_path / "stopped"),
        run("verify", BROKER_DATA=str(folder)),
    )
    for each in verified:
        assert (each.code, each.err) == (0, "")
        *lines, last = each.out.splitlines()
        assert last == f"{rules} rules checked: all is well."
        assert [line[:8] for line in lines] == ["ok      "] * rules
    async with serving("--demo", 1, "--json", "--data", tmp_path / "stopped") as again:
        assert again.ready["customers"] == stopped.ready["customers"]


SPOILED = {
    "UPDATE account SET balance = balance + 1 WHERE owner_id = 1001 AND asset = '$USD'": (
        r"BROKEN  balances are their postings: first row owner_id=1001, asset=\$USD, balance=\d+, posted=\d+"
    ),
    "DELETE FROM execution": r"BROKEN  trades are their executions: first row trade_id=\S+, filled_quantity=1, .*executed=0.*",
    "UPDATE posting SET amount = amount - 1 WHERE owner_id = 1001 AND asset = '$USD'": (
        r"BROKEN  transfers sum to zero: first row transfer_id=\S+, asset=\$USD, excess=-1"
    ),
    "DELETE FROM event WHERE number = 2": r"BROKEN  events are gapless: first row trade_id=\S+, .*logged=2.*",
}


async def test_verify_names_the_first_row_that_breaks_a_rule(config: Config, dsn: str) -> None:
    async with run_broker(config) as broker:
        customer = await broker.customer()
        _, placed = await customer.place("BUY", "AAPL", 1)
        await customer.ended(placed["tradeId"])
        admin = Broker(broker.running, broker.http, re.sub(r"@/\w+", "@/postgres", dsn), config)
    original = re.findall(r"@/(\w+)", dsn)[0]
    for number, (spoil, finding) in enumerate(SPOILED.items()):
        copy = f"{original}_copy_{number}"
        await admin.fetch(f"CREATE DATABASE {copy} TEMPLATE {original}")
        spoiled = dsn.replace(f"@/{original}", f"@/{copy}")
        connection = await asyncpg.connect(spoiled, server_settings={"search_path": "broker"})
        await connection.execute(f"SET session_replication_role = replica; {spoil}")
        await connection.close()
        verified = await run("verify", "--database", spoiled)
        await admin.fetch(f"DROP DATABASE {copy}")
        assert (verified.code, verified.err) == (1, "")
        assert re.search(f"^{finding}$", verified.out, re.MULTILINE), verified.out
        assert re.search(r"\d+ rules checked, [1-9] broken\.\n$", verified.out)


# ------------------------------------------------------------------ customer


async def test_customers_are_managed_from_the_command_line(served: tuple[Serving, Path]) -> None:
    running, folder = served

    async def customer(*arguments: object) -> Any:
        ended = await run("customer", "--data", folder, *arguments)
        assert (ended.code, ended.err) == (0, ""), ended
        return json.loads(ended.out)

    created = await customer("create", "--name", "Ann Ünlü", "--cash", "100.50")
    id_ = created["customerId"]
    assert (await customer("credit", id_, "50.0001", "wire 7/a"))["balance"]["amount"] == "150.5001"
    assert (await customer("credit", id_, "50.0001", "wire 7/a"))["balance"]["amount"] == "150.5001"
    assert (await customer("debit", id_, "0.5", "wire 8"))["balance"]["amount"] == "150.0001"
    second = await customer("key", id_)
    assert second["keyId"] != created["keyId"]
    assert (await customer("revoke", id_, created["keyId"]))["keyId"] == created["keyId"]
    assert (await customer("suspend", id_))["status"] == "suspended"
    shown = await customer("show", id_)
    assert (shown["name"], shown["status"], shown["balance"]["available"]) == ("Ann Ünlü", "suspended", "150.0001")
    assert [key["revokedAt"] is None for key in shown["keys"]] == [False, True]
    assert (await customer("activate", id_))["status"] == "active"

    by_url = await run(
        "customer", "--url", running.ready["url"], "show", id_, BROKER_ADMIN_TOKEN=running.ready["adminToken"]
    )
    assert json.loads(by_url.out)["name"] == "Ann Ünlü"


REFUSED: dict[tuple[str, ...], str] = {
    ("show", "999"): "no_such_customer",
    ("show", "../../../healthz"): "no_such_customer",
    ("show", "1001/suspend"): "no_such_customer",
    ("show", "1001?x=1"): "no_such_customer",
    ("suspend", "1001#"): "no_such_customer",
    ("revoke", "1001", "../../1001"): "no_such_customer",
    ("create", "--cash", "a lot"): "invalid_request",
    ("debit", "1001", "1000000.00", "r"): "insufficient_funds",
}


async def test_what_the_broker_refuses_is_shown_with_exit_code_1(served: tuple[Serving, Path]) -> None:
    ended = await asyncio.gather(*(run("customer", "--data", served[1], *arguments) for arguments in REFUSED))
    assert [(each.code, each.err) for each in ended] == [(1, "")] * len(REFUSED)
    assert [json.loads(each.out)["code"] for each in ended] == list(REFUSED.values())


# ------------------------------------------------------------------ what cannot be done

NOWHERE = "postgresql://nobody@127.0.0.1:1/nothing"


@dataclass(frozen=True)
class Wrong:
    """A command line that cannot work, and how that is said."""

    command: str
    says: str
    code: int = 1
    variables: Mapping[str, str] | None = None


WRONG = [
    Wrong("", "the following arguments are required: COMMAND", 2),
    Wrong("trade", "invalid choice: 'trade'", 2),
    Wrong("serve --nonsense", "unrecognized arguments: --nonsense", 2),
    Wrong("serve --demo few", "invalid int value: 'few'", 2),
    Wrong("serve --demo -1", "--demo takes a number of customers from 0 to 1000, not -1."),
    Wrong("serve --port http", "port takes a whole number, not 'http'"),
    Wrong("serve --port 65536", "port must be 0 to 65535, not 65536"),
    Wrong("serve --place-wait-s nan", "place_wait_s must be above zero, not nan"),
    Wrong("serve --hours sometimes", "hours must be always or XNYS, not sometimes"),
    Wrong("serve --exchange localhost", "exchange must be a URL like http://127.0.0.1:8090, not 'localhost'"),
    Wrong("serve", "shards must be above zero, not 0", variables={"BROKER_SHARDS": "0"}),
    Wrong("serve", "admin_token must be", variables={"BROKER_ADMIN_TOKEN": "not a token"}),
    Wrong("serve --port 0 --host nosuch.invalid --data FOLDER", "Cannot listen on nosuch.invalid:0: "),
    Wrong("serve --port 0 --data FILE", "The data folder FILE cannot be used: "),
    Wrong("serve --port 0 --data FILE/inside", "The data folder FILE/inside cannot be used: "),
    Wrong("serve --port 0 --data FOLDER --database " + NOWHERE, "The database cannot be reached: "),
    Wrong("serve --port 0 --data FOLDER --database nonsense", "The database cannot be reached: "),
    Wrong(
        "serve --port 0 --data FOLDER --exchange http://127.0.0.1:1 --database DSN",
        "BROKER_WEBHOOK_SECRETS cannot be used: ",
        variables={"BROKER_WEBHOOK_SECRETS": ","},
    ),
    Wrong("verify --data FOLDER/none", "There is no broker's database in FOLDER/none. Name its folder with --data."),
    Wrong("verify --data FILE", "There is no broker's database in FILE. Name its folder with --data."),
    Wrong("verify --database " + NOWHERE, "The database cannot be verified: "),
    Wrong("verify --database nonsense", "The database cannot be verified: "),
    Wrong("verify --data x --database y", "not allowed with argument", 2),
    Wrong("customer", "the following arguments are required: ACTION", 2),
    Wrong("customer create 7", "unrecognized arguments: 7", 2),
    Wrong("customer --data FOLDER/none show 1", "No broker runs on FOLDER/none"),
    Wrong("customer --data FILE show 1", "No broker runs on FILE"),
    Wrong("customer --data FOLDER/none --url http://127.0.0.1:1 show 1", "No broker runs on FOLDER/none, so its admin token"),
    Wrong("customer --url http://127.0.0.1:1 show 1", "does not answer: ", variables={"BROKER_ADMIN_TOKEN": "t"}),
    Wrong("customer --url nonsense show 1", "does not answer: ", variables={"BROKER_ADMIN_TOKEN": "t"}),
    Wrong("customer --url OTHER show 1", "is no stockbroker: ", variables={"BROKER_ADMIN_TOKEN": "t"}),
    Wrong("exchange --port http", "invalid int value: 'http'", 2),
    Wrong("exchange --lose 2", "The exchange cannot misbehave like that: "),
    Wrong("exchange --port 65536 --data FOLDER/e", "port must be 0 to 65535, not 65536", variables={"BROKER_WEBHOOK_SECRETS": SECRET}),
    Wrong("exchange", "BROKER_WEBHOOK_SECRETS cannot be used: ", variables={"BROKER_WEBHOOK_SECRETS": "secret"}),
    Wrong("exchange", "log level must be debug, info, warning or error, not loud", variables={"BROKER_LOG_LEVEL": "loud"}),
]  # fmt: skip


async def test_what_cannot_be_done_is_said_in_a_sentence(dsn: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()

    async def page(_: web.Request) -> web.Response:
        return web.Response(text="<html>", content_type="text/html")

    app = web.Application()
    app.router.add_get("/{path:.*}", page)
    async with TestServer(app) as other:
        places = {
            "FILE": str(tmp_path / "file"),
            "FOLDER": str(tmp_path / "folder"),
            "DSN": dsn,
            "OTHER": str(other.make_url("/")),
        }

        def placed(text: str) -> str:
            for word, place in places.items():
                text = text.replace(word, place)
            return text

        async def attempt(number: int, wrong: Wrong) -> Ended:
            command = wrong.command.replace("--data FOLDER ", f"--data FOLDER/{number} ")
            return await run(*placed(command).split(), **(wrong.variables or {}))

        ended = await asyncio.gather(*(attempt(number, wrong) for number, wrong in enumerate(WRONG)))
    for wrong, each in zip(WRONG, ended, strict=True):
        assert (each.code, each.out) == (wrong.code, ""), (wrong, each)
        *usage, sentence = each.err.splitlines()
        assert placed(wrong.says) in sentence, (wrong, each)
        assert "Traceback" not in each.err
        assert (usage == [] and sentence.startswith("broker: ")) or wrong.code == 2, (wrong, each)
