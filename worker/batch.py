"""Applies events' pending commands in one transaction: lock and load, decide, save.

A batch is all or nothing. `isolation` finds the command at fault in a batch that cannot be written.
"""

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

import structlog

from shared import metrics
from shared.domain import audit, commands, decisions, ids, rules
from shared.domain.commands import PendingCommand
from shared.domain.outcomes import Failed, SettledCommand
from shared.postgres import connections
from worker import load, save
from worker.load import LoadedEvent, Overtaken, Scope, UnreadableEvent
from worker.locked_event import LockedEvent, Session
from worker.save import BatchWriter

log = structlog.get_logger(__name__)

_FIRST_PART, _PART_MAX = 32, 256
"""Commands that are decided before the database begins to write, and at most while it writes."""


class Incident(NamedTuple):
    """A command that is settled as `Failed`, and the error to log once that is committed."""

    settled: SettledCommand
    error: BaseException

    def report(self) -> None:
        """Count the failure, and log the error."""
        assert isinstance(self.settled.outcome, Failed), "an incident is a failure"
        metrics.failed.inc()
        log.error(
            "command_failed",
            command_digest=audit.command_digest(self.settled.command_id),
            incident_id=str(self.settled.outcome.incident_id),
            exc_info=self.error,
        )


_Undecided = tuple[LoadedEvent, PendingCommand | Incident]
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


def apply(
    session: Session,
    event_ids: Collection[UUID],
    commands_max: int,
    scope: Scope = Scope(),  # noqa: B008 - immutable
    meanwhile: Callable[[], None] | None = None,
) -> Applied:
    """Decide at most `commands_max` pending commands of these events and commit; return the settled commands.

    It takes the commands in `scope`, event by event, in the order of the events. A batch ends early once it
    has promoted enough for one transaction. The session must be in autocommit mode. `meanwhile` is called
    once all statements are sent, while PostgreSQL executes them; it must not raise.

    Raises `BatchRefused` if the database refuses the batch, and `Overtaken` when another session settled a
    command meanwhile. Any other error means that the session or the server is in trouble.
    """
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
                if meanwhile is not None:
                    meanwhile()
            writer.check()
    except (Overtaken, UnreadableEvent, MemoryError):
        raise
    except Exception as error:
        if session.closed or connections.must_be_replaced(error):
            raise
        raise BatchRefused(count) from error
    _observe(undecided[: len(settled)], time.monotonic() - began)
    begun = {command.event_id for command in settled}
    left = {event.id for event, _ in undecided[len(settled) :]}
    left |= {event.id for event, _ in undecided if event.roster.follow_up is not None}
    unfinished = [e.id for e in locked if e.cut or e.id in left or e.id not in begun]
    return Applied(settled, sorted(unfinished, key=begun.__contains__))


def _undecided(session: Session, locked: Sequence[LockedEvent]) -> list[_Undecided]:
    """Read the events' commands and load their rosters; return all commands in the order to decide."""
    batches: list[list[PendingCommand | Incident]] = []
    for event in locked:
        batches.append([])
        for id_, seq, _, kind, payload, actor, accepted_at in event.pending:
            try:
                command = PendingCommand(
                    command=commands.decode(kind, payload),
                    id=id_,
                    seq=seq,
                    actor=actor,
                    accepted_at=datetime.fromisoformat(accepted_at),
                )
            except Exception as error:  # noqa: BLE001 - a command that cannot be read fails alone
                batches[-1].append(incident(event.id, id_, seq, error))
            else:
                batches[-1].append(command)
    readable = [[command for command in batch if isinstance(command, PendingCommand)] for batch in batches]
    loaded = load.rosters(session, list(zip(locked, readable, strict=True)))
    return [(event, command) for event, batch in zip(loaded, batches, strict=False) for command in batch]


def _decide_in_parts(undecided: Sequence[_Undecided]) -> Iterator[list[tuple[LoadedEvent, SettledCommand]]]:
    """Decide the commands, until they have promoted enough for one transaction.

    Yields parts of the batch, each up to twice as large as the one that is written meanwhile.
    """
    decided: list[tuple[LoadedEvent, SettledCommand]] = []
    promoted_spots, size = 0, _FIRST_PART
    for event, command in undecided:
        if promoted_spots >= rules.PROMOTED_SPOTS_MAX:
            break
        if isinstance(command, Incident):
            settled = command.settled
        else:
            before = event.roster.promoted_spots
            try:
                outcome = decisions.decide(event.roster, command)
            except MemoryError:
                raise  # the machine's trouble, not the command's
            except Exception as error:
                raise DecisionRaised from error
            promoted_spots += event.roster.promoted_spots - before
            settled = SettledCommand(
                event_id=event.id, command_id=command.id, seq=command.seq, outcome=outcome
            )
        decided.append((event, settled))
        if len(decided) == size:
            yield decided
            decided, size = [], min(2 * size, _PART_MAX)
    if decided:
        yield decided


def incident(event_id: UUID, command_id: UUID, seq: int, error: BaseException) -> Incident:
    """Return the failure of a command, under a new incident id."""
    failed = Failed(incident_id=ids.new_id())
    settled = SettledCommand(event_id=event_id, command_id=command_id, seq=seq, outcome=failed)
    return Incident(settled, error)


def _observe(settled: Sequence[_Undecided], seconds: float) -> None:
    """Measure a committed batch, which took so many seconds, and log its failures."""
    metrics.batch_commands.observe(len(settled))
    accepted_to_commit = []
    for event, command in settled:
        if isinstance(command, Incident):
            command.report()
        else:
            accepted_to_commit.append(max((event.now - command.accepted_at).total_seconds(), 0) + seconds)
    metrics.commit_seconds.observe_all(accepted_to_commit)
