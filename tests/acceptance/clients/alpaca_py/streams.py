"""The stream of an account's orders, and that of market data."""

import threading
import time
from decimal import Decimal

from alpaca.data.enums import DataFeed
from alpaca.trading.requests import ReplaceOrderRequest

from tests.acceptance.clients.alpaca_py.desk import SELL, Desk, Heard, events_of, eventually, sdk_log, step


def _names(updates: list[object]) -> list[str]:
    """The events' names: of those which the SDK does not know it leaves the text."""
    return [getattr(each.event, "value", each.event) for each in updates]


@step
def hears_every_step_of_an_order(desk: Desk) -> None:
    heard = desk.trade_updates()
    order = desk.bought(10)
    updates = heard.until(lambda all_: "fill" in _names(all_) and events_of(order)(all_), "a fill")
    assert _names(updates)[:2] == ["pending_new", "new"]
    assert set(_names(updates)[2:-1]) <= {"partial_fill"}
    assert [update.execution_id for update in updates[:2]] == [None, None]
    assert (updates[0].order.status.value, updates[1].order.status.value) == ("pending_new", "new")
    fills = updates[2:]
    assert len({update.execution_id for update in fills}) == len(fills)
    assert sum(Decimal(str(update.qty)) for update in fills) == 10
    last = fills[-1]
    assert (last.position_qty, last.order.status.value, last.order.filled_qty) == (10, "filled", "10")
    assert last.price > 0
    assert last.order == desk.trading.get_order_by_id(order.id)
    sale = desk.in_status(desk.market(SELL, 4), "filled")
    sold = heard.until(lambda all_: [u for u in events_of(sale)(all_) if u.position_qty is not None], "a sale")
    assert sold[-1].position_qty == 6
    heard.stop()


@step
def hears_replacing_and_cancelling(desk: Desk) -> None:
    heard = desk.trade_updates()
    first = desk.resting()
    second = desk.trading.replace_order_by_id(first.id, ReplaceOrderRequest(qty=7))
    desk.in_status(second, "new")
    desk.trading.cancel_order_by_id(second.id)
    updates = heard.until(lambda all_: "canceled" in _names(all_) and all_, "a cancel")
    mine = [(name, str(update.order.id)) for name, update in zip(_names(updates), updates, strict=True)]
    assert mine.index(("new", str(first.id))) < mine.index(("replaced", str(first.id)))
    assert mine.index(("replaced", str(first.id))) < mine.index(("new", str(second.id)))
    assert mine[-1] == ("canceled", str(second.id))
    assert [(update.price, update.qty) for update in updates] == [(None, None)] * len(updates)
    heard.stop()


@step
def hears_nothing_of_others(desk: Desk) -> None:
    heard = desk.trade_updates()
    desk.other.bought(1)
    mine = desk.bought(1)
    heard.until(lambda all_: "fill" in _names(all_), "a fill")
    assert {str(update.order.id) for update in heard.messages} == {str(mine.id)}
    heard.stop()
    desk.other.trading.close_all_positions(cancel_orders=True)


@step
def its_order_stream_is_refused_with_a_wrong_key(desk: Desk) -> None:
    wrong = Desk(desk.url, desk.key, "wrong", set())
    with sdk_log("alpaca.trading.stream") as lines:
        heard = Heard(None)
        heard.stream = _trading_stream(wrong, heard)
        threading.Thread(target=heard.stream.run, daemon=True).start()
        eventually(lambda: any("failed to authenticate" in line for line in lines), f"the SDK says so: {lines}")
    desk.bought(1)
    time.sleep(0.5)
    assert heard.messages == []
    heard.stop()


def _trading_stream(desk: Desk, heard: Heard) -> object:
    from alpaca.trading.stream import TradingStream

    stream = TradingStream(desk.key, desk.secret, url_override=desk.stream_url("/stream"))
    stream.subscribe_trade_updates(heard.handle)
    return stream


@step
def follows_quotes_and_trades(desk: Desk) -> None:
    stream = desk.market_data("iex")
    quotes, trades = Heard(stream), Heard(stream)
    stream.subscribe_quotes(quotes.handle, "AAPL")
    stream.subscribe_trades(trades.handle, "*")
    desk.driven |= {"StockDataStream.subscribe_quotes", "StockDataStream.subscribe_trades"}
    quotes.start()
    order = desk.bought(3, "MSFT")
    first = quotes.until(lambda all_: all_, "a quote")[0]
    assert first.symbol == "AAPL"
    assert 0 < first.bid_price <= first.ask_price
    assert first.timestamp.tzinfo is not None
    trade = trades.until(lambda all_: [each for each in all_ if each.symbol == "MSFT"], "a trade of MSFT")[0]
    assert isinstance(trade.id, int)
    assert trade.size > 0
    assert abs(trade.price / float(order.filled_avg_price) - 1) < 0.05
    assert {each.symbol for each in quotes.messages} == {"AAPL"}
    quotes.stop()


@step
def subscribes_later_and_unsubscribes(desk: Desk) -> None:
    stream = desk.market_data("sip")
    apple, microsoft = Heard(stream), Heard(stream)
    stream.subscribe_quotes(apple.handle, "AAPL")
    apple.start()
    apple.until(lambda all_: all_, "a quote of AAPL")
    stream.subscribe_quotes(microsoft.handle, "MSFT", "NVDA")
    microsoft.until(lambda all_: {each.symbol for each in all_} == {"MSFT", "NVDA"}, "quotes of both", 30)
    stream.unsubscribe_quotes("AAPL")
    desk.driven.add("StockDataStream.unsubscribe_quotes")
    eventually(lambda: "AAPL" not in apple.confirmed[-1]["quotes"], "the broker has heard it")
    apple.messages.clear()
    microsoft.messages.clear()
    microsoft.until(lambda all_: len(all_) >= 3, "more quotes", 30)
    assert apple.messages == []
    apple.stop()


@step
def follows_bars(desk: Desk) -> None:
    stream = desk.market_data()
    minutes, days = Heard(stream), Heard(stream)
    stream.subscribe_bars(minutes.handle, "AAPL")
    stream.subscribe_daily_bars(days.handle, "AAPL")
    desk.driven |= {"StockDataStream.subscribe_bars", "StockDataStream.subscribe_daily_bars"}
    minutes.start()
    bar = minutes.until(lambda all_: all_, "a minute is over", 75)[0]
    assert bar.symbol == "AAPL"
    assert bar.low <= bar.open <= bar.high
    assert bar.timestamp.second == 0
    minutes.stop()


@step
def its_data_stream_is_refused_with_a_wrong_key(desk: Desk) -> None:
    from alpaca.data.live import StockDataStream

    with sdk_log("alpaca.data.live.websocket") as lines:
        stream = StockDataStream(desk.key, "wrong", url_override=desk.stream_url("/v2/iex"), feed=DataFeed.IEX)
        heard = Heard(stream)
        stream.subscribe_quotes(heard.handle, "AAPL")
        threading.Thread(target=stream.run, daemon=True).start()
        eventually(lambda: any("auth failed" in line for line in lines), f"the SDK says so: {lines}")
    assert heard.messages == []
    heard.stop()
