"""The exchange's clock: the real time, shifted, or standing still."""

from datetime import UTC, datetime, timedelta

import pytest

from broker.simulator.clock import BadMoment, Clock, parse_moment

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)
HALF_DAY = datetime(2026, 11, 27, 17, 55, tzinfo=UTC)


class RealTime:
    """A real time that a test lets pass."""

    def __init__(self) -> None:
        self.at = NOON

    def __call__(self) -> datetime:
        return self.at


def test_it_shows_the_real_time_until_it_is_set_and_runs_on_from_there():
    real = RealTime()
    clock = Clock(real)
    assert (clock(), clock.frozen) == (NOON, False)
    clock.set(HALF_DAY)
    real.at += timedelta(seconds=5)
    assert (clock.now(), clock.frozen) == (HALF_DAY + timedelta(seconds=5), False)
    clock.advance(3.5)
    assert clock.now() == HALF_DAY + timedelta(seconds=8.5)
    clock.set(None)
    assert clock.now() == real.at


def test_a_frozen_clock_moves_only_when_it_is_moved():
    real = RealTime()
    clock = Clock(real)
    clock.set(HALF_DAY, frozen=True)
    real.at += timedelta(days=1)
    assert (clock.now(), clock.frozen) == (HALF_DAY, True)
    clock.advance(360)
    assert (clock.now(), clock.frozen) == (HALF_DAY + timedelta(minutes=6), True)
    clock.set(clock.now())
    real.at += timedelta(seconds=1)
    assert (clock.now(), clock.frozen) == (HALF_DAY + timedelta(minutes=6, seconds=1), False)
    clock.set(None, frozen=True)
    assert (clock.now(), clock.frozen) == (real.at, True)


@pytest.mark.parametrize("text", ["2026-11-27T12:55-05:00", "2026-11-27T17:55Z", "2026-11-27T17:55:00.000+00:00"])
def test_a_moment_has_its_offset(text):
    assert parse_moment(text) == HALF_DAY
    assert parse_moment(text).tzinfo is UTC


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("2026-11-27T12:55", "needs its offset"),
        ("2026-11-27", "needs its offset"),
        ("noon", "is no moment like"),
        ("", "is no moment like"),
        ("1989-12-31T12:00Z", "from the year 1990 to 2099"),
        ("9999-12-31T23:00-05:00", "from the year 1990 to 2099"),
    ],
)
def test_what_is_no_moment_is_refused(text, why):
    with pytest.raises(BadMoment, match=why):
        parse_moment(text)


@pytest.mark.parametrize("seconds", [1e12, -1e12, 80 * 366 * 86_400])
def test_it_cannot_leave_the_years_that_it_knows(seconds):
    clock = Clock(RealTime())
    with pytest.raises(BadMoment, match="1990 to 2099"):
        clock.advance(seconds)
    assert clock.now() == NOON
