"""Loads an event's roster and saves what its decisions changed.

The only writer of `registration` and `audit_entry`, and of an event's counters. All of it happens
in the transaction of the caller, who holds the event's row from `load` to the commit: even a second
owner would wait its turn here, and would then see what the first one wrote.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection, RowMapping, text

from shared import audit, commands
from shared.commands import Accepted, Register, Status
from worker.promotion import Policy
from worker.roster import Change, Roster, Terms


class GuardRefused(Exception):  # noqa: N818 - reads as the sentence "raise GuardRefused"
    """The counter would have passed the capacity; nothing was written."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Loaded:
    """A roster, with what saving its changes needs: the trail's end and the transaction's time."""

    event_id: UUID
    roster: Roster
    audit_seq: int
    now: datetime


_EVENT = text("""
    SELECT capacity, waitlist_enabled, waitlist_limit, promotion_policy, max_spots_per_registration,
           opens_at, closes_at, paused, spots_reserved, waitlist_length, audit_seq, now() AS now
    FROM event
    WHERE id = :event_id
    FOR UPDATE
""")

_SMALLEST_WAITING = text("""
    SELECT min(spots_count) FROM registration WHERE event_id = :event_id AND status = 'WAITLIST'
""")

_HOLDERS = text("""
    SELECT email_key FROM registration
    WHERE event_id = :event_id AND email_key = ANY(CAST(:email_keys AS text[])) AND status <> 'CANCELLED'
""")

_GUARD = text("""
    UPDATE event
    SET spots_reserved = spots_reserved + :spots_delta,
        waitlist_length = waitlist_length + :waitlist_delta,
        audit_seq = audit_seq + :entries,
        updated_at = now()
    WHERE id = :event_id AND (:spots_delta <= 0 OR spots_reserved + :spots_delta <= capacity)
""")

_INSERT_REGISTRATIONS = text("""
    INSERT INTO registration (event_id, id, seq, command_id, name, email, email_key, spots_count, status)
    SELECT :event_id, entered.*
    FROM unnest(CAST(:ids AS uuid[]), CAST(:seqs AS bigint[]), CAST(:command_ids AS uuid[]),
                CAST(:names AS text[]), CAST(:emails AS text[]), CAST(:email_keys AS text[]),
                CAST(:spots_counts AS integer[]), CAST(:statuses AS text[])) AS entered
""")

_LAST_HASH = text("SELECT hash FROM audit_entry WHERE event_id = :event_id AND number = :number")

_INSERT_AUDIT_ENTRIES = text("""
    INSERT INTO audit_entry (event_id, number, command_id, actor, registration_id, from_status, to_status,
                             spots_delta, spots_reserved, at, hash)
    SELECT :event_id, number, command_id, actor, registration_id, from_status, to_status,
           spots_delta, spots_reserved, :at, hash
    FROM unnest(CAST(:numbers AS bigint[]), CAST(:command_ids AS uuid[]), CAST(:actors AS text[]),
                CAST(:registration_ids AS uuid[]), CAST(:from_statuses AS text[]), CAST(:to_statuses AS text[]),
                CAST(:spots_deltas AS integer[]), CAST(:spots_reserved AS integer[]), CAST(:hashes AS bytea[]))
         AS entry (number, command_id, actor, registration_id, from_status, to_status,
                   spots_delta, spots_reserved, hash)
""")


def lock_event(connection: Connection, event_id: UUID) -> RowMapping:
    """Take the event's row until the transaction ends, and return it."""
    return connection.execute(_EVENT, {"event_id": event_id}).mappings().one()


def load(connection: Connection, event_id: UUID, event: RowMapping, accepted: Sequence[Accepted]) -> Loaded:
    """Return the locked event's roster, with all that deciding these commands can ask of it."""
    waitlist_length = event["waitlist_length"]
    roster = Roster(
        terms=_terms(event),
        spots_reserved=event["spots_reserved"],
        waitlist_length=waitlist_length,
        smallest_waiting=_smallest_waiting(connection, event_id) if waitlist_length else None,
        holders=_holders(connection, event_id, accepted),
    )
    return Loaded(event_id=event_id, roster=roster, audit_seq=event["audit_seq"], now=event["now"])


def save(connection: Connection, loaded: Loaded) -> None:
    """Write what the roster's decisions changed; raises `GuardRefused` before capacity is passed."""
    changes = loaded.roster.changes
    if not changes:
        return
    _move_counters(connection, loaded.event_id, changes)
    _insert_registrations(connection, loaded.event_id, changes)
    _append_audit_entries(connection, loaded)


def _terms(event: RowMapping) -> Terms:
    return Terms(
        capacity=event["capacity"],
        waitlist_enabled=event["waitlist_enabled"],
        waitlist_limit=event["waitlist_limit"],
        promotion_policy=Policy(event["promotion_policy"]),
        max_spots_per_registration=event["max_spots_per_registration"],
        opens_at=event["opens_at"],
        closes_at=event["closes_at"],
        paused=event["paused"],
    )


def _smallest_waiting(connection: Connection, event_id: UUID) -> int | None:
    return connection.execute(_SMALLEST_WAITING, {"event_id": event_id}).scalar_one_or_none()


def _holders(connection: Connection, event_id: UUID, accepted: Sequence[Accepted]) -> set[str]:
    keys = {
        commands.email_key(a.command.email)
        for a in accepted
        if isinstance(a.command, Register) and a.command.email is not None
    }
    if not keys:
        return set()
    return set(connection.execute(_HOLDERS, {"event_id": event_id, "email_keys": list(keys)}).scalars())


def _move_counters(connection: Connection, event_id: UUID, changes: Sequence[Change]) -> None:
    result = connection.execute(
        _GUARD,
        {
            "event_id": event_id,
            "spots_delta": sum(c.spots_delta for c in changes),
            "waitlist_delta": sum(
                (c.registration.status is Status.WAITLIST) - (c.from_status is Status.WAITLIST) for c in changes
            ),
            "entries": len(changes),
        },
    )
    if result.rowcount != 1:
        raise GuardRefused(f"event {event_id}: the counter does not move past the capacity")


def _insert_registrations(connection: Connection, event_id: UUID, changes: Sequence[Change]) -> None:
    entered = [c.registration for c in changes]
    connection.execute(
        _INSERT_REGISTRATIONS,
        {
            "event_id": event_id,
            "ids": [r.id for r in entered],
            "seqs": [r.seq for r in entered],
            "command_ids": [r.command_id for r in entered],
            "names": [r.name for r in entered],
            "emails": [r.email for r in entered],
            "email_keys": [r.email and commands.email_key(r.email) for r in entered],
            "spots_counts": [r.spots_count for r in entered],
            "statuses": [r.status.value for r in entered],
        },
    )


def _append_audit_entries(connection: Connection, loaded: Loaded) -> None:
    entries = [_entry(loaded, number, c) for number, c in enumerate(loaded.roster.changes, loaded.audit_seq + 1)]
    hashes, last = [], _last_hash(connection, loaded)
    for entry in entries:
        last = audit.chain(last, entry)
        hashes.append(last)
    connection.execute(
        _INSERT_AUDIT_ENTRIES,
        {
            "event_id": loaded.event_id,
            "at": loaded.now,
            "numbers": [e.number for e in entries],
            "command_ids": [e.command_id for e in entries],
            "actors": [e.actor for e in entries],
            "registration_ids": [e.registration_id for e in entries],
            "from_statuses": [e.from_status for e in entries],
            "to_statuses": [e.to_status for e in entries],
            "spots_deltas": [e.spots_delta for e in entries],
            "spots_reserved": [e.spots_reserved for e in entries],
            "hashes": hashes,
        },
    )


def _last_hash(connection: Connection, loaded: Loaded) -> bytes:
    if loaded.audit_seq == 0:
        return audit.BEFORE_THE_FIRST
    last = connection.execute(_LAST_HASH, {"event_id": loaded.event_id, "number": loaded.audit_seq})
    return bytes(last.scalar_one())


def _entry(loaded: Loaded, number: int, change: Change) -> audit.Entry:
    return audit.Entry(
        event_id=loaded.event_id,
        number=number,
        command_id=change.command_id,
        actor=change.actor,
        registration_id=change.registration.id,
        from_status=change.from_status and change.from_status.value,
        to_status=change.registration.status.value,
        spots_delta=change.spots_delta,
        spots_reserved=change.spots_reserved,
        at=loaded.now,
    )
