"""Orders of customers and the market maker in one book: whole lists of what is told."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.money import Money, format_money, parse_money
from broker.core.types import Side
from broker.simulator.wire import OrderStatus
from tests.simulated import (
    BEST_SIZE,
    FOK,
    GTC,
    IOC,
    Bench,
    accepted,
    buy,
    event,
    filled,
    limit,
    partly,
    sell,
    stop,
    stop_limit,
)

BUY, SELL = Side.BUY, Side.SELL
S = OrderStatus


def dollars(*texts: str) -> tuple[Money, ...]:
    return tuple(parse_money(text) for text in texts)


def test_the_orders_of_two_customers_meet():
    bench = Bench()
    assert bench.events(limit(1, SELL, "190.19")) == [accepted(1)]
    assert bench.best == dollars("190.18", "190.19", "190.18")
    assert bench.events(buy(2, quantity=4)) == [filled(2, 4, "190.19"), partly(1, 4, "190.19")]
    assert bench.events(limit(3, BUY, "190.25", quantity=6)) == [
        filled(3, 6, "190.19"),
        filled(1, 6, "190.19", number=2, total=10),
    ]
    assert bench.best == dollars("190.18", "190.20", "190.19")


def test_who_came_first_at_a_price_trades_first_the_market_maker_too():
    bench = Bench()
    bench.accept(limit(1, SELL, "190.19", quantity=5), limit(2, SELL, "190.19", quantity=5))
    assert bench.events(buy(3, quantity=7)) == [
        partly(3, 5, "190.19"),
        filled(1, 5, "190.19"),
        filled(3, 2, "190.19", number=2, total=7),
        partly(2, 2, "190.19"),
    ]
    bench.accept(limit(4, SELL, "190.20"))
    assert bench.events(buy(5, quantity=100, max_price="19971.00"))[-1] == filled(5, 97, "190.20", number=2, total=100)
    assert bench.state(4)["status"] == "ACCEPTED"


def test_a_limit_order_trades_what_it_can_and_rests_with_the_remainder():
    bench = Bench()
    assert bench.events(limit(1, BUY, "190.20", quantity=BEST_SIZE + 10)) == [
        accepted(1),
        partly(1, BEST_SIZE, "190.20"),
    ]
    assert bench.best == dollars("190.20", "190.29", "190.20")
    assert bench.tick() == [filled(1, 10, "190.20", number=2, total=BEST_SIZE + 10)]  # the market maker comes back
    assert bench.best == dollars("190.18", "190.20", "190.20")


def test_a_big_order_fills_in_several_executions_and_moves_the_price():
    bench = Bench()
    quantity = BEST_SIZE * 7 + 1
    assert bench.events(buy(1, quantity=quantity, max_price="99999999")) == [
        partly(1, BEST_SIZE, "190.20"),
        partly(1, 2 * BEST_SIZE, "190.29", number=2, total=3 * BEST_SIZE),
        partly(1, 4 * BEST_SIZE, "190.38", number=3, total=7 * BEST_SIZE),
        filled(1, 1, "190.56", number=4, total=quantity),
    ]
    assert bench.best == dollars("190.18", "190.56", "190.56")
    bench.tick()
    assert bench.best == dollars("190.18", "190.20", "190.56")


def test_the_biggest_market_order_fills_within_a_few_percent():
    bench = Bench()
    (*_, last) = bench.events(sell(quantity=10_000_000))
    assert (last.type, last.price) == (S.FILLED, "186.38")
    (*_, last) = bench.events(sell(2, quantity=10_000_000))
    assert (last.type, last.reason) == (S.CANCELLED, "no liquidity")
    (*_, last) = bench.events(sell(3))
    assert last == event(S.REJECTED, 3, reason="no liquidity")
    bench.tick()
    assert bench.events(sell(4)) == [filled(4, 10, "190.18")]


def test_a_resting_order_trades_when_the_price_comes_to_it():
    bench = Bench()
    assert bench.events(limit(1, SELL, "190.50")) == [accepted(1)]
    assert bench.quote("190.40", "190.42") == []
    assert bench.quote("190.60", "190.62") == [filled(1, 10, "190.50")]


def test_the_noise_trades_with_whoever_is_best():
    bench = Bench()
    bench.accept(limit(1, BUY, "190.19"))
    assert bench.quote("190.18", "190.20") == [partly(1, 1, "190.19")]
    bench.noise.draw = 0.25
    bench.accept(limit(2, SELL, "190.19", quantity=9))
    assert bench.state(1)["status"] == "FILLED"


# Time in force.


@pytest.mark.parametrize(
    ("order", "events"),
    [
        (
            limit(1, BUY, "190.20", quantity=BEST_SIZE + 1, time_in_force=IOC),
            [
                partly(1, BEST_SIZE, "190.20"),
                event(S.CANCELLED, filled_quantity=BEST_SIZE, reason="immediate or cancel"),
            ],
        ),
        (limit(1, BUY, "190.19", time_in_force=IOC), [event(S.CANCELLED, reason="immediate or cancel")]),
        (
            limit(1, BUY, "190.20", quantity=BEST_SIZE + 1, time_in_force=FOK),
            [event(S.CANCELLED, reason="fill or kill")],
        ),
        (limit(1, BUY, "190.20", quantity=9, time_in_force=FOK), [filled(1, 9, "190.20")]),
        (limit(1, BUY, "190.19", time_in_force=GTC), [accepted(1)]),
        (sell(1, quantity=9, time_in_force=FOK), [filled(1, 9, "190.18")]),
        (buy(1, time_in_force=FOK, max_price="1"), [event(S.CANCELLED, reason="fill or kill")]),
    ],
)
def test_how_long_an_order_may_rest(order, events):
    assert Bench().events(order) == events


# Stops.


def test_a_stop_waits_for_a_trade_at_its_price_and_says_nothing_when_it_is_reached():
    bench = Bench()
    assert bench.events(stop(1, SELL, "190.00"), stop_limit(2, SELL, "190.05", "190.30")) == [accepted(1), accepted(2)]
    assert bench.quote("190.10", "190.12") == []
    # Somebody sells one share at 190.00: that is what both wait for.
    assert bench.quote("190.00", "190.02") == [filled(1, 10, "190.00")]
    assert (bench.state(2)["status"], bench.order(2).triggered) == ("ACCEPTED", True)
    assert bench.best == dollars("190.00", "190.02", "190.00")
    assert bench.quote("190.35", "190.37") == [filled(2, 10, "190.30")]


def test_a_stop_that_is_reached_when_it_comes_trades_at_once():
    bench = Bench()
    bench.accept(buy(1))
    assert bench.events(stop(2, BUY, "190.20")) == [filled(2, 10, "190.20")]
    assert bench.events(stop_limit(3, BUY, "190.20", "190.19")) == [accepted(3)]
    assert bench.order(3).triggered


def test_one_customers_trade_triggers_anothers_stop():
    bench = Bench()
    bench.accept(stop(1, BUY, "190.29", max_price="1999.00"))
    (*_, last) = bench.events(buy(2, quantity=BEST_SIZE + 1, max_price="99999999"))
    assert last == filled(1, 10, "190.29")


def test_a_stop_never_spends_more_than_its_max_price():
    bench = Bench()
    bench.accept(stop(1, BUY, "190.30", max_price="1903.05"))
    bench.noise.draw = 0.25  # somebody buys
    assert bench.quote("190.31", "190.33") == [event(S.CANCELLED, reason="max price exceeded")]
    assert bench.events(stop(2, BUY, "999.00", max_price="0.0009")) == [
        event(S.CANCELLED, 2, reason="max price exceeded")
    ]


# max_price.


@given(
    asks=st.lists(st.tuples(st.integers(1, 40_000), st.integers(1, 50)), max_size=6),
    quantity=st.integers(1, 200),
    max_price=st.integers(1, 10_000_000),
    parts=st.lists(st.integers(1, 100), max_size=3),
)
def test_a_market_buy_never_spends_more_than_max_price(asks, quantity, max_price, parts):
    bench = Bench(quote=("1.90", "1.92"), fills_at_once=not parts)
    for n, (price, size) in enumerate(asks, 2):
        text = format_money(Money(price if price < 10_000 else price // 100 * 100))
        bench.accept(limit(n, SELL, text, quantity=size))
    bench.accept(buy(1, quantity=quantity, max_price=format_money(Money(max_price))))
    for part in parts:
        if not bench.order().is_finished:
            bench.fill(min(part, bench.order().leaves_quantity))
            bench.tick()
    order = bench.order()
    assert order.filled_value <= max_price
    assert sum(execution.quantity for execution in order.executions) == order.filled_quantity <= quantity
    if not parts:
        assert order.is_finished
        if order.status is not S.FILLED:
            assert order.reason == "max price exceeded"
            assert order.status is (S.CANCELLED if order.executions else S.REJECTED)
