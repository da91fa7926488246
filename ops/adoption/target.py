"""Writes adopted events: rows, counters and the beginning of their audit trails."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
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
_SLUG = "SELECT slug FROM event WHERE id = %s"
_HAS_SLUG = "SELECT count(*) FROM event WHERE slug = %s"
_ADOPTED = "SELECT count(*) FROM audit_entry WHERE event_id = %s AND kind = %s"
_HELD = """
    SELECT email_key FROM registration
    WHERE event_id = %s AND email_key = ANY(%s) AND status <> 'CANCELLED'
"""
# From the ledger's own sequence: before the places of all later commands, and behind all earlier ones.
_PLACES = "SELECT nextval(pg_get_serial_sequence('command', 'seq')) FROM generate_series(1, %s)"
_INSERT_EVENT = """
    INSERT INTO event (id, slug, title, capacity, created_at) VALUES (%s, %s, %s, %s, coalesce(%s, now()))
    RETURNING now()
"""
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

    def slug(self, id_: UUID) -> str | None:
        """Return the event's slug, None if the target has no such event."""
        row = self._link.execute(_SLUG, [id_]).fetchone()
        return None if row is None else str(row[0])

    def has_slug(self, slug: str) -> bool:
        """Return True if an event has the slug."""
        return links.number(self._link.execute(_HAS_SLUG, [slug])) > 0

    def adopted(self, event_id: UUID) -> int:
        """Return the number of registrations that an event was adopted with."""
        return links.number(self._link.execute(_ADOPTED, [event_id, KIND]))

    def held(self, event_id: UUID, email_keys: Collection[str]) -> set[str]:
        """Return those of the addresses that active registrations of the event have."""
        if not email_keys:
            return set()
        return {key for (key,) in self._link.execute(_HELD, [event_id, list(email_keys)])}

    def begin(self, event: CleanEvent) -> "Writing":
        """Insert the event, and return the writer of its registrations."""
        values = [event.id, event.slug, event.title, event.capacity, event.created_at]
        row = self._link.execute(_INSERT_EVENT, values).fetchone()
        assert row is not None, "an insert returns its row"
        return Writing(self._link, event.id, row[0])


class Writing:
    """The writer of one event, in one transaction: `add` in the order of the places, then `finish`."""

    def __init__(self, link: Link, event_id: UUID, at: datetime) -> None:
        self._link = link
        self._event_id = event_id
        self._at = at
        self._hash = audit.BEFORE_THE_FIRST
        self.registrations = 0
        self.spots_reserved = 0
        self.waitlist_length = 0
        self.overbooked_spots = 0
        self.promotable = 0

    def add(self, batch: Sequence[CleanRegistration]) -> None:
        """Write registrations, each with a place behind all earlier places and an audit entry."""
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

    def finish(self) -> None:
        """Set the event's counters to the sums of its registrations."""
        values = {
            "event_id": self._event_id,
            "spots_reserved": self.spots_reserved,
            "waitlist_length": self.waitlist_length,
            "number": self.registrations,
        }
        self.overbooked_spots = links.number(self._link.execute(_SET_COUNTERS, values))
        self.promotable = links.number(self._link.execute(_PROMOTABLE, values))

    def _entry(self, clean: CleanRegistration) -> tuple[object, ...]:
        """Add the registration to the sums, and return its audit entry as a row."""
        self.registrations += 1
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
        self._hash = audit.chain(self._hash, self._event_id, self.registrations, self._at, change)
        place = self._event_id, self.registrations, KIND, ACTOR, clean.id, clean.status.value
        return *place, clean.spots_held, self.spots_reserved, self._at, self._hash
