"""A trading day from before the opening until after the evening session, with alpaca-py, on a clock that stands still
until it is told to go on.

    python -m tests.acceptance.clients.drive_hours < {"url": ..., "keys": [[key, secret], ...], "admin": token}

The broker's clock stands at 8:00 in New York on a trading day. Prints the time and the status of each order after each
act, as JSON.
"""

import json
import sys
import urllib.request
from zoneinfo import ZoneInfo

from alpaca.trading.enums import TimeInForce

from tests.acceptance.clients.alpaca_py.desk import BUY, DAY, GTC, SELL, Desk, eventually, refused

OPG, CLS = TimeInForce.OPG, TimeInForce.CLS
NEW_YORK = ZoneInfo("America/New_York")


class Day:
    """The orders of a day, by what they are called, and how they stood at each time."""

    def __init__(self, desk: Desk, admin: str) -> None:
        self.desk, self._admin = desk, admin
        self.orders: dict[str, object] = {}
        self.seen: dict[str, dict[str, str]] = {}

    def go_to(self, hour: int, minute: int) -> None:
        """Let it be so late; a second more, so that what happens at that time has happened."""
        now = self.desk.now()
        then = now.astimezone(NEW_YORK).replace(hour=hour, minute=minute, second=1, microsecond=0)
        request = urllib.request.Request(
            f"{self.desk.url}/admin/v1/exchange/clock/advance",
            json.dumps({"seconds": (then - now).total_seconds()}).encode(),
            {"Authorization": f"Bearer {self._admin}", "Content-Type": "application/json"},
        )
        urllib.request.urlopen(request).close()
        assert self.desk.now() == then

    def status(self, name: str) -> str:
        return self.desk.trading.get_order_by_id(self.orders[name].id).status.value

    def expect(self, **statuses: str) -> None:
        """Each of these orders comes to stand so."""

        def stand() -> dict[str, str]:
            return {name: self.status(name) for name in statuses}

        try:
            eventually(lambda: stand() == statuses, "all stand as they should", 5)
        except AssertionError as error:
            raise AssertionError(f"at {self.desk.now()}: {stand()} is not {statuses}") from error
        at = f"{self.desk.now().astimezone(NEW_YORK):%H:%M}"
        self.seen[at] = {name: self.status(name) for name in self.orders}


def main(desk: Desk, admin: str) -> dict[str, dict[str, str]]:
    day = Day(desk, admin)
    clock = desk.trading.get_clock()
    assert (clock.is_open, clock.next_open.astimezone(NEW_YORK).strftime("%H:%M")) == (False, "09:30")
    before_the_opening(day)
    day.go_to(9, 30)
    day.expect(market="filled", opening="filled", opening_far="canceled", limit="new", evening="new")
    assert desk.trading.get_clock().is_open is True
    during_the_session(day)
    day.go_to(16, 0)
    day.expect(closing="filled", limit="expired", gtc="new", evening="new")
    after_the_close(day)
    day.go_to(20, 0)
    day.expect(evening="expired", gtc="new")
    return day.seen


def before_the_opening(day: Day) -> None:
    desk, far = day.desk, day.desk.far_below()
    day.orders["market"] = desk.market(BUY, 10)
    day.orders["opening"] = desk.market(BUY, 1, time_in_force=OPG)
    day.orders["opening_far"] = desk.limit(far, BUY, 1, time_in_force=OPG)
    day.orders["limit"] = desk.limit(far, BUY, 1)
    day.orders["early"] = desk.limit(desk.far_above(), BUY, 1, extended_hours=True)
    day.orders["evening"] = desk.limit(far - 1, BUY, 1, extended_hours=True)
    day.expect(market="accepted", opening="new", opening_far="new", early="filled", evening="new")
    day.go_to(9, 28)
    with refused(422, (40010001, 42210000)):
        desk.market(BUY, 1, time_in_force=OPG)


def during_the_session(day: Day) -> None:
    desk = day.desk
    day.orders["closing"] = desk.market(SELL, 5, time_in_force=CLS)
    day.orders["gtc"] = desk.limit(desk.far_below() - 2, BUY, 1, time_in_force=GTC)
    day.expect(closing="new", gtc="new")
    day.go_to(15, 50)
    with refused(422, (40010001, 42210000)):
        desk.market(SELL, 1, time_in_force=CLS)


def after_the_close(day: Day) -> None:
    desk = day.desk
    assert desk.trading.get_clock().is_open is False
    day.orders["late"] = desk.limit(desk.far_below() + 10, SELL, 1, extended_hours=True)
    day.orders["tomorrow"] = desk.market(BUY, 1, time_in_force=DAY)
    day.expect(late="filled", tomorrow="accepted")


if __name__ == "__main__":
    told = json.load(sys.stdin)
    print(json.dumps(main(Desk(told["url"], *told["keys"][0], set()), told["admin"])), flush=True)
