"""The arena of a benchmark: one PostgreSQL, one Valkey, and each contestant in a process of its own.

The servers are the embedded ones, in a temporary folder, with durability on; the service runs as its own
programs. All contestants but the measured one are idle. The folder is removed at the end, also on failure.
"""

import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import psycopg
import redis
from psycopg.rows import TupleRow
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from benchmarks import cpu, plan, processes
from benchmarks.contestants import serving, store
from benchmarks.processes import HOST, BenchmarkError, HttpServer, Process
from ops import embedded
from ops.embedded import Postgres, Servers, Valkey
from ops.maintenance import schema
from shared import open_files
from shared.domain import ids
from shared.messaging import results
from shared.postgres import locks

OWNED_SECONDS_MAX = 30.0
SETTLED_SECONDS_MAX = 120.0
QUIET_SECONDS_MAX = 0.5
POLL_SECONDS = 0.02
QUIET_POLLS = 5
"""Consecutive idle polls needed: between retries, and before its first statement, a contestant looks idle."""

_DURABILITY = ("fsync", "synchronous_commit", "full_page_writes")
_BUSY = """
SELECT EXISTS (SELECT FROM pending_command)
    OR EXISTS (SELECT FROM pg_stat_activity WHERE application_name LIKE %s AND state <> 'idle')
"""
_SERVICE_APPLICATIONS = "admitone-%"
_Server = TypeVar("_Server", Postgres, Valkey)
_DISCONNECT = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s"


class Arena:
    """The running servers and contestants, and the benchmark's own connection to their database."""

    def __init__(self, folder: Path, postgres: Postgres, valkey: Valkey) -> None:
        self.folder = folder
        self.addresses = addresses_of(postgres, valkey)
        self.postgres, self.valkey = postgres, valkey
        self.database: psycopg.Connection[TupleRow] = psycopg.connect(
            self.addresses.database_url.replace("+psycopg", ""), autocommit=True
        )
        self.results: redis.Redis = results.connect(self.addresses.result_url)
        self.baselines: dict[str, HttpServer] = {}
        self.workers: list[Process] = []
        self._programs: list[Process] = []

    def start(self, ends: ExitStack, workers: int) -> None:
        """Start every contestant and wait until each is ready."""
        ends.callback(processes.stop, self._programs)
        for name in plan.BASELINES:
            self.baselines[name] = self._serve(ends, name)
        self.api, self.workers = processes.service(
            "service",
            processes.module("ops.cli"),
            processes.service_environment(self.addresses),
            folder=self.folder,
            workers=workers,
        )
        self._programs += [self.api, *self.workers]
        for program in (self.api, *self.workers):
            program.start()
        for server in (*self.baselines.values(), self.api):
            server.wait_ready()

    def groups(self, contestant: str) -> dict[str, list[int]]:
        """Return the processes that work for a contestant, by group."""
        baseline = self.baselines.get(contestant)
        return {
            cpu.API: [(baseline or self.api).pid],
            cpu.WORKER: [] if baseline else [worker.pid for worker in self.workers],
            cpu.POSTGRES: [self.postgres.pid],
            cpu.VALKEY: [] if baseline else [self.valkey.pid],
        }

    def wait_owned(self) -> None:
        """Return once the live workers own all events; raises `BenchmarkError` after `OWNED_SECONDS_MAX`."""
        engine = create_engine(self.addresses.database_url, poolclass=NullPool)
        until = time.monotonic() + OWNED_SECONDS_MAX
        with engine.connect() as connection:
            while sum(len(worker.buckets) for worker in locks.workers(connection)) < ids.BUCKETS:
                self._check(until, "the workers do not take ownership of the events")

    def wait_settled(self) -> bool:
        """Wait until no command is pending; return False if one still is after `SETTLED_SECONDS_MAX`."""
        return self._falls_quiet(_SERVICE_APPLICATIONS, SETTLED_SECONDS_MAX)

    def calm(self, contestant: str) -> None:
        """Let a baseline finish its open requests; restart it if they take over `QUIET_SECONDS_MAX`.

        The load is over by then, but requests that queue for a lock would run on into the next measurement.
        """
        if contestant not in self.baselines or self._falls_quiet(contestant, QUIET_SECONDS_MAX):
            return
        server = self.baselines[contestant]
        server.stop(signal.SIGKILL)
        self.database.execute(_DISCONNECT, [contestant])
        server.start()
        server.wait_ready()

    def durability(self) -> dict[str, str]:
        """Return the database settings that decide whether a commit survives a crash."""
        return {name: self.scalar(f"SHOW {name}") for name in _DURABILITY}

    def scalar(self, statement: str) -> str:
        """Return the only value of a statement, as text."""
        row = self.database.execute(statement.encode()).fetchone()
        assert row is not None, "the statement yields a row"
        return str(row[0])

    def _falls_quiet(self, application: str, seconds: float) -> bool:
        return falls_quiet(
            lambda: self.database.execute(_BUSY, [application]).fetchone() != (False,), seconds
        )

    def _check(self, until: float, late: str) -> None:
        for process in (self.api, *self.workers):
            process.check()
        if time.monotonic() > until:
            raise BenchmarkError(late)
        time.sleep(POLL_SECONDS)

    def _serve(self, ends: ExitStack, name: str) -> HttpServer:
        """Start a baseline; its listening socket, which outlives its restarts, is the last argument."""
        listener = ends.enter_context(socket.create_server((HOST, 0), backlog=serving.BACKLOG))
        variables = {store.DATABASE_URL: self.addresses.database_url, store.APPLICATION: name}
        server = HttpServer(
            name=name,
            argv=processes.module("benchmarks.contestants.serving", name, str(listener.fileno())),
            environment=processes.environment(**variables),
            folder=self.folder,
            port=listener.getsockname()[1],
            ready_path="/openapi.json",
            pass_fds=[listener.fileno()],
        )
        self._programs.append(server)
        server.start()
        return server


@contextmanager
def opened(workers: int) -> Iterator[Arena]:
    """Run an arena while the block lasts; raises `EmbeddedError` or `BenchmarkError` if it cannot run."""
    open_files.raise_limit()
    with tempfile.TemporaryDirectory(prefix="admitone-bench-") as made, ExitStack() as ends:
        folder = Path(made)
        postgres = ends.enter_context(running(Postgres, folder / "postgres"))
        valkey = ends.enter_context(running(Valkey, folder / "valkey"))
        arena = Arena(folder, postgres, valkey)
        schema.upgrade(arena.addresses.database_url)
        ends.enter_context(arena.database)
        ends.callback(arena.results.close)
        arena.database.execute(store.SCHEMA.encode())
        arena.start(ends, workers)
        yield arena


def falls_quiet(is_busy: Callable[[], bool], seconds: float) -> bool:
    """Poll until `is_busy` is False `QUIET_POLLS` times in a row; return False after `seconds`."""
    until = time.monotonic() + seconds
    quiet = 0
    while quiet < QUIET_POLLS and time.monotonic() < until:
        quiet = 0 if is_busy() else quiet + 1
        time.sleep(POLL_SECONDS)
    return quiet == QUIET_POLLS


@contextmanager
def running(kind: Callable[[Path], _Server], folder: Path) -> Iterator[_Server]:
    """Run an embedded server on a new data folder while the block lasts."""
    data = embedded.prepare(folder)
    with embedded.locked(data):
        server = kind(data)
        try:
            server.start()
            server.wait_ready()
            yield server
        finally:
            server.stop(crash=True)


def addresses_of(postgres: Postgres, valkey: Valkey) -> Servers:
    """Return the URLs of two servers that have a data folder each."""
    database_url = embedded.addresses(postgres.data).database_url
    return replace(embedded.addresses(valkey.data), database_url=database_url)
