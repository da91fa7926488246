"""The tables of the contestants that decide in the request, and the statements they share.

The tables are as the authors of such a system make them: a key, the foreign key, and the one index that
counting needs. The service's own tables carry more, which is a handicap of the service alone.
"""

import os
from functools import cache
from uuid import UUID, uuid4

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from benchmarks.contestants.http import Registered, Registering, Status

SCHEMA = """
CREATE SCHEMA baseline;
CREATE TABLE baseline.event (
    id uuid PRIMARY KEY,
    slug text NOT NULL UNIQUE,
    capacity integer NOT NULL,
    spots_reserved integer NOT NULL DEFAULT 0 CHECK (spots_reserved >= 0)
);
CREATE TABLE baseline.registration (
    id uuid PRIMARY KEY,
    event_id uuid NOT NULL REFERENCES baseline.event,
    name text NOT NULL,
    email text,
    spots_count integer NOT NULL CHECK (spots_count > 0),
    status text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX registration_confirmed_idx ON baseline.registration (event_id, status) INCLUDE (spots_count);
"""
DATABASE_URL = "BENCHMARK_DATABASE_URL"
APPLICATION = "BENCHMARK_APPLICATION"
CONNECTIONS_MAX = 10
"""As many as the service's own pool has: more of them only queue at the event's row."""
POOL_SECONDS_MAX = 10.0

_EVENT = text("SELECT id, capacity FROM baseline.event WHERE slug = :slug")
_CONFIRMED = text("""
    SELECT coalesce(sum(spots_count), 0) FROM baseline.registration
    WHERE event_id = :event_id AND status = 'CONFIRMED'
""")
_INSERT = text("""
    INSERT INTO baseline.registration (id, event_id, name, email, spots_count, status)
    VALUES (:id, :event_id, :name, :email, :spots_count, :status)
""")


@cache
def engine() -> AsyncEngine:
    """Return this process's pool; every statement is prepared at its first use on a connection."""
    return create_async_engine(
        os.environ[DATABASE_URL],
        pool_size=CONNECTIONS_MAX,
        max_overflow=0,
        pool_timeout=POOL_SECONDS_MAX,
        connect_args={"application_name": os.environ[APPLICATION], "prepare_threshold": 0},
    )


async def event(connection: AsyncConnection, slug: str) -> Row[tuple[UUID, int]]:
    """Return the id and the capacity of an existing event."""
    return (await connection.execute(_EVENT, {"slug": slug})).one()


async def count_and_insert(
    connection: AsyncConnection, event: Row[tuple[UUID, int]], registering: Registering
) -> Registered:
    """Count the confirmed spots row by row; confirm if that leaves room, else put on the waitlist."""
    confirmed = (await connection.execute(_CONFIRMED, {"event_id": event.id})).scalar_one()
    fits = confirmed + registering.spots_count <= event.capacity
    return await insert(connection, event.id, registering, "CONFIRMED" if fits else "WAITLIST")


async def insert(
    connection: AsyncConnection, event_id: UUID, registering: Registering, status: Status
) -> Registered:
    """Write a registration in the caller's transaction."""
    registered = Registered(id=uuid4(), status=status)
    row = {"id": registered.id, "event_id": event_id, "status": status}
    await connection.execute(_INSERT, {**row, **registering.model_dump()})
    return registered
