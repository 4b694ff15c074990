"""The HTTP venue: what an exchange may answer, and what counts as no answer."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import aiohttp
import orjson
import pytest
from aiohttp import web

from broker.core import trading
from broker.core.messages import Anomaly, Described, ReplaceTrade, Report, ReportType
from broker.core.messages import Refused as RefusedTrade
from broker.core.types import Fill, OrderType
from broker.exchange import ExchangeUnavailable, HttpVenue, Refused
from tests.builders import FixedMarket, account, conditions, dollars, fill, settle, trade_id, working

IDS = [trade_id(number) for number in (1, 2, 3)]


class Answering:
    """An exchange that answers what the test says."""

    def __init__(self) -> None:
        self.body = b""
        self.status = 200
        self.delay_s = 0.0
        self.asked: list[tuple[str, Any]] = []

    async def answer(self, request: web.Request) -> web.Response:
        content = await request.read()
        self.asked.append((f"{request.method} {request.path_qs}", orjson.loads(content) if content else None))
        await asyncio.sleep(self.delay_s)
        return web.Response(body=self.body, status=self.status)


@pytest.fixture
async def exchange() -> Answering:
    return Answering()


@pytest.fixture
async def venue(exchange: Answering) -> AsyncIterator[HttpVenue]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", exchange.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session:
        yield HttpVenue("sim", f"http://{host}:{port}", "http://127.0.0.1:1/webhooks/exchange", session, 10_000)
    await runner.cleanup()


def a_state(id_: UUID, **changes: Any) -> dict[str, Any]:
    return {
        "id": str(id_),
        "status": "FILLED",
        "filled_quantity": 10,
        "reason": None,
        "executions": [{"execution_id": f"{id_}-1", "quantity": 10, "price": "190.20"}],
    } | changes


async def test_an_order_says_all_that_the_contract_wants(exchange: Answering, venue: HttpVenue) -> None:
    trade = working(account(cash="100000"), FixedMarket({"AAPL": "190.20"}))
    exchange.body = orjson.dumps([{"id": str(trade.trade_id), "status": "ACCEPTED", "reason": None}])
    assert await venue.execute([trade]) == [None]
    order = {
        "id": str(trade.trade_id),
        "symbol": "AAPL",
        "side": "BUY",
        "type": "market",
        "quantity": 10,
        "max_price": "1997.10",
        "callback_url": "http://127.0.0.1:1/webhooks/exchange",
    }
    assert exchange.asked == [("POST /v1/orders", [order])]


async def test_the_same_order_says_the_same_after_a_part_of_it_was_filled(venue: HttpVenue) -> None:
    holder = account(cash="100000")
    trade = working(holder, FixedMarket({"AAPL": "190.20"}))
    before = venue._order(trade)
    settle(holder, trade, fill(trade, 4, "190.00"))
    assert venue._order(trade) == before


@pytest.mark.parametrize(
    ("status", "expected"), [("ACCEPTED", None), ("EXISTS", None), ("INVALID", Refused("unknown symbol"))]
)
async def test_each_result_of_an_order(
    status: str, expected: Refused | None, exchange: Answering, venue: HttpVenue
) -> None:
    trade = working(account(cash="100000"), FixedMarket({"AAPL": "190.20"}))
    exchange.body = orjson.dumps([{"id": str(trade.trade_id), "status": status, "reason": "unknown symbol"}])
    assert await venue.execute([trade]) == [expected]


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, b"[]"),
        (404, b"[]"),
        (429, b"[]"),
        (200, b""),
        (200, b"<html>"),
        (200, b"[]"),
        (200, b'[{"id": "00000000-0000-0000-0000-000000000009", "status": "ACCEPTED"}]'),
        (200, b'[{"id": "00000000-0000-0000-0000-000000000001", "status": "FINE"}]'),
        (200, b"x" * 20_000),
        (200, b"[" * 9_000),
    ],
)
async def test_any_other_answer_to_an_order_is_unknown_and_never_a_refusal(
    status: int, body: bytes, exchange: Answering, venue: HttpVenue
) -> None:
    exchange.status, exchange.body = status, body
    trade = working(account(cash="100000"), FixedMarket({"AAPL": "190.20"}))
    with pytest.raises(ExchangeUnavailable):
        await venue.execute([trade])


async def test_no_answer_in_time_is_unknown(exchange: Answering, venue: HttpVenue) -> None:
    exchange.delay_s = 1
    venue._session._timeout = aiohttp.ClientTimeout(total=0.3)
    with pytest.raises(ExchangeUnavailable, match="TimeoutError"):
        await venue.lookup(IDS)


async def test_nobody_there_is_unknown(venue: HttpVenue) -> None:
    venue.url = "http://127.0.0.1:1"
    with pytest.raises(ExchangeUnavailable, match="ClientConnectorError"):
        await venue.lookup(IDS)


async def test_a_lookup_tells_executions_and_the_end(exchange: Answering, venue: HttpVenue) -> None:
    cancelled = a_state(IDS[1], status="CANCELLED", filled_quantity=0, executions=[], reason="no buyers")
    exchange.body = orjson.dumps({"orders": [a_state(IDS[0]), cancelled]})
    fill = Fill(10, dollars("190.20"))
    assert await venue.lookup(IDS) == {
        IDS[0]: [Report(IDS[0], ReportType.PARTIALLY_FILLED, "sim", f"{IDS[0]}-1", fill, 10)],
        IDS[1]: [Report(IDS[1], ReportType.CANCELLED, "sim", None, None, 0, "no buyers")],
    }
    assert exchange.asked == [("GET /v1/orders?ids=" + ",".join(map(str, IDS)), None)]


@pytest.mark.parametrize(
    ("fields", "described"),
    [
        ({}, None),
        ({"symbol": None, "side": None, "quantity": None}, None),
        ({"symbol": "AAPL", "side": "BUY", "quantity": 10, "type": "market"}, Described("AAPL", "BUY", 10)),
        ({"symbol": "MSFT"}, Described("MSFT")),
        ({"side": "\0 buy or sell", "quantity": -1}, Described(None, "\0 BUY OR SELL", -1)),
        ({"symbol": "aapl", "side": "buy"}, Described("AAPL", "BUY")),
        ({"symbol": {"name": "AAPL"}, "side": 1, "quantity": "10"}, None),
        ({"symbol": "", "side": [], "quantity": 10.5}, None),
        ({"symbol": "A" * 5_000}, Described("A" * 20)),
    ],
)
async def test_17_a_lookup_tells_which_order_it_is_as_far_as_the_exchange_says(
    fields: dict[str, Any], described: Described | None, exchange: Answering, venue: HttpVenue
) -> None:
    busted = {"execution_id": "e1", "quantity": 10, "price": "190.20", "busted": True}
    state = a_state(IDS[0], status="CANCELLED", executions=[busted], **fields)
    exchange.body = orjson.dumps({"orders": [state]})
    reports = (await venue.lookup(IDS))[IDS[0]]
    assert [report.type for report in reports] == ["PARTIALLY_FILLED", "BUSTED", "CANCELLED"]
    assert [report.described for report in reports] == [described] * 3


@pytest.mark.parametrize("kind", ["market", "trailing", "replacement", "filled in part"])
async def test_17_what_the_exchange_repeats_of_what_was_sent_is_our_order(
    kind: str, exchange: Answering, venue: HttpVenue
) -> None:
    holder = account(cash="100000")
    trade = working(holder, FixedMarket({"AAPL": "190.20"}), limit="190.00" if kind == "replacement" else None)  # type: ignore[arg-type]
    if kind == "trailing":
        trade.order_type = OrderType.TRAILING_STOP
    if kind in {"replacement", "filled in part"}:
        settle(holder, trade, fill(trade, 4, "190.00"))
    if kind == "replacement":
        command = ReplaceTrade(trade_id(7), holder.customer_id, trade.trade_id, 3)
        events = trading.replace(holder, trade, command, conditions(FixedMarket({"AAPL": "190.20"})))
        assert not isinstance(events, RefusedTrade)
        trade = events[0].trade
        assert (trade.quantity, trade.replaces_filled) == (3, 4)
    sent = venue._order(trade)
    state = {name: sent[name] for name in ("symbol", "side", "type", "quantity")} | {"id": str(trade.trade_id)}
    exchange.body = orjson.dumps(
        {"orders": [a_state(trade.trade_id, **state, status="CANCELLED", filled_quantity=0, executions=[])]}
    )
    ((report,),) = (await venue.lookup([trade.trade_id])).values()
    assert report.described == Described("AAPL", "BUY", trade.quantity)
    assert settle(holder, trade, report) is not Anomaly.ANOTHER_ORDER


async def test_one_malformed_state_is_known_to_exist_and_spoils_no_other(exchange: Answering, venue: HttpVenue) -> None:
    bad = a_state(IDS[0], executions=[{"execution_id": "x", "quantity": 10, "price": "-1"}])
    exchange.body = orjson.dumps({"orders": [bad, a_state(IDS[1])]})
    found = await venue.lookup(IDS)
    assert (found[IDS[0]], len(found[IDS[1]])) == ([], 1)
    assert IDS[2] not in found


@pytest.mark.parametrize(
    "body", [b"", b"{}", b'{"orders": [{}]}', b'{"orders": [{"id": 5}]}', b'{"orders": [{"x": ' + b"[" * 9_000]
)
async def test_a_lookup_that_names_nobody_is_no_answer(body: bytes, exchange: Answering, venue: HttpVenue) -> None:
    exchange.body = body
    with pytest.raises(ExchangeUnavailable):
        await venue.lookup(IDS)
