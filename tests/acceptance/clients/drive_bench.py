"""A bot on the test bench, with alpaca-py: the operator says what its orders meet, and it hears of it.

python -m tests.acceptance.clients.drive_bench < {"url": ..., "keys": [[key, secret], ...], "admin": token}

Each act has a symbol of its own. Prints the events that the bot heard of each of its orders, as JSON.
"""

import json
import sys
import time
import urllib.request
from collections.abc import Callable

from alpaca.trading.enums import OrderClass
from alpaca.trading.requests import StopLossRequest, TakeProfitRequest, TrailingStopOrderRequest

from tests.acceptance.clients.alpaca_py.desk import BUY, GTC, SELL, Desk, Heard, eventually


def main(desk: Desk, admin: str, customer: str) -> dict[str, list[list[object]]]:
    def bench(method: str, path: str, body: object = None) -> object:
        url = f"{desk.url}/admin/v1{path}"
        content = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {admin}", "Content-Type": "application/json"}
        request = urllib.request.Request(url, content, headers, method=method)
        with urllib.request.urlopen(request) as response:
            return json.load(response)

    heard = desk.trade_updates()
    orders = {
        "rejected": is_rejected(desk, bench),
        "partly": is_filled_in_parts(desk, bench),
        "late": is_filled_late(desk, bench),
        "priced": trades_at_a_price_that_was_set(desk, bench),
        "halted": stands_still_in_a_halt(desk, bench),
        "trailing": trails_the_price(desk, bench),
    }
    orders |= dict(zip(("entry", "profit", "stop"), is_saved_by_its_stop(desk, bench), strict=True))
    heard.until(lambda all_: len([each for each in all_ if each.event in {"fill", "rejected"}]) >= 10, "all have ended")
    begins_anew(desk, bench, customer)
    names = {str(order.id): name for name, order in orders.items()}
    told = {name: [] for name in orders}
    for update in heard.messages:
        if str(update.order.id) in names:
            event = getattr(update.event, "value", update.event)
            told[names[str(update.order.id)]].append([event, _whole(update.qty), _whole(update.position_qty)])
    return told


Bench = Callable[..., object]


def _whole(number: float | None) -> int | None:
    return None if number is None else int(number)


def _set_price(desk: Desk, bench: Bench, symbol: str, price: str) -> None:
    """Set it, and wait until the broker has heard of it."""
    bench("PUT", f"/exchange/symbols/{symbol}/price", {"price": price})
    eventually(lambda: abs(desk.quote(symbol).bid_price - float(price)) < 1, f"{symbol} at ${price}")


def is_rejected(desk: Desk, bench: Bench) -> object:
    bench("POST", "/exchange/script", {"symbol": "AMD", "orders": [{"do": "reject", "reason": "no liquidity"}]})
    order = desk.in_status(desk.market(BUY, 10, "AMD"), "rejected")
    assert order.failed_at is not None
    return order


def is_filled_in_parts(desk: Desk, bench: Bench) -> object:
    script = {"symbol": "MSFT", "orders": [{"do": "partial", "parts": [3, 4], "ms": 100}]}
    bench("POST", "/exchange/script", script)
    order = desk.limit(desk.far_above("MSFT"), BUY, 10, "MSFT")
    partly = desk.in_status(order, "partially_filled")
    assert partly.filled_qty in {"3", "7"}
    eventually(lambda: desk.trading.get_order_by_id(order.id).filled_qty == "7", "both parts are filled")
    desk.trading.cancel_order_by_id(order.id)
    ended = desk.in_status(order, "canceled")
    assert ended.filled_qty == desk.trading.get_open_position("MSFT").qty == "7"
    return order


def is_filled_late(desk: Desk, bench: Bench) -> object:
    bench("POST", "/exchange/script", {"symbol": "KO", "orders": [{"do": "delay", "ms": 600}]})
    began = time.monotonic()
    order = desk.in_status(desk.market(BUY, 5, "KO"), "filled")
    assert time.monotonic() - began > 0.5
    return order


def trades_at_a_price_that_was_set(desk: Desk, bench: Bench) -> object:
    stream = desk.market_data()
    heard = Heard(stream)
    stream.subscribe_quotes(heard.handle, "NVDA")
    heard.start()
    _set_price(desk, bench, "NVDA", "150.00")
    heard.until(lambda all_: [each for each in all_ if 149 < each.bid_price < each.ask_price < 151], "a quote at $150")
    heard.stop()
    order = desk.in_status(desk.market(BUY, 10, "NVDA"), "filled")
    assert 149 < float(order.filled_avg_price) < 151
    _set_price(desk, bench, "NVDA", "180.00")
    eventually(lambda: float(desk.trading.get_open_position("NVDA").unrealized_pl) > 250, "it has gained")
    sold = desk.in_status(desk.market(SELL, 10, "NVDA"), "filled")
    assert 179 < float(sold.filled_avg_price) < 181
    return order


def stands_still_in_a_halt(desk: Desk, bench: Bench) -> object:
    bench("PUT", "/exchange/symbols/SPY/halt", {"reason": "news pending"})
    order = desk.in_status(desk.market(BUY, 1, "SPY"), "rejected", "new", "filled")
    bench("DELETE", "/exchange/symbols/SPY/halt")
    desk.bought(1, "SPY")
    return order


def is_saved_by_its_stop(desk: Desk, bench: Bench) -> list[object]:
    """The entry of a bracket, its take-profit and its stop-loss, which is met by a price that falls."""
    _set_price(desk, bench, "GOOGL", "100.00")
    exits = {"take_profit": TakeProfitRequest(limit_price=120), "stop_loss": StopLossRequest(stop_price=95)}
    entry = desk.market(BUY, 10, "GOOGL", order_class=OrderClass.BRACKET, **exits)
    desk.in_status(entry, "filled")
    profit, stop = sorted(entry.legs, key=lambda leg: leg.order_type.value)
    desk.in_status(profit, "new")
    _set_price(desk, bench, "GOOGL", "94.00")
    assert 93 < float(desk.in_status(stop, "filled").filled_avg_price) < 95
    desk.in_status(profit, "canceled")
    return [entry, profit, stop]


def trails_the_price(desk: Desk, bench: Bench) -> object:
    _set_price(desk, bench, "TSLA", "200.00")
    desk.bought(5, "TSLA")
    order = desk.trading.submit_order(
        TrailingStopOrderRequest(symbol="TSLA", qty=5, side=SELL, time_in_force=GTC, trail_percent=10)
    )
    _set_price(desk, bench, "TSLA", "300.00")
    eventually(lambda: float(desk.trading.get_order_by_id(order.id).stop_price or 0) > 269, "its stop has risen")
    _set_price(desk, bench, "TSLA", "280.00")
    time.sleep(0.3)
    assert desk.trading.get_order_by_id(order.id).status.value == "new"
    _set_price(desk, bench, "TSLA", "260.00")
    assert 259 < float(desk.in_status(order, "filled").filled_avg_price) < 261
    return order


def begins_anew(desk: Desk, bench: Bench, customer: str) -> None:
    desk.resting()
    position = {"symbol": "AAPL", "quantity": 5, "average_price": "190.00"}
    bench("PUT", f"/customers/{customer}/state", {"cash": "5000.00", "positions": [position]})
    assert desk.trading.get_orders() == []
    assert float(desk.trading.get_account().cash) == 5000
    positions = desk.trading.get_all_positions()
    assert [(each.symbol, each.qty, float(each.avg_entry_price)) for each in positions] == [("AAPL", "5", 190.0)]


if __name__ == "__main__":
    given = json.load(sys.stdin)
    desk = Desk(given["url"], *given["keys"][0], set())
    print(json.dumps(main(desk, given["admin"], given["customer"])), flush=True)
