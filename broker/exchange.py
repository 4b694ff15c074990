"""The exchange: the port that the broker sees, its HTTP venue, and the webhook by which it calls back.

The wire is docs/exchange-contract.md. The rule of this module: the exchange is not trusted to be well. An answer that
is late, too large, or not in the contract's form counts as *unknown*, never as a refusal; only a signed event counts.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol
from uuid import UUID

import aiohttp
import msgspec
import structlog
from aiohttp import web

from broker.core import signing
from broker.core.messages import Described, Report, ReportType
from broker.core.money import Money, format_money, parse_money
from broker.core.types import PRICE_MAX, QUANTITY_MAX, Fill, OrderType, TimeInForce, Trade, TradeId
from broker.metrics import Metrics

log = structlog.get_logger()


class ExchangeUnavailable(Exception):
    """No usable answer: whether the exchange did what was asked is not known."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The exchange never took this order, and says why."""

    reason: str


class Exchange(Protocol):
    """One venue. All calls raise ExchangeUnavailable when the outcome is not known."""

    async def execute(self, trades: Sequence[Trade]) -> list[Refused | None]:
        """Send orders, idempotent by their id; for each None (taken, now or before) or why it was not.

        An order that replaces another one ends that one and takes its place, in one step.
        """
        ...

    async def cancel(self, trade_ids: Sequence[TradeId]) -> set[TradeId]:
        """End what is left of these orders; those that it could not end are answered: ask about them."""
        ...

    async def lookup(self, trade_ids: Sequence[TradeId]) -> dict[TradeId, list[Report]]:
        """TradeExists: all that the exchange has to report of each; an order that it does not know is not in it."""
        ...


# ------------------------------------------------------------------ the wire


Quantity = Annotated[int, msgspec.Meta(ge=1, le=QUANTITY_MAX)]
ExecutionId = Annotated[str, msgspec.Meta(min_length=1, max_length=200, pattern=r"^[^\x00]*$")]


class _Result(msgspec.Struct):
    id: UUID
    status: Literal["ACCEPTED", "EXISTS", "INVALID"]
    reason: str | None = None


class _Cancel(msgspec.Struct):
    id: UUID
    status: Literal["ACCEPTED", "TOO_LATE", "UNKNOWN"]


class _Execution(msgspec.Struct):
    execution_id: ExecutionId
    quantity: Quantity
    price: str
    busted: bool = False
    corrects: ExecutionId | None = None


class _State(msgspec.Struct):
    id: UUID
    status: ReportType
    filled_quantity: int
    executions: list[_Execution]
    reason: str | None = None
    symbol: Any = None  # of any form, as these three are: a state counts also where they say nothing
    side: Any = None
    quantity: Any = None


class _States(msgspec.Struct):
    orders: list[msgspec.Raw]


class _Id(msgspec.Struct):
    id: UUID


class _Event(msgspec.Struct):
    type: ReportType
    order_id: UUID
    execution_id: ExecutionId | None = None
    quantity: Quantity | None = None
    price: str | None = None
    filled_quantity: int = 0
    reason: str | None = None
    corrects: ExecutionId | None = None


_REASON_MAX = 200
"""Characters of somebody else's words that are worth keeping."""

_WORD_MAX = 20
"""Characters of what should be a symbol or a side: none of ours is as long."""

_results = msgspec.json.Decoder(list[_Result])
_cancels = msgspec.json.Decoder(list[_Cancel])
_states = msgspec.json.Decoder(_States)
_state = msgspec.json.Decoder(_State)
_id = msgspec.json.Decoder(_Id)
_events = msgspec.json.Decoder(_Event | list[_Event])


def _price(text: str) -> Money:
    price = parse_money(text)
    if not 0 < price <= PRICE_MAX:
        raise ValueError(f"a price is above zero and at most {format_money(PRICE_MAX)}")
    return price


def _decimal(amount: Money | None) -> str | None:
    return None if amount is None else format_money(amount)


def _words(reason: str | None) -> str | None:
    """A reason as the database can keep it: no trade shall hang on how the exchange words it."""
    return reason and reason.replace("\0", "")[:_REASON_MAX]


def _word(said: object) -> str | None:
    """Longer than every one of ours, so that what is cut off makes none the same."""
    return said[:_WORD_MAX].upper() if isinstance(said, str) and said else None


_FILLS = {ReportType.FILLED, ReportType.PARTIALLY_FILLED, ReportType.CORRECTED}
_OF_AN_EXECUTION = {*_FILLS, ReportType.BUSTED}


def _report(event: _Event, venue: str) -> Report:
    """Raises ValueError where a fill lacks its figures."""
    fill = None
    if event.type in _FILLS:
        if event.execution_id is None or event.quantity is None or event.price is None:
            raise ValueError("a fill carries execution_id, quantity and price")
        fill = Fill(event.quantity, _price(event.price))
    if event.type is ReportType.BUSTED and event.execution_id is None:
        raise ValueError("a bust carries the execution_id that it takes back")
    if event.type is ReportType.CORRECTED and event.corrects is None:
        raise ValueError("a correction names in corrects what it corrects")
    return Report(
        TradeId(event.order_id),
        event.type,
        venue,
        event.execution_id if event.type in _OF_AN_EXECUTION else None,
        fill,
        event.filled_quantity,
        _words(event.reason),
        event.corrects if event.type is ReportType.CORRECTED else None,
    )


def read_reports(body: bytes, venue: str) -> list[Report]:
    """The events in a callback's body, one or an array. Raises ValueError where they are not in the contract's form."""
    decoded = _events.decode(body)
    return [_report(event, venue) for event in (decoded if isinstance(decoded, list) else [decoded])]


def _reports(state: _State, venue: str) -> list[Report]:
    """A looked-up state as the events that led to it: every execution, those taken back, then where it stands."""
    trade_id = TradeId(state.id)
    reports = [report for each in state.executions for report in _reports_of(each, trade_id, state, venue)]
    if state.status not in {ReportType.FILLED, ReportType.PARTIALLY_FILLED}:
        reports.append(Report(trade_id, state.status, venue, None, None, state.filled_quantity, _words(state.reason)))
    described = _described(state)
    for report in reports:
        report.described = described
    return reports


def _described(state: _State) -> Described | None:
    """Which order it is, to be compared with the one that was sent; somebody else's words are cut short."""
    quantity = state.quantity if isinstance(state.quantity, int) else None
    said = Described(_word(state.symbol), _word(state.side), quantity)
    return None if said == Described() else said


def _reports_of(each: _Execution, trade_id: TradeId, state: _State, venue: str) -> Iterator[Report]:
    type_ = ReportType.CORRECTED if each.corrects else ReportType.PARTIALLY_FILLED
    fill = Fill(each.quantity, _price(each.price))
    yield Report(trade_id, type_, venue, each.execution_id, fill, state.filled_quantity, corrects=each.corrects)
    if each.busted:
        yield Report(trade_id, ReportType.BUSTED, venue, each.execution_id)


class HttpVenue:
    """An exchange that speaks the contract over HTTP."""

    def __init__(self, name: str, url: str, callback_url: str, session: aiohttp.ClientSession, body_max: int) -> None:
        self.name = name
        self.url = url.rstrip("/")
        self.callback_url = callback_url
        self._session = session
        self._body_max = body_max

    async def execute(self, trades: Sequence[Trade]) -> list[Refused | None]:
        """See Exchange."""
        body = msgspec.json.encode([self._order(trade) for trade in trades])
        answer = await self._call("POST", "/v1/orders", body)
        try:
            results = _results.decode(answer)
        except (ValueError, RecursionError) as error:
            raise ExchangeUnavailable(f"the answer to an order is not in the contract's form: {error}") from error
        if [result.id for result in results] != [trade.trade_id for trade in trades]:
            raise ExchangeUnavailable("the answer does not name the orders that were sent")
        return [
            Refused(_words(each.reason) or "no reason given") if each.status == "INVALID" else None for each in results
        ]

    def _order(self, trade: Trade) -> dict[str, Any]:
        # What trails waits here, and goes out once it was triggered: as a stop.
        trails = trade.order_type is OrderType.TRAILING_STOP
        order: dict[str, Any] = {
            "id": trade.trade_id,
            "symbol": trade.symbol,
            "side": trade.side,
            "type": OrderType.STOP if trails else trade.order_type,
            "quantity": trade.quantity,
            "max_price": _decimal(trade.max_price),
            "callback_url": self.callback_url,
        }
        if trade.order_type is not OrderType.MARKET:
            order["price"], order["stop_price"] = _decimal(trade.limit_price), _decimal(trade.stop_price)
        if trade.time_in_force is not TimeInForce.DAY:
            order["time_in_force"] = trade.time_in_force
        if trade.extended_hours:
            order["extended_hours"] = True
        if trade.replaces_at_exchange:
            order["replaces"] = {"id": trade.replaces, "filled_quantity": trade.replaces_filled}
        return order

    async def cancel(self, trade_ids: Sequence[TradeId]) -> set[TradeId]:
        """See Exchange."""
        answer = await self._call("POST", "/v1/cancels", msgspec.json.encode(trade_ids))
        try:
            results = _cancels.decode(answer)
        except (ValueError, RecursionError) as error:
            raise ExchangeUnavailable(f"the answer to a cancel is not in the contract's form: {error}") from error
        taken = {TradeId(result.id) for result in results if result.status == "ACCEPTED"}
        return set(trade_ids) - taken

    async def lookup(self, trade_ids: Sequence[TradeId]) -> dict[TradeId, list[Report]]:
        """See Exchange."""
        answer = await self._call("GET", "/v1/orders?ids=" + ",".join(map(str, trade_ids)))
        try:
            return dict(self._known(raw) for raw in _states.decode(answer).orders)
        except (ValueError, RecursionError) as error:
            raise ExchangeUnavailable(f"the state of an order is not in the contract's form: {error}") from error

    def _known(self, raw: msgspec.Raw) -> tuple[TradeId, list[Report]]:
        """One order's reports; none where its state is not in form, so that it spoils no other order's answer."""
        trade_id = TradeId(_id.decode(raw).id)
        try:
            return trade_id, _reports(_state.decode(raw), self.name)
        except (ValueError, RecursionError) as error:
            log.error("exchange.state_not_in_form", trade_id=str(trade_id), error=str(error))
            return trade_id, []

    async def _call(self, method: str, path: str, body: bytes | None = None) -> bytes:
        headers = {"Content-Type": "application/json"} if body else None
        try:
            async with self._session.request(
                method,
                self.url + path,
                data=body,
                headers=headers,
                allow_redirects=False,  # or an order is sent again
            ) as response:
                answer = await read_at_most(response.content, self._body_max)
                if response.status != 200:
                    raise ExchangeUnavailable(f"{method} {path[:40]} answered {response.status}")
                return answer
        # The client raises ValueError where a name cannot be one, and uvloop RuntimeError at times.
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, RuntimeError) as error:
            raise ExchangeUnavailable(f"{type(error).__name__}: {error}") from error


async def read_at_most(content: aiohttp.StreamReader, most: int) -> bytes:
    """An answer's body, or its beginning where it is longer than it may be: that is then not in form."""
    body = await content.read(most)
    while len(body) < most and (more := await content.read(most)):
        body += more
    return body


# ------------------------------------------------------------------ the webhook


@dataclass(frozen=True, slots=True)
class Webhook:
    """POST /webhooks/exchange: lets in what a secret of ours signed, and answers 2xx only after the commit."""

    venue: str
    keys: Sequence[bytes]
    window_s: float
    events_max: int
    take: Callable[[Sequence[Report]], Awaitable[set[TradeId]]]
    ask: Callable[[Sequence[TradeId]], Awaitable[None]]
    unix_time: Callable[[], float]
    metrics: Metrics

    async def handle(self, request: web.Request, body: bytes) -> web.Response:
        """One event or an array of them. The body's size and time are bounded by whoever read it."""
        try:
            timestamp = signing.verify(self.keys, request.headers, body)
        except signing.BadSignature as error:
            return self._refuse(401, "bad_signature", f"The callback is not signed by the exchange: {error}.")
        try:
            reports = read_reports(body, self.venue)
        except (ValueError, RecursionError) as error:
            log.error("webhook.not_in_form", error=str(error)[:_REASON_MAX])
            sentence = f"The event is not in the contract's form: {str(error)[:_REASON_MAX]}."
            return self._refuse(400, "invalid_event", sentence)
        if len(reports) > self.events_max:
            return self._refuse(413, "too_many_events", f"A callback carries at most {self.events_max} events.")
        if abs(self.unix_time() - timestamp) > self.window_s:
            # Honest but late, after an outage, or a replay: either way the exchange itself says what is true now.
            self.metrics.webhook_refusals.labels("late_asked_instead").inc()
            await self.ask(list({report.trade_id for report in reports}))
        else:
            unseen = await self.take(reports)
            if unseen:  # it took back, or counts, what we do not have: once it has heard 204 it will not say so again
                await self.ask(sorted(unseen))
        return web.Response(status=204)

    def _refuse(self, status: int, code: str, sentence: str) -> web.Response:
        self.metrics.webhook_refusals.labels(code).inc()
        return web.json_response({"error": sentence, "code": code}, status=status)


def decode_secrets(text: str) -> list[bytes]:
    """The keys of a comma-separated list of whsec_… secrets. Raises ValueError."""
    keys = [signing.decode_secret(part.strip()) for part in text.split(",") if part.strip()]
    if not keys:
        raise ValueError("there is no secret in it")
    return keys


async def probe(session: aiohttp.ClientSession, url: str) -> bool:
    """Whether the exchange at this URL says that it takes orders."""
    try:
        async with asyncio.timeout(1), session.get(url.rstrip("/") + "/healthz") as response:
            return response.status == 200
    except (aiohttp.ClientError, TimeoutError, OSError):
        return False
