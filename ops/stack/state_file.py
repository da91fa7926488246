"""The files of a stack in its data folder: its keys, and its state for other commands."""

import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Self

from ops.embedded.data_dir import Servers
from ops.embedded.unprivileged import EmbeddedError
from ops.stack.programs import DIGEST_KEY_VARIABLE, KEY_VARIABLE

KEY_BYTES = 32
KEY_LENGTH_MIN = 16
"""The same limit as that of `Settings.admin_key`."""


@dataclass(frozen=True, kw_only=True)
class AdminKey:
    """The key for the admin routes; ``kept_in`` is None if it is the environment's."""

    secret: str
    kept_in: Path | None
    new: bool = False


def admin_key(data: Path) -> AdminKey:
    """Return the environment's key, else the folder's, which the first call makes for its owner alone."""
    return _key(data / "admin.key", KEY_VARIABLE)


def secret_key(data: Path) -> str:
    """Return the key of digests: the environment's, else the folder's, which the first call makes."""
    return _key(data / "secret.key", DIGEST_KEY_VARIABLE).secret


def _key(path: Path, variable: str) -> AdminKey:
    if secret := os.environ.get(variable):
        return AdminKey(secret=secret, kept_in=None)
    try:
        secret = path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        secret = secrets.token_urlsafe(KEY_BYTES)
        _write_private(path, f"{secret}\n")
        return AdminKey(secret=secret, kept_in=path, new=True)
    except (OSError, UnicodeDecodeError) as error:
        raise EmbeddedError(f"{path} cannot be read: {error}") from error
    if len(secret) < KEY_LENGTH_MIN:
        raise EmbeddedError(
            f"{path} holds no key of {KEY_LENGTH_MIN} characters or more; remove it for a new one"
        )
    return AdminKey(secret=secret, kept_in=path)


@dataclass(frozen=True, kw_only=True)
class Running:
    """A running stack, as ``stack.json`` describes it for other commands of the same user."""

    pid: int
    port: int
    url: str
    database_url: str
    broker_url: str
    result_url: str

    @classmethod
    def here(cls, port: int, servers: Servers) -> Self:
        """Describe the stack that this process runs; its database's URL is one that `psql` takes too."""
        plain = replace(servers, database_url=servers.database_url.replace("+psycopg", ""))
        return cls(pid=os.getpid(), port=port, url=f"http://127.0.0.1:{port}", **asdict(plain))

    def environment(self) -> Mapping[str, str]:
        """Return the settings of the stack's programs, and of other commands on the stack."""
        return {
            "ADMITONE_DATABASE_URL": self.database_url,
            "ADMITONE_BROKER_URL": self.broker_url,
            "ADMITONE_RESULT_URL": self.result_url,
            "ADMITONE_PORT": str(self.port),
        }

    def write(self, data: Path) -> None:
        """Write the state file, by which other commands find the ready stack."""
        _write_private(_state(data), json.dumps(asdict(self), indent=2) + "\n")


def running(data: Path) -> Running | None:
    """Return the ready stack of a data folder; None if there is none.

    A killed stack leaves its file behind: then the file's process has ended, or belongs to another user.
    """
    try:
        state = Running(**json.loads(_state(data).read_text(encoding="utf-8")))
        os.kill(state.pid, 0)
    except (OSError, ValueError, TypeError):
        return None
    return state


def forget(data: Path) -> None:
    """Remove the state file."""
    _state(data).unlink(missing_ok=True)


def _state(data: Path) -> Path:
    return data.resolve() / "stack.json"


def _write_private(path: Path, text: str) -> None:
    """Replace a file in one step: no process reads half of it, and no other user reads it."""
    unfinished = path.with_name(f"{path.name}.unfinished")
    unfinished.unlink(missing_ok=True)
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    unfinished.rename(path)
