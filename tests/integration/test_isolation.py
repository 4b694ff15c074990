"""No customer can see, change or even find out about what is another's: every route there is, with the other's ids.

The requests are made from the route table. A route with a parameter that nobody has said anything about here fails.
What is asked with an id of the other's must have the answer that an id which nobody has would have: so not even that
there is such a thing can be heard from it.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import aiohttp
import pytest

from broker.config import Config
from broker.gate import Need, need_of
from broker.openapi import operation_of, parameters_of
from tests import documented
from tests.conftest import Broker, Client, eventually, run_broker

NAME, URL = "what-only-the-owner-calls-it", "https://example.com/only-the-owner-knows"
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
OF_ALL = {"symbol", "symbol_or_asset_id", "activity_type", "announcement_id", "symbol_or_id", "rest"}
"""Parameters of paths that name nothing of a customer's; but which symbols somebody has is its own affair."""
PRICES = (
    *("/v2/stocks", "/v2/assets", "/v2/calendar", "/v2/clock", "/v2/corporate_actions", "/v2/options"),
    *("/api/v1/bars", "/api/v1/calendar", "/api/v1/clock", "/api/v1/quotes", "/api/v1/symbols"),
)
"""How paths of what is the same for all begin: no parameter of their queries names anything of a customer's."""
OTHER_LISTS = (
    *(f"/v2/orders?status={status}&direction={way}" for status in ("open", "closed", "all") for way in ("asc", "desc")),
    *(f"/v2/account/activities{of}?direction={way}" for of in ("", "/FILL") for way in ("asc", "desc")),
    *(f"/api/v1/{each}" for each in ("orders?symbol=MSFT", "trades?symbol=MSFT", "executions?symbol=MSFT")),
)
"""Lists that are read from the database in other ways."""
NAMED_IN_QUERIES = ("orderId", "clientOrderId", "group", "activity")
BODIES: dict[tuple[str, str], object] = {
    ("PATCH", "/api/v1/orders/{orderId}"): {"quantity": 3},
    ("PATCH", "/v2/orders/{order_id}"): {"qty": "3"},
    ("PUT", "/v2/watchlists/{watchlist_id}"): {"name": "mine now", "symbols": ["AAPL"]},
    ("POST", "/v2/watchlists/{watchlist_id}"): {"symbol": "NVDA"},
    ("PUT", "/v2/watchlists:by_name"): {"name": "mine now", "symbols": ["AAPL"]},
    ("POST", "/v2/watchlists:by_name"): {"symbol": "NVDA"},
    ("POST", "/v2/watchlists"): {"name": "mine", "symbols": ["AAPL"]},
    ("PATCH", "/v2/account/configurations"): {"trade_confirm_email": "all"},
}
"""What goes with a request, so that nothing but whose it is can be wrong with it; others have their example."""


@dataclass
class Owner:
    """A customer that has one of everything."""

    client: Client
    ids: dict[str, str]  # by the parameter of a path
    secrets: set[str]

    @property
    def foreign(self) -> dict[str, str]:
        """Ids of the same form that nobody has."""
        return {name: nobodys(value) for name, value in self.ids.items()}


_UUID = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def nobodys(value: str) -> str:
    """Text of the same form, which names nothing."""
    if _UUID.search(value):  # of the same moment, which stands at its beginning: it may be a place in a list
        return value[:-6] + uuid4().hex[:6]
    return f"{value}-not" if value.startswith(NAME) else "NVDA"


@pytest.fixture
async def broker(with_settings: Callable[..., Config]) -> AsyncIterator[Broker]:
    async with run_broker(with_settings(requests_burst=100_000)) as running:
        yield running
        await running.books_are_right()


@pytest.fixture
async def owner(broker: Broker) -> Owner:
    client = await broker.customer(cash="7654321.09")
    market = {"symbol": "MSFT", "side": "buy", "quantity": 7, "order_type": "market", "client_order_id": f"{NAME}-1"}
    _, filled = await client.call("POST", "/api/v1/orders", market)
    await client.ended(filled["id"])
    limit = {**market, "order_type": "limit", "price": "150.00", "symbol": "AAPL", "client_order_id": NAME}
    _, resting = await client.call("POST", "/api/v1/orders", limit)
    bracket = {"order_class": "bracket", "take_profit": {"price": "400.00"}, "stop_loss": {"stop_price": "100.00"}}
    status, group = await client.call("POST", "/api/v1/orders", limit | bracket | {"client_order_id": f"{NAME}-3"})
    assert status == 201, group
    _, hook = await client.call("POST", "/api/v1/webhooks", {"url": URL})
    _, watched = await client.call("POST", "/v2/watchlists", {"name": NAME, "symbols": ["MSFT"]})
    _, account = await client.call("GET", "/v2/account")
    _, activities = await client.call("GET", "/v2/account/activities")
    _, trades = await client.call("GET", "/api/v1/trades")
    shown = [(await client.call("GET", f"/api/v1/{each}"))[1] for each in ("account", "positions", "executions")]
    ids = {
        "tradeId": filled["id"],
        "orderId": resting["id"],
        "order_id": resting["id"],
        "clientOrderId": NAME,
        "webhookId": hook["webhook_id"],
        "watchlist_id": watched["id"],
        "group": group["id"],
        "activity": activities[0]["id"],
        "account": account["id"],
        "symbol": "MSFT",
    }
    _, assets = await client.call("GET", "/v2/assets")
    secrets = _uuids([trades, activities, account, hook, watched]) - _uuids(assets)
    secrets |= {NAME, URL, "7654321", account["account_number"]}
    secrets |= set(re.findall(r"\b[0-9]{4,}\.[0-9]+", json.dumps(shown)))  # shorter ones may be prices
    secrets |= {str(client.token), str(client.token).partition(".")[0]}
    assert len(secrets) > 10
    return Owner(client, ids, secrets)


def _uuids(answers: object) -> set[str]:
    return set(_UUID.findall(json.dumps(answers)))


async def state_of(broker: Broker, customer_id: str) -> dict[str, list[str]]:
    """Every row of a customer, of whatever table has customers; not how often its webhook was tried in vain."""
    columns = await broker.fetch(
        "SELECT table_name, column_name FROM information_schema.columns JOIN information_schema.tables"
        " USING (table_schema, table_name) WHERE table_schema = 'broker' AND table_type = 'BASE TABLE'"
        " AND column_name IN ('customer_id', 'owner_id')"
    )
    tried = "{failures,failing_since,last_error,next_try_at,delivered}"
    rows = {
        table: await broker.fetch(
            f"SELECT (to_jsonb(each) - $2::text[])::text FROM {table} AS each WHERE {column} = $1 ORDER BY 1",
            int(customer_id),
            tried.strip("{}").split(","),
        )
        for table, column in columns
    }
    found = {table: [row[0] for row in each] for table, each in rows.items() if each}
    assert {"customer", "api_key", "account", "trade", "event", "webhook"} <= set(found), found.keys()
    return found


# ------------------------------------------------------------------ what can be asked


@dataclass(frozen=True)
class Question:
    """A request that names something: once what is the owner's, once what nobody has."""

    method: str
    path: str  # with {} for what is named
    names: tuple[str, str]
    body: object = None
    of_owner: bool = True  # a thing that only its owner knows

    def asked(self, which: int) -> str:
        return self.path.replace("{}", self.names[which])


def body_of(route: Any) -> object:
    declared = operation_of(route.handler)
    example = None if declared is None else declared.example
    return BODIES.get((route.method, route.path), None if example is None else dict(example))


def questions(owner: Owner) -> Iterator[Question]:
    """All that can be asked with the owner's ids, from the route table."""
    yield from (Question("GET", path, ("", ""), of_owner=False) for path in OTHER_LISTS)
    foreign, routes = owner.foreign, documented.routes()
    there_are = {(route.method, route.path) for route in routes}
    for route in routes:
        if need_of(route.method, route.path) not in {Need.READ, Need.TRADE}:
            continue
        names = set(re.findall(r"\{(\w+)", route.path))
        unknown = names - OF_ALL - set(owner.ids)
        assert not unknown, f"Whose is {unknown} of {route.method} {route.path}? Say so in this test."
        is_position = "/positions/{" in route.path and not route.path.endswith("/exercise")  # nothing is exercised here
        own = names if is_position else names - OF_ALL
        assert len(own) <= 1, "one thing is asked for at a time"
        path, body = route.path, body_of(route)
        for name in names - own:
            path = path.replace(f"{{{name}}}", "FILL" if name == "activity_type" else "AAPL")
        for name in own:
            key = "symbol" if is_position else name
            path, pair = path.replace(f"{{{name}}}", "{}"), (owner.ids[key], foreign[key])
            yield Question(route.method, path, pair, body)
            for method in METHODS:
                if (method, route.path) not in there_are:
                    yield Question(method, path, pair)
        if not own:
            yield Question(route.method, path, ("", ""), body, of_owner=False)
        declared = operation_of(route.handler)
        if declared is None or declared.query is None or own or path.startswith(PRICES):
            continue
        for parameter in sorted(parameters_of(declared.query)):
            for name in NAMED_IN_QUERIES:
                yield Question(route.method, f"{path}?{parameter}={{}}", (owner.ids[name], foreign[name]), body)


def without(value: str, answer: tuple[int, Any]) -> tuple[int, str]:
    """An answer without what was asked for, which it may repeat, and without the moment at which it was given."""
    status, content = answer
    text = json.dumps(content, sort_keys=True)
    text = text.replace(value, "…") if value else text
    return status, re.sub(r"20[0-9]{2}-[0-9]{2}-[0-9]{2}T[0-9:.]+Z|\b[12][0-9]{9}\b", "then", text)


# ------------------------------------------------------------------ the walk


async def test_no_route_shows_or_changes_what_is_another_customers(broker: Broker, owner: Owner) -> None:
    stranger = await broker.customer(cash="1000.00")
    own = {"symbol": "AAPL", "side": "buy", "quantity": 1, "order_type": "limit", "price": "150.00"}
    assert (await stranger.call("POST", "/api/v1/orders", own))[0] == 201
    await eventually(lambda: settled(broker, owner))
    before = await state_of(broker, owner.client.customer_id)
    asked = list(questions(owner))
    looking = [each for each in asked if each.method == "GET" or "{}" in each.path]
    changing = [each for each in asked if each not in looking]  # these change what the stranger has
    wrong: list[object] = []

    async def ask(question: Question) -> None:
        answers = [
            without(value, await stranger.call(question.method, question.asked(which), question.body))
            for which, value in enumerate(question.names)
        ]
        status, text = answers[0]
        if status >= 500 or any(secret in text for secret in owner.secrets):
            wrong.append(("tells", question, status, text))
        if question.of_owner and answers[0] != answers[1]:
            wrong.append(("differs", question, answers))
        if question.of_owner and "?" not in question.path and status not in {404, 405}:
            wrong.append(("is no 404", question, status, text))

    for first in range(0, len(looking), 16):
        await asyncio.gather(*map(ask, looking[first : first + 16]))
    for question in changing:
        await ask(question)
    assert not wrong, "\n".join(map(str, wrong))
    assert await state_of(broker, owner.client.customer_id) == before
    assert len({(each.method, each.path) for each in asked}) > 150
    assert len(changing) > 5


async def settled(broker: Broker, owner: Owner) -> bool:
    """Nothing of the owner's is on its way: what changes from now on is not its own doing."""
    rows = await broker.fetch("SELECT status FROM trade WHERE customer_id = $1", int(owner.client.customer_id))
    return sorted(row["status"] for row in rows) == ["FILLED", "HELD", "HELD", "IN PROGRESS", "IN PROGRESS"]


async def test_the_owner_gets_for_the_same_questions_what_is_its_own(broker: Broker, owner: Owner) -> None:
    """Else the walk would prove nothing: these ids do open something, for whom they belong to."""
    there_are = {re.sub(r"\{\w+\}", "{}", route.path) for route in documented.routes() if route.method == "GET"}
    opened = set()
    for question in questions(owner):
        if question.of_owner and question.method == "GET" and "?" not in question.path:
            status, _ = await owner.client.call("GET", question.asked(0))
            assert status == (200 if question.path in there_are else 405), question
            opened.add(question.path)
    assert len(opened) >= 8


async def test_53_the_same_key_of_another_customer_is_another_key(broker: Broker, owner: Owner) -> None:
    stranger = await broker.customer(cash="1000.00")
    key = {"Idempotency-Key": NAME}
    status, theirs = await owner.client.place("BUY", "AAPL", 1, headers=key)
    assert status == 201
    status, mine = await stranger.place("BUY", "AAPL", 1, headers=key)
    assert status == 201
    assert mine["tradeId"] != theirs["tradeId"]
    order = {"symbol": "AAPL", "side": "buy", "quantity": 1, "order_type": "limit", "price": "150.00"}
    status, placed = await stranger.call("POST", "/api/v1/orders", {**order, "client_order_id": NAME})
    assert (status, placed["client_order_id"]) == (201, NAME), "so is a client_order_id"


async def test_who_names_another_customer_hears_nothing_of_it(broker: Broker, owner: Owner) -> None:
    stranger = await broker.customer()
    body = {"stockTicker": "AAPL", "type": "BUY", "quantity": 1}
    answers = [
        await stranger.call("POST", "/api/v1/trades", {**body, "customerId": number})
        for number in (owner.client.customer_id, "999999")
    ]
    assert [(status, answer["code"]) for status, answer in answers] == [(403, "not_your_customer")] * 2
    assert answers[0] == answers[1], "whether there is such a customer or not"


async def test_a_customers_key_opens_no_operators_route_for_its_own_or_anothers(broker: Broker, owner: Owner) -> None:
    stranger = await broker.customer()
    before = await state_of(broker, owner.client.customer_id)
    ids = {"customerId": owner.client.customer_id, "keyId": str(owner.client.token).partition(".")[0]}
    ids |= {"scope": f"customer:{owner.client.customer_id}", "symbol": "MSFT"}
    answers, asked = set(), 0
    for route in documented.routes():
        if need_of(route.method, route.path) is Need.OPERATOR:
            for client in (stranger, owner.client):
                status, answer = await client.call(route.method, route.path.format_map(ids), body_of(route))
                answers.add((status, json.dumps(answer)))
                asked += 1
    assert {status for status, _ in answers} == {401}
    assert len(answers) == 1, "one sentence for all"
    assert asked > 40
    assert await state_of(broker, owner.client.customer_id) == before


# ------------------------------------------------------------------ streams


class Heard:
    """What a client hears on its streams, all of them together."""

    def __init__(self) -> None:
        self.text = ""

    async def websocket(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        """Until it is closed."""
        async for message in ws:
            self.text += message.data if isinstance(message.data, str) else bytes(message.data).decode()

    async def events(self, response: aiohttp.ClientResponse) -> None:
        """Of Server-Sent Events."""
        async for line in response.content:
            self.text += line.decode()


STREAMS_OF_ORDERS = {"/api/v1/orders/stream", "/stream", "/stream/"}
STREAMS_OF_PRICES = {"/api/v1/stream", "/v2/iex", "/v2/sip"}


async def test_the_streams_of_a_customer_tell_nothing_of_another(broker: Broker, owner: Owner) -> None:
    streams = {route.path for route in documented.routes() if need_of(route.method, route.path) is Need.READ_OR_MESSAGE}
    assert streams == STREAMS_OF_ORDERS | STREAMS_OF_PRICES, "a new stream: what does it tell of whom?"
    stranger = await broker.customer(cash="1000.00")
    base, key = broker.running.url, {"Authorization": f"Bearer {stranger.token}"}
    key_id, _, secret = str(stranger.token).partition(".")
    heard = [Heard() for _ in range(5)]
    async with (
        broker.http.ws_connect(f"{base}/api/v1/orders/stream?since=0", headers=key) as ours,
        broker.http.ws_connect(f"{base}/stream") as alpacas,
        broker.http.ws_connect(f"{base}/stream/") as alpacas_old,
        broker.http.get(f"{base}/api/v1/orders/stream", headers={**key, "Last-Event-ID": "0"}) as events,
        broker.http.ws_connect(f"{base}/api/v1/stream", headers=key) as prices,
    ):
        for ws in (alpacas, alpacas_old):
            await ws.send_json({"action": "auth", "key": key_id, "secret": secret})
            await ws.send_json({"action": "listen", "data": {"streams": ["trade_updates"]}})
        reading = [
            asyncio.create_task(each)
            for each in (
                heard[0].websocket(ours),
                heard[1].websocket(alpacas),
                heard[2].websocket(alpacas_old),
                heard[3].events(events),
                heard[4].websocket(prices),
            )
        ]

        async def listens() -> bool:
            return all('"listening"' in each.text for each in heard[1:3])

        await eventually(listens)
        order = {"symbol": "MSFT", "side": "buy", "quantity": 3, "order_type": "market", "client_order_id": f"{NAME}-9"}
        _, theirs = await owner.client.call("POST", "/api/v1/orders", order)
        await owner.client.ended(theirs["id"])
        _, mine = await stranger.call("POST", "/api/v1/orders", {**order, "quantity": 1, "client_order_id": "mine"})
        await stranger.ended(mine["id"])

        async def told() -> bool:
            return all(mine["id"] in each.text and "fill" in each.text for each in heard[:4])

        await eventually(told)
        for task in reading:
            task.cancel()
        await asyncio.gather(*reading, return_exceptions=True)
    text = "".join(each.text for each in heard)
    assert [secret for secret in owner.secrets | {theirs["id"]} if secret in text] == []


async def test_a_stream_that_resumes_at_anothers_place_gets_its_own_events_only(broker: Broker, owner: Owner) -> None:
    stranger = await broker.customer(cash="1000.00")
    (row,) = await broker.fetch(
        "SELECT max(seq) AS newest FROM event WHERE customer_id = $1", int(owner.client.customer_id)
    )
    key = {"Authorization": f"Bearer {stranger.token}"}
    url = f"{broker.running.url}/api/v1/orders/stream?since={row['newest'] - 1}"
    async with broker.http.get(url, headers=key) as response:
        assert response.status == 400, "a place that its events have not come to"
        assert not [secret for secret in owner.secrets if secret in await response.text()]
