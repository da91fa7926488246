"""Processes that take as much processor time as a crowd, and ask nothing of the service.

On a few cores a crowd takes time from the service that it loads. Beside a ballast of the crowd's weight the
service has the same share of the machine, so two rates differ by the service's own work only.
"""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from ops.stack.programs import CHECKOUT

_PAUSE_SECONDS = 0.001


@contextmanager
def running(cores: float, processes: int) -> Iterator[None]:
    """Keep so many cores busy, in so many processes, while the block lasts."""
    with ExitStack() as ends:
        for _ in range(processes):
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "tests.chaos.scenarios.ballast", str(cores / processes)],
                cwd=CHECKOUT,
                env={"PYTHONPATH": str(CHECKOUT)},
            )
            ends.callback(process.wait)
            ends.callback(process.kill)
        yield


def _spend(share: float) -> None:
    began = time.monotonic()
    while True:
        while time.process_time() < share * (time.monotonic() - began):
            pass
        time.sleep(_PAUSE_SECONDS)


if __name__ == "__main__":
    _spend(float(sys.argv[1]))
