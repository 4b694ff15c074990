"""When orders of an auction are taken: New York time, on a full day, a half day and a Sunday."""

from datetime import datetime

import pytest

from broker.core.auctions import takes
from broker.core.hours import NEW_YORK
from broker.core.types import TimeInForce


@pytest.mark.parametrize(
    ("day", "word", "refused_from"),
    [("2026-11-24", "opg", "09:28"), ("2026-11-24", "cls", "15:50"), ("2026-11-27", "cls", "12:50")],
)
def test_from_shortly_before_the_auction_until_the_evening_none_is_taken(
    day: str, word: str, refused_from: str
) -> None:
    time_in_force = TimeInForce(word)

    def at(time: str) -> bool:
        return takes(time_in_force, datetime.fromisoformat(f"{day}T{time}").replace(tzinfo=NEW_YORK))

    hour, minute = map(int, refused_from.split(":"))
    assert at(f"{hour:02}:{minute - 1:02}:59")
    assert not at(f"{hour:02}:{minute:02}:00")
    assert not at("18:59:59")
    assert at("19:00:00")
    assert at("00:00:00")


@pytest.mark.parametrize("time_in_force", TimeInForce)
def test_on_a_day_without_a_session_everything_is_taken(time_in_force: TimeInForce) -> None:
    assert takes(time_in_force, datetime(2026, 11, 22, 12, tzinfo=NEW_YORK))


@pytest.mark.parametrize("time_in_force", [TimeInForce.DAY, TimeInForce.GTC, TimeInForce.IOC, TimeInForce.FOK])
def test_what_is_for_no_auction_is_taken_at_any_time(time_in_force: TimeInForce) -> None:
    assert takes(time_in_force, datetime(2026, 11, 24, 15, 59, tzinfo=NEW_YORK))
