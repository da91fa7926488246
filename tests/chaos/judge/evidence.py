"""The evidence of a run: all tables, read event by event, beside what the clients saw of each event."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

import msgspec
import psycopg
from msgspec import Struct

from tests.chaos.history import History, Operation
from tests.simulation.snapshot import Entry, Row

Json = dict[str, Any]

_EVENTS = """
    SELECT id::text, to_jsonb(event)::text FROM event ORDER BY id
"""
# PostgreSQL writes the rows of an event as one JSON text: to make a value of each column of each row is slow.
_OF_EVENT = """
    SELECT (SELECT coalesce(json_agg(command ORDER BY seq), '[]')::text FROM (
                SELECT id, seq, kind, coalesce(before.payload, ledger.payload) AS payload, actor, accepted_at,
                       outcome, settled_at, before.payload IS NOT NULL AS erased,
                       EXISTS (SELECT FROM pending_command AS found
                               WHERE found.event_id = ledger.event_id AND found.seq = ledger.seq) AS pending,
                       EXISTS (SELECT FROM idempotency_key
                               WHERE command_id = ledger.id AND event_id = ledger.event_id) AS keyed
                FROM ledger LEFT JOIN chaos_erased AS before
                     ON before.event_id = ledger.event_id AND before.command_id = ledger.id
                WHERE ledger.event_id = %(event_id)s
            ) AS command),
           (SELECT coalesce(json_agg(found ORDER BY seq), '[]')::text FROM (
                SELECT id, seq, command_id, name, email, spots_count, status
                FROM registration WHERE event_id = %(event_id)s
            ) AS found),
           (SELECT coalesce(json_agg(entry ORDER BY number), '[]')::text FROM (
                SELECT event_id, number, command_id, kind, actor, reason, registration_id, from_status,
                       to_status, before_after, spots_delta, spots_reserved, at,
                       encode(hash, 'base64') AS hash
                FROM audit_entry WHERE event_id = %(event_id)s
            ) AS entry),
           ARRAY(SELECT command_id::text FROM chaos_set_aside WHERE event_id = %(event_id)s)
"""


class Command(Struct, kw_only=True):
    """A command of the ledger; `outcome` is None while it is pending.

    The payload of one that is `erased` is that of before; `keyed`: an idempotency key names it.
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
    undone: Sequence[tuple[float, float]] = ()
    epoch: float


_COMMANDS, _ROWS, _ENTRIES = (
    msgspec.json.Decoder(list[Command]),
    msgspec.json.Decoder(list[Row]),
    msgspec.json.Decoder(list[Entry]),
)


def read(session: "psycopg.Connection[tuple[Any, ...]]", history: History) -> Iterator[EventEvidence]:
    """Yield every event of a database at rest, in one snapshot."""
    of_event: dict[str, list[Operation]] = {}
    for operation in history.operations:
        of_event.setdefault(operation.event_id, []).append(operation)
    with session.transaction():
        session.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        events = session.execute(_EVENTS.encode()).fetchall()
        for (id_, now), tables in zip(events, _tables(session, [id_ for id_, _ in events]), strict=True):
            commands, rows, entries, set_aside = tables
            yield EventEvidence(
                id=id_,
                first=history.events[id_].settings if id_ in history.events else {},
                now=msgspec.json.decode(now),
                commands=_COMMANDS.decode(commands),
                rows=_ROWS.decode(rows),
                entries=_ENTRIES.decode(entries),
                operations=of_event.get(id_, ()),
                set_aside=frozenset(set_aside),
                undone=tuple(history.undone),
                epoch=history.epoch,
            )


def _tables(
    session: "psycopg.Connection[tuple[Any, ...]]", event_ids: Sequence[str]
) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of each event; PostgreSQL reads those of the next one while the caller judges them."""

    def ask(event_id: str) -> "psycopg.Cursor[tuple[Any, ...]]":
        return session.execute(_OF_EVENT.encode(), {"event_id": event_id})

    with session.pipeline():
        asked = [ask(event_id) for event_id in event_ids[:1]]
        for next_id in (*event_ids[1:], None):
            [found] = asked.pop().fetchall()
            asked += [] if next_id is None else [ask(next_id)]
            yield found
