"""Alpaca's account activities: executions, fees, deposits, dividends, newest first or oldest first."""

import re
from collections.abc import Mapping
from datetime import datetime, time, timedelta
from typing import Any
from uuid import UUID

from aiohttp import web

from broker.alpaca.auth import AlpacaAuth
from broker.alpaca.errors import bad_parameter
from broker.alpaca.ids import account_id, execution_id
from broker.alpaca.models import ActivitiesQuery, Activity
from broker.alpaca.requests import EARLIEST, count, day, moment, query_of, reply, word
from broker.core import activities as core
from broker.core.activities import ActivityType, Made, Transfer
from broker.core.history import first_id
from broker.core.hours import NEW_YORK
from broker.core.money import Money, average, format_money
from broker.core.types import CustomerId, Side, Symbol
from broker.db import Database
from broker.openapi import operation

_PAGE = 100
_LAST_ID = UUID(int=2**128 - 1)
_SKEW = timedelta(hours=1)
"""An id is given a moment before or after the time that its transfer is booked under; nothing is this far off."""
_TOKEN = re.compile(r"(?:[0-9]{17}::)?([0-9a-f-]{36})(?:\.([1-9][0-9]?))?", re.ASCII)
_NON_TRADE = ["CSD", "CSW", "FEE", "DIV", "SPLIT", "BUST", "JNL", "MISC"]
_TYPES = {"FILL", *_NON_TRADE}
_WIDER = {"TRANS": ["CSD", "CSW"], "CFEE": ["FEE"], "SPIN": [], "JNLC": ["JNL"], "JNLS": ["JNL"]}
_TAG = "Account"


class ActivitiesRoutes:
    """The handlers under /v2/account/activities."""

    def __init__(self, database: Database, auth: AlpacaAuth) -> None:
        self._database = database
        self._auth = auth

    def routes(self) -> list[web.RouteDef]:
        """What to mount."""
        return [
            web.get("/v2/account/activities", self.activities, allow_head=False),
            web.get("/v2/account/activities/{activity_type}", self.of_type, allow_head=False),
        ]

    @operation("List activities", answer=list[Activity], query=ActivitiesQuery, errors=(422,), tag=_TAG)
    async def activities(self, request: web.Request) -> web.Response:
        """A page of activities; the last one's id is the page_token of the next."""
        customer_id = self._auth.caller(request).customer_id
        query = query_of(request)
        return reply(await self._page(customer_id, query, _types(query)))

    @operation("List activities of a type", answer=list[Activity], query=ActivitiesQuery, errors=(422,), tag=_TAG)
    async def of_type(self, request: web.Request) -> web.Response:
        """The same, of one type."""
        customer_id = self._auth.caller(request).customer_id
        query = query_of(request)
        _types(query)  # they do not count here, but must be some
        return reply(await self._page(customer_id, query, _named(request.match_info["activity_type"])))

    async def _page(self, customer_id: CustomerId, query: Mapping[str, str], types: list[str] | None) -> list[Activity]:
        size = count(query, "page_size", _PAGE, _PAGE)
        newest_first = word(dict(query), "direction", {"asc", "desc"}, "desc") == "desc"
        after, until = _times(query)
        token = _token(query.get("page_token"))
        first, last = _bounds(after, until)
        if token is not None:
            first, last = (first, min(last, token[0])) if newest_first else (max(first, token[0]), last)
        name = "alpaca_activities_newest" if newest_first else "alpaca_activities_oldest"
        rows = await self._database.fetch(name, customer_id, first, last, types, after, until, size + 1)
        found = []
        for row in rows:
            lines = core.activities(_transfer(row))
            for line in reversed(lines) if newest_first else lines:
                at = (line.transfer.transfer_id, line.number)
                if token is not None and not (at < token if newest_first else at > token):
                    continue
                shown = _shown(customer_id, row, line)
                if types is None or shown.activity_type in types:
                    found.append(shown)
        return found[:size]


# ------------------------------------------------------------------ parameters


def _named(text: str) -> list[str]:
    """The types of ours that these names stand for; one that there is not here has no rows."""
    names = [part.strip().upper() for part in text.split(",") if part.strip()]
    if not all(re.fullmatch(r"[A-Z0-9_]{1,12}", name, re.ASCII) for name in names):
        raise bad_parameter("invalid activity type")
    return [each for name in names for each in _WIDER.get(name, [name]) if each in _TYPES]


def _types(query: Mapping[str, str]) -> list[str] | None:
    if "activity_types" in query:
        return _named(query["activity_types"])
    category = word(dict(query), "category", {"trade_activity", "non_trade_activity", ""}, "")
    return {"trade_activity": ["FILL"], "non_trade_activity": _NON_TRADE, "": None}[category]


def _times(query: Mapping[str, str]) -> tuple[datetime | None, datetime | None]:
    """After and until; a date is New York's day."""
    after, until, on = moment(dict(query), "after"), moment(dict(query), "until"), day(dict(query), "date")
    if on is None:
        return after, until
    begins = datetime.combine(on, time(), NEW_YORK)
    return begins - timedelta(microseconds=1), begins + timedelta(days=1)


def _bounds(after: datetime | None, until: datetime | None) -> tuple[UUID, UUID]:
    """Where in the ids to look: somewhat more than between these times."""
    first = UUID(int=0) if after is None else first_id(max(after, EARLIEST + _SKEW) - _SKEW)
    return first, _LAST_ID if until is None else first_id(until + _SKEW)


def _token(text: str | None) -> tuple[UUID, int] | None:
    if text is None:
        return None
    match = _TOKEN.fullmatch(text)
    try:
        if match is not None:
            return UUID(match[1]), int(match[2] or 1)
    except ValueError:
        pass
    raise bad_parameter("page_token must be the id of an activity")


# ------------------------------------------------------------------ answers


def _transfer(row: Any) -> Transfer:
    made = None
    if row["trade_id"] is not None:
        made = Made(
            row["trade_id"], Side(row["side"]), row["last_qty"], row["last_px"], Money(row["fee"]), row["corrects"]
        )
    shares = [
        (Symbol(each), quantity) for each, quantity in zip(row["symbols"] or (), row["shares"] or (), strict=True)
    ]
    return Transfer(row["transfer_id"], row["kind"], row["reference"], row["at"], Money(row["cash"]), shares, made)


def _shown(customer_id: CustomerId, row: Any, line: core.Activity) -> Activity:
    at, suffix = row["at"], f".{line.number}" if line.number > 1 else ""
    stamp = f"{at:%Y%m%d%H%M%S}{at.microsecond // 1000:03d}"
    shown = Activity(f"{stamp}::{row['transfer_id']}{suffix}", account_id(customer_id), _type(row, line))
    if line.type in {ActivityType.FILL, ActivityType.BUST}:
        shown.execution_id = execution_id(row["venue"], row["execution_id"])
    if line.type is ActivityType.FILL:
        filled, leaves = row["cum_quantity"] or 0, row["quantity"] - (row["cum_quantity"] or 0)
        shown.transaction_time = at
        shown.type = "fill" if leaves <= 0 else "partial_fill"
        shown.price, shown.qty = format_money(row["last_px"]), str(row["last_qty"])
        shown.side, shown.symbol = row["side"].lower(), row["symbol"]
        shown.leaves_qty, shown.cum_qty = str(max(0, leaves)), str(filled)
        shown.order_id = UUID(str(row["trade_id"]))
        shown.order_status = "filled" if leaves <= 0 else "partially_filled"
        return shown
    shown.date = at.astimezone(NEW_YORK).date().isoformat()
    shown.net_amount = format_money(line.cash)
    shown.description = line.description
    shown.status = "executed"
    shown.symbol = line.symbol
    shown.qty = None if line.quantity is None else str(line.quantity)
    if shown.activity_type == "DIV" and line.quantity:
        shown.per_share_amount = format_money(average(line.cash, line.quantity))
    return shown


def _type(row: Any, line: core.Activity) -> str:
    """Alpaca's word, as the query has it."""
    match line.type:
        case ActivityType.CASH:
            return "CSD" if row["cash"] > 0 else "CSW"
        case ActivityType.CORPORATE:
            return "DIV" if row["symbols"] is None else "SPLIT"
        case ActivityType.RESET:
            return "JNL"
        case ActivityType.FILL | ActivityType.FEE | ActivityType.BUST:
            return line.type.upper()
