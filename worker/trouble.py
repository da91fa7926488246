"""Troubles: what an error says about a command, and the commands that are set aside (no I/O).

    refused alone ──▶ settled as `Failed`   its error is its own: a wrong value, a broken constraint, a limit
         │
         └──▶ set aside ──due──▶ tried alone ──▶ settled
                  ▲                   └──▶ `Failed` after three time-outs
                  └───────────────────┘

A command that is set aside stays pending. Its event's batches leave it out, so that no other command waits
for it. PostgreSQL has to commit a write about it before that: else the trouble is the server's. And another
command of the event has to be applied past it: else the trouble is the event's. A command that is the only
one of its event is tried once more when another one comes.
"""

from collections.abc import Callable, Collection, Container
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

import psycopg

from shared.domain import ids

SET_ASIDE_MAX = 100
"""Commands of one event that are set aside at most; with more, the event itself is in trouble."""
TIMEOUTS_MAX = 3
TIMEOUTS_APART_SECONDS = 10
_RETRY_SECONDS, _RETRY_SECONDS_MAX = 0.5, 1.0
"""The pause before a command is tried again: when a trouble has passed, that is soon noticed."""

# Classes of SQLSTATE: data exception, integrity constraint violation, program limit exceeded, internal error.
_OF_THE_COMMAND = ("22", "23", "54", "XX")
_TIMED_OUT = "57014"
_TRAIL_AHEAD = "audit_entry_pkey"
"""Broken by every command of an event with an `audit_seq` behind its audit trail."""


class Place(NamedTuple):
    """A command's place in the ledger of its event."""

    event_id: UUID
    command_id: UUID
    seq: int


class Patience(NamedTuple):
    """The milliseconds that a statement of a batch may take, and that it may wait for a locked row.

    The second is well below the first: a row that another session holds must not look like a time-out.
    """

    statement_ms: int
    lock_ms: int


BATCH = Patience(400, 200)
PART_OF_REFUSED_BATCH = Patience(200, 100)
ALONE_AGAIN = Patience(800, 250)
"""The other commands of an event wait for less than a second while a command is found, or tried again."""


def of_command(error: BaseException) -> bool:
    """Return True if a database error of a command that was alone in its transaction is the command's own."""
    if not isinstance(error, psycopg.Error) or error.diag.constraint_name == _TRAIL_AHEAD:
        return False
    return (error.sqlstate or "").startswith(_OF_THE_COMMAND)


def timed_out(error: BaseException) -> bool:
    """Return True if a statement ran into its time-out, or was cancelled."""
    return isinstance(error, psycopg.Error) and error.sqlstate == _TIMED_OUT


@dataclass(slots=True)
class _SetAside:
    place: Place
    due_at: float
    pause_seconds: float
    passed: bool = False
    tries: int = 0
    timeouts: int = 0
    timed_out_at: float | None = None


class Troubles:
    """The commands that a worker has set aside, of the events that it owns."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.commands: dict[UUID, _SetAside] = {}

    def set_aside(self, place: Place, error: BaseException) -> None:
        """Leave a command out of its event's batches; a time-out counts if the one before is long enough ago.

        Call this once a write about the command is committed.
        """
        now = self.clock()
        command = self.commands.setdefault(place.command_id, _SetAside(place, now, _RETRY_SECONDS / 2))
        command.pause_seconds = min(2 * command.pause_seconds, _RETRY_SECONDS_MAX)
        command.tries += 1
        command.due_at = now + command.pause_seconds
        if timed_out(error) and self._counts(command):
            command.timeouts += 1
            command.timed_out_at = now

    def gives_up(self, command_id: UUID, error: BaseException) -> bool:
        """Return True if this time-out is the last that the command has."""
        command = self.commands.get(command_id)
        last = command is not None and command.timeouts >= TIMEOUTS_MAX - 1 and self._counts(command)
        return last and timed_out(error)

    def _counts(self, command: _SetAside) -> bool:
        return command.timed_out_at is None or self.clock() - command.timed_out_at >= TIMEOUTS_APART_SECONDS

    def left_out(self, event_ids: Collection[UUID]) -> list[UUID]:
        """Return the commands of these events that are set aside."""
        return [id_ for id_, command in self.commands.items() if command.place.event_id in event_ids]

    def event_ids(self) -> set[UUID]:
        """Return the events of which commands are set aside."""
        return {command.place.event_id for command in self.commands.values()}

    def note_passed(self, command_id: UUID) -> None:
        """Note that another command of the event was applied past this one, or is about to be."""
        if command_id in self.commands:
            self.commands[command_id].passed = True

    def not_passed(self, event_ids: Collection[UUID]) -> list[Place]:
        """Return the commands of these events that no other command has passed."""
        commands = self.commands.values()
        return [c.place for c in commands if not c.passed and c.place.event_id in event_ids]

    def full(self, event_id: UUID) -> bool:
        """Return True if no more commands of the event may be set aside."""
        return len(self.left_out([event_id])) >= SET_ASIDE_MAX

    def patience(self, command_id: UUID) -> Patience:
        """Return the time that the command has alone: more at its second try, and where a time-out counts."""
        command = self.commands.get(command_id)
        if command is None or not command.timeouts:
            return PART_OF_REFUSED_BATCH
        return ALONE_AGAIN if command.tries == 1 or self._counts(command) else PART_OF_REFUSED_BATCH

    def due(self) -> list[Place]:
        """Return the commands that may be tried again, the longest due first."""
        now = self.clock()
        due = [command for command in self.commands.values() if command.due_at <= now]
        return [command.place for command in sorted(due, key=lambda command: command.due_at)]

    def forget(self, command_id: UUID) -> None:
        """Forget a command that is settled."""
        self.commands.pop(command_id, None)

    def keep(self, buckets: Container[int]) -> None:
        """Forget the commands of events in other buckets."""
        self.commands = {
            id_: c for id_, c in self.commands.items() if ids.bucket(c.place.event_id) in buckets
        }
