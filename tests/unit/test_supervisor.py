"""The supervisor: parts that end are started again, with growing pauses."""

import subprocess
import time
from pathlib import Path

from ops.child_processes import Child
from ops.embedded.unprivileged import EmbeddedError
from ops.stack import supervisor


def test_a_part_that_keeps_ending_starts_later() -> None:
    backoff = supervisor.Backoff()
    assert [backoff.after(0) for _ in range(8)] == [0.25, 0.5, 1, 2, 4, 8, 15, 15]


def test_a_healthy_period_forgets_earlier_ends() -> None:
    backoff = supervisor.Backoff()
    for _ in range(5):
        backoff.after(1)
    assert backoff.after(supervisor.HEALTHY_SECONDS) == supervisor.DELAY_SECONDS_MIN


class Stubborn(Child):
    """A part that cannot be started."""

    def start(self) -> None:
        raise EmbeddedError("no")


def test_each_failed_restart_is_said_once() -> None:
    part = Stubborn("stubborn", Path())
    part.process = subprocess.Popen(["false"])  # noqa: S607
    part.process.wait()
    watched, said = supervisor.Watched(part), list[str]()
    deadline = time.monotonic() + 10
    while len(said) < 2 and time.monotonic() < deadline:
        watched.tend(said.append)
    assert said == [
        "stubborn ended (exit status 1); starting it again in 0.25 s (log: stubborn.log)",
        "stubborn could not start (no); starting it again in 0.5 s (log: stubborn.log)",
    ]
