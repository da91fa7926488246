"""Saves the changes of decisions: the only writer of `registration`, `audit_entry` and the counters.

All statements of a batch belong to the transaction that has locked the events' rows. Most batches, of however
many events, need one statement a part: the guarded counters, new registrations, the audit trail, the
outcomes. Row counts are compared before the commit.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import msgspec
import psycopg
from psycopg.rows import TupleRow

from shared.domain import audit, texts
from shared.domain.commands import Status
from shared.domain.event import Erasure, EventChanges, EventSettings, FollowUp, Recount, Registration
from shared.domain.outcomes import Failed, Refused, SettledCommand
from shared.postgres import arrays, statements
from worker.load import LoadedEvent, Overtaken
from worker.locked_event import Session

_SQL = Path(__file__).parent / "sql"
SAVE_BATCH = statements.load(_SQL / "save_batch.sql")
SAVE_FOLLOW_UP = statements.load(_SQL / "save_follow_up.sql")
SAVE_SETTINGS = statements.load(_SQL / "save_settings.sql")
HEAL_COUNTERS = statements.load(_SQL / "heal_counters.sql")
DELETE_REGISTRATIONS = statements.load(_SQL / "delete_registrations.sql")
ERASE = statements.load(_SQL / "erase.sql")
CORRECT_REGISTRATION = statements.load(_SQL / "correct_registration.sql")
UPDATE_REGISTRATIONS = statements.load(_SQL / "update_registrations.sql")
NOTE_TROUBLE = statements.load(_SQL / "note_trouble.sql")
FORGET_TROUBLE = statements.load(_SQL / "forget_trouble.sql")
FORGET_SETTLED = statements.load(_SQL / "forget_settled.sql")

_ERROR_LENGTH_MAX = 200

_ROWS_MAX = 256
"""Rows of one event in a statement: it is short, and PostgreSQL executes it while the next one is made."""

_Taken = tuple[LoadedEvent, EventChanges]


class GuardRefused(Exception):  # noqa: N818 - reads as the sentence "raise GuardRefused"
    """The counter would exceed the capacity; the transaction must be rolled back."""


@dataclass
class BatchWriter:
    """Sends statements in pipeline mode: PostgreSQL executes one part while the next part is decided.

    `check` must come before the commit.
    """

    session: Session
    _saved: list[tuple[psycopg.Cursor[TupleRow], tuple[int, int]]] = field(default_factory=list)
    _counted: list[tuple[psycopg.Cursor[TupleRow], int, type[Exception]]] = field(default_factory=list)

    def save(self, events: Iterable[LoadedEvent], settled: Sequence[SettledCommand]) -> None:
        """Send the events' changes since they were last sent, and these outcomes."""
        taken: list[_Taken] = []
        for event in events:
            if event.roster.unsaved.changes:
                taken.append((event, event.roster.unsaved))
                event.roster.unsaved = EventChanges()
        for event, changes in taken:
            self._save_rare(event.id, changes)
        if any(changes.deleted or changes.updated or changes.corrected for _, changes in taken):
            self._change_registrations(taken)
        moved = [(event, changes) for event, changes in taken if changes.settings is None]
        portions: list[tuple[Sequence[_Taken], Sequence[_Taken], Sequence[SettledCommand]]] = []
        for number, (event, _) in enumerate(taken):
            while len((rest := taken[number][1]).changes) > _ROWS_MAX:  # a promotion of many
                head = msgspec.structs.replace(rest, changes=rest.changes[:_ROWS_MAX], entered={})
                portions.append(([], [(event, head)], []))
                taken[number] = event, msgspec.structs.replace(rest, changes=rest.changes[_ROWS_MAX:])
        portions.append((moved, taken, settled))
        for portion in portions:
            cursor = self.session.execute(SAVE_BATCH, _parameters(*portion))
            self._saved.append((cursor, (len(portion[0]), len(portion[2]))))

    def _save_rare(self, event_id: UUID, changes: EventChanges) -> None:
        """Send the changes for which `save_batch.sql` has no room, if there are any."""
        if changes.recount is not None:
            self._heal(event_id, changes.recount)
        if changes.settings is not None:
            self._save_settings(event_id, changes.settings, changes)
        if changes.follow_up is not None:
            self._save_follow_up(event_id, changes.follow_up)
        if changes.erasure is not None:
            self._erase(event_id, changes.erasure)

    def _change_registrations(self, taken: Sequence[_Taken]) -> None:
        """Send the registrations that leave first: then their email addresses are free for the others.

        Of two that were corrected the one that was decided first may have had the address of the other.
        """
        if deleted := [(event.id, id_) for event, changes in taken for id_ in changes.deleted]:
            self._delete(deleted)
        updated = [(event.id, r) for event, changes in taken for r in changes.updated.values()]
        corrected = [(event.id, r) for event, changes in taken for r in changes.corrected.values()]
        for leaving in (True, False):
            for event_id, registration in corrected:
                if (registration.status is Status.CANCELLED) is leaving:
                    self._correct(event_id, registration)
            rows = [(id_, r) for id_, r in updated if (r.status is Status.CANCELLED) is leaving]
            for first in range(0, len(rows), _ROWS_MAX):
                self._update(rows[first : first + _ROWS_MAX])

    def check(self) -> None:
        """Compare all row counts; raises `GuardRefused`, `Overtaken` or psycopg's errors."""
        for cursor, expected, error in self._counted:
            if cursor.rowcount != expected:
                raise error
        for cursor, (moved, settled) in self._saved:
            counts = cursor.fetchone()
            assert counts is not None, "the statement returns one row"
            if counts[0] != moved:
                raise GuardRefused
            if counts[1] != settled:
                raise Overtaken

    def _heal(self, event_id: UUID, recount: Recount) -> None:
        counted = {"confirmed_spots": recount.confirmed_spots, "waitlist_length": recount.waitlist_length}
        self._send(HEAL_COUNTERS, {"event_id": event_id, **counted}, 1, Overtaken)

    def _save_settings(self, event_id: UUID, settings: EventSettings, changes: EventChanges) -> None:
        moved: dict[str, int | None] = {
            "spots": changes.spots_delta,
            "waiting": changes.waitlist_delta,
            "entries": len(changes.changes),
        }
        moved["overbooked_from"] = changes.overbooked_from
        parameters = {"event_id": event_id, **moved, **msgspec.structs.asdict(settings)}
        self._send(SAVE_SETTINGS, parameters, 1, GuardRefused)

    def _save_follow_up(self, event_id: UUID, follow_up: FollowUp) -> None:
        parameters = {"event_id": event_id, **msgspec.structs.asdict(follow_up)}
        self._send(SAVE_FOLLOW_UP, parameters, 1, Overtaken)

    def _erase(self, event_id: UUID, erasure: Erasure) -> None:
        parameters = {
            "event_id": event_id,
            "registration_ids": arrays.uuids(erasure.registration_ids),
            "command_ids": arrays.uuids(erasure.command_ids),
        }
        self._send(ERASE, parameters, len(erasure.registration_ids), Overtaken)

    def _delete(self, deleted: Sequence[tuple[UUID, UUID]]) -> None:
        parameters = {
            "event_ids": arrays.uuids(event_id for event_id, _ in deleted),
            "ids": arrays.uuids(id_ for _, id_ in deleted),
        }
        self._send(DELETE_REGISTRATIONS, parameters, len(deleted), Overtaken)

    def _update(self, updated: Sequence[tuple[UUID, Registration]]) -> None:
        parameters = {
            "event_ids": arrays.uuids(event_id for event_id, _ in updated),
            "ids": arrays.uuids(r.id for _, r in updated),
            "statuses": arrays.texts(r.status for _, r in updated),
            "seqs": arrays.numbers(r.seq for _, r in updated),
            "original_seqs": arrays.numbers(r.original_seq for _, r in updated),
        }
        self._send(UPDATE_REGISTRATIONS, parameters, len(updated), Overtaken)

    def _correct(self, event_id: UUID, registration: Registration) -> None:
        email_key = registration.email and texts.email_key(registration.email)
        parameters = {"event_id": event_id, "email_key": email_key, **msgspec.structs.asdict(registration)}
        self._send(CORRECT_REGISTRATION, parameters, 1, Overtaken)

    def _send(
        self, statement: bytes, parameters: Mapping[str, object], rows: int, error: type[Exception]
    ) -> None:
        self._counted.append((self.session.execute(statement, parameters), rows, error))


def note_trouble(session: Session, event_id: UUID, command_id: UUID | None, error: BaseException) -> None:
    """Commit a note that a command, or a whole event, could not be applied; `status` shows it.

    The note has the database's own words without its details, which can be personal data.
    """
    reason = type(error).__name__
    if isinstance(error, psycopg.Error) and error.sqlstate is not None:
        reason = f"{error.sqlstate} {error.diag.message_primary}"
    parameters = {"event_id": event_id, "command_id": command_id, "error": reason[:_ERROR_LENGTH_MAX]}
    session.execute(NOTE_TROUBLE, parameters)


def forget_trouble(session: Session, event_ids: Collection[UUID], command_id: UUID | None) -> None:
    """Delete the notes of a command that is settled, or of events that can be applied again."""
    session.execute(FORGET_TROUBLE, {"event_ids": arrays.uuids(event_ids), "command_id": command_id})


def forget_settled(session: Session, event_id: UUID) -> None:
    """Take the commands that have an outcome off the pending commands of an event."""
    session.execute(FORGET_SETTLED, {"event_id": event_id})


def _parameters(
    moved: Sequence[_Taken], taken: Sequence[_Taken], settled: Sequence[SettledCommand]
) -> dict[str, object]:
    """Return the parameters of `save_batch.sql`, a column each; move the ends of the events' trails."""
    entered = [(event.id, r) for event, changes in taken for r in changes.entered.values()]
    noted = [(event.id, change) for event, changes in taken for change in changes.changes]
    released = [command for command in settled if isinstance(command.outcome, Refused | Failed)]
    numbers, hashes = [], []
    for event, changes in taken:
        for change in changes.changes:
            event.audit_seq += 1
            event.last_hash = audit.chain(event.last_hash, event.id, event.audit_seq, event.now, change)
            numbers.append(event.audit_seq)
            hashes.append(event.last_hash)
    return {
        "moved_event_ids": arrays.uuids(event.id for event, _ in moved),
        "moved_spots": arrays.numbers(changes.spots_delta for _, changes in moved),
        "moved_waiting": arrays.numbers(changes.waitlist_delta for _, changes in moved),
        "moved_entries": arrays.numbers(len(changes.changes) for _, changes in moved),
        "entered_event_ids": arrays.uuids(event_id for event_id, _ in entered),
        "entered_ids": arrays.uuids(r.id for _, r in entered),
        "entered_seqs": arrays.numbers(r.seq for _, r in entered),
        "entered_command_ids": arrays.uuids(r.command_id for _, r in entered),
        "entered_names": arrays.texts(r.name for _, r in entered),
        "entered_emails": arrays.texts(r.email for _, r in entered),
        "entered_email_keys": arrays.texts(r.email and texts.email_key(r.email) for _, r in entered),
        "entered_spots_counts": arrays.numbers(r.spots_count for _, r in entered),
        "entered_statuses": arrays.texts(r.status for _, r in entered),
        "noted_event_ids": arrays.uuids(event_id for event_id, _ in noted),
        "noted_numbers": arrays.numbers(numbers),
        "noted_hashes": arrays.digests(hashes),
        "noted_command_ids": arrays.uuids(change.command_id for _, change in noted),
        "noted_kinds": arrays.texts(change.kind for _, change in noted),
        "noted_actors": arrays.texts(change.actor for _, change in noted),
        "noted_reasons": arrays.texts(change.reason for _, change in noted),
        "noted_registration_ids": arrays.uuids(change.registration_id for _, change in noted),
        "noted_from_statuses": arrays.texts(change.from_status for _, change in noted),
        "noted_to_statuses": arrays.texts(change.to_status for _, change in noted),
        "noted_before_afters": arrays.jsons(
            msgspec.json.encode(change.before_after) if change.before_after else None for _, change in noted
        ),
        "noted_spots_deltas": arrays.numbers(change.spots_delta for _, change in noted),
        "noted_spots_reserved": arrays.numbers(change.spots_reserved for _, change in noted),
        "settled_event_ids": arrays.uuids(command.event_id for command in settled),
        "settled_seqs": arrays.numbers(command.seq for command in settled),
        "settled_ids": arrays.uuids(command.command_id for command in settled),
        "settled_outcomes": arrays.jsons(msgspec.json.encode(command.outcome) for command in settled),
        "released_event_ids": arrays.uuids(command.event_id for command in released),
        "released_ids": arrays.uuids(command.command_id for command in released),
    }
