"""Where a trailing stop is: behind the best price by its distance, on the grid, never going back."""

from hypothesis import given
from hypothesis import strategies as st

from broker.core import trailing
from broker.core.money import Money, is_on_tick
from broker.core.types import PRICE_MAX, Side, Trade
from tests.builders import account, dollars, place

prices = st.integers(1, PRICE_MAX).map(Money)


def trade(side: Side, amount: Money | None, bps: int | None) -> Trade:
    made = place(account(), side)
    made.trail_amount, made.trail_bps = amount, bps
    return made


trades = st.one_of(
    st.builds(trade, st.sampled_from(Side), prices, st.none()),
    st.builds(trade, st.sampled_from(Side), st.none(), st.integers(1, 9_999)),
)


@given(trades, prices)
def test_a_stop_is_on_the_grid_and_at_least_its_distance_behind(trade: Trade, water: Money) -> None:
    stop = trailing.stop_price(trade, water)
    if stop is None:
        assert trade.side is Side.SELL
        assert water - trailing.distance(trade, water) < trailing.CENT
        return
    assert stop > 0
    assert is_on_tick(stop)
    behind = water - stop if trade.side is Side.SELL else stop - water
    assert 0 <= behind - trailing.distance(trade, water) < trailing.CENT


@given(trades, st.lists(prices, min_size=1, max_size=20))
def test_a_stop_follows_the_market_and_never_goes_back(trade: Trade, seen: list[Money]) -> None:
    water, stops = None, []
    for price in seen:
        water = trailing.better(trade.side, water, price)
        stops.append(trailing.stop_price(trade, water) or 0)
    assert stops == sorted(stops, reverse=trade.side is Side.BUY)
    assert water == (max(seen) if trade.side is Side.SELL else min(seen))


@given(st.sampled_from(Side), prices, prices)
def test_a_stop_is_reached_at_its_price_and_beyond(side: Side, stop: Money, price: Money) -> None:
    assert trailing.is_reached(side, stop, stop)
    assert trailing.is_reached(side, stop, price) is (price <= stop if side is Side.SELL else price >= stop)


def test_a_percentage_is_of_the_best_price_and_rounded_away() -> None:
    assert trailing.stop_price(trade(Side.SELL, None, 125), dollars("190.15")) == dollars("187.77")  # 187.7731...
    assert trailing.stop_price(trade(Side.BUY, None, 125), dollars("190.15")) == dollars("192.53")  # 192.5268...
    assert trailing.stop_price(trade(Side.SELL, dollars("200.00"), None), dollars("190.15")) is None
