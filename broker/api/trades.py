"""PlaceTrade and its family: /api/v1/trades, balance and positions of the customer behind the token."""

import re
from collections.abc import Callable, Mapping
from typing import Annotated
from uuid import UUID

import msgspec
import structlog
from aiohttp import web

from broker import answers
from broker.api.query import (
    NEWEST_SEQ,
    Count,
    Moment,
    SeqCursor,
    Ticker,
    bad_query,
    only_known,
    read_number,
    read_symbol,
    read_time,
    words_of,
)
from broker.auth import Caller
from broker.batch import Placed
from broker.config import Config
from broker.core.messages import PlaceTrade
from broker.core.trading import PLACED_REASON
from broker.core.types import QUANTITY_MAX, SYMBOL_PATTERN, Side, Status, Symbol, Trade, TradeId
from broker.http import CALLER, REQUEST_ID, ApiError, convert, json_response, parse_json, read_body
from broker.openapi import operation, parameters_of
from broker.reading import Reading, TradeFilter
from broker.shards import Shards

log = structlog.get_logger()


class PlaceTradeRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The body of POST /api/v1/trades."""

    stockTicker: Annotated[  # noqa: N815 - the wire's name
        str,
        msgspec.Meta(pattern=SYMBOL_PATTERN, description="a ticker of 1 to 12 characters A-Z, 0-9 and '.', like AAPL"),
    ]
    type: Annotated[Side, msgspec.Meta(description="BUY or SELL")]
    quantity: Annotated[
        int,
        msgspec.Meta(ge=1, le=QUANTITY_MAX, description=f"a whole number of shares from 1 to {QUANTITY_MAX}"),
    ]
    customerId: Annotated[  # noqa: N815
        str | int | None, msgspec.Meta(description="left out: the customer is the one of your token")
    ] = None


class TradesQuery(msgspec.Struct):
    """The query of GET /api/v1/trades."""

    status: Annotated[str, msgspec.Meta(pattern=words_of(Status), description="one or more, with commas")] | None = None
    symbol: Ticker | None = None
    since: Moment | None = msgspec.field(name="from", default=None)
    until: Moment | None = msgspec.field(name="to", default=None)
    limit: Count | None = None
    cursor: SeqCursor | None = None


_KEY = re.compile(r"[!-~]{1,200}", re.ASCII)
IdempotencyKey = Annotated[
    str, msgspec.Meta(pattern=f"^{_KEY.pattern}$", description="the same key places one trade, however often it comes")
]


class TradesApi:
    """The routes that a customer's token opens."""

    def __init__(
        self,
        shards: Shards,
        reading: Reading,
        new_id: Callable[[], UUID],
        config: Config,
    ) -> None:
        self._shards = shards
        self._reading = reading
        self._new_id = new_id
        self._config = config
        self._verbose = config.log_level == "debug"

    def routes(self) -> list[web.RouteDef]:
        """What to mount."""
        return [
            web.post("/api/v1/trades", self.place),
            web.get("/api/v1/trades", self.list, allow_head=False),
            web.get("/api/v1/trades/{tradeId}", self.get, allow_head=False),
            web.get("/api/v1/balance", self.balance, allow_head=False),
        ]

    def _caller(self, request: web.Request) -> Caller:
        return request[CALLER]

    @operation(
        "Place a trade at the market",
        body=PlaceTradeRequest,
        answer=answers.PlacedTrade,
        status=201,
        errors=(403, 422),
        headers={"Idempotency-Key": IdempotencyKey},
        example={"stockTicker": "AAPL", "type": "BUY", "quantity": 10},
    )
    async def place(self, request: web.Request) -> web.Response:
        """PlaceTrade: 201 once the trade is durable."""
        caller = self._caller(request)
        if caller.suspended:
            raise ApiError(403, "customer_suspended", "This customer is suspended and cannot trade.")
        key = _idempotency_key(request)
        body = await read_body(request, self._config.body_max, self._config.body_wait_s)
        wanted = convert(parse_json(body), PlaceTradeRequest)
        if wanted.customerId is not None and str(wanted.customerId) != str(caller.customer_id):
            raise ApiError(403, "not_your_customer", "The token belongs to another customer than customerId.")
        command = PlaceTrade(
            TradeId(self._new_id()),
            caller.customer_id,
            Symbol(wanted.stockTicker),
            wanted.type,
            wanted.quantity,
            key,
        )
        placed: Placed = await self._shards.submit(caller.customer_id, command)
        if placed.replayed and not _same(placed.trade, command):
            sentence = f"This Idempotency-Key placed trade {placed.trade.trade_id}, with another body."
            raise ApiError(422, "idempotency_key_reused", sentence)
        if self._verbose:
            log.debug("trade.placed", trade_id=str(placed.trade.trade_id), request_id=request[REQUEST_ID])
        return _placed_response(placed)

    @operation("One trade with its executions", answer=answers.TradeWithExecutions, errors=(404,))
    async def get(self, request: web.Request) -> web.Response:
        """GetTrade, with its executions; 404 for a trade of somebody else's, as for one that never was."""
        caller = self._caller(request)
        try:
            trade_id = UUID(request.match_info["tradeId"])
        except ValueError:
            trade_id = None
        trade = await self._reading.trade(caller.customer_id, trade_id) if trade_id else None
        if trade is None:
            raise ApiError(404, "no_such_trade", "You have no trade with this id.")
        return json_response(trade)

    @operation("Trades, newest first", answer=answers.Trades, query=TradesQuery)
    async def list(self, request: web.Request) -> web.Response:
        """A page of trades, newest first."""
        caller = self._caller(request)
        return json_response(await self._reading.trades(caller.customer_id, self._filter(request.query)))

    @operation("The customer's cash", answer=answers.Balance)
    async def balance(self, request: web.Request) -> web.Response:
        """The customer's cash."""
        caller = self._caller(request)
        return json_response(await self._reading.balance(caller.customer_id))

    def _filter(self, query: Mapping[str, str]) -> TradeFilter:
        only_known(query, parameters_of(TradesQuery))
        return TradeFilter(
            statuses=_statuses(query.get("status")),
            symbol=read_symbol(query.get("symbol")),
            since=read_time("from", query.get("from")),
            until=read_time("to", query.get("to")),
            before_seq=read_number("cursor", query.get("cursor"), NEWEST_SEQ, 10**18),
            limit=read_number("limit", query.get("limit"), min(100, self._config.page_max), self._config.page_max),
        )


def _idempotency_key(request: web.Request) -> str | None:
    keys = request.headers.getall("Idempotency-Key", [])
    if len(keys) > 1 or any(_KEY.fullmatch(key) is None for key in keys):
        sentence = "An Idempotency-Key is 1 to 200 visible ASCII characters, and there is only one."
        raise ApiError(400, "invalid_idempotency_key", sentence)
    return keys[0] if keys else None


def _same(trade: Trade, command: PlaceTrade) -> bool:
    return (trade.symbol, trade.side, trade.quantity) == (command.symbol, command.side, command.quantity)


def _placed_response(placed: Placed) -> web.Response:
    """The answer as it was at the moment of placing, whatever has become of the trade since."""
    trade = placed.trade
    body: answers.PlacedTrade = {
        "tradeId": trade.trade_id,
        "stockTicker": trade.symbol,
        "type": trade.side,
        "quantity": trade.quantity,
        "createdAt": trade.created_at,
        "status": Status.PLACED,
        "reason": PLACED_REASON,
    }
    return json_response(body, 201, {"Idempotency-Replayed": "true"} if placed.replayed else None)


def _statuses(text: str | None) -> list[Status] | None:
    if text is None:
        return None
    words = [part.strip().upper().replace("_", " ") for part in text.split(",")]
    if not text.isascii() or not set(words) <= set(Status):  # ASCII, since upper() makes FILLED of look-alikes
        raise bad_query(f"status takes one or more of {', '.join(Status)}")
    return [Status(word) for word in words]
