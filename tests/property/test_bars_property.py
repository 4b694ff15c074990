"""Bars that are made of bars are those that the trades themselves make."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby

from hypothesis import given
from hypothesis import strategies as st

from broker.core.bars import DAY, MINUTE, Bar, Timeframe, aggregate, day_of, told_twice
from broker.core.hours import NEW_YORK
from broker.core.money import Money

FIRST = datetime(2026, 3, 7, tzinfo=UTC)  # the clocks of New York go forward within what follows
BACK = datetime(2026, 10, 31, tzinfo=UTC)  # and back within this


@dataclass(frozen=True)
class Trade:
    at: datetime
    price: Money
    quantity: int


def some_trades(first: datetime) -> st.SearchStrategy[list[Trade]]:
    moments = st.integers(0, 3 * 24 * 3600 * 1000).map(lambda ms: first + timedelta(milliseconds=ms))
    near = st.integers(0, 20 * 60 * 1000).map(lambda ms: first + timedelta(milliseconds=ms))
    trade = st.builds(Trade, st.one_of(moments, near), st.integers(1, 10**6).map(Money), st.integers(1, 10**4))
    return st.lists(trade, max_size=60).map(lambda trades: sorted(trades, key=lambda each: each.at))


trades = st.sampled_from([FIRST, BACK]).flatmap(some_trades)
frames = st.one_of(
    st.integers(1, 59).map(lambda n: f"{n}Min"), st.integers(1, 23).map(lambda n: f"{n}Hour"), st.just("1Day")
).map(Timeframe.read)


def model(of: list[Trade], timeframe: Timeframe) -> list[Bar]:
    """Straight from the trades, by arithmetic of its own."""

    def frame(trade: Trade) -> datetime:
        midnight = trade.at.astimezone(NEW_YORK).replace(hour=0, minute=0, second=0, microsecond=0).astimezone(UTC)
        if timeframe.length is None:
            return midnight
        seconds = int((trade.at - midnight).total_seconds())
        length = int(timeframe.length.total_seconds())
        return midnight + timedelta(seconds=seconds - seconds % length)

    made = []
    for starts_at, group in groupby(of, frame):
        inside = list(group)
        prices = [trade.price for trade in inside]
        volume = sum(trade.quantity for trade in inside)
        value = Money(sum(trade.price * trade.quantity for trade in inside))
        made.append(Bar(starts_at, prices[0], max(prices), min(prices), prices[-1], volume, value, len(inside)))
    return made


def minutes(of: list[Trade]) -> list[Bar]:
    return model(of, MINUTE)


@given(trades, frames)
def test_a_bar_of_bars_is_the_bar_of_their_trades(of: list[Trade], timeframe: Timeframe) -> None:
    assert aggregate(minutes(of), timeframe) == model(of, timeframe)


@given(trades, frames)
def test_nothing_is_lost_and_nothing_added(of: list[Trade], timeframe: Timeframe) -> None:
    small, large = minutes(of), aggregate(minutes(of), timeframe)
    for name in ("volume", "value", "trades"):
        assert sum(getattr(each, name) for each in small) == sum(getattr(each, name) for each in large)
    assert [each.starts_at for each in large] == sorted({timeframe.start_of(each.starts_at) for each in small})
    if small:
        assert (large[0].open, large[-1].close) == (small[0].open, small[-1].close)
    for each in large:
        assert each.low <= min(each.open, each.close, each.average)
        assert each.high >= max(each.open, each.close, each.average)
        assert timeframe.start_of(each.starts_at) == each.starts_at < timeframe.end_of(each.starts_at)


@given(trades, st.sampled_from([(5, "15Min"), (15, "30Min"), (20, "1Hour"), (30, "4Hour"), (7, "49Min"), (59, "1Day")]))
def test_two_steps_are_one(of: list[Trade], step: tuple[int, str]) -> None:
    first, then = Timeframe.read(f"{step[0]}Min"), Timeframe.read(step[1])
    assert aggregate(aggregate(minutes(of), first), then) == aggregate(minutes(of), then)


@given(st.sampled_from([FIRST, BACK]), st.integers(0, 3 * 24 * 3600), frames)
def test_every_moment_lies_in_one_frame(first: datetime, seconds: int, timeframe: Timeframe) -> None:
    at = first + timedelta(seconds=seconds)
    starts_at, ends_at = timeframe.start_of(at), timeframe.end_of(at)
    assert starts_at <= at < ends_at
    assert timeframe.start_of(ends_at) == ends_at, "the next one begins where it ends"
    assert timeframe.start_of(starts_at) == starts_at
    assert day_of(starts_at) == day_of(at) == DAY.start_of(at)


@given(some_trades(FIRST).filter(bool), st.integers(0, 60), st.integers(0, 60))
def test_what_two_heard_of_the_same_trades_counts_once(of: list[Trade], one: int, other: int) -> None:
    """Each heard all from the beginning up to a point: together they know what the better one knows."""

    def heard(count: int) -> Bar:
        made = Bar.of(FIRST, of[0].price, of[0].quantity)
        for trade in of[1 : 1 + count]:
            made.add(trade.price, trade.quantity)
        return made

    assert told_twice(heard(one), heard(other)) == heard(max(one, other)) == told_twice(heard(other), heard(one))


@given(some_trades(FIRST).filter(bool), st.integers(0, 60))
def test_two_parts_are_the_whole(of: list[Trade], cut: int) -> None:
    def of_all(part: list[Trade]) -> Bar | None:
        bar: Bar | None = None
        for trade in part:
            if bar is None:
                bar = Bar.of(FIRST, trade.price, trade.quantity)
            else:
                bar.add(trade.price, trade.quantity)
        return bar

    earlier, later = of_all(of[:cut]), of_all(of[cut:])
    if earlier is not None and later is not None:
        again = later.copy(FIRST)
        again.precede(earlier)
        earlier.follow(later)
        assert earlier == again == of_all(of)
