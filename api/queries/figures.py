"""The figures of the whole service that metrics show: the backlog, the workers and the drift.

They are read when they are asked for, at most once a second. Counting the drift reads all registrations, so
that happens in the background, and no more often than leaves the database 19 of 20 seconds for other work.
"""

import asyncio
import time
from dataclasses import dataclass
from uuid import UUID

import structlog
from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from api.queries.reader import Reader
from api.tasks import SingleTask
from shared.postgres import backlog, locks, snapshots

log = structlog.get_logger(__name__)

_OLDEST_MAX = 10
_KEEP_SECONDS = 1
_READ_SECONDS_MAX = 1
_COUNTING_SHARE = 0.05

_DRIFT = text("""
    SELECT coalesce(sum(abs(event.spots_reserved - coalesce(confirmed.spots, 0))), 0)::bigint
    FROM event
    LEFT JOIN (SELECT event_id, sum(spots_count) AS spots FROM registration
               WHERE status = 'CONFIRMED' GROUP BY event_id) AS confirmed ON confirmed.event_id = event.id
""")


@dataclass(frozen=True, kw_only=True, slots=True)
class Backlog:
    """All pending commands; the ages of the ten oldest by event; each worker's last tick, if it is known.

    `snapshot_seconds` is the age of the oldest snapshot, 0 if there is none, None if it is not known.
    """

    pending: int
    oldest_seconds: list[tuple[UUID, float]]
    tick_ages: list[float | None]
    snapshot_seconds: float | None


class Figures:
    """Reads the figures; None stands for those that cannot be read in time."""

    def __init__(self, reader: Reader, admin_reader: Reader) -> None:
        self._reader = reader
        self._admin_reader = admin_reader
        self._backlog: Backlog | None = None
        self._drift: int | None = None
        self._read_at = self._count_at = -_KEEP_SECONDS * 1.0
        self._reading = SingleTask(self._read)
        self._counting = SingleTask(self._count)

    async def read(self) -> tuple[Backlog | None, int | None]:
        """Return the backlog, and the sum of the events' drifts without their signs."""
        now = time.monotonic()
        if now - self._read_at >= _KEEP_SECONDS:
            self._reading.ensure_running()
        if now >= self._count_at:
            self._counting.ensure_running()
        try:
            async with asyncio.timeout(_READ_SECONDS_MAX):
                await self._reading.finish()
                await self._counting.finish()
        except TimeoutError:
            log.warning("figures_late")
        fresh = time.monotonic() - self._read_at < _KEEP_SECONDS + _READ_SECONDS_MAX
        return self._backlog if fresh else None, self._drift

    async def close(self) -> None:
        """Stop reading."""
        await self._reading.cancel()
        await self._counting.cancel()

    async def _read(self) -> None:
        try:
            self._backlog = await self._reader.read(lambda connection: connection.run_sync(_backlog))
            self._read_at = time.monotonic()
        except (SQLAlchemyError, OSError) as error:
            self._backlog = None
            log.warning("figures_not_readable", error=error)

    async def _count(self) -> None:
        began = time.monotonic()
        try:
            self._drift = await self._admin_reader.read(_drift)
        except (SQLAlchemyError, OSError) as error:
            self._drift = None
            log.warning("figures_not_readable", error=error)
        ended = time.monotonic()
        self._count_at = ended + max(_KEEP_SECONDS, (ended - began) / _COUNTING_SHARE)


def _backlog(connection: Connection) -> Backlog:
    return Backlog(
        pending=backlog.pending(connection),
        oldest_seconds=backlog.oldest(connection, _OLDEST_MAX),
        tick_ages=[worker.silent_seconds for worker in locks.workers(connection)],
        snapshot_seconds=_snapshot_seconds(connection),
    )


def _snapshot_seconds(connection: Connection) -> float | None:
    kept = snapshots.read(connection)
    if any(snapshot.pid is not None and snapshot.state is None for snapshot in kept):
        return None  # this role may not know
    return max((snapshot.seconds for snapshot in kept if snapshot.seconds is not None), default=0)


async def _drift(connection: AsyncConnection) -> int:
    return int((await connection.execute(_DRIFT)).scalar_one())
