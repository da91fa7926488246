"""Saves the changes of decisions: the only writer of `registration`, `audit_entry` and the counters.

All statements of a batch belong to the transaction that has locked the events' rows. Most batches, of however
many events, need one statement a part: the guarded counters, new registrations, the audit trail, the
outcomes. Row counts are compared before the commit.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import psycopg
from psycopg.rows import TupleRow

from shared.domain import commands, outcomes
from shared.domain.commands import Status
from shared.domain.event import EventChanges, Registration
from shared.domain.outcomes import SettledCommand
from shared.postgres import arrays, statements
from worker.load import LoadedEvent, Overtaken, Session

_SQL = Path(__file__).parent / "sql"
SAVE_BATCH = statements.load(_SQL / "save_batch.sql")
SAVE_SETTINGS = statements.load(_SQL / "save_settings.sql")
HEAL_COUNTERS = statements.load(_SQL / "heal_counters.sql")
DELETE_REGISTRATIONS = statements.load(_SQL / "delete_registrations.sql")
UPDATE_REGISTRATIONS = statements.load(_SQL / "update_registrations.sql")

_Taken = tuple[LoadedEvent, EventChanges]


class GuardRefused(Exception):  # noqa: N818 - reads as the sentence "raise GuardRefused"
    """The counter would have passed the capacity; the transaction must be rolled back."""


class BatchWriter:
    """Sends statements in pipeline mode: PostgreSQL executes one part while the next part is decided.

    `check` must come before the commit.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._guarded: list[tuple[psycopg.Cursor[TupleRow], tuple[int, int]]] = []
        self._counted: list[tuple[psycopg.Cursor[TupleRow], int, type[Exception]]] = []

    def save(self, events: Sequence[LoadedEvent], settled: Sequence[SettledCommand]) -> None:
        """Send the events' changes since they were last sent, and these outcomes."""
        taken = [(event, event.roster.take_changes()) for event in events if event.roster.changes]
        for event, changes in taken:
            if changes.recount is not None:
                self._heal(event.id, changes)
            if changes.settings is not None:
                self._save_settings(event.id, changes)
        # Registrations that leave go first, so that their places and email addresses are free for others.
        self._delete([(event.id, id_) for event, changes in taken for id_ in changes.deleted])
        updated = [(event.id, r) for event, changes in taken for r in changes.updated]
        self._update([(event_id, r) for event_id, r in updated if r.status is Status.CANCELLED])
        self._update([(event_id, r) for event_id, r in updated if r.status is not Status.CANCELLED])
        moved = [(event, changes) for event, changes in taken if changes.settings is None]
        parameters = {**_moved(moved), **_entered(taken), **_noted(taken), **_settled(settled)}
        self._guarded.append((self._session.execute(SAVE_BATCH, parameters), (len(moved), len(settled))))

    def check(self) -> None:
        """Compare all row counts; raises `GuardRefused`, `Overtaken` or psycopg's errors."""
        for cursor, expected, error in self._counted:
            if cursor.rowcount != expected:
                raise error
        for cursor, (moved, settled) in self._guarded:
            counts = cursor.fetchone()
            assert counts is not None, "the statement returns one row"
            if counts[0] != moved:
                raise GuardRefused
            if counts[1] != settled:
                raise Overtaken

    def _heal(self, event_id: UUID, changes: EventChanges) -> None:
        recount = changes.recount
        assert recount is not None, "only a heal comes here"
        counted = {"confirmed_spots": recount.confirmed_spots, "waitlist_length": recount.waitlist_length}
        self._send(HEAL_COUNTERS, {"event_id": event_id, **counted}, 1, Overtaken)

    def _save_settings(self, event_id: UUID, changes: EventChanges) -> None:
        moved = {
            "spots": changes.spots_delta,
            "waiting": changes.waitlist_delta,
            "entries": len(changes.changes),
        }
        settings = msgspec.structs.asdict(changes.settings) if changes.settings else {}
        self._send(SAVE_SETTINGS, {"event_id": event_id, **moved, **settings}, 1, GuardRefused)

    def _delete(self, gone: Sequence[tuple[UUID, UUID]]) -> None:
        if gone:
            events, ids = zip(*gone, strict=True)
            parameters = {"event_ids": arrays.uuids(events), "ids": arrays.uuids(ids)}
            self._send(DELETE_REGISTRATIONS, parameters, len(gone), Overtaken)

    def _update(self, updated: Sequence[tuple[UUID, Registration]]) -> None:
        if updated:
            parameters = {
                "event_ids": arrays.uuids(event_id for event_id, _ in updated),
                "ids": arrays.uuids(r.id for _, r in updated),
                "statuses": arrays.texts(r.status for _, r in updated),
                "seqs": arrays.numbers(r.seq for _, r in updated),
            }
            self._send(UPDATE_REGISTRATIONS, parameters, len(updated), Overtaken)

    def _send(self, statement: bytes, parameters: Any, rows: int, error: type[Exception]) -> None:  # noqa: ANN401
        self._counted.append((self._session.execute(statement, parameters), rows, error))


def _moved(taken: Sequence[_Taken]) -> dict[str, object]:
    return {
        "moved_event_ids": arrays.uuids(event.id for event, _ in taken),
        "moved_spots": arrays.numbers(changes.spots_delta for _, changes in taken),
        "moved_waiting": arrays.numbers(changes.waitlist_delta for _, changes in taken),
        "moved_entries": arrays.numbers(len(changes.changes) for _, changes in taken),
    }


def _entered(taken: Sequence[_Taken]) -> dict[str, object]:
    registrations = [r for _, changes in taken for r in changes.entered]
    return {
        "entered_event_ids": arrays.uuids(event.id for event, changes in taken for _ in changes.entered),
        "entered_ids": arrays.uuids(r.id for r in registrations),
        "entered_seqs": arrays.numbers(r.seq for r in registrations),
        "entered_command_ids": arrays.uuids(r.command_id for r in registrations),
        "entered_names": arrays.texts(r.name for r in registrations),
        "entered_emails": arrays.texts(r.email for r in registrations),
        "entered_email_keys": arrays.texts(r.email and commands.email_key(r.email) for r in registrations),
        "entered_spots_counts": arrays.numbers(r.spots_count for r in registrations),
        "entered_statuses": arrays.texts(r.status for r in registrations),
    }


def _noted(taken: Sequence[_Taken]) -> dict[str, object]:
    first = [(event, event.audit_seq + 1, changes) for event, changes in taken]
    noted = [change for _, changes in taken for change in changes.changes]
    return {
        "noted_event_ids": arrays.uuids(event.id for event, changes in taken for _ in changes.changes),
        "noted_numbers": arrays.numbers(
            number for _, start, changes in first for number in range(start, start + len(changes.changes))
        ),
        "noted_hashes": arrays.digests(
            digest for event, changes in taken for digest in event.append_to_trail(changes)
        ),
        "noted_command_ids": arrays.uuids(change.command_id for change in noted),
        "noted_kinds": arrays.texts(change.kind for change in noted),
        "noted_actors": arrays.texts(change.actor for change in noted),
        "noted_reasons": arrays.texts(change.reason for change in noted),
        "noted_registration_ids": arrays.uuids(change.registration_id for change in noted),
        "noted_from_statuses": arrays.texts(change.from_status for change in noted),
        "noted_to_statuses": arrays.texts(change.to_status for change in noted),
        "noted_before_afters": arrays.jsons(
            msgspec.json.encode(change.before_after) if change.before_after else None for change in noted
        ),
        "noted_spots_deltas": arrays.numbers(change.spots_delta for change in noted),
        "noted_spots_reserved": arrays.numbers(change.spots_reserved for change in noted),
    }


def _settled(settled: Sequence[SettledCommand]) -> dict[str, object]:
    return {
        "settled_event_ids": arrays.uuids(command.event_id for command in settled),
        "settled_ids": arrays.uuids(command.command_id for command in settled),
        "settled_outcomes": arrays.jsons(outcomes.encode(command.outcome) for command in settled),
    }
