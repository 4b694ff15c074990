"""The HTTP edge: reads requests within limits, turns every error into one form, counts. It knows no route by name.

Every error that leaves is `{"error": "a sentence", "code": "machine_name"}` with the right status; a bug of ours is a
500 with a request id that the log has, never a traceback.
"""

import asyncio
import json
import logging
import math
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from time import perf_counter
from typing import Any, NoReturn, TypeVar, get_args, get_type_hints

import msgspec
import orjson
import structlog
from aiohttp import web
from aiohttp.http import HttpProcessingError
from aiohttp.http_exceptions import LineTooLong
from aiohttp.typedefs import Handler, Middleware
from prometheus_client import Counter, Histogram

from broker.auth import Caller, NotAllowed, NotAuthenticated, TooManyTries
from broker.batch import Overloaded
from broker.config import Config
from broker.db import DatabaseUnavailable
from broker.door import Connection, encoded, request_ids
from broker.exchange import ExchangeUnavailable
from broker.metrics import Metrics, kind_of_request
from broker.shards import BrokenRule, Unanswered

log = structlog.get_logger()

T = TypeVar("T")

REQUEST_ID = web.RequestKey("request_id", str)
"""What the log and the X-Request-Id header call a request."""
OPERATOR = web.RequestKey("operator", str)
"""Whose operator key a request under /admin/ carries: its id, or "admin-token". Set by the gate (broker.gate),
before any later middleware and any handler runs."""
CALLER = web.RequestKey("caller", Caller)
"""The customer behind the key of a request under /api/v1/ or /v2/, likewise. Streams look for it themselves."""
ANSWER_HEADERS = web.RequestKey("answer_headers", dict[str, str])
"""Headers for the answer, whichever it will be; of requests with a key, and of no others."""


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


def error_response(error: ApiError) -> web.Response:
    """An error as it goes out."""
    return json_response({"error": str(error), "code": error.code, **error.figures}, error.status, error.headers)


def _busy(code: str, sentence: str) -> ApiError:
    return ApiError(503, code, sentence, {"Retry-After": "1"})


def as_api_error(error: Exception) -> ApiError | None:  # noqa: PLR0911, PLR0912 - a table, one line a row
    """The answer to every failure that we expect; None for what is a bug."""
    match error:
        case ApiError():
            return error
        case NotAuthenticated():
            return ApiError(401, "unauthorized", str(error), {"WWW-Authenticate": "Bearer"})
        case NotAllowed():
            return ApiError(403, "missing_scope", str(error))
        case TooManyTries():
            return ApiError(429, "too_many_failures", str(error), {"Retry-After": str(math.ceil(error.wait_s))})
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


_JSON = re.compile(r"application/json\s*(;\s*charset=(utf-8|\"utf-8\")\s*)?", re.ASCII | re.IGNORECASE)


async def read_body(request: web.Request, body_max: int, wait_s: float, *, may_be_untyped: bool = False) -> bytes:
    """The whole body, which is to be JSON: as read_bytes, and ApiError 415 where it does not say that it is that."""
    body = await read_bytes(request, body_max, wait_s)
    declared = request.headers.get("Content-Type")
    if not body or declared == "application/json" or (may_be_untyped and declared is None):
        return body
    if declared is None or _JSON.fullmatch(declared) is None:
        wrong = "must be JSON in UTF-8" if declared else "does not say what it is"
        sentence = f"The body {wrong}: send it with the header Content-Type: application/json."
        if declared and declared.startswith("application/x-www-form-urlencoded"):
            sentence += " To curl, give -H 'Content-Type: application/json'."
        raise ApiError(415, "unsupported_content_type", sentence, {"Accept": "application/json"})
    return body


async def read_bytes(request: web.Request, body_max: int, wait_s: float) -> bytes:
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


def _exactly(text: str) -> Decimal:
    try:
        return Decimal(_short(text))
    except InvalidOperation as error:  # an exponent of 19 digits
        raise ValueError("a number in it is out of all bounds") from error


_decoder = json.JSONDecoder(
    object_pairs_hook=_no_duplicates,
    parse_constant=_no_constant,
    parse_int=lambda text: int(_short(text)),
    parse_float=_exactly,
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
"""Bytes of a request's first line: 1,000 symbols in a query, with each comma as %2C, have 15,000."""
_FIELD_MAX = 8 * 1024
"""Bytes of a header."""

_protocol_log = logging.getLogger("broker.protocol")
_protocol_log.addFilter(_is_news)


def build_app(
    config: Config, metrics: Metrics, routes: Iterable[web.AbstractRouteDef], middlewares: Sequence[Middleware] = ()
) -> web.Application:
    """The aiohttp application with these routes. Behind the middleware here come those given, the first one first."""
    next_id = request_ids()
    counters: dict[tuple[str, int], Counter] = {}  # looking one up by its labels costs more than counting
    timers: dict[tuple[str, str], Histogram] = {}

    def count(route: str, status: int) -> None:
        counter = counters.get((route, status))
        if counter is None:
            counter = counters[route, status] = metrics.requests.labels(route, status)
        counter.inc()

    @web.middleware
    async def edge(request: web.Request, handler: Handler) -> web.StreamResponse:
        began = perf_counter()
        request_id = request[REQUEST_ID] = next_id()
        response = await _answer(request, handler, request_id)
        headers = response.headers
        headers["X-Request-Id"] = request_id
        headers["X-Content-Type-Options"] = "nosniff"
        private = request.get(ANSWER_HEADERS)
        if private is not None:
            headers.update(private)
            headers.setdefault("Cache-Control", "no-store")
        if request.secure:
            headers["Strict-Transport-Security"] = "max-age=31536000"
        route = _route(request)
        count(route, response.status)
        if isinstance(response, web.Response):  # a stream is open for as long as its client likes
            seconds = timers.get((request.method, route))
            if seconds is None:
                kind = kind_of_request(request.method, route)
                seconds = timers[request.method, route] = metrics.request_seconds.labels(kind)
            seconds.observe(perf_counter() - began)
        return response

    app = web.Application(
        middlewares=[edge, *middlewares],
        client_max_size=max(config.body_max, config.webhook_body_max),
        # A small compressed body can stand for a gigabyte: whoever unpacks it holds everybody else up.
        handler_args={
            "auto_decompress": False,
            "logger": _protocol_log,
            "max_line_size": _LINE_MAX,
            "max_field_size": _FIELD_MAX,
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
            return error_response(expected)
        log.error("request.failed", request_id=request_id, route=_route(request), exc_info=error)
        code = "broken_rule" if isinstance(error, BrokenRule) else "internal_error"
        sentence = f"This is a fault of the broker, and nothing was done. It is in the log as request {request_id}."
        return error_response(ApiError(500, code, sentence))


def _head_too_large(sentence: str) -> ApiError:
    return ApiError(431, "headers_too_large", sentence, {"Connection": "close"})


def _named(response: web.Response, request_id: str) -> web.Response:
    response.headers["X-Request-Id"] = request_id
    return response


def _closing(error: ApiError, request_id: str) -> web.Response:
    response = _named(error_response(error), request_id)
    response.force_close()
    return response


class _Protocol(Connection):
    """One connection. What fails before there is a request, or after it, is answered in the one form of error too."""

    __slots__ = ()
    HEAD_TOO_LARGE = encoded(error_response(_head_too_large("The request's headers are too large together.")))

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to malformed HTTP. Not in the parser's words: these repeat the line in which a token stands."""
        super().handle_error(request, status, exc, message)  # for its line in the log
        request_id = request.get(REQUEST_ID) or self.next_id()
        if isinstance(exc, LineTooLong):
            error = _head_too_large(f"A header has more than {_FIELD_MAX:,} bytes.")
            if _LINE_MAX in exc.args:
                error = ApiError(414, "url_too_long", f"The request's first line has more than {_LINE_MAX:,} bytes.")
        elif status == 400:
            error = ApiError(400, "malformed_http", "The request is not well-formed HTTP; the connection is closed.")
        else:
            log.error("request.failed", request_id=request_id, route="none", exc_info=exc)
            sentence = f"This is a fault of the broker. It is in the log as request {request_id}."
            error = ApiError(500, "internal_error", sentence)
        return _closing(error, request_id)


class _Server(web.Server):
    """Makes the connections."""

    def __call__(self) -> web.RequestHandler:
        return _Protocol(self, loop=self._loop, **self._kwargs)


class Runner(web.AppRunner):
    """Runs the application; aiohttp has no other way to name a protocol of one's own."""

    async def _make_server(self) -> web.Server:
        made: Any = await super()._make_server()

        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            try:
                response: web.StreamResponse = await made.request_handler(request)
            except web.HTTPException as error:  # raised before the middleware: an Expect that nobody can meet
                answer = error_response(ApiError(error.status, "http_error", f"{error.reason}."))
                assert isinstance(request.protocol, Connection)
                return _named(answer, request.protocol.next_id())
            return response

        return _Server(
            handle,
            request_factory=made.request_factory,
            handler_cancellation=made.handler_cancellation,
            loop=made._loop,
            **made._kwargs,
        )


def _route(request: web.Request) -> str:
    """The route's pattern: a label must not grow with the ids that clients send."""
    resource = request.match_info.route.resource
    return resource.canonical if resource else "none"


WithBody = Callable[[web.Request, bytes], Awaitable[web.StreamResponse]]


def with_body(handler: WithBody, body_max: int, wait_s: float) -> Handler:
    """A handler that gets the request's body, whatever it says that it is, as its second argument."""

    async def read_first(request: web.Request) -> web.StreamResponse:
        return await handler(request, await read_bytes(request, body_max, wait_s))

    return read_first
