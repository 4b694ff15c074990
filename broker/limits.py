"""How many requests somebody may send: a bucket that fills evenly, as one moment for each of them (GCRA).

Pure: the moment is an argument, in nanoseconds of a clock that never goes back. Whoever has not been heard of for as
long as a bucket takes to fill is as if never heard of, so what is kept is bounded and the longest silent leave first.
"""

from collections import OrderedDict
from collections.abc import Hashable

_NS = 1_000_000_000


class RateLimiter:
    """Buckets of one size, one for each key."""

    __slots__ = ("_full", "_full_at", "_interval", "_keys_max", "burst", "window_s")

    def __init__(self, count: int, per_s: int, burst: int, keys_max: int) -> None:
        self.burst = burst
        self._interval = per_s * _NS // count  # a token comes back after so long
        self._full = burst * self._interval
        self.window_s = max(1, -(-self._full // _NS))
        self._keys_max = keys_max
        self._full_at: OrderedDict[Hashable, int] = OrderedDict()  # when the bucket is full again

    def take(self, key: Hashable, now: int) -> int:
        """Take a token: 0, or the nanoseconds until there is one again, and then nothing was taken."""
        full_at = max(self._full_at.get(key, 0), now) + self._interval
        too_early = full_at - now - self._full
        if too_early > 0:
            return too_early
        self._full_at[key] = full_at
        self._full_at.move_to_end(key)
        if len(self._full_at) > self._keys_max:
            self._full_at.popitem(last=False)
        return 0

    def give_back(self, key: Hashable, now: int) -> None:
        """Put back a token that was taken: who has all of them again is as if never heard of."""
        full_at = self._full_at.pop(key, 0) - self._interval
        if full_at > now:
            self._full_at[key] = full_at

    def wait(self, key: Hashable, now: int) -> int:
        """The nanoseconds until there is a token; 0 where there is one. Nothing is taken."""
        return max(0, max(self._full_at.get(key, 0), now) + self._interval - now - self._full)

    def standing(self, key: Hashable, now: int) -> tuple[int, int]:
        """How many tokens are left, and in how many seconds the bucket is full again."""
        debt = max(0, self._full_at.get(key, 0) - now)
        return (self._full - debt) // self._interval, -(-debt // _NS)

    def __len__(self) -> int:
        return len(self._full_at)
