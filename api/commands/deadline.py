"""The deadline of a request: the moments of the event loop's clock at which its parts must be over."""

import asyncio

from msgspec import Struct

_ACCEPT_SECONDS_MIN = 1.0
_READ_SECONDS = 1.0
"""The time for the reads of an answer, once the wait for the outcome is over."""


class Deadline(Struct, frozen=True):
    """The times by which a command is accepted or given up, and by which its outcome is waited for."""

    accept_by: float
    decide_by: float

    @property
    def seconds_left(self) -> float:
        """The seconds for which the outcome may still be waited for; zero or less if the time is over."""
        return self.decide_by - asyncio.get_running_loop().time()

    def read_by(self) -> float:
        """Return the time by which the reads of the answer that begin now must be over."""
        return max(self.decide_by, asyncio.get_running_loop().time()) + _READ_SECONDS


def of(wait_seconds: float, accept_seconds: float) -> Deadline:
    """Return the deadline of a request that begins now and waits `wait_seconds` for its outcome.

    Accepting has the same time. It has `accept_seconds` for a client that does not wait for the outcome, and
    a second at least.
    """
    now = asyncio.get_running_loop().time()
    accept_by = now + max(wait_seconds or accept_seconds, _ACCEPT_SECONDS_MIN)
    return Deadline(accept_by=accept_by, decide_by=now + wait_seconds)
