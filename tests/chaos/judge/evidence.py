"""The evidence of a run: all tables, read event by event, beside what the clients saw of each event."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import datetime
from itertools import groupby
from operator import itemgetter
from typing import Any

import msgspec
import psycopg
from msgspec import Struct

from tests.chaos.history import History, Operation
from tests.simulation.snapshot import Entry, Row

Json = dict[str, Any]

ROWS_AT_ONCE = 10_000
_EVENTS = """
    SELECT id::text, to_jsonb(event)::text FROM event ORDER BY id
"""
_COMMANDS = """
    SELECT event_id::text, id::text, seq, kind, coalesce(before.payload, ledger.payload)::text, actor,
           accepted_at, outcome::text, settled_at,
           (SELECT true FROM pending_command AS pending
            WHERE pending.event_id = ledger.event_id AND pending.seq = ledger.seq),
           before.payload IS NOT NULL,
           before.payload IS NOT NULL AND EXISTS (SELECT FROM idempotency_key WHERE command_id = ledger.id)
    FROM ledger LEFT JOIN chaos_erased AS before ON before.command_id = ledger.id
    ORDER BY event_id, seq
"""
_SET_ASIDE = "SELECT command_id::text FROM chaos_set_aside"
_ROWS = """
    SELECT event_id::text, id::text, seq, command_id::text, name, email, spots_count, status
    FROM registration ORDER BY event_id, seq
"""
_ENTRIES = """
    SELECT event_id::text, number, command_id::text, kind, actor, reason, registration_id::text, from_status,
           to_status, before_after::text, spots_delta, spots_reserved, at, hash
    FROM audit_entry ORDER BY event_id, number
"""


class Command(Struct, kw_only=True):
    """A command of the ledger; `outcome` is None while it is pending.

    The payload of one that is `erased` is that of before; `keyed`: it has an idempotency key all the same.
    """

    id: str
    seq: int
    kind: str
    payload: Json
    actor: str
    accepted_at: datetime
    outcome: Json | None = None
    settled_at: datetime | None = None
    pending: bool = False
    erased: bool = False
    keyed: bool = False


class EventEvidence(Struct, kw_only=True):
    """One event: its settings as created and its row now, its tables, and the operations of its clients.

    Commands and registrations are in order of `seq`, audit entries of `number`. Commands that were
    `set_aside` for a while are decided later than their places say.
    """

    id: str
    first: Json
    now: Json
    commands: Sequence[Command] = ()
    rows: Sequence[Row] = ()
    entries: Sequence[Entry] = ()
    operations: Sequence[Operation] = ()
    set_aside: frozenset[str] = frozenset()
    epoch: float


def read(session: "psycopg.Connection[tuple[Any, ...]]", history: History) -> Iterator[EventEvidence]:
    """Yield every event of a database at rest, in one snapshot."""
    of_event: dict[str, list[Operation]] = {}
    for operation in history.operations:
        of_event.setdefault(operation.event_id, []).append(operation)
    with session.transaction(), ExitStack() as ends:
        session.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        commands, rows, entries = (
            _Groups(ends.enter_context(session.cursor(name=name)), text)
            for name, text in (("commands", _COMMANDS), ("registrations", _ROWS), ("entries", _ENTRIES))
        )
        set_aside = {id_ for (id_,) in session.execute(_SET_ASIDE)}
        for id_, now in session.execute(_EVENTS.encode()).fetchall():
            of_ledger = [_command(row) for row in commands.of(id_)]
            yield EventEvidence(
                id=id_,
                first=history.events[id_].settings if id_ in history.events else {},
                now=msgspec.json.decode(now),
                commands=of_ledger,
                rows=[Row(**dict(zip(Row.__struct_fields__, row[1:], strict=True))) for row in rows.of(id_)],
                entries=[_entry(row) for row in entries.of(id_)],
                operations=of_event.get(id_, ()),
                epoch=history.epoch,
                set_aside=frozenset(c.id for c in of_ledger if c.id in set_aside),
            )


class _Groups:
    """The rows of a statement in order of their events, read in portions."""

    def __init__(self, cursor: "psycopg.ServerCursor[tuple[Any, ...]]", statement: str) -> None:
        cursor.itersize = ROWS_AT_ONCE
        cursor.execute(statement.encode())
        self._groups = groupby(cursor, itemgetter(0))
        self._next = next(self._groups, None)

    def of(self, event_id: str) -> list[tuple[Any, ...]]:
        """Return the rows of an event; events must be asked for in their order."""
        if self._next is None or self._next[0] != event_id:
            return []
        found = list(self._next[1])
        self._next = next(self._groups, None)
        return found


def _command(row: tuple[Any, ...]) -> Command:
    _, id_, seq, kind, payload, actor, accepted_at, outcome, settled_at, pending, erased, keyed = row
    return Command(
        id=id_,
        seq=seq,
        kind=kind,
        payload=msgspec.json.decode(payload),
        actor=actor,
        accepted_at=accepted_at,
        outcome=None if outcome is None else msgspec.json.decode(outcome),
        settled_at=settled_at,
        pending=bool(pending),
        erased=erased,
        keyed=keyed,
    )


def _entry(row: tuple[Any, ...]) -> Entry:
    facts = dict(zip(Entry.__struct_fields__, row, strict=True))
    if facts["before_after"] is not None:
        facts["before_after"] = msgspec.json.decode(facts["before_after"])
    return Entry(**facts)
