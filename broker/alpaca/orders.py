"""Alpaca's orders: the commands that place, replace and cancel them, and the reads."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from uuid import UUID

import msgspec
from aiohttp import web

from broker.alpaca import refusals
from broker.alpaca.auth import AlpacaAuth
from broker.alpaca.errors import (
    BAD_PARAMETER,
    AlpacaError,
    as_alpaca_error,
    bad_parameter,
    not_found,
    unprocessable,
)
from broker.alpaca.models import CanceledOrder, ClientOrderIdQuery, NestedQuery, OrdersQuery
from broker.alpaca.orders_in import OrderBody, ReplaceBody, no_such_order, order_id, place_command, replace_command
from broker.alpaca.orders_out import ENDED, Order
from broker.alpaca.orders_read import Orders, Wanted
from broker.alpaca.requests import (
    body_of,
    boolean,
    count,
    moment,
    no_content,
    printable,
    query_of,
    reply,
    symbols,
    word,
)
from broker.alpaca.symbols import Symbols
from broker.auth import Caller
from broker.batch import Cancelling, Overloaded, Placed, Taken
from broker.config import Config
from broker.core import shapes
from broker.core.messages import CancelAll, CancelTrade, PlaceTrade, Refused, ReplaceTrade, Step, TradeEvent
from broker.core.states import TERMINAL
from broker.core.types import CustomerId, OrderClass, Side, Status, Trade, TradeId
from broker.db import Database, DatabaseUnavailable
from broker.openapi import operation
from broker.shards import Shards, Unanswered
from broker.updates import Updates, Watch

_LIMIT, _LIMIT_MAX, _SYMBOLS_MAX = 50, 500, 500
_SETTLED = frozenset({Step.HELD, Step.STARTED, Step.ACCEPTED, Step.EXECUTED, Step.ENDED})
_TAG = "Orders"


class Desk:
    """The way of a command to its shard and of the answer back, as Alpaca's clients expect it."""

    def __init__(self, shards: Shards, updates: Updates, database: Database, orders: Orders, config: Config) -> None:
        self._shards = shards
        self._updates = updates
        self._database = database
        self._orders = orders
        self._wait_s = config.order_wait_s

    async def place(self, command: PlaceTrade) -> Order:
        """The order once it has begun or ended. Raises AlpacaError where it is refused."""
        with self._updates.watch(command.trade_id) as watch:
            trade = await self._taken(command)
            await self._begun([trade], watch)
        nested = command.order_class is not OrderClass.SIMPLE
        return await self._shown(command.customer_id, command.trade_id, nested=nested)

    async def place_all(self, customer_id: CustomerId, commands: Sequence[PlaceTrade]) -> list[Order | AlpacaError]:
        """What became of each, once all that were taken have begun or ended: together they wait as long as one."""
        with self._updates.watch(*(command.trade_id for command in commands)) as watch:
            outcomes = await asyncio.gather(*(self._taken_or_not(command) for command in commands))
            await self._begun([each for each in outcomes if isinstance(each, Trade)], watch)
        trade_ids = [each.trade_id for each in outcomes if isinstance(each, Trade)]
        shown = await self._orders.several(customer_id, trade_ids)
        return [shown[each.trade_id] if isinstance(each, Trade) else each for each in outcomes]

    async def _taken_or_not(self, command: PlaceTrade) -> Trade | AlpacaError:
        """One failure is that order's alone: others have been placed."""
        try:
            return await self._taken(command)
        except (AlpacaError, Overloaded, Unanswered, DatabaseUnavailable) as error:
            failure = as_alpaca_error(error)
            assert failure is not None
            return failure

    async def _taken(self, command: PlaceTrade) -> Trade:
        problem = shapes.problem(command)
        if problem is not None:
            raise unprocessable(problem)
        outcome = await self.submit(command)
        assert isinstance(outcome, Placed)
        return outcome.trade

    async def replace(self, command: ReplaceTrade, symbol: str) -> Order:
        """The new order. Raises AlpacaError where the old one cannot be replaced by it."""
        with self._updates.watch(command.trade_id) as watch:
            outcome = await self.submit(command, symbol)
            if outcome is None:
                raise no_such_order(command.replaces)
            if isinstance(outcome, Trade):
                raise _ended(outcome)
            await self._begun([outcome.trade], watch)
            refused = next((event.refused for event in watch.events if event.refused), None)
        if refused is not None:
            error = await self.refusal(refused, command.customer_id, symbol)
            if error.status == 429:  # the refused order is kept: clients must not send the same again by themselves
                error = unprocessable(error.message)
            raise error
        return await self._shown(command.customer_id, command.trade_id, nested=False)

    async def submit(self, command: PlaceTrade | ReplaceTrade, symbol: str = "") -> Any:
        """What the shard answers. Raises AlpacaError for a refusal, and for a client_order_id that was used before."""
        outcome = await self._shards.submit(command.customer_id, command)
        if isinstance(outcome, Taken):
            first = str(outcome.first.trade_id)
            raise AlpacaError(422, BAD_PARAMETER, "client_order_id must be unique", {"existing_order_id": first})
        if isinstance(outcome, Refused):
            symbol = command.symbol if isinstance(command, PlaceTrade) else symbol
            raise await self.refusal(outcome, command.customer_id, symbol)
        return outcome

    async def refusal(self, refused: Refused, customer_id: CustomerId, symbol: str) -> AlpacaError:
        """A refusal in Alpaca's form, with the shares that there are."""
        rows = await self._database.fetch("position", customer_id, symbol)
        shares = (rows[0]["quantity"], rows[0]["held"]) if rows else (0, 0)
        return refusals.answer(refused, symbol, shares)

    async def cancel(self, customer_id: CustomerId, trade_id: TradeId) -> None:
        """Ask for it. Raises AlpacaError where there is nothing to cancel."""
        outcome = await self._shards.submit(customer_id, CancelTrade(customer_id, trade_id))
        if outcome is None:
            raise no_such_order(trade_id)
        if not isinstance(outcome, Cancelling):
            raise _ended(outcome)

    async def cancel_all(self, customer_id: CustomerId) -> list[Trade]:
        """Ask for all that are open, and name them."""
        outcome: Cancelling = await self._shards.submit(customer_id, CancelAll(customer_id))
        return outcome.trades

    async def ended(self, trades: list[Trade]) -> None:
        """Wait for these to end, as long as an order's answer waits."""
        with self._updates.watch(*(trade.trade_id for trade in trades)) as watch:
            left = {trade.trade_id for trade in trades if trade.status not in TERMINAL}
            await watch.until(
                lambda events: left <= {each.trade.trade_id for each in events if _has_ended(each)}, self._wait_s
            )

    async def _begun(self, trades: Sequence[Trade], watch: Watch) -> None:
        left = {trade.trade_id for trade in trades if trade.status is Status.PLACED}
        await watch.until(
            lambda events: left <= {event.trade.trade_id for event in events if event.step in _SETTLED}, self._wait_s
        )

    async def _shown(self, customer_id: CustomerId, trade_id: TradeId, *, nested: bool) -> Order:
        shown = await self._orders.one(customer_id, trade_id, nested=nested)
        assert shown is not None, trade_id
        return shown


def _has_ended(event: TradeEvent) -> bool:
    return event.status in TERMINAL


def _ended(trade: Trade) -> AlpacaError:
    return unprocessable(f'order is already in "{ENDED.get(trade.status, trade.status)}" state')


class OrdersRoutes:
    """The handlers under /v2/orders."""

    def __init__(
        self,
        desk: Desk,
        orders: Orders,
        symbols_known: Symbols,
        auth: AlpacaAuth,
        new_id: Callable[[], UUID],
        config: Config,
    ) -> None:
        self._desk = desk
        self._orders = orders
        self._symbols = symbols_known
        self._auth = auth
        self._new_id = new_id
        self._config = config

    def routes(self) -> list[web.RouteDef]:
        """What to mount."""
        one = "/v2/orders/{order_id}"
        return [
            web.post("/v2/orders", self.place),
            web.get("/v2/orders", self.page, allow_head=False),
            web.delete("/v2/orders", self.cancel_all),
            web.get("/v2/orders:by_client_order_id", self.get_by_client_id, allow_head=False),
            web.get(one, self.get, allow_head=False),
            web.patch(one, self.replace),
            web.delete(one, self.cancel),
        ]

    @operation(
        "Place an order",
        answer=Order,
        body=OrderBody,
        errors=(400, 403, 422),
        tag=_TAG,
        example={"symbol": "AAPL", "qty": "10", "side": "buy", "type": "market", "time_in_force": "day"},
    )
    async def place(self, request: web.Request) -> web.Response:
        """200 with the order once it has begun; 403 or 422 where it is refused, and then there is none."""
        caller = self._auth.trader(request)
        body = await body_of(request, OrderBody, self._config)
        if not body.symbol:
            raise bad_parameter("symbol is required")
        symbol = self._symbols.named(body.symbol)
        if symbol is None:
            raise unprocessable(f'asset "{body.symbol[:40]}" not found')
        ids = (self._new_id(), self._new_id(), self._new_id())
        command = place_command(body, symbol, self._symbols.last(symbol), caller.customer_id, ids)
        return reply(await self._desk.place(command))

    @operation("List orders", answer=list[Order], query=OrdersQuery, errors=(422,), tag=_TAG)
    async def page(self, request: web.Request) -> web.Response:
        """A page of orders."""
        caller = self._auth.caller(request)
        query = query_of(request)
        side = word(query, "side", {"buy", "sell", ""}, "")
        wanted = Wanted(
            status=word(query, "status", {"open", "closed", "all"}, "open"),
            after=moment(query, "after"),
            until=moment(query, "until"),
            side=Side(side.upper()) if side else None,
            symbols=symbols(query, "symbols", _SYMBOLS_MAX),
            newest_first=word(query, "direction", {"asc", "desc"}, "desc") == "desc",
            limit=count(query, "limit", _LIMIT, _LIMIT_MAX),
        )
        nested = boolean("nested", query.get("nested"))
        return reply(await self._orders.page(caller.customer_id, wanted, nested=nested))

    @operation("Get an order", answer=Order, query=NestedQuery, errors=(404, 422), tag=_TAG)
    async def get(self, request: web.Request) -> web.Response:
        """One order."""
        caller = self._auth.caller(request)
        nested = boolean("nested", query_of(request).get("nested"))
        trade_id = order_id(request.match_info["order_id"])
        return await _found(self._orders.one(caller.customer_id, trade_id, nested=nested), trade_id)

    @operation(
        "Get an order by its client_order_id", answer=Order, query=ClientOrderIdQuery, errors=(404, 422), tag=_TAG
    )
    async def get_by_client_id(self, request: web.Request) -> web.Response:
        """The order that was placed under this client_order_id."""
        caller = self._auth.caller(request)
        query = query_of(request)
        client_id = query.get("client_order_id")
        if client_id is None:
            raise bad_parameter("client_order_id is required")
        if not printable(client_id, 200):
            raise not_found("order not found")
        nested = boolean("nested", query.get("nested"))
        return await _found(self._orders.by_client_id(caller.customer_id, client_id, nested=nested), client_id)

    @operation(
        "Replace an order",
        answer=Order,
        body=ReplaceBody,
        errors=(400, 403, 404, 422),
        tag=_TAG,
        example={"qty": "5"},
    )
    async def replace(self, request: web.Request) -> web.Response:
        """200 with the new order, which is to stand in the place of the old one."""
        caller = self._auth.trader(request)
        trade_id = order_id(request.match_info["order_id"])
        body = await body_of(request, ReplaceBody, self._config)
        row = await self._orders.row(caller.customer_id, trade_id)
        if row is None:
            raise no_such_order(trade_id)
        by_amount, symbol = row["trail_bps"] is None, row["symbol"]
        if body.trail is not None and row["trail_amount"] is None and by_amount:
            raise unprocessable("only trailing stop orders have a trail")
        command = replace_command(
            body, trade_id, self._new_id(), caller.customer_id, symbol, trails_by_amount=by_amount
        )
        return reply(await self._desk.replace(command, symbol))

    @operation("Cancel an order", status=204, errors=(404, 422), tag=_TAG)
    async def cancel(self, request: web.Request) -> web.Response:
        """204 once it is asked for."""
        caller = self._auth.caller(request)
        await self._desk.cancel(caller.customer_id, order_id(request.match_info["order_id"]))
        return no_content()

    @operation("Cancel all orders", answer=list[CanceledOrder], status=207, tag=_TAG)
    async def cancel_all(self, request: web.Request) -> web.Response:
        """207 with each order that is to be cancelled."""
        caller: Caller = self._auth.caller(request)
        trades = await self._desk.cancel_all(caller.customer_id)
        shown = await self._orders.several(caller.customer_id, [trade.trade_id for trade in trades])
        return reply([CanceledOrder(each.id, 200, msgspec.to_builtins(each)) for each in shown.values()], 207)


async def _found(order: Awaitable[Order | None], named: object) -> web.Response:
    found = await order
    if found is None:
        raise no_such_order(named)
    return reply(found)
