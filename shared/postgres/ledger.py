"""The ledger: the record of all that was asked, in the order in which it counts.

Invariants of the command table, held here and nowhere else:

1. A command is in the ledger from the commit that accepted it, whatever dies next.
2. Its `seq` is its place. Numbers are given before they are committed, so a lower one may appear
   later: what is pending is always selected as "not settled", never as "after the last seen".
3. It is settled once; the outcome never changes.
4. One idempotency key of one event names one command.

         accept                 settle
    ──────────────▶ pending ──────────────▶ settled
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from uuid import UUID

import psycopg
import structlog
from msgspec import Raw, Struct, ValidationError
from psycopg.rows import TupleRow, class_row
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.domain import commands, outcomes
from shared.domain.commands import Accepted
from shared.domain.outcomes import Outcome
from shared.postgres import arrays, locks, rows
from shared.postgres.rows import Given, Rows

log = structlog.get_logger(__name__)

_Session = psycopg.AsyncConnection[TupleRow]


class Asked(Struct, frozen=True, kw_only=True):
    """A command on its way into the ledger."""

    event_id: UUID
    id: UUID
    kind: str
    payload: bytes
    actor: str
    idempotency_key: bytes | None = None
    fingerprint: bytes | None = None


class Receipt(Struct, frozen=True, kw_only=True):
    """The ledger's word that it holds a command.

    `replayed`: the command was there before, under the same idempotency key. `same_request` is
    false when that key was used to ask for something else; then nothing was accepted now.
    """

    command_id: UUID
    replayed: bool = False
    same_request: bool = True


class _Found(Struct, frozen=True, kw_only=True):
    """A command that is in the ledger, and what it was asked under."""

    event_id: UUID
    id: UUID
    idempotency_key: bytes | None
    fingerprint: bytes | None


class Pending(Struct, frozen=True, array_like=True):
    """A command that waits for its decision; `accepted_at` is the database's clock.

    `tid` says where in the table its row is, for as long as the transaction lasts that has looked.
    """

    id: UUID
    seq: int
    kind: str
    payload: Raw
    actor: str
    accepted_at: datetime
    tid: str


class Settled(Struct, frozen=True, kw_only=True):
    """An event's command with its one outcome."""

    event_id: UUID
    command_id: UUID
    outcome: Outcome


_ASKED = Rows(
    "asked",
    numbered=True,
    event_id=rows.ID,
    id=rows.ID,
    kind=rows.TEXT,
    payload=rows.RAW_JSON,
    actor=rows.TEXT,
    idempotency_key=rows.DIGEST,
    fingerprint=rows.DIGEST,
)
_ACCEPT = f"""
    INSERT INTO command (event_id, id, kind, payload, actor, idempotency_key, fingerprint)
    SELECT event_id, id, kind, payload, actor, idempotency_key, fingerprint
    FROM {{asked}}
    CROSS JOIN (
        SELECT count(pg_advisory_xact_lock_shared({locks.COMING}, key)) AS locks
        FROM unnest(CAST(%(coming)s AS integer[])) AS key
    ) AS coming
    WHERE coming.locks >= 0  -- always: it is for the locks, before anything is written
    ORDER BY place
    ON CONFLICT DO NOTHING
"""

_COMING_MS_MAX = 20  # of an owner's time; and as long new ones of the same event wait behind it

AWAIT_COMING = f"""
    SELECT set_config('lock_timeout', '{_COMING_MS_MAX}ms', true),
           pg_advisory_xact_lock({locks.COMING}, CAST(%(coming)s AS integer))
"""
"""Returns when all commands are in the ledger that were `coming` for an event when it was asked.

Raises `LockNotAvailable` when that takes long. To be run in a transaction of its own, with which lock and
time-out end; a session's lock could outlive a time-out that comes just when it is granted.
"""

_IN_LEDGER = """
    SELECT command.event_id, command.id, command.idempotency_key, command.fingerprint
    FROM unnest(
        CAST(%(event_ids)s AS uuid[]), CAST(%(ids)s AS uuid[]), CAST(%(idempotency_keys)s AS bytea[])
    ) AS asked (event_id, id, idempotency_key)
    JOIN command ON command.event_id = asked.event_id
     AND (command.id = asked.id OR command.idempotency_key = asked.idempotency_key)
"""

PENDING = """
    SELECT event_id,
           json_agg(
               json_build_array(id, seq, kind, payload, actor, accepted_at, tid) ORDER BY seq
           ) AS commands
    FROM (
        SELECT given.event_id, waiting.*, row_number() OVER (PARTITION BY given.event_id ORDER BY seq) AS turn
        FROM unnest(CAST(%(event_ids)s AS uuid[])) AS given (event_id) CROSS JOIN LATERAL (
            SELECT id, seq, kind, payload, actor, accepted_at, ctid AS tid FROM command
            WHERE command.event_id = given.event_id AND settled_at IS NULL
            ORDER BY seq LIMIT %(share)s
        ) AS waiting
        ORDER BY turn, seq LIMIT %(limit)s
    ) AS taken
    GROUP BY event_id
"""
"""The first pending commands of these events, at most `share` of each and `limit` in all: rows of
`(event_id, commands)`, the latter the JSON of a list of `Pending` in ledger order.

Events take turns, so that a crowd at one does not keep the others' commands out of the batch.
"""

_SETTLED = Rows("settled", id=rows.ID, tid=rows.TID, outcome=rows.JSON)
SETTLE = """
    UPDATE command
    SET outcome = settled.outcome, settled_at = now(), attempts = attempts + 1
    FROM {settled}
    WHERE command.ctid = settled.tid AND command.outcome IS NULL
      AND command.id IS NOT DISTINCT FROM settled.id  -- no index serves that: each row is found by its place
"""
"""Writes the outcomes of `settling`, to be `rows.stated`; who runs it must find that as many rows changed.

To be run in the transaction that found the commands pending. Whoever settled one of them meanwhile has put
its row somewhere else, and no other's can be taken for it.
"""

_OUTCOMES = text("""
    SELECT command.id, command.outcome::text AS outcome
    FROM ROWS FROM (unnest(CAST(:event_ids AS uuid[])), unnest(CAST(:ids AS uuid[]))) AS asked (event_id, id)
    JOIN command ON command.event_id = asked.event_id AND command.id = asked.id
    WHERE command.settled_at IS NOT NULL
""")


async def accept(session: _Session, asked: Sequence[Asked], *, coming: bool = False) -> list[Receipt]:
    """Write commands into the ledger, in this order; one receipt for each, in this order.

    While they are `coming`, their events' owners may be told already, and wait for the commit.

    Nothing is accepted before the commit: the statement's own, unless the caller began more. Asking again
    with the same ids, or the same idempotency keys, changes nothing and yields the receipts of what is there.
    """
    statement, parameters = rows.stated(_ACCEPT, _ASKED.of(asked))
    parameters["coming"] = arrays.numbers({locks.coming_key(a.event_id) for a in asked} if coming else ())
    written = await session.execute(statement, parameters)
    if written.rowcount == len(asked):
        return [Receipt(command_id=a.id) for a in asked]
    there = await _in_ledger(session, [a for a in asked if a.idempotency_key is not None])
    return [_receipt(a, there) for a in asked]


async def _in_ledger(session: _Session, asked: Sequence[Asked]) -> dict[tuple[UUID, UUID | bytes], _Found]:
    """Return what the ledger has under these ids and idempotency keys."""
    parameters = {
        "event_ids": arrays.ids(a.event_id for a in asked),
        "ids": arrays.ids(a.id for a in asked),
        "idempotency_keys": arrays.digests(a.idempotency_key for a in asked),
    }
    there: dict[tuple[UUID, UUID | bytes], _Found] = {}
    async with session.cursor(row_factory=class_row(_Found)) as cursor:
        async for found in await cursor.execute(_IN_LEDGER.encode(), parameters):
            there[found.event_id, found.id] = found
            if found.idempotency_key is not None:
                there[found.event_id, found.idempotency_key] = found
    return there


def _receipt(asked: Asked, there: Mapping[tuple[UUID, UUID | bytes], _Found]) -> Receipt:
    if asked.idempotency_key is None or (asked.event_id, asked.id) in there:
        return Receipt(command_id=asked.id)  # written now, or by our own earlier attempt
    found = there[asked.event_id, asked.idempotency_key]
    return Receipt(command_id=found.id, replayed=True, same_request=found.fingerprint == asked.fingerprint)


def read(pending: Pending) -> Accepted:
    """Return the command in its decidable form; raises `commands.UnreadableCommand`."""
    return Accepted(
        command=commands.decode(pending.kind, pending.payload),
        id=pending.id,
        seq=pending.seq,
        actor=pending.actor,
        accepted_at=pending.accepted_at,
    )


def settling(pending: Iterable[Pending], settled: Collection[Settled]) -> Given:
    """Return what `SETTLE` is given to write these outcomes of pending commands."""
    ids = (one.command_id for one in settled)
    return _SETTLED.of(settled, id=ids, tid=(command.tid for command in pending))


async def settled(connection: AsyncConnection, asked: Iterable[tuple[UUID, UUID]]) -> dict[UUID, Outcome]:
    """Return the outcomes of those `(event_id, command_id)` that are settled."""
    pairs = list(asked)
    selected = await connection.execute(
        _OUTCOMES,
        {
            "event_ids": arrays.ids(event_id for event_id, _ in pairs),
            "ids": arrays.ids(id_ for _, id_ in pairs),
        },
    )
    found = {}
    for row in selected:
        try:
            found[row.id] = outcomes.decode(row.outcome)
        except ValidationError as error:  # written by hand: it must not hide the others
            log.warning("outcome_unreadable", command_id=str(row.id), error=str(error))
    return found
