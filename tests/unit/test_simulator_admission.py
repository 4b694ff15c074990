"""Which orders can be taken at all, and the one sentence about each that cannot."""

import pytest

from broker.core.types import OrderType, Side, TimeInForce
from broker.simulator.admission import Inadmissible, admit, on_grid, settable_price
from broker.simulator.wire import NewOrder
from tests.simulated import buy, limit, sell, stop, stop_limit

BUY, SELL = Side.BUY, Side.SELL
EXTENDED = "extended_hours is for limit orders that are day or gtc"
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
        buy(time_in_force=TimeInForce.CLS),
        limit(1, SELL, "190.00", time_in_force=TimeInForce.OPG),
        limit(1, SELL, "190.00", extended_hours=True),
        limit(1, BUY, "190.00", extended_hours=True, time_in_force=TimeInForce.GTC),
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
        (sell(type=OrderType.TRAILING_STOP), "a trailing stop waits at the broker: it comes here as a stop"),
        (stop(1, SELL, "190.00", time_in_force=TimeInForce.CLS), "cls is for market and limit orders"),
        (stop_limit(1, SELL, "190.00", "190.00", time_in_force=TimeInForce.OPG), "opg is for market and limit orders"),
        (
            buy(time_in_force=TimeInForce.OPG, max_price=None),
            "a market BUY needs a max_price, a positive decimal with at most 4 places",
        ),
        (sell(extended_hours=True), EXTENDED),
        (stop(1, SELL, "190.00", extended_hours=True), EXTENDED),
        *(
            (limit(1, SELL, "190.00", extended_hours=True, time_in_force=time_in_force), EXTENDED)
            for time_in_force in (TimeInForce.IOC, TimeInForce.FOK, TimeInForce.OPG, TimeInForce.CLS)
        ),
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


def test_a_price_that_the_market_may_move_to_is_in_whole_cents_and_far_from_what_no_order_can_have():
    assert [settable_price(text) for text in ("0.03", "190", "500000.00")] == [300, 1_900_000, 5_000_000_000]
    for text in ("0", "0.02", "-1", "190.005", "500000.01", "much", ""):
        with pytest.raises(Inadmissible, match=r"price is in whole cents, from 0\.03 to 500000\.00"):
            settable_price(text)
