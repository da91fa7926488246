"""Databases for tests of the schema: filled as a counting system leaves them, described, compared."""

from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
from psycopg.rows import TupleRow
from sqlalchemy import Connection, Row, create_engine, text
from sqlalchemy.pool import NullPool

from worker.owner import apply as apply_batch

_FIRST_DAY = datetime(2026, 1, 1, 12, tzinfo=UTC)


class Event(NamedTuple):
    """An event of a system that counts rows to know what is left."""

    id: UUID
    title: str
    capacity: int


class Registration(NamedTuple):
    """One of its registrations, made `minute` minutes after the first."""

    id: UUID
    event: Event
    minute: int
    spots_count: int
    status: str


OVERSOLD = Event(UUID(int=0xA1), "Oversold", 3)
FULL = Event(UUID(int=0xA2), "Full", 2)
OPEN = Event(UUID(int=0xA3), "Open", 10)
EMPTY = Event(UUID(int=0xA4), "Empty", 5)
EVENTS = (OVERSOLD, FULL, OPEN, EMPTY)

# Neither the order of the rows nor that of the ids is the order in which they were made.
REGISTRATIONS = (
    Registration(UUID(int=0xB9), OVERSOLD, 0, 2, "CONFIRMED"),
    Registration(UUID(int=0xB1), OVERSOLD, 7, 1, "WAITLIST"),
    Registration(UUID(int=0xB5), OVERSOLD, 3, 2, "CONFIRMED"),
    Registration(UUID(int=0xB4), OVERSOLD, 3, 5, "CANCELLED"),
    Registration(UUID(int=0xB7), OVERSOLD, 5, 4, "WAITLIST"),
    Registration(UUID(int=0xB8), FULL, 1, 2, "CONFIRMED"),
    Registration(UUID(int=0xB6), FULL, 6, 1, "WAITLIST"),
    Registration(UUID(int=0xB3), OPEN, 2, 3, "CONFIRMED"),
    Registration(UUID(int=0xB2), OPEN, 4, 1, "CONFIRMED"),
)

_EVENT = """
INSERT INTO event (id, slug, title, capacity) VALUES (:id, :slug, :title, :capacity)
"""
_REGISTRATION = """
INSERT INTO registration (event_id, id, name, spots_count, status, created_at)
VALUES (:event_id, :id, :name, :spots_count, :status, :created_at)
"""

_COLUMNS = """
SELECT attrelid::regclass::text, attname::text, format_type(atttypid, atttypmod), attnotnull,
       attidentity::text, pg_get_expr(adbin, adrelid), col_description(attrelid, attnum)
FROM pg_attribute
JOIN pg_class ON pg_class.oid = attrelid AND relkind = 'r' AND relnamespace = 'public'::regnamespace
LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
WHERE attnum > 0 AND NOT attisdropped
"""
_CONSTRAINTS = """
SELECT conrelid::regclass::text, conname::text, pg_get_constraintdef(oid)
FROM pg_constraint WHERE connamespace = 'public'::regnamespace
"""
_INDEXES = "SELECT tablename::text, indexname::text, indexdef FROM pg_indexes WHERE schemaname = 'public'"
_TRIGGERS = """
SELECT tgrelid::regclass::text, tgname::text, pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal
"""
_FUNCTIONS = """
SELECT proname::text, 'function', md5(prosrc) FROM pg_proc WHERE pronamespace = 'public'::regnamespace
"""
_RELATIONS = "SELECT relname::text, relkind::text FROM pg_class WHERE relnamespace = 'public'::regnamespace"

_PENDING = "SELECT FROM pending_command WHERE event_id = :event_id LIMIT 1"


def as_worker(database_url: str, **connect_args: str) -> Connection:
    """Return a connection such as a worker has: each statement commits, unless a transaction was begun."""
    engine = create_engine(
        database_url, poolclass=NullPool, isolation_level="AUTOCOMMIT", connect_args=connect_args
    )
    return engine.connect()


def session_of(connection: Connection) -> "psycopg.Connection[TupleRow]":
    """Return the psycopg connection of SQLAlchemy's, for the owner's own statements."""
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    return driver


def settle_all(database_url: str, event_id: UUID, batch_max: int) -> list[UUID]:
    """Decide, as one owner among others, until nothing is pending; return what was settled here.

    Where another owner is in the way nothing is settled, so an empty batch is not the end.
    """
    settled: list[UUID] = []
    with as_worker(database_url) as owner:
        session = session_of(owner)
        while run(database_url, _PENDING, event_id=event_id):
            applied = apply_batch(session, [event_id], batch_max)
            settled += [command.command_id for command in applied.settled]
    return settled


def run(database_url: str, statement: str, **parameters: object) -> list[Row[Any]]:
    """Execute one statement in a transaction of its own; return its rows, if it has any."""
    with create_engine(database_url, poolclass=NullPool).begin() as connection:
        result = connection.execute(text(statement), parameters)
        return list(result) if result.returns_rows else []


def fill(database_url: str) -> None:
    """Put the events and registrations into a database at revision 0001."""
    for event in EVENTS:
        run(database_url, _EVENT, **event._asdict(), slug=event.title.lower())
    for registration in REGISTRATIONS:
        run(
            database_url,
            _REGISTRATION,
            event_id=registration.event.id,
            id=registration.id,
            name=f"Holder of {registration.id}",
            spots_count=registration.spots_count,
            status=registration.status,
            created_at=_FIRST_DAY + timedelta(minutes=registration.minute),
        )


def shape(database_url: str) -> set[tuple[Any, ...]]:
    """Return all that makes up the schema, whatever order it was made in: the migrations' own table apart."""
    found = {
        tuple(row)
        for statement in (_COLUMNS, _CONSTRAINTS, _INDEXES, _TRIGGERS, _FUNCTIONS, _RELATIONS)
        for row in run(database_url, statement)
    }
    return {part for part in found if not part[0].startswith("alembic_version")}
