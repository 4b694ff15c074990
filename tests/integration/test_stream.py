"""The stream of market data over a real socket: who is let in, what comes, what goes wrong and stays open."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiohttp
import pytest
from aiohttp import ClientWebSocketResponse, WSCloseCode, WSMsgType

from broker.config import Config
from broker.streams import Socket
from tests.conftest import Broker, Client, eventually, run_broker

PATH = "/api/v1/stream"


@asynccontextmanager
async def stream(client: Client, **options: Any) -> AsyncIterator[ClientWebSocketResponse]:
    """A customer's socket."""
    headers = {"Authorization": f"Bearer {client.token}"} if client.token else {}
    async with client.http.ws_connect(client.url + PATH, headers=headers, **options) as socket:
        yield socket


async def say(socket: ClientWebSocketResponse, action: str, *symbols: str, **more: Any) -> None:
    await socket.send_json({"action": action, "symbols": list(symbols), **more})


async def hear(socket: ClientWebSocketResponse, within_s: float = 30) -> Any:
    """The next message."""
    message = await socket.receive(within_s)
    assert message.type is WSMsgType.TEXT, message
    return message.json()


async def until(socket: ClientWebSocketResponse, type_: str, within_s: float = 30, **data: Any) -> Any:
    """The next message of this type with these words in its data; others are passed over."""
    async with asyncio.timeout(within_s):
        while True:
            message = await hear(socket)
            if message["type"] == type_ and data.items() <= message.get("data", {}).items():
                return message


async def ended(socket: ClientWebSocketResponse, within_s: float = 30) -> tuple[int | None, str]:
    """How the socket was closed: its code and reason."""
    async with asyncio.timeout(within_s):
        while True:
            message = await socket.receive()
            if message.type is WSMsgType.CLOSE:
                return message.data, message.extra
            assert message.type is WSMsgType.TEXT, message


async def test_a_subscription_is_answered_with_the_quotes_as_they_are_then_with_what_changes(broker: Broker) -> None:
    async with stream(await broker.customer()) as socket:
        await say(socket, "subscribe", "AAPL", "GOOGL")
        first, second, subscribed = [await hear(socket) for _ in range(3)]
        assert [first["type"], first["data"]["symbol"], second["data"]["symbol"]] == ["quote", "AAPL", "GOOGL"]
        assert subscribed == {"type": "subscribed", "channels": ["quotes"], "symbols": ["AAPL", "GOOGL"]}
        quote = first["data"]
        assert set(quote) >= {"bid", "ask", "last", "volume", "timestamp", "bid_size", "ask_size", "stale"}
        assert 0 < float(quote["bid"]) < float(quote["ask"])
        assert quote["stale"] is False
        update = await until(socket, "quote_update", symbol="AAPL")
        assert update["data"].keys() == quote.keys()
        assert update["data"]["timestamp"] > quote["timestamp"]


async def test_a_trade_of_ones_own_is_on_the_tape_and_in_the_bar(broker: Broker) -> None:
    customer = await broker.customer()
    async with stream(customer) as socket:
        await say(socket, "subscribe", "AAPL", channels=["trades", "bars"])
        await until(socket, "subscribed")
        status, _ = await customer.place("BUY", "AAPL", 77)
        assert status == 201
        trade = await until(socket, "trade", symbol="AAPL", quantity=77)
        bar = await until(socket, "bar_update", symbol="AAPL", closed=False)
        assert trade["data"]["volume"] >= 77
        assert bar["data"]["volume"] >= 77
        assert bar["data"]["timeframe"] == "1Min"
        assert float(bar["data"]["low"]) <= float(trade["data"]["price"]) <= float(bar["data"]["high"])


async def test_the_days_trades_are_numbered_without_a_gap(broker: Broker) -> None:
    async with stream(await broker.customer()) as socket:
        await say(socket, "subscribe", "AAPL", channels=["trades"])
        numbers = [(await until(socket, "trade"))["data"]["number"] for _ in range(4)]
    assert numbers == list(range(numbers[0], numbers[0] + 4))


async def test_unsubscribed_is_silent(broker: Broker) -> None:
    async with stream(await broker.customer()) as socket:
        await say(socket, "subscribe", "AAPL", "MSFT")
        await until(socket, "subscribed")
        await say(socket, "unsubscribe", "AAPL")
        assert (await until(socket, "unsubscribed"))["symbols"] == ["AAPL"]
        for _ in range(5):
            assert (await hear(socket))["data"]["symbol"] == "MSFT"


async def test_unsubscribing_without_channels_leaves_all_of_them(broker: Broker) -> None:
    async with stream(await broker.customer()) as socket:
        await say(socket, "subscribe", "AAPL", channels=["quotes", "trades", "bars"])
        await say(socket, "subscribe", "MSFT", channels=["bars"])
        await until(socket, "trade", symbol="AAPL")
        await say(socket, "unsubscribe", "AAPL")
        gone = await until(socket, "unsubscribed")
        assert gone == {"type": "unsubscribed", "channels": ["quotes", "trades", "bars"], "symbols": ["AAPL"]}
        for _ in range(3):
            assert (await hear(socket))["data"]["symbol"] == "MSFT"


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"channels": ["level2"]}, 'channels must be a list of "quotes", "trades" and "bars".'),
        ({"symbols": [1]}, "symbols must be a list of tickers, like AAPL."),
        ({"batch": 1}, "batch must be true or false."),
    ],
)
async def test_the_sentence_says_what_a_field_takes(wrong: dict[str, Any], sentence: str, broker: Broker) -> None:
    async with stream(await broker.customer()) as socket:
        await socket.send_json({"action": "subscribe", "symbols": ["AAPL"], **wrong})
        assert (await hear(socket))["error"] == sentence


async def test_a_parameter_that_it_does_not_take_is_refused(broker: Broker) -> None:
    customer = await broker.customer()
    status, error = await customer.call("GET", PATH + "?token=x")
    assert (status, error["error"]) == (400, "'token' is no parameter of this path; it takes none.")


async def test_an_unknown_symbol_is_an_error_message_and_the_others_are_followed(broker: Broker) -> None:
    async with stream(await broker.customer()) as socket:
        await say(socket, "subscribe", "NOSUCH", "AAPL", "aapl")
        assert (await hear(socket))["data"]["symbol"] == "AAPL"
        assert (await hear(socket))["symbols"] == ["AAPL"]
        error = await hear(socket)
        assert (error["type"], error["code"], error["symbols"]) == ("error", "unknown_symbol", ["NOSUCH", "aapl"])
        await until(socket, "quote_update", symbol="AAPL")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "invalid_json"),
        ("{", "invalid_json"),
        ('{"action": "subscribe", "action": "subscribe", "symbols": ["AAPL"]}', "invalid_json"),
        ("[1]", "invalid_request"),
        ("{}", "invalid_request"),
        ('{"action": "dance", "symbols": ["AAPL"]}', "invalid_request"),
        ('{"action": "subscribe", "symbols": []}', "invalid_request"),
        ('{"action": "subscribe", "symbols": "AAPL"}', "invalid_request"),
        ('{"action": "subscribe", "symbols": ["AAPL"], "channels": ["news"]}', "invalid_request"),
        ('{"action": "subscribe", "symbols": ["AAPL"], "channels": []}', "invalid_request"),
        ('{"action": "subscribe", "symbols": ["AAPL"], "batch": 1}', "invalid_request"),
        ('{"action": "subscribe", "symbols": ["AAPL"], "color": "red"}', "invalid_request"),
        ("[" * 60_000, "invalid_json"),
    ],
)
async def test_what_is_not_understood_is_an_error_message_and_the_socket_stays_open(
    text: str, code: str, broker: Broker
) -> None:
    async with stream(await broker.customer()) as socket:
        await socket.send_str(text)
        error = await hear(socket)
        assert (error["type"], error["code"]) == ("error", code)
        assert error["error"].endswith(".")
        await socket.send_bytes(b"\x00\x01")
        assert (await hear(socket))["code"] == "invalid_message"
        await say(socket, "subscribe", "AAPL")
        assert (await hear(socket))["type"] == "quote"


async def test_batches_are_arrays(broker: Broker) -> None:
    async with stream(await broker.customer()) as socket:
        await say(socket, "subscribe", "AAPL", "MSFT", batch=True)
        assert [each["type"] for each in await hear(socket)] == ["quote", "quote", "subscribed"]
        batch = await hear(socket)
        assert {each["type"] for each in batch} == {"quote_update"}
        assert len({each["data"]["symbol"] for each in batch}) == len(batch), "the newest of each, once"


# ------------------------------------------------------------------ who is let in


async def test_without_a_valid_token_there_is_no_socket(broker: Broker) -> None:
    wrong = Client(broker.http, broker.running.url, "key_0.nonsense")
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        async with stream(wrong):
            pass
    assert refused.value.status == 401


async def test_the_first_message_may_carry_the_token(broker: Broker) -> None:
    customer = await broker.customer()
    async with stream(broker.stranger) as socket:
        await socket.send_json({"action": "authenticate", "token": customer.token})
        await say(socket, "subscribe", "AAPL")
        assert (await hear(socket))["type"] == "quote"


@pytest.mark.parametrize(
    "first",
    [
        {"action": "subscribe", "symbols": ["AAPL"]},
        {"action": "authenticate", "token": "key_0.nonsense"},
        {"action": "authenticate", "token": "n\u00f6"},
        {"action": "subscribe", "token": "x"},
        [],
    ],
)
async def test_anything_else_first_is_told_and_closed(first: Any, broker: Broker) -> None:
    async with stream(broker.stranger) as socket:
        await socket.send_json(first)
        error = await hear(socket)
        assert (error["type"], error["code"]) == ("error", "unauthorized")
        assert (await ended(socket))[0] == 1008


async def test_who_says_nothing_is_closed_in_time(with_settings: Callable[..., Config]) -> None:
    async with run_broker(with_settings(stream_auth_s=0.2)) as broker, stream(broker.stranger) as socket:
        assert (await hear(socket))["code"] == "unauthorized"
        assert (await ended(socket))[0] == 1008


async def test_a_plain_request_is_told_that_this_is_a_websocket(broker: Broker) -> None:
    customer = await broker.customer()
    status, error = await customer.call("GET", PATH)
    assert (status, error["code"]) == (426, "websocket_needed")


async def test_a_revoked_key_ends_its_streams_at_once(broker: Broker) -> None:
    customer, other = await broker.customer(), await broker.customer()
    async with stream(customer) as socket, stream(other) as stays:
        key = customer.token.partition(".")[0] if customer.token else ""
        status, _ = await broker.operator.call("DELETE", f"/admin/v1/customers/{customer.customer_id}/keys/{key}")
        assert status in {200, 204}
        assert (await ended(socket)) == (1008, "The key of this stream was revoked.")
        await say(stays, "subscribe", "AAPL")
        assert (await hear(stays))["type"] == "quote"


# ------------------------------------------------------------------ limits


async def test_the_streams_of_one_customer_are_limited(with_settings: Callable[..., Config]) -> None:
    async with run_broker(with_settings(stream_customer_max=2)) as broker:
        customer, other = await broker.customer(), await broker.customer()
        async with stream(customer) as first, stream(customer):
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                async with stream(customer):
                    pass
            assert refused.value.status == 429
            async with stream(broker.stranger) as late:
                await late.send_json({"action": "authenticate", "token": customer.token})
                assert (await hear(late))["code"] == "too_many_streams"
            async with stream(other):
                pass
            await first.close()
        await eventually(lambda: _opens(customer))


async def _opens(client: Client) -> bool:
    try:
        async with stream(client):
            return True
    except aiohttp.WSServerHandshakeError:
        return False


async def test_the_streams_of_all_are_limited(with_settings: Callable[..., Config]) -> None:
    async with run_broker(with_settings(stream_sockets_max=2)) as broker:
        customer = await broker.customer()
        async with stream(customer), stream(customer):
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                async with stream(customer):
                    pass
            assert refused.value.status == 503
            async with stream(broker.stranger) as late:
                await late.send_json({"action": "authenticate", "token": customer.token})
                assert (await hear(late))["code"] == "too_many_streams"


async def test_those_who_do_not_say_who_they_are_take_no_customers_place(with_settings: Callable[..., Config]) -> None:
    async with run_broker(with_settings(stream_strangers_max=2, stream_sockets_max=1)) as broker:
        customer = await broker.customer()
        async with stream(broker.stranger), stream(broker.stranger):
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                async with stream(broker.stranger):
                    pass
            assert refused.value.status == 503
            async with stream(customer) as socket:
                await say(socket, "subscribe", "AAPL")
                assert (await hear(socket))["type"] == "quote"


async def test_thousands_of_unknown_symbols_in_one_message_are_refused_at_once(broker: Broker) -> None:
    async with stream(await broker.customer()) as socket:
        began = asyncio.get_running_loop().time()
        await say(socket, "subscribe", *(f"x{number}" for number in range(7_000)))
        assert (await _error(socket))["code"] == "too_many_symbols"
        await say(socket, "subscribe", *(f"x{number}" for number in range(1_000)))
        assert (await _error(socket))["code"] == "unknown_symbol"
        assert asyncio.get_running_loop().time() - began < 10


async def test_the_symbols_of_one_stream_are_limited(with_settings: Callable[..., Config]) -> None:
    async with run_broker(with_settings(stream_symbols_max=2)) as broker, stream(await broker.customer()) as socket:
        await say(socket, "subscribe", "AAPL", "MSFT")
        await until(socket, "subscribed")
        await say(socket, "subscribe", "AAPL", "MSFT", channels=["trades"])
        await until(socket, "subscribed")  # the same symbols on another channel are no more symbols
        await say(socket, "subscribe", "SPY")
        assert (await _error(socket))["code"] == "too_many_symbols"
        await say(socket, "unsubscribe", "MSFT", channels=["quotes", "trades"])
        await say(socket, "subscribe", "SPY")
        await until(socket, "quote", symbol="SPY")


async def _error(socket: ClientWebSocketResponse) -> Any:
    while True:
        message = await hear(socket)
        if message["type"] == "error":
            return message


async def test_a_message_that_is_too_long_ends_the_socket(with_settings: Callable[..., Config]) -> None:
    async with run_broker(with_settings(stream_message_max=1000)) as broker, stream(await broker.customer()) as socket:
        await say(socket, "subscribe", "A" * 2000)
        assert (await ended(socket))[0] == 1009


async def test_who_answers_no_ping_is_gone(with_settings: Callable[..., Config]) -> None:
    async with run_broker(with_settings(stream_ping_s=8.0)) as broker:
        customer = await broker.customer()
        async with stream(customer, autoping=False), stream(customer) as answers:
            reading = asyncio.create_task(answers.receive())  # aiohttp answers pings while it reads
            await eventually(lambda: _metric(broker, "broker_streams 1.0"), 60)
            await asyncio.sleep(0.5)  # by then the other one's answer was due as well
            assert await _metric(broker, "broker_streams 1.0"), "the one that answers stays"
            reading.cancel()


# ------------------------------------------------------------------ slow ones


def close_patiently(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is cut off has time to hear why, however late the test lets it read on."""
    end = Socket.end

    def patient(self: Socket, code: WSCloseCode, reason: str, within_s: float = 30.0) -> None:
        end(self, code, reason, 30.0)

    monkeypatch.setattr(Socket, "end", patient)


async def test_a_client_that_reads_nothing_is_cut_off_and_told_why(
    with_settings: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    close_patiently(monkeypatch)
    settings = with_settings(stream_stall_s=1.0, stream_buffer_max=4096, stream_ping_s=60.0)
    async with run_broker(settings) as broker:
        customer = await broker.customer()
        async with stream(customer) as reads, stream(customer) as stuck:
            await say(reads, "subscribe", "AAPL")
            symbols = await _all_symbols(customer)
            await say(stuck, "subscribe", *symbols)
            stuck._reader._protocol.pause_reading()  # type: ignore[attr-defined]
            await eventually(lambda: _metric(broker, "broker_stream_cut_total 1.0"), 30)
            await until(reads, "quote_update", symbol="AAPL")  # nobody else was held up
            stuck._reader._protocol.resume_reading()  # type: ignore[attr-defined]
            code, reason = await ended(stuck)
            assert code == 1008
            assert "You took nothing for 1 s" in reason


async def test_subscribing_without_reading_does_not_fill_the_memory(with_settings: Callable[..., Config]) -> None:
    """Whoever does not take the answers is not asked for the next message."""
    settings = with_settings(stream_stall_s=1.0, stream_buffer_max=4096, stream_ping_s=60.0)
    async with run_broker(settings) as broker:
        customer = await broker.customer()
        symbols = await _all_symbols(customer)
        async with stream(customer) as stuck:
            stuck._reader._protocol.pause_reading()  # type: ignore[attr-defined]

            async def ask() -> None:
                for _ in range(1_000):
                    await say(stuck, "subscribe", *symbols)

            asking = asyncio.create_task(ask())
            await eventually(lambda: _metric(broker, "broker_streams 0.0"), 30)  # it was cut off
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
            stuck._reader._protocol.resume_reading()  # type: ignore[attr-defined]
            answers = 0
            with suppress(TimeoutError):
                async with asyncio.timeout(10):
                    while (message := await stuck.receive()).type is WSMsgType.TEXT:
                        answers += message.json()["type"] == "subscribed"
            assert answers < 100, "of a thousand"


async def _all_symbols(customer: Client) -> list[str]:
    status, answer = await customer.call("GET", "/api/v1/symbols")
    assert status == 200, answer
    return [each["symbol"] for each in answer["symbols"]]


async def _metric(broker: Broker, line: str) -> bool:
    async with broker.http.get(broker.running.url + "/metrics") as response:
        return line in await response.text()


async def test_the_broker_says_goodbye(with_settings: Callable[..., Config]) -> None:
    async with run_broker(with_settings()) as broker:
        customer = await broker.customer()
        session = aiohttp.ClientSession()
        socket = await session.ws_connect(
            broker.running.url + PATH, headers={"Authorization": f"Bearer {customer.token}"}
        )
        await say(socket, "subscribe", "AAPL")
        await hear(socket)
    code, reason = await ended(socket)
    await session.close()
    assert (code, reason) == (1001, "The broker stops. Connect again in a moment.")
