"""Applies batches that were refused: finds the command at fault, so that the others are settled without it.

One event's batch that cannot be written is applied again in smaller ones, until the command at fault is
alone in its transaction. It is settled as `Failed` if the error is its own (decision 0041), else it is set
aside; the other commands are settled as if it did not exist.
"""

from collections.abc import Collection
from uuid import UUID

import psycopg
import structlog

from shared import metrics
from shared.domain import audit
from shared.domain.outcomes import SettledCommand
from worker import batch, load, save, trouble
from worker.batch import Applied, BatchRefused, DecisionRaised
from worker.load import Overtaken, Scope
from worker.locked_event import Session
from worker.save import BatchWriter, GuardRefused
from worker.trouble import Place, Troubles

log = structlog.get_logger(__name__)

_SMALLER = 16
"""A refused batch is divided by this; each refusal can cost a time-out, so there must be few."""
_SUSPECTS_MAX = 3
"""Commands that are refused alone, one after the other, until that is no longer their own fault."""
_ISOLATION_SECONDS_MAX = 0.5
"""The time for which a refused batch is divided before the worker's other events have their turn."""


def retry(session: Session, place: Place, troubles: Troubles) -> list[SettledCommand]:
    """Try a command that is set aside, alone; return it if it is settled now.

    A command that is not refused is set aside no longer: its event's batches take it again, when they can.
    """
    settled: list[SettledCommand] = []
    try:
        settled = _apply_alone(session, place, troubles)
    except Overtaken:
        note_overtaken(session, place.event_id)
    except BatchRefused as refused:
        _set_aside(session, place, refused, troubles)
        return []
    if not settled:  # another session has locked the event, or has taken the command away
        troubles.forget(place.command_id)
        save.forget_trouble(session, [place.event_id], place.command_id)
    return settled


def note_overtaken(session: Session, event_id: UUID) -> None:
    """Log that an event was overtaken, and let no command that is settled overtake it again and again."""
    log.warning("overtaken", event_id=str(event_id))
    save.forget_settled(session, event_id)


def retry_before_others(
    session: Session, event_ids: Collection[UUID], troubles: Troubles
) -> tuple[list[SettledCommand], set[UUID]]:
    """Try commands again that no other command has passed yet, if there is another command now.

    So a trouble that has passed meanwhile costs no command its place. A try in vain ends this, since it takes
    long: the events with more such commands are returned beside the settled commands, and have to wait.
    """
    settled: list[SettledCommand] = []
    for place in troubles.not_passed(event_ids):
        if load.first_pending(session, place.event_id, troubles.left_out([place.event_id])) is not None:
            troubles.note_passed(place.command_id)
            retried = retry(session, place, troubles)
            settled += retried
            if not retried:
                return settled, {place.event_id for place in troubles.not_passed(event_ids)}
    return settled, set()


def apply_in_parts(session: Session, event_id: UUID, count: int, troubles: Troubles) -> Applied:
    """Apply `count` refused commands in smaller batches, the one at fault alone; return the settled.

    After an accepted batch the size doubles. After a while this ends, and the rest stays pending. Raises if
    the error is not of single commands.
    """
    settled: list[SettledCommand] = []
    suspects: dict[Place, BatchRefused] = {}
    size = max(count // _SMALLER, 1)
    until = troubles.clock() + _ISOLATION_SECONDS_MAX
    try:
        while suspects or troubles.clock() < until:
            try:
                part = _apply_part(session, event_id, size, suspects, troubles)
            except BatchRefused:
                size = max(size // _SMALLER, 1)
                continue
            # The suspects are at fault themselves: another command could be applied, or none is left.
            for place, refusal in suspects.items():
                _set_aside(session, place, refusal, troubles, passed=bool(part))
            suspects.clear()
            if not part:
                break
            settled += part
            size *= 2
    except Overtaken:
        note_overtaken(session, event_id)
    except Exception:
        if not settled:  # else the outcomes so far are to be published all the same
            raise
        log.exception("event_not_applied", event_id=str(event_id))
    return Applied(settled, [event_id])


def _apply_part(
    session: Session,
    event_id: UUID,
    size: int,
    suspects: dict[Place, BatchRefused],
    troubles: Troubles,
) -> list[SettledCommand]:
    """Apply `size` commands, or the first one alone, without the suspects.

    A command that is refused alone becomes a suspect. Raises its error if there are too many of them.
    """
    left_out = [*troubles.left_out([event_id]), *(suspect.command_id for suspect in suspects)]
    if size > 1:
        return batch.apply(session, [event_id], size, Scope(trouble.PART_OF_REFUSED_BATCH, left_out)).settled
    place = load.first_pending(session, event_id, left_out)
    if place is None:
        return []
    try:
        return _apply_alone(session, place, troubles)
    except BatchRefused as refused:
        suspects[place] = refused
        if len(suspects) >= _SUSPECTS_MAX:
            raise (refused.__cause__ or refused) from None
        raise


def _apply_alone(session: Session, place: Place, troubles: Troubles) -> list[SettledCommand]:
    """Apply one command, and settle it as `Failed` if it can never be written.

    Raises `BatchRefused` if the error may pass. Returns nothing if another session has locked the event.
    """
    scope = Scope(troubles.patience(place.command_id), alone=place)
    try:
        settled = batch.apply(session, [place.event_id], 1, scope).settled
    except BatchRefused as refused:
        error = refused.__cause__ or refused
        if not (_is_final(error) or troubles.gives_up(place.command_id, error)):
            raise
        settled = _fail(session, place, error)
    if settled:
        troubles.forget(place.command_id)
    return settled


def _is_final(error: BaseException) -> bool:
    """Return True if a command that was alone with this error can never be written."""
    return trouble.of_command(error) or isinstance(error, GuardRefused | DecisionRaised)


def _set_aside(
    session: Session, place: Place, refused: BatchRefused, troubles: Troubles, *, passed: bool = False
) -> None:
    """Set a command aside; raises if not even a note about it can be committed: the server is in trouble."""
    error = refused.__cause__ or refused
    event_id, command_id, _ = place
    if troubles.full(event_id):
        raise error
    save.note_trouble(session, event_id, command_id, error)
    troubles.set_aside(place, error)
    if passed:
        troubles.note_passed(command_id)
    metrics.set_aside.inc()
    digest = audit.command_digest(command_id)  # the id of a pending command is a receipt in use
    log.warning("command_set_aside", event_id=str(event_id), command_digest=digest, exc_info=error)


def _fail(session: Session, place: Place, error: BaseException) -> list[SettledCommand]:
    incident = batch.incident(*place, error)
    try:
        with session.transaction():
            writer = BatchWriter(session)
            writer.save([], [incident.settled])
            save.forget_trouble(session, [place.event_id], place.command_id)
            writer.check()
    except psycopg.Error as unwritable:
        if session.closed:
            raise
        raise BatchRefused(1) from unwritable
    incident.report()
    return [incident.settled]
