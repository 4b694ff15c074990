"""The exchange's test bench over real sockets: clock, prices, halts and scripts, and what brokers hear of them."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from broker.simulator.clock import Clock
from tests.integration.test_simulator import Broker, best, broker, eventually, trading

__all__ = ["broker"]  # a fixture

LISTED = {"symbol": "AAPL", "name": "Apple Inc.", "halted": False, "halt_reason": None, "held": False}
WEDNESDAY, HALF_DAY = "2026-11-25T12:00-05:00", "2026-11-27T12:55-05:00"


async def call(broker: Broker, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    content = None if body is None else json.dumps(body)
    async with broker.session.request(method, f"{broker.exchange}{path}", data=content) as response:
        return response.status, await response.json()


def clock_at(moment: str, *, frozen: bool = True) -> Clock:
    clock = Clock()
    clock.set(datetime.fromisoformat(moment), frozen)
    return clock


def told(broker: Broker, order: dict[str, Any]) -> list[tuple[str, str | None, str]]:
    return [(event["type"], event["reason"], event["at"]) for event in broker.events_of(order["id"])]


def in_time(broker: Broker, order: dict[str, Any]) -> list[tuple[str, str | None, str]]:
    """The same in the order of their times: callbacks may overtake each other."""
    return sorted(told(broker, order), key=lambda event: event[2])


def ended_as(broker: Broker, order: dict[str, Any]) -> tuple[str, str | None, str]:
    event = last_of(broker, order)
    return event["type"], event["reason"], event["at"]


def last_of(broker: Broker, order: dict[str, Any]) -> dict[str, Any]:
    """Its last word, which its acceptance is only where there is no other: callbacks may overtake each other."""
    events = broker.events_of(order["id"])
    return ([event for event in events if event["type"] != "ACCEPTED"] or events)[-1]


def stamp(minute: str) -> str:
    return f"2026-11-{minute}:00.000000+00:00"


# The clock.


async def test_an_early_close_is_tested_in_a_second(broker):
    async with trading(broker, hours="XNYS", clock=clock_at(HALF_DAY), tick_ms=0):
        assert await call(broker, "GET", "/v1/clock") == (
            200,
            {"now": "2026-11-27T17:55:00Z", "frozen": True, "hours": "XNYS"},
        )
        order = broker.limit("BUY", "1.00")
        assert (await broker.post(order))[1]["status"] == "ACCEPTED"
        status, now = await call(broker, "POST", "/v1/clock/advance", {"seconds": 360})
        assert (status, now["now"]) == (200, "2026-11-27T18:01:00Z")
        await eventually(lambda: len(told(broker, order)) == 2)
        assert in_time(broker, order) == [
            ("ACCEPTED", None, stamp("27T17:55")),
            ("EXPIRED", "the session ended", stamp("27T18:00")),  # when it ended, not when that was noticed
        ]
        (late,) = await broker.place(1)
        assert (await broker.lookup([late]))[late]["reason"] == "past market hours"


async def test_a_jump_of_days_passes_every_session_on_the_way(broker):
    async with trading(broker, hours="XNYS", clock=clock_at(WEDNESDAY), tick_ms=0):
        bid, ask = await best(broker)
        orders = {
            "close": broker.order(time_in_force="cls"),
            "opening": broker.order(time_in_force="opg"),
            "day": broker.limit("BUY", "1.00"),
            "extended": broker.limit("BUY", "1.00", extended_hours=True),
            "forever": broker.limit("BUY", "1.00", time_in_force="gtc"),
        }
        _, results = await broker.post(list(orders.values()))
        assert {result["status"] for result in results} == {"ACCEPTED"}
        await call(broker, "PUT", "/v1/clock", {"now": "2026-11-28T12:00-05:00"})
        await eventually(lambda: sum(len(told(broker, order)) for order in orders.values()) == 9)
        accepted = ("ACCEPTED", None, stamp("25T17:00"))
        assert {name: in_time(broker, order) for name, order in orders.items()} == {
            "close": [accepted, ("FILLED", None, stamp("25T21:00"))],
            "opening": [accepted, ("FILLED", None, stamp("27T14:30"))],
            "day": [accepted, ("EXPIRED", "the session ended", stamp("25T21:00"))],
            "extended": [accepted, ("EXPIRED", "the session ended", stamp("26T01:00"))],
            "forever": [accepted],
        }
        assert {event["price"] for event in broker.events if event["type"] == "FILLED"} == {ask}
        assert bid < ask


async def test_the_clock_runs_stands_still_and_is_real_again(broker):
    async with trading(broker, tick_ms=0):
        status, clock = await call(broker, "PUT", "/v1/clock", {"now": HALF_DAY})
        assert (status, clock["frozen"], clock["hours"]) == (200, False, "always")
        assert clock["now"].startswith("2026-11-27T17:55:0")
        _, frozen = await call(broker, "PUT", "/v1/clock", {"frozen": True})
        await asyncio.sleep(0.05)
        assert await call(broker, "GET", "/v1/clock") == (200, frozen)
        _, clock = await call(broker, "PUT", "/v1/clock", {"now": "2026-11-27T18:00:00Z"})
        assert (clock["now"], clock["frozen"]) == ("2026-11-27T18:00:00Z", True)
        (order_id,) = await broker.place(1)
        await eventually(lambda: broker.events)
        assert broker.events[0]["at"] == stamp("27T18:00")
        _, clock = await call(broker, "PUT", "/v1/clock", {"now": None})
        assert not clock["frozen"]
        assert abs(datetime.fromisoformat(clock["now"]) - datetime.now(UTC)) < timedelta(seconds=5)
        assert (await broker.lookup([order_id]))[order_id]["status"] == "FILLED"


async def test_time_that_is_set_back_opens_the_session_of_then(broker):
    async with trading(broker, hours="XNYS", clock=clock_at("2026-11-28T12:00Z"), tick_ms=0):
        waiting = broker.limit("BUY", "9000.00")
        await broker.post(waiting)
        await call(broker, "PUT", "/v1/clock", {"now": WEDNESDAY})
        await eventually(lambda: broker.ended() == {waiting["id"]})
        assert ended_as(broker, waiting) == ("FILLED", None, stamp("25T17:00"))


async def test_a_clock_cannot_be_set_to_what_is_no_moment(broker):
    async with trading(broker, hours="XNYS", clock=clock_at(WEDNESDAY), tick_ms=0):
        before = await call(broker, "GET", "/v1/clock")
        for body, sentence in (
            ({"now": "2026-11-27T12:55"}, "a moment needs its offset from UTC, as in 2026-11-27T12:55-05:00"),
            ({"now": "noon"}, "'noon' is no moment like 2026-11-27T12:55-05:00"),
            ({"now": "2100-01-01T00:00Z"}, "the clock goes from the year 1990 to 2099"),
            ({"then": HALF_DAY}, "Object contains unknown field `then`"),
            ({"frozen": 1}, "Expected `bool`, got `int` - at `$.frozen`"),
        ):
            assert await call(broker, "PUT", "/v1/clock", body) == (400, {"error": sentence})
        for seconds in (0, -1, "60", None):
            assert (await call(broker, "POST", "/v1/clock/advance", {"seconds": seconds}))[0] == 400
        assert await call(broker, "GET", "/v1/clock") == before


async def test_years_pass_in_a_moment_and_what_is_good_for_ever_lives(broker):
    async with trading(broker, hours="XNYS", clock=clock_at("2026-11-28T12:00-05:00"), tick_ms=0):
        orders = [broker.limit("BUY", "1.00", time_in_force=life) for life in ("gtc", "day", "opg", "cls")]
        orders.append(broker.limit("BUY", "9000.00", time_in_force="gtc"))
        await broker.post(orders)
        await call(broker, "POST", "/v1/clock/advance", {"seconds": 1_000_000_000})
        await eventually(lambda: len(broker.ended()) == 4)
        assert [ended_as(broker, order) for order in orders] == [
            ("ACCEPTED", None, stamp("28T17:00")),
            ("EXPIRED", "the session ended", stamp("30T21:00")),
            ("CANCELLED", "the opening is over", stamp("30T14:30")),
            ("CANCELLED", "the close is over", stamp("30T21:00")),
            ("FILLED", None, stamp("30T14:30")),
        ]


async def test_a_clock_that_belongs_to_somebody_else_is_shown_and_not_set(broker):
    at = datetime(2026, 11, 27, 18, tzinfo=UTC)
    async with trading(broker, clock=lambda: at, tick_ms=0):
        assert (await call(broker, "GET", "/v1/clock"))[1]["now"] == "2026-11-27T18:00:00Z"
        sentence = "the clock of this exchange belongs to whoever started it"
        assert await call(broker, "PUT", "/v1/clock", {"frozen": True}) == (409, {"error": sentence})


# Prices and halts.


async def test_a_price_that_is_set_triggers_a_stop_and_is_on_the_feed(broker):
    async with (
        trading(broker, tick_ms=10),
        broker.session.ws_connect(f"{broker.exchange}/v1/feed") as feed,
    ):
        await call(broker, "PUT", "/v1/symbols/AAPL/price", {"price": "200.00"})
        stop = broker.order(type="stop", side="SELL", stop_price="190.00", max_price=None)
        limit = broker.limit("BUY", "195.00")
        await broker.post([stop, limit])
        quote = {"bid": "189.99", "ask": "190.01", "last": "190.00"}
        held = (200, {**LISTED, **quote, "held": True})
        assert await call(broker, "PUT", "/v1/symbols/AAPL/price", {"price": "190.00"}) == held
        await eventually(lambda: broker.ended() == {stop["id"], limit["id"]})
        fills = [last_of(broker, order) for order in (stop, limit)]
        assert [(fill["type"], fill["price"]) for fill in fills] == [("FILLED", "189.99"), ("FILLED", "195.00")]
        last = None
        async with asyncio.timeout(5):
            while last != "190.00":
                message = await feed.receive_json()
                last = next((each["last"] for each in message["quotes"] if each["symbol"] == "AAPL"), last)
        await asyncio.sleep(0.1)  # ten ticks
        symbols = (await broker.get("/v1/symbols"))[1]["symbols"]
        assert symbols[0] == held[1]
        assert not any(each["held"] for each in symbols[1:])
        status, listed = await call(broker, "DELETE", "/v1/symbols/AAPL/price")
        assert (status, listed["held"]) == (200, False)

        async def walks() -> None:
            while (await broker.get("/v1/symbols"))[1]["symbols"][0]["last"] == "190.00":
                await asyncio.sleep(0.02)

        await asyncio.wait_for(walks(), 5)


async def test_a_halted_symbol_does_not_trade_until_it_resumes(broker):
    async with trading(broker, tick_ms=0):
        status, listed = await call(broker, "PUT", "/v1/symbols/AAPL/halt", {"reason": "news pending"})
        assert (status, listed["halted"], listed["halt_reason"]) == (200, True, "news pending")
        assert (await broker.get("/v1/symbols"))[1]["symbols"][0] == listed
        market, waits, other = broker.order(), broker.limit("BUY", "9000.00"), broker.order(symbol="MSFT")
        await broker.post([market, waits, other])
        await eventually(lambda: broker.ended() == {market["id"], other["id"]})
        assert [event["reason"] for event in broker.events_of(market["id"])] == ["symbol halted"]
        status, listed = await call(broker, "DELETE", "/v1/symbols/AAPL/halt")
        assert (status, listed["halted"]) == (200, False)
        await eventually(lambda: waits["id"] in broker.ended())
        assert (await call(broker, "PUT", "/v1/symbols/AAPL/halt"))[1]["halt_reason"] == "halted by the operator"


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "sentence"),
    [
        ("PUT", "/v1/symbols/NOPE/price", {"price": "1.00"}, 404, "no such symbol is listed"),
        ("DELETE", "/v1/symbols/NOPE/halt", None, 404, "no such symbol is listed"),
        ("PUT", "/v1/symbols/AAPL/price", {"price": "1.005"}, 400, "price is in whole cents, from 0.03 to 500000.00"),
        ("PUT", "/v1/symbols/AAPL/price", {}, 400, "Object missing required field `price`"),
        ("PUT", "/v1/symbols/AAPL/price", {"price": 1}, 400, "Expected `str`, got `int` - at `$.price`"),
        ("PUT", "/v1/symbols/AAPL/halt", {"why": "x"}, 400, "Object contains unknown field `why`"),
        ("POST", "/v1/script", {"orders": []}, 400, "Expected `array` of length >= 1 - at `$.orders`"),
        ("POST", "/v1/script", {"orders": [{"do": "fill"}], "symbol": "NOPE"}, 409, "'NOPE' is not listed"),
        (
            "POST",
            "/v1/script",
            {"orders": [{"do": "fill"}] * 1_001},
            409,
            "at most 1000 steps wait for orders, and 0 do",
        ),
    ],
)
async def test_what_cannot_be_set_is_answered_with_a_sentence(broker, method, path, body, status, sentence):
    async with trading(broker, tick_ms=0):
        assert await call(broker, method, path, body) == (status, {"error": sentence})


# The script.


async def test_each_kind_of_step_over_http(broker):
    steps: list[dict[str, Any]] = [
        {"do": "reject", "reason": "no borrow"},
        {"do": "partial", "quantity": 3},
        {"do": "partial", "parts": [3, 2], "ms": 20},
        {"do": "delay", "ms": 150},
        {"do": "fill"},
    ]
    async with trading(broker, tick_ms=0):
        status, script = await call(broker, "POST", "/v1/script", {"symbol": "AAPL", "orders": steps})
        assert status == 200
        assert [step["do"] for step in script["orders"]] == ["reject", "partial", "partial", "delay", "fill"]
        assert script["orders"][0] == {"symbol": "AAPL", "do": "reject", "reason": "no borrow"}
        assert await call(broker, "GET", "/v1/script") == (200, script)
        orders = [broker.order(), broker.limit("BUY", "9000.00"), broker.order(), broker.order()]
        orders += [broker.limit("SELL", "9000.00"), broker.order()]
        started = asyncio.get_running_loop().time()
        await broker.post([broker.order(symbol="MSFT"), *orders])
        await eventually(lambda: orders[3]["id"] in broker.ended())
        assert asyncio.get_running_loop().time() - started >= 0.15
        await eventually(lambda: len(broker.ended()) == 6)
        shares = [
            [(event["type"], event["quantity"], event["reason"]) for event in broker.events_of(order["id"])]
            for order in orders
        ]
        taken = ("ACCEPTED", None, None)
        assert shares == [
            [("REJECTED", None, "no borrow")],
            [taken, ("PARTIALLY_FILLED", 3, None)],
            [
                *(taken, ("PARTIALLY_FILLED", 3, None), ("PARTIALLY_FILLED", 2, None)),
                ("CANCELLED", None, "no liquidity"),
            ],
            [taken, ("FILLED", 10, None)],
            [("FILLED", 10, None)],
            [("FILLED", 10, None)],
        ]
        assert await call(broker, "GET", "/v1/script") == (200, {"orders": []})


async def test_a_script_can_be_thrown_away(broker):
    async with trading(broker, tick_ms=0):
        await call(broker, "POST", "/v1/script", {"orders": [{"do": "reject"}] * 3})
        await broker.place(1)
        assert len((await call(broker, "GET", "/v1/script"))[1]["orders"]) == 2
        assert await call(broker, "DELETE", "/v1/script") == (200, {"orders": []})
        (order_id,) = await broker.place(1)
        assert (await broker.lookup([order_id]))[order_id]["status"] == "FILLED"


async def test_a_kill_forgets_what_the_script_held_back_and_loses_no_order(broker, tmp_path):
    async with trading(broker, journal=tmp_path, tick_ms=0):
        await call(broker, "POST", "/v1/script", {"orders": [{"do": "delay", "ms": 600_000}, {"do": "fill"}]})
        (delayed,) = await broker.place(1)
    async with trading(broker, journal=tmp_path, tick_ms=0):
        await eventually(lambda: broker.ended() == {delayed})
        assert await call(broker, "GET", "/v1/script") == (200, {"orders": []})


# From the command line.


async def started(*flags: str) -> AsyncIterator[str]:
    """What an exchange in a process of its own prints first."""
    program = [sys.executable, "-m", "broker", "exchange", "--port", "0", "--json", *flags]
    environment = {**os.environ, "BROKER_WEBHOOK_SECRETS": "whsec_" + "A" * 43 + "="}
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*program, stdout=pipe, stderr=pipe, env=environment)
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        async with asyncio.timeout(20):
            yield (await process.stdout.readline() or await process.stderr.read()).decode()
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def test_the_clock_and_its_freeze_are_flags(broker):
    async for line in started("--hours", "XNYS", "--clock", HALF_DAY, "--freeze"):
        broker.exchange = json.loads(line)["url"]
        assert await call(broker, "GET", "/v1/clock") == (
            200,
            {"now": "2026-11-27T17:55:00Z", "frozen": True, "hours": "XNYS"},
        )


@pytest.mark.parametrize("text", ["2026-11-27T12:55", "noon"])
async def test_a_clock_without_its_offset_is_refused(text):
    async for line in started("--clock", text):
        assert "--clock cannot be used: " in line
        assert "2026-11-27T12:55-05:00" in line
