"""`broker exchange`: the simulated exchange as a program of its own, with every way of misbehaving as a flag."""

import argparse
import asyncio
import dataclasses
import json
import os
from pathlib import Path
from typing import Any, get_type_hints

from broker import log
from broker.commands.running import UsageError, run_until_signalled
from broker.config import Config, default_data, from_environment
from broker.data_folder import shared_webhook_secret
from broker.exchange import decode_secrets
from broker.simulator.clock import BadMoment, Clock, parse_moment
from broker.simulator.faults import Misbehaviour
from broker.simulator.journal import JournalDamaged, JournalInUse
from broker.simulator.server import SimulatedExchange
from broker.simulator.settings import ExchangeSettings

_MISBEHAVIOUR = {
    "delay_ms": "each callback comes late, by a random time up to so many milliseconds",
    "duplicates": "each callback is sent so many times again",
    "reorder": "callbacks are shuffled across trades",
    "lose": "probability that a callback is never sent",
    "reject": 'probability that an order is rejected with "random error"',
    "partial": "probability that a market order fills in 2 to 4 parts",
    "partial_gap_ms": "milliseconds before each of those parts",
    "error": "probability that a request with orders or cancels is answered 500, and nothing was done",
    "error_after": "probability that it is answered 500 although it was done",
    "timeout": "probability that it is done and no answer comes",
    "timeout_s": "seconds until such a connection is closed",
    "callback_first": "callbacks are delivered before the request with the orders is answered",
    "closed": 'the market is closed: an order that cannot wait is rejected with "past market hours"',
}


def add(commands: Any) -> None:
    """The flags of `broker exchange`."""
    parser = commands.add_parser(
        "exchange",
        help="run the simulated exchange as a program of its own",
        description="Run the simulated exchange. A broker on the same machine and of the same user finds the secret of "
        "its callbacks by itself; otherwise set BROKER_WEBHOOK_SECRETS for both.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on [127.0.0.1]")
    parser.add_argument("--port", type=int, default=8090, help="port to listen on; 0 takes a free one [8090]")
    parser.add_argument("--hours", choices=("always", "XNYS"), default="always", help="when it trades [always]")
    parser.add_argument("--seed", type=int, default=1, help="seed of prices and misbehaviour [1]")
    parser.add_argument("--tick-ms", type=int, default=250, help="milliseconds between two moves of the prices [250]")
    parser.add_argument("--fill-delay-ms", type=int, default=0, help="milliseconds before a market order fills [0]")
    parser.add_argument(
        "--data", type=Path, help="folder of its journal, so that it forgets nothing (default: one for each port)"
    )
    parser.add_argument("--clock", metavar="TIME", help="what time it is there, like 2026-11-27T12:55-05:00 [now]")
    parser.add_argument("--freeze", action="store_true", help="its clock stands still until an operator moves it")
    parser.add_argument("--json", action="store_true", help="print one line of JSON for programs when ready")
    group = parser.add_argument_group("misbehaviour", "everything is off unless asked for; drawn from the seed")
    for name, kind in get_type_hints(Misbehaviour).items():
        flag = "--" + name.replace("_", "-")
        if kind is bool:
            group.add_argument(flag, action="store_true", help=_MISBEHAVIOUR[name])
        else:
            default = getattr(Misbehaviour(), name)
            group.add_argument(flag, type=kind, default=default, help=f"{_MISBEHAVIOUR[name]} [{default}]")
    parser.set_defaults(run=_exchange)


def _exchange(options: argparse.Namespace) -> int:
    log.configure(Config(log_level=os.environ.get("BROKER_LOG_LEVEL") or "info", port=options.port).log_level)
    if min(options.tick_ms, options.fill_delay_ms) < 0:
        raise UsageError("--tick-ms and --fill-delay-ms take milliseconds from 0.")
    try:
        faults = Misbehaviour(**{each.name: getattr(options, each.name) for each in dataclasses.fields(Misbehaviour)})
    except ValueError as error:
        raise UsageError(f"The exchange cannot misbehave like that: {error}.") from error
    folder = options.data or (default_data() / "exchange" / str(options.port) if options.port else None)
    settings = ExchangeSettings(
        host=options.host,
        port=options.port,
        hours=options.hours,
        seed=options.seed,
        tick_ms=options.tick_ms,
        fill_delay_ms=options.fill_delay_ms,
        journal=folder,
        misbehaviour=faults,
        clock=_clock(options.clock, options.freeze),
    )
    run_until_signalled(lambda stop: _run(settings, stop, as_json=options.json))
    return 0


def _clock(text: str | None, frozen: bool) -> Clock:
    """The clock as the flags set it."""
    clock = Clock()
    try:
        clock.set(None if text is None else parse_moment(text), frozen)
    except BadMoment as error:
        raise UsageError(f"--clock cannot be used: {error}.") from error
    return clock


async def _run(settings: ExchangeSettings, stop: asyncio.Event, *, as_json: bool) -> None:
    text = from_environment("BROKER_WEBHOOK_SECRETS", os.environ) or shared_webhook_secret(default_data())
    try:
        key = decode_secrets(text)[0]
    except ValueError as error:
        raise UsageError(f"BROKER_WEBHOOK_SECRETS cannot be used: {error}.") from error
    exchange = SimulatedExchange(settings, key)
    try:
        url = await exchange.start()
    except (JournalInUse, JournalDamaged) as error:
        raise UsageError(f"{error}") from error
    except OSError as error:
        where = error.filename or f"{settings.host}:{settings.port}"  # only its journal's files have a name
        why = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror  # not at asyncio's length
        raise UsageError(f"The exchange cannot use {where}: {why}. Name another port with --port.") from error
    try:
        ready = {"event": "ready", "url": url}
        text = f"The simulated exchange is ready at {url}\nTrade on it: broker serve --exchange {url}"
        print(json.dumps(ready) if as_json else text, flush=True)
        await stop.wait()
    finally:
        await exchange.stop()
