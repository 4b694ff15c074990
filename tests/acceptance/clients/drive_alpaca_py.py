"""Alpaca's own SDK, every method that the dialect promises, against a running broker: whichever version is installed.

    python -m tests.acceptance.clients.drive_alpaca_py < {"url": ..., "keys": [[key, secret], ...]}

prints what came of each step and which methods of the SDK answered in it, as JSON. Two keys go into each step.
"""

import json
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version

from tests.acceptance.clients.alpaca_py import account, data, groups, orders, streams
from tests.acceptance.clients.alpaca_py.desk import STEPS, Desk

__all__ = ["STEPS", "account", "data", "groups", "orders", "streams"]
AT_ONCE = 12  # some steps wait for a minute to end; meanwhile the others go on
KEYS_A_STEP = 2


def run(url: str, keys: list[list[str]], names: list[str]) -> dict[str, object]:
    """What came of each step, None or how it failed; and for each method of the SDK the steps in which it answered."""
    driven: dict[str, list[str]] = {}

    def outcome(number: int, name: str) -> str | None:
        mine, other = keys[KEYS_A_STEP * number], keys[KEYS_A_STEP * number + 1]
        called: set[str] = set()
        try:
            STEPS[name](Desk(url, *mine, called, Desk(url, *other, called)))
        except Exception:
            return traceback.format_exc(limit=-8)
        for method in called:
            driven.setdefault(method, []).append(name)
        return None

    with ThreadPoolExecutor(AT_ONCE) as pool:
        futures = {name: pool.submit(outcome, number, name) for number, name in enumerate(names)}
    steps = {name: future.result() for name, future in futures.items()}
    return {"version": version("alpaca-py"), "steps": steps, "driven": driven}


if __name__ == "__main__":
    told = json.load(sys.stdin)
    print(json.dumps(run(told["url"], told["keys"], told.get("steps") or list(STEPS))), flush=True)
