"""Alpaca's stream of market data: `/v2/iex` and `/v2/sip`, in msgpack or JSON, as the client's handshake says.

The server speaks first; whoever has said whose key it has may follow symbols. Every message is an array.
"""

import asyncio
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime

import msgspec
from aiohttp import WSCloseCode, WSMessage, WSMsgType, web

from broker.alpaca.auth import AlpacaAuth
from broker.alpaca.data_hubs import ALL, DataChannel, DataHubs, Subscription, TooManySymbols
from broker.alpaca.errors import AlpacaError, answers
from broker.auth import Caller
from broker.config import Config
from broker.core.types import SYMBOL_PATTERN, Symbol
from broker.db import DatabaseUnavailable
from broker.http import ApiError
from broker.market.hub import Follower, JsonArrays, MsgpackArrays
from broker.streams import Socket, Streams

_SYMBOL = re.compile(SYMBOL_PATTERN, re.ASCII)
_HALTS_S = 1.0
"""How often operators' halts are looked at."""
_HALT = "halt:"
_ERRORS = {
    400: "invalid syntax",
    401: "not authenticated",
    402: "auth failed",
    403: "already authenticated",
    404: "auth timeout",
    405: "symbol limit exceeded",
    406: "connection limit exceeded",
    407: "slow client",
    410: "invalid subscribe action",
    500: "internal error",
}
_CONNECTED = {"T": "success", "msg": "connected"}
_AUTHENTICATED = {"T": "success", "msg": "authenticated"}
_NO_MORE = {WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED, WSMsgType.ERROR}

Message = Mapping[str, object]


class DataRequest(msgspec.Struct):
    """A message of a client. Fields that we do not know are passed over, as Alpaca does."""

    action: str
    key: str = ""
    secret: str = ""
    trades: list[str] | None = None
    quotes: list[str] | None = None
    bars: list[str] | None = None
    updatedBars: list[str] | None = None  # noqa: N815 - the words of the wire
    dailyBars: list[str] | None = None  # noqa: N815
    statuses: list[str] | None = None
    lulds: list[str] | None = None

    def channels(self) -> dict[DataChannel, list[str]]:
        """The channels that it names, each with its symbols. Raises ValueError where one is no ticker."""
        named = {channel: getattr(self, channel.value) or [] for channel in DataChannel}
        for symbols in named.values():
            if not all(symbol == ALL or _SYMBOL.search(symbol) for symbol in symbols):
                raise ValueError("a symbol that no exchange could list")
        return {channel: symbols for channel, symbols in named.items() if symbols}


class _Codec:
    """How one client reads and writes."""

    def __init__(self, *, msgpack: bool) -> None:
        self.is_msgpack = msgpack
        self._encode: Callable[[object], bytes] = (msgspec.msgpack if msgpack else msgspec.json).encode
        self._frame = (MsgpackArrays() if msgpack else JsonArrays()).frame

    def frame(self, message: Message) -> bytes:
        """A message, alone in its array and frame."""
        return self._frame(self._encode(message))

    async def send(self, ws: web.WebSocketResponse, message: Message) -> None:
        """The same, sent to a client that follows nothing yet. A socket that is gone swallows it."""
        with suppress(ConnectionError):
            if not ws.closed:
                await ws.send_frame(self._encode([message]), WSMsgType.BINARY if self.is_msgpack else WSMsgType.TEXT)

    def read(self, message: WSMessage) -> DataRequest:
        """What a client said. Raises ValueError."""
        try:
            if message.type is WSMsgType.BINARY and self.is_msgpack:
                return msgspec.msgpack.decode(message.data, type=DataRequest)
            return msgspec.json.decode(message.data, type=DataRequest)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise ValueError("not a message in form") from error


def _error(code: int) -> Message:
    return {"T": "error", "code": code, "msg": _ERRORS[code]}


class _DataDialect:
    """How one client of market data says whose it is, and is told what is wrong."""

    def __init__(self, auth: AlpacaAuth, config: Config, codec: _Codec) -> None:
        self._auth = auth
        self._config = config
        self.codec = codec
        self._of_handshake: Caller | AlpacaError | DatabaseUnavailable | None = None

    async def vouched_for(self, request: web.Request) -> bool:
        """Whether there is a right key in its headers. What came out is kept: a wrong one is one failure, not two."""
        if "APCA-API-KEY-ID" in request.headers:
            try:
                self._of_handshake = await self._auth.of_handshake(request)
            except (AlpacaError, DatabaseUnavailable) as error:
                self._of_handshake = error
        return isinstance(self._of_handshake, Caller)

    async def introduced(self, ws: web.WebSocketResponse, request: web.Request) -> Caller | None:
        """The customer of the handshake's headers or of the first auth message; None where the client was refused."""
        await self.codec.send(ws, _CONNECTED)
        try:
            if isinstance(self._of_handshake, Exception):
                raise self._of_handshake
            async with asyncio.timeout(self._config.stream_auth_s):
                return self._of_handshake or await self._asked(ws, request)
        except TimeoutError:
            await self._end(ws, 404)
        except AlpacaError:
            await asyncio.sleep(self._config.stream_refusal_s)
            await self._end(ws, 402)
        except DatabaseUnavailable:
            await self._end(ws, 500)
        return None

    async def _asked(self, ws: web.WebSocketResponse, request: web.Request) -> Caller | None:
        while (message := await ws.receive()).type not in _NO_MORE:
            try:
                said = self.codec.read(message)
            except ValueError:
                await self.codec.send(ws, _error(400))
                continue
            if said.action == "auth":
                return await self._auth.of_key(said.key, said.secret, request)
            await self.codec.send(ws, _error(401))
        return None

    async def refused(self, ws: web.WebSocketResponse, error: Exception) -> None:
        """Tell the client why its stream ends."""
        is_full = isinstance(error, ApiError) and error.code in {"too_many_streams", "rate_limited"}
        await self.codec.send(ws, _error(406 if is_full else 500))

    async def _end(self, ws: web.WebSocketResponse, code: int) -> None:
        await self.codec.send(ws, _error(code))
        if not ws.closed:
            await ws.close(code=WSCloseCode.POLICY_VIOLATION, message=_ERRORS[code].encode(), drain=False)


class DataStreamApi:
    """The routes of the stream."""

    def __init__(
        self,
        streams: Streams,
        auth: AlpacaAuth,
        hubs: DataHubs,
        switches: Callable[[], Mapping[str, str]],
        config: Config,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._streams = streams
        self._auth = auth
        self._hubs = hubs
        self._switches = switches
        self._config = config
        self._now = now

    def routes(self) -> list[web.RouteDef]:
        """What to mount."""
        return [web.get(path, answers(self.stream), allow_head=False) for path in ("/v2/iex", "/v2/sip")]

    async def run(self) -> None:
        """Tell of operators' halts, for ever."""
        before: dict[str, str] = {}
        while True:
            await asyncio.sleep(_HALTS_S)
            halts = {scope: reason for scope, reason in self._switches().items() if scope.startswith(_HALT)}
            for scope in halts.keys() ^ before.keys():
                self._hubs.halted(Symbol(scope.removeprefix(_HALT)), halts.get(scope), self._now())
            before = halts

    async def stream(self, request: web.Request) -> web.WebSocketResponse:
        """Follow market data until the socket is closed."""
        codec = _Codec(msgpack=request.headers.get("Content-Type", "").startswith("application/msgpack"))
        dialect = _DataDialect(self._auth, self._config, codec)
        return await self._streams.websocket_of(dialect, request, lambda socket: self._serve(socket, codec))

    async def _serve(self, socket: Socket, codec: _Codec) -> None:
        stall_s = self._config.stream_stall_s

        def cut() -> None:
            socket.end(WSCloseCode.POLICY_VIOLATION, _ERRORS[407], within_s=stall_s)

        await codec.send(socket.ws, _AUTHENTICATED)
        follower = Follower(socket.transport, cut)
        subscription = self._hubs.subscription(follower, reads_msgpack=codec.is_msgpack)
        try:
            async for message in socket.ws:
                if message.type is WSMsgType.ERROR:  # no frame at all: the socket is closed already
                    break
                follower.write(codec.frame(self._answer(codec, message, subscription)))
                if not await socket.taken(stall_s):
                    cut()
        finally:
            self._hubs.gone(subscription)

    def _answer(self, codec: _Codec, message: WSMessage, subscription: Subscription) -> Message:
        try:
            said = codec.read(message)
            if said.action == "auth":
                return _error(403)
            if said.action == "subscribe":
                subscription.add(said.channels())
            elif said.action == "unsubscribe":
                subscription.remove(said.channels())
            else:
                return _error(410)
        except ValueError:
            return _error(400)
        except TooManySymbols:
            return _error(405)
        return _subscribed(subscription.state())


def _subscribed(state: dict[str, list[str]]) -> Message:
    """Corrections and cancels come with trades."""
    return {"T": "subscription", **state, "corrections": state["trades"], "cancelErrors": state["trades"]}
