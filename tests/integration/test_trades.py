"""PlaceTrade and its family, over real HTTP, on a real database, against the simulated exchange."""

import asyncio
from collections import Counter
from collections.abc import Callable
from uuid import uuid4

import pytest

from broker.config import Config
from tests.conftest import Broker, eventually, run_broker


async def test_a_buy_is_placed_filled_and_paid_for(broker: Broker) -> None:
    customer = await broker.customer(cash="100000.00")
    status, placed = await customer.place("BUY", "AAPL", 10)
    assert status == 201
    assert placed.keys() == {"tradeId", "stockTicker", "type", "quantity", "createdAt", "status", "reason"}
    assert (placed["stockTicker"], placed["type"], placed["quantity"]) == ("AAPL", "BUY", 10)
    assert placed["status"] == "PLACED"
    assert placed["reason"]

    trade = await customer.ended(placed["tradeId"])
    assert trade["status"] == "FILLED"
    assert trade["filledQuantity"] == 10
    assert [execution["quantity"] for execution in trade["executions"]] == [10]
    assert trade["averagePrice"] == trade["executions"][0]["price"]

    _, balance = await customer.call("GET", "/api/v1/balance")
    price = round(float(trade["averagePrice"]) * 10_000)
    assert round(float(balance["amount"]) * 10_000) == 1_000_000_000 - 10 * price
    assert balance["held"] == "0.00"
    assert balance["available"] == balance["amount"]
    assert (balance["customerId"], balance["currency"]) == (customer.customer_id, "USD")
    _, positions = await customer.call("GET", "/api/v1/positions")
    assert [(each["symbol"], each["quantity"], each["held"]) for each in positions["positions"]] == [("AAPL", 10, 0)]


async def test_a_sell_gives_the_cash_back(broker: Broker) -> None:
    customer = await broker.customer()
    for type_ in ("BUY", "SELL"):
        _, placed = await customer.place(type_, "MSFT", 3)
        assert (await customer.ended(placed["tradeId"]))["status"] == "FILLED"
    _, positions = await customer.call("GET", "/api/v1/positions")
    assert positions["positions"] == []


async def test_refusals_name_their_cause(broker: Broker) -> None:
    customer = await broker.customer(cash="100.00")
    for type_, symbol, quantity, cause in (
        ("BUY", "AAPL", 10, "insufficient funds"),
        ("SELL", "AAPL", 1, "insufficient shares"),
        ("BUY", "NOSUCH", 1, "unknown symbol"),
    ):
        _, placed = await customer.place(type_, symbol, quantity)
        trade = await customer.ended(placed["tradeId"])
        assert trade["status"] == "REJECTED"
        assert trade["reason"].startswith(cause), trade["reason"]
        assert trade["averagePrice"] is None


async def test_the_same_idempotency_key_answers_the_first_answer_again(broker: Broker) -> None:
    customer = await broker.customer()
    headers = {"Idempotency-Key": "order-7"}
    answers = await asyncio.gather(*(customer.place("BUY", "AAPL", 1, headers=headers) for _ in range(20)))
    assert {status for status, _ in answers} == {201}
    assert len({str(body) for _, body in answers}) == 1
    assert (await customer.place("BUY", "AAPL", 1, headers=headers))[1] == answers[0][1]

    status, error = await customer.place("BUY", "AAPL", 2, headers=headers)
    assert (status, error["code"]) == (422, "idempotency_key_reused")
    other = await broker.customer()
    _, placed = await other.place("BUY", "AAPL", 1, headers=headers)
    assert placed["tradeId"] != answers[0][1]["tradeId"]
    assert len(await broker.fetch("SELECT FROM trade")) == 2


async def test_a_replay_says_so_in_a_header(broker: Broker) -> None:
    customer = await broker.customer()
    headers = {"Idempotency-Key": "k", "Authorization": f"Bearer {customer.token}"}
    body = {"stockTicker": "AAPL", "type": "BUY", "quantity": 1}
    seen = []
    for _ in range(2):
        async with broker.http.post(f"{broker.running.url}/api/v1/trades", json=body, headers=headers) as response:
            seen.append(response.headers.get("Idempotency-Replayed"))
    assert seen == [None, "true"]


async def test_a_customers_trades_run_in_the_order_placed(broker: Broker) -> None:
    customer = await broker.customer(cash="10000000.00")
    answers = await asyncio.gather(*(customer.place("BUY", "AAPL", 1) for _ in range(50)))
    assert {status for status, _ in answers} == {201}, answers
    for _, placed in answers:
        await customer.ended(placed["tradeId"])
    rows = await broker.fetch(
        "SELECT trade.seq FROM trade JOIN event USING (trade_id) WHERE number = 2 ORDER BY event.seq"
    )
    assert [row["seq"] for row in rows] == list(range(1, 51))


async def test_lists_are_newest_first_filtered_and_paged(broker: Broker) -> None:
    customer = await broker.customer()
    ids = []
    for symbol in ("AAPL", "MSFT", "AAPL", "NOSUCH"):
        _, placed = await customer.place("BUY", symbol, 1)
        ids.append(placed["tradeId"])
        await customer.ended(placed["tradeId"])

    async def listed(query: str) -> list[str]:
        status, page = await customer.call("GET", f"/api/v1/trades?{query}")
        assert status == 200, page
        return [trade["tradeId"] for trade in page["trades"]]

    assert await listed("") == ids[::-1]
    assert await listed("symbol=AAPL") == [ids[2], ids[0]]
    assert await listed("status=REJECTED") == [ids[3]]
    assert await listed("status=FILLED,IN_PROGRESS&symbol=MSFT") == [ids[1]]
    assert await listed("to=2020-01-01") == []
    assert await listed("from=2020-01-01T00:00:00Z") == ids[::-1]
    _, first = await customer.call("GET", "/api/v1/trades?limit=3")
    _, second = await customer.call("GET", f"/api/v1/trades?limit=3&cursor={first['nextCursor']}")
    assert [trade["tradeId"] for trade in first["trades"] + second["trades"]] == ids[::-1]
    assert second["nextCursor"] is None


async def test_nobody_sees_somebody_elses_trade(broker: Broker) -> None:
    owner, other = await broker.customer(), await broker.customer()
    _, placed = await owner.place("BUY", "AAPL", 1)
    theirs = await other.call("GET", f"/api/v1/trades/{placed['tradeId']}")
    nobodys = await other.call("GET", f"/api/v1/trades/{uuid4()}")
    garbage = await other.call("GET", "/api/v1/trades/1%00%27")
    assert theirs == nobodys == garbage
    assert theirs[0] == 404
    await owner.ended(placed["tradeId"])


async def test_a_customer_id_in_the_body_must_be_the_tokens(broker: Broker) -> None:
    customer = await broker.customer()
    body = {"stockTicker": "AAPL", "type": "BUY", "quantity": 1}
    status, error = await customer.call("POST", "/api/v1/trades", {**body, "customerId": "999"})
    assert (status, error["code"]) == (403, "not_your_customer")
    status, placed = await customer.call("POST", "/api/v1/trades", {**body, "customerId": customer.customer_id})
    assert status == 201
    await customer.ended(placed["tradeId"])


@pytest.mark.timeout(300)
async def test_one_customers_thousand_buys_spend_what_is_there_and_no_more(broker: Broker) -> None:
    customer = await broker.customer(cash="2800.00")  # about ten AAPL
    answers = await asyncio.gather(*(customer.place("BUY", "AAPL", 1) for _ in range(1000)))
    assert {status for status, _ in answers} == {201}
    for _, placed in answers:  # they came over many connections: any of them may be the last
        await customer.ended(placed["tradeId"], within_s=30)
    trades = await broker.fetch("SELECT status, reason, filled_value FROM trade")
    filled = [trade for trade in trades if trade["status"] == "FILLED"]
    rejected = [trade for trade in trades if trade["status"] == "REJECTED"]
    assert len(filled) + len(rejected) == 1000
    assert all(trade["reason"].startswith("insufficient funds") for trade in rejected)
    left = 28_000_000 - sum(trade["filled_value"] for trade in filled)
    assert 0 <= left < max(trade["filled_value"] for trade in filled), "cash for one more share was left"
    # At no commit was the balance below zero: follow it through the postings, in the order of the transfers.
    steps = await broker.fetch(
        "SELECT sum(amount) OVER (ORDER BY at, transfer_id) AS balance FROM posting JOIN transfer USING (transfer_id)"
        " WHERE owner_id = $1 AND asset = '$USD'",
        int(customer.customer_id),
    )
    assert min(row["balance"] for row in steps) >= 0


async def test_a_full_queue_answers_503_with_retry_after_and_does_nothing(with_settings: Callable[..., Config]) -> None:
    async with run_broker(with_settings(shard_queue_max=2, shards=1)) as broker:
        customer = await broker.customer()
        headers = {"Authorization": f"Bearer {customer.token}"}
        url = f"{broker.running.url}/api/v1/trades"

        async def place() -> tuple[int, str | None, str]:
            body = {"stockTicker": "AAPL", "type": "BUY", "quantity": 1}
            async with broker.http.post(url, json=body, headers=headers) as response:
                answer = await response.json()
                return response.status, response.headers.get("Retry-After"), answer.get("code", "")

        answers = Counter(await asyncio.gather(*(place() for _ in range(200))))
        placed, refused = answers.pop((201, None, "")), answers.pop((503, "1", "overloaded"))
        assert not answers
        assert refused > 0
        assert len(await broker.fetch("SELECT FROM trade")) == placed == 200 - refused
        await eventually(lambda: all_ended(broker))
        await broker.books_are_right()


async def all_ended(broker: Broker) -> bool:
    return not await broker.fetch("SELECT FROM trade WHERE status NOT IN ('FILLED', 'REJECTED')")
