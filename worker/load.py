"""Locks events and loads their rosters: all rows that decisions on their pending commands can need.

A row lock lasts to the end of the transaction, which also saves the decisions. An event that another session
has locked is skipped until later, so that it does not delay the other events.
"""

from collections.abc import Collection, Sequence
from datetime import datetime
from pathlib import Path
from uuid import UUID

import msgspec
import psycopg
import structlog
from psycopg.rows import TupleRow, dict_row

from shared.domain import audit, commands
from shared.domain.commands import (
    ChangeEvent,
    ChangeStatus,
    DeleteRegistration,
    HealCounter,
    PendingCommand,
    Register,
    Status,
)
from shared.domain.event import EventChanges, EventSettings, Recount, Registration
from shared.domain.promotion import Waitlist
from shared.domain.roster import Roster
from shared.postgres import arrays, statements

log = structlog.get_logger(__name__)

_SQL = Path(__file__).parent / "sql"
LOCK_EVENTS = statements.load(_SQL / "lock_events.sql")
FIND_REGISTRATIONS = statements.load(_SQL / "find_registrations.sql")
FIND_HOLDERS = statements.load(_SQL / "find_holders.sql")
READ_WAITLIST = statements.load(_SQL / "read_waitlist.sql")
RECOUNT = statements.load(_SQL / "recount.sql")

_EVENTS_WITH_FULL_SHARE = 8
"""In a batch of more events no event gets more than this share of it."""

_HEAL_COUNTER: commands.Kind = "heal_counter"

Session = psycopg.Connection[TupleRow]
PendingRow = tuple[UUID, int, int, str, msgspec.Raw, str, datetime]
"""`(id, seq, version, kind, payload, actor, accepted_at)` of a pending command, its payload not read yet."""


class Overtaken(Exception):  # noqa: N818 - reads as the sentence "raise Overtaken"
    """Another session changed a row of this batch; the transaction must be rolled back."""


class LockedEvent(msgspec.Struct, frozen=True, rename="camel"):
    """An event that this transaction has locked, with its first pending commands in ledger order.

    `last_hash` is the hexadecimal hash of its newest audit entry, None when it has none; `now` is the
    transaction's time.
    """

    id: UUID
    audit_seq: int
    last_hash: str | None
    now: datetime
    spots_reserved: int
    waitlist_length: int
    settings: EventSettings
    pending: list[PendingRow]


class LoadedEvent(msgspec.Struct, eq=False):
    """A locked event with its roster, and the end of its audit trail as saved so far."""

    id: UUID
    roster: Roster
    now: datetime
    audit_seq: int
    last_hash: bytes

    def append_to_trail(self, taken: EventChanges) -> list[bytes]:
        """Return the hashes of the audit entries of these changes, each chained to the entry before."""
        hashes = []
        for number, change in enumerate(taken.changes, self.audit_seq + 1):
            self.last_hash = audit.chain(self.last_hash, self.id, number, self.now, change)
            hashes.append(self.last_hash)
        self.audit_seq += len(hashes)
        return hashes


_DECODER = msgspec.json.Decoder(LockedEvent)


def lock_events(session: Session, event_ids: Collection[UUID], commands_max: int) -> list[LockedEvent]:
    """Lock the events among these that have pending commands, until the transaction ends.

    The events have at most `commands_max` commands in all; with very many events none has more than a share.
    A heal is alone, because it counts the rows before all other commands of a batch (decision 0029). A
    command of a newer version than this worker knows stays pending, and all commands behind it. Raises
    `Overtaken` if the statement read the ledger before another session changed an event's row.
    """
    few = len(event_ids) <= _EVENTS_WITH_FULL_SHARE
    share = commands_max if few else -(-commands_max // _EVENTS_WITH_FULL_SHARE)
    parameters = {"event_ids": arrays.uuids(event_ids), "share": share, "commands_max": commands_max}
    events = [_DECODER.decode(row) for (row,) in session.execute(LOCK_EVENTS, parameters)]
    if any(event.audit_seq > 0 and event.last_hash is None for event in events):
        raise Overtaken
    for event in events:
        for place, (_, _, version, kind, *_) in enumerate(event.pending):
            if version > commands.VERSION:
                log.warning("command_of_a_newer_version", event_id=str(event.id), version=version)
                del event.pending[place:]
                break
            if kind == _HEAL_COUNTER:
                del event.pending[max(place, 1) :]
                break
    return [event for event in events if event.pending]


def rosters(
    session: Session, decidable: Sequence[tuple[LockedEvent, Sequence[PendingCommand]]]
) -> list[LoadedEvent]:
    """Return the events' rosters, with all that deciding these commands can ask of them."""
    named: list[list[Registration]] = []
    emails: set[tuple[UUID, str]] = set()
    for event, pending in decidable:
        ids = [
            command.command.registration_id
            for command in pending
            if isinstance(command.command, ChangeStatus | DeleteRegistration)
        ]
        named.append(
            _registrations(session, FIND_REGISTRATIONS, event.id, ids=arrays.uuids(ids)) if ids else []
        )
        addresses = [command.command.email for command in pending if isinstance(command.command, Register)]
        addresses += [registration.email for registration in named[-1]]
        emails |= {(event.id, commands.email_key(email)) for email in addresses if email is not None}
    holders_of = _holders(session, emails) if emails else {}
    return [
        LoadedEvent(
            id=event.id,
            roster=_roster(session, event, pending, registrations, holders_of.get(event.id, {})),
            now=event.now,
            audit_seq=event.audit_seq,
            last_hash=bytes.fromhex(event.last_hash) if event.last_hash else audit.BEFORE_THE_FIRST,
        )
        for (event, pending), registrations in zip(decidable, named, strict=True)
    ]


def _roster(
    session: Session,
    event: LockedEvent,
    pending: Sequence[PendingCommand],
    named: Sequence[Registration],
    holders: dict[str, UUID],
) -> Roster:
    heals = any(isinstance(command.command, HealCounter) for command in pending)
    waiters = _waiters(session, event, pending, named, heals=heals) if event.waitlist_length or heals else []
    return Roster(
        settings=event.settings,
        spots_reserved=event.spots_reserved,
        waitlist=Waitlist.of((waiter.waiter for waiter in waiters), event.waitlist_length),
        registrations={registration.id: registration for registration in (*waiters, *named)},
        holders=holders,
        recount=_recount(session, event.id) if heals else None,
    )


def _waiters(
    session: Session,
    event: LockedEvent,
    pending: Sequence[PendingCommand],
    named: Sequence[Registration],
    *,
    heals: bool,
) -> list[Registration]:
    """Return the head of the waitlist, as far as these commands can reach."""
    only_registers = all(isinstance(command.command, Register) for command in pending)
    if only_registers and event.spots_reserved >= event.settings.capacity:
        return []  # no spot is free and none will be: no registration can pass another
    changes = [command.command for command in pending if isinstance(command.command, ChangeEvent)]
    capacity = max([event.settings.capacity, *(c.capacity for c in changes if isinstance(c.capacity, int))])
    freed = capacity if heals else max(capacity - event.spots_reserved, 0) + sum(r.spots_held for r in named)
    if not (event.settings.auto_promote or changes):
        freed = 0
    leaving = sum(isinstance(command.command, ChangeStatus | DeleteRegistration) for command in pending)
    return _registrations(session, READ_WAITLIST, event.id, freed=freed, leaving=leaving)


def _holders(session: Session, emails: Collection[tuple[UUID, str]]) -> dict[UUID, dict[str, UUID]]:
    """Return for each event the active registrations that hold these email addresses."""
    parameters = {
        "event_ids": arrays.uuids(event_id for event_id, _ in emails),
        "email_keys": arrays.texts(key for _, key in emails),
    }
    holders: dict[UUID, dict[str, UUID]] = {}
    for event_id, email_key, id_ in session.execute(FIND_HOLDERS, parameters):
        holders.setdefault(event_id, {})[email_key] = id_
    return holders


def _registrations(
    session: Session, statement: bytes, event_id: UUID, **parameters: object
) -> list[Registration]:
    with session.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(statement, {"event_id": event_id, **parameters}).fetchall()
    return [Registration(**{**row, "status": Status(row["status"])}) for row in rows]


def _recount(session: Session, event_id: UUID) -> Recount:
    with session.cursor(row_factory=dict_row) as cursor:
        (row,) = cursor.execute(RECOUNT, {"event_id": event_id}).fetchall()
    return Recount(**row)
