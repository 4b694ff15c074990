"""Every failure in Alpaca's form: `{"code": int, "message": str, ...}` with the status that its clients act on.

A 429 is sent again by them, orders too: so it stands only where nothing was done. 504 is never used.
"""

import math
from collections.abc import Mapping
from functools import wraps

import orjson
import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

from broker.auth import NotAllowed, NotAuthenticated, TooManyTries
from broker.batch import Overloaded
from broker.db import DatabaseUnavailable
from broker.exchange import ExchangeUnavailable
from broker.http import REQUEST_ID, ApiError
from broker.shards import Unanswered

log = structlog.get_logger()

BAD_PARAMETER = 40010001
"""The code of a parameter that is missing or wrong; its status is 422."""


def code_of(status: int) -> int:
    """Alpaca's general code for a status: 422 is 42210000."""
    return status * 100_000 + 10_000


class AlpacaError(Exception):
    """An answer that is an error. `extra` are more fields beside code and message."""

    def __init__(
        self,
        status: int,
        code: int | None,
        message: str,
        extra: Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code_of(status) if code is None else code
        self.message = message
        self.extra = dict(extra or {})
        self.headers = dict(headers or {})

    def body(self) -> dict[str, object]:
        """What goes out."""
        return {"code": self.code, "message": self.message, **self.extra}


def bad_parameter(message: str) -> AlpacaError:
    """422 for a parameter that is missing or cannot be what it is."""
    return AlpacaError(422, BAD_PARAMETER, message)


def unprocessable(message: str) -> AlpacaError:
    """422 for what a rule of the business forbids."""
    return AlpacaError(422, None, message)


def not_found(message: str) -> AlpacaError:
    """404."""
    return AlpacaError(404, None, message)


def as_alpaca_error(error: Exception) -> AlpacaError | None:  # noqa: PLR0911, PLR0912 - a table, one line a row
    """The answer to every failure that we expect; None for what is a bug."""
    match error:
        case AlpacaError():
            return error
        case ApiError(code="invalid_json"):
            return AlpacaError(400, None, f"request body format is invalid: {error}")
        case ApiError():
            return AlpacaError(error.status, None, str(error), headers=error.headers)
        case NotAuthenticated():
            return AlpacaError(401, None, "unauthorized.")
        case NotAllowed():
            return AlpacaError(403, None, f"forbidden: {error}")
        case TooManyTries():
            return AlpacaError(429, None, str(error), headers={"Retry-After": str(math.ceil(error.wait_s))})
        case Overloaded():
            return AlpacaError(429, None, "too many requests: nothing was done, try again in a second")
        case Unanswered():
            sentence = "it is not known whether this was done: look for it by its client_order_id before sending again"
            return AlpacaError(503, None, f"the database did not answer in time; {sentence}")
        case DatabaseUnavailable():
            return AlpacaError(503, None, "the database does not answer; look whether it was done before sending again")
        case ExchangeUnavailable():
            return AlpacaError(503, None, "the exchange does not answer")
        case web.HTTPRequestEntityTooLarge():
            return AlpacaError(413, None, "the body is too large")
        case web.HTTPException():
            return AlpacaError(error.status, None, error.reason.lower())
        case _:
            return None


def error_response(error: AlpacaError) -> web.Response:
    """An error as it goes out."""
    headers = dict(error.headers)
    if error.status in {429, 503}:
        headers.setdefault("Retry-After", "1")
    return web.Response(
        body=orjson.dumps(error.body()), status=error.status, headers=headers, content_type="application/json"
    )


def answers(handler: Handler) -> Handler:
    """The handler, with each of its failures turned into Alpaca's form; a bug is a 500 that the log has."""

    @wraps(handler)
    async def answered(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except Exception as error:
            expected = as_alpaca_error(error)
            if expected is not None:
                return error_response(expected)
            request_id = request.get(REQUEST_ID, "")
            resource = request.match_info.route.resource
            route = resource.canonical if resource else "none"
            log.error("request.failed", request_id=request_id, route=route, exc_info=error)
            sentence = f"internal server error occurred; it is in the log as request {request_id}"
            return error_response(AlpacaError(500, None, sentence))

    return answered
