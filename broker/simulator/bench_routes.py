"""The test bench's routes: bytes in, one call of the bench, bytes out."""

from aiohttp import web

from broker.core.types import Symbol
from broker.simulator.bench import Bench, NotPossible
from broker.simulator.bench_wire import Advance, HaltBody, PriceBody, ScriptBody, SetClock
from broker.simulator.keys import MARKET, VENUE
from broker.simulator.replies import as_json
from broker.simulator.wire import parse_body


async def get_clock(request: web.Request) -> web.Response:
    """What time it is at the exchange."""
    return as_json(request.app[VENUE].bench.clock())


async def put_clock(request: web.Request) -> web.Response:
    """Set it, freeze it, or let it run."""
    body = parse_body(await request.read(), SetClock)
    return as_json(_bench(request).set_clock(body))


async def post_advance(request: web.Request) -> web.Response:
    """Let time pass."""
    body = parse_body(await request.read(), Advance)
    return as_json(_bench(request).advance_clock(body))


async def get_symbols(request: web.Request) -> web.Response:
    """Everything that is listed."""
    return as_json({"symbols": request.app[VENUE].bench.symbols()})


async def put_price(request: web.Request) -> web.Response:
    """The market moves to a price."""
    body = parse_body(await request.read(), PriceBody)
    return as_json(_bench(request).set_price(_symbol(request), body))


async def delete_price(request: web.Request) -> web.Response:
    """The price walks again."""
    return as_json(_bench(request).release_price(_symbol(request)))


async def put_halt(request: web.Request) -> web.Response:
    """Nothing of a symbol trades."""
    body = parse_body(await request.read() or b"{}", HaltBody)
    return as_json(_bench(request).halt(_symbol(request), body))


async def delete_halt(request: web.Request) -> web.Response:
    """It trades again."""
    return as_json(_bench(request).resume(_symbol(request)))


async def get_script(request: web.Request) -> web.Response:
    """What the next orders meet."""
    return as_json(request.app[VENUE].bench.script())


async def post_script(request: web.Request) -> web.Response:
    """Write more of it."""
    body = parse_body(await request.read(), ScriptBody)
    if body.symbol is not None and body.symbol not in request.app[MARKET].tickers:
        raise NotPossible(f"{body.symbol!r} is not listed")
    return as_json(_bench(request).add_script(body))


async def delete_script(request: web.Request) -> web.Response:
    """Throw away what is left of it."""
    return as_json(_bench(request).clear_script())


BENCH_ROUTES = [
    web.get("/v1/clock", get_clock),
    web.put("/v1/clock", put_clock),
    web.post("/v1/clock/advance", post_advance),
    web.get("/v1/symbols", get_symbols),
    web.put("/v1/symbols/{symbol}/price", put_price),
    web.delete("/v1/symbols/{symbol}/price", delete_price),
    web.put("/v1/symbols/{symbol}/halt", put_halt),
    web.delete("/v1/symbols/{symbol}/halt", delete_halt),
    web.get("/v1/script", get_script),
    web.post("/v1/script", post_script),
    web.delete("/v1/script", delete_script),
]


def _bench(request: web.Request) -> Bench:
    """The bench, to change something. Raises Unavailable where what follows could not be written down."""
    request.app[VENUE].check_journal()
    return request.app[VENUE].bench


def _symbol(request: web.Request) -> Symbol:
    symbol = Symbol(request.match_info["symbol"])
    if symbol not in request.app[MARKET].tickers:
        raise web.HTTPNotFound(reason="no such symbol is listed")
    return symbol
