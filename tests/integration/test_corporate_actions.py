"""Splits, symbol changes and dividends for all holders: over real HTTP, down to the books, and half-way done."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from broker import cli
from broker.core.corporate import AdjustPosition
from broker.core.messages import Refusal, Refused
from broker.corporate_actions import CorporateActions
from broker.db import Database, DatabaseUnavailable
from broker.fan_out import Answers, FanOut
from tests.conftest import Broker, Client, eventually, run_broker
from tests.integration.test_controls import Answer, command, rests, slow_exchange

__all__ = ["command"]  # a fixture

PATH = "/admin/v1/corporate-actions"
SPLIT = {"event_id": "s", "type": "split", "symbol": "AAPL"}
RENAMED = {"event_id": "r", "type": "symbol_change", "symbol": "AAPL", "new_symbol": "APPL"}
DIVIDEND = {"event_id": "d", "type": "cash_dividend", "symbol": "AAPL", "amount_per_share": "0.24"}


async def carry_out(broker: Broker, action: dict[str, Any], **changes: object) -> Answer:
    return await broker.operator.call("POST", PATH, action | changes)


def done(action: dict[str, Any], **figures: object) -> dict[str, Any]:
    """The answer to an action that touched nobody, but for these figures."""
    fields = {"event_id": action["event_id"], "type": action["type"], "symbol": action["symbol"]}
    counts = {"repeated": False, "cancelled_orders": 0, "holders": 0, "adjusted": 0, "already_booked": 0}
    return {**fields, **counts, "cash_paid": "0.00", **figures}


async def holder(broker: Broker, quantity: int, symbol: str = "AAPL") -> Client:
    customer = await broker.customer("1000000.00")
    _, placed = await customer.place("BUY", symbol, quantity)
    assert (await customer.ended(placed["tradeId"]))["status"] == "FILLED"
    return customer


async def positions(customer: Client) -> dict[str, int]:
    _, answer = await customer.call("GET", "/api/v1/positions")
    return {each["symbol"]: each["quantity"] for each in answer["positions"]}


async def cash(broker: Broker, customer: Client) -> int:
    sql = "SELECT amount FROM balances WHERE customer_id = $1"
    return int((await broker.fetch(sql, int(customer.customer_id)))[0]["amount"])


async def costs(broker: Broker, customer: Client, symbol: str = "AAPL") -> tuple[int, int]:
    sql = "SELECT cost, gain FROM account WHERE owner_id = $1 AND asset = $2"
    row = (await broker.fetch(sql, int(customer.customer_id), symbol))[0]
    return row["cost"], row["gain"]


async def switches(broker: Broker) -> dict[str, str]:
    _, answer = await broker.operator.call("GET", "/admin/v1/controls")
    return {each["scope"]: each["reason"] for each in answer["controls"]}


# ------------------------------------------------------------------ what they do


async def test_a_split_multiplies_shares_and_keeps_their_cost(broker: Broker) -> None:
    one, two, other = await holder(broker, 10), await holder(broker, 7), await holder(broker, 5, "MSFT")
    before = [await costs(broker, each) for each in (one, two)]
    assert await carry_out(broker, SPLIT, numerator=4, denominator=1) == (201, done(SPLIT, holders=2, adjusted=2))
    assert [await positions(each) for each in (one, two, other)] == [{"AAPL": 40}, {"AAPL": 28}, {"MSFT": 5}]
    assert [await costs(broker, each) for each in (one, two)] == before
    assert await switches(broker) == {}
    sql = "SELECT reference FROM transfer WHERE kind = 'corporate' ORDER BY reference"
    assert [row["reference"] for row in await broker.fetch(sql)] == [f"s:{one.customer_id}", f"s:{two.customer_id}"]
    house = "SELECT sum(amount) FROM posting WHERE owner_id < 0 AND owner_id % 10 = -6 AND asset = 'AAPL'"
    assert (await broker.fetch(house))[0][0] == -51
    _, sold = await one.place("SELL", "AAPL", 40)
    assert (await one.ended(sold["tradeId"]))["status"] == "FILLED"


async def test_fractions_are_paid_in_cash(broker: Broker) -> None:
    one, two = await holder(broker, 15), await holder(broker, 3)
    before = [await cash(broker, each) for each in (one, two)]
    _, answer = await carry_out(broker, SPLIT, numerator=1, denominator=10, price="2700.01")
    paid = {"price": "2700.01", "cash_paid": "2160.0080"}  # a half and three tenths of a new share
    assert answer == done(SPLIT, holders=2, adjusted=2) | paid
    assert [await positions(each) for each in (one, two)] == [{"AAPL": 1}, {}]
    after = [await cash(broker, each) for each in (one, two)]
    assert [later - earlier for earlier, later in zip(before, after, strict=True)] == [13_500_050, 8_100_030]
    assert (await costs(broker, two))[0] == 0


async def test_the_price_of_a_new_share_comes_from_the_quote_of_an_old_one(broker: Broker) -> None:
    one = await holder(broker, 15)
    status, answer = await carry_out(broker, SPLIT, numerator=1, denominator=10)
    assert status == 201
    assert 2000 < float(answer["price"]) < 3500, "AAPL is near $271 there"
    assert abs(float(answer["cash_paid"]) - float(answer["price"]) / 2) < 0.0001
    assert await positions(one) == {"AAPL": 1}
    status, answer = await carry_out(broker, SPLIT, event_id="t", symbol="NOSUCH", numerator=1, denominator=10)
    assert (status, answer["code"]) == (400, "invalid_request")
    assert "no quote of NOSUCH is known" in answer["error"]


async def test_a_symbol_change_moves_shares_with_cost_and_gain(broker: Broker) -> None:
    one = await holder(broker, 10)
    before = await costs(broker, one)
    order = await rests(one)
    assert await carry_out(broker, RENAMED) == (201, done(RENAMED, cancelled_orders=1, holders=1, adjusted=1))
    assert await positions(one) == {"APPL": 10}
    assert (await costs(broker, one), await costs(broker, one, "APPL")) == ((0, 0), before)
    assert (await one.trade(order))["status"] == "CANCELLED"


async def test_a_dividend_is_paid_while_trading_goes_on(broker: Broker) -> None:
    one, nobody = await holder(broker, 10), await broker.customer()
    order = await rests(one)
    before = [await cash(broker, each) for each in (one, nobody)]
    status, answer = await carry_out(broker, DIVIDEND)
    assert (status, answer) == (201, done(DIVIDEND, holders=1, adjusted=1, cash_paid="2.40"))
    after = [await cash(broker, each) for each in (one, nobody)]
    assert [later - earlier for earlier, later in zip(before, after, strict=True)] == [24_000, 0]
    assert (await one.trade(order))["status"] == "IN PROGRESS"


async def test_nobody_holds_it(broker: Broker) -> None:
    assert await carry_out(broker, DIVIDEND) == (201, done(DIVIDEND))


# ------------------------------------------------------------------ once


@pytest.mark.parametrize("action", [{**SPLIT, "numerator": 3, "denominator": 2}, RENAMED, DIVIDEND])
async def test_repeating_changes_nothing_and_says_so(broker: Broker, action: dict[str, Any]) -> None:
    one = await holder(broker, 11)
    status, first = await carry_out(broker, action)
    assert (status, first["adjusted"], first["repeated"]) == (201, 1, False)
    late = await holder(broker, 5)
    before = [await positions(one), await cash(broker, one), await positions(late), await cash(broker, late)]
    for _ in range(2):
        status, again = await carry_out(broker, action)
        assert (status, again) == (
            200,
            first | {"repeated": True, "adjusted": 0, "already_booked": 1, "cash_paid": "0.00"},
        )
    after = [await positions(one), await cash(broker, one), await positions(late), await cash(broker, late)]
    assert after == before


async def test_an_event_id_stands_for_one_action(broker: Broker) -> None:
    await holder(broker, 10)
    assert (await carry_out(broker, SPLIT, numerator=3, denominator=2))[0] == 201
    for other in (
        {"numerator": 2, "denominator": 3},
        {"numerator": 3, "denominator": 2, "price": "5.00"},
        {"numerator": 3, "denominator": 2, "symbol": "MSFT"},
    ):
        status, answer = await carry_out(broker, SPLIT, **other)
        assert (status, answer["code"]) == (409, "event_id_used")
    status, answer = await carry_out(broker, DIVIDEND, event_id="s")
    assert (status, answer["error"]) == (409, "The event_id s stands for another corporate action.")


async def test_the_same_request_ten_times_at_once_books_once(broker: Broker) -> None:
    one = await holder(broker, 10)
    answers = await asyncio.gather(*(carry_out(broker, SPLIT, numerator=2, denominator=1) for _ in range(10)))
    assert sorted(status for status, _ in answers) == [200] * 9 + [201]
    assert await positions(one) == {"AAPL": 20}


# ------------------------------------------------------------------ open orders and the halt


async def test_orders_are_cancelled_at_the_exchange_before_shares_change(broker: Broker) -> None:
    customers = [await holder(broker, 10) for _ in range(5)]
    buyer = await broker.customer()
    orders = [await rests(each) for each in (*customers, buyer)]
    status, answer = await carry_out(broker, SPLIT, numerator=2, denominator=1)
    assert (status, answer) == (201, done(SPLIT, cancelled_orders=6, holders=5, adjusted=5))
    trades = [await each.trade(order) for each, order in zip((*customers, buyer), orders, strict=True)]
    assert {trade["status"] for trade in trades} == {"CANCELLED"}
    assert [await positions(each) for each in customers] == [{"AAPL": 20}] * 5


async def test_while_orders_stay_open_it_waits_halted_and_goes_on_when_asked_again(
    with_settings: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CorporateActions, "cancel_wait_s", 0.3)
    async with slow_exchange(0) as settings, run_broker(with_settings(**settings)) as broker:
        one = await holder(broker, 10)
        await rests(one)
        cancel = FanOut.cancel

        async def not_heard(self: FanOut, *_: object) -> None:
            await asyncio.sleep(0)

        monkeypatch.setattr(FanOut, "cancel", not_heard)
        split = {**SPLIT, "numerator": 2, "denominator": 1}
        status, answer = await carry_out(broker, split)
        assert (status, answer) == (
            409,
            {
                "error": "Not finished: 1 orders in AAPL are being cancelled and still open, and AAPL stays halted. "
                "Send the same request again to go on.",
                "code": "not_finished",
                "open_orders": 1,
                "holders": 0,
                "not_adjusted": 0,
            },
        )
        assert await switches(broker) == {"halt:AAPL": "split of AAPL, corporate action s"}
        _, placed = await one.place("SELL", "AAPL", 1)
        refused = await eventually(lambda: refused_trade(one, placed["tradeId"]))
        assert refused["reason"] == "symbol halted: split of AAPL, corporate action s."
        assert await positions(one) == {"AAPL": 10}
        monkeypatch.setattr(FanOut, "cancel", cancel)
        monkeypatch.setattr(CorporateActions, "cancel_wait_s", 30.0)
        assert (await carry_out(broker, split)) == (201, done(SPLIT, cancelled_orders=1, holders=1, adjusted=1))
        assert (await switches(broker), await positions(one)) == ({}, {"AAPL": 20})
        await broker.books_are_right()


async def refused_trade(customer: Client, trade_id: str) -> Any:
    trade = await customer.trade(trade_id)
    return trade if trade["status"] == "REJECTED" else None


async def test_a_halt_that_was_there_before_stays(broker: Broker) -> None:
    await holder(broker, 10)
    await broker.operator.call("PUT", "/admin/v1/controls/halt:AAPL", {"reason": "news pending"})
    assert (await carry_out(broker, SPLIT, numerator=2, denominator=1))[0] == 201
    assert await switches(broker) == {"halt:AAPL": "news pending"}


async def test_customers_who_trade_on_meanwhile_end_with_books_that_are_right(broker: Broker) -> None:
    customers = [await holder(broker, 20) for _ in range(6)]
    stop = asyncio.Event()

    async def trade_on(customer: Client) -> None:
        while not stop.is_set():
            for type_ in ("SELL", "BUY"):
                await customer.place(type_, "AAPL", 1)
            await asyncio.sleep(0.005)

    async with asyncio.TaskGroup() as tasks:
        for customer in customers:
            tasks.create_task(trade_on(customer))
        await asyncio.sleep(0.2)
        status, answer = await carry_out(broker, SPLIT, numerator=3, denominator=2)
        assert (status, answer.get("adjusted")) == (201, 6), answer
        assert (await carry_out(broker, DIVIDEND))[0] == 201
        stop.set()

    async def nothing_is_open() -> bool:
        rows = await broker.fetch("SELECT FROM trade WHERE status IN ('PLACED', 'IN PROGRESS', 'PARTIALLY FILLED')")
        return not rows

    await eventually(nothing_is_open)


async def test_who_has_just_ordered_is_tried_again(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """An order that waits in the same batch, to be refused at its end, is open for the moment."""
    customers = [await holder(broker, 10) for _ in range(3)]
    ask, refused = FanOut.ask, [Refused(Refusal.OPEN_ORDERS, "1 orders in AAPL are open.")]

    async def first_refused(self: FanOut, commands: Any, seconds: float) -> Answers:
        if not isinstance(commands[0], AdjustPosition) or not refused:
            return await ask(self, commands, seconds)
        answers = await ask(self, commands[1:], seconds)
        return Answers([refused.pop(), *answers.given])

    monkeypatch.setattr(FanOut, "ask", first_refused)
    assert await carry_out(broker, SPLIT, numerator=2, denominator=1) == (201, done(SPLIT, holders=3, adjusted=3))
    assert [await positions(each) for each in customers] == [{"AAPL": 20}] * 3


# ------------------------------------------------------------------ half-way


async def test_what_ended_half_way_is_taken_up_after_a_restart(config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first two customers are adjusted, then the broker is gone; the halt outlasts it."""
    ask = FanOut.ask
    split = {**SPLIT, "numerator": 2, "denominator": 1}

    async def two_only(self: FanOut, commands: Any, seconds: float) -> Answers:
        answers = await ask(self, commands[:2], seconds)
        return Answers(answers.given, len(commands) - len(answers.given))

    monkeypatch.setattr(CorporateActions, "adjust_wait_s", 0.0)
    async with run_broker(config) as broker:
        customers = [await holder(broker, 10) for _ in range(4)]
        monkeypatch.setattr(FanOut, "ask", two_only)
        status, answer = await carry_out(broker, split)
        assert (status, answer["code"], answer["not_adjusted"], answer["holders"]) == (409, "not_finished", 2, 4)
        monkeypatch.undo()
    async with run_broker(config) as again:
        clients = [Client(again.http, again.running.url, each.token, each.customer_id) for each in customers]
        assert await switches(again) == {"halt:AAPL": "split of AAPL, corporate action s"}
        assert [await positions(each) for each in clients] == [{"AAPL": 20}] * 2 + [{"AAPL": 10}] * 2
        assert await carry_out(again, split) == (201, done(SPLIT, holders=4, adjusted=2, already_booked=2))
        assert [await positions(each) for each in clients] == [{"AAPL": 20}] * 4
        assert await switches(again) == {}
        await again.books_are_right()


@pytest.mark.parametrize(
    "step", ["settle_holders", "finish_corporate_action", "release_control", "corporate_references"]
)
async def test_the_database_may_go_away_at_any_step(broker: Broker, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = await holder(broker, 10), await holder(broker, 7)
    fetch = Database.fetch

    async def away(self: Database, name: str, *arguments: object) -> Any:
        if name == step:
            raise DatabaseUnavailable("away")
        return await fetch(self, name, *arguments)

    split = {**SPLIT, "numerator": 2, "denominator": 1}
    with monkeypatch.context() as patch:
        patch.setattr(Database, "fetch", away)
        status, answer = await carry_out(broker, split)
        assert (status, answer["code"]) == (503, "database_unavailable")
    assert "halt:AAPL" in await switches(broker)
    assert (await carry_out(broker, split))[0] in {200, 201}
    assert [await positions(each) for each in (one, two)] == [{"AAPL": 20}, {"AAPL": 14}]
    assert await switches(broker) == {}


async def test_who_buys_between_two_attempts_gets_no_dividend(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    one = await holder(broker, 10)

    async def none(*_: object) -> Answers:
        return Answers([], 1)

    with monkeypatch.context() as patch:
        patch.setattr(FanOut, "ask", none)
        patch.setattr(CorporateActions, "adjust_wait_s", 0.0)
        assert (await carry_out(broker, DIVIDEND))[0] == 409
    late = await holder(broker, 1000)
    before = await cash(broker, one), await cash(broker, late)
    assert await carry_out(broker, DIVIDEND) == (201, done(DIVIDEND, holders=1, adjusted=1, cash_paid="2.40"))
    assert (await cash(broker, one), await cash(broker, late)) == (before[0] + 24_000, before[1])


# ------------------------------------------------------------------ what is refused

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({}, "event_id is missing."),
    ({**DIVIDEND, "event_id": "a b"}, "event_id must be 1 to 100 visible ASCII characters."),
    ({**DIVIDEND, "type": "merger"}, 'type must be "split", "symbol_change" or "cash_dividend".'),
    ({**DIVIDEND, "symbol": "aapl"}, "symbol must be a ticker"),
    ({**DIVIDEND, "amount_per_share": "0"}, "amount_per_share must be above 0"),
    ({**DIVIDEND, "amount_per_share": "0.00001"}, "amount_per_share is not an amount"),
    ({**DIVIDEND, "amount_per_share": "1000000.01"}, "amount_per_share must be above 0 and at most 1000000.00."),
    ({**DIVIDEND, "price": "1.00"}, "A cash_dividend has no price."),
    (SPLIT, "A split needs denominator."),
    ({**SPLIT, "numerator": 2, "denominator": 0}, "denominator must be a whole number from 1 to 100000."),
    ({**SPLIT, "numerator": "2", "denominator": 1}, "numerator must be a whole number from 1 to 100000."),
    ({**SPLIT, "numerator": 2, "denominator": 2}, "numerator and denominator must differ."),
    ({**SPLIT, "numerator": 2, "denominator": 3, "price": "x"}, "price is not an amount"),
    ({**RENAMED, "new_symbol": "AAPL"}, "new_symbol must be another one."),
    ({**RENAMED, "new_symbol": "$USD"}, "new_symbol must be a ticker"),
    ({**RENAMED, "ratio": 1}, "There is no field 'ratio' here."),
]


async def test_what_makes_no_sense_is_refused_and_not_remembered(broker: Broker) -> None:
    found = []
    for body, sentence in REFUSED:
        status, answer = await broker.operator.call("POST", PATH, body)
        if (status, answer["code"], answer["error"][: len(sentence)]) != (400, "invalid_request", sentence):
            found.append((body, status, answer))
    assert not found
    assert await broker.fetch("SELECT FROM corporate_action") == []
    assert await switches(broker) == {}


async def test_figures_that_no_book_could_hold_are_refused(broker: Broker) -> None:
    one = await holder(broker, 1000)
    assert (await carry_out(broker, SPLIT, numerator=100_000, denominator=1))[0] == 201
    assert await positions(one) == {"AAPL": 100_000_000}
    status, answer = await carry_out(broker, SPLIT, event_id="t", numerator=100_000, denominator=1)
    assert (status, answer["error"]) == (
        400,
        "This cannot be carried out: customers would have more than 1000000000000 AAPL.",
    )
    status, answer = await carry_out(broker, DIVIDEND, amount_per_share="1000000.00")
    assert (status, answer["error"]) == (400, "This cannot be carried out: it pays more than any account may have.")


# ------------------------------------------------------------------ the command line


async def test_corporate_actions_from_the_command_line(broker: Broker, command: Callable[..., Any]) -> None:
    one = await holder(broker, 10)
    code, answer = await command("corporate", "split", "s", "AAPL", "3:2", "--price", "180.00")
    assert (code, answer["adjusted"], answer["price"]) == (0, 1, "180.00")
    code, answer = await command("corporate", "dividend", "d", "AAPL", "0.24")
    assert (code, answer["cash_paid"]) == (0, "3.60")
    code, answer = await command("corporate", "rename", "r", "AAPL", "APPL")
    assert (code, await positions(one)) == (0, {"APPL": 15})
    code, answer = await command("corporate", "rename", "r", "AAPL", "APPL")
    assert (code, answer["repeated"]) == (0, True)
    code, answer = await command("corporate", "rename", "r", "AAPL", "APL")
    assert (code, answer["code"]) == (1, "event_id_used")


def test_a_ratio_that_is_none_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["corporate", "split", "--url", "http://127.0.0.1:1", "s", "AAPL", "four"]) == 2
    assert "'four' is not new:old, like 4:1." in capsys.readouterr().err
