"""Buckets: the limiter keeps one moment for each key, and decides as a bucket that is filled drop by drop would."""

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from broker.limits import RateLimiter

_S = 1_000_000_000


class Bucket:
    """A bucket as everybody imagines it, in exact fractions."""

    def __init__(self, interval: int, burst: int) -> None:
        self.interval, self.burst = interval, burst
        self.tokens, self.at = Fraction(burst), 0

    def fill(self, now: int) -> None:
        self.tokens = min(Fraction(self.burst), self.tokens + Fraction(now - self.at, self.interval))
        self.at = now

    def take(self, now: int) -> bool:
        self.fill(now)
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


@given(
    per_s=st.integers(1, 5_000),
    burst=st.integers(1, 50),
    pauses=st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 3 * _S)), max_size=200),
)
def test_it_decides_as_a_bucket_does(per_s: int, burst: int, pauses: list[tuple[str, int]]) -> None:
    limiter = RateLimiter(per_s, 1, burst, keys_max=2)
    buckets = {key: Bucket(_S // per_s, burst) for key in "ab"}
    now = 10 * _S  # the clock began before anybody came
    for bucket in buckets.values():
        bucket.at = now
    for key, pause in pauses:
        now += pause % (_S // per_s * burst * 2)  # about as long as filling takes, or nothing interesting happens
        wait = limiter.take(key, now)
        assert (wait == 0) is buckets[key].take(now)
        assert limiter.standing(key, now)[0] == int(buckets[key].tokens)
        if wait:  # that long, and no less
            assert limiter.wait(key, now) == wait
            assert limiter.wait(key, now + wait - 1) == 1
            assert limiter.wait(key, now + wait) == 0


@given(st.lists(st.integers(0, _S), min_size=1, max_size=300))
def test_in_no_stretch_of_time_more_goes_through_than_burst_and_rate_allow(pauses: list[int]) -> None:
    limiter, now, through = RateLimiter(10, 1, 5, keys_max=1), 0, []
    for pause in pauses:
        now += pause // 20
        if limiter.take("a", now) == 0:
            through.append(now)
    for first in range(len(through)):
        for last in range(first, len(through)):
            assert last - first + 1 <= 5 + (through[last] - through[first]) * 10 // _S + 1


def test_a_bucket_is_full_at_first_and_says_when_it_is_again() -> None:
    limiter = RateLimiter(2, 1, 3, keys_max=10)
    assert limiter.standing("a", 0) == (3, 0)
    assert [limiter.take("a", 0) for _ in range(4)] == [0, 0, 0, _S // 2]
    assert limiter.standing("a", 0) == (0, 2)
    assert limiter.standing("a", _S) == (2, 1)
    assert limiter.standing("b", 0) == (3, 0), "each key has its own"


def test_as_many_keys_are_kept_as_it_says_and_the_longest_silent_leave() -> None:
    limiter = RateLimiter(1, 60, 1, keys_max=3)
    for key in range(3):
        limiter.take(key, key)
    assert limiter.take(0, 3) > 0  # refused, and so not heard of anew
    limiter.take(3, 3)
    assert len(limiter) == 3
    assert [limiter.take(key, 4) > 0 for key in (3, 2, 1)] == [True] * 3
    assert limiter.take(0, 4) == 0, "this one was forgotten"
