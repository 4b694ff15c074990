"""Buys with ccxt, holds, sells, and says what came of it; the same program trades at Alpaca without the two lines
that name the URL.

    python examples/buy_hold_sell_ccxt.py AAPL 10 5        # symbol, shares, seconds to hold
"""

import os
import sys
import time
from typing import Any

import ccxt

url, key, secret = (os.environ[f"APCA_API_{name}"] for name in ("BASE_URL", "KEY_ID", "SECRET_KEY"))
exchange = ccxt.alpaca({"apiKey": key, "secret": secret, "enableRateLimit": False})
exchange.urls["api"] = dict.fromkeys(("trader", "market", "broker"), url)
exchange.load_markets(params={"asset_class": "us_equity"})
symbol, shares, hold_s = f"{sys.argv[1]}/USD", int(sys.argv[2]), float(sys.argv[3])


def filled(order: Any) -> Any:
    """The order once it is filled."""
    while order["status"] == "open":
        time.sleep(0.05)
        order = exchange.fetch_order(order["id"], symbol)
    assert order["filled"] == shares, order
    return order


before = exchange.fetch_balance()["USD"]["free"]
bought = filled(exchange.create_order(symbol, "market", "buy", shares, params={"timeInForce": "day"}))
print(f"bought {bought['filled']:.0f} {symbol} at ${bought['average']}")

until = time.monotonic() + hold_s
while time.monotonic() < until:
    quote = exchange.market_private_get_v2_stocks_symbol_quotes_latest({"symbol": sys.argv[1]})["quote"]
    print(f"holding; the bid is ${quote['bp']}")
    time.sleep(min(1, hold_s))

sold = filled(exchange.create_order(symbol, "market", "sell", shares, params={"timeInForce": "day"}))
after = exchange.fetch_balance()["USD"]["free"]
print(f"sold {sold['filled']:.0f} {symbol} at ${sold['average']}")
print(f"cash ${before:.2f} before, ${after:.2f} after; {len(exchange.fetch_my_trades(symbol))} fills")
