"""Alpaca's account: its figures, what its owner has set, what it was worth, and what happened in it."""

import re
from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec
import orjson
from aiohttp import web

from broker.alpaca.auth import AlpacaAuth
from broker.alpaca.errors import bad_parameter, unprocessable
from broker.alpaca.ids import account_id
from broker.alpaca.models import Account, Configuration, ConfigurationBody, HistoryQuery, PortfolioHistory
from broker.alpaca.points import fitting, last_close, points
from broker.alpaca.requests import EARLIEST, body_of, day, moment, query_of, reply
from broker.config import Config
from broker.controls import Controls, own_scope
from broker.core import hours
from broker.core.history import Timeframe
from broker.core.money import UNITS_PER_DOLLAR, Money, format_money
from broker.core.types import AccountType, CustomerId
from broker.db import Database
from broker.openapi import operation
from broker.portfolio import Portfolio
from broker.worth import Worth

_PERIOD = re.compile(r"([1-9][0-9]{0,3})([DWMAY])", re.ASCII)
_DAYS = {"D": 1, "W": 7, "M": 30, "A": 365, "Y": 365}
_DAYS_MAX = 365 * 60
_ZERO = "0"
_TAG = "Account"


class AccountRoutes:
    """The handlers under /v2/account, but for activities."""

    def __init__(
        self,
        database: Database,
        portfolio: Portfolio,
        worth: Worth,
        controls: Controls,
        auth: AlpacaAuth,
        now: Callable[[], datetime],
        config: Config,
    ) -> None:
        self._database = database
        self._portfolio = portfolio
        self._worth = worth
        self._controls = controls
        self._auth = auth
        self._now = now
        self._config = config

    def routes(self) -> list[web.RouteDef]:
        """What to mount."""
        return [
            web.get("/v2/account", self.account, allow_head=False),
            web.get("/v2/account/configurations", self.configuration, allow_head=False),
            web.patch("/v2/account/configurations", self.configure),
            web.get("/v2/account/portfolio/history", self.history, allow_head=False),
        ]

    # -------------------------------------------------------------- figures

    @operation("Get the account", answer=Account, tag=_TAG)
    async def account(self, request: web.Request) -> web.Response:
        """Cash, equity, buying power."""
        customer_id = self._auth.caller(request).customer_id
        customer = (await self._database.fetch("customer", customer_id))[0]
        figures: Any = await self._portfolio.account(customer_id)
        now = self._now()
        closed = last_close(now, always_open=self._config.hours == "always")
        before = max(closed, await self._worth.opened(customer_id) or now)  # also where a clock was set to before it
        worth = await self._worth.at(customer_id, [before, max(before, now)])
        on_margin = figures["account_type"] == AccountType.MARGIN
        power, cash = figures["buying_power"], figures["cash"]
        blocked = figures["status"] != "active" or figures["trading_stopped"] is not None
        return reply(
            Account(
                id=account_id(customer_id),
                account_number=str(customer_id),
                status="ACTIVE",
                crypto_status="INACTIVE",
                currency="USD",
                cash=cash,
                portfolio_value=figures["equity"],
                equity=figures["equity"],
                last_equity=format_money(worth.equity[0]),
                long_market_value=figures["market_value"],
                short_market_value=_ZERO,
                position_market_value=figures["market_value"],
                buying_power=power,
                regt_buying_power=power,
                daytrading_buying_power=power if on_margin else _ZERO,
                non_marginable_buying_power=figures["available"],
                options_buying_power=_ZERO,
                effective_buying_power=power,
                bod_dtbp=_ZERO,
                initial_margin=figures["initial_margin"] or _ZERO,
                maintenance_margin=figures["maintenance_margin"] or _ZERO,
                last_maintenance_margin=figures["maintenance_margin"] or _ZERO,
                sma=_ZERO,
                multiplier="2" if on_margin else "1",
                accrued_fees=_ZERO,
                pending_transfer_in=_ZERO,
                pending_transfer_out=_ZERO,
                pattern_day_trader=bool(figures["pattern_day_trader"]),
                trading_blocked=blocked,
                transfers_blocked=False,
                account_blocked=figures["status"] == "suspended",
                trade_suspended_by_user=self._controls.stopped_by_itself(customer_id),
                shorting_enabled=False,
                daytrade_count=figures["day_trades"],
                options_approved_level=0,
                options_trading_level=0,
                balance_asof=closed.astimezone(hours.NEW_YORK).date(),
                created_at=customer["created_at"],
            )
        )

    # -------------------------------------------------------------- settings

    @operation("Get the account's settings", answer=Configuration, tag=_TAG)
    async def configuration(self, request: web.Request) -> web.Response:
        """What its owner has set."""
        customer_id = self._auth.caller(request).customer_id
        rows = await self._database.fetch("alpaca_configuration", customer_id)
        return reply(self._shown(customer_id, rows[0]["content"] if rows else "{}"))

    @operation(
        "Change the account's settings", answer=Configuration, body=ConfigurationBody, errors=(400, 422), tag=_TAG
    )
    async def configure(self, request: web.Request) -> web.Response:
        """Change what is named and not null. suspend_trade stops new orders, and only those."""
        customer_id = self._auth.caller(request).customer_id
        body = await body_of(request, ConfigurationBody, self._config)
        suspend, body.suspend_trade = body.suspend_trade, None
        content = orjson.dumps(msgspec.to_builtins(body)).decode()
        rows = await self._database.fetch("alpaca_set_configuration", customer_id, content)
        if suspend is True and not self._controls.stopped_by_itself(customer_id):
            await self._controls.engage(own_scope(customer_id), "The customer suspended its trading.")
        elif suspend is False:
            await self._controls.release(own_scope(customer_id))
        return reply(self._shown(customer_id, rows[0]["content"]))

    def _shown(self, customer_id: CustomerId, content: str) -> Configuration:
        shown = msgspec.json.decode(content, type=Configuration)
        shown.suspend_trade = self._controls.stopped_by_itself(customer_id)
        return shown

    # -------------------------------------------------------------- what it was worth

    @operation("Get the portfolio's history", answer=PortfolioHistory, query=HistoryQuery, errors=(422,), tag=_TAG)
    async def history(self, request: web.Request) -> web.Response:
        """Equity and gain at the points of a period, the last of them now where it reaches so far."""
        customer_id = self._auth.caller(request).customer_id
        query = query_of(request)
        now = self._now()
        end, start = _span(query, now)
        timeframe = _timeframe(query, end - start)
        opened = await self._worth.opened(customer_id) or now
        begin = max(start, min(opened, end))
        times = points(timeframe, begin, end)
        if opened > start and begin not in times:  # what is gained counts from the opening balance on
            times.insert(0, begin)
        times = [*(at for at in times if at < now), now]
        found = await self._worth.at(customer_id, times)
        shown = len(times) if end >= now else len(times) - 1
        times = times[:shown]
        days = [at.astimezone(hours.NEW_YORK).date() for at in times] or [end.astimezone(hours.NEW_YORK).date()]
        return reply(
            PortfolioHistory(
                [int(at.timestamp()) for at in times],
                [_dollars(each) for each in found.equity[:shown]],
                [_dollars(each) for each in found.profit_loss[:shown]],
                [None if each is None else each / 1_000_000 for each in found.profit_loss_pct[:shown]],
                _dollars(found.equity[0]),
                days[0],
                timeframe,
                {},
            )
        )


def _dollars(amount: Money) -> float:
    """A JSON number: Alpaca's own are. It is never reckoned with."""
    return float(Decimal(amount) / UNITS_PER_DOLLAR)


def _span(query: dict[str, str], now: datetime) -> tuple[datetime, datetime]:
    """The end and the start of what is asked for."""
    last = day(query, "date_end")
    end = moment(query, "end") or (moment({"end": last.isoformat()}, "end") if last is not None else None)
    if end is not None and last is not None and "end" not in query:
        end += timedelta(days=1)
    end = now if end is None else min(end, now)
    start = moment(query, "start") or moment(query, "date_start")  # as older clients call it
    if start is None:
        start = end - _reach(query.get("period", "1M"), end)
    if start > end:
        raise unprocessable("start must not come after end")
    return end, max(start, end - timedelta(days=_DAYS_MAX), EARLIEST)


def _reach(text: str, end: datetime) -> timedelta:
    if text.lower() == "all":
        return timedelta(days=_DAYS_MAX)
    match = _PERIOD.fullmatch(text.upper())
    if match is None:
        raise bad_parameter("period must be a number and a unit: D, W, M or A, like 1M")
    return timedelta(days=min(int(match[1]) * _DAYS[match[2]], _DAYS_MAX))


def _timeframe(query: dict[str, str], reach: timedelta) -> Timeframe:
    """What is asked for, or what Alpaca shows; coarser where that has too many points."""
    text = query.get("timeframe")
    if text is None:
        fine = Timeframe.MINUTE if reach < timedelta(7) else Timeframe.QUARTER_HOUR
        return fitting(fine if reach < timedelta(30) else Timeframe.DAY, reach)
    words = {each.lower(): each for each in Timeframe} | {"1hour": Timeframe.HOUR, "1day": Timeframe.DAY}
    if text.lower() not in words:
        raise bad_parameter(f"timeframe must be one of {', '.join(Timeframe)}")
    return fitting(words[text.lower()], reach)
