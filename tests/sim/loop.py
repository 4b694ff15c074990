"""An event loop in virtual time, on which a seed decides who goes next and what dies.

Nothing waits: where nobody is ready, the clock jumps to the next timer. A callback belongs to the simulated process
in whose context it was made, so a process is killed by dropping what is its own: SIGKILL is no cancel(), no `finally`
runs. The private parts of BaseEventLoop that are used here (`_ready`, `_run_once`) are those of CPython 3.11 to 3.13.
"""

import asyncio
import contextvars
import heapq
import random
from asyncio import events
from collections.abc import Callable, Coroutine
from typing import Any

PROCESS: contextvars.ContextVar[int] = contextvars.ContextVar("process", default=0)
"""Which simulated process a callback belongs to; 0 is the world outside, which never dies."""

_POLL_S = 0.06
"""A process that sleeps no longer than this looks around again and again: it may be late, so idle hours cost little."""
_STALL = 0.002
"""How likely a step is to be followed by a moment in which nobody runs: a slow disk, a long collection of garbage."""
_STALL_MAX_S = 1.0

Timer = tuple[float, float, events.TimerHandle]


class Stuck(Exception):
    """Nothing can ever happen again, or things happen without end."""


class SimLoop(asyncio.BaseEventLoop):
    """The clock, the order of things, and who is alive."""

    def __init__(self, rng: random.Random, *, steps_max: int = 60_000) -> None:
        super().__init__()
        self._rng = rng
        self._now = 0.0
        self._timers: list[Timer] = []
        self._polls: list[Timer] = []
        self._steps_max = steps_max
        self._stopped: dict[int, list[events.Handle]] = {}  # what would run, of processes that are stopped
        self._tasks: list[asyncio.Task[Any]] = []  # held: a task that nobody holds is collected as garbage
        self.steps = 0
        self.slack_s = 0.5
        """How late a poll may be while nothing else happens."""
        self.dead: set[int] = set()
        self.errors: list[BaseException] = []
        self.traps: dict[int, Callable[[], None]] = {}
        """What happens before the n-th step: a kill, in the tests that kill at every one."""
        self.world = contextvars.copy_context()
        self.set_exception_handler(self._failed)

    # -------------------------------------------------------------- what asyncio asks for

    def time(self) -> float:
        """Virtual seconds since the beginning."""
        return self._now

    def _write_to_self(self) -> None:
        raise Stuck("a thread touched the simulated loop")

    def _timer_handle_cancelled(self, handle: events.TimerHandle) -> None:
        """It is dropped when its time comes."""

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> events.TimerHandle:
        """At equal moments the seed decides who is first."""
        handle = events.TimerHandle(when, callback, args, self, context)
        is_poll = when - self._now <= _POLL_S and bool(handle._context.get(PROCESS))  # type: ignore[attr-defined]
        heapq.heappush(self._polls if is_poll else self._timers, (when, self._rng.random(), handle))
        return handle

    def _failed(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.errors.append(context.get("exception") or RuntimeError(context["message"]))

    # -------------------------------------------------------------- tasks and processes

    def spawn(self, work: Coroutine[Any, Any, Any], context: contextvars.Context | None = None) -> asyncio.Task[Any]:
        """A task whose error ends the run: of one that somebody holds, asyncio would never tell it."""
        task = self.create_task(work, context=context or self.world)
        task.add_done_callback(self._ended, context=self.world)
        self._tasks.append(task)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.errors.append(error)

    def process(self, number: int) -> contextvars.Context:
        """The context of a process: all that begins in it is its own."""
        context = contextvars.copy_context()
        context.run(PROCESS.set, number)
        return context

    def stop_process(self, number: int) -> None:
        """SIGSTOP."""
        self._stopped.setdefault(number, [])

    def continue_process(self, number: int) -> None:
        """SIGCONT: what has become due runs now."""
        self._ready.extend(self._stopped.pop(number, []))  # type: ignore[attr-defined]

    async def pause(self, seconds: float) -> None:
        """Let time pass, for the world: to the microsecond, unlike the polls of a process."""
        future = self.create_future()
        self.call_at(self._now + seconds, _wake, future, context=self.world)
        await future

    # -------------------------------------------------------------- the run

    def _run_once(self) -> None:
        ready, rng, dead, stopped = self._ready, self._rng, self.dead, self._stopped  # type: ignore[attr-defined]
        while not self._stopping:  # type: ignore[attr-defined]
            if self.errors:
                raise self.errors[0]
            if not ready:
                self._pass_time()
                continue
            if rng.random() < _STALL:
                self._stall()
            number = int(rng.random() * len(ready))
            if number and not _is_task(ready[number]):  # the order of plain callbacks is promised
                number = next(place for place, each in enumerate(ready) if not _is_task(each))
            handle = ready[number]
            del ready[number]
            if handle._cancelled:
                continue
            process = handle._context.get(PROCESS)
            if process:
                if process in dead:
                    continue
                if process in stopped:
                    stopped[process].append(handle)
                    continue
            self.steps += 1
            if self.traps and (trap := self.traps.pop(self.steps, None)) is not None:
                trap()
                if process in dead:
                    continue
            if self.steps > self._steps_max:
                raise Stuck(f"livelock: {self.steps} steps in {self._now:.0f} s")
            handle._run()

    def _pass_time(self) -> None:
        timers, polls = self._timers, self._polls
        if not timers and not polls:
            raise Stuck("deadlock: nothing can ever happen again")
        target = polls[0][0] + self._rng.random() * self.slack_s if polls else timers[0][0]
        if timers and timers[0][0] < target:
            target = timers[0][0]
        self._move_on(target)

    def _stall(self) -> None:
        """Time passes although somebody could run."""
        if self._timers:
            self._move_on(min(self._timers[0][0], self._now + self._rng.random() * _STALL_MAX_S))

    def _move_on(self, target: float) -> None:
        self._now = max(self._now, target)
        for heap in (self._timers, self._polls):
            while heap and heap[0][0] <= self._now:
                handle = heapq.heappop(heap)[2]
                if not handle._cancelled and handle._context.get(PROCESS) not in self.dead:  # type: ignore[attr-defined]
                    self._ready.append(handle)  # type: ignore[attr-defined]

    def close(self) -> None:
        """End what is left without letting it finish: whoever was killed does not say goodbye."""
        for task in [*self._tasks, *asyncio.all_tasks(self)]:
            if not task.done():
                task._log_destroy_pending = False  # type: ignore[attr-defined]
                coroutine = task.get_coro()
                for _ in range(2):  # a TaskGroup waits for its own when it is closed: it is closed again
                    try:
                        coroutine.close()  # type: ignore[union-attr]
                        break
                    except (RuntimeError, BaseExceptionGroup):
                        continue
        self._tasks.clear()
        self._timers.clear()
        self._polls.clear()
        super().close()


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _is_task(handle: events.Handle) -> bool:
    return isinstance(getattr(handle._callback, "__self__", None), asyncio.Task)  # type: ignore[attr-defined]
