"""The order book: orders a second of our engine, beside the order books that PyPI has, in the same run.

    python -m bench.matching [--orders 20000] [--rounds 5] [--workloads crossing mix deep sweeps]

Every contender, ours too, runs in a process of its own: the same Python, the same orders, one order in and its answer
out. They take turns, round by round. What they traded is compared, and a book that traded otherwise is shown as such.
The peers are no dependencies of ours: the first run makes a venv for them in build/, with the versions below. Every
book makes its own kind of order within the measured time; times are CPU seconds, for a busy machine is nobody's fault.
Prints a table for each workload and, for programs, one line of JSON a row in bench/results/.
"""

import argparse
import gc
import importlib
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

from broker.core.matching import Order, OrderBook, Traded
from broker.core.money import Money
from broker.core.types import Side

ROOT = Path(__file__).parent.parent
VENV = ROOT / "build" / "bench-peers"
PYTHON = VENV / "bin" / "python"
START = datetime(2026, 1, 1)  # noqa: DTZ001 - a peer knows no time zones

LIMIT, MARKET, CANCEL = 0, 1, 2
Op = tuple[int, int, bool, int, int]
"""What comes in: its kind, the number of the order (0, 1, 2 ...), whether it buys, quantity, price."""
Run = Callable[[], float]
"""A book with its orders before it. It enters them, looks after each at what was traded, and gives the sum."""


@dataclass
class Row:
    """One contender's figures in one round of one workload."""

    workload: str
    contender: str
    orders: int
    orders_per_s: float
    traded: float
    agrees: bool


# ------------------------------------------------------------------ what comes in


class Stream:
    """Orders in the making. A book follows them, so that only what is open is cancelled, only what is there is taken:
    what happens to other cancels, and to what a market order leaves, is not the same in all books."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.ops: list[Op] = []
        self.traded = [0]  # in all, before each op and after the last
        self.open: dict[int, int] = {}  # what may still trade
        self._book = OrderBook()
        self._numbers: list[int] = []
        self._next = 0

    def best(self, buy: bool) -> int | None:
        best = self._book.best(Side.BUY if buy else Side.SELL)
        return None if best is None else best[0]

    def limit(self, buy: bool, quantity: int, price: int) -> None:
        self._enter(LIMIT, buy, quantity, price)

    def market(self, buy: bool, quantity: int) -> None:
        there = sum(resting for _, resting in self._book.depth(Side.SELL if buy else Side.BUY))
        if there > 1:
            self._enter(MARKET, buy, min(quantity, there // 2), 0)

    def cancel(self) -> None:
        """Any of the open orders."""
        while self._numbers:
            at = self.rng.randrange(len(self._numbers))
            self._numbers[at], self._numbers[-1] = self._numbers[-1], self._numbers[at]
            number = self._numbers.pop()
            if self.open.pop(number, 0):
                self._book.cancel(str(number))
                self._keep((CANCEL, number, False, 0, 0), 0)
                return

    def _enter(self, kind: int, buy: bool, quantity: int, price: int) -> None:
        number, traded = self._next, 0
        self._next += 1
        self._numbers.append(number)
        self.open[number] = quantity
        for event in self._book.enter(_our_order(kind, number, buy, quantity, price)):
            if isinstance(event, Traded):
                traded += event.quantity
                for each in (number, int(event.maker_id)):
                    self.open[each] -= event.quantity
                    if not self.open[each]:
                        del self.open[each]
        self._keep((kind, number, buy, quantity, price), traded)

    def _keep(self, op: Op, traded: int) -> None:
        self.ops.append(op)
        self.traded.append(self.traded[-1] + traded)


def crossing(stream: Stream, orders: int) -> None:
    """Limit orders, of which every second one meets another."""
    rng = stream.rng
    while len(stream.ops) < orders:
        buy, quantity, away = rng.random() < 0.5, rng.randint(1, 100), rng.randint(1, 20)
        sign, facing = (1 if buy else -1), stream.best(not buy)
        price = 10_000 - sign * away
        if facing is not None and rng.random() < 0.5:
            price = facing + sign * rng.randint(0, 3)
        elif facing is not None and sign * (price - facing) >= 0:
            price = facing - sign
        stream.limit(buy, quantity, price)


def mix(stream: Stream, orders: int, depth: int = 500, spread: float = 8) -> None:
    """A market by day: most orders are cancelled before they trade, the middle moves, some orders are at market."""
    rng, middle = stream.rng, 10_000
    while len(stream.ops) < orders:
        buy, quantity, what = rng.random() < 0.5, rng.randint(1, 100), rng.random()
        sign = 1 if buy else -1
        middle += rng.choice((-1, 1)) if rng.random() < 0.02 else 0
        if len(stream.open) < depth or what < 0.5:
            stream.limit(buy, quantity, middle - sign * (1 + int(rng.expovariate(1 / spread))))
        elif what < 0.92:
            stream.cancel()
        elif what < 0.98:
            stream.market(buy, quantity)
        else:
            stream.limit(buy, quantity, middle + sign * 2)


def sweeps(stream: Stream, orders: int) -> None:
    """Twenty small orders rest, then one takes them all."""
    rng = stream.rng
    while len(stream.ops) < orders:
        buy = rng.random() < 0.5
        sign = 1 if buy else -1
        for _ in range(20):
            stream.limit(buy, 5, 10_000 - sign * rng.randint(1, 4))
        stream.limit(not buy, 100, 10_000 - sign * 4)


WORKLOADS: dict[str, Callable[[Stream, int], None]] = {
    "crossing": crossing,
    "mix": mix,
    "deep": partial(mix, depth=5000, spread=100),
    "sweeps": sweeps,
}
EXPLAINED = {
    "crossing": "limit orders, half of which cross",
    "mix": "half adds, 42 % cancels, 6 % market and 2 % crossing orders around a moving mid, 500 orders deep",
    "deep": "the same, 5,000 orders deep at hundreds of prices",
    "sweeps": "20 small orders rest, one takes them all",
}


# ------------------------------------------------------------------ the books


def _our_order(kind: int, number: int, buy: bool, quantity: int, price: int) -> Order:
    side = Side.BUY if buy else Side.SELL
    return Order(str(number), side, side, quantity, Money(price) if kind == LIMIT else None)


def ours(ops: list[Op]) -> Run:
    book = OrderBook()
    # An order's owner is its side: nobody meets himself.
    calls = [
        (kind, str(number), Side.BUY if buy else Side.SELL, quantity, Money(price) if kind == LIMIT else None)
        for kind, number, buy, quantity, price in ops
    ]

    def run() -> float:
        traded = 0
        for kind, order_id, side, quantity, price in calls:
            if kind == CANCEL:
                book.cancel(order_id)
            else:
                order = Order(order_id, side, side, quantity, price)
                book.enter(order)
                traded += order.filled
        return traded

    return run


def akhil4n_orderbook(ops: list[Op]) -> Run:
    module = importlib.import_module("orderbook")
    book, limit, market = module.OrderBook(), module.Order, module.MarketOrder
    sides = {True: module.OrderSide.BID, False: module.OrderSide.ASK}
    calls = [(kind, number, sides[buy], quantity, Decimal(price)) for kind, number, buy, quantity, price in ops]

    def run() -> float:
        orders: list[Any] = []  # it numbers them itself
        traded = 0
        for kind, number, side, quantity, price in calls:
            if kind == CANCEL:
                book.cancel_order(orders[number].order_id)
                continue
            if kind == LIMIT:
                order = limit(side, price, quantity)
                book.add_limit_order(order)
            else:
                order = market(side, quantity)
                book.add_market_order(order)
            orders.append(order)
            traded += quantity - order.remaining_quantity
        return traded

    return run


def lightmatchingengine(ops: list[Op]) -> Run:
    module = importlib.import_module("lightmatchingengine.lightmatchingengine")
    book = module.LightMatchingEngine()
    # It numbers orders from 1; price 0 is a market order.
    calls = [
        (kind, number + 1, module.Side.BUY if buy else module.Side.SELL, quantity, price)
        for kind, number, buy, quantity, price in ops
    ]

    def run() -> float:
        traded = 0
        for kind, number, side, quantity, price in calls:
            if kind == CANCEL:
                book.cancel_order(number, "X")
            else:
                order, _ = book.add_order("X", price, quantity, side)
                traded += order.cum_qty
        return traded

    return run


def pyorderbook(ops: list[Op]) -> Run:
    module = importlib.import_module("pyorderbook")
    book, make = module.Book(), module.Order
    # It has no market orders: a limit that every order meets.
    calls = [
        (
            kind,
            number,
            module.Side.BID if buy else module.Side.ASK,
            quantity,
            price if kind != MARKET else 10**6 if buy else 1,
        )
        for kind, number, buy, quantity, price in ops
    ]

    def run() -> float:
        orders: list[Any] = []
        traded = 0
        for kind, number, side, quantity, price in calls:
            if kind == CANCEL:
                book.cancel(orders[number])
            else:
                order = make(side, "X", price, quantity)
                orders.append(order)
                book.match(order)
                traded += quantity - order.quantity
        return traded

    return run


def order_matching(ops: list[Op], batch: int | None) -> Run:
    """It works on batches, which may hold cancels; None: all in one batch."""
    importlib.import_module("loguru").logger.disable("order_matching")
    enums, models = (importlib.import_module(f"order_matching.{name}") for name in ("enums", "order"))
    engine = importlib.import_module("order_matching.matching_engine").MatchingEngine(seed=1)
    batch_of = importlib.import_module("order_matching.orders").Orders
    calls = [
        (kind, str(number), enums.Side.BUY if buy else enums.Side.SELL, quantity, price, START + timedelta(seconds=at))
        for at, (kind, number, buy, quantity, price) in enumerate(ops)
    ]

    def made(order_id: str, kind: int, side: Any, quantity: int, price: int, now: datetime) -> Any:
        common = {"side": side, "size": quantity, "timestamp": now, "order_id": order_id, "trader_id": "t"}
        return models.LimitOrder(price=price, **common) if kind == LIMIT else models.MarketOrder(**common)

    def run() -> float:
        orders: dict[str, Any] = {}
        size = batch or len(calls)
        traded = 0.0
        for at in range(0, len(calls), size):
            queue = []
            for kind, order_id, side, quantity, price, now in calls[at : at + size]:
                if kind == CANCEL:
                    queue.append(replace(orders[order_id], status=enums.Status.CANCEL, timestamp=now))
                else:
                    orders[order_id] = made(order_id, kind, side, quantity, price, now)
                    queue.append(orders[order_id])
            engine.place(batch_of(queue))
            traded += sum(trade.size for trade in engine.match(now).trades)
        return traded

    return run


def liquibook(ops: list[Op]) -> Run:
    module = importlib.import_module("liquibook")

    class Listener(module.OrderListener):  # type: ignore[misc, name-defined]
        """The least that it may be: told of everything, it adds up the fills."""

        def __init__(self) -> None:
            super().__init__()
            self.traded = 0

        def on_fill(self, _passive: Any, _aggressive: Any, quantity: int, _price: int) -> None:
            self.traded += quantity

        def on_accept(self, *_: Any) -> None: ...

        on_reject = on_cancel = on_cancel_reject = on_replace = on_replace_reject = on_trigger_stop = on_accept

    book, make, listener = module.DepthOrderBook(), module.SimpleOrder, Listener()
    book.set_symbol("X")
    book.set_order_listener(listener)

    def run() -> float:
        orders: list[Any] = []
        for kind, number, buy, quantity, price in ops:
            if kind == CANCEL:
                book.cancel(orders[number])
            else:
                order = make(buy, price, quantity)  # price 0: at market
                orders.append(order)
                book.add(order)
        return listener.traded

    return run


# ------------------------------------------------------------------ who takes part


@dataclass(frozen=True)
class Contender:
    """An order book under test, and what pip installs for it."""

    name: str
    language: str
    packages: tuple[str, ...] = ()
    prepare: Callable[[list[Op]], Run] | None = None
    first: int | None = None  # it is so slow that it gets only so many orders: in its favour, while the book is small


OURS = Contender("ours", "Python", (), ours)
ORDER_MATCHING = (
    "order-matching[polars]==0.12.0",
    "Faker==40.54.0",
    "loguru==0.7.3",
    "numpy==2.4.6",
    "pandera==0.35.0",
    "polars==2.1.0",
)
PEERS = [
    Contender(
        "akhil4n-orderbook 0.1.1", "Python", ("akhil4n-orderbook==0.1.1", "sortedcontainers==2.4.0"), akhil4n_orderbook
    ),
    Contender("lightmatchingengine 2019.1.4", "Python", ("lightmatchingengine==2019.1.4",), lightmatchingengine),
    Contender("pyorderbook 0.4.9", "Python", ("pyorderbook==0.4.9",), pyorderbook),
    # Its speed depends on how many orders come at once; which way is better depends on the workload.
    Contender(
        "order-matching 0.12.0, 30 at once", "Python", ORDER_MATCHING, partial(order_matching, batch=30), first=2000
    ),
    Contender(
        "order-matching 0.12.0, all at once", "Python", ORDER_MATCHING, partial(order_matching, batch=None), first=2000
    ),
    Contender("matching-engine 0.1.1", "Python", ("matching-engine==0.1.1",)),
    Contender("liquibook 2.0.1", "C++", ("liquibook==2.0.1",), liquibook),
]
CONTENDERS = {contender.name: contender for contender in (OURS, *PEERS)}


def why_not(contender: Contender) -> str | None:
    """Install a contender, unless it is there; the reason if that cannot be done."""
    done = VENV / "installed"
    done.mkdir(exist_ok=True)
    mark = done / " ".join(contender.packages)
    if contender.packages and not mark.exists():
        command = (str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *contender.packages)
        pip = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
        if pip.returncode:
            errors = [line.removeprefix("ERROR: ") for line in pip.stderr.splitlines() if line.startswith("ERROR")]
            return "pip: " + next((line for line in errors if "Requires-Python" in line), errors[-1])
        mark.touch()
    return None if contender.prepare else "installs, but nobody has written its part here yet"


def measured(contender: Contender, ops: list[Op]) -> dict[str, float]:
    """One run, in this process."""
    assert contender.prepare is not None
    run = contender.prepare(ops)
    gc.collect()
    gc.freeze()  # what came in is no book's garbage
    began = time.process_time()
    traded = run()
    return {"seconds": time.process_time() - began, "traded": traded}


def measured_apart(contender: Contender, ops: list[Op]) -> dict[str, float]:
    """One run, in a process of its own. Raises CalledProcessError if the book fails."""
    command = (str(PYTHON), "-m", "bench.matching", "--contender", contender.name)
    output = subprocess.run(
        command, input=json.dumps(ops), capture_output=True, cwd=ROOT, text=True, check=True, timeout=300
    ).stdout
    result: dict[str, float] = json.loads(output)
    return result


# ------------------------------------------------------------------ the table


def _rows_of(rows: list[Row], workload: str, contender: str) -> list[Row]:
    return [row for row in rows if (row.workload, row.contender) == (workload, contender)]


def _table(rows: list[Row], workload: str, failures: dict[tuple[str, str], str]) -> Iterator[str]:
    yield f"\n{workload}: {EXPLAINED[workload]}\n"
    yield "| order book | language | orders/s: median | lowest - highest | ours is | traded |"
    yield "|---|---|---|---|---|---|"
    ours_ = _rows_of(rows, workload, OURS.name)
    for contender in CONTENDERS.values():
        mine = _rows_of(rows, workload, contender.name)
        if not mine:
            yield f"| {contender.name} | {contender.language} | {failures[workload, contender.name]} | | | |"
            continue
        speeds = [row.orders_per_s for row in mine]
        ratio = statistics.median(a.orders_per_s / b.orders_per_s for a, b in zip(ours_, mine, strict=True))
        first = f" (its first {mine[0].orders:,} orders)" if contender.first else ""
        yield (
            f"| {contender.name}{first} | {contender.language} | {statistics.median(speeds):,.0f} "
            f"| {min(speeds):,.0f} - {max(speeds):,.0f} | {ratio:,.1f} x "
            f"| {'the same' if mine[0].agrees else f'OTHERWISE: {mine[0].traded:,.0f} shares'} |"
        )


def _measure_all(workloads: list[str], orders: int, rounds: int) -> tuple[list[Row], dict[tuple[str, str], str]]:
    rows: list[Row] = []
    failures: dict[tuple[str, str], str] = {}
    for contender in PEERS:
        why = why_not(contender)
        if why is not None:
            failures |= {(workload, contender.name): why for workload in workloads}
    streams = {name: Stream(seed=1) for name in workloads}
    for name, stream in streams.items():
        WORKLOADS[name](stream, orders)
    for _ in range(rounds):
        for name, stream in streams.items():
            for contender in CONTENDERS.values():
                if (name, contender.name) in failures:
                    continue
                ops = stream.ops[: contender.first]
                try:
                    result = measured_apart(contender, ops)
                except subprocess.CalledProcessError as error:
                    failures[name, contender.name] = "fails: " + error.stderr.strip().rsplit("\n", 1)[-1]
                    continue
                agrees = abs(result["traded"] - stream.traded[len(ops)]) < 1e-6
                speed = len(ops) / result["seconds"]
                rows.append(Row(name, contender.name, len(ops), speed, result["traded"], agrees))
    for name in workloads:
        agreeing = {row.contender for row in rows if row.workload == name and row.agrees}
        assert OURS.name in agreeing, name
        assert len(agreeing) > 1, f"{name}: no other book traded what ours did"
    return rows, failures


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--orders", type=int, default=20_000, help="in each workload: new ones and cancels")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--contender", choices=CONTENDERS, help="run this one here, with the orders of standard input")
    options = parser.parse_args()
    if options.contender:
        ops = [tuple(op) for op in json.load(sys.stdin)]
        print(json.dumps(measured(CONTENDERS[options.contender], ops)))
        return
    if not PYTHON.exists():
        venv.create(VENV, with_pip=True)
    rows, failures = _measure_all(options.workloads, options.orders, options.rounds)
    machine = f"{os.cpu_count()} cores, Python {platform.python_version()}"
    print(f"{machine}; {options.orders:,} orders and cancels each, {options.rounds} rounds")
    for workload in options.workloads:
        print("\n".join(_table(rows, workload, failures)))
    results = Path(__file__).parent / "results"
    results.mkdir(exist_ok=True)
    stamp = datetime.now(UTC).strftime("%Y-%m-%d-%H%M")
    lines = [json.dumps({"machine": machine, **asdict(row)}) for row in rows]
    lines += [
        json.dumps({"machine": machine, "workload": workload, "contender": contender, "failure": why})
        for (workload, contender), why in failures.items()
    ]
    (results / f"matching-{stamp}.jsonl").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
