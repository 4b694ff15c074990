"""`broker customer`: the operator's API of a running broker, from the command line."""

import argparse
import asyncio
import json
import os
import sys
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
    parser.set_defaults(url=None, data=None, run=_customer)
    _add_where(parser)
    actions = parser.add_subparsers(title="actions", required=True, metavar="ACTION")
    create = _action(actions, "create", "make a customer; its secret is shown once", names_one=False)
    create.add_argument("--name", default="")
    create.add_argument("--cash", default="0", help='opening deposit in dollars, like "100000.00" [0]')
    create.set_defaults(call=lambda o: ("POST", "", {"name": o.name, "cash": o.cash}))
    for name, help_ in (
        ("show", "show a customer with balance and keys"),
        ("suspend", "stop its trading"),
        ("activate", "let it trade again"),
        ("key", "issue one more key; its secret is shown once"),
    ):
        action = _action(actions, name, help_)
        path = {"show": "", "key": "/keys"}.get(name, f"/{name}")
        method = "GET" if name == "show" else "POST"
        action.set_defaults(call=lambda o, method=method, path=path: (method, f"{_one(o)}{path}", None))
    revoke = _action(actions, "revoke", "end a key")
    revoke.add_argument("key_id", help="the part of its token before the point")
    revoke.set_defaults(call=lambda o: ("DELETE", f"{_one(o)}/keys/{quote(o.key_id, safe='')}", None))
    for name, help_ in (("credit", "add cash"), ("debit", "take cash")):
        cash = _action(actions, name, f"{help_}, once for each reference")
        cash.add_argument("amount", help='dollars, like "250.00"')
        cash.add_argument(
            "reference", help="what this movement is known by; it is booked once, however often it is sent"
        )
        body = lambda o: {"amount": o.amount, "reference": o.reference}  # noqa: E731
        cash.set_defaults(call=lambda o, path=f"/{name}s", body=body: ("POST", f"{_one(o)}{path}", body(o)))


def _action(actions: Any, name: str, help_: str, *, names_one: bool = True) -> argparse.ArgumentParser:
    action: argparse.ArgumentParser = actions.add_parser(name, help=help_, description=help_)
    _add_where(action)
    if names_one:
        action.add_argument("customer_id", help="as `customer create` showed it")
    return action


def _add_where(parser: argparse.ArgumentParser) -> None:
    """Before the action and behind it; what is not given at one place leaves the other as it is."""
    url = "the broker's URL (default: of the broker that runs on the data folder)"
    parser.add_argument("--url", default=argparse.SUPPRESS, help=url)
    data = f"the broker's data folder [{default_data()}]"
    parser.add_argument("--data", type=Path, default=argparse.SUPPRESS, help=data)


def _one(options: argparse.Namespace) -> str:
    """The path of the customer that was named, whatever stands there instead of an id."""
    return "/" + quote(options.customer_id, safe="")


def _customer(options: argparse.Namespace) -> int:
    folder = options.data or Path(os.environ.get("BROKER_DATA") or default_data())
    url = options.url or os.environ.get("BROKER_URL") or read_json(folder / "running.json").get("url")
    token = os.environ.get("BROKER_ADMIN_TOKEN") or read_json(folder / "secrets.json").get("adminToken")
    if not url or not token:
        missing = "URL (--url)" if not url else "admin token (BROKER_ADMIN_TOKEN)"
        why = "may not be read by you" if _is_closed(folder) else "has no running broker"
        raise UsageError(
            f"The folder {folder} {why}, so the broker's {missing} is not known. Give it, or another --data."
        )
    status, answer = asyncio.run(_call(str(url), str(token), *options.call(options)))
    print(json.dumps(answer, indent=2), file=sys.stdout if status < 400 else sys.stderr)
    return 0 if status < 400 else 1


def _is_closed(folder: Path) -> bool:
    return folder.is_dir() and not os.access(folder, os.R_OK | os.X_OK)


async def _call(url: str, token: str, method: str, path: str, body: Mapping[str, str] | None) -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {token}"}
    try:
        async with (
            aiohttp.ClientSession(headers=headers, timeout=aiohttp.ClientTimeout(total=10)) as session,
            session.request(method, f"{url.rstrip('/')}/admin/v1/customers{path}", json=body) as response,
        ):
            return response.status, await response.json(content_type=None)
    except (aiohttp.ClientError, TimeoutError) as error:
        raise UsageError(f"The broker at {url} does not answer ({type(error).__name__}).") from error
    except ValueError as error:
        raise UsageError(f"What answers at {url} is no stockbroker: it sends no JSON.") from error
