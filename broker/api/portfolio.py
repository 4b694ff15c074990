"""The account's figures: /api/v1/account, positions, executions, activities, portfolio history."""

import re
from collections.abc import Mapping
from dataclasses import replace
from enum import StrEnum
from typing import Annotated, TypeVar
from uuid import UUID

import msgspec
from aiohttp import web

from broker import answers
from broker.api.query import (
    Count,
    Moment,
    Ticker,
    bad_query,
    only_known,
    read_number,
    read_symbol,
    read_time,
    words_of,
)
from broker.config import Config
from broker.core.activities import ActivityType
from broker.core.history import Period, Timeframe, default_timeframe, timeframes
from broker.core.types import SYMBOL_PATTERN, CustomerId
from broker.http import CALLER, ApiError, json_response
from broker.openapi import operation, parameters_of
from broker.portfolio import ActivityFilter, ExecutionFilter, Portfolio

Word = TypeVar("Word", bound=StrEnum)

_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", re.ASCII)
_ACTIVITY_ID = re.compile(rf"({_UUID.pattern})(?:\.([1-9][0-9]{{0,3}}))?", re.ASCII)


class ExecutionsQuery(msgspec.Struct):
    """The query of GET /api/v1/executions."""

    symbol: Ticker | None = None
    order_id: UUID | None = None
    since: Moment | None = msgspec.field(name="from", default=None)
    until: Moment | None = msgspec.field(name="to", default=None)
    limit: Count | None = None
    cursor: UUID | None = None


class ActivitiesQuery(msgspec.Struct):
    """The query of GET /api/v1/activities."""

    types: Annotated[str, msgspec.Meta(pattern=words_of(ActivityType))] | None = msgspec.field(
        name="type", default=None
    )
    since: Moment | None = msgspec.field(name="from", default=None)
    until: Moment | None = msgspec.field(name="to", default=None)
    limit: Count | None = None
    cursor: Annotated[str, msgspec.Meta(pattern=f"^{_ACTIVITY_ID.pattern}$")] | None = None


class HistoryQuery(msgspec.Struct):
    """The query of GET /api/v1/portfolio/history."""

    period: Period = Period.MONTH
    timeframe: Timeframe | None = None


class PortfolioApi:
    """The reading routes about what a customer has."""

    def __init__(self, portfolio: Portfolio, config: Config) -> None:
        self._portfolio = portfolio
        self._page_max = config.page_max

    def routes(self) -> list[web.RouteDef]:
        """What to mount."""
        return [
            web.get("/api/v1/account", self.account, allow_head=False),
            web.get("/api/v1/positions", self.positions, allow_head=False),
            web.get("/api/v1/positions/{symbol}", self.position, allow_head=False),
            web.get("/api/v1/executions", self.executions, allow_head=False),
            web.get("/api/v1/activities", self.activities, allow_head=False),
            web.get("/api/v1/portfolio/history", self.history, allow_head=False),
        ]

    def _customer(self, request: web.Request) -> CustomerId:
        return request[CALLER].customer_id

    @operation("The account in figures", answer=answers.AccountFigures)
    async def account(self, request: web.Request) -> web.Response:
        """Cash, equity, margin and gains."""
        return json_response(await self._portfolio.account(self._customer(request)))

    @operation("All positions", answer=answers.Positions)
    async def positions(self, request: web.Request) -> web.Response:
        """The customer's shares, and what they are worth."""
        return json_response(await self._portfolio.positions(self._customer(request)))

    @operation("The position in one symbol", answer=answers.Position, errors=(404,))
    async def position(self, request: web.Request) -> web.Response:
        """The customer's shares of one symbol."""
        customer_id = self._customer(request)
        symbol = request.match_info["symbol"]
        listed = re.search(SYMBOL_PATTERN, symbol, re.ASCII) is not None
        found = await self._portfolio.position(customer_id, symbol) if listed else None
        if found is None:
            raise ApiError(404, "no_such_position", "You have no shares of this symbol.")
        return json_response(found)

    @operation("Executions, newest first", answer=answers.Executions, query=ExecutionsQuery)
    async def executions(self, request: web.Request) -> web.Response:
        """A page of executions, newest first."""
        customer_id = self._customer(request)
        return json_response(await self._portfolio.executions(customer_id, self._executions(request.query)))

    def _executions(self, query: Mapping[str, str]) -> ExecutionFilter:
        only_known(query, parameters_of(ExecutionsQuery))
        wanted = ExecutionFilter(
            symbol=read_symbol(query.get("symbol")),
            order_id=_id("order_id", query.get("order_id")),
            since=read_time("from", query.get("from")),
            until=read_time("to", query.get("to")),
            limit=self._limit(query),
        )
        before = _id("cursor", query.get("cursor"))
        return wanted if before is None else replace(wanted, before=before)

    @operation("What moved cash or shares, newest first", answer=answers.Activities, query=ActivitiesQuery)
    async def activities(self, request: web.Request) -> web.Response:
        """A page of what moved cash or shares, newest first."""
        customer_id = self._customer(request)
        return json_response(await self._portfolio.activities(customer_id, self._activities(request.query)))

    def _activities(self, query: Mapping[str, str]) -> ActivityFilter:
        only_known(query, parameters_of(ActivitiesQuery))
        wanted = ActivityFilter(
            types=_types(query.get("type")),
            since=read_time("from", query.get("from")),
            until=read_time("to", query.get("to")),
            limit=self._limit(query),
        )
        cursor = query.get("cursor")
        if cursor is None:
            return wanted
        match = _ACTIVITY_ID.fullmatch(cursor)
        if match is None:
            raise bad_query("cursor takes the next_cursor of the page before")
        return replace(wanted, before=(UUID(match[1]), int(match[3] or 1)))

    @operation("What the account was worth over time", answer=answers.History, query=HistoryQuery)
    async def history(self, request: web.Request) -> web.Response:
        """What the account was worth."""
        customer_id = self._customer(request)
        only_known(request.query, parameters_of(HistoryQuery))
        period = _word("period", request.query.get("period"), Period, Period.MONTH)
        timeframe = _word("timeframe", request.query.get("timeframe"), Timeframe, default_timeframe(period))
        if timeframe not in timeframes(period):
            raise bad_query(f"period {period} is shown with a timeframe of {', '.join(timeframes(period))}")
        return json_response(await self._portfolio.history(customer_id, period, timeframe))

    def _limit(self, query: Mapping[str, str]) -> int:
        return read_number("limit", query.get("limit"), min(100, self._page_max), self._page_max)


def _id(name: str, text: str | None) -> UUID | None:
    if text is None:
        return None
    if _UUID.fullmatch(text) is None:
        raise bad_query(f"{name} takes an id like 01a20122-d6ae-7189-9cdb-8be294388f41")
    return UUID(text)


def _types(text: str | None) -> frozenset[ActivityType]:
    if text is None:
        return frozenset(ActivityType)
    words = [word.strip() for word in text.split(",")]
    if not set(words) <= set(ActivityType):
        raise bad_query(f"type takes one or more of {', '.join(ActivityType)}")
    return frozenset(ActivityType(word) for word in words)


def _word(name: str, text: str | None, words: type[Word], default: Word) -> Word:
    if text is None:
        return default
    try:
        return words(text)
    except ValueError as error:
        raise bad_query(f"{name} takes one of {', '.join(words)}") from error
