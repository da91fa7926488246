"""Slows down the answers to wrong keys, by the address of the client.

A right key never waits and is never counted, so a client that sends wrong keys locks out no other one, not
even behind the same address. The first `_BURST` wrong keys of an address are answered at once, the next ones
`_INTERVAL_SECONDS` apart. An address for which too many answers wait is told to come back (decision 0062).
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable

from api.edge.problems import ProblemType

_BURST = 10
_INTERVAL_SECONDS = 0.5
_WAIT_SECONDS_MAX = 2.0
_ADDRESSES_MAX = 10_000


class WrongKeys:
    """The turns of the clients that sent wrong keys: the time from which the next one is answered."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._turns: dict[str, float] = {}

    async def wait_turn(self, client: str) -> None:
        """Return when the answer to a wrong key is due; raises the problem 429 if that is not soon."""
        now = self._clock()
        turn = max(self._turns.pop(client, 0), now - (_BURST - 1) * _INTERVAL_SECONDS)
        wait_seconds = turn - now
        if wait_seconds > _WAIT_SECONDS_MAX:
            self._turns[client] = turn
            raise ProblemType.TOO_MANY_WRONG_KEYS.error(headers={"retry-after": str(math.ceil(wait_seconds))})
        if len(self._turns) >= _ADDRESSES_MAX:
            del self._turns[next(iter(self._turns))]  # the one that sent no wrong key for the longest time
        self._turns[client] = turn + _INTERVAL_SECONDS
        if wait_seconds > 0:
            await self._sleep(wait_seconds)
