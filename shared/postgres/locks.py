"""The advisory locks that name the workers and the owners of events.

Both are session locks of a worker's one database connection: a shared lock `(WORKER, number)` that names the
worker, and an exclusive lock `event_key(event_id)` for each event that it owns. The live workers and the
owners are read from PostgreSQL's own list of locks.
"""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from uuid import UUID

from sqlalchemy import Connection, Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

WORKER = 0x0AD3170E
UPGRADE = 0x0AD31710
"""One migration at a time; a lock of a single number, like those of the events."""
ADOPTION = 0x0AD3ADD0
"""One adoption at a time; a lock of a single number too."""

_WORKER_NUMBERS = text("""
    SELECT objid::bigint FROM pg_locks
    WHERE locktype = 'advisory' AND objsubid = 2 AND granted AND classid = :lock_class
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
""")

_OWNERS = text("""
    SELECT (classid::bigint << 32) | objid::bigint AS event_key, pid FROM pg_locks
    WHERE locktype = 'advisory' AND objsubid = 1 AND granted
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
""")

_WORKERS = text("""
    SELECT activity.application_name AS name,
           extract(epoch FROM clock_timestamp() - activity.state_change)::float8 AS silent_seconds,
           array(SELECT (owned.classid::bigint << 32) | owned.objid::bigint FROM pg_locks AS owned
                 WHERE owned.pid = activity.pid AND owned.locktype = 'advisory'
                   AND owned.objsubid = 1 AND owned.granted) AS event_keys
    FROM pg_locks AS joined JOIN pg_stat_activity AS activity ON activity.pid = joined.pid
    WHERE joined.locktype = 'advisory' AND joined.objsubid = 2 AND joined.granted
      AND joined.classid = :lock_class
      AND joined.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    ORDER BY name
""")


@dataclass(frozen=True, kw_only=True, slots=True)
class Worker:
    """A live worker: its host and process, the seconds since its last statement, its events' keys."""

    host: str
    pid: int
    silent_seconds: float
    event_keys: frozenset[int]


@lru_cache(maxsize=10_000)
def event_key(event_id: UUID) -> int:
    """Return the signed 64-bit key of an event's lock."""
    digest = hashlib.blake2b(event_id.bytes, digest_size=8, person=b"event-owner").digest()
    return int.from_bytes(digest, "big", signed=True)


def worker_numbers(connection: Connection) -> frozenset[int]:
    """Return the numbers of all live workers."""
    return frozenset(connection.execute(_WORKER_NUMBERS, {"lock_class": WORKER}).scalars())


async def owners(connection: AsyncConnection) -> dict[int, int]:
    """Return the database session that owns each event, by the event's key."""
    return {row.event_key: row.pid for row in await connection.execute(_OWNERS)}


def workers(connection: Connection) -> list[Worker]:
    """Return all live workers; needs the workers' own database role, or `pg_read_all_stats`."""
    return [_worker(row) for row in connection.execute(_WORKERS, {"lock_class": WORKER})]


def _worker(row: Row[tuple[str, float, Collection[int]]]) -> Worker:
    _, host, pid = row.name.split("/")
    return Worker(
        host=host, pid=int(pid), silent_seconds=row.silent_seconds, event_keys=frozenset(row.event_keys)
    )
