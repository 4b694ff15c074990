"""A lumibot strategy that buys in its first iteration, holds, sells, and stops.

python examples/buy_hold_sell_lumibot.py AAPL 10 3     # symbol, shares, iterations of a second to hold
"""

import os
import sys
from typing import Any

from alpaca.data.historical import StockHistoricalDataClient
from alpaca.trading.client import TradingClient
from lumibot.brokers import Alpaca
from lumibot.data_sources import AlpacaData
from lumibot.strategies import Strategy
from lumibot.traders import Trader

url, key, secret = (os.environ[f"APCA_API_{name}"] for name in ("BASE_URL", "KEY_ID", "SECRET_KEY"))
symbol, shares, hold = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
CONFIG = {"API_KEY": key, "API_SECRET": secret, "PAPER": True}


class BuyHoldSell(Strategy):
    """Buys once, holds, sells once."""

    def initialize(self) -> None:
        self.sleeptime = "1S"
        self.set_market("24/7")
        self.iterations = 0

    def on_trading_iteration(self) -> None:
        self.iterations += 1
        price = self.get_last_price(symbol)
        print(f"iteration {self.iterations}: {symbol} at ${price}, cash ${self.get_cash():.2f}", flush=True)
        if self.iterations == 1:
            self.submit_order(self.create_order(symbol, shares, "buy"))
        elif self.iterations == 2 + hold:
            self.submit_order(self.create_order(symbol, shares, "sell"))
        elif self.iterations == 4 + hold:
            self.stop()

    def on_filled_order(self, position: Any, order: Any, price: float, quantity: float, multiplier: float) -> None:
        print(f"filled: {order.side} {quantity} {order.asset.symbol} at ${price}", flush=True)

    def stop(self) -> None:
        """End this trader's loop."""
        self._executor.stop_event.set()


data = AlpacaData(CONFIG, stock_client=StockHistoricalDataClient(key, secret, url_override=url), delay=0)
trading = TradingClient(key, secret, url_override=url)
trader = Trader()
trader.add_strategy(BuyHoldSell(broker=Alpaca(CONFIG, data_source=data, trading_client=trading, polling_interval=1)))
trader.run_all()
