"""The contract's routes: bytes in, one call of the venue or the feed, bytes out."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import msgspec
import structlog
from aiohttp import web

from broker.simulator.admission import Inadmissible
from broker.simulator.amendments import Refusal
from broker.simulator.faults import Reply
from broker.simulator.feed import Feed
from broker.simulator.market import Market
from broker.simulator.venue import Unavailable, Venue
from broker.simulator.wire import (
    IDS_PER_LOOKUP_MAX,
    BadBody,
    Bust,
    Correction,
    OrderState,
    parse_body,
    parse_cancels,
    parse_orders,
)

log = structlog.get_logger(__name__)

MARKET = web.AppKey("market", Market)
VENUE = web.AppKey("venue", Venue)
FEED = web.AppKey("feed", Feed)
STOPPING = web.AppKey("stopping", asyncio.Event)

_ENCODE = msgspec.json.Encoder()
_STATUS = {Refusal.UNKNOWN: 404, Refusal.BUSTED: 409, Refusal.TOO_MANY: 400}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Give every failure the contract's form: {"error": sentence}."""
    try:
        return await handler(request)
    except (BadBody, Inadmissible) as error:
        return _failure(400, str(error))
    except Unavailable as error:
        return _failure(503, str(error))
    except web.HTTPException as error:
        if error.status < 400:
            raise
        return _failure(error.status, error.reason)
    except Exception:
        log.exception("exchange.request_failed", path=request.path)
        return _failure(500, "the exchange failed; the log says how")


async def post_orders(request: web.Request) -> web.StreamResponse:
    """Take one order or an array of them; misbehave in answering where that is asked for."""
    venue = request.app[VENUE]
    orders, is_array = parse_orders(await request.read())
    venue.check(orders)
    reply = venue.faults.reply()
    if reply is Reply.ERROR:
        return _failure(500, "an error on purpose: nothing was done")
    results = await venue.accept(orders)
    return await _answer(request, reply, results if is_array else results[0])


async def post_cancels(request: web.Request) -> web.StreamResponse:
    """Take what is left of these orders out."""
    venue = request.app[VENUE]
    order_ids = parse_cancels(await request.read())
    reply = venue.faults.reply()
    if reply is Reply.ERROR:
        return _failure(500, "an error on purpose: nothing was done")
    return await _answer(request, reply, await venue.cancel(order_ids))


async def bust_execution(request: web.Request) -> web.StreamResponse:
    """An operator takes an execution back."""
    bust = parse_body(await request.read(), Bust)
    return _amended(request.app[VENUE].bust(request.match_info["id"], bust))


async def correct_execution(request: web.Request) -> web.StreamResponse:
    """An operator puts other figures in the place of an execution's."""
    correction = parse_body(await request.read(), Correction)
    return _amended(request.app[VENUE].correct(request.match_info["id"], correction))


async def get_order(request: web.Request) -> web.StreamResponse:
    """One order's state, or 404."""
    states = request.app[VENUE].lookup([request.match_info["id"]])
    return _json(states[0]) if states else _failure(404, "no order has this id")


async def get_orders(request: web.Request) -> web.StreamResponse:
    """The states of those orders that are known, of at most 100 ids."""
    order_ids = [order_id for order_id in request.query.get("ids", "").split(",") if order_id]
    if not 1 <= len(order_ids) <= IDS_PER_LOOKUP_MAX:
        return _failure(400, f"ids holds 1 to {IDS_PER_LOOKUP_MAX} order ids with commas between them")
    return _json({"orders": request.app[VENUE].lookup(order_ids)})


async def get_symbols(request: web.Request) -> web.StreamResponse:
    """Everything that is listed."""
    tickers = request.app[MARKET].tickers.values()
    return _json({"symbols": [{"symbol": ticker.symbol, "name": ticker.name} for ticker in tickers]})


async def get_feed(request: web.Request) -> web.StreamResponse:
    """The WebSocket of quotes."""
    return await request.app[FEED].serve(request)


async def get_health(request: web.Request) -> web.StreamResponse:
    """200 while it can take orders."""
    request.app[VENUE].check()
    return _json({"status": "ok"})


ROUTES = [
    web.post("/v1/orders", post_orders),
    web.post("/v1/cancels", post_cancels),
    web.post("/v1/executions/{id}/bust", bust_execution),
    web.post("/v1/executions/{id}/correct", correct_execution),
    web.get("/v1/orders", get_orders),
    web.get("/v1/orders/{id}", get_order),
    web.get("/v1/symbols", get_symbols),
    web.get("/v1/feed", get_feed),
    web.get("/healthz", get_health),
]


async def _answer(request: web.Request, reply: Reply, content: Any) -> web.StreamResponse:
    """What was done is answered, or not."""
    if reply is Reply.ERROR_AFTER:
        return _failure(500, "an error on purpose: it was done all the same")
    if reply is Reply.TIMEOUT:
        return await _no_answer(request)
    return _json(content)


def _amended(state: OrderState | Refusal) -> web.Response:
    if isinstance(state, Refusal):
        return _failure(_STATUS[state], str(state))
    return _json(state)


async def _no_answer(request: web.Request) -> web.StreamResponse:
    """Hold the request, then cut its connection: its sender never learns what happened."""
    timeout_s = request.app[VENUE].faults.settings.timeout_s
    with suppress(TimeoutError):
        await asyncio.wait_for(request.app[STOPPING].wait(), timeout_s)
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


def _failure(status: int, sentence: str) -> web.Response:
    return _json({"error": sentence}, status)


def _json(content: Any, status: int = 200) -> web.Response:
    return web.Response(body=_ENCODE.encode(content), status=status, content_type="application/json")
