"""What an account was worth over time, from its holdings now, what changed them, and prices now and then.

Holdings are exact: those of now, less the postings since. A price is the last that was seen at or before its moment; a
position of which none was seen since it was opened counts at what it had cost. The last point of a history is now.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import accumulate
from typing import NamedTuple
from uuid import UUID

from broker.core.hours import midnight
from broker.core.money import Money, average
from broker.core.postings import CASH
from broker.core.types import Symbol

POINTS_MAX = 1_500
"""Points in one history."""


class Period(StrEnum):
    """How far back a history goes."""

    DAY = "1D"
    WEEK = "1W"
    MONTH = "1M"
    QUARTER = "3M"
    YEAR = "1Y"
    ALL = "all"


class Timeframe(StrEnum):
    """How far apart its points are."""

    MINUTE = "1Min"
    FIVE_MINUTES = "5Min"
    QUARTER_HOUR = "15Min"
    HOUR = "1H"
    DAY = "1D"


_REACH = {
    Period.DAY: timedelta(1),
    Period.WEEK: timedelta(7),
    Period.MONTH: timedelta(30),
    Period.QUARTER: timedelta(91),
    Period.YEAR: timedelta(365),
}
STEPS = {
    Timeframe.MINUTE: timedelta(minutes=1),
    Timeframe.FIVE_MINUTES: timedelta(minutes=5),
    Timeframe.QUARTER_HOUR: timedelta(minutes=15),
    Timeframe.HOUR: timedelta(hours=1),
    Timeframe.DAY: timedelta(days=1),
}
_DEFAULT = {Period.DAY: Timeframe.FIVE_MINUTES, Period.WEEK: Timeframe.HOUR}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


def timeframes(period: Period) -> list[Timeframe]:
    """Those that make sense for a period: enough points to draw, and not too many."""
    if period is Period.ALL:
        return [Timeframe.DAY]
    return [each for each, step in STEPS.items() if 2 * step <= _REACH[period] < step * POINTS_MAX]


def default_timeframe(period: Period) -> Timeframe:
    """What a period is shown in where nobody says."""
    return _DEFAULT.get(period, Timeframe.DAY)


def points(period: Period, timeframe: Timeframe, opened: datetime, now: datetime) -> list[datetime]:
    """The moments of a history, the last of them now; it begins when the account did, at the earliest.

    Between both ends they are the full minutes or hours of UTC, or the midnights of New York. A history of all with
    more days than POINTS_MAX leaves days out, evenly.
    """
    reach = _REACH.get(period)
    start = opened if reach is None else max(opened, now - reach)
    if start >= now:
        return [now]
    between = list(_midnights(start, now) if timeframe is Timeframe.DAY else _full(STEPS[timeframe], start, now))
    return [start, *between[:: len(between) // POINTS_MAX + 1], now]


def _full(step: timedelta, start: datetime, end: datetime) -> Iterator[datetime]:
    at = _EPOCH + ((start - _EPOCH) // step + 1) * step
    while at < end:
        yield at
        at += step


def _midnights(start: datetime, end: datetime) -> Iterator[datetime]:
    at = midnight(start)
    while at < end:
        yield at
        at = midnight(at)


def first_id(at: datetime) -> UUID:
    """No id that was given at this moment or later is below this one: ids begin with their time in milliseconds."""
    return UUID(int=max(0, (at - _EPOCH) // _MILLISECOND) << 80)


def after_id(transfer_id: UUID) -> datetime:
    """The first moment, in milliseconds, that comes after this id was given."""
    return _EPOCH + ((transfer_id.int >> 80) + 1) * _MILLISECOND


# ------------------------------------------------------------------ what it was worth


class Held(NamedTuple):
    """What there is now of cash or of a symbol."""

    asset: str
    amount: int
    cost: int = 0


class Moved(NamedTuple):
    """What changed of an asset between point `span - 1` and point `span`; deposits are a part of cash's amount."""

    span: int
    asset: str
    amount: int
    cost: int = 0
    deposited: int = 0  # less what was withdrawn
    paid_in: int = 0  # ... and without that


class Sample(NamedTuple):
    """The last price of a symbol that was seen at or before a point."""

    at: datetime
    price: Money


@dataclass(frozen=True, slots=True)
class History:
    """The figures of an account at each of its points; money, but for the percentages (in 1/10,000 of a per cent)."""

    equity: list[Money]
    net_deposits: list[Money]
    profit_loss: list[Money]
    profit_loss_pct: list[int | None]


Samples = Mapping[tuple[str, int], Sample]
"""By symbol and the number of the point."""


def symbols_held(held: Iterable[Held], moved: Iterable[Moved]) -> list[Symbol]:
    """Which prices a history needs."""
    assets = {each.asset for each in held if each.amount} | {each.asset for each in moved if each.amount}
    return [Symbol(asset) for asset in sorted(assets - {CASH})]


def history(
    times: Sequence[datetime],
    held: Sequence[Held],
    moved: Sequence[Moved],
    samples: Samples,
    live: Mapping[Symbol, Money],
) -> History:
    """Equity, and what of its change is not deposits, at each of these times; `live` are the prices of the last one."""
    count = len(times)
    by_asset: dict[str, list[Moved]] = {}
    for move in moved:
        assert 0 < move.span < count, move
        by_asset.setdefault(move.asset, []).append(move)
    now = {each.asset: each for each in held}
    equity = [0] * count
    for asset in now.keys() | by_asset.keys():
        amounts, costs = _back(now.get(asset, Held(asset, 0)), by_asset.get(asset, ()), count)
        values = amounts if asset == CASH else _values(Symbol(asset), times, amounts, costs, samples, live)
        equity = [total + value for total, value in zip(equity, values, strict=True)]
    deposited, paid_in = [0] * count, [0] * count
    for move in moved:
        deposited[move.span] += move.deposited
        paid_in[move.span] += move.paid_in
    return _against_deposits(equity, list(accumulate(deposited)), list(accumulate(paid_in)))


def _back(now: Held, moved: Iterable[Moved], count: int) -> tuple[list[int], list[int]]:
    """Amount and cost at each point: those of now, less what came after."""
    amount_of, cost_of = [0] * count, [0] * count
    for move in moved:
        amount_of[move.span] += move.amount
        cost_of[move.span] += move.cost
    amounts, costs = [now.amount] * count, [now.cost] * count
    for point in range(count - 1, 0, -1):
        amounts[point - 1] = amounts[point] - amount_of[point]
        costs[point - 1] = costs[point] - cost_of[point]
    return amounts, costs


def _values(
    symbol: Symbol,
    times: Sequence[datetime],
    amounts: Sequence[int],
    costs: Sequence[int],
    samples: Samples,
    live: Mapping[Symbol, Money],
) -> Iterator[int]:
    opened: datetime | None = None  # not known of a position that was there at the first point
    for point, amount in enumerate(amounts):
        if not amount:
            opened = times[point]
            yield 0
            continue
        price = live.get(symbol) if point == len(times) - 1 else None
        sample = samples.get((symbol, point))
        if price is None and sample is not None and (opened is None or sample.at > opened):
            price = sample.price
        yield costs[point] if price is None else amount * price


def _against_deposits(equity: list[int], deposited: list[int], paid_in: list[int]) -> History:
    base = equity[0]
    profits = [worth - base - net for worth, net in zip(equity, deposited, strict=True)]
    return History(
        equity=[Money(each) for each in equity],
        net_deposits=[Money(each) for each in deposited],
        profit_loss=[Money(each) for each in profits],
        profit_loss_pct=[percent(Money(gain), Money(base + put)) for gain, put in zip(profits, paid_in, strict=True)],
    )


def percent(part: Money, whole: Money) -> int | None:
    """What per cent `part` is, in 1/10,000 of a per cent, rounded half up; None of nothing or less."""
    return average(Money(part * 1_000_000), whole) if whole > 0 else None
