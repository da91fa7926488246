"""A running service for tests: API and workers as processes, as in production."""

import asyncio
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx2
import psycopg
from psycopg.rows import dict_row
from sqlalchemy import make_url

from ops import embedded
from ops.embedded import Servers

CHECKOUT = Path(__file__).resolve().parent.parent
_READY_SECONDS_MAX = 90
_STOP_SECONDS_MAX = 15
WORKER_BYTES_MAX = 300_000_000
"""The most memory that messages which are garbage may let a worker take, far below its promised 512 MB."""
Json = dict[str, Any]


class Stage:
    """API processes and workers on given servers; all of them are gone at the end, whatever happens."""

    def __init__(
        self, servers: Servers, database_url: str, folder: Path, *, workers: int = 1, api_processes: int = 1
    ) -> None:
        self.servers = servers
        self.database_url = database_url
        self.more_environment: dict[str, str] = {}
        self.key = secrets.token_urlsafe(24)
        self.viewer_key = secrets.token_urlsafe(24)
        self.workers: list[subprocess.Popen[bytes]] = []
        self._others: list[subprocess.Popen[bytes]] = []
        self._folder = folder
        self.metrics = folder / "metrics"
        self.metrics.mkdir(exist_ok=True)
        self._counts = workers, api_processes
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=4_096)
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def __enter__(self) -> Self:
        workers, api_processes = self._counts
        try:
            for _ in range(workers):
                self.start_worker()
            for _ in range(api_processes):
                self.start_api()
            if api_processes:
                self.wait_ready()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    @property
    def admin(self) -> Mapping[str, str]:
        """The headers of an admin."""
        return {"authorization": f"Bearer {self.key}"}

    def environment(self) -> dict[str, str]:
        """The environment of every process of the service."""
        return {
            **os.environ,
            "ADMITONE_DATABASE_URL": self.database_url,
            "ADMITONE_BROKER_URL": self.servers.broker_url,
            "ADMITONE_RESULT_URL": self.servers.result_url,
            "ADMITONE_ADMIN_KEY": self.key,
            "ADMITONE_VIEWER_KEY": self.viewer_key,
            **self.more_environment,
            "ADMITONE_METRICS_FOLDER": str(self.metrics),
            "PYTHONPATH": str(CHECKOUT),
        }

    def environment_of(self, command: str) -> dict[str, str]:
        """The environment of the process that runs this command: `api` or `worker`."""
        assert command in {"api", "worker"}
        return self.environment()

    def start_worker(self, checkout: Path = CHECKOUT) -> subprocess.Popen[bytes]:
        """Start one more worker, of this version or of that of another checkout."""
        worker = self._start("worker", checkout=checkout)
        self.workers.append(worker)
        return worker

    def start_api(self, checkout: Path = CHECKOUT) -> subprocess.Popen[bytes]:
        """Start one more API process, of this version or of that of another checkout."""
        process = self._start("api", "--fd", str(self._socket.fileno()), checkout=checkout)
        self._others.append(process)
        return process

    def end(self, process: subprocess.Popen[bytes]) -> None:
        """Tell a process to end, and wait for it."""
        process.terminate()
        process.wait(_STOP_SECONDS_MAX)
        for processes in (self.workers, self._others):
            if process in processes:
                processes.remove(process)

    def kill_worker(self, index: int) -> None:
        """End a worker as the kernel's out-of-memory killer would."""
        self.workers[index].send_signal(signal.SIGKILL)
        self.workers.pop(index).wait()

    @property
    def apis(self) -> Sequence[subprocess.Popen[bytes]]:
        """The API processes."""
        return self._others

    def end_api(self) -> None:
        """Tell all API processes to end."""
        for process in self._others:
            process.terminate()

    def await_api(self) -> None:
        """Return once all API processes have ended."""
        for process in self._others:
            process.wait(_STOP_SECONDS_MAX)

    def client(self) -> httpx2.Client:
        """Return a client of the API."""
        return httpx2.Client(base_url=self.url, timeout=30)

    def create_event(self, **terms: Any) -> Json:
        """Create an event with a slug of its own and return it."""
        asked = {"slug": f"drop-{secrets.token_hex(6)}", "title": "A drop", "capacity": 10, **terms}
        with self.client() as client:
            answer = client.post("/api/events", json=asked, headers=self.admin)
        assert answer.status_code == 201, answer.text
        created: Json = answer.json()
        return created

    def get(self, path: str) -> Json:
        """Return what an admin sees there."""
        with self.client() as client:
            answer = client.get(path, headers=self.admin)
        assert answer.status_code == 200, answer.text
        found: Json = answer.json()
        return found

    def registrations(self, event: Json) -> list[Json]:
        """Return all registrations of an event, in order."""
        items: list[Json] = []
        cursor = ""
        while True:
            page = self.get(f"/api/events/{event['id']}/registrations?limit=1000{cursor}")
            items += page["items"]
            if page["nextCursor"] is None:
                return items
            cursor = f"&cursor={page['nextCursor']}"

    def register_at_once(self, event: Json, bodies: Sequence[Json], **headers: str) -> list[httpx2.Response]:
        """Send all registrations at the same moment, and return their answers in the same order."""

        async def crowd() -> list[httpx2.Response]:
            limits = httpx2.Limits(max_connections=len(bodies), max_keepalive_connections=0)
            async with httpx2.AsyncClient(base_url=self.url, limits=limits, timeout=60) as client:
                path = f"/api/p/{event['slug']}/register"
                return await asyncio.gather(
                    *(client.post(path, json=body, headers=headers) for body in bodies)
                )

        return asyncio.run(crowd())

    def query(self, statement: str, *parameters: Any) -> list[Json]:
        """Run plain SQL on the service's database."""
        url = make_url(self.database_url).set(drivername="postgresql")
        with psycopg.connect(url.render_as_string(hide_password=False), row_factory=dict_row) as connection:
            found = connection.execute(statement, parameters)
            return found.fetchall() if found.description is not None else []

    def log(self) -> str:
        """Return what all processes have written to their logs."""
        return "".join(path.read_text() for path in sorted(self._folder.glob("*.log")))

    def _start(self, *arguments: str, checkout: Path = CHECKOUT) -> subprocess.Popen[bytes]:
        log = self._folder / f"{arguments[0]}-{secrets.token_hex(3)}.log"
        with log.open("wb") as output:
            return subprocess.Popen(
                [python_of(checkout), "-m", "ops.cli", *arguments],
                cwd=checkout,
                env={**self.environment_of(arguments[0]), "PYTHONPATH": str(checkout)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=[self._socket.fileno()],
            )

    def wait_ready(self) -> None:
        """Return when the service is ready."""
        deadline = time.monotonic() + _READY_SECONDS_MAX
        with httpx2.Client(base_url=self.url, timeout=_READY_SECONDS_MAX) as client:
            found = "no answer"
            while time.monotonic() < deadline and all(
                process.poll() is None for process in self._others + self.workers
            ):
                with suppress(httpx2.TimeoutException):
                    answer = client.get("/readyz")
                    if answer.status_code == HTTPStatus.OK:
                        return
                    found = answer.text
                time.sleep(0.05)
        raise AssertionError(f"not ready: {found}\n{self.log()[-3_000:]}")

    def _stop(self) -> None:
        processes = self._others + self.workers
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                process.wait(_STOP_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._socket.close()


class SlowTicks(Stage):
    """A service whose workers tick once a minute: without wake messages no command would be decided."""

    def environment(self) -> dict[str, str]:
        """The environment of every process of the service."""
        slow = {"ADMITONE_TICK_SECONDS": "60", "ADMITONE_OWNER_SILENCE_SECONDS_MAX": "240"}
        return {**super().environment(), **slow}

    def __enter__(self) -> Self:
        """Start the service, and wait until the API process knows the owners of events."""
        super().__enter__()
        try:
            while not self._knows_owners():
                pass
        except BaseException:
            self._stop()
            raise
        return self

    def _knows_owners(self) -> bool:
        event = self.create_event()
        with self.client() as client:
            wait = {"prefer": "wait=1"}
            answer = client.post(f"/api/p/{event['slug']}/register", json={"name": "User"}, headers=wait)
        return answer.status_code == 201


def python_of(checkout: Path) -> str:
    """Return the Python that has a checkout's packages."""
    return sys.executable if checkout == CHECKOUT else str(checkout / ".venv/bin/python")


def peak_bytes(worker: subprocess.Popen[bytes]) -> int:
    """Return the most memory that a process has had."""
    [line] = re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{worker.pid}/status").read_text())
    return int(line) * 1_024


class Breakable:
    """A stage with servers of its own, each of which can be stopped and started again."""

    def __init__(self, folder: Path, migrated_cluster: Path) -> None:
        self._folder = folder
        self._stack = ExitStack()
        data = embedded.prepare(folder / "servers")
        shutil.copytree(migrated_cluster, data / "postgres")
        self.valkey, self.postgres = embedded.Valkey(data), embedded.Postgres(data)
        self.addresses = embedded.addresses(data)

    def __enter__(self) -> Self:
        with self._stack as ends:
            ends.enter_context(embedded.locked(self._folder / "servers"))
            for server in (self.valkey, self.postgres):
                ends.callback(server.stop)
                server.start()
            for server in (self.valkey, self.postgres):
                server.wait_ready()
            self._stack = ends.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def __call__(self, *, workers: int = 1, api_processes: int = 1) -> Stage:
        """Return a running stage on these servers."""
        stage = Stage(
            self.addresses,
            self.addresses.database_url,
            self._folder,
            workers=workers,
            api_processes=api_processes,
        )
        return self._stack.enter_context(stage)
