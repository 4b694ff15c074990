"""Rows of the fault table (docs/reliability.md) that need a whole broker and belong to no other test."""

import asyncio
import functools
import json
import re
import socket
import ssl
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest
from aiohttp import ThreadedResolver, web
from aiohttp.test_utils import TestServer

from broker.config import Config
from broker.core import signing
from tests.conftest import Broker, eventually, run_broker
from tests.integration.test_webhook import ASK, KEY, Desk, QuietExchange, desk, event, fill, state

__all__ = ["desk"]  # a fixture

STORM = 100_000
AT_ONCE = 250


@pytest.mark.timeout(300)
async def test_12_a_storm_of_100000_events_is_taken_in_and_orders_go_on(desk: Desk) -> None:
    """After an outage everything is said again at once: a full queue answers 503, and loses nothing."""
    rich = await desk.broker.customer(cash="1000000.00")
    _, placed = await rich.place("BUY", "AAPL", AT_ONCE)

    async def arrived() -> bool:
        return placed["tradeId"] in desk.exchange.orders

    await eventually(arrived)
    fills = [
        fill(placed["tradeId"], f"e{n}", 1, filled_quantity=n)
        | {"type": "FILLED" if n == AT_ONCE else "PARTIALLY_FILLED"}
        for n in range(1, AT_ONCE + 1)
    ]
    body = json.dumps(fills).encode()
    answers = []

    async def deliver() -> None:
        while True:
            status, _ = await desk.send(body, desk.signed(body))
            answers.append(status)
            if status == 204:
                return
            await asyncio.sleep(0.05)

    async with asyncio.TaskGroup() as storm:
        for _ in range(STORM // AT_ONCE):
            storm.create_task(deliver())
        while (answer := await desk.customer.place("BUY", "AAPL", 1))[0] != 201:
            assert answer[0] == 503
            assert answer[1]["code"] in {"overloaded", "database_unavailable"}
            await asyncio.sleep(0.05)
        other = answer[1]
    assert set(answers) <= {204, 503}
    assert (await rich.trade(placed["tradeId"]))["status"] == "FILLED"
    settled = await desk.broker.fetch("SELECT count(*), sum(last_qty) FROM execution")
    assert tuple(settled[0]) == (AT_ONCE, AT_ONCE)
    assert (await desk.says(fill(other["tradeId"], "other", 1) | {"type": "FILLED"}))[0] == 204


class SlowForOne(QuietExchange):
    """Holds back its answer to every array that has an order for this many shares in it."""

    slow_quantity = 7
    held_back = 0

    async def _take(self, request: web.Request) -> web.Response:
        answer = await super()._take(request)
        if any(order["quantity"] == self.slow_quantity for order in await request.json()):
            self.held_back += 1
            await asyncio.sleep(3600)
        return answer


async def test_20_an_exchange_that_is_slow_for_one_customer_holds_up_no_other(
    with_settings: Callable[..., Config],
) -> None:
    exchange = SlowForOne()
    async with TestServer(exchange.app()) as server:
        settings = {"exchange": str(server.make_url("/")), "webhook_secrets": signing.encode_secret(KEY)}
        async with run_broker(with_settings(**settings, exchange_timeout_s=600.0)) as broker:
            slow, other = await broker.customer(), await broker.customer()
            _, stuck = await slow.place("BUY", "AAPL", SlowForOne.slow_quantity)

            async def is_held_back() -> bool:
                return exchange.held_back > 0

            await eventually(is_held_back)
            mine = Desk(broker, exchange, other)
            for number in range(20):
                trade_id = await mine.order(quantity=1)
                assert await mine.says(fill(trade_id, f"e{number}", 1) | {"type": "FILLED"}) == (204, None)
            assert (await slow.trade(stuck["tradeId"]))["status"] == "IN PROGRESS"
            await mine.says(event(stuck["tradeId"], "REJECTED", reason="at last"))
            assert (await slow.trade(stuck["tradeId"]))["status"] == "REJECTED"


class Silent(QuietExchange):
    """Takes connections and requests, and while it is silent answers none of them: a half-open connection."""

    def __init__(self) -> None:
        super().__init__()
        self.answers = asyncio.Event()
        self.requests: list[str] = []

    def app(self) -> web.Application:
        app = super().app()
        app.router.add_post("/v1/cancels", self._cancel)
        return app

    async def _take(self, request: web.Request) -> web.Response:
        answer = await super()._take(request)
        await self._hear("order")
        return answer

    async def _look(self, request: web.Request) -> web.Response:
        await self._hear("lookup")
        return await super()._look(request)

    async def _cancel(self, request: web.Request) -> web.Response:
        await self._hear("cancel")
        return web.json_response([{"id": id_, "status": "ACCEPTED"} for id_ in await request.json()])

    async def _hear(self, call: str) -> None:
        self.requests.append(call)
        await self.answers.wait()


async def test_22_a_call_that_is_never_answered_ends_whatever_it_is(with_settings: Callable[..., Config]) -> None:
    """By the deadline that the broker itself sets: without it each of them would be the last that is heard of it."""
    exchange = Silent()
    async with TestServer(exchange.app()) as server:
        url = str(server.make_url("/"))
        settings = {"exchange": url, "webhook_secrets": signing.encode_secret(KEY), "exchange_timeout_s": 0.5}
        async with run_broker(with_settings(**settings, look_after_s=0.1, look_max_s=0.2, order_wait_s=0.1)) as broker:
            customer = await broker.customer()
            _, placed = await customer.place("BUY", "AAPL", 10)
            trade_id = placed["tradeId"]

            async def given_up(*calls: str) -> bool:
                async with broker.http.get(f"{broker.running.url}/metrics") as answer:
                    text = await answer.text()
                return all(re.search(rf'exchange_failures_total{{call="{call}"}} [1-9]', text) for call in calls)

            await eventually(lambda: given_up("execute", "lookup"))
            await customer.call("DELETE", f"/api/v1/orders/{trade_id}")
            await eventually(lambda: given_up("cancel"))
            assert exchange.requests.count("lookup") >= 2
            assert exchange.requests.count("order") == 1, "whether it has the first copy it has not said"
            assert (await customer.trade(trade_id))["status"] == "IN PROGRESS"
            exchange.states[trade_id] = state(trade_id, "FILLED", ("e-1", 10, ASK))
            exchange.answers.set()
            assert (await customer.ended(trade_id))["status"] == "FILLED"
            await broker.books_are_right()


class Names(ThreadedResolver):
    """A name server that a test switches off; all names are this machine."""

    is_away = False
    asked = 0

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> Any:
        self.asked += 1
        if self.is_away:
            raise OSError(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return await super().resolve("127.0.0.1", port, family)


async def close_each(_: web.Request, response: web.StreamResponse) -> None:
    """No connection is used twice: for each request the name is looked up and, with TLS, hands are shaken."""
    if not isinstance(response, web.WebSocketResponse):
        response.force_close()


async def orders_wait_until_it_is_back(
    broker: Broker, exchange: QuietExchange, was_tried: Callable[[], int], come_back: Callable[[], None]
) -> None:
    """Two customers' orders, of which nothing arrives; then both do, each once, and end as the exchange says."""
    customers = [await broker.customer(), await broker.customer()]
    before = was_tried()
    trades = [(await customer.place("BUY", "AAPL", 10))[1]["tradeId"] for customer in customers]

    async def tried() -> bool:
        return was_tried() >= before + 6

    await eventually(tried)
    assert exchange.orders == {}
    for customer, trade_id in zip(customers, trades, strict=True):
        assert (await customer.trade(trade_id))["status"] == "IN PROGRESS"
    exchange.states = {id_: state(id_, "FILLED", (f"e-{number}", 10, ASK)) for number, id_ in enumerate(trades)}
    come_back()
    for customer, trade_id in zip(customers, trades, strict=True):
        assert (await customer.ended(trade_id))["status"] == "FILLED"
    assert exchange.orders.keys() == set(trades)
    await broker.books_are_right()


async def test_22_orders_wait_while_the_exchange_has_no_address(
    with_settings: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    exchange, names = QuietExchange(), Names()
    app = exchange.app()
    app.on_response_prepare.append(close_each)
    connector = functools.partial(aiohttp.TCPConnector, resolver=names, use_dns_cache=False)
    monkeypatch.setattr("broker.app.aiohttp.TCPConnector", connector)
    async with TestServer(app) as server:
        url = f"http://exchange.example:{server.port}"
        settings = {"exchange": url, "webhook_secrets": signing.encode_secret(KEY)}
        async with run_broker(with_settings(**settings, look_after_s=0.05, look_max_s=0.1)) as broker:
            names.is_away = True
            await orders_wait_until_it_is_back(
                broker, exchange, lambda: names.asked, lambda: setattr(names, "is_away", False)
            )


EXTENSIONS = "subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\nauthorityKeyIdentifier=keyid\n"


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    """A folder with an authority's ca.pem, and of it good.pem and expired.pem for this machine, with their keys."""

    def openssl(*arguments: str) -> None:
        try:
            subprocess.run(["openssl", *arguments], cwd=tmp_path, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"there is no openssl that makes such certificates: {error}")

    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    (tmp_path / "extensions").write_text(EXTENSIONS)
    usage = ("-addext", "keyUsage=critical,keyCertSign")
    openssl("req", "-x509", *new, "-days", "2", "-subj", "/CN=ca", "-keyout", "ca.key", "-out", "ca.pem", *usage)
    for name, days in (("good", "2"), ("expired", "-1")):
        openssl("req", "-new", *new, "-subj", "/CN=exchange", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", days, "-extfile", "extensions")
        openssl("x509", "-req", "-in", f"{name}.csr", *signed, "-out", f"{name}.pem")
    return tmp_path


async def test_22_orders_wait_while_the_exchanges_certificate_has_expired(
    with_settings: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, certificates: Path
) -> None:
    exchange, tried = QuietExchange(), []
    app = exchange.app()
    app.on_response_prepare.append(close_each)
    shown = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    shown.sni_callback = lambda *_: tried.append(None)

    def show(name: str) -> None:
        shown.load_cert_chain(certificates / f"{name}.pem", certificates / f"{name}.key")

    show("good")
    ours = ssl.create_default_context(cafile=certificates / "ca.pem")
    monkeypatch.setattr("broker.app.aiohttp.TCPConnector", functools.partial(aiohttp.TCPConnector, ssl=ours))
    server = TestServer(app, scheme="https")
    await server.start_server(ssl=shown)
    try:
        settings = {"exchange": str(server.make_url("/")), "webhook_secrets": signing.encode_secret(KEY)}
        async with run_broker(with_settings(**settings, look_after_s=0.05, look_max_s=0.1)) as broker:
            show("expired")
            with pytest.raises(aiohttp.ClientConnectorCertificateError, match="certificate has expired"):
                async with aiohttp.ClientSession(connector=aiohttp.TCPConnector()) as http:
                    await http.get(server.make_url("/"))
            await orders_wait_until_it_is_back(broker, exchange, lambda: len(tried), lambda: show("good"))
    finally:
        await server.close()


async def test_28_a_loop_that_stood_still_for_five_seconds_goes_on_where_it_was(broker: Broker) -> None:
    customer = await broker.customer()
    waiting = [asyncio.create_task(customer.place("BUY", "AAPL", 1)) for _ in range(20)]
    await asyncio.sleep(0)
    time.sleep(5)  # noqa: ASYNC251 - a garbage collection, a name server, a page on disk
    waiting += [asyncio.create_task(customer.place("SELL", "AAPL", 1)) for _ in range(20)]
    answers = await asyncio.gather(*waiting)
    for _, placed in [answer for answer in answers if answer[0] == 201]:
        assert (await customer.ended(placed["tradeId"], 60))["status"] in {"FILLED", "REJECTED"}
    assert {status for status, _ in answers} <= {201, 503}
    assert answers[-1][0] == 201


async def test_43_whoever_locks_the_tables_holds_orders_up_and_breaks_nothing(
    with_settings: Callable[..., Config],
) -> None:
    """An operator's ALTER TABLE beside us: nobody waits for longer than he was told to, and nothing is lost."""
    async with run_broker(with_settings(place_wait_s=1.0)) as broker:
        customer = await broker.customer()
        owner = await asyncpg.connect(broker.dsn)
        async with owner.transaction():
            await owner.execute("LOCK TABLE broker.trade, broker.account IN ACCESS EXCLUSIVE MODE")
            key = {"Idempotency-Key": "through-the-lock"}
            status, answer = await customer.place("BUY", "AAPL", 1, headers=key)
            assert (status, answer["code"]) == (503, "database_unavailable")

        async def placed() -> Any:
            status, answer = await customer.place("BUY", "AAPL", 1, headers=key)
            return status in {200, 201} and answer

        trade = await eventually(placed, 60)
        assert (await customer.ended(trade["tradeId"], 60))["status"] == "FILLED"
        assert len(await broker.fetch("SELECT FROM trade")) == 1
        await owner.close()
        await broker.books_are_right()
