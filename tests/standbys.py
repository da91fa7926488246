"""A PostgreSQL with a synchronous standby, and a hop between the two that can be paused."""

import shutil
import socket
import subprocess
import threading
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg
from psycopg.rows import dict_row

from ops import embedded
from ops.embedded import Postgres, Servers, data_dir, postgres, unprivileged
from ops.embedded.server import clean_environment
from ops.embedded.unprivileged import Way
from tests.stage import Json, Stage

_HOP_PORT = 5_433
STANDBY_NAME = "s1"


class Hop:
    """A relay from the standby to the primary; while it is paused nothing passes."""

    def __init__(self, sockets: Path) -> None:
        self._target = str(sockets / f".s.PGSQL.{data_dir.POSTGRES_PORT}")
        self._passing = threading.Event()
        self._passing.set()
        self._closed = False
        self._streams: list[socket.socket] = []
        path = sockets / f".s.PGSQL.{_HOP_PORT}"
        path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        path.chmod(0o777)
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def pause(self) -> None:
        """Let nothing pass from now on."""
        self._passing.clear()

    def resume(self) -> None:
        """Let all pass again, also what came meanwhile."""
        self._passing.set()

    def close(self) -> None:
        """End all connections; what came while the hop was paused is lost."""
        self._closed = True
        self._passing.set()
        for stream in (self._listener, *self._streams):
            with suppress(OSError):
                stream.shutdown(socket.SHUT_RDWR)
            stream.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                standby, _ = self._listener.accept()
                primary = socket.socket(socket.AF_UNIX)
                try:
                    primary.connect(self._target)
                except OSError:
                    standby.close()
                    primary.close()
                    continue
                self._streams += [standby, primary]
                for source, target in ((standby, primary), (primary, standby)):
                    threading.Thread(target=self._relay, args=(source, target), daemon=True).start()

    def _relay(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                self._passing.wait()
                if self._closed:
                    return
                target.sendall(data)
        for stream in (source, target):
            with suppress(OSError):
                stream.shutdown(socket.SHUT_RDWR)


class Standby(Postgres):
    """A standby with the programs of its primary, made by a base backup over a socket of this folder."""

    def __init__(self, data: Path, primary: Postgres, sockets: Path, port: int) -> None:
        super().__init__(data)
        self._primary = primary
        self._way = f"host={sockets} port={port} user={postgres.USER} application_name={STANDBY_NAME}"

    def program(self, name: str) -> Path:
        """Return the path of one of the primary's programs."""
        return self._primary.program(name)

    def _create(self, way: Way) -> None:
        target = str(self.cluster)
        argv = [str(self.program("pg_basebackup")), "-d", self._way, "-D", target, "-c", "fast", "-R"]
        subprocess.run(argv, check=True, env=clean_environment(), capture_output=True)
        with (self.cluster / "postgresql.auto.conf").open("a") as settings:
            settings.write(f"primary_conninfo = '{self._way}'\n")
        unprivileged.give(self.cluster, way)


class Cluster:
    """A primary, its synchronous standby, and Valkey; `url` names both servers."""

    def __init__(self, folder: Path, migrated_cluster: Path) -> None:
        self._folder = folder
        self._stack = ExitStack()
        data, standby = embedded.prepare(folder / "servers"), embedded.prepare(folder / "standby")
        shutil.copytree(migrated_cluster, data / "postgres")
        self.primary, self.valkey = Postgres(data), embedded.Valkey(data)
        self.standby = Standby(standby, self.primary, self.primary.sockets, _HOP_PORT)
        self.servers: Servers = embedded.addresses(data)
        hosts = "&".join(
            f"host={server.sockets}:{data_dir.POSTGRES_PORT}" for server in (self.primary, self.standby)
        )
        self.url = f"postgresql+psycopg://admitone@/admitone?{hosts}"

    def __enter__(self) -> Self:
        with self._stack as ends:
            for name in ("servers", "standby"):
                ends.enter_context(embedded.locked(self._folder / name))
            for server in (self.valkey, self.primary):
                ends.callback(server.stop, 5)
                server.start()
            for server in (self.valkey, self.primary):
                server.wait_ready()
            self.hop = Hop(self.primary.sockets)
            ends.callback(self.hop.close)
            ends.callback(self.standby.stop, 5)
            self.standby.start()
            self.standby.wait_ready()
            self.set_standby(STANDBY_NAME)
            self._stack = ends.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def __call__(self, *, workers: int = 1, api_processes: int = 1) -> Stage:
        """Return a running stage on this cluster."""
        stage = Stage(self.servers, self.url, self._folder, workers=workers, api_processes=api_processes)
        return self._stack.enter_context(stage)

    def set_standby(self, name: str) -> None:
        """Have commits wait for this standby; for none if the name is empty."""
        names = f"FIRST 1 ({name})" if name else ""
        self.query(self.primary, f"ALTER SYSTEM SET synchronous_standby_names = '{names}'")
        self.query(self.primary, "SELECT pg_reload_conf()")

    def query(self, server: Postgres, statement: str, *parameters: Any) -> list[Json]:
        """Run plain SQL on one of the servers."""
        with psycopg.connect(
            host=str(server.sockets),
            port=data_dir.POSTGRES_PORT,
            user=postgres.USER,
            dbname=postgres.DATABASE,
            autocommit=True,
            row_factory=dict_row,
        ) as connection:
            found = connection.execute(statement.encode(), parameters)
            return found.fetchall() if found.description else []

    def restart_primary(self) -> None:
        """Let the primary crash and recover."""
        self.primary.stop(crash=True)
        self.primary.start()
        self.primary.wait_ready()

    def fail_over(self) -> None:
        """Kill the primary and promote the standby."""
        self.primary.stop(crash=True)
        self.hop.close()
        self.query(self.standby, "SELECT pg_promote(true)")
