"""What is said says what is wrong, and what would be right: answers, start sentences, alerts of a first time."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from prometheus_client.parser import text_string_to_metric_families

from broker.audit import CHAINS
from broker.cli import main
from broker.commands.verify import _read_heads
from broker.config import Config, ConfigError, unknown_variables
from broker.listeners import ListenError, open_listeners
from broker.metrics import Metrics
from broker.simulator.bench_wire import ADVANCE_MAX_S
from tests.conftest import Broker, run_broker
from tests.integration.test_cli import run
from tests.integration.test_controls import command

__all__ = ["command"]  # a fixture

ALERTS = Path(__file__).parents[2] / "ops" / "alerts.yml"
ANY_ROUTE = "broker_http_requests_total"
"""Its routes are known to nobody before they are asked for; its alert is about many in each second for minutes."""

# ------------------------------------------------------------------ alerts


def test_what_an_alert_sees_grow_is_there_before_it_does() -> None:
    """A series that begins at 30 has not increased."""
    families = text_string_to_metric_families(Metrics().exposition().decode())
    there = [(sample.name, sample.labels) for family in families for sample in family.samples]
    rules = [rule for group in yaml.safe_load(ALERTS.read_text("utf-8"))["groups"] for rule in group["rules"]]
    asked = [
        (name, dict(re.findall(r'(\w+)="([^"]*)"', inside)))
        for rule in rules
        for name, inside in re.findall(r"\b(?:rate|increase)\((\w+)(?:\{([^}]*)\})?\[", rule["expr"])
        if name != ANY_ROUTE
    ]
    assert len(asked) > 5
    for name, labels in asked:
        assert any(found == name and labels.items() <= those.items() for found, those in there), (name, labels)


def test_every_reason_that_is_known_is_counted_from_the_start() -> None:
    families = text_string_to_metric_families(Metrics().exposition().decode())
    names = {"broker_webhook_refusals_total", "broker_overloaded_total", "broker_sweep_findings_total"}
    samples = [sample for family in families for sample in family.samples if sample.name in names]
    assert {(*sample.labels.values(), sample.value) for sample in samples} == {
        *((why, 0) for why in ("bad_signature", "invalid_event", "too_many_events", "late_asked_instead")),
        *((queue, 0) for queue in ("door", "shard", "customer", "open_trades", "connections")),
        *((found, 0) for found in ("known", "denied", "lost_after_partial", "resent", "withdrawn", "open_after_end")),
    }


# ------------------------------------------------------------------ heads

HASH = "5f" * 32
HEADS: dict[str, object] = {str(chain): [chain, HASH] for chain in range(CHAINS)}
WRONG_HEADS: list[tuple[object, str]] = [
    ({}, "chain 0 is missing"),
    ({chain: head for chain, head in HEADS.items() if chain != "16"}, "chain 16 is missing"),
    (HEADS | {"17": [1, HASH]}, "there is no chain '17'"),
    (HEADS | {"01": [1, HASH]}, "there is no chain '01'"),
    (HEADS | {"3": [-1, HASH]}, f"chain 3 has no number from 0 to {2**63 - 1}"),
    (HEADS | {"3": [2**63, HASH]}, f"chain 3 has no number from 0 to {2**63 - 1}"),
    (HEADS | {"3": [True, HASH]}, f"chain 3 has no number from 0 to {2**63 - 1}"),
    (HEADS | {"3": ["1", HASH]}, "chain 3 has not one number and one hash"),
    (HEADS | {"3": [1]}, "chain 3 has not one number and one hash"),
    (HEADS | {"3": [1, HASH[1:]]}, "chain 3 has no hash of 64 hex digits"),
    (HEADS | {"3": [0, "g" + HASH[1:]]}, "chain 3 has no hash of 64 hex digits"),
]


@pytest.mark.parametrize(("heads", "wrong"), WRONG_HEADS)
def test_heads_that_would_prove_nothing_are_refused(
    heads: object, wrong: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "heads.json"
    path.write_text(json.dumps({"heads": heads}))
    assert main(["verify", "--data", str(tmp_path), "--heads", str(path)]) == 2
    said = capsys.readouterr().err
    assert said == f"broker: {path} has no heads as `broker audit heads` writes them: {wrong}.\n"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"heads": []}', '{"heads": [[1, 2]]}', "[" * 100_000])
def test_what_is_no_file_of_heads_is_refused(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "heads.json"
    path.write_text(text)
    assert main(["verify", "--data", str(tmp_path), "--heads", str(path)]) == 2
    assert capsys.readouterr().err.startswith(f"broker: {path} has no heads as `broker audit heads` writes them (")


def test_heads_as_they_are_written_are_read(tmp_path: Path) -> None:
    path = tmp_path / "heads.json"
    path.write_text(json.dumps({"heads": HEADS | {"3": [2**63 - 1, HASH.upper()]}}))
    wanted = {str(chain): (chain, HASH) for chain in range(CHAINS)} | {"3": (2**63 - 1, HASH)}
    assert _read_heads(path) == wanted


# ------------------------------------------------------------------ where it listens


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("host", ["999.1.1.1", "nosuch.invalid", "192.0.2.1"])
def test_a_host_that_is_not_ours_is_what_is_wrong(host: str, shared: bool) -> None:
    more = {"database": "postgres://nowhere", "exchange": "http://127.0.0.1:1"} if shared else {}
    config = Config(host=host, port=0, reuse_port=shared, **more)  # type: ignore[arg-type]
    sentence = rf"^Cannot listen on {re.escape(host)}:0: [\w ]+\. Name an address of this machine with --host\.$"
    with pytest.raises(ListenError, match=sentence), open_listeners(config):
        pass


@pytest.mark.parametrize("name", ["admin_listen", "callback_listen"])
def test_so_it_is_on_a_port_of_its_own(name: str) -> None:
    config = Config(port=0, **{name: "192.0.2.1:0"})  # type: ignore[arg-type]
    sentence = rf"Name an address of this machine with --{name.replace('_', '-')}\.$"
    with pytest.raises(ListenError, match=sentence), open_listeners(config):
        pass


# ------------------------------------------------------------------ the admin token

TOKENS = [
    ("with a blank in its middle", "one with a blank, or another character that is none"),
    ("tökens-are-ascii-only", "one with a blank, or another character that is none"),
    ("short", "one of 5, which can be guessed"),
    ("x" * 257, "one of 257"),
]


@pytest.mark.parametrize(("token", "wrong"), TOKENS)
def test_what_is_wrong_with_an_admin_token_is_said_without_it(token: str, wrong: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Config(admin_token=token)
    assert (
        str(refused.value) == f"admin_token must be 16 to 256 visible ASCII characters: BROKER_ADMIN_TOKEN has {wrong}"
    )


# ------------------------------------------------------------------ answers

ADVANCE = f"seconds must be a number of seconds above 0, at most {ADVANCE_MAX_S} (40 years)."


@pytest.mark.parametrize("seconds", [-1, 0, ADVANCE_MAX_S + 1, "60", None, True])
async def test_a_time_that_cannot_pass_is_told_what_can(broker: Broker, seconds: object) -> None:
    answer = await broker.operator.call("POST", "/admin/v1/exchange/clock/advance", {"seconds": seconds})
    assert (answer[0], answer[1]["error"]) == (400, ADVANCE)


async def test_parts_of_seconds_pass(broker: Broker) -> None:
    for seconds in (0.5, 1, 1e-3):
        status, _ = await broker.operator.call("POST", "/admin/v1/exchange/clock/advance", {"seconds": seconds})
        assert status == 200


PARTIAL = "partial takes either quantity or parts (a list of 1 to 100 quantities), and maybe ms from 1 to 600000"
STEPS: list[tuple[object, str]] = [
    ({"do": "partial"}, PARTIAL),
    ({"do": "partial", "quantity": 0}, PARTIAL),
    ({"do": "partial", "quantity": 1, "parts": [1]}, PARTIAL),
    ({"do": "delay"}, "delay takes ms from 1 to 600000"),
    ({"do": "reject", "reason": ""}, "reject takes a reason of 1 to 200 characters, or nothing"),
    ({"do": "fill", "ms": 5}, "fill takes nothing"),
    ({"do": "explode"}, "do must be one of reject, partial, delay, fill"),
    ({"do": ["fill"]}, "do must be one of reject, partial, delay, fill"),
    ({}, "do must be one of reject, partial, delay, fill"),
    ("fill", "do must be one of reject, partial, delay, fill"),
]


async def test_a_step_that_cannot_be_used_is_named_with_what_it_takes(broker: Broker) -> None:
    path = "/admin/v1/exchange/script"
    for step, wrong in STEPS:
        body = {"orders": [{"do": "fill"}, step]}
        status, answer = await broker.operator.call("POST", path, body)
        assert (status, answer["error"]) == (400, f"Step 2 of orders cannot be used: {wrong}."), step
    for orders in ([], "fill", None):
        status, answer = await broker.operator.call("POST", path, {"orders": orders})
        assert (status, answer["error"][:30]) == (400, "orders must be a list of steps")
    assert await broker.operator.call("GET", path) == (200, {"orders": []})


async def test_an_overlap_is_told_both_its_bounds(broker: Broker) -> None:
    _, made = await broker.operator.call("POST", "/admin/v1/customers", {})
    path = f"/admin/v1/customers/{made['customerId']}/keys/{made['keyId']}/rotate"
    for overlap_s in (-1, -1e-9, 2_592_001, 1e300):
        status, answer = await broker.operator.call("POST", path, {"overlap_s": overlap_s})
        wanted = "overlap_s must be a number of seconds from 0 to 2592000."
        assert (status, answer["error"]) == (400, wanted), overlap_s
    assert (await broker.operator.call("POST", path, {"overlap_s": 2_592_000}))[0] == 201


async def test_a_key_is_spoken_of_only_where_one_is_asked_for(broker: Broker) -> None:
    cash = {"amount": "1.00", "reference": "r"}
    for customer in ("999999", "nobody"):
        one = f"/admin/v1/customers/{customer}"
        for method, path, body in (
            ("GET", one, None),
            ("POST", f"{one}/suspend", None),
            ("POST", f"{one}/activate", None),
            ("POST", f"{one}/keys", None),
            ("POST", f"{one}/credits", cash),
            ("POST", f"{one}/debits", cash),
        ):
            status, answer = await broker.operator.call(method, path, body)
            assert (status, answer["error"]) == (404, "There is no customer with this id."), path
        for method, path in (("DELETE", f"{one}/keys/key_0"), ("POST", f"{one}/keys/key_0/rotate")):
            status, answer = await broker.operator.call(method, path)
            assert (status, answer["error"]) == (404, "There is no customer, or no key of it, with this id."), path


async def test_a_webhook_to_the_machine_itself_is_refused_by_name(with_settings: Callable[..., Config]) -> None:
    async with run_broker(with_settings(hook_addresses="public")) as broker:
        customer = await broker.customer()
        for host in ("localhost", "LOCALHOST", "localhost.", "a.localhost", "a.b.localhost.:8443"):
            status, answer = await customer.call("POST", "/api/v1/webhooks", {"url": f"https://{host}/x"})
            assert (status, answer["error"]) == (400, "url must lead to a public address."), host
        for host in ("localhost.example", "notlocalhost.example"):
            assert (await customer.call("POST", "/api/v1/webhooks", {"url": f"https://{host}/x"}))[0] == 201


async def test_where_any_address_is_allowed_the_machine_itself_is(with_settings: Callable[..., Config]) -> None:
    async with run_broker(with_settings(hook_addresses="any")) as broker:
        customer = await broker.customer()
        assert (await customer.call("POST", "/api/v1/webhooks", {"url": "http://localhost:1/x"}))[0] == 201


async def test_so_many_accounts_are_told_both_bounds(broker: Broker) -> None:
    for count in (-1, 0, 1_001, 10**18):
        status, answer = await broker.operator.call("POST", "/admin/v1/accounts", {"count": count, "cash": "1.00"})
        assert (status, answer["error"]) == (400, "count must be a whole number from 1 to 1000.")


async def test_a_switch_of_what_nobody_lists_is_on_and_says_so(broker: Broker, command: Callable[..., Any]) -> None:
    note = "No exchange lists ZZZZ, as far as is known."
    for scope in ("halt:ZZZZ", "restrict:ZZZZ"):
        on = {"scope": scope, "engaged": True, "reason": "x"}
        path = f"/admin/v1/controls/{scope}"
        assert await broker.operator.call("PUT", path, {"reason": "x"}) == (200, {**on, "note": note})
        assert await command("control", "on", scope, "--reason", "x") == (0, {**on, "note": note})
        _, cancelled = await broker.operator.call("PUT", path, {"reason": "x", "cancel_open": True})
        assert (cancelled["cancelling"], cancelled["note"]) == (0, note)
    _, switches = await broker.operator.call("GET", "/admin/v1/controls")
    assert [each["scope"] for each in switches["controls"]] == ["halt:ZZZZ", "restrict:ZZZZ"]
    for scope in ("all", "halt:AAPL", "restrict:AAPL"):
        _, answer = await broker.operator.call("PUT", f"/admin/v1/controls/{scope}", {"reason": "x"})
        assert "note" not in answer


# ------------------------------------------------------------------ variables


def test_a_variable_that_is_no_setting_is_found_and_no_other() -> None:
    known = ["BROKER_PORT", "BROKER_DATABASE_FILE", "BROKER_ADMIN_TOKEN", "BROKER_ADMIN_TOKEN_FILE"]
    known += ["BROKER_WEBHOOK_SECRETS", "BROKER_URL", "PATH", "MY_BROKER_X", "BROKER"]
    assert unknown_variables(dict.fromkeys(known, "x")) == []
    assert unknown_variables({"BROKER_PROT": "8080", "BROKER_A_FILE": "x"}) == ["BROKER_A_FILE", "BROKER_PROT"]


async def test_a_misspelt_variable_is_told_of_at_the_start_without_its_value(tmp_path: Path) -> None:
    host = ("--host", "999.1.1.1")  # so that it ends at once
    ended = await run("serve", "--port", 0, *host, "--data", tmp_path, BROKER_PROT="planted")
    told = json.loads(ended.err.splitlines()[0])
    assert (told["event"], told["level"], told["name"]) == ("config.unknown_variable", "warning", "BROKER_PROT")
    assert "planted" not in ended.err
