"""Appends to the audit trail; nothing ever changes or removes an entry."""

from collections.abc import Sequence

from shared import arrays, audit
from worker.records import Held
from worker.state import Change

APPEND = """
    INSERT INTO audit_entry (event_id, number, command_id, kind, actor, reason, registration_id, from_status,
                             to_status, before_after, spots_delta, spots_reserved, at, hash)
    SELECT event_id, number, command_id, kind, actor, reason, registration_id, from_status,
           to_status, nullif(before_after, 'null'), spots_delta, spots_reserved, now(), decode(hash, 'hex')
    FROM ROWS FROM (
        unnest(CAST(:noted_events AS uuid[])), unnest(CAST(:noted_numbers AS bigint[])),
        unnest(CAST(:noted_commands AS uuid[])), jsonb_array_elements_text(CAST(:noted_kinds AS jsonb)),
        jsonb_array_elements_text(CAST(:noted_actors AS jsonb)),
        jsonb_array_elements_text(CAST(:noted_reasons AS jsonb)),
        unnest(CAST(:noted_registrations AS uuid[])),
        jsonb_array_elements_text(CAST(:noted_from_statuses AS jsonb)),
        jsonb_array_elements_text(CAST(:noted_to_statuses AS jsonb)),
        jsonb_array_elements(CAST(:noted_before_afters AS jsonb)),
        unnest(CAST(:noted_spots_deltas AS integer[])), unnest(CAST(:noted_spots_reserved AS integer[])),
        unnest(CAST(:noted_hashes AS text[]))
    ) AS entry (event_id, number, command_id, kind, actor, reason, registration_id, from_status,
                to_status, before_after, spots_delta, spots_reserved, hash)
"""
"""Writes the entries of `appending`, in the transaction that held their events."""


def appending(changes: Sequence[tuple[Held, Sequence[Change]]]) -> dict[str, str]:
    """Return the parameters with which `APPEND` writes one entry a change, chained to the one before."""
    entries = [entry for event, made in changes for entry in _entries(event, made)]
    return {
        "noted_events": arrays.ids(e.event_id for e, _ in entries),
        "noted_numbers": arrays.numbers(e.number for e, _ in entries),
        "noted_commands": arrays.ids(e.command_id for e, _ in entries),
        "noted_kinds": arrays.json(e.kind for e, _ in entries),
        "noted_actors": arrays.json(e.actor for e, _ in entries),
        "noted_reasons": arrays.json(e.reason for e, _ in entries),
        "noted_registrations": arrays.ids(e.registration_id for e, _ in entries),
        "noted_from_statuses": arrays.json(e.from_status for e, _ in entries),
        "noted_to_statuses": arrays.json(e.to_status for e, _ in entries),
        "noted_before_afters": arrays.json(e.before_after for e, _ in entries),
        "noted_spots_deltas": arrays.numbers(e.spots_delta for e, _ in entries),
        "noted_spots_reserved": arrays.numbers(e.spots_reserved for e, _ in entries),
        "noted_hashes": arrays.digests(digest for _, digest in entries),
    }


def _entries(event: Held, changes: Sequence[Change]) -> list[tuple[audit.Entry, bytes]]:
    """Return an event's new entries with their hashes, numbered on from its last."""
    last = bytes.fromhex(event.last_hash) if event.last_hash else audit.BEFORE_THE_FIRST
    entries = []
    for number, change in enumerate(changes, event.audit_seq + 1):
        entry = _entry(event, number, change)
        last = audit.chain(last, entry)
        entries.append((entry, last))
    return entries


def _entry(event: Held, number: int, change: Change) -> audit.Entry:
    return audit.Entry(
        event_id=event.id,
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
        at=event.now,
    )
