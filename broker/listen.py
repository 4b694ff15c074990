"""What other brokers on this database have changed, heard at once: LISTEN on a connection of its own.

It only says that there is something to look at. Whatever is missed while there is no connection is looked for when
there is one again, and those who are told look by themselves every so often.
"""

import asyncio
from collections.abc import Callable, Mapping

import asyncpg
import structlog

from broker.db import UNKNOWN_OUTCOME, Database, DatabaseUnavailable

log = structlog.get_logger()

_RETRY_S = 0.5
_LOST = (asyncpg.PostgresError, *UNKNOWN_OUTCOME)


async def listen(database: Database, told: Mapping[str, Callable[[], None]], every_s: float) -> None:
    """Call `told` of a channel whenever something is said there, for ever. The connection is tried out every_s."""
    while True:
        try:
            connection = await database.connect()
        except DatabaseUnavailable as error:
            log.warning("listen.no_connection", error=str(error))
            await asyncio.sleep(_RETRY_S)
            continue
        try:
            await _follow(connection, told, every_s)
        except _LOST as error:
            log.warning("listen.failed", error=str(error) or type(error).__name__)
        finally:
            connection.terminate()
        log.warning("listen.lost")
        await asyncio.sleep(_RETRY_S)


async def _follow(connection: asyncpg.Connection, told: Mapping[str, Callable[[], None]], every_s: float) -> None:
    lost = asyncio.Event()
    connection.add_termination_listener(lambda _: lost.set())
    for channel, tell in told.items():
        await connection.add_listener(channel, lambda *_, tell=tell: tell())
    for tell in told.values():  # what was said before we listened
        tell()
    while not lost.is_set():
        try:
            async with asyncio.timeout(every_s):
                await lost.wait()
        except TimeoutError:
            await connection.execute("SELECT")  # a connection that is half open tells nobody
