"""A connection of the API that no server can keep waiting without end."""

import asyncio
import math
import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar

import psycopg
from psycopg import waiting
from psycopg.abc import PQGen
from psycopg.rows import TupleRow

from shared.postgres import durability
from shared.postgres.durability import NotConfirmed

_Result = TypeVar("_Result")

_POLL_SECONDS = 0.1
SERVER_PROCESS = "SELECT pg_backend_pid()"
"""Asks for the server's process of a session; a pooler tells its client another number when it connects."""
GRACE_SECONDS = 1.0
"""The time that a server has to report its own time-out before the session is cut off."""


class BoundedSession(psycopg.AsyncConnection[TupleRow]):
    """A connection on which each wait for the server ends after `seconds_max`, or when it is cancelled.

    PostgreSQL ends a long statement by itself, but a frozen server does not. Either way the session ends
    without a question to its server: a frozen one would not answer, and a cancelled COMMIT would stay
    committed without its standby. The wait that was cut off raises `psycopg.OperationalError`.
    """

    seconds_max = 86_400.0
    excused: Callable[[int], Awaitable[bool]] | None = None
    """Tells whether the server's process with this id has a reason to take longer than `seconds_max`."""
    last_number = 0
    """The highest number of the ledger that this session has drawn; see `ledger.accept`."""
    server = ""
    confirmed_below = 0
    """The server's name, and the id below which its transactions are known as confirmed; see `durability`."""
    _began = math.inf
    _timer: asyncio.TimerHandle | None = None
    _judgement: "asyncio.Task[None] | None" = None

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.cut_off = durability.watch_commits(self)

    async def confirm(self) -> None:
        """Make a confirmed write; all that had ended on the server when it began is confirmed by it.

        The session must be in autocommit mode. Raises `NotConfirmed`, and psycopg's errors.
        """
        self.cut_off.clear()
        row = await (await self.execute(durability.CONFIRM)).fetchone()
        if self.cut_off:
            raise NotConfirmed
        assert row is not None, "the statement returns one row"
        self.confirmed_below = int(row[0])

    async def wait(
        self,
        gen: PQGen[_Result],
        interval: float = _POLL_SECONDS,
        timeout: float | None = None,  # noqa: ASYNC109 - psycopg's signature
    ) -> _Result:
        """Run one exchange with the server."""
        loop = asyncio.get_running_loop()
        self._began = loop.time()
        if self._timer is None:
            self._timer = loop.call_later(self.seconds_max, self._look)
        try:
            return await waiting.wait_async(gen, self.pgconn.socket, interval=interval, timeout=timeout)
        except asyncio.CancelledError:
            self.pgconn.finish()
            raise
        finally:
            self._began = math.inf

    def _look(self) -> None:
        """Cut off the exchange that is under way if it is late, else look again when it would be."""
        self._timer = None
        loop = asyncio.get_running_loop()
        left = self._began + self.seconds_max - loop.time()
        if left == math.inf:
            return  # no exchange is under way
        if left > 0:
            self._timer = loop.call_later(left, self._look)
        elif self.excused is None:
            self.cut()
        else:
            self._judgement = asyncio.create_task(self._cut_unless_excused(self.excused, self._began))

    async def _cut_unless_excused(self, excused: Callable[[int], Awaitable[bool]], began: float) -> None:
        try:
            longer = await excused(self.pgconn.backend_pid)
        except (psycopg.Error, OSError):
            longer = False
        if self._began != began:
            return  # the exchange has ended meanwhile
        if longer:
            self._timer = asyncio.get_running_loop().call_later(self.seconds_max, self._look)
        else:
            self.cut()

    def has_ended(self) -> bool:
        """Return True if this idle session is closed, or if its server has ended it meanwhile."""
        try:
            for _ in range(2):  # the server's last words, then the end of the stream
                self.pgconn.consume_input()
        except psycopg.OperationalError:
            return True
        return self.closed

    def cut(self) -> None:
        """End the session at once; an exchange that is under way raises `psycopg.OperationalError`."""
        with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(self.pgconn.socket)) as stream:
            stream.shutdown(socket.SHUT_RDWR)


def connector(seconds_max: float) -> Callable[..., Any]:
    """Return a replacement for `psycopg.AsyncConnection.connect` that makes bounded sessions.

    Behind a pooler a session prepares no statements: its next one may run in another session of the server.
    """

    async def connect(*args: Any, autocommit: bool = False, **parameters: Any) -> BoundedSession:
        session = await BoundedSession.connect(*args, autocommit=True, **parameters)
        session.seconds_max = seconds_max
        server_process = await (await session.execute(SERVER_PROCESS)).fetchone()
        if server_process != (session.info.backend_pid,):
            session.prepare_threshold = None
        await session.set_autocommit(autocommit)
        return session

    return connect
