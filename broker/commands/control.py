"""`broker control`: the switches and risk limits of a running broker, from the command line."""

import argparse
from typing import Any
from urllib.parse import quote

from broker.commands.operator import WHERE, add_action, add_where, call
from broker.commands.running import UsageError

_CANCEL_WAIT_S = 30.0
"""Longer than the broker takes to reach everybody's orders."""


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "control",
        help="stop and allow trading, and set risk limits, on a running broker",
        description="Stop and allow trading, and set risk limits, on a running broker. What is switched holds from "
        f"the next decision on and outlasts a restart. {WHERE}",
    )
    parser.set_defaults(url=None, data=None, run=lambda options: options.act(options))
    add_where(parser)
    actions = parser.add_subparsers(title="actions", required=True, metavar="ACTION")
    list_ = add_action(actions, "list", "show the switches that are on")
    list_.set_defaults(act=lambda o: call(o, "GET", "controls", None))
    on = add_action(actions, "on", "stop the trading of all, of a customer or of a symbol")
    _add_scope(on)
    on.add_argument("--reason", required=True, help="why, without a full stop: customers read it in their orders")
    on.add_argument("--cancel-open", action="store_true", help="cancel the orders that are open there, too")
    on.set_defaults(act=_on)
    off = add_action(actions, "off", "allow it again")
    _add_scope(off)
    off.set_defaults(act=lambda o: call(o, "DELETE", _path("controls", o.scope), None))
    limits = add_action(actions, "limits", "show or set risk limits of an account type or a customer")
    limits.add_argument("scope", help="type:cash, type:margin, or a customer, like customer:1001")
    limits.add_argument(
        "settings",
        nargs="*",
        metavar="name=value",
        help="what to set, like order_quantity_max=1000 or order_value_max=25000.00; =default goes back to the default",
    )
    limits.set_defaults(act=_limits)


def _add_scope(action: argparse.ArgumentParser) -> None:
    action.add_argument(
        "scope",
        help="all; a customer, like customer:1001; a symbol that nobody may trade, like halt:AAPL, or buy, "
        "like restrict:AAPL",
    )


def _path(what: str, scope: str) -> str:
    """The path of a scope, whatever stands there instead of one."""
    return f"{what}/{quote(scope, safe=':')}"


def _on(options: argparse.Namespace) -> int:
    body = {"reason": options.reason, "cancel_open": options.cancel_open}
    return call(options, "PUT", _path("controls", options.scope), body, _CANCEL_WAIT_S)


def _limits(options: argparse.Namespace) -> int:
    path = _path("limits", options.scope)
    if not options.settings:
        return call(options, "GET", path, None)
    return call(options, "PUT", path, dict(map(_setting, options.settings)))


def _setting(text: str) -> tuple[str, object]:
    name, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"{text[:80]!r} is not name=value, like order_quantity_max=1000.", 2)
    if value == "default":
        return name, None
    return name, int(value) if value.isascii() and value.isdigit() and len(value) < 20 else value
