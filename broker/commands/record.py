"""`broker record`: an exchange's feed into a file, as it comes."""

import argparse
import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import aiohttp

from broker.commands.running import UsageError, run_until_signalled
from broker.recording import MESSAGE_MAX, SECONDS_MAX, Line, Recorder, Selection

_ANSWERS_WITHIN_S = 10.0
_CLOSES_WITHIN_S = 1.0
_HEARTBEAT_S = 10.0
_CLOSED = (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSING, aiohttp.WSMsgType.CLOSED)


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "record",
        help="write an exchange's feed into a file",
        description="Follow the feed of an exchange, and write its quotes and trades with their times into a gzipped "
        "file of JSON lines. Ctrl-C ends it early; what came until then is kept.",
    )
    parser.add_argument("url", help="base URL of the exchange, like http://127.0.0.1:8090")
    parser.add_argument("file", type=Path, help="the file to write, like feed.jsonl.gz")
    parser.add_argument("--seconds", type=float, default=60, help="how long, from the first message on [60]")
    parser.add_argument("--symbols", default="", help="only these, with commas between them, like AAPL,MSFT [all]")
    parser.add_argument("--force", action="store_true", help="replace the file if there is one")
    parser.set_defaults(run=_record)


def _record(options: argparse.Namespace) -> int:
    if not 0 < options.seconds <= SECONDS_MAX:
        raise UsageError(f"--seconds takes a number above 0, of at most {SECONDS_MAX}.", 2)
    if options.file.exists() and not options.force:
        raise _exists(options.file)
    recording = _Recording(options)
    run_until_signalled(recording.run)
    return recording.conclude()


def _exists(path: Path) -> UsageError:
    return UsageError(f"{path} exists. Name another file, or replace it with --force.")


class _FeedEnded(Exception):
    """The exchange's feed cannot be followed any further; the message says why."""


class _Recording:
    """One recording, from the first try to connect to the sentence at its end."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._url: str = options.url.rstrip("/")
        self._source = _shown(self._url)
        self._path: Path = options.file
        self._seconds: float = options.seconds
        self._replaces: bool = options.force
        self._selection = Selection({symbol.strip() for symbol in options.symbols.split(",")} - {""})
        self._recorder: Recorder | None = None
        self._why: str | None = None  # it ended before it was to

    async def run(self, stop: asyncio.Event) -> None:
        """Record until the time is over, or the feed, or somebody asks to stop."""
        following = asyncio.create_task(self._follow())
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({following, stopping}, return_when=asyncio.FIRST_COMPLETED)
        for task in (following, stopping):
            task.cancel()
        (ended, _) = await asyncio.gather(following, stopping, return_exceptions=True)
        if isinstance(ended, _FeedEnded):
            self._why = str(ended)
        elif isinstance(ended, Exception):
            raise ended

    def conclude(self) -> int:
        """Say what is in the file. Raises UsageError where that is less than was asked for."""
        if self._recorder is not None:
            counts = f"{_count(self._recorder.messages, 'message')} of {_count(len(self._selection.symbols), 'symbol')}"
            print(f"Recorded {counts} in {self._path}.")
        elif self._why is None:
            raise UsageError("Nothing was recorded: it was stopped before the first message came.")
        else:
            raise UsageError(f"Nothing was recorded from {self._source}: {self._why}.")
        if self._why is not None:
            raise UsageError(f"The feed ended early: {self._why}.")
        return 0

    async def _follow(self) -> None:
        async with self._connected() as socket:
            first = await self._first(socket)
            try:
                self._recorder = Recorder(self._path, datetime.now(UTC), self._source, replaces=self._replaces)
                with self._recorder:
                    await self._copy(socket, first, self._recorder)
            except FileExistsError as error:
                raise _exists(self._path) from error
            except OSError as error:
                raise UsageError(f"{self._path} cannot be written: {_why(error)}.") from error

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        limits = aiohttp.ClientWSTimeout(ws_close=_CLOSES_WITHIN_S)
        async with aiohttp.ClientSession() as session:
            try:
                async with asyncio.timeout(_ANSWERS_WITHIN_S):
                    socket = await session.ws_connect(
                        f"{self._url}/v1/feed", timeout=limits, heartbeat=_HEARTBEAT_S, max_msg_size=MESSAGE_MAX
                    )
            except aiohttp.WSServerHandshakeError as error:
                raise UsageError(f"{self._source} has no feed: it answers {error.status} at /v1/feed.") from error
            except TimeoutError as error:
                raise UsageError(f"{self._source} does not answer.") from error
            except (aiohttp.ClientError, OSError) as error:
                raise UsageError(f"Cannot connect to {self._source}: {_why(error)}.") from error
            async with socket:
                yield socket

    async def _first(self, socket: aiohttp.ClientWebSocketResponse) -> bytes:
        try:
            async with asyncio.timeout(_ANSWERS_WITHIN_S):
                first = await self._next(socket)
        except TimeoutError as error:
            raise _FeedEnded("no message comes") from error
        assert first is not None  # whatever was asked for stands in a snapshot
        return first

    async def _copy(self, socket: aiohttp.ClientWebSocketResponse, first: bytes, recorder: Recorder) -> None:
        """The first message and those that follow, until the time is over."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        recorder.write(Line(0, first))
        with suppress(TimeoutError):
            async with asyncio.timeout(self._seconds):
                while True:
                    message = await self._next(socket)
                    if message is not None:
                        recorder.write(Line(int((loop.time() - started) * 1000), message))

    async def _next(self, socket: aiohttp.ClientWebSocketResponse) -> bytes | None:
        """The next message as it is to be written, None where nothing of it is. Raises _FeedEnded."""
        message = await socket.receive()
        if message.type is aiohttp.WSMsgType.ERROR:
            raise _FeedEnded(f"{message.data}")
        if message.type in _CLOSED:
            raise _FeedEnded("the exchange closed it")
        if message.type is not aiohttp.WSMsgType.TEXT:
            raise _FeedEnded("it sends what is no text")
        try:
            return self._selection.take(message.data.encode())
        except ValueError as error:
            raise _FeedEnded(f"{error}") from error


def _shown(url: str) -> str:
    """A URL as it may be shown: without a password. Raises UsageError where it is none."""
    try:
        parts = urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    except ValueError:
        pass
    raise UsageError("The URL of an exchange is one like http://127.0.0.1:8090.", 2)


def _why(error: Exception) -> str:
    """What the system says, without what aiohttp and asyncio put around it."""
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    return str(error) or type(error).__name__


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
