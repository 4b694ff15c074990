"""Keys: what each is good for, how it ends, how another takes its place, and that every process hears of it at once."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from broker import cli
from broker.auth import Authenticator, Caller, NotAuthenticated, Scope
from broker.config import Config
from broker.core.types import CustomerId
from broker.db import Database
from broker.gate import Gate, Need, Undeclared, need_of, scopes_of
from tests import documented
from tests.conftest import Broker, Client, eventually, run_broker

ORDER = {"symbol": "AAPL", "side": "buy", "quantity": 1, "order_type": "limit", "price": "150.00"}


def code(answer: tuple[int, Any]) -> tuple[int, Any]:
    return answer[0], answer[1].get("code") if answer[1] else None


def key_id(client: Client) -> str:
    return str(client.token).partition(".")[0]


async def issue(broker: Broker, customer: Client, **wanted: object) -> Client:
    """The same customer with one more key."""
    path = f"/admin/v1/customers/{customer.customer_id}/keys"
    status, issued = await broker.operator.call("POST", path, wanted or None)
    assert status == 201, issued
    return replace(customer, token=issued["token"])


async def issue_operator_key(broker: Broker, **wanted: object) -> Client:
    status, issued = await broker.operator.call("POST", "/admin/v1/keys", wanted or None)
    assert status == 201, issued
    return replace(broker.operator, token=issued["token"])


async def expire(broker: Broker, client: Client) -> None:
    """Its time is over: as a process with another clock would have it."""
    await broker.fetch("UPDATE api_key SET expires_at = now() - interval '1 second' WHERE key_id = $1", key_id(client))


# ------------------------------------------------------------------ scopes


def test_a_route_of_which_nothing_says_who_may_call_it_stops_the_start() -> None:
    authenticator = Authenticator(Database("", Config()), "admin", Config())
    for method, path in (("GET", "/api/v2/orders"), ("GET", "/admin"), ("POST", "/healthz"), ("GET", "/orders/{id}")):
        with pytest.raises(Undeclared, match=f"who may call {method} {path}"):
            Gate(authenticator, Config(), [web.route(method, path, nothing)])
    Gate(authenticator, Config(), [web.get("/healthz", nothing)])


async def nothing(_: web.Request) -> web.Response:
    return web.Response()


def test_whatever_may_change_something_needs_a_key_that_may_trade() -> None:
    needs = {(route.method, route.path): need_of(route.method, route.path) for route in documented.routes()}
    assert len(needs) > 80
    reading = {each for each in needs if needs[each] is Need.READ}
    trading = {each for each in needs if needs[each] is Need.TRADE}
    assert {method for method, _ in reading - {("POST", "/api/v1/orders/estimate")}} == {"GET"}
    assert {method for method, _ in trading} == {"POST", "PUT", "PATCH", "DELETE"}
    assert {path for (_, path), need in needs.items() if need is Need.OPERATOR} == {
        path for _, path in needs if path.startswith("/admin/")
    }


async def test_a_key_that_may_read_changes_nothing_and_one_that_may_trade_reads_nothing(broker: Broker) -> None:
    customer = await broker.customer()
    reader, trader = await issue(broker, customer, scopes=["read"]), await issue(broker, customer, scopes=["trade"])
    assert (await reader.call("GET", "/api/v1/balance"))[0] == 200
    status, refused = await reader.call("POST", "/api/v1/orders", ORDER)
    assert (status, refused["code"]) == (403, "missing_scope")
    assert refused["error"] == 'This key lacks the scope "trade": it has read.'
    assert code(await reader.call("DELETE", "/api/v1/orders")) == (403, "missing_scope")
    assert code(await reader.call("POST", "/api/v1/webhooks", {"url": "https://example.com"})) == (403, "missing_scope")

    status, placed = await trader.call("POST", "/api/v1/orders", ORDER)
    assert status == 201
    assert code(await trader.call("GET", f"/api/v1/orders/{placed['id']}")) == (403, "missing_scope")
    assert (await trader.call("DELETE", f"/api/v1/orders/{placed['id']}"))[0] in {200, 202, 204}
    assert (await reader.call("POST", "/api/v1/orders/estimate", ORDER))[0] == 200, "it changes nothing"

    status, refused = await reader.call("DELETE", "/v2/orders")
    assert (status, refused) == (403, {"code": 40310000, "message": "forbidden: " + refused["message"][11:]})
    assert 'lacks the scope "trade"' in refused["message"]


async def test_updates_go_to_a_webhook_only_by_a_key_that_may_read_them_and_trade(broker: Broker) -> None:
    """Else a key that may only trade would read everything: at a URL of its own."""
    customer = await broker.customer()
    trader, reader = await issue(broker, customer, scopes=["trade"]), await issue(broker, customer, scopes=["read"])
    body = {"url": "https://example.com/events"}
    status, created = await customer.call("POST", "/api/v1/webhooks", body | {"since": 0})
    assert status == 201
    one = f"/api/v1/webhooks/{created['webhook_id']}"
    for path, wanted in (
        ("/api/v1/webhooks", body),
        ("/api/v1/webhooks", body | {"since": 0}),
        (f"{one}/enable", None),
    ):
        status, refused = await trader.call("POST", path, wanted)
        assert (status, refused["code"]) == (403, "missing_scope"), (path, wanted)
        assert refused["error"] == 'This key lacks the scope "read": it has trade.'
        status, refused = await reader.call("POST", path, wanted)
        assert (status, refused["code"]) == (403, "missing_scope"), (path, wanted)
        assert refused["error"] == 'This key lacks the scope "trade": it has read.'
    assert (await customer.call("POST", f"{one}/enable"))[0] == 200
    assert code(await reader.call("DELETE", one)) == (403, "missing_scope")
    assert await trader.call("DELETE", one) == (204, None), "it starts nothing"


def test_of_all_that_changes_something_only_what_tells_somebody_needs_to_read_as_well() -> None:
    needs = {(route.method, route.path): need_of(route.method, route.path) for route in documented.routes()}
    telling = {("POST", "/api/v1/webhooks"), ("POST", "/api/v1/webhooks/{webhookId}/enable")}
    both = frozenset({Scope.READ, Scope.TRADE})
    scopes = {each: scopes_of(*each) for each, need in needs.items() if need is Need.TRADE}
    assert {each for each in scopes if frozenset(scopes[each]) == both} == telling
    assert {scopes[each] for each in scopes.keys() - telling} == {(Scope.TRADE,)}
    assert {scopes_of(*each) for each, need in needs.items() if need is Need.READ} == {(Scope.READ,)}


async def test_a_stream_needs_a_key_that_may_read(broker: Broker) -> None:
    trader = await issue(broker, await broker.customer(), scopes=["trade"])
    for path in ("/api/v1/stream", "/api/v1/orders/stream"):
        headers = {"Authorization": f"Bearer {trader.token}"}
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await broker.http.ws_connect(broker.running.url + path, headers=headers)
        assert refused.value.status == 403
        async with broker.http.ws_connect(broker.running.url + path) as ws:
            await ws.send_json({"action": "authenticate", "token": trader.token})
            assert (await ws.receive_json())["code"] == "missing_scope"


async def test_a_keys_scopes_and_end_are_shown_and_what_makes_no_sense_is_refused(broker: Broker) -> None:
    customer = await broker.customer()
    at = (datetime.now(UTC) + timedelta(days=1)).replace(microsecond=0)
    await issue(broker, customer, scopes=["read"], expires_at=at.isoformat())
    _, shown = await broker.operator.call("GET", f"/admin/v1/customers/{customer.customer_id}")
    assert [(key["scopes"], key["expires_at"]) for key in shown["keys"]] == [
        (["read", "trade"], None),
        (["read"], at.strftime("%Y-%m-%dT%H:%M:%SZ")),
    ]
    path = f"/admin/v1/customers/{customer.customer_id}/keys"
    wrong: list[dict[str, object]] = [
        {"scopes": []},
        {"scopes": ["admin"]},
        {"scopes": ["everything"]},
        {"scopes": "read"},
        {"expires_in_s": 0},
        {"expires_in_s": -1},
        {"expires_in_s": 1e18},
        {"expires_in_s": 60, "expires_at": at.isoformat()},
        {"expires_at": "2020-01-01T00:00:00Z"},
        {"expires_at": "9000-01-01T00:00:00Z"},
        {"expires_at": "2090-01-01T00:00:00"},
        {"expires_at": "tomorrow"},
    ]
    for body in wrong:
        assert code(await broker.operator.call("POST", path, body)) == (400, "invalid_request"), body
    assert len(await broker.fetch("SELECT FROM api_key")) == 2


# ------------------------------------------------------------------ operators


async def test_an_operators_key_opens_what_the_admin_token_does_and_nothing_of_customers(broker: Broker) -> None:
    operator, customer = await issue_operator_key(broker), await broker.customer()
    assert (await operator.call("GET", f"/admin/v1/customers/{customer.customer_id}"))[0] == 200
    for path in ("/api/v1/balance", "/v2/account"):
        assert (await operator.call("GET", path))[0] == 401
    assert code(await customer.call("GET", "/admin/v1/keys")) == (401, "unauthorized")
    status, created = await operator.call("POST", "/admin/v1/customers", {"cash": "1.00"})
    assert (status, created["customerId"]) == (201, str(int(customer.customer_id) + 1))

    _, shown = await operator.call("GET", "/admin/v1/keys")
    assert [(key["keyId"], key["scopes"]) for key in shown["keys"]] == [(key_id(operator), ["admin"])]
    assert "secret" not in json.dumps(shown)
    assert (await broker.operator.call("DELETE", f"/admin/v1/keys/{key_id(customer)}"))[0] == 404
    assert (await broker.operator.call("DELETE", f"/admin/v1/keys/{key_id(operator)}"))[0] == 200
    assert code(await operator.call("GET", "/admin/v1/keys")) == (401, "unauthorized")


# ------------------------------------------------------------------ the end of a key


async def test_an_expired_key_is_refused_though_it_was_in_memory(broker: Broker) -> None:
    customer = await broker.customer()
    short, operator = await issue(broker, customer, expires_in_s=5.0), await issue_operator_key(broker, expires_in_s=5)
    assert (await short.call("GET", "/api/v1/balance"))[0] == 200
    assert (await operator.call("GET", "/admin/v1/keys"))[0] == 200

    async def is_over() -> bool:
        answers = await short.call("GET", "/api/v1/balance"), await operator.call("GET", "/admin/v1/keys")
        return [code(each) for each in answers] == [(401, "unauthorized")] * 2

    await eventually(is_over, 30)
    assert (await customer.call("GET", "/api/v1/balance"))[0] == 200


async def test_open_streams_end_with_their_key(with_settings: Callable[..., Config]) -> None:
    async with run_broker(with_settings(key_cache_s=600.0)) as broker:
        short = await issue(broker, await broker.customer(), expires_in_s=5.0)
        headers = {"Authorization": f"Bearer {short.token}"}
        async with broker.http.ws_connect(f"{broker.running.url}/api/v1/orders/stream", headers=headers) as ws:
            assert await closed(ws) == 1008


async def test_opening_streams_of_a_key_that_expires_asks_the_database_nothing(
    with_settings: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[object] = []
    fetch = Database.fetch

    async def noted(self: Database, name: str, *arguments: object) -> Any:
        looks.extend([name] * (name == "valid_keys"))
        return await fetch(self, name, *arguments)

    monkeypatch.setattr(Database, "fetch", noted)
    async with run_broker(with_settings(key_cache_s=600.0)) as broker:
        customer = await broker.customer()
        later, short = await issue(broker, customer, expires_in_s=900), await issue(broker, customer, expires_in_s=10)
        url = f"{broker.running.url}/api/v1/orders/stream"
        for client in [later] * 10 + [short]:
            ws = await broker.http.ws_connect(url, headers={"Authorization": f"Bearer {client.token}"})
            assert (await ws.receive_json())["type"] == "subscribed"
        assert not looks
        assert await closed(ws) == 1008, "and it ends in time all the same"
        assert len(looks) in {1, 2}


async def closed(ws: aiohttp.ClientWebSocketResponse) -> int | None:
    """The code with which the other side closes it."""
    async with asyncio.timeout(60):
        async for _ in ws:
            pass
    return ws.close_code


async def test_a_rotated_key_overlaps_with_the_new_one_which_has_its_scopes(broker: Broker) -> None:
    customer = await broker.customer()
    old = await issue(broker, customer, scopes=["read"])
    path = f"/admin/v1/customers/{customer.customer_id}/keys/{key_id(old)}/rotate"
    before = datetime.now(UTC)
    status, rotated = await broker.operator.call("POST", path)
    assert (status, rotated["scopes"], rotated["expires_at"]) == (201, ["read"], None)
    assert rotated["replaces"] == key_id(old)
    until = datetime.fromisoformat(rotated["overlap_until"])
    assert timedelta(minutes=59) < until - before < timedelta(minutes=61)
    new = replace(customer, token=rotated["token"])
    for client in (old, new):
        assert (await client.call("GET", "/api/v1/balance"))[0] == 200
        assert code(await client.call("DELETE", "/api/v1/orders")) == (403, "missing_scope")

    status, refused = await broker.operator.call("POST", path, {"overlap_s": 0})
    assert (status, refused["code"]) == (409, "already_rotated")
    assert key_id(new) in refused["error"]
    for client in (old, new):
        assert (await client.call("GET", "/api/v1/balance"))[0] == 200
    await broker.operator.call("DELETE", path.removesuffix("/rotate"))
    assert (await broker.operator.call("POST", path))[0] == 404, "it has ended"
    path = path.replace(key_id(old), key_id(new))
    assert code(await broker.operator.call("POST", path, {"overlap_s": 1e9})) == (400, "invalid_request")
    assert code(await broker.operator.call("POST", path, {"overlap_s": -1})) == (400, "invalid_request")


async def test_a_rotated_key_lives_as_long_as_the_old_one_was_to_and_the_overlap_lengthens_nothing(
    broker: Broker,
) -> None:
    customer = await broker.customer()
    old = await issue(broker, customer, expires_in_s=600)
    path = f"/admin/v1/customers/{customer.customer_id}/keys/{key_id(old)}/rotate"
    _, rotated = await broker.operator.call("POST", path, {"overlap_s": 7200})
    left = datetime.fromisoformat(rotated["expires_at"]) - datetime.now(UTC)
    assert timedelta(seconds=590) < left < timedelta(seconds=601)
    assert datetime.fromisoformat(rotated["overlap_until"]) <= datetime.now(UTC) + timedelta(seconds=600)


async def test_of_two_rotations_at_once_one_is_done_and_its_key_has_the_whole_life(broker: Broker) -> None:
    customer = await broker.customer()
    path = f"/admin/v1/customers/{customer.customer_id}/keys/"
    for number in range(5):
        old = await issue(broker, customer, expires_in_s=7200)
        rotate = [broker.operator.call("POST", f"{path}{key_id(old)}/rotate", {"overlap_s": 60}) for _ in range(4)]
        answers = sorted(await asyncio.gather(*rotate), key=lambda answer: answer[0])
        assert [status for status, _ in answers] == [201, 409, 409, 409]
        left = datetime.fromisoformat(answers[0][1]["expires_at"]) - datetime.now(UTC)
        assert timedelta(seconds=7100) < left < timedelta(seconds=7201)
        assert len(await broker.fetch("SELECT FROM api_key")) == 1 + 2 * (number + 1)


async def test_a_key_is_only_rotated_for_its_own_customer(broker: Broker) -> None:
    owner, other, operator = await broker.customer(), await broker.customer(), await issue_operator_key(broker)
    for path in (
        f"/admin/v1/customers/{other.customer_id}/keys/{key_id(owner)}/rotate",
        f"/admin/v1/customers/{other.customer_id}/keys/{key_id(operator)}/rotate",
        f"/admin/v1/keys/{key_id(owner)}/rotate",
    ):
        assert (await broker.operator.call("POST", path, {"overlap_s": 0}))[0] == 404
    assert (await owner.call("GET", "/api/v1/balance"))[0] == 200
    assert len(await broker.fetch("SELECT FROM api_key")) == 3
    status, rotated = await broker.operator.call("POST", f"/admin/v1/keys/{key_id(operator)}/rotate", {"overlap_s": 0})
    assert (status, rotated["scopes"]) == (201, ["admin"])
    assert (await operator.call("GET", "/admin/v1/keys"))[0] == 401
    assert (await replace(operator, token=rotated["token"]).call("GET", "/admin/v1/keys"))[0] == 200


# ------------------------------------------------------------------ two brokers on one database


@asynccontextmanager
async def two_brokers(
    with_settings: Callable[..., Config], tmp_path: Path
) -> AsyncIterator[tuple[Broker, Broker, Client, Client]]:
    """Two of them, that look by themselves so seldom that only what they are told can be it; and a customer at each."""
    settings: dict[str, object] = {"key_cache_s": 600.0, "controls_every_s": 600.0, "admin_token": "one-token-for-both"}
    async with (
        run_broker(with_settings(**settings)) as one,
        run_broker(with_settings(**settings, data=tmp_path / "other")) as other,
    ):
        here = await one.customer()
        there = replace(here, url=other.running.url)
        assert (await there.call("GET", "/api/v1/balance"))[0] == 200
        yield one, other, here, there


@pytest.fixture
async def pair(
    with_settings: Callable[..., Config], tmp_path: Path
) -> AsyncIterator[tuple[Broker, Broker, Client, Client]]:
    async with two_brokers(with_settings, tmp_path) as made:
        yield made


async def test_what_one_process_revokes_another_refuses_at_once_and_its_streams_end(
    pair: tuple[Broker, Broker, Client, Client],
) -> None:
    one, other, here, there = pair
    headers = {"Authorization": f"Bearer {there.token}"}
    async with other.http.ws_connect(f"{other.running.url}/api/v1/orders/stream", headers=headers) as ws:
        reading = asyncio.create_task(closed(ws))
        await one.operator.call("DELETE", f"/admin/v1/customers/{here.customer_id}/keys/{key_id(here)}")
        await eventually(lambda: answers(there, 401))
        assert await reading == 1008


async def test_what_one_process_rotates_ends_at_another_at_once(pair: tuple[Broker, Broker, Client, Client]) -> None:
    one, _, here, there = pair
    path = f"/admin/v1/customers/{here.customer_id}/keys/{key_id(here)}/rotate"
    await one.operator.call("POST", path, {"overlap_s": 0})
    await eventually(lambda: answers(there, 401))


async def test_whom_one_process_suspends_another_suspends_at_once_and_activates_again(
    pair: tuple[Broker, Broker, Client, Client],
) -> None:
    one, _, here, there = pair
    for action, expected in (("suspend", 403), ("activate", 201), ("suspend", 403)):
        await one.operator.call("POST", f"/admin/v1/customers/{here.customer_id}/{action}")

        async def placed(expected: int = expected) -> bool:
            return (await there.call("POST", "/api/v1/orders", ORDER))[0] == expected

        await eventually(placed)


async def test_the_kill_switch_of_one_process_stops_another_at_once(
    pair: tuple[Broker, Broker, Client, Client],
) -> None:
    one, _, _, there = pair

    async def stopped() -> bool:
        status, answer = await there.call("POST", "/api/v1/orders", ORDER)
        return status != 201 or answer["status"] == "rejected"

    assert not await stopped()
    await one.operator.call("PUT", "/admin/v1/controls/all", {"reason": "a test"})
    await eventually(stopped)
    await one.operator.call("DELETE", "/admin/v1/controls/all")
    await eventually(lambda: no(stopped()))


async def no(answer: Any) -> bool:
    return not await answer


async def test_what_was_said_while_nobody_listened_is_looked_for_when_somebody_does_again(
    pair: tuple[Broker, Broker, Client, Client],
) -> None:
    one, _, here, there = pair
    killed = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND pid <> $1"
    (row,) = await one.fetch(killed, -1)
    assert row[0] >= 2
    await one.operator.call("DELETE", f"/admin/v1/customers/{here.customer_id}/keys/{key_id(here)}")
    await eventually(lambda: answers(there, 401))


async def test_where_a_key_was_revoked_nothing_is_let_in_from_the_answer_on(broker: Broker) -> None:
    """However many connections are open to it, and however many of its requests are under way."""
    customer = await broker.customer()
    stop, began = asyncio.Event(), list[tuple[float, int]]()

    async def ask() -> None:
        async with aiohttp.ClientSession() as http:
            while not stop.is_set():
                at = asyncio.get_running_loop().time()
                status, _ = await replace(customer, http=http).call("GET", "/api/v1/balance")
                began.append((at, status))

    asking = [asyncio.create_task(ask()) for _ in range(20)]
    await asyncio.sleep(0.2)
    await broker.operator.call("DELETE", f"/admin/v1/customers/{customer.customer_id}/keys/{key_id(customer)}")
    revoked = asyncio.get_running_loop().time()
    await asyncio.sleep(0.2)
    stop.set()
    await asyncio.gather(*asking)
    assert 200 in {status for at, status in began if at < revoked}
    assert {status for at, status in began if at > revoked} == {401}


async def test_where_notices_are_lost_another_process_lets_a_revoked_key_in_no_longer_than_is_said(
    with_settings: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def deaf(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr("broker.assembly.listen", deaf)
    settings = {"key_cache_s": 1.0, "controls_every_s": 600.0, "admin_token": "one-token-for-both"}
    async with (
        run_broker(with_settings(**settings)) as one,
        run_broker(with_settings(**settings, data=tmp_path / "other")) as other,
    ):
        here = await one.customer()
        there = replace(here, url=other.running.url)
        assert await answers(there, 200)
        await one.operator.call("DELETE", f"/admin/v1/customers/{here.customer_id}/keys/{key_id(here)}")
        await eventually(lambda: answers(there, 401), within_s=1.0)


def test_the_references_say_the_same_of_when_a_revoked_key_ends() -> None:
    api, configuration = (" ".join(Path(f"docs/{name}.md").read_text().split()) for name in ("api", "configuration"))
    section = api.partition("### `DELETE /admin/v1/customers/{customerId}/keys/{keyId}`")[2].partition("###")[0]
    several = configuration.partition("Two brokers of one version on one database")[2].partition("What one commits")[0]
    for said in (section, several):
        assert "as soon as the database tells" in said
        assert "within `--key-cache-s`" in said
    assert "from its answer on" in section


async def answers(client: Client, status: int) -> bool:
    return (await client.call("GET", "/api/v1/balance"))[0] == status


async def test_a_caller_says_what_its_key_lacks(broker: Broker) -> None:
    customer = await broker.customer()
    caller = await broker.running.authenticator.customer(f"Bearer {customer.token}")
    assert caller == Caller(CustomerId(int(customer.customer_id)), key_id(customer), suspended=False)
    with pytest.raises(NotAuthenticated):
        await broker.running.authenticator.operator(f"Bearer {customer.token}")
    assert await broker.running.authenticator.operator(f"Bearer {broker.running.admin_token}") == "admin-token"
    operator = await issue_operator_key(broker)
    assert await broker.running.authenticator.operator(f"Bearer {operator.token}") == key_id(operator)


# ------------------------------------------------------------------ the command line


async def test_keys_are_managed_from_the_command_line(
    broker: Broker, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BROKER_ADMIN_TOKEN", broker.running.admin_token)
    customer = await broker.customer()

    async def run(*arguments: str) -> Any:
        code = await asyncio.to_thread(cli.main, [arguments[0], "--url", broker.running.url, *arguments[1:]])
        out, err = capsys.readouterr()
        return json.loads(out) if code == 0 else json.loads(err)["code"]

    id_ = customer.customer_id
    issued = await run("customer", "key", id_)
    assert (issued["scopes"], issued["expires_at"]) == (["read", "trade"], None)
    issued = await run("customer", "key", id_, "--scopes", "read", "--expires-in", "90d")
    left = datetime.fromisoformat(issued["expires_at"]) - datetime.now(UTC)
    assert (issued["scopes"], left.days) == (["read"], 89)
    rotated = await run("customer", "rotate", id_, issued["keyId"], "--overlap", "0s")
    assert (rotated["scopes"], rotated["replaces"]) == (["read"], issued["keyId"])
    assert (await run("customer", "revoke", id_, rotated["keyId"]))["keyId"] == rotated["keyId"]
    assert await run("customer", "key", id_, "--scopes", "admin") == "invalid_request"

    made = await run("key", "create", "--expires-in", "12h")
    rotated = await run("key", "rotate", made["keyId"])
    monkeypatch.setenv("BROKER_ADMIN_TOKEN", rotated["token"])
    assert [key["keyId"] for key in (await run("key", "list"))["keys"]] == [made["keyId"], rotated["keyId"]]
    assert (await run("key", "revoke", made["keyId"]))["keyId"] == made["keyId"]
