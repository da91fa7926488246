"""Waits for changes of registrations' statuses: one read of the audit trails for all clients that wait.

A client that waits costs a place in memory. Twice a second one statement reads the new audit entries of the
events with waiting clients, so the cost grows with the changes, not with the clients (decision 0050).
"""

import asyncio
from collections.abc import Sequence
from functools import partial
from uuid import UUID

import msgspec
import structlog
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from api.queries.reader import Reader
from api.tasks import SingleTask
from shared.postgres import arrays

log = structlog.get_logger(__name__)

_PAUSE_SECONDS = 0.5
_EVENTS_PER_READ_MAX = 1_000
_ENTRIES_MAX = 10_000

_READ = text(f"""
    SELECT asked.event_id, asked.seen, changed.until, entry.number, entry.registration_id
    FROM unnest(CAST(:event_ids AS uuid[]), CAST(:seen AS bigint[])) AS asked (event_id, seen)
    CROSS JOIN LATERAL (
        SELECT least(audit_seq, asked.seen + {_ENTRIES_MAX}) AS until FROM event
        WHERE id = asked.event_id AND audit_seq > asked.seen OFFSET 0
    ) AS changed
    LEFT JOIN LATERAL (
        SELECT number, registration_id FROM audit_entry
        WHERE event_id = asked.event_id AND number > asked.seen AND number <= changed.until
          AND from_status IS NOT NULL AND from_status IS DISTINCT FROM to_status OFFSET 0
    ) AS entry ON true
""")


class _Watched(msgspec.Struct, eq=False):
    """An event with waiting clients; its audit entries up to the number `seen` are read.

    `waiting` has by registration the clients, each with the number of the last entry that it knows.
    """

    seen: int
    waiting: dict[UUID, list[tuple[int, "asyncio.Future[None]"]]] = msgspec.field(default_factory=dict)


class StatusChanges:
    """The clients of this process that wait for a change of a registration's status."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._events: dict[UUID, _Watched] = {}
        self._task = SingleTask(self._look)
        self._released = False

    async def wait(self, event_id: UUID, registration_id: UUID, after: int, seconds: float) -> None:
        """Return when an audit entry behind the number `after` changes the status, or the time is over."""
        if self._released:
            return
        changed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        watched = self._events.setdefault(event_id, _Watched(after))
        watched.seen = min(watched.seen, after)
        client = (after, changed)
        watched.waiting.setdefault(registration_id, []).append(client)
        self._task.ensure_running()
        try:
            await asyncio.wait([changed], timeout=seconds)
        finally:
            clients = watched.waiting[registration_id]
            clients.remove(client)
            if not clients:
                del watched.waiting[registration_id]
            if not watched.waiting:
                del self._events[event_id]

    def release(self) -> None:
        """Answer all clients, now and from now on: the process is about to end."""
        self._released = True
        for watched in self._events.values():
            for clients in watched.waiting.values():
                _wake(clients, after=None)

    async def close(self) -> None:
        """Stop reading."""
        await self._task.cancel()

    async def _look(self) -> None:
        while self._events:
            await asyncio.sleep(_PAUSE_SECONDS)
            event_ids = list(self._events)
            for first in range(0, len(event_ids), _EVENTS_PER_READ_MAX):
                part = event_ids[first : first + _EVENTS_PER_READ_MAX]
                try:
                    await self._reader.read(partial(self._read, part))
                except (SQLAlchemyError, OSError) as error:
                    log.warning("status_changes_not_readable", error=error)
                except Exception:  # any error: the clients still wait
                    log.exception("status_changes_not_readable")

    async def _read(self, event_ids: Sequence[UUID], connection: AsyncConnection) -> None:
        asked = [(id_, self._events[id_].seen) for id_ in event_ids if id_ in self._events]
        parameters = {
            "event_ids": arrays.uuids(event_id for event_id, _ in asked),
            "seen": arrays.numbers(seen for _, seen in asked),
        }
        for row in await connection.execute(_READ, parameters):
            watched = self._events.get(row.event_id)
            if watched is None:
                continue
            _wake(watched.waiting.get(row.registration_id, ()), after=row.number)
            if watched.seen == row.seen:  # else a client came meanwhile that knows less
                watched.seen = row.until


def _wake(clients: "Sequence[tuple[int, asyncio.Future[None]]]", after: int | None) -> None:
    for known, changed in clients:
        if (after is None or known < after) and not changed.done():
            changed.set_result(None)
