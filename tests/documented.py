"""Real answers held against the OpenAPI documents: every answer that a test gets passes through `check`."""

import re
from collections.abc import Iterable
from functools import cache
from http import HTTPStatus
from typing import Any, cast

import jsonschema_rs
from aiohttp import web

from broker.api.docs import DocsApi
from broker.assembly import assemble
from broker.config import Config
from broker.db import Database
from broker.listeners import Urls

Json = dict[str, Any]


@cache
def app() -> web.Application:
    """The application with all its routes, of a broker that was assembled and never ran."""
    nothing = cast(Any, None)
    config = Config(admin_token="nobody-at-all-is-it")
    urls = Urls.all_on("http://broker")
    parts = assemble(config, urls, "http://exchange", [], Database("", config), nothing, nothing)
    for each in parts.work:
        each.close()
    return parts.app


@cache
def routes() -> list[web.RouteDef]:
    """The route table, without the HEAD that goes with a GET."""
    found = [
        web.RouteDef(route.method, route.resource.canonical, route.handler, {})
        for route in app().router.routes()
        if route.method != "HEAD" and route.resource is not None
    ]
    assert len(found) > 50
    return found


@cache
def documents() -> tuple[Json, Json]:
    """The document of our own API, and that of Alpaca's dialect."""
    (mounted,) = (route.handler for route in routes() if route.path == "/openapi.json")
    api: DocsApi = mounted.__self__
    return api.document("/openapi.json"), api.document("/openapi-alpaca.json")


def check(method: str, path: str, status: int, content: object) -> None:
    """Fails where this is no answer that a document allows; `content` is None where there was no JSON."""
    path = path.partition("?")[0]
    found = operation(method.upper(), path)
    if found is None or status == HTTPStatus.INTERNAL_SERVER_ERROR:  # a fault of ours, which no document foresees
        return
    number, template = found
    document = documents()[number]
    answers = document["paths"][template][method.lower()]["responses"]
    assert str(status) in answers, f"{method} {path}: {status} is not in the document: {content}"
    if "content" not in answers[str(status)]:
        assert content is None, f"{method} {path}: {status} has no body in the document: {content}"
        return
    errors = [
        f"{error.instance_path}: {error.message}" for error in _validator(number, template, method, status)(content)
    ]
    assert not errors, f"{method} {path}: {status} is not as in the document: {errors[:5]} in {content}"


@cache
def operation(method: str, path: str) -> tuple[int, str] | None:
    """Which document describes it, and under which path: that of the route which takes it, as aiohttp finds it."""
    taking = [route.path for route in routes() if route.method == method]
    for template in sorted(taking, key=lambda each: "{" in each):
        pattern = "[^/]+".join(map(re.escape, re.split(r"\{\w+\}", template)))
        if re.fullmatch(pattern, path):
            found = [number for number, document in enumerate(documents()) if _describes(document, method, template)]
            return (found[0], template) if found else None
    return None


def _describes(document: Json, method: str, template: str) -> bool:
    return method.lower() in document["paths"].get(template, {})


class _Validator:
    def __init__(self, schema: Json) -> None:
        self._validator = jsonschema_rs.Draft202012Validator(schema, validate_formats=True)

    def __call__(self, content: object) -> Iterable[jsonschema_rs.ValidationError]:
        return self._validator.iter_errors(content)


@cache
def _validator(number: int, template: str, method: str, status: int) -> _Validator:
    answer = documents()[number]["paths"][template][method.lower()]["responses"][str(status)]
    (of_type,) = answer["content"].values()
    return _Validator({**of_type["schema"], "components": closed(documents()[number]["components"])})


def closed(value: Any) -> Any:
    """The schemas with no room for a field that they do not name, unless they say that there is."""
    if isinstance(value, dict):
        inside = {key: closed(each) for key, each in value.items()}
        return {"additionalProperties": False, **inside} if isinstance(inside.get("properties"), dict) else inside
    return [closed(each) for each in value] if isinstance(value, list) else value
