"""Names that never answer: whom they hold up, and for how long."""

import asyncio
import contextvars
import socket
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

import aiohttp
import pytest

from broker import addresses
from broker.addresses import Resolver, connector


class Names:
    """A name server of the test's own: those under slow.example do not answer until they may."""

    def __init__(self) -> None:
        self.may_answer = threading.Event()
        self.asked: list[str] = []

    def getaddrinfo(self, host: str, *_: object, **__: object) -> list[Any]:
        """Every name leads to the same address."""
        self.asked.append(host)
        if host.endswith("slow.example"):
            self.may_answer.wait(60)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[Names]:
    made = Names()
    monkeypatch.setattr(socket, "getaddrinfo", made.getaddrinfo)
    yield made
    made.may_answer.set()


@pytest.fixture
async def resolver() -> AsyncIterator[Resolver]:
    made = Resolver("any")
    yield made
    await made.close()


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not is_so():
            await asyncio.sleep(0.01)


def asking_for(customer: int, asking: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """It, in a task that asks for this customer."""
    context = contextvars.copy_context()
    context.run(addresses.ASKS_FOR.set, customer)
    return asyncio.create_task(asking, context=context)


async def test_a_request_that_has_timed_out_leaves_no_name_to_look_up(names: Names, resolver: Resolver) -> None:
    async with aiohttp.ClientSession(
        connector=connector("any", resolver, 100, 1.0), timeout=aiohttp.ClientTimeout(total=0.5)
    ) as session:
        tries = [session.get(f"http://{number}.slow.example:1/") for number in range(40)]
        ends = await asyncio.gather(*tries, return_exceptions=True)
        assert {type(end) for end in ends} <= {TimeoutError, aiohttp.ConnectionTimeoutError}
        assert len(names.asked) == 16
        names.may_answer.set()
        with pytest.raises(aiohttp.ClientConnectorError):
            await session.get("http://honest.example:1/", timeout=aiohttp.ClientTimeout(total=20))
    assert names.asked[16:] == ["honest.example"]


async def test_slow_names_of_one_customer_take_a_few_threads_and_hold_up_nobody_elses(
    names: Names, resolver: Resolver
) -> None:
    slow = [asking_for(1, resolver.resolve(f"{number}.slow.example")) for number in range(100)]
    await until(lambda: len(names.asked) == 2)
    for each in slow[:50]:
        each.cancel()
    await asyncio.wait(slow[:50])
    for number in range(20):
        async with asyncio.timeout(1):
            await asking_for(2, resolver.resolve(f"{number}.example"))
    assert len([name for name in names.asked if name.endswith("slow.example")]) == 2, "nor for those who have left"
    for each in slow:
        each.cancel()
    names.may_answer.set()
    await asking_for(1, resolver.resolve("honest.example"))
    assert len(names.asked) == 2 + 20 + 1


async def test_a_name_that_waits_behind_somebodys_slow_ones_waits_for_nobody_else(
    names: Names, resolver: Resolver
) -> None:
    waiting = [asking_for(1, resolver.resolve(name)) for name in ("a.slow.example", "b.slow.example", "both.example")]
    await until(lambda: len(names.asked) == 2)
    async with asyncio.timeout(1):
        await asking_for(2, resolver.resolve("both.example"))
    assert not waiting[2].done()
    names.may_answer.set()
    await asyncio.gather(*waiting)
    assert names.asked[2:] == ["both.example"], "what was found meanwhile is not asked for again"


async def test_whoever_gets_no_thread_in_time_is_told(
    names: Names, resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(addresses, "_WAIT_S", 0.1)
    slow = [asyncio.create_task(resolver.resolve(f"{number}.slow.example")) for number in range(16)]
    await until(lambda: len(names.asked) == 16)
    async with asyncio.timeout(10):
        with pytest.raises(TimeoutError):
            await resolver.resolve("honest.example")
    names.may_answer.set()
    await asyncio.gather(*slow)
    await resolver.resolve("honest.example")


async def test_a_name_is_looked_up_once_for_all_who_ask_and_kept_for_a_while(
    names: Names, resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    asking = [asyncio.create_task(resolver.resolve("one.slow.example", port)) for port in range(40)]
    await until(lambda: bool(names.asked))
    for each in asking[:20]:
        each.cancel()  # they take nothing from the others
    names.may_answer.set()
    assert [(await each)[0]["port"] for each in asking[20:]] == list(range(20, 40))
    assert len(await resolver.resolve("one.slow.example")) == 1
    assert names.asked == ["one.slow.example"]
    monkeypatch.setattr(addresses, "_KEPT_S", 0.0)
    await resolver.resolve("other.example")
    await resolver.resolve("other.example")
    assert names.asked[1:] == ["other.example"] * 2


async def test_a_name_that_nobody_waits_for_any_more_is_known_to_the_next_try(names: Names, resolver: Resolver) -> None:
    gone = asyncio.create_task(resolver.resolve("late.slow.example"))
    await until(lambda: bool(names.asked))
    gone.cancel()
    await asyncio.wait([gone])
    again = asyncio.create_task(resolver.resolve("late.slow.example"))
    await asyncio.sleep(0)
    names.may_answer.set()
    await again
    await resolver.resolve("late.slow.example")
    assert names.asked == ["late.slow.example"]


async def test_so_many_names_are_kept_and_no_more(
    names: Names, resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(addresses, "_KEPT_MAX", 3)
    for number in (0, 1, 2, 3, 3, 0):
        await resolver.resolve(f"{number}.example")
    assert names.asked == [f"{number}.example" for number in (0, 1, 2, 3, 0)]


async def test_without_a_thread_everybodys_place_is_given_back(
    names: Names, resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(_: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as without:
        without.setattr(threading.Thread, "start", none_left)
        for _ in range(20):
            with pytest.raises(RuntimeError):
                await asking_for(1, resolver.resolve("one.example"))
    await asking_for(1, resolver.resolve("one.example"))
    assert names.asked == ["one.example"]
