"""PostgreSQL in memory, as far as the protocol relies on it: transactions, locks, sessions.

`test_conformance` holds it to the real one. It has what READ COMMITTED has: a statement reads what was
committed when it began, a write waits for the transaction that wrote the same row, and nothing of an open
transaction is seen by others. `statements` names the statements.
"""
# ruff: noqa: ANN401 - the values are of many kinds

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg

from tests.simulation.protocol.loop import Loop

START = datetime(2026, 11, 24, 12, tzinfo=UTC)

Row = Any
Rows = dict[Any, Row]
Place = tuple[str, UUID, Any]
"""A row's table, event and key."""
Execute = Callable[["Transaction", dict[str, Any]], Awaitable[Sequence[Any] | int]]


class Database:
    """The tables, by name and event; `moment` lets the time of a step pass, `flush` that of a commit."""

    def __init__(
        self, loop: Loop, moment: Callable[[], Awaitable[None]], flush: Callable[[], Awaitable[None]]
    ) -> None:
        self.loop = loop
        self.moment, self.flush = moment, flush
        self.tables: dict[tuple[str, UUID], Rows] = {}
        self.locked: dict[Place, Transaction] = {}
        self.advisory: Counter[tuple[Backend, int, int]] = Counter()
        self.backends: dict[int, Backend] = {}
        self.last_number = 0
        self.up = True
        self.before_commit: Callable[[Transaction], None] = lambda _: None
        self.after_commit: Callable[[Transaction], None] = lambda _: None
        self._pids = 0

    def rows(self, table: str, event_id: UUID) -> Rows:
        """Return the committed rows of a table that belong to an event."""
        return self.tables.get((table, event_id), {})

    def now(self) -> datetime:
        """Return the database's time."""
        return START + timedelta(seconds=self.loop.time())

    def connect(self, silence_seconds_max: float = float("inf")) -> "Backend":
        """Return a new session of the current process, which the database ends after so long a silence."""
        if not self.up:
            raise psycopg.OperationalError("connection refused")
        self._pids += 1
        backend = Backend(self, self._pids, silence_seconds_max)
        self.backends[backend.pid] = backend
        return backend

    def end_silent(self) -> None:
        """End the sessions whose client has been silent for too long."""
        for backend in list(self.backends.values()):
            backend.end_if_silent()

    def stop(self) -> None:
        """End all sessions, and take no new ones; what is committed stays."""
        self.up = False
        for backend in list(self.backends.values()):
            backend.end()

    def start(self) -> None:
        """Take sessions again."""
        self.up = True


@dataclass(eq=False)
class Transaction:
    """What one transaction wrote, until it commits."""

    database: Database
    backend: "Backend"
    now: datetime
    lock_seconds_max: float = 10
    written: dict[tuple[str, UUID], Rows] = field(default_factory=dict)
    _locks: list[Place] = field(default_factory=list)
    ended: asyncio.Future[None] | None = None

    def rows(self, table: str, event_id: UUID) -> Rows:
        """Return the rows as this transaction sees them now."""
        committed, own = self.database.rows(table, event_id), self.written.get((table, event_id))
        if own is None:
            return committed
        return {key: row for key, row in {**committed, **own}.items() if row is not None}

    def get(self, table: str, event_id: UUID, key: object) -> Row:
        """Return a row, None if there is none."""
        own = self.written.get((table, event_id), {})
        return own[key] if key in own else self.database.rows(table, event_id).get(key)

    def try_lock(self, table: str, event_id: UUID, key: object) -> bool:
        """Lock a row, or a key of which a row may be written; return False if another transaction has it."""
        place = table, event_id, key
        holder = self.database.locked.setdefault(place, self)
        if holder is self and place not in self._locks:
            self._locks.append(place)
        return holder is self

    async def lock(self, table: str, event_id: UUID, key: object) -> None:
        """Lock a row once the transaction that has it is over; raises if that takes too long."""
        loop = self.database.loop
        until = loop.time() + self.lock_seconds_max
        while not self.try_lock(table, event_id, key):
            holder = self.database.locked[table, event_id, key]
            if holder.ended is None:
                holder.ended = loop.create_future()
            try:
                async with asyncio.timeout_at(until):
                    await asyncio.shield(holder.ended)
            except TimeoutError:
                raise psycopg.errors.LockNotAvailable("canceling statement due to lock timeout") from None

    async def write(self, table: str, event_id: UUID, key: object, row: Row) -> None:
        """Write a row, None to delete it."""
        await self.lock(table, event_id, key)
        self.written.setdefault((table, event_id), {})[key] = row

    async def commit(self) -> None:
        """Make what was written seen by all; until that is done the transaction can be lost."""
        try:
            if self.written:
                await self.database.flush()
                self._apply()
        finally:
            self.end()

    def _apply(self) -> None:
        self.database.before_commit(self)
        for table, rows in self.written.items():
            kept = self.database.tables.setdefault(table, {})
            for key, row in rows.items():
                if row is None:
                    kept.pop(key, None)
                else:
                    kept[key] = row
        self.database.after_commit(self)

    def end(self) -> None:
        """Release the locks; what is not committed is gone."""
        for place in self._locks:
            del self.database.locked[place]
        self._locks.clear()
        self.written = {}
        if self.ended is not None and not self.ended.done():
            self.ended.set_result(None)


class Backend:
    """The server's side of a session, which goes on when its client is stopped or killed."""

    def __init__(self, database: Database, pid: int, silence_seconds_max: float) -> None:
        self.database = database
        self.pid = pid
        self.alive = True
        self.silence_seconds_max = silence_seconds_max
        self.transaction: Transaction | None = None
        self._spoke_at = database.loop.time()
        self._task: asyncio.Task[Any] | None = None
        self._gone = False
        self._reason: psycopg.Error = psycopg.errors.AdminShutdown("terminating connection")

    def end_if_silent(self) -> None:
        """End the session if it has waited for its client for too long, as its time-outs do."""
        if self.alive and self.silent_seconds() > self.silence_seconds_max:
            idle = self.transaction is None
            error = (
                psycopg.errors.IdleSessionTimeout if idle else psycopg.errors.IdleInTransactionSessionTimeout
            )
            self._reason = error("terminating connection due to a time-out")
            self.end()

    def silent_seconds(self) -> float:
        """Return how long the session has waited for its client."""
        busy = self._task is not None and not self._task.done()
        return 0 if busy else self.database.loop.time() - self._spoke_at

    def holds(self, lock_class: int, number: int) -> bool:
        """Return True if the session holds the advisory lock."""
        return self.database.advisory[self, lock_class, number] > 0

    def execute(self, asked: Sequence[tuple[Execute | str, dict[str, Any]]]) -> "asyncio.Future[list[Any]]":
        """Execute statements in order, behind those in progress; return all their results."""
        reply: asyncio.Future[list[Any]] = self.database.loop.create_future()
        self.database.end_silent()
        if not self.alive:
            reply.set_exception(self._reason)
            return reply
        self._task = self.database.loop.spawn(self._execute(asked, self._task), None)
        # In a context of no process: the server goes on when the client is stopped or killed.
        self._task.add_done_callback(lambda task: self._tell(task, reply), context=Context())
        return reply

    async def _execute(
        self, asked: Sequence[tuple[Execute | str, dict[str, Any]]], before: asyncio.Task[Any] | None
    ) -> list[Any]:
        if before is not None and not before.done():
            await before  # in a pipeline no statement is executed after one that fails
        results: list[Any] = []
        for statement, parameters in asked:
            match statement:
                case "BEGIN":
                    self.transaction = Transaction(self.database, self, self.database.now())
                case "COMMIT" | "ROLLBACK":
                    transaction, self.transaction = self.transaction, None
                    assert transaction is not None
                    if statement == "COMMIT":
                        await transaction.commit()
                    else:
                        transaction.end()
                case _:
                    assert not isinstance(statement, str), statement
                    results.append(await self._run(statement, parameters))
        return results

    async def _run(self, statement: Execute, parameters: dict[str, Any]) -> Any:
        if self.transaction is not None:
            return await statement(self.transaction, parameters)
        transaction = Transaction(self.database, self, self.database.now())
        try:
            result = await statement(transaction, parameters)
            await transaction.commit()
        finally:
            transaction.end()
        return result

    def _tell(self, task: asyncio.Task[Any], reply: "asyncio.Future[list[Any]]") -> None:
        self._spoke_at = self.database.loop.time()
        error = self._reason if task.cancelled() else task.exception()
        if not reply.done():
            if error is None:
                reply.set_result(task.result())
            else:
                reply.set_exception(error)
        if self._gone:
            self.end()

    def client_gone(self) -> None:
        """End the session; a statement in progress is executed first, a transaction in progress is lost."""
        self._gone = True
        if self._task is None or self._task.done():
            self.end()

    def end(self) -> None:
        """End the session at once: its transaction is lost, its locks are free."""
        if not self.alive:
            return
        self.alive = False
        del self.database.backends[self.pid]
        if self._task is not None:
            self._task.cancel()
        if self.transaction is not None:
            self.transaction.end()
        for lock in [lock for lock in self.database.advisory if lock[0] is self]:
            del self.database.advisory[lock]
