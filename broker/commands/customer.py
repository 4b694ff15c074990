"""`broker customer`: the operator's API of a running broker, from the command line."""

import argparse
import asyncio
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp

from broker.commands.running import UsageError
from broker.config import default_data
from broker.data_folder import read_json


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "customer",
        help="manage customers, their keys and cash, on a running broker",
        description="Manage customers on a running broker. Its URL and admin token are found in the data folder, "
        "or given with --url and BROKER_ADMIN_TOKEN.",
    )
    parser.add_argument("--url", help="the broker's URL (default: of the broker that runs on the data folder)")
    parser.add_argument("--data", type=Path, default=None, help=f"the broker's data folder [{default_data()}]")
    actions = parser.add_subparsers(title="actions", required=True, metavar="ACTION")
    create = actions.add_parser("create", help="make a customer; its secret is shown once")
    create.add_argument("--name", default="")
    create.add_argument("--cash", default="0", help='opening deposit in dollars, like "100000.00" [0]')
    create.set_defaults(call=lambda o: ("POST", "", {"name": o.name, "cash": o.cash}))
    for name, help_ in (
        ("show", "show a customer with balance and keys"),
        ("suspend", "stop its trading"),
        ("activate", "let it trade again"),
        ("key", "issue one more key; its secret is shown once"),
    ):
        action = actions.add_parser(name, help=help_)
        action.add_argument("customer_id")
        path = {"show": "", "key": "/keys"}.get(name, f"/{name}")
        method = "GET" if name == "show" else "POST"
        action.set_defaults(call=lambda o, method=method, path=path: (method, f"{_one(o)}{path}", None))
    revoke = actions.add_parser("revoke", help="end a key")
    revoke.add_argument("customer_id")
    revoke.add_argument("key_id")
    revoke.set_defaults(call=lambda o: ("DELETE", f"{_one(o)}/keys/{quote(o.key_id, safe='')}", None))
    for name, help_ in (("credit", "add cash"), ("debit", "take cash")):
        cash = actions.add_parser(name, help=f"{help_}, once for each reference")
        cash.add_argument("customer_id")
        cash.add_argument("amount", help='dollars, like "250.00"')
        cash.add_argument("reference", help="what books this movement, like a bank's reference; never used twice")
        body = lambda o: {"amount": o.amount, "reference": o.reference}  # noqa: E731
        cash.set_defaults(call=lambda o, path=f"/{name}s", body=body: ("POST", f"{_one(o)}{path}", body(o)))
    parser.set_defaults(run=_customer)


def _one(options: argparse.Namespace) -> str:
    """The path of the customer that was named, whatever stands there instead of an id."""
    return "/" + quote(options.customer_id, safe="")


def _customer(options: argparse.Namespace) -> int:
    folder = options.data or Path(os.environ.get("BROKER_DATA") or default_data())
    url = options.url or os.environ.get("BROKER_URL") or read_json(folder / "running.json").get("url")
    token = os.environ.get("BROKER_ADMIN_TOKEN") or read_json(folder / "secrets.json").get("adminToken")
    if not url or not token:
        missing = "URL (--url)" if not url else "admin token (BROKER_ADMIN_TOKEN)"
        raise UsageError(f"No broker runs on {folder}, so its {missing} is not known. Start it, or name --data.")
    status, answer = asyncio.run(_call(str(url), str(token), *options.call(options)))
    print(json.dumps(answer, indent=2))
    return 0 if status < 400 else 1


async def _call(url: str, token: str, method: str, path: str, body: Mapping[str, str] | None) -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {token}"}
    try:
        async with (
            aiohttp.ClientSession(headers=headers, timeout=aiohttp.ClientTimeout(total=10)) as session,
            session.request(method, f"{url.rstrip('/')}/admin/v1/customers{path}", json=body) as response,
        ):
            return response.status, await response.json(content_type=None)
    except (aiohttp.ClientError, TimeoutError) as error:
        raise UsageError(f"The broker at {url} does not answer: {error}.") from error
    except ValueError as error:
        raise UsageError(f"What answers at {url} is no stockbroker: it sends no JSON.") from error
