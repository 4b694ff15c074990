"""Open streams of customers: who may have one, how many, and how it ends. WebSockets and event streams alike.

A stream is let in by the Authorization header, or a WebSocket by its first message (browsers cannot set the header):
`{"action": "authenticate", "token": "…"}`. It ends when its key is revoked or expires: at once, and
within `key_cache_s` where another process revoked it and the database could not tell.
"""

import asyncio
import math
import socket as socket_options
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from time import time
from typing import Any, Protocol

import msgspec
import orjson
import structlog
from aiohttp import WSCloseCode, WSMessage, WSMsgType, web

from broker.auth import Authenticator, Caller, NotAllowed, NotAuthenticated, Scope, TooManyTries
from broker.config import Config
from broker.core.types import CustomerId
from broker.db import Database, DatabaseUnavailable, RefusedByDatabase
from broker.http import CALLER, ApiError, as_api_error, convert, parse_json
from broker.metrics import Metrics
from broker.origins import may_connect, read_origins
from broker.peers import ADDRESS

log = structlog.get_logger()

COUNT: web.RequestKey[Callable[[CustomerId], None]] = web.RequestKey("count")
"""Takes the request from its customer's bucket, or raises ApiError 429. Set by the gate, of streams."""
_CLOSE_WITHIN_S = 1.0
"""How long a client may take to answer our close before its connection is cut."""
_LOOK_S = 0.05
_AFTER_END_S = 0.01
"""A key that has expired is looked at a moment later: the database must find that it is over."""
_SAY_FIRST = 'Say who you are first: {"action": "authenticate", "token": "…"}.'
_REASON_MAX = 120
"""Bytes of text in a close frame."""


class _Authenticate(msgspec.Struct, forbid_unknown_fields=True):
    """The first message of a socket that came without the header."""

    action: str
    token: str


@dataclass(eq=False, slots=True)
class OpenStream:
    """One open stream; `end` tells its client why and closes it. Calling it again does nothing."""

    caller: Caller
    end: Callable[[WSCloseCode, str], None]


class Socket:
    """A customer's WebSocket, after its handshake. It speaks JSON objects in text frames."""

    def __init__(self, caller: Caller, ws: web.WebSocketResponse, transport: asyncio.Transport) -> None:
        self.caller = caller
        self.ws = ws
        self.transport = transport
        self._closing: asyncio.Task[None] | None = None

    async def send(self, message: object) -> None:
        """One message; waits while the client does not keep up. A socket that is gone swallows it."""
        await self.send_text(orjson.dumps(message, default=str, option=orjson.OPT_UTC_Z))

    async def send_text(self, encoded: bytes) -> None:
        """The same, of a message that is JSON already."""
        with suppress(ConnectionError):  # reading notices it as well, and ends the stream
            if not self.ws.closed:
                await self.ws.send_frame(encoded, WSMsgType.TEXT)

    async def refuse(self, error: ApiError) -> None:
        """Tell the client what was wrong with its message; the socket stays open."""
        await self.send({"type": "error", "code": error.code, "error": str(error), **error.figures})

    async def messages(self) -> AsyncIterator[object]:
        """What the client says, parsed, until it or we close. What is no JSON is answered with an error message."""
        async for message in self.ws:
            if message.type is not WSMsgType.TEXT:
                await self.refuse(ApiError(400, "invalid_message", "Send messages as text frames."))
                continue
            try:
                yield parse_json(message.data.encode())
            except ApiError as error:
                await self.refuse(error)

    def end(self, code: WSCloseCode, reason: str, within_s: float = _CLOSE_WITHIN_S) -> None:
        """Close it in the background, after what is on its way; a client that does not take that in time is cut off."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(code, reason, within_s))

    async def wait_closed(self) -> None:
        """Wait until `end` is done: who leaves earlier would close the socket as if nothing had happened."""
        if self._closing is not None:
            await asyncio.wait({self._closing})

    async def taken(self, stall_s: float) -> bool:
        """Wait until what was written has left for the client; False where none of it does for so long.

        What is written meanwhile does not count: at most one turn's news, and only when nothing waits any more.
        """
        loop, least = asyncio.get_running_loop(), math.inf
        until = loop.time() + stall_s
        while not self.ws.closed:
            waiting = self.transport.get_write_buffer_size()
            if waiting == 0 or waiting > least:  # it was empty in between
                return True
            if waiting < least:
                least, until = waiting, loop.time() + stall_s
            elif loop.time() >= until:
                return False
            await asyncio.sleep(_LOOK_S)
        return True

    async def _close(self, code: WSCloseCode, reason: str, within_s: float) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + within_s
        try:
            async with asyncio.timeout_at(until):
                await self.ws.close(code=code, message=reason.encode()[:_REASON_MAX], drain=False)
                while self.transport.get_write_buffer_size():  # noqa: ASYNC110 - a transport tells nobody when it is empty
                    await asyncio.sleep(_LOOK_S)
        except TimeoutError:
            log.info("stream.cut", customer_id=self.caller.customer_id, reason=reason)
        finally:
            self.transport.abort()


class Dialect(Protocol):
    """How the WebSockets of another API say whose they are, and how they are told what is wrong."""

    async def vouched_for(self, request: web.Request) -> bool:
        """Whether the handshake itself says whose it is, with a key that is right. It is asked first."""

    async def introduced(self, ws: web.WebSocketResponse, request: web.Request) -> Caller | None:
        """Whose it is; None where that did not come out, and the client knows why."""

    async def refused(self, ws: web.WebSocketResponse, error: Exception) -> None:
        """Tell the client why its stream ends."""


class Streams:
    """All open streams of this process, within their limits."""

    def __init__(self, authenticator: Authenticator, database: Database, config: Config, metrics: Metrics) -> None:
        self._authenticator = authenticator
        self._database = database
        self._config = config
        self._origins = read_origins(config.allowed_origins)
        self._open: set[OpenStream] = set()
        self._count = 0
        self._strangers = 0  # sockets that have not said yet whose they are: these are not in the count
        self._strangers_of: Counter[str] = Counter()
        self._of_customer: Counter[CustomerId] = Counter()
        self._look = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None  # sets it
        self._metrics = metrics
        authenticator.on_forget = self._look.set

    # -------------------------------------------------------------- in

    async def caller(self, request: web.Request) -> Caller:
        """The customer of the Authorization header. Raises NotAuthenticated, NotAllowed, TooManyTries."""
        return await self._reader(request.headers.get("Authorization"), request)

    async def _reader(self, header: str | None, request: web.Request) -> Caller:
        caller = await self._authenticator.customer(header, request[ADDRESS])
        _count(request, caller)
        caller.require(Scope.READ)
        return caller

    async def websocket(
        self, request: web.Request, serve: Callable[[Socket], Awaitable[None]]
    ) -> web.WebSocketResponse:
        """Serve one WebSocket for as long as `serve` runs. Raises NotAuthenticated or ApiError before the handshake."""
        ws = self._new(request)
        is_handshake = ws.can_prepare(request).ok
        may_wait = is_handshake and "Authorization" not in request.headers
        caller = None if may_wait else await self.caller(request)
        if not is_handshake:
            raise _websocket_needed()
        if caller is None:
            with self._stranger(), self._stranger_from(request[ADDRESS]):
                await _prepare(ws, request)
                caller = await self._introduced(ws, request)
            if caller is not None:
                await self._serve_introduced(caller, ws, request, serve)
        else:
            self._check_room(caller)
            with self.place():
                await _prepare(ws, request)
                await self._serve(caller, ws, request, serve)
        await _closed(ws)
        return ws

    def _new(self, request: web.Request) -> web.WebSocketResponse:
        if not may_connect(request.headers, self._origins):
            sentence = "A page of this origin may not open a WebSocket here. The operator can allow it."
            raise ApiError(403, "origin_not_allowed", sentence)
        return web.WebSocketResponse(
            heartbeat=self._config.stream_ping_s,
            max_msg_size=self._config.stream_message_max,
            timeout=_CLOSE_WITHIN_S,
            compress=False,
            writer_limit=self._config.stream_buffer_max,  # a send waits while so much is on its way
        )

    async def websocket_of(
        self, dialect: Dialect, request: web.Request, serve: Callable[[Socket], Awaitable[None]]
    ) -> web.WebSocketResponse:
        """The same in another API's words. Raises ApiError before the handshake."""
        ws = self._new(request)
        if not ws.can_prepare(request).ok:
            raise _websocket_needed()
        caller = None
        with ExitStack() as counted:
            if not await dialect.vouched_for(request):  # strangers keep nobody out who has a key
                counted.enter_context(self._stranger())
                counted.enter_context(self._stranger_from(request[ADDRESS]))
            await _prepare(ws, request)
            with suppress(ConnectionError):  # it hung up before it said
                caller = await dialect.introduced(ws, request)
        if caller is not None and request.transport is not None and not ws.closed:
            socket = Socket(caller, ws, request.transport)
            bound_buffers(request.transport, self._config.stream_buffer_max)
            try:
                _count(request, caller)
                with self.place(), self.opened(OpenStream(caller, socket.end)):
                    await serve(socket)
            except ConnectionError:  # the client is gone, while a pong or a close was on its way
                log.debug("stream.gone", customer_id=caller.customer_id)
            except Exception as error:  # the handshake is over: no answer can be given any more, but in a message
                if as_api_error(error) is None:
                    log.error("stream.failed", exc_info=error)
                await dialect.refused(ws, error)
                socket.end(WSCloseCode.POLICY_VIOLATION, str(as_api_error(error) or "This is a fault of the broker."))
                await socket.wait_closed()
        await _closed(ws)
        return ws

    async def _serve_introduced(
        self,
        caller: Caller,
        ws: web.WebSocketResponse,
        request: web.Request,
        serve: Callable[[Socket], Awaitable[None]],
    ) -> None:
        """Who was let in after the handshake hears in a message that there is no room."""
        try:
            with self.place():
                await self._serve(caller, ws, request, serve)
        except ApiError as error:
            await _refused(ws, error)

    async def _serve(
        self,
        caller: Caller,
        ws: web.WebSocketResponse,
        request: web.Request,
        serve: Callable[[Socket], Awaitable[None]],
    ) -> None:
        if request.transport is None:  # the client left while we asked who it is
            return
        socket = Socket(caller, ws, request.transport)
        bound_buffers(request.transport, self._config.stream_buffer_max)
        try:
            with self.opened(OpenStream(caller, socket.end)):
                await serve(socket)
        except ConnectionError:  # the client is gone, while a pong or a close was on its way
            log.debug("stream.gone", customer_id=caller.customer_id)
        except Exception as error:  # the handshake is over: no answer can be given any more, but in a message
            expected = as_api_error(error)
            if expected is None:
                log.error("stream.failed", exc_info=error)
                expected = ApiError(500, "internal_error", "This is a fault of the broker. It is in its log.")
            await socket.refuse(expected)
            socket.end(
                WSCloseCode.INTERNAL_ERROR if expected.status >= 500 else WSCloseCode.POLICY_VIOLATION, str(expected)
            )
            await socket.wait_closed()

    @contextmanager
    def opened(self, stream: OpenStream) -> Iterator[None]:
        """Count a stream of a customer for as long as the block lasts. Raises ApiError 429 where there is no room."""
        self._check_room(stream.caller)
        customer_id = stream.caller.customer_id
        self._of_customer[customer_id] += 1
        self._open.add(stream)
        if stream.caller.expires_at is not None:
            self._look_within(stream.caller.expires_at - time() + _AFTER_END_S)  # it may end before the next look
        try:
            yield
        finally:
            self._open.discard(stream)
            self._of_customer[customer_id] -= 1
            if not self._of_customer[customer_id]:
                del self._of_customer[customer_id]

    @contextmanager
    def place(self) -> Iterator[None]:
        """One of all streams. Raises ApiError 503 where there is no room."""
        if self._count >= self._config.stream_sockets_max:
            sentence = f"{self._count} streams are open, which is the limit. Try again in a moment."
            raise ApiError(503, "too_many_streams", sentence, {"Retry-After": "1"})
        self._count += 1
        self._metrics.streams.set(self._count)
        try:
            yield
        finally:
            self._count -= 1
            self._metrics.streams.set(self._count)

    @contextmanager
    def _stranger(self) -> Iterator[None]:
        """One of those who have not said who they are: they take no customer's place."""
        if self._strangers >= self._config.stream_strangers_max:
            sentence = "Too many streams wait to be told whose they are. Send the Authorization header, or try again."
            raise ApiError(503, "too_many_streams", sentence, {"Retry-After": "1"})
        self._strangers += 1
        try:
            yield
        finally:
            self._strangers -= 1

    @contextmanager
    def _stranger_from(self, address: str) -> Iterator[None]:
        """One of those of an address. Old clients of Alpaca's open another every 10 ms while their key is wrong."""
        if self._strangers_of[address] >= self._config.stream_address_strangers_max:
            sentence = "Too many streams from this address wait to be told whose they are. Try again in a moment."
            raise ApiError(503, "too_many_streams", sentence, {"Retry-After": "1"})
        self._strangers_of[address] += 1
        try:
            yield
        finally:
            self._strangers_of[address] -= 1
            if not self._strangers_of[address]:
                del self._strangers_of[address]

    def _check_room(self, caller: Caller) -> None:
        most = self._config.stream_customer_max
        if self._of_customer[caller.customer_id] >= most:
            raise ApiError(
                429, "too_many_streams", f"You have {most} streams open, which is the limit. Close one first."
            )

    async def _introduced(self, ws: web.WebSocketResponse, request: web.Request) -> Caller | None:
        """Who says in the first message who it is; None, and the socket told why, where that fails."""
        try:
            async with asyncio.timeout(self._config.stream_auth_s):
                message = await ws.receive()
            caller = await self._reader(f"Bearer {_token(message)}", request)
            self._check_room(caller)
        except ConnectionError:  # it hung up before it said
            return None
        except TimeoutError:
            await _refused(ws, ApiError(401, "unauthorized", f"Nobody said in time who this is. {_SAY_FIRST}"))
        except (NotAuthenticated, NotAllowed, TooManyTries, ApiError, DatabaseUnavailable) as error:
            refusal = as_api_error(error)
            assert refusal is not None
            await _refused(ws, refusal)
        except RefusedByDatabase as error:
            log.error("streams.not_introduced", error=str(error))
            await _refused(ws, ApiError(500, "internal_error", "This is a fault of the broker; it is in its log."))
        else:
            return caller
        return None

    # -------------------------------------------------------------- out

    async def run(self) -> None:
        """End the streams of keys that are not valid any more, for ever."""
        while True:
            self._look_within(self._config.key_cache_s)
            await self._look.wait()
            self._look.clear()
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            try:
                await self._end_revoked()
            except (DatabaseUnavailable, RefusedByDatabase) as error:
                log.warning("streams.keys_not_read", error=str(error))

    def _look_within(self, seconds: float) -> None:
        """Look in so many seconds at the keys of open streams, unless that is to be done earlier."""
        loop = asyncio.get_running_loop()
        at = loop.time() + seconds
        if self._timer is None or at < self._timer.when():
            if self._timer is not None:
                self._timer.cancel()
            self._timer = loop.call_at(at, self._look.set)

    async def _end_revoked(self) -> None:
        keys = {stream.caller.key_id for stream in self._open}
        if not keys:
            return
        rows = await self._database.fetch("valid_keys", sorted(keys))
        ended = keys - {row["key_id"] for row in rows}
        for stream in [stream for stream in self._open if stream.caller.key_id in ended]:
            expires_at = stream.caller.expires_at
            how = "was revoked" if expires_at is None or expires_at > time() else "has expired"
            stream.end(WSCloseCode.POLICY_VIOLATION, f"The key of this stream {how}.")
        for row in rows:
            if row["ends_in_s"] is not None:
                self._look_within(row["ends_in_s"] + _AFTER_END_S)

    def end_all(self) -> None:
        """The broker stops: tell everybody to come again."""
        for stream in [*self._open]:
            stream.end(WSCloseCode.GOING_AWAY, "The broker stops. Connect again in a moment.")


def _count(request: web.Request, caller: Caller) -> None:
    """Take it from the customer's bucket, once. Raises ApiError 429."""
    if CALLER not in request:
        request[CALLER] = caller
        request[COUNT](caller.customer_id)


def _websocket_needed() -> ApiError:
    return ApiError(426, "websocket_needed", "This path is a WebSocket: connect with one.", {"Upgrade": "websocket"})


async def _refused(ws: web.WebSocketResponse, error: ApiError) -> None:
    if not ws.closed:
        message: dict[str, Any] = {"type": "error", "code": error.code, "error": str(error)}
        with suppress(ConnectionError):
            await ws.send_frame(orjson.dumps(message), WSMsgType.TEXT)
        await ws.close(code=WSCloseCode.POLICY_VIOLATION, message=str(error).encode()[:_REASON_MAX], drain=False)


async def _prepare(ws: web.WebSocketResponse, request: web.Request) -> None:
    try:
        await ws.prepare(request)
    except ConnectionError as error:  # the client is gone by now: nobody will read this answer
        raise web.HTTPBadRequest from error


def _token(message: WSMessage) -> str:
    """Of the first message. Raises NotAuthenticated where it is any other than it should be."""
    try:
        words = convert(parse_json(message.data.encode()), _Authenticate) if message.type is WSMsgType.TEXT else None
    except ApiError:
        words = None
    if words is None or words.action != "authenticate":
        raise NotAuthenticated(_SAY_FIRST)
    return words.token


def bound_buffers(transport: asyncio.Transport, size: int) -> None:
    """Keep no more than this for a client that does not read; by itself the kernel would keep megabytes."""
    if not transport.is_closing():
        transport.get_extra_info("socket").setsockopt(socket_options.SOL_SOCKET, socket_options.SO_SNDBUF, size)
        transport.set_write_buffer_limits(size)


async def _closed(ws: web.WebSocketResponse) -> None:
    if not ws.closed:
        await ws.close(drain=False)
