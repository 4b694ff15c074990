"""The table of statuses, and that the documentation shows it as it is."""

from pathlib import Path

import pytest

from broker.core.states import TERMINAL, TRANSITIONS, WORKING, change, diagram, note
from broker.core.types import Status
from tests.builders import account, place


def test_every_status_has_its_row() -> None:
    assert TRANSITIONS.keys() == set(Status)


def test_terminal_is_terminal() -> None:
    assert {Status.FILLED, Status.REJECTED, Status.CANCELLED, Status.EXPIRED, Status.REPLACED} == TERMINAL
    assert not TERMINAL & WORKING


def test_every_status_can_be_reached_and_can_end() -> None:
    reached = {Status.PLACED}
    while more := {after for status in reached for after in TRANSITIONS[status]} - reached:
        reached |= more
    assert reached == set(Status)
    assert all(TRANSITIONS[status] & TERMINAL for status in WORKING)


def test_a_change_that_the_table_does_not_have_is_a_bug() -> None:
    trade = place(account())
    with pytest.raises(AssertionError):
        change(trade, Status.FILLED, "from nowhere")


def test_a_note_is_an_event_that_leaves_the_status() -> None:
    trade = place(account())
    change(trade, Status.IN_PROGRESS, "sent")
    note(trade, "taken")
    assert (trade.status, trade.reason, trade.events) == ("IN PROGRESS", "taken", 3)


def test_of_a_finished_trade_a_note_changes_nothing_but_how_many_events_it_has() -> None:
    trade = place(account())
    change(trade, Status.CANCELLED, "asked")
    note(trade, "an execution was taken back")
    assert (trade.status, trade.reason, trade.events) == ("CANCELLED", "asked", 3)


def test_the_documentation_shows_this_table() -> None:
    text = Path(__file__).parents[2].joinpath("docs", "architecture.md").read_text(encoding="utf-8")
    assert diagram() in text, "run `python -m broker.core.states` and put what it prints into docs/architecture.md"
