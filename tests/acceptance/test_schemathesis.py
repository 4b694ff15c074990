"""Requests made from the OpenAPI documents, right ones and wrong ones, to every operation of a running broker.

Nothing may be answered with a 5xx, with a status that is not in the document, or with a body that is not as it says;
what the document forbids is refused, and nothing opens without its token. The examples are the same in each run:

    SCHEMATHESIS_EXAMPLES=500 python -m pytest tests/acceptance/test_schemathesis.py

makes more of them.
"""

import asyncio
import json
import os
import re
import sys
from asyncio.subprocess import PIPE, STDOUT
from pathlib import Path
from typing import Any

import pytest

from tests import documented
from tests.conftest import Broker, Client

EXAMPLES = int(os.environ.get("SCHEMATHESIS_EXAMPLES", "10"))
SEVERAL = 5
"""Of each thing: one may be replaced, and the next one deleted."""
WITHIN_S = 60 + 3 * EXAMPLES
CHECKS = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "missing_required_header",
    "unsupported_method",
    "allow_header_conformance",
    "ignored_auth",
]
NOTHING_THERE = {
    "GET /v2/stocks/{symbol}/bars/latest": "there is none before a minute is over",
    "GET /v2/corporate_actions/announcements/{announcement_id}": "there are no announcements",
    "GET /v2/options/contracts/{symbol_or_id}": "there are no options",
    "POST /v2/positions/{symbol_or_asset_id}/exercise": "there are no options",
}
"""Why an operation may not answer 2xx."""
SCHEMATHESIS = Path(sys.executable).with_name("st")


async def order(customer: Client, **fields: Any) -> Any:
    body = {"symbol": "AAPL", "side": "buy", "order_type": "market", "quantity": 10} | fields
    status, made = await customer.call("POST", "/api/v1/orders", body)
    assert status == 201, made
    return made


async def parameters(customer: Client) -> dict[str, list[str]]:
    """Things of the customer for the paths that need one: shares, orders that rest, a trade, webhooks."""
    filled = await order(customer, client_order_id="mine")
    await customer.ended(filled["id"])
    resting = [await order(customer, order_type="limit", price="1.00", time_in_force="gtc") for _ in range(SEVERAL)]
    hooks = [
        await customer.call("POST", "/api/v1/webhooks", {"url": f"https://hooks.example/{number}"})
        for number in range(2)
    ]
    return {
        "path.symbol": ["AAPL"],
        "path.orderId": [each["id"] for each in resting],
        "path.tradeId": [filled["id"]],
        "path.clientOrderId": ["mine"],
        "path.webhookId": [made["webhook_id"] for _, made in hooks],
    }


def settings(tokens: dict[str, str], known: dict[str, list[str]]) -> str:
    """schemathesis.toml: the way in, and things that are there beside those that it makes up."""
    lines = [line for scheme, token in tokens.items() for line in (f"[auth.openapi.{scheme}]", token)]
    lines += ["[parameters]"]
    lines += [f'"{name}" = {{ dictionary = "{name.partition(".")[2]}", probability = 0.9 }}' for name in known]
    for name, values in known.items():
        lines += [f"[dictionaries.{name.partition('.')[2]}]", f"values = {json.dumps(values)}"]
    # This path is at the same time that of an order, which there is none of: other methods are 404 rather than 405.
    lines += ["[[operations]]", 'include-path = "/api/v1/orders/estimate"']
    lines += ["phases.coverage.unexpected-methods = []"]
    return "\n".join(lines)


async def attack(broker: Broker, folder: Path, document: str, paths: str, config: str) -> list[Any]:
    """Run it from outside, and give back what it asked and heard."""
    (folder / "schemathesis.toml").write_text(config)
    flags = ["--phases", "examples,coverage,fuzzing", "--max-examples", str(EXAMPLES), "--generation-deterministic"]
    flags += ["--checks", ",".join(CHECKS), "--continue-on-failure", "--no-color", "--request-timeout", "10"]
    flags += ["--include-path-regex", paths, "--report", "har", "--report-har-path", "heard.har"]
    process = await asyncio.create_subprocess_exec(
        SCHEMATHESIS, "run", broker.running.url + document, *flags, cwd=folder, stdout=PIPE, stderr=STDOUT
    )
    try:
        out, _ = await asyncio.wait_for(process.communicate(), WITHIN_S)
    finally:
        if process.returncode is None:
            process.kill()
    text = out.decode()
    assert process.returncode == 0, (text.partition("= FAILURES =")[2] or text)[-20_000:]
    wanted = [name for name in names(document) if re.search(paths, name.split(" ")[1])]
    assert f"Tested: {len(wanted)}" in text, text
    return json.loads((folder / "heard.har").read_text())["log"]["entries"]


def names(document: str) -> list[str]:
    described = documented.documents()[document == "/openapi-alpaca.json"]
    return [f"{method.upper()} {path}" for path, methods in described["paths"].items() for method in methods]


def not_reached(document: str, paths: str, heard: list[Any]) -> set[str]:
    """The operations of which none was answered 2xx: what lies behind their refusals was not tried."""
    reached = set()
    for entry in heard:
        method, url = entry["request"]["method"], entry["request"]["url"]
        found = documented.operation(method, "/" + url.split("/", 3)[3].partition("?")[0])
        if found is not None and 200 <= entry["response"]["status"] < 300:
            reached.add(f"{method} {found[1]}")
    return {name for name in names(document) if re.search(paths, name.split(" ")[1])} - reached


@pytest.mark.timeout(WITHIN_S + 30)
async def test_our_own_api_for_customers(broker: Broker, tmp_path: Path) -> None:
    customer = await broker.customer()
    config = settings({"customer": f'bearer = "{customer.token}"'}, await parameters(customer))
    one = "^/api/v1/orders/."  # goes first: what cancels all of them would leave it none
    heard = await attack(broker, tmp_path, "/openapi.json", one, config)
    heard += await attack(broker, tmp_path, "/openapi.json", f"^/(?!admin/)(?!{one[2:]})", config)
    assert not_reached("/openapi.json", "^/(?!admin/)", heard) == set()


@pytest.mark.timeout(WITHIN_S + 30)
async def test_our_own_api_for_operators(broker: Broker, tmp_path: Path) -> None:
    customer = await broker.customer()
    await parameters(customer)
    key, _, _ = customer.token.partition(".")
    known = {"path.symbol": ["AAPL"], "path.customerId": [customer.customer_id], "path.keyId": [key]}
    config = settings({"operator": f'bearer = "{broker.running.admin_token}"'}, known)
    heard = await attack(broker, tmp_path, "/openapi.json", "^/admin/", config)
    # The key that it knows is a customer's: test_keys rotates those of operators.
    assert not_reached("/openapi.json", "^/admin/", heard) <= {"POST /admin/v1/keys/{keyId}/rotate"}


@pytest.mark.timeout(WITHIN_S + 30)
async def test_alpacas_dialect(broker: Broker, tmp_path: Path) -> None:
    customer = await broker.customer()
    own = await parameters(customer)
    key, _, secret = customer.token.partition(".")
    headers = {"APCA-API-KEY-ID": key, "APCA-API-SECRET-KEY": secret}
    names = [f"list {number}" for number in range(2 * SEVERAL)]
    lists = [
        await customer.call("POST", "/v2/watchlists", {"name": name, "symbols": ["AAPL"]}, headers=headers)
        for name in names
    ]
    known = {
        "path.symbol": ["AAPL"],
        "path.symbol_or_asset_id": ["AAPL"],
        "path.order_id": own["path.orderId"],
        "path.watchlist_id": [made["id"] for _, made in lists[:SEVERAL]],
        "path.activity_type": ["FILL"],
        "query.symbols": ["AAPL"],
        "query.name": names[SEVERAL:],
        "query.client_order_id": ["mine"],
    }
    tokens = {
        "keyId": f'api_key = "{key}"',
        "secretKey": f'api_key = "{secret}"',
        "token": f'bearer = "{customer.token}"',
        "basic": f'username = "{key}"\npassword = "{secret}"',
    }
    one = "^/v2/(positions|orders)/."  # goes first: what ends all of them would leave it none
    heard = await attack(broker, tmp_path, "/openapi-alpaca.json", one, settings(tokens, known))
    others = "^/(?!v2/(positions|orders)/.)"
    heard += await attack(broker, tmp_path, "/openapi-alpaca.json", others, settings(tokens, known))
    assert not_reached("/openapi-alpaca.json", "^/", heard) <= set(NOTHING_THERE)
