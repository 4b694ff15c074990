"""The OpenAPI documents: complete, valid, served as they are, and true (tests/documented.py holds answers to them)."""

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from aiohttp import web

from broker.api import docs
from broker.http import convert
from broker.openapi import operation_of
from tests import documented
from tests.conftest import Broker

PATHS = ["/openapi.json", "/openapi-alpaca.json"]
APIS = pytest.mark.parametrize("number", [0, 1], ids=["ours", "alpaca"])


def operations(document: Any) -> Iterator[Any]:
    for methods in document["paths"].values():
        yield from methods.values()


def by_name(routes: list[web.RouteDef]) -> dict[str, Any]:
    return {f"{route.method} {route.path}": operation_of(route.handler) for route in routes}


@APIS
def test_every_route_is_described_or_says_why_it_is_not(number: int) -> None:
    routes, api = by_name(docs.by_api(documented.routes())[number]), (docs.OURS, docs.ALPACA)[number]
    assert {name for name, declared in routes.items() if declared is None} == set(api.left_out)
    assert len(list(operations(documented.documents()[number]))) == len(routes) - len(api.left_out)


def test_only_the_callbacks_of_exchanges_are_in_no_document() -> None:
    ours, alpaca = docs.by_api(documented.routes())
    names = by_name(documented.routes()).keys() - by_name([*ours, *alpaca]).keys()
    assert names == {"POST /webhooks/exchange"}


@APIS
def test_operations_have_names_of_their_own(number: int) -> None:
    names = Counter(each["operationId"] for each in operations(documented.documents()[number]))
    assert names
    assert [name for name, count in names.items() if count > 1] == []


@APIS
def test_the_document_is_openapi_3_1(number: int) -> None:
    document = documented.documents()[number]
    assert document["openapi"] == "3.1.0"
    schemathesis.openapi.from_dict(document).validate()
    assert json.loads(json.dumps(document)) == document


@APIS
def test_every_example_is_a_body_that_is_taken(number: int) -> None:
    declared = by_name(docs.by_api(documented.routes())[number]).values()
    shown = [each for each in declared if each is not None and each.example is not None]
    assert shown
    for each in shown:
        assert convert(dict(each.example), each.body)


@APIS
def test_every_reference_leads_somewhere_and_every_component_is_used(number: int) -> None:
    document = documented.documents()[number]
    used = {each.removeprefix("#/components/schemas/") for each in _references(document)}
    assert used | {"Error"} == set(document["components"]["schemas"])


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"]
        for each in value.values():
            yield from _references(each)
    elif isinstance(value, list):
        for each in value:
            yield from _references(each)


def test_an_answer_that_is_not_as_documented_is_noticed() -> None:
    documented.check("GET", "/healthz", 200, {"status": "ok"})
    documented.check("GET", "/not/there", 404, {"anything": 1})
    for status, content in [(200, {"status": "so so"}), (200, {"status": "ok", "more": 1}), (200, None), (404, {})]:
        with pytest.raises(AssertionError):
            documented.check("GET", "/healthz", status, content)
    with pytest.raises(AssertionError):
        documented.check("DELETE", f"/api/v1/webhooks/{'0' * 32}", 204, {})
    balance = {
        "customerId": "1001",
        "amount": "1.00",
        "held": "0.00",
        "available": "1.00",
        "currency": "USD",
        "lastModified": "2026-11-22T02:43:10.161595Z",
    }
    documented.check("GET", "/api/v1/balance?x=1", 200, balance)
    for wrong in [{"amount": 1.0}, {"amount": "1"}, {"lastModified": "yesterday"}, {"currency": None}]:
        with pytest.raises(AssertionError):
            documented.check("GET", "/api/v1/balance", 200, balance | wrong)


@pytest.mark.parametrize("path", [*PATHS, "/docs"])
async def test_the_documents_are_served_to_anybody_and_once(broker: Broker, path: str) -> None:
    async with broker.http.get(broker.running.url + path) as response:
        assert response.status == 200
        tag, body = response.headers["ETag"], await response.read()
    for known in (tag, f'"something-else", {tag}', "*"):
        async with broker.http.get(broker.running.url + path, headers={"If-None-Match": known}) as response:
            assert (response.status, await response.read()) == (304, b"")
            assert response.headers["ETag"] == tag
    async with broker.http.get(broker.running.url + path, headers={"If-None-Match": '"an older one"'}) as response:
        assert (response.status, await response.read()) == (200, body)


async def test_what_is_served_is_the_document_of_this_application(broker: Broker) -> None:
    served = [json.loads(await _text(broker, path)) for path in PATHS]
    assert served == [*documented.documents()]


async def test_the_page_shows_both_documents_and_loads_nothing_from_elsewhere(broker: Broker) -> None:
    page = await _text(broker, "/docs")
    assert all(f'"{path}"' in page for path in PATHS)
    assert "http://" not in page
    assert "https://" not in page
    assert " src=" not in page
    assert "innerHTML" not in page  # what an API says is text, never markup


async def _text(broker: Broker, path: str) -> str:
    async with broker.http.get(broker.running.url + path) as response:
        assert response.status == 200
        return await response.text()
