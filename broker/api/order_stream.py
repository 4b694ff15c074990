"""The stream of order updates: every step of a customer's orders, in order, none left out. WebSocket or event stream.

A client that does not keep up is behind, and reads on from the database at its own pace; it never misses one. One that
takes nothing at all is cut off: it knows the sequence with which to come again.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import orjson
import structlog
from aiohttp import WSCloseCode, web

from broker.api.query import bad_query, only_known
from broker.auth import Caller
from broker.config import Config
from broker.db import DatabaseUnavailable, RefusedByDatabase
from broker.http import REQUEST_ID, ApiError
from broker.metrics import Metrics
from broker.order_feed import BooksSetBack, OrderFeed, Reader
from broker.order_updates import OrderUpdates
from broker.streams import OpenStream, Socket, Streams, bound_buffers
from broker.updates import Updates

log = structlog.get_logger()

_SEQUENCE = re.compile(r"[0-9]{1,18}", re.ASCII)
_RETRY_MS = 1_000
"""How long a browser waits before it connects again."""
_CLOSE_WITHIN_S = 1.0
_NOTHING_TO_SAY = ApiError(400, "invalid_message", "This stream takes no messages: it only tells.")


class OrderStreamApi:
    """The route of order updates."""

    def __init__(
        self, streams: Streams, order_updates: OrderUpdates, updates: Updates, config: Config, metrics: Metrics
    ) -> None:
        self._streams = streams
        self._order_updates = order_updates
        self._feed = OrderFeed(order_updates, updates, config)
        self._config = config
        self._metrics = metrics
        self._event_streams: set[_EventStream] = set()

    def routes(self) -> list[web.RouteDef]:
        """What to mount: before /api/v1/orders/{orderId}, which would take this path for an id."""
        return [web.get("/api/v1/orders/stream", self.stream, allow_head=False)]

    async def run(self) -> None:
        """Look what other processes committed, and which event streams have lost their client, for ever."""
        while True:
            await asyncio.sleep(self._config.order_stream_check_s)
            for each in self._event_streams:
                each.notice_if_gone()
            try:
                await self._feed.check()
            except (DatabaseUnavailable, RefusedByDatabase) as error:
                log.warning("order_stream.not_checked", error=str(error))

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """Every update after `since`, or from now on, until the client or the broker ends it."""
        is_socket = request.headers.get("Upgrade", "").lower() == "websocket"
        caller = await self._caller(request, is_socket=is_socket)
        since = _since(request)
        if not is_socket:
            assert caller is not None
            return await self._event_stream(request, caller, since)
        if caller is not None:  # before the handshake an error has a status
            _check(since, await self._order_updates.newest(caller.customer_id))
        return await self._streams.websocket(request, lambda socket: self._socket(socket, since))

    async def _caller(self, request: web.Request, *, is_socket: bool) -> Caller | None:
        """Who it is; None of a socket that will say so in its first message."""
        if is_socket and "Authorization" not in request.headers:
            return None
        return await self._streams.caller(request)

    # -------------------------------------------------------------- WebSocket

    async def _socket(self, socket: Socket, since: int | None) -> None:
        def cut() -> None:
            self._metrics.stream_cut.inc()
            reason = f"You took nothing for {stall_s:g} s. Connect again, with since."
            socket.end(WSCloseCode.POLICY_VIOLATION, reason, within_s=stall_s)

        def stop(task: asyncio.Task[None]) -> None:
            if not task.cancelled():  # it failed, or the client is gone
                socket.end(WSCloseCode.INTERNAL_ERROR, "This is a fault of the broker. It is in its log.")

        stall_s = self._config.stream_stall_s
        outlet = self._outlet(socket.transport, socket.send_text, lambda _, __, message: message, (), cut)
        with self._feed.follow(socket.caller.customer_id) as reader:
            _check(since, await reader.begin(since))
            await _greet(reader, outlet)
            sending = asyncio.create_task(self._tell(reader, outlet, socket.end))
            sending.add_done_callback(stop)
            try:
                async for _ in socket.messages():
                    await socket.refuse(_NOTHING_TO_SAY)
            finally:
                await _ended(sending)

    # -------------------------------------------------------------- event stream

    async def _event_stream(self, request: web.Request, caller: Caller, since: int | None) -> web.StreamResponse:
        if request.transport is None:  # the client left while we asked who it is: nobody will read this answer
            raise web.HTTPBadRequest
        bound_buffers(request.transport, self._config.stream_buffer_max)  # as every WebSocket's are
        stream = _EventStream(request.transport)
        with (
            self._streams.place(),
            self._streams.opened(OpenStream(caller, stream.end)),
            self._feed.follow(caller.customer_id) as reader,
        ):
            _check(since, await reader.begin(since))
            response = _response(request)
            with suppress(ConnectionError):  # of a client that is gone by now
                await response.prepare(request)
                await response.write(b"retry: %d\n\n" % _RETRY_MS)
            self._event_streams.add(stream)
            try:
                await self._until_end(stream, response, reader)
            finally:
                self._event_streams.discard(stream)
        return response

    async def _until_end(self, stream: "_EventStream", response: web.StreamResponse, reader: Reader) -> None:
        def cut() -> None:
            self._metrics.stream_cut.inc()
            stream.transport.abort()

        outlet = self._outlet(stream.transport, response.write, _event, [b": ping\n\n"], cut)
        await _greet(reader, outlet)
        sending = asyncio.create_task(self._tell(reader, outlet, stream.end))
        try:
            ends: list[asyncio.Future[Any]] = [sending, stream.ended]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await _ended(sending)
        if stream.ended.done() and not stream.transport.is_closing():
            asyncio.get_running_loop().call_later(_CLOSE_WITHIN_S, stream.transport.abort)
            farewell = orjson.dumps({"type": "closed", "reason": stream.ended.result()})
            with suppress(ConnectionError):
                await response.write(b"event: closed\ndata: %s\n\n" % farewell)

    # -------------------------------------------------------------- both

    def _outlet(
        self,
        transport: asyncio.Transport,
        write: Callable[[bytes], Awaitable[None]],
        frame: Callable[[str, int, bytes], bytes],
        ping: Sequence[bytes],
        cut: Callable[[], None],
    ) -> "_Outlet":
        return _Outlet(transport, write, frame, ping, cut, self._config.stream_stall_s)

    async def _tell(self, reader: Reader, outlet: "_Outlet", end: Callable[[WSCloseCode, str], None]) -> None:
        """What follows, until it is cancelled, the client is gone, or nothing can follow."""
        try:
            while True:
                batch = await reader.next(self._config.stream_ping_s)
                frames = (outlet.frame("order_update", sequence, message) for sequence, message in batch)
                await outlet.send(frames if batch else outlet.ping)
        except BooksSetBack as reason:
            end(WSCloseCode.SERVICE_RESTART, str(reason))
        except ConnectionError:
            pass


@dataclass(eq=False, slots=True)
class _EventStream:
    """An open event stream, and how it is ended."""

    transport: asyncio.Transport
    ended: asyncio.Future[str]

    def __init__(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self.ended = asyncio.get_running_loop().create_future()

    def end(self, _: WSCloseCode, reason: str) -> None:
        """Tell the client why, and close it."""
        if not self.ended.done():
            self.ended.set_result(reason)

    def notice_if_gone(self) -> None:
        """Nobody reads from a client of an event stream, so that nothing tells when it goes."""
        if self.transport.is_closing():
            self.end(WSCloseCode.GOING_AWAY, "")


class _Outlet:
    """The way to one client, and a watch over it: one that takes nothing at all for too long is cut off."""

    def __init__(
        self,
        transport: asyncio.Transport,
        write: Callable[[bytes], Awaitable[None]],
        frame: Callable[[str, int, bytes], bytes],
        ping: Sequence[bytes],
        cut: Callable[[], None],
        stall_s: float,
    ) -> None:
        self.frame = frame
        self.ping = ping
        self._transport = transport
        self._write = write
        self._cut = cut
        self._stall_s = stall_s
        self._written = 0

    async def send(self, frames: Iterable[bytes]) -> None:
        """All of them; waits while the client does not keep up. Raises ConnectionError where it is gone."""
        self._watch()
        try:
            for frame in frames:
                self._written += len(frame)
                await self._write(frame)
        finally:
            self._timer.cancel()

    def _watch(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._stall_s, self._look, self._taken())

    def _look(self, before: int) -> None:
        if self._taken() <= before:
            self._cut()
        else:
            self._watch()

    def _taken(self) -> int:
        """Bytes that have left for the client."""
        return self._written - self._transport.get_write_buffer_size()


async def _greet(reader: Reader, outlet: _Outlet) -> None:
    """First where the client stands, so that it always knows after which sequence to come again."""
    first = orjson.dumps({"type": "subscribed", "sequence": reader.position})
    with suppress(ConnectionError):
        await outlet.send([outlet.frame("subscribed", reader.position, first)])


def _response(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(
        headers={
            "Content-Type": "text/event-stream",
            "Cache-Control": "no-cache",
            "X-Accel-Buffering": "no",
            "X-Request-Id": request[REQUEST_ID],
        }
    )
    response.force_close()  # once the stream is over, so is the connection
    return response


def _event(name: str, sequence: int, message: bytes) -> bytes:
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (sequence, name.encode(), message)


def _since(request: web.Request) -> int | None:
    """Where to go on: a browser that connects again sends the header, and still the query that it began with."""
    only_known(request.query, {"since"})
    text = request.headers.get("Last-Event-ID") or request.query.get("since")
    if text is None:
        return None
    if _SEQUENCE.fullmatch(text) is None:
        raise bad_query("since takes the sequence of an order update, or 0 for all of them")
    return int(text)


def _check(since: int | None, newest: int) -> None:
    if since is not None and since > newest:
        raise bad_query(f"since is {since}, and the sequence of your newest order update is {newest}")


async def _ended(task: asyncio.Task[None]) -> None:
    """End a task, and know how it ended."""
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled() and (error := task.exception()):
        log.error("stream.failed", exc_info=error)
