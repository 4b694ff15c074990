"""`broker serve`: run the broker, and print what a newcomer needs to place a first trade."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import structlog

from broker import config as configuration
from broker import log
from broker.app import serve
from broker.assembly import Running
from broker.commands.running import UsageError, run_until_signalled
from broker.config import Config
from broker.demo import DemoCustomer, demo_customers

_DEMO_MAX = 1000


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "serve",
        help="run the broker, with a database and an exchange of its own unless told otherwise",
        description="Run the broker. With no flags it starts a PostgreSQL in its data folder and a simulated exchange.",
    )
    parser.add_argument(
        "--demo",
        nargs="?",
        type=int,
        const=3,
        metavar="N",
        help="make N customers (3) with $100,000 each, show their keys",
    )
    parser.add_argument("--json", action="store_true", help="print one line of JSON for programs when ready")
    configuration.add_flags(parser)
    parser.set_defaults(run=_serve)


def _serve(options: argparse.Namespace) -> int:
    if options.demo is not None and not 0 <= options.demo <= _DEMO_MAX:
        raise UsageError(f"--demo takes a number of customers from 0 to {_DEMO_MAX}, not {options.demo}.")
    config = configuration.load(vars(options), os.environ)
    log.configure(config.log_level)
    for name in configuration.unknown_variables(os.environ):
        structlog.get_logger().warning("config.unknown_variable", name=name)

    async def on_ready(running: Running) -> None:
        customers = await demo_customers(running, options.demo) if options.demo else []
        _say(_ready_json(running, customers) if options.json else _banner(running, customers, config))

    run_until_signalled(lambda stop: serve(config, stop, on_ready))
    return 0


def _ready_json(running: Running, customers: Sequence[DemoCustomer]) -> str:
    return json.dumps(
        {
            "event": "ready",
            "url": running.url,
            "adminUrl": running.admin_url,
            "adminToken": running.admin_token,
            "exchangeUrl": running.exchange_url,
            "database": running.dsn,
            "customers": [
                {"customerId": each.customer_id, "keyId": each.key_id, "secret": each.secret, "token": each.token}
                for each in customers
            ],
        }
    )


def _banner(running: Running, customers: Sequence[DemoCustomer], config: Config) -> str:
    market = "given by you" if config.exchange else f"simulated, hours: {config.hours}{_clock(config)}"
    kept = "given by you" if config.database else f"embedded, in {running.folder.path}"
    lines = [
        f"stockbroker {version('stockbroker')} is ready.",
        "",
        f"  API          {running.url}  (described at {running.url}/docs)",
        f"  Admin token  {_admin_token(running, config, bool(customers))}",
        f"  Exchange     {log.redacted(running.exchange_url)}  ({market})",
        f"  Database     {log.redacted(running.dsn)}  ({kept})",
    ]
    if running.admin_url != running.url:
        lines.insert(4, f"  Operators    {running.admin_url}")
    if customers:
        lines += ["", "Demo customers, with $100,000.00 each to begin with:"]
        lines += [f"  customer {each.customer_id}  token {each.token}" for each in customers]
        order = '{"stockTicker": "AAPL", "type": "BUY", "quantity": 10}'
        header = f"-H 'Authorization: Bearer {customers[0].token}'"
        lines += [
            "",
            "Place a trade, then look at it and at the money:",
            f"  curl -s -X POST {running.url}/api/v1/trades {header} -H 'Content-Type: application/json' -d '{order}'",
            f"  curl -s {running.url}/api/v1/trades {header}",
            f"  curl -s {running.url}/api/v1/balance {header}",
            f"  curl -s {running.url}/api/v1/positions {header}",
            "",
            "Point a bot that was written for Alpaca here:",
            f"  export APCA_API_BASE_URL={running.url} \\",
            f"    APCA_API_KEY_ID={customers[0].key_id} APCA_API_SECRET_KEY={customers[0].secret}",
            "",
            f"What there is to trade: curl -s {running.exchange_url}/v1/symbols",
        ]
    return "\n".join([*lines, "", "Stop with Ctrl-C."])


def _admin_token(running: Running, config: Config, is_demo: bool) -> str:
    """Shown to whoever looks at a terminal, or wanted a demo; anything else that prints may be kept as a log."""
    if is_demo or sys.stdout.isatty():
        return running.admin_token
    return "given by you" if config.admin_token else f"in {running.folder.path / 'secrets.json'}"


def _clock(config: Config) -> str:
    """What is to be said of a clock that does not show the real time."""
    begins = f", clock: {config.clock}" if config.clock else ""
    return f"{begins}, frozen" if config.freeze else begins


def _say(text: str) -> None:
    """Print it, even to a reader who has gone: the broker goes on without being heard."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
