"""New York's calendar, held against the one that exchange_calendars keeps (tests/data/xnys.csv)."""

import csv
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

import pytest

from broker.core.hours import (
    NEW_YORK,
    Session,
    extended_end,
    extended_session,
    is_extended,
    is_open,
    midnight,
    next_change,
    next_open,
    session,
    session_end,
)

FIRST, LAST = date(2015, 1, 1), date(2027, 11, 20)
XNYS = Path(__file__).parents[1] / "data" / "xnys.csv"


def days(first: date, last: date) -> list[date]:
    return [first + timedelta(n) for n in range((last - first).days + 1)]


def exceptions() -> dict[date, str]:
    """The day -> its close in New York, or "" where it is closed."""
    lines = [line for line in XNYS.read_text().splitlines() if not line.startswith("#")]
    return {date.fromisoformat(row["day"]): row["close"] or "" for row in csv.DictReader(lines)}


def new_york(day: date, hours: int, minutes: int = 0) -> datetime:
    return datetime.combine(day, time(hours, minutes), NEW_YORK).astimezone(UTC)


def test_every_day_since_2015_agrees_with_exchange_calendars():
    odd = exceptions()
    assert len(odd) == 147

    def expected(day: date) -> Session | None:
        close = odd.get(day, "16:00" if day.weekday() < 5 else "")
        if not close:
            return None
        return Session(day, new_york(day, 9, 30), new_york(day, int(close[:2]), int(close[3:])))

    every_day = days(FIRST, LAST)
    assert [session(day) for day in every_day] == [expected(day) for day in every_day]


def test_a_session_opens_at_its_first_instant_and_is_closed_at_its_close():
    day = date(2026, 11, 23)
    instant = timedelta(microseconds=1)
    assert not is_open(new_york(day, 9, 30) - instant)
    assert is_open(new_york(day, 9, 30))
    assert is_open(new_york(day, 16) - instant)
    assert not is_open(new_york(day, 16))


def test_the_day_after_thanksgiving_closes_at_one():
    day = date(2026, 11, 27)
    assert is_open(new_york(day, 12, 59))
    assert not is_open(new_york(day, 13))
    assert session(day) == Session(
        day, datetime(2026, 11, 27, 14, 30, tzinfo=UTC), datetime(2026, 11, 27, 18, tzinfo=UTC)
    )


@pytest.mark.parametrize(
    ("day", "opens_utc"),
    [
        (date(2026, 3, 6), 14),  # the Friday before the clocks go forward
        (date(2026, 3, 9), 13),
        (date(2026, 10, 30), 13),  # the Friday before they go back
        (date(2026, 11, 2), 14),
    ],
)
def test_the_opening_moves_in_utc_when_new_york_changes_its_clocks(day, opens_utc):
    found = session(day)
    assert found is not None
    assert (found.opens_at.hour, found.opens_at.minute) == (opens_utc, 30)
    assert found.closes_at - found.opens_at == timedelta(hours=6, minutes=30)


def test_the_day_is_new_yorks_and_not_utcs():
    """01:00 UTC of a Saturday is Friday evening in New York: the next opening is Monday's."""
    assert next_open(datetime(2026, 11, 21, 1, tzinfo=UTC)) == new_york(date(2026, 11, 23), 9, 30)


@pytest.mark.parametrize(
    ("at", "opening"),
    [
        (new_york(date(2026, 11, 23), 8), date(2026, 11, 23)),  # before the opening
        (new_york(date(2026, 11, 23), 9, 30), date(2026, 11, 24)),  # at it
        (new_york(date(2026, 11, 25), 17), date(2026, 11, 27)),  # over Thanksgiving
        (new_york(date(2026, 11, 27), 14), date(2026, 11, 30)),  # after a half day, over a week-end
        (new_york(date(2026, 12, 31), 18), date(2027, 1, 4)),  # over a new year
    ],
)
def test_next_open(at, opening):
    assert next_open(at) == new_york(opening, 9, 30)


@pytest.mark.parametrize(
    ("at", "close"),
    [
        (new_york(date(2026, 11, 23), 8), (date(2026, 11, 23), 16)),  # before the opening
        (new_york(date(2026, 11, 23), 12), (date(2026, 11, 23), 16)),
        (new_york(date(2026, 11, 23), 16), (date(2026, 11, 24), 16)),  # at the close
        (new_york(date(2026, 11, 25), 17), (date(2026, 11, 27), 13)),  # over Thanksgiving, to a half day
        (new_york(date(2026, 11, 27), 13), (date(2026, 11, 30), 16)),
    ],
)
def test_session_end(at, close):
    assert session_end(at) == new_york(*close)


# Before the opening and after the close.


def test_extended_hours_lie_around_the_session_and_end_early_after_a_half_day():
    for day, closes in ((date(2026, 11, 25), 20), (date(2026, 11, 27), 17)):
        assert extended_session(day) == Session(day, new_york(day, 4), new_york(day, closes))
    assert extended_session(date(2026, 11, 26)) is None
    assert extended_session(date(2026, 11, 28)) is None


@pytest.mark.parametrize(
    ("at", "extended", "regular"),
    [
        ((25, 4), True, False),
        ((25, 9, 29), True, False),
        ((25, 9, 30), False, True),
        ((25, 16), True, False),
        ((25, 20), False, False),
        ((26, 12), False, False),  # Thanksgiving
        ((27, 3, 59), False, False),
        ((27, 13), True, False),
        ((27, 16, 59), True, False),
        ((27, 17), False, False),
        ((28, 12), False, False),  # a Saturday
    ],
)
def test_a_moment_lies_in_the_session_or_in_extended_hours_or_in_neither(at, extended, regular):
    day, *clock = at
    moment = new_york(date(2026, 11, day), *clock)
    assert (is_extended(moment), is_open(moment)) == (extended, regular)


def test_every_change_of_three_days_in_order():
    at, changes = new_york(date(2026, 11, 25), 16), []
    while (at := next_change(at)) <= new_york(date(2026, 11, 30), 4):
        changes.append(at.astimezone(NEW_YORK).strftime("%d %H:%M"))
    assert changes == ["25 20:00", "27 04:00", "27 09:30", "27 13:00", "27 17:00", "30 04:00"]


@pytest.mark.parametrize(
    ("at", "end"),
    [((25, 12), (25, 20)), ((25, 20), (27, 17)), ((27, 3), (27, 17)), ((27, 17), (30, 20))],
)
def test_the_end_of_extended_hours(at, end):
    moment, expected = (new_york(date(2026, 11, day), hour) for day, hour in (at, end))
    assert extended_end(moment) == expected


def test_midnight_is_new_yorks():
    assert midnight(datetime(2026, 11, 21, 1, tzinfo=UTC)) == datetime(2026, 11, 21, 5, tzinfo=UTC)
    assert midnight(datetime(2026, 11, 21, 5, tzinfo=UTC)) == datetime(2026, 11, 22, 5, tzinfo=UTC)
    assert midnight(new_york(date(2026, 3, 8), 0)) == new_york(date(2026, 3, 8), 0) + timedelta(hours=23)


@pytest.mark.parametrize("year", [2027, 2028, 2029])
def test_the_next_years_have_the_usual_shape(year):
    sessions = [found for day in days(date(year, 1, 1), date(year, 12, 31)) if (found := session(day))]
    assert 249 <= len(sessions) <= 253
    lengths = {found.closes_at - found.opens_at for found in sessions}
    assert lengths == {timedelta(hours=6, minutes=30), timedelta(hours=3, minutes=30)}
    assert session(date(year, 7, 4)) is None
    assert session(date(year, 12, 25)) is None
    thanksgiving = next(day for day in days(date(year, 11, 22), date(year, 11, 28)) if day.weekday() == 3)
    assert session(thanksgiving) is None
    friday = session(thanksgiving + timedelta(1))
    assert friday is not None
    assert friday.closes_at == new_york(thanksgiving + timedelta(1), 13)


def test_a_moment_without_a_zone_is_refused():
    with pytest.raises(AssertionError, match="time zone"):
        is_open(datetime(2026, 11, 23, 15))  # noqa: DTZ001 - the mistake under test
