"""The deadline of a request: the moments of the event loop's clock at which its parts must be over."""

import asyncio

from msgspec import Struct

_READ_SECONDS = 1.0
"""The time for the reads of an answer, once the wait for the outcome is over."""


class Deadline(Struct, frozen=True):
    """The times by which a command is accepted or given up, and by which its outcome is waited for."""

    accept_by: float
    decide_by: float

    def read_by(self) -> float:
        """Return the time by which the reads of the answer that begin now must be over."""
        return max(self.decide_by, asyncio.get_running_loop().time()) + _READ_SECONDS
