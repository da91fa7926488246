"""Applies an event's pending commands: load → decide → save → settle, one transaction a batch."""

from uuid import UUID

import structlog
from sqlalchemy import Connection, RowMapping
from sqlalchemy.exc import DataError, IntegrityError

from shared import commands, ids, ledger
from shared.commands import Accepted
from shared.ledger import Pending, Settled
from shared.outcomes import Failed, Outcome
from worker import records
from worker.records import GuardRefused
from worker.roster import Roster

log = structlog.get_logger(__name__)

_HEAL_COUNTER: commands.Kind = "heal_counter"
# What one command's data, or a broken invariant, can cause. Anything else that the database
# raises is its own trouble: the batch stays pending and is tried again.
_POISON = (IntegrityError, DataError, GuardRefused, AssertionError)


class BatchRefused(Exception):  # noqa: N818 - reads as the sentence "raise BatchRefused"
    """Nothing of a batch was written, because of one of its commands; the cause says why."""

    def __init__(self, command_ids: list[UUID]) -> None:
        super().__init__(f"{len(command_ids)} commands, from {command_ids[0]} on")
        self.command_ids = command_ids


class DecisionRaised(Exception):  # noqa: N818 - likewise
    """A decision stopped half way: the roster holds a part of it, and must be thrown away."""


def apply_pending(connection: Connection, event_id: UUID, limit: int) -> list[Settled]:
    """Decide the event's pending commands, at most `limit`, and commit; return what was settled.

    All or nothing. A batch that cannot be written is applied again command by command, so that
    the one at fault is settled as `Failed` and the others as if it had not been there.
    """
    try:
        return _apply(connection, event_id, limit)
    except BatchRefused:
        log.exception("batch_refused", event_id=str(event_id))
        return _apply_one_by_one(connection, event_id, limit)


def _apply(connection: Connection, event_id: UUID, limit: int) -> list[Settled]:
    with connection.begin():
        # Looked at before the lock, which costs a flush to disk even when there is nothing to do.
        if not ledger.pending(connection, event_id, 1):
            return []
        event = records.lock_event(connection, event_id)
        pending = _together(ledger.pending(connection, event_id, limit))
        if not pending:
            return []
        try:
            return _decide_all(connection, event_id, event, pending)
        except (*_POISON, DecisionRaised) as error:
            raise BatchRefused([command.id for command in pending]) from error


def _decide_all(
    connection: Connection, event_id: UUID, event: RowMapping, pending: list[Pending]
) -> list[Settled]:
    accepted = [_read(command) for command in pending]
    readable = [command for command in accepted if isinstance(command, Accepted)]
    loaded = records.load(connection, event_id, event, readable)
    settled = [_decide(loaded.roster, command) for command in accepted]
    records.save(connection, loaded)
    ledger.settle(connection, event_id, settled)
    return settled


def _together(pending: list[Pending]) -> list[Pending]:
    """Return what is decided in one batch: a recount is of the rows as they are, so it goes alone."""
    for place, command in enumerate(pending):
        if command.kind == _HEAL_COUNTER:
            return pending[: max(place, 1)]
    return pending


def _apply_one_by_one(connection: Connection, event_id: UUID, limit: int) -> list[Settled]:
    settled: list[Settled] = []
    for _ in range(limit):
        try:
            one = _apply(connection, event_id, 1)
        except BatchRefused as refused:
            one = [_fail(connection, event_id, refused.command_ids[0], refused.__cause__ or refused)]
        if not one:
            break
        settled += one
    return settled


def _fail(connection: Connection, event_id: UUID, command_id: UUID, error: BaseException) -> Settled:
    with connection.begin():
        records.lock_event(connection, event_id)
        settled = _failed(command_id, error)
        ledger.settle(connection, event_id, [settled])
    return settled


def _read(pending: Pending) -> Accepted | Settled:
    try:
        return ledger.read(pending)
    except Exception as error:  # noqa: BLE001 - whatever is wrong with it is wrong with this command alone
        return _failed(pending.id, error)


def _decide(roster: Roster, command: Accepted | Settled) -> Settled:
    if isinstance(command, Settled):
        return command
    try:
        outcome: Outcome = roster.decide(command)
    except Exception as error:
        raise DecisionRaised from error
    return Settled(command_id=command.id, outcome=outcome)


def _failed(command_id: UUID, error: BaseException) -> Settled:
    incident_id = ids.new_id()
    log.error("command_failed", command_id=str(command_id), incident_id=str(incident_id), exc_info=error)
    return Settled(command_id=command_id, outcome=Failed(incident_id=incident_id))
