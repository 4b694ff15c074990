"""The simulated loop itself: what would make it lie about the broker."""

import asyncio
import random

import pytest

from tests.sim.loop import PROCESS, SimLoop, Stuck


def loop_of(seed: int = 1, **options: int) -> SimLoop:
    return SimLoop(random.Random(seed), **options)


def finish(loop: SimLoop, work: object) -> None:
    try:
        loop.run_until_complete(loop.spawn(work))  # type: ignore[arg-type]
    finally:
        loop.close()


def test_hours_pass_in_no_time() -> None:
    loop = loop_of()
    finish(loop, asyncio.sleep(36_000))
    assert loop.time() >= 36_000


def test_sigkill_is_no_cancel() -> None:
    loop, said = loop_of(), []

    async def process() -> None:
        try:
            await asyncio.sleep(10)
            said.append("lived")
        finally:
            if loop.is_running():
                said.append("goodbye")

    async def world() -> None:
        context = loop.process(1)
        loop.spawn(process(), context)
        await loop.pause(1)
        loop.dead.add(context[PROCESS])
        await loop.pause(100)

    finish(loop, world())
    assert said == []


def test_what_a_dead_process_has_sent_still_lands() -> None:
    loop, landed = loop_of(), []

    async def process() -> None:
        loop.call_later(5, landed.append, "it", context=loop.world)
        await asyncio.sleep(1_000)

    async def world() -> None:
        loop.spawn(process(), loop.process(1))
        await loop.pause(1)
        loop.dead.add(1)
        await loop.pause(10)

    finish(loop, world())
    assert landed == ["it"]


def test_a_stopped_process_goes_on_as_if_nothing_had_happened() -> None:
    loop, moments = loop_of(), []

    async def process() -> None:
        await asyncio.sleep(2)
        moments.append(loop.time())

    async def world() -> None:
        loop.spawn(process(), loop.process(1))
        await loop.pause(1)
        loop.stop_process(1)
        await loop.pause(60)
        loop.continue_process(1)
        await loop.pause(1)

    finish(loop, world())
    assert moments
    assert moments[0] >= 61


def test_at_equal_deadlines_the_seed_decides_who_is_first() -> None:
    orders = set()
    for seed in range(20):
        loop, order = loop_of(seed), []

        async def sleeper(number: int, order: list[int] = order) -> None:
            await asyncio.sleep(1)
            order.append(number)

        async def world() -> None:
            await asyncio.gather(*map(sleeper, range(4)))

        finish(loop, world())
        orders.add(tuple(order))
    assert len(orders) > 5


def test_plain_callbacks_keep_their_order() -> None:
    loop, order = loop_of(), []

    async def world() -> None:
        for number in range(50):
            loop.call_soon(order.append, number)
        await loop.pause(1)

    finish(loop, world())
    assert order == list(range(50))


def test_when_nothing_can_ever_happen_it_says_so() -> None:
    async def forever() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(Stuck, match="deadlock"):
        finish(loop_of(), forever())


def test_when_things_happen_without_end_it_says_so() -> None:
    async def busy() -> None:
        while True:
            await asyncio.sleep(0)

    with pytest.raises(Stuck, match="livelock"):
        finish(loop_of(steps_max=1_000), busy())


def test_the_error_of_a_task_that_nobody_awaits_is_heard() -> None:
    loop = loop_of()

    async def bad() -> None:
        raise ValueError("heard")

    async def world() -> None:
        loop.spawn(bad())
        await loop.pause(10)

    with pytest.raises(ValueError, match="heard"):
        finish(loop, world())
