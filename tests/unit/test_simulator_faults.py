"""What goes wrong on purpose: off by default, bounded, and the same for the same seed."""

from dataclasses import fields
from random import Random

import pytest

from broker.simulator.delivery import DeliveryLimits
from broker.simulator.faults import Faults, Misbehaviour, Reply


def faults(seed: int = 1, **settings) -> Faults:
    return Faults(Misbehaviour(**settings), Random(seed))


def test_by_default_nothing_goes_wrong():
    well_behaved = faults()
    events = list(range(50))
    well_behaved.shuffle(events)
    assert events == list(range(50))
    for _ in range(100):
        assert well_behaved.reply() is Reply.HONEST
        assert not well_behaved.rejects()
        assert not well_behaved.loses()
        assert well_behaved.parts(10) == [10]
        assert well_behaved.hold_s() == 0


@pytest.mark.parametrize(
    ("setting", "reply"),
    [("error", Reply.ERROR), ("error_after", Reply.ERROR_AFTER), ("timeout", Reply.TIMEOUT)],
)
def test_a_certain_fault_of_the_answer_always_happens(setting, reply):
    assert {faults(seed, **{setting: 1.0}).reply() for seed in range(20)} == {reply}


def test_a_probability_is_one():
    lossy = faults(lose=0.25)
    assert 2_300 < sum(lossy.loses() for _ in range(10_000)) < 2_700


@pytest.mark.parametrize("quantity", [2, 3, 4, 10, 10_000_000])
def test_parts_are_two_to_four_and_make_the_whole(quantity):
    partial = faults(partial=1)
    drawn = [partial.parts(quantity) for _ in range(500)]
    assert {len(parts) for parts in drawn} == set(range(2, min(4, quantity) + 1))
    assert all(sum(parts) == quantity and min(parts) >= 1 for parts in drawn)


def test_a_delay_is_at_most_what_is_asked_for():
    holds = [faults(seed, delay_ms=200).hold_s() for seed in range(500)]
    assert 0 <= min(holds) < 0.02
    assert 0.18 < max(holds) <= 0.2


def test_reorder_holds_back_and_shuffles():
    shuffling = faults(reorder=True)
    events = list(range(50))
    shuffling.shuffle(events)
    assert events != list(range(50))
    assert sorted(events) == list(range(50))
    assert 0 < shuffling.hold_s() <= 0.1


def test_the_same_seed_draws_the_same():
    settings = {"error": 0.3, "lose": 0.3, "partial": 0.5, "delay_ms": 100, "reject": 0.1}

    def draw(seed: int) -> list[object]:
        drawing = faults(seed, **settings)
        return [
            (drawing.reply(), drawing.loses(), drawing.parts(100), drawing.hold_s(), drawing.rejects())
            for _ in range(100)
        ]

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


@pytest.mark.parametrize(
    "wrong", [{"lose": 1.1}, {"lose": -0.1}, {"delay_ms": -1}, {"duplicates": -1}, {"timeout": float("nan")}]
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match="at least 0"):
        Misbehaviour(**wrong)


def test_every_fault_is_off_by_default():
    paces = {"partial_gap_ms", "timeout_s"}  # these say how, not whether
    assert {field.name for field in fields(Misbehaviour) if field.default} == paces


def test_pauses_double_up_to_the_longest():
    limits = DeliveryLimits()
    assert [limits.pause_s(tries) for tries in range(1, 9)] == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]
    assert limits.pause_s(10**9) == 2.0
