"""Questions of tests to the embedded servers."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import redis

from ops import child_processes, embedded
from ops.embedded import Postgres, Servers, data_dir


def query(servers: Servers, statement: str) -> list[tuple[object, ...]]:
    url = servers.database_url.replace("+psycopg", "")
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


def valkey(servers: Servers) -> "redis.Redis":
    return redis.Redis(unix_socket_path=servers.broker_url.split("://")[1].split("?")[0])


def processes_of(data: Path) -> list[int]:
    """Every process that names the folder, its sockets or its cluster in its arguments or title."""
    marks = (str(data), str(data_dir.sockets(data)), f"admitone-{data_dir.digest(data)}")
    return child_processes.find(lambda _pid, argv: any(mark in part for part in argv for mark in marks))


@contextmanager
def one_postgres(data: Path) -> Iterator[Postgres]:
    with embedded.locked(embedded.prepare(data)):
        server = Postgres(data)
        try:
            server.start()
            server.wait_ready()
            yield server
        finally:
            server.stop()


def stopped_in_order(place: Path) -> Path:
    """Make a data folder whose servers were stopped in order."""
    with one_postgres(place / "data"):
        pass
    return place / "data"
