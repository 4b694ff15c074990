"""Feeds of every kind under a running broker: a live one that is lost and comes back, and a recorded one."""

import asyncio
import gzip
from collections.abc import Callable
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson
import pytest
from aiohttp import web

from broker.config import Config, ConfigError
from broker.core.signing import encode_secret
from broker.market.recorded import RecordedSource
from broker.simulator.server import SimulatedExchange
from broker.simulator.settings import ExchangeSettings
from tests.conftest import Broker, Client, eventually, run_broker
from tests.integration.test_router import down_for_long
from tests.integration.test_stream import hear, say, stream, until

KEY = bytes(range(32))
SAMPLE = Path(__file__).parents[2] / "examples" / "feed.jsonl.gz"


def an_exchange(folder: Path, port: int = 0) -> SimulatedExchange:
    return SimulatedExchange(ExchangeSettings(port=port, journal=folder), KEY)


async def order(client: Client, **changes: object) -> tuple[int, dict[str, object]]:
    body = {"symbol": "AAPL", "side": "buy", "quantity": 1, "order_type": "market", **changes}
    return await client.call("POST", "/api/v1/orders", body)


async def metrics(broker: Broker) -> list[str]:
    async with broker.http.get(f"{broker.running.url}/metrics") as response:
        return (await response.text()).splitlines()


async def test_while_quotes_are_stale_a_market_order_is_refused_and_a_limit_order_waits(
    with_settings: Callable[..., Config], tmp_path: Path
) -> None:
    exchange = an_exchange(tmp_path)
    url = await exchange.start()
    port = int(url.rsplit(":", 1)[1])
    settings = with_settings(
        exchange=url, webhook_secrets=encode_secret(KEY), quote_stale_s=0.5, feed_retry_max_s=0.2, order_wait_s=0.2
    )
    async with run_broker(settings) as broker:
        customer = await broker.customer()
        async with stream(customer) as socket:
            await say(socket, "subscribe", "AAPL")
            before = (await until(socket, "quote", symbol="AAPL"))["data"]
            await exchange.stop()
            stale = (await until(socket, "quote_update", stale=True))["data"]
            assert stale["symbol"] == "AAPL"
            assert (await customer.call("GET", "/api/v1/quotes/AAPL"))[1]["stale"] is True
            assert "broker_quotes_stale 1.0" in await metrics(broker), "whom an alert wakes"

            status, refused = await order(customer)
            assert (status, refused["code"]) == (400, "stale_quote")
            assert "send a limit order, or try again when they are back." in str(refused["error"])
            assert refused["symbol"] == "AAPL"
            status, placed = await customer.place("BUY", "AAPL", 1)
            assert (await customer.ended(placed["tradeId"]))["reason"].startswith("stale quote: ")
            status, waits = await order(customer, order_type="limit", price="900.00")
            assert (status, waits["status"]) == (201, "validated")

            again = an_exchange(tmp_path, port)
            await again.start()
            fresh = (await until(socket, "quote_update", 15, stale=False))["data"]
            assert fresh["timestamp"] > before["timestamp"]
            assert "broker_quotes_stale 0.0" in await metrics(broker)
            assert (await customer.ended(str(waits["id"]), 15))["status"] == "FILLED"
            status, filled = await order(customer)
            assert status == 201, filled
            await customer.ended(str(filled["id"]))
        await broker.books_are_right()
        await again.stop()


async def test_a_recorded_feed_is_played_as_if_it_were_now(with_settings: Callable[..., Config]) -> None:
    async with run_broker(with_settings(feed=str(SAMPLE))) as broker:
        customer = await broker.customer()
        status, listed = await customer.call("GET", "/api/v1/symbols")
        assert (status, len(listed["symbols"])) == (200, 12)
        symbols = [each["symbol"] for each in listed["symbols"]]
        async with stream(customer) as socket:
            await say(socket, "subscribe", *symbols, channels=["quotes", "trades"])
            trade = (await until(socket, "trade"))["data"]
            at = datetime.fromisoformat(trade["timestamp"])
            assert timedelta(0) <= datetime.now(UTC) - at < timedelta(minutes=1), "when it comes, not ahead of now"
        _, bars = await customer.call("GET", f"/api/v1/bars/{trade['symbol']}")
        assert bars["bars"][-1]["volume"] >= trade["quantity"]


def recording(path: Path, *messages: object) -> Path:
    header = {"format": "stockbroker feed", "version": 1, "recorded_at": "2026-11-27T14:30:00Z", "source": "a test"}
    lines = [header, *({"after_ms": 100 * n, "message": message} for n, message in enumerate(messages))]
    path.write_bytes(gzip.compress(b"".join(orjson.dumps(line) + b"\n" for line in lines)))
    return path


def a_quote(**changes: str) -> dict[str, str]:
    return {
        "symbol": "AAPL", "bid": "1.00", "ask": "1.10", "last": "1.00", "at": "2026-11-27T14:30:00+00:00", **changes
    }  # fmt: skip


@pytest.mark.parametrize("at", ["2026-11-27T14:30:00", "9999-12-31T23:59:59+00:00", None])
async def test_a_recording_with_times_that_cannot_be_ends_the_feed_and_nothing_else(
    at: str | None, with_settings: Callable[..., Config], tmp_path: Path
) -> None:
    """The first message is good, so that it is noticed only while it is played."""
    later = a_quote(at=at) if at else {name: text for name, text in a_quote().items() if name != "at"}
    messages = [
        {"type": "snapshot", "sequence": 1, "quotes": [a_quote()]},
        {"type": "quotes", "sequence": 2, "quotes": [later]},
    ]
    async with run_broker(with_settings(feed=str(recording(tmp_path / "feed.gz", *messages)))) as broker:
        customer = await broker.customer()
        await asyncio.sleep(0.5)
        status, answer = await customer.call("GET", "/api/v1/quotes/AAPL")
        assert (status, answer["ask"]) == (200, "1.10")


async def test_a_recording_of_nothing_but_a_snapshot_is_not_played_without_a_pause(tmp_path: Path) -> None:
    message = {"type": "snapshot", "sequence": 1, "quotes": [a_quote()]}
    source = RecordedSource(recording(tmp_path / "feed.gz", message))
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with asyncio.timeout(30), aclosing(source.messages()) as messages:
        for _ in range(3):
            await anext(messages)
    assert loop.time() - began >= 1.9, "two pauses of a second"


async def test_a_recording_says_nothing_about_whether_the_exchange_is_there(
    with_settings: Callable[..., Config], tmp_path: Path
) -> None:
    exchange = an_exchange(tmp_path)
    url = await exchange.start()
    settings = with_settings(
        exchange=url,
        webhook_secrets=encode_secret(KEY),
        feed=str(SAMPLE),
        venue_down_after_s=0.3,
        order_wait_s=0.1,
        exchange_timeout_s=0.5,
    )
    async with run_broker(settings) as broker:
        first, second = await broker.customer(), await broker.customer()
        await exchange.stop()
        status, waits = await order(first)
        assert (status, waits["status"]) == (201, "validated")
        await down_for_long(broker)
        status, refused = await order(second)
        assert (status, refused["code"]) == (400, "exchange_unavailable")


async def test_at_its_end_it_begins_again(with_settings: Callable[..., Config], tmp_path: Path) -> None:
    def quotes(type_: str, sequence: int, ask: str) -> object:
        quote = {"symbol": "AAPL", "bid": "1.00", "ask": ask, "last": "1.00", "at": "2026-11-27T14:30:00+00:00"}
        return {"type": type_, "sequence": sequence, "quotes": [quote]}

    path = recording(tmp_path / "feed.gz", quotes("snapshot", 1, "1.10"), quotes("quotes", 2, "1.20"))
    async with run_broker(with_settings(feed=str(path))) as broker, stream(await broker.customer()) as socket:
        await say(socket, "subscribe", "AAPL")
        await hear(socket)
        asks = [(await until(socket, "quote_update"))["data"]["ask"] for _ in range(6)]
    assert asks[:2] * 3 == asks
    assert set(asks) == {"1.10", "1.20"}


@pytest.mark.parametrize(
    "content", [None, b"nonsense", gzip.compress(b"{}\n")], ids=["no-file", "not-gzip", "no-quotes"]
)
async def test_a_recording_that_cannot_be_played_is_refused_at_the_start(
    content: bytes | None, with_settings: Callable[..., Config], tmp_path: Path
) -> None:
    path = tmp_path / "feed.gz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match="feed cannot be used: "):
        async with run_broker(with_settings(feed=str(path))):
            pass


@pytest.mark.parametrize("feed", ["", str(SAMPLE)], ids=["simulated", "recorded"])
async def test_symbols_have_the_names_that_their_exchange_gives_them(
    feed: str, with_settings: Callable[..., Config]
) -> None:
    async with run_broker(with_settings(feed=feed)) as broker:
        customer = await broker.customer()

        async def named() -> bool:
            _, listed = await customer.call("GET", "/api/v1/symbols?search=apple")
            return [each["symbol"] for each in listed["symbols"]] == ["AAPL"]

        await eventually(named)


async def test_a_feed_that_does_not_even_answer_a_ping_is_lost(with_settings: Callable[..., Config]) -> None:
    connections = 0

    async def silent(request: web.Request) -> web.WebSocketResponse:
        """A snapshot, and then nothing: not even pings are read."""
        nonlocal connections
        connections += 1
        socket = web.WebSocketResponse(autoping=False)
        await socket.prepare(request)
        quote = {"symbol": "AAPL", "bid": "1.00", "ask": "1.10", "last": "1.00", "at": "2026-11-27T14:30:00+00:00"}
        await socket.send_json({"type": "snapshot", "sequence": 1, "quotes": [quote]})
        await asyncio.sleep(60)
        return socket

    app = web.Application()
    app.add_routes([web.get("/v1/feed", silent)])
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = "http://127.0.0.1:{1}".format(*runner.addresses[0])
    settings = with_settings(exchange=url, webhook_secrets=encode_secret(KEY), feed_silence_s=0.3)
    async with run_broker(settings):

        async def connected_again() -> bool:
            return connections >= 3

        await eventually(connected_again)
    await runner.cleanup()
