"""The operator's API: customers and cash, over real HTTP, down to the postings in the database."""

import asyncio
from typing import Any

from tests.conftest import Broker, Client

CUSTOMERS = "/admin/v1/customers"
HOUSE = -2
"""The world outside, on the books of shard 0; shard 1 has -12."""

Answer = tuple[int, Any]


async def create(broker: Broker, **fields: object) -> Answer:
    return await broker.operator.call("POST", CUSTOMERS, fields)


async def post_raw(broker: Broker, path: str, body: str) -> Answer:
    """A body that Python's json would not write."""
    headers = {"Authorization": f"Bearer {broker.running.admin_token}", "Content-Type": "application/json"}
    async with broker.http.post(broker.running.url + path, data=body.encode(), headers=headers) as response:
        return response.status, await response.json()


async def move(broker: Broker, customer: Client | str, kind: str, amount: object, reference: object) -> Answer:
    id_ = customer if isinstance(customer, str) else customer.customer_id
    return await broker.operator.call("POST", f"{CUSTOMERS}/{id_}/{kind}", {"amount": amount, "reference": reference})


async def credit(broker: Broker, customer: Client | str, amount: object, reference: object) -> Answer:
    return await move(broker, customer, "credits", amount, reference)


async def debit(broker: Broker, customer: Client | str, amount: object, reference: object) -> Answer:
    return await move(broker, customer, "debits", amount, reference)


async def amount_of(customer: Client) -> str:
    _, balance = await customer.call("GET", "/api/v1/balance")
    return str(balance["amount"])


async def booked(broker: Broker) -> list[tuple[object, ...]]:
    """Every posting of cash as (kind, reference, owner, $0.0001)."""
    rows = await broker.fetch(
        "SELECT kind::text, reference, owner_id, amount FROM transfer JOIN posting USING (transfer_id)"
        " ORDER BY reference, owner_id DESC"
    )
    return [tuple(row) for row in rows]


def house(customer: Client) -> int:
    """Who loses what a customer's credit gains: the outside row of the customer's shard."""
    return HOUSE - 10 * (int(customer.customer_id) % 2)


def code(answer: Answer) -> tuple[int, str]:
    return answer[0], answer[1].get("code", "")


# ------------------------------------------------------------------ customers


async def test_a_customer_needs_no_more_than_a_request(broker: Broker) -> None:
    status, created = await create(broker)
    assert status == 201
    assert created.keys() == {"customerId", "keyId", "secret", "token"}
    assert created["token"] == f"{created['keyId']}.{created['secret']}"

    status, shown = await broker.operator.call("GET", f"{CUSTOMERS}/{created['customerId']}")
    (key,) = shown.pop("keys")
    balance = shown.pop("balance")
    assert status == 200
    assert shown == {
        "customerId": created["customerId"],
        "name": "",
        "accountType": "cash",
        "status": "active",
        "createdAt": shown["createdAt"],
    }
    assert key == {
        "keyId": created["keyId"],
        "scopes": ["read", "trade"],
        "createdAt": key["createdAt"],
        "expires_at": None,
        "revokedAt": None,
    }
    assert balance == {
        "customerId": created["customerId"],
        "amount": "0.00",
        "held": "0.00",
        "available": "0.00",
        "currency": "USD",
        "lastModified": balance["lastModified"],
    }
    assert await booked(broker) == []


async def test_no_body_at_all_makes_a_customer_too(broker: Broker) -> None:
    status, created = await post_raw(broker, CUSTOMERS, "")
    assert (status, created.keys()) == (201, {"customerId", "keyId", "secret", "token"})


NAMES = (
    *(
        "Ünïcødé 株式 🐘",
        "O'Brien\"; DROP TABLE customer; --",
        "<script>alert(1)</script>",
        "%s {0} \\n $1",
        "null",
        " ",
    ),
    *("x" * 200, "🐘" * 200, "\u202eeman", "A\u0301"),
)


async def test_a_name_is_kept_letter_by_letter(broker: Broker) -> None:
    found = []
    for name in NAMES:
        _, created = await create(broker, name=name)
        _, shown = await broker.operator.call("GET", f"{CUSTOMERS}/{created['customerId']}")
        found.append(shown["name"])
    assert found == list(NAMES)


CASH = {
    '"100000.00"': "100000.00",
    '"100"': "100.00",
    '"0.0001"': "0.0001",
    '"100.1250"': "100.1250",
    "100": "100.00",
    "0": "0.00",
    "-0": "0.00",
    '"0"': "0.00",
    "100.5": "100.50",
    "0.0001": "0.0001",
    "1e-3": "0.0010",
    "9007199254740993.0": None,  # more than the limit, and more than a float can count
    "123456789.1234": "123456789.1234",
    "0.1": "0.10",
    "10000000000": "10000000000.00",
    '"10000000000.0000"': "10000000000.00",
    "10000000000.0001": None,
}
NO_CASH = r"""
    "-1" -1 -0.0001 "1.00001" 1.00001 NaN "NaN" Infinity "Infinity" "inf" "1e5" 1e5 1E+999999 1e-5 1e400 true false null
    [] ["1"] {} "" "\u0020" "\u00201" "1\u0020" "1\n" "1_000" "1,000" "$1" "+1" "--1" "0x1" "\uff11" "\u0661" "1." ".5"
    "\u0000" "\ud800" 10000000001 "10000000000.0001" 1000000000000000000000000000000 -1000000000000000000000000000000
    """


async def test_cash_is_read_exactly_however_it_is_written(broker: Broker) -> None:
    found = {}
    for text in CASH:
        status, created = await post_raw(broker, CUSTOMERS, f'{{"cash": {text}}}')
        if status == 201:
            _, shown = await broker.operator.call("GET", f"{CUSTOMERS}/{created['customerId']}")
            found[text] = shown["balance"]["amount"]
        else:
            found[text] = None
    assert found == CASH


async def test_what_is_no_customer_is_refused_and_none_is_made(broker: Broker) -> None:
    bodies = [
        *(f'{{"cash": {text}}}' for text in [*NO_CASH.split(), "1" * 4301, '"' + "1" * 60_000 + '"']),
        *(f'{{"accountType": {text}}}' for text in ('"MARGIN"', '""', "null", "1", '"CASH"', r'"cash\n"')),
        *(f'{{"name": {text}}}' for text in ("7", "null", "[]", '"' + "x" * 201 + '"', r'"\u0000"', r'"\ud800"')),
        *(f'{{"name": {text}}}' for text in (r'"line\n"', r'"line\nbreak"', r'"\u001b[31m"', r'"\u007f"')),
        '{"email": "a@b.c"}',
        '{"cash": 1, "cash": 2}',
        '{"customerId": 7}',
        "[]",
        "null",
        "{",
    ]
    answers = {body: code(await post_raw(broker, CUSTOMERS, body)) for body in bodies}
    refused = {(400, "invalid_request"), (400, "invalid_json")}
    assert {body: answer for body, answer in answers.items() if answer not in refused} == {}
    assert await broker.fetch("SELECT FROM customer") == []
    assert await booked(broker) == []


async def test_an_account_type_that_does_not_exist_names_those_that_do(broker: Broker) -> None:
    _, error = await create(broker, accountType="crypto")
    assert error == {"error": 'accountType must be "cash" or "margin".', "code": "invalid_request"}


async def test_a_margin_account_is_one(broker: Broker) -> None:
    status, created = await create(broker, accountType="margin", cash="5000.00")
    assert status == 201
    _, shown = await broker.operator.call("GET", f"{CUSTOMERS}/{created['customerId']}")
    assert shown["accountType"] == "margin"


async def test_an_unknown_customer_is_a_404_everywhere(broker: Broker) -> None:
    calls: list[tuple[str, str, object]] = [
        ("GET", "", None),
        ("POST", "/suspend", None),
        ("POST", "/activate", None),
        ("POST", "/keys", None),
        ("DELETE", "/keys/key_1", None),
        ("DELETE", "/keys/%00", None),
        ("DELETE", "/keys/%C3%A9", None),
        ("POST", "/credits", {"amount": "1.00", "reference": "r"}),
        ("POST", "/debits", {"amount": "1.00", "reference": "r"}),
    ]
    wrong = []
    for id_ in ("1", "0", "-1", "999999999999999999", "9" * 30, "abc", "1001.0", "%00", "%D9%A1", "%20"):
        for method, path, body in calls:
            answer = code(await broker.operator.call(method, f"{CUSTOMERS}/{id_}{path}", body))
            if answer != (404, "no_such_customer"):
                wrong.append((method, id_, path, answer))
    assert wrong == []
    assert await booked(broker) == []


# ------------------------------------------------------------------ cash


async def test_credits_and_debits_are_balanced_postings_under_their_reference(broker: Broker) -> None:
    customer = await broker.customer(cash="100.00")
    id_ = customer.customer_id
    status, movement = await credit(broker, customer, "50.0001", "wire 7")
    assert status == 201
    assert movement == {
        "customerId": id_,
        "amount": "50.0001",
        "reference": "wire 7",
        "balance": {**movement["balance"], "amount": "150.0001", "held": "0.00", "available": "150.0001"},
    }
    status, movement = await debit(broker, customer, 25, "wire 8")
    assert (status, movement["amount"], movement["balance"]["amount"]) == (201, "-25.00", "125.0001")
    assert await booked(broker) == [
        ("cash", f"opening:{id_}", int(id_), 1_000_000),
        ("cash", f"opening:{id_}", HOUSE, -1_000_000),
        ("cash", "wire 7", int(id_), 500_001),
        ("cash", "wire 7", house(customer), -500_001),
        ("cash", "wire 8", int(id_), -250_000),
        ("cash", "wire 8", house(customer), 250_000),
    ]


async def test_the_same_reference_again_is_the_same_movement(broker: Broker) -> None:
    customer = await broker.customer(cash="0")
    first = await credit(broker, customer, "10.00", "r-1")
    again = await credit(broker, customer, 10, "r-1")
    assert (first[0], again[0]) == (201, 200)
    assert again[1] == first[1]
    first, again = await debit(broker, customer, "4.00", "r-2"), await debit(broker, customer, "4", "r-2")
    assert (first[0], again[0]) == (201, 200)
    assert again[1] == first[1]
    assert await amount_of(customer) == "6.00"
    assert len(await booked(broker)) == 4


async def test_a_reference_belongs_to_one_movement(broker: Broker) -> None:
    customer, neighbour, other = [await broker.customer(cash="100.00") for _ in range(3)]
    await credit(broker, customer, "10.00", "r-1")
    before = await booked(broker)
    answers = [
        await credit(broker, customer, "10.01", "r-1"),
        await debit(broker, customer, "10.00", "r-1"),
        await credit(broker, neighbour, "10.00", "r-1"),
        await credit(broker, other, "10.00", "r-1"),
        await debit(broker, other, "1.00", "r-1"),
        await credit(broker, other, "100.00", f"opening:{customer.customer_id}"),
    ]
    assert [code(answer) for answer in answers] == [(409, "reference_used")] * 5 + [(400, "invalid_request")]
    assert await booked(broker) == before


async def test_the_references_of_opening_deposits_cannot_be_taken_in_advance(broker: Broker) -> None:
    customer = await broker.customer(cash="100.00")
    following = f"opening:{int(customer.customer_id) + 1}"
    assert code(await credit(broker, customer, "1.00", following)) == (400, "invalid_request")
    assert (await create(broker, cash="5.00"))[0] == 201


async def test_a_debit_takes_what_is_available_and_no_more(broker: Broker) -> None:
    customer = await broker.customer(cash="100.00")
    before = await booked(broker)
    for amount in ("100.0001", "10000000000"):
        status, error = await debit(broker, customer, amount, "r")
        assert (status, error["code"]) == (409, "insufficient_funds")
    assert await booked(broker) == before
    assert await amount_of(customer) == "100.00"
    assert (await debit(broker, customer, "100.00", "r"))[0] == 201, "a refused reference is still free"
    assert await amount_of(customer) == "0.00"
    assert code(await debit(broker, customer, "0.0001", "r-2")) == (409, "insufficient_funds")


async def test_what_is_no_movement_is_refused_and_none_is_made(broker: Broker) -> None:
    customer = await broker.customer(cash="100.00")
    before = await booked(broker)
    bodies = [
        *(f'{{"amount": {text}, "reference": "r"}}' for text in [*NO_CASH.split(), "0", "-0", '"0.00"', '"0"']),
        *(f'{{"amount": 1, "reference": {text}}}' for text in ("7", "null", "[]", '""', '"' + "x" * 201 + '"')),
        *(f'{{"amount": 1, "reference": {text}}}' for text in (r'"\u0000"', r'"\ud800"', r'"r\n"', r'"opening:1"')),
        '{"amount": 1}',
        '{"reference": "r"}',
        '{"amount": 1, "reference": "r", "currency": "EUR"}',
        "",
        "[]",
    ]
    refused = {(400, "invalid_request"), (400, "invalid_json")}
    for kind in ("credits", "debits"):
        path = f"{CUSTOMERS}/{customer.customer_id}/{kind}"
        answers = {body: code(await post_raw(broker, path, body)) for body in bodies}
        assert {body: answer for body, answer in answers.items() if answer not in refused} == {}
    assert await booked(broker) == before


async def test_a_reference_may_be_any_printable_text(broker: Broker) -> None:
    customer = await broker.customer(cash="0")
    references = ["x" * 200, "Überweisung № 7 🐘", "' OR 1=1; --", " ", "r/1?#&"]
    for reference in references:
        status, movement = await credit(broker, customer, "1.00", reference)
        assert (status, movement["reference"]) == (201, reference)
    assert {row[1] for row in await booked(broker)} == set(references)


async def test_concurrent_movements_add_up(broker: Broker) -> None:
    """A hundred at once to two customers of two shards: half the references come twice."""
    customers = [await broker.customer(cash="1000.00") for _ in range(2)]
    moves = [
        (customer, kind, f"{number + 1}.25", f"{kind}-{customer.customer_id}-{number}")
        for customer in customers
        for kind in ("credits", "debits")
        for number in range(17)
    ]
    repeated = moves + moves[::2]
    answers = await asyncio.gather(*(move(broker, *arguments) for arguments in repeated))
    assert sorted(status for status, _ in answers) == [200] * (len(repeated) - len(moves)) + [201] * len(moves)
    for customer in customers:
        assert await amount_of(customer) == "1000.00"
    references = [row[1] for row in await booked(broker) if not str(row[1]).startswith("opening:")]
    assert sorted(references) == sorted(2 * [reference for _, _, _, reference in moves])


async def test_one_reference_for_many_at_once_books_one(broker: Broker) -> None:
    customers = [await broker.customer(cash="0") for _ in range(10)]
    calls = [credit(broker, customer, "10.00", "salary") for customer in customers for _ in range(5)]
    answers = await asyncio.gather(*calls)
    assert {code(answer) for answer in answers} == {(201, ""), (200, ""), (409, "reference_used")}
    assert [code(answer) for answer in answers].count((201, "")) == 1
    assert [row[3] for row in await booked(broker)] == [100_000, -100_000]


async def test_one_reference_for_a_credit_and_a_debit_at_once_books_one(broker: Broker) -> None:
    customers = [await broker.customer(cash="100.00") for _ in range(2)]
    for number in range(20):
        answers = await asyncio.gather(
            credit(broker, customers[0], "1.00", f"r-{number}"), debit(broker, customers[1], "1.00", f"r-{number}")
        )
        assert sorted(code(answer) for answer in answers) == [(201, ""), (409, "reference_used")]


async def test_concurrent_debits_cannot_take_the_same_money_twice(broker: Broker) -> None:
    customer = await broker.customer(cash="10.00")
    answers = await asyncio.gather(*(debit(broker, customer, "1.00", f"r-{number}") for number in range(50)))
    assert [status for status, _ in answers].count(201) == 10
    assert {code(answer) for answer in answers} == {(201, ""), (409, "insufficient_funds")}
    assert await amount_of(customer) == "0.00"
