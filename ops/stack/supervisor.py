"""Watches the parts of a stack and restarts a part that ended, each time after a longer wait."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from ops.child_processes import Child
from ops.embedded.unprivileged import EmbeddedError

DELAY_SECONDS_MIN = 0.25
DELAY_SECONDS_MAX = 15.0
HEALTHY_SECONDS = 30.0
"""A part that ran this long counts as healthy: its next end counts as the first."""


@dataclass(kw_only=True)
class Backoff:
    """The wait before the next start: doubled at each end that comes soon after a start."""

    delay_seconds: float = 0.0

    def after(self, lived_seconds: float) -> float:
        """Return the wait in seconds after an end of a part that had lived for `lived_seconds`."""
        if lived_seconds >= HEALTHY_SECONDS:
            self.delay_seconds = 0.0
        self.delay_seconds = min(max(2 * self.delay_seconds, DELAY_SECONDS_MIN), DELAY_SECONDS_MAX)
        return self.delay_seconds


class Watched:
    """One part, with the times of its last start and of its next start."""

    def __init__(self, part: Child) -> None:
        self.part = part
        self._backoff = Backoff()
        self._started_at = time.monotonic()
        self._due_at: float | None = None

    def tend(self, say: Callable[[str], None]) -> None:
        """Report an end once; restart the part when that is due. Never waits."""
        now = time.monotonic()
        if self._due_at is None:
            if self.part.process is not None and (status := self.part.process.poll()) is not None:
                self._plan(f"ended ({describe(status)})", now, say)
        elif now >= self._due_at:
            self._due_at, self._started_at = None, now
            try:
                self.part.start()
            except (EmbeddedError, OSError) as error:
                self._plan(f"could not start ({error})", now, say)

    def _plan(self, event: str, now: float, say: Callable[[str], None]) -> None:
        delay = self._backoff.after(now - self._started_at)
        self._due_at = now + delay
        say(f"{self.part.name} {event}; starting it again in {delay:g} s (log: {self.part.log})")


def describe(status: int) -> str:
    """Return an exit status in words."""
    return f"signal {-status}" if status < 0 else f"exit status {status}"
