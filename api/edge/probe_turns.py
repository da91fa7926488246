"""Answers probes and pages in turns, so that a crowd of them delays no registration (decision 0038)."""

import asyncio
import time
from collections.abc import Awaitable, Callable

TURN_SECONDS = 0.1


class ProbeTurns:
    """The turns in which an API process answers probes and pages, at least `TURN_SECONDS` apart."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._next = 0.0

    async def wait(self) -> None:
        """Return at the next turn, together with all who wait for it: at once after a time without any."""
        now = self._clock()
        turn = max(self._next, now)
        if turn > now:
            await self._sleep(turn - now)
        self._next = max(self._next, turn + TURN_SECONDS)
