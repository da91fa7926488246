"""Applies events' pending commands: load → decide → save with the outcomes, one transaction a batch."""

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import NamedTuple
from uuid import UUID

import psycopg
import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import DataError, IntegrityError

from shared.domain import commands, ids
from shared.domain.commands import Accepted
from shared.domain.outcomes import Failed
from shared.postgres import ledger
from shared.postgres.ledger import Pending, Settled
from worker import load, save
from worker.load import Held, Loaded, Overtaken
from worker.save import GuardRefused

log = structlog.get_logger(__name__)

_HEAL_COUNTER: commands.Kind = "heal_counter"
# What one command's data, or a broken invariant, can cause. Anything else that the database
# raises is its own trouble: the batch stays pending and is tried again.
_POISON = (IntegrityError, DataError, psycopg.IntegrityError, psycopg.DataError, GuardRefused)
_FIRST_PART, _PART_MAX = 32, 256
"""So many commands are decided before the database begins to write, and so many at most while it does."""

_Batches = Sequence[tuple[Held, Sequence[Pending]]]


class _Incident(NamedTuple):
    """A command that is settled as `Failed`, and what the log is to say of it once that is committed."""

    settled: Settled
    outcome: Failed
    error: BaseException

    def tell(self) -> None:
        log.error(
            "command_failed",
            command_id=str(self.settled.command_id),
            incident_id=str(self.outcome.incident_id),
            exc_info=self.error,
        )


_Readable = Accepted | _Incident
"""A command as it is decided; one that cannot be read is settled without."""
_Turns = Sequence[tuple[Loaded, Pending, _Readable]]


class BatchRefused(Exception):  # noqa: N818 - reads as the sentence "raise BatchRefused"
    """Nothing of a batch was written, because of one of its commands; the cause says why."""

    def __init__(self, command_ids: list[UUID]) -> None:
        super().__init__(f"{len(command_ids)} commands, from {command_ids[0]} on")
        self.command_ids = command_ids


class DecisionRaised(Exception):  # noqa: N818 - likewise
    """A decision stopped half way: the roster holds a part of it, and must be thrown away."""


def _nothing() -> None:
    pass


def apply_pending(
    connection: Connection,
    event_ids: Collection[UUID],
    limit: int,
    coming: UUID | None = None,
    meanwhile: Callable[[], None] = _nothing,
) -> list[Settled]:
    """Decide pending commands of these events, at most `limit`, and commit; return what was settled.

    A command that is `coming` for an event, because it is just being accepted, is waited for. What there is
    to do `meanwhile` is done while the database writes, if there is anything to write, and must not raise.

    All or nothing. One event's batch that cannot be written is applied again in smaller ones, so that
    the one at fault is settled as `Failed` and the others as if it had not been there; nothing is
    settled where somebody else overtook. For more than one event either raises `BatchRefused` or
    `Overtaken`: it is for the caller to apply them one by one.
    """
    try:
        return _apply(connection, event_ids, limit, coming, meanwhile)
    except (BatchRefused, Overtaken) as error:
        if len(event_ids) > 1:
            raise
        (event_id,) = event_ids
        if isinstance(error, Overtaken):
            log.warning("overtaken", event_id=str(event_id))
            return []
        log.exception("batch_refused", event_id=str(event_id))
        meanwhile()
        return _apply_around_culprits(connection, event_id, len(error.command_ids))


def _apply(
    connection: Connection,
    event_ids: Collection[UUID],
    limit: int,
    coming: UUID | None = None,
    meanwhile: Callable[[], None] = _nothing,
) -> list[Settled]:
    with connection.begin():
        held = load.hold(connection, event_ids, limit, coming)
        if not held:
            return []
        batches = [(event, _together(event.pending)) for event in held]
        try:
            return _decide_all(connection, batches, meanwhile)
        except (*_POISON, DecisionRaised) as error:
            raise BatchRefused([command.id for _, batch in batches for command in batch]) from error


def _together(pending: list[Pending]) -> list[Pending]:
    """Return what is decided in one batch: a recount is of the rows as they are, so it goes alone."""
    for place, command in enumerate(pending):
        if command.kind == _HEAL_COUNTER:
            return pending[: max(place, 1)]
    return pending


def _decide_all(connection: Connection, batches: _Batches, meanwhile: Callable[[], None]) -> list[Settled]:
    asked = [[_read(event, command) for command in batch] for event, batch in batches]
    readable = [[one for one in batch if isinstance(one, Accepted)] for batch in asked]
    loaded = load.load(
        connection, [(event, some) for (event, _), some in zip(batches, readable, strict=True)]
    )
    turns = [
        (one, pending, command)
        for one, (_, batch), read in zip(loaded, batches, asked, strict=True)
        for pending, command in zip(batch, read, strict=True)
    ]
    settled: list[Settled] = []
    with save.writing(connection, meanwhile) as writer:
        for part in _parts(turns):
            decided = [_decide(one, command) for one, _, command in part]
            rosters = list({one.event.id: one for one, _, _ in part}.values())
            writer.save(rosters, [pending for _, pending, _ in part], decided)
            settled += decided
    for _, _, command in turns:
        if isinstance(command, _Incident):
            command.tell()
    return settled


def _parts(turns: _Turns) -> Iterator[_Turns]:
    """Divide a batch into parts, each up to twice as large as the one that is written meanwhile."""
    first, size = 0, _FIRST_PART
    while first < len(turns):
        yield turns[first : first + size]
        first, size = first + size, min(2 * size, _PART_MAX)


def _apply_around_culprits(connection: Connection, event_id: UUID, count: int) -> list[Settled]:
    """Apply so many refused commands in smaller batches: one that is refused by itself fails.

    Batches are halved while they are refused, and double in size again after that.
    """
    settled: list[Settled] = []
    size = max(count // 2, 1)
    try:
        while len(settled) < count:
            try:
                some = _apply(connection, [event_id], min(size, count - len(settled)))
            except BatchRefused as refused:
                size = max(len(refused.command_ids) // 2, 1)
                if len(refused.command_ids) == 1:
                    cause = refused.__cause__ or refused
                    settled += _fail(connection, event_id, refused.command_ids[0], cause)
            else:
                if not some:
                    break
                settled += some
                size *= 2
    except Overtaken:
        log.warning("overtaken", event_id=str(event_id))
    except Exception:
        if not settled:  # else they are to be told all the same
            raise
        log.exception("event_not_applied", event_id=str(event_id))
    return settled


def _fail(connection: Connection, event_id: UUID, command_id: UUID, error: BaseException) -> list[Settled]:
    with connection.begin():
        held = load.hold(connection, [event_id], 1)
        if not held or held[0].pending[0].id != command_id:
            return []  # somebody has settled it, or another one has come before it
        incident = _incident(event_id, command_id, error)
        with save.writing(connection, _nothing) as writer:
            writer.save([], held[0].pending, [incident.settled])
    incident.tell()
    return [incident.settled]


def _read(event: Held, pending: Pending) -> _Readable:
    try:
        return ledger.read(pending)
    except Exception as error:  # noqa: BLE001 - whatever is wrong with it is wrong with this command alone
        return _incident(event.id, pending.id, error)


def _decide(loaded: Loaded, command: _Readable) -> Settled:
    if isinstance(command, _Incident):
        return command.settled
    try:
        outcome = loaded.roster.decide(command)
    except Exception as error:
        raise DecisionRaised from error
    return Settled(event_id=loaded.event.id, command_id=command.id, outcome=outcome)


def _incident(event_id: UUID, command_id: UUID, error: BaseException) -> _Incident:
    failed = Failed(incident_id=ids.new_id())
    return _Incident(Settled(event_id=event_id, command_id=command_id, outcome=failed), failed, error)
