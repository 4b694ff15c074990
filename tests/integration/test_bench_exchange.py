"""The exchange under an operator's hand: its clock, its prices, what the next orders meet; and the broker's time."""

import base64
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from broker.cli import parser
from broker.config import Config, ConfigError, load
from broker.simulator.clock import Clock
from broker.simulator.server import SimulatedExchange
from broker.simulator.settings import ExchangeSettings
from tests.conftest import Broker, Client, eventually, run_broker
from tests.integration.test_controls import KEY, Answer, command

__all__ = ["command"]  # a fixture

EXCHANGE = "/admin/v1/exchange"
EARLY_CLOSE = "2026-11-27T12:55-05:00"  # five minutes before the close of the day after Thanksgiving
BEFORE = datetime(2026, 11, 27, 17, 55, tzinfo=UTC)
FROZEN = {"hours": "XNYS", "clock": EARLY_CLOSE, "freeze": True}


async def ask(broker: Broker, method: str, path: str, body: object = None) -> Answer:
    return await broker.operator.call(method, f"{EXCHANGE}/{path}", body)


async def order(customer: Client, **fields: object) -> Any:
    body = {"symbol": "AAPL", "side": "buy", "quantity": 10, "order_type": "market", **fields}
    return (await customer.call("POST", "/api/v1/orders", body))[1]


async def status_of(customer: Client, placed: Any) -> str:
    return str((await customer.call("GET", f"/api/v1/orders/{placed['id']}"))[1]["status"])


async def quoted(customer: Client, symbol: str = "AAPL") -> Any:
    return (await customer.call("GET", f"/api/v1/quotes/{symbol}"))[1]


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


# ------------------------------------------------------------------ the clock


async def test_an_early_close_is_tested_in_a_second(with_settings: Callable[..., Config]) -> None:
    async with run_broker(with_settings(**FROZEN)) as broker:
        customer = await broker.customer()
        assert await ask(broker, "GET", "clock") == (
            200,
            {"now": "2026-11-27T17:55:00Z", "frozen": True, "hours": "XNYS"},
        )
        placed = await order(customer, order_type="limit", price="150.00")
        assert (placed["status"], moment(placed["created_at"])) == ("submitted", BEFORE)
        assert (await order(customer))["status"] == "filled"
        status, clock = await ask(broker, "POST", "clock/advance", {"seconds": 360})
        assert (status, clock["now"]) == (200, "2026-11-27T18:01:00Z")

        async def expired() -> bool:
            return await status_of(customer, placed) == "expired"

        await eventually(expired)
        refused = await order(customer)
        assert refused["code"] == "past_market_hours", refused
        _, shown = await customer.call("GET", "/api/v1/clock")
        assert (shown["is_open"], moment(shown["timestamp"])) == (False, BEFORE + timedelta(minutes=6))
        await broker.books_are_right()


async def test_everything_about_the_market_bears_its_time(with_settings: Callable[..., Config]) -> None:
    async with run_broker(with_settings(**FROZEN)) as broker:
        customer = await broker.customer()
        placed = await order(customer)
        assert placed["status"] == "filled"
        _, found = await customer.call("GET", f"/api/v1/orders/{placed['id']}")
        _, executions = await customer.call("GET", "/api/v1/executions")
        assert moment(found["created_at"]) == moment(executions["executions"][0]["executed_at"]) == BEFORE
        _, activities = await customer.call("GET", "/api/v1/activities?type=fill&from=2026-11-27&to=2026-11-28")
        assert [moment(each["at"]) for each in activities["activities"]] == [BEFORE], "ids begin with market time, too"
        _, history = await customer.call("GET", "/api/v1/portfolio/history?period=1D&timeframe=1Min")
        assert moment(history["timestamps"][-1]) == BEFORE


async def test_a_clock_may_be_set_back_and_the_books_stay_right(with_settings: Callable[..., Config]) -> None:
    async with run_broker(with_settings(clock=EARLY_CLOSE)) as broker:
        customer = await broker.customer()
        for now in ("2026-11-27T14:00:00Z", "2026-11-30T15:00:00Z", "2026-11-25T15:00:00Z"):
            status, clock = await ask(broker, "PUT", "clock", {"now": now, "frozen": True})
            assert (status, moment(clock["now"]), clock["frozen"]) == (200, moment(now), True)
            placed = await order(customer)
            assert (placed["status"], moment(placed["created_at"])) == ("filled", moment(now))
        status, clock = await ask(broker, "PUT", "clock", {"now": None, "frozen": False})
        assert (status, clock["frozen"]) == (200, False)
        placed = await order(customer)
        assert abs(moment(placed["created_at"]) - datetime.now(UTC)) < timedelta(seconds=5)
        await broker.books_are_right()


async def test_the_clock_of_an_exchange_elsewhere_is_followed(with_settings: Callable[..., Config]) -> None:
    """From before the broker is ready, and when somebody else sets it."""
    clock = Clock()
    clock.set(BEFORE, frozen=True)
    async with exchange_with(clock) as settings, run_broker(with_settings(**settings, clock_every_s=0.05)) as broker:
        customer = await broker.customer()
        assert moment((await order(customer))["created_at"]) == BEFORE
        clock.set(BEFORE + timedelta(hours=1), frozen=True)

        async def follows() -> bool:
            _, shown = await customer.call("GET", "/api/v1/clock")
            return moment(shown["timestamp"]) == BEFORE + timedelta(hours=1)

        await eventually(follows)


@asynccontextmanager
async def exchange_with(clock: Clock) -> AsyncIterator[dict[str, str]]:
    exchange = SimulatedExchange(ExchangeSettings(clock=clock), KEY)
    url = await exchange.start()
    try:
        yield {"exchange": url, "webhook_secrets": "whsec_" + base64.b64encode(KEY).decode()}
    finally:
        await exchange.stop()


async def test_without_a_controlled_clock_it_is_the_real_time(broker: Broker) -> None:
    customer = await broker.customer()
    before = datetime.now(UTC)
    placed = await order(customer)
    assert before <= moment(placed["created_at"]) <= datetime.now(UTC)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"clock": "noon"}, "clock cannot be used: 'noon' is no moment"),
        ({"clock": "2026-11-27T12:55"}, "clock cannot be used: a moment needs its offset from UTC"),
        ({"clock": EARLY_CLOSE, "exchange": "http://127.0.0.1:1"}, "clock and freeze are of the simulated exchange"),
        ({"freeze": True, "exchange": "http://127.0.0.1:1"}, "clock and freeze are of the simulated exchange"),
    ],
)
async def test_a_clock_that_cannot_be_is_refused_at_the_start(
    config: Config, settings: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        async with run_broker(replace(config, **settings)):
            pass


def test_freeze_is_a_flag_and_a_word_in_the_environment() -> None:
    flags = vars(parser().parse_args(["serve", "--clock", EARLY_CLOSE, "--freeze"]))
    loaded = load(flags, {})
    assert (loaded.clock, loaded.freeze) == (EARLY_CLOSE, True)
    assert load({}, {"BROKER_FREEZE": "true"}).freeze
    assert not load({}, {"BROKER_FREEZE": "false"}).freeze
    with pytest.raises(ConfigError, match="freeze takes true or false, not 'perhaps'"):
        load({}, {"BROKER_FREEZE": "perhaps"})


# ------------------------------------------------------------------ prices, halts, the script


async def test_a_price_that_is_set_is_what_orders_meet_until_it_is_released(broker: Broker) -> None:
    customer = await broker.customer()
    status, listed = await ask(broker, "PUT", "symbols/AAPL/price", {"price": "190.00"})
    assert (status, listed["last"], listed["held"]) == (200, "190.00", True)

    async def seen() -> bool:
        return bool((await quoted(customer))["last"] == "190.00")

    await eventually(seen)
    placed = await order(customer)
    _, executions = await customer.call("GET", "/api/v1/executions")
    assert placed["status"] == "filled"
    assert 189 < float(executions["executions"][0]["price"]) < 191
    status, listed = await ask(broker, "DELETE", "symbols/AAPL/price")
    assert (status, listed["held"]) == (200, False)


async def test_a_symbol_is_halted_at_the_exchange_and_trades_again(broker: Broker) -> None:
    customer = await broker.customer()
    status, listed = await ask(broker, "PUT", "symbols/AAPL/halt", {"reason": "news"})
    assert (status, listed["halted"], listed["halt_reason"]) == (200, True, "news")
    placed = await order(customer, order_type="limit", price="300.00")
    assert await status_of(customer, placed) != "filled"
    status, listed = await ask(broker, "DELETE", "symbols/AAPL/halt")
    assert (status, listed["halted"]) == (200, False)

    async def filled() -> bool:
        return await status_of(customer, placed) == "filled"

    await eventually(filled)
    assert (await ask(broker, "PUT", "symbols/AAPL/halt"))[0] == 200, "a reason is not needed"


async def test_the_next_orders_meet_what_was_scripted(broker: Broker) -> None:
    customer = await broker.customer()
    steps = [{"do": "reject", "reason": "because"}, {"do": "partial", "quantity": 3}]
    status, left = await ask(broker, "POST", "script", {"orders": steps, "symbol": "AAPL"})
    assert (status, [each["do"] for each in left["orders"]]) == (200, ["reject", "partial"])
    assert (await order(customer, symbol="MSFT"))["status"] == "filled", "of another symbol"
    rejected = await order(customer)
    assert (rejected["status"], "because" in rejected["reason"]) == ("rejected", True)
    partly = await order(customer, order_type="limit", price="280.00")

    async def three() -> bool:
        _, found = await customer.call("GET", f"/api/v1/orders/{partly['id']}")
        return (found["status"], found["filled_quantity"]) == ("partially_filled", 3)

    await eventually(three)
    assert await ask(broker, "GET", "script") == (200, {"orders": []})
    await ask(broker, "POST", "script", {"orders": [{"do": "delay", "ms": 5}]})
    assert await ask(broker, "DELETE", "script") == (200, {"orders": []})


REFUSED: list[tuple[str, str, object, tuple[int, str]]] = [
    ("PUT", "clock", {"now": "noon"}, (400, "invalid_request")),
    ("PUT", "clock", {"now": 5}, (400, "invalid_request")),
    ("PUT", "clock", {"then": 5}, (400, "invalid_request")),
    ("POST", "clock/advance", {}, (400, "invalid_request")),
    ("POST", "clock/advance", {"seconds": -1}, (400, "invalid_request")),
    ("POST", "clock/advance", {"seconds": "x"}, (400, "invalid_request")),
    ("PUT", "symbols/AAPL/price", {"price": "0"}, (400, "invalid_request")),
    ("PUT", "symbols/NOSUCH/price", {"price": "1.00"}, (404, "unknown_symbol")),
    ("PUT", "symbols/..%2Fclock/price", {"price": "1.00"}, (404, "unknown_symbol")),
    ("DELETE", "symbols/aapl/halt", None, (404, "unknown_symbol")),
    ("POST", "script", {"orders": []}, (400, "invalid_request")),
    ("POST", "script", {"orders": [{"do": "explode"}]}, (400, "invalid_request")),
    ("POST", "script", {"orders": [{"do": "fill"}], "symbol": "NOSUCH"}, (409, "not_possible")),
    ("POST", "script", {"orders": [{"do": "fill"}] * 1_001}, (409, "not_possible")),
]


async def test_what_makes_no_sense_is_refused_with_a_sentence(broker: Broker) -> None:
    wrong = []
    for method, path, body, expected in REFUSED:
        status, answer = await ask(broker, method, path, body)
        if (status, answer.get("code")) != expected or not answer["error"].endswith("."):
            wrong.append((method, path, status, answer))
    assert wrong == []


# ------------------------------------------------------------------ other exchanges


async def test_an_exchange_that_is_not_simulated_has_none_of_it(with_settings: Callable[..., Config]) -> None:
    """One that knows no such path; a market whose time is the real one."""
    async with TestServer(web.Application()) as server:
        settings = {"exchange": str(server.make_url("")), "webhook_secrets": "whsec_" + "A" * 44}
        async with run_broker(with_settings(**settings)) as broker:
            for method, path, body in [
                ("GET", "clock", None),
                ("PUT", "clock", {"frozen": True}),
                ("PUT", "symbols/AAPL/price", {"price": "1.00"}),
                ("DELETE", "symbols/AAPL/halt", None),
                ("GET", "script", None),
            ]:
                status, answer = await ask(broker, method, path, body)
                assert (status, answer["code"]) == (404, "not_simulated")
                assert "Only the simulated exchange" in answer["error"]
            customer = await broker.customer()
            _, shown = await customer.call("GET", "/api/v1/clock")
            assert abs(moment(shown["timestamp"]) - datetime.now(UTC)) < timedelta(seconds=5)


async def test_an_exchange_that_is_away_is_said_to_be(with_settings: Callable[..., Config]) -> None:
    settings = {"exchange": "http://127.0.0.1:1", "webhook_secrets": "whsec_" + "A" * 44, "quotes_wait_s": 0.1}
    async with run_broker(with_settings(**settings)) as broker:
        status, answer = await ask(broker, "GET", "clock")
        assert (status, answer["code"]) == (503, "exchange_unavailable")


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"now": "2026-11-27T12:55:00"}', b'{"now": 5}', b"\xff" * 99])
async def test_a_clock_that_is_not_in_form_changes_nothing(with_settings: Callable[..., Config], body: bytes) -> None:
    async def clock(_: web.Request) -> web.Response:
        return web.Response(body=body)

    app = web.Application()
    app.router.add_get("/v1/clock", clock)
    async with TestServer(app) as server:
        settings = {"exchange": str(server.make_url("")), "webhook_secrets": "whsec_" + "A" * 44}
        async with run_broker(with_settings(**settings, quotes_wait_s=0.1)) as broker:
            customer = await broker.customer()
            _, shown = await customer.call("GET", "/api/v1/clock")
            assert abs(moment(shown["timestamp"]) - datetime.now(UTC)) < timedelta(seconds=5)


# ------------------------------------------------------------------ the command line


async def test_the_exchange_from_the_command_line(broker: Broker, command: Callable[..., Any]) -> None:
    async def bench(*words: str) -> Any:
        code, answer = await command("bench", *words)
        assert code == 0, answer
        return answer

    assert (await bench("price", "AAPL", "190.00"))["held"] is True
    assert (await bench("price", "AAPL", "191.00", "--walk"))["held"] is False
    assert (await bench("price", "AAPL", "--walk"))["held"] is False
    assert (await bench("halt", "AAPL", "--reason", "news"))["halt_reason"] == "news"
    assert (await bench("resume", "AAPL"))["halted"] is False
    assert len((await bench("script", "reject", "no", "--times", "2"))["orders"]) == 2
    await bench("script", "partial", "3", "--symbol", "AAPL")
    await bench("script", "partial", "3", "4", "--ms", "10")
    await bench("script", "delay", "500")
    found = (await bench("script", "fill"))["orders"]
    assert [each["do"] for each in found] == ["reject", "reject", "partial", "partial", "delay", "fill"]
    assert (found[2]["symbol"], found[2]["quantity"], found[3]["parts"], found[3]["ms"]) == ("AAPL", 3, [3, 4], 10)
    assert await bench("script", "show") == {"orders": found}
    assert await bench("script", "clear") == {"orders": []}
    assert (await bench("clock", "set", EARLY_CLOSE, "--freeze"))["now"] == "2026-11-27T17:55:00Z"
    assert (await bench("clock", "advance", "300"))["now"] == "2026-11-27T18:00:00Z"
    assert (await bench("clock", "run"))["frozen"] is False
    assert (await bench("clock", "freeze"))["frozen"] is True
    assert (await bench("clock", "real"))["frozen"] is False
    assert abs(moment((await bench("clock"))["now"]) - datetime.now(UTC)) < timedelta(seconds=5)
    code, answer = await command("bench", "halt", "NOSUCH")
    assert (code, answer["code"]) == (1, "unknown_symbol")
