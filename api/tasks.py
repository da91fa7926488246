"""Background tasks of the event loop: one at a time, started when there is work."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

_CANCEL_AGAIN_SECONDS = 0.1


class SingleTask:
    """Runs a coroutine function as a task, never two at a time."""

    def __init__(self, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._run = run
        self._task: asyncio.Task[None] | None = None

    def ensure_running(self) -> None:
        """Start the task unless it runs; `run` must end in the same step in which it finds no more work."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())

    async def finish(self, seconds_max: float | None = None) -> None:
        """Return when the task has ended by itself, or is cancelled after `seconds_max`."""
        while self._task is not None and not self._task.done():
            ended, _ = await asyncio.wait([self._task], timeout=seconds_max)
            if not ended:
                await self.cancel()

    async def cancel(self) -> None:
        """Cancel the task, again where a library swallowed the cancellation; return when it has ended."""
        while self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task], timeout=_CANCEL_AGAIN_SECONDS)
