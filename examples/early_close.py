"""Tests a bot's order against a day that ends early, in a second: the market closes at 13:00 after Thanksgiving.

broker serve --demo --hours XNYS --clock 2026-11-27T12:55-05:00 --freeze
python examples/early_close.py AAPL 200.00      # symbol, a limit under its price; BROKER_DATA names the broker's --data
"""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from alpaca.trading.client import TradingClient
from alpaca.trading.enums import OrderSide, TimeInForce
from alpaca.trading.requests import LimitOrderRequest, MarketOrderRequest

url, key, secret = (os.environ[f"APCA_API_{name}"] for name in ("BASE_URL", "KEY_ID", "SECRET_KEY"))
trading: Any = TradingClient(key, secret, url_override=url)
symbol, broker = sys.argv[1], Path(sys.executable).with_name("broker")


def advance(seconds: float) -> None:
    """Let it be later at the exchange, and so at the broker."""
    command = [broker, "bench", "clock", "advance", f"{seconds:.0f}", "--url", url]
    if subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode:
        sys.exit(1)  # it has said why


def show(what: str, order: Any, *statuses: str) -> None:
    """Wait until the order is in one of these statuses, and print it."""
    until = time.monotonic() + 10
    while (order := trading.get_order_by_id(order.id)).status.value not in statuses:
        assert time.monotonic() < until, order
        time.sleep(0.02)
    print(f"{trading.get_clock().timestamp:%a %H:%M:%S}  {what}: {order.status.value}")


clock = trading.get_clock()
print(f"{clock.timestamp:%a %H:%M:%S}  open, closes at {clock.next_close:%H:%M}")
limit = LimitOrderRequest(
    symbol=symbol, qty=1, side=OrderSide.BUY, time_in_force=TimeInForce.DAY, limit_price=float(sys.argv[2])
)
resting = trading.submit_order(limit)
show("a limit order for the day", resting, "new")

advance((clock.next_close - clock.timestamp).total_seconds() + 1)
show("the same order", resting, "expired")

market = MarketOrderRequest(symbol=symbol, qty=1, side=OrderSide.BUY, time_in_force=TimeInForce.DAY)
waiting = trading.submit_order(market)
show("an order at the market", waiting, "accepted", "held")

clock = trading.get_clock()
print(f"{clock.timestamp:%a %H:%M:%S}  shut, opens {clock.next_open:%a %H:%M}")
advance((clock.next_open - clock.timestamp).total_seconds() + 1)
show("that order", waiting, "filled")
