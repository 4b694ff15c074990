"""When New York trades: 09:30 to 16:00 on weekdays, to 13:00 on half days, never on a holiday.

Around that session lies the extended one: from 04:00 to the opening, and from the close to 20:00, on half days 17:00.

The days come from the `holidays` library as data, the hours stand here; `tests/data/xnys.csv` holds what another
calendar says about each day since 2015, and a test compares the two. Nothing here reads a clock.
"""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

import holidays

NEW_YORK = ZoneInfo("America/New_York")
OPEN, CLOSE, EARLY_CLOSE = time(9, 30), time(16), time(13)
EXTENDED_OPEN, EXTENDED_CLOSE, EARLY_EXTENDED_CLOSE = time(4), time(20), time(17)

_SATURDAY = 5
_CLOSED_DAYS_MAX = 30
"""No closure in the calendar comes near this; a search that goes on longer is a bug."""


@dataclass(frozen=True, slots=True)
class Session:
    """One trading day's hours, in UTC: open at `opens_at`, closed again at `closes_at`."""

    day: date
    opens_at: datetime
    closes_at: datetime


@dataclass(frozen=True, slots=True)
class _Year:
    closed: frozenset[date]
    early: frozenset[date]


@lru_cache(maxsize=64)
def _year(year: int) -> _Year:
    """The holidays of one year. One year at a time: the library computes each on its own."""

    def days(category: str) -> frozenset[date]:
        return frozenset(holidays.financial_holidays("NYSE", years=year, categories=(category,)))

    return _Year(closed=days("public"), early=days("half_day"))


@lru_cache(maxsize=64)
def session(day: date) -> Session | None:
    """The regular session of a New York calendar day, or None where there is none."""
    year = _year(day.year)
    if day.weekday() >= _SATURDAY or day in year.closed:
        return None
    close = EARLY_CLOSE if day in year.early else CLOSE
    return Session(day, _utc(day, OPEN), _utc(day, close))


@lru_cache(maxsize=64)
def extended_session(day: date) -> Session | None:
    """The hours of a New York calendar day with those before the opening and after the close, or None."""
    year = _year(day.year)
    if session(day) is None:
        return None
    close = EARLY_EXTENDED_CLOSE if day in year.early else EXTENDED_CLOSE
    return Session(day, _utc(day, EXTENDED_OPEN), _utc(day, close))


def is_open(at: datetime) -> bool:
    """Whether the regular session runs at this moment: from its first instant until before its close."""
    today = session(_new_york_day(at))
    return today is not None and today.opens_at <= at < today.closes_at


def is_extended(at: datetime) -> bool:
    """Whether this moment lies in the extended hours: before the opening or after the close of a trading day."""
    today = extended_session(_new_york_day(at))
    return today is not None and today.opens_at <= at < today.closes_at and not is_open(at)


def next_open(at: datetime) -> datetime:
    """The first opening after this moment, in UTC; at the very moment of an opening, the one after it."""
    day = _new_york_day(at)
    for days in range(_CLOSED_DAYS_MAX):
        following = session(day + timedelta(days))
        if following is not None and following.opens_at > at:
            return following.opens_at
    raise AssertionError(f"no session within {_CLOSED_DAYS_MAX} days of {at}")


def session_end(at: datetime) -> datetime:
    """The close of the session that runs at this moment, or else of the next one, in UTC."""
    day = _new_york_day(at)
    today = session(day)
    if today is not None and at < today.closes_at:
        return today.closes_at
    following = session(_new_york_day(next_open(at)))
    assert following is not None, at
    return following.closes_at


def extended_end(at: datetime) -> datetime:
    """The end of the hours, extended ones included, that run at this moment, or else of the next ones, in UTC."""
    day = _new_york_day(at)
    today = extended_session(day)
    if today is not None and at < today.closes_at:
        return today.closes_at
    following = extended_session(_new_york_day(next_open(at)))
    assert following is not None, at
    return following.closes_at


def next_change(at: datetime) -> datetime:
    """The first moment after this one at which regular or extended hours begin or end, in UTC."""
    day = _new_york_day(at)
    for days in range(_CLOSED_DAYS_MAX):
        regular, extended = session(day + timedelta(days)), extended_session(day + timedelta(days))
        if regular is None or extended is None:
            continue
        for moment in (extended.opens_at, regular.opens_at, regular.closes_at, extended.closes_at):
            if moment > at:
                return moment
    raise AssertionError(f"no session within {_CLOSED_DAYS_MAX} days of {at}")


def midnight(at: datetime) -> datetime:
    """The next midnight in New York after this moment, in UTC."""
    return _utc(_new_york_day(at) + timedelta(1), time())


def _new_york_day(at: datetime) -> date:
    assert at.tzinfo is not None, "a moment without a time zone is not a moment"
    return at.astimezone(NEW_YORK).date()


def _utc(day: date, local: time) -> datetime:
    return datetime.combine(day, local, NEW_YORK).astimezone(UTC)
