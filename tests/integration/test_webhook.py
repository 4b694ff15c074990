"""POST /webhooks/exchange, against an exchange that says only what a test tells it to say."""

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import pytest
from aiohttp import WSMsgType, web
from aiohttp.test_utils import TestServer

from broker.config import Config
from broker.core import signing
from tests.conftest import Broker, Client, eventually, run_broker

KEY, NEXT_KEY, STRANGE_KEY = bytes(range(32)), bytes(range(1, 33)), bytes(range(2, 34))
ASK = "100.00"
HOLD = "1050.00"
"""What a BUY of 10 at the ask reserves."""

Event = dict[str, Any]
Answer = tuple[int, Any]


# ------------------------------------------------------------------ the exchange


@dataclass
class QuietExchange:
    """Takes every order and calls nobody back; what it says when it is asked is what a test has put into `states`."""

    orders: dict[str, Any] = field(default_factory=dict)
    states: dict[str, Any] = field(default_factory=dict)
    asked_about: list[str] = field(default_factory=list)
    refusal: str | None = None
    away: bool = False

    def app(self) -> web.Application:
        app = web.Application()
        app.add_routes(
            [web.post("/v1/orders", self._take), web.get("/v1/orders", self._look), web.get("/v1/feed", self._feed)]
        )
        return app

    async def _take(self, request: web.Request) -> web.Response:
        orders = await request.json()
        self.orders |= {order["id"]: order for order in orders}
        status = "INVALID" if self.refusal else "ACCEPTED"
        return web.json_response([{"id": order["id"], "status": status, "reason": self.refusal} for order in orders])

    async def _look(self, request: web.Request) -> web.Response:
        ids = request.query["ids"].split(",")
        self.asked_about += ids
        if self.away:
            return web.Response(status=500)
        known = [self.states.get(id_) or state(id_, "ACCEPTED") for id_ in ids if id_ in self.orders]
        return web.json_response({"orders": known})

    async def _feed(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        quote = {"symbol": "AAPL", "bid": "99.90", "ask": ASK, "last": "99.95", "at": "2026-11-27T14:30:00+00:00"}
        await socket.send_json({"type": "snapshot", "sequence": 1, "quotes": [quote]})
        async for message in socket:
            assert message.type is WSMsgType.TEXT
        return socket


def state(order_id: str, status: str, *fills: tuple[str, int, str], reason: str | None = None) -> Event:
    """What the exchange answers when it is asked about an order."""
    return {
        "id": order_id,
        "status": status,
        "filled_quantity": sum(quantity for _, quantity, _ in fills),
        "executions": [{"execution_id": id_, "quantity": quantity, "price": price} for id_, quantity, price in fills],
        "reason": reason,
    }


def event(trade_id: str, type_: str, filled: int = 0, reason: str | None = None) -> Event:
    """An event that moves no shares."""
    return {"type": type_, "order_id": trade_id, "filled_quantity": filled, "reason": reason}


def fill(trade_id: str, execution_id: str, quantity: int = 10, price: str = ASK, **fields: object) -> Event:
    """An event about shares that changed hands; FILLED where it is all 10."""
    type_ = "FILLED" if quantity == 10 else "PARTIALLY_FILLED"
    figures = {"execution_id": execution_id, "quantity": quantity, "price": price, "filled_quantity": quantity}
    return event(trade_id, type_) | figures | fields


# ------------------------------------------------------------------ the broker beside it


@dataclass
class Desk:
    """A broker, its exchange, and a customer with $10,000."""

    broker: Broker
    exchange: QuietExchange
    customer: Client
    messages: "itertools.count[int]" = field(default_factory=itertools.count)

    async def order(self, type_: str = "BUY", quantity: int = 10) -> str:
        """Place a trade; its id, once the exchange has it."""
        _, placed = await self.customer.place(type_, "AAPL", quantity)

        async def arrived() -> bool:
            return placed["tradeId"] in self.exchange.orders

        await eventually(arrived)
        return str(placed["tradeId"])

    def signed(self, body: bytes, key: bytes = KEY, at: float | None = None) -> dict[str, str]:
        """The headers of a callback with this body."""
        id_, seconds = f"msg_{next(self.messages)}", int(time.time() if at is None else at)
        return {
            "webhook-id": id_,
            "webhook-timestamp": str(seconds),
            "webhook-signature": signing.sign(key, id_, seconds, body),
        }

    async def send(self, body: bytes, headers: dict[str, str]) -> Answer:
        """A callback as it stands: the status, and the machine's name of the error."""
        async with self.broker.http.post(
            f"{self.broker.running.url}/webhooks/exchange", data=body, headers=headers
        ) as response:
            text = await response.text()
            return response.status, json.loads(text)["code"] if text else None

    async def says(self, content: object, **signature: Any) -> Answer:
        """An event or an array of them, signed."""
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        return await self.send(body, self.signed(body, **signature))

    async def trade(self, trade_id: str) -> tuple[str, list[tuple[str, int, str]], str]:
        """Where a trade stands: status, executions, reason."""
        trade = await self.customer.trade(trade_id)
        executions = [(each["executionId"], each["quantity"], each["price"]) for each in trade["executions"]]
        return trade["status"], sorted(executions), trade["reason"]

    async def cash(self) -> tuple[str, str]:
        """The customer's cash, and how much of it is reserved."""
        _, balance = await self.customer.call("GET", "/api/v1/balance")
        return balance["amount"], balance["held"]

    async def shares(self) -> int:
        _, positions = await self.customer.call("GET", "/api/v1/positions")
        return sum(each["quantity"] for each in positions["positions"])

    async def suspense(self) -> int:
        """The shares that nobody can have."""
        row = await self.broker.fetch(
            "SELECT coalesce(sum(balance), 0) FROM account WHERE -owner_id % 10 = 5 AND asset = 'AAPL'"
        )
        return int(row[0][0])

    async def customers_books(self, trade_id: str) -> object:
        """What the customer has, and where the trade stands."""
        return await self.trade(trade_id), await self.cash(), await self.shares()

    async def inbox(self) -> list[str]:
        """What was put aside for a person to read, by its cause."""
        return [row["cause"] for row in await self.broker.fetch("SELECT cause FROM inbox ORDER BY inbox_id")]

    async def everything(self) -> list[Any]:
        """All that a callback could change; an account's version only says that somebody has looked at it."""
        account = "(SELECT owner_id, asset, balance, held, floor, cost, gain FROM account) AS account"
        tables = (account, "transfer", "posting", "trade", "execution", "event", "inbox")
        return [
            [tuple(row) for row in await self.broker.fetch(f"SELECT * FROM {name} ORDER BY 1, 2")] for name in tables
        ]


@pytest.fixture
async def desk(with_settings: Callable[..., Config]) -> AsyncIterator[Desk]:
    """At the end of each test the books must be right."""
    exchange = QuietExchange()
    secrets = f"{signing.encode_secret(KEY)}, {signing.encode_secret(NEXT_KEY)}"
    async with TestServer(exchange.app()) as server:
        settings = {
            "exchange": str(server.make_url("/")),
            "webhook_secrets": secrets,
            "look_after_s": 60.0,
            "look_max_s": 60.0,
        }
        async with run_broker(with_settings(**settings)) as broker:
            yield Desk(broker, exchange, await broker.customer(cash="10000.00"))
            await broker.books_are_right()


# ------------------------------------------------------------------ who is let in

FORGED: dict[str, Callable[[dict[str, str]], dict[str, str]]] = {
    "nothing": lambda _: {},
    "no id": lambda good: {name: good[name] for name in ("webhook-timestamp", "webhook-signature")},
    "no timestamp": lambda good: {name: good[name] for name in ("webhook-id", "webhook-signature")},
    "no signature": lambda good: {name: good[name] for name in ("webhook-id", "webhook-timestamp")},
    "another id": lambda good: good | {"webhook-id": "msg_x"},
    "another time": lambda good: good | {"webhook-timestamp": str(int(good["webhook-timestamp"]) + 1)},
    "no time": lambda good: good | {"webhook-timestamp": "now"},
    "a time of 5000 digits": lambda good: good | {"webhook-timestamp": "1" * 5000},
    "an empty signature": lambda good: good | {"webhook-signature": ""},
    "a signature that is not ASCII": lambda good: good | {"webhook-signature": "v1,é"},
    "an id that is not ASCII": lambda good: good | {"webhook-id": "é"},
    "a time that is not ASCII": lambda good: good | {"webhook-timestamp": "\u0661"},
    "a signature of another version": lambda good: (
        good | {"webhook-signature": good["webhook-signature"].replace("v1", "v2")}
    ),
    "a token instead": lambda _: {"Authorization": "Bearer whsec_x"},
}


async def test_nothing_that_the_exchange_did_not_sign_is_heard(desk: Desk) -> None:
    trade_id = await desk.order()
    body = json.dumps(fill(trade_id, "e-1")).encode()
    before = await desk.everything()
    answers = {name: await desk.send(body, forge(desk.signed(body))) for name, forge in FORGED.items()}
    answers["another's key"] = await desk.says(body, key=STRANGE_KEY)
    answers["another body"] = await desk.send(body.replace(b"100.00", b"1.00"), desk.signed(body))
    answers["a space more"] = await desk.send(body + b" ", desk.signed(body))
    answers["no body"] = await desk.send(b"", desk.signed(body))
    assert answers == dict.fromkeys(answers, (401, "bad_signature"))
    assert await desk.everything() == before
    assert desk.exchange.asked_about == []
    assert await desk.says(body) == (204, None)


async def test_while_a_secret_is_rotated_both_are_good(desk: Desk) -> None:
    trade_id = await desk.order()
    assert await desk.says(fill(trade_id, "e-1", 4), key=KEY) == (204, None)
    assert await desk.says(fill(trade_id, "e-2", 6), key=NEXT_KEY) == (204, None)
    assert (await desk.trade(trade_id))[0] == "FILLED"


async def test_what_is_not_in_the_contracts_form_is_refused_as_a_whole(desk: Desk) -> None:
    trade_id = await desk.order()
    good = fill(trade_id, "e-1")
    wrong_fields: list[Event] = [
        *({name: None} for name in ("execution_id", "quantity", "price", "order_id", "type")),
        *(
            {"price": price}
            for price in ("0", "0.00", "-1.00", "NaN", "Infinity", "1e2", "1" + "0" * 30, 100, 100.0, True)
        ),
        *({"price": price} for price in ("", " 100", "100.00001", "1000000.0001", "\uff11", "1_0", "100.00\n", [])),
        *({"quantity": quantity} for quantity in (0, -1, 1.5, 10.0, "10", True, [], 10_000_001, 10**30)),
        *({"execution_id": id_} for id_ in ("", "x" * 201, "e\0", 7, [])),
        *({"order_id": id_} for id_ in ("", "1", trade_id + "0", trade_id[:-1], 7, "\0")),
        *({"type": type_} for type_ in ("", "filled", "DONE", "x" * 10_000, 7)),
        *({"filled_quantity": quantity} for quantity in ("10", 1.5, None)),
        {"reason": 7},
    ]
    bodies = [
        *(json.dumps(good | wrong).encode() for wrong in wrong_fields),
        *(json.dumps({name: value for name, value in good.items() if name != left_out}).encode()
          for left_out in ("execution_id", "quantity", "price", "order_id", "type")),
        *(b"", b"null", b"7", b'"FILLED"', b"{}", b"[[]]", b"[null]", b"FILLED", b"\xff", b"\xef\xbb\xbf[]", b"[1,]"),
        *(json.dumps(good).encode() + b"x", json.dumps(good).encode("utf-16"), json.dumps(good).encode()[:-1]),
        json.dumps(good).replace('"100.00"', "NaN").encode(),
        json.dumps(good | {"reason": "\ud800"}).encode(),
        json.dumps(good).replace('"reason": null', '"x": ' + "[" * 500_000).encode(),
        b"[" * 1_000_000,
        json.dumps([good, good | {"price": "0"}]).encode(),
    ]  # fmt: skip
    before = await desk.everything()
    answers = {body[:300]: await desk.says(body) for body in bodies}
    assert {body: answer for body, answer in answers.items() if answer != (400, "invalid_event")} == {}
    assert len(answers) == len(bodies)
    assert await desk.everything() == before
    assert await desk.says([]) == (204, None)
    assert await desk.says([good]) == (204, None)


async def test_one_callback_carries_so_many_events_and_no_more(desk: Desk) -> None:
    trade_id = await desk.order()
    parts = [fill(trade_id, f"e-{number}", 1) for number in range(8)]
    padding = [event(trade_id, "ACCEPTED")] * 250
    before = await desk.everything()
    assert await desk.says(parts + padding[:249]) == (413, "too_many_events")
    assert await desk.everything() == before
    assert await desk.says(parts + padding[:248]) == (204, None)
    assert len((await desk.trade(trade_id))[1]) == 8


# ------------------------------------------------------------------ old signatures


@pytest.mark.parametrize("seconds", [-301, -100_000, 310])
async def test_of_an_old_message_only_what_the_exchange_says_now_is_settled(desk: Desk, seconds: int) -> None:
    trade_id = await desk.order()
    desk.exchange.states[trade_id] = state(trade_id, "FILLED", ("e-1", 4, "99.00"), ("e-2", 6, "98.00"))
    assert await desk.says(fill(trade_id, "e-9", 10, "1.00"), at=time.time() + seconds) == (204, None)
    assert desk.exchange.asked_about == [trade_id]
    status, executions, _ = await desk.trade(trade_id)
    assert (status, executions) == ("FILLED", [("e-1", 4, "99.00"), ("e-2", 6, "98.00")])
    assert await desk.cash() == ("9016.00", "0.00")


async def test_an_old_message_about_what_did_not_happen_changes_nothing(desk: Desk) -> None:
    trade_id = await desk.order()
    await desk.says(event(trade_id, "ACCEPTED"))
    before = await desk.everything()
    old = [fill(trade_id, "e-1"), fill(str(uuid4()), "e-2"), event(trade_id, "CANCELLED")]
    status, _ = await desk.says(old, at=time.time() - 301)
    assert status == 503, "an exchange that denies what it has spoken of may be blind: it is to say so again"
    assert await desk.everything() == before


async def test_an_old_message_waits_for_an_exchange_that_does_not_answer(desk: Desk) -> None:
    trade_id = await desk.order()
    desk.exchange.away = True
    before = await desk.everything()
    assert await desk.says(fill(trade_id, "e-1"), at=time.time() - 301) == (503, "exchange_unavailable")
    assert await desk.everything() == before


async def test_a_message_within_the_window_is_taken_at_its_word(desk: Desk) -> None:
    trade_id = await desk.order()
    assert await desk.says(fill(trade_id, "e-1"), at=time.time() - 290) == (204, None)
    assert (await desk.trade(trade_id))[0] == "FILLED"
    assert desk.exchange.asked_about == []


# ------------------------------------------------------------------ another order under our id


ANOTHER = {"symbol": "MSFT", "side": "SELL", "type": "limit", "quantity": 500, "price": "1.00", "stop_price": None}
OURS = {"symbol": "AAPL", "side": "BUY", "type": "market", "quantity": 10, "price": None, "stop_price": None}


@pytest.mark.parametrize("named", [("symbol",), ("side",), ("quantity",), tuple(ANOTHER)])
async def test_17_of_another_order_that_the_exchange_has_under_our_id_nothing_is_booked(
    desk: Desk, named: tuple[str, ...]
) -> None:
    trade_id = await desk.order()
    wrong = {name: ANOTHER[name] for name in named}
    before = (await desk.everything())[:-1]
    states = (
        state(trade_id, "ACCEPTED"),
        state(trade_id, "PARTIALLY_FILLED", ("e-1", 5, "1.00")),
        state(trade_id, "FILLED", ("e-1", 500, "1.00")),
        state(trade_id, "CANCELLED", reason="asked"),
    )
    for said in states:
        desk.exchange.states[trade_id] = said | wrong
        for _ in range(2):
            assert await desk.says(fill(trade_id, "e-1"), at=time.time() - 301) == (204, None)
    assert await desk.inbox() == ["another_order"] * 4, "each word of it once"
    assert (await desk.everything())[:-1] == before
    (row,) = await desk.broker.fetch("SELECT payload FROM inbox WHERE payload LIKE '%CANCELLED%'")
    assert repr(wrong.get("symbol")) in row["payload"]
    async with desk.broker.http.get(f"{desk.broker.running.url}/metrics") as answer:
        assert 'broker_anomalies_total{cause="another_order"} 8.0' in (await answer.text()).splitlines()
    desk.exchange.states[trade_id] = state(trade_id, "FILLED", ("e-2", 10, "100.00")) | OURS
    assert await desk.says(fill(trade_id, "e-2"), at=time.time() - 301) == (204, None)
    assert (await desk.trade(trade_id))[:2] == ("FILLED", [("e-2", 10, "100.00")])
    desk.exchange.states[trade_id] = state(trade_id, "FILLED", ("e-1", 500, "1.00")) | wrong
    assert await desk.says(fill(trade_id, "e-1"), at=time.time() - 301) == (204, None)
    assert (await desk.cash(), await desk.shares(), await desk.suspense()) == (("9000.00", "0.00"), 10, 0)


async def test_17_an_order_whose_id_another_one_has_ends_and_the_next_one_goes_out(
    with_settings: Callable[..., Config],
) -> None:
    exchange = QuietExchange()
    async with TestServer(exchange.app()) as server:
        settings = {
            "exchange": str(server.make_url("/")),
            "webhook_secrets": signing.encode_secret(KEY),
            "look_after_s": 2.0,
            "look_max_s": 2.0,
            "forgotten_after_s": 0.5,
        }
        async with run_broker(with_settings(**settings)) as broker:
            desk = Desk(broker, exchange, await broker.customer(cash="10000.00"))
            _, first = await desk.customer.place("BUY", "AAPL", 10)
            exchange.states[first["tradeId"]] = state(first["tradeId"], "ACCEPTED") | ANOTHER
            second = await desk.order()  # a market order holds the next one up until it has ended
            assert (await desk.customer.ended(first["tradeId"]))["status"] == "CANCELLED"
            assert (await desk.trade(first["tradeId"]))[1:] == ([], "the exchange has another order under its id")
            assert await desk.inbox() == ["another_order"]
            assert await desk.says(fill(second, "e-2", 10, "100.00")) == (204, None)
            assert (await desk.cash(), await desk.shares()) == (("9000.00", "0.00"), 10)
            await broker.books_are_right()


# ------------------------------------------------------------------ what events do


async def test_a_fill_is_settled_by_the_time_it_is_acknowledged(desk: Desk) -> None:
    trade_id = await desk.order()
    assert await desk.cash() == ("10000.00", HOLD)
    assert await desk.says(event(trade_id, "ACCEPTED")) == (204, None)
    assert await desk.says(fill(trade_id, "e-1", 10, "101.2345")) == (204, None)
    assert await desk.trade(trade_id) == (
        "FILLED",
        [("e-1", 10, "101.2345")],
        "Filled 10 AAPL at $101.2345 on average.",
    )
    assert (await desk.cash(), await desk.shares()) == (("8987.6550", "0.00"), 10)


async def test_59_a_bust_that_overtakes_its_execution_is_taken_when_the_exchange_was_asked(desk: Desk) -> None:
    """It is answered only then: whoever was to ask later may be killed, and after a 204 nobody says it again."""
    trade_id = await desk.order()
    bust = {**fill(trade_id, "e-1"), "type": "BUSTED"}
    desk.exchange.away = True
    assert await desk.says(bust) == (503, "exchange_unavailable")
    desk.exchange.away = False
    execution = {"execution_id": "e-1", "quantity": 10, "price": "100.00", "busted": True}
    desk.exchange.states[trade_id] = {**state(trade_id, "FILLED", ("e-1", 10, "100.00")), "executions": [execution]}
    assert await desk.says(bust) == (204, None)
    assert (await desk.trade(trade_id))[0] == "FILLED"
    assert (await desk.cash(), await desk.shares()) == (("10000.00", "0.00"), 0)


async def test_8_an_overfill_that_ends_the_order_has_what_came_before_it_fetched(desk: Desk) -> None:
    trade_id = await desk.order()
    desk.exchange.states[trade_id] = state(trade_id, "FILLED", ("e-1", 4, "100.00"), ("e-2", 10, "100.00"))
    assert await desk.says(fill(trade_id, "e-2", 10, "100.00", filled_quantity=14)) == (204, None)
    status, executions, _ = await desk.trade(trade_id)
    assert (status, len(executions)) == ("FILLED", 1)
    assert desk.exchange.asked_about


async def test_8_who_says_that_more_was_executed_than_ordered_is_asked_for_all_of_it(desk: Desk) -> None:
    """Before it is answered: the next word may end the order, and then nobody would ask for the first execution."""
    trade_id = await desk.order()
    fills = [("e-1", 4, "100.00"), ("e-2", 5, "100.00"), ("e-3", 2, "100.00")]
    desk.exchange.states[trade_id] = state(trade_id, "FILLED", *fills)
    desk.exchange.away = True
    told = fill(trade_id, "e-3", 2, filled_quantity=11)
    assert await desk.says(told) == (503, "exchange_unavailable")
    desk.exchange.away = False
    assert await desk.says(told) == (204, None)
    rows = await desk.broker.fetch("SELECT execution_id FROM execution ORDER BY 1")
    assert [row["execution_id"] for row in rows] == ["e-1", "e-2", "e-3"]
    assert (await desk.trade(trade_id))[0] in {"FILLED", "CANCELLED"}


async def test_a_repeated_fill_is_settled_once(desk: Desk) -> None:
    trade_id = await desk.order()
    same = fill(trade_id, "e-1", 4)
    answers = await asyncio.gather(*(desk.says(same) for _ in range(10)), desk.says([same] * 10))
    assert set(answers) == {(204, None)}
    assert (await desk.trade(trade_id))[:2] == ("PARTIALLY FILLED", [("e-1", 4, "100.00")])
    assert await desk.says(fill(trade_id, "e-2", 6)) == (204, None)
    assert await desk.says([same, fill(trade_id, "e-2", 6)]) == (204, None)
    assert (await desk.cash(), await desk.shares()) == (("9000.00", "0.00"), 10)
    assert await desk.inbox() == []


async def test_partial_fills_add_up_in_every_order(desk: Desk) -> None:
    prices = {2: "100.00", 3: "99.00", 5: "98.00"}
    for number, quantities in enumerate(itertools.permutations(prices)):
        trade_id = await desk.order()
        expected = sorted((f"{number}-{quantity}", quantity, prices[quantity]) for quantity in quantities)
        for quantity in quantities:
            # The exchange's last word may come first: it is FILLED, and counts all 10.
            last = {"type": "FILLED", "filled_quantity": 10} if quantity == 5 else {}
            assert (await desk.trade(trade_id))[0] in {"IN PROGRESS", "PARTIALLY FILLED"}
            assert await desk.says(fill(trade_id, f"{number}-{quantity}", quantity, prices[quantity], **last)) == (
                204,
                None,
            )
        assert (await desk.trade(trade_id))[:2] == ("FILLED", expected)
    assert (await desk.cash(), await desk.shares()) == (("4078.00", "0.00"), 60)


async def test_a_word_that_contradicts_the_books_is_kept_once_and_changes_nothing(desk: Desk) -> None:
    trade_id = await desk.order()
    await desk.says(fill(trade_id, "e-1", 4))
    books = (await desk.everything())[:-1]
    for odd in (fill(trade_id, "e-1", 4, "100.01"), event(trade_id, "BUSTED") | {"execution_id": "e-7"}):
        assert await desk.says([odd, odd]) == (204, None)
        assert await desk.says(odd) == (204, None)
    assert await desk.inbox() == ["contradicts_execution", "unknown_execution"]
    assert (await desk.everything())[:-1] == books
    assert await desk.says(fill(trade_id, "e-2", 6)) == (204, None)
    assert (await desk.trade(trade_id))[0] == "FILLED"


@pytest.mark.parametrize(("cause", "quantity", "price"), [("overfill", 7, ASK), ("above_max_price", 6, "1000.00")])
async def test_an_execution_that_cannot_be_the_customers_goes_to_suspense_once_and_the_trade_ends(
    desk: Desk, cause: str, quantity: int, price: str
) -> None:
    trade_id = await desk.order()
    await desk.says(fill(trade_id, "e-1", 4))
    for _ in range(3):
        assert await desk.says(fill(trade_id, "e-2", quantity, price)) == (204, None)
    assert await desk.inbox() == [cause]
    status, executions, reason = await desk.trade(trade_id)
    assert (status, executions) == ("CANCELLED", [("e-1", 4, "100.00")])
    assert reason == "the exchange executed it in a way that could not be booked to you"
    assert (await desk.cash(), await desk.shares()) == (("9600.00", "0.00"), 4)
    assert await desk.suspense() == quantity


async def test_an_event_of_an_unknown_trade_is_kept_once(desk: Desk) -> None:
    known, unknown = await desk.order(), str(uuid4())
    for _ in range(3):
        assert await desk.says([fill(unknown, "e-1"), fill(known, "e-2"), event(unknown, "CANCELLED")]) == (204, None)
    assert await desk.inbox() == ["unknown_trade", "unknown_trade"]
    assert (await desk.trade(known))[0] == "FILLED", "its neighbours in the array are none the worse for it"


async def test_an_event_of_a_trade_that_was_never_sent_is_kept(desk: Desk) -> None:
    first = await desk.order()
    _, waiting = await desk.customer.place("BUY", "AAPL", 10)
    assert await desk.says(fill(waiting["tradeId"], "e-1")) == (204, None)
    assert await desk.inbox() == ["never_sent"]
    assert (await desk.trade(waiting["tradeId"]))[0] == "PLACED"
    await desk.says(fill(first, "e-2"))


ENDS: dict[str, Callable[[str, str], Event]] = {
    "FILLED": fill,
    "REJECTED": lambda trade_id, _: event(trade_id, "REJECTED", 0, "past market hours"),
    "CANCELLED": lambda trade_id, _: event(trade_id, "CANCELLED", 0, "halted"),
    "EXPIRED": lambda trade_id, _: event(trade_id, "EXPIRED", 0, "end of day"),
}


async def test_after_its_end_a_trade_does_not_change_any_more(desk: Desk) -> None:
    for status, end in ENDS.items():
        trade_id = await desk.order()
        assert await desk.says(end(trade_id, f"{status}-1")) == (204, None)
        assert (await desk.trade(trade_id))[0] == status
        books = await desk.customers_books(trade_id)
        for another in ENDS.values():
            for _ in range(2):
                assert await desk.says(another(trade_id, f"{status}-2")) == (204, None)
        assert await desk.customers_books(trade_id) == books
    assert (await desk.cash(), await desk.shares()) == (("9000.00", "0.00"), 10)
    assert await desk.inbox() == ["fill_after_end"] * len(ENDS)
    assert await desk.suspense() == 10 * len(ENDS), "the shares exist: they are in the books, the broker's"


async def test_the_customer_reads_why_the_exchange_ended_a_trade(desk: Desk) -> None:
    reasons = {"REJECTED": "past market hours", "CANCELLED": "halted", "EXPIRED": "end of day"}
    found = {}
    for status, reason in reasons.items():
        trade_id = await desk.order()
        await desk.says(event(trade_id, status, 0, reason))
        found[status] = await desk.trade(trade_id)
    assert found == {status: (status, [], reason) for status, reason in reasons.items()}
    assert await desk.cash() == ("10000.00", "0.00")


@pytest.mark.parametrize(
    ("word", "status"), [("REJECTED", "CANCELLED"), ("CANCELLED", "CANCELLED"), ("EXPIRED", "EXPIRED")]
)
async def test_an_end_after_a_partial_fill_releases_the_rest(desk: Desk, word: str, status: str) -> None:
    trade_id = await desk.order()
    assert await desk.says([fill(trade_id, "e-1", 4), event(trade_id, word, 4, "random error")]) == (204, None)
    assert await desk.trade(trade_id) == (status, [("e-1", 4, "100.00")], "random error")
    assert (await desk.cash(), await desk.shares()) == (("9600.00", "0.00"), 4)


async def test_an_end_that_counts_more_fills_than_came_has_them_fetched_first(desk: Desk) -> None:
    trade_id = await desk.order()
    desk.exchange.states[trade_id] = state(
        trade_id, "CANCELLED", ("e-1", 3, "100.00"), ("e-2", 4, "99.00"), reason="halted"
    )
    assert await desk.says([fill(trade_id, "e-1", 3), event(trade_id, "CANCELLED", 7, "halted")]) == (204, None)
    assert (await desk.customer.ended(trade_id))["status"] == "CANCELLED"
    assert await desk.trade(trade_id) == ("CANCELLED", [("e-1", 3, "100.00"), ("e-2", 4, "99.00")], "halted")
    assert (await desk.cash(), await desk.shares()) == (("9304.00", "0.00"), 7)


async def test_no_trade_hangs_on_how_the_exchange_words_a_reason(desk: Desk) -> None:
    words = "\0" + "no\0 way, " * 100
    kept = ("no way, " * 100)[:200]
    trade_id = await desk.order()
    assert await desk.says(event(trade_id, "REJECTED", 0, words)) == (204, None)
    assert await desk.trade(trade_id) == ("REJECTED", [], kept)
    desk.exchange.refusal = words
    trade_id = await desk.order()
    await desk.customer.ended(trade_id)
    assert await desk.trade(trade_id) == ("REJECTED", [], kept)
    assert await desk.inbox() == []


async def test_what_a_trade_has_reserved_cannot_be_debited(desk: Desk) -> None:
    trade_id = await desk.order()
    path = f"/admin/v1/customers/{desk.customer.customer_id}/debits"
    status, error = await desk.broker.operator.call("POST", path, {"amount": "8950.0001", "reference": "r"})
    assert (status, error["code"]) == (409, "insufficient_funds")
    status, _ = await desk.broker.operator.call("POST", path, {"amount": "8950.00", "reference": "r"})
    assert status == 201
    assert await desk.says(fill(trade_id, "e-1")) == (204, None)
    assert await desk.cash() == ("50.00", "0.00")
