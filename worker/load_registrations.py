"""Loads registrations: those that commands name, and the waitlist as far as decisions can reach."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

from psycopg.rows import dict_row

from shared.domain import rules
from shared.domain.commands import (
    ChangeEvent,
    ChangeStatus,
    Command,
    CorrectRegistration,
    DeleteRegistration,
    Erase,
    GiveReceipt,
    PendingCommand,
    PromoteWaitlist,
    Register,
    Status,
)
from shared.domain.event import Registration
from shared.postgres import arrays, statements
from worker.locked_event import LockedEvent, Session

_SQL = Path(__file__).parent / "sql"
FIND_REGISTRATIONS = statements.load(_SQL / "find_registrations.sql")
READ_WAITLIST = statements.load(statements.SHARED / "read_waitlist.sql")
COUNT_OVERSIZED = statements.load(_SQL / "count_oversized.sql")


def named(session: Session, event_id: UUID, commands: Sequence[Command]) -> list[Registration]:
    """Return the registrations that these commands name."""
    ids = {id_ for command in commands for id_ in _named(command)}
    return _registrations(session, FIND_REGISTRATIONS, event_id, ids=arrays.uuids(ids)) if ids else []


def _named(command: Command) -> Sequence[UUID]:
    """Return the registrations that a command names."""
    match command:
        case ChangeStatus() | CorrectRegistration() | GiveReceipt() | DeleteRegistration():
            return (command.registration_id,)
        case Erase(registration_ids=ids):
            return ids
        case _:
            return ()


def waiters(
    session: Session,
    event: LockedEvent,
    pending: Sequence[PendingCommand],
    named: Sequence[Registration],
    *,
    heals: bool,
) -> list[Registration]:
    """Return the head of the waitlist, as far as these commands can reach.

    A batch ends before its promotions take twice `PROMOTED_SPOTS_MAX` spots, and one command stops at half
    of that.
    """
    if any(isinstance(command.command, Erase) for command in pending):
        return []  # it is alone, and moves no registration
    only_registers = all(isinstance(command.command, Register) for command in pending)
    if only_registers and event.spots_reserved >= event.settings.capacity:
        return []  # no spot is free and none will be: no registration can pass another
    capacity = max(_capacities(event, pending))
    freed = capacity if heals else max(capacity - event.spots_reserved, 0) + sum(r.spots_held for r in named)
    freed = min(freed, min(len(pending), 2) * rules.PROMOTED_SPOTS_MAX)
    if not _may_promote(event, pending):
        freed = 0
    leaving = Counter(r.spots_count for r in named if r.status is Status.WAITLIST)
    return _registrations(
        session,
        READ_WAITLIST,
        event.id,
        capacity=capacity,
        freed=freed,
        leaving_sizes=arrays.numbers(leaving.keys()),
        leaving_parties=arrays.numbers(leaving.values()),
    )


def _may_promote(event: LockedEvent, pending: Sequence[PendingCommand]) -> bool:
    kinds = {type(command.command) for command in pending}
    if event.follow_up is not None:
        return PromoteWaitlist in kinds
    promotes = any(event.settings.promotes(command.accepted_at) for command in pending)
    return promotes or ChangeEvent in kinds


def _capacities(event: LockedEvent, pending: Sequence[PendingCommand]) -> list[int]:
    """Return the capacities that the event has while these commands are decided."""
    changes = [command.command for command in pending if isinstance(command.command, ChangeEvent)]
    return [event.settings.capacity, *(c.capacity for c in changes if isinstance(c.capacity, int))]


def oversized(
    session: Session, decidable: Sequence[tuple[LockedEvent, Sequence[PendingCommand]]]
) -> dict[UUID, dict[int, int]]:
    """Return for each event the oversized parties by size, as far as its waitlist's limit depends on them."""
    asked = []
    for event, pending in decidable:
        changes = [command.command for command in pending if isinstance(command.command, ChangeEvent)]
        limits = [event.settings.waitlist_limit, *(change.waitlist_limit for change in changes)]
        limit = min((limit for limit in limits if isinstance(limit, int)), default=None)
        capacity = min((capacity for capacity in _capacities(event, pending) if capacity), default=None)
        if limit is None or capacity is None:
            continue
        # With so many oversized parties the waitlist has room after all changes of its length in this batch.
        parties_max = event.waitlist_length - limit + 1 + len(pending)
        if parties_max > 0 and any(isinstance(command.command, Register) for command in pending):
            asked.append((event.id, capacity, parties_max))
    oversized: dict[UUID, dict[int, int]] = {}
    if asked:
        event_ids, capacities, parties_max_of = zip(*asked, strict=True)
        parameters = {
            "event_ids": arrays.uuids(event_ids),
            "capacities": arrays.numbers(capacities),
            "parties_max": arrays.numbers(parties_max_of),
        }
        for event_id, spots_count, parties in session.execute(COUNT_OVERSIZED, parameters):
            oversized.setdefault(event_id, {})[spots_count] = parties
    return oversized


def _registrations(
    session: Session, statement: bytes, event_id: UUID, **parameters: object
) -> list[Registration]:
    with session.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(statement, {"event_id": event_id, **parameters}).fetchall()
    return [Registration(**{**row, "status": Status(row["status"])}) for row in rows]
