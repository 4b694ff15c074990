"""Orders of every type: /api/v1/orders of the customer behind the token. A trade under another name, the same row.

The answer to an order waits, for a bounded time, until the exchange has it or it has ended, so that a client hears at
once what became of it; whatever it says is read from the database.
"""

import re
from collections.abc import Awaitable, Callable
from typing import Annotated, Any
from uuid import UUID

import msgspec
from aiohttp import web

from broker import answers
from broker.api.order_request import OrderRequest, ReplaceRequest, place_command, replace_command
from broker.api.query import (
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
from broker.batch import Cancelling, Placed, Taken
from broker.config import Config
from broker.core.messages import (
    CancelAll,
    CancelTrade,
    EstimateTrade,
    PlaceTrade,
    Refusal,
    Refused,
    ReplaceTrade,
    Step,
    TradeEvent,
)
from broker.core.money import Money, format_money
from broker.core.states import TERMINAL
from broker.core.trading import Estimate
from broker.core.types import Side, Symbol, TimeInForce, Trade, TradeId
from broker.http import CALLER, ApiError, convert, json_response, parse_json, read_body
from broker.openapi import operation, parameters_of
from broker.reading import STATUS_WORDS, OrderFilter, Reading, order_status
from broker.shards import Shards
from broker.updates import Updates, Watch


class OrdersQuery(msgspec.Struct):
    """The query of GET /api/v1/orders."""

    status: (
        Annotated[str, msgspec.Meta(pattern=words_of(STATUS_WORDS), description="one or more, with commas")] | None
    ) = None
    symbol: Ticker | None = None
    since: Moment | None = msgspec.field(name="from", default=None)
    until: Moment | None = msgspec.field(name="to", default=None)
    limit: Count | None = None
    cursor: SeqCursor | None = None


class CancelQuery(msgspec.Struct):
    """The query of DELETE /api/v1/orders."""

    symbol: Ticker | None = None


class OrdersApi:
    """The routes of orders."""

    def __init__(
        self,
        shards: Shards,
        reading: Reading,
        updates: Updates,
        new_id: Callable[[], UUID],
        config: Config,
    ) -> None:
        self._shards = shards
        self._reading = reading
        self._updates = updates
        self._new_id = new_id
        self._config = config

    def routes(self) -> list[web.RouteDef]:
        """What to mount."""
        one = "/api/v1/orders/{orderId}"
        return [
            web.post("/api/v1/orders", self.place),
            web.post("/api/v1/orders/estimate", self.estimate),
            web.get("/api/v1/orders", self.list, allow_head=False),
            web.delete("/api/v1/orders", self.cancel_all),
            web.get("/api/v1/orders/by-client-id/{clientOrderId}", self.get_by_client_id, allow_head=False),
            web.get(one, self.get, allow_head=False),
            web.delete(one, self.cancel),
            web.patch(one, self.replace),
        ]

    # -------------------------------------------------------------- in

    @operation(
        "Place an order",
        body=OrderRequest,
        answer=answers.OrderWithExecutions,
        status=201,
        errors=(403, 409),
        example={"symbol": "AAPL", "side": "buy", "quantity": 10, "order_type": "limit", "price": "150.00"},
    )
    async def place(self, request: web.Request) -> web.Response:
        """201 with the order; 400 with the reason where it is refused before it goes to the exchange."""
        caller = self._trader(request)
        command = place_command(caller.customer_id, convert(await self._json(request), OrderRequest), self._new_id)
        with self._updates.watch(command.trade_id) as watch:
            placed = await self._submit(command)
            assert isinstance(placed, Placed)
            return await self._placed(caller, placed, watch)

    @operation(
        "Put another order in the place of an open one",
        body=ReplaceRequest,
        answer=answers.OrderWithExecutions,
        status=201,
        errors=(403, 404, 409),
        example={"price": "155.00"},
    )
    async def replace(self, request: web.Request) -> web.Response:
        """A new order in the place of an open one: 201 with the new one, which names the old one."""
        caller = self._trader(request)
        wanted = convert(await self._json(request), ReplaceRequest)
        command = replace_command(caller.customer_id, self._order_id(request), wanted, self._new_id)
        with self._updates.watch(command.trade_id) as watch:
            outcome = await self._submit(command)
            if isinstance(outcome, Refused):
                sentence = f"The order cannot be replaced: {outcome.detail}"
                raise ApiError(409, "cannot_be_replaced", sentence, figures=dict(outcome.figures))
            if not isinstance(outcome, Placed):
                raise _over(outcome)
            return await self._placed(caller, outcome, watch)

    @operation(
        "What an order would do, without placing it",
        body=OrderRequest,
        answer=answers.Estimate,
        example={"symbol": "AAPL", "side": "buy", "quantity": 10, "order_type": "market"},
    )
    async def estimate(self, request: web.Request) -> web.Response:
        """What an order would do, without placing it."""
        caller = self._caller(request)
        command = place_command(caller.customer_id, convert(await self._json(request), OrderRequest), self._new_id)
        estimate: Estimate = await self._shards.submit(caller.customer_id, EstimateTrade(command))
        return json_response(_estimate(command, estimate))

    # -------------------------------------------------------------- out

    @operation(
        "Cancel an order",
        answer=answers.OrderWithExecutions,
        others={202: answers.OrderWithExecutions},
        errors=(404, 409),
    )
    async def cancel(self, request: web.Request) -> web.Response:
        """200 with the order once it is cancelled, 202 while the exchange has not said, 409 where it had ended."""
        caller = self._caller(request)
        trade_id = self._order_id(request)
        with self._updates.watch(trade_id) as watch:
            outcome = await self._shards.submit(caller.customer_id, CancelTrade(caller.customer_id, trade_id))
            if not isinstance(outcome, Cancelling):
                raise _over(outcome)
            await watch.until(_has_ended, self._config.order_wait_s)
        order = await self._found(self._reading.order(caller.customer_id, trade_id))
        if order["status"] in {"cancelled", "submitted", "validated", "pending", "held", "partially_filled"}:
            return json_response(order, 200 if order["status"] == "cancelled" else 202)
        raise _ended(order["status"])

    @operation("Cancel all open orders", answer=answers.CancellingOrders, status=202, query=CancelQuery)
    async def cancel_all(self, request: web.Request) -> web.Response:
        """202 with the ids of all open orders, which are to be cancelled."""
        caller = self._caller(request)
        only_known(request.query, parameters_of(CancelQuery))
        symbol = read_symbol(request.query.get("symbol"))
        command = CancelAll(caller.customer_id, Symbol(symbol) if symbol else None)
        outcome: Cancelling = await self._shards.submit(caller.customer_id, command)
        cancelling: answers.CancellingOrders = {"cancelling": [trade.trade_id for trade in outcome.trades]}
        return json_response(cancelling, 202)

    # -------------------------------------------------------------- looking

    @operation("One order with its executions", answer=answers.OrderWithExecutions, errors=(404,))
    async def get(self, request: web.Request) -> web.Response:
        """One order with its executions."""
        caller = self._caller(request)
        order = await self._found(self._reading.order(caller.customer_id, self._order_id(request)))
        return json_response(order)

    @operation("The order of a client_order_id", answer=answers.OrderWithExecutions, errors=(404,))
    async def get_by_client_id(self, request: web.Request) -> web.Response:
        """The order that was placed under this client_order_id."""
        caller = self._caller(request)
        client_id = request.match_info["clientOrderId"]
        if re.fullmatch(r"[!-~]{1,128}", client_id, re.ASCII) is None:
            raise _no_such_order()
        return json_response(await self._found(self._reading.order_by_client_id(caller.customer_id, client_id)))

    @operation("Orders, newest first", answer=answers.Orders, query=OrdersQuery)
    async def list(self, request: web.Request) -> web.Response:
        """A page of orders, newest first."""
        caller = self._caller(request)
        query = request.query
        only_known(query, parameters_of(OrdersQuery))
        wanted = OrderFilter(
            words=_status_words(query.get("status")),
            symbol=read_symbol(query.get("symbol")),
            since=read_time("from", query.get("from")),
            until=read_time("to", query.get("to")),
            before_seq=read_number("cursor", query.get("cursor"), 2**62, 10**18),
            limit=read_number("limit", query.get("limit"), min(100, self._config.page_max), self._config.page_max),
        )
        return json_response(await self._reading.orders(caller.customer_id, wanted))

    # -------------------------------------------------------------- parts

    def _caller(self, request: web.Request) -> Caller:
        return request[CALLER]

    def _trader(self, request: web.Request) -> Caller:
        caller = self._caller(request)
        if caller.suspended:
            raise ApiError(403, "customer_suspended", "This customer is suspended and cannot trade.")
        return caller

    async def _json(self, request: web.Request) -> object:
        return parse_json(await read_body(request, self._config.body_max, self._config.body_wait_s))

    async def _submit(self, command: PlaceTrade | ReplaceTrade) -> Any:
        outcome = await self._shards.submit(command.customer_id, command)
        if isinstance(outcome, Taken):
            first = outcome.first
            sentence = f"The client_order_id {first.client_order_id} is that of your order {first.trade_id}."
            raise ApiError(409, "client_order_id_used", sentence, figures={"order_id": str(first.trade_id)})
        return outcome

    async def _placed(self, caller: Caller, placed: Placed, watch: Watch) -> web.Response:
        trade = placed.trade
        if trade.status not in TERMINAL:
            at_once = trade.time_in_force in {TimeInForce.IOC, TimeInForce.FOK}
            await watch.until(_has_ended if at_once else _is_decided, self._config.order_wait_s)
        refused = next((event.refused for event in watch.events if event.refused), None)
        order = await self._found(self._reading.order(caller.customer_id, trade.trade_id))
        word = str(refused.refusal) if refused is not None else _refusal_in(order)
        if word is not None:
            figures = dict(refused.figures) if refused is not None else {}
            code, sentence = word.lower().replace(" ", "_"), _sentence(order["reason"])
            raise ApiError(400, code, sentence, figures={**figures, "order_id": order["id"], "order": order})
        return json_response(order, 201)

    def _order_id(self, request: web.Request) -> TradeId:
        try:
            return TradeId(UUID(request.match_info["orderId"]))
        except ValueError as error:
            raise _no_such_order() from error

    async def _found(self, order: Awaitable[answers.OrderWithExecutions | None]) -> answers.OrderWithExecutions:
        found = await order
        if found is None:
            raise _no_such_order()
        return found


def _refusal_in(order: answers.OrderWithExecutions) -> str | None:
    """The refusal of ours that an order ended with, where nobody heard of it: its commit was not answered in time."""
    word = str(order["reason"]).partition(":")[0]
    return word if order["status"] == "rejected" and word in set(Refusal) else None


def _is_decided(events: list[TradeEvent]) -> bool:
    """The exchange has it, it is held here, or it has ended."""
    return any(event.step in {Step.ACCEPTED, Step.EXECUTED, Step.HELD, Step.ENDED} for event in events)


def _has_ended(events: list[TradeEvent]) -> bool:
    return any(event.status in TERMINAL for event in events)


def _no_such_order() -> ApiError:
    return ApiError(404, "no_such_order", "You have no order with this id.")


def _over(trade: Trade | None) -> ApiError:
    return _no_such_order() if trade is None else _ended(order_status(trade.status, acknowledged=trade.acknowledged))


def _ended(status: str) -> ApiError:
    return ApiError(409, "order_ended", f"The order has ended: it is {status}.", figures={"status": status})


def _sentence(reason: str) -> str:
    return reason[:1].upper() + reason[1:]


def _status_words(text: str | None) -> list[str] | None:
    if text is None:
        return None
    words = [part.strip() for part in text.split(",")]
    if not set(words) <= STATUS_WORDS.keys():
        raise bad_query(f"status takes one or more of {', '.join(STATUS_WORDS)}")
    return words


def _estimate(command: PlaceTrade, estimate: Estimate) -> answers.Estimate:
    def money(amount: Money | None) -> str | None:
        return None if amount is None else format_money(amount)

    holds_cash = command.side is Side.BUY
    return {
        "symbol": command.symbol,
        "side": "buy" if holds_cash else "sell",
        "quantity": command.quantity,
        "price": money(estimate.price),
        "cost": money(estimate.cost),
        "fees": format_money(estimate.fees),
        "hold": format_money(Money(estimate.hold)) if holds_cash else str(estimate.hold),
        "hold_unit": "USD" if holds_cash else command.symbol,
        "buying_power": format_money(estimate.buying_power),
        "buying_power_after": format_money(estimate.buying_power_after),
        "would_be_refused": bool(estimate.refusals),
        "refusals": [
            {"code": each.refusal.lower().replace(" ", "_"), "error": _sentence(each.reason), **each.figures}
            for each in estimate.refusals
        ],
    }
