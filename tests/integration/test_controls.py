"""Kill switch, halts, restricted symbols and risk limits: over real HTTP, in force before the next decision."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestServer

from broker import cli
from broker.batch import Overloaded
from broker.config import Config
from broker.controls import Controls
from broker.core import signing
from broker.core.conditions import Limits
from broker.core.messages import CancelAll
from broker.core.types import AccountType, CustomerId
from broker.db import Database, DatabaseUnavailable, query
from broker.fan_out import FanOut
from broker.shards import Unanswered
from broker.simulator.server import SimulatedExchange
from broker.simulator.settings import ExchangeSettings
from tests.conftest import Broker, Client, eventually, run_broker
from tests.integration.test_webhook import Desk, QuietExchange, fill

CONTROLS = "/admin/v1/controls"
LIMITS = "/admin/v1/limits"
KEY = bytes(range(24))
ONE = CustomerId(1001)

Answer = tuple[int, Any]


async def switch(broker: Broker, scope: str, reason: str = "a drill", **fields: object) -> Answer:
    return await broker.operator.call("PUT", f"{CONTROLS}/{scope}", {"reason": reason, **fields})


async def release(broker: Broker, scope: str) -> Answer:
    return await broker.operator.call("DELETE", f"{CONTROLS}/{scope}")


async def limits(broker: Broker, scope: str, **settings: object) -> Answer:
    return await broker.operator.call("PUT", f"{LIMITS}/{scope}", settings)


async def bought(customer: Client, symbol: str = "AAPL", quantity: int = 10) -> Any:
    return await traded(customer, "BUY", symbol, quantity)


async def traded(customer: Client, type_: str, symbol: str, quantity: int) -> Any:
    """What became of a trade: its status and reason."""
    _, placed = await customer.place(type_, symbol, quantity)
    trade = await customer.ended(placed["tradeId"])
    return trade["status"], trade["reason"]


async def rests(customer: Client, symbol: str = "AAPL", quantity: int = 1) -> str:
    """A limit order far below the market, which the exchange has."""
    body = {"symbol": symbol, "side": "buy", "quantity": quantity, "order_type": "limit", "price": "150.00"}
    status, order = await customer.call("POST", "/api/v1/orders", body)
    assert (status, order.get("status")) == (201, "submitted"), order
    return str(order["id"])


async def status_of(customer: Client, order_id: str) -> str:
    return str((await customer.trade(order_id))["status"])


async def cancelled(customer: Client, *order_ids: str) -> bool:
    return {await status_of(customer, each) for each in order_ids} == {"CANCELLED"}


@asynccontextmanager
async def slow_exchange(fill_delay_ms: int) -> AsyncIterator[dict[str, str]]:
    """An exchange of its own, at which market orders stay for a while; the settings that lead a broker to it."""
    exchange = SimulatedExchange(ExchangeSettings(fill_delay_ms=fill_delay_ms), KEY)
    url = await exchange.start()
    try:
        yield {"exchange": url, "webhook_secrets": "whsec_" + base64.b64encode(KEY).decode()}
    finally:
        await exchange.stop()


# ------------------------------------------------------------------ the kill switch


async def test_the_kill_switch_stops_everybody_and_its_end_lets_them_go_on(broker: Broker) -> None:
    customer = await broker.customer()
    assert await switch(broker, "all", "the exchange is misbehaving.") == (
        200,
        {"scope": "all", "engaged": True, "reason": "the exchange is misbehaving"},
    )
    assert await bought(customer) == ("REJECTED", "trading stopped: the exchange is misbehaving.")
    body = {"symbol": "AAPL", "side": "buy", "quantity": 1, "order_type": "market"}
    status, refused = await customer.call("POST", "/api/v1/orders", body)
    assert (status, refused["code"]) == (400, "trading_stopped")
    listed = {"controls": [{"scope": "all", "reason": "the exchange is misbehaving"}]}
    assert await broker.operator.call("GET", CONTROLS) == (200, listed)
    assert await release(broker, "all") == (200, {"scope": "all", "engaged": False, "was_engaged": True})
    assert await release(broker, "all") == (200, {"scope": "all", "engaged": False, "was_engaged": False})
    assert (await bought(customer))[0] == "FILLED"


async def test_a_customers_switch_stops_nobody_else(broker: Broker) -> None:
    stopped, other = await broker.customer(), await broker.customer()
    scope = f"customer:{int(stopped.customer_id):08d}"
    status, answer = await switch(broker, scope)
    assert (status, answer["scope"]) == (200, f"customer:{stopped.customer_id}")
    outcomes = [await bought(stopped), await bought(other)]
    assert [status for status, _ in outcomes] == ["REJECTED", "FILLED"]
    await release(broker, scope)
    assert (await bought(stopped))[0] == "FILLED"


async def test_a_switch_that_is_on_stays_on_and_takes_the_new_reason(broker: Broker) -> None:
    for reason in ("one", "one", "two"):
        assert (await switch(broker, "all", reason))[0] == 200
    _, listed = await broker.operator.call("GET", CONTROLS)
    assert listed == {"controls": [{"scope": "all", "reason": "two"}]}
    assert [tuple(row) for row in await broker.fetch("SELECT scope, reason FROM control")] == [("all", "two")]


async def test_under_load_nothing_is_started_after_the_answer(broker: Broker) -> None:
    """Eight customers place as fast as they can; what is decided after the switch's answer is refused."""
    customers = await asyncio.gather(*(broker.customer("10000000.00") for _ in range(8)))
    stop = asyncio.Event()

    taken = 0

    async def load(customer: Client) -> None:
        nonlocal taken
        while not stop.is_set():
            status, answer = await customer.place("BUY", "AAPL", 1)
            assert status == 201, answer
            taken += 1

    async def goes_on() -> None:
        """So many trades later."""
        before = taken

        async def enough() -> bool:
            return taken >= before + 50

        await eventually(enough, 20)

    async with asyncio.TaskGroup() as tasks:
        for customer in customers:
            tasks.create_task(load(customer))
        await goes_on()
        status, answer = await switch(broker, "all", cancel_open=True)
        (row,) = await broker.fetch("SELECT now() AS at")
        await goes_on()  # of these trades at most eight were under way before
        stop.set()
    assert (status, answer["not_reached"]) == (200, 0)
    started = "SELECT count(*) FROM event WHERE step = 'started' AND at > $1"
    refused = (
        "SELECT count(*) FROM trade WHERE status = 'REJECTED' AND created_at > $1 AND reason LIKE 'trading stopped%'"
    )
    placed = "SELECT count(*) FROM trade WHERE created_at > $1"
    assert [row[0] for row in await broker.fetch(started, row["at"])] == [0]
    assert await broker.fetch(refused, row["at"]) == await broker.fetch(placed, row["at"])
    assert (await broker.fetch(placed, row["at"]))[0][0] > 20, "there was no load"
    open_ = "SELECT count(*) FROM trade WHERE status IN ('PLACED', 'IN PROGRESS', 'PARTIALLY FILLED')"

    async def nothing_is_open() -> bool:
        return bool((await broker.fetch(open_))[0][0] == 0)

    await eventually(nothing_is_open)


async def test_a_waiting_queue_is_refused_when_its_turn_comes(with_settings: Callable[..., Config]) -> None:
    exchange = QuietExchange()
    async with TestServer(exchange.app()) as server:
        settings = with_settings(exchange=str(server.make_url("/")), webhook_secrets=signing.encode_secret(KEY))
        async with run_broker(settings) as broker:
            customer = await broker.customer()
            desk = Desk(broker, exchange, customer)
            ids = [await desk.order(), *[(await customer.place("BUY", "AAPL", 1))[1]["tradeId"] for _ in range(2)]]
            await switch(broker, f"customer:{customer.customer_id}", "under review")
            assert [await status_of(customer, each) for each in ids] == ["IN PROGRESS", "PLACED", "PLACED"]
            assert await desk.says([fill(ids[0], "e-1")], key=KEY) == (204, None)
            ended = [await customer.ended(each) for each in ids]
            assert [(trade["status"], trade["reason"].partition(" at ")[0]) for trade in ended] == [
                ("FILLED", "Filled 10 AAPL"),
                ("REJECTED", "trading stopped: under review."),
                ("REJECTED", "trading stopped: under review."),
            ]
            await broker.books_are_right()


async def at_the_exchange(customer: Client, trade_id: str) -> bool:
    return await status_of(customer, trade_id) == "IN PROGRESS"


async def test_it_outlasts_a_restart_and_so_do_limits(config: Config) -> None:
    async with run_broker(config) as broker:
        customer = await broker.customer()
        await switch(broker, "halt:AAPL", "news pending")
        await limits(broker, f"customer:{customer.customer_id}", order_quantity_max=5)
    async with run_broker(config) as again:
        same = Client(again.http, again.running.url, customer.token, customer.customer_id)
        assert await bought(same) == ("REJECTED", "symbol halted: news pending.")
        assert await bought(same, "MSFT", 6) == (
            "REJECTED",
            "order too large: the order has 6 shares, the limit is 5.",
        )
        await release(again, "halt:AAPL")
    async with run_broker(config) as third:
        same = Client(third.http, third.running.url, customer.token, customer.customer_id)
        assert (await bought(same, quantity=5))[0] == "FILLED"


# ------------------------------------------------------------------ symbols


async def test_a_halted_symbol_is_neither_bought_nor_sold_and_a_restricted_one_only_sold(broker: Broker) -> None:
    customer = await broker.customer()
    for symbol in ("AAPL", "MSFT"):
        assert (await bought(customer, symbol))[0] == "FILLED"
    await switch(broker, "halt:AAPL", "news pending")
    await switch(broker, "restrict:MSFT", "we advise its board")
    outcomes = [
        await traded(customer, type_, symbol, 1)
        for type_, symbol in (("BUY", "AAPL"), ("SELL", "AAPL"), ("BUY", "MSFT"), ("SELL", "MSFT"), ("BUY", "NVDA"))
    ]
    assert [(status, reason) for status, reason in outcomes[:3]] == [
        ("REJECTED", "symbol halted: news pending."),
        ("REJECTED", "symbol halted: news pending."),
        ("REJECTED", "symbol restricted: we advise its board."),
    ]
    assert [status for status, _ in outcomes[3:]] == ["FILLED", "FILLED"]


# ------------------------------------------------------------------ cancelling what is open


async def test_cancel_open_ends_what_rests_at_the_exchange(broker: Broker) -> None:
    customers = [await broker.customer() for _ in range(3)]
    orders = [(each, await rests(each)) for each in customers for _ in range(2)]
    status, answer = await switch(broker, "all", "close of business", cancel_open=True)
    assert (status, answer) == (
        200,
        {
            "scope": "all",
            "engaged": True,
            "reason": "close of business",
            "cancelling": 6,
            "customers": 3,
            "not_reached": 0,
        },
    )
    for customer, order in orders:
        await eventually(lambda customer=customer, order=order: cancelled(customer, order))
    _, again = await switch(broker, "all", "close of business", cancel_open=True)
    assert (again["cancelling"], again["customers"]) == (0, 0)


async def test_cancel_open_reaches_no_further_than_its_scope(broker: Broker) -> None:
    one, two = await broker.customer(), await broker.customer()
    apple, other, theirs = await rests(one), await rests(one, "MSFT"), await rests(two)
    _, answer = await switch(broker, "halt:MSFT", cancel_open=True)
    assert answer["cancelling"] == 1
    await eventually(lambda: cancelled(one, other))
    _, answer = await switch(broker, f"customer:{one.customer_id}", cancel_open=True)
    assert answer["cancelling"] == 1
    await eventually(lambda: cancelled(one, apple))
    assert await status_of(two, theirs) == "IN PROGRESS"


async def test_what_waits_is_cancelled_with_the_operators_reason(with_settings: Callable[..., Config]) -> None:
    async with slow_exchange(60_000) as settings, run_broker(with_settings(**settings)) as broker:
        customer = await broker.customer()
        ids = [(await customer.place("BUY", "AAPL", 1))[1]["tradeId"] for _ in range(3)]
        await eventually(lambda: at_the_exchange(customer, ids[0]))
        _, answer = await switch(broker, "all", "a storm", cancel_open=True)
        assert answer["cancelling"] == 3
        await eventually(lambda: cancelled(customer, *ids))
        assert [(await customer.trade(each))["reason"] for each in ids[1:]] == [
            "Cancelled by an operator: a storm."
        ] * 2
        await broker.books_are_right()


async def test_a_stopped_customer_can_cancel(broker: Broker) -> None:
    customer = await broker.customer()
    order = await rests(customer)
    await switch(broker, "all")
    status, _ = await customer.call("DELETE", f"/api/v1/orders/{order}")
    assert status in {200, 202}
    await eventually(lambda: cancelled(customer, order))


class FullShards:
    """Queues that are full so often, and then take what comes; some customers' answers never come."""

    def __init__(self, full: int = 0, silent: frozenset[int] = frozenset()) -> None:
        self.full = full
        self.silent = silent
        self.taken: list[int] = []

    def submit(self, customer_id: CustomerId, command: object) -> asyncio.Future[Any]:
        if self.full:
            self.full -= 1
            raise Overloaded("shard")
        self.taken.append(customer_id)
        reply = asyncio.get_running_loop().create_future()
        if customer_id in self.silent:
            reply.set_exception(Unanswered("no answer"))
        else:
            reply.set_result(customer_id)
        return reply


def fan_out(shards: Any) -> FanOut:
    return FanOut(None, shards, 2)  # type: ignore[arg-type]


def commands(count: int) -> list[CancelAll]:
    return [CancelAll(CustomerId(n)) for n in range(count)]


async def test_a_full_queue_is_waited_for_and_nobody_is_forgotten() -> None:
    shards = FullShards(full=3)
    answers = await fan_out(shards).ask(commands(600), 5)
    assert answers.given == shards.taken == list(range(600))
    assert answers.missing == 0


async def test_whoever_could_not_be_reached_is_counted() -> None:
    answers = await fan_out(FullShards(full=10**9)).ask(commands(300), 0.1)
    assert (answers.given, answers.missing) == ([], 300)
    answers = await fan_out(FullShards(silent=frozenset({1, 2}))).ask(commands(5), 5)
    assert (answers.given, answers.missing) == ([0, 3, 4], 2)


async def test_the_answer_says_plainly_that_some_were_not_reached(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    customer = await broker.customer()
    await rests(customer)

    async def queue(*_: object) -> None:
        return None

    monkeypatch.setattr(FanOut, "_queue", queue)
    status, answer = await switch(broker, "all", cancel_open=True)
    assert (status, answer["cancelling"], answer["not_reached"]) == (200, 0, 1)
    assert answer["note"] == "Not every customer's orders could be reached. Send the same request again."


# ------------------------------------------------------------------ when the database is away


async def test_without_the_database_the_switch_holds_and_says_that_it_is_not_stored(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No query at all is answered; the audit log gets what it lacks when they are again."""
    customer = await broker.customer()
    own = f"customer:{customer.customer_id}"
    assert (await bought(customer))[0] == "FILLED"
    recorded = len(await operators_records(broker))

    async def away(*_: object) -> Any:
        raise DatabaseUnavailable("away")

    monkeypatch.setattr(Database, "fetch", away)
    for scope in ("all", own):
        status, answer = await switch(broker, scope, "no database")
        assert (status, answer["code"]) == (503, "database_unavailable")
        assert answer["error"].startswith(f"{scope} is on in this broker from now on, but the database does not answer")
    _, placed = await customer.place("BUY", "AAPL", 1)
    status, answer = await release(broker, own)  # what lets somebody trade is not done without its record
    assert (status, answer["code"]) == (503, "audit_unavailable")
    _, listed = await broker.operator.call("GET", CONTROLS)
    assert [each["scope"] for each in listed["controls"]] == ["all", own]
    monkeypatch.undo()
    trade = await customer.ended(placed["tradeId"])
    assert (trade["status"], trade["reason"]) == ("REJECTED", "trading stopped: no database.")

    async def stored() -> bool:
        rows = await broker.fetch("SELECT scope FROM control ORDER BY scope")
        return [row["scope"] for row in rows] == ["all", own]

    await eventually(stored)
    assert (await release(broker, "all"))[0] == 200
    found = (await operators_records(broker))[recorded:]
    assert [(each["action"], content.get("path"), content.get("status")) for each, content in found] == [
        ("asked", f"{CONTROLS}/all", None),
        ("answered", None, 503),
        ("asked", f"{CONTROLS}/{own}", None),
        ("answered", None, 503),
        ("asked", f"{CONTROLS}/all", None),
        ("answered", None, 200),
    ]
    assert ["at" in content for _, content in found] == [True] * 4 + [False] * 2


async def operators_records(broker: Broker) -> list[tuple[Any, Any]]:
    """The audit log of operators, each record with its content."""
    _, page = await broker.operator.call("GET", "/admin/v1/audit?after=0&limit=500")
    return [(each, json.loads(each["content"])) for each in page["records"]]


async def test_without_the_database_a_suspended_customer_is_stopped_by_its_switch(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    customer = await broker.customer()
    assert (await bought(customer))[0] == "FILLED"

    async def away(*_: object) -> Any:
        raise DatabaseUnavailable("away")

    monkeypatch.setattr(Database, "fetch", away)
    status, answer = await broker.operator.call("POST", f"/admin/v1/customers/{customer.customer_id}/suspend")
    assert (status, answer["code"]) == (503, "database_unavailable")
    assert f"the switch customer:{customer.customer_id} is on" in answer["error"]
    _, listed = await broker.operator.call("GET", CONTROLS)
    assert [each["scope"] for each in listed["controls"]] == [f"customer:{customer.customer_id}"]
    monkeypatch.undo()
    assert await bought(customer) == ("REJECTED", "trading stopped: the account is suspended.")

    async def stored() -> bool:
        return [row["scope"] for row in await broker.fetch("SELECT scope FROM control")] == [
            f"customer:{customer.customer_id}"
        ]

    await eventually(stored)


class Slow:
    """A database whose readers have read, and wait to be let go."""

    def __init__(self) -> None:
        self.rows: dict[str, str] = {}
        self.away = False
        self.read = asyncio.Event()
        self.go_on = asyncio.Event()

    async def fetch(self, name: str, *arguments: Any) -> list[dict[str, Any]]:
        if self.away:
            raise DatabaseUnavailable("away")
        if name == "controls":
            rows = [{"scope": scope, "reason": reason} for scope, reason in self.rows.items()]
            self.read.set()
            await self.go_on.wait()
            return rows
        if name == "engage_control":
            await asyncio.sleep(0)
            self.rows[arguments[0]] = arguments[1]
        if name == "release_control":
            self.rows.pop(arguments[0], None)
        return []


@asynccontextmanager
async def while_it_reads(database: Slow, controls: Controls) -> AsyncIterator[None]:
    loading = asyncio.create_task(controls.load())
    await database.read.wait()
    yield
    database.go_on.set()
    await loading


async def test_what_is_switched_while_the_switches_are_read_is_not_undone_by_what_was_read() -> None:
    database = Slow()
    controls = Controls(database, Limits())  # type: ignore[arg-type]
    async with while_it_reads(database, controls):
        await controls.engage("all", "now")
        controls.note_status(ONE, "suspended")
        await controls.set_limits("type:cash", {"order_quantity_max": 5})
    assert controls.stopped(ONE) == "now"
    database.read.clear()
    database.go_on.clear()
    async with while_it_reads(database, controls):
        await controls.release("all")
    assert controls.stopped(ONE) is None


async def test_a_switch_turned_off_without_the_database_stays_on() -> None:
    database = Slow()
    database.go_on.set()
    controls = Controls(database, Limits())  # type: ignore[arg-type]
    database.away = True
    for attempt in (controls.engage("all", "now"), controls.release("all")):
        with pytest.raises(DatabaseUnavailable):
            await attempt
    assert controls.stopped(ONE) == "now"
    database.away = False
    await controls.engage("halt:AAPL", "too")  # stores what could not be stored before
    assert database.rows == {"all": "now", "halt:AAPL": "too"}
    await asyncio.gather(controls.engage("all", "second"), controls.engage("all", "third"))
    assert database.rows["all"] == "third"


# ------------------------------------------------------------------ limits


async def test_limits_of_a_type_hold_for_its_customers_and_a_customers_own_before_them(broker: Broker) -> None:
    one, two = await broker.customer(), await broker.customer()
    scope = f"customer:{two.customer_id}"
    status, shown = await limits(broker, "type:cash", order_quantity_max=5, order_value_max="2000.50")
    assert (status, shown["own"]) == (200, ["order_quantity_max", "order_value_max"])
    assert shown["limits"] == {
        "order_quantity_max": 5,
        "order_value_max": "2000.50",
        "position_max": 10_000_000,
        "price_away_bps": 5_000,
        "orders_per_second": 5_000,
        "duplicate_window_ms": 0,
    }
    await limits(broker, scope, order_quantity_max=8, order_value_max="5000000.00")
    assert await bought(one, quantity=6) == ("REJECTED", "order too large: the order has 6 shares, the limit is 5.")
    assert (await bought(two, quantity=8))[0] == "FILLED"
    status, reason = await bought(one, "MSFT", 5)
    assert (status, reason.partition(":")[0]) == ("REJECTED", "order value too large")
    status, shown = await limits(broker, scope, order_quantity_max=None)
    assert (shown["limits"]["order_quantity_max"], shown["own"]) == (5, ["order_value_max"])
    assert (await bought(two, quantity=8))[0] == "REJECTED"
    assert await broker.operator.call("GET", f"{LIMITS}/{scope}") == (200, shown)
    await limits(broker, "type:cash", order_quantity_max=None, order_value_max=None)
    status, shown = await broker.operator.call("GET", f"{LIMITS}/type:cash")
    assert (shown["own"], shown["limits"]["order_quantity_max"]) == ([], 1_000_000)
    assert (await bought(one, quantity=6))[0] == "FILLED"


async def test_a_margin_accounts_limits_are_those_of_its_type(broker: Broker) -> None:
    _, created = await broker.operator.call("POST", "/admin/v1/customers", {"cash": "5000", "accountType": "margin"})
    await limits(broker, "type:margin", orders_per_second=0)
    customer = Client(broker.http, broker.running.url, created["token"], created["customerId"])
    assert (await bought(customer))[1] == "too many orders: 0 orders in the last second, the limit is 0."
    _, shown = await broker.operator.call("GET", f"{LIMITS}/customer:{created['customerId']}")
    assert shown["limits"]["orders_per_second"] == 0
    assert (await broker.operator.call("GET", f"{LIMITS}/type:cash"))[1]["limits"]["orders_per_second"] == 5_000


# ------------------------------------------------------------------ what is refused

REFUSED: list[tuple[str, str, object, int, str]] = [
    ("PUT", f"{CONTROLS}/everything", {"reason": "x"}, 400, "The scope must be all, or one like customer:1001"),
    ("PUT", f"{CONTROLS}/halt:aapl", {"reason": "x"}, 400, "The scope must be"),
    ("PUT", f"{CONTROLS}/halt:AAPL%0A", {"reason": "x"}, 400, "The scope must be"),
    ("PUT", f"{CONTROLS}/customer:x", {"reason": "x"}, 400, "The scope must be"),
    ("PUT", f"{CONTROLS}/customer:999", {"reason": "x"}, 404, "There is no customer with this id."),
    ("DELETE", f"{CONTROLS}/nothing", None, 400, "The scope must be"),
    ("PUT", f"{CONTROLS}/all", {}, 400, "reason is missing."),
    ("PUT", f"{CONTROLS}/all", {"reason": ""}, 400, "reason must be text of 1 to 200 printable characters"),
    ("PUT", f"{CONTROLS}/all", {"reason": "a\0b"}, 400, "reason must be text"),
    ("PUT", f"{CONTROLS}/all", {"reason": "."}, 400, "reason must be text"),
    ("PUT", f"{CONTROLS}/all", {"reason": "x", "cancel": True}, 400, "There is no field 'cancel' here."),
    ("PUT", f"{CONTROLS}/all", {"reason": "x", "cancel_open": 1}, 400, "cancel_open must be true or false."),
    ("GET", f"{LIMITS}/all", None, 400, "The scope must be type:cash, type:margin or one like customer:1001."),
    ("GET", f"{LIMITS}/customer:999", None, 404, "There is no customer with this id."),
    ("PUT", f"{LIMITS}/customer:999", {}, 404, "There is no customer with this id."),
    ("PUT", f"{LIMITS}/type:cash", {"order_max": 1}, 400, "There is no field 'order_max' here."),
    ("PUT", f"{LIMITS}/type:cash", {"position_max": -1}, 400, "position_max must be a whole number from 0 to"),
    ("PUT", f"{LIMITS}/type:cash", {"position_max": "7"}, 400, "position_max must be a whole number from 0 to"),
    ("PUT", f"{LIMITS}/type:cash", {"order_value_max": "x"}, 400, "order_value_max is not an amount"),
    ("PUT", f"{LIMITS}/type:cash", {"order_value_max": True}, 400, "order_value_max must be an amount in dollars"),
    ("PUT", f"{LIMITS}/type:cash", {"order_value_max": "-1"}, 400, "order_value_max must be at least 0"),
]


async def test_what_makes_no_sense_is_refused_and_changes_nothing(broker: Broker) -> None:
    found = []
    for method, path, body, status, sentence in REFUSED:
        answer = await broker.operator.call(method, path.replace("%0A", "%0a"), body)
        if (answer[0], answer[1]["error"][: len(sentence)]) != (status, sentence):
            found.append((method, path, body, answer))
    assert not found
    assert await broker.operator.call("GET", CONTROLS) == (200, {"controls": []})
    assert await broker.fetch("SELECT FROM risk_limit") == []


async def test_only_an_operator_may(broker: Broker) -> None:
    customer = await broker.customer()
    for client in (customer, broker.stranger):
        for method, path in (
            ("GET", CONTROLS),
            ("PUT", f"{CONTROLS}/all"),
            ("DELETE", f"{CONTROLS}/all"),
            ("GET", f"{LIMITS}/type:cash"),
            ("PUT", f"{LIMITS}/type:cash"),
            ("POST", "/admin/v1/corporate-actions"),
        ):
            status, answer = await client.call(method, path, {"reason": "x"} if method == "PUT" else None)
            assert (status, answer["code"]) == (401, "unauthorized"), (method, path)


# ------------------------------------------------------------------ the command line


@pytest.fixture
def command(broker: Broker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """`broker …` against the broker of the test: (exit code, what it printed)."""
    monkeypatch.setenv("BROKER_ADMIN_TOKEN", broker.running.admin_token)

    async def run(group: str, action: str, *arguments: str) -> tuple[int, Any]:
        where = ["--url", broker.running.url]
        code = await asyncio.to_thread(cli.main, [group, action, *where, *arguments])
        printed = capsys.readouterr()
        return code, json.loads(printed.out or printed.err)

    return run


async def test_switches_from_the_command_line(broker: Broker, command: Callable[..., Any]) -> None:
    customer = await broker.customer()
    await rests(customer)
    code, answer = await command("control", "on", "halt:AAPL", "--reason", "news", "--cancel-open")
    assert (code, answer["engaged"], answer["cancelling"]) == (0, True, 1)
    assert await command("control", "list") == (0, {"controls": [{"scope": "halt:AAPL", "reason": "news"}]})
    code, answer = await command("control", "off", "halt:AAPL")
    assert (code, answer["was_engaged"]) == (0, True)
    code, answer = await command("control", "on", "../customers", "--reason", "x")
    assert (code, answer["code"]) == (1, "invalid_request")
    code, answer = await command("control", "limits", "type:cash", "order_quantity_max=7", "order_value_max=10.50")
    assert (code, answer["limits"]["order_quantity_max"], answer["limits"]["order_value_max"]) == (0, 7, "10.50")
    code, answer = await command("control", "limits", "type:cash", "order_quantity_max=default")
    assert (code, answer["own"]) == (0, ["order_value_max"])
    assert await command("control", "limits", "type:cash") == (0, answer)


def test_a_setting_that_is_none_is_a_usage_error(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main(["control", "limits", "--url", "http://127.0.0.1:1", "type:cash", "seven"]) == 2
    assert "'seven' is not name=value" in capsys.readouterr().err


# ------------------------------------------------------------------ the queries

NAMED: dict[str, tuple[Any, ...]] = {
    "customers_with_open_trades_in": (["AAPL"],),
    "shares_held": ("AAPL",),
    "settle_holders": ("e", "AAPL"),
    "corporate_action": ("e",),
    "finish_corporate_action": ("e",),
    "corporate_references": (["e:1001"],),
}


@pytest.mark.parametrize("name", NAMED)
async def test_no_query_scans_a_table(name: str, dsn: str) -> None:
    connection = await Database(dsn, Config()).connect()
    plan = "\n".join(row[0] for row in await connection.fetch("EXPLAIN " + query(name), *NAMED[name]))
    await connection.close()
    assert "Seq Scan" not in plan, plan
    if name in {"shares_held", "settle_holders"}:
        assert "account_shares" in plan, plan


def test_the_limits_of_the_api_are_those_of_the_broker() -> None:
    from broker.api.controls import LimitsRequest
    from broker.controls import LIMIT_NAMES

    assert set(LimitsRequest.__struct_fields__) == LIMIT_NAMES
    assert {each.value for each in AccountType} == {"cash", "margin"}
