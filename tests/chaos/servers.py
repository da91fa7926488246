"""The servers under the service, from the wheels or from this machine, in folders of their own."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from msgspec import Struct

from ops.embedded import Postgres, Valkey
from ops.embedded.unprivileged import EmbeddedError


class Programs(Struct, frozen=True, kw_only=True):
    """The folder of PostgreSQL's programs and the program of Redis; None is that of the wheel.

    `broker` is the URL of a RabbitMQ; without it Redis is the broker.
    """

    postgres: Path | None = None
    redis: Path | None = None
    broker: str | None = None


OF_THE_WHEELS = Programs()


class InstalledPostgres(Postgres):
    """A server from programs of any version, in a data folder of its own."""

    locale: ClassVar[Sequence[str]] = ("--encoding=UTF8", "--locale=C.UTF-8")

    def __init__(self, data: Path, programs: Path) -> None:
        super().__init__(data)
        self._programs = programs

    def program(self, name: str) -> Path:
        """Return the path of one of PostgreSQL's programs; raises `EmbeddedError` if it is missing."""
        return _existing(self._programs / name)


class InstalledRedis(Valkey):
    """A Redis of any version and make, in memory only."""

    def __init__(self, data: Path, program: Path) -> None:
        super().__init__(data)
        self._program = program

    @property
    def program(self) -> Path:
        """The path of the server's program; raises `EmbeddedError` if it is missing."""
        return _existing(self._program)


def postgres(data: Path, programs: Programs) -> Postgres:
    """Return the database server of a data folder."""
    return Postgres(data) if programs.postgres is None else InstalledPostgres(data, programs.postgres)


def redis(data: Path, programs: Programs) -> Valkey:
    """Return the broker and result backend of a data folder."""
    return Valkey(data) if programs.redis is None else InstalledRedis(data, programs.redis)


def _existing(program: Path) -> Path:
    if not program.is_file():
        raise EmbeddedError(f"{program} is no program of this machine")
    return program
