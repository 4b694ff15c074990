"""`broker bench`: the test bench for bots on a running broker, from the command line."""

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from broker.commands.operator import WHERE, add_action, add_where, call
from broker.commands.running import UsageError

_WAIT_S = 60.0
"""Longer than the broker takes to cancel what is open and to make a thousand accounts."""

Body = Mapping[str, object]
Call = tuple[str, str, Body | None]


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "bench",
        help="put accounts into a state, and control prices, fills and the clock of the simulated exchange",
        description="A test bench for bots: put accounts into a given state, and control prices, halts, fills and the "
        f"clock of the simulated exchange behind a running broker. {WHERE}",
    )
    parser.set_defaults(url=None, data=None, run=_bench)
    add_where(parser)
    actions = parser.add_subparsers(title="actions", required=True, metavar="ACTION")
    _add_accounts(actions)
    _add_market(actions)
    _add_script(actions)
    _add_clock(actions)


def _bench(options: argparse.Namespace) -> int:
    method, path, body = options.call(options)
    return call(options, method, path, body, _WAIT_S)


def _action(actions: Any, name: str, help_: str, what: Callable[[argparse.Namespace], Call]) -> argparse.ArgumentParser:
    sentence = f"{help_[:1].upper()}{help_[1:]}."
    action = add_action(actions, name, help_)
    action.description = sentence
    action.set_defaults(call=what)
    return action


# ------------------------------------------------------------------ accounts


def _add_accounts(actions: Any) -> None:
    reset = _action(
        actions, "reset", "cancel an account's open orders and put it into a state: this cash, these positions", _reset
    )
    reset.add_argument("customer", nargs="+", help="customers, like 1001; all is every customer")
    _add_state(reset)
    reset.add_argument("--reference", help="what this reset is known by; it is booked once, however often it is sent")
    accounts = _action(actions, "accounts", "make many customers, each with a key and in a state", _accounts)
    accounts.add_argument("count", type=int, help="how many")
    _add_state(accounts)
    accounts.add_argument("--name-prefix", default="", help="what their names begin with; a number follows")
    accounts.add_argument("--type", default="cash", choices=("cash", "margin"), help="the accounts' type [cash]")


def _add_state(action: argparse.ArgumentParser) -> None:
    action.add_argument("--cash", required=True, help='dollars, like "100000.00"')
    action.add_argument(
        "--position",
        action="append",
        default=[],
        metavar="SYMBOL=QUANTITY[@PRICE]",
        help="shares that it has, like AAPL=10 or AAPL=10@190.00, what each of them cost; give it for each symbol",
    )


def _state(options: argparse.Namespace) -> dict[str, object]:
    return {"cash": options.cash, "positions": [_position(each) for each in options.position]}


def _position(text: str) -> dict[str, object]:
    match = re.fullmatch(r"([A-Za-z0-9.]+)=([0-9]{1,9})(?:@([0-9.]+))?", text, re.ASCII)
    if match is None:
        raise UsageError(f"{text[:80]!r} is not symbol=quantity or symbol=quantity@price, like AAPL=10@190.00.", 2)
    position: dict[str, object] = {"symbol": match[1], "quantity": int(match[2])}
    return position if match[3] is None else {**position, "average_price": match[3]}


def _reset(options: argparse.Namespace) -> Call:
    body = _state(options)
    if options.reference is not None:
        body["reference"] = options.reference
    if options.customer == ["all"]:
        return "PUT", "state", {**body, "customers": "all"}
    if len(options.customer) == 1:
        return "PUT", f"customers/{quote(options.customer[0], safe='')}/state", body
    return "PUT", "state", {**body, "customers": options.customer}


def _accounts(options: argparse.Namespace) -> Call:
    who = {"count": options.count, "name_prefix": options.name_prefix, "account_type": options.type}
    return "POST", "accounts", {**who, **_state(options)}


# ------------------------------------------------------------------ prices and halts


def _add_market(actions: Any) -> None:
    price = _action(actions, "price", "set a symbol's price, at which it stays, or let it walk", _price)
    price.add_argument("symbol", help="the ticker, like AAPL")
    price.add_argument("price", nargs="?", help="dollars, like 190.00; it is left out only with --walk")
    price.add_argument("--walk", action="store_true", help="let the price walk on, from there or from where it is")
    halt = _action(actions, "halt", "stop the trading of a symbol at the exchange", _halt)
    halt.add_argument("symbol", help="the ticker, like AAPL")
    halt.add_argument("--reason", help="why, in a few words")
    resume = _action(
        actions, "resume", "let a halted symbol trade again", lambda o: ("DELETE", _symbol(o, "halt"), None)
    )
    resume.add_argument("symbol", help="the ticker, like AAPL")


def _symbol(options: argparse.Namespace, what: str) -> str:
    return f"exchange/symbols/{quote(options.symbol, safe='')}/{what}"


def _price(options: argparse.Namespace) -> Call:
    if options.price is not None:
        return "PUT", _symbol(options, "price"), {"price": options.price, "hold": not options.walk}
    if not options.walk:
        raise UsageError("Give a price, like 190.00, or --walk to release the one that was set.", 2)
    return "DELETE", _symbol(options, "price"), None


def _halt(options: argparse.Namespace) -> Call:
    return "PUT", _symbol(options, "halt"), {} if options.reason is None else {"reason": options.reason}


# ------------------------------------------------------------------ the script


def _add_script(actions: Any) -> None:
    sentence = "Say what the next orders meet at the exchange, one step for each of them."
    script = actions.add_parser("script", help="say what the next orders meet at the exchange", description=sentence)
    add_where(script)
    steps = script.add_subparsers(title="steps", required=True, metavar="STEP")
    reject = _step(steps, "reject", "the next order is rejected", _reject)
    reject.add_argument("reason", nargs="?", help="what the exchange says why")
    partial = _step(
        steps, "partial", "of the next order so many shares are filled; what is left of a limit order waits", _partial
    )
    partial.add_argument("quantity", nargs="+", type=int, help="shares, of each part where it comes in several")
    partial.add_argument("--ms", type=int, help="milliseconds between the parts")
    delay = _step(steps, "delay", "the next order comes to its book later", lambda o: {"do": "delay", "ms": o.ms})
    delay.add_argument("ms", type=int, help="milliseconds")
    _step(steps, "fill", "the next order is filled at once", lambda _: {"do": "fill"})
    _action(steps, "show", "show the steps that no order has met yet", lambda _: ("GET", "exchange/script", None))
    _action(steps, "clear", "forget the steps that no order has met yet", lambda _: ("DELETE", "exchange/script", None))


def _step(steps: Any, name: str, help_: str, body: Callable[[argparse.Namespace], Body]) -> argparse.ArgumentParser:
    step = _action(steps, name, help_, lambda o: ("POST", "exchange/script", _scripted(o, body(o))))
    step.add_argument("--symbol", help="only an order of this symbol meets it")
    step.add_argument("--times", type=int, default=1, help="so many orders meet it, one after the other [1]")
    return step


def _scripted(options: argparse.Namespace, step: Body) -> Body:
    body = {"orders": [step] * options.times}
    return body if options.symbol is None else {**body, "symbol": options.symbol}


def _reject(options: argparse.Namespace) -> Body:
    return {"do": "reject"} if options.reason is None else {"do": "reject", "reason": options.reason}


def _partial(options: argparse.Namespace) -> Body:
    parts: Sequence[int] = options.quantity
    step = {"do": "partial", **({"quantity": parts[0]} if len(parts) == 1 else {"parts": parts})}
    return step if options.ms is None else {**step, "ms": options.ms}


# ------------------------------------------------------------------ the clock


def _add_clock(actions: Any) -> None:
    sentence = "Show or control the exchange's clock, which is also the broker's market time."
    clock = actions.add_parser("clock", help="show or control the exchange's clock", description=sentence)
    clock.set_defaults(call=lambda _: ("GET", "exchange/clock", None))
    add_where(clock)
    hands = clock.add_subparsers(title="what to do with it", metavar="DO")
    set_ = _action(hands, "set", "let it be another time", _set)
    set_.add_argument("time", help="with its zone, like 2026-11-27T12:55-05:00")
    set_.add_argument("--freeze", action="store_true", help="and let it stand still there")
    advance = _action(hands, "advance", "let it be later, at once", _advance)
    advance.add_argument("seconds", type=float, help="by so many seconds")
    _action(hands, "freeze", "let it stand still", lambda _: ("PUT", "exchange/clock", {"frozen": True}))
    _action(hands, "run", "let it run on from where it stands", lambda _: ("PUT", "exchange/clock", {"frozen": False}))
    _action(hands, "real", "let it be the real time again", _real)


def _real(_: argparse.Namespace) -> Call:
    return "PUT", "exchange/clock", {"now": None, "frozen": False}


def _set(options: argparse.Namespace) -> Call:
    return "PUT", "exchange/clock", {"now": options.time, "frozen": options.freeze}


def _advance(options: argparse.Namespace) -> Call:
    seconds = int(options.seconds) if options.seconds == int(options.seconds) else options.seconds
    return "POST", "exchange/clock/advance", {"seconds": seconds}
