"""The moving quotes: bounded, on the cent grid, the same for the same seed."""

from random import Random

import pytest

from broker.core.money import parse_money
from broker.core.types import Symbol
from broker.simulator.market import CENT, Market, Quote, Ticker
from broker.simulator.tickers import listed_tickers


def market(*prices: str, seed: int = 7) -> Market:
    tickers = [Ticker(Symbol(f"T{n}"), f"Ticker {n}", parse_money(price)) for n, price in enumerate(prices)]
    return Market(tickers, Random(seed))


def is_sound(quote: Quote) -> bool:
    on_the_grid = all(price % CENT == 0 for price in (quote.bid, quote.ask, quote.last))
    spread = quote.ask - quote.bid
    return on_the_grid and 0 < quote.bid < quote.last <= quote.ask and spread <= 4 * CENT


def test_every_quote_of_every_tick_is_sound():
    moving = Market(listed_tickers(), Random(1))
    for _ in range(2_000):
        assert [quote for quote in moving.quotes.values() if not is_sound(quote)] == []
        moving.tick()


@pytest.mark.parametrize("price", ["0.01", "0.0001", "0.03", "1.00", "190.19", "5000.00"])
def test_the_cheapest_and_the_dearest_stay_sound_and_in_their_band(price):
    moving = market(price)
    for _ in range(5_000):
        moving.tick()
        quote = moving.quotes[Symbol("T0")]
        assert is_sound(quote)
        assert quote.last <= max(parse_money(price) * 5 // 4, 4 * CENT)
        assert quote.last >= parse_money(price) * 3 // 4 - CENT


def test_a_price_comes_back_to_where_it_began():
    moving = market("200.00")
    start = parse_money("200.00")
    lasts = []
    for _ in range(20_000):
        moving.tick()
        lasts.append(moving.quotes[Symbol("T0")].last)
    assert abs(sum(lasts) // len(lasts) - start) < start // 100
    assert min(lasts) < start < max(lasts)


def test_tick_names_the_symbols_whose_quote_changed_and_no_others():
    moving = Market(listed_tickers(), Random(3))
    ever = set()
    for _ in range(200):
        before = dict(moving.quotes)
        changed = moving.tick()
        assert set(changed) == {symbol for symbol, quote in moving.quotes.items() if quote != before[symbol]}
        ever |= set(changed)
    assert ever == set(moving.quotes)


def test_the_same_seed_moves_the_same_way():
    one, other, third = (Market(listed_tickers(), Random(seed)) for seed in (5, 5, 6))
    for _ in range(50):
        assert one.tick() == other.tick()
        third.tick()
    assert one.quotes == other.quotes
    assert one.quotes != third.quotes


def test_the_list_has_the_symbols_that_everybody_asks_for():
    tickers = {ticker.symbol: ticker for ticker in listed_tickers()}
    assert len(tickers) == len(listed_tickers()) >= 200
    assert {"AAPL", "GOOGL", "MSFT", "TSLA", "AMZN", "NVDA", "SPY", "BRK.B"} <= set(tickers)
    assert all(0 < ticker.price <= parse_money("5000") for ticker in tickers.values())
    assert tickers[Symbol("AAPL")].name == "Apple Inc."
