"""How large a request's head may be, and that a large one is not kept."""

import asyncio
import re

import pytest

from tests.conftest import Broker

WITHIN_S = 30


async def said(broker: Broker, *chunks: bytes) -> tuple[bytes, bool]:
    """What comes back, and whether the connection ends after it."""
    port = int(broker.running.url.rsplit(":", 1)[1])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(WITHIN_S):
            for chunk in chunks:
                writer.write(chunk)
                await asyncio.sleep(0.02)
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
            answer = head + await reader.readexactly(length)
        try:
            async with asyncio.timeout(1):
                return answer, await reader.read(1) == b""
        except TimeoutError:
            return answer, False
    finally:
        writer.close()


def head(*fields: bytes, path: bytes = b"/healthz") -> bytes:
    return b"\r\n".join([b"GET " + path + b" HTTP/1.1", b"Host: a", *fields, b"", b""])


def request_id(answer: bytes) -> bytes:
    found = re.search(rb"(?i)\r\nx-request-id: ([0-9a-f]+-[0-9a-f]+)\r\n", answer)
    return found[1] if found else b""


def fields(count: int, size: int) -> list[bytes]:
    return [b"X-%d: " % number + b"a" * size for number in range(count)]


async def test_a_head_of_usual_size_keeps_its_connection(broker: Broker) -> None:
    answer, ended = await said(broker, head(*fields(10, 1_000)))
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert not ended


async def test_a_large_head_is_answered_and_its_connection_ends(broker: Broker) -> None:
    """An idle connection keeps its last request in memory, and one client may have ten thousand."""
    answer, ended = await said(broker, head(*fields(5, 8_000)))
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"connection: close" in answer.lower()
    assert ended


@pytest.mark.parametrize("size", [80_000, 16_000], ids=["at once", "bit by bit"])
async def test_a_head_without_end_is_refused(broker: Broker, size: int) -> None:
    whole = head(*fields(100, 8_000))[:80_000]  # no more: a reset would take the answer with it
    answer, ended = await said(broker, *(whole[start : start + size] for start in range(0, len(whole), size)))
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert b'"headers_too_large"' in answer
    assert request_id(answer)
    assert ended


async def test_heads_that_are_refused_have_each_an_id_of_its_own(broker: Broker) -> None:
    whole = head(*fields(100, 8_000))[:80_000]
    answers = [(await said(broker, whole))[0] for _ in range(3)]
    assert len({request_id(answer) for answer in answers} - {b""}) == len(answers)


async def test_what_is_too_long_is_named(broker: Broker) -> None:
    answer, ended = await said(broker, head(*fields(1, 9_000)))
    assert answer[8:].startswith(b" 431 ")
    assert b"A header has more than 8,192 bytes." in answer
    assert request_id(answer)
    assert ended
    answer, ended = await said(broker, head(path=b"/" + b"a" * 40_000))
    assert answer[8:].startswith(b" 414 ")
    assert b"more than 32,768 bytes" in answer
    assert request_id(answer)
    assert ended


async def test_a_large_body_is_no_head(broker: Broker) -> None:
    """Whether it comes with its head or after it: it has a limit of its own."""
    start = head(b"Content-Type: application/json", b"Content-Length: 100000").replace(
        b"GET /healthz", b"POST /api/v1/orders"
    )
    for chunks in ((start + b"a" * 100_000,), (start, b"a" * 100_000), (start[:50], start[50:] + b"a" * 100_000)):
        answer, _ = await said(broker, *chunks)
        assert answer.startswith(b"HTTP/1.1 401 "), answer


async def test_who_sends_too_much_ahead_of_an_open_stream_is_cut_off(broker: Broker) -> None:
    """A stream may be open for days, and what comes after its request waits in memory for its end."""
    customer = await broker.customer()
    port = int(broker.running.url.rsplit(":", 1)[1])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head(b"Authorization: Bearer " + customer.token.encode(), path=b"/api/v1/orders/stream"))
    async with asyncio.timeout(WITHIN_S):
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        with pytest.raises((ConnectionError, RuntimeError)):  # the latter is uvloop's, of a transport that is gone
            await send_slowly(writer, [head(*fields(60, 8_000))] * 20)
    writer.close()


async def test_who_sends_many_small_requests_ahead_is_served(broker: Broker) -> None:
    port = int(broker.running.url.rsplit(":", 1)[1])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    one, count = head(*fields(2, 1_000)), 2_000
    sending = asyncio.create_task(send_all(writer, one * count))
    answered = 0
    async with asyncio.timeout(WITHIN_S):
        while answered < count:
            found = await reader.readuntil(b'{"status":"ok"}')
            assert found.count(b"HTTP/1.1 200 ") == 1
            answered += 1
    await sending
    writer.close()


async def send_slowly(writer: asyncio.StreamWriter, pieces: list[bytes]) -> None:
    for piece in pieces:
        await send_all(writer, piece)
        await asyncio.sleep(0.05)


async def send_all(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    await writer.drain()
