"""Writes events into the tables of a database, as the service would have left them there."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import msgspec
import psycopg

from tests.chaos.history import History, Made
from tests.chaos.judge.evidence import Command, EventEvidence

EVENTS_AT_ONCE = 100
_COMMANDS = "command (event_id, id, seq, kind, payload, actor, accepted_at)"
_PENDING = "pending_command (event_id, seq, command_id)"
_OUTCOMES = "outcome (event_id, command_id, body, settled_at)"
_ERASED = "chaos_erased (event_id, command_id, payload)"
_KEYS = "idempotency_key (event_id, key, command_id, fingerprint)"
_SET_ASIDE = "chaos_set_aside (event_id, command_id)"
_ROWS = "registration (event_id, id, seq, command_id, name, email, spots_count, status)"
_ENTRIES = """audit_entry (event_id, number, command_id, kind, actor, reason, registration_id, from_status,
    to_status, before_after, spots_delta, spots_reserved, at, hash)"""


def write(session: "psycopg.Connection[tuple[Any, ...]]", events: Iterable[EventEvidence]) -> History:
    """Write events with all that belongs to them, and return the history of their clients."""
    history = History(epoch=0.0)
    remaining = iter(events)
    while some := list(islice(remaining, EVENTS_AT_ONCE)):
        for event in some:
            history.events[event.id] = Made(id=event.id, slug=event.now["slug"], settings=event.first)
            history.operations += event.operations
            history.epoch = event.epoch
        _copy(session, f"event (id, {', '.join(some[0].now)})", ((e.id, *e.now.values()) for e in some))
        of_events = [(event.id, command) for event in some for command in event.commands]
        for table, rows in _of_commands(of_events).items():
            _copy(session, table, rows)
        _copy(session, _SET_ASIDE, ((event.id, id_) for event in some for id_ in event.set_aside))
        _copy(session, _ROWS, ((event.id, *_values(row)) for event in some for row in event.rows))
        entries = (entry for event in some for entry in event.entries)
        _copy(session, _ENTRIES, (map(_column, _values(entry)) for entry in entries))
    session.execute("ANALYZE")
    return history


def _of_commands(of_events: list[tuple[str, Command]]) -> dict[str, Iterator[Iterable[Any]]]:
    """Return the rows of commands, by table."""
    erased = [(event_id, c) for event_id, c in of_events if c.erased]
    settled = [(event_id, c) for event_id, c in of_events if c.outcome is not None]
    return {
        _COMMANDS: (
            (event_id, c.id, c.seq, c.kind, _column({} if c.erased else c.payload), c.actor, c.accepted_at)
            for event_id, c in of_events
        ),
        _PENDING: ((event_id, c.seq, c.id) for event_id, c in of_events if c.pending),
        _OUTCOMES: ((event_id, c.id, _column(c.outcome), c.settled_at) for event_id, c in settled),
        _ERASED: ((event_id, c.id, _column(c.payload)) for event_id, c in erased),
        _KEYS: ((event_id, c.id.encode(), c.id, b"") for event_id, c in of_events if c.keyed),
    }


def _copy(
    session: "psycopg.Connection[tuple[Any, ...]]", table: str, rows: Iterable[Iterable[object]]
) -> None:
    with session.cursor() as cursor, cursor.copy(f"COPY {table} FROM STDIN".encode()) as copy:
        for row in rows:
            copy.write_row(list(row))


def _values(row: msgspec.Struct) -> tuple[Any, ...]:
    return msgspec.structs.astuple(row)


def _column(value: object) -> object:
    return msgspec.json.encode(value).decode() if isinstance(value, dict) else value
