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

_EVENT_IDS = sql.SQL("""
    SELECT {event_key}::text FROM {event} AS event ORDER BY {event_created}, {event_key}::text COLLATE "C"
""")
# Values are literals, not parameters: beside parameters a % in the name of a column would be a placeholder.
_EVENT = sql.SQL("SELECT {event_values} FROM {event} AS event WHERE {event_key} = {asked}")
_SLUG_OF_ANOTHER = sql.SQL("""
    SELECT EXISTS (SELECT FROM {event} AS event WHERE {slug}::text = {given} AND {event_key}::text <> {asked})
""")
_OF_EVENT = sql.SQL("""
    SELECT {registration_values} FROM {registration} AS registration
    WHERE {event_id} = {asked} ORDER BY {place} NULLS FIRST, {registration_created}, {registration_key}
""")
_OF_NO_EVENT = sql.SQL("""
    SELECT {registration_values} FROM {registration} AS registration
    WHERE NOT EXISTS (SELECT FROM {event} AS event WHERE {event_key}::text = {event_id}::text)
""")
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
            "event_created": event.value("createdAt"),
            "event_values": expressions.of_event(event, mapping.event.unclear_columns),
            "slug": event.column("slug"),
            "registration_key": registration.order("id"),
            "registration_created": registration.order("createdAt"),
            "registration_values": expressions.of_registration(registration, mapping.spots_each),
            "place": registration.value("place"),
        }
        self._refuse_unordered(mapping.registration)
        self._refuse_doubtful_ids(mapping.event, "id")
        self._refuse_doubtful_ids(mapping.registration, "eventId", "id")

    def snapshot(self) -> AbstractContextManager[object]:
        """Return a transaction in which all reads see one snapshot."""
        return self._link.transaction()

    def event_ids(self) -> list[str]:
        """Return the ids of all events, oldest first."""
        return [id_ for (id_,) in self._link.execute(self._query(_EVENT_IDS))]

    def event(self, id_: str) -> RawEvent | None:
        """Return an event, None if it was deleted meanwhile."""
        with self._link.cursor(row_factory=dict_row) as cursor:
            row = cursor.execute(self._query(_EVENT, asked=id_)).fetchone()
        if row is None:
            return None
        closes_at, over = (
            [row.pop(key) for key in sorted(row) if key.startswith(prefix)]
            for prefix in ("closes_at_", "over_")
        )
        return RawEvent(**row, closes_at=closes_at, over=over)

    def slug_is_anothers(self, slug: str, id_: str) -> bool:
        """Return True if another event has the slug."""
        return bool(links.value(self._link.execute(self._query(_SLUG_OF_ANOTHER, given=slug, asked=id_))))

    def registrations(self, event_id: str) -> Generator[list[RawRegistration]]:
        """Yield an event's registrations in the order of their places, then of their times, batch by batch.

        The last batch, and no other, has fewer than `BATCH_ROWS` registrations; it may be empty.
        Registrations of the same moment are in the order of their ids: numbers, or texts byte by byte, which
        does not depend on a collation. Call this within a snapshot.
        """
        return self._batches(self._query(_OF_EVENT, asked=event_id))

    def registrations_of_no_event(self) -> Generator[list[RawRegistration]]:
        """Yield the registrations without an event. Call this within a snapshot."""
        return self._batches(self._query(_OF_NO_EVENT))

    def count_of(self, event_id: str) -> int:
        """Return the number of an event's registrations."""
        return int(links.value(self._link.execute(self._query(_COUNT_OF_EVENT, asked=event_id))))

    def _query(self, statement: sql.SQL, **asked: str) -> sql.Composed:
        return statement.format(**self._names, **{name: sql.Literal(text) for name, text in asked.items()})

    def _batches(self, query: sql.Composed) -> Generator[list[RawRegistration]]:
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

    Without a cast, so that an index is used, if both columns have one type or are both texts.
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
