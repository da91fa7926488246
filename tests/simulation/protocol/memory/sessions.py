"""Sessions of the database in memory, in the forms in which the service uses psycopg and SQLAlchemy."""
# ruff: noqa: ANN401 - the values are of many kinds

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from types import SimpleNamespace
from typing import Any, ClassVar, Protocol

import psycopg
from sqlalchemy.exc import OperationalError

from shared.postgres.bounded import BoundedSession
from tests.simulation.protocol import loop
from tests.simulation.protocol.memory import statements
from tests.simulation.protocol.memory.database import Backend, Database
from tests.simulation.protocol.memory.rows import Read


class Network(Protocol):
    """The way from a process to the database; each part may break the session, and raises then."""

    async def there(self, session: "Session") -> None:
        """Carry statements to the database."""

    def sent(self, session: "Session") -> None:
        """Decide what happens while the database executes them."""

    async def back(self, session: "Session") -> None:
        """Carry the results back."""


class Cursor:
    """The result of a statement; the asyncio sessions' cursors are awaited as well."""

    def __init__(self) -> None:
        self.rows: Sequence[Any] = ()
        self.rowcount = -1
        self._next = 0

    def fill(self, *results: Sequence[Any] | int) -> "Cursor":
        for result in results:
            self.rows, self.rowcount = ((), result) if isinstance(result, int) else (result, len(result))
        return self

    def fetchall(self) -> Sequence[Any]:
        return self.rows

    def fetchone(self) -> Any:
        self._next += 1
        return self.rows[self._next - 1] if self._next <= len(self.rows) else None

    def __iter__(self) -> Iterator[Any]:
        return iter(self.rows)


class Session:
    """The client's side of a session; `ask` sends statements and waits for all their results."""

    def __init__(
        self, database: Database, network: Network, silence_seconds_max: float = float("inf")
    ) -> None:
        self.closed = False
        self.backend: Backend = database.connect(silence_seconds_max)
        self._network = network
        process = loop.current()
        if process is not None:
            process.on_death.append(self.backend.client_gone)

    async def ask(self, asked: Sequence[tuple[Any, Mapping[str, Any] | None]]) -> list[Any]:
        if self.closed:
            raise psycopg.OperationalError("the connection is closed")
        await self._network.there(self)
        return (await self._results([self._send(asked)]))[0]

    def _send(self, asked: Sequence[tuple[Any, Mapping[str, Any] | None]]) -> "asyncio.Future[list[Any]]":
        reply = self.backend.execute(
            [(statements.KNOWN.get(statement, statement), dict(values or {})) for statement, values in asked]
        )
        self._network.sent(self)
        return reply

    async def _results(self, replies: "Sequence[asyncio.Future[list[Any]]]") -> list[list[Any]]:
        try:
            results = [await reply for reply in replies]
            await self._network.back(self)
        except BaseException as error:
            if not self.backend.alive or isinstance(error, asyncio.CancelledError):
                self.cut()
            raise
        return results

    def cut(self) -> None:
        """Break the connection; a statement that is under way may still be executed."""
        self.closed = True
        self.backend.client_gone()

    def add_notice_handler(self, _: object) -> None:
        """There is no standby, so no notice ever comes."""

    def remove_notice_handler(self, _: object) -> None:
        """See above."""


class WorkerSession(Session):
    """A session that blocks, as `connections.worker_session` returns it."""

    _begins = False
    _pipeline: list[tuple[Cursor, "asyncio.Future[list[Any]]"]] | None = None

    @property
    def info(self) -> SimpleNamespace:
        return SimpleNamespace(backend_pid=self.backend.pid)

    def execute(self, statement: Any, parameters: Mapping[str, Any] | None = None) -> Cursor:
        cursor = Cursor()
        if self._pipeline is None:
            begin: list[tuple[Any, None]] = [("BEGIN", None)] if self._begins else []
            self._begins = False
            return cursor.fill(*loop.blocking(self.ask([*begin, (statement, parameters)])))
        if not self._pipeline:
            loop.blocking(self._network.there(self))
        self._pipeline.append((cursor, self._send([(statement, parameters)])))
        return cursor

    @contextmanager
    def cursor(self, row_factory: object = None) -> "Iterator[WorkerSession]":  # noqa: ARG002
        yield self

    @contextmanager
    def transaction(self) -> Iterator[None]:
        self._begins = True
        try:
            yield
        except Exception:
            self._finish("ROLLBACK")
            raise
        self._finish("COMMIT")

    def _finish(self, how: str) -> None:
        begun, self._begins = not self._begins, False
        if begun and not (self.closed and how == "ROLLBACK"):
            try:
                loop.blocking(self.ask([(how, None)]))
            except psycopg.OperationalError:
                if how == "COMMIT":
                    raise

    @contextmanager
    def pipeline(self) -> Iterator[None]:
        """Let the database execute statements while the client makes the next; results come at the end."""
        self._pipeline = []
        try:
            yield
        finally:
            sent, self._pipeline = self._pipeline, None
        for (cursor, _), results in zip(
            sent, loop.blocking(self._results([r for _, r in sent])), strict=True
        ):
            cursor.fill(*results)

    def close(self) -> None:
        self.cut()


class AcceptingSession(Session):
    """A session of the intake, as `connections.accepting_session` returns it."""

    last_number = 0
    server = "simulated"
    confirmed_below = 0
    cut_off: ClassVar[list[Any]] = []  # without a standby no commit is cut off
    confirm = BoundedSession.confirm

    async def execute(self, statement: Any, parameters: Mapping[str, Any] | None = None) -> "AsyncCursor":
        cursor = AsyncCursor()
        cursor.fill(*await self.ask([(statement, parameters)]))
        return cursor

    def has_ended(self) -> bool:
        return self.closed or not self.backend.alive

    async def close(self) -> None:
        self.cut()


class AsyncCursor(Cursor):
    async def fetchone(self) -> Any:
        return super().fetchone()

    async def fetchall(self) -> Sequence[Any]:  # type: ignore[override]
        return super().fetchall()


class Engine:
    """An engine whose every connection is a new session, and whose statements commit by themselves."""

    def __init__(self, connect: Callable[[], Session]) -> None:
        self._connect = connect

    def execution_options(self, **_: object) -> "Engine":
        return self

    @asynccontextmanager
    async def connect(self) -> Any:
        try:
            connection = Connection(self._connect())
        except psycopg.Error as error:
            raise OperationalError("connect", None, error) from error
        try:
            yield connection
        finally:
            connection.session.cut()


class Connection:
    """A connection of the engine."""

    def __init__(self, session: Session) -> None:
        self.session = session

    async def execution_options(self, **_: object) -> None:
        """Each statement commits by itself in any case."""

    async def execute(self, statement: Any, parameters: Mapping[str, Any] | None = None) -> "Found":
        try:
            (result,) = await self.session.ask([(statement, parameters)])
        except psycopg.Error as error:
            raise OperationalError("execute", None, error) from error
        return Found(result)


class Found(list[Read]):
    """The rows of a read."""

    def all(self) -> "Found":
        return self

    def scalar_one(self) -> Any:
        return self[0]

    def one(self) -> Any:
        return self[0]
