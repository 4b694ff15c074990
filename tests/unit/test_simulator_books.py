"""The market maker and the noise: quotes that are sound, deep, cheap, and the same for the same seed."""

from random import Random

import pytest

from broker.core.matching import Order
from broker.core.money import Money, parse_money
from broker.core.types import Side, Symbol
from broker.simulator.books import Books
from broker.simulator.market import CENT, Market, Quote, Ticker
from broker.simulator.tickers import listed_tickers

AAPL = Symbol("AAPL")


def books(*prices: str, seed: int = 7) -> Books:
    tickers = [Ticker(Symbol(f"T{n}"), f"Ticker {n}", parse_money(price)) for n, price in enumerate(prices)]
    return Books(Market(tickers, Random(seed)), Random(seed + 1))


def all_listed(seed: int = 5) -> Books:
    return Books(Market(listed_tickers(), Random(seed)), Random(seed + 1))


def is_sound(quote: Quote) -> bool:
    on_the_grid = all(price % CENT == 0 for price in (quote.bid, quote.ask, quote.last))
    return on_the_grid and 0 < quote.bid < quote.ask <= quote.bid + 4 * CENT and quote.last > 0


def test_every_quote_of_every_tick_is_sound():
    trading = all_listed()
    last_changed = set()
    for _ in range(200):
        assert [quote for quote in trading.quotes.values() if not is_sound(quote)] == []
        trading.tick()
        last_changed |= set(trading.requoted())
    assert last_changed == set(trading.quotes)


def test_the_book_follows_the_fair_price():
    market = Market(listed_tickers(), Random(1))
    trading = Books(market, Random(2))
    for _ in range(100):
        trading.tick()
        trading.requoted()
    for symbol, fair in market.quotes.items():
        quote = trading.quotes[symbol]
        assert (quote.bid, quote.ask) == (fair.bid, fair.ask)
        assert abs(quote.last - fair.last) <= fair.last // 50 + 4 * CENT


def test_the_same_seed_quotes_the_same_and_another_does_not():
    one, other, third = all_listed(), all_listed(), all_listed(6)
    for _ in range(50):
        for each in (one, other, third):
            each.tick()
        assert one.requoted() == other.requoted()
        third.requoted()
    assert one.quotes == other.quotes
    assert one.quotes != third.quotes


def test_customers_change_the_books_and_never_the_fair_prices():
    one, other = Market(listed_tickers(), Random(1)), Market(listed_tickers(), Random(1))
    quiet, busy = Books(one, Random(2)), Books(other, Random(2))
    for n in range(50):
        busy.enter("AAPL", Order(str(n), str(n), Side.BUY, 50_000))
        quiet.tick()
        busy.tick()
    assert one.quotes == other.quotes


def test_requoted_names_the_symbols_whose_quote_changed_and_no_others():
    trading = all_listed()
    for n in range(50):
        before = dict(trading.quotes)
        trading.enter("AAPL", Order(str(n), str(n), Side.BUY, 50_000))
        trading.tick()
        changed = trading.requoted()
        assert changed == sorted(symbol for symbol, quote in trading.quotes.items() if quote != before[symbol])
    assert trading.requoted() == []


@pytest.mark.parametrize("price", ["0.03", "0.20", "1.95", "7.70", "190.19", "5000.00"])
def test_an_ordinary_order_always_fills_and_well_inside_what_a_broker_reserves(price):
    trading = books(price)
    symbol = Symbol("T0")
    for n in range(300):
        trading.tick()
        trading.requoted()
        quote = trading.quotes[symbol]
        for side, best in ((Side.BUY, quote.ask), (Side.SELL, quote.bid)):
            events = trading.enter(symbol, Order(f"{n}{side}", f"{n}{side}", side, 200_000))
            trades = [event for event in events if hasattr(event, "price")]
            if price not in {"0.03", "0.20"} or side is Side.BUY:
                assert sum(trade.quantity for trade in trades) == 200_000
            for trade in trades:
                assert abs(trade.price - best) <= max(best * 26 // 1000, CENT)


def test_what_was_taken_comes_back_without_a_move():
    trading = books("190.19")
    before = trading.quotes[Symbol("T0")]
    trading.enter("T0", Order("1", "1", Side.BUY, 20_000_000, Money(before.ask * 2)))
    trading.tick(moves=False)
    trading.tick(moves=False)
    trading.requoted()
    after = trading.quotes[Symbol("T0")]
    assert after.last > before.last
    assert trading.is_empty("T0", Side.SELL) is False
    assert trading.tick(moves=False) == []
