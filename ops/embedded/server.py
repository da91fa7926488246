"""One embedded server: starts it, waits for it, stops it, and first ends the processes of an earlier run.

Start servers from a thread that outlives them: the kernel stops them when that thread ends.
"""

import os
import signal
import time
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from ops import child_processes
from ops.child_processes import Child
from ops.embedded import data_dir
from ops.embedded.unprivileged import EmbeddedError, Way

START_SECONDS_MAX = 60.0
"""Long enough for PostgreSQL to replay its log after a crash on a slow disk."""
PROBE_SECONDS_MAX = 2


class Server(Child):
    """One server of a prepared and locked data folder; it may be started, stopped and started again."""

    name: str
    stop_signal: ClassVar[signal.Signals]
    """Ends the server in order, also while clients are connected."""
    crash_signal: ClassVar[signal.Signals]
    """Ends the server at once; nothing committed is lost."""
    stop_seconds_max: ClassVar[float]

    def __init__(self, data: Path) -> None:
        self.data = data.resolve()
        self.sockets = data_dir.sockets(self.data)
        super().__init__(self.name, self.data / "log")

    def start(self) -> None:
        """End the processes of an earlier run, then start the server without waiting until it answers.

        Raises `EmbeddedError` if the data folder or this machine does not allow it.
        """
        self.recover()
        if self.process is not None:
            self.process.wait()  # it has ended: `recover` has ended it
        self._log_start = child_processes.size(self.log)
        try:
            way = self._prepare()
            argv = [*way.prefix, *child_processes.dies_with_parent(self.stop_signal), *self._argv()]
            self.process = child_processes.spawn(argv, log=self.log, env=clean_environment(), cwd=self.data)
        except OSError as error:
            raise EmbeddedError(f"{self.name} cannot start in {self.data}: {error}") from error

    def wait_ready(self, seconds: float = START_SECONDS_MAX) -> None:
        """Return once the server answers; raises `EmbeddedError` with the end of its log otherwise."""
        deadline = time.monotonic() + seconds
        while not self.ready():
            if time.monotonic() > deadline:
                raise EmbeddedError(f"{self.name} is not ready after {seconds:.0f} s{self.last_words()}")
            time.sleep(child_processes.POLL_SECONDS)

    def ready(self) -> bool:
        """Return True if the server answers now; raises `EmbeddedError` if it has ended."""
        status = self._started().poll()
        if status is not None:
            raise EmbeddedError(f"{self.name} ended at start (exit status {status}){self.last_words()}")
        return self._answers()

    def stop(self, seconds: float | None = None, *, crash: bool = False) -> None:
        """Stop the server and all its processes; kill those that are left after ``seconds``."""
        if self.process is None:
            return
        limit = self.stop_seconds_max if seconds is None else seconds
        child_processes.stop(self.process, self.crash_signal if crash else self.stop_signal, limit)
        self.process = None
        self.recover()

    def recover(self) -> None:
        """End every process of an earlier run in this folder; raises `EmbeddedError` if one stays."""
        try:
            self._recover()
        except (TimeoutError, PermissionError) as error:
            raise EmbeddedError(
                f"an earlier {self.name} in {self.data} cannot be stopped: {error}"
            ) from error

    @abstractmethod
    def _prepare(self) -> Way:
        """Make the server's files; return the way to run it."""

    @abstractmethod
    def _argv(self) -> Sequence[str]:
        """Return the server's command line."""

    @abstractmethod
    def _answers(self) -> bool:
        """Return True if the server answers a client."""

    @abstractmethod
    def _recover(self) -> None:
        """End the processes of an earlier run."""


def clean_environment() -> dict[str, str]:
    """Return this process's environment for a server: without AdmitOne's variables, which have secrets.

    Also without libpq's variables, which redirect servers and clients.
    """
    return {name: value for name, value in os.environ.items() if not name.startswith(("PG", "ADMITONE_"))}
