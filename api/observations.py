"""Observations of requests, counted together: one call costs less than a counter's own."""

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

_Observation = TypeVar("_Observation")


class Observations(Generic[_Observation]):
    """Gathers the observations of one step of the event loop, and counts them in the next."""

    def __init__(self, count: Callable[[list[_Observation]], None]) -> None:
        self._count = count
        self._gathered: list[_Observation] = []

    def add(self, observation: _Observation) -> None:
        """Count this observation before any request that arrives later is answered."""
        if not self._gathered:
            asyncio.get_running_loop().call_soon(self._flush)
        self._gathered.append(observation)

    def _flush(self) -> None:
        gathered, self._gathered = self._gathered, []
        self._count(gathered)
