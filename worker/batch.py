"""Applies events' pending commands: lock and load, decide, save; one transaction a batch.

A batch is all or nothing. One event's batch that cannot be written is applied again in smaller ones, so that
the command at fault is settled as `Failed` and the others as if it did not exist.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import NamedTuple
from uuid import UUID

import psycopg
import structlog

from shared.domain import commands, ids
from shared.domain.commands import PendingCommand
from shared.domain.outcomes import Failed, SettledCommand
from worker import load
from worker.load import LoadedEvent, LockedEvent, Overtaken, PendingRow, Session
from worker.save import BatchWriter, GuardRefused

log = structlog.get_logger(__name__)

# Errors that one command's data, or a broken invariant, can cause. After any other error of the database the
# batch stays pending and is tried again.
_POISON = (psycopg.IntegrityError, psycopg.DataError, GuardRefused)
_FIRST_PART, _PART_MAX = 32, 256
"""Commands that are decided before the database begins to write, and at most while it writes."""


class _Incident(NamedTuple):
    """A command that is settled as `Failed`, and the error to log once that is committed."""

    settled: SettledCommand
    error: BaseException

    def report(self) -> None:
        assert isinstance(self.settled.outcome, Failed), "an incident is a failure"
        log.error(
            "command_failed",
            command_id=str(self.settled.command_id),
            incident_id=str(self.settled.outcome.incident_id),
            exc_info=self.error,
        )


_Undecided = tuple[LoadedEvent, PendingCommand | _Incident]
"""A command that is to be decided, or that cannot be read, with its event."""


class BatchRefused(Exception):  # noqa: N818 - reads as the sentence "raise BatchRefused"
    """A batch was rolled back because of one of its commands; the cause has the reason."""

    def __init__(self, command_ids: list[UUID]) -> None:
        super().__init__(f"{len(command_ids)} commands, from {command_ids[0]} on")
        self.command_ids = command_ids


class DecisionRaised(Exception):  # noqa: N818 - likewise
    """A decision raised an error: the roster holds a part of its changes and must be discarded."""


def _nothing() -> None:
    pass


def apply(
    session: Session,
    event_ids: Collection[UUID],
    commands_max: int,
    meanwhile: Callable[[], None] = _nothing,
) -> list[SettledCommand]:
    """Decide at most `commands_max` pending commands of these events and commit; return the settled commands.

    One event's commands are settled even if the database refuses their batch. For more than one event
    that raises `BatchRefused`, and `Overtaken` when another session settled a command meanwhile: the caller
    applies the events one by one. The session must be in autocommit mode. `meanwhile` is called once all
    statements are sent, while PostgreSQL executes them; it must not raise.
    """
    try:
        return _apply(session, event_ids, commands_max, meanwhile)
    except (BatchRefused, Overtaken) as error:
        if len(event_ids) > 1:
            raise
        (event_id,) = event_ids
        if isinstance(error, Overtaken):
            log.warning("overtaken", event_id=str(event_id))
            return []
        log.exception("batch_refused", event_id=str(event_id))
        return _apply_around_culprits(session, event_id, len(error.command_ids))


def _apply(
    session: Session,
    event_ids: Collection[UUID],
    commands_max: int,
    meanwhile: Callable[[], None] = _nothing,
) -> list[SettledCommand]:
    settled: list[SettledCommand] = []
    with session.transaction():
        locked = load.lock_events(session, event_ids, commands_max)
        if not locked:
            return []
        try:
            undecided = _undecided(session, locked)
            writer = BatchWriter(session)
            with session.pipeline():
                for part in _parts(undecided):  # PostgreSQL writes one part while the next is decided (0013)
                    decided = [_decide(event, command) for event, command in part]
                    writer.save({event.id: event for event, _ in part}.values(), decided)
                    settled += decided
                meanwhile()
            writer.check()
        except (*_POISON, DecisionRaised) as error:
            raise BatchRefused([id_ for event in locked for id_, *_ in event.pending]) from error
    for _, command in undecided:
        if isinstance(command, _Incident):
            command.report()
    return settled


def _undecided(session: Session, locked: Sequence[LockedEvent]) -> list[_Undecided]:
    """Read the events' commands and load their rosters; return all commands in the order to decide."""
    batches = [[_read(event.id, row) for row in event.pending] for event in locked]
    readable = [[command for command in batch if isinstance(command, PendingCommand)] for batch in batches]
    loaded = load.rosters(session, list(zip(locked, readable, strict=True)))
    return [(event, command) for event, batch in zip(loaded, batches, strict=True) for command in batch]


def _parts(undecided: Sequence[_Undecided]) -> Iterator[Sequence[_Undecided]]:
    """Divide a batch into parts, each up to twice as large as the one that is written meanwhile."""
    first, size = 0, _FIRST_PART
    while first < len(undecided):
        yield undecided[first : first + size]
        first, size = first + size, min(2 * size, _PART_MAX)


def _apply_around_culprits(session: Session, event_id: UUID, count: int) -> list[SettledCommand]:
    """Apply `count` refused commands in smaller batches: a command that is refused alone fails.

    A refused batch is halved; after an accepted one the size doubles.
    """
    settled: list[SettledCommand] = []
    size = max(count // 2, 1)
    try:
        while len(settled) < count:
            try:
                batch = _apply(session, [event_id], min(size, count - len(settled)))
            except BatchRefused as refused:
                size = max(len(refused.command_ids) // 2, 1)
                if len(refused.command_ids) == 1:
                    settled += _fail(session, event_id, refused.command_ids[0], refused.__cause__ or refused)
            else:
                if not batch:
                    break
                settled += batch
                size *= 2
    except Overtaken:
        log.warning("overtaken", event_id=str(event_id))
    except Exception:
        if not settled:  # else the outcomes so far are to be published all the same
            raise
        log.exception("event_not_applied", event_id=str(event_id))
    return settled


def _fail(session: Session, event_id: UUID, command_id: UUID, error: BaseException) -> list[SettledCommand]:
    with session.transaction():
        locked = load.lock_events(session, [event_id], 1)
        if not locked or locked[0].pending[0][0] != command_id:
            return []  # another session has settled it, or another command has come before it
        incident = _incident(event_id, locked[0].pending[0], error)
        writer = BatchWriter(session)
        writer.save([], [incident.settled])
        writer.check()
    incident.report()
    return [incident.settled]


def _read(event_id: UUID, row: PendingRow) -> PendingCommand | _Incident:
    id_, seq, _, kind, payload, actor, accepted_at = row
    try:
        command = commands.decode(kind, payload)
    except Exception as error:  # noqa: BLE001 - a command that cannot be read fails alone
        return _incident(event_id, row, error)
    return PendingCommand(command=command, id=id_, seq=seq, actor=actor, accepted_at=accepted_at)


def _decide(event: LoadedEvent, command: PendingCommand | _Incident) -> SettledCommand:
    if isinstance(command, _Incident):
        return command.settled
    try:
        outcome = event.roster.decide(command)
    except Exception as error:
        raise DecisionRaised from error
    return SettledCommand(event_id=event.id, command_id=command.id, seq=command.seq, outcome=outcome)


def _incident(event_id: UUID, row: PendingRow, error: BaseException) -> _Incident:
    id_, seq, *_ = row
    failed = Failed(incident_id=ids.new_id())
    return _Incident(SettledCommand(event_id=event_id, command_id=id_, seq=seq, outcome=failed), error)
