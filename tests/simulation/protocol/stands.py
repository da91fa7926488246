"""One script on two stands: the servers in memory, and the real ones; what it observes must be the same.

A script calls a stand's methods one after the other. `start` begins a call that may have to wait for another
one, and `a_while` gives it the time.
"""
# ruff: noqa: ANN401 - the values are of many kinds

import asyncio
import base64
import json
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from threading import Thread
from typing import Any, Protocol
from uuid import UUID

import msgspec
from sqlalchemy import Connection, text
from sqlalchemy.util import greenlet_spawn

from shared.domain import ids
from shared.domain.event import EventSettings, Policy
from shared.messaging import results
from shared.postgres import connections, ledger
from shared.postgres.ledger import NewCommand
from shared.settings import Settings
from tests.simulation import histories, worlds
from tests.simulation.in_postgres import InPostgres
from tests.simulation.model import Json
from tests.simulation.protocol import judge, loop, processes
from tests.simulation.protocol.loop import Loop, Process
from tests.simulation.protocol.memory.broker import Consumer, Redis
from tests.simulation.protocol.memory.database import Database, Transaction
from tests.simulation.protocol.memory.rows import EVENTS, Event
from tests.simulation.protocol.memory.sessions import Session
from tests.simulation.protocol.processes import Transports
from tests.simulation.snapshot import Snapshot
from worker import batch

_A_WHILE_SECONDS = 0.3
_PAUSE_SECONDS = 0.2
_SOON_SECONDS_MAX = 20
_END = "SELECT pg_terminate_backend(:pid, 10000)"


class Started(Protocol):
    """A call that may not have ended yet."""

    def done(self) -> bool: ...

    def result(self) -> Any: ...


class Stand(Protocol):
    """Where a script runs."""

    settings: Settings
    on_close: ExitStack

    def event(self, number: int, **settings: Any) -> UUID:
        """Make an event."""

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call code that blocks, as a worker does."""

    def wait(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run code that does not block, as an API process does."""

    def start(self, function: Callable[..., Any], *arguments: Any) -> Started:
        """Begin a call of either kind."""

    def a_while(self) -> None:
        """Give calls in progress the time to do all that they can."""

    def pause(self) -> None:
        """Wait for a while on a worker's thread."""

    def end(self, pid: int) -> None:
        """End a session from the server's side."""

    def snapshot(self, event_id: UUID) -> Snapshot:
        """Return an event's rows."""

    def messages(self, queue: str) -> list[list[UUID]]:
        """Consume a queue, and return the events of its messages in their order."""


class InMemory:
    """The database in memory."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._loop = Loop()
        self._database = Database(self._loop, self._moment, self._moment)
        self._database.before_commit = self._committing
        self._decided: list[UUID] = []
        self.on_close = ExitStack()
        self._redis = Redis(self._loop, self._moment, self)
        transports = Transports(self._database, self._redis, self)
        self.on_close.enter_context(processes.wired(transports, ids.new_id))

    async def _moment(self) -> None:
        await asyncio.sleep(0.001)

    def _committing(self, transaction: Transaction) -> None:
        for (table, _), rows in transaction.written.items():
            self._decided += rows if table == "outcome" else ()

    def copies(self) -> int:
        return 1

    def delay(self) -> float:
        return 0.001

    async def there(self, session: Session) -> None:
        """Nothing happens on the way."""

    async def back(self, session: Session) -> None:
        """Nothing happens on the way."""

    def sent(self, session: Session) -> None:
        """Nothing happens meanwhile."""

    def close(self) -> None:
        self.on_close.close()
        self._loop.end([])

    def event(self, number: int, **settings: Any) -> UUID:
        values = {worlds.column(name): value for name, value in _settings(number, settings).items()}
        values["promotion_policy"] = Policy(values["promotion_policy"])
        id_ = UUID(int=number)
        rows = self._database.tables.setdefault(EVENTS, {})
        rows[id_] = Event(id=id_, settings=EventSettings(**values))
        return id_

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return self.wait(greenlet_spawn(function, *arguments))

    def wait(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self._loop.run_until_complete(coroutine)

    def start(self, function: Callable[..., Any], *arguments: Any) -> Started:
        async def run() -> Any:
            if asyncio.iscoroutinefunction(function):
                return await function(*arguments)
            return await greenlet_spawn(function, *arguments)

        return _Task(self, self._loop.spawn(run(), None))

    def a_while(self) -> None:
        self.wait(asyncio.sleep(_A_WHILE_SECONDS))

    def pause(self) -> None:
        loop.blocking(asyncio.sleep(_PAUSE_SECONDS))

    def end(self, pid: int) -> None:
        self._database.backends[pid].end()

    def snapshot(self, event_id: UUID) -> Snapshot:
        return judge.snapshot(self._database, event_id, self._decided)

    def messages(self, queue: str) -> list[list[UUID]]:
        found: list[list[UUID]] = []
        consumer = Consumer(self._redis, Process("consumer"), queue, lambda ids: found.append(list(ids)))
        self._redis.consume(consumer)
        self.a_while()
        consumer.process.kill()
        return found


class _Task:
    def __init__(self, stand: InMemory, task: asyncio.Task[Any]) -> None:
        self._stand, self._task = stand, task

    def done(self) -> bool:
        return self._task.done()

    def result(self) -> Any:
        async def ended() -> Any:
            return await self._task

        return self._stand.wait(ended())


class OnServers:
    """A database of the PostgreSQL from the wheels."""

    def __init__(self, settings: Settings, connection: Connection) -> None:
        self.settings = settings
        self.on_close = ExitStack()
        self._connection = connection
        self._events: dict[UUID, InPostgres] = {}
        self._threads = ThreadPoolExecutor()
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever)
        self._thread.start()

    def close(self) -> None:
        self.on_close.close()
        self._threads.shutdown()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_SOON_SECONDS_MAX)
        self._loop.close()

    def event(self, number: int, **settings: Any) -> UUID:
        made = InPostgres(self._connection, _settings(number, settings), UUID(int=number))
        self._events[made.event_id] = made
        return made.event_id

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return function(*arguments)

    def wait(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(_SOON_SECONDS_MAX)

    def start(self, function: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        if asyncio.iscoroutinefunction(function):
            return asyncio.run_coroutine_threadsafe(function(*arguments), self._loop)
        return self._threads.submit(function, *arguments)

    def a_while(self) -> None:
        time.sleep(_A_WHILE_SECONDS)

    def pause(self) -> None:
        time.sleep(_PAUSE_SECONDS)

    def end(self, pid: int) -> None:
        with self._connection.begin():
            self._connection.execute(text(_END), {"pid": pid})

    def snapshot(self, event_id: UUID) -> Snapshot:
        return self._events[event_id].snapshot()

    def messages(self, queue: str) -> list[list[UUID]]:
        found: list[list[UUID]] = []
        with results.connect(self.settings.broker_url) as client:
            while message := client.brpop([queue], timeout=_PAUSE_SECONDS):
                (event_ids,), *_ = json.loads(base64.b64decode(json.loads(message[1])["body"]))
                found.append([UUID(event_id) for event_id in event_ids])
        return found


def _settings(number: int, settings: Json) -> Json:
    return {**histories.SETTINGS, "slug": f"drop-{number}", **settings}


def accepting(stand: Stand) -> Any:
    """Return a session of an intake."""
    session = stand.wait(ledger.open_session(stand.settings))
    stand.on_close.callback(lambda: stand.wait(session.close()))
    return session


def working(stand: Stand) -> Any:
    """Return a session of a worker."""
    session = stand.call(connections.worker_session, stand.settings)
    stand.on_close.callback(session.close)
    return session


def command(  # noqa: PLR0913, PLR0917 - the parts of a command
    event_id: UUID,
    number: int,
    kind: str = "register",
    payload: Json | None = None,
    key: str | None = None,
    body: str = "body",
    former_key: str | None = None,
) -> NewCommand:
    """Return a command with the id of this number."""
    return NewCommand(
        event_id=event_id,
        id=worlds.command_id(number),
        kind=kind,
        payload=msgspec.json.encode(payload or {"name": f"guest {number}"}),
        actor="simulation",
        idempotency_key=None if key is None else key.encode(),
        former_key=None if former_key is None else former_key.encode(),
        fingerprint=None if key is None else body.encode(),
    )


def accept(stand: Stand, session: Any, *new: NewCommand) -> list[tuple[UUID, bool, bool]]:
    """Accept commands on a session, and return what is told of each."""
    return told(stand.wait(ledger.accept(session, new)))


def told(acceptances: Sequence[ledger.Acceptance]) -> list[tuple[UUID, bool, bool]]:
    """Return acceptances as they compare."""
    return [(one.command_id, one.replayed, one.same_request) for one in acceptances]


def apply(stand: Stand, session: Any, event_ids: Sequence[UUID], commands_max: int = 100) -> list[Any]:
    """Let a worker's session decide one batch, and return the settled commands, or the error's name."""
    return settled(stand.start(batch.apply, session, event_ids, commands_max))


def settled(started: Started) -> list[Any]:
    """Return what a batch came to."""
    try:
        applied = started.result()
    except Exception as error:  # noqa: BLE001 - the error is what is observed
        return [type(error).__name__, type(error.__cause__).__name__]
    return [(one.command_id, type(one.outcome).__name__) for one in applied.settled]


def seen(stand: Stand, event_id: UUID) -> list[Any]:
    """Return an event's rows as they compare: without times and digests, and with ranks for numbers."""
    now = stand.snapshot(event_id)
    numbers = sorted({told.seq for told in now.commands})
    rank = {seq: place for place, seq in enumerate(numbers)}
    return [
        {name: value for name, value in now.settings.items() if name != "slug"},
        (now.spots_reserved, now.waitlist_length, now.overbooked_spots, now.audit_seq),
        sorted(
            (row.id, rank[row.seq], row.command_id, row.name, row.status, row.spots_count) for row in now.rows
        ),
        [
            (
                *(e.number, e.command_id, e.kind, e.registration_id, e.from_status, e.to_status),
                *(e.before_after, e.spots_delta, e.spots_reserved),
            )
            for e in now.entries
        ],
        sorted(
            (c.id, rank[c.seq], c.kind, c.actor, c.idempotency_key or b"", sorted((c.outcome or {}).items()))
            for c in now.commands
        ),
    ]
