"""Alpaca's assets, clock and calendar; and what there is none of here: announcements and options."""

import asyncio
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from functools import lru_cache

import msgspec
from aiohttp import web

from broker.alpaca.errors import not_found, unprocessable
from broker.alpaca.models import Asset, AssetsQuery, CalendarDay, CalendarQuery, Clock, OptionContracts
from broker.alpaca.requests import day, query_of, reply
from broker.alpaca.symbols import Symbols
from broker.config import Config
from broker.core import hours
from broker.openapi import operation

_FIRST, _DEFAULT_LAST, _LAST = date(1970, 1, 1), date(2029, 12, 31), date(2099, 12, 31)
"""What a calendar without bounds shows at Alpaca, and how far ours is foreseen."""
_YEARS = 131
"""All that a calendar can show: 5 MB, if somebody asks for all of it."""
_ONE_DAY = timedelta(days=1)
_TAG = "Market"


class AssetsRoutes:
    """The handlers of what can be traded, and when."""

    def __init__(self, symbols: Symbols, now: Callable[[], datetime], config: Config) -> None:
        self._symbols = symbols
        self._now = now
        self._always = config.hours == "always"

    def routes(self) -> list[web.RouteDef]:
        """What to mount."""
        return [
            web.get("/v2/assets", self.assets, allow_head=False),
            web.get("/v2/assets/{symbol_or_asset_id}", self.asset, allow_head=False),
            web.get("/v2/clock", self.clock, allow_head=False),
            web.get("/v2/calendar", self.calendar, allow_head=False),
            web.get("/v2/corporate_actions/announcements", self.announcements, allow_head=False),
            web.get("/v2/corporate_actions/announcements/{announcement_id}", self.announcement, allow_head=False),
            web.get("/v2/options/contracts", self.contracts, allow_head=False),
            web.get("/v2/options/contracts/{symbol_or_id}", self.contract, allow_head=False),
        ]

    @operation("List assets", answer=list[Asset], query=AssetsQuery, errors=(422,), tag=_TAG)
    async def assets(self, request: web.Request) -> web.Response:
        """Everything that can be traded."""
        query = query_of(request)
        found = self._symbols.assets()
        if query.get("status", "active").lower() != "active" or query.get("asset_class", "us_equity") != "us_equity":
            found = []
        exchange, attributes = query.get("exchange"), set(query.get("attributes", "").split(",")) - {""}
        return reply(
            [
                each
                for each in found
                if exchange in {None, each.exchange} and (not attributes or attributes & set(each.attributes))
            ]
        )

    @operation("Get an asset", answer=Asset, errors=(404,), tag=_TAG)
    async def asset(self, request: web.Request) -> web.Response:
        """One symbol."""
        named = request.match_info["symbol_or_asset_id"]
        found = self._symbols.asset(self._symbols.named(named))
        if found is None:
            raise not_found(f"asset not found for {named[:40]}")
        return reply(found)

    @operation("Get the clock", answer=Clock, tag=_TAG)
    async def clock(self, request: web.Request) -> web.Response:
        """Whether the market is open. In one that never closes, a day ends and begins at midnight in New York."""
        now = self._now()
        if self._always:
            midnight = hours.midnight(now)
            return reply(Clock(_local(now), True, _local(midnight), _local(midnight)))
        opens, closes = hours.next_open(now), hours.session_end(now)
        return reply(Clock(_local(now), hours.is_open(now), _local(opens), _local(closes)))

    @operation("Get the calendar", answer=list[CalendarDay], query=CalendarQuery, errors=(422,), tag=_TAG)
    async def calendar(self, request: web.Request) -> web.Response:
        """The trading days from start to end, both included."""
        query = query_of(request)
        start = max(day(query, "start") or _FIRST, _FIRST)
        end = min(day(query, "end") or max(_DEFAULT_LAST, start), _LAST)
        if "start" in query and "end" in query and start > end:
            raise unprocessable("start must not come after end")
        days: list[msgspec.Raw] = []
        for year in range(start.year, end.year + 1):
            days += [encoded for on, encoded in _year(year, self._always) if start <= on <= end]
            await asyncio.sleep(0)  # a year that nobody has asked for yet takes 3 ms: others have their turn
        return reply(days)

    # -------------------------------------------------------------- what there is none of

    @operation("List announcements of corporate actions", answer=list[dict[str, str]], tag=_TAG)
    async def announcements(self, request: web.Request) -> web.Response:
        """None: corporate actions are carried out, not announced."""
        return reply([])

    @operation("Get an announcement", answer=dict[str, str], errors=(404,), tag=_TAG)
    async def announcement(self, request: web.Request) -> web.Response:
        """There are none."""
        raise not_found("announcement not found")

    @operation("List option contracts", answer=OptionContracts, tag=_TAG)
    async def contracts(self, request: web.Request) -> web.Response:
        """None: options are not traded here."""
        return reply(OptionContracts())

    @operation("Get an option contract", answer=dict[str, str], errors=(404,), tag=_TAG)
    async def contract(self, request: web.Request) -> web.Response:
        """There are none."""
        raise not_found("option contract not found")


def _local(at: datetime) -> datetime:
    """In New York's time, as Alpaca's clock is."""
    return at.astimezone(hours.NEW_YORK)


@lru_cache(_YEARS)
def _year(year: int, always: bool) -> list[tuple[date, msgspec.Raw]]:
    """The trading days of a year as they are sent: sixty years of them, made anew, would hold up the loop for 20 ms."""
    count = (date(year + 1, 1, 1) - date(year, 1, 1)).days
    days = [date(year, 1, 1) + number * _ONE_DAY for number in range(count)]
    found = ((on, _always_open(on) if always else _day(on)) for on in days)
    return [(on, msgspec.Raw(msgspec.json.encode(each))) for on, each in found if each is not None]


def _always_open(on: date) -> CalendarDay:
    return CalendarDay(on, "00:00", "23:59", "0000", "2359", on + _ONE_DAY)


def _day(on: date) -> CalendarDay | None:
    session, extended = hours.session(on), hours.extended_session(on)
    if session is None or extended is None:
        return None
    times = _clock(session.opens_at), _clock(session.closes_at)
    wide = _clock(extended.opens_at).replace(":", ""), _clock(extended.closes_at).replace(":", "")
    return CalendarDay(on, *times, *wide, _settles(on))


def _clock(at: datetime) -> str:
    local: time = at.astimezone(hours.NEW_YORK).time()
    return f"{local:%H:%M}"


def _settles(on: date) -> date:
    """The next trading day."""
    following = on + _ONE_DAY
    while hours.session(following) is None:
        following += _ONE_DAY
    return following
