"""Locks events and loads their rosters: all rows that decisions on their pending commands can need.

A row lock lasts to the end of the transaction, which also saves the decisions. An event that another session
has locked is skipped until later, so that it does not delay the other events.
"""

from collections.abc import Collection, Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

import msgspec
import structlog
from psycopg.rows import dict_row

from shared.domain import audit, commands, texts
from shared.domain.commands import (
    AddRegistration,
    ChangeEvent,
    CorrectRegistration,
    HealCounter,
    PendingCommand,
    Register,
)
from shared.domain.event import Recount, Registration, Waitlist
from shared.domain.roster import Roster
from shared.postgres import arrays, statements, tables
from worker import load_registrations, trouble
from worker.locked_event import LockedEvent, Session
from worker.trouble import Patience, Place

log = structlog.get_logger(__name__)

_SQL = Path(__file__).parent / "sql"
LOCK_EVENTS = statements.load(_SQL / "lock_events.sql")
FIND_HOLDERS = statements.load(_SQL / "find_holders.sql")
RECOUNT = statements.load(_SQL / "recount.sql")
FIND_SLUGS = statements.load(_SQL / "find_slugs.sql")
FIRST_PENDING = statements.load(_SQL / "first_pending.sql")

_EVENTS_WITH_FULL_SHARE = 8
"""In a batch of more events no event gets more than this share of it."""

_FROM_THE_FIRST = -(2**63)

_WAITERS_READ_MAX = 10_000
"""Once a batch has read so many waiting registrations, its other events are left for a later batch."""

_RECOUNT_SECONDS_MAX = 300
"""The time-out of a recount, which reads all rows of an event: about a second for a million rows."""

_ALONE: frozenset[commands.Kind] = frozenset({"heal_counter", "promote_waitlist", "give_receipt", "erase"})

_SET_TIMEOUT = "SELECT set_config('statement_timeout', %(timeout)s, true)"  # until the transaction ends


class Overtaken(Exception):  # noqa: N818 - reads as the sentence "raise Overtaken"
    """Another session changed a row of this batch; the transaction must be rolled back."""


class Scope(NamedTuple):
    """The pending commands that a transaction takes, and the time that its statements may take.

    It takes all but those that are `left_out`, or the command `alone`.
    """

    patience: Patience = trouble.BATCH
    left_out: Collection[UUID] = ()
    alone: Place | None = None


class UnreadableEvent(Exception):  # noqa: N818 - likewise
    """An event's row has a value that this version cannot read; none of its commands can be decided."""


class LoadedEvent(msgspec.Struct, eq=False):
    """A locked event with its roster, and the end of its audit trail as saved so far."""

    id: UUID
    roster: Roster
    now: datetime
    audit_seq: int
    last_hash: bytes


_DECODER = msgspec.json.Decoder(LockedEvent)


def lock_events(
    session: Session, event_ids: Collection[UUID], commands_max: int, scope: Scope
) -> list[LockedEvent]:
    """Lock the events among these that have pending commands in `scope`, until the transaction ends.

    They are returned in the order of `event_ids`.

    The events have at most `commands_max` commands in all; with very many events none has more than a share.
    A heal is alone, because it counts the rows before all other commands of a batch (decision 0029); so is a
    follow-up, because its many promotions would delay the answers to the other commands (decision 0034), and
    a new receipt, because the original place of its registration is found by the command before (0051); and
    an erasure, because the commands that it empties must be settled (0063). A
    command of a newer version than this worker knows stays pending, and all commands behind it. The scope's
    patience holds for the later statements of the transaction. Raises `Overtaken` if the statement read the
    ledger before another session changed an event's row, and `UnreadableEvent`.
    """
    few = len(event_ids) <= _EVENTS_WITH_FULL_SHARE
    share = commands_max if few else -(-commands_max // _EVENTS_WITH_FULL_SHARE)
    parameters = {
        "event_ids": arrays.uuids(event_ids),
        "share": share,
        "commands_max": commands_max,
        "left_out": arrays.uuids(scope.left_out),
        "first_seq": _FROM_THE_FIRST if scope.alone is None else scope.alone.seq,
        "statement_ms": scope.patience.statement_ms,
        "lock_ms": scope.patience.lock_ms,
    }
    rows = session.execute(LOCK_EVENTS, parameters).fetchall()
    try:
        events = [_DECODER.decode(row) for (row,) in rows]
    except msgspec.DecodeError as error:
        raise UnreadableEvent(str(error)) from error
    places = {event_id: place for place, event_id in enumerate(event_ids)}
    events.sort(key=lambda event: places[event.id])
    if scope.alone is not None:  # unless another session has settled it
        events = [event for event in events if event.pending[0][0] == scope.alone.command_id]
    if any(event.audit_seq > 0 and event.last_hash is None for event in events):
        raise Overtaken
    for event in events:
        for place, (_, _, version, kind, *_) in enumerate(event.pending):
            if version > commands.VERSION:
                log.warning("command_of_a_newer_version", event_id=str(event.id), version=version)
                del event.pending[place:]
                break
            if kind in _ALONE:
                event.cut = len(event.pending) > max(place, 1)
                del event.pending[max(place, 1) :]
                break
    return [event for event in events if event.pending]


def first_pending(session: Session, event_id: UUID, left_out: Collection[UUID]) -> Place | None:
    """Return the event's first pending command that is not left out, None if there is none."""
    parameters = {"event_id": event_id, "left_out": arrays.uuids(left_out)}
    row = session.execute(FIRST_PENDING, parameters).fetchone()
    return None if row is None else Place(event_id, *row)


def rosters(
    session: Session, decidable: Sequence[tuple[LockedEvent, Sequence[PendingCommand]]]
) -> list[LoadedEvent]:
    """Return the events' rosters, with all that deciding these commands can ask of them.

    The last events are left out if the first have read `_WAITERS_READ_MAX` waiting registrations.
    """
    named: list[list[Registration]] = []
    emails: set[tuple[UUID, str]] = set()
    for event, pending in decidable:
        others = [command.command for command in pending if not isinstance(command.command, Register)]
        named.append(load_registrations.named(session, event.id, others) if others else [])
        addresses = [
            command.command.email or None
            for command in pending
            if isinstance(command.command, Register | AddRegistration | CorrectRegistration)
        ]
        addresses += [registration.email for registration in named[-1]]
        emails |= {(event.id, key) for email in addresses if email for key in texts.email_keys_stored(email)}
    holders_of = _holders(session, emails) if emails else {}
    waiting = [(event, pending) for event, pending in decidable if event.waitlist_length]
    oversized_of = load_registrations.oversized(session, waiting) if waiting else {}
    loaded: list[LoadedEvent] = []
    read = 0
    for (event, pending), registrations in zip(decidable, named, strict=True):
        if read >= _WAITERS_READ_MAX:
            break
        heals = any(isinstance(command.command, HealCounter) for command in pending)
        waiters: list[Registration] = []
        waitlist = Waitlist()
        if event.waitlist_length or heals:
            waiters = load_registrations.waiters(session, event, pending, registrations, heals=heals)
            known = (waiter.waiter for waiter in waiters)
            waitlist = Waitlist.of(known, event.waitlist_length, oversized_of.get(event.id))
        read += len(waiters)
        roster = Roster(
            settings=event.settings,
            spots_reserved=event.spots_reserved,
            waitlist=waitlist,
            registrations={registration.id: registration for registration in (*waiters, *registrations)},
            holders=holders_of.get(event.id, {}),
            recount=_recount(session, event.id) if heals else None,
            follow_up=event.follow_up,
        )
        slugs = {c.command.slug for c in pending if isinstance(c.command, ChangeEvent) and c.command.slug}
        if not slugs <= {event.settings.slug}:
            roster.slug_fixed, roster.taken_slugs = _slugs(session, event.id, slugs)
        last_hash = bytes.fromhex(event.last_hash) if event.last_hash else audit.BEFORE_THE_FIRST
        loaded.append(
            LoadedEvent(
                id=event.id, roster=roster, now=event.now, audit_seq=event.audit_seq, last_hash=last_hash
            )
        )
    return loaded


def _holders(session: Session, emails: Collection[tuple[UUID, str]]) -> dict[UUID, dict[str, UUID]]:
    """Return for each event the active registrations that hold these email addresses.

    A registration is found under the key that its row has, and under that of this release.
    """
    parameters = {
        "event_ids": arrays.uuids(event_id for event_id, _ in emails),
        "email_keys": arrays.texts(key for _, key in emails),
    }
    holders: dict[UUID, dict[str, UUID]] = {}
    for event_id, email_key, email, id_ in session.execute(FIND_HOLDERS, parameters):
        holders.setdefault(event_id, {}).update({email_key: id_, texts.email_key(email or email_key): id_})
    return holders


def _slugs(session: Session, event_id: UUID, slugs: Collection[str]) -> tuple[bool, Collection[str]]:
    """Return whether the event's slug is fixed, and which of these slugs it cannot have."""
    parameters = {"slugs": arrays.texts(slugs), "held_seconds": tables.SLUG_HELD_SECONDS}
    (found,) = session.execute(FIND_SLUGS, {"event_id": event_id, **parameters}).fetchall()
    fixed, taken = found
    return fixed, taken


def _recount(session: Session, event_id: UUID) -> Recount:
    """Count the event's rows, under a time-out of its own: however many they are, the heal is decided."""
    with session.cursor(row_factory=dict_row) as cursor:
        (before,) = cursor.execute("SHOW statement_timeout").fetchall()
        cursor.execute(_SET_TIMEOUT, {"timeout": f"{_RECOUNT_SECONDS_MAX}s"})
        (row,) = cursor.execute(RECOUNT, {"event_id": event_id}).fetchall()
        cursor.execute(_SET_TIMEOUT, {"timeout": before["statement_timeout"]})
    return Recount(**row)
