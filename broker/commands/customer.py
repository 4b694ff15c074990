"""`broker customer`: the operator's API of a running broker, from the command line."""

import argparse
from typing import Any
from urllib.parse import quote

from broker.commands.key import add_expiry, add_key_id, add_rotated, expiry, named, overlap
from broker.commands.operator import WHERE, add_action, add_where, call


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "customer",
        help="manage customers, their keys and cash, on a running broker",
        description=f"Manage customers on a running broker. {WHERE}",
    )
    parser.set_defaults(url=None, data=None, run=_customer)
    add_where(parser)
    actions = parser.add_subparsers(title="actions", required=True, metavar="ACTION")
    create = _action(actions, "create", "make a customer; its secret is shown once", names_one=False)
    create.add_argument("--name", default="")
    create.add_argument("--cash", default="0", help='opening deposit in dollars, like "100000.00" [0]')
    create.add_argument("--type", default="cash", choices=("cash", "margin"), help="the account's type [cash]")
    create.set_defaults(call=lambda o: ("POST", "", {"name": o.name, "cash": o.cash, "accountType": o.type}))
    for name, help_ in (
        ("show", "show a customer with balance and keys"),
        ("suspend", "stop its trading"),
        ("activate", "let it trade again"),
    ):
        action = _action(actions, name, help_)
        path = {"show": ""}.get(name, f"/{name}")
        method = "GET" if name == "show" else "POST"
        action.set_defaults(call=lambda o, method=method, path=path: (method, f"{_one(o)}{path}", None))
    key = _action(actions, "key", "issue one more key; its secret is shown once")
    key.add_argument(
        "--scopes", default="read,trade", metavar="SCOPES", help="what it is good for: read, trade or both [read,trade]"
    )
    add_expiry(key)
    key.set_defaults(
        call=lambda o: ("POST", f"{_one(o)}/keys", {"scopes": [*filter(None, o.scopes.split(","))]} | expiry(o))
    )
    rotate = _action(actions, "rotate", "put a new key in the place of one, which goes on opening for a while")
    add_rotated(rotate)
    rotate.set_defaults(call=lambda o: ("POST", f"{_one(o)}/keys/{named(o)}/rotate", overlap(o)))
    revoke = _action(actions, "revoke", "end a key")
    add_key_id(revoke)
    revoke.set_defaults(call=lambda o: ("DELETE", f"{_one(o)}/keys/{named(o)}", None))
    for name, help_ in (("credit", "add cash"), ("debit", "take cash")):
        cash = _action(actions, name, f"{help_}, once for each reference")
        cash.add_argument("amount", help='dollars, like "250.00"')
        cash.add_argument(
            "reference", help="what this movement is known by; it is booked once, however often it is sent"
        )
        body = lambda o: {"amount": o.amount, "reference": o.reference}  # noqa: E731
        cash.set_defaults(call=lambda o, path=f"/{name}s", body=body: ("POST", f"{_one(o)}{path}", body(o)))


def _action(actions: Any, name: str, help_: str, *, names_one: bool = True) -> argparse.ArgumentParser:
    action = add_action(actions, name, help_)
    if names_one:
        action.add_argument("customer_id", help="as `customer create` showed it")
    return action


def _one(options: argparse.Namespace) -> str:
    """The path of the customer that was named, whatever stands there instead of an id."""
    return "/" + quote(options.customer_id, safe="")


def _customer(options: argparse.Namespace) -> int:
    method, path, body = options.call(options)
    return call(options, method, f"customers{path}", body)
