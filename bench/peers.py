"""The peers: other people's programs, each in an environment of its own that `make bench` makes.

papertrade-india is measured by bench/papertrade.py. matching-engine is an order book behind HTTP: it answers once an
order is in its log and the log is on disk (fsync), and keeps no customers and no money. Half of its orders are sales
and half purchases at one price, so half of them trade, and every trade is in an answer that came after the fsync. It
has a log for each market, so it is measured with as many markets as the others have symbols, and with one, which suits
it best: there all orders share an fsync.
"""

import json
import random
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.servers import CUSTOMERS, ENVIRONMENT, SYMBOLS

ROOT = Path(__file__).parent.parent
_ENVIRONMENTS = ROOT / ".venv" / "bench"
MISSING = {
    "papertrade-india": "not installed: `make bench` does that",
    "matching-engine": "not installed: it needs Python 3.12 or newer, and `make bench` found none",
}
ELSEWHERE_ORDERS_PER_S = 1441
"""matching-engine at 64 connections, measured elsewhere on a quiet machine with 2 cores."""
_PRICE = "100.00"
_READY_S = 20.0


def program(peer: str, name: str) -> Path | None:
    """A program of a peer's environment, where that has been made."""
    folder = _ENVIRONMENTS / peer
    return folder / "bin" / name if (folder / ".made").exists() else None


def papertrade(python: Path, folder: Path, trades: int) -> tuple[float, list[float]]:
    """So many fills in process: seconds in all, and what each took. The folder has to be empty."""
    plan = {
        "folder": str(folder),
        "customers": CUSTOMERS,
        "symbols": dict.fromkeys(SYMBOLS, float(_PRICE)),
        "trades": trades,
    }
    command = (str(python), "-m", "bench.papertrade")
    output = subprocess.run(
        command, input=json.dumps(plan).encode(), stdout=subprocess.PIPE, cwd=ROOT, check=True
    ).stdout
    result = json.loads(output)
    return result["seconds"], result["latencies"]


@contextmanager
def gateway(engine: Path, folder: Path, markets: Sequence[str]) -> Iterator[tuple["subprocess.Popen[bytes]", int]]:
    """The matching engine with these markets, and its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **ENVIRONMENT,
        "ME_DATA_DIR": str(folder),
        "ME_MARKETS": ",".join(f"{market}:0.01:1" for market in markets),
        "ME_FSYNC": "1",
    }
    with (folder / "log").open("wb") as log:
        running = subprocess.Popen((str(engine), "serve", "--port", str(port)), env=environment, stderr=log, stdout=log)
    try:
        _wait_for(f"http://127.0.0.1:{port}/healthz", running)
        yield running, port
    finally:
        running.terminate()
        running.wait(_READY_S)


def orders(markets: Sequence[str], trades: int, rng: random.Random) -> list[list[str]]:
    """Requests of the load generator: a sale and a purchase for each trade, by different accounts."""
    requests = []
    for _ in range(trades):
        path = f"/markets/{rng.choice(markets)}/orders"
        for side, account in zip(("sell", "buy"), rng.sample(range(1, CUSTOMERS + 1), 2), strict=True):
            body: dict[str, Any] = {"account": account, "side": side, "price": _PRICE, "quantity": "1"}
            body["self_trade_prevention"] = "none"  # who meets whom is left to chance, and each order shall trade
            requests.append(["", json.dumps(body), path])
    return requests


def _wait_for(url: str, running: "subprocess.Popen[bytes]") -> None:
    patience = time.monotonic() + _READY_S
    while True:
        try:
            urllib.request.urlopen(url).close()
        except (urllib.error.URLError, ConnectionError):
            assert running.poll() is None, "matching-engine ended"
            assert time.monotonic() < patience, "matching-engine is not ready"
            time.sleep(0.1)
        else:
            return
