"""What is due later comes in time and in order, on either event loop."""

import asyncio
from collections.abc import Callable

import pytest
import uvloop

from broker.simulator.agenda import Agenda


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request):
    """Runs a coroutine function on the loop under test."""

    def run(main: Callable) -> None:
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(asyncio.wait_for(main(), 5))

    return run


def test_items_come_when_they_are_due_and_not_as_they_were_added(run):
    async def main() -> None:
        got: list[str] = []
        everything = asyncio.Event()

        def act(items: list[str]) -> None:
            got.extend(items)
            if len(got) == 4:
                everything.set()

        agenda = Agenda(act)
        agenda.add(0.03, "last")
        agenda.add(0.01, "second")
        agenda.add(0, "first")
        agenda.add(0.02, "third")
        await everything.wait()
        assert got == ["first", "second", "third", "last"]
        assert len(agenda) == 0

    run(main)


def test_an_item_may_add_others_that_are_already_due(run):
    async def main() -> None:
        got: list[int] = []
        done = asyncio.Event()

        def act(items: list[int]) -> None:
            for n in items:
                got.append(n)
                if n < 5:
                    agenda.add(-1, n + 1)
                    agenda.add(60, 99)
                else:
                    done.set()

        agenda = Agenda(act)
        agenda.add(0, 1)
        await done.wait()
        assert got == [1, 2, 3, 4, 5]
        agenda.close()

    run(main)


def test_a_closed_agenda_hands_out_nothing(run):
    async def main() -> None:
        got: list[str] = []
        agenda = Agenda(got.extend)
        agenda.add(0, "never")
        agenda.close()
        later = Agenda(lambda items: done.set())
        done = asyncio.Event()
        later.add(0.01, "now")
        await done.wait()
        assert got == []

    run(main)
