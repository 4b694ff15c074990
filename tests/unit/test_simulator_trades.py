"""What everybody may see of the books: every trade, and how many shares stand at the best prices."""

from datetime import UTC, datetime
from random import Random

import pytest

from broker.core.matching import Order, Traded
from broker.core.money import Money, format_money, parse_money
from broker.core.types import Side, Symbol
from broker.simulator.amendments import Refusal
from broker.simulator.books import Books
from broker.simulator.market import Market, Ticker
from broker.simulator.wire import Trade
from tests.simulated import AAPL, AT, BEST_SIZE, STAMP, Bench, buy, limit, sell, stop

BUY, SELL = Side.BUY, Side.SELL


def trade(quantity: int, price: str) -> Trade:
    return Trade("AAPL", price, quantity, STAMP)


def sizes(bench: Bench) -> tuple[int, int]:
    """Of the best bid and the best ask, as the feed would tell them now."""
    bench.books.requoted()
    quote = bench.books.quotes[AAPL]
    return quote.bid_size, quote.ask_size


def test_a_trade_is_told_once_with_the_resting_orders_price():
    bench = Bench()
    bench.accept(limit(1, SELL, "190.19"))
    assert bench.accept(buy(2, quantity=15, max_price="2900.00")).trades == [trade(10, "190.19"), trade(5, "190.20")]


def test_trades_stand_in_the_order_in_which_they_happened():
    bench = Bench()
    bench.accept(limit(1, SELL, "190.19", quantity=5), stop(2, BUY, "190.19", quantity=3))
    assert bench.accept(buy(3, quantity=7), sell(4, quantity=1)).trades == [
        trade(5, "190.19"),
        trade(2, "190.20"),
        trade(3, "190.20"),  # the stop that the first one reached
        trade(1, "190.18"),
    ]


def test_what_the_others_trade_is_told_as_well():
    bench = Bench()
    bench.accept(limit(1, SELL, "190.30"))
    bench._set("190.40", "190.42")
    bench.market.moved = True
    told = bench.exchange.tick(bench.at).trades
    assert told == [trade(10, "190.30"), trade(1, "190.40")]  # the market maker's, and the noise trader's


def test_an_execution_that_is_taken_back_or_corrected_is_no_trade():
    bench = Bench()
    bench.accept(buy())
    corrected = bench.exchange.correct(f"{buy().id}-1", 5, None, bench.at)
    busted = bench.exchange.bust(f"{buy().id}-2", "erroneous trade", bench.at)
    assert not isinstance(corrected, Refusal)
    assert not isinstance(busted, Refusal)
    assert (corrected.trades, busted.trades) == ([], [])


def test_nothing_is_told_where_nothing_traded():
    bench = Bench()
    assert bench.accept(limit(1, BUY, "190.00")).trades == []
    assert bench.cancel(1).trades == []
    assert bench.exchange.tick(bench.at).trades == []


def test_orders_that_waited_trade_when_the_session_opens():
    bench = Bench(hours="XNYS", at=datetime(2026, 11, 27, 14, 29, 59, tzinfo=UTC))
    assert bench.accept(limit(1, BUY, "190.30")).trades == []
    assert bench.exchange.advance(AT).trades == [trade(10, "190.20")]


def test_sizes_are_what_stands_at_the_best_prices():
    bench = Bench()
    assert sizes(bench) == (BEST_SIZE, BEST_SIZE)
    bench.accept(buy(1), limit(2, BUY, "190.18", quantity=3))
    assert sizes(bench) == (BEST_SIZE + 3, BEST_SIZE - 10)
    bench.accept(limit(3, BUY, "190.19", quantity=7))
    assert sizes(bench) == (7, BEST_SIZE - 10)
    bench.cancel(3)
    assert sizes(bench) == (BEST_SIZE + 3, BEST_SIZE - 10)


def test_a_side_where_nobody_stands_has_no_size_and_keeps_its_price():
    bench = Bench()
    bench.accept(limit(1, BUY, "999999.00", quantity=10_000_000))
    before = bench.best
    bench.accept(limit(2, BUY, "999999.00", quantity=10_000_000))
    assert (bench.best[1], sizes(bench)[1]) == (before[1], 0)


def test_a_quote_whose_sizes_alone_changed_is_another_one():
    bench = Bench()
    bench.books.requoted()
    bench.accept(limit(1, BUY, "190.18"))
    assert bench.books.requoted() == [AAPL]
    bench.accept(limit(2, BUY, "190.00"))
    assert bench.books.requoted() == []


@pytest.mark.parametrize("seed", range(5))
def test_the_last_price_is_that_of_the_last_trade_and_all_fills_are_trades(seed):
    """Of trades between two customers each one has its execution; so has each with the market maker one."""
    random = Random(seed)
    bench = Bench()
    told: list[Trade] = []
    for n in range(1, 300):
        side = random.choice((BUY, SELL))
        price = format_money(parse_money("190.19") + random.randint(-8, 8) * 100)
        told += bench.accept(limit(n, side, price, quantity=random.randint(1, 4_000))).trades
        if n % 10 == 0:
            bench.market.moved = True
            told += bench.exchange.tick(bench.at).trades
        if told:
            assert format_money(Money(bench.best[2])) == told[-1].price
    filled = sum(order.filled_quantity for order in bench.exchange.orders.all())
    traded = sum(each.quantity for each in told)
    assert filled / 2 <= traded <= filled + 300  # the noise trades a share a tick


def test_a_tick_tells_of_each_book_by_its_symbol():
    tickers = [Ticker(Symbol(f"T{n}"), f"Ticker {n}", parse_money("100.00")) for n in range(20)]
    books = Books(Market(tickers, Random(1)), Random(2))
    for _ in range(20):
        books.requoted()
        happened = books.tick()
        changed = set(books.requoted())
        for symbol, events in happened:
            traded = [each for each in events if isinstance(each, Traded)]
            assert symbol in changed
            assert traded[-1].price == books.quotes[symbol].last
        assert len(happened) == len({symbol for symbol, _ in happened})
    books.enter(Symbol("T3"), Order("1", "1", BUY, 100_000))
    assert {symbol for symbol, _ in books.tick(moves=False)} <= {Symbol("T3")}
