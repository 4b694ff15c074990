"""The command `broker record`: beside a running exchange, and beside feeds that fail."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from aiohttp import web

from broker.cli import main
from broker.recording import read_recording
from broker.simulator.server import SimulatedExchange
from broker.simulator.settings import ExchangeSettings

ROOT = Path(__file__).parents[2]
WITHIN_S = 30.0
FULL = {path: "No space left on device" for path in [Path("/dev/full")] if path.exists()}
SNAPSHOT = {"type": "snapshot", "sequence": 5, "quotes": [{"symbol": "AAPL", "bid": "1.00"}]}
UPDATE = {"type": "quotes", "sequence": 6, "quotes": []}


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str


async def start(*arguments: object) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "broker", "record", *map(str, arguments)),
        cwd=ROOT,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={name: value for name, value in os.environ.items() if not name.startswith("BROKER_")},
    )


async def end(process: asyncio.subprocess.Process) -> Ended:
    try:
        async with asyncio.timeout(WITHIN_S):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode is not None
    return Ended(process.returncode, out.decode(), err.decode())


async def record(*arguments: object) -> Ended:
    """Run `broker record` to its end."""
    return await end(await start(*arguments))


@asynccontextmanager
async def feeding(talk: Callable[[web.WebSocketResponse], Awaitable[Any]]) -> AsyncIterator[str]:
    """An exchange with nothing but a feed; its base URL."""

    async def serve(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(timeout=0.1)
        await socket.prepare(request)
        await talk(socket)
        await socket.close()
        return socket

    app = web.Application()
    app.router.add_get("/v1/feed", serve)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.fixture
async def exchange() -> AsyncIterator[str]:
    async with SimulatedExchange(ExchangeSettings(seed=7, tick_ms=20), b"k" * 32) as running:
        yield running.url


def read(path: Path) -> list[Any]:
    return [orjson.loads(line.message) for line in read_recording(path)]


async def test_a_feed_is_recorded_as_it_came(exchange, tmp_path):
    path = tmp_path / "feed.jsonl.gz"
    async with aiohttp.ClientSession() as session, session.ws_connect(f"{exchange}/v1/feed") as feed:
        await feed.receive()
        seen: list[Any] = []
        recording = asyncio.create_task(record(f"{exchange}/", path, "--seconds", 3))
        while not recording.done():
            seen.append(await feed.receive_json(loads=orjson.loads))
    ended = await recording
    snapshot, *updates = read(path)
    assert ended == Ended(0, f"Recorded {len(updates) + 1} messages of 235 symbols in {path}.\n", "")
    assert (snapshot["type"], len(snapshot["quotes"])) == ("snapshot", 235)
    assert len(updates) > 10
    began = [message["sequence"] for message in seen].index(snapshot["sequence"])
    assert updates == seen[began + 1 : began + 1 + len(updates)]
    assert all(line.after_ms <= 3_000 for line in read_recording(path))


async def test_only_some_symbols_are_recorded(exchange, tmp_path):
    path = tmp_path / "feed.jsonl.gz"
    ended = await record(exchange, path, "--seconds", 1, "--symbols", "AAPL, KO")
    messages = read(path)
    assert ended == Ended(0, f"Recorded {len(messages)} messages of 2 symbols in {path}.\n", "")
    first = messages[0]["sequence"]
    assert [message["sequence"] for message in messages] == list(range(first, first + len(messages)))
    entries = [each for message in messages for each in (*message["quotes"], *message.get("trades", ()))]
    assert {each["symbol"] for each in entries} == {"AAPL", "KO"}
    assert all(message["quotes"] or message["trades"] for message in messages)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_ends_it_with_a_whole_file(exchange, tmp_path, number):
    path = tmp_path / "feed.jsonl.gz"
    process = await start(exchange, path)
    while not path.exists():
        await asyncio.sleep(0.01)
    process.send_signal(number)
    ended = await end(process)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith(f"Recorded {len(read(path))} message")


async def test_a_signal_before_the_first_message_leaves_no_file(tmp_path):
    silent = asyncio.Event()

    async def talk(socket: web.WebSocketResponse) -> None:
        silent.set()
        await socket.receive()

    async with feeding(talk) as url:
        process = await start(url, tmp_path / "feed.jsonl.gz")
        await asyncio.wait_for(silent.wait(), WITHIN_S)
        process.send_signal(signal.SIGINT)
        ended = await end(process)
    assert ended == Ended(1, "", "broker: Nothing was recorded: it was stopped before the first message came.\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("then", "why"),
    [
        (None, "the exchange closed it"),
        (orjson.dumps({**UPDATE, "sequence": 8}), "message 7 was missed"),
        (b"[]", r"it sends what is no message of a feed (Expected `object`, got `array`)"),
        (b"\0", "it sends what is no text"),
    ],
)
async def test_what_came_before_a_feed_ended_is_kept(tmp_path, then, why):
    path = tmp_path / "feed.jsonl.gz"

    async def talk(socket: web.WebSocketResponse) -> None:
        for message in (SNAPSHOT, UPDATE):
            await socket.send_str(orjson.dumps(message).decode())
        if then == b"\0":
            await socket.send_bytes(then)
        elif then is not None:
            await socket.send_str(then.decode())

    async with feeding(talk) as url:
        ended = await record(url, path)
    said = f"Recorded 2 messages of 1 symbol in {path}.\n"
    assert ended == Ended(1, said, f"broker: The feed ended early: {why}.\n")
    assert read(path) == [SNAPSHOT, UPDATE]


async def test_what_is_no_feed_leaves_no_file(tmp_path):
    async def talk(socket: web.WebSocketResponse) -> None:
        await socket.send_str(orjson.dumps(UPDATE).decode())

    path = tmp_path / "feed.jsonl.gz"
    async with feeding(talk) as url:
        ended = await record(url, path)
        assert ended == Ended(1, "", f"broker: Nothing was recorded from {url}: it does not begin with a snapshot.\n")
        ended = await record(f"{url}/x", path)
        assert ended == Ended(1, "", f"broker: {url}/x has no feed: it answers 404 at /v1/feed.\n")
        gone = url
    ended = await record(gone.replace("//", "//user:secret@"), path)
    assert ended == Ended(1, "", f"broker: Cannot connect to {gone}: Connection refused.\n")
    assert not list(tmp_path.iterdir())


async def test_a_symbol_that_is_not_listed_leaves_no_file(exchange, tmp_path):
    ended = await record(exchange, tmp_path / "feed.jsonl.gz", "--symbols", "AAPL,NOPE")
    assert ended == Ended(1, "", f"broker: Nothing was recorded from {exchange}: it does not list NOPE.\n")
    assert not list(tmp_path.iterdir())


async def test_a_file_that_exists_is_replaced_only_if_asked(exchange, tmp_path):
    path = tmp_path / "feed.jsonl.gz"
    path.write_bytes(b"precious")
    ended = await record(exchange, path)
    sentence = f"broker: {path} exists. Name another file, or replace it with --force.\n"
    assert (ended, path.read_bytes()) == (Ended(1, "", sentence), b"precious")
    assert (await record(exchange, path, "--force", "--seconds", 0.1)).code == 0
    assert read(path)


async def test_a_file_that_cannot_be_written_is_a_sentence(exchange, tmp_path):
    places = {tmp_path / "nowhere" / "feed.jsonl.gz": "No such file or directory", tmp_path: "Is a directory", **FULL}
    for path, why in places.items():
        ended = await record(exchange, path, "--force", "--seconds", 0.1)
        assert ended == Ended(1, "", f"broker: {path} cannot be written: {why}.\n")


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "86401"])
def test_the_seconds_have_a_limit(tmp_path, capsys, seconds):
    assert main(["record", "http://127.0.0.1:1", str(tmp_path / "feed.jsonl.gz"), f"--seconds={seconds}"]) == 2
    assert capsys.readouterr() == ("", "broker: --seconds takes a number above 0, of at most 86400.\n")


@pytest.mark.parametrize("url", ["127.0.0.1:8090", "ftp://x", "http://", "http://[::1", "http://x:99999"])
def test_what_is_no_url_is_a_sentence(tmp_path, capsys, url):
    assert main(["record", url, str(tmp_path / "feed.jsonl.gz")]) == 2
    assert capsys.readouterr() == ("", "broker: The URL of an exchange is one like http://127.0.0.1:8090.\n")
