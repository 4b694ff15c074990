"""The simulated exchange over real sockets: what a broker sees of it, well-behaved and not."""

import asyncio
import io
import os
import random
import signal
import socket
import sys
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from aiohttp import web
from standardwebhooks.webhooks import Webhook

from broker.core import signing
from broker.core.hours import NEW_YORK
from broker.core.money import format_money, parse_money
from broker.simulator.delivery import DeliveryLimits
from broker.simulator.faults import Misbehaviour
from broker.simulator.journal import JournalInUse
from broker.simulator.keys import VENUE
from broker.simulator.server import SimulatedExchange
from broker.simulator.settings import ExchangeSettings

SECRET = bytes(range(32))
HANDSHAKE = (
    b"GET /v1/feed HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
TERMINAL = {"FILLED", "REJECTED", "CANCELLED", "EXPIRED", "REPLACED"}


async def eventually(condition: Callable[[], Any], within_s: float = 10) -> None:
    """Wait until the condition holds, at most so long."""
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.005)


class Broker:
    """The broker's side: posts orders, and receives callbacks whose signatures it checks twice."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.session = session
        self.exchange = ""
        self.url = ""
        self.messages: list[list[dict[str, Any]]] = []
        self.ids: list[str] = []
        self.refused = 0
        self.answer: Callable[[list[dict[str, Any]]], int] = lambda events: 204

    async def receive(self, request: web.Request) -> web.Response:
        body = await request.read()
        signing.verify([SECRET], request.headers, body)
        Webhook(signing.encode_secret(SECRET)).verify(body, dict(request.headers))
        self.ids.append(request.headers["webhook-id"])
        content = orjson.loads(body)
        events = content if isinstance(content, list) else [content]
        assert 1 <= len(events) <= 256
        status = self.answer(events)
        if status >= 300:
            self.refused += 1
        else:
            self.messages.append(events)
        return web.Response(status=status)

    @property
    def events(self) -> list[dict[str, Any]]:
        return [event for message in self.messages for event in message]

    def events_of(self, order_id: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["order_id"] == order_id]

    def ended(self) -> set[str]:
        """The orders of which a final event has come."""
        return {event["order_id"] for event in self.events if event["type"] in TERMINAL}

    def order(self, **overrides: Any) -> dict[str, Any]:
        order = {"id": str(uuid.uuid4()), "symbol": "AAPL", "side": "BUY", "type": "market", "quantity": 10}
        return {**order, "max_price": "9000.00", "callback_url": self.url, **overrides}

    def orders(self, count: int, **overrides: Any) -> list[dict[str, Any]]:
        return [self.order(**overrides) for _ in range(count)]

    def limit(self, side: str, price: str, **overrides: Any) -> dict[str, Any]:
        return self.order(**{"side": side, "type": "limit", "price": price, "max_price": None, **overrides})

    async def post(self, content: Any, timeout_s: float = 10, path: str = "/v1/orders") -> tuple[int, Any]:
        body = io.BytesIO(content if isinstance(content, bytes) else orjson.dumps(content))
        limit = aiohttp.ClientTimeout(total=timeout_s)
        async with self.session.post(f"{self.exchange}{path}", data=body, timeout=limit) as response:
            return response.status, await response.json()

    async def place(self, count: int, **overrides: Any) -> list[str]:
        """Post new orders, and see that all are taken; their ids."""
        orders = self.orders(count, **overrides)
        status, results = await self.post(orders)
        accepted = [{"id": order["id"], "status": "ACCEPTED", "reason": None} for order in orders]
        assert (status, results) == (200, accepted)
        return [order["id"] for order in orders]

    async def get(self, path: str) -> tuple[int, Any]:
        async with self.session.get(f"{self.exchange}{path}") as response:
            return response.status, await response.json()

    async def lookup(self, order_ids: list[str]) -> dict[str, Any]:
        states = []
        for start in range(0, len(order_ids), 100):
            status, content = await self.get(f"/v1/orders?ids={','.join(order_ids[start : start + 100])}")
            assert status == 200
            states += content["orders"]
        return {state["id"]: state for state in states}


@asynccontextmanager
async def receiving(broker: Broker, port: int = 0) -> AsyncIterator[None]:
    """The broker's webhook listens."""
    app = web.Application(client_max_size=1024 * 1024)
    app.router.add_post("/webhooks/exchange", broker.receive)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    broker.url = f"http://127.0.0.1:{runner.addresses[0][1]}/webhooks/exchange"
    try:
        yield
    finally:
        await runner.cleanup()


@pytest.fixture
async def broker() -> AsyncIterator[Broker]:
    async with aiohttp.ClientSession() as session:
        client = Broker(session)
        async with receiving(client):
            yield client


def settings(**overrides: Any) -> ExchangeSettings:
    return ExchangeSettings(**{"seed": 11, **overrides})


@asynccontextmanager
async def trading(broker: Broker, *, faults: dict[str, Any] | None = None, **overrides: Any) -> AsyncIterator[None]:
    """An exchange runs, and the broker knows where; it has to stop in time."""
    exchange = SimulatedExchange(settings(misbehaviour=Misbehaviour(**(faults or {})), **overrides), SECRET)
    broker.exchange = await exchange.start()
    try:
        yield
    finally:
        await asyncio.wait_for(exchange.stop(), 10)


async def best(broker: Broker, symbol: str = "AAPL") -> tuple[str, str]:
    """The bid and the ask of the moment."""
    async with broker.session.ws_connect(f"{broker.exchange}/v1/feed") as feed:
        snapshot = await feed.receive_json(timeout=30, loads=orjson.loads)
    quote = next(quote for quote in snapshot["quotes"] if quote["symbol"] == symbol)
    return quote["bid"], quote["ask"]


# The contract.


async def test_an_array_is_taken_filled_and_called_back(broker):
    async with trading(broker):
        buys = await broker.place(64)
        sells = await broker.place(64, side="SELL", max_price=None)
        await eventually(lambda: len(broker.events) == 128)
        assert max(map(len, broker.messages)) > 1
        states = await broker.lookup(buys + sells)
        for event in broker.events:
            state = states[event["order_id"]]
            execution = {key: event[key] for key in ("execution_id", "quantity", "price", "at")}
            execution |= {"busted": False, "corrects": None}
            assert state["executions"] == [execution]
            assert (event["type"], event["filled_quantity"], event["reason"]) == ("FILLED", 10, None)
            assert event["execution_id"] == f"{event['order_id']}-1"
        assert len(states) == len({event["order_id"] for event in broker.events}) == 128
        assert len(broker.ids) == len(set(broker.ids))


async def test_one_order_gets_one_object_and_its_event_comes_alone(broker):
    async with trading(broker):
        order = broker.order()
        assert await broker.post(order) == (200, {"id": order["id"], "status": "ACCEPTED", "reason": None})
        await eventually(lambda: broker.events)
        assert await broker.post(order) == (200, {"id": order["id"], "status": "EXISTS", "reason": None})
        status, state = await broker.get(f"/v1/orders/{order['id']}")
        assert (status, state["status"], len(state["executions"])) == (200, "FILLED", 1)
        assert len(broker.events) == 1


async def test_bad_requests_are_answered_with_a_sentence(broker):
    async with trading(broker):
        for body in (b"", b"[", b"[]", b"[1]", orjson.dumps(broker.orders(257))):
            status, content = await broker.post(body)
            assert status == 400
            assert list(content) == ["error"]
        assert (await broker.post(b" " * (1024 * 1024 + 1)))[0] == 413
        for path in ("/v1/orders", "/v1/orders?ids=", "/v1/orders?ids=" + ",".join(["x"] * 101)):
            assert (await broker.get(path))[0] == 400
        assert await broker.get(f"/v1/orders/{uuid.uuid4()}") == (404, {"error": "no order has this id"})
        assert await broker.get("/v1/orders?ids=x,y") == (200, {"orders": []})
        assert await broker.get("/nowhere") == (404, {"error": "Not Found"})
        status, (good, bad) = await broker.post([broker.order(), broker.order(quantity=0)])
        assert (status, good["status"], bad["status"]) == (200, "ACCEPTED", "INVALID")
        assert bad["reason"] == "Expected `int` >= 1 - at `$.quantity`"


async def test_refusals_come_as_events(broker):
    async with trading(broker):
        (unknown,) = await broker.place(1, symbol="NOPE")
        (dear,) = await broker.place(1, max_price="1.00")
        await eventually(lambda: len(broker.events) == 2)
        reasons = {event["order_id"]: (event["type"], event["reason"]) for event in broker.events}
        assert reasons == {
            unknown: ("REJECTED", "unknown symbol"),
            dear: ("REJECTED", "max price exceeded"),
        }


async def test_the_exchange_can_be_mounted_in_an_application(broker):
    exchange = SimulatedExchange(settings(), SECRET)
    app = web.Application()
    app.add_subapp("/exchange", exchange.app)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        broker.exchange = f"http://127.0.0.1:{runner.addresses[0][1]}/exchange"
        await broker.place(3)
        await eventually(lambda: len(broker.ended()) == 3)
        assert await broker.get("/healthz") == (200, {"status": "ok"})
    finally:
        await runner.cleanup()


# Orders that rest.


async def test_the_orders_of_two_customers_meet_and_the_rest_is_cancelled(broker):
    async with trading(broker, tick_ms=0):
        bid, _ = await best(broker)
        seller = broker.limit("SELL", bid, quantity=100_000)
        await broker.post(seller)
        buyer = broker.limit("BUY", bid, quantity=10)
        assert await broker.post([buyer, buyer]) == (
            200,
            [
                {"id": buyer["id"], "status": "ACCEPTED", "reason": None},
                {"id": buyer["id"], "status": "EXISTS", "reason": None},
            ],
        )
        await eventually(lambda: broker.ended() == {buyer["id"]})
        unknown = str(uuid.uuid4())
        asked = [seller["id"], buyer["id"], unknown]
        expected = [
            {"id": seller["id"], "status": "ACCEPTED", "reason": None},
            {"id": buyer["id"], "status": "TOO_LATE", "reason": "FILLED"},
            {"id": unknown, "status": "UNKNOWN", "reason": None},
        ]
        for _ in range(2):
            assert await broker.post(asked, path="/v1/cancels") == (200, expected)
        await eventually(lambda: len(broker.ended()) == 2)
        (end,) = [event for event in broker.events_of(seller["id"]) if event["type"] == "CANCELLED"]
        assert (end["reason"], end["quantity"], end["execution_id"]) == ("asked", None, None)
        state = (await broker.lookup([seller["id"]]))[seller["id"]]
        assert (state["type"], state["price"], state["status"]) == ("limit", bid, "CANCELLED")
        assert state["filled_quantity"] == end["filled_quantity"] >= 10


async def test_an_order_takes_anothers_place(broker):
    async with trading(broker):
        old = broker.limit("BUY", "1.00")
        new = broker.limit("BUY", "2.00", replaces={"id": old["id"], "filled_quantity": 0})
        assert {result["status"] for result in (await broker.post([old, new]))[1]} == {"ACCEPTED"}
        assert (await broker.post(new))[1]["status"] == "EXISTS"
        late = broker.limit("BUY", "3.00", replaces={"id": old["id"], "filled_quantity": 0})
        assert (await broker.post(late))[1] == {
            "id": late["id"],
            "status": "INVALID",
            "reason": "the order to replace is REPLACED",
        }
        await eventually(lambda: len(broker.events) == 3)
        kinds = [(event["order_id"], event["type"]) for event in broker.events]
        assert sorted(kinds) == sorted([(old["id"], "ACCEPTED"), (old["id"], "REPLACED"), (new["id"], "ACCEPTED")])


async def test_an_execution_is_corrected_and_busted_over_http(broker):
    async with trading(broker):
        (order_id,) = await broker.place(1)
        await eventually(lambda: broker.events)
        path = f"/v1/executions/{order_id}-1"
        status, state = await broker.post({"price": "12.34"}, path=f"{path}/correct")
        assert (status, state["executions"][1]["price"]) == (200, "12.34")
        assert state["executions"][1]["corrects"] == state["executions"][0]["execution_id"] == f"{order_id}-1"
        assert (await broker.post({"reason": "erroneous trade"}, path=f"{path}/bust"))[0] == 409
        path = f"/v1/executions/{order_id}-2"
        status, state = await broker.post({"reason": "erroneous trade"}, path=f"{path}/bust")
        assert (status, [execution["busted"] for execution in state["executions"]]) == (200, [True, True])
        await eventually(lambda: len(broker.events) == 3)
        events = {event["type"]: event for event in broker.events}
        assert events["CORRECTED"] == {
            **{"type": "CORRECTED", "order_id": order_id, "execution_id": f"{order_id}-2", "quantity": 10},
            **{"price": "12.34", "filled_quantity": 10, "reason": None, "corrects": f"{order_id}-1"},
            "at": events["CORRECTED"]["at"],
        }
        assert events["BUSTED"] == {
            **{"type": "BUSTED", "order_id": order_id, "execution_id": f"{order_id}-2", "quantity": 10},
            **{"price": "12.34", "filled_quantity": 10, "reason": "erroneous trade", "at": events["BUSTED"]["at"]},
        }
        assert await broker.lookup([order_id]) == {order_id: state}


async def test_bad_requests_of_an_operator_and_bad_cancels(broker):
    async with trading(broker):
        (order_id,) = await broker.place(1)
        for body in (b"", b"[]", b"{}", b"[1]", orjson.dumps(["x"] * 257)):
            status, content = await broker.post(body, path="/v1/cancels")
            assert (status, list(content)) == (400, ["error"])
        for body in ({}, {"reason": ""}, {"reason": "x", "other": 1}, []):
            assert (await broker.post(body, path=f"/v1/executions/{order_id}-1/bust"))[0] == 400
        for body in ({"price": "0"}, {"price": "1e3"}, {"quantity": 0}, {"quantity": 11}, {"price": "1000001"}):
            assert (await broker.post(body, path=f"/v1/executions/{order_id}-1/correct"))[0] == 400
        for action, body in (("bust", {"reason": "x"}), ("correct", {"price": "1.00"})):
            assert (await broker.post(body, path=f"/v1/executions/{order_id}-2/{action}"))[0] == 404
        assert (await broker.lookup([order_id]))[order_id]["executions"][0]["busted"] is False


@pytest.mark.parametrize("fault", ["error", "error_after"])
async def test_cancels_are_answered_as_badly_as_orders(broker, fault):
    order = broker.limit("BUY", "1.00")
    exchange = SimulatedExchange(settings(), SECRET)
    broker.exchange = await exchange.start()
    await broker.post(order)
    exchange.app[VENUE].faults.settings = Misbehaviour(**{fault: 1})
    assert (await broker.post([order["id"]], path="/v1/cancels"))[0] == 500
    state = (await broker.lookup([order["id"]]))[order["id"]]
    assert state["status"] == {"error": "ACCEPTED", "error_after": "CANCELLED"}[fault]
    await exchange.stop()


# Market data.


async def test_the_feed_is_a_snapshot_and_then_what_changed(broker):
    async with trading(broker, tick_ms=10):
        symbols = (await broker.get("/v1/symbols"))[1]["symbols"]
        assert {"symbol": "AAPL", "name": "Apple Inc."}.items() <= symbols[0].items()
        async with broker.session.ws_connect(f"{broker.exchange}/v1/feed") as feed:
            messages = [await feed.receive_json(timeout=30, loads=orjson.loads) for _ in range(6)]
        assert [message["type"] for message in messages] == ["snapshot"] + ["quotes"] * 5
        first = messages[0]["sequence"]
        assert [message["sequence"] for message in messages] == list(range(first, first + 6))
        assert [quote["symbol"] for quote in messages[0]["quotes"]] == [each["symbol"] for each in symbols]
        assert all(0 < len(message["quotes"]) < len(symbols) for message in messages[1:])
        for quote in (quote for message in messages for quote in message["quotes"]):
            bid, ask, last = (parse_money(quote[key]) for key in ("bid", "ask", "last"))
            assert 0 < bid < ask
            assert bid * 0.95 < last < ask * 1.05
            assert datetime.fromisoformat(quote["at"]).utcoffset() == timedelta(0)


async def test_orders_fill_at_the_quotes_of_the_feed(broker):
    async with trading(broker, tick_ms=0):
        async with broker.session.ws_connect(f"{broker.exchange}/v1/feed") as feed:
            snapshot = await feed.receive_json(timeout=30, loads=orjson.loads)
        quotes = {quote["symbol"]: quote for quote in snapshot["quotes"]}
        await broker.place(1, symbol="BRK.B")
        await broker.place(1, symbol="BRK.B", side="SELL", max_price=None)
        await eventually(lambda: len(broker.events) == 2)
        prices = {event["price"] for event in broker.events}
        assert prices == {quotes["BRK.B"]["ask"], quotes["BRK.B"]["bid"]}


async def test_customers_change_the_quotes_also_where_prices_stand_still(broker):
    async with trading(broker, tick_ms=0):
        async with broker.session.ws_connect(f"{broker.exchange}/v1/feed") as feed:
            snapshot = await feed.receive_json(timeout=30, loads=orjson.loads)
            before = next(quote for quote in snapshot["quotes"] if quote["symbol"] == "AAPL")
            price = format_money(parse_money(before["bid"]) + 100)
            await broker.post(broker.limit("BUY", price))
            message = await feed.receive_json(timeout=30, loads=orjson.loads)
        assert (message["sequence"], [quote["symbol"] for quote in message["quotes"]]) == (
            snapshot["sequence"] + 1,
            ["AAPL"],
        )
        assert (message["quotes"][0]["bid"], message["quotes"][0]["ask"]) == (price, before["ask"])


async def test_a_fill_is_on_the_feed_long_before_the_next_tick(broker):
    async with (
        trading(broker, tick_ms=60_000),
        broker.session.ws_connect(f"{broker.exchange}/v1/feed") as feed,
    ):
        snapshot = await feed.receive_json(timeout=30, loads=orjson.loads)
        before = next(quote for quote in snapshot["quotes"] if quote["symbol"] == "AAPL")
        await broker.place(1)
        message = await feed.receive_json(timeout=30, loads=orjson.loads)
        await eventually(lambda: broker.events)
        (fill,) = broker.events
        assert message == {
            "type": "quotes",
            "sequence": snapshot["sequence"] + 1,
            "quotes": [{**before, "last": fill["price"], "ask_size": before["ask_size"] - 10, "at": fill["at"]}],
            "trades": [{"symbol": "AAPL", "price": fill["price"], "quantity": 10, "at": fill["at"]}],
        }


async def test_the_feed_tells_every_trade_in_few_messages(broker):
    """Market orders trade with the market maker alone, and with a tick this long nobody else trades."""
    async with (
        trading(broker, tick_ms=60_000),
        broker.session.ws_connect(f"{broker.exchange}/v1/feed") as feed,
    ):
        messages = [await feed.receive_json(timeout=30, loads=orjson.loads)]
        quotes = {quote["symbol"]: quote for quote in messages[0]["quotes"]}
        trades: list[dict[str, Any]] = []
        placing = [broker.place(64, symbol=("AAPL", "MSFT")[n % 2]) for n in range(20)]
        await asyncio.gather(*placing)
        await eventually(lambda: len(broker.events) == 20 * 64)
        while len(trades) < 20 * 64:
            messages.append(await feed.receive_json(timeout=30, loads=orjson.loads))
            quotes |= {quote["symbol"]: quote for quote in messages[-1]["quotes"]}
            trades += messages[-1]["trades"]
            for symbol in {trade["symbol"] for trade in messages[-1]["trades"]}:
                last = [trade for trade in trades if trade["symbol"] == symbol][-1]
                assert (quotes[symbol]["last"], quotes[symbol]["at"]) == (last["price"], last["at"])
        first = messages[0]["sequence"]
        assert [message["sequence"] for message in messages] == list(range(first, first + len(messages)))
        assert len(messages) < len(trades) / 10
        fills = [(event["price"], event["quantity"], event["at"]) for event in broker.events]
        assert sorted((trade["price"], trade["quantity"], trade["at"]) for trade in trades) == sorted(fills)
        async with broker.session.ws_connect(f"{broker.exchange}/v1/feed") as other:
            snapshot = await other.receive_json(timeout=30, loads=orjson.loads)
        assert (snapshot["sequence"], snapshot["quotes"]) == (messages[-1]["sequence"], list(quotes.values()))


async def test_the_noise_of_a_tick_is_on_the_feed(broker):
    async with trading(broker, tick_ms=10):
        async with broker.session.ws_connect(f"{broker.exchange}/v1/feed") as feed:
            messages = [await feed.receive_json(timeout=30, loads=orjson.loads) for _ in range(10)]
        for message in messages[1:]:
            quoted = {quote["symbol"]: quote for quote in message["quotes"]}
            last = {trade["symbol"]: trade for trade in message["trades"]}
            assert last
            for symbol, trade in last.items():
                assert (quoted[symbol]["last"], trade["price"]) == (trade["price"], quoted[symbol]["last"])
                assert trade["quantity"] > 0
            assert all(min(quote["bid_size"], quote["ask_size"]) > 0 for quote in quoted.values())


async def test_very_many_trades_come_in_several_messages_with_the_quotes_in_the_last(broker, monkeypatch):
    monkeypatch.setattr("broker.simulator.feed._TRADES_MAX", 3)
    async with (
        trading(broker, tick_ms=60_000),
        broker.session.ws_connect(f"{broker.exchange}/v1/feed") as feed,
    ):
        await feed.receive_json(timeout=30)
        await broker.place(8)
        messages = [await feed.receive_json(timeout=30) for _ in range(3)]
        assert [(len(message["quotes"]), len(message["trades"])) for message in messages] == [(0, 3), (0, 3), (1, 2)]


async def test_a_socket_that_does_not_read_is_dropped_and_the_others_go_on(broker):
    loop = asyncio.get_running_loop()
    async with trading(broker, tick_ms=1, feed_messages_max=4):
        with socket.socket() as slow:
            slow.setblocking(False)
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            await loop.sock_connect(slow, ("127.0.0.1", int(broker.exchange.rpartition(":")[2])))
            await loop.sock_sendall(slow, HANDSHAKE)
            async with broker.session.ws_connect(f"{broker.exchange}/v1/feed") as feed:
                for _ in range(800):
                    await feed.receive_json(timeout=30, loads=orjson.loads)
                async with asyncio.timeout(30):
                    with suppress(ConnectionResetError):
                        while await loop.sock_recv(slow, 1024 * 1024):
                            pass
                assert (await feed.receive_json(timeout=30, loads=orjson.loads))["type"] == "quotes"


# Misbehaviour, one kind after another.


async def test_late_callbacks(broker):
    async with trading(broker, faults={"delay_ms": 3_000}):
        placed = datetime.now(UTC)
        arrivals: list[float] = []

        def arrive(events: list[dict[str, Any]]) -> int:
            arrivals.extend((datetime.now(UTC) - placed).total_seconds() for _ in events)
            return 204

        broker.answer = arrive
        await broker.place(200)
        await eventually(lambda: len(broker.events) == 200)
        assert sum(arrival > 0.1 for arrival in arrivals) > 50
        assert len(broker.messages) > 10


async def test_duplicates(broker):
    async with trading(broker, faults={"duplicates": 2}):
        order_ids = await broker.place(20)
        await eventually(lambda: len(broker.events) == 60)
        assert Counter(event["order_id"] for event in broker.events) == dict.fromkeys(order_ids, 3)
        assert len(broker.ids) == len(set(broker.ids))


async def test_reordered_callbacks(broker):
    async with trading(broker, faults={"reorder": True, "partial": 1, "partial_gap_ms": 5}):
        order_ids = await broker.place(60)
        states = {}

        async def all_filled() -> None:
            while len(states) < 60:
                known = await broker.lookup(order_ids)
                states.update({key: state for key, state in known.items() if state["status"] == "FILLED"})

        await asyncio.wait_for(all_filled(), 10)
        expected = 60 + sum(len(state["executions"]) for state in states.values())
        await eventually(lambda: len(broker.events) == expected)
        firsts = list(dict.fromkeys(event["order_id"] for event in broker.events))
        assert firsts != order_ids
        assert sorted(firsts) == sorted(order_ids)
        sums = [[event["filled_quantity"] for event in broker.events_of(order_id)] for order_id in order_ids]
        assert any(filled != sorted(filled) for filled in sums)


async def test_lost_callbacks_show_in_a_lookup_only(broker):
    async with trading(broker, faults={"lose": 0.5}):
        order_ids = await broker.place(200)
        states = await broker.lookup(order_ids)
        assert {state["status"] for state in states.values()} == {"FILLED"}
        await eventually(lambda: len(broker.events) > 50)
        assert len(broker.ended()) < 150


async def test_random_rejects(broker):
    async with trading(broker, faults={"reject": 0.5}):
        await broker.place(100)
        await eventually(lambda: len(broker.events) == 100)
        kinds = Counter((event["type"], event["reason"]) for event in broker.events)
        assert set(kinds) == {("FILLED", None), ("REJECTED", "random error")}
        assert 25 < kinds["FILLED", None] < 75


async def test_partial_fills(broker):
    async with trading(broker, faults={"partial": 1, "partial_gap_ms": 10}):
        order_ids = await broker.place(30)
        await eventually(lambda: len(broker.ended()) == 30)
        for order_id in order_ids:
            accepted, *fills = sorted(broker.events_of(order_id), key=lambda event: event["filled_quantity"])
            assert (accepted["type"], accepted["execution_id"]) == ("ACCEPTED", None)
            assert 2 <= len(fills) <= 4
            assert [fill["execution_id"] for fill in fills] == [f"{order_id}-{n}" for n in range(1, len(fills) + 1)]
            assert [fill["type"] for fill in fills] == ["PARTIALLY_FILLED"] * (len(fills) - 1) + ["FILLED"]
            assert sum(fill["quantity"] for fill in fills) == fills[-1]["filled_quantity"] == 10


async def test_orders_rest_for_the_fill_delay(broker):
    async with trading(broker, fill_delay_ms=60_000):
        (order_id,) = await broker.place(1)
        await eventually(lambda: broker.events)
        assert [event["type"] for event in broker.events] == ["ACCEPTED"]
        assert (await broker.lookup([order_id]))[order_id]["status"] == "ACCEPTED"
    async with trading(broker, fill_delay_ms=20):
        (order_id,) = await broker.place(1)
        await eventually(lambda: broker.ended() == {order_id})


async def test_an_error_before_anything_was_done(broker):
    async with trading(broker, faults={"error": 1}):
        order = broker.order()
        status, content = await broker.post(order)
        assert (status, list(content)) == (500, ["error"])
        assert await broker.lookup([order["id"]]) == {}


async def test_an_error_after_the_orders_were_taken(broker):
    async with trading(broker, faults={"error_after": 1}):
        order = broker.order()
        assert (await broker.post(order))[0] == 500
        await eventually(lambda: broker.ended() == {order["id"]})
        assert (await broker.post(order))[0] == 500
        assert len((await broker.lookup([order["id"]]))[order["id"]]["executions"]) == 1


async def test_an_answer_that_never_comes(broker):
    async with trading(broker, faults={"timeout": 1}):
        order = broker.order()
        with pytest.raises(TimeoutError):
            await broker.post(order, timeout_s=2)
        await eventually(lambda: broker.ended() == {order["id"]})


async def test_a_held_request_ends_without_an_answer(broker):
    async with trading(broker, faults={"timeout": 1, "timeout_s": 0.05}):
        with pytest.raises(aiohttp.ClientConnectionError):
            await broker.post(broker.order())


async def test_a_held_request_does_not_keep_the_exchange_from_stopping(broker):
    async with trading(broker, faults={"timeout": 1}):
        order = broker.order()
        post = asyncio.create_task(broker.post(order))
        await eventually(lambda: broker.ended() == {order["id"]})
    with pytest.raises(aiohttp.ClientConnectionError):
        await post


async def test_callbacks_before_the_answer(broker):
    async with trading(broker, faults={"callback_first": True}):
        order_ids = await broker.place(10)
        assert broker.ended() == set(order_ids)


async def test_a_callback_that_is_refused_does_not_keep_the_answer_for_ever(broker):
    broker.answer = lambda events: 503
    async with trading(broker, faults={"callback_first": True}):
        order_ids = await broker.place(10)
        assert broker.ended() == set()
        broker.answer = lambda events: 204
        await eventually(lambda: broker.ended() == set(order_ids))


async def test_a_closed_market(broker):
    async with trading(broker, faults={"closed": True}):
        await broker.place(1)
        await eventually(lambda: broker.events)
        assert [(event["type"], event["reason"]) for event in broker.events] == [("REJECTED", "past market hours")]


async def test_everything_at_once_loses_no_execution(broker):
    """Under every fault at the same time a broker that asks again and looks up ends with the exchange's truth."""
    faults = {"delay_ms": 50, "duplicates": 1, "reorder": True, "lose": 0.2, "reject": 0.1, "partial": 0.3}
    faults |= {"partial_gap_ms": 10, "error": 0.2, "error_after": 0.2, "timeout": 0.1, "timeout_s": 0.05}
    chance = random.Random(1)
    broker.answer = lambda events: chance.choice([204, 204, 500])
    async with trading(broker, faults=faults):
        orders = broker.orders(100)
        taken = 0
        while taken < 100:
            batch = orders[taken : taken + 10]
            with suppress(aiohttp.ClientConnectionError):
                status, results = await broker.post(batch)
                if status == 200:
                    assert {result["status"] for result in results} <= {"ACCEPTED", "EXISTS"}
                    taken += 10
        order_ids = [order["id"] for order in orders]

        async def all_ended() -> dict[str, Any]:
            while True:
                states = await broker.lookup(order_ids)
                if all(state["status"] in TERMINAL for state in states.values()):
                    return states

        states = await asyncio.wait_for(all_ended(), 10)
        assert len(states) == 100
        for state in states.values():
            executions = {execution["execution_id"]: execution for execution in state["executions"]}
            assert len(executions) == len(state["executions"])
            assert sum(execution["quantity"] for execution in executions.values()) == state["filled_quantity"]
            for event in broker.events_of(state["id"]):
                if event["execution_id"] is not None:
                    assert event["price"] == executions[event["execution_id"]]["price"]


# Delivery.


async def test_a_broker_that_is_away_gets_its_events_when_it_is_back():
    async with aiohttp.ClientSession() as session:
        broker = Broker(session)
        async with receiving(broker):
            pass
        port = int(broker.url.split(":")[2].split("/")[0])
        async with trading(broker, delivery=DeliveryLimits(retry_last_ms=100)):
            order_ids = await broker.place(256)
            async with receiving(broker, port):
                await eventually(lambda: broker.ended() == set(order_ids))
                assert len(broker.events) == 256


async def test_one_event_that_is_refused_does_not_keep_the_others(broker):
    orders = broker.orders(100)
    poison = orders[37]["id"]
    broker.answer = lambda events: 500 if any(event["order_id"] == poison for event in events) else 204
    async with trading(broker, delivery=DeliveryLimits(retry_first_ms=5, retry_last_ms=20)):
        await broker.post(orders)
        await eventually(lambda: len(broker.ended()) == 99)
        refused = broker.refused
        await eventually(lambda: broker.refused > refused + 10)
        broker.answer = lambda events: 204
        await eventually(lambda: len(broker.ended()) == 100)


async def test_a_broker_that_never_answers_delays_no_other(broker):
    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        hanging.append(writer)

    hanging: list[asyncio.StreamWriter] = []
    deaf = await asyncio.start_server(hang, "127.0.0.1", 0)
    async with deaf:
        url = f"http://127.0.0.1:{deaf.sockets[0].getsockname()[1]}/hook"
        async with trading(broker):
            await broker.place(256, callback_url=url)
            order_ids = await broker.place(10)
            await eventually(lambda: broker.ended() == set(order_ids), within_s=4)  # a call of the deaf one takes 5 s
            assert hanging
        for writer in hanging:
            writer.close()


async def test_too_many_waiting_callbacks_stop_the_taking_of_orders_for_that_broker(broker):
    broker.answer = lambda events: 503
    async with trading(broker, delivery=DeliveryLimits(waiting_max=10, retry_last_ms=50)):
        await broker.place(8)
        order = broker.order()
        status, content = await broker.post([order, broker.order(), broker.order()])
        assert (status, content) == (503, {"error": f"too many callbacks wait for {broker.url}"})
        assert await broker.lookup([order["id"]]) == {}
        assert (await broker.get("/healthz"))[0] == 200
        broker.answer = lambda events: 204
        await eventually(lambda: len(broker.ended()) == 8)
        await broker.place(3)


async def test_what_rests_is_taken_out_when_its_broker_hears_of_nothing(broker):
    """What rests goes on trading: to keep what waits bounded, no more of it may."""
    async with trading(broker, delivery=DeliveryLimits(waiting_max=5, retry_last_ms=50)):
        resting = broker.limit("SELL", "9000.00")
        seller = broker.limit("SELL", "1.00", quantity=150_000)  # through many levels: many events at once
        broker.answer = lambda events: 503
        assert (await broker.post([resting, seller]))[0] == 200

        async def taken_out() -> None:
            while (await broker.lookup([resting["id"]]))[resting["id"]]["status"] == "ACCEPTED":
                await asyncio.sleep(0.01)

        await asyncio.wait_for(taken_out(), 5)
        broker.answer = lambda events: 204
        await eventually(lambda: resting["id"] in broker.ended())
        # Not the last one: what was answered 503 comes again, and its repetitions keep no order.
        ends = {event["reason"] for event in broker.events_of(resting["id"]) if event["type"] == "CANCELLED"}
        assert ends == {"too many callbacks wait"}


async def test_too_many_open_orders_make_it_unhealthy(broker):
    async with trading(broker, open_max=5, fill_delay_ms=60_000):
        await broker.place(5)
        assert (await broker.post(broker.order()))[0] == 503
        assert await broker.get("/healthz") == (503, {"error": "5 orders are open, and no more fit"})


# Hours.


async def test_new_yorks_hours_at_a_half_day(broker):
    at = datetime(2026, 11, 27, 12, 59, 59, tzinfo=NEW_YORK)
    async with trading(broker, hours="XNYS", clock=lambda: at, tick_ms=0):
        (before,) = await broker.place(1)
        at += timedelta(seconds=1)
        (after,) = await broker.place(1)
        await eventually(lambda: len(broker.events) == 2)
        reasons = {event["order_id"]: (event["type"], event["reason"]) for event in broker.events}
        assert reasons == {before: ("FILLED", None), after: ("REJECTED", "past market hours")}


async def test_the_session_opens_and_ends_with_orders_in_the_book_though_prices_stand_still(broker):
    at = datetime(2026, 11, 27, 9, 29, 59, tzinfo=NEW_YORK)
    async with trading(broker, hours="XNYS", clock=lambda: at, tick_ms=0):
        buyer, waiting = broker.limit("BUY", "9000.00"), broker.limit("BUY", "1.00")
        forever = broker.limit("BUY", "1.00", time_in_force="gtc")
        await broker.post([buyer, waiting, forever])
        assert (await broker.lookup([buyer["id"]]))[buyer["id"]]["status"] == "ACCEPTED"
        at += timedelta(seconds=1)
        await eventually(lambda: broker.ended() == {buyer["id"]})
        at += timedelta(hours=3, minutes=30)
        await eventually(lambda: broker.ended() == {buyer["id"], waiting["id"]})
        (end,) = [event for event in broker.events_of(waiting["id"]) if event["type"] != "ACCEPTED"]
        assert (end["type"], end["reason"]) == ("EXPIRED", "the session ended")
        assert (await broker.lookup([forever["id"]]))[forever["id"]]["status"] == "ACCEPTED"


# The journal.


class Killable:
    """An exchange in a process of its own, to be killed with SIGKILL."""

    PROGRAM = """
import asyncio, sys, uvloop
from pathlib import Path
from broker.simulator.delivery import DeliveryLimits
from broker.simulator.faults import Misbehaviour
from broker.simulator.journal import JournalInUse
from broker.simulator.server import SimulatedExchange
from broker.simulator.settings import ExchangeSettings

async def main():
    settings = ExchangeSettings(journal=Path(sys.argv[1]), fill_delay_ms=int(sys.argv[2]),
                                delivery=DeliveryLimits(retry_last_ms=100))
    async with SimulatedExchange(settings, bytes(range(32))) as exchange:
        print("listening", exchange.url, flush=True)
        await asyncio.Event().wait()

uvloop.run(main())
"""

    def __init__(self, journal: Path, fill_delay_ms: int = 0) -> None:
        self._arguments = [sys.executable, "-c", self.PROGRAM, str(journal), str(fill_delay_ms)]
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> str:
        """The URL that it listens on."""
        self._process = await asyncio.create_subprocess_exec(*self._arguments, stdout=asyncio.subprocess.PIPE)
        assert self._process.stdout is not None
        async with asyncio.timeout(20):
            while line := (await self._process.stdout.readline()).decode():
                if line.startswith("listening "):
                    return line.split()[1]
        raise AssertionError("the exchange ended before it listened")

    async def __aexit__(self, *_: object) -> None:
        """Kill it: no handler of its own runs."""
        assert self._process is not None
        self._process.kill()
        assert await self._process.wait() == -signal.SIGKILL


async def test_a_killed_exchange_remembers_and_sends_again(broker, tmp_path):
    async with Killable(tmp_path) as broker.exchange:
        delivered = await broker.place(10)
        await eventually(lambda: broker.ended() == set(delivered))
        broker.answer = lambda events: 503
        pending = await broker.place(10)
        await eventually(lambda: broker.refused > 2)
        before = await broker.lookup(delivered + pending)
    assert broker.ended() == set(delivered)

    broker.answer = lambda events: 204
    async with trading(broker, journal=tmp_path):
        await eventually(lambda: broker.ended() == set(delivered + pending))
        assert await broker.lookup(delivered + pending) == before
        again = broker.order(id=pending[0], quantity=11)
        assert (await broker.post(again))[1]["status"] == "INVALID"
        await broker.place(1)
        await eventually(lambda: len(broker.ended()) == 21)
        # What was acknowledged before the kill does not come again, but for a last message whose
        # acknowledgement the kill may have kept from the journal: then exactly once more.
        assert max(Counter(event["order_id"] for event in broker.events).values()) <= 2


async def test_a_killed_exchange_goes_on_with_open_orders(broker, tmp_path):
    async with Killable(tmp_path, fill_delay_ms=60_000) as broker.exchange:
        order_ids = await broker.place(5)
    async with trading(broker, journal=tmp_path, fill_delay_ms=10):
        await eventually(lambda: broker.ended() == set(order_ids))
        assert {event["execution_id"] for event in broker.events if event["type"] == "FILLED"} == {
            f"{order_id}-1" for order_id in order_ids
        }


async def test_a_killed_exchange_goes_on_with_its_books(broker, tmp_path):
    async with Killable(tmp_path) as broker.exchange:
        old = broker.limit("SELL", "9000.00")
        new = broker.limit("SELL", "8000.00", time_in_force="gtc")
        stopped = broker.order(type="stop_limit", price="8500.00", stop_price="8000.00", max_price=None)
        low = broker.limit("BUY", "1.00", time_in_force="gtc")
        lower = broker.limit("BUY", "1.00", time_in_force="gtc", quantity=3)
        lower["replaces"] = {"id": low["id"], "filled_quantity": 0}
        await broker.post([old, new, stopped, low, lower])
        await broker.post([old["id"]], path="/v1/cancels")
        (done,) = await broker.place(1)
        await broker.post({"reason": "erroneous trade"}, path=f"/v1/executions/{done}-1/bust")
        order_ids = [order["id"] for order in (old, new, stopped, low, lower)] + [done]
        before = await broker.lookup(order_ids)
    async with trading(broker, journal=tmp_path):
        assert await broker.lookup(order_ids) == before
        await broker.post(broker.limit("BUY", "8000.00", quantity=10, symbol="BRK.B"))
        assert (await broker.post([low["id"], lower["id"]], path="/v1/cancels"))[1] == [
            {"id": low["id"], "status": "TOO_LATE", "reason": "REPLACED"},
            {"id": lower["id"], "status": "ACCEPTED", "reason": None},
        ]
        assert (await broker.post(lower))[1]["status"] == "EXISTS"
        assert (await broker.post({"reason": "x"}, path=f"/v1/executions/{done}-1/bust"))[0] == 409


async def test_a_journal_of_the_version_before_is_read(broker, tmp_path):
    done, half = (str(uuid.uuid4()) for _ in range(2))
    order = {"symbol": "AAPL", "side": "BUY", "type": "market", "quantity": 10, "max_price": 90_000_000}
    order |= {"callback_url": broker.url, "reason": None}
    fill = {"price": 1_902_000, "at": "2026-11-27T14:30:00.000000+00:00"}
    event = {"type": "FILLED", "order_id": done, "execution_id": f"{done}-1", "quantity": 10, "price": "190.20"}
    event |= {"filled_quantity": 10, "reason": None, "at": fill["at"]}
    filled = {"status": "FILLED", "filled_quantity": 10, "executions": [{**fill, "quantity": 10}]}
    partly = {"status": "PARTIALLY_FILLED", "filled_quantity": 4, "executions": [{**fill, "quantity": 4}]}
    lines = [{"order": {"id": done, **order, **filled}}, {"number": 1, "url": broker.url, "event": event}]
    lines += [{"order": {"id": half, **order, **partly}}, {"acked": [99]}]
    (tmp_path / "exchange.journal").write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))
    async with trading(broker, journal=tmp_path):
        await eventually(lambda: broker.ended() == {done, half})
        assert broker.events_of(done) == [event]
        (last,) = broker.events_of(half)
        assert (last["execution_id"], last["quantity"], last["filled_quantity"]) == (f"{half}-2", 6, 10)
        assert (await broker.lookup([done]))[done]["time_in_force"] == "day"


async def test_an_order_that_trades_a_thousand_times_is_not_written_down_a_thousand_times(broker, tmp_path):
    async with trading(broker, journal=tmp_path, tick_ms=0):
        bid, ask = await best(broker, "BRK.B")
        resting = broker.limit("SELL", format_money(parse_money(ask) - 100), symbol="BRK.B", quantity=5_000)
        assert bid < resting["price"] < ask
        await broker.post(resting)
        for _ in range(4):
            await broker.place(250, symbol="BRK.B", quantity=4)
        await eventually(lambda: len(broker.events_of(resting["id"])) == 1_001)
        state = await broker.lookup([resting["id"]])
        assert (tmp_path / "exchange.journal").stat().st_size < 3_000_000
    async with trading(broker, journal=tmp_path, tick_ms=0):
        assert await broker.lookup([resting["id"]]) == state
        await broker.place(1, symbol="BRK.B", quantity=1_000, max_price="9999999.00")
        await eventually(lambda: resting["id"] in broker.ended())


async def test_a_partly_filled_order_goes_on_after_a_restart(broker, tmp_path):
    """Half of its parts before the restart, the rest in one part after it; execution ids go on counting."""
    slow = {"partial": 1, "partial_gap_ms": 60_000}
    async with trading(broker, journal=tmp_path, faults=slow, fill_delay_ms=20):
        (order_id,) = await broker.place(1)
        await eventually(lambda: len(broker.events_of(order_id)) >= 2)
        first = (await broker.lookup([order_id]))[order_id]["executions"]
        assert len(first) == 1
    async with trading(broker, journal=tmp_path):
        await eventually(lambda: broker.ended() == {order_id})
        state = (await broker.lookup([order_id]))[order_id]
        assert state["executions"][: len(first)] == first
        assert [execution["execution_id"] for execution in state["executions"]] == [f"{order_id}-1", f"{order_id}-2"]
        assert state["filled_quantity"] == 10


async def test_a_restart_keeps_the_newest_finished_orders_only(broker, tmp_path):
    async with trading(broker, journal=tmp_path):
        order_ids = await broker.place(50)
        await eventually(lambda: len(broker.ended()) == 50)
    size = (tmp_path / "exchange.journal").stat().st_size
    async with trading(broker, journal=tmp_path, finished_max=5):
        assert set(await broker.lookup(order_ids)) == set(order_ids[-5:])
        assert (tmp_path / "exchange.journal").stat().st_size < size / 10
    assert len(broker.events) == 50


async def test_lost_events_stay_lost_after_a_restart(broker, tmp_path):
    async with trading(broker, journal=tmp_path, faults={"lose": 1}):
        await broker.place(5)
    async with trading(broker, journal=tmp_path):
        (order_id,) = await broker.place(1)
        await eventually(lambda: broker.events)
        assert broker.ended() == {order_id}


async def test_a_journal_that_cannot_be_written_stops_the_exchange_from_promising_until_it_can(
    broker, tmp_path, monkeypatch
):
    def full(fd: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    async with (
        trading(broker, journal=tmp_path, tick_ms=60_000),
        broker.session.ws_connect(f"{broker.exchange}/v1/feed") as feed,
    ):
        (kept,) = await broker.place(1)
        await eventually(lambda: broker.events)
        assert [(await feed.receive_json(timeout=30))["type"] for _ in range(2)] == ["snapshot", "quotes"]
        monkeypatch.setattr(os, "write", full)
        order = broker.order()
        status, content = await broker.post(order)
        assert (status, "No space left" in content["error"]) == (503, True)
        assert (await broker.get("/healthz"))[0] == 503
        assert (await broker.get(f"/v1/orders/{order['id']}"))[0] == 503
        assert broker.ended() == {kept}
        with pytest.raises(TimeoutError):
            await feed.receive(timeout=0.1)  # what could be lost again is shown to nobody
        monkeypatch.undo()  # there is room again: nobody has to start anything anew
        status, content = await broker.post(order)
        assert (status, content["status"]) == (200, "EXISTS")
        assert len((await feed.receive_json(timeout=30))["trades"]) == 1
        await eventually(lambda: broker.ended() == {kept, order["id"]})
    async with trading(broker, journal=tmp_path):
        assert set(await broker.lookup([kept, order["id"]])) == {kept, order["id"]}


async def test_two_exchanges_never_share_a_journal(broker, tmp_path):
    async with trading(broker, journal=tmp_path):
        with pytest.raises(JournalInUse):
            await SimulatedExchange(settings(journal=tmp_path), SECRET).start()
        await broker.place(1)


async def test_a_taken_port_is_told_and_nothing_stays_behind(broker, tmp_path):
    async with trading(broker):
        port = int(broker.exchange.rpartition(":")[2])
        with pytest.raises(OSError, match="address already in use"):
            await SimulatedExchange(settings(port=port, journal=tmp_path), SECRET).start()
    async with trading(broker, journal=tmp_path):
        await broker.place(1)
