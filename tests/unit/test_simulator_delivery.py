"""The queue of one callback URL, without a network."""

import asyncio
from collections.abc import Sequence
from random import Random

from broker.simulator.delivery import DeliveryLimits, Outlet
from broker.simulator.faults import Faults, Misbehaviour
from broker.simulator.journal import Callback


def callback(number: int) -> Callback:
    return Callback(number, "http://broker/", b"{}")


class Post:
    """A poster whose broker refuses what holds one of these numbers."""

    def __init__(self, *refused: int) -> None:
        self.refused = set(refused)
        self.messages: list[list[int]] = []

    async def post(self, url: str, batch: Sequence[Callback]) -> str | None:
        numbers = [each.number for each in batch]
        self.messages.append(numbers)
        return "answered 500" if self.refused & set(numbers) else None


class Bench:
    """An outlet that posts to `post`; what it delivered is in `delivered`."""

    def __init__(self, post: Post, **limits: int) -> None:
        self.delivered: list[int] = []
        self.tasks: set[asyncio.Task[None]] = set()
        faults = Faults(Misbehaviour(), Random(1))
        quick = DeliveryLimits(retry_first_ms=1, retry_last_ms=1, **limits)
        self.outlet = Outlet("http://broker/", post, faults, quick, self.note, self.tasks)  # type: ignore[arg-type]

    def note(self, batch: Sequence[Callback]) -> None:
        self.delivered += [each.number for each in batch]

    async def finished(self) -> None:
        async with asyncio.timeout(5):
            while self.tasks:
                await asyncio.wait(self.tasks)


async def test_what_waits_goes_together_up_to_the_limit():
    post = Post()
    bench = Bench(post, events_per_message_max=3, in_flight_max=1)
    bench.outlet.push(map(callback, range(7)))
    await bench.finished()
    assert post.messages == [[0, 1, 2], [3, 4, 5], [6]]


async def test_an_event_that_comes_as_the_last_sender_ends_is_sent():
    """Between the end of a sender and the callback of its task lies a turn of the loop."""
    bench = Bench(Post(), in_flight_max=1)
    note = bench.note

    def push_another(batch: Sequence[Callback]) -> None:
        note(batch)
        if len(bench.delivered) < 5:
            asyncio.get_running_loop().call_soon(bench.outlet.push, [callback(len(bench.delivered))])

    bench.outlet._delivered = push_another
    bench.outlet.push([callback(0)])
    for _ in range(50):
        await asyncio.sleep(0)
    assert bench.delivered == [0, 1, 2, 3, 4]


async def test_a_refused_event_ends_up_alone_and_last():
    post = Post(2)
    bench = Bench(post, in_flight_max=1)
    bench.outlet.push(map(callback, range(8)))
    async with asyncio.timeout(5):
        while len(bench.delivered) < 7:
            await asyncio.sleep(0.001)
    assert post.messages[:4] == [[0, 1, 2, 3, 4, 5, 6, 7], [0, 1, 2, 3], [0, 1], [2, 3, 4, 5, 6, 7]]
    assert sorted(bench.delivered) == [0, 1, 3, 4, 5, 6, 7]
    post.refused.clear()
    await bench.finished()
    assert bench.delivered[-1] == 2
