"""One reading for everybody who asked before it began.

Whoever arrives while a reading is under way waits for the next, so that nobody is told what was true
before they asked; and a crowd costs no more readings than fit one after the other.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

_Question = TypeVar("_Question")
_Answer = TypeVar("_Answer")


class Together(Generic[_Question, _Answer]):
    """Answers questions by the batch; one reading is in flight, of at most `together_max` questions."""

    def __init__(
        self, read: Callable[[Sequence[_Question]], Awaitable[Sequence[_Answer]]], together_max: int
    ) -> None:
        self._read = read
        self._together_max = together_max
        self._waiting: list[tuple[_Question, asyncio.Future[_Answer]]] = []
        self._reader: asyncio.Task[None] | None = None

    async def ask(self, question: _Question) -> _Answer:
        """Return the answer as of a moment after this call; raises what the reading raised."""
        answer: asyncio.Future[_Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((question, answer))
        if self._reader is None:
            self._reader = asyncio.create_task(self._read_all())
        return await answer

    async def _read_all(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = (
                    self._waiting[: self._together_max],
                    self._waiting[self._together_max :],
                )
                await self._answer(batch)
        finally:
            self._reader = None

    async def _answer(self, batch: Sequence[tuple[_Question, "asyncio.Future[_Answer]"]]) -> None:
        try:
            answers = await self._read([question for question, _ in batch])
            assert len(answers) == len(batch), "every question has its answer"
        except Exception as error:  # noqa: BLE001 - whoever asked must be told, whatever it was
            for _, waiting in batch:
                if not waiting.done():
                    waiting.set_exception(error)
            return
        for (_, waiting), answer in zip(batch, answers, strict=True):
            if not waiting.done():
                waiting.set_result(answer)
