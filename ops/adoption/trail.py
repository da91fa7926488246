"""Writes an adopted event's part of the audit trail, and the counters that it leads to."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
from psycopg.types.json import Jsonb

from ops.adoption import links, statements
from ops.adoption.cleaning import CleanRegistration
from ops.adoption.links import Link
from shared.domain import audit, texts
from shared.domain.commands import Status
from shared.domain.event import Change

KIND = "adopt"
ACTOR = "adoption"


class Row(NamedTuple):
    """A registration as an earlier run wrote it."""

    id: UUID
    seq: int
    name: str
    email: str | None
    email_key: str | None
    spots_count: int
    status: str
    created_at: datetime

    def differs(self, clean: CleanRegistration) -> bool:
        """Return True if the source has the registration otherwise by now."""
        holder = clean.name, clean.email, clean.email_key
        made = clean.created_at or self.created_at
        return self[2:] != (*holder, clean.spots_count, clean.status.value, made)


class Trail:
    """The end of an event's trail and its counters, in a transaction that has the event's row locked."""

    def __init__(self, link: Link, event_id: UUID) -> None:
        self._link = link
        self._event_id = event_id
        self._hash = audit.BEFORE_THE_FIRST
        self.number = 0
        self.at = datetime.now(UTC)
        self.spots_reserved = 0
        self.waitlist_length = 0
        self.overbooked_spots = 0

    def go_on(self, event: Mapping[str, Any]) -> None:
        """Read the counters and the trail's end from the locked row."""
        self.number, self.at = event["audit_seq"], event["at"]
        self.spots_reserved, self.waitlist_length = event["spots_reserved"], event["waitlist_length"]
        self.overbooked_spots = event["overbooked_spots"]
        # A statement of its own: it sees the entries of the session that had the row locked before.
        last = self._link.execute(statements.HASH, [self._event_id, self.number]).fetchone()
        self._hash = audit.BEFORE_THE_FIRST if last is None else bytes(last[0])

    def moved(self, id_: UUID, row: Row | None, clean: CleanRegistration | None) -> tuple[object, ...]:
        """Count a registration's move from what was written to what is, and return its entry as a row."""
        before = None if row is None else row.status
        after = None if clean is None else clean.status.value
        delta = _spots_held(clean) - _spots_held(row)
        self.spots_reserved += delta
        self.waitlist_length += (after == Status.WAITLIST) - (before == Status.WAITLIST)
        return self._entry(registration_id=id_, from_status=before, to_status=after, spots_delta=delta)

    def changed(self, settings: Mapping[str, Sequence[Any]]) -> tuple[object, ...]:
        """Return the entry of a change of settings, each before and after, as a row."""
        named = {texts.camel(name): value for name, value in settings.items()}
        return self._entry(before_after=msgspec.to_builtins(named))

    def record(self, entries: Sequence[tuple[object, ...]]) -> None:
        """Write entries, and the counters."""
        with self._link.cursor() as cursor, cursor.copy(statements.COPY_TRAIL) as copy:
            for entry in entries:
                copy.write_row(entry)
        values = {
            "event_id": self._event_id,
            "spots_reserved": self.spots_reserved,
            "waitlist_length": self.waitlist_length,
            "number": self.number,
        }
        self.overbooked_spots = links.value(self._link.execute(statements.SET_COUNTERS, values))

    def _entry(
        self,
        *,
        registration_id: UUID | None = None,
        from_status: str | None = None,
        to_status: str | None = None,
        spots_delta: int = 0,
        before_after: Mapping[str, Any] | None = None,
    ) -> tuple[object, ...]:
        self.number += 1
        change = Change(
            kind=KIND,
            command_id=None,
            actor=ACTOR,
            reason=None,
            registration_id=registration_id,
            from_status=from_status,
            to_status=to_status,
            spots_delta=spots_delta,
            spots_reserved=self.spots_reserved,
            before_after=before_after,
        )
        self._hash = audit.chain(self._hash, self._event_id, self.number, self.at, change)
        move = registration_id, from_status, to_status, before_after and Jsonb(before_after), spots_delta
        place = self._event_id, self.number, KIND, ACTOR
        return *place, *move, self.spots_reserved, self.at, self._hash


def _spots_held(registration: Row | CleanRegistration | None) -> int:
    """Return the spots of the capacity that the registration takes."""
    if registration is None or registration.status != Status.CONFIRMED:
        return 0
    return registration.spots_count
