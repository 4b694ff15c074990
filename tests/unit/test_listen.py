"""Listening for what other brokers changed: whatever ends its connection, it goes on with another one."""

import asyncio
from typing import Any

import asyncpg
import pytest

from broker.db import Database
from broker.listen import listen


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.InternalClientError("got result for unknown protocol state 3"),
        asyncpg.ConnectionDoesNotExistError("gone"),
        asyncpg.InterfaceError("closed"),
        ConnectionResetError(),
    ],
)
async def test_a_connection_that_fails_is_replaced(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.listen._RETRY_S", 0.001)
    connections: list[Any] = []

    class Broken:
        is_ended = False

        def add_termination_listener(self, _: object) -> None: ...

        async def add_listener(self, *_: object) -> None:
            raise error

        def terminate(self) -> None:
            self.is_ended = True

    async def connect(_: Database) -> Broken:
        connections.append(Broken())
        return connections[-1]  # type: ignore[no-any-return]

    monkeypatch.setattr(Database, "connect", connect)
    listening = asyncio.create_task(listen(Database.__new__(Database), {"channel": lambda: None}, 1.0))
    async with asyncio.timeout(20):
        while len(connections) < 3 and not listening.done():
            await asyncio.sleep(0.001)
    assert not listening.done()
    assert connections[0].is_ended
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)
