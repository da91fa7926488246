"""Loads an event's roster and saves what its decisions changed.

The only writer of `registration` and `audit_entry`, and of an event's counters. All of it happens
in the transaction of the caller, who holds the event's row from `load` to the commit: even a second
owner would wait its turn here, and would then see what the first one wrote.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import msgspec
from sqlalchemy import Connection, RowMapping, text

from shared import arrays, commands
from shared.commands import (
    Accepted,
    ChangeEvent,
    ChangeStatus,
    DeleteRegistration,
    HealCounter,
    Register,
    Status,
)
from worker import trail
from worker.promotion import Policy, Waitlist
from worker.roster import Roster
from worker.state import Recount, Registration, Terms


class GuardRefused(Exception):  # noqa: N818 - reads as the sentence "raise GuardRefused"
    """The counter would have passed the capacity; nothing was written."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Loaded:
    """A roster, with what it was loaded as: its counters, the trail's end and the transaction's time."""

    event_id: UUID
    roster: Roster
    terms: Terms
    spots_reserved: int
    waitlist_length: int
    audit_seq: int
    now: datetime


_EVENT = text("""
    SELECT title, capacity, waitlist_enabled, waitlist_limit, promotion_policy, auto_promote,
           max_spots_per_registration, opens_at, closes_at, paused,
           spots_reserved, waitlist_length, audit_seq, now() AS now
    FROM event
    WHERE id = :event_id
    FOR UPDATE
""")

_REGISTRATION_COLUMNS = "id, seq, command_id, name, email, spots_count, status"

_NAMED = text(f"""
    SELECT {_REGISTRATION_COLUMNS} FROM registration
    WHERE event_id = :event_id AND id = ANY(CAST(:ids AS uuid[]))
""")

_HOLDERS = text("""
    SELECT email_key, id FROM registration
    WHERE event_id = :event_id AND email_key = ANY(CAST(:email_keys AS text[])) AND status <> 'CANCELLED'
""")

# Hops from size to size along the index, and takes of each as many from the head as could be
# promoted into `freed` spots, or be among those `leaving`, and one more: the next head.
_WAITERS = text(f"""
    WITH RECURSIVE size AS (
        SELECT min(spots_count) AS spots FROM registration WHERE event_id = :event_id AND status = 'WAITLIST'
        UNION ALL
        SELECT (SELECT min(spots_count) FROM registration
                WHERE event_id = :event_id AND status = 'WAITLIST' AND spots_count > size.spots)
        FROM size WHERE size.spots IS NOT NULL
    )
    SELECT waiter.*
    FROM size CROSS JOIN LATERAL (
        SELECT {_REGISTRATION_COLUMNS} FROM registration
        WHERE event_id = :event_id AND status = 'WAITLIST' AND spots_count = size.spots
        ORDER BY seq LIMIT CAST(:freed AS bigint) / size.spots + :leaving + 1
    ) AS waiter
    WHERE size.spots IS NOT NULL
""")

_RECOUNT = text("""
    SELECT coalesce(sum(spots_count) FILTER (WHERE status = 'CONFIRMED'), 0) AS confirmed_spots,
           count(*) FILTER (WHERE status = 'WAITLIST') AS waitlist_length,
           coalesce((SELECT spots_reserved FROM audit_entry WHERE event_id = :event_id
                     ORDER BY number DESC LIMIT 1), 0) AS audited_spots
    FROM registration WHERE event_id = :event_id
""")

_GUARD = """
    UPDATE event
    SET spots_reserved = spots_reserved + :spots_delta,
        waitlist_length = waitlist_length + :waitlist_delta,
        overbooked_spots = least(overbooked_spots, greatest(spots_reserved + :spots_delta - {capacity}, 0)),
        audit_seq = audit_seq + :entries,
        updated_at = now(){settings}
    WHERE id = :event_id AND (:spots_delta <= 0 OR spots_reserved + :spots_delta <= {capacity})
"""
_GUARD_COUNTERS = text(_GUARD.format(capacity="capacity", settings=""))
_GUARD_SETTINGS = text(
    _GUARD.format(
        capacity="CAST(:capacity AS integer)",
        settings="".join(f", {name} = :{name}" for name in Terms.__struct_fields__),
    )
)

# Only here may the counter rise past the capacity: to say that the rows already do.
_HEAL = text("""
    UPDATE event
    SET spots_reserved = :confirmed_spots, waitlist_length = :waitlist_length,
        overbooked_spots = greatest(:confirmed_spots - capacity, 0)
    WHERE id = :event_id
""")

_DELETE = text("DELETE FROM registration WHERE event_id = :event_id AND id = ANY(CAST(:ids AS uuid[]))")

_UPDATE = text("""
    UPDATE registration
    SET status = changed.status, seq = changed.seq, updated_at = now()
    FROM unnest(CAST(:ids AS uuid[]), CAST(:statuses AS text[]), CAST(:seqs AS bigint[]))
         AS changed (id, status, seq)
    WHERE registration.event_id = :event_id AND registration.id = changed.id
""")

_INSERT = text("""
    INSERT INTO registration (event_id, id, seq, command_id, name, email, email_key, spots_count, status)
    SELECT :event_id, entered.*
    FROM ROWS FROM (
        unnest(CAST(:ids AS uuid[])), unnest(CAST(:seqs AS bigint[])), unnest(CAST(:command_ids AS uuid[])),
        jsonb_array_elements_text(CAST(:names AS jsonb)), jsonb_array_elements_text(CAST(:emails AS jsonb)),
        jsonb_array_elements_text(CAST(:email_keys AS jsonb)), unnest(CAST(:spots_counts AS integer[])),
        jsonb_array_elements_text(CAST(:statuses AS jsonb))
    ) AS entered
""")


def lock_event(connection: Connection, event_id: UUID) -> RowMapping:
    """Take the event's row until the transaction ends, and return it."""
    return connection.execute(_EVENT, {"event_id": event_id}).mappings().one()


def load(connection: Connection, event_id: UUID, event: RowMapping, accepted: Sequence[Accepted]) -> Loaded:
    """Return the locked event's roster, with all that deciding these commands can ask of it."""
    settings = {name: event[name] for name in Terms.__struct_fields__}
    terms = Terms(**{**settings, "promotion_policy": Policy(event["promotion_policy"])})
    registrations = {r.id: r for r in _named(connection, event_id, accepted)}
    waiters = _waiters(connection, event_id, event, registrations.values(), accepted)
    holders = _holders(connection, event_id, registrations.values(), accepted)
    roster = Roster(
        terms=terms,
        spots_reserved=event["spots_reserved"],
        waitlist=Waitlist.of((w.waiter for w in waiters), event["waitlist_length"]),
        registrations={**{w.id: w for w in waiters}, **registrations},
        holders=holders,
        recount=_recount(connection, event_id) if _heals(accepted) else None,
    )
    return Loaded(
        event_id=event_id,
        roster=roster,
        terms=terms,
        spots_reserved=event["spots_reserved"],
        waitlist_length=event["waitlist_length"],
        audit_seq=event["audit_seq"],
        now=event["now"],
    )


def save(connection: Connection, loaded: Loaded) -> None:
    """Write what the roster's decisions changed; raises `GuardRefused` before capacity is passed."""
    roster = loaded.roster
    if not roster.changes:
        return
    _move_counters(connection, loaded)
    # Those who leave go first, so that whoever comes may have their place, or their email address.
    _delete(connection, loaded.event_id, roster.deleted - roster.entered)
    kept = [roster.registrations[id_] for id_ in roster.changed - roster.entered - roster.deleted]
    _update(connection, loaded.event_id, [r for r in kept if r.status is Status.CANCELLED])
    _update(connection, loaded.event_id, [r for r in kept if r.status is not Status.CANCELLED])
    _insert(
        connection, loaded.event_id, [roster.registrations[id_] for id_ in roster.entered - roster.deleted]
    )
    trail.append(connection, loaded.event_id, roster.changes, after=loaded.audit_seq, at=loaded.now)


def _named(connection: Connection, event_id: UUID, accepted: Sequence[Accepted]) -> list[Registration]:
    ids = [
        a.command.registration_id
        for a in accepted
        if isinstance(a.command, ChangeStatus | DeleteRegistration)
    ]
    if not ids:
        return []
    return _registrations(connection.execute(_NAMED, {"event_id": event_id, "ids": ids}).mappings())


def _waiters(
    connection: Connection,
    event_id: UUID,
    event: RowMapping,
    named: Collection[Registration],
    accepted: Sequence[Accepted],
) -> list[Registration]:
    """Return the heads of the waitlist's lines, as far as these commands can possibly reach."""
    if event["waitlist_length"] == 0 and not _heals(accepted):
        return []
    only_registers = all(isinstance(a.command, Register) for a in accepted)
    if only_registers and event["spots_reserved"] >= event["capacity"]:
        return []  # nothing is free and nothing will be: nobody can pass anybody
    changes = [a.command for a in accepted if isinstance(a.command, ChangeEvent)]
    capacity = max([event["capacity"], *(c.capacity for c in changes if isinstance(c.capacity, int))])
    freed = max(capacity - event["spots_reserved"], 0) + sum(r.spots_held for r in named)
    if _heals(accepted):
        freed = capacity
    if not (event["auto_promote"] or changes):
        freed = 0
    leaving = sum(isinstance(a.command, ChangeStatus | DeleteRegistration) for a in accepted)
    parameters = {"event_id": event_id, "freed": freed, "leaving": leaving}
    return _registrations(connection.execute(_WAITERS, parameters).mappings())


def _registrations(rows: Iterable[RowMapping]) -> list[Registration]:
    return [Registration(**{**row, "status": Status(row["status"])}) for row in rows]


def _holders(
    connection: Connection, event_id: UUID, named: Collection[Registration], accepted: Sequence[Accepted]
) -> dict[str, UUID]:
    emails = {a.command.email for a in accepted if isinstance(a.command, Register)} | {r.email for r in named}
    keys = [commands.email_key(email) for email in emails if email is not None]
    if not keys:
        return {}
    rows = connection.execute(_HOLDERS, {"event_id": event_id, "email_keys": keys})
    return {row.email_key: row.id for row in rows}


def _heals(accepted: Sequence[Accepted]) -> bool:
    return any(isinstance(a.command, HealCounter) for a in accepted)


def _recount(connection: Connection, event_id: UUID) -> Recount:
    return Recount(**connection.execute(_RECOUNT, {"event_id": event_id}).mappings().one())


def _move_counters(connection: Connection, loaded: Loaded) -> None:
    """Move the event's counters in one guarded statement: what keeps every event from being oversold."""
    roster, spots, waiting = loaded.roster, loaded.spots_reserved, loaded.waitlist_length
    if roster.recount is not None:
        spots, waiting = roster.recount.confirmed_spots, roster.recount.waitlist_length
        connection.execute(
            _HEAL, {"event_id": loaded.event_id, "confirmed_spots": spots, "waitlist_length": waiting}
        )
    changed = roster.terms != loaded.terms
    result = connection.execute(
        _GUARD_SETTINGS if changed else _GUARD_COUNTERS,
        {
            "event_id": loaded.event_id,
            "spots_delta": roster.spots_reserved - spots,
            "waitlist_delta": roster.waitlist.length - waiting,
            "entries": len(roster.changes),
            **(msgspec.structs.asdict(roster.terms) if changed else {}),
        },
    )
    if result.rowcount != 1:
        raise GuardRefused(f"event {loaded.event_id}: the counter does not move past the capacity")


def _delete(connection: Connection, event_id: UUID, ids: Collection[UUID]) -> None:
    if ids:
        connection.execute(_DELETE, {"event_id": event_id, "ids": list(ids)})


def _update(connection: Connection, event_id: UUID, changed: Sequence[Registration]) -> None:
    if changed:
        connection.execute(
            _UPDATE,
            {
                "event_id": event_id,
                "ids": [r.id for r in changed],
                "statuses": [r.status.value for r in changed],
                "seqs": [r.seq for r in changed],
            },
        )


def _insert(connection: Connection, event_id: UUID, entered: Sequence[Registration]) -> None:
    if entered:
        connection.execute(
            _INSERT,
            {
                "event_id": event_id,
                "ids": arrays.ids(r.id for r in entered),
                "seqs": arrays.numbers(r.seq for r in entered),
                "command_ids": arrays.ids(r.command_id for r in entered),
                "names": arrays.json(r.name for r in entered),
                "emails": arrays.json(r.email for r in entered),
                "email_keys": arrays.json(r.email and commands.email_key(r.email) for r in entered),
                "spots_counts": arrays.numbers(r.spots_count for r in entered),
                "statuses": arrays.json(r.status for r in entered),
            },
        )
