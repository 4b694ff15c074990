"""What an operator does to a symbol: sets its price, halts it, lets it go again."""

from random import Random

import pytest

from broker.core.money import Money, parse_money
from broker.core.types import Side, Symbol, TimeInForce
from broker.simulator.market import Market, Quote
from broker.simulator.tickers import listed_tickers
from broker.simulator.wire import Event, OrderStatus, Trade
from tests.simulated import (
    AAPL,
    AT,
    BEST_SIZE,
    FOK,
    GTC,
    IOC,
    STAMP,
    Bench,
    accepted,
    buy,
    event,
    filled,
    in_place_of,
    limit,
    partly,
    sell,
    stop,
    stop_limit,
    told,
)

BUY, SELL = Side.BUY, Side.SELL
S = OrderStatus


def set_price(bench: Bench, price: str, *, holds: bool = True) -> list[Event]:
    return told(bench.exchange.set_price(AAPL, parse_money(price), holds, bench.at))


def resume(bench: Bench) -> list[Event]:
    return told(bench.exchange.resume(AAPL, bench.at))


def dollars(*texts: str) -> tuple[Money, ...]:
    return tuple(parse_money(text) for text in texts)


# Its price.


@pytest.mark.parametrize("price", ["190.00", "250.00", "50.00", "190.19", "0.03", "500000.00"])
def test_the_market_moves_to_a_price_at_once(price):
    bench = Bench()
    assert set_price(bench, price) == []
    at = parse_money(price)
    assert bench.best == (at - 100, at + 100, at)
    quote = bench.books.quotes[AAPL]
    assert quote.bid_size == quote.ask_size == BEST_SIZE


def test_whoever_stands_at_the_price_or_beyond_trades_at_his_own_limit():
    bench = Bench()
    bench.accept(limit(1, SELL, "190.50"), limit(2, SELL, "191.00"), limit(3, SELL, "191.01"), limit(4, BUY, "190.00"))
    assert set_price(bench, "191.00") == [filled(1, 10, "190.50"), filled(2, 10, "191.00")]
    bench.accept(limit(5, BUY, "190.50", quantity=3))
    outcome = bench.exchange.set_price(AAPL, parse_money("190.50"), True, bench.at)
    assert told(outcome) == [filled(5, 3, "190.50")]
    assert outcome.trades == [Trade("AAPL", "190.50", 3, STAMP), Trade("AAPL", "190.50", 1, STAMP)]
    assert {n: bench.state(n)["status"] for n in (3, 4)} == {3: "ACCEPTED", 4: "ACCEPTED"}


def test_stops_that_are_reached_trade_and_the_price_is_the_last_one_all_the_same():
    bench = Bench()
    bench.accept(stop(1, SELL, "185.00"), stop(2, SELL, "184.99"), stop(3, BUY, "195.00"))
    bench.accept(stop_limit(4, SELL, "186.00", "185.50"))
    assert set_price(bench, "185.00") == [filled(1, 10, "184.99"), filled(2, 10, "184.99")]
    assert bench.best == dollars("184.99", "185.01", "185.00")
    assert bench.order(4).triggered
    assert set_price(bench, "195.00") == [filled(4, 10, "185.50"), filled(3, 10, "195.01")]
    assert bench.best == dollars("194.99", "195.01", "195.00")


def test_orders_fill_at_the_price_that_was_set():
    bench = Bench()
    set_price(bench, "100.00")
    assert bench.events(buy(1), sell(2)) == [filled(1, 10, "100.01"), filled(2, 10, "99.99")]


def test_outside_the_session_it_moves_with_nobody_in_it():
    closed = Bench(closed=True)
    closed.accept(limit(1, BUY, "190.20"))
    assert set_price(closed, "100.00") == []
    assert closed.best == dollars("99.99", "100.01", "100.00")


def test_a_price_that_is_held_stands_still_and_no_other_symbol_walks_differently():
    free, held = (Market(listed_tickers(), Random(7)) for _ in range(2))
    price = Money(free.quotes[AAPL].last * 2)
    held.place(AAPL, price, holds=True)
    for _ in range(200):
        free.tick()
        assert AAPL not in held.tick()
    assert held.is_held(AAPL)
    assert held.quotes[AAPL] == Quote(AAPL, Money(price - 100), Money(price + 100), price)
    assert {**free.quotes, AAPL: None} == {**held.quotes, AAPL: None}
    held.release(AAPL)
    assert not held.is_held(AAPL)
    lasts = {held.quotes[AAPL].last for _ in range(200) if held.tick()}
    assert len(lasts) > 10
    assert all(abs(last - price) < price // 20 for last in lasts)  # around where it was set


def test_a_price_that_is_not_held_walks_on_from_there():
    market = Market(listed_tickers(), Random(7))
    market.place(Symbol("MSFT"), Money(1_000_000), holds=False)
    moves = [market.quotes[Symbol("MSFT")].last for _ in range(100) if Symbol("MSFT") in market.tick()]
    assert len(set(moves)) > 3
    assert all(abs(last - 1_000_000) < 50_000 for last in moves)


# A halt.


def test_nothing_of_a_halted_symbol_trades_and_what_cannot_wait_is_rejected():
    bench = Bench()
    bench.accept(limit(1, SELL, "190.19"))
    bench.books.halt(AAPL, "news pending")
    refused = [buy(2), sell(3, time_in_force=GTC), limit(4, BUY, "190.20", time_in_force=IOC)]
    refused += [limit(5, BUY, "190.20", time_in_force=FOK), sell(6, time_in_force=TimeInForce.OPG)]
    refused += [sell(7, time_in_force=TimeInForce.CLS), stop(8, SELL, "190.00", time_in_force=IOC)]
    assert bench.events(*refused) == [event(S.REJECTED, n, reason="symbol halted") for n in range(2, 9)]
    assert bench.events(limit(9, BUY, "190.20"), stop(10, SELL, "190.50")) == [accepted(9), accepted(10)]
    assert bench.quote("190.40", "190.42") == []
    assert bench.best == dollars("190.18", "190.19", "190.18")


def test_when_it_resumes_the_market_catches_up_and_those_who_waited_enter_in_their_order():
    bench = Bench()
    bench.accept(limit(1, SELL, "190.30"))
    bench.books.halt(AAPL, "news pending")
    bench.accept(limit(2, BUY, "190.41"), limit(3, BUY, "190.42", quantity=BEST_SIZE + 5), limit(4, BUY, "190.42"))
    bench.quote("190.40", "190.42")
    assert resume(bench) == [
        filled(1, 10, "190.30"),
        partly(3, BEST_SIZE, "190.42"),
    ]
    assert bench.tick() == [
        filled(3, 5, "190.42", number=2, total=BEST_SIZE + 5),
        filled(4, 10, "190.42"),
    ]
    assert resume(bench) == []
    assert bench.events(sell(5)) == [filled(5, 10, "190.41"), filled(2, 10, "190.41")]


def test_a_price_set_in_a_halt_is_where_it_resumes():
    bench = Bench()
    bench.accept(limit(1, SELL, "200.00"), stop(2, SELL, "185.00"))
    bench.books.halt(AAPL, "news pending")
    assert set_price(bench, "210.00") == set_price(bench, "180.00") == []
    assert bench.best == dollars("190.18", "190.20", "190.18")
    assert resume(bench) == [filled(2, 10, "179.99")]
    assert bench.best == dollars("179.99", "180.01", "180.00")


def test_who_rests_in_a_halt_can_be_cancelled_and_replaced():
    bench = Bench()
    bench.accept(limit(1, SELL, "190.30"), limit(2, SELL, "190.30"))
    bench.books.halt(AAPL, "news pending")
    assert told(bench.cancel(1)) == [event(S.CANCELLED, 1, reason="asked")]
    new = limit(3, SELL, "190.10", replaces=in_place_of(2))
    assert bench.events(new) == [event(S.REPLACED, 2), accepted(3)]
    assert resume(bench) == [filled(3, 10, "190.18")]


def test_a_market_order_that_a_halt_overtakes_trades_when_it_is_over():
    bench = Bench(partial=1)
    bench.accept(sell())
    assert bench.fill(3) == [partly(1, 3, "190.18")]
    bench.books.halt(AAPL, "news pending")
    assert bench.fill(4) == bench.fill(3) == []
    assert resume(bench) == [filled(1, 7, "190.18", number=2, total=10)]
    assert bench.fill(3) == []


def test_the_opening_and_the_close_of_a_halted_symbol_fill_nothing():
    bench = Bench()
    bench.accept(
        sell(1, time_in_force=TimeInForce.CLS), sell(2, time_in_force=TimeInForce.OPG), limit(3, BUY, "180.00")
    )
    bench.books.halt(AAPL, "news pending")
    bench.at = AT.replace(hour=5, day=28)
    assert [(each.type, each.order_id[-1], each.reason) for each in bench.tick()] == [
        (S.CANCELLED, "1", "symbol halted"),
        (S.EXPIRED, "3", "the session ended"),
        (S.CANCELLED, "2", "symbol halted"),
    ]


def test_what_stops_took_is_put_back_at_the_price_that_was_set():
    bench = Bench()
    bench.accept(stop(1, SELL, "185.00", quantity=BEST_SIZE))
    assert set_price(bench, "185.00") == [filled(1, BEST_SIZE, "184.99")]
    assert bench.best == dollars("184.99", "185.01", "185.00")
    assert bench.books.quotes[AAPL].bid_size == BEST_SIZE


def test_nobody_stays_who_made_the_last_price():
    bench = Bench()
    bench.accept(stop(1, SELL, "185.00"), stop_limit(2, SELL, "185.00", "185.00"))
    assert set_price(bench, "185.00") == [filled(1, 10, "184.99"), partly(2, 1, "185.00")]
    assert bench.best == dollars("184.99", "185.00", "185.00")
    assert bench.books.quotes[AAPL].ask_size == 9


def test_the_market_maker_puts_nothing_back_in_a_halt():
    bench = Bench()
    bench.accept(limit(1, BUY, "190.20", quantity=BEST_SIZE))
    bench.books.halt(AAPL, "news pending")
    assert bench.tick() == []
    assert bench.best == dollars("190.18", "190.29", "190.20")
    assert resume(bench) == []
    assert bench.best == dollars("190.18", "190.20", "190.20")


def test_a_good_market_order_in_a_halt_waits_over_the_close():
    bench = Bench(partial=1, hours="XNYS")
    bench.accept(sell(time_in_force=GTC))
    bench.books.halt(AAPL, "news pending")
    assert bench.fill(3) == []
    bench.at = AT.replace(hour=18)  # the half day's close
    assert bench.fill(7) == []
    assert resume(bench) == []
    bench.at = AT.replace(day=30)
    assert [(each.type, each.quantity) for each in bench.tick()] == [(S.FILLED, 10)]
