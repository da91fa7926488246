"""Reads an existing system's tables as Prisma makes them: `"Event"` and `"Registration"`."""

from collections.abc import Generator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg import sql
from psycopg.rows import class_row

from ops.adoption import links
from ops.adoption.links import AdoptionError, Link

BATCH_ROWS = 5_000
"""The most registrations in memory at once, and in one transaction of the target."""

_EVENT_COLUMNS = ("id", "slug", "title", "capacity")
_REGISTRATION_COLUMNS = ("id", "eventId", "name", "spotsCount", "status", "createdAt")

_COLUMNS = """
    SELECT attname::text FROM pg_attribute
    WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped
"""

_EVENT_IDS = sql.SQL('SELECT id::text FROM {event} ORDER BY {created}, id::text COLLATE "C"')

_EVENT = sql.SQL("""
    SELECT id::text, slug::text, title::text, capacity, {spots_reserved} AS spots_reserved,
           {created} AS created_at
    FROM {event} WHERE id = %s
""")

_SLUG_OF_ANOTHER = sql.SQL("SELECT EXISTS (SELECT FROM {event} WHERE slug = %s AND id <> %s)")

_SELECT_REGISTRATIONS = sql.SQL("""
    SELECT registration.id::text, registration."eventId"::text AS event_id, registration.name::text,
           registration."spotsCount" AS spots_count, registration.status::text,
           {created} AS created_at, {email} AS email
    FROM {registration} AS registration
""")
_OF_EVENT = sql.SQL("""
    WHERE registration."eventId" = %s
    ORDER BY registration."createdAt", registration.id::text COLLATE "C"
""")
_OF_NO_EVENT = sql.SQL("""
    WHERE NOT EXISTS (SELECT FROM {event} AS event WHERE event.id = registration."eventId")
""")

_COUNT = sql.SQL("SELECT count(*) FROM {registration}")
_COUNT_OF_EVENT = sql.SQL('SELECT count(*) FROM {registration} WHERE "eventId" = %s')

# Python's datetime has no infinity and no year outside these; such a time counts as missing.
_USABLE_TIME = sql.SQL("CASE WHEN {column} BETWEEN '0001-01-02' AND '9999-12-30' THEN {column} END")
_NULL = sql.SQL("NULL::text")


@dataclass(frozen=True, kw_only=True, slots=True)
class RawEvent:
    """An event as the source has it; `capacity` and `spots_reserved` may have any type."""

    id: str
    slug: str | None
    title: str | None
    capacity: Any
    spots_reserved: Any
    created_at: datetime | None


@dataclass(frozen=True, kw_only=True, slots=True)
class RawRegistration:
    """A registration as the source has it."""

    id: str
    event_id: str | None
    name: str | None
    spots_count: Any
    status: str | None
    created_at: datetime | None
    email: str | None


class Source:
    """The source's events and registrations; raises `AdoptionError` if a table or column is missing."""

    def __init__(self, link: Link, schema: str | None) -> None:
        self._link = link
        self._names: dict[str, sql.Composable] = {
            "event": sql.Identifier(*filter(None, (schema, "Event"))),
            "registration": sql.Identifier(*filter(None, (schema, "Registration"))),
        }
        events = self._columns("event", _EVENT_COLUMNS)
        registrations = self._columns("registration", _REGISTRATION_COLUMNS)
        self._of_event = {
            "spots_reserved": sql.Identifier("spotsReserved") if "spotsReserved" in events else _NULL,
            "created": _usable(sql.Identifier("createdAt")) if "createdAt" in events else _NULL,
        }
        self._of_registration = {
            "created": _usable(sql.Identifier("registration", "createdAt")),
            "email": sql.SQL("registration.email::text") if "email" in registrations else _NULL,
        }

    def snapshot(self) -> AbstractContextManager[object]:
        """Return a transaction in which all reads see one snapshot."""
        return self._link.transaction()

    def event_ids(self) -> list[str]:
        """Return the ids of all events, oldest first."""
        query = _EVENT_IDS.format(**self._names, created=self._of_event["created"])
        return [id_ for (id_,) in self._link.execute(query)]

    def event(self, id_: str) -> RawEvent | None:
        """Return an event, None if it was deleted meanwhile."""
        with self._link.cursor(row_factory=class_row(RawEvent)) as cursor:
            return cursor.execute(_EVENT.format(**self._names, **self._of_event), [id_]).fetchone()

    def slug_is_anothers(self, slug: str, id_: str) -> bool:
        """Return True if another event has the slug."""
        row = self._link.execute(_SLUG_OF_ANOTHER.format(**self._names), [slug, id_]).fetchone()
        return bool(row and row[0])

    def registrations(self, event_id: str) -> Generator[list[RawRegistration]]:
        """Yield an event's registrations in the order in which they were made, a batch at a time.

        The last batch, and no other, has fewer than `BATCH_ROWS` registrations; it may be empty.
        Registrations of the same moment are in the order of their ids, byte by byte, which does not depend
        on a collation. Call this within a snapshot.
        """
        select = _SELECT_REGISTRATIONS.format(**self._names, **self._of_registration)
        return self._batches(select + _OF_EVENT, [event_id])

    def registrations_of_no_event(self) -> Generator[list[RawRegistration]]:
        """Yield the registrations without an event. Call this within a snapshot."""
        select = _SELECT_REGISTRATIONS.format(**self._names, **self._of_registration)
        return self._batches(select + _OF_NO_EVENT.format(**self._names), [])

    def count(self) -> int:
        """Return the number of all registrations."""
        return links.number(self._link.execute(_COUNT.format(**self._names)))

    def count_of(self, event_id: str) -> int:
        """Return the number of an event's registrations."""
        return links.number(self._link.execute(_COUNT_OF_EVENT.format(**self._names), [event_id]))

    def _batches(self, query: sql.Composed, parameters: list[str]) -> Generator[list[RawRegistration]]:
        with self._link.cursor("adoption", row_factory=class_row(RawRegistration)) as cursor:
            cursor.execute(query, parameters)
            batch_rows = BATCH_ROWS
            while batch_rows == BATCH_ROWS:
                batch = cursor.fetchmany(BATCH_ROWS)
                batch_rows = len(batch)
                yield batch

    def _columns(self, table: str, required: tuple[str, ...]) -> set[str]:
        name = self._names[table].as_string(self._link)
        columns = {column for (column,) in self._link.execute(_COLUMNS, [name])}
        if not columns:
            raise AdoptionError(f"the source has no table {name}")
        missing = [f'"{column}"' for column in required if column not in columns]
        if missing:
            raise AdoptionError(f"the source's table {name} has no column {', '.join(missing)}")
        return columns


def _usable(column: sql.Identifier) -> sql.Composed:
    return _USABLE_TIME.format(column=column)
