"""Appends to the audit trail; nothing ever changes or removes an entry."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from shared import arrays, audit
from worker.records import Held
from worker.state import Change

APPEND = """
    INSERT INTO audit_entry (event_id, number, command_id, kind, actor, reason, registration_id, from_status,
                             to_status, before_after, spots_delta, spots_reserved, at, hash)
    SELECT event_id, number, command_id, kind, actor, reason, registration_id, from_status,
           to_status, nullif(before_after, 'null'), spots_delta, spots_reserved, now(), hash
    FROM ROWS FROM (
        unnest(CAST(%(noted_events)s AS uuid[])), unnest(CAST(%(noted_numbers)s AS bigint[])),
        unnest(CAST(%(noted_commands)s AS uuid[])), jsonb_array_elements_text(CAST(%(noted_kinds)s AS jsonb)),
        jsonb_array_elements_text(CAST(%(noted_actors)s AS jsonb)),
        jsonb_array_elements_text(CAST(%(noted_reasons)s AS jsonb)),
        unnest(CAST(%(noted_registrations)s AS uuid[])),
        jsonb_array_elements_text(CAST(%(noted_from_statuses)s AS jsonb)),
        jsonb_array_elements_text(CAST(%(noted_to_statuses)s AS jsonb)),
        jsonb_array_elements(CAST(%(noted_before_afters)s AS jsonb)),
        unnest(CAST(%(noted_spots_deltas)s AS integer[])),
        unnest(CAST(%(noted_spots_reserved)s AS integer[])),
        unnest(CAST(%(noted_hashes)s AS bytea[]))
    ) AS entry (event_id, number, command_id, kind, actor, reason, registration_id, from_status,
                to_status, before_after, spots_delta, spots_reserved, hash)
"""
"""Writes the entries of `appending`, in the transaction that held their events."""


class Chained(NamedTuple):
    """An entry with its hash, which the next one is chained to."""

    entry: audit.Entry
    digest: bytes


def entries(event: Held, changes: Sequence[Change]) -> list[Chained]:
    """Return one entry a change, numbered on from the event's last, each chained to the one before."""
    last = bytes.fromhex(event.last_hash) if event.last_hash else audit.BEFORE_THE_FIRST
    chained = []
    for number, change in enumerate(changes, event.audit_seq + 1):
        entry = _entry(event, number, change)
        last = audit.chain(last, entry)
        chained.append(Chained(entry, last))
    return chained


def appending(noted: Iterable[Sequence[Chained]]) -> dict[str, object]:
    """Return the parameters with which `APPEND` writes these entries."""
    chained = [one for entries in noted for one in entries]
    noted_entries = [one.entry for one in chained]
    return {
        "noted_events": arrays.ids(e.event_id for e in noted_entries),
        "noted_numbers": arrays.numbers(e.number for e in noted_entries),
        "noted_commands": arrays.ids(e.command_id for e in noted_entries),
        "noted_kinds": arrays.json(e.kind for e in noted_entries),
        "noted_actors": arrays.json(e.actor for e in noted_entries),
        "noted_reasons": arrays.json(e.reason for e in noted_entries),
        "noted_registrations": arrays.ids(e.registration_id for e in noted_entries),
        "noted_from_statuses": arrays.json(e.from_status for e in noted_entries),
        "noted_to_statuses": arrays.json(e.to_status for e in noted_entries),
        "noted_before_afters": arrays.json(e.before_after for e in noted_entries),
        "noted_spots_deltas": arrays.numbers(e.spots_delta for e in noted_entries),
        "noted_spots_reserved": arrays.numbers(e.spots_reserved for e in noted_entries),
        "noted_hashes": arrays.digests(one.digest for one in chained),
    }


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
