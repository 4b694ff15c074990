"""The door: new orders that would wait too long are refused before they cost anything, and slow heads are cut off.

While a broker is behind, a request that it cannot take must cost less than one that it can: else refusing is what it
does all day. So each connection asks before it even parses what it got. What ends orders, asks or operates passes.

An answer that its client does not read stays in memory, for as long as the connection lives. So a client that takes
nothing at all of one for too long is cut off; streams, which write while their handlers run, have a rule of their own.
"""

import asyncio
import itertools
import re
import secrets
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import aiohttp
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from broker.config import Config
from broker.metrics import Metrics

_HEAD_MAX = 8 * 1024
"""Bytes of a request that is looked at here; a larger one is parsed first."""
_HEADS_MAX = 64 * 1024
"""Bytes of a request's head. A parsed one takes twice as much memory, for as long as its request or stream lives."""
_HEADS_KEPT = 16 * 1024
"""A larger head closes its connection: an idle one keeps its last request in memory, and one client may have many."""
_AHEAD_MAX = 2 * 1024 * 1024
"""Bytes of requests that are sent ahead while another one is under way."""
_REFUSALS_A_TURN = 32
"""Refusals in one turn of the event loop, less than a millisecond: a step of the work waits for no more than those."""
_UNREAD_MAX = 64 * 1024
"""Bytes of refusals that a client may leave unread."""
_TURNS = 4
"""Of the event loop, from the parser to the queue: one wakes the connection, one starts the request's task, one runs it
up to there; and one to spare."""
_NOT_PLAIN = re.compile(rb"transfer-encoding|expect:|connection:[^\r\n]*close")
_UNKNOWN = -1
_TCP_INFO = getattr(socket, "TCP_INFO", None)  # Linux has it
_TCP_ACKED = struct.Struct("=120xQ16xI")
"""Of the kernel's struct tcp_info: tcpi_bytes_acked and tcpi_notsent_bytes."""


def request_ids() -> Callable[[], str]:
    """What makes ids of requests: no two are equal, of those that other processes make neither."""
    run, numbers = secrets.token_hex(4), itertools.count(1)
    return lambda: f"{run}-{next(numbers):x}"


@dataclass(frozen=True, slots=True)
class Encoded:
    """An answer as it goes out without a request, but for the id, which stands between the two."""

    head: bytes
    rest: bytes

    def under(self, request_id: str) -> bytes:
        """The whole answer."""
        return b"%b%b%b" % (self.head, request_id.encode(), self.rest)


@dataclass(frozen=True, slots=True)
class Guarded:
    """A route of new orders, and what it answers when there is no room."""

    method: str
    path: str  # as in the route: /api/v1/orders/{orderId}
    answer: web.Response

    @property
    def opening(self) -> bytes:
        """How the first line of its requests begins."""
        fixed, parameter, _ = self.path.partition("{")
        return f"{self.method} {fixed}{'' if parameter else ' '}".encode()

    def encoded(self) -> Encoded:
        """The answer for a request that was not parsed."""
        return encoded(self.answer)

    def response(self) -> web.Response:
        """The same for a request that was parsed."""
        return web.Response(status=self.answer.status, headers=self.answer.headers, body=self.answer.body)


def encoded(answer: web.Response) -> Encoded:
    """An answer as it goes out without a request."""
    assert isinstance(answer.body, bytes)
    lines = [f"HTTP/1.1 {answer.status} {answer.reason}"]
    lines += [f"{name}: {value}" for name, value in answer.headers.items()]
    lines += ["X-Content-Type-Options: nosniff", f"Content-Length: {len(answer.body)}", "X-Request-Id: "]
    return Encoded("\r\n".join(lines).encode(), b"\r\n\r\n" + answer.body)


class Door:
    """What all connections ask, and the count of the new orders that are under way."""

    def __init__(self, guarded: Iterable[Guarded], room: Callable[[], int], config: Config, metrics: Metrics) -> None:
        self._guarded = {(each.method, each.path): each for each in guarded}
        self._room = room
        self.openings = tuple(each.opening for each in self._guarded.values())
        self.coming = 0  # parsed, and not come to the middleware yet
        self._refused_ones: deque[Connection] = deque()
        self.head_wait_s = config.head_wait_s
        self.answer_wait_s = config.answer_wait_s
        self._most = config.orders_under_way_max
        self._under_way = 0
        self.next_id = request_ids()
        """An id for a request that is answered without having come to a handler."""
        self._refused = metrics.overloaded.labels("door")
        self._answers = [
            (each.opening, each.encoded(), metrics.requests.labels(each.path, each.answer.status))
            for each in self._guarded.values()
        ]

    @property
    def is_full(self) -> bool:
        """There is no room for a new order."""
        return self._under_way >= self._most or self._room() <= 0

    @property
    def is_closed(self) -> bool:
        """No new order is to be parsed now.

        Those that are coming may take half of the room: the other half is for what comes between, as a callback's
        events do. An order that is refused after it was parsed costs ten times what one costs that was not.
        """
        return self._under_way >= self._most or 2 * self.coming >= self._room()

    def refusal(self, data: bytes) -> tuple[bytes, int] | None:
        """The answer to what a connection got, and the bytes of its body that are still to come.

        None where it is not the beginning of one plain request for a new order: then it is parsed as any other.
        """
        for opening, answer, counter in self._answers:
            if data.startswith(opening):
                to_come = _to_come(data)
                if to_come < 0:
                    return None
                self._refused.inc()
                counter.inc()
                return answer.under(self.next_id()), to_come
        return None

    def let_in(self, loop: asyncio.AbstractEventLoop) -> None:
        """Count an order that was just parsed, until it was able to come to where it counts by itself.

        It is not followed any further: one that is refused on its way, or waits for its key to be read, holds no room.
        """
        self.coming += 1
        loop.call_soon(self._come_nearer, loop, _TURNS - 1)

    def _come_nearer(self, loop: asyncio.AbstractEventLoop, turns: int) -> None:
        if turns:
            loop.call_soon(self._come_nearer, loop, turns - 1)
        else:
            self.coming -= 1

    def answer_later(self, connection: "Connection") -> None:
        """It is the turn of a refusal soon: at once, unless there are so many that they would hold up the work."""
        if not self._refused_ones:
            asyncio.get_running_loop().call_soon(self._answer_some)
        self._refused_ones.append(connection)

    def _answer_some(self) -> None:
        for _ in range(min(_REFUSALS_A_TURN, len(self._refused_ones))):
            self._refused_ones.popleft().answer_refused()
        if self._refused_ones:
            asyncio.get_running_loop().call_soon(self._answer_some)

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """The same for requests that had to be parsed first."""
        resource = request.match_info.route.resource
        guarded = self._guarded.get((request.method, resource.canonical)) if resource else None
        if guarded is None:
            return await handler(request)
        if self.is_full:
            self._refused.inc()
            return guarded.response()
        self._under_way += 1
        try:
            return await handler(request)
        finally:
            self._under_way -= 1


def _to_come(data: bytes) -> int:
    """Bytes of the body that are still to come of the one plain request that begins here; -1 where it is not one."""
    end = data.find(b"\r\n\r\n", 0, _HEAD_MAX)
    if end < 0:
        return _UNKNOWN
    line, _, fields = data[:end].lower().partition(b"\r\n")
    _, name, value = (b"\r\n" + fields).partition(b"\r\ncontent-length:")
    length = value.partition(b"\r\n")[0].strip()
    is_plain = (
        line.endswith(b" http/1.1")
        and line.count(b" ") == 2
        and name
        and re.fullmatch(rb"[0-9]{1,5}", length)
        and fields.count(b"content-length") == 1
        and _NOT_PLAIN.search(fields) is None
    )
    return max(_UNKNOWN, int(length) - (len(data) - end - 4)) if is_plain else _UNKNOWN


class Connection(web.RequestHandler):
    """One connection of a client. It asks the door where it is sure that a request begins.

    It cuts off heads that are slow or too large, and who reads nothing of an answer.
    """

    HEAD_TOO_LARGE = encoded(web.Response(status=431, body=b""))
    """The answer to such a head."""

    __slots__ = (
        "_ahead",
        "_answered",
        "_door",
        "_head_bytes",
        "_head_timer",
        "_is_answering",
        "_is_heavy",
        "_is_refused",
        "_left",
        "_refusal",
        "_to_come",
        "_unread_timer",
        "on_lost",
    )

    def __init__(self, *args: Any, door: Door, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._door = door
        self._head_timer: asyncio.TimerHandle | None = None
        self._unread_timer: asyncio.TimerHandle | None = None
        self._is_answering = False  # an answer is written; what is written while a handler runs is a stream
        self._answered = 0  # requests, of those that were parsed
        self._ahead = 0  # bytes that came since a request was answered, while another one is under way
        self._head_bytes = 0  # of one that has not ended yet
        self._is_heavy = False  # its head is too large to be kept
        self._left: aiohttp.StreamReader | None = None  # the body of the request that was answered, if it still comes
        self._to_come = 0  # bytes of a body, until the next request begins; or _UNKNOWN, for good
        self._is_refused = False  # they are of a request that is refused
        self._refusal: bytes | None = None  # that is still to go out
        self.on_lost: Callable[[Connection], None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Hear of all that a client leaves unread: by itself a transport keeps 64 KB without a word."""
        super().connection_made(transport)
        assert self.transport is not None
        self.transport.set_write_buffer_limits(high=1)  # not 0, at which uvloop's TLS would pause for ever

    def pause_writing(self) -> None:
        """The client is behind: watch whether it takes any more."""
        super().pause_writing()
        if self._is_answering or self._is_idle():
            self._watch()

    def resume_writing(self) -> None:
        """It has caught up. With TLS that is not certain: the transport below keeps as much as it was given."""
        super().resume_writing()
        if not self._is_tls():
            self._stop_watching()

    def force_close(self) -> None:
        """Close it once what was written is read, if it is."""
        if self.writing_paused:
            self._watch()
        super().force_close()

    def data_received(self, data: bytes) -> None:
        """Refuse at once, or hand on to be parsed."""
        if not data or self._upgraded or self._payload_parser is not None:
            super().data_received(data)
            return
        if self._is_refused:
            size = min(len(data), self._to_come)
            self._to_come -= size
            self._is_refused, data = self._to_come > 0, data[size:]
            if not data:
                return
        self.answer_refused()  # before whatever was sent after it
        is_idle = self._is_idle()
        if is_idle and self._head_bytes + len(data) > _HEADS_KEPT and self._is_head() and not self._weigh(data):
            return
        if not is_idle and self._is_too_far_ahead(data):
            return
        is_order = is_idle and self._to_come == 0 and data.startswith(self._door.openings)
        if is_order and self._door.is_closed and self._refuse(data):
            return
        before = len(self._messages)
        super().data_received(data)
        parsed = len(self._messages) - before
        if is_order and parsed:
            self._door.let_in(self._loop)
        self._follow(data, parsed, is_idle)

    def answer_refused(self) -> None:
        """Say no, where that was not said yet."""
        if self._refusal is not None and self.transport is not None:
            self.transport.write(self._refusal)
            if self.transport.get_write_buffer_size() > _UNREAD_MAX:
                self.transport.abort()  # to close it would wait until all of that is read
            self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        self._refusal = None

    def connection_lost(self, exc: BaseException | None) -> None:
        """Let go of it."""
        if self.on_lost is not None:
            self.on_lost(self)
        self._stop_timer()
        super().connection_lost(exc)
        self._stop_watching()

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Count what was answered, and see to it that it is read."""
        self._is_answering = True
        if self.writing_paused:
            self._watch()
        if self._is_heavy:
            resp.force_close()
        try:
            finished = await super().finish_response(request, resp, start_time)
        finally:
            self._is_answering = False
        self._answered += 1
        self._ahead = 0
        self._left = None if request.content.is_eof() else request.content
        if self._is_tls() and isinstance(resp, web.Response) and (resp.content_length or 0) > _UNREAD_MAX:
            self._watch()
        return finished

    def next_id(self) -> str:
        """An id for a request that is answered without having come to a handler."""
        return self._door.next_id()

    def _is_idle(self) -> bool:
        """No request is under way: what comes is the next one, or more of its head."""
        return self._answered == self._request_count

    def _is_head(self) -> bool:
        """Whether what comes to an idle connection is the head of a request, and no body that nobody wanted."""
        return self._to_come <= 0 and (self._left is None or self._left.is_eof())

    def _is_too_far_ahead(self, data: bytes) -> bool:
        """Whether more was sent while a request is under way than is kept: a stream may be so for days."""
        request = self._current_request
        if request is None or not request.content.is_eof():  # its body, which is bounded where it is read
            return False
        self._ahead += len(data)
        if self._ahead <= _AHEAD_MAX or self.transport is None:
            return False
        self.transport.abort()
        return True

    def _weigh(self, data: bytes) -> bool:
        """Whether the head that begins or goes on here may be parsed; else its client is told, and it is over."""
        end = data.find(b"\r\n\r\n")
        size = self._head_bytes + (len(data) if end < 0 else end)
        self._is_heavy = size > _HEADS_KEPT
        if size <= _HEADS_MAX or self.transport is None:
            return True
        self.transport.write(self.HEAD_TOO_LARGE.under(self.next_id()))
        self.force_close()
        return False

    def _refuse(self, data: bytes) -> bool:
        refusal = self._door.refusal(data)
        if refusal is None or self.transport is None or self._close or self._force_close:
            return False
        self._refusal, self._to_come = refusal
        self._is_refused = self._to_come > 0
        self._door.answer_later(self)
        return True

    def _follow(self, data: bytes, parsed: int, was_idle: bool) -> None:
        """Know where the next request begins, as long as nothing is sent ahead, and how long a head takes."""
        if parsed:
            self._stop_timer()
            self._head_bytes = 0
            is_plain = parsed == 1 and self._to_come == 0
            self._to_come = _left_of(self._messages[-1][0], data) if is_plain else _UNKNOWN
        elif self._to_come > 0:
            self._to_come = max(_UNKNOWN, self._to_come - len(data))
        else:
            self._to_come = _UNKNOWN
            if was_idle:
                self._head_bytes += len(data)
            if was_idle and self._head_timer is None:
                self._head_timer = self._loop.call_later(self._door.head_wait_s, self._cut)

    def _is_tls(self) -> bool:
        return self.transport is not None and self.transport.get_extra_info("sslcontext") is not None

    def _watch(self) -> None:
        """Look until all is read; this needs the transport itself, which is forgotten when it is told to close."""
        if self._unread_timer is None and self.transport is not None:
            self._look_later(self.transport, _progress(self.transport)[0])

    def _look_later(self, transport: asyncio.Transport, taken: int) -> None:
        self._unread_timer = self._loop.call_later(self._door.answer_wait_s, self._look, transport, taken)

    def _look(self, transport: asyncio.Transport, before: int) -> None:
        self._unread_timer = None
        taken, is_left = _progress(transport)
        if not is_left:
            return
        if taken > before:
            self._look_later(transport, taken)
        else:
            transport.abort()  # to close it would wait until all of that is read

    def _stop_watching(self) -> None:
        if self._unread_timer is not None:
            self._unread_timer.cancel()
            self._unread_timer = None

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _cut(self) -> None:
        self._head_timer = None
        if self._is_idle():
            self.force_close()


def _progress(transport: asyncio.Transport) -> tuple[int, bool]:
    """How much the client has taken, as a count that grows with it, and whether anything is left for it.

    The kernel counts what has arrived, to the byte. The transport's buffer, where nothing else is to be had, shrinks by
    leaps, since a kernel takes no more until a third of its megabytes is free; and that of a TLS transport is not all.
    """
    unsent = transport.get_write_buffer_size()
    made = transport.get_extra_info("socket")
    if _TCP_INFO is not None and made is not None:
        try:
            info = made.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, 256)
        except OSError:  # it is no TCP, or gone
            info = b""
        if len(info) >= _TCP_ACKED.size:
            acked, not_sent = _TCP_ACKED.unpack_from(info)
            return acked, unsent + not_sent > 0
    return -unsent, unsent > 0


def _left_of(message: Any, data: bytes) -> int:
    """Bytes of its body that are still to come, where all of the request up to here is in `data`; else _UNKNOWN."""
    headers = getattr(message, "headers", None)  # malformed HTTP has none
    end = data.find(b"\r\n\r\n")
    if headers is None or end < 0 or hdrs.TRANSFER_ENCODING in headers:
        return _UNKNOWN
    return max(_UNKNOWN, int(headers.get(hdrs.CONTENT_LENGTH, 0)) - (len(data) - end - 4))
