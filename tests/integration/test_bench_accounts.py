"""Accounts in a given state, over real HTTP, down to the books."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from broker import cli
from broker.resets import Resets
from broker.verify import verify
from tests.conftest import Broker, Client, eventually, run_broker
from tests.integration.test_controls import Answer, command, rests, slow_exchange, status_of

__all__ = ["command"]  # a fixture

APPLES = {"symbol": "AAPL", "quantity": 10, "average_price": "190.00"}


async def reset(broker: Broker, customer: Client, cash: str, *positions: dict[str, Any], **more: object) -> Answer:
    body = {"cash": cash, "positions": list(positions), **more}
    return await broker.operator.call("PUT", f"/admin/v1/customers/{customer.customer_id}/state", body)


async def reset_many(broker: Broker, cash: str, **more: object) -> Answer:
    return await broker.operator.call("PUT", "/admin/v1/state", {"cash": cash, **more})


async def state(customer: Client) -> tuple[str, dict[str, tuple[int, str, str]]]:
    """Cash, and of each position the shares, what they cost and what has been gained."""
    _, account = await customer.call("GET", "/api/v1/account")
    assert account["held"] == "0.00"
    _, answer = await customer.call("GET", "/api/v1/positions")
    shares = {
        each["symbol"]: (each["quantity"], each["costBasis"], each["realizedPnl"]) for each in answer["positions"]
    }
    return account["cash"], shares


async def bought(customer: Client, symbol: str, quantity: int) -> None:
    _, placed = await customer.place("BUY", symbol, quantity)
    assert (await customer.ended(placed["tradeId"]))["status"] == "FILLED"


# ------------------------------------------------------------------ one


async def test_a_reset_cancels_what_is_open_and_leaves_the_account_in_the_state(broker: Broker) -> None:
    customer = await broker.customer("50000.00")
    await bought(customer, "MSFT", 3)
    orders = [await rests(customer), await rests(customer, "TSLA")]
    status, answer = await reset(broker, customer, "100000.00", APPLES, reference="begin")
    expected = {"customerId": customer.customer_id, "reference": "begin", "replayed": False, "cancelled_orders": 2}
    assert (status, answer) == (200, expected)
    assert await state(customer) == ("100000.00", {"AAPL": (10, "1900.00", "0.00")})
    assert {await status_of(customer, each) for each in orders} == {"CANCELLED"}
    _, account = await customer.call("GET", "/api/v1/account")
    assert account["realized_pnl"] == "0.00"
    _, placed = await customer.place("SELL", "AAPL", 10)
    assert (await customer.ended(placed["tradeId"]))["status"] == "FILLED"


async def test_a_reset_is_booked_once_for_each_reference(broker: Broker) -> None:
    customer, other = await broker.customer(), await broker.customer()
    assert (await reset(broker, customer, "7.00", reference="r"))[1]["replayed"] is False
    await reset(broker, customer, "8.00")
    status, answer = await reset(broker, customer, "7.00", reference="r")
    assert (status, answer["replayed"]) == (200, True)
    assert (await state(customer))[0] == "8.00"
    assert (await reset(broker, other, "7.00", reference="r"))[1]["replayed"] is False, "each customer for itself"
    sql = "SELECT reference FROM transfer WHERE kind = 'reset' AND reference LIKE 'r:%' ORDER BY 1"
    assert [row[0] for row in await broker.fetch(sql)] == [f"r:{each.customer_id}" for each in (customer, other)]


async def test_a_reset_to_the_state_that_is_there_is_remembered_too(broker: Broker) -> None:
    customer = await broker.customer("5.00")
    assert (await reset(broker, customer, "5.00", reference="r"))[1]["replayed"] is False
    assert (await reset(broker, customer, "6.00", reference="r"))[1]["replayed"] is True
    assert (await state(customer))[0] == "5.00"


async def test_shares_without_a_price_cost_what_the_last_trade_did(broker: Broker) -> None:
    customer = await broker.customer()
    body = {"price": "200.00", "hold": True}
    assert (await broker.operator.call("PUT", "/admin/v1/exchange/symbols/AAPL/price", body))[0] == 200

    async def costs_2000() -> bool:
        await reset(broker, customer, "0", {"symbol": "AAPL", "quantity": 10})
        return (await state(customer))[1] == {"AAPL": (10, "2000.00", "0.00")}

    await eventually(costs_2000)


async def test_margin_debt_and_gains_are_gone_and_history_begins_anew(broker: Broker) -> None:
    _, made = await broker.operator.call("POST", "/admin/v1/customers", {"cash": "50000.00", "accountType": "margin"})
    customer = Client(broker.http, broker.running.url, made["token"], made["customerId"])
    await bought(customer, "AAPL", 250)
    _, placed = await customer.place("SELL", "AAPL", 50)
    await customer.ended(placed["tradeId"])
    assert (await state(customer))[0].startswith("-")
    assert (await reset(broker, customer, "20000.00", {"symbol": "MSFT", "quantity": 10}))[0] == 200
    _, account = await customer.call("GET", "/api/v1/account")
    assert (account["cash"], account["realized_pnl"], account["margin_call"]) == ("20000.00", "0.00", "0.00")
    _, history = await customer.call("GET", "/api/v1/portfolio/history?period=1D&timeframe=1Min")
    assert set(history["net_deposits"]) == {"0.00"}
    assert all(abs(float(each)) < 500 for each in history["profit_loss"]), "only what MSFT has moved since"
    assert history["base_value"].startswith("2"), "what it was worth after the reset"


async def test_its_activities_are_transfers_that_sum_to_the_balance(broker: Broker) -> None:
    customer = await broker.customer("50000.00")
    await bought(customer, "MSFT", 3)
    await reset(broker, customer, "100.00", APPLES, reference="begin")
    _, page = await customer.call("GET", "/api/v1/activities?type=reset")
    found = [(each["symbol"], each["quantity"]) for each in page["activities"]]
    assert found == [("AAPL", 10), ("MSFT", -3), (None, None)]
    assert {each["reference"] for each in page["activities"]} == {f"begin:{customer.customer_id}"}
    _, all_ = await customer.call("GET", "/api/v1/activities")
    assert round(sum(float(each["cash"]) for each in all_["activities"]), 4) == 100.0
    paged: list[Any] = []
    cursor: str | None = ""
    while cursor is not None:
        _, page = await customer.call("GET", f"/api/v1/activities?limit=1{cursor and '&cursor=' + cursor}")
        paged += page["activities"]
        cursor = page["next_cursor"]
    assert paged == all_["activities"]


# ------------------------------------------------------------------ many


async def test_many_and_all_accounts_are_reset_at_once(broker: Broker) -> None:
    customers = [await broker.customer("10.00") for _ in range(5)]
    for each in customers[:2]:
        await reset(broker, each, "100000.00")
        await rests(each)
    named = [each.customer_id for each in customers[:3]]
    status, answer = await reset_many(broker, "20.00", customers=named, positions=[APPLES], reference="a")
    assert (status, answer) == (200, {"reference": "a", "customers": 3, "already_booked": 0, "cancelled_orders": 2})
    with_apples = ("20.00", {"AAPL": (10, "1900.00", "0.00")})
    assert [await state(each) for each in customers] == [with_apples] * 3 + [("10.00", {})] * 2
    status, answer = await reset_many(broker, "30.00", customers="all", reference="a")
    assert (status, answer) == (200, {"reference": "a", "customers": 5, "already_booked": 3, "cancelled_orders": 0})
    assert [await state(each) for each in customers] == [with_apples] * 3 + [("30.00", {})] * 2


async def test_many_accounts_are_made_in_a_state(broker: Broker) -> None:
    body = {"count": 6, "name_prefix": "bot-", "account_type": "margin", "cash": "2500.00", "positions": [APPLES]}
    status, answer = await broker.operator.call("POST", "/admin/v1/accounts", body)
    made = answer["accounts"]
    assert (status, [each["name"] for each in made]) == (201, [f"bot-{number}" for number in range(1, 7)])
    assert len({each["customerId"] for each in made}) == 6
    for each in made:
        assert each["token"] == f"{each['keyId']}.{each['secret']}"
        customer = Client(broker.http, broker.running.url, each["token"], each["customerId"])
        assert await state(customer) == ("2500.00", {"AAPL": (10, "1900.00", "0.00")})
    assert {row["account_type"] for row in await broker.fetch("SELECT account_type FROM customer")} == {"margin"}


async def test_more_than_the_limit_is_refused_and_nothing_is_done(with_settings: Callable[..., Any]) -> None:
    async with run_broker(with_settings(bench_accounts_max=2, bench_customers_max=2)) as broker:
        answer = await broker.operator.call("POST", "/admin/v1/accounts", {"count": 3, "cash": "1.00"})
        assert (answer[0], answer[1]["error"]) == (400, "count must be a whole number from 1 to 2.")
        assert await broker.fetch("SELECT FROM customer") == []
        for _ in range(3):
            await broker.customer("5.00")
        for customers in ("all", ["1001", "1002", "1003"]):
            status, answer = await reset_many(broker, "1.00", customers=customers)
            assert (status, answer["code"]) == (400, "invalid_request")
        assert await broker.fetch("SELECT FROM transfer WHERE kind = 'reset'") == []


# ------------------------------------------------------------------ what cannot be done


async def test_orders_that_the_exchange_does_not_end_are_said_and_gone_on_with(
    with_settings: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exchange works on a market order and cannot cancel it before it fills."""
    monkeypatch.setattr(Resets, "wait_s", 0.2)
    async with slow_exchange(1_500) as settings, run_broker(with_settings(**settings)) as broker:
        customer = await broker.customer()
        _, placed = await customer.place("BUY", "AAPL", 1)
        monkeypatch.setattr("broker.dispatch.Dispatcher.cancel", lambda *_: None)
        status, answer = await reset(broker, customer, "5.00", reference="r")
        figures = {"reference": "r", "not_reset": 1, "open_orders": 1}
        sentence = (
            "Not finished: 1 of 1 accounts are not reset, since 1 orders are being cancelled and still open. "
            "Send the same request with this reference again to go on."
        )
        assert (status, answer) == (409, {"error": sentence, "code": "not_finished", **figures})
        await customer.ended(placed["tradeId"])
        assert (await reset(broker, customer, "5.00", reference="r"))[0] == 200
        assert await state(customer) == ("5.00", {})
        await broker.books_are_right()


async def test_who_goes_on_ordering_is_reset_all_the_same(broker: Broker) -> None:
    customer = await broker.customer("100000.00")
    stop = asyncio.Event()

    async def go_on() -> None:
        body = {"symbol": "AAPL", "side": "buy", "quantity": 1, "order_type": "limit", "price": "150.00"}
        while not stop.is_set():
            await customer.call("POST", "/api/v1/orders", body)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(go_on())
        for number in range(5):
            status, answer = await reset(broker, customer, f"{number + 1}000.00")
            assert status == 200, answer
        stop.set()
    assert (await reset(broker, customer, "1.00"))[0] == 200
    assert await state(customer) == ("1.00", {})


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({}, "cash is missing."),
    ({"cash": "-1.00"}, "cash must be at least 0 and at most 10000000000.00."),
    ({"cash": "1", "positions": {}}, "positions must be a list of at most 500 positions"),
    ({"cash": "1", "positions": [{"symbol": "aapl", "quantity": 1}]}, "positions must be a list"),
    ({"cash": "1", "positions": [{"symbol": "AAPL", "quantity": 0}]}, "positions must be a list"),
    ({"cash": "1", "positions": [APPLES, APPLES]}, "positions must name each symbol once, and AAPL is twice in it."),
    ({"cash": "1", "positions": [{**APPLES, "average_price": "0"}]}, "average_price must be above 0"),
    ({"cash": "1", "positions": [{"symbol": "NOSUCH", "quantity": 1}]}, "No exchange lists NOSUCH"),
    ({"cash": "1", "reference": ""}, "reference must be text of 1 to 200 printable characters."),
    ({"cash": "1", "equity": "1"}, "There is no field 'equity' here."),
]


async def test_what_makes_no_sense_is_refused(broker: Broker) -> None:
    customer = await broker.customer("5.00")
    paths = [("PUT", f"/admin/v1/customers/{customer.customer_id}/state"), ("PUT", "/admin/v1/state")]
    wrong = []
    for method, path in [*paths, ("POST", "/admin/v1/accounts")]:
        for body, sentence in REFUSED:
            if path.endswith("accounts") and "reference" in body:
                continue
            more = {"count": 1} if path.endswith("accounts") else {}
            status, answer = await broker.operator.call(method, path, body | more)
            if (status, answer["code"], answer["error"][: len(sentence)]) != (400, "invalid_request", sentence):
                wrong.append((path, body, status, answer))
    assert wrong == []
    assert await state(customer) == ("5.00", {})
    assert len(await broker.fetch("SELECT FROM customer")) == 1


async def test_a_customer_that_is_not_there_is_not_found(broker: Broker) -> None:
    customer = await broker.customer("5.00")
    for found in [
        await broker.operator.call("PUT", "/admin/v1/customers/1/state", {"cash": "1"}),
        await broker.operator.call("PUT", "/admin/v1/customers/x/state", {"cash": "1"}),
        await reset_many(broker, "1", customers=[customer.customer_id, "999999"]),
    ]:
        assert (found[0], found[1]["code"]) == (404, "no_such_customer")
    status, answer = await reset_many(broker, "1", customers=["x"])
    assert (status, answer["error"]) == (400, 'customers must be a list of customer ids as text, or "all".')
    assert await state(customer) == ("5.00", {})


async def test_a_restart_remembers_which_resets_were_booked(config: Any) -> None:
    async with run_broker(config) as broker:
        customer = await broker.customer()
        await reset(broker, customer, "7.00", APPLES, reference="r")
    async with run_broker(config) as again:
        same = Client(again.http, again.running.url, customer.token, customer.customer_id)
        assert (await reset(again, same, "9.00", reference="r"))[1]["replayed"] is True
        assert await state(same) == ("7.00", {"AAPL": (10, "1900.00", "0.00")})
        await again.books_are_right()


async def test_verify_tells_a_reset_from_a_cost_that_nothing_explains(config: Any) -> None:
    async with run_broker(config) as broker:
        customer = await broker.customer("50000.00")
        await bought(customer, "AAPL", 3)
        await reset(broker, customer, "7.00", APPLES)
        await broker.books_are_right()
        lie = "INSERT INTO transfer VALUES (gen_random_uuid(), 'cash', 'lie', $1, now()) RETURNING transfer_id"
        (row,) = await broker.fetch(lie, int(customer.customer_id))
        sql = "INSERT INTO posting VALUES ($1, $2, 'AAPL', 0, 0, 1)"
        await broker.fetch(sql, row["transfer_id"], int(customer.customer_id))
        broken = {finding.rule for finding in await verify(broker.dsn) if finding.row is not None}
        assert broken == {"cost less gain is bought less sold"}


# ------------------------------------------------------------------ the command line


async def test_accounts_from_the_command_line(broker: Broker, command: Callable[..., Any]) -> None:
    code, answer = await command("bench", "accounts", "2", "--cash", "100.00", "--position", "AAPL=10@190")
    assert (code, len(answer["accounts"])) == (0, 2)
    one, two = [Client(broker.http, broker.running.url, each["token"]) for each in answer["accounts"]]
    ids = [each["customerId"] for each in answer["accounts"]]
    assert await state(one) == ("100.00", {"AAPL": (10, "1900.00", "0.00")})
    code, answer = await command("bench", "reset", ids[0], "--cash", "7.00", "--reference", "r")
    assert (code, answer["replayed"], await state(one)) == (0, False, ("7.00", {}))
    code, answer = await command("bench", "reset", *ids, "--cash", "8.00", "--reference", "r")
    assert (code, answer["already_booked"], await state(two)) == (0, 1, ("8.00", {}))
    code, answer = await command("bench", "reset", "all", "--cash", "9.00")
    assert (code, answer["customers"], await state(one)) == (0, 2, ("9.00", {}))
    code, answer = await command("bench", "reset", "999999", "--cash", "9.00")
    assert (code, answer["code"]) == (1, "no_such_customer")


def test_a_position_that_is_none_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--url", "http://127.0.0.1:1"]
    assert cli.main(["bench", "reset", *where, "1001", "--cash", "1", "--position", "AAPL:10"]) == 2
    assert "'AAPL:10' is not symbol=quantity" in capsys.readouterr().err
