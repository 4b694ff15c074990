"""A row of `trade` in Alpaca's words: one status for each state, ids as UUIDs, nothing null that must not be."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest
from alpaca.trading.models import Order as TheirOrder

from broker.alpaca import ids
from broker.alpaca.orders_out import order, order_status
from broker.core.money import Money
from broker.core.types import OrderType, Status

ID = UUID("01a20122-d6ae-7189-9cdb-8be294388f41")
AT = datetime(2026, 11, 27, 15, 0, 0, 123456, UTC)
ROW: dict[str, Any] = {
    "trade_id": ID,
    "client_order_id": None,
    "symbol": "AAPL",
    "side": "BUY",
    "quantity": 10,
    "order_type": "limit",
    "time_in_force": "day",
    "limit_price": 1502500,
    "stop_price": None,
    "status": "IN PROGRESS",
    "acknowledged": True,
    "cancel_requested": False,
    "filled_quantity": 0,
    "filled_value": 0,
    "order_class": "simple",
    "group_id": None,
    "role": None,
    "trail_amount": None,
    "trail_bps": None,
    "extended_hours": False,
    "reason": "The exchange has it.",
    "triggered": False,
    "replaces": None,
    "created_at": AT,
    "updated_at": AT,
    "ended_at": None,
}
TRAILING = {"order_type": "trailing_stop", "limit_price": None, "status": "HELD", "side": "SELL"}


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"status": "PLACED"}, "pending_new"),
        ({"acknowledged": False}, "pending_new"),
        ({}, "new"),
        ({"cancel_requested": True}, "pending_cancel"),
        ({"status": "PARTIALLY FILLED"}, "partially_filled"),
        ({"status": "PARTIALLY FILLED", "cancel_requested": True}, "pending_cancel"),
        ({"status": "FILLED", "cancel_requested": True}, "filled"),
        ({"status": "CANCELLED", "cancel_requested": True}, "canceled"),
        ({"status": "REJECTED"}, "rejected"),
        ({"status": "EXPIRED"}, "expired"),
        ({"status": "REPLACED"}, "replaced"),
        ({"status": "HELD", "role": "stop_loss", "order_class": "oco"}, "held"),
        ({"status": "HELD", "role": "entry", "order_class": "bracket", "order_type": "market"}, "accepted"),
        ({"status": "HELD", "order_type": "market"}, "accepted"),
        (TRAILING, "new"),
    ],
)
def test_each_state_has_its_word(changes: dict[str, Any], word: str) -> None:
    assert order_status(ROW | changes) == word


@pytest.mark.parametrize("status", Status)
@pytest.mark.parametrize("order_type", OrderType)
def test_alpaca_py_reads_every_state_of_every_type(status: Status, order_type: OrderType) -> None:
    has_ended = status in {Status.FILLED, Status.EXPIRED, Status.CANCELLED, Status.REJECTED, Status.REPLACED}
    row = ROW | {"status": status, "order_type": order_type, "ended_at": AT if has_ended else None}
    shown = msgspec.json.decode(msgspec.json.encode(order(row)))
    read = TheirOrder(**shown)
    assert (read.id, read.client_order_id, read.created_at) == (ID, str(ID), AT)
    ended = {"filled_at", "expired_at", "canceled_at", "failed_at", "replaced_at"}
    assert sum(shown[name] is not None for name in ended) == has_ended


def test_an_order_has_ended_when_it_ended_whatever_happened_to_it_later() -> None:
    later = AT + timedelta(hours=1)
    shown = order(ROW | {"status": "FILLED", "ended_at": AT, "updated_at": later})
    assert (shown.filled_at, shown.updated_at) == (AT, later)


def test_money_and_quantities_are_text() -> None:
    row = ROW | {"filled_quantity": 3, "filled_value": 4500001, "client_order_id": "mine", "status": "PARTIALLY FILLED"}
    shown = order(row)
    assert (shown.qty, shown.filled_qty, shown.limit_price, shown.filled_avg_price) == ("10", "3", "150.25", "150.00")
    assert (shown.client_order_id, shown.stop_price, shown.notional) == ("mine", None, None)


def test_a_trailing_stop_shows_where_it_would_trigger() -> None:
    by_percent = order(ROW | TRAILING | {"trail_bps": 150}, high_water=Money(2000000))
    assert (by_percent.trail_percent, by_percent.trail_price) == ("1.5", None)
    assert (by_percent.hwm, by_percent.stop_price) == ("200.00", "197.00")
    by_amount = order(ROW | TRAILING | {"trail_amount": 25000, "side": "BUY"}, high_water=Money(2000000))
    assert (by_amount.trail_percent, by_amount.trail_price, by_amount.stop_price) == (None, "2.50", "202.50")
    triggered = order(ROW | TRAILING | {"trail_bps": 150, "stop_price": 1970000, "triggered": True})
    assert (triggered.stop_price, triggered.hwm) == ("197.00", None)


def test_ids_are_the_same_each_time_and_all_different() -> None:
    made = [ids.asset_id("AAPL"), ids.asset_id("MSFT"), ids.account_id(1001), ids.execution_id("sim", "1")]
    assert made == [ids.asset_id("AAPL"), ids.asset_id("MSFT"), ids.account_id(1001), ids.execution_id("sim", "1")]
    assert len(set(made)) == 4
    assert ids.execution_id("sim", "1") != ids.execution_id("west", "1")
