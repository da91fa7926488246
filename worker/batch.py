"""Applies events' pending commands: lock and load, decide, save; one transaction a batch.

A batch is all or nothing. One event's batch that cannot be written is applied again in smaller ones, until
the command at fault is alone in its transaction. It is settled as `Failed` if the error is its own
(decision 0041), else it is set aside; the other commands are settled as if it did not exist.
"""

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

import psycopg
import structlog

from shared import metrics
from shared.domain import audit, commands, ids, promotion
from shared.domain.commands import PendingCommand
from shared.domain.outcomes import Failed, SettledCommand
from shared.postgres import connections
from worker import load, save, trouble
from worker.load import LoadedEvent, LockedEvent, Overtaken, PendingRow, Scope, Session, UnreadableEvent
from worker.save import BatchWriter, GuardRefused
from worker.trouble import Place, Troubles

log = structlog.get_logger(__name__)

_FIRST_PART, _PART_MAX = 32, 256
"""Commands that are decided before the database begins to write, and at most while it writes."""
_SMALLER = 16
"""A refused batch is divided by this; each refusal can cost a time-out, so there must be few."""
_SUSPECTS_MAX = 3
"""Commands that are refused alone, one after the other, until that is no longer their own fault."""
_ISOLATION_SECONDS_MAX = 0.5
"""The time for which a refused batch is divided before the worker's other events have their turn."""


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


class Applied(NamedTuple):
    """The commands that a batch settled, and the events of which it left pending commands behind.

    The events of which it settled nothing come first, so that they are first in the next batch.
    """

    settled: list[SettledCommand]
    unfinished: list[UUID]


class BatchRefused(Exception):  # noqa: N818 - reads as the sentence "raise BatchRefused"
    """A batch of `count` commands was rolled back, perhaps because of one; the cause has the reason."""

    def __init__(self, count: int) -> None:
        super().__init__(f"{count} commands")
        self.count = count


class DecisionRaised(Exception):  # noqa: N818 - likewise
    """A decision raised an error: the roster holds a part of its changes and must be discarded."""


def _nothing() -> None:
    pass


def apply(
    session: Session,
    event_ids: Collection[UUID],
    commands_max: int,
    meanwhile: Callable[[], None] = _nothing,
    troubles: Troubles | None = None,
) -> Applied:
    """Decide at most `commands_max` pending commands of these events and commit; return the settled commands.

    The events' commands are decided event by event, in the order of the events. A batch ends early once it
    has promoted enough for one transaction.

    Commands that are set aside in `troubles` are left out. One event's commands are settled, or set aside,
    even if the database refuses their batch. For more than one event that raises `BatchRefused`, and
    `Overtaken` when another session settled a command meanwhile: the caller applies the events one by one.
    Any other error means that the session or the server is in trouble. The session must be in autocommit
    mode. `meanwhile` is called once all statements are sent, while PostgreSQL executes them; it must not
    raise.
    """
    troubles = troubles or Troubles(time.monotonic)
    settled = _retry_before_others(session, troubles.unconfirmed(event_ids), troubles)
    scope = Scope(left_out=troubles.left_out(event_ids))
    try:
        applied = _apply(session, event_ids, commands_max, scope, meanwhile)
    except (BatchRefused, Overtaken) as error:
        if len(event_ids) > 1:
            raise
        (event_id,) = event_ids
        if isinstance(error, Overtaken):
            log.warning("overtaken", event_id=str(event_id))
            return Applied(settled, [])
        log.exception("batch_refused", event_id=str(event_id))
        applied = _apply_in_parts(session, event_id, error.count, troubles)
    return Applied(settled + applied.settled, applied.unfinished)


def retry(session: Session, place: Place, troubles: Troubles) -> list[SettledCommand]:
    """Try a command that is set aside, alone; return it if it is settled now."""
    try:
        return _apply_alone(session, place, troubles)
    except Overtaken:
        return []
    except BatchRefused as refused:
        _set_aside(session, place, refused, troubles)
        return []


def _retry_before_others(
    session: Session, unconfirmed: Collection[Place], troubles: Troubles
) -> list[SettledCommand]:
    """Try commands again that no other command has passed yet, if there is another command now.

    So a trouble that has passed meanwhile costs no command its place.
    """
    settled: list[SettledCommand] = []
    for place in unconfirmed:
        if load.first_pending(session, place.event_id, troubles.left_out([place.event_id])) is not None:
            troubles.confirm(place.command_id)
            settled += retry(session, place, troubles)
    return settled


def _apply(
    session: Session,
    event_ids: Collection[UUID],
    commands_max: int,
    scope: Scope,
    meanwhile: Callable[[], None] = _nothing,
) -> Applied:
    """Apply the first pending commands of these events that are in `scope`, in one transaction."""
    settled: list[SettledCommand] = []
    count = commands_max
    began = time.monotonic()
    try:
        with session.transaction():
            locked = load.lock_events(session, event_ids, commands_max, scope)
            if not locked:
                return Applied([], [])
            count = sum(len(event.pending) for event in locked)
            undecided = _undecided(session, locked)
            writer = BatchWriter(session)
            with session.pipeline():
                for decided in _decide_in_parts(undecided):
                    # PostgreSQL writes one part while the next is decided (0013).
                    writer.save({event.id: event for event, _ in decided}.values(), [c for _, c in decided])
                    settled += [command for _, command in decided]
                if scope.alone is not None:
                    save.forget_trouble(session, event_ids, scope.alone.command_id)
                meanwhile()
            writer.check()
    except (Overtaken, UnreadableEvent, MemoryError):
        raise
    except Exception as error:
        if session.closed or connections.must_be_replaced(error):
            raise
        raise BatchRefused(count) from error
    for _, command in undecided[: len(settled)]:
        if isinstance(command, _Incident):
            command.report()
    _observe(undecided[: len(settled)], time.monotonic() - began)
    return Applied(settled, _unfinished(locked, undecided, len(settled)))


def _unfinished(
    locked: Sequence[LockedEvent], undecided: Sequence[_Undecided], settled_count: int
) -> list[UUID]:
    begun = {event.id for event, _ in undecided[:settled_count]}
    left = {event.id for event, _ in undecided[settled_count:]}
    cut = {event.id for event in locked if event.cut}
    finished = {event.id for event, _ in undecided if event.roster.follow_up is None} - left - cut
    return sorted((event.id for event in locked if event.id not in finished), key=begun.__contains__)


def _observe(undecided: Sequence[_Undecided], seconds: float) -> None:
    """Measure a committed batch, which took so many seconds since its transaction began."""
    metrics.batch_commands.observe(len(undecided))
    metrics.commit_seconds.observe_all(
        [
            max((event.now - command.accepted_at).total_seconds(), 0) + seconds
            for event, command in undecided
            if isinstance(command, PendingCommand)
        ]
    )


def _undecided(session: Session, locked: Sequence[LockedEvent]) -> list[_Undecided]:
    """Read the events' commands and load their rosters; return all commands in the order to decide."""
    batches = [[_read(event.id, row) for row in event.pending] for event in locked]
    readable = [[command for command in batch if isinstance(command, PendingCommand)] for batch in batches]
    loaded = load.rosters(session, list(zip(locked, readable, strict=True)))
    return [(event, command) for event, batch in zip(loaded, batches, strict=False) for command in batch]


def _decide_in_parts(undecided: Sequence[_Undecided]) -> Iterator[list[tuple[LoadedEvent, SettledCommand]]]:
    """Decide the commands, until they have promoted enough for one transaction."""
    promoted_spots = 0
    for part in _parts(undecided):
        decided = []
        for event, command in part:
            if promoted_spots >= promotion.PROMOTED_SPOTS_MAX:
                break
            before = event.roster.promoted_spots
            decided.append((event, _decide(event, command)))
            promoted_spots += event.roster.promoted_spots - before
        if not decided:
            break
        yield decided


def _parts(undecided: Sequence[_Undecided]) -> Iterator[Sequence[_Undecided]]:
    """Divide a batch into parts, each up to twice as large as the one that is written meanwhile."""
    first, size = 0, _FIRST_PART
    while first < len(undecided):
        yield undecided[first : first + size]
        first, size = first + size, min(2 * size, _PART_MAX)


def _apply_in_parts(session: Session, event_id: UUID, count: int, troubles: Troubles) -> Applied:
    """Apply `count` refused commands in smaller batches, the one at fault alone; return the settled.

    After an accepted batch the size doubles. After a while this ends, and the rest stays pending. Raises if
    the error is not of single commands.
    """
    settled: list[SettledCommand] = []
    suspects: dict[Place, BatchRefused] = {}
    size = max(count // _SMALLER, 1)
    until = time.monotonic() + _ISOLATION_SECONDS_MAX
    try:
        while suspects or time.monotonic() < until:
            try:
                batch = _apply_part(session, event_id, size, suspects, troubles)
            except BatchRefused:
                size = max(size // _SMALLER, 1)
                continue
            # The suspects are at fault themselves: another command could be applied, or none is left.
            for place, refusal in suspects.items():
                _set_aside(session, place, refusal, troubles, confirmed=bool(batch))
            suspects.clear()
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
        return _apply(session, [event_id], size, Scope(trouble.PART_OF_REFUSED_BATCH, left_out)).settled
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
        settled = _apply(session, [place.event_id], 1, scope).settled
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
    session: Session, place: Place, refused: BatchRefused, troubles: Troubles, *, confirmed: bool = False
) -> None:
    """Set a command aside; raises if not even a note about it can be committed: the server is in trouble."""
    error = refused.__cause__ or refused
    event_id, command_id, _ = place
    if troubles.full(event_id):
        raise error
    save.note_trouble(session, event_id, command_id, error)
    troubles.set_aside(place, error)
    if confirmed:
        troubles.confirm(command_id)
    metrics.set_aside.inc()
    digest = audit.command_digest(command_id)  # a pending command's id is a receipt that somebody will use
    log.warning("command_set_aside", event_id=str(event_id), command_digest=digest, exc_info=error)


def _fail(session: Session, place: Place, error: BaseException) -> list[SettledCommand]:
    incident = _incident(*place, error)
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


def _read(event_id: UUID, row: PendingRow) -> PendingCommand | _Incident:
    id_, seq, _, kind, payload, actor, accepted_at = row
    try:
        return PendingCommand(
            command=commands.decode(kind, payload),
            id=id_,
            seq=seq,
            actor=actor,
            accepted_at=datetime.fromisoformat(accepted_at),
        )
    except Exception as error:  # noqa: BLE001 - a command that cannot be read fails alone
        return _incident(event_id, id_, seq, error)


def _decide(event: LoadedEvent, command: PendingCommand | _Incident) -> SettledCommand:
    if isinstance(command, _Incident):
        return command.settled
    try:
        outcome = event.roster.decide(command)
    except MemoryError:
        raise  # the machine's trouble, not the command's
    except Exception as error:
        raise DecisionRaised from error
    return SettledCommand(event_id=event.id, command_id=command.id, seq=command.seq, outcome=outcome)


def _incident(event_id: UUID, command_id: UUID, seq: int, error: BaseException) -> _Incident:
    failed = Failed(incident_id=ids.new_id())
    settled = SettledCommand(event_id=event_id, command_id=command_id, seq=seq, outcome=failed)
    return _Incident(settled, error)
