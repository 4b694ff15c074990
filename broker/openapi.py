"""What HTTP operations take and answer, as their handlers declare it, and the OpenAPI document that this makes.

A declaration changes nothing about its handler; the tests hold real answers against the document. A type here is a
msgspec Struct, a TypedDict, or a list of them.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from types import MappingProxyType
from typing import Any, Protocol, TypeVar

import msgspec

Json = dict[str, Any]
Handler = TypeVar("Handler", bound=Callable[..., Any])
Key = TypeVar("Key")

_ATTRIBUTE = "__operation__"
_COMPONENT = "#/components/schemas/{name}"


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation without its method and path, which the route table knows."""

    summary: str
    answer: Any = None
    status: int = 200
    body: Any = None
    query: type | None = None
    errors: tuple[int, ...] = ()
    others: Mapping[int, Any] = field(default_factory=lambda: MappingProxyType({}))
    tag: str = ""
    headers: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    body_optional: bool = False
    example: Mapping[str, Any] | None = None

    @property
    def answers(self) -> Mapping[int, Any]:
        """The type of each status that is no error."""
        return {self.status: self.answer, **self.others}


def operation(
    summary: str,
    *,
    answer: Any = None,
    status: int = 200,
    body: Any = None,
    query: type | None = None,
    errors: tuple[int, ...] = (),
    others: Mapping[int, Any] | None = None,
    tag: str = "",
    headers: Mapping[str, Any] | None = None,
    body_optional: bool = False,
    example: Mapping[str, Any] | None = None,
) -> Callable[[Handler], Handler]:
    """Declare what a handler takes and answers.

    `answer` is the type of `status`; without one there is no body. `query` is a Struct whose fields are the parameters
    of the query string. `errors` are the statuses in the API's error form, beside those that every operation of the
    API may answer; `others` are further statuses with types of their own; `headers` are those that it reads.
    Where the body is optional, none at all is the same as an empty object; `example` is one.
    """
    declared = Operation(
        summary, answer, status, body, query, errors, _kept(others), tag, _kept(headers), body_optional, example
    )

    def declare(handler: Handler) -> Handler:
        setattr(handler, _ATTRIBUTE, declared)
        return handler

    return declare


def _kept(given: Mapping[Key, Any] | None) -> Mapping[Key, Any]:
    return MappingProxyType(dict(given or {}))


def operation_of(handler: Callable[..., Any]) -> Operation | None:
    """What this handler, function or bound method, declares."""
    found = getattr(handler, _ATTRIBUTE, None)
    return found if isinstance(found, Operation) else None


def carry(handler: Callable[..., Any], wrapper: Handler) -> Handler:
    """The wrapper, which declares what the handler does."""
    declared = operation_of(handler)
    if declared is not None:
        setattr(wrapper, _ATTRIBUTE, declared)
    return wrapper


def parameters_of(query: type) -> frozenset[str]:
    """The names of a query's parameters."""
    return frozenset(each.encode_name for each in msgspec.structs.fields(query))


# ------------------------------------------------------------------ the document


class Route(Protocol):
    """A line of the application's route table."""

    @property
    def method(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def handler(self) -> Any: ...


@dataclass(frozen=True, slots=True)
class Api:
    """What the operations of an API have in common. What goes by the beginning of a path goes by the longest."""

    title: str
    version: str
    description: str
    schemes: Mapping[str, Json]  # the ways in
    security: Mapping[str, Sequence[Json]]  # which of them open a path, by its beginning; none: it is open
    tags: Mapping[str, str]  # by the beginning of a path
    error: Json  # the schema of every error
    errors: tuple[int, ...]  # which of them whatever is not open may answer
    errors_of_body: tuple[int, ...]
    errors_of_query: tuple[int, ...]
    parameters: Mapping[str, Json]  # the schema of a path's parameter, by "/the/{path} name" or by its name alone
    left_out: Mapping[str, str]  # why an operation, as "GET /path", is not described
    empty_is_left_out: bool = False  # a parameter of a query without a value is as one that is not there


def write_document(api: Api, routes: Iterable[Route]) -> Json:
    """The OpenAPI 3.1 document of these routes, as far as they declare an operation."""
    described = [(route, declared) for route in routes if (declared := operation_of(route.handler)) is not None]
    schemas, components = _schemas([declared for _, declared in described])
    paths: dict[str, Json] = {}
    for route, declared in described:
        path = _PARAMETER.sub(r"{\1}", route.path)
        methods = paths.setdefault(path, {})
        assert route.method.lower() not in methods, f"{route.method} {path} stands in the document twice"
        methods[route.method.lower()] = _operation(api, route, path, declared, schemas)
    document: Json = _plain(
        {
            "openapi": "3.1.0",
            "info": {"title": api.title, "version": api.version, "description": api.description},
            "servers": [{"url": "/"}],
            "paths": paths,
            "components": {"schemas": {**components, "Error": api.error}, "securitySchemes": api.schemes},
            "x-not-described": api.left_out,
        }
    )
    return document


class _Schemas:
    """The schema of each type that an operation names; mostly a reference to a component."""

    def __init__(self, types: Sequence[Any], schemas: Iterable[Json]) -> None:
        self._types = types
        self._schemas = list(schemas)

    def __getitem__(self, type_: Any) -> Json:
        return self._schemas[self._types.index(type_)]  # not every type can be hashed


def _schemas(operations: Sequence[Operation]) -> tuple[_Schemas, dict[str, Json]]:
    named = [type_ for each in operations for type_ in (each.body, *each.answers.values(), *each.headers.values())]
    types = [type_ for number, type_ in enumerate(named) if type_ is not None and type_ not in named[:number]]
    schemas, components = msgspec.json.schema_components(types, ref_template=_COMPONENT)
    return _Schemas(types, schemas), components


def _operation(api: Api, route: Route, path: str, declared: Operation, schemas: _Schemas) -> Json:
    security = _by_beginning(api.security, path) or ()
    errors = {*declared.errors, *(api.errors if security else ())}
    errors |= {*(api.errors_of_body if declared.body else ()), *(api.errors_of_query if declared.query else ())}
    answers = {status: _answer(status, None if of is None else schemas[of]) for status, of in declared.answers.items()}
    refusals = {status: _answer(status, {"$ref": _COMPONENT.format(name="Error")}) for status in errors - set(answers)}
    parameters = [*_in_path(api, route.path), *_in_query(api, declared.query)]
    parameters += [
        {"name": name, "in": "header", "required": False, "schema": schemas[type_]}
        for name, type_ in declared.headers.items()
    ]
    described: Json = {
        "operationId": operation_id(route.method, path),
        "summary": declared.summary,
        "tags": [declared.tag or _by_beginning(api.tags, path) or "other"],
        "security": security,
        "responses": {str(status): answer for status, answer in sorted((answers | refusals).items())},
    }
    if parameters:
        described["parameters"] = parameters
    if declared.body is not None:
        example = {} if declared.example is None else {"example": declared.example}
        content = {"application/json": {"schema": schemas[declared.body], **example}}
        described["requestBody"] = {"required": not declared.body_optional, "content": content}
    return described


def operation_id(method: str, path: str) -> str:
    """The name of an operation: its method and path, as one word."""
    return "_".join(re.findall(r"\w+", f"{method.lower()} {path.removeprefix('/api/v1')}"))


def _by_beginning(values: Mapping[str, Key], path: str) -> Key | None:
    fitting = [beginning for beginning in values if path.startswith(beginning)]
    return values[max(fitting, key=len)] if fitting else None


def _answer(status: int, schema: Json | None) -> Json:
    described: Json = {"description": HTTPStatus(status).phrase}
    return described if schema is None else {**described, "content": _json(schema)}


def _json(schema: Json) -> Json:
    return {"application/json": {"schema": schema}}


# ------------------------------------------------------------------ parameters

_PARAMETER = re.compile(r"\{(\w+)(?::((?:[^{}]|\{[^{}]*\})*))?\}")
"""A parameter of a path as aiohttp writes it, maybe with a pattern."""


def _in_path(api: Api, path: str) -> list[Json]:
    parameters = []
    for name, pattern in _PARAMETER.findall(path):
        of_pattern = {"type": "string", "pattern": f"^{pattern}$"} if pattern else {"type": "string", "minLength": 1}
        schema = api.parameters.get(f"{path} {name}") or api.parameters.get(name) or of_pattern
        parameters.append({"name": name, "in": "path", "required": True, "schema": schema})
    return parameters


def _in_query(api: Api, query: type | None) -> list[Json]:
    """A parameter is left out rather than null, and stands with its schema, not a reference."""
    if query is None:
        return []
    whole = msgspec.json.schema(query)
    components = whole["$defs"]
    of_query = components[whole["$ref"].rpartition("/")[2]]
    parameters = []
    for name, schema in of_query["properties"].items():
        plain = _inline(schema, components)
        description = plain.pop("description", None)
        required = name in of_query.get("required", ())
        if api.empty_is_left_out and not required:
            plain = {"anyOf": [plain, {"const": ""}]}
        parameter = {"name": name, "in": "query", "required": required, "schema": plain}
        parameters.append(parameter if description is None else {**parameter, "description": description})
    return parameters


def _inline(schema: Json, components: Mapping[str, Json]) -> Json:
    if "$ref" in schema:
        rest = {key: value for key, value in schema.items() if key not in {"$ref", "default"}}
        return {**_inline(components[schema["$ref"].rpartition("/")[2]], components), **rest}
    choices = [_inline(each, components) for each in schema.get("anyOf", ()) if each != {"type": "null"}]
    rest = {key: value for key, value in schema.items() if key not in {"anyOf", "title"}}
    if rest.get("default", ...) is None:
        del rest["default"]
    if len(choices) == 1:
        return {**choices[0], **rest}
    return {**rest, "anyOf": choices} if choices else rest


def _plain(value: Any) -> Any:
    """What JSON can say."""
    if isinstance(value, Mapping):
        return {
            key: _pattern(each) if key == "pattern" and isinstance(each, str) else _plain(each)
            for key, each in value.items()
        }
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


def _pattern(of_python: str) -> str:
    """In ECMA-262 `$` is the end, never the place before a newline; and text has no halves of surrogate pairs."""
    return of_python.removesuffix(r"(?!\n)").removesuffix("(?!\n)").replace(r"\ud800-\udfff", "")
