"""Observations of requests, counted together: many cost little more than one."""

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

GATHER_SECONDS = 0.02
"""The time after which an observation is counted."""

_Observation = TypeVar("_Observation")


class Observations(Generic[_Observation]):
    """Gathers the observations of `GATHER_SECONDS`, and counts them together."""

    def __init__(self, count: Callable[[list[_Observation]], None]) -> None:
        self._count = count
        self._gathered: list[_Observation] = []

    def add(self, observation: _Observation) -> None:
        """Count this observation soon."""
        if not self._gathered:
            asyncio.get_running_loop().call_later(GATHER_SECONDS, self._flush)
        self._gathered.append(observation)

    def _flush(self) -> None:
        gathered, self._gathered = self._gathered, []
        self._count(gathered)


async def counted() -> None:
    """Return when all observations up to now are counted, in every process that is not overloaded."""
    await asyncio.sleep(2 * GATHER_SECONDS)
