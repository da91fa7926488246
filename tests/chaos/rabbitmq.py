"""A RabbitMQ as the broker: a virtual host of the run's own at a server of this machine.

`rabbitmqctl` makes and breaks the virtual host, so no other user of the server notices.
"""

import secrets
import shutil
import subprocess
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from shared.errors import ExpectedError

CONTROL = "rabbitmqctl"
CONTROL_SECONDS_MAX = 60.0
PORT = 5_672


class RabbitMQError(ExpectedError):
    """The virtual host cannot be made; the message says why."""


def is_usable() -> bool:
    """Return True if this user may make virtual hosts: `rabbitmqctl` serves root and its own user."""
    try:
        _control("list_vhosts")
    except (RabbitMQError, OSError):
        return False
    return True


def _control(*arguments: str) -> str:
    done = subprocess.run(
        [CONTROL, "--quiet", *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=CONTROL_SECONDS_MAX,
    )
    if done.returncode != 0:
        raise RabbitMQError(f"{CONTROL} {arguments[0]} failed: {done.stderr.strip() or done.stdout}")
    return done.stdout


class RabbitMQ:
    """The virtual host, and the user of the given URL, which may do everything there."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme != "amqp" or not (parts.username and parts.password and parts.hostname):
            raise RabbitMQError("a broker is named like amqp://guest:guest@127.0.0.1:5672//")
        self._user, self._password = parts.username, parts.password
        self.address = f"{parts.hostname}:{parts.port or PORT}"
        self.virtual_host = f"admitone-chaos-{secrets.token_hex(4)}"

    def __enter__(self) -> Self:
        if shutil.which(CONTROL) is None:
            raise RabbitMQError(f"{CONTROL} is not installed: no virtual host can be made")
        self._make()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _control("delete_vhost", self.virtual_host)

    def url(self, address: str) -> str:
        """Return the URL of the virtual host behind this address."""
        return f"amqp://{self._user}:{self._password}@{address}/{self.virtual_host}"

    def version(self) -> str:
        """Return the server's name and version."""
        return f"RabbitMQ {_control('version').strip()}"

    def refuse(self) -> None:
        """End all connections, and refuse new ones."""
        _control("clear_permissions", "-p", self.virtual_host, self._user)
        _control("close_all_connections", "-p", self.virtual_host, "refused")

    def allow(self, *, configure: str = ".*", write: str = ".*", read: str = ".*") -> None:
        """Let the user do everything, or only what concerns these names."""
        _control("set_permissions", "-p", self.virtual_host, self._user, configure, write, read)

    def queues(self) -> list[str]:
        """Return the names of all queues."""
        return _control("list_queues", "-p", self.virtual_host, "--no-table-headers", "name").split()

    def replace(self) -> None:
        """End all connections, and begin anew without the queues and the messages."""
        _control("delete_vhost", self.virtual_host)
        self._make()

    def _make(self) -> None:
        _control("add_vhost", self.virtual_host)
        self.allow()
