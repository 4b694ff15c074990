"""When orders for an auction are taken: not shortly before it, and of the day after only in the evening."""

from datetime import datetime, time, timedelta

from broker.core import hours
from broker.core.hours import NEW_YORK
from broker.core.types import TimeInForce

_EVENING = time(19)
_BEFORE_OPEN = timedelta(minutes=2)
_BEFORE_CLOSE = timedelta(minutes=10)


def takes(time_in_force: TimeInForce, at: datetime) -> bool:
    """Whether an order of this time in force is taken at this moment: opg not from 9:28 to 19:00 New York of a trading
    day, cls not from ten minutes before the close to 19:00 (the rule of Alpaca's documentation).
    """
    if time_in_force not in {TimeInForce.OPG, TimeInForce.CLS}:
        return True
    local = at.astimezone(NEW_YORK)
    today = hours.session(local.date())
    if today is None or local.time() >= _EVENING:
        return True
    return at < (today.opens_at - _BEFORE_OPEN if time_in_force is TimeInForce.OPG else today.closes_at - _BEFORE_CLOSE)
