"""What a handler declares, and what the document says of it."""

from dataclasses import replace
from enum import StrEnum
from typing import Annotated, Any, TypedDict
from uuid import UUID

import msgspec
import pytest
from aiohttp import web

from broker.openapi import Api, carry, operation, operation_id, operation_of, parameters_of, write_document

API = Api(
    title="Shop",
    version="1",
    description="",
    schemes={"token": {"type": "http", "scheme": "bearer"}},
    security={"/": [{"token": []}], "/open/": []},
    tags={"/": "all", "/carts/": "carts"},
    error={"type": "object"},
    errors=(401, 503),
    errors_of_body=(400, 413),
    errors_of_query=(400,),
    parameters={"cart": {"type": "integer"}, "/open/{cart} cart": {"type": "boolean"}},
    left_out={"GET /stream": "a stream"},
)


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class Item(TypedDict):
    """Something in a cart."""

    id: UUID
    name: Annotated[str, msgspec.Meta(pattern=r"^[^\x00\ud800-\udfff]+$(?!\n)")]
    word: Annotated[str, msgspec.Meta(pattern="^(a|b)$(?!\n)")]


class NewItem(msgspec.Struct, forbid_unknown_fields=True):
    """What is to be put into a cart."""

    name: str


class ItemsQuery(msgspec.Struct):
    """Which items."""

    colour: Colour | None = None
    since: Annotated[int, msgspec.Meta(ge=1, description="a number")] | None = msgspec.field(name="from", default=None)
    page: Annotated[str, msgspec.Meta(pattern="^[0-9]+$")] = "1"


async def plain(request: web.Request) -> web.Response:
    """A handler that declares nothing."""
    raise NotImplementedError


def declaring(**declared: Any) -> Any:
    async def handler(request: web.Request) -> web.Response:
        raise NotImplementedError

    return operation("Something", **declared)(handler)


def described(method: str, path: str, api: Api = API, **declared: Any) -> Any:
    document = write_document(api, [web.route(method, path, declaring(**declared))])
    ((_, methods),) = document["paths"].items()
    return methods[method.lower()]


def test_a_declaration_stays_with_the_method_and_with_what_it_is_wrapped_in() -> None:
    class Handlers:
        @operation("Look", answer=Item)
        async def look(self, request: web.Request) -> web.Response:
            raise NotImplementedError

    declared = operation_of(Handlers().look)
    assert declared is not None
    assert (declared.summary, declared.answers) == ("Look", {200: Item})

    async def wrapper(request: web.Request) -> web.Response:
        raise NotImplementedError

    assert operation_of(carry(Handlers().look, wrapper)) is declared
    assert operation_of(carry(plain, plain)) is None


def test_a_route_that_declares_nothing_is_not_in_the_document() -> None:
    assert write_document(API, [web.get("/stream", plain)])["paths"] == {}
    assert write_document(API, [])["x-not-described"] == {"GET /stream": "a stream"}


def test_the_answers_are_those_that_are_declared_and_the_errors_of_the_api() -> None:
    found = described("POST", "/carts", body=NewItem, answer=list[Item], status=201, errors=(404,), others={202: Item})
    item, error = {"$ref": "#/components/schemas/Item"}, {"$ref": "#/components/schemas/Error"}
    schemas = {
        status: each["content"]["application/json"]["schema"] if "content" in each else None
        for status, each in found["responses"].items()
    }
    errors = dict.fromkeys(["400", "401", "404", "413", "503"], error)
    assert schemas == {"201": {"type": "array", "items": item}, "202": item, **errors}
    assert found["requestBody"]["required"]
    assert found["security"] == [{"token": []}]


def test_what_is_open_has_no_errors_of_tokens_and_what_answers_nothing_has_no_content() -> None:
    found = described("DELETE", "/open/{cart}", status=204)
    assert found["responses"] == {"204": {"description": "No Content"}}
    assert found["security"] == []


def test_parameters_of_a_path_have_the_schema_of_their_path_of_their_name_or_of_their_pattern() -> None:
    def schemas(path: str) -> list[Any]:
        return [each["schema"] for each in described("GET", path, answer=Item)["parameters"]]

    assert schemas("/carts/{cart}/{item}") == [{"type": "integer"}, {"type": "string", "minLength": 1}]
    assert schemas("/open/{cart}") == [{"type": "boolean"}]
    assert schemas(r"/n/{number:\d{1,3}}") == [{"type": "string", "pattern": r"^\d{1,3}$"}]


def test_parameters_of_a_query_are_left_out_rather_than_null() -> None:
    found = described("GET", "/items", answer=Item, query=ItemsQuery)["parameters"]
    schemas = {each["name"]: (each["required"], each["schema"]) for each in found}
    assert schemas == {
        "colour": (False, {"enum": ["blue", "red"]}),
        "from": (False, {"type": "integer", "minimum": 1}),
        "page": (False, {"type": "string", "pattern": "^[0-9]+$", "default": "1"}),
    }
    assert [each.get("description") for each in found] == [None, "a number", None]
    assert parameters_of(ItemsQuery) == {"colour", "from", "page"}


def test_where_nothing_is_as_good_as_left_out_the_document_says_so() -> None:
    found = described("GET", "/items", replace(API, empty_is_left_out=True), answer=Item, query=ItemsQuery)
    assert {"anyOf": [{"enum": ["blue", "red"]}, {"const": ""}]} in [each["schema"] for each in found["parameters"]]


def test_a_pattern_of_python_becomes_one_of_json_schema() -> None:
    document = write_document(API, [web.get("/items", declaring(answer=Item))])
    properties = document["components"]["schemas"]["Item"]["properties"]
    assert properties["name"]["pattern"] == r"^[^\x00]+$"
    assert properties["word"]["pattern"] == "^(a|b)$"


def test_two_operations_on_one_path_and_method_are_a_mistake() -> None:
    handler = declaring(answer=Item)
    with pytest.raises(AssertionError, match="twice"):
        write_document(API, [web.get("/items/{a}", handler), web.get("/items/{a:x}", handler)])


def test_the_name_of_an_operation_is_its_method_and_path() -> None:
    assert operation_id("GET", "/api/v1/orders/{orderId}") == "get_orders_orderId"
    assert operation_id("POST", "/v2/watchlists:by_name") == "post_v2_watchlists_by_name"
