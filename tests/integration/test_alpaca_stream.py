"""Alpaca's `/stream` over a real socket: who is let in, and what is told of orders in which order."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import asyncpg
import pytest
from aiohttp import ClientWebSocketResponse, WSMsgType
from alpaca.trading.models import TradeUpdate
from alpaca.trading.stream import TradingStream

from broker.alpaca.trade_updates import TradeUpdates
from broker.config import Config
from broker.core.types import CustomerId
from broker.db import Database, query
from broker.order_feed import Reader
from tests.conftest import Broker, Client, eventually, narrow, run_broker
from tests.integration.test_order_stream import every_kind_of_step, quiet_desk, rejected
from tests.integration.test_webhook import event, fill

LISTEN = {"action": "listen", "data": {"streams": ["trade_updates"]}}
LISTENING = {"stream": "listening", "data": {"streams": ["trade_updates"]}}
WITHIN_S = 5.0


def verdict(status: str, action: str = "authenticate") -> dict[str, Any]:
    return {"stream": "authorization", "data": {"status": status, "action": action}}


def credentials(client: Client) -> tuple[str, str]:
    assert client.token is not None
    key, _, secret = client.token.partition(".")
    return key, secret


def authenticate(client: Client) -> dict[str, Any]:
    key, secret = credentials(client)
    return {"action": "authenticate", "data": {"key_id": key, "secret_key": secret}}


@asynccontextmanager
async def connected(client: Client, path: str = "/stream") -> AsyncIterator[ClientWebSocketResponse]:
    """A socket that has said nothing yet."""
    async with client.http.ws_connect(client.url + path) as socket:
        yield socket


@asynccontextmanager
async def listening(client: Client) -> AsyncIterator[ClientWebSocketResponse]:
    """A socket that hears trade updates."""
    async with connected(client) as socket:
        await socket.send_json(authenticate(client))
        assert await hear(socket) == verdict("authorized")
        await socket.send_json(LISTEN)
        assert await hear(socket) == LISTENING
        yield socket


async def hear(socket: ClientWebSocketResponse) -> Any:
    message = await socket.receive(WITHIN_S)
    assert message.type is WSMsgType.TEXT, message
    return json.loads(message.data)


async def update(socket: ClientWebSocketResponse) -> Any:
    """The next trade update, which Alpaca's own model takes."""
    message = await hear(socket)
    assert message["stream"] == "trade_updates", message
    TradeUpdate(**message["data"])
    return message["data"]


async def updates(socket: ClientWebSocketResponse, last: str) -> list[Any]:
    """All up to an event."""
    found = [await update(socket)]
    while found[-1]["event"] != last:
        found.append(await update(socket))
    return found


async def order(client: Client, status: int = 200, **fields: Any) -> Any:
    """Alpaca's POST /v2/orders: a day order, at the market where nothing else is said."""
    body = {"symbol": "AAPL", "qty": "3", "side": "buy", "type": "market", "time_in_force": "day", **fields}
    answered, content = await alpaca(client, "POST", "/v2/orders", body)
    assert answered == status, content
    return content


async def alpaca(client: Client, method: str, path: str, body: object = None) -> tuple[int, Any]:
    key, secret = credentials(client)
    headers = {"APCA-API-KEY-ID": key, "APCA-API-SECRET-KEY": secret}
    async with client.http.request(method, client.url + path, json=body, headers=headers) as response:
        text = await response.text()
        return response.status, json.loads(text) if text else None


def words(found: list[Any]) -> list[str]:
    return [each["event"] for each in found]


async def test_a_market_order_is_pending_then_new_then_filled(broker: Broker) -> None:
    client = await broker.customer()
    async with listening(client) as socket:
        placed = await order(client, client_order_id="first one")
        found = await updates(socket, "fill")
    assert words(found) == ["pending_new", "new", *["partial_fill"] * (len(found) - 3), "fill"]
    pending, new, fill = found[0], found[1], found[-1]
    assert (pending["execution_id"], pending["price"], pending["qty"], pending["position_qty"]) == (None,) * 4
    assert {each["order"]["id"] for each in found} == {placed["id"]}
    assert [each["order"]["status"] for each in (pending, new, fill)] == ["pending_new", "new", "filled"]
    assert fill["order"]["client_order_id"] == "first one"
    assert sum(int(each["qty"]) for each in found[2:]) == 3
    assert (fill["position_qty"], fill["order"]["filled_qty"]) == ("3", "3")
    assert fill["order"]["filled_at"] == fill["timestamp"]
    assert fill["order"].keys() == placed.keys()


async def test_every_kind_of_step_in_alpacas_words(with_settings: Callable[..., Config]) -> None:
    async with quiet_desk(with_settings) as desk, listening(desk.customer) as socket:
        await every_kind_of_step(desk)
        found = await updates(socket, "expired")
    assert [(each["event"], each["order"]["status"]) for each in found] == [
        ("pending_new", "pending_new"),
        ("new", "new"),
        ("partial_fill", "partially_filled"),
        ("fill", "filled"),
        ("trade_bust", "filled"),
        ("trade_bust", "filled"),
        ("trade_correct", "filled"),
        ("pending_new", "pending_new"),
        ("new", "new"),
        ("pending_new", "pending_new"),
        ("replaced", "replaced"),
        ("new", "new"),
        ("pending_cancel", "pending_cancel"),
        ("canceled", "canceled"),
        ("pending_new", "pending_new"),
        ("rejected", "rejected"),
        ("pending_new", "pending_new"),
        ("expired", "expired"),
    ]
    moved = [each for each in found if each["price"]]
    assert [(each["qty"], each["price"], each["position_qty"]) for each in moved] == [
        ("4", "100.00", "4"),
        ("6", "99.95", "10"),
        ("4", "100.00", "6"),
        ("6", "99.95", "0"),
        ("6", "99.00", "6"),
    ]
    filled, later = found[3], found[4:7]
    assert found[2]["order"]["filled_at"] is None
    assert {each["order"]["filled_at"] for each in later} == {filled["timestamp"]} != {later[0]["timestamp"]}
    assert len({each["execution_id"] for each in moved}) == 3, "a bust names the execution that it takes back"
    replaced, new = found[10], found[11]
    assert (replaced["order"]["replaced_by"], new["order"]["replaces"]) == (new["order"]["id"], replaced["order"]["id"])
    assert [found[13]["order"]["canceled_at"], found[15]["order"]["failed_at"], found[17]["order"]["expired_at"]] == [
        each["timestamp"] for each in (found[13], found[15], found[17])
    ]


async def test_new_comes_before_a_fill_that_was_heard_of_first(with_settings: Callable[..., Config]) -> None:
    """Once, whether the order was placed before this stream began or while it was there."""
    async with quiet_desk(with_settings) as desk:
        before = await desk.order()
        async with listening(desk.customer) as socket:
            assert await desk.says([fill(before, "e-1", 4)]) == (204, None)
            found = await updates(socket, "partial_fill")
            assert await desk.says([fill(before, "e-2", 6, type="FILLED")]) == (204, None)
            found += await updates(socket, "fill")
            after = await desk.order("SELL")
            assert await desk.says([fill(after, "e-3")]) == (204, None)
            found += await updates(socket, "fill")
    assert words(found) == ["new", "partial_fill", "fill", "pending_new", "new", "fill"]
    assert [(each["order"]["status"], each["order"]["filled_qty"]) for each in found[:3]] == [
        ("new", "0"),
        ("partially_filled", "4"),
        ("filled", "10"),
    ]
    assert [each["position_qty"] for each in found] == [None, "4", "10", None, None, "0"]


@pytest.mark.parametrize("when", ["before", "after"])
async def test_new_comes_before_a_fill_whatever_happens_while_a_stream_begins(
    with_settings: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """One order is placed and another one filled just before the stream takes its place, or just after."""
    async with quiet_desk(with_settings) as desk:
        first = await desk.order()
        placed: list[str] = []

        async def meanwhile() -> None:
            assert await desk.says([fill(first, "e-1")]) == (204, None)
            placed.append(await desk.order())

        begin = Reader.begin

        async def begin_late(reader: Reader, since: int | None) -> int:
            if when == "before":
                await meanwhile()
            newest = await begin(reader, since)
            if when == "after":
                await meanwhile()
            return newest

        monkeypatch.setattr(Reader, "begin", begin_late)
        async with listening(desk.customer) as socket:
            assert await desk.says([fill(placed[0], "e-2")]) == (204, None)
            found = [await update(socket)]
            while (found[-1]["event"], found[-1]["order"]["id"]) != ("fill", placed[0]):
                found.append(await update(socket))
    lives = {id_: [each["event"] for each in found if each["order"]["id"] == id_] for id_ in (first, placed[0])}
    assert lives == {first: ["new", "fill"], placed[0]: ["pending_new", "new", "fill"]}


async def test_an_order_that_was_acknowledged_before_is_not_new_again(with_settings: Callable[..., Config]) -> None:
    async with quiet_desk(with_settings) as desk:
        order_id = await desk.order()
        assert await desk.says([event(order_id, "ACCEPTED")]) == (204, None)
        async with listening(desk.customer) as socket:
            assert await desk.says([fill(order_id, "e-1")]) == (204, None)
            assert words([await update(socket)]) == ["fill"]


async def test_the_position_is_that_after_each_execution_however_late_it_is_told(
    with_settings: Callable[..., Config],
) -> None:
    """All of these were committed before the stream reads the first; other symbols and customers do not count."""
    async with run_broker(with_settings(order_stream_queue_max=1)) as broker:
        client, other = await broker.customer(), await broker.customer()
        async with listening(client) as socket:
            for side, quantity in (("buy", 5), ("buy", 4), ("sell", 3), ("sell", 6), ("buy", 2)):
                await order(other, symbol="AAPL", qty=quantity + 1)
                await order(client, symbol="MSFT", qty=quantity)
                await order(client, symbol="AAPL", side=side, qty=quantity)
            found = []
            while words(found).count("fill") < 10:
                found.append(await update(socket))
    ends = [each for each in found if each["event"] == "fill"]
    positions = {
        symbol: [each["position_qty"] for each in ends if each["order"]["symbol"] == symbol]
        for symbol in ("AAPL", "MSFT")
    }
    assert positions == {"AAPL": ["5", "9", "6", "0", "2"], "MSFT": ["5", "9", "12", "18", "20"]}


class Asked(Database):
    """A database that knows what it was asked."""

    def __init__(self, broker: Broker) -> None:
        super().__init__(broker.dsn, broker.config)
        self.names: list[str] = []

    async def fetch(self, name: str, *arguments: object) -> Sequence[asyncpg.Record]:
        self.names.append(name)
        return await super().fetch(name, *arguments)


@asynccontextmanager
async def asked(broker: Broker) -> AsyncIterator[Asked]:
    database = Asked(broker)
    await database.open()
    try:
        yield database
    finally:
        await database.close()


async def pages(database: Asked, customer_id: CustomerId, size: int) -> list[tuple[int, bytes]]:
    """All that is told of a customer's events, read as one who catches up does."""
    trade_updates = TradeUpdates(database)
    told: list[tuple[int, bytes]] = []
    while page := await trade_updates.read(customer_id, told[-1][0] if told else 0, size):
        told += page
    return told


def told_data(told: bytes) -> Any:
    """The message of an event itself."""
    return json.loads(told.split(b"\n")[1])["data"]


async def test_who_catches_up_is_told_the_same_page_by_page(with_settings: Callable[..., Config]) -> None:
    async with quiet_desk(with_settings) as desk, asked(desk.broker) as database:
        await every_kind_of_step(desk)
        customer_id = CustomerId(int(desk.customer.customer_id))
        at_once = await pages(database, customer_id, 500)
        for size in range(1, 12):
            assert await pages(database, customer_id, size) == at_once, size
    made = [told_data(told) for _, told in at_once if b'execution_id":"' in told]
    assert [each["position_qty"] for each in made] == ["4", "10", "6", "0", "6", "5"]


async def test_what_lies_behind_a_page_is_summed_up_once(broker: Broker) -> None:
    """Then each page counts on from the one before; the last one, with nothing behind it, needs no sum."""
    client = await broker.customer()
    customer_id = CustomerId(int(client.customer_id))
    for symbol, side, quantity in (("AAPL", "buy", 5), ("MSFT", "buy", 4), ("AAPL", "sell", 3), ("MSFT", "sell", 1)):
        _, placed = await client.place(side.upper(), symbol, quantity)
        await client.ended(placed["tradeId"])
    async with asked(broker) as database:
        told = await pages(database, customer_id, 2)
        assert database.names.count("alpaca_data_updates") > 4
        assert database.names.count("alpaca_data_positions") == 1
        database.names.clear()
        assert await pages(database, customer_id, 500) == told
        assert database.names == ["alpaca_data_updates"] * 2
    ends = [told_data(each) for _, each in told if each.startswith(b"fill ")]
    assert [each["position_qty"] for each in ends] == ["5", "4", "2", "3"]


async def test_a_symbol_that_was_first_traded_while_one_catches_up_has_its_position(broker: Broker) -> None:
    client = await broker.customer()
    customer_id = CustomerId(int(client.customer_id))

    async def buy(symbol: str) -> None:
        _, placed = await client.place("BUY", symbol, 2)
        await client.ended(placed["tradeId"])

    await buy("AAPL")
    async with asked(broker) as database:
        trade_updates = TradeUpdates(database)
        told = await trade_updates.read(customer_id, 0, 2)
        database.names.clear()
        await buy("MSFT")
        await buy("MSFT")
        while page := await trade_updates.read(customer_id, told[-1][0], 2):
            told += page
    ends = [told_data(each) for _, each in told if each.startswith(b"fill ")]
    assert [each["position_qty"] for each in ends] == ["2", "2", "4"]
    assert set(database.names) == {"alpaca_data_updates"}


async def test_a_page_reads_as_many_rows_however_many_lie_behind(dsn: str) -> None:
    await busy(dsn, 1001, 500)
    connection = await Database(dsn, Config()).connect()
    explain = "EXPLAIN (ANALYZE, FORMAT JSON) " + query("alpaca_data_updates")
    plan = json.loads(await connection.fetchval(explain, 1001, 0, 20))[0]["Plan"]
    await connection.close()
    assert max(rows_of(plan)) <= 40, plan


async def test_summing_up_what_lies_behind_scans_no_table(dsn: str) -> None:
    connection = await Database(dsn, Config()).connect()
    found = await connection.fetch("EXPLAIN " + query("alpaca_data_positions"), 1001, 0)
    await connection.close()
    plan = "\n".join(row[0] for row in found)
    assert "Index" in plan
    assert "Seq Scan" not in plan, plan


async def busy(dsn: str, customer_id: int, executions: int) -> None:
    """One order, filled share by share; as if it had happened, without what checks it."""
    connection = await asyncpg.connect(dsn, server_settings={"search_path": "broker"})
    await connection.execute("SET session_replication_role = replica")
    await connection.execute(
        """
        WITH made AS
            (SELECT gen_random_uuid() AS trade_id, now() AS at, $1::bigint AS customer_id, $2::bigint AS shares),
        each AS (SELECT made.*, number, 'busy-' || number AS execution_id, gen_random_uuid() AS transfer_id
            FROM made CROSS JOIN generate_series(1, shares) AS number),
        owned AS (INSERT INTO account (owner_id, asset, balance) SELECT customer_id, 'AAPL', shares FROM made),
        bought AS (INSERT INTO trade (trade_id, customer_id, seq, symbol, side, quantity, status, reason, venue,
                order_type, time_in_force, hold, acknowledged, cancel_requested, filled_quantity, filled_value, events,
                order_class, extended_hours, triggered, created_at, updated_at, ended_at)
            SELECT trade_id, customer_id, 1, 'AAPL', 'BUY', shares, 'FILLED', 'r', 'sim', 'market', 'day', 0, true,
                false, shares, shares, shares, 'simple', false, false, at, at, at FROM made),
        moved AS (INSERT INTO transfer SELECT transfer_id, 'fill', execution_id, customer_id, at FROM each),
        posted AS (INSERT INTO posting SELECT transfer_id, customer_id, 'AAPL', 1, 1, 0 FROM each),
        executed AS (INSERT INTO execution (venue, execution_id, trade_id, last_qty, last_px, fee, gain, suspense,
                transfer_id, at)
            SELECT 'sim', execution_id, trade_id, 1, 1, 0, 0, false, transfer_id, at FROM each)
        INSERT INTO event SELECT customer_id, number, trade_id, number, 'executed', 'PARTIALLY FILLED', 'r', number,
            number, true, false, shares, execution_id, at FROM each
        """,
        customer_id,
        executions,
    )
    await connection.close()


def rows_of(plan: Any) -> list[float]:
    """How many rows each node of a plan came up with."""
    own = plan["Actual Rows"] * plan["Actual Loops"]
    return [own, *(rows for node in plan.get("Plans", ()) for rows in rows_of(node))]


async def test_an_execution_at_another_venue_is_told_as_well(broker: Broker) -> None:
    """Whoever executes it: what counts is the trade that it names."""
    client = await broker.customer()
    async with listening(client) as socket:
        await order(client, qty=1)
        fill = (await updates(socket, "fill"))[-1]
    change = "ALTER TABLE execution DISABLE TRIGGER USER"
    for statement in (change, "UPDATE execution SET venue = 'elsewhere'", change.replace("DIS", "EN", 1)):
        await broker.fetch(statement)
    database = Database(broker.dsn, broker.config)
    await database.open()
    told = await TradeUpdates(database).read(CustomerId(int(client.customer_id)), 0, 10)
    await database.close()
    found = told_data(told[-1][1])
    assert {name for name in fill if fill[name] != found[name]} == {"execution_id"}
    assert (found["event"], found["position_qty"]) == ("fill", "1")


# ------------------------------------------------------------------ who is let in


@pytest.mark.parametrize("path", ["/stream", "/stream/"])
@pytest.mark.parametrize("form", ["authenticate", "flat", "binary"])
async def test_a_key_may_be_said_in_each_form(broker: Broker, path: str, form: str) -> None:
    client = await broker.customer()
    key, secret = credentials(client)
    async with connected(client, path) as socket:
        with pytest.raises(TimeoutError):
            await socket.receive(0.05)  # the first word is taken for the verdict
        if form == "flat":
            await socket.send_json({"action": "auth", "key": key, "secret": secret})
        elif form == "binary":
            await socket.send_bytes(json.dumps(authenticate(client)).encode())
        else:
            await socket.send_json(authenticate(client))
        assert await hear(socket) == verdict("authorized")


async def test_a_wrong_key_is_refused_after_a_moment_and_closed(with_settings: Callable[..., Config]) -> None:
    async with run_broker(with_settings(stream_refusal_s=0.2)) as broker:
        client = await broker.customer()
        key, _ = credentials(client)
        for said in (
            {"action": "authenticate", "data": {"key_id": key, "secret_key": "no"}},
            {"action": "authenticate", "data": {}},
            {"action": "auth", "key": "key_0", "secret": "no"},
            {"action": "dance"},
            [],
        ):
            async with connected(client) as socket:
                began = asyncio.get_running_loop().time()
                await socket.send_json(said)
                assert await hear(socket) == verdict("unauthorized")
                assert asyncio.get_running_loop().time() - began >= 0.19
                assert (await socket.receive(WITHIN_S)).type is WSMsgType.CLOSE


async def test_who_listens_before_it_is_known_hears_that(broker: Broker) -> None:
    client = await broker.customer()
    async with connected(client) as socket:
        await socket.send_json(LISTEN)
        assert await hear(socket) == verdict("unauthorized", "listen")
        await socket.send_json(authenticate(client))
        assert await hear(socket) == verdict("authorized")


async def test_who_says_nothing_is_refused_in_time(with_settings: Callable[..., Config]) -> None:
    async with run_broker(with_settings(stream_auth_s=0.1)) as broker, connected(broker.stranger) as socket:
        assert await hear(socket) == verdict("unauthorized")
        assert (await socket.receive(WITHIN_S)).type is WSMsgType.CLOSE


async def test_no_more_streams_than_a_customer_may_have(with_settings: Callable[..., Config]) -> None:
    async with run_broker(with_settings(stream_customer_max=1)) as broker:
        client = await broker.customer()
        async with listening(client), connected(client) as second:
            await second.send_json(authenticate(client))
            assert await hear(second) == verdict("unauthorized")
            assert (await second.receive(WITHIN_S)).type is WSMsgType.CLOSE


async def test_one_address_has_only_so_many_that_say_nothing(with_settings: Callable[..., Config]) -> None:
    async with run_broker(with_settings(stream_address_strangers_max=2)) as broker:
        client = await broker.customer()
        async with connected(client), connected(client) as second:
            with pytest.raises(aiohttp.WSServerHandshakeError) as refusal:
                async with connected(client):
                    pass
            assert refusal.value.status == 503
            await second.send_json(authenticate(client))
            assert await hear(second) == verdict("authorized")
            async with connected(client) as third:
                await third.send_json(authenticate(client))
                assert await hear(third) == verdict("authorized")


async def test_a_request_that_is_no_handshake_is_answered_in_alpacas_form(broker: Broker) -> None:
    status, answer = await alpaca(await broker.customer(), "GET", "/stream")
    assert (status, set(answer)) == (426, {"code", "message"})


async def test_each_customer_hears_of_its_own_orders(broker: Broker) -> None:
    one, other = await broker.customer(), await broker.customer()
    async with listening(one) as first, listening(one) as second, listening(other) as third:
        placed = await order(one)
        for socket in (first, second):
            assert {each["order"]["id"] for each in await updates(socket, "fill")} == {placed["id"]}
        with pytest.raises(TimeoutError):
            await third.receive(0.1)


async def test_a_revoked_key_ends_the_stream(broker: Broker) -> None:
    client = await broker.customer()
    async with listening(client) as socket:
        path = f"/admin/v1/customers/{client.customer_id}/keys/{credentials(client)[0]}"
        await broker.operator.call("DELETE", path)
        assert (await socket.receive(WITHIN_S)).type is WSMsgType.CLOSE


# ------------------------------------------------------------------ what is listened to


async def test_listening_replaces_what_was_listened_to(broker: Broker) -> None:
    """Nothing of before, of between, or of streams that there are not is told."""
    client = await broker.customer()
    await rejected(client)
    async with connected(client) as socket:
        await socket.send_json(authenticate(client))
        assert await hear(socket) == verdict("authorized")
        await rejected(client)
        await socket.send_json({"action": "listen", "data": {"streams": ["trade_updates", "no_such"]}})
        assert await hear(socket) == LISTENING
        await socket.send_json(LISTEN)
        assert await hear(socket) == LISTENING
        await rejected(client)
        assert words(await updates(socket, "rejected")) == ["pending_new", "rejected"]
        await socket.send_json({"action": "listen", "data": {"streams": []}})
        assert await hear(socket) == {"stream": "listening", "data": {"streams": []}}
        await rejected(client)
        await socket.send_json(LISTEN)
        assert await hear(socket) == LISTENING
        await rejected(client)
        assert words(await updates(socket, "rejected")) == ["pending_new", "rejected"]


async def test_who_listens_again_and_again_sends_requests(with_settings: Callable[..., Config]) -> None:
    """Each reads the database. The first time is a part of opening the stream."""
    async with run_broker(with_settings(requests_per_second=1, requests_burst=5)) as broker:
        client = await broker.customer()
        heard: list[WSMsgType] = []
        async with listening(client) as socket:
            for streams in [[], ["trade_updates"]] * 40:
                await socket.send_json({"action": "listen", "data": {"streams": streams}})
            while not heard or heard[-1] is WSMsgType.TEXT:
                heard.append((message := await socket.receive(WITHIN_S)).type)
        assert (heard[-1], message.data) == (WSMsgType.CLOSE, 1008)
        assert 7 <= len(heard) < 60, "it was off five times or some more, and then came verdict and close"


async def test_what_makes_no_sense_ends_nothing(broker: Broker) -> None:
    client = await broker.customer()
    async with listening(client) as socket:
        for said in ("", "{", "[]", '{"action": 1}', '{"action": "listen", "data": 3}', '"é', "[" * 5000):
            await socket.send_str(said)
        await socket.send_bytes(b"\xff\xfe")
        await rejected(client)
        assert words(await updates(socket, "rejected")) == ["pending_new", "rejected"]


async def test_a_client_that_takes_nothing_is_cut_off(with_settings: Callable[..., Config]) -> None:
    settings = with_settings(stream_stall_s=0.3, stream_buffer_max=4096, stream_ping_s=60.0)
    async with run_broker(settings) as broker:
        client = await broker.customer()
        async with narrow(client) as slow, listening(slow) as socket:
            transport = socket._response.connection.transport  # type: ignore[union-attr]
            transport.pause_reading()
            for _ in range(100):
                await rejected(client)

            async def is_cut() -> bool:
                _, text = await metrics(broker)
                return "broker_stream_cut_total 1.0" in text

            await eventually(is_cut)
            transport.abort()  # else it waits for the end of what it does not read


async def metrics(broker: Broker) -> tuple[int, str]:
    async with broker.http.get(broker.running.url + "/metrics") as response:
        return response.status, await response.text()


async def test_the_broker_says_goodbye(config: Config) -> None:
    async with run_broker(config) as broker:
        client = await broker.customer()
        socket = await client.http.ws_connect(client.url + "/stream")
        await socket.send_json(authenticate(client))
        await hear(socket)
        goodbye = asyncio.create_task(socket.receive(WITHIN_S))
    message = await goodbye
    assert (message.type, message.data) == (WSMsgType.CLOSE, 1001)


# ------------------------------------------------------------------ Alpaca's own client


@pytest.mark.usefixtures("forgotten_tasks")
async def test_the_official_client_hears_its_orders(broker: Broker) -> None:
    client = await broker.customer()
    key, secret = credentials(client)
    stream = TradingStream(key, secret, url_override=broker.running.url.replace("http", "ws") + "/stream")
    heard: list[TradeUpdate] = []

    async def take(each: TradeUpdate) -> None:
        heard.append(each)

    stream.subscribe_trade_updates(take)
    running = asyncio.create_task(asyncio.to_thread(stream.run))
    try:
        while not heard or heard[-1].event != "fill":  # it begins now: one that was placed earlier is not told
            await order(client, qty=1)
            await asyncio.sleep(0.2)
    finally:
        await asyncio.to_thread(stream.stop)
        await running
    assert {type(each) for each in heard} == {TradeUpdate}
    assert heard[-1].position_qty is not None
    assert heard[-1].position_qty >= 1


# ------------------------------------------------------------------ orders that wait here


async def test_the_orders_of_a_bracket_are_held_until_their_entry_is_filled(broker: Broker) -> None:
    client = await broker.customer()
    async with listening(client) as socket:
        placed = await order(
            client,
            qty="2",
            order_class="bracket",
            take_profit={"limit_price": "900.00"},
            stop_loss={"stop_price": "1.00"},
        )
        legs = {leg["type"]: leg["id"] for leg in placed["legs"]}
        found = []
        while not {"new", "held"} <= {each["event"] for each in found if each["order"]["id"] == legs["limit"]}:
            found.append(await update(socket))
        lives = {
            name: [each["event"] for each in found if each["order"]["id"] == id_]
            for name, id_ in {"entry": placed["id"], **legs}.items()
        }
        assert lives == {
            "entry": ["pending_new", "new", *["partial_fill"] * (len(lives["entry"]) - 3), "fill"],
            "limit": ["pending_new", "held", "new"],
            "stop": ["pending_new", "held"],
        }
        status, _ = await alpaca(client, "DELETE", f"/v2/orders/{placed['legs'][0]['id']}")
        assert status == 204
        more = []
        while len([1 for each in more if each["event"] == "canceled"]) < 2:
            more.append(await update(socket))
    assert {(each["event"], each["order"]["id"]) for each in more} == {
        ("pending_cancel", legs["limit"]),
        ("canceled", legs["limit"]),
        ("canceled", legs["stop"]),
    }


async def test_a_trailing_stop_is_new_from_when_it_follows_the_market(broker: Broker) -> None:
    client = await broker.customer()
    async with listening(client) as socket:
        await order(client, qty="2")
        await updates(socket, "fill")
        await order(client, qty="2", side="sell", type="trailing_stop", trail_price="0.02")
        found = await updates(socket, "fill")
    assert words(found) == ["pending_new", "new", *["partial_fill"] * (len(found) - 3), "fill"]
    assert (found[1]["order"]["status"], found[1]["order"]["trail_price"]) == ("new", "0.02")
    assert found[-1]["position_qty"] == "0"
