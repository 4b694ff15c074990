"""The HTTP edge by itself: what it lets in, how it words what it does not, and which answer each failure becomes."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID

import msgspec
import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestClient, TestServer
from structlog.testing import capture_logs

from broker.auth import NotAuthenticated
from broker.batch import Overloaded
from broker.config import Config
from broker.db import DatabaseUnavailable, RefusedByDatabase
from broker.door import Door
from broker.exchange import ExchangeUnavailable
from broker.http import ApiError, Runner, build_app, convert, json_response, parse_json, with_body
from broker.metrics import Metrics
from broker.shards import BrokenRule, Unanswered

# ------------------------------------------------------------------ JSON


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b"{}", {}),
        (b' {"a": [1, -2, null, true]}\n', {"a": [1, -2, None, True]}),
        (b'{"a": {"a": 1}}', {"a": {"a": 1}}),
        (b"0.1", Decimal("0.1")),
        (b"1902.5000", Decimal("1902.5000")),
        (b"-0", 0),
        (b"1e3", Decimal("1E+3")),
        (b"9" * 40, int("9" * 40)),
        (rb'"\u0041\ud83d\ude00"', "A😀"),
        ('"Ünïcødé"'.encode(), "Ünïcødé"),
        (rb'"C:\\ud800"', r"C:\ud800"),  # an escaped backslash, and no surrogate
        (b"[" * 500 + b"]" * 500, None),
    ],
)
def test_json_is_read_exactly(body: bytes, value: object) -> None:
    found = parse_json(body)
    assert value is None or (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("body", "beginning"),
    [
        (b"", "The body is not JSON: Expecting value at character 0."),
        (b'{"a": 1,}', "The body is not JSON: "),
        (b'{"a": 1, "a": 2}', "The body is not acceptable JSON: a key stands in it twice."),
        (b'[{"b": {"a": 1, "a": 1}}]', "The body is not acceptable JSON: a key stands in it twice."),
        (b"NaN", "The body is not acceptable JSON: NaN is not a JSON number."),
        (b"-Infinity", "The body is not acceptable JSON: -Infinity is not a JSON number."),
        (b"9" * 41, "The body is not acceptable JSON: a number in it is too long."),
        (b"9" * 1_000_000, "The body is not acceptable JSON: a number in it is too long."),
        (b"0." + b"9" * 1_000_000, "The body is not acceptable JSON: a number in it is too long."),
        (b"[" * 100_000, "The body is nested too deeply."),
        (b'{"a":' * 100_000, "The body is nested too deeply."),
        (b"\xff", "The body is not UTF-8."),
        (rb'"\ud800"', "The body is not JSON: "),
        (rb'{"a": "\uDC00"}', "The body is not JSON: "),
    ],
)
def test_what_is_no_json_is_refused_in_a_sentence(body: bytes, beginning: str) -> None:
    with pytest.raises(ApiError) as refused:
        parse_json(body)
    assert (refused.value.status, refused.value.code) == (400, "invalid_json")
    assert str(refused.value).startswith(beginning)


class Lunch(msgspec.Struct, forbid_unknown_fields=True):
    """A request type."""

    dish: Annotated[str, msgspec.Meta(pattern="^[a-z]+$", description="a word in lower case")]
    plates: int = 1


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ({"dish": "Soup"}, "dish must be a word in lower case."),
        ({"dish": 7}, "dish must be a word in lower case."),
        ({"dish": "soup", "plates": "2"}, "Expected `int`, got `str` in plates."),
        ({"dish": "soup", "plates": True}, "Expected `int`, got `bool` in plates."),
        ({"dish": "soup", "plates": Decimal("2.0")}, "Expected `int`, got `decimal` in plates."),
        ({}, "dish is missing."),
        ({"dish": "soup", "drink": 1}, "There is no field 'drink' here."),
        ([], "The body must be a JSON object."),
        ("soup", "The body must be a JSON object."),
        (None, "The body must be a JSON object."),
    ],
)
def test_what_is_no_request_is_refused_in_a_sentence(value: object, sentence: str) -> None:
    with pytest.raises(ApiError) as refused:
        convert(value, Lunch)
    assert (refused.value.status, refused.value.code, str(refused.value)) == (400, "invalid_request", sentence)


def test_a_sentence_does_not_repeat_at_length_what_a_client_sent() -> None:
    with pytest.raises(ApiError) as refused:
        convert({"x" * 100_000: 1}, Lunch)
    assert len(str(refused.value)) < 300


# ------------------------------------------------------------------ answers


@asynccontextmanager
async def serving(*routes: web.RouteDef, **settings: Any) -> AsyncIterator[TestClient[Any, Any]]:
    app = build_app(Config(**settings), Metrics(), routes)
    async with TestClient(TestServer(app)) as client:
        yield client


def failing_with(error: Exception) -> web.RouteDef:
    async def handler(_: web.Request) -> web.Response:
        raise error

    return web.get("/", handler)


EXPECTED_FAILURES: list[tuple[Exception, int, str, dict[str, str]]] = [
    (ApiError(418, "teapot", "I am a teapot.", {"X-Tea": "green"}), 418, "teapot", {"X-Tea": "green"}),
    (NotAuthenticated("Who are you?"), 401, "unauthorized", {"WWW-Authenticate": "Bearer"}),
    (Overloaded(), 503, "overloaded", {"Retry-After": "1"}),
    (Unanswered(), 503, "database_unavailable", {"Retry-After": "1"}),
    (DatabaseUnavailable("password=hunter2"), 503, "database_unavailable", {"Retry-After": "1"}),
    (ExchangeUnavailable("password=hunter2"), 503, "exchange_unavailable", {"Retry-After": "1"}),
    (web.HTTPForbidden(), 403, "http_error", {}),
]


@pytest.mark.parametrize(
    ("error", "status", "code", "headers"), EXPECTED_FAILURES, ids=lambda value: type(value).__name__
)
async def test_every_expected_failure_has_its_answer_and_none_is_logged(
    error: Exception, status: int, code: str, headers: dict[str, str]
) -> None:
    with capture_logs() as logs:
        async with serving(failing_with(error)) as client, client.get("/") as response:
            body = await response.json()
    assert (response.status, body) == (status, {"error": body["error"], "code": code})
    assert headers.items() <= dict(response.headers).items()
    assert "hunter2" not in body["error"]
    assert logs == []


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (KeyError("hunter2"), "internal_error"),
        (AssertionError("hunter2"), "internal_error"),
        (RefusedByDatabase("hunter2", None), "internal_error"),
        (BrokenRule("hunter2"), "broken_rule"),
    ],
)
async def test_a_bug_is_a_500_that_says_nothing_but_where_to_look(error: Exception, code: str) -> None:
    with capture_logs() as logs:
        async with serving(failing_with(error)) as client, client.get("/") as response:
            body = await response.json()
    request_id = response.headers["X-Request-Id"]
    sentence = f"This is a fault of the broker, and nothing was done. It is in the log as request {request_id}."
    assert (response.status, body) == (500, {"error": sentence, "code": code})
    assert [(entry["event"], entry["request_id"], entry["route"]) for entry in logs] == [
        ("request.failed", request_id, "/")
    ]
    assert logs[0]["exc_info"] is error


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "PATCH"])
async def test_unknown_paths_and_methods_are_told_so(method: str) -> None:
    async with serving(web.get("/lunch", ok), web.put("/lunch", ok)) as client:
        async with client.request(method, "/dinner") as response:
            assert (response.status, (await response.json())["code"]) == (404, "no_such_route")
        if method != "GET":
            async with client.request(method, "/lunch") as response:
                error = {"error": "This path takes GET, HEAD, PUT.", "code": "method_not_allowed"}
                assert (response.status, await response.json()) == (405, error)
                assert response.headers["Allow"] == "GET, HEAD, PUT"


async def ok(_: web.Request) -> web.Response:
    return json_response({"status": "ok"})


async def test_each_answer_has_a_request_id_of_its_own() -> None:
    async with serving(web.get("/lunch", ok)) as client:
        ids = set()
        for path in ("/lunch", "/lunch", "/dinner", "/"):
            async with client.get(path) as response:
                ids.add(response.headers["X-Request-Id"])
    assert len(ids) == 4


async def test_a_fault_outside_of_the_handlers_is_in_the_log_under_the_answers_request_id() -> None:
    """A connection may fail where no middleware stands; what it says has an id as well."""

    app = web.Application()  # without the middleware that answers for handlers
    app.add_routes([failing_with(KeyError("hunter2"))])
    runner = Runner(app, door=Door([], lambda: 1, Config(), Metrics()))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = "http://{}:{}/".format(*runner.addresses[0])
    with capture_logs() as logs:
        async with ClientSession() as http, http.get(url) as response:
            body = await response.json()
    await runner.cleanup()
    request_id = response.headers["X-Request-Id"]
    assert (response.status, body["code"]) == (500, "internal_error")
    assert request_id in body["error"]
    assert "hunter2" not in body["error"]
    failed = [entry for entry in logs if entry["event"] == "request.failed"]
    assert [(entry["request_id"], str(entry["exc_info"])) for entry in failed] == [(request_id, "'hunter2'")], logs


# ------------------------------------------------------------------ bodies


async def length(_: web.Request, body: bytes) -> web.Response:
    return json_response({"length": len(body)})


async def chunks_of(size: int) -> AsyncIterator[bytes]:
    for start in range(0, size, 1000):
        yield b" " * min(1000, size - start)


@pytest.mark.parametrize("webhook_body_max", [5_000, 50_000])
async def test_a_body_may_be_as_large_as_the_limit_and_no_larger(webhook_body_max: int) -> None:
    body_max = 10_000
    route = web.post("/", with_body(length, body_max, 5))
    answers = []
    async with serving(route, body_max=body_max, webhook_body_max=webhook_body_max) as client:
        for size in (0, body_max, body_max + 1):
            for data in (b" " * size, chunks_of(size)):
                async with client.post("/", data=data) as response:
                    body = await response.json()
                    answers.append((response.status, body.get("code", body.get("length"))))
    assert answers == [*[(200, 0)] * 2, *[(200, body_max)] * 2, *[(413, "body_too_large")] * 2]


def test_answers_are_json_with_ids_and_times_as_text() -> None:
    body = {"id": UUID(int=7), "at": datetime(2026, 11, 27, 14, 30, tzinfo=UTC), "none": None}
    response = json_response(body, 201, {"X": "y"})
    assert json.loads(response.body) == {
        "id": "00000000-0000-0000-0000-000000000007",
        "at": "2026-11-27T14:30:00Z",
        "none": None,
    }
    assert (response.status, response.content_type, response.headers["X"]) == (201, "application/json", "y")
