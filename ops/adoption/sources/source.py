"""Reads an existing system's events and registrations, as its mapping says."""

from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from psycopg import sql
from psycopg.rows import class_row, dict_row

from ops.adoption import links
from ops.adoption.links import AdoptionError, Link
from ops.adoption.sources import expressions
from ops.adoption.sources.expressions import Expressions
from ops.adoption.sources.mapping import SourceMapping, TableMapping

BATCH_ROWS = 5_000
"""The most registrations in memory at once, and in one transaction of the target."""

_EVENT_IDS = sql.SQL('SELECT {id}::text FROM {event} AS event ORDER BY {created}, {id}::text COLLATE "C"')
# Values are literals, not parameters: beside parameters a % in the name of a column would be a placeholder.
_EVENT = sql.SQL("SELECT {values} FROM {event} AS event WHERE {id} = {asked}")
_SLUG_OF_ANOTHER = sql.SQL(
    "SELECT EXISTS (SELECT FROM {event} AS event WHERE {slug}::text = {given} AND {id}::text <> {asked})"
)
_REGISTRATIONS = sql.SQL("SELECT {values} FROM {registration} AS registration")
_OF_EVENT = sql.SQL(" WHERE {event_id} = {asked} ORDER BY {place} NULLS FIRST, {created}, {id}")
_OF_NO_EVENT = sql.SQL(
    " WHERE NOT EXISTS (SELECT FROM {event} AS event WHERE {event_key}::text = {event_id}::text)"
)
# Texts of ISO 8601 sort as times if all have the same offset and the same sign before the hour, and with "Z",
# which sorts behind a fraction, the same length.
_UNORDERED = sql.SQL(r"""
    SELECT count(*) FILTER (WHERE at !~ '^\d{{4}}-\d\d-\d\d([T ]|$)') + greatest(count(DISTINCT form) - 1, 0)
    FROM (SELECT at, substr(at, 11, 1) || CASE WHEN at ILIKE '%Z' THEN length(at)::text
                     ELSE coalesce(substring(substr(at, 12) FROM '[+-][\d:]+$'), '') END AS form
          FROM (SELECT {text}::text AS at FROM {table}) AS texts WHERE at <> '') AS formed
""")
_COUNT_OF_EVENT = sql.SQL("SELECT count(*) FROM {registration} AS registration WHERE {event_id} = {asked}")


@dataclass(frozen=True, kw_only=True, slots=True)
class RawEvent:
    """An event as the source has it; values without a type here may have any.

    `open` is None if no column tells; `unclear_columns` names its date and flag columns that have a value and
    are not understood.
    """

    id: str
    slug: str | None
    title: str | None
    status: str | None
    created_at: Any
    capacity: Any
    spots_reserved: Any
    opens_at: Any
    closes_at: Sequence[Any]
    over: Sequence[Any]
    waitlist_limit: Any
    max_spots_per_registration: Any
    waitlist_enabled: bool | None
    auto_promote: bool | None
    open: bool | None
    paused: bool
    closed: bool
    deleted: bool
    unlimited: bool
    unclear_columns: Sequence[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class RawRegistration:
    """A registration as the source has it."""

    id: str
    event_id: str | None
    name: str | None
    spots_count: Any
    status: str | None
    created_at: Any
    email: str | None
    deleted: bool
    cancelled: bool


class Source:
    """The source's events and registrations, read through its mapping."""

    def __init__(self, link: Link, mapping: SourceMapping) -> None:
        self._link = link
        event = Expressions("event", mapping.event)
        registration = Expressions("registration", mapping.registration)
        self._names: dict[str, sql.Composable] = {
            "event": mapping.event.source_table.identifier,
            "registration": mapping.registration.source_table.identifier,
            "event_id": _compared(mapping, registration.column("eventId")),
            "event_key": event.column("id"),
            "slug": event.column("slug"),
        }
        self._of_event = {"id": event.column("id"), "created": event.value("createdAt")}
        self._of_registration = {
            "id": registration.order("id"),
            "created": registration.order("createdAt"),
            "place": registration.value("place"),
        }
        self._event_values = expressions.of_event(event, mapping.event.unclear_columns)
        self._registration_values = expressions.of_registration(registration, mapping.spots_each)
        self._refuse_unordered(mapping.registration)
        self._refuse_doubtful_ids(mapping.event, "id")
        self._refuse_doubtful_ids(mapping.registration, "eventId", "id")

    def snapshot(self) -> AbstractContextManager[object]:
        """Return a transaction in which all reads see one snapshot."""
        return self._link.transaction()

    def event_ids(self) -> list[str]:
        """Return the ids of all events, oldest first."""
        return [id_ for (id_,) in self._link.execute(_EVENT_IDS.format(**self._names, **self._of_event))]

    def event(self, id_: str) -> RawEvent | None:
        """Return an event, None if it was deleted meanwhile."""
        asked = sql.Literal(id_)
        query = _EVENT.format(values=self._event_values, asked=asked, **self._names, **self._of_event)
        with self._link.cursor(row_factory=dict_row) as cursor:
            row = cursor.execute(query).fetchone()
        if row is None:
            return None
        closes_at, over = (
            [row.pop(key) for key in sorted(row) if key.startswith(prefix)]
            for prefix in ("closes_at_", "over_")
        )
        return RawEvent(**row, closes_at=closes_at, over=over)

    def slug_is_anothers(self, slug: str, id_: str) -> bool:
        """Return True if another event has the slug."""
        asked = {"given": sql.Literal(slug), "asked": sql.Literal(id_)}
        query = _SLUG_OF_ANOTHER.format(**asked, **self._names, **self._of_event)
        return bool(links.value(self._link.execute(query)))

    def registrations(self, event_id: str) -> Generator[list[RawRegistration]]:
        """Yield an event's registrations in the order of their places, then of their times, batch by batch.

        The last batch, and no other, has fewer than `BATCH_ROWS` registrations; it may be empty.
        Registrations of the same moment are in the order of their ids: numbers, or texts byte by byte, which
        does not depend on a collation. Call this within a snapshot.
        """
        return self._batches(_OF_EVENT, asked=sql.Literal(event_id))

    def registrations_of_no_event(self) -> Generator[list[RawRegistration]]:
        """Yield the registrations without an event. Call this within a snapshot."""
        return self._batches(_OF_NO_EVENT)

    def count_of(self, event_id: str) -> int:
        """Return the number of an event's registrations."""
        query = _COUNT_OF_EVENT.format(asked=sql.Literal(event_id), **self._names)
        return int(links.value(self._link.execute(query)))

    def _batches(self, which: sql.SQL, **asked: sql.Composable) -> Generator[list[RawRegistration]]:
        select = _REGISTRATIONS.format(values=self._registration_values, **self._names)
        query = select + which.format(**asked, **self._names, **self._of_registration)
        cursor = self._link.cursor("adoption", row_factory=class_row(RawRegistration))
        with links.database_errors(), cursor:
            cursor.execute(query)
            batch_rows = BATCH_ROWS
            while batch_rows == BATCH_ROWS:
                batch = cursor.fetchmany(BATCH_ROWS)
                batch_rows = len(batch)
                yield batch

    def _refuse_unordered(self, table: TableMapping) -> None:
        """Raise `AdoptionError` if places or times of registrations are texts that do not sort as such."""
        columns = {column.name: column for column in table.source_table.columns}
        for name in table.of("place"):
            if columns[name].category != "N":
                raise AdoptionError(
                    f'the places in the column "{name}" do not sort as numbers, and they give the order of '
                    "the registrations: make a view with a number, and name the view in a mapping"
                )
        for name in table.of("createdAt"):
            is_sorted = columns[name].kind == "time" and columns[name].category == "D"
            if is_sorted or columns[name].category == "N":
                continue
            query = _UNORDERED.format(text=sql.Identifier(name), table=table.source_table.identifier)
            if links.value(self._link.execute(query)):
                raise AdoptionError(
                    f'the times in the text column "{name}" do not sort as times, and they give the order of '
                    "the registrations: make a view with a timestamp, and name the view in a mapping"
                )

    def _refuse_doubtful_ids(self, table: TableMapping, *key: str) -> None:
        """Raise `AdoptionError` if rows have no id or one id, as in a view that joins tables."""
        columns = [sql.SQL("{}::text").format(sql.Identifier(*table.of(meaning))) for meaning in key]
        doubtful = sql.SQL(
            "SELECT count(*) FROM (SELECT FROM {} GROUP BY {} HAVING count(*) > 1 OR {} IS NULL) AS doubtful"
        )
        name = table.source_table.identifier
        query = doubtful.format(name, sql.SQL(", ").join(columns), columns[-1])
        if count := links.value(self._link.execute(query)):
            raise AdoptionError(
                f"{count} ids in {name.as_string()} are null, or those of several rows: "
                "each row needs an id of its own"
            )


def _compared(mapping: SourceMapping, event_id: sql.Identifier) -> sql.Composable:
    """Return the event id of a registration as it is compared with the text of an event's.

    As it is, so that an index is used, if an id that the event can have is always one for the registration.
    """
    tables = ((mapping.event, "id"), (mapping.registration, "eventId"))
    ids = [
        column
        for table, meaning in tables
        for column in table.source_table.columns
        if column.name == table.of(meaning)[0]
    ]
    same = len({column.type for column in ids}) == 1 or {column.category for column in ids} == {"S"}
    return event_id if same else sql.SQL("{}::text").format(event_id)
