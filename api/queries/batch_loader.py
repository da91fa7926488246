"""Shares one read among all questions that arrived before the read began.

A question that arrives during a read waits for the next read, so that no answer is older than its question,
and only one read runs at a time under any load (decision 0020).
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from api.tasks import SingleTask

_Question = TypeVar("_Question")
_Answer = TypeVar("_Answer")


class BatchLoader(Generic[_Question, _Answer]):
    """Answers questions in batches; one read is in flight, of at most `batch_max` questions."""

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
