"""The HTTP edge: reads requests within limits, turns every error into one form, counts. It knows no route by name.

Every error that leaves is `{"error": "a sentence", "code": "machine_name"}` with the right status; a bug of ours is a
500 with a request id that the log has, never a traceback.
"""

import asyncio
import itertools
import json
import logging
import re
import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping
from decimal import Decimal
from typing import Any, NoReturn, TypeVar, get_args, get_type_hints

import msgspec
import orjson
import structlog
from aiohttp import web
from aiohttp.http import HttpProcessingError
from aiohttp.typedefs import Handler
from prometheus_client import Counter

from broker.auth import NotAuthenticated
from broker.batch import Overloaded
from broker.config import Config
from broker.db import DatabaseUnavailable
from broker.exchange import ExchangeUnavailable
from broker.metrics import Metrics
from broker.shards import BrokenRule, Unanswered

log = structlog.get_logger()

T = TypeVar("T")

REQUEST_ID = web.RequestKey("request_id", str)
"""What the log and the X-Request-Id header call a request."""


class ApiError(Exception):
    """An answer that is an error."""

    def __init__(
        self,
        status: int,
        code: str,
        sentence: str,
        headers: dict[str, str] | None = None,
        figures: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(sentence)
        self.status = status
        self.code = code
        self.headers = headers
        self.figures = figures or {}  # what the sentence says, as fields


# ------------------------------------------------------------------ answers


def json_response(body: object, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """An answer in JSON; ids and times become strings."""
    encoded = orjson.dumps(body, default=str, option=orjson.OPT_UTC_Z)  # default: asyncpg's UUID is one of its own
    return web.Response(body=encoded, status=status, headers=headers, content_type="application/json")


def _error_response(error: ApiError) -> web.Response:
    return json_response({"error": str(error), "code": error.code, **error.figures}, error.status, error.headers)


def _busy(code: str, sentence: str) -> ApiError:
    return ApiError(503, code, sentence, {"Retry-After": "1"})


def as_api_error(error: Exception) -> ApiError | None:  # noqa: PLR0911 - a table, one line a row
    """The answer to every failure that we expect; None for what is a bug."""
    match error:
        case ApiError():
            return error
        case NotAuthenticated():
            return ApiError(401, "unauthorized", str(error), {"WWW-Authenticate": "Bearer"})
        case Overloaded():
            return _busy("overloaded", "The broker is at its limit; nothing was done. Try again in a second.")
        case Unanswered():
            sentence = (
                "The database did not answer in time, so it is not known whether this was done. "
                "Send the same request with the same Idempotency-Key again, or look at GET /api/v1/trades."
            )
            return _busy("database_unavailable", sentence)
        case DatabaseUnavailable():
            sentence = (
                "The database does not answer. If this was to change something, look whether it did before you "
                "send it again."
            )
            return _busy("database_unavailable", sentence)
        case ExchangeUnavailable():
            return _busy("exchange_unavailable", "The exchange does not answer. Try again in a second.")
        case web.HTTPRequestEntityTooLarge():
            return ApiError(413, "body_too_large", "The body is too large.")
        case web.HTTPNotFound():
            return ApiError(404, "no_such_route", "There is no such path here.")
        case web.HTTPMethodNotAllowed():
            allowed = ", ".join(sorted(error.allowed_methods))
            return ApiError(405, "method_not_allowed", f"This path takes {allowed}.", {"Allow": allowed})
        case web.HTTPException():
            return ApiError(error.status, "http_error", error.reason)
        case _:
            return None


# ------------------------------------------------------------------ requests


async def read_body(request: web.Request, body_max: int, wait_s: float) -> bytes:
    """The whole body. Raises ApiError 413 where it is too large, 408 where it does not arrive in time, 415, 400."""
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        sentence = "The body must come as it is, without Content-Encoding."
        raise ApiError(415, "unsupported_encoding", sentence, {"Accept-Encoding": "identity"})
    if (request.content_length or 0) > body_max:
        raise _too_large(body_max)
    try:
        if request.content.is_eof():  # it came with the headers, as nearly all do: no timer needed
            body = await request.read()
        else:
            async with asyncio.timeout(wait_s):
                body = await request.read()
    except TimeoutError as error:
        raise ApiError(408, "body_timeout", f"The body did not arrive within {wait_s:g} s.") from error
    except (web.RequestPayloadError, ConnectionError) as error:
        raise ApiError(400, "body_incomplete", "The body ended before it was complete.") from error
    if len(body) > body_max:  # it came in chunks, and so without its length
        raise _too_large(body_max)
    return body


def _too_large(body_max: int) -> ApiError:
    return ApiError(413, "body_too_large", f"The body may have at most {body_max} bytes.")


_DEPTH_SENTENCE = "The body is nested too deeply."


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A proxy and we might read different ones of two equal keys."""
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key stands in it twice")
    return result


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _short(text: str) -> str:
    if len(text) > 40:
        raise ValueError("a number in it is too long")
    return text


_decoder = json.JSONDecoder(
    object_pairs_hook=_no_duplicates,
    parse_constant=_no_constant,
    parse_int=lambda text: int(_short(text)),
    parse_float=lambda text: Decimal(_short(text)),
)


def parse_json(body: bytes) -> Any:
    """Strict JSON: UTF-8, no key twice, no NaN, no float (decimals stay exact). Raises ApiError 400."""
    try:
        value = _decoder.decode(body.decode("utf-8"))
        if b"\\u" in body:  # half of a surrogate pair is no character: nothing can store it, or send it back
            orjson.loads(body)
        return value
    except RecursionError as error:
        raise ApiError(400, "invalid_json", _DEPTH_SENTENCE) from error
    except UnicodeDecodeError as error:
        raise ApiError(400, "invalid_json", "The body is not UTF-8.") from error
    except json.JSONDecodeError as error:
        raise ApiError(400, "invalid_json", f"The body is not JSON: {error.msg} at character {error.pos}.") from error
    except ValueError as error:
        raise ApiError(400, "invalid_json", f"The body is not acceptable JSON: {error}.") from error


def convert(value: object, type_: type[T]) -> T:
    """The value as a request type, strictly: no unknown field, no text for a number. Raises ApiError 400."""
    if not isinstance(value, dict):
        raise ApiError(400, "invalid_request", "The body must be a JSON object.")
    try:
        return msgspec.convert(value, type_)
    except msgspec.ValidationError as error:
        raise ApiError(400, "invalid_request", _sentence(str(error), type_)) from error


def _sentence(message: str, type_: type) -> str:
    """What msgspec found, with the field's own description where it has one."""
    missing = re.fullmatch(r"Object missing required field `(\w+)`", message)
    if missing:
        return f"{missing[1]} is missing."
    unknown = re.fullmatch(r"Object contains unknown field `(.*)`", message, re.DOTALL)
    if unknown:
        return f"There is no field {unknown[1][:40]!r} here."  # what a client made long stays out of the answer
    what, _, path = message.partition(" - at `$.")
    name = re.split(r"[.\[]", path.rstrip("`"), maxsplit=1)[0]
    hint = get_type_hints(type_, include_extras=True).get(name)
    hints = [hint, *get_args(hint)]  # of a field that may be null, the description stands in the union
    for meta in [meta for each in hints for meta in getattr(each, "__metadata__", ())]:
        if isinstance(meta, msgspec.Meta) and meta.description:
            return f"{name} must be {meta.description}."
    return f"{what} in {name}." if name else f"{what[:200]}."  # what a client made long stays out of the answer


# ------------------------------------------------------------------ the app


def _is_news(record: logging.LogRecord) -> bool:
    """Malformed HTTP is none: anybody could fill the log with it, and it shows the line in which a token stands."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, HttpProcessingError | web.RequestPayloadError)


_LINE_MAX = 32 * 1024
"""Bytes of a request's first line, and of a header: 1,000 symbols in a query, with each comma as %2C, have 15,000."""

_protocol_log = logging.getLogger("broker.protocol")
_protocol_log.addFilter(_is_news)


def build_app(config: Config, metrics: Metrics, routes: Iterable[web.AbstractRouteDef]) -> web.Application:
    """The aiohttp application with these routes behind the one middleware."""
    numbers = itertools.count(1)
    run = secrets.token_hex(4)
    counters: dict[tuple[str, int], Counter] = {}  # looking one up by its labels costs more than counting

    def count(route: str, status: int) -> None:
        counter = counters.get((route, status))
        if counter is None:
            counter = counters[route, status] = metrics.requests.labels(route, status)
        counter.inc()

    @web.middleware
    async def edge(request: web.Request, handler: Handler) -> web.StreamResponse:
        request_id = request[REQUEST_ID] = f"{run}-{next(numbers):x}"
        response = await _answer(request, handler, request_id)
        response.headers["X-Request-Id"] = request_id
        count(_route(request), response.status)
        return response

    app = web.Application(
        middlewares=[edge],
        client_max_size=max(config.body_max, config.webhook_body_max),
        # A small compressed body can stand for a gigabyte: whoever unpacks it holds everybody else up.
        handler_args={
            "auto_decompress": False,
            "logger": _protocol_log,
            "max_line_size": _LINE_MAX,
            "max_field_size": _LINE_MAX,
        },
    )
    app.add_routes(routes)
    return app


async def _answer(request: web.Request, handler: Handler, request_id: str) -> web.StreamResponse:
    try:
        return await handler(request)
    except Exception as error:  # the one place where a bug becomes a 500 and a line in the log
        expected = as_api_error(error)
        if expected is not None:
            return _error_response(expected)
        log.error("request.failed", request_id=request_id, route=_route(request), exc_info=error)
        code = "broken_rule" if isinstance(error, BrokenRule) else "internal_error"
        sentence = f"This is a fault of the broker, and nothing was done. It is in the log as request {request_id}."
        return _error_response(ApiError(500, code, sentence))


def _route(request: web.Request) -> str:
    """The route's pattern: a label must not grow with the ids that clients send."""
    resource = request.match_info.route.resource
    return resource.canonical if resource else "none"


WithBody = Callable[[web.Request, bytes], Awaitable[web.StreamResponse]]


def with_body(handler: WithBody, body_max: int, wait_s: float) -> Handler:
    """A handler that gets the request's body as its second argument."""

    async def read_first(request: web.Request) -> web.StreamResponse:
        return await handler(request, await read_body(request, body_max, wait_s))

    return read_first
