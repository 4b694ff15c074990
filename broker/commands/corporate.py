"""`broker corporate`: splits, symbol changes and dividends on a running broker, from the command line."""

import argparse
import re
from typing import Any

from broker.commands.operator import WHERE, add_action, add_where, call
from broker.commands.running import UsageError

_WAIT_S = 120.0
"""Longer than the broker takes to cancel what is open and adjust every holder, or to say that it could not."""


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "corporate",
        help="carry out splits, symbol changes and dividends on a running broker",
        description="Carry out corporate actions for everybody who holds the symbol, on a running broker. Each event "
        "is booked once for each customer: if it cannot be finished, send the same command again. A split and a "
        f"symbol change halt the symbol meanwhile and cancel the orders that are open in it. {WHERE}",
    )
    parser.set_defaults(url=None, data=None, run=_corporate)
    add_where(parser)
    actions = parser.add_subparsers(title="actions", required=True, metavar="ACTION")
    split = _action(actions, "split", "give new shares for old ones; fractions are paid in cash")
    split.add_argument("ratio", help="new shares for old ones: 4:1 makes four of one, 1:10 one of ten")
    split.add_argument("--price", help="dollars of one new share, for fractions [from the last quote of an old one]")
    split.set_defaults(body=_split)
    rename = _action(actions, "rename", "change the symbol")
    rename.add_argument("new_symbol", help="its new symbol")
    rename.set_defaults(body=lambda o: {"type": "symbol_change", "new_symbol": o.new_symbol})
    dividend = _action(actions, "dividend", "pay cash for every share")
    dividend.add_argument("amount", help='dollars for each share, like "0.24"')
    dividend.set_defaults(body=lambda o: {"type": "cash_dividend", "amount_per_share": o.amount})


def _action(actions: Any, name: str, help_: str) -> argparse.ArgumentParser:
    action = add_action(actions, name, help_)
    action.add_argument("event_id", help="what this event is known by; it is booked once, however often it is sent")
    action.add_argument("symbol", help="the ticker, like AAPL")
    return action


def _split(options: argparse.Namespace) -> dict[str, object]:
    match = re.fullmatch(r"([0-9]{1,9}):([0-9]{1,9})", options.ratio, re.ASCII)
    if match is None:
        raise UsageError(f"{options.ratio[:80]!r} is not new:old, like 4:1.", 2)
    body: dict[str, object] = {"type": "split", "numerator": int(match[1]), "denominator": int(match[2])}
    return body if options.price is None else {**body, "price": options.price}


def _corporate(options: argparse.Namespace) -> int:
    body = {"event_id": options.event_id, "symbol": options.symbol, **options.body(options)}
    return call(options, "POST", "corporate-actions", body, _WAIT_S)
