"""Answers probes and pages in turns, so that a crowd of them delays no registration (decision 0038)."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable

from api.edge.problems import ProblemType

TURN_SECONDS = 0.1
_WAIT_SECONDS_MAX = 2


class Turns:
    """The turns in which an API process answers probes or pages, at least `TURN_SECONDS` apart.

    A turn has at most `answers_max` answers. When the turns of the next two seconds are full, a request is
    told to come back.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        answers_max: float = math.inf,
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._answers_max = answers_max
        self._last = -math.inf
        self._answers = 0

    async def wait(self) -> None:
        """Return at the next turn that has room: at once after a time without any; raises the problem 429."""
        now = self._clock()
        turn = max(self._last + TURN_SECONDS, now)
        if now < self._last and self._answers < self._answers_max:
            turn = self._last
        if turn - now > _WAIT_SECONDS_MAX:
            raise ProblemType.TOO_MANY_REQUESTS.error(headers={"retry-after": str(_WAIT_SECONDS_MAX)})
        self._last, self._answers = turn, self._answers + 1 if turn == self._last else 1
        if turn > now:
            await self._sleep(turn - now)
