"""Applies events' pending commands: load → decide → save with the outcomes, one transaction a batch."""

from collections.abc import Collection, Iterator, Sequence
from uuid import UUID

import psycopg
import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import DataError, IntegrityError

from shared import commands, ids, ledger
from shared.commands import Accepted
from shared.ledger import Pending, Settled
from shared.outcomes import Failed
from worker import records, saving
from worker.records import Held, Loaded, Overtaken
from worker.saving import GuardRefused

log = structlog.get_logger(__name__)

_HEAL_COUNTER: commands.Kind = "heal_counter"
# What one command's data, or a broken invariant, can cause. Anything else that the database
# raises is its own trouble: the batch stays pending and is tried again.
_POISON = (IntegrityError, DataError, psycopg.IntegrityError, psycopg.DataError, GuardRefused)
_FIRST_PART = 32
"""So many commands are decided before the database begins to write, and twice as many while it does."""

_Batches = Sequence[tuple[Held, Sequence[Pending]]]
_Readable = Accepted | Settled
"""A command as it is decided; one that cannot be read is settled without."""
_Turns = Sequence[tuple[Loaded, _Readable]]


class BatchRefused(Exception):  # noqa: N818 - reads as the sentence "raise BatchRefused"
    """Nothing of a batch was written, because of one of its commands; the cause says why."""

    def __init__(self, command_ids: list[UUID]) -> None:
        super().__init__(f"{len(command_ids)} commands, from {command_ids[0]} on")
        self.command_ids = command_ids


class DecisionRaised(Exception):  # noqa: N818 - likewise
    """A decision stopped half way: the roster holds a part of it, and must be thrown away."""


def apply_pending(
    connection: Connection, event_ids: Collection[UUID], limit: int, coming: UUID | None = None
) -> list[Settled]:
    """Decide pending commands of these events, at most `limit`, and commit; return what was settled.

    A command that is `coming` for an event, because it is just being accepted, is waited for.

    All or nothing. One event's batch that cannot be written is applied again command by command, so
    that the one at fault is settled as `Failed` and the others as if it had not been there; nothing is
    settled where somebody else overtook. For more than one event either raises `BatchRefused` or
    `Overtaken`: it is for the caller to apply them one by one.
    """
    try:
        return _apply(connection, event_ids, limit, coming)
    except (BatchRefused, Overtaken) as error:
        if len(event_ids) > 1:
            raise
        (event_id,) = event_ids
        if isinstance(error, Overtaken):
            log.warning("overtaken", event_id=str(event_id))
            return []
        log.exception("batch_refused", event_id=str(event_id))
        return _apply_one_by_one(connection, event_id, limit)


def _apply(
    connection: Connection, event_ids: Collection[UUID], limit: int, coming: UUID | None = None
) -> list[Settled]:
    with connection.begin():
        held = records.hold(connection, event_ids, limit, coming)
        if not held:
            return []
        batches = [(event, _together(event.pending)) for event in held]
        try:
            return _decide_all(connection, batches)
        except (*_POISON, DecisionRaised) as error:
            raise BatchRefused([command.id for _, batch in batches for command in batch]) from error


def _together(pending: list[Pending]) -> list[Pending]:
    """Return what is decided in one batch: a recount is of the rows as they are, so it goes alone."""
    for place, command in enumerate(pending):
        if command.kind == _HEAL_COUNTER:
            return pending[: max(place, 1)]
    return pending


def _decide_all(connection: Connection, batches: _Batches) -> list[Settled]:
    asked = [[_read(event, command) for command in batch] for event, batch in batches]
    readable = [[one for one in batch if isinstance(one, Accepted)] for batch in asked]
    loaded = records.load(
        connection, [(event, some) for (event, _), some in zip(batches, readable, strict=True)]
    )
    turns = [(one, command) for one, batch in zip(loaded, asked, strict=True) for command in batch]
    settled: list[Settled] = []
    with saving.writing(connection) as writer:
        for part in _parts(turns):
            decided = [_decide(one, command) for one, command in part]
            writer.save(list({one.event.id: one for one, _ in part}.values()), decided)
            settled += decided
    return settled


def _parts(turns: _Turns) -> Iterator[_Turns]:
    """Divide a batch into parts, each twice as large as the one that is written meanwhile."""
    first, size = 0, _FIRST_PART
    while first < len(turns):
        yield turns[first : first + size]
        first, size = first + size, 2 * size


def _apply_one_by_one(connection: Connection, event_id: UUID, limit: int) -> list[Settled]:
    settled: list[Settled] = []
    for _ in range(limit):
        try:
            one = _apply(connection, [event_id], 1)
        except BatchRefused as refused:
            one = _fail(connection, event_id, refused.command_ids[0], refused.__cause__ or refused)
        except Overtaken:
            break
        if not one:
            break
        settled += one
    return settled


def _fail(connection: Connection, event_id: UUID, command_id: UUID, error: BaseException) -> list[Settled]:
    settled = _failed(event_id, command_id, error)
    with connection.begin():
        return [settled] if saving.settle(connection, settled) else []


def _read(event: Held, pending: Pending) -> _Readable:
    try:
        return ledger.read(pending)
    except Exception as error:  # noqa: BLE001 - whatever is wrong with it is wrong with this command alone
        return _failed(event.id, pending.id, error)


def _decide(loaded: Loaded, command: _Readable) -> Settled:
    if isinstance(command, Settled):
        return command
    try:
        outcome = loaded.roster.decide(command)
    except Exception as error:
        raise DecisionRaised from error
    return Settled(event_id=loaded.event.id, command_id=command.id, outcome=outcome)


def _failed(event_id: UUID, command_id: UUID, error: BaseException) -> Settled:
    incident_id = ids.new_id()
    log.error("command_failed", command_id=str(command_id), incident_id=str(incident_id), exc_info=error)
    return Settled(event_id=event_id, command_id=command_id, outcome=Failed(incident_id=incident_id))
