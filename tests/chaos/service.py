"""The service under test: its own servers, a relay on each way to them, API processes and workers."""

import os
import secrets
import shutil
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from http import HTTPStatus
from itertools import chain
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Literal, Self

import httpx2
import redis
from pydantic import SecretStr

from ops import child_processes, embedded
from ops.embedded import data_dir
from ops.maintenance import schema
from ops.rehearsal.temporary_stack import free_port
from ops.stack.programs import CHECKOUT, Program
from shared.settings import Settings
from tests.chaos import servers
from tests.chaos.database import POLL_SECONDS, TRIGGERS, Database, HarnessError
from tests.chaos.rabbitmq import RabbitMQ
from tests.chaos.relays import Relays
from tests.chaos.servers import OF_THE_WHEELS, Programs
from tests.standbys import Standby

__all__ = ["STANDBY", "HarnessError", "Part", "Service"]

Part = Literal["Redis as broker", "RabbitMQ", "small disk"]
READY_SECONDS_MAX = 60.0
PROCESSES_MAX = 4
"""So many workers, and as many API processes."""
STOP_SECONDS_MAX = 15.0
FIRST_PORT = 6_001
"""The relays' ports are parts of sockets' names; only to RabbitMQ they are TCP ports of this machine."""
_JOINED = "SELECT DISTINCT application_name FROM pg_stat_activity WHERE application_name = ANY(%s)"
OPERATOR, STANDBY = "operator", "standby"
"""They have ways to the servers as well."""


class Service(Database):
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
        super().__init__(folder, programs)
        self._settings = settings
        self.valkey = servers.redis(self.data, programs)
        self.rabbitmq = None if programs.broker is None else RabbitMQ(programs.broker)
        places = {kind: [f"{kind}-{n + 1}" for n in range(PROCESSES_MAX)] for kind in ("worker", "api")}
        self.workers, self.apis = places["worker"][:workers], places["api"][:api_processes]
        self.key, self._secret_key = secrets.token_urlsafe(24), secrets.token_urlsafe(24)
        self._programs: dict[str, Program] = {}
        names = chain(*places.values(), (OPERATOR, STANDBY))
        self._ports = {name: FIRST_PORT + n for n, name in enumerate(names)}
        self.relays = Relays(self._links(), self.data / "log" / "relays.log")
        self._ends = ExitStack()

    @property
    def programs(self) -> Sequence[str]:
        """The names of all workers and API processes."""
        return [*self.workers, *self.apis]

    @property
    def parts(self) -> frozenset[Part]:
        """The parts that only some services have."""
        broker: Part = "Redis as broker" if self.rabbitmq is None else "RabbitMQ"
        return frozenset({broker, "small disk"} if self.disk.small else {broker})

    def __enter__(self) -> Self:
        with ExitStack() as ends:
            ends.enter_context(embedded.locked(self.data))
            ends.callback(self.valkey.stop)
            self.valkey.start()
            ends.enter_context(self.running_database())
            self.valkey.wait_ready()
            if self.rabbitmq is not None:
                ends.enter_context(self.rabbitmq)
            schema.upgrade(embedded.addresses(self.data).database_url)
            self.query(TRIGGERS)
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

    def redis(self, database: int = 0) -> "redis.Redis":
        """Return a client of Redis, past the relays."""
        return redis.Redis(unix_socket_path=str(self.valkey.socket), db=database, socket_timeout=5)

    def versions(self) -> str:
        """Return the names and versions of the servers."""
        [(postgres,)] = self.query("SHOW server_version")
        with self.redis() as client:
            found = client.info("server")
        name = str(found.get("server_name", "redis")).capitalize()
        results = f"{name} {found.get('valkey_version', found['redis_version'])}"
        broker = [] if self.rabbitmq is None else [self.rabbitmq.version()]
        return ", ".join([f"PostgreSQL {postgres}", results, *broker])

    def wait_ready(self, seconds_max: float = READY_SECONDS_MAX) -> None:
        """Return once the service is ready; raises `HarnessError` with the ends of the logs."""
        until = time.monotonic() + seconds_max
        found = "no answer"
        with httpx2.Client(base_url=self.url, timeout=5) as client:
            while time.monotonic() < until:
                with suppress(httpx2.HTTPError):
                    answer = client.get("/readyz")
                    if answer.status_code == HTTPStatus.OK:
                        return
                    found = answer.text
                time.sleep(POLL_SECONDS)
        raise HarnessError(f"the service is not ready: {found}{self.last_words()}")

    def wait_joined(self, workers_min: int = PROCESSES_MAX) -> None:
        """Return once so many workers have a session, or all of them."""
        until = time.monotonic() + READY_SECONDS_MAX
        workers = [f"admitone-worker/{socket.gethostname()[:32]}/{self.pid(name)}" for name in self.workers]
        with self.session() as session:
            while session.execute(_JOINED, [workers]).rowcount < min(workers_min, len(workers)):
                if time.monotonic() > until:
                    raise HarnessError(f"a worker does not join{self.last_words()}")
                time.sleep(POLL_SECONDS)

    def last_words(self) -> str:
        """Return the ends of the programs' logs."""
        logs = sorted((self.data / "log").glob("*.log"))
        return "".join(f"\n{log.name}:{child_processes.tail(log)}" for log in logs)

    def operator_settings(self) -> Settings:
        """Return the settings of a command of the operator; no fault strikes its ways."""
        variables = self._environment(OPERATOR).items()
        urls = {name: value for name, value in variables if name.endswith("_URL")}
        return Settings(
            **{name.removeprefix("ADMITONE_").lower(): url for name, url in urls.items()},  # type: ignore[arg-type]
            secret_key=SecretStr(self._secret_key),
        )

    def fail_over(self, standby: Standby) -> None:
        """Promote a standby, let all ways to the primary lead to it, and remove the primary's files."""
        lost = self.postgres.cluster
        self.relays.change(f"{STANDBY}/postgres", "cut")
        socket_path = self.promote(standby)
        for name in self._ports:
            self.relays.lead(f"{name}/postgres", str(socket_path))
        shutil.rmtree(lost)

    def replicated(self) -> Standby:
        """Return a new synchronous standby, which reads from a way of its own."""
        return self.add_standby(data_dir.sockets(self.data), self._ports[STANDBY])

    def _links(self) -> dict[str, tuple[str, str]]:
        """Return a way of each program to each server: the address at which it begins, and its end."""
        sockets = data_dir.sockets(self.data)
        links: dict[str, tuple[str, str]] = {}
        for name, port in self._ports.items():
            database = f"{sockets}/.s.PGSQL.{port}", f"{sockets}/.s.PGSQL.{data_dir.POSTGRES_PORT}"
            links[f"{name}/postgres"] = database
            links[f"{name}/redis"] = f"{sockets}/valkey-{port}.sock", f"{sockets}/valkey.sock"
            if self.rabbitmq is not None:
                links[f"{name}/rabbitmq"] = f"127.0.0.1:{free_port()}", self.rabbitmq.address
        return links

    def _environment(self, name: str, clock_ahead: float = 0.0) -> dict[str, str]:
        addresses, port = embedded.addresses(self.data), self._ports[name]
        plain = f"port={data_dir.POSTGRES_PORT}"
        if self.rabbitmq is None:
            broker_url = addresses.broker_url.replace("valkey.sock", f"valkey-{port}.sock")
        else:
            broker_url = self.rabbitmq.url(self.relays.links[f"{name}/rabbitmq"][0])
        variables = {
            "ADMITONE_DATABASE_URL": addresses.database_url.replace(plain, f"port={port}"),
            "ADMITONE_BROKER_URL": broker_url,
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
