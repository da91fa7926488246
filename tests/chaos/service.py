"""The service under test: its own servers, a relay on each way to them, API processes and workers."""

import json
import os
import secrets
import signal
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from http import HTTPStatus
from itertools import chain
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self

import httpx2
import psycopg
import redis

from ops import child_processes, embedded
from ops.embedded import data_dir
from ops.maintenance import schema
from ops.stack.programs import CHECKOUT, Program
from shared.errors import ExpectedError
from tests.chaos import servers
from tests.chaos.relays import Relays
from tests.chaos.servers import OF_THE_WHEELS, Programs

READY_SECONDS_MAX = 60.0
PROCESSES_MAX = 4
"""So many workers, and as many API processes."""
STOP_SECONDS_MAX = 15.0
POLL_SECONDS = 0.02
WRITABLE_SECONDS_MAX = 30.0
FIRST_PORT = 6_001
"""The relays' ports are parts of sockets' names; no TCP port is opened for them."""

POISON = "Poison"
"""A registration with a name that begins like this cannot be written."""
_POISON = f"""
    CREATE FUNCTION chaos_poison() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN RAISE EXCEPTION 'poisoned' USING ERRCODE = '23514'; END $$;
    CREATE TRIGGER chaos_poison BEFORE INSERT ON registration
    FOR EACH ROW WHEN (NEW.name LIKE '{POISON}%') EXECUTE FUNCTION chaos_poison();
"""
_PENDING = "SELECT count(*), coalesce(max(seq), 0) FROM pending_command WHERE seq <= %s"
_DRIFTING = """
    SELECT id::text FROM event
    CROSS JOIN LATERAL (
        SELECT coalesce(sum(spots_count) FILTER (WHERE status = 'CONFIRMED'), 0) AS confirmed,
               count(*) FILTER (WHERE status = 'WAITLIST') AS waiting
        FROM registration WHERE event_id = event.id
    ) AS found
    WHERE updated_at > now() - interval '1 minute'
      AND (spots_reserved, waitlist_length) IS DISTINCT FROM (confirmed::integer, waiting::integer)
"""
_LAST_SEQ = "SELECT last_value FROM command_seq_seq"
_SESSIONS = """
    SELECT pid FROM pg_stat_activity
    WHERE datname = current_database() AND application_name LIKE 'admitone-%'
"""


class HarnessError(ExpectedError):
    """The run cannot go on; the message says why."""


class Service:
    """The running service; all its processes are gone at the end, whatever happens.

    It begins with so many workers and API processes; `add` starts one more, up to `PROCESSES_MAX` of each.
    """

    def __init__(
        self,
        folder: Path,
        *,
        workers: int = 2,
        api_processes: int = 2,
        settings: Mapping[str, str] = MappingProxyType({}),
        programs: Programs = OF_THE_WHEELS,
    ) -> None:
        self._settings = settings
        self.data = embedded.prepare(folder / "data")
        self.postgres, self.valkey = servers.postgres(self.data, programs), servers.redis(self.data, programs)
        places = {kind: [f"{kind}-{n + 1}" for n in range(PROCESSES_MAX)] for kind in ("worker", "api")}
        self.workers, self.apis = places["worker"][:workers], places["api"][:api_processes]
        self.key, self._secret_key = secrets.token_urlsafe(24), secrets.token_urlsafe(24)
        self._programs: dict[str, Program] = {}
        sockets = data_dir.sockets(self.data)
        targets = {
            "postgres": sockets / f".s.PGSQL.{data_dir.POSTGRES_PORT}",
            "redis": sockets / "valkey.sock",
        }
        self._ports = {name: FIRST_PORT + n for n, name in enumerate(chain(*places.values()))}
        links = {
            f"{name}/{server}": (
                sockets / (f".s.PGSQL.{port}" if server == "postgres" else f"valkey-{port}.sock"),
                target,
            )
            for name, port in self._ports.items()
            for server, target in targets.items()
        }
        self.relays = Relays(links, self.data / "log" / "relays.log")
        self._ends = ExitStack()

    @property
    def programs(self) -> Sequence[str]:
        """The names of all workers and API processes."""
        return [*self.workers, *self.apis]

    def __enter__(self) -> Self:
        with ExitStack() as ends:
            ends.enter_context(embedded.locked(self.data))
            for server in (self.valkey, self.postgres):
                ends.callback(server.stop)
                server.start()
            for server in (self.valkey, self.postgres):
                server.wait_ready()
            schema.upgrade(embedded.addresses(self.data).database_url)
            self.query(_POISON)
            ends.enter_context(self.relays)
            listener = ends.enter_context(socket.create_server(("127.0.0.1", 0), backlog=4_096))
            self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            self._listener = listener.fileno()
            ends.callback(self._stop_programs)
            for name in self.programs:
                self.start(name)
            self.wait_ready()
            self._ends = ends.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ends.close()

    def start(self, name: str, *, clock_ahead: float = 0.0) -> None:
        """Start a program once it has ended, with a clock so many seconds ahead; do not wait for it."""
        if (before := self._programs.get(name)) is not None:
            assert before.process is not None
            before.process.wait(STOP_SECONDS_MAX)
        is_api = name in self.apis
        program = self._programs[name] = Program(
            name,
            ["api", "--fd", str(self._listener)] if is_api else ["worker"],
            data=self.data,
            pass_fds=[self._listener] if is_api else [],
            secrets=self._environment(name, clock_ahead),
        )
        program.start()

    def add(self, name: str) -> None:
        """Start one more worker or API process; do not wait for it."""
        (self.apis if name.startswith("api") else self.workers).append(name)
        self.start(name)

    def end(self, name: str) -> None:
        """Tell a worker or an API process to end, and wait for it; it takes part no longer."""
        self.signal(name, signal.SIGTERM)
        (self.apis if name in self.apis else self.workers).remove(name)
        process = self._programs[name].process
        assert process is not None, f"{name} was not started"
        process.wait(STOP_SECONDS_MAX)

    def pid(self, name: str) -> int:
        """Return the process id of a program."""
        process = self._programs[name].process
        assert process is not None, f"{name} was not started"
        return process.pid

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal to a program, if it has not ended."""
        process = self._programs[name].process
        assert process is not None, f"{name} was not started"
        process.send_signal(number)

    def has_ended(self, name: str) -> bool:
        """Return True if a program's process has ended."""
        process = self._programs[name].process
        return process is None or process.poll() is not None

    def query(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Run plain SQL in a session of its own, which may write even to a read-only database."""
        with self.session() as session:
            found = session.execute(statement.encode(), parameters or None)
            return found.fetchall() if found.description else []

    @contextmanager
    def session(self) -> Iterator["psycopg.Connection[tuple[Any, ...]]"]:
        """Yield a session of the harness, past the relays; each statement commits."""
        url = embedded.addresses(self.data).database_url.replace("+psycopg", "")
        options = "-c default_transaction_read_only=off"
        with psycopg.connect(url, autocommit=True, options=options, connect_timeout=5) as session:
            yield session

    def redis(self, database: int = 0) -> "redis.Redis":
        """Return a client of Redis, past the relays."""
        return redis.Redis(unix_socket_path=str(self.valkey.socket), db=database, socket_timeout=5)

    def versions(self) -> str:
        """Return the names and versions of the servers."""
        [(postgres,)] = self.query("SHOW server_version")
        with self.redis() as client:
            found = client.info("server")
        name = str(found.get("server_name", "redis")).capitalize()
        return f"PostgreSQL {postgres}, {name} {found.get('valkey_version', found['redis_version'])}"

    def sessions(self) -> list[int]:
        """Return the server's processes of the service's sessions."""
        return [pid for (pid,) in self.query(_SESSIONS)]

    def last_seq(self) -> int:
        """Return the number of the newest command."""
        return int(self.query(_LAST_SEQ)[0][0])

    def wait_settled(self, seq: int, seconds_max: float) -> int:
        """Wait until all commands up to this number are settled; return how many are not."""
        until = time.monotonic() + seconds_max
        left = -1
        while left and time.monotonic() < until:
            with suppress(psycopg.OperationalError):
                left = int(self.query(_PENDING, seq)[0][0])
            if left:
                time.sleep(POLL_SECONDS)
        return left

    def drifting(self) -> list[str]:
        """Return the events of the last minute of which a snapshot's counters differ from its rows."""
        return [id_ for (id_,) in self.query(_DRIFTING)]

    def set_aside(self) -> frozenset[str]:
        """Return the digests of the commands that the workers set aside for a while, from their logs."""
        digests: set[str] = set()
        for log in (self.data / "log").glob("worker-*.log"):
            for line in log.read_bytes().splitlines():
                if b"command_set_aside" in line:
                    with suppress(ValueError):
                        digests.add(json.loads(line)["command_digest"])
        return frozenset(digests)

    def wait_writable(self) -> None:
        """Return once PostgreSQL takes writes."""
        self.postgres.wait_ready(WRITABLE_SECONDS_MAX)

    def wait_ready(self, seconds_max: float = READY_SECONDS_MAX) -> None:
        """Return once the service is ready; raises `HarnessError` with the ends of the logs."""
        until = time.monotonic() + seconds_max
        found = "no answer"
        while time.monotonic() < until:
            with suppress(httpx2.HTTPError), httpx2.Client(base_url=self.url, timeout=5) as client:
                answer = client.get("/readyz")
                if answer.status_code == HTTPStatus.OK:
                    return
                found = answer.text
            time.sleep(POLL_SECONDS)
        raise HarnessError(f"the service is not ready: {found}{self.last_words()}")

    def joined(self) -> bool:
        """Return True if every worker has a session."""
        names = {f"admitone-worker/{socket.gethostname()[:32]}/{self.pid(name)}" for name in self.workers}
        return names <= {name for (name,) in self.query("SELECT application_name FROM pg_stat_activity")}

    def wait_joined(self, seconds_max: float = READY_SECONDS_MAX) -> None:
        """Return once every worker has a session."""
        until = time.monotonic() + seconds_max
        while not self.joined():
            if time.monotonic() > until:
                raise HarnessError(f"a worker does not join{self.last_words()}")
            time.sleep(POLL_SECONDS)

    def last_words(self) -> str:
        """Return the ends of the programs' logs."""
        logs = sorted((self.data / "log").glob("*.log"))
        return "".join(f"\n{log.name}:{child_processes.tail(log)}" for log in logs)

    def _environment(self, name: str, clock_ahead: float) -> dict[str, str]:
        addresses, port = embedded.addresses(self.data), self._ports[name]
        plain = f"port={data_dir.POSTGRES_PORT}"
        variables = {
            "ADMITONE_DATABASE_URL": addresses.database_url.replace(plain, f"port={port}"),
            "ADMITONE_BROKER_URL": addresses.broker_url.replace("valkey.sock", f"valkey-{port}.sock"),
            "ADMITONE_RESULT_URL": addresses.result_url.replace("valkey.sock", f"valkey-{port}.sock"),
            "ADMITONE_LOG_FORMAT": "json",
            **self._settings,
        }
        if name in self.apis:
            variables |= {"ADMITONE_ADMIN_KEY": self.key, "ADMITONE_SECRET_KEY": self._secret_key}
        if clock_ahead:
            variables["PYTHONPATH"] = f"{Path(__file__).parent / 'clock'}{os.pathsep}{CHECKOUT}"
            variables["CHAOS_CLOCK_SECONDS"] = str(clock_ahead)
        return variables

    def _stop_programs(self) -> None:
        """Tell all programs to end, wait for them, and kill those that are left."""
        living = [p.process for p in self._programs.values() if p.process is not None]
        for process in living:
            process.send_signal(signal.SIGCONT)
            process.send_signal(signal.SIGTERM)
        until = time.monotonic() + STOP_SECONDS_MAX
        for process in living:
            child_processes.stop(process, signal.SIGTERM, until - time.monotonic())
