"""`broker audit`: what operators asked for and what came of it, from the command line."""

import argparse
from typing import Any

from broker.commands.operator import WHERE, add_action, add_where, call


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "audit",
        help="show a running broker's audit log, or the heads of its chains",
        description=f"Show the audit log of a running broker, or the heads of its chains of hashes. {WHERE}",
    )
    parser.set_defaults(url=None, data=None, run=lambda options: options.act(options))
    add_where(parser)
    actions = parser.add_subparsers(title="actions", required=True, metavar="ACTION")
    show = add_action(actions, "show", "show what operators asked for, the newest first")
    show.add_argument("--after", type=int, help="records after this number, the oldest first")
    show.add_argument("--limit", type=int, default=100, help="how many at most")
    show.set_defaults(act=_show)
    heads = add_action(actions, "heads", "show each chain's last record: kept elsewhere, for broker verify --heads")
    heads.set_defaults(act=lambda o: call(o, "GET", "audit/heads", None))


def _show(options: argparse.Namespace) -> int:
    after = "" if options.after is None else f"&after={options.after}"
    return call(options, "GET", f"audit?limit={options.limit}{after}", None)
