"""Alpaca's positions: what a customer has, and orders that close it."""

from collections.abc import Callable
from decimal import Decimal
from typing import Any, Protocol
from uuid import UUID

import msgspec
from aiohttp import web

from broker.alpaca.auth import AlpacaAuth
from broker.alpaca.errors import AlpacaError, bad_parameter, not_found, unprocessable
from broker.alpaca.ids import asset_id
from broker.alpaca.models import CloseAllQuery, ClosedPosition, CloseQuery, Position
from broker.alpaca.orders import Desk
from broker.alpaca.orders_out import Order
from broker.alpaca.requests import boolean, number, query_of, reply, whole_shares
from broker.alpaca.symbols import EXCHANGE, Symbols
from broker.core import cost_basis
from broker.core.messages import PlaceTrade
from broker.core.money import Money, format_money, parse_money
from broker.core.types import CustomerId, Side, Symbol, TradeId
from broker.db import Database
from broker.openapi import operation

_TAG = "Positions"


class Quote(Protocol):
    """What a day has brought a symbol."""

    @property
    def previous_close(self) -> str | None: ...


class PositionsRoutes:
    """The handlers under /v2/positions."""

    def __init__(
        self,
        database: Database,
        desk: Desk,
        symbols: Symbols,
        view: Callable[[Symbol], Quote | None],
        auth: AlpacaAuth,
        new_id: Callable[[], UUID],
    ) -> None:
        self._database = database
        self._desk = desk
        self._symbols = symbols
        self._view = view
        self._auth = auth
        self._new_id = new_id

    def routes(self) -> list[web.RouteDef]:
        """What to mount."""
        one = "/v2/positions/{symbol_or_asset_id}"
        return [
            web.get("/v2/positions", self.all, allow_head=False),
            web.delete("/v2/positions", self.close_all),
            web.get(one, self.one, allow_head=False),
            web.delete(one, self.close),
            web.post(one + "/exercise", self.exercise),
        ]

    @operation("List positions", answer=list[Position], tag=_TAG)
    async def all(self, request: web.Request) -> web.Response:
        """All that the customer has."""
        customer_id = self._auth.caller(request).customer_id
        return reply([self._shown(row) for row in await self._database.fetch("positions", customer_id)])

    @operation("Get a position", answer=Position, errors=(404,), tag=_TAG)
    async def one(self, request: web.Request) -> web.Response:
        """The shares of one symbol."""
        customer_id = self._auth.caller(request).customer_id
        return reply(self._shown(await self._row(request, customer_id)))

    @operation("Close a position", answer=Order, query=CloseQuery, errors=(403, 404, 422), tag=_TAG)
    async def close(self, request: web.Request) -> web.Response:
        """200 with the market order that sells it, or a part of it."""
        customer_id = self._auth.trader(request).customer_id
        row = await self._row(request, customer_id)
        quantity = _to_close(query_of(request), row["symbol"], row["quantity"])
        return reply(await self._desk.place(self._sale(customer_id, row["symbol"], quantity)))

    @operation("Close all positions", answer=list[ClosedPosition], query=CloseAllQuery, status=207, tag=_TAG)
    async def close_all(self, request: web.Request) -> web.Response:
        """207 with what became of each."""
        customer_id = self._auth.trader(request).customer_id
        if boolean("cancel_orders", query_of(request).get("cancel_orders")):
            await self._desk.ended(await self._desk.cancel_all(customer_id))
        rows = await self._database.fetch("positions", customer_id)
        commands = [self._sale(customer_id, row["symbol"], row["quantity"]) for row in rows]
        outcomes = await self._desk.place_all(customer_id, commands)
        return reply([_closed(*each) for each in zip(commands, outcomes, strict=True)], 207)

    @operation("Exercise an option", errors=(403, 404), status=204, tag=_TAG)
    async def exercise(self, request: web.Request) -> web.Response:
        """There are no options here."""
        raise AlpacaError(403, None, "options are not traded here")

    async def _row(self, request: web.Request, customer_id: CustomerId) -> Any:
        symbol = self._symbols.named(request.match_info["symbol_or_asset_id"])
        rows = await self._database.fetch("position", customer_id, symbol) if symbol is not None else []
        if not rows:
            raise not_found("position does not exist")
        return rows[0]

    def _sale(self, customer_id: CustomerId, symbol: str, quantity: int) -> PlaceTrade:
        new_id = TradeId(self._new_id())
        return PlaceTrade(
            new_id,
            customer_id,
            Symbol(symbol),
            Side.SELL,
            quantity,
            client_order_id=str(new_id),
            only_if_accepted=True,
            waits_for_open=True,
        )

    def _shown(self, row: Any) -> Position:
        symbol, quantity, cost = Symbol(row["symbol"]), row["quantity"], Money(row["cost"])
        price, view = self._symbols.last(symbol), self._view(symbol)
        before = None if view is None or view.previous_close is None else parse_money(view.previous_close)
        value = None if price is None else Money(quantity * price)
        gain = None if value is None else Money(value - cost)
        today = gain if value is None or before is None else Money(value - quantity * before)
        return Position(
            asset_id(symbol),
            symbol,
            EXCHANGE,
            "us_equity",
            asset_marginable=True,
            avg_entry_price=format_money(cost_basis.average_price(cost, quantity)),
            qty=str(quantity),
            qty_available=str(row["available"]),
            side="long",
            cost_basis=format_money(cost),
            market_value=_money(value),
            unrealized_pl=_money(gain),
            unrealized_plpc=_fraction(gain, cost),
            unrealized_intraday_pl=_money(today),
            unrealized_intraday_plpc=_fraction(today, cost if before is None else quantity * before),
            current_price=_money(price),
            lastday_price=_money(price if before is None else before),
            change_today=_fraction(None if price is None else price - (before or price), before or price or 0),
        )


def _closed(sale: PlaceTrade, outcome: Order | AlpacaError) -> ClosedPosition:
    if isinstance(outcome, AlpacaError):
        return ClosedPosition(sale.symbol, outcome.status, None, outcome.body())
    return ClosedPosition(sale.symbol, 200, outcome.id, msgspec.to_builtins(outcome))


def _money(amount: Money | None) -> str | None:
    return None if amount is None else format_money(amount)


def _fraction(part: int | None, whole: int) -> str | None:
    """A percentage as Alpaca writes it: 0.84 % is "0.0084"."""
    if part is None:
        return None
    return "0" if not whole else f"{Decimal(part) / Decimal(whole):.6f}"


def _to_close(query: dict[str, str], symbol: str, quantity: int) -> int:
    """Shares to sell. Raises AlpacaError 422."""
    if "qty" in query and "percentage" in query:
        raise bad_parameter("only one of qty or percentage is accepted")
    if "qty" in query:
        shares = whole_shares("qty", query["qty"], symbol)
        assert shares is not None
        return shares
    percentage = number("percentage", query.get("percentage"))
    if percentage is None:
        return quantity
    if not 0 < percentage <= 100:
        raise bad_parameter("percentage must be > 0 and <= 100")
    shares = int(quantity * percentage / 100)
    if not shares:
        raise unprocessable(f"{percentage}% of {quantity} {symbol} is not a whole share")
    return shares
