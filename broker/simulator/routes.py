"""The contract's routes: bytes in, one call of the venue or the feed, bytes out."""

import asyncio
from contextlib import suppress
from typing import Any

from aiohttp import web

from broker.simulator.amendments import Refusal
from broker.simulator.bench_routes import BENCH_ROUTES
from broker.simulator.faults import Reply
from broker.simulator.keys import FEED, STOPPING, VENUE
from broker.simulator.replies import as_json, failure
from broker.simulator.wire import (
    IDS_PER_LOOKUP_MAX,
    Bust,
    Correction,
    OrderState,
    parse_body,
    parse_cancels,
    parse_orders,
)

_STATUS = {Refusal.UNKNOWN: 404, Refusal.BUSTED: 409, Refusal.TOO_MANY: 400}


async def post_orders(request: web.Request) -> web.StreamResponse:
    """Take one order or an array of them; misbehave in answering where that is asked for."""
    venue = request.app[VENUE]
    orders, is_array = parse_orders(await request.read())
    venue.check(orders)
    reply = venue.faults.reply()
    if reply is Reply.ERROR:
        return failure(500, "an error on purpose: nothing was done")
    results = await venue.accept(orders)
    return await _answer(request, reply, results if is_array else results[0])


async def post_cancels(request: web.Request) -> web.StreamResponse:
    """Take what is left of these orders out."""
    venue = request.app[VENUE]
    order_ids = parse_cancels(await request.read())
    reply = venue.faults.reply()
    if reply is Reply.ERROR:
        return failure(500, "an error on purpose: nothing was done")
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
    return as_json(states[0]) if states else failure(404, "no order has this id")


async def get_orders(request: web.Request) -> web.StreamResponse:
    """The states of those orders that are known, of at most 100 ids."""
    order_ids = [order_id for order_id in request.query.get("ids", "").split(",") if order_id]
    if not 1 <= len(order_ids) <= IDS_PER_LOOKUP_MAX:
        return failure(400, f"ids holds 1 to {IDS_PER_LOOKUP_MAX} order ids with commas between them")
    return as_json({"orders": request.app[VENUE].lookup(order_ids)})


async def get_feed(request: web.Request) -> web.StreamResponse:
    """The WebSocket of quotes."""
    return await request.app[FEED].serve(request)


async def get_health(request: web.Request) -> web.StreamResponse:
    """200 while it can take orders."""
    request.app[VENUE].check()
    return as_json({"status": "ok"})


ROUTES = [
    web.post("/v1/orders", post_orders),
    web.post("/v1/cancels", post_cancels),
    web.post("/v1/executions/{id}/bust", bust_execution),
    web.post("/v1/executions/{id}/correct", correct_execution),
    web.get("/v1/orders", get_orders),
    web.get("/v1/orders/{id}", get_order),
    web.get("/v1/feed", get_feed),
    web.get("/healthz", get_health),
    *BENCH_ROUTES,
]


async def _answer(request: web.Request, reply: Reply, content: Any) -> web.StreamResponse:
    """What was done is answered, or not."""
    if reply is Reply.ERROR_AFTER:
        return failure(500, "an error on purpose: it was done all the same")
    if reply is Reply.TIMEOUT:
        return await _no_answer(request)
    return as_json(content)


def _amended(state: OrderState | Refusal) -> web.Response:
    if isinstance(state, Refusal):
        return failure(_STATUS[state], str(state))
    return as_json(state)


async def _no_answer(request: web.Request) -> web.StreamResponse:
    """Hold the request, then cut its connection: its sender never learns what happened."""
    timeout_s = request.app[VENUE].faults.settings.timeout_s
    with suppress(TimeoutError):
        await asyncio.wait_for(request.app[STOPPING].wait(), timeout_s)
    if request.transport is not None:
        request.transport.abort()
    return web.Response()
