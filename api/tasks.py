"""Background tasks of the event loop: one at a time, started when there is work."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Generic, TypeVar

_CANCEL_AGAIN_SECONDS = 0.1

_Question = TypeVar("_Question")
_Answer = TypeVar("_Answer")


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


class BatchLoader(Generic[_Question, _Answer]):
    """Shares one read among all questions that arrived before it began, of at most `batch_max` questions.

    A question that arrives during a read waits for the next read, so that no answer is older than its
    question, and only one read runs at a time under any load (decision 0020).
    """

    def __init__(
        self, read: Callable[[Sequence[_Question]], Awaitable[Sequence[_Answer]]], batch_max: int
    ) -> None:
        self._read = read
        self._batch_max = batch_max
        self._waiting: list[tuple[_Question, asyncio.Future[_Answer]]] = []
        self._reader = SingleTask(self._read_all)

    async def load(self, question: _Question) -> _Answer:
        """Return the answer as of a moment after this call; raises the error of the read."""
        answer: asyncio.Future[_Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((question, answer))
        self._reader.ensure_running()
        return await answer

    async def _read_all(self) -> None:
        while self._waiting:
            batch = self._waiting[: self._batch_max]
            del self._waiting[: self._batch_max]
            try:
                answers = await self._read([question for question, _ in batch])
                answered = list(zip(batch, answers, strict=True))
            except Exception as error:  # noqa: BLE001 - every question gets the error
                for _, waiting in batch:
                    if not waiting.done():
                        waiting.set_exception(error)
                continue
            for (_, waiting), answer in answered:
                if not waiting.done():
                    waiting.set_result(answer)
