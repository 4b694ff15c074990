"""WebSocket frames that no client would send, on every stream: the socket ends, and it is no fault of the broker's."""

import asyncio
import json
import random
from contextlib import suppress

import pytest
from structlog.testing import capture_logs

from tests.conftest import Broker
from tests.fuzz import frames

SESSIONS = 60


async def session(broker: Broker, path: str, token: str, rng: random.Random) -> bytes:
    """What a stream answers to good, odd and impossible frames."""
    port = int(broker.running.url.rsplit(":", 1)[1])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    key, _, secret = token.partition(".")
    is_ours = path.startswith("/api/")
    said = {"action": "authenticate", "token": token} if is_ours else {"action": "auth", "key": key, "secret": secret}
    try:
        writer.write(frames.handshake(path))
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101"), head
        sent = [frames.harmless(rng) for _ in range(rng.choice([0, 3, 10]))]
        writer.write(
            b"".join([frames.frame(1, json.dumps(said).encode()), *sent, frames.last(rng), frames.frame(8, b"")])
        )
        with suppress(ConnectionError):
            return await reader.read()
        return b""
    finally:
        writer.transport.abort()


@pytest.mark.parametrize("path", frames.STREAMS)
async def test_any_frames_end_a_stream_without_a_fault_of_ours(broker: Broker, path: str) -> None:
    customer = await broker.customer()
    rng = random.Random(path)
    with capture_logs() as logs:
        async with asyncio.timeout(60):
            for _ in range(SESSIONS):
                heard = await session(broker, path, str(customer.token), rng)
                assert b"internal_error" not in heard
                assert b'"code":500' not in heard
    assert [line for line in logs if line["log_level"] in {"warning", "error"}] == []
