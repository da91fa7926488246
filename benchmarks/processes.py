"""The measured servers: child processes that are stopped by their pids."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import uvloop

from benchmarks.contestants import serving
from ops import child_processes
from ops.rehearsal import http_client
from ops.stack.programs import CHECKOUT
from shared.errors import ExpectedError

READY_SECONDS_MAX = 60.0
READY_POLL_SECONDS = 0.05
STOP_SECONDS_MAX = 10.0
HOST = "127.0.0.1"


class BenchmarkError(ExpectedError):
    """The benchmark cannot start or cannot go on; the message says why, log lines may follow."""


class Process:
    """A program with a log of its own; it may be started again."""

    def __init__(  # noqa: PLR0913 - a process with all that it is started with
        self,
        name: str,
        argv: Sequence[str],
        *,
        environment: Mapping[str, str],
        folder: Path,
        checkout: Path = CHECKOUT,
        pass_fds: Collection[int] = (),
    ) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self._argv = argv
        self._environment = {**environment, "PYTHONPATH": str(checkout)}
        self._checkout = checkout
        self._pass_fds = pass_fds
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id; the program must have been started."""
        assert self._process is not None, f"{self.name} was not started"
        return self._process.pid

    def start(self) -> None:
        """Start the program without waiting until it is ready."""
        self._process = child_processes.spawn(
            [*child_processes.dies_with_parent(signal.SIGTERM), *self._argv],
            log=self.log,
            env=self._environment,
            cwd=self._checkout,
            pass_fds=self._pass_fds,
        )

    def ask_to_stop(self) -> None:
        """Signal the program to stop, if it was started; `stop` waits for its end."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Stop the program, if it was started; kill it after `STOP_SECONDS_MAX`."""
        if self._process is not None:
            child_processes.stop(self._process, number, STOP_SECONDS_MAX)
            self._process = None

    def check(self) -> None:
        """Raise `BenchmarkError` with the end of the program's log if it has ended."""
        if self._process is not None and (status := self._process.poll()) is not None:
            raise BenchmarkError(f"{self.name} ended (exit status {status}){child_processes.tail(self.log)}")


class HttpServer(Process):
    """A program that serves a port of the loopback interface."""

    def __init__(  # noqa: PLR0913 - a process, its port and its sign of readiness
        self,
        name: str,
        argv: Sequence[str],
        *,
        environment: Mapping[str, str],
        folder: Path,
        port: int,
        ready_path: str,
        checkout: Path = CHECKOUT,
        pass_fds: Collection[int] = (),
    ) -> None:
        super().__init__(
            name, argv, environment=environment, folder=folder, checkout=checkout, pass_fds=pass_fds
        )
        self.url = f"http://{HOST}:{port}"
        self._ready_path = ready_path

    def wait_ready(self) -> None:
        """Return once the server answers without an error of its own; raises `BenchmarkError`."""
        uvloop.run(self._until_ready())

    async def _until_ready(self) -> None:
        until = time.monotonic() + READY_SECONDS_MAX
        async with http_client.Connection(self.url) as connection:
            while time.monotonic() < until:
                self.check()
                with suppress(http_client.ConnectionLost):
                    if (await connection.request("GET", self._ready_path)).status < serving.SERVER_ERROR_MIN:
                        return
                await asyncio.sleep(READY_POLL_SECONDS)
        raise BenchmarkError(f"{self.name} is not ready{child_processes.tail(self.log)}")


def module(*argv: str) -> list[str]:
    """Return the command line that runs a module of this checkout with these arguments."""
    return [sys.executable, "-m", *argv]


def listen() -> socket.socket:
    """Return a listening socket at a free port of the loopback interface."""
    return socket.create_server((HOST, 0), backlog=serving.BACKLOG)


def environment(**values: str) -> dict[str, str]:
    """Return this process's environment without the variables that name another installation."""
    foreign = ("ADMITONE_", "PG")
    return {**{k: v for k, v in os.environ.items() if not k.startswith(foreign)}, **values}
