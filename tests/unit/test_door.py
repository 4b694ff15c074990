"""The door: whatever a client sends, in whatever pieces, every request has one answer, and it is the right one."""

import asyncio
import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.config import Config
from broker.door import Connection, Door, Guarded
from broker.metrics import Metrics

BUSY = web.Response(status=503, headers={"Retry-After": "1"}, body=b"no room", content_type="text/plain")


class Wire(asyncio.Transport):
    """What a connection writes."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False
        self.is_read = True

    def write(self, data: Any) -> None:
        """Keep it."""
        self.written += bytes(data)

    def writelines(self, list_of_data: Any) -> None:
        """Keep them."""
        self.written += b"".join(list_of_data)

    def is_closing(self) -> bool:
        """Whether it was hung up."""
        return self.closed

    def close(self) -> None:
        """Hang up."""
        self.closed = True

    def abort(self) -> None:
        """Hang up, whatever is still to be read."""
        self.closed = True

    def get_write_buffer_size(self) -> int:
        """What was not read yet."""
        return 0 if self.is_read else len(self.written)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """There are none."""

    def pause_reading(self) -> None:
        """It is a test that writes."""

    def resume_reading(self) -> None:
        """It is a test that writes."""


class Room:
    """Says whether there is room, as a test wants it."""

    def __init__(self, full: bool = False) -> None:
        self.full = full


def a_door(room: Room, **settings_: Any) -> Door:
    guarded = [Guarded("POST", "/api/v1/trades", BUSY), Guarded("PATCH", "/api/v1/orders/{orderId}", BUSY)]
    return Door(guarded, lambda: 0 if room.full else 1_000, Config(**settings_), Metrics())


async def answer(request: web.BaseRequest) -> web.Response:
    """Says which request it was."""
    return web.Response(body=f"{request.headers['Number']}:".encode() + await request.read())


def connect(door: Door, handler: Any = answer) -> tuple[Connection, Wire]:
    wire = Wire()
    connection = Connection(web.Server(handler), loop=asyncio.get_running_loop(), door=door)
    connection.connection_made(wire)
    return connection, wire


async def settle() -> None:
    """Let everything run that can."""
    for _ in range(30):
        await asyncio.sleep(0)


def answers(written: bytes) -> list[tuple[int, bytes]]:
    """The statuses and bodies of what was written."""
    found = []
    while written:
        head, _, rest = written.partition(b"\r\n\r\n")
        length = int(re.findall(rb"(?i)content-length: (\d+)", head)[0])
        found.append((int(head[9:12]), rest[:length]))
        written = rest[length:]
    return found


def post(number: int, body: bytes = b"{}", *fields: str, path: str = "/api/v1/trades") -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: b", f"Number: {number}", f"Content-Length: {len(body)}", *fields, "", ""]
    return "\r\n".join(lines).encode() + body


def get(number: int) -> bytes:
    return f"GET /api/v1/trades HTTP/1.1\r\nHost: b\r\nNumber: {number}\r\n\r\n".encode()


def chunked(number: int) -> bytes:
    head = f"POST /api/v1/trades HTTP/1.1\r\nHost: b\r\nNumber: {number}\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head.encode() + b"3\r\nabc\r\n0\r\n\r\n"


INNER = post(99)  # a body that looks like a request of its own must never be taken for one
REQUESTS = st.sampled_from(
    [
        ("post", post, b"{}"),
        ("post", lambda number: post(number, b""), b""),
        ("post", lambda number: post(number, INNER), INNER),
        ("other", lambda number: post(number, INNER, path="/api/v1/trades/x"), INNER),
        ("other", get, b""),
        ("post", chunked, b"abc"),
    ]
)


@settings(max_examples=300)
@given(data=st.data(), requests=st.lists(REQUESTS, min_size=1, max_size=6))
def test_every_request_has_its_one_answer_in_whatever_pieces_it_comes(data: st.DataObject, requests: Any) -> None:
    sent = [make(number) for number, (_, make, _) in enumerate(requests)]
    stream = b"".join(sent)
    borders = [sum(map(len, sent[:number])) for number in range(1, len(sent))]
    anywhere = st.integers(1, len(stream) - 1)
    cuts = data.draw(st.lists(st.sampled_from(borders) | anywhere if borders else anywhere, max_size=8))
    ends = [*sorted(set(cuts)), len(stream)]
    full = data.draw(st.lists(st.booleans(), min_size=len(ends), max_size=len(ends)))
    waits = data.draw(st.lists(st.booleans(), min_size=len(ends), max_size=len(ends)))

    async def run() -> bytes:
        room, start = Room(), 0
        door = a_door(room)
        connection, wire = connect(door)
        await settle()
        for end, is_full, wait in zip(ends, full, waits, strict=True):
            room.full = is_full
            connection.data_received(stream[start:end])
            start = end
            if wait:
                await settle()
        await settle()
        assert door.coming == 0
        connection.connection_lost(None)
        await settle()
        return wire.written

    found = answers(asyncio.run(run()))
    assert len(found) == len(requests)
    for number, ((kind, _, body), (status, said)) in enumerate(zip(requests, found, strict=True)):
        if status == 503:
            assert kind == "post"
        else:
            assert (status, said) == (200, f"{number}:".encode() + body)


async def test_while_there_is_no_room_a_plain_order_is_refused_before_it_is_parsed() -> None:
    connection, wire = connect(a_door(Room(full=True)))
    await settle()
    for number in range(3):
        connection.data_received(post(number))
    await asyncio.sleep(0)  # one turn of the loop, in which nothing can have been parsed and handled
    assert answers(wire.written) == [(503, b"no room")] * 3
    assert wire.written.count(b"\r\nRetry-After: 1\r\n") == 3
    connection.connection_lost(None)


async def test_each_refusal_has_a_request_id_of_its_own() -> None:
    connection, wire = connect(a_door(Room(full=True)))
    await settle()
    for number in range(3):
        connection.data_received(post(number))
    await settle()
    assert answers(wire.written) == [(503, b"no room")] * 3
    ids = re.findall(rb"\r\nX-Request-Id: ([0-9a-f]{8}-[0-9a-f]+)\r\n", wire.written)
    assert len(set(ids)) == 3
    connection.connection_lost(None)


async def test_many_refusals_take_turns_with_the_work() -> None:
    door = a_door(Room(full=True))
    wires = []
    for _ in range(100):
        connection, wire = connect(door)
        await settle()
        wires.append((connection, wire))
    for connection, _ in wires:
        connection.data_received(post(1))
    said = []
    while not said or said[-1] < len(wires):
        await asyncio.sleep(0)
        said.append(sum(bool(wire.written) for _, wire in wires))
    assert said[:4] == [32, 64, 96, 100]


async def test_an_order_whose_body_comes_later_is_refused_at_its_head_and_its_body_is_not_taken_for_a_request() -> None:
    room = Room(full=True)
    connection, wire = connect(a_door(room))
    await settle()
    head, body = post(1, INNER).split(b"\r\n\r\n", 1)
    connection.data_received(head + b"\r\n\r\n")
    await asyncio.sleep(0)
    assert answers(wire.written) == [(503, b"no room")]
    room.full = False
    connection.data_received(body)
    connection.data_received(post(2))
    await settle()
    assert answers(wire.written)[1:] == [(200, b"2:{}")]
    connection.connection_lost(None)


async def test_what_is_no_new_order_passes_a_closed_door() -> None:
    connection, wire = connect(a_door(Room(full=True)))
    await settle()
    cancel = b"DELETE /api/v1/orders/x HTTP/1.1\r\nHost: b\r\nNumber: 1\r\n\r\n"
    for data in (cancel, get(2), post(3, path="/admin/v1/kill"), post(4, path="/webhooks/exchange")):
        connection.data_received(data)
        await settle()
    assert [status for status, _ in answers(wire.written)] == [200] * 4
    connection.connection_lost(None)


@pytest.mark.parametrize(
    "data",
    [
        post(1, b"{}", "Transfer-Encoding: chunked"),
        post(1, b"{}", "Content-Length: 2"),
        post(1, b"{}", "Connection: close"),
        post(1, b"{}", "Expect: 100-continue"),
        post(1).replace(b"HTTP/1.1", b"HTTP/1.0"),
        post(1).replace(b"Content-Length: 2", b"Content-Length: +2"),
        post(1).replace(b"Content-Length: 2", b"Content-Length : 2"),
        post(1).replace(b"Content-Length: 2", b"X: y\r\n Content-Length: 2"),
        post(1) + get(2),
    ],
)
def test_a_puzzling_request_is_left_to_the_parser(data: bytes) -> None:
    assert a_door(Room(full=True)).refusal(data) is None


async def test_of_the_room_that_there_is_half_may_be_on_its_way_to_the_queue() -> None:
    door = a_door(Room())
    door._room = lambda: 4
    connections = [connect(door) for _ in range(4)]
    await settle()
    for number, (connection, _) in enumerate(connections):
        connection.data_received(post(number))
    await asyncio.sleep(0)
    assert [wire.written[9:12] for _, wire in connections] == [b"", b"", b"503", b"503"]
    await settle()
    connections[2][0].data_received(post(4))  # those before it are where they count by themselves
    await settle()
    assert answers(connections[2][1].written) == [(503, b"no room"), (200, b"4:{}")]
    for connection, _ in connections:
        connection.connection_lost(None)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (post(1), b"401"),  # without a key
        (post(1).replace(b"Host: b", b"Host"), b"400"),  # malformed
        (post(1)[:60], b""),  # a head that is not whole
        (post(1).replace(b"Number: 1", b"Number: waits"), b""),  # its key is being read
    ],
)
async def test_orders_that_are_not_taken_hold_no_room_on_connections_that_stay(sent: bytes, status: bytes) -> None:
    """Else anybody could close the door to all, with as many connections as there is room and no key."""
    read = asyncio.Event()

    async def refuse(request: web.BaseRequest) -> web.Response:
        if request.headers["Number"] == "waits":
            await read.wait()
        return web.Response(status=401)

    door = a_door(Room())
    door._room = lambda: 4
    connections = [connect(door, refuse) for _ in range(3)]
    await settle()
    for connection, _ in connections[:2]:
        connection.data_received(sent)
    await settle()
    assert [wire.written[9:12] for _, wire in connections] == [status, status, b""]
    connection, wire = connections[2]
    connection.data_received(post(2))
    await settle()
    assert wire.written[9:12] == b"401", "there is room for it to be looked at"
    read.set()
    await settle()
    for connection, _ in connections:
        connection.connection_lost(None)


async def test_who_reads_no_refusals_is_hung_up_on_before_they_fill_the_memory() -> None:
    connection, wire = connect(a_door(Room(full=True)))
    wire.is_read = False
    await settle()
    for number in range(2_000):
        if wire.closed:
            break
        connection.data_received(post(number))
        await asyncio.sleep(0)
    assert wire.closed
    assert len(wire.written) < 66_000
    connection.connection_lost(None)


async def test_what_was_let_in_is_taken_as_long_as_there_is_room_however_many_come_with_it() -> None:
    """To refuse it now would cost as much as to take it."""
    door, left = a_door(Room()), 4
    door._room = lambda: left

    async def take(_: web.Request) -> web.Response:
        nonlocal left
        left -= 1
        return web.Response(status=201)

    app = web.Application(middlewares=[door.middleware])
    app.add_routes([web.post("/api/v1/trades", take)])
    from aiohttp.test_utils import TestClient, TestServer

    async with TestClient(TestServer(app)) as client:
        door.coming = 3
        assert door.is_closed
        statuses = [(await client.post("/api/v1/trades")).status for _ in range(5)]
    assert statuses == [201, 201, 201, 201, 503]


async def test_requests_under_way_are_bounded() -> None:
    room, door = Room(), a_door(Room(), orders_under_way_max=2)
    assert not door.is_closed
    let_go = asyncio.Event()

    async def slow(_: web.Request) -> web.Response:
        await let_go.wait()
        return web.Response()

    app = web.Application(middlewares=[door.middleware])
    app.add_routes([web.post("/api/v1/trades", slow), web.get("/api/v1/trades", slow)])
    from aiohttp.test_utils import TestClient, TestServer

    async with TestClient(TestServer(app)) as client:
        waiting = [asyncio.ensure_future(client.post("/api/v1/trades")) for _ in range(2)]
        while not door.is_closed:
            await asyncio.sleep(0)
        refused = await client.post("/api/v1/trades")
        assert (refused.status, refused.headers["Retry-After"]) == (503, "1")
        let_go.set()
        assert [(await each).status for each in waiting] == [200, 200]
        assert (await client.get("/api/v1/trades")).status == 200
        assert not door.is_closed
    assert not room.full


async def test_a_head_that_drips_is_cut_off_and_one_that_is_whole_is_not() -> None:
    connection, wire = connect(a_door(Room(), head_wait_s=0.05))
    await settle()
    connection.data_received(get(1))
    await settle()
    assert connection._head_timer is None
    connection.data_received(b"GET / HTTP/1.1\r\nHost: ")
    while not wire.closed:
        await asyncio.sleep(0.01)
        connection.data_received(b"T")
    assert answers(wire.written) == [(200, b"1:")]


# ---------------------------------------------------------------------- answers that nobody reads


async def fill(request: web.BaseRequest) -> web.Response:
    """An answer of as many bytes as it was asked for."""
    return web.Response(body=bytes(int(request.headers["Number"])))


class Held(Connection):
    """Says when it is gone."""

    gone: asyncio.Event

    def connection_lost(self, exc: BaseException | None) -> None:
        """Say so."""
        super().connection_lost(exc)
        self.gone.set()


@asynccontextmanager
async def dialled(
    handler: Any = fill, tls: ssl.SSLContext | None = None, **settings_: Any
) -> AsyncIterator[tuple[Held, socket.socket]]:
    """A connection over a real socket, and the client's end of it, with the smallest buffer there is."""
    loop = asyncio.get_running_loop()
    held = Held(web.Server(handler), loop=loop, door=a_door(Room(), **settings_))
    held.gone = asyncio.Event()
    with socket.socket() as listening, socket.socket() as client:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        client.setblocking(False)
        await loop.sock_connect(client, listening.getsockname())
        accepted, _ = listening.accept()
        accepted.setblocking(False)
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)
        connecting = asyncio.create_task(loop.connect_accepted_socket(lambda: held, accepted, ssl=tls))
        if tls is None:
            await connecting
        yield held, client
        await connecting
        if held.transport is not None:
            held.transport.abort()


WAITS_S = 0.2
SLOW_WAITS_S = 1.0
"""For those who read slowly, and must not be hung up on where the machine stands still for a moment."""
LARGE = 12_000_000
SMALL = 40_000  # less than a transport keeps by itself without a word, and more than the kernel takes


@pytest.mark.parametrize(
    "sent",
    [
        get(LARGE),
        get(SMALL),
        get(LARGE) * 20,
        get(LARGE).replace(b"Host: b", b"Host: b\r\nConnection: close"),
        get(SMALL).replace(b"Host: b", b"Host: b\r\nConnection: close"),
        get(LARGE).replace(b"Host: b", b"Host: b\r\nConnection: Upgrade\r\nUpgrade: websocket") * 2,
    ],
    ids=["large", "small", "pipelined", "last", "small and last", "as if for a WebSocket"],
)
async def test_who_reads_nothing_of_an_answer_is_hung_up_on(sent: bytes) -> None:
    async with dialled(answer_wait_s=WAITS_S) as (held, client):
        await asyncio.get_running_loop().sock_sendall(client, sent)
        async with asyncio.timeout(10):
            await held.gone.wait()


async def test_a_connection_that_is_closed_with_an_answer_unread_is_gone_in_time() -> None:
    """To close it, as after an idle time, waits for what is unread: it must not wait for ever."""
    async with dialled(answer_wait_s=WAITS_S) as (held, client):
        await asyncio.get_running_loop().sock_sendall(client, get(LARGE))
        while not held.writing_paused:
            await asyncio.sleep(0.01)
        held.force_close()
        async with asyncio.timeout(10):
            await held.gone.wait()


async def test_who_reads_slowly_has_all_of_its_answer() -> None:
    loop, size = asyncio.get_running_loop(), 250_000
    async with dialled(answer_wait_s=SLOW_WAITS_S) as (held, client):
        began = loop.time()
        await loop.sock_sendall(client, get(size))
        received = b""
        while not received.endswith(bytes(1_000)) or len(received) < size:
            await asyncio.sleep(SLOW_WAITS_S / 10)
            part = await loop.sock_recv(client, 4_096)
            assert part, "it was hung up on"
            received += part
        assert loop.time() - began > 5 * SLOW_WAITS_S
        assert answers(received) == [(200, bytes(size))]
        assert not held.gone.is_set()
        await asyncio.sleep(1.5 * SLOW_WAITS_S)
        await loop.sock_sendall(client, get(3))
        assert answers(await loop.sock_recv(client, 4_096)) == [(200, bytes(3))], "and is watched no more"


async def test_a_stream_keeps_its_own_rule() -> None:
    """What a handler writes while it runs is a stream's, which broker.streams and the order stream look after."""

    async def stream(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        with suppress(ConnectionError):
            await response.write(bytes(LARGE))
        return response

    async with dialled(stream, answer_wait_s=WAITS_S) as (held, client):
        await asyncio.get_running_loop().sock_sendall(client, get(1))
        await asyncio.sleep(5 * WAITS_S)
        assert held.writing_paused
        assert not held.gone.is_set()


@pytest.fixture
def certificate(tmp_path: Path) -> ssl.SSLContext:
    """A server's side of TLS."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl to make certificates with")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    command += ["-keyout", "key", "-out", "pem", "-subj", "/CN=localhost", "-days", "1"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "pem", tmp_path / "key")
    return context


class Tls:
    """A client's side of TLS, over a socket that is read only when it is to be."""

    def __init__(self, client: socket.socket) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        self._client, self._in, self._out = client, ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out)

    async def _fed(self) -> None:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(self._client, self._out.read())
        part = await loop.sock_recv(self._client, 4_096)
        assert part, "it was hung up on"
        self._in.write(part)

    async def begin(self, sent: bytes) -> None:
        """Shake hands, and send this."""
        while True:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                await self._fed()
        self._tls.write(sent)
        await asyncio.get_running_loop().sock_sendall(self._client, self._out.read())

    async def read(self, size: int, pause_s: float) -> int:
        """So many bytes, slowly."""
        received = 0
        while received < size:
            try:
                received += len(self._tls.read(65_536))
            except ssl.SSLWantReadError:
                await asyncio.sleep(pause_s)
                await self._fed()
        return received


@pytest.mark.parametrize("sent", [get(LARGE), get(LARGE) * 20, get(SMALL) * 20], ids=["one", "pipelined", "small"])
async def test_over_tls_who_reads_nothing_is_hung_up_on_as_well(certificate: ssl.SSLContext, sent: bytes) -> None:
    async with dialled(tls=certificate, answer_wait_s=WAITS_S) as (held, client):
        await Tls(client).begin(sent)
        async with asyncio.timeout(10):
            await held.gone.wait()


async def test_over_tls_who_reads_slowly_has_all_of_its_answers(certificate: ssl.SSLContext) -> None:
    loop, size = asyncio.get_running_loop(), 130_000
    async with dialled(tls=certificate, answer_wait_s=SLOW_WAITS_S) as (held, client):
        tls, began = Tls(client), loop.time()
        await tls.begin(get(size) * 2)
        assert await tls.read(2 * size, SLOW_WAITS_S / 10) >= 2 * size
        assert loop.time() - began > 5 * SLOW_WAITS_S
        await asyncio.sleep(1.5 * SLOW_WAITS_S)
        assert not held.gone.is_set()
