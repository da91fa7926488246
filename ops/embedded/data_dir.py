"""The data folder of an embedded stack: its parts and its lock.

<data>/lock       locked by the process that runs the servers
<data>/postgres   the database; never deleted, made only by a finished initdb
<data>/sockets    private to this user; below /tmp if the path is too long or too odd for a socket URL
<data>/log        one file per process
<data>/metrics    the counters of the stack's processes; emptied at start
"""

import fcntl
import hashlib
import os
import re
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ops.embedded.unprivileged import EmbeddedError

SOCKET_PATH_BYTES_MAX = 107
"""The kernel's limit: sockaddr_un holds 108 bytes with the closing zero."""
POSTGRES_PORT = 5432
"""A part of the socket file's name; no TCP port is opened."""
PID_DIGITS_MAX = 20
_PARTS = {
    "lock",
    "postgres",
    "postgres.unfinished",
    "sockets",
    "log",
    "metrics",
    "stack.json",
    "admin.key",
    "secret.key",
}
_LOST = "lost+found"
"""A folder that a new file system has."""


@dataclass(frozen=True, kw_only=True)
class Servers:
    """The URLs of a data folder's servers: unix sockets, without characters that need quoting."""

    database_url: str
    broker_url: str
    result_url: str


def addresses(data: Path) -> Servers:
    """Return the URLs of a data folder, running or not: they depend only on its path and this user."""
    folder = sockets(data.resolve())
    valkey = f"redis+socket://{folder}/valkey.sock?virtual_host="
    return Servers(
        database_url=f"postgresql+psycopg://admitone@/admitone?host={folder}&port={POSTGRES_PORT}",
        broker_url=f"{valkey}0",
        result_url=f"{valkey}1",
    )


def sockets(data: Path) -> Path:
    """Return the folder for the sockets of a data folder, given by its absolute path."""
    folder = data / "sockets"
    longest = os.fsencode(folder / f".s.PGSQL.{POSTGRES_PORT}")
    if len(longest) <= SOCKET_PATH_BYTES_MAX and re.fullmatch(rb"[A-Za-z0-9/._-]+", longest):
        return folder
    return Path(f"/tmp/admitone-{os.geteuid()}-{digest(data)}")  # noqa: S108  # private, checked before use


def digest(data: Path) -> str:
    """Return a short name for a data folder, the same at each start."""
    return hashlib.sha256(os.fsencode(data)).hexdigest()[:16]


def prepare(data: Path) -> Path:
    """Make the data folder and its parts; return its absolute path, or raise `EmbeddedError`."""
    if sys.platform != "linux":
        raise EmbeddedError("the embedded servers run on Linux only; elsewhere use docker-compose.yml")
    data = data.resolve()
    try:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(data, os.R_OK | os.W_OK | os.X_OK):
            raise EmbeddedError(f"{data} cannot be the data folder: this user may not read and write there")
        _refuse_folder_of_others(data)
        (data / "log").mkdir(mode=0o700, exist_ok=True)
        _prepare_sockets(sockets(data))
    except OSError as error:
        raise EmbeddedError(f"{data} cannot be the data folder: {_reason(error)}") from error
    return data


def _refuse_folder_of_others(data: Path) -> None:
    """Refuse a folder with files of another program, such as a project or a home: they would be mixed."""
    names = {entry.name for entry in data.iterdir() if not entry.name.startswith(".")}
    others = sorted(names - _PARTS - {_LOST})
    if others and "lock" not in names:
        raise EmbeddedError(
            f"{data} cannot be the data folder: it has files of something else, such as {others[0]}; "
            "name an empty or a new folder"
        )


def _prepare_sockets(folder: Path) -> None:
    """Make the folder private, or refuse it: the servers trust every client of their sockets."""
    folder.mkdir(mode=0o700, exist_ok=True)
    entry = folder.lstat()
    if not stat.S_ISDIR(entry.st_mode) or entry.st_uid != os.geteuid():
        raise EmbeddedError(f"{folder} must be a folder of this user for the servers' sockets; remove it")
    if stat.S_IMODE(entry.st_mode) != stat.S_IRWXU:
        folder.chmod(stat.S_IRWXU)


@contextmanager
def locked(data: Path) -> Iterator[None]:
    """Lock a prepared data folder for this process; raises `EmbeddedError` if another process has the lock.

    The kernel releases the lock when the process ends, also after a crash.
    """
    try:
        file = (data / "lock").open("a+")
    except OSError as error:
        raise EmbeddedError(f"{data} cannot be the data folder: {_reason(error)}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read(PID_DIGITS_MAX).strip() or "unknown"
            raise EmbeddedError(f"{data} is in use by a running stack (process {holder})") from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        try:
            yield
        finally:
            if (folder := sockets(data)).name != "sockets":  # it is below /tmp
                with suppress(OSError):
                    folder.rmdir()


def _reason(error: OSError) -> str:
    where = f" ({error.filename})" if error.filename else ""
    return f"{error.strerror or error}{where}"
