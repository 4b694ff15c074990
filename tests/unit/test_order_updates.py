"""The message of an event in memory: of the trade as it was at the event, whatever has become of it since."""

from datetime import timedelta

import pytest

from broker.core.messages import Report, ReportType, Step, TradeEvent
from broker.core.money import Money
from broker.core.postings import fill_entry
from broker.core.types import CustomerId, Fill, Side, Status, Symbol, Trade
from broker.order_updates import encode_event
from tests.builders import NOW, trade_id


def event_of(step: Step) -> TradeEvent:
    """A step of a trade of 10; 4 are filled at those that come late."""
    trade = Trade(trade_id(1), CustomerId(1001), 1, Symbol("AAPL"), Side.BUY, 10, NOW, "sim")
    trade.status, trade.reason, trade.events = Status.IN_PROGRESS, "Sent.", 3
    trade.acknowledged, trade.cancel_requested = step is not Step.STARTED, step is Step.CANCEL_REQUESTED
    if step not in {Step.STARTED, Step.ACCEPTED, Step.CANCEL_REQUESTED}:
        trade.status, trade.reason = Status.PARTIALLY_FILLED, "Filled 4 of 10."
        trade.filled_quantity, trade.filled_value = 4, Money(4_000_000)
    fill = Fill(4, Money(1_000_000))
    report = Report(trade.trade_id, ReportType.PARTIALLY_FILLED, "sim", "e-1", fill, 4)
    event = TradeEvent(trade, 3, trade.status, trade.reason, step, report, fill_entry(Side.BUY, fill, fill.value, 0))
    event.seq, event.at = 3, NOW + timedelta(seconds=1)
    return event


@pytest.mark.parametrize("step", [step for step in Step if step is not Step.BUSTED])
def test_what_the_trade_has_become_since_changes_nothing(step: Step) -> None:
    event = event_of(step)
    before = encode_event(event)
    assert before is not None
    assert before.startswith(b'{"type":"order_update","sequence":3,"event":"%s","at":"' % step.encode())
    trade = event.trade
    trade.status, trade.reason, trade.hold, trade.max_price, trade.events = Status.FILLED, "Filled.", 7, Money(1), 9
    trade.filled_quantity, trade.filled_value = 10, Money(11_000_000)
    trade.acknowledged, trade.cancel_requested = not trade.acknowledged, not trade.cancel_requested
    assert event.entry is not None
    event.entry.fill.busted = True
    assert encode_event(event) == before


def test_when_a_busted_execution_had_happened_only_the_database_knows() -> None:
    assert encode_event(event_of(Step.BUSTED)) is None
