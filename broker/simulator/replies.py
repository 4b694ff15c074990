"""How the exchange answers: JSON, and every failure in the contract's form."""

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import structlog
from aiohttp import web

from broker.simulator.admission import Inadmissible
from broker.simulator.bench import NotPossible
from broker.simulator.clock import BadMoment
from broker.simulator.script import ScriptFull
from broker.simulator.venue import Unavailable
from broker.simulator.wire import BadBody

log = structlog.get_logger(__name__)

_ENCODE = msgspec.json.Encoder()
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Give every failure the contract's form: {"error": sentence}."""
    try:
        return await handler(request)
    except (BadBody, Inadmissible, BadMoment) as error:
        return failure(400, str(error))
    except (NotPossible, ScriptFull) as error:
        return failure(409, str(error))
    except Unavailable as error:
        return failure(503, str(error))
    except web.HTTPException as error:
        if error.status < 400:
            raise
        return failure(error.status, error.reason)
    except Exception:
        log.exception("exchange.request_failed", path=request.path)
        return failure(500, "the exchange failed; the log says how")


def failure(status: int, sentence: str) -> web.Response:
    return as_json({"error": sentence}, status)


def as_json(content: Any, status: int = 200) -> web.Response:
    return web.Response(body=_ENCODE.encode(content), status=status, content_type="application/json")
