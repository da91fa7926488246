"""`admitone up`: the whole service on one machine, until Ctrl-C.

    lock → servers → migrations → API processes and workers → ready → watch → stop, in the opposite order

The listening socket belongs to this process and outlives every API process: while one is started again,
connections wait in the socket's backlog. No process that this process starts outlives it.
"""

import os
import signal
import socket
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path

from ops import child_processes, embedded
from ops.child_processes import Child
from ops.embedded.server import Server
from ops.stack import programs, readiness, state_file, supervisor
from ops.stack.interrupts import Interrupts
from ops.stack.programs import Program
from shared import open_files
from shared.errors import ExpectedError

HOST = "127.0.0.1"
BACKLOG = 4_096
METRICS_VARIABLE = "ADMITONE_METRICS_FOLDER"
PROCESSES_VARIABLE = "ADMITONE_API_PROCESSES"
READY_SECONDS_MAX = 60.0
POLL_SECONDS = 0.05
STOP_SECONDS_MAX = 9.0
"""The limit of the whole stop; then the rest is killed, which loses no accepted command."""
API_STOP_SECONDS_MAX = 4.0
WORKER_STOP_SECONDS_MAX = 2.0
VALKEY_STOP_SECONDS_MAX = 1.0
HASTY_STOP_SECONDS_MAX = 0.5


class StackError(ExpectedError):
    """The stack could not run; the message's first line says why, log lines may follow."""

    exit_status = 1


class _StopRequested(Exception):  # noqa: N818  # no error: a stop was requested during the start
    pass


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The parts of a stack to run, with their port and data folder."""

    port: int
    data: Path
    workers: int
    api_processes: int
    demo: bool


def up(plan: Plan) -> None:
    """Run the stack until a request to stop; raises `StackError` or `EmbeddedError` if it cannot run.

    When this returns or raises, no process that it started is left.
    """
    with Interrupts() as signals:
        data = embedded.prepare(plan.data)
        with embedded.locked(data), _listening(plan.port) as listener, suppress(_StopRequested):
            try:
                _Stack(plan, data, listener, signals).run()
            except OSError as error:
                raise StackError(f"the stack cannot run in {data}: {error}") from error
        _say("Stopped.")


class _Stack:
    """The parts of one stack, in the order in which they start."""

    def __init__(self, plan: Plan, data: Path, listener: socket.socket, signals: Interrupts) -> None:
        self.plan, self.data, self.listener, self.signals = plan, data, listener, signals
        self.postgres, self.valkey = embedded.Postgres(data), embedded.Valkey(data)
        self.workers = [Program(f"worker-{n + 1}", ["worker"], data=data) for n in range(plan.workers)]
        self.key = state_file.admin_key(data)
        secrets = {
            programs.KEY_VARIABLE: self.key.secret,
            programs.DIGEST_KEY_VARIABLE: state_file.secret_key(data),
        }
        serve = ["api", "--fd", str(listener.fileno())]
        self.apis = [
            Program(f"api-{n + 1}", serve, data=data, pass_fds=[listener.fileno()], secrets=secrets)
            for n in range(plan.api_processes)
        ]
        self._stop_by: float | None = None

    def run(self) -> None:
        """Start all parts, keep them running until a request to stop, then stop them, also on failure."""
        started_at = time.monotonic()
        here = state_file.Running.here(self.plan.port, embedded.addresses(self.data))
        _say(f"Starting AdmitOne; its data is in {self.data}.")
        open_files.raise_limit()
        os.environ.update(
            {
                **here.environment(),
                METRICS_VARIABLE: str(self.data / "metrics"),
                PROCESSES_VARIABLE: str(self.plan.api_processes),
            }
        )
        state_file.forget(self.data)
        with ExitStack() as ends:
            self._start(ends)
            if self.plan.demo and (problem := readiness.make_demo(self.plan.port, self.key.secret)):
                _say(f"The demonstration event could not be made: {problem}")
            ends.callback(state_file.forget, self.data)
            here.write(self.data)
            _say(
                readiness.welcome(
                    self.plan.port, self.key, time.monotonic() - started_at, demo=self.plan.demo
                )
            )
            self._watch()
            _say("Stopping.")

    def _start(self, ends: ExitStack) -> None:
        """Start all parts at once, and let the programs wait until the database has its schema."""
        _stop_leftovers(self.data)
        _empty(self.data / "metrics")
        ends.callback(self._stop_server, self.postgres, STOP_SECONDS_MAX)
        ends.callback(self._stop_server, self.valkey, VALKEY_STOP_SECONDS_MAX)
        ends.callback(self._stop_programs, self.workers, WORKER_STOP_SECONDS_MAX)
        ends.callback(self._stop_programs, self.apis, API_STOP_SECONDS_MAX)
        ends.callback(self.listener.close)
        with closing(programs.Gate()) as gate:
            for program in (*self.apis, *self.workers):
                program.start(gate)
            self.valkey.start()
            self.postgres.start()
            self._migrate()
            gate.open(len(self.apis) + len(self.workers))
            self._wait_ready()

    def _migrate(self) -> None:
        """Import the migrations while the servers start, then run them; also raises `SettingsError`."""
        from alembic.util import CommandError  # noqa: PLC0415
        from sqlalchemy.exc import SQLAlchemyError  # noqa: PLC0415

        from ops.maintenance import schema  # noqa: PLC0415
        from shared import settings  # noqa: PLC0415

        settings.load(settings.Settings)
        deadline = time.monotonic() + READY_SECONDS_MAX
        self._check(deadline, "the imports took too long")
        for server in (self.postgres, self.valkey):
            while not server.ready():
                self._check(deadline, f"{server.name} is not ready{server.last_words()}")
        try:
            schema.upgrade(embedded.addresses(self.data).database_url)
        except (CommandError, SQLAlchemyError) as error:
            raise StackError(f"the database cannot be brought to this version: {error}") from error

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + READY_SECONDS_MAX
        while reason := readiness.unready(self.plan.port):
            self._check(deadline, f"the stack is not ready: {reason}")

    def _check(self, deadline: float, late: str) -> None:
        """Wait a moment; raise if a part has ended, a stop was requested, or the deadline has passed."""
        if self.signals.count:
            raise _StopRequested
        for part in self._parts():
            if part.process is not None and (status := part.process.poll()) is not None:
                raise StackError(
                    f"{part.name} ended at start ({supervisor.describe(status)}){part.last_words()}"
                )
        if time.monotonic() > deadline:
            raise StackError(late)
        time.sleep(POLL_SECONDS)

    def _parts(self) -> list[Child]:
        return [self.postgres, self.valkey, *self.workers, *self.apis]

    def _watch(self) -> None:
        watched = [supervisor.Watched(part) for part in self._parts()]
        while not self.signals.count:
            for each in watched:
                each.tend(_say)
            time.sleep(POLL_SECONDS)

    def _stop_programs(self, stopping: Sequence[Program], seconds: float) -> None:
        """Signal all programs at once, wait for them, and kill those that are left."""
        living = [program.process for program in stopping if program.process is not None]
        for process in living:
            process.send_signal(signal.SIGTERM)
        until = time.monotonic() + self._seconds_left(seconds)
        while any(process.poll() is None for process in living) and time.monotonic() < until:
            if self.signals.hasten:
                break
            time.sleep(child_processes.POLL_SECONDS)
        for process in living:
            process.kill()
            process.wait()

    def _stop_server(self, server: Server, seconds: float) -> None:
        server.stop(self._seconds_left(seconds), crash=self.signals.hasten)

    def _seconds_left(self, most: float) -> float:
        """Return the seconds that a part may take to stop, so that the whole stop stays within its limit."""
        if self._stop_by is None:
            self._stop_by = time.monotonic() + STOP_SECONDS_MAX
        limit = HASTY_STOP_SECONDS_MAX if self.signals.hasten else most
        return max(min(limit, self._stop_by - time.monotonic()), 0.0)


def _listening(port: int) -> socket.socket:
    try:
        return socket.create_server((HOST, port), backlog=BACKLOG)
    except OSError as error:
        reason = os.strerror(error.errno).lower() if error.errno else str(error)
        raise StackError(f"port {port} cannot be used: {reason}") from error


def _empty(folder: Path) -> None:
    """Remove what an earlier stack counted: its counters would go on, and its gauges stay."""
    folder.mkdir(exist_ok=True)
    for counted in folder.glob("*.db"):
        counted.unlink()


def _stop_leftovers(data: Path) -> None:
    try:
        programs.stop_leftovers(data)
    except (TimeoutError, PermissionError) as error:
        raise StackError(f"a program that an earlier stack left cannot be stopped: {error}") from error


def _say(text: str) -> None:
    """Print a line; a closed pipe is no reason to stop."""
    with suppress(BrokenPipeError):
        print(text, flush=True)
