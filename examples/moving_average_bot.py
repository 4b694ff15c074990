"""Buys when the mean of the last 5 prices rises above that of the last 20, and sells when it falls below: 20 lines.

python examples/moving_average_bot.py AAPL 600 0.5     # symbol, steps, seconds between them
"""

import os
import sys
import time
from collections import deque
from statistics import mean

from alpaca.data.historical import StockHistoricalDataClient
from alpaca.data.requests import StockLatestQuoteRequest
from alpaca.trading.client import TradingClient
from alpaca.trading.enums import OrderSide, TimeInForce
from alpaca.trading.requests import MarketOrderRequest

url, key, secret = (os.environ[f"APCA_API_{name}"] for name in ("BASE_URL", "KEY_ID", "SECRET_KEY"))
trading = TradingClient(key, secret, url_override=url)
data = StockHistoricalDataClient(key, secret, url_override=url)
symbol, steps, pause_s = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
prices: deque[float] = deque(maxlen=20)
shares = 0

for _ in range(steps):
    quote = data.get_stock_latest_quote(StockLatestQuoteRequest(symbol_or_symbols=symbol))[symbol]
    prices.append((quote.bid_price + quote.ask_price) / 2)
    rises = mean(list(prices)[-5:]) > mean(prices)
    if len(prices) == 20 and rises != bool(shares):
        side = OrderSide.BUY if rises else OrderSide.SELL
        trading.submit_order(MarketOrderRequest(symbol=symbol, qty=10, side=side, time_in_force=TimeInForce.DAY))
        shares = 10 if rises else 0
        print(f"{quote.timestamp:%H:%M:%S}  {side.value:4} 10 {symbol} at about ${prices[-1]:.2f}")
    time.sleep(pause_s)

print(f"equity ${trading.get_account().equity}, holding {shares} {symbol}")
