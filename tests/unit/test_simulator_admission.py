"""Which orders can be taken at all, and the one sentence about each that cannot."""

import pytest

from broker.core.types import OrderType, Side
from broker.simulator.admission import Inadmissible, admit, on_grid
from broker.simulator.wire import NewOrder
from tests.simulated import buy, limit, sell, stop, stop_limit

BUY, SELL = Side.BUY, Side.SELL
PRICES = "must be above 0 and at most 1000000.00, with at most 4 decimals"


@pytest.mark.parametrize(
    "order",
    [
        buy(),
        sell(),
        limit(1, BUY, "0.0001"),
        limit(1, SELL, "0.9999"),
        limit(1, SELL, "1000000"),
        limit(1, BUY, "190.1900"),
        stop(1, BUY, "191.00"),
        stop(1, SELL, "0.5555"),
        stop_limit(1, BUY, "191", "191.5"),
    ],
)
def test_what_can_be_taken(order: NewOrder):
    assert admit(order).id == order.id


@pytest.mark.parametrize(
    ("order", "reason"),
    [
        (buy(price="190.00"), "a market order has no price"),
        (buy(stop_price="190.00"), "a market order has no stop_price"),
        (buy(type=OrderType.LIMIT, max_price=None), "a limit order needs a price"),
        (limit(1, BUY, "190.00", stop_price="1.00"), "a limit order has no stop_price"),
        (limit(1, BUY, "190.00", max_price="1900.00"), "a limit BUY has no max_price"),
        (sell(type=OrderType.STOP), "a stop order needs a stop_price"),
        (stop(1, SELL, "190.00", price="190.00"), "a stop order has no price"),
        (stop(1, SELL, "190.00", max_price="1900.00"), "a stop SELL has no max_price"),
        (buy(side=Side.SELL, max_price="1.00"), "a market SELL has no max_price"),
        (
            stop(1, BUY, "190.00", max_price=None),
            "a stop BUY needs a max_price, a positive decimal with at most 4 places",
        ),
        (stop(1, BUY, "190.00", type=OrderType.STOP_LIMIT, max_price=None), "a stop_limit order needs a price"),
        (limit(1, BUY, "190.00", type=OrderType.STOP_LIMIT), "a stop_limit order needs a stop_price"),
        (stop_limit(1, BUY, "190.00", "190.00", max_price="1"), "a stop_limit BUY has no max_price"),
        (limit(1, BUY, "0"), f"price {PRICES}"),
        (limit(1, BUY, "-1"), f"price {PRICES}"),
        (limit(1, BUY, "1e3"), f"price {PRICES}"),
        (limit(1, BUY, "0.00001"), f"price {PRICES}"),
        (limit(1, BUY, "1000000.01"), f"price {PRICES}"),
        (stop(1, SELL, "1000000.01"), f"stop_price {PRICES}"),
        (limit(1, BUY, "1.0001"), "from 1.00 on, price is in whole cents"),
        (stop_limit(1, BUY, "190.195", "190.19"), "from 1.00 on, stop_price is in whole cents"),
    ],
)
def test_what_cannot(order: NewOrder, reason: str):
    with pytest.raises(Inadmissible) as caught:
        admit(order)
    assert str(caught.value) == reason


def test_the_grid_is_a_cent_from_a_dollar_on_and_a_hundredth_of_it_below():
    assert [on_grid(price) for price in (0, 1, 9_999, 10_000, 10_099, 10_100, 1_902_055)] == [
        *(0, 1, 9_999, 10_000, 10_000, 10_100, 1_902_000)
    ]
