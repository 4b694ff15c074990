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

from broker.cli import parser
from broker.config import Config
from broker.data_folder import read_json, shared_webhook_secret, write_private
from broker.verify import rules
from tests.conftest import Broker, eventually, run_broker

BROKER = Path(sys.executable).with_name("broker")
WITHIN_S = 90.0
STOPS_WITHIN_S = 15.0
AT_ONCE = asyncio.Semaphore(3)
"""Processes that start at the same time: each takes half a second of one core."""


@dataclass(frozen=True)
class Ended:
    """A process that has ended."""

    code: int
    out: str
    err: str


SECRET = "whsec_" + "A" * 44


def environment(**changes: str) -> dict[str, str]:
    """Ours without any setting of a broker; nothing may happen in the folder of this machine's own broker."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("BROKER_")}
    return kept | {"COLUMNS": "100", "BROKER_DATA": "/dev/null/none", "BROKER_WEBHOOK_SECRETS": SECRET} | changes


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
async def serving(*arguments: object, ends_by: signal.Signals = signal.SIGTERM) -> AsyncIterator[Serving]:
    """A `broker serve` until the block ends; then a signal must end it in time, with code 0 and no traceback."""
    process = await start("serve", "--port", 0, "--log-level", "warning", *arguments)
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
        process.send_signal(ends_by)
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
    "": ("serve", "exchange", "record", "customer", "verify", "BROKER_ADMIN_TOKEN"),
    "serve": ("--demo", "--json", "--port", "[8080]", "--database", "--exchange", "limits:", "--place-wait-s"),
    "exchange": ("--port", "[8090]", "--hours", "--data", "misbehaviour:", "--lose", "--duplicates", "--closed"),
    "record": ("url", "file", "--seconds", "--symbols", "--force"),
    "customer": ("create", "show", "suspend", "activate", "key", "revoke", "credit", "debit", "--url", "--data"),
    "customer create": ("--name", "--cash"),
    "customer credit": ("customer_id", "amount", "reference"),
    "verify": ("--data", "--database", "Works beside a running broker"),
}


@pytest.mark.parametrize("command", HELP)
def test_every_command_explains_itself(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as ended:
        parser().parse_args([*command.split(), "--help"])
    out, err = capsys.readouterr()
    assert (ended.value.code, err) == (0, "")
    assert out.startswith(f"usage: broker {command}".rstrip())
    assert [word for word in HELP[command] if word not in " ".join(out.split())] == []
    assert max(len(line) for line in out.splitlines()) <= 100


async def test_it_tells_its_version() -> None:
    version = await run("--version")
    assert re.fullmatch(r"stockbroker \d+\.\d+\.\d+\n", version.out)


# ------------------------------------------------------------------ serve


async def test_ready_is_one_line_of_json_with_what_a_program_needs(served: tuple[Serving, Path]) -> None:
    ready = served[0].ready
    assert served[0].printed.count("\n") == 1
    assert list(ready) == ["event", "url", "adminUrl", "adminToken", "exchangeUrl", "database", "customers"]
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
    assert same_port.err.startswith(f"broker: Cannot listen on 127.0.0.1:{port}: Address already in use")
    assert same_port.err.endswith(". Name another port with --port, or 0 for a free one.\n")
    exchange = await run("exchange", "--port", port, "--data", tmp_path / "exchange")
    assert (exchange.code, exchange.out) == (1, "")
    sentence = (
        f"broker: The exchange cannot use 127.0.0.1:{port}: Address already in use. Name another port with --port."
    )
    assert exchange.err.splitlines()[-1] == sentence


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
        place, list_, balance, positions = [
            line.strip() for line in second.printed.splitlines() if line.startswith("  curl")
        ]
        placed = await shell(place)
        assert (placed["status"], placed["quantity"]) == ("PLACED", 10)
        placed_at = time.monotonic()
        while (trade := (await shell(list_))["trades"][0])["status"] != "FILLED":
            assert time.monotonic() - placed_at < 10.0, trade
        assert trade["tradeId"] == placed["tradeId"]
        assert (await shell(balance))["held"] == "0.00"
        assert [each["quantity"] for each in (await shell(positions))["positions"]] == [10]


async def shell(command: str) -> Any:
    """What a command prints, run as a newcomer's shell would run it."""
    process = await asyncio.create_subprocess_exec("/bin/sh", "-c", command, stdout=asyncio.subprocess.PIPE)
    out, _ = await asyncio.wait_for(process.communicate(), WITHIN_S)
    assert process.returncode == 0, out
    return json.loads(out)


async def test_ctrl_c_ends_it_as_well(dsn: str, tmp_path: Path) -> None:
    async with serving("--json", "--data", tmp_path, "--database", dsn, ends_by=signal.SIGINT) as running:
        assert running.ready["customers"] == []
        assert read_json(tmp_path / "running.json")["url"] == running.ready["url"]
    assert read_json(tmp_path / "running.json") == {}


# ------------------------------------------------------------------ verify


async def test_verify_works_beside_a_running_broker_and_on_a_stopped_one(
    served: tuple[Serving, Path], tmp_path: Path
) -> None:
    running, folder = served
    number = len(list(rules()))
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
        assert last == f"{number} rules checked: all is well."
        assert [line[:8] for line in lines] == ["ok      "] * number
    async with serving("--demo", 1, "--json", "--data", tmp_path / "stopped") as again:
        assert again.ready["customers"] == stopped.ready["customers"]


SPOILED = {
    "UPDATE account SET balance = balance + 1 WHERE owner_id = 1001 AND asset = '$USD'": (
        r"BROKEN  balances are their postings: first row owner_id=1001, asset=\$USD, balance=\d+, posted=\d+, .+"
    ),
    "DELETE FROM execution": r"BROKEN  trades are their executions: first row trade_id=\S+, filled_quantity=1, .+",
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
    credited, debited, issued, revoked, suspended = await asyncio.gather(
        customer("credit", id_, "50.0001", "wire 7/a"),
        customer("debit", id_, "0.5", "wire 8"),
        customer("key", id_),
        customer("revoke", id_, created["keyId"]),
        customer("suspend", id_),
    )
    assert (credited["amount"], debited["amount"]) == ("50.0001", "-0.50")
    assert issued["token"] == f"{issued['keyId']}.{issued['secret']}"
    assert (revoked["keyId"], suspended["status"]) == (created["keyId"], "suspended")
    shown = await customer("show", id_)
    assert (shown["name"], shown["status"], shown["balance"]["available"]) == ("Ann Ünlü", "suspended", "150.0001")
    assert {key["keyId"]: key["revokedAt"] is None for key in shown["keys"]} == {
        created["keyId"]: False,
        issued["keyId"]: True,
    }
    assert (await customer("activate", id_))["status"] == "active"

    by_url = await run(
        "customer", "--url", running.ready["url"], "show", id_, BROKER_ADMIN_TOKEN=running.ready["adminToken"]
    )
    assert json.loads(by_url.out) == shown | {"status": "active"}


REFUSED: dict[tuple[str, ...], str] = {
    ("show", "999"): "no_such_customer",
    ("show", "../../../healthz"): "no_such_customer",
    ("show", "1001?x=1"): "no_such_customer",
    ("suspend", "1001#"): "no_such_customer",
    ("revoke", "1001", "../../1001"): "no_such_customer",
    ("debit", "1001", "1000000.00", "r"): "insufficient_funds",
}


async def test_what_the_broker_refuses_is_shown_with_exit_code_1(served: tuple[Serving, Path]) -> None:
    ended = await asyncio.gather(*(run("customer", *arguments, "--data", served[1]) for arguments in REFUSED))
    assert [(each.code, each.out) for each in ended] == [(1, "")] * len(REFUSED)
    assert [json.loads(each.err)["code"] for each in ended] == list(REFUSED.values())


# ------------------------------------------------------------------ what cannot be done

NOWHERE = "postgresql://nobody@127.0.0.1:1/nothing"


@dataclass(frozen=True)
class Wrong:
    """A command line that cannot work, and how that is said."""

    command: str
    says: str
    code: int = 1
    variables: Mapping[str, str] | None = None


OPERATOR = {"BROKER_ADMIN_TOKEN": "t"}
WRONG = [
    Wrong("", "the following arguments are required: COMMAND", 2),
    Wrong("serve --nonsense", "unrecognized arguments: --nonsense", 2),
    Wrong("serve --demo -1", "--demo takes a number of customers from 0 to 1000, not -1."),
    Wrong("serve --port http", "port takes a whole number, not 'http'"),
    Wrong("serve --hours sometimes", "hours must be always or XNYS, not sometimes"),
    Wrong("serve", "shards must be above zero, not 0", variables={"BROKER_SHARDS": "0"}),
    Wrong("serve", "admin_token must be", variables={"BROKER_ADMIN_TOKEN": "not a token"}),
    Wrong("serve --port 0 --data FOLDER --host nosuch.invalid", "Cannot listen on nosuch.invalid:0: "),
    Wrong("serve --port 0 --data FILE", "The data folder FILE cannot be used: "),
    Wrong("serve --port 0 --data FILE/inside", "The data folder FILE/inside cannot be used: "),
    Wrong(f"serve --port 0 --data FOLDER --database {NOWHERE}", "The database cannot be reached: "),
    Wrong("serve --port 0 --data FOLDER --database nonsense", "The database cannot be reached: "),
    Wrong(
        "serve --port 0 --data FOLDER --exchange http://127.0.0.1:1 --database DSN",
        "BROKER_WEBHOOK_SECRETS cannot be used: there is no secret in it.",
        variables={"BROKER_WEBHOOK_SECRETS": ","},
    ),
    Wrong("verify --data FILE", "There is no broker's database in FILE. Name its folder with --data.", 2),
    Wrong(f"verify --database {NOWHERE}", "The database cannot be verified: ", 2),
    Wrong("verify --database nonsense", "The database cannot be verified: ", 2),
    Wrong("customer --data FOLDER show 1", "The folder FOLDER has no running broker, so the broker's URL"),
    Wrong("customer --data FILE show 1", "The folder FILE has no running broker, so the broker's URL"),
    Wrong(
        "customer --data FOLDER --url http://127.0.0.1:1 show 1",
        "The folder FOLDER has no running broker, so the broker's admin token",
    ),
    Wrong("customer --url http://127.0.0.1:1 show 1", "does not answer (", variables=OPERATOR),
    Wrong("customer --url nonsense show 1", "does not answer (", variables=OPERATOR),
    Wrong("customer --url OTHER show 1", "is no stockbroker: ", variables=OPERATOR),
    Wrong("exchange --port 65536 --data FOLDER", "port must be 0 to 65535, not 65536"),
    Wrong("exchange --port 0 --data FOLDER --lose 2", "The exchange cannot misbehave like that: "),
    Wrong("exchange --port 0 --data FOLDER --tick-ms -1", "--tick-ms and --fill-delay-ms take milliseconds from 0."),
    Wrong("exchange --port 0 --data FILE", "The exchange cannot use FILE"),
    Wrong("exchange", "BROKER_WEBHOOK_SECRETS cannot be used: ", variables={"BROKER_WEBHOOK_SECRETS": "secret"}),
    Wrong("exchange", "log level must be debug, info, warning or error", variables={"BROKER_LOG_LEVEL": "loud"}),
]


@pytest.mark.timeout(400)
async def test_what_cannot_be_done_is_said_in_a_sentence(dsn: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    write_private(file, {})

    async def page(_: web.Request) -> web.Response:
        return web.Response(text="<html>", content_type="text/html")

    app = web.Application()
    app.router.add_get("/{path:.*}", page)
    async with TestServer(app) as other:

        def placed(text: str, number: int) -> str:
            places = {"FILE": file, "FOLDER": tmp_path / str(number), "DSN": dsn, "OTHER": other.make_url("/")}
            for word, place in places.items():
                text = text.replace(word, str(place))
            return text

        attempts = [
            run(*placed(wrong.command, number).split(), **(wrong.variables or {})) for number, wrong in enumerate(WRONG)
        ]
        ended = await asyncio.gather(*attempts)
        expected = [placed(wrong.says, number) for number, wrong in enumerate(WRONG)]
    for wrong, says, each in zip(WRONG, expected, ended, strict=True):
        assert (each.code, each.out) == (wrong.code, ""), (wrong, each)
        *before, sentence = each.err.splitlines()
        assert says in sentence, (wrong, each)
        assert "Traceback" not in each.err
        if wrong.code == 1:
            assert sentence.startswith("broker: ")
            assert [line for line in before if not line.startswith('{"')] == [], "no more than the log and the sentence"


async def test_who_starts_at_the_same_time_agrees_on_one_secret(tmp_path: Path) -> None:
    for number in range(20):
        folder = tmp_path / str(number)
        found = await asyncio.gather(*(asyncio.to_thread(shared_webhook_secret, folder) for _ in range(8)))
        assert set(found) == {shared_webhook_secret(folder)}


async def test_a_broker_goes_on_when_nobody_reads_what_it_prints(dsn: str, tmp_path: Path) -> None:
    command = f"{BROKER} serve --demo 1 --port 0 --data {tmp_path} --database '{dsn}' | true"
    process = await asyncio.create_subprocess_exec(
        "/bin/sh", "-c", f"{command} & wait", stderr=asyncio.subprocess.PIPE, start_new_session=True
    )
    try:
        url = await eventually(lambda: _running_url(tmp_path), within_s=20)
        async with aiohttp.ClientSession() as http, http.get(f"{url}/readyz") as response:
            assert response.status == 200
    finally:
        os.kill(read_json(tmp_path / "running.json")["pid"], signal.SIGTERM)
        _, err = await asyncio.wait_for(process.communicate(), WITHIN_S)
    assert b"Traceback" not in err


async def _running_url(folder: Path) -> Any:
    return read_json(folder / "running.json").get("url")


async def test_demo_customers_of_one_database_survive_a_start_on_another(dsn: str, tmp_path: Path) -> None:
    async with serving("--demo", 1, "--json", "--data", tmp_path, "--database", dsn) as first:
        mine = first.ready["customers"]
    async with serving("--demo", 1, "--json", "--data", tmp_path) as embedded:
        assert embedded.ready["customers"] != mine
    async with serving("--demo", 1, "--json", "--data", tmp_path, "--database", dsn) as again:
        assert again.ready["customers"] == mine
