"""Rows of the simulation's store, and trades from and to rows. What is stored is never changed: a change is a copy."""

from collections.abc import Iterable
from dataclasses import fields
from datetime import datetime
from operator import attrgetter
from typing import NamedTuple
from uuid import UUID

from broker.core.messages import Anomaly, Report, Step
from broker.core.money import Money
from broker.core.postings import CASH
from broker.core.types import CustomerId, Fill, OrderType, Side, Status, Trade, TradeId
from broker.rows import Row

Key = tuple[int, str]
"""Owner and asset of an account."""


class AccountRow(NamedTuple):
    """A row of `account`."""

    balance: int = 0
    held: int = 0
    floor: int = 0
    cost: int = 0
    gain: int = 0
    version: int = 0


class Transfer(NamedTuple):
    """A row of `transfer`."""

    transfer_id: UUID
    kind: str
    reference: str
    customer_id: int
    at: datetime


class PostingRow(NamedTuple):
    """A row of `posting`."""

    transfer_id: UUID
    owner_id: int
    asset: str
    amount: int
    cost: int
    gain: int


class Execution(NamedTuple):
    """A row of `execution`."""

    venue: str
    execution_id: str
    trade_id: TradeId
    last_qty: int
    last_px: Money
    fee: Money
    gain: Money
    suspense: bool
    corrects: str | None
    transfer_id: UUID
    at: datetime


class EventRow(NamedTuple):
    """A row of `event`."""

    customer_id: CustomerId
    seq: int
    trade_id: TradeId
    number: int
    step: Step
    status: Status
    reason: str
    filled_quantity: int
    filled_value: Money
    acknowledged: bool
    cancel_requested: bool
    quantity: int
    execution_id: str | None
    at: datetime


class Caught(NamedTuple):
    """A row of `inbox`."""

    cause: str
    venue: str
    payload: str


def held_of(trade: Trade) -> Key:
    """What it holds is of this account."""
    return (trade.customer_id, CASH if trade.side is Side.BUY else trade.symbol)


_figures = attrgetter(*(each.name for each in fields(Trade)))


def without_executions(trade: Trade) -> Trade:
    copy = Trade(*_figures(trade))
    copy.executions = {}
    return copy


def copy_of(trade: Trade) -> Trade:
    copy = Trade(*_figures(trade))
    copy.executions = {
        id_: Fill(each.last_qty, each.last_px, each.fee, each.gain, each.suspense, each.busted, each.corrects)
        for id_, each in trade.executions.items()
    }
    return copy


def changed_trade(was: Trade, row: Row) -> Trade:
    """The trade with the figures of a row of trade_figures; its executions are those of `was`."""
    trade = Trade(*_figures(was))
    (
        _,
        trade.quantity,
        trade.stop_price,
        trade.triggered,
        trade.status,
        trade.reason,
        trade.hold,
        trade.max_price,
        trade.filled_quantity,
        trade.filled_value,
        trade.acknowledged,
        trade.cancel_requested,
        trade.events,
    ) = row
    trade.waits_for_open = trade.status is Status.HELD and trade.order_type is OrderType.MARKET
    return trade


_PLACED_COLUMNS = """
    trade_id customer_id seq symbol side quantity venue order_type time_in_force limit_price stop_price
    idempotency_key client_order_id replaces replaces_filled order_class group role trail_amount trail_bps
    extended_hours triggered status reason hold max_price acknowledged cancel_requested events
""".split()  # noqa: SIM905 - a list of columns reads as one


def placed_trade(row: Row, at: datetime) -> Trade:
    """The trade of a row of new_trade."""
    trade = Trade(**dict(zip(_PLACED_COLUMNS, row, strict=True)), created_at=at)
    trade.waits_for_open = trade.status is Status.HELD and trade.order_type is OrderType.MARKET
    return trade


def caught_of(anomalies: Iterable[tuple[Anomaly, Report]]) -> list[Caught]:
    return [Caught(anomaly.value, report.venue, repr(report)) for anomaly, report in anomalies]
