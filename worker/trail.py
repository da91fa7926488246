"""Appends to the audit trail; nothing ever changes or removes an entry."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection, text

from shared import arrays, audit
from worker.state import Change

_LAST_HASH = text("SELECT hash FROM audit_entry WHERE event_id = :event_id AND number = :number")

_APPEND = text("""
    INSERT INTO audit_entry (event_id, number, command_id, kind, actor, reason, registration_id, from_status,
                             to_status, before_after, spots_delta, spots_reserved, at, hash)
    SELECT :event_id, number, command_id, kind, actor, reason, registration_id, from_status,
           to_status, nullif(before_after, 'null'), spots_delta, spots_reserved, :at, decode(hash, 'hex')
    FROM ROWS FROM (
        unnest(CAST(:numbers AS bigint[])), unnest(CAST(:command_ids AS uuid[])),
        jsonb_array_elements_text(CAST(:kinds AS jsonb)), jsonb_array_elements_text(CAST(:actors AS jsonb)),
        jsonb_array_elements_text(CAST(:reasons AS jsonb)), unnest(CAST(:registration_ids AS uuid[])),
        jsonb_array_elements_text(CAST(:from_statuses AS jsonb)),
        jsonb_array_elements_text(CAST(:to_statuses AS jsonb)),
        jsonb_array_elements(CAST(:before_afters AS jsonb)), unnest(CAST(:spots_deltas AS integer[])),
        unnest(CAST(:spots_reserved AS integer[])), unnest(CAST(:hashes AS text[]))
    ) AS entry (number, command_id, kind, actor, reason, registration_id, from_status,
                to_status, before_after, spots_delta, spots_reserved, hash)
""")


def append(
    connection: Connection, event_id: UUID, changes: Sequence[Change], *, after: int, at: datetime
) -> None:
    """Write one entry per change, numbered from `after` + 1 and chained to the entry before."""
    entries = [_entry(event_id, number, change, at) for number, change in enumerate(changes, after + 1)]
    connection.execute(
        _APPEND,
        {
            "event_id": event_id,
            "at": at,
            "numbers": arrays.numbers(e.number for e in entries),
            "command_ids": arrays.ids(e.command_id for e in entries),
            "kinds": arrays.json(e.kind for e in entries),
            "actors": arrays.json(e.actor for e in entries),
            "reasons": arrays.json(e.reason for e in entries),
            "registration_ids": arrays.ids(e.registration_id for e in entries),
            "from_statuses": arrays.json(e.from_status for e in entries),
            "to_statuses": arrays.json(e.to_status for e in entries),
            "before_afters": arrays.json(e.before_after for e in entries),
            "spots_deltas": arrays.numbers(e.spots_delta for e in entries),
            "spots_reserved": arrays.numbers(e.spots_reserved for e in entries),
            "hashes": arrays.digests(_chain(_last_hash(connection, event_id, after), entries)),
        },
    )


def _chain(last: bytes, entries: Sequence[audit.Entry]) -> list[bytes]:
    hashes = []
    for entry in entries:
        last = audit.chain(last, entry)
        hashes.append(last)
    return hashes


def _last_hash(connection: Connection, event_id: UUID, number: int) -> bytes:
    if number == 0:
        return audit.BEFORE_THE_FIRST
    last = connection.execute(_LAST_HASH, {"event_id": event_id, "number": number})
    return bytes(last.scalar_one())


def _entry(event_id: UUID, number: int, change: Change, at: datetime) -> audit.Entry:
    return audit.Entry(
        event_id=event_id,
        number=number,
        command_id=change.command_id,
        kind=change.kind,
        actor=change.actor,
        reason=change.reason,
        registration_id=change.registration_id,
        from_status=change.from_status,
        to_status=change.to_status,
        before_after=change.before_after,
        spots_delta=change.spots_delta,
        spots_reserved=change.spots_reserved,
        at=at,
    )
