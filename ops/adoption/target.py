"""Writes adopted events: rows, counters and the beginning of their audit trails."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from uuid import UUID

from ops.adoption import links
from ops.adoption.cleaning import CleanEvent, CleanRegistration
from ops.adoption.links import AdoptionError, Link
from shared.domain import audit
from shared.domain.commands import Status
from shared.domain.event import Change
from shared.postgres import locks, tables

KIND = "adopt"
ACTOR = "adoption"

_IS_MIGRATED = "SELECT to_regclass('alembic_version') IS NOT NULL"
_REVISION = "SELECT version_num FROM alembic_version"
_LOCK = "SELECT pg_try_advisory_lock(%s)::int"
# A closing time that no client sends by chance marks an event whose adoption has not come to its end.
_UNFINISHED = "paused AND closes_at IS NOT DISTINCT FROM '1970-01-01 00:00:00.000001+00'::timestamptz"
_ADOPTED_SLUG = f"SELECT slug FROM event WHERE id = %s AND NOT ({_UNFINISHED})"
_SLUG_OF_ANOTHER = "SELECT count(*) FROM event WHERE slug = %s AND id <> %s"
_ADOPTED = "SELECT count(*) FROM audit_entry WHERE event_id = %s AND kind = %s"
_ADOPTED_IDS = "SELECT registration_id FROM audit_entry WHERE event_id = %s AND kind = %s"
_HELD = """
    SELECT email_key FROM registration
    WHERE event_id = %s AND email_key = ANY(%s) AND status <> 'CANCELLED' AND id <> ALL(%s)
"""
# From the ledger's own sequence: before the places of all later commands, and behind all earlier ones.
_PLACES = "SELECT nextval(pg_get_serial_sequence('command', 'seq')) FROM generate_series(1, %s)"
_INSERT_EVENT = """
    INSERT INTO event (id, slug, title, capacity, created_at, paused, closes_at)
    VALUES (%s, %s, %s, %s, coalesce(%s, now()), true, '1970-01-01 00:00:00.000001+00')
    ON CONFLICT (id) DO NOTHING
"""
# The row is what a worker locks before it decides the event's commands, so none is decided during a chunk.
_LOCK_EVENT = f"""
    SELECT spots_reserved, waitlist_length, audit_seq, now() FROM event WHERE id = %s AND {_UNFINISHED}
    FOR UPDATE
"""
_HASH = "SELECT hash FROM audit_entry WHERE event_id = %s AND number = %s"
_COPY_REGISTRATIONS = """
    COPY registration (event_id, id, seq, name, email, email_key, spots_count, status, created_at) FROM STDIN
"""
_COPY_TRAIL = """
    COPY audit_entry (event_id, number, kind, actor, registration_id, to_status, spots_delta, spots_reserved,
                      at, hash) FROM STDIN
"""
_SET_COUNTERS = """
    UPDATE event
    SET spots_reserved = %(spots_reserved)s, waitlist_length = %(waitlist_length)s,
        overbooked_spots = greatest(%(spots_reserved)s - capacity, 0), audit_seq = %(number)s
    WHERE id = %(event_id)s
    RETURNING overbooked_spots
"""
_OPEN = "UPDATE event SET paused = false, closes_at = NULL WHERE id = %(event_id)s"
# The head of the line blocks until it fits, so the promotable registrations are the line's beginning. A party
# larger than the capacity is not in line.
_PROMOTABLE = """
    SELECT count(*)
    FROM (SELECT sum(spots_count) OVER (ORDER BY seq) AS needed
          FROM registration
          WHERE event_id = %(event_id)s AND status = 'WAITLIST'
            AND spots_count <= (SELECT capacity FROM event WHERE id = %(event_id)s)) AS waiting
    WHERE needed <= (SELECT capacity - spots_reserved FROM event WHERE id = %(event_id)s)
"""


class Target:
    """The target database, for one adoption at a time; `AdoptionError` without this version's schema."""

    def __init__(self, link: Link) -> None:
        self._link = link
        row = self._link.execute(_IS_MIGRATED).fetchone()
        revision = self._link.execute(_REVISION).fetchone() if row and row[0] else None
        if revision is None:
            raise AdoptionError("the target has no schema yet: run `admitone migrate` first")
        if revision[0] != tables.REVISION:
            raise AdoptionError(
                f"the target is at migration {revision[0]}, not {tables.REVISION}: run `admitone migrate`"
            )
        if not links.number(self._link.execute(_LOCK, [locks.ADOPTION])):
            raise AdoptionError("another adoption into the target is running")

    @contextmanager
    def transaction(self, *, undo: bool = False) -> Iterator[None]:
        """Commit at the end, or with `undo` roll back; an inner transaction is a savepoint of the outer."""
        with self._link.transaction(force_rollback=undo):
            yield

    def adopted_slug(self, id_: UUID) -> str | None:
        """Return the slug of an event that is adopted to its end, None for any other."""
        row = self._link.execute(_ADOPTED_SLUG, [id_]).fetchone()
        return None if row is None else str(row[0])

    def slug_is_anothers(self, slug: str, id_: UUID) -> bool:
        """Return True if another event has the slug."""
        return links.number(self._link.execute(_SLUG_OF_ANOTHER, [slug, id_])) > 0

    def adopted(self, event_id: UUID) -> int:
        """Return the number of registrations that an event was adopted with."""
        return links.number(self._link.execute(_ADOPTED, [event_id, KIND]))

    def held(self, event_id: UUID, batch: Sequence[CleanRegistration]) -> set[str]:
        """Return those of the batch's addresses that other active registrations of the event have."""
        keys = list({clean.email_key for clean in batch if clean.email_key is not None})
        if not keys:
            return set()
        values = [event_id, keys, [clean.id for clean in batch]]
        return {key for (key,) in self._link.execute(_HELD, values)}

    def writing(self, event: CleanEvent) -> "Writing":
        """Return the writer of an event, which goes on where an earlier run stopped."""
        earlier = {id_ for (id_,) in self._link.execute(_ADOPTED_IDS, [event.id, KIND])}
        return Writing(self._link, event, earlier)


class Writing:
    """The writer of one event, a transaction a chunk.

    A transaction has one `lock`, then one `add`, in the order of the places; the last one ends with `open`.
    `earlier` has the registrations that earlier runs have written.
    """

    def __init__(self, link: Link, event: CleanEvent, earlier: set[UUID]) -> None:
        self._link = link
        self._event = event
        self._event_id = event.id
        self._earlier = earlier
        self._number = 0
        self._hash = audit.BEFORE_THE_FIRST
        self._at = datetime.now(UTC)
        self.registrations = len(earlier)
        self.spots_reserved = 0
        self.waitlist_length = 0
        self.overbooked_spots = 0
        self.promotable = 0

    def lock(self) -> None:
        """Insert the event, closed, if it is not there; lock it, and read its counters and its trail's end.

        Raises `AdoptionError` if the event is no longer as the adoption had closed it.
        """
        event = self._event
        values = [event.id, event.slug, event.title, event.capacity, event.created_at]
        self._link.execute(_INSERT_EVENT, values)
        row = self._link.execute(_LOCK_EVENT, [event.id]).fetchone()
        if row is None:
            raise AdoptionError(
                f"the event {event.slug} was opened or changed before it was adopted to its end"
            )
        self.spots_reserved, self.waitlist_length, self._number, self._at = row
        # A statement of its own: it sees the entries of the session that had the row locked before.
        last = self._link.execute(_HASH, [event.id, self._number]).fetchone()
        self._hash = audit.BEFORE_THE_FIRST if last is None else bytes(last[0])

    def without_earlier(self, batch: Sequence[CleanRegistration]) -> list[CleanRegistration]:
        """Return the registrations of the batch that no earlier run has written."""
        left = [clean for clean in batch if clean.id not in self._earlier]
        self._earlier.difference_update(clean.id for clean in batch)
        return left

    def add(self, batch: Sequence[CleanRegistration]) -> None:
        """Write registrations behind all earlier places, an audit entry for each, and the counters."""
        places = sorted(seq for (seq,) in self._link.execute(_PLACES, [len(batch)]))
        with self._link.cursor() as cursor:
            with cursor.copy(_COPY_REGISTRATIONS) as copy:
                for seq, clean in zip(places, batch, strict=True):
                    status, made = clean.status.value, clean.created_at or self._at
                    holder = clean.name, clean.email, clean.email_key
                    copy.write_row((self._event_id, clean.id, seq, *holder, clean.spots_count, status, made))
            with cursor.copy(_COPY_TRAIL) as copy:
                for clean in batch:
                    copy.write_row(self._entry(clean))
        self.waitlist_length += sum(clean.status is Status.WAITLIST for clean in batch)
        self._set_counters()

    def open(self) -> None:
        """Open the event, and count the registrations that its next change will promote."""
        values = {"event_id": self._event_id}
        self._link.execute(_OPEN, values)
        self.promotable = links.number(self._link.execute(_PROMOTABLE, values))

    def _set_counters(self) -> None:
        values = {
            "event_id": self._event_id,
            "spots_reserved": self.spots_reserved,
            "waitlist_length": self.waitlist_length,
            "number": self._number,
        }
        self.overbooked_spots = links.number(self._link.execute(_SET_COUNTERS, values))

    def _entry(self, clean: CleanRegistration) -> tuple[object, ...]:
        """Add the registration to the sums, and return its audit entry as a row."""
        self.registrations += 1
        self._number += 1
        self.spots_reserved += clean.spots_held
        change = Change(
            kind=KIND,
            command_id=None,
            actor=ACTOR,
            reason=None,
            registration_id=clean.id,
            from_status=None,
            to_status=clean.status.value,
            spots_delta=clean.spots_held,
            spots_reserved=self.spots_reserved,
        )
        self._hash = audit.chain(self._hash, self._event_id, self._number, self._at, change)
        place = self._event_id, self._number, KIND, ACTOR, clean.id, clean.status.value
        return *place, clean.spots_held, self.spots_reserved, self._at, self._hash
