"""The measured servers: child processes that are stopped by their pids."""

import secrets
import signal
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ops import child_processes
from ops.child_processes import Child
from ops.embedded import Servers
from ops.embedded.server import clean_environment
from ops.rehearsal import temporary_stack
from ops.stack import readiness
from ops.stack.programs import CHECKOUT
from shared.errors import ExpectedError

READY_SECONDS_MAX = 60.0
READY_POLL_SECONDS = 0.05
STOP_SECONDS_MAX = 10.0
HOST = "127.0.0.1"


class BenchmarkError(ExpectedError):
    """The benchmark cannot start or cannot go on; the message says why, log lines may follow."""


@dataclass(kw_only=True, eq=False)
class Process(Child):
    """A program with a log of its own in `folder`."""

    name: str
    argv: Sequence[str]
    environment: Mapping[str, str]
    folder: Path
    checkout: Path = CHECKOUT
    pass_fds: Collection[int] = ()

    def __post_init__(self) -> None:
        super().__init__(self.name, self.folder)

    def start(self) -> None:
        """Start the program without waiting until it is ready."""
        self.process = child_processes.spawn(
            [*child_processes.dies_with_parent(signal.SIGTERM), *self.argv],
            log=self.log,
            env={**self.environment, "PYTHONPATH": str(self.checkout)},
            cwd=self.checkout,
            pass_fds=self.pass_fds,
        )

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Stop the program, if it was started; kill it after `STOP_SECONDS_MAX`."""
        if self.process is not None:
            child_processes.stop(self.process, number, STOP_SECONDS_MAX)
            self.process = None

    def check(self) -> None:
        """Raise `BenchmarkError` with the end of the program's log if it has ended."""
        if self.process is not None and (status := self.process.poll()) is not None:
            raise BenchmarkError(f"{self.name} ended (exit status {status}){self.last_words()}")


@dataclass(kw_only=True, eq=False)
class HttpServer(Process):
    """A program that serves a port of the loopback interface."""

    port: int
    ready_path: str

    @property
    def url(self) -> str:
        """The address of the server."""
        return f"http://{HOST}:{self.port}"

    def wait_ready(self) -> None:
        """Return once the server is ready; raises `BenchmarkError`."""
        until = time.monotonic() + READY_SECONDS_MAX
        while reason := readiness.unready(self.port, self.ready_path):
            self.check()
            if time.monotonic() > until:
                raise BenchmarkError(f"{self.name} is not ready: {reason}{self.last_words()}")
            time.sleep(READY_POLL_SECONDS)


def service_environment(servers: Servers) -> dict[str, str]:
    """Return the environment of a service on these servers, with an admin key of its own."""
    return environment(
        ADMITONE_DATABASE_URL=servers.database_url,
        ADMITONE_BROKER_URL=servers.broker_url,
        ADMITONE_RESULT_URL=servers.result_url,
        ADMITONE_ADMIN_KEY=secrets.token_urlsafe(32),
    )


def service(  # noqa: PLR0913 - its programs, and all that they are started with
    name: str,
    program: Sequence[str],
    environment: Mapping[str, str],
    *,
    folder: Path,
    workers: int,
    checkout: Path = CHECKOUT,
) -> tuple[HttpServer, list[Process]]:
    """Return a service's API process and workers, which are to be started."""
    port = temporary_stack.free_port()
    started: dict[str, Any] = {"environment": environment, "folder": folder, "checkout": checkout}
    serve = [*program, "api", "--port", str(port)]
    api = HttpServer(name=f"{name}-api", argv=serve, port=port, ready_path="/readyz", **started)
    return api, [
        Process(name=f"{name}-worker-{number + 1}", argv=[*program, "worker"], **started)
        for number in range(workers)
    ]


def stop(programs: Collection[Process]) -> None:
    """Signal all programs that were started, then wait for each."""
    for program in programs:
        if program.process is not None:
            program.process.send_signal(signal.SIGTERM)
    for program in programs:
        program.stop()


def module(*argv: str) -> list[str]:
    """Return the command line that runs a module of this checkout with these arguments."""
    return [sys.executable, "-m", *argv]


def environment(**values: str) -> dict[str, str]:
    """Return this process's environment without the variables that name another installation."""
    return {**clean_environment(), **values}
