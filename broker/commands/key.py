"""`broker key`: the keys of operators, on a running broker; and what `broker customer` says of keys likewise."""

import argparse
import re
from typing import Any
from urllib.parse import quote

from broker.commands.operator import WHERE, add_action, add_where, call

_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "key",
        help="manage operators' keys, on a running broker",
        description=f"Manage the keys of operators, which open what the admin token does. {WHERE}",
    )
    parser.set_defaults(url=None, data=None, run=_key)
    add_where(parser)
    actions = parser.add_subparsers(title="actions", required=True, metavar="ACTION")
    add_action(actions, "list", "show all of them, without their secrets").set_defaults(
        call=lambda _: ("GET", "", None)
    )
    create = add_action(actions, "create", "issue one; its secret is shown once")
    add_expiry(create)
    create.set_defaults(call=lambda o: ("POST", "", expiry(o)))
    rotate = add_action(actions, "rotate", "put a new one in the place of one, which goes on opening for a while")
    add_rotated(rotate)
    rotate.set_defaults(call=lambda o: ("POST", f"/{named(o)}/rotate", overlap(o)))
    revoke = add_action(actions, "revoke", "end one")
    add_key_id(revoke)
    revoke.set_defaults(call=lambda o: ("DELETE", f"/{named(o)}", None))


def _key(options: argparse.Namespace) -> int:
    method, path, body = options.call(options)
    return call(options, method, f"keys{path}", body)


# ------------------------------------------------------------------ the same for customers' keys


def add_key_id(action: argparse.ArgumentParser) -> None:
    """Which key."""
    action.add_argument("key_id", help="the part of its token before the point")


def add_expiry(action: argparse.ArgumentParser) -> None:
    """When a new key ends."""
    action.add_argument(
        "--expires-in", type=_seconds, metavar="TIME", help="it ends after this: 90d, 12h, 30m or 45s [never]"
    )


def add_rotated(action: argparse.ArgumentParser) -> None:
    """Which key, and for how long it goes on."""
    add_key_id(action)
    action.add_argument(
        "--overlap", type=_seconds, metavar="TIME", help="the old one goes on opening for this: 0s, 1d [1h]"
    )


def named(options: argparse.Namespace) -> str:
    """The key's id as a part of a path, whatever stands there."""
    return quote(options.key_id, safe="")


def expiry(options: argparse.Namespace) -> dict[str, object]:
    """What the API is told of it."""
    return {} if options.expires_in is None else {"expires_in_s": options.expires_in}


def overlap(options: argparse.Namespace) -> dict[str, object]:
    """The same of the overlap."""
    return {} if options.overlap is None else {"overlap_s": options.overlap}


def _seconds(text: str) -> int:
    match = re.fullmatch(r"([0-9]{1,9})([smhd])", text, re.ASCII)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no time like 90d, 12h, 30m or 45s")
    return int(match[1]) * _UNITS[match[2]]
