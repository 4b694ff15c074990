"""What the broker's venue sends is what the simulated exchange takes, also of the types that one of them lacks."""

from dataclasses import replace
from typing import Any

import aiohttp
import pytest

from broker.core.types import OrderType, Side, TimeInForce
from broker.exchange import HttpVenue
from broker.simulator.server import SimulatedExchange
from broker.simulator.settings import ExchangeSettings
from tests.builders import FixedMarket, account, dollars, working


@pytest.mark.parametrize(
    ("changes", "sent", "shown"),
    [
        (
            {"order_type": OrderType.TRAILING_STOP, "stop_price": dollars("150.00"), "trail_amount": dollars("5.00")},
            {"type": "stop", "stop_price": "150.00"},
            {"type": "stop", "stop_price": "150.00", "status": "ACCEPTED"},
        ),
        (
            {
                "order_type": OrderType.LIMIT,
                "limit_price": dollars("900.00"),
                "time_in_force": TimeInForce.GTC,
                "extended_hours": True,
            },
            {"type": "limit", "extended_hours": True},
            {"extended_hours": True, "time_in_force": "gtc", "status": "ACCEPTED"},
        ),
        (
            {"time_in_force": TimeInForce.OPG},
            {"type": "market", "time_in_force": "opg"},
            {"time_in_force": "opg", "extended_hours": False, "status": "ACCEPTED"},
        ),
        (
            {"order_type": OrderType.LIMIT, "limit_price": dollars("900.00"), "time_in_force": TimeInForce.CLS},
            {"type": "limit", "time_in_force": "cls"},
            {"time_in_force": "cls", "status": "ACCEPTED"},
        ),
    ],
)
async def test_the_exchange_takes_what_the_venue_sends(
    changes: dict[str, Any], sent: dict[str, Any], shown: dict[str, Any]
) -> None:
    trade = working(account(cash="100000"), FixedMarket({"AAPL": "190.20"}))
    trade = replace(trade, side=Side.SELL, max_price=None, **changes)
    async with (
        SimulatedExchange(ExchangeSettings(tick_ms=0), bytes(32)) as exchange,
        aiohttp.ClientSession() as session,
    ):
        venue = HttpVenue("sim", exchange.url, "http://127.0.0.1:1/webhooks/exchange", session, 1_000_000)
        order = venue._order(trade)
        assert sent.items() <= order.items()
        assert ("extended_hours" in order) == trade.extended_hours
        assert await venue.execute([trade]) == [None]
        async with session.get(f"{exchange.url}/v1/orders/{trade.trade_id}") as response:
            state = await response.json()
    assert shown.items() <= state.items()
