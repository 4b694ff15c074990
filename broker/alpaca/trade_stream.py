"""Alpaca's `/stream`: a customer's trade updates from now on, in the order of the commits. Nothing is told twice.

The server says nothing before it was told whose it is: clients take its first word for the verdict.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress

import msgspec
import structlog
from aiohttp import WSCloseCode, WSMessage, WSMsgType, web

from broker.alpaca.auth import AlpacaAuth, unauthorized
from broker.alpaca.errors import AlpacaError, answers
from broker.alpaca.trade_updates import Telling, TradeUpdates, encode_event
from broker.auth import Caller
from broker.config import Config
from broker.core.types import CustomerId
from broker.db import DatabaseUnavailable, RefusedByDatabase
from broker.market.hub import text_frame
from broker.metrics import Metrics
from broker.order_feed import BooksSetBack, OrderFeed
from broker.streams import COUNT, Socket, Streams
from broker.updates import Updates

log = structlog.get_logger()

UPDATES = "trade_updates"
_READS_AT_ONCE = 3
"""However many streams have executions to tell of, other readers find a connection."""
_NO_MORE = {WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED, WSMsgType.ERROR}
_encode = msgspec.json.encode


class _Data(msgspec.Struct):
    key_id: str = ""
    secret_key: str = ""
    streams: list[str] = []


class TradeRequest(msgspec.Struct):
    """A message of a client; the key may stand in `data` or beside it."""

    action: str
    data: _Data = msgspec.field(default_factory=_Data)
    key: str = ""
    secret: str = ""

    def credentials(self) -> tuple[str, str]:
        """Key and secret. Raises AlpacaError where this does not say them."""
        if self.action == "authenticate":
            return self.data.key_id or self.key, self.data.secret_key or self.secret
        if self.action == "auth":
            return self.key or self.data.key_id, self.secret or self.data.secret_key
        raise unauthorized()


def _read(message: WSMessage) -> TradeRequest | None:
    """What a client said, in a text or a binary frame; None where it is not in form."""
    try:
        return msgspec.json.decode(message.data, type=TradeRequest)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None


def _verdict(status: str, action: str = "authenticate") -> bytes:
    return _encode({"stream": "authorization", "data": {"status": status, "action": action}})


def _listening(streams: list[str]) -> bytes:
    return _encode({"stream": "listening", "data": {"streams": streams}})


async def _send(ws: web.WebSocketResponse, message: bytes) -> None:
    with suppress(ConnectionError):  # who is gone hears nothing
        if not ws.closed:
            await ws.send_frame(message, WSMsgType.TEXT)


class _TradeDialect:
    """How a client of trade updates says whose it is, and is told what is wrong."""

    def __init__(self, auth: AlpacaAuth, config: Config) -> None:
        self._auth = auth
        self._config = config

    async def vouched_for(self, request: web.Request) -> bool:
        """It is always its first message that says whose it is."""
        return False

    async def introduced(self, ws: web.WebSocketResponse, request: web.Request) -> Caller | None:
        """The customer of the first message; None where the client was refused."""
        try:
            async with asyncio.timeout(self._config.stream_auth_s):
                return await self._asked(ws, request)
        except TimeoutError:
            await self._refuse(ws)
        except (AlpacaError, DatabaseUnavailable):
            await asyncio.sleep(self._config.stream_refusal_s)
            await self._refuse(ws)
        return None

    async def _asked(self, ws: web.WebSocketResponse, request: web.Request) -> Caller | None:
        while (message := await ws.receive()).type not in _NO_MORE:
            said = _read(message)
            if said is not None and said.action == "listen":
                await _send(ws, _verdict("unauthorized", "listen"))
                continue
            if said is None:
                raise unauthorized()
            return await self._auth.of_key(*said.credentials(), request)
        return None

    async def refused(self, ws: web.WebSocketResponse, error: Exception) -> None:
        """There is no word for it but that it is not to be."""
        await _send(ws, _verdict("unauthorized"))

    async def _refuse(self, ws: web.WebSocketResponse) -> None:
        await _send(ws, _verdict("unauthorized"))
        if not ws.closed:
            await ws.close(code=WSCloseCode.POLICY_VIOLATION, message=b"unauthorized", drain=False)


class TradeStreamApi:
    """The routes of trade updates."""

    def __init__(
        self,
        streams: Streams,
        auth: AlpacaAuth,
        trade_updates: TradeUpdates,
        updates: Updates,
        config: Config,
        metrics: Metrics,
    ) -> None:
        self._streams = streams
        self._dialect = _TradeDialect(auth, config)
        self._trade_updates = trade_updates
        self._feed = OrderFeed(trade_updates, updates, config, encode_event, _READS_AT_ONCE)
        self._config = config
        self._metrics = metrics

    def routes(self) -> list[web.RouteDef]:
        """What to mount. Older clients put a slash behind it."""
        return [web.get(path, answers(self.stream), allow_head=False) for path in ("/stream", "/stream/")]

    async def run(self) -> None:
        """Look what other processes committed, for ever."""
        while True:
            await asyncio.sleep(self._config.order_stream_check_s)
            try:
                await self._feed.check()
            except (DatabaseUnavailable, RefusedByDatabase) as error:
                log.warning("trade_stream.not_checked", error=str(error))

    async def stream(self, request: web.Request) -> web.WebSocketResponse:
        """Follow trade updates until the socket is closed."""
        return await self._streams.websocket_of(
            self._dialect, request, lambda socket: self._serve(socket, request[COUNT])
        )

    async def _serve(self, socket: Socket, count: Callable[[CustomerId], None]) -> None:
        telling: asyncio.Task[None] | None = None
        has_listened = False
        await _send(socket.ws, _verdict("authorized"))
        try:
            async for message in socket.ws:
                if message.type is WSMsgType.ERROR:  # no frame at all: the socket is closed already
                    break
                said = _read(message)
                wanted = said is not None and said.action == "listen" and UPDATES in said.data.streams
                if wanted and telling is None:
                    if has_listened:  # each reads the database: from the second on it is a request like others
                        count(socket.caller.customer_id)
                    has_listened = True
                    telling = asyncio.create_task(self._tell(socket))
                    telling.add_done_callback(lambda task: _failed(task, socket))
                elif said is not None and said.action == "listen":
                    if not wanted and telling is not None:
                        await _cancelled(telling)
                        telling = None
                    await _send(socket.ws, _listening([UPDATES] if wanted else []))
                elif said is not None and said.action in {"authenticate", "auth"}:
                    await _send(socket.ws, _verdict("authorized"))
        finally:
            if telling is not None:
                await _cancelled(telling)

    async def _tell(self, socket: Socket) -> None:
        """What follows, until it is cancelled or nothing can follow."""
        customer_id, most = socket.caller.customer_id, self._config.customer_open_max
        with self._feed.follow(customer_id) as reader:
            place, waiting = await self._trade_updates.begin(customer_id, most)
            telling = Telling(dict.fromkeys(reversed(waiting)), most)
            await reader.begin(place)
            await _send(socket.ws, _listening([UPDATES]))
            try:
                while not socket.ws.closed:
                    for _, told in await reader.next(self._config.stream_ping_s):
                        for message in telling.messages(told):
                            if not await self._put(socket, message):
                                return
            except BooksSetBack as reason:
                socket.end(WSCloseCode.SERVICE_RESTART, str(reason))

    async def _put(self, socket: Socket, message: bytes) -> bool:
        """Put a message on its way, and wait while the client does not keep up; False where it takes nothing at all."""
        if socket.transport.is_closing():
            return False
        socket.transport.write(text_frame(message))
        stall_s = self._config.stream_stall_s
        if socket.transport.get_write_buffer_size() <= self._config.stream_buffer_max or await socket.taken(stall_s):
            return True
        self._metrics.stream_cut.inc()
        socket.end(WSCloseCode.POLICY_VIOLATION, f"You took nothing for {stall_s:g} s.", within_s=stall_s)
        return False


def _failed(task: asyncio.Task[None], socket: Socket) -> None:
    """A stream that can tell no more must not look as if nothing happened."""
    if task.cancelled() or (error := task.exception()) is None:
        return
    if not isinstance(error, DatabaseUnavailable):
        log.error("stream.failed", exc_info=error)
    socket.end(WSCloseCode.INTERNAL_ERROR, "This stream cannot go on. Connect again in a moment.")


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait({task})
