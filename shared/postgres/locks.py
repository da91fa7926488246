"""The advisory locks that name the workers and the owners of events.

All are session locks of a worker's one database session: a shared lock `(WORKER, number)` that names the
worker, and an exclusive lock `(BUCKET, bucket)` for each bucket whose events it owns (see `ids.bucket`). The
live workers and the owners are read from PostgreSQL's own list of locks. By a shared lock `(KNOWS, version)`
a worker announces the version of the commands' format that it knows; a worker without one knows version 1.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from sqlalchemy import Connection, text

from shared.domain import ids

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

WORKER = 0x0AD3170E
BUCKET = 0x0AD3170F
KNOWS = 0x0AD31711
UPGRADE = 0x0AD31710
"""One migration at a time; a lock of a single number."""
ADOPTION = 0x0AD3ADD0
"""One adoption at a time; a lock of a single number too."""
API_KEYS = 0x0AD3ADD1
"""One new API key at a time; a lock of a single number, until the end of a transaction."""

HELD = """
    SELECT pid, classid::bigint AS lock_class, objid::bigint AS number FROM pg_locks
    WHERE locktype = 'advisory' AND objsubid = 2 AND granted
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
"""A query for the locks of two numbers that sessions of this database hold."""

# Grouped, not joined: PostgreSQL takes its list of locks for one row, and would compare each lock with each.
_BY_WORKER = f"""
    SELECT pid, max(number) FILTER (WHERE lock_class = {WORKER}) AS number,
           coalesce(max(number) FILTER (WHERE lock_class = {KNOWS}), 1) AS version,
           coalesce(array_agg(number) FILTER (WHERE lock_class = {BUCKET}), '{{}}') AS buckets
    FROM ({HELD}) AS held
    GROUP BY pid HAVING count(*) FILTER (WHERE lock_class = {WORKER}) > 0
"""
_OWNERS = text(f"SELECT number, buckets FROM ({_BY_WORKER}) AS worker")
KNOWN_BY_ALL = f"SELECT coalesce(min(version), 2147483647) FROM ({_BY_WORKER}) AS worker"
"""A query for the highest version of the commands' format that every live worker knows."""
_WORKERS = text(f"""
    SELECT split_part(application_name, '/', 2) AS host, split_part(application_name, '/', 3)::integer AS pid,
           worker.number, worker.buckets, CASE WHEN state_change IS NOT NULL THEN
               greatest(extract(epoch FROM clock_timestamp() - state_change)::float8, 0)
           END AS silent_seconds
    FROM ({_BY_WORKER}) AS worker JOIN pg_stat_activity AS activity ON activity.pid = worker.pid
    WHERE application_name ~ '^[^/]+/[^/]+/[0-9]{{1,9}}$'
    ORDER BY application_name
""")


@dataclass(frozen=True, kw_only=True, slots=True)
class Worker:
    """A live worker: its host and process, its number, the seconds since its last statement, its buckets.

    `silent_seconds` is None if the reader's database role may not know it.
    """

    host: str
    pid: int
    number: int
    silent_seconds: float | None
    buckets: Collection[int]

    def owns(self, event_id: UUID) -> bool:
        """Return True if this worker decides the event's commands."""
        return ids.bucket(event_id) in self.buckets

    def spoke_within(self, seconds: float) -> bool:
        """Return True unless the worker is silent for longer; it may then have lost its session already."""
        return self.silent_seconds is None or self.silent_seconds < seconds


async def owners(connection: "AsyncConnection") -> dict[int, int]:
    """Return the number of the worker that owns each bucket."""
    return {bucket: row.number for row in await connection.execute(_OWNERS) for bucket in row.buckets}


async def version_known_by_all(connection: "AsyncConnection") -> int:
    """Return the highest version of the commands' format that every live worker knows."""
    return int((await connection.execute(text(KNOWN_BY_ALL))).scalar_one())


def workers(connection: Connection) -> list[Worker]:
    """Return all live workers; their silence to the workers' own database role and `pg_read_all_stats`.

    A session that has not the name of a worker, such as one that a pooler renamed, is none.
    """
    return [Worker(**row) for row in connection.execute(_WORKERS).mappings()]
