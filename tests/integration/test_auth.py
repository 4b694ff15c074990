"""Who gets in: keys of customers, the operator's token, and what a route says to anybody else."""

import asyncio
import hashlib
import io
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from aiohttp import web

import broker.assembly
from broker.config import Config
from broker.db import Database, DatabaseUnavailable
from tests.conftest import Broker, Client, eventually, logging_at, run_broker

UNAUTHORIZED = (401, "unauthorized")
OPEN = {"/healthz", "/readyz", "/metrics", "/openapi.json", "/openapi-alpaca.json", "/docs"}
SIGNED = {"/webhooks/exchange"}
SOCKETS = {"/api/v1/stream", "/api/v1/orders/stream", "/stream", "/stream/", "/v2/iex", "/v2/sip"}
"""WebSockets, some of which say who they are in their first message: the tests of each look to that."""
DIALECT = ("/v2/", "/stream")
"""How paths of the Alpaca-compatible API begin."""
UNKNOWN_PATHS = {"/v1{rest}", "/v2{rest}", "/v3{rest}", "//v{rest}"}
PLANTED = "planted-secret-that-no-log-may-show"


class Ids(dict[str, str]):
    """What to put into the paths of routes; whatever is not named is `nothing`."""

    def __init__(self, known: dict[str, str], nothing: str) -> None:
        super().__init__(known)
        self._nothing = nothing

    def __missing__(self, name: str) -> str:
        return self._nothing


def code(answer: tuple[int, Any]) -> tuple[int, str]:
    """The answer's status, and the machine's name of the error."""
    status, body = answer
    return status, body.get("code", "") if body else ""


async def balance(client: Client) -> tuple[int, str]:
    return code(await client.call("GET", "/api/v1/balance"))


async def issue_key(broker: Broker, customer: Client) -> Client:
    """The same customer with one more key."""
    status, issued = await broker.operator.call("POST", f"/admin/v1/customers/{customer.customer_id}/keys")
    assert status == 201, issued
    assert issued == {
        "customerId": customer.customer_id,
        "keyId": issued["keyId"],
        "secret": issued["secret"],
        "token": f"{issued['keyId']}.{issued['secret']}",
        "scopes": ["read", "trade"],
        "expires_at": None,
    }
    return Client(broker.http, broker.running.url, issued["token"], customer.customer_id)


def key_id(customer: Client) -> str:
    return str(customer.token).partition(".")[0]


async def revoke(broker: Broker, customer: Client) -> tuple[int, Any]:
    path = f"/admin/v1/customers/{customer.customer_id}/keys/{key_id(customer)}"
    return await broker.operator.call("DELETE", path)


# ------------------------------------------------------------------ tokens


async def test_only_the_whole_token_in_its_form_opens(broker: Broker) -> None:
    customer = await broker.customer()
    token = str(customer.token)
    id_, _, secret = token.partition(".")
    headers = {
        "nothing": "",
        "no scheme": token,
        "another scheme": f"Basic {token}",
        "no token": "Bearer",
        "an empty token": "Bearer ",
        "no secret": f"Bearer {id_}",
        "an empty secret": f"Bearer {id_}.",
        "no id": f"Bearer .{secret}",
        "a wrong secret": f"Bearer {id_}.{PLANTED}",
        "a secret cut short": f"Bearer {token[:-1]}",
        "a secret and more": f"Bearer {token}x",
        "the secret's hash": f"Bearer {id_}.{hashlib.sha256(secret.encode()).hexdigest()}",
        "an unknown id": f"Bearer key_0000000000000000.{secret}",
        "the id of another kind": f"Bearer user_{id_[4:]}.{secret}",
        "the id in upper case": f"Bearer {id_.upper()}.{secret}",
        "two tokens": f"Bearer {token} {token}",
        "a comma": f"Bearer {token},",
        "quotes": f'Bearer "{token}"',
        "not ASCII": f"Bearer {id_}.é{secret}",
        "not ASCII as an id": f"Bearer key_é.{secret}",
        "look-alike digits": f"Bearer {id_}.\uff11{secret}",
        "over-long": f"Bearer {id_}." + "a" * 4000,
        "an injection": f"Bearer ' OR 1=1; --.{secret}",
        "the admin token": f"Bearer {broker.running.admin_token}",
    }
    answers = {}
    for name, header in headers.items():
        answers[name] = code(await broker.stranger.call("GET", "/api/v1/balance", headers={"Authorization": header}))
    assert answers == dict.fromkeys(headers, UNAUTHORIZED)
    for header in (f"Bearer {token}", f"bearer {token}", f"BEARER {token}"):
        status, _ = await broker.stranger.call("GET", "/api/v1/balance", headers={"Authorization": header})
        assert status == 200


async def test_a_token_may_be_any_bytes(broker: Broker) -> None:
    customer = await broker.customer()
    for path in ("/api/v1/balance", f"/admin/v1/customers/{customer.customer_id}"):
        for token in (
            b"\xff",
            b"key_\xff.x",
            f"{key_id(customer)}.\udcff".encode("utf-8", "surrogateescape"),
            b"\xc3\xa9",
        ):
            assert await raw_get(broker, path, b"Bearer " + token) == 401
        assert await raw_get(broker, path, b"\xff" * 20) == 401


async def test_a_refusal_does_not_tell_what_was_right(broker: Broker) -> None:
    customer = await broker.customer()
    revoked = await issue_key(broker, customer)
    await revoke(broker, revoked)
    tokens = (f"{key_id(customer)}.{PLANTED}", f"key_0000000000000000.{PLANTED}", str(revoked.token))
    answers = []
    for token in tokens:
        headers = {"Authorization": f"Bearer {token}"}
        async with broker.http.get(f"{broker.running.url}/api/v1/balance", headers=headers) as response:
            answers.append((response.status, response.headers["WWW-Authenticate"], await response.text()))
    assert len(set(answers)) == 1
    assert answers[0][:2] == (401, "Bearer")


async def test_a_customer_may_have_two_keys_and_a_revoked_one_ends_at_once(broker: Broker) -> None:
    first = await broker.customer()
    second = await issue_key(broker, first)
    assert await balance(first) == await balance(second) == (200, "")
    status, revoked = await revoke(broker, first)
    assert (status, revoked["keyId"]) == (200, key_id(first))
    assert await balance(first) == UNAUTHORIZED
    assert code(await first.place("BUY", "AAPL", 1)) == UNAUTHORIZED
    assert await balance(second) == (200, "")
    assert await revoke(broker, first) == (200, revoked), "a key is revoked once, and stays so"

    _, shown = await broker.operator.call("GET", f"/admin/v1/customers/{first.customer_id}")
    assert [(key["keyId"], key["revokedAt"]) for key in shown["keys"]] == [
        (key_id(first), revoked["revokedAt"]),
        (key_id(second), None),
    ]


async def test_a_key_can_only_be_revoked_for_its_own_customer(broker: Broker) -> None:
    owner, other = await broker.customer(), await broker.customer()
    path = f"/admin/v1/customers/{other.customer_id}/keys/{key_id(owner)}"
    assert code(await broker.operator.call("DELETE", path)) == (404, "no_such_customer")
    assert await balance(owner) == (200, "")


async def test_who_is_suspended_sees_everything_and_trades_nothing_until_activated(broker: Broker) -> None:
    customer = await broker.customer()
    _, placed = await customer.place("BUY", "AAPL", 1)
    await customer.ended(placed["tradeId"])
    admin_path = f"/admin/v1/customers/{customer.customer_id}"
    status, suspended = await broker.operator.call("POST", f"{admin_path}/suspend")
    assert (status, suspended["status"]) == (200, "suspended")

    assert code(await customer.place("BUY", "AAPL", 1)) == (403, "customer_suspended")
    another_key = await issue_key(broker, customer)
    assert code(await another_key.place("SELL", "AAPL", 1)) == (403, "customer_suspended")
    for path in ("balance", "positions", "trades", f"trades/{placed['tradeId']}"):
        assert (await customer.call("GET", f"/api/v1/{path}"))[0] == 200
    assert len(await broker.fetch("SELECT FROM trade")) == 1

    status, activated = await broker.operator.call("POST", f"{admin_path}/activate")
    assert (status, activated["status"]) == (200, "active")
    status, placed = await customer.place("SELL", "AAPL", 1)
    assert status == 201
    await customer.ended(placed["tradeId"])


# ------------------------------------------------------------------ every route there is


@pytest.fixture
def apps(monkeypatch: pytest.MonkeyPatch) -> list[web.Application]:
    """The applications of the brokers that start from now on."""
    made: list[web.Application] = []
    build = broker.assembly.build_app

    def remember(*arguments: Any) -> web.Application:
        made.append(build(*arguments))
        return made[-1]

    monkeypatch.setattr(broker.assembly, "build_app", remember)
    return made


@pytest.fixture
async def broker_with_app(apps: list[web.Application], config: Config) -> AsyncIterator[tuple[Broker, web.Application]]:
    async with run_broker(config) as running:
        yield running, apps[0]


def routes_of(app: web.Application) -> Iterator[tuple[str, str]]:
    """Every route as (method, path pattern)."""
    for route in app.router.routes():
        assert route.resource is not None
        yield route.method, route.resource.canonical


async def test_every_route_is_open_on_purpose_or_takes_one_kind_of_token(
    broker_with_app: tuple[Broker, web.Application],
) -> None:
    broker, app = broker_with_app
    customer = await broker.customer()
    ids = Ids({"keyId": key_id(customer)}, nothing=customer.customer_id)
    everything = "SELECT * FROM customer, api_key, account, transfer, posting"
    before = await broker.fetch(everything)
    body = {"amount": "1.00", "reference": "r", "stockTicker": "AAPL", "type": "BUY", "quantity": 1}
    wrong = []
    for method, pattern in routes_of(app):
        if pattern in OPEN:
            strangers, expected = [broker.stranger], (200, "")
        elif pattern in SIGNED:
            strangers, expected = [broker.stranger, customer, broker.operator], (401, "bad_signature")
        elif pattern.startswith("/admin/"):
            strangers, expected = [broker.stranger, customer], UNAUTHORIZED
        elif pattern in UNKNOWN_PATHS or (pattern in SOCKETS and pattern.startswith(DIALECT)):
            continue
        elif pattern.startswith(DIALECT):
            strangers, expected = [broker.stranger, broker.operator], (401, 40110000)
        else:
            strangers, expected = [broker.stranger, broker.operator], UNAUTHORIZED
        for client in strangers:
            answer = code(
                await client.call(method, pattern.format_map(ids), None if method in {"GET", "DELETE"} else body)
            )
            if answer != expected:
                wrong.append((method, pattern, answer))
    assert wrong == [], wrong
    assert len(list(routes_of(app))) >= 15
    assert await broker.fetch(everything) == before


THE_SAME_FOR_ALL = {
    *("/api/v1/quotes", "/api/v1/quotes/{symbol}", "/api/v1/bars/{symbol}"),
    *("/api/v1/symbols", "/api/v1/clock", "/api/v1/calendar"),
    *("/v2/assets", "/v2/assets/{symbol_or_asset_id}", "/v2/clock", "/v2/calendar", "/v2/options/contracts"),
    "/v2/corporate_actions/announcements",
}
"""Market data belongs to nobody."""
NOBODYS = {"/v2/options/contracts/{symbol_or_id}", "/v2/corporate_actions/announcements/{announcement_id}"}
"""There are none."""


async def test_every_route_of_a_customer_knows_only_the_customer_of_the_token(
    broker_with_app: tuple[Broker, web.Application],
) -> None:
    broker, app = broker_with_app
    owner, other = await broker.customer(cash="77777.77"), await broker.customer(cash="5.00")
    order = {"symbol": "AAPL", "side": "buy", "quantity": 1, "order_type": "market", "client_order_id": "mine"}
    _, placed = await owner.call("POST", "/api/v1/orders", order)
    await owner.ended(placed["id"])
    _, hook = await owner.call("POST", "/api/v1/webhooks", {"url": "https://example.com/hook"})
    await owner.call("PATCH", "/v2/account/configurations", {"trade_confirm_email": "none"})
    _, watched = await owner.call("POST", "/v2/watchlists", {"name": "mine", "symbols": ["AAPL"]})
    ids = {"tradeId": placed["id"], "orderId": placed["id"], "clientOrderId": "mine", "symbol": "AAPL"}
    ids |= {"webhookId": hook["webhook_id"], "order_id": placed["id"], "symbol_or_asset_id": "AAPL"}
    ids |= {"activity_type": "FILL", "watchlist_id": watched["id"]}
    queries = {"/v2/orders:by_client_order_id": "?client_order_id=mine", "/v2/watchlists:by_name": "?name=mine"}
    queries |= {"/v2/orders": "?status=all"}
    for method, pattern in routes_of(app):
        if method != "GET" or not pattern.startswith(("/api/", "/v2/")) or pattern in THE_SAME_FOR_ALL | SOCKETS:
            continue
        if pattern.startswith("/v2/stocks") or pattern in NOBODYS:
            continue
        path = pattern.format_map(ids) + queries.get(pattern, "")
        theirs, nothing_of_it = await owner.call(method, path), await other.call(method, path)
        assert theirs[0] == 200, path
        assert nothing_of_it != theirs
        assert not {placed["id"], owner.customer_id} & set(str(nothing_of_it).split("'"))


# ------------------------------------------------------------------ where no secret may be


async def test_the_database_holds_hashes_and_no_secret(broker: Broker) -> None:
    customer = await broker.customer()
    clients = [customer, await issue_key(broker, customer)]
    secrets = [str(client.token).partition(".")[2] for client in clients] + [broker.running.admin_token]
    tables = await broker.fetch("SELECT table_name FROM information_schema.tables WHERE table_schema = 'broker'")
    dump = ""
    for (table,) in tables:
        dump += "\n".join(row[0] for row in await broker.fetch(f'SELECT "{table}"::text FROM "{table}"'))
    for secret in secrets:
        assert secret not in dump
        assert secret.encode().hex() not in dump
    for secret in secrets[:2]:
        assert hashlib.sha256(secret.encode()).hexdigest() in dump


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    """All that is logged, down to the last detail."""
    stream = io.StringIO()
    with logging_at("debug", stream):
        yield stream


async def test_no_secret_is_logged_whatever_goes_wrong(logged: io.StringIO, config: Config) -> None:
    async with run_broker(config) as broker:
        customer = await broker.customer()
        newcomer = await issue_key(broker, customer)
        secrets = [str(client.token).partition(".")[2] for client in (customer, newcomer)]
        secrets += [broker.running.admin_token, PLANTED]

        for client in (customer, broker.operator):  # what the HTTP parser refuses, in the very line of the token
            assert await raw_get(broker, "/api/v1/balance", f"Bearer {client.token}\0".encode()) == 400
        headers = {"Authorization": f"Bearer {key_id(customer)}.{PLANTED}", "webhook-signature": f"v1,{PLANTED}"}
        await broker.stranger.call("GET", "/api/v1/balance", headers=headers)
        await broker.stranger.call("POST", "/webhooks/exchange", {"secret": PLANTED}, headers=headers)
        await broker.operator.call("POST", "/admin/v1/customers", {PLANTED: PLANTED})

        # A table that is away makes a 500 and a traceback of requests that carry every kind of secret.
        await broker.fetch("ALTER TABLE api_key RENAME TO api_key_away")
        fault = (500, "internal_error")
        assert await balance(newcomer) == fault
        assert code(await broker.operator.call("POST", "/admin/v1/customers", {"name": "x"})) == fault
        path = f"/admin/v1/customers/{customer.customer_id}/keys"
        assert code(await broker.operator.call("POST", path)) == fault
    text = logged.getvalue()
    assert text.count("request.failed") == 3
    assert [secret for secret in secrets if secret in text] == []


async def raw_get(broker: Broker, path: str, authorization: bytes) -> int:
    """The status of a request whose header no client would send."""
    host, port = broker.running.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: ".encode() + authorization + b"\r\n\r\n")
    status = int((await reader.readline()).split()[1])
    writer.close()
    return status


async def test_a_key_is_revoked_at_once_even_when_the_operator_does_not_hear_of_it(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    customer = await broker.customer()
    assert await balance(customer) == (200, "")
    fetch = Database.fetch

    async def answer_lost(self: Database, name: str, *arguments: object) -> Any:
        rows = await fetch(self, name, *arguments)
        if name == "revoke_key":
            raise DatabaseUnavailable("the answer was lost")
        return rows

    monkeypatch.setattr(Database, "fetch", answer_lost)
    assert (await revoke(broker, customer))[0] == 503
    assert await balance(customer) == UNAUTHORIZED


async def test_a_key_that_another_process_revoked_ends_within_seconds(with_settings: Callable[..., Config]) -> None:
    async with run_broker(with_settings(key_cache_s=0.1)) as broker:
        customer = await broker.customer()
        assert await balance(customer) == (200, "")
        await broker.fetch("UPDATE api_key SET revoked_at = now()")
        await eventually(lambda: refused(customer))


async def refused(customer: Client) -> bool:
    return await balance(customer) == UNAUTHORIZED
