"""Simulated time: an event loop that jumps from one moment to the next, and processes that it can stop.

All of a history happens on one loop in one thread, so the same seed gives the same steps. Code that blocks,
as an owner does, runs on a greenlet, and waits by `blocking`.
"""

import asyncio
import heapq
from asyncio import BaseEventLoop
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from itertools import count
from typing import Any, TypeVar

from sqlalchemy.util import await_only

_Value = TypeVar("_Value")

_ENDED_STEPS_MAX = 100


class Process:
    """An API process or a worker: its steps wait while it is stopped, and for ever once it is killed."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self.stopped = False
        self.on_death: list[Callable[[], None]] = []
        self._held: list[tuple[Context, Callable[..., object], tuple[object, ...]]] = []

    def take(self, context: Context, callback: Callable[..., object], *args: object) -> None:
        """Take a step, or keep it until the process goes on."""
        if self.stopped:
            self._held.append((context, callback, args))
        else:
            callback(*args)

    def stop(self) -> None:
        """Stop between two steps, as SIGSTOP does."""
        self.stopped = True

    def go_on(self, loop: asyncio.AbstractEventLoop) -> None:
        """Take the steps that were due meanwhile, and go on; a process that was killed does not."""
        if not self.alive:
            return
        self._let_go(loop)

    def _let_go(self, loop: asyncio.AbstractEventLoop) -> None:
        self.stopped = False
        held, self._held = self._held, []
        for context, callback, args in held:
            loop.call_soon(callback, *args, context=context)

    def kill(self) -> None:
        """End between two steps, as SIGKILL does: nothing is cleaned up, and connections break."""
        self.alive, self.stopped = False, True
        on_death, self.on_death = self.on_death, []
        for tell in on_death:
            tell()


_PROCESS: ContextVar[Process | None] = ContextVar("process", default=None)


def current() -> Process | None:
    """Return the process whose step this is; None is the world outside of all processes."""
    return _PROCESS.get()


class Loop(BaseEventLoop):
    """An event loop without sockets, whose clock moves only when nothing is left to do at its time."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self._due: deque[asyncio.Handle] = deque()
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._numbers = count()
        self.tasks: list[asyncio.Task[Any]] = []
        self._errors: list[BaseException] = []
        self.set_exception_handler(self._note)

    def time(self) -> float:
        """Return the simulated seconds since the beginning."""
        return self._now

    def _run_once(self) -> None:
        """Take the steps that are due, or let the time pass until the next timer."""
        if not self._due:
            self._now, _, timer = heapq.heappop(self._timers)
            self._due.append(timer)
        for _ in range(len(self._due)):
            handle = self._due.popleft()
            if not handle.cancelled():
                handle._run()  # noqa: SLF001 - as `BaseEventLoop` does

    def _timer_handle_cancelled(self, handle: object) -> None:
        """Cancelled timers are dropped when their time comes."""

    def call_soon(  # type: ignore[override]  # typeshed ties the arguments to the callback
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        """Call as a step of the caller's process."""
        context = context or copy_context()
        process = context.get(_PROCESS)
        if process is not None:
            callback, args = process.take, (context, callback, *args)
        handle = asyncio.Handle(callback, args, self, context)
        self._due.append(handle)
        return handle

    def call_at(  # type: ignore[override]  # likewise
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Call at a time as a step of the caller's process."""
        context = context or copy_context()
        process = context.get(_PROCESS)
        if process is not None:
            callback, args = process.take, (context, callback, *args)
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._timers, (max(when, self._now), next(self._numbers), timer))
        return timer

    def call_soon_threadsafe(  # type: ignore[override]  # likewise
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        """There is one thread."""
        return self.call_soon(callback, *args, context=context)

    def create_task(  # type: ignore[override]  # of coroutines only
        self, coro: Coroutine[Any, Any, _Value], **options: Any
    ) -> asyncio.Task[_Value]:
        """Create a task, and keep it: what the garbage collector would end, would end at any time."""
        task = super().create_task(coro, **options)
        self.tasks.append(task)
        return task

    def spawn(self, coro: Coroutine[Any, Any, _Value], process: Process | None) -> asyncio.Task[_Value]:
        """Run a coroutine as a task of a process, or of the world outside."""
        context = copy_context()
        context.run(_PROCESS.set, process)
        return self.create_task(coro, context=context)

    def _note(self, _: object, context: dict[str, Any]) -> None:
        if "handle" in context:  # else the server answers a client that has given up
            self._errors.append(context["exception"])

    def unseen_errors(self) -> list[BaseException]:
        """Return the errors of callbacks, and those of tasks that no other part of the service has seen."""
        ended = [task for task in self.tasks if getattr(task, "_log_traceback", False)]
        return [*self._errors, *filter(None, (task.exception() for task in ended))]

    def end(self, processes: list[Process]) -> None:
        """Cancel all tasks, those of dead processes too: nothing is left for the garbage collector."""
        for process in processes:
            process._let_go(self)  # noqa: SLF001 - the only end of a killed process
        for _ in range(_ENDED_STEPS_MAX):
            left = [task for task in self.tasks if not task.done()]
            if not left:
                break
            for task in left:
                task.cancel()
            self.run_until_complete(asyncio.sleep(1))
        assert all(task.done() for task in self.tasks), "a task cannot be cancelled"
        self.run_until_complete(self.shutdown_asyncgens())
        self.close()


def blocking(waited: Awaitable[_Value]) -> _Value:
    """Wait on the greenlet of code that blocks."""
    return await_only(waited)
