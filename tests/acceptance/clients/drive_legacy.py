"""The SDK before alpaca-py: it reads the account and the market, places orders and hears their fills on the stream.

python tests/acceptance/clients/drive_legacy.py < {"url": ..., "keys": [[key, secret]]}

prints what it saw, as JSON.
"""

import asyncio
import json
import sys
import threading
import time
from importlib.metadata import version
from typing import Any

from alpaca_trade_api.common import URL
from alpaca_trade_api.rest import REST, APIError
from alpaca_trade_api.stream import Stream


def main(url: str, key: str, secret: str) -> dict[str, Any]:
    api = REST(key, secret, base_url=URL(url))
    api._retry = 0
    updates, quotes = listen(url, key, secret)
    account = api.get_account()
    order = api.submit_order("AAPL", qty=10, side="buy", type="market", time_in_force="day", client_order_id="legacy 1")
    filled = wait(lambda: is_filled(api, order.id))
    fills = wait(lambda: [each for each in updates if each["event"] == "fill" and each["order"]["id"] == order.id])
    resting = api.submit_order(
        "AAPL",
        qty=1,
        side="buy",
        type="limit",
        limit_price=round(float(filled.filled_avg_price) / 2 + 50),
        time_in_force="gtc",
    )
    wait(lambda: resting.id in {each.id for each in api.list_orders(status="open")})
    replaced = api.replace_order(resting.id, qty=2)
    wait(lambda: replaced.id in {each.id for each in api.list_orders(status="open")})
    api.cancel_all_orders()
    wait(lambda: api.list_orders(status="open") == [])
    position = api.get_position("AAPL")
    wait(lambda: quotes)
    refusal = refused(api)
    api.close_all_positions()
    wait(lambda: api.list_positions() == [])
    return {
        "version": version("alpaca-trade-api"),
        "status": account.status,
        "cash": account.cash,
        "order": order.id,
        "by_client_order_id": api.get_order_by_client_order_id("legacy 1").id,
        "filled_qty": filled.filled_qty,
        "events": [each["event"] for each in updates if each["order"]["id"] == order.id],
        "fill": {name: fills[0][name] for name in ("qty", "price", "position_qty")},
        "average": filled.filled_avg_price,
        "position": position.qty,
        "is_open": api.get_clock().is_open,
        "asset": api.get_asset("AAPL").symbol,
        "quote": quotes[0].symbol,
        "latest": api.get_latest_quote("AAPL").ap > 0,
        "activities": sorted({each.activity_type for each in api.get_activities()}),
        "refusal": refusal,
    }


def listen(url: str, key: str, secret: str) -> tuple[list[Any], list[Any]]:
    """What both streams say from now on."""
    updates: list[Any] = []
    quotes: list[Any] = []

    async def on_update(update: Any) -> None:
        updates.append(update._raw)

    async def on_quote(quote: Any) -> None:
        quotes.append(quote)

    stream = Stream(key, secret, base_url=URL(url), data_stream_url=URL(url.replace("http", "ws", 1)), data_feed="iex")
    stream.subscribe_trade_updates(on_update)
    stream.subscribe_quotes(on_quote, "AAPL")

    confirmed: list[str] = []
    for each, field, word in ((stream._trading_ws, "stream", "listening"), (stream._data_ws, "T", "subscription")):
        confirm(each, field, word, confirmed)

    def run() -> None:
        asyncio.run(stream._run_forever())

    threading.Thread(target=run, daemon=True).start()
    wait(lambda: stream._trading_ws._running and set(confirmed) == {"listening", "subscription"})
    return updates, quotes


def confirm(socket: Any, field: str, word: str, confirmed: list[str]) -> None:
    """Write down when the broker has confirmed what a socket follows: the SDK itself gives no sign of that."""
    dispatch = socket._dispatch

    async def watched(message: Any) -> None:
        await dispatch(message)
        if message.get(field) == word:
            confirmed.append(word)

    socket._dispatch = watched


def is_filled(api: REST, order_id: str) -> Any:
    order = api.get_order(order_id)
    return order if order.status == "filled" else None


def refused(api: REST) -> dict[str, Any]:
    """What it is told of an order that it cannot pay."""
    try:
        api.submit_order("AAPL", qty=100_000, side="buy", type="market", time_in_force="day")
    except APIError as error:
        return {"status": error.status_code, "code": error.code, "message": str(error)}
    raise AssertionError("an order for 100,000 shares was taken")


def wait(probe: Any, within_s: float = 15) -> Any:
    """The first true answer of a probe."""
    until = time.monotonic() + within_s
    while not (answer := probe()):
        assert time.monotonic() < until, f"not within {within_s} s"
        time.sleep(0.02)
    return answer


if __name__ == "__main__":
    told = json.load(sys.stdin)
    print(json.dumps(main(told["url"], *told["keys"][0])), flush=True)
