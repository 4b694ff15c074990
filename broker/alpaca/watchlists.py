"""Alpaca's watchlists: lists of symbols that a customer keeps. Nothing of ours depends on them."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from aiohttp import web

from broker.alpaca.auth import AlpacaAuth
from broker.alpaca.errors import bad_parameter, not_found, unprocessable
from broker.alpaca.ids import account_id
from broker.alpaca.models import NameQuery, NewWatchlist, Watchlist, WatchlistBody, WatchlistName, WatchlistSymbol
from broker.alpaca.requests import as_uuid, body_of, no_content, printable, query_of, reply
from broker.alpaca.symbols import Symbols
from broker.config import Config
from broker.core.types import CustomerId
from broker.db import Database, RefusedByDatabase
from broker.openapi import operation

_LISTS_MAX, _SYMBOLS_MAX, _NAME_MAX = 200, 1_000, 64
"""Of one customer: a person's lists, and room. What is kept for nothing else must not fill the disk."""
_TAG = "Watchlists"

Key = tuple[UUID | None, str | None]
KeyOf = Callable[[web.Request], Key]
"""A list's id, or else its name."""


class WatchlistsRoutes:
    """The handlers under /v2/watchlists, by id and by name."""

    def __init__(
        self, database: Database, symbols: Symbols, auth: AlpacaAuth, new_id: Callable[[], UUID], config: Config
    ) -> None:
        self._database = database
        self._symbols = symbols
        self._auth = auth
        self._new_id = new_id
        self._config = config

    def routes(self) -> list[web.RouteDef]:
        """What to mount."""
        by_id, by_name = "/v2/watchlists/{watchlist_id}", "/v2/watchlists:by_name"
        return [
            web.get("/v2/watchlists", self.all, allow_head=False),
            web.post("/v2/watchlists", self.create),
            web.get(by_id, self.get, allow_head=False),
            web.put(by_id, self.change),
            web.post(by_id, self.add),
            web.delete(by_id, self.delete),
            web.delete(by_id + "/{symbol}", self.remove),
            web.get(by_name, self.get_by_name, allow_head=False),
            web.put(by_name, self.change_by_name),
            web.post(by_name, self.add_by_name),
            web.delete(by_name, self.delete_by_name),
        ]

    @operation("List watchlists", answer=list[WatchlistName], tag=_TAG)
    async def all(self, request: web.Request) -> web.Response:
        """The oldest first, without their assets: those of all lists are too many for one answer."""
        customer_id = self._auth.caller(request).customer_id
        rows = await self._database.fetch("alpaca_watchlists", customer_id)
        return reply([WatchlistName(*_head(customer_id, row)) for row in rows])

    @operation(
        "Create a watchlist",
        answer=Watchlist,
        body=WatchlistBody,
        errors=(400, 422),
        tag=_TAG,
        example={"name": "Technology", "symbols": ["AAPL", "MSFT"]},
    )
    async def create(self, request: web.Request) -> web.Response:
        """A list of these symbols."""
        customer_id = self._auth.caller(request).customer_id
        body = await body_of(request, NewWatchlist, self._config)
        listed = self._all_listed(body.symbols)
        arguments = (self._new_id(), customer_id, _name(body.name), listed, _LISTS_MAX)
        rows = await self._written("alpaca_add_watchlist", *arguments)
        if not rows:
            raise unprocessable(f"an account has at most {_LISTS_MAX} watchlists")
        return reply(self._shown(customer_id, rows[0]))

    # -------------------------------------------------------------- by id

    @operation("Get a watchlist", answer=Watchlist, errors=(404,), tag=_TAG)
    async def get(self, request: web.Request) -> web.Response:
        """One list."""
        return await self._get(request, _by_id)

    @operation(
        "Change a watchlist",
        answer=Watchlist,
        body=WatchlistBody,
        errors=(400, 404, 422),
        tag=_TAG,
        example={"symbols": ["AAPL", "NVDA"]},
    )
    async def change(self, request: web.Request) -> web.Response:
        """Another name, other symbols."""
        return await self._change(request, _by_id)

    @operation(
        "Add to a watchlist",
        answer=Watchlist,
        body=WatchlistSymbol,
        errors=(400, 404, 422),
        tag=_TAG,
        example={"symbol": "SPY"},
    )
    async def add(self, request: web.Request) -> web.Response:
        """One more symbol."""
        return await self._add(request, _by_id)

    @operation("Remove from a watchlist", answer=Watchlist, errors=(404,), tag=_TAG)
    async def remove(self, request: web.Request) -> web.Response:
        """Without a symbol."""
        customer_id = self._auth.caller(request).customer_id
        symbol = self._symbols.named(request.match_info["symbol"])
        watchlist_id, _ = _by_id(request)
        rows = await self._database.fetch("alpaca_remove_from_watchlist", customer_id, watchlist_id, symbol or "")
        return reply(self._shown(customer_id, _one(rows)))

    @operation("Delete a watchlist", status=204, errors=(404,), tag=_TAG)
    async def delete(self, request: web.Request) -> web.Response:
        """204."""
        return await self._delete(request, _by_id)

    # -------------------------------------------------------------- by name

    @operation("Get a watchlist by name", answer=Watchlist, query=NameQuery, errors=(404, 422), tag=_TAG)
    async def get_by_name(self, request: web.Request) -> web.Response:
        """One list."""
        return await self._get(request, _by_name)

    @operation(
        "Change a watchlist by name",
        answer=Watchlist,
        body=WatchlistBody,
        query=NameQuery,
        errors=(400, 404, 422),
        tag=_TAG,
        example={"symbols": ["AAPL", "NVDA"]},
    )
    async def change_by_name(self, request: web.Request) -> web.Response:
        """Another name, other symbols."""
        return await self._change(request, _by_name)

    @operation(
        "Add to a watchlist by name",
        answer=Watchlist,
        body=WatchlistSymbol,
        query=NameQuery,
        errors=(400, 404, 422),
        tag=_TAG,
        example={"symbol": "SPY"},
    )
    async def add_by_name(self, request: web.Request) -> web.Response:
        """One more symbol."""
        return await self._add(request, _by_name)

    @operation("Delete a watchlist by name", status=204, query=NameQuery, errors=(404, 422), tag=_TAG)
    async def delete_by_name(self, request: web.Request) -> web.Response:
        """204."""
        return await self._delete(request, _by_name)

    # -------------------------------------------------------------- parts

    async def _get(self, request: web.Request, key_of: KeyOf) -> web.Response:
        customer_id = self._auth.caller(request).customer_id
        rows = await self._database.fetch("alpaca_watchlist", customer_id, *key_of(request))
        return reply(self._shown(customer_id, _one(rows)))

    async def _change(self, request: web.Request, key_of: KeyOf) -> web.Response:
        customer_id = self._auth.caller(request).customer_id
        body = await body_of(request, WatchlistBody, self._config)
        name = None if body.name is None else _name(body.name)
        listed = None if body.symbols is None else self._all_listed(body.symbols)
        rows = await self._written("alpaca_change_watchlist", customer_id, *key_of(request), name, listed)
        return reply(self._shown(customer_id, _one(rows)))

    async def _add(self, request: web.Request, key_of: KeyOf) -> web.Response:
        customer_id = self._auth.caller(request).customer_id
        body = await body_of(request, WatchlistSymbol, self._config)
        [symbol] = self._all_listed([body.symbol])
        before = _one(await self._database.fetch("alpaca_watchlist", customer_id, *key_of(request)))
        if len(before["symbols"]) >= _SYMBOLS_MAX:
            raise _too_many()
        rows = await self._database.fetch("alpaca_add_to_watchlist", customer_id, *key_of(request), symbol)
        return reply(self._shown(customer_id, _one(rows)))

    async def _delete(self, request: web.Request, key_of: KeyOf) -> web.Response:
        customer_id = self._auth.caller(request).customer_id
        _one(await self._database.fetch("alpaca_delete_watchlist", customer_id, *key_of(request)))
        return no_content()

    async def _written(self, query: str, *arguments: object) -> Sequence[Any]:
        try:
            return await self._database.fetch(query, *arguments)
        except RefusedByDatabase as error:
            if error.constraint == "watchlist_name":
                raise unprocessable("watchlist name must be unique") from error
            raise

    def _all_listed(self, names: Sequence[str]) -> list[str]:
        """These symbols, each once; some may be asset ids. Raises AlpacaError 422 for one that nobody lists."""
        if len(names) > _SYMBOLS_MAX:
            raise _too_many()
        found = []
        for name in names:
            symbol = self._symbols.named(name)
            if not self._symbols.lists(symbol):
                raise unprocessable(f'asset "{name[:40]}" not found')
            found.append(str(symbol))
        return list(dict.fromkeys(found))

    def _shown(self, customer_id: CustomerId, row: Any) -> Watchlist:
        return Watchlist(*_head(customer_id, row), self._symbols.of(row["symbols"]))


def _head(customer_id: CustomerId, row: Any) -> tuple[UUID, UUID, str, datetime, datetime]:
    return row["watchlist_id"], account_id(customer_id), row["name"], row["created_at"], row["updated_at"]


def _by_id(request: web.Request) -> Key:
    watchlist_id = as_uuid(request.match_info["watchlist_id"])
    if watchlist_id is None:
        raise not_found("watchlist not found")
    return watchlist_id, None


def _by_name(request: web.Request) -> Key:
    name = query_of(request).get("name")
    if name is None:
        raise bad_parameter("name is required")
    if not printable(name, _NAME_MAX):
        raise not_found("watchlist not found")
    return None, name


def _name(text: str) -> str:
    if not printable(text, _NAME_MAX):
        raise bad_parameter(f"name must be 1 to {_NAME_MAX} printable characters")
    return text


def _one(rows: Sequence[Any]) -> Any:
    if not rows:
        raise not_found("watchlist not found")
    return rows[0]


def _too_many() -> Exception:
    return unprocessable(f"a watchlist has at most {_SYMBOLS_MAX} symbols")
