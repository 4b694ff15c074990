"""Alpaca's `/v2/iex` over a real socket, in msgpack and JSON: every word of it, and each error."""

import asyncio
import json
import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import msgpack
import pytest
from aiohttp import ClientWebSocketResponse, WSMsgType, web
from aiohttp.test_utils import TestServer
from alpaca.data.live import StockDataStream
from alpaca.data.models import Quote, Trade
from websockets.legacy import client as legacy

from broker.config import Config
from broker.core import signing
from broker.core.bars import day_of, minute_of
from tests.conftest import Broker, Client, narrow, run_broker
from tests.integration.test_webhook import KEY, QuietExchange

WITHIN_S = 30.0
CONNECTED = {"T": "success", "msg": "connected"}
AUTHENTICATED = {"T": "success", "msg": "authenticated"}
NOTHING: dict[str, list[str]] = {
    name: []
    for name in (
        "trades",
        "quotes",
        "bars",
        "updatedBars",
        "dailyBars",
        "statuses",
        "lulds",
        "corrections",
        "cancelErrors",
    )
}


def error(code: int, words: str) -> dict[str, Any]:
    return {"T": "error", "code": code, "msg": words}


def credentials(client: Client) -> tuple[str, str]:
    assert client.token is not None
    key, _, secret = client.token.partition(".")
    return key, secret


@dataclass
class Stream:
    """A client that reads msgpack or JSON."""

    ws: ClientWebSocketResponse
    msgpack: bool

    async def say(self, **message: Any) -> None:
        if self.msgpack:
            await self.ws.send_bytes(msgpack.packb(message))
        else:
            await self.ws.send_json(message)

    async def frame(self) -> list[Any]:
        """The next frame, which holds an array."""
        message = await self.ws.receive(WITHIN_S)
        assert message.type is (WSMsgType.BINARY if self.msgpack else WSMsgType.TEXT), message
        found = msgpack.unpackb(message.data) if self.msgpack else json.loads(message.data)
        assert isinstance(found, list)
        return found

    async def hear(self) -> Any:
        """The next message, which is alone in its frame."""
        (message,) = await self.frame()
        return message

    async def until(self, type_: str, **words: Any) -> Any:
        """The next message of this type with these words; others are passed over."""
        async with asyncio.timeout(WITHIN_S):
            while True:
                for message in await self.frame():
                    if message["T"] == type_ and words.items() <= message.items():
                        return message

    async def ended(self) -> None:
        while (message := await self.ws.receive(WITHIN_S)).type is not WSMsgType.CLOSE:
            assert message.type in {WSMsgType.TEXT, WSMsgType.BINARY}, message


@asynccontextmanager
async def connected(
    client: Client, *, packed: bool = True, path: str = "/v2/iex", **headers: str
) -> AsyncIterator[Stream]:
    """A stream to which the server has said hello."""
    if packed:
        headers["Content-Type"] = "application/msgpack"
    async with client.http.ws_connect(client.url + path, headers=headers) as ws:
        stream = Stream(ws, packed)
        assert await stream.hear() == CONNECTED
        yield stream


@asynccontextmanager
async def authenticated(client: Client, *, packed: bool = True) -> AsyncIterator[Stream]:
    key, secret = credentials(client)
    async with connected(client, packed=packed) as stream:
        await stream.say(action="auth", key=key, secret=secret)
        assert await stream.hear() == AUTHENTICATED
        yield stream


class ToldExchange(QuietExchange):
    """An exchange on whose feed there is what a test says, of AAPL and MSFT."""

    def __init__(self) -> None:
        super().__init__()
        self.news: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.sequence = 1

    async def _feed(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        quotes = [wire_quote("AAPL", "99.90", "100.00"), wire_quote("MSFT", "400.00", "400.10")]
        await socket.send_json({"type": "snapshot", "sequence": 1, "quotes": quotes})
        closed = asyncio.create_task(socket.receive())
        while not closed.done():
            news = asyncio.create_task(self.news.get())
            await asyncio.wait({news, closed}, return_when=asyncio.FIRST_COMPLETED)
            if news.done():
                await socket.send_json(news.result())
            news.cancel()
        return socket

    def trades(self, *trades: tuple[str, str, int, datetime]) -> None:
        """Trades in one message: symbol, price, shares, time."""
        self._say(
            trades=[
                {"symbol": symbol, "price": price, "quantity": quantity, "at": at.isoformat()}
                for symbol, price, quantity, at in trades
            ]
        )

    def quotes(self, *quotes: dict[str, Any]) -> None:
        """Quotes in one message."""
        self._say(quotes=list(quotes))

    def _say(self, **news: Any) -> None:
        self.sequence += 1
        self.news.put_nowait({"type": "quotes", "sequence": self.sequence, **news})


def wire_quote(symbol: str, bid: str, ask: str, at: datetime | None = None) -> dict[str, Any]:
    """A quote as an exchange says it."""
    when = (at or datetime.now(UTC)).isoformat()
    return {"symbol": symbol, "bid": bid, "ask": ask, "last": bid, "bid_size": 300, "ask_size": 200, "at": when}


@asynccontextmanager
async def told_broker(
    with_settings: Callable[..., Config], **settings: Any
) -> AsyncIterator[tuple[ToldExchange, Broker]]:
    """A broker at such an exchange."""
    exchange = ToldExchange()
    async with TestServer(exchange.app()) as server:
        secret = signing.encode_secret(KEY)
        at_exchange = with_settings(exchange=str(server.make_url("/")), webhook_secrets=secret, **settings)
        async with run_broker(at_exchange) as broker:
            yield exchange, broker


async def in_the_last_minute() -> datetime:
    """A moment in the minute before this one, of which late trades are still counted for some seconds.

    It is of the same day in New York, so never in the first minute of one.
    """
    while True:
        now = datetime.now(UTC)
        at = minute_of(now) - timedelta(seconds=1)
        if now.second < 50 and day_of(at) == day_of(now):
            return at
        await asyncio.sleep(0.5)


def time_of(message: Any, *, packed: bool) -> datetime:
    """`t` is a timestamp of msgpack's, or text."""
    if packed:
        assert isinstance(message["t"], msgpack.Timestamp)
        return message["t"].to_datetime()
    return datetime.fromisoformat(message["t"])


# ------------------------------------------------------------------ what comes


@pytest.mark.parametrize("packed", [True, False])
async def test_quotes_and_trades_come_as_they_are_published(broker: Broker, packed: bool) -> None:
    client = await broker.customer()
    async with authenticated(client, packed=packed) as stream:
        await stream.say(action="subscribe", quotes=["AAPL"], trades=["AAPL", "MSFT"])
        both = ["AAPL", "MSFT"]
        subscribed = NOTHING | {"quotes": ["AAPL"], "trades": both, "corrections": both, "cancelErrors": both}
        assert await stream.hear() == {"T": "subscription"} | subscribed
        quote = await stream.until("q")
        assert set(quote) == {"T", "S", "t", "ap", "as", "ax", "bp", "bs", "bx", "c", "z"}
        assert (quote["S"], 0 < quote["bp"] < quote["ap"]) == ("AAPL", True)
        assert isinstance(quote["as"], int)
        placed, _ = await client.place("BUY", "AAPL", 77)
        assert placed == 201
        trade = await stream.until("t", S="AAPL", s=77)
        assert set(trade) == {"T", "S", "t", "p", "s", "i", "x", "c", "z"}
        assert (isinstance(trade["i"], int), isinstance(trade["p"], float)) == (True, True)
        assert time_of(quote, packed=packed) <= time_of(trade, packed=packed)


async def test_each_trade_is_told_once(broker: Broker) -> None:
    async with authenticated(await broker.customer()) as stream:
        await stream.say(action="subscribe", trades=["AAPL"])
        numbers: list[int] = []
        while len(numbers) < 10:
            numbers += [message["i"] for message in await stream.frame() if message["T"] == "t"]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


async def test_everything_can_be_followed(broker: Broker) -> None:
    async with authenticated(await broker.customer()) as stream:
        await stream.say(action="subscribe", quotes=["*"], trades=["GOOGL"])
        answer = await stream.hear()
        assert (answer["quotes"], answer["trades"]) == (["*"], ["GOOGL"])
        heard: set[str] = set()
        while len(heard) < 20:
            heard |= {message["S"] for message in await stream.frame() if message["T"] == "q"}
        await stream.say(action="unsubscribe", quotes=["*"])
        assert (await stream.until("subscription"))["quotes"] == []
        for _ in range(3):
            assert {message["S"] for message in await stream.frame()} == {"GOOGL"}


@pytest.mark.parametrize("packed", [True, False])
async def test_a_minute_that_is_over_then_a_late_trade_of_it(
    with_settings: Callable[..., Config], packed: bool
) -> None:
    async with told_broker(with_settings) as (exchange, broker):
        client = await broker.customer()
        async with authenticated(client, packed=packed) as stream:
            await stream.say(action="subscribe", bars=["AAPL"], dailyBars=["*"], updatedBars=["AAPL"], trades=["MSFT"])
            await stream.hear()
            at = await in_the_last_minute()
            exchange.trades(("AAPL", "190.00", 100, at), ("AAPL", "190.50", 300, at))
            found = await stream.frame()
            while len(found) < 2:
                found += await stream.frame()
            exchange.trades(("AAPL", "189.50", 100, at))
            late = await stream.hear()
    figures = {"S": "AAPL", "o": 190.0, "h": 190.5, "l": 190.0, "c": 190.5, "v": 400, "n": 2, "vw": 190.375}
    assert {each["T"]: {name: each[name] for name in figures} for each in found} == {"b": figures, "d": figures}
    minute = next(each for each in found if each["T"] == "b")
    assert time_of(minute, packed=packed) == minute_of(at)
    changed = {"T": "u", "l": 189.5, "c": 189.5, "v": 500, "n": 3, "vw": 190.2, "t": minute["t"]}
    assert late == minute | changed


async def test_a_halt_is_told_and_its_end(broker: Broker) -> None:
    async with authenticated(await broker.customer()) as stream:
        await stream.say(action="subscribe", statuses=["AAPL"], lulds=["AAPL"])
        await stream.hear()
        path = "/admin/v1/controls/halt:AAPL"
        assert (await broker.operator.call("PUT", path, {"reason": "news"}))[0] < 300
        halted = await stream.hear()
        assert (halted["T"], halted["S"], halted["sc"], halted["rm"]) == ("s", "AAPL", "H", "news")
        assert (await broker.operator.call("DELETE", path))[0] < 300
        assert (await stream.hear())["sc"] == "T"


async def test_subscriptions_add_up_and_come_fragmented(broker: Broker) -> None:
    """The client sends them in pieces of 32,768 bytes, as a text of several frames."""
    client = await broker.customer()
    key, secret = credentials(client)
    url = client.url.replace("http", "ws") + "/v2/iex"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        async with legacy.connect(url, extra_headers={"Content-Type": "application/msgpack"}) as ws:
            assert msgpack.unpackb(await ws.recv()) == [CONNECTED]
            await ws.send(msgpack.packb({"action": "auth", "key": key, "secret": secret}))
            assert msgpack.unpackb(await ws.recv()) == [AUTHENTICATED]
            said = msgpack.packb({"action": "subscribe", "lulds": [f"A{number}" for number in range(800)]})
            await ws.send(said[at : at + 1000] for at in range(0, len(said), 1000))
            (answer,) = msgpack.unpackb(await ws.recv())
            assert len(answer["lulds"]) == 800
            await ws.send(msgpack.packb({"action": "subscribe", "bars": ["AAPL"]}))
            (answer,) = msgpack.unpackb(await ws.recv())
            assert (len(answer["lulds"]), answer["bars"]) == (800, ["AAPL"])


# ------------------------------------------------------------------ who is let in


@pytest.mark.parametrize("packed", [True, False])
async def test_a_key_in_the_handshake_is_enough(broker: Broker, packed: bool) -> None:
    client = await broker.customer()
    key, secret = credentials(client)
    headers = {"APCA-API-KEY-ID": key, "APCA-API-SECRET-KEY": secret}
    async with connected(client, packed=packed, path="/v2/sip", **headers) as stream:
        assert await stream.hear() == AUTHENTICATED
        await stream.say(action="auth", key=key, secret=secret)
        assert await stream.hear() == error(403, "already authenticated")
        await stream.say(action="subscribe", quotes=["AAPL"])
        await stream.until("q")
    async with connected(client, packed=packed, **(headers | {"APCA-API-SECRET-KEY": "no"})) as stream:
        assert await stream.hear() == error(402, "auth failed")
        await stream.ended()


async def test_silent_sockets_keep_nobody_out_whose_handshake_has_a_key(with_settings: Callable[..., Config]) -> None:
    settings = with_settings(stream_strangers_max=3, stream_address_strangers_max=2, stream_refusal_s=0.1)
    async with run_broker(settings) as broker:
        client = await broker.customer()
        key, secret = credentials(client)
        headers = {"APCA-API-KEY-ID": key, "APCA-API-SECRET-KEY": secret}
        async with connected(client), connected(client):
            async with connected(client, **headers) as stream:
                assert await stream.hear() == AUTHENTICATED
            for wrong in ({}, headers | {"APCA-API-SECRET-KEY": "no"}, {"APCA-API-KEY-ID": key}):
                with pytest.raises(aiohttp.WSServerHandshakeError) as refusal:
                    async with connected(client, **wrong):
                        pass
                assert refusal.value.status == 503


async def test_a_wrong_key_in_the_handshake_is_one_failure(with_settings: Callable[..., Config]) -> None:
    async with run_broker(with_settings(auth_failures_per_minute=3, stream_refusal_s=0.1)) as broker:
        client = await broker.customer()
        key, _ = credentials(client)
        assert (await client.call("GET", "/api/v1/balance"))[0] == 200  # it is in memory
        headers = {"Authorization": f"Bearer {key}.no"}
        async with connected(client, **{"APCA-API-KEY-ID": key, "APCA-API-SECRET-KEY": "no"}) as stream:
            assert await stream.hear() == error(402, "auth failed")
        statuses = []
        for _ in range(3):
            async with client.http.get(client.url + "/api/v1/balance", headers=headers) as response:
                statuses.append(response.status)
        assert statuses == [401, 401, 429]


def test_one_address_has_a_small_share_of_those_who_say_nothing() -> None:
    assert Config().stream_address_strangers_max * 20 <= Config().stream_strangers_max


async def test_what_is_said_before_the_key_is_refused(with_settings: Callable[..., Config]) -> None:
    async with run_broker(with_settings(stream_refusal_s=0.1, stream_auth_s=30.0)) as broker:
        client = await broker.customer()
        async with connected(client) as stream:
            await stream.say(action="subscribe", quotes=["AAPL"])
            assert await stream.hear() == error(401, "not authenticated")
            await stream.ws.send_bytes(b"\xc1")
            assert await stream.hear() == error(400, "invalid syntax")
            await stream.say(action="auth", key=credentials(client)[0], secret="no")
            assert await stream.hear() == error(402, "auth failed")
            await stream.ended()


async def test_who_says_nothing_hears_that_it_is_too_late(with_settings: Callable[..., Config]) -> None:
    async with run_broker(with_settings(stream_auth_s=0.3)) as broker, connected(await broker.customer()) as stream:
        assert await stream.hear() == error(404, "auth timeout")
        await stream.ended()


async def test_what_makes_no_sense_ends_nothing(broker: Broker) -> None:
    async with authenticated(await broker.customer(), packed=False) as stream:
        for said in ("", "[]", '{"action": "subscribe", "quotes": "AAPL"}', '{"action": "subscribe", "bars": ["a b"]}'):
            await stream.ws.send_str(said)
            assert await stream.hear() == error(400, "invalid syntax")
        await stream.say(action="dance")
        assert await stream.hear() == error(410, "invalid subscribe action")
        await stream.say(action="subscribe", news=["AAPL"])
        assert await stream.hear() == {"T": "subscription"} | NOTHING


async def test_symbols_and_streams_are_limited(with_settings: Callable[..., Config]) -> None:
    async with run_broker(with_settings(stream_symbols_max=3, stream_customer_max=1)) as broker:
        client = await broker.customer()
        async with authenticated(client) as stream:
            await stream.say(action="subscribe", lulds=["A", "B", "C"])
            before = await stream.hear()
            for more in (["D"], ["*"]):
                await stream.say(action="subscribe", trades=more)
                assert await stream.hear() == error(405, "symbol limit exceeded")
            await stream.say(action="subscribe", statuses=["A"])
            assert await stream.hear() == before | {"statuses": ["A"]}
            async with connected(client) as second:
                key, secret = credentials(client)
                await second.say(action="auth", key=key, secret=secret)
                assert await second.hear() == error(406, "connection limit exceeded")
                await second.ended()


async def test_a_slow_client_holds_up_nobody_and_is_cut_off(with_settings: Callable[..., Config]) -> None:
    settings = with_settings(stream_stall_s=2.0, stream_buffer_max=4096, stream_ping_s=60.0)
    async with run_broker(settings) as broker:
        client = await broker.customer()
        async with narrow(client) as behind, authenticated(behind) as slow, authenticated(client) as quick:
            for stream in (quick, slow):
                await stream.say(action="subscribe", quotes=["*"], trades=["*"])
                await stream.hear()
            transport = slow.ws._response.connection.transport  # type: ignore[union-attr]
            transport.pause_reading()
            async with asyncio.timeout(60):
                while "broker_stream_cut_total 1.0" not in await metrics(broker):
                    await quick.frame()
            transport.abort()  # else it waits for the end of what it does not read
            for _ in range(20):
                await quick.frame()


async def metrics(broker: Broker) -> str:
    async with broker.http.get(broker.running.url + "/metrics") as response:
        return await response.text()


async def test_a_revoked_key_ends_the_stream(broker: Broker) -> None:
    client = await broker.customer()
    async with authenticated(client) as stream:
        await broker.operator.call("DELETE", f"/admin/v1/customers/{client.customer_id}/keys/{credentials(client)[0]}")
        await stream.ended()


# ------------------------------------------------------------------ Alpaca's own client


@pytest.mark.usefixtures("forgotten_tasks")
async def test_the_official_client_follows_quotes_and_trades(broker: Broker) -> None:
    client = await broker.customer()
    key, secret = credentials(client)
    stream = StockDataStream(key, secret, url_override=client.url.replace("http", "ws") + "/v2/iex")
    heard: list[Any] = []

    async def take(each: Any) -> None:
        heard.append(each)

    stream.subscribe_quotes(take, "*")
    stream.subscribe_trades(take, "AAPL")
    running = asyncio.create_task(asyncio.to_thread(stream.run))
    try:
        async with asyncio.timeout(WITHIN_S):
            while {type(each) for each in heard} != {Quote, Trade}:
                await asyncio.sleep(0.05)
    finally:
        stream._should_run = False
        await asyncio.to_thread(stream.stop)
        await running
    quote = next(each for each in heard if isinstance(each, Quote))
    assert 0 < quote.bid_price < quote.ask_price
    assert quote.timestamp.tzinfo is not None
