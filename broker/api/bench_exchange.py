"""The operator's hand on the simulated exchange: its clock, its prices and halts, what the next orders meet.

Each call is passed on to the exchange, and answered as it answers; after one about the clock the broker's time follows.
"""

import asyncio
import re
from collections.abc import Callable
from typing import Annotated

import msgspec
from aiohttp import web
from msgspec import UNSET, Meta, UnsetType

from broker.api.amounts import Dollars
from broker.bench_client import Answer, Bench, NotSimulated
from broker.config import Config
from broker.core.money import Money, parse_money
from broker.core.types import SYMBOL_PATTERN, Symbol
from broker.http import ApiError, convert, json_response, parse_json, read_body
from broker.openapi import operation
from broker.simulator.bench_wire import ADVANCE_MAX_S, ClockState, ScriptState
from broker.simulator.script import MS_MAX, PARTS_MAX, Step
from broker.simulator.wire import Listed

_TAG = "test bench"
_ERRORS = (404, 409)
_PRINTABLE = r"^[^\x00-\x1f\x7f\ud800-\udfff]*$(?!\n)"
_TICKER = re.compile(SYMBOL_PATTERN, re.ASCII)

_HEAR_S = 0.5
"""The feed tells a new price within 10 ms; whoever set it waits no longer than this to hear it."""

Ticker = Annotated[str, Meta(pattern=SYMBOL_PATTERN)]


# ------------------------------------------------------------------ what comes in


class ClockRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The body of PUT /admin/v1/exchange/clock: what is left out stays as it is; `now` null is the real time."""

    now: Annotated[
        Annotated[str, Meta(max_length=64)] | UnsetType | None,
        Meta(description="a time with its zone, like 2026-11-27T12:55-05:00, or null"),
    ] = UNSET
    frozen: Annotated[bool | UnsetType, Meta(description="true or false")] = UNSET


class AdvanceRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The body of POST /admin/v1/exchange/clock/advance."""

    seconds: Annotated[
        float,
        Meta(gt=0, le=ADVANCE_MAX_S, description=f"a number of seconds above 0, at most {ADVANCE_MAX_S} (40 years)"),
    ]


class PriceRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The body of PUT /admin/v1/exchange/symbols/{symbol}/price; `hold` false lets it walk on from there."""

    price: Dollars
    hold: Annotated[bool, Meta(description="true or false")] = True


class HaltRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The body of PUT /admin/v1/exchange/symbols/{symbol}/halt."""

    reason: Annotated[
        Annotated[str, Meta(min_length=1, max_length=200, pattern=_PRINTABLE)] | None,
        Meta(description="text of 1 to 200 printable characters"),
    ] = None


class ScriptRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The body of POST /admin/v1/exchange/script: the next orders of a symbol, or of any, meet these."""

    orders: Annotated[
        Annotated[list[Step], Meta(min_length=1)],
        Meta(description='a list of steps, like [{"do": "reject"}, {"do": "partial", "quantity": 3}]'),
    ]
    symbol: Annotated[Ticker | None, Meta(description="a ticker, like AAPL")] = None


class ExchangeApi:
    """The routes of the simulated exchange's bench, which the admin token opens."""

    def __init__(self, bench: Bench, last: Callable[[Symbol], Money | None], config: Config) -> None:
        self._bench = bench
        self._last = last
        self._config = config

    def routes(self) -> list[web.RouteDef]:
        """What to mount."""
        exchange = "/admin/v1/exchange"
        price, halt = f"{exchange}/symbols/{{symbol}}/price", f"{exchange}/symbols/{{symbol}}/halt"
        return [
            web.get(f"{exchange}/clock", self.clock, allow_head=False),
            web.put(f"{exchange}/clock", self.set_clock),
            web.post(f"{exchange}/clock/advance", self.advance_clock),
            web.put(price, self.set_price),
            web.delete(price, self.release_price),
            web.put(halt, self.halt),
            web.delete(halt, self.resume),
            web.get(f"{exchange}/script", self.script, allow_head=False),
            web.post(f"{exchange}/script", self.add_to_script),
            web.delete(f"{exchange}/script", self.clear_script),
        ]

    # -------------------------------------------------------------- the exchange's clock

    @operation("The exchange's clock", answer=ClockState, errors=(404,), tag=_TAG)
    async def clock(self, request: web.Request) -> web.Response:
        """What time it is at the exchange."""
        return await self._pass_on("GET", "/v1/clock")

    @operation(
        "Set, freeze or release the exchange's clock",
        body=ClockRequest,
        body_optional=True,
        answer=ClockState,
        errors=_ERRORS,
        tag=_TAG,
    )
    async def set_clock(self, request: web.Request) -> web.Response:
        """Another time, or the real one; the broker's time is the same when this is answered."""
        body = await self._checked(request, ClockRequest)
        return await self._set_time("PUT", "/v1/clock", body)

    @operation(
        "Advance the exchange's clock",
        body=AdvanceRequest,
        example={"seconds": 60},
        answer=ClockState,
        errors=_ERRORS,
        tag=_TAG,
    )
    async def advance_clock(self, request: web.Request) -> web.Response:
        """So many seconds later; the broker's time is the same when this is answered."""
        body = await self._checked(request, AdvanceRequest)
        return await self._set_time("POST", "/v1/clock/advance", body)

    async def _set_time(self, method: str, path: str, body: bytes) -> web.Response:
        response = await self._pass_on(method, path, body)
        await self._bench.follow()
        return response

    # -------------------------------------------------------------- prices, halts, the script

    @operation(
        "Set the price of a symbol",
        body=PriceRequest,
        example={"price": "190.00"},
        answer=Listed,
        errors=_ERRORS,
        tag=_TAG,
    )
    async def set_price(self, request: web.Request) -> web.Response:
        """The symbol trades at this price; it stays there unless it is to walk on.

        Whoever is answered may place an order at once: it is looked at with this price, which the broker has heard.
        """
        body = await self._checked(request, PriceRequest)
        response = await self._pass_on("PUT", _path(request, "price"), body)
        if response.status == 200:
            await self._hear(Symbol(request.match_info["symbol"]), parse_money(msgspec.json.decode(body)["price"]))
        return response

    async def _hear(self, symbol: Symbol, price: Money) -> None:
        """Wait for the feed to tell this price; one that walks on at once may have gone by."""
        loop = asyncio.get_running_loop()
        until = loop.time() + _HEAR_S
        while self._last(symbol) != price and loop.time() < until:  # noqa: ASYNC110 - no event for one price
            await asyncio.sleep(_HEAR_S / 100)

    @operation("Let the price of a symbol walk again", answer=Listed, errors=_ERRORS, tag=_TAG)
    async def release_price(self, request: web.Request) -> web.Response:
        """From where it is."""
        return await self._pass_on("DELETE", _path(request, "price"))

    @operation(
        "Halt a symbol at the exchange",
        body=HaltRequest,
        body_optional=True,
        answer=Listed,
        errors=_ERRORS,
        tag=_TAG,
    )
    async def halt(self, request: web.Request) -> web.Response:
        """Nothing trades in it there; the broker's own halt is a switch of its own (halt:AAPL)."""
        body = await self._checked(request, HaltRequest)
        return await self._pass_on("PUT", _path(request, "halt"), body)

    @operation("End the halt of a symbol at the exchange", answer=Listed, errors=_ERRORS, tag=_TAG)
    async def resume(self, request: web.Request) -> web.Response:
        """It trades again there."""
        return await self._pass_on("DELETE", _path(request, "halt"))

    @operation("What the next orders meet", answer=ScriptState, errors=(404,), tag=_TAG)
    async def script(self, request: web.Request) -> web.Response:
        """The steps that no order has met yet."""
        return await self._pass_on("GET", "/v1/script")

    @operation(
        "Add to what the next orders meet",
        body=ScriptRequest,
        example={"orders": [{"do": "partial", "quantity": 3}]},
        answer=ScriptState,
        errors=_ERRORS,
        tag=_TAG,
    )
    async def add_to_script(self, request: web.Request) -> web.Response:
        """One step for each of the next orders, in the order in which they come."""
        body = await read_body(request, self._config.body_max, self._config.body_wait_s) or b"{}"
        wanted = parse_json(body)
        _check_steps(wanted)
        convert(wanted, ScriptRequest)
        return await self._pass_on("POST", "/v1/script", body)

    @operation("Forget what the next orders were to meet", answer=ScriptState, errors=(404,), tag=_TAG)
    async def clear_script(self, request: web.Request) -> web.Response:
        """They meet the market."""
        return await self._pass_on("DELETE", "/v1/script")

    async def _checked(self, request: web.Request, type_: type[msgspec.Struct]) -> bytes:
        """The body as it came, which is in form. Raises ApiError."""
        body = await read_body(request, self._config.body_max, self._config.body_wait_s) or b"{}"
        convert(parse_json(body), type_)
        return body

    async def _pass_on(self, method: str, path: str, body: bytes | None = None) -> web.Response:
        """Ask the exchange, answer what it answers. Raises ApiError or ExchangeUnavailable."""
        try:
            answer = await self._bench.call(method, path, body)
        except NotSimulated as error:
            sentence = "Only the simulated exchange can do this, and the exchange of this broker is another one."
            raise ApiError(404, "not_simulated", sentence) from error
        if answer.status >= 400:
            raise _refused(answer)
        return json_response(answer.content, answer.status)


# ------------------------------------------------------------------ what is passed on


def _path(request: web.Request, what: str) -> str:
    """Raises ApiError 404 for what is no ticker: it becomes a part of a path."""
    symbol = request.match_info["symbol"]
    if _TICKER.search(symbol) is None:
        raise ApiError(404, "unknown_symbol", "There is no such symbol.")
    return f"/v1/symbols/{symbol}/{what}"


_STEPS = {
    "reject": "a reason of 1 to 200 characters, or nothing",
    "partial": f"either quantity or parts (a list of 1 to {PARTS_MAX} quantities), and maybe ms from 1 to {MS_MAX}",
    "delay": f"ms from 1 to {MS_MAX}",
    "fill": "nothing",
}
"""What a step has beside `do`."""


def _check_steps(wanted: object) -> None:
    """Raises ApiError 400, which says which step is wrong and what it takes; what is no list is for others to say."""
    steps = wanted.get("orders") if isinstance(wanted, dict) else None
    for number, step in enumerate(steps if isinstance(steps, list) else [], 1):
        try:
            msgspec.convert(step, Step)
        except msgspec.ValidationError as error:
            do = step.get("do") if isinstance(step, dict) else None
            takes = _STEPS.get(do) if isinstance(do, str) else None
            what = f"{do} takes {takes}" if takes else f"do must be one of {', '.join(_STEPS)}"
            raise ApiError(400, "invalid_request", f"Step {number} of orders cannot be used: {what}.") from error


def _refused(answer: Answer) -> ApiError:
    """What the exchange has against it, as an error of ours."""
    said = answer.content.get("error") if isinstance(answer.content, dict) else None
    sentence = _sentence(str(said)) if said else "The exchange refuses this and does not say why."
    if answer.status == 404:
        return ApiError(404, "unknown_symbol", sentence)
    if answer.status == 409:
        return ApiError(409, "not_possible", sentence)
    return ApiError(400, "invalid_request", sentence)


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:200].rstrip('.')}."
