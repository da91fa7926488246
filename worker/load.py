"""Holds events and loads their rosters: all that deciding their pending commands can ask for.

Whoever holds an event's row holds it to the end of the transaction, in which everything decided is
written. An event that another session holds is not waited for but left for later, so that it keeps no
other event waiting.
"""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from uuid import UUID

import msgspec
from psycopg.errors import LockNotAvailable
from sqlalchemy import Connection, RowMapping, text

from shared.domain import commands
from shared.domain.commands import (
    Accepted,
    ChangeEvent,
    ChangeStatus,
    DeleteRegistration,
    HealCounter,
    Register,
    Status,
)
from shared.domain.event import Recount, Registration, Terms
from shared.domain.promotion import Waitlist
from shared.domain.roster import Roster
from shared.postgres import arrays, connections, ledger, locks
from shared.postgres.ledger import Pending


class Overtaken(Exception):  # noqa: N818 - reads as the sentence "raise Overtaken"
    """Somebody else changed what was about to be changed here; the transaction must be rolled back."""


class Held(msgspec.Struct, frozen=True, array_like=True):
    """An event whose row this transaction holds, as it is now, with its pending commands.

    `last_hash` is that of its newest audit entry in hexadecimal, None when it has none; `now` is the
    transaction's time.
    """

    id: UUID
    spots_reserved: int
    waitlist_length: int
    audit_seq: int
    last_hash: str | None
    now: datetime
    pending: list[Pending]
    terms: Terms


class Loaded(msgspec.Struct, kw_only=True):
    """A roster, and the event that it was loaded of, as it was then or when last written."""

    event: Held
    roster: Roster

    def written(self, last_hash: bytes) -> None:
        """Let later changes count from here: those so far are written, the last with this hash."""
        self.event = msgspec.structs.replace(
            self.event,
            spots_reserved=self.roster.spots_reserved,
            waitlist_length=self.roster.waitlist.length,
            audit_seq=self.event.audit_seq + len(self.roster.changes),
            last_hash=last_hash.hex(),
            terms=self.roster.terms,
        )
        self.roster.written()


_TERMS = ", ".join(
    f"'{name}', {column}"
    for column, name in zip(Terms.__struct_fields__, Terms.__struct_encode_fields__, strict=True)
)
# One statement, so one look at the ledger and no lock where nothing is pending. The look may be older
# than the row that is then held: what a second owner did in between is found out here or on settling.
_HOLD = f"""
    SELECT json_build_array(
        event.id, event.spots_reserved, waitlist_length, audit_seq, encode(hash, 'hex'), now(), commands,
        json_build_object({_TERMS})
    )::text
    FROM ({ledger.PENDING}) AS pending
    CROSS JOIN LATERAL (
        SELECT * FROM event WHERE id = pending.event_id FOR UPDATE SKIP LOCKED
    ) AS event
    LEFT JOIN audit_entry ON audit_entry.event_id = event.id AND audit_entry.number = event.audit_seq
"""
_DECODER = msgspec.json.Decoder(Held)
_EVENTS_WITH_FULL_SHARE = 8

_REGISTRATION_COLUMNS = "id, seq, command_id, name, email, spots_count, status"

_NAMED = text(f"""
    SELECT {_REGISTRATION_COLUMNS} FROM registration
    WHERE event_id = :event_id AND id = ANY(CAST(:ids AS uuid[]))
""")

_HOLDERS = text("""
    SELECT holder.*
    FROM ROWS FROM (
        unnest(CAST(:event_ids AS uuid[])), jsonb_array_elements_text(CAST(:email_keys AS jsonb))
    ) AS asked (event_id, email_key)
    CROSS JOIN LATERAL (
        SELECT event_id, email_key, id FROM registration
        WHERE event_id = asked.event_id AND email_key = asked.email_key AND status <> 'CANCELLED'
        OFFSET 0
    ) AS holder
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


def hold(
    connection: Connection, event_ids: Collection[UUID], limit: int, coming: UUID | None = None
) -> list[Held]:
    """Begin the transaction, and hold those of these events that have pending commands until it ends.

    At most `limit` commands in all; of very many events none gets more than a share of it. A command that
    is `coming` for an event is waited for, but not for long.
    """
    share = limit if len(event_ids) <= _EVENTS_WITH_FULL_SHARE else -(-limit // _EVENTS_WITH_FULL_SHARE)
    parameters = {"event_ids": arrays.ids(event_ids), "share": share, "limit": limit}
    session = connections.session(connection)
    assert session.autocommit, "else the driver begins by itself, in a round trip of its own"
    try:
        with session.pipeline():
            session.execute(b"BEGIN")
            if coming is not None:
                session.execute(ledger.AWAIT_COMING.encode(), {"coming": locks.coming_key(coming)})
                session.execute(b"COMMIT AND CHAIN")
            found = session.execute(_HOLD.encode(), parameters)
    except LockNotAvailable:
        if coming is None:
            raise
        session.rollback()
        return hold(connection, event_ids, limit)  # others are there; what comes late is rung for again
    held = [_DECODER.decode(row) for (row,) in found]
    if any(event.audit_seq > 0 and event.last_hash is None for event in held):
        raise Overtaken
    return held


def load(connection: Connection, decidable: Sequence[tuple[Held, Sequence[Accepted]]]) -> list[Loaded]:
    """Return the held events' rosters, with all that deciding these commands can ask of them."""
    named = [_named(connection, event.id, accepted) for event, accepted in decidable]
    holders = _holders(connection, decidable, named)
    return [
        Loaded(
            event=event,
            roster=_roster(connection, event, accepted, {r.id: r for r in registrations}, holders[event.id]),
        )
        for (event, accepted), registrations in zip(decidable, named, strict=True)
    ]


def _roster(
    connection: Connection,
    event: Held,
    accepted: Sequence[Accepted],
    named: dict[UUID, Registration],
    holders: dict[str, UUID],
) -> Roster:
    waiters = _waiters(connection, event, named.values(), accepted)
    return Roster(
        terms=event.terms,
        spots_reserved=event.spots_reserved,
        waitlist=Waitlist.of((w.waiter for w in waiters), event.waitlist_length),
        registrations={**{w.id: w for w in waiters}, **named},
        holders=holders,
        recount=_recount(connection, event.id) if _heals(accepted) else None,
    )


def _named(connection: Connection, event_id: UUID, accepted: Sequence[Accepted]) -> list[Registration]:
    ids = [
        a.command.registration_id
        for a in accepted
        if isinstance(a.command, ChangeStatus | DeleteRegistration)
    ]
    if not ids:
        return []
    parameters = {"event_id": event_id, "ids": arrays.ids(ids)}
    return _registrations(connection.execute(_NAMED, parameters).mappings())


def _waiters(
    connection: Connection, event: Held, named: Collection[Registration], accepted: Sequence[Accepted]
) -> list[Registration]:
    """Return the heads of the waitlist's lines, as far as these commands can possibly reach."""
    heals = _heals(accepted)
    if event.waitlist_length == 0 and not heals:
        return []
    only_registers = all(isinstance(a.command, Register) for a in accepted)
    if only_registers and event.spots_reserved >= event.terms.capacity:
        return []  # nothing is free and nothing will be: nobody can pass anybody
    changes = [a.command for a in accepted if isinstance(a.command, ChangeEvent)]
    capacity = max([event.terms.capacity, *(c.capacity for c in changes if isinstance(c.capacity, int))])
    freed = max(capacity - event.spots_reserved, 0) + sum(r.spots_held for r in named)
    if heals:
        freed = capacity
    if not (event.terms.auto_promote or changes):
        freed = 0
    leaving = sum(isinstance(a.command, ChangeStatus | DeleteRegistration) for a in accepted)
    parameters = {"event_id": event.id, "freed": freed, "leaving": leaving}
    return _registrations(connection.execute(_WAITERS, parameters).mappings())


def _registrations(rows: Iterable[RowMapping]) -> list[Registration]:
    return [Registration(**{**row, "status": Status(row["status"])}) for row in rows]


def _holders(
    connection: Connection,
    decidable: Sequence[tuple[Held, Sequence[Accepted]]],
    named: Sequence[Sequence[Registration]],
) -> dict[UUID, dict[str, UUID]]:
    """Return of each event which active registrations hold the email addresses that are spoken of."""
    asked = [
        (event.id, commands.email_key(email))
        for (event, accepted), registrations in zip(decidable, named, strict=True)
        for email in {
            *(a.command.email for a in accepted if isinstance(a.command, Register)),
            *(r.email for r in registrations),
        }
        if email is not None
    ]
    holders: dict[UUID, dict[str, UUID]] = {event.id: {} for event, _ in decidable}
    if asked:
        parameters = {
            "event_ids": arrays.ids(event_id for event_id, _ in asked),
            "email_keys": arrays.json(key for _, key in asked),
        }
        for row in connection.execute(_HOLDERS, parameters):
            holders[row.event_id][row.email_key] = row.id
    return holders


def _heals(accepted: Sequence[Accepted]) -> bool:
    return any(isinstance(a.command, HealCounter) for a in accepted)


def _recount(connection: Connection, event_id: UUID) -> Recount:
    return Recount(**connection.execute(_RECOUNT, {"event_id": event_id}).mappings().one())
