"""PostgreSQL servers of any version, with passwords, as a package or an image sets them up."""

import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from sqlalchemy import URL

from ops.embedded import postgres, unprivileged

SUPERUSER = "admitone"
_START_SECONDS_MAX = 30


def installed() -> dict[str, Path]:
    """Return the folders of programs of all servers of this machine, by name, the embedded one first."""
    packaged = {
        f"debian-{path.parent.name}": path for path in sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    }
    return {"embedded": postgres.binary("postgres").parent} | packaged


@contextmanager
def running(programs: Path, password: str) -> Iterator[URL]:
    """Run a new server, on which each session needs a password; yield the superuser's URL."""
    way = unprivileged.way(programs / "postgres")
    with tempfile.TemporaryDirectory(prefix="ao-", dir="/tmp") as name:  # a socket's path is short
        folder = Path(name)
        (folder / "password").write_text(password)
        unprivileged.give(folder, way)
        initdb: list[str | Path] = [*way.prefix, programs / "initdb", "--encoding=UTF8", "--locale=C"]
        passwords = ["--auth=scram-sha-256", f"--pwfile={folder / 'password'}"]
        subprocess.run(
            [*initdb, *passwords, f"--username={SUPERUSER}", f"--pgdata={folder / 'data'}"],
            check=True,
            capture_output=True,
        )
        settings = {"listen_addresses": "", "unix_socket_directories": name}
        options = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [*way.prefix, programs / "postgres", "-D", folder / "data", *options], stdout=log, stderr=log
            )
        try:
            url = URL.create("postgresql", SUPERUSER, password, query={"host": name})
            _await(url.set(database="postgres"), process)
            yield url
        finally:
            process.send_signal(2)
            process.wait()


def execute(url: URL, *statements: str) -> None:
    """Run statements, each in a transaction of its own."""
    with psycopg.connect(url.render_as_string(hide_password=False), autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def _await(url: URL, process: "subprocess.Popen[bytes]") -> None:
    until = time.monotonic() + _START_SECONDS_MAX
    while True:
        assert process.poll() is None
        try:
            execute(url)
        except psycopg.OperationalError:
            assert time.monotonic() < until
            time.sleep(0.05)
        else:
            return
