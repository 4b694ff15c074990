"""A peer: fills a second of papertrade-india, a simulated broker with its books in SQLite; in process, one thread.

It runs in the peer's own environment, and imports nothing of ours:

    .venv/bench/papertrade-india/bin/python -m bench.papertrade < plan.json > result.json

plan: {"folder", "customers", "symbols": {name: price}, "trades"}; result: {"seconds", "latencies": [seconds, ...]}

No HTTP, no exchange. In its favour its simulated latency (80 ms), its refusals at random and the closing hours are
off. Durable: the package sets synchronous=NORMAL, which may lose what was acknowledged; here it is FULL: checked.
"""

import importlib
import json
import random
import resource
import sqlite3
import sys
import time
from pathlib import Path
from typing import Any

_FULL = 2
_FILES_EACH = 4
_CASH = 100_000.0
_WARM_UP = 100


def brokers(package: Any, path: Path, customers: int, symbols: dict[str, float]) -> list[Any]:
    """A broker for each customer, as the package has it, all on one database."""

    class Prices:
        """The prices stand still."""

        def get_price(self, symbol: str) -> float:
            return symbols[symbol]

    feed = package.PriceFeed(providers=[Prices()])
    made = []
    for number in range(customers):
        broker = package.IndiaPaperBroker(
            initial_capital=_CASH,
            db_path=path,
            account_id=f"C{number}",
            price_feed=feed,
            enforce_market_hours=False,
            latency_config=package.LatencyConfig(submit_ms_mean=0),
            rejection_config=package.RejectionConfig(rate=0),
        )
        with broker.persistence.read() as connection:
            connection.execute("PRAGMA synchronous = FULL")
            found = (connection.execute("PRAGMA synchronous").fetchone()[0], connection.execute("PRAGMA journal_mode"))
        assert (found[0], found[1].fetchone()[0]) == (_FULL, "wal")
        made.append(broker)
    return made


def main() -> None:
    """Buy one share at a time, and count what was filled and committed."""
    plan = json.load(sys.stdin)
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(limit, 1000 + _FILES_EACH * plan["customers"]), limit))
    package = importlib.import_module("papertrade_india")
    path = Path(plan["folder"]) / "papertrade.db"
    customers = brokers(package, path, plan["customers"], plan["symbols"])
    rng, symbols = random.Random(1), list(plan["symbols"])

    def trade() -> None:
        order = rng.choice(customers).buy(rng.choice(symbols), 1)
        assert order.status is package.OrderStatus.FILLED, order

    for _ in range(_WARM_UP):
        trade()
    latencies = []
    began = time.perf_counter()
    for _ in range(plan["trades"]):
        placed = time.perf_counter()
        trade()
        latencies.append(time.perf_counter() - placed)
    seconds = time.perf_counter() - began
    filled = sqlite3.connect(path).execute("SELECT count(*) FROM orders WHERE status = 'filled'").fetchone()[0]
    assert filled == _WARM_UP + plan["trades"], filled
    json.dump({"seconds": seconds, "latencies": latencies}, sys.stdout)


if __name__ == "__main__":
    main()
