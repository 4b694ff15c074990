"""The reference for the whole flow: the same promises kept the plain way.

The same schema, decisions and wire; but each step of each trade is a transaction of its own on a pooled connection, the
account is read from the database every time, and the exchange is spoken to one order and one event a request.

    DATA=… EXCHANGE=… BROKER_WEBHOOK_SECRETS=… python -m bench.plain

It works on the data folder of a broker that has ended, runs that folder's PostgreSQL, and prints {"port", "dsn"}.
"""

import asyncio
import json
import math
import os
import random
import signal
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import orjson
import structlog
import uvloop
from aiohttp import web
from uuid_utils.compat import uuid7

from broker import log
from broker.auth import Authenticator
from broker.config import Config
from broker.controls import Controls
from broker.core import settlement, trading
from broker.core.account import Account
from broker.core.conditions import Conditions
from broker.core.messages import Event, PlaceTrade, Report, TradeEvent
from broker.core.types import CustomerId, Side, Status, Symbol, Trade, TradeId
from broker.db import Database
from broker.embedded import EmbeddedPostgres
from broker.exchange import HttpVenue, decode_secrets, read_reports
from broker.ledger import Ledger
from broker.market.feed import Feed, Update
from broker.market.live import ExchangeSource
from broker.market.quotes import Quotes
from broker.policy import limits_of, policy_of

CONNECTIONS = 8


class OneVenue(Quotes):
    """The market, where there is one exchange."""

    def venue(self, symbol: Symbol) -> str:
        """That one."""
        return "sim"

    def is_reachable(self, symbol: Symbol) -> bool:
        """It answers."""
        return True

    def stale_s(self, symbol: Symbol) -> float | None:
        """They hold."""
        return None


class Plain:
    """One step, one transaction."""

    def __init__(self, database: Database, venue: HttpVenue, quotes: OneVenue) -> None:
        self.database = database
        self.venue = venue
        self.quotes = quotes
        self.controls = Controls(database, limits_of(Config()))
        self.policy = policy_of(Config())
        self.pool: asyncio.Queue[Ledger] = asyncio.Queue()
        for number in range(CONNECTIONS):
            self.pool.put_nowait(Ledger(database, number, uuid7, lambda: self.conditions().today))
        self.row_locks: dict[CustomerId, asyncio.Lock] = defaultdict(asyncio.Lock)
        self.turns: dict[CustomerId, asyncio.Lock] = defaultdict(asyncio.Lock)
        self.ended: dict[TradeId, asyncio.Future[None]] = {}
        self.owners: dict[TradeId, CustomerId] = {}
        self.tasks: set[asyncio.Task[None]] = set()

    async def step(self, customer_id: CustomerId, decide: Callable[[Account], Sequence[Event]]) -> Sequence[Event]:
        """Read the account, decide, commit."""
        async with self.row_locks[customer_id]:
            ledger = await self.pool.get()
            try:
                account = (await ledger.load_accounts([customer_id]))[customer_id]
                events = decide(account)
                for event in events:
                    if isinstance(event, TradeEvent):
                        event.seq = account.next_event()
                if events:
                    await ledger.commit(datetime.now(UTC), {customer_id: account.version}, events)
                return events
            finally:
                self.pool.put_nowait(ledger)

    def conditions(self) -> Conditions:
        """The world as it is now."""
        return Conditions(datetime.now(UTC), self.quotes, self.controls, self.policy)

    async def place(self, request: web.Request) -> web.Response:
        """POST /api/v1/trades."""
        caller = await Authenticator(self.database, "", Config()).customer(request.headers["Authorization"])
        body = orjson.loads(await request.read())
        command = PlaceTrade(
            TradeId(uuid7()), caller.customer_id, Symbol(body["stockTicker"]), Side(body["type"]), body["quantity"]
        )
        events = await self.step(
            caller.customer_id, lambda account: list(trading.place(account, command, self.conditions()))
        )
        event = events[0]
        assert isinstance(event, TradeEvent)
        trade = event.trade
        self.owners[trade.trade_id] = trade.customer_id
        task = asyncio.create_task(self.run(trade))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        answer = {
            "tradeId": str(trade.trade_id),
            "stockTicker": trade.symbol,
            "type": trade.side,
            "quantity": trade.quantity,
            "createdAt": trade.created_at,
            "status": Status.PLACED,
            "reason": trade.reason,
        }
        return web.Response(body=orjson.dumps(answer), status=201, content_type="application/json")

    async def run(self, trade: Trade) -> None:
        """Start it when its turn has come, and stay with it to its end."""
        async with self.turns[trade.customer_id]:
            events = await self.step(
                trade.customer_id, lambda account: list(trading.start_next(account, self.conditions()))
            )
            for event in events:
                if isinstance(event, TradeEvent) and event.status is Status.IN_PROGRESS:
                    ended = self.ended[event.trade.trade_id] = asyncio.get_running_loop().create_future()
                    await self.venue.execute([event.trade])
                    await ended

    async def callback(self, request: web.Request) -> web.Response:
        """POST /webhooks/exchange."""
        await asyncio.gather(*map(self.settle, read_reports(await request.read(), "sim")))
        return web.Response(status=204)

    async def settle(self, report: Report) -> None:
        """One event."""

        def decide(account: Account) -> list[Event]:
            trade = account.working.get(report.trade_id)
            outcomes = settlement.settle(account, trade, report, self.conditions()) if trade else ()  # else a repeat
            return [outcome for outcome in outcomes if isinstance(outcome, TradeEvent)]

        await self.step(self.owners[report.trade_id], decide)
        ended = self.ended.pop(report.trade_id, None)
        if ended is not None:
            ended.set_result(None)


async def serve(database: Database) -> None:
    """Serve until cancelled."""
    quotes = OneVenue(math.inf)

    def take(update: Update) -> None:
        if update.is_snapshot:
            quotes.replace(dict(update.quotes))
        else:
            quotes.update(update.quotes)

    async with aiohttp.ClientSession() as session:
        source = ExchangeSource(os.environ["EXCHANGE"], session, Config())
        feed = asyncio.create_task(Feed(source, take, quotes.lost, Config(), random.Random(1)).run())
        await quotes.wait_known(5)
        venue = HttpVenue("sim", os.environ["EXCHANGE"], "", session, 1 << 20)
        plain = Plain(database, venue, quotes)
        app = web.Application()
        app.add_routes([web.post("/api/v1/trades", plain.place), web.post("/webhooks/exchange", plain.callback)])
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port = runner.addresses[0][1]
        venue.callback_url = f"http://127.0.0.1:{port}/webhooks/exchange"
        print(json.dumps({"port": port, "dsn": database.dsn}), flush=True)
        await feed


async def main() -> None:
    """Run the folder's PostgreSQL, and serve until SIGTERM."""
    log.configure("warning")  # standard output is for the port
    assert decode_secrets(os.environ["BROKER_WEBHOOK_SECRETS"])
    postgres = await EmbeddedPostgres.start(Path(os.environ["DATA"]), structlog.get_logger())
    database = Database(postgres.dsn, Config(place_wait_s=30, database_timeout_s=30))  # it is slow, not broken
    await database.open()
    serving = asyncio.create_task(serve(database))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, serving.cancel)
    try:
        with suppress(asyncio.CancelledError):
            await serving
    finally:
        await database.close()
        await postgres.stop()


if __name__ == "__main__":
    uvloop.run(main())
