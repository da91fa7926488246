"""Applies an event's pending commands: load → decide → save → settle, one transaction a batch."""

from uuid import UUID

import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import DataError, IntegrityError

from shared import commands, ids, ledger
from shared.commands import Accepted
from shared.ledger import Pending, Settled
from shared.outcomes import Failed, Outcome
from worker import records
from worker.records import GuardRefused
from worker.roster import Roster

log = structlog.get_logger(__name__)

# What one command's data, or a broken invariant, can cause. Anything else that the database
# raises is its own trouble: the batch stays pending and is tried again.
HEAL_COUNTER: commands.Kind = "heal_counter"
_POISON = (IntegrityError, DataError, GuardRefused, AssertionError)


def apply_pending(connection: Connection, event_id: UUID, limit: int) -> list[Settled]:
    """Decide the event's pending commands, at most `limit`, and commit; return what was settled.

    All or nothing. A batch that cannot be written is applied again command by command, so that
    the one at fault is settled as `Failed` and the others as if it had not been there.
    """
    try:
        return _apply(connection, event_id, limit)
    except _POISON:
        log.exception("batch_refused", event_id=str(event_id))
        return _apply_one_by_one(connection, event_id, limit)


def _apply(connection: Connection, event_id: UUID, limit: int) -> list[Settled]:
    with connection.begin():
        event = records.lock_event(connection, event_id)
        pending = _together(ledger.pending(connection, event_id, limit))
        if not pending:
            return []
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
        if command.kind == HEAL_COUNTER:
            return pending[: max(place, 1)]
    return pending


def _apply_one_by_one(connection: Connection, event_id: UUID, limit: int) -> list[Settled]:
    settled: list[Settled] = []
    for _ in range(limit):
        try:
            one = _apply(connection, event_id, 1)
        except _POISON as error:
            one = _fail_next(connection, event_id, error)
        if not one:
            break
        settled += one
    return settled


def _fail_next(connection: Connection, event_id: UUID, error: BaseException) -> list[Settled]:
    with connection.begin():
        records.lock_event(connection, event_id)
        settled = [_failed(command.id, error) for command in ledger.pending(connection, event_id, 1)]
        ledger.settle(connection, event_id, settled)
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
    except Exception as error:  # noqa: BLE001 - the rest of the batch must not suffer from this one
        return _failed(command.id, error)
    return Settled(command_id=command.id, outcome=outcome)


def _failed(command_id: UUID, error: BaseException) -> Settled:
    incident_id = ids.new_id()
    log.error("command_failed", command_id=str(command_id), incident_id=str(incident_id), exc_info=error)
    return Settled(command_id=command_id, outcome=Failed(incident_id=incident_id))
