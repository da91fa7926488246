"""The ledger: the record of all commands, in the order in which they are decided.

Invariants of the command table:

1. A command is in the ledger from the commit that accepted it, even if every other process crashes next.
2. Its `seq` is its place. Numbers are given before they are committed, so a lower one may appear later:
   pending commands are always selected as "not settled", never as "after the last one seen".
3. A command is settled once; its outcome never changes.
4. One idempotency key of one event names one command.

         accept                 settle
    ──────────────▶ pending ──────────────▶ settled

`worker/sql/save_batch.sql` settles, in the transaction that writes the command's effects.
"""

from collections.abc import Collection, Sequence
from pathlib import Path
from uuid import UUID

import psycopg
import structlog
from msgspec import Struct, ValidationError
from psycopg.rows import TupleRow
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.domain import outcomes
from shared.domain.outcomes import Outcome
from shared.postgres import arrays, durability, statements
from shared.postgres.durability import CommitWatch

log = structlog.get_logger(__name__)

_SQL = Path(__file__).parent / "sql"
_ACCEPT = statements.load(_SQL / "accept_commands.sql")
_FIND = statements.load(_SQL / "find_commands.sql")
_OUTCOMES = text(f"""
    SELECT command.id, command.outcome::text AS outcome,
           {durability.TO_CONFIRM.format("command")} AS to_confirm
    FROM unnest(CAST(:event_ids AS uuid[]), CAST(:ids AS uuid[])) AS asked (event_id, id)
    JOIN command ON command.event_id = asked.event_id AND command.id = asked.id
    WHERE command.settled_at IS NOT NULL
""")

_Session = psycopg.AsyncConnection[TupleRow]


class NewCommand(Struct, frozen=True, kw_only=True):
    """A command on its way into the ledger; `payload` is its JSON, key and fingerprint are digests."""

    event_id: UUID
    id: UUID
    kind: str
    payload: bytes
    actor: str
    idempotency_key: bytes | None = None
    fingerprint: bytes | None = None


class Acceptance(Struct, frozen=True, kw_only=True):
    """The confirmation that the ledger holds a command.

    `replayed`: an earlier request with the same idempotency key wrote the command. `same_request` is false
    if that request was a different one; then this request was not accepted.
    """

    command_id: UUID
    replayed: bool = False
    same_request: bool = True


class AcceptanceNotConfirmed(psycopg.OperationalError):
    """The commands are committed, and cannot be told as accepted: accept them again to learn the answer."""


async def accept(session: _Session, new: Sequence[NewCommand]) -> list[Acceptance]:
    """Write commands into the ledger, in this order; return an acceptance for each, in this order.

    Nothing is accepted before the commit: the statement's own, unless the caller began a transaction. Raises
    psycopg's errors, of which only `AcceptanceNotConfirmed` may come after a commit.
    Accepting the same ids, or the same idempotency keys, again changes nothing and returns the acceptances of
    the commands in the ledger.
    """
    parameters = {
        "event_ids": arrays.uuids(command.event_id for command in new),
        "ids": arrays.uuids(command.id for command in new),
        "kinds": arrays.texts(command.kind for command in new),
        "payloads": arrays.jsons(command.payload for command in new),
        "actors": arrays.texts(command.actor for command in new),
        "idempotency_keys": arrays.digests(command.idempotency_key for command in new),
        "fingerprints": arrays.digests(command.fingerprint for command in new),
    }
    with CommitWatch(session) as watch:
        written = await session.execute(_ACCEPT, parameters)
    if written.rowcount == len(new) and not watch.cut_off:
        return [Acceptance(command_id=command.id) for command in new]
    try:
        acceptances = await _find(session, new)
        await durability.confirm(session)  # of commands that were there already, this statement wrote nothing
    except psycopg.Error as error:
        raise AcceptanceNotConfirmed from error
    return acceptances


async def _find(session: _Session, new: Sequence[NewCommand]) -> list[Acceptance]:
    """Return the acceptances of commands that the ledger has, under their ids or their idempotency keys."""
    parameters = {
        "event_ids": arrays.uuids(command.event_id for command in new),
        "ids": arrays.uuids(command.id for command in new),
        "idempotency_keys": arrays.digests(command.idempotency_key for command in new),
    }
    by_id, by_key = set(), {}
    async for event_id, id_, key, fingerprint in await session.execute(_FIND, parameters):
        by_id.add((event_id, id_))
        by_key[event_id, key] = id_, fingerprint
    acceptances = []
    for command in new:
        if (command.event_id, command.id) in by_id:  # written now, or by an earlier attempt of this process
            acceptances.append(Acceptance(command_id=command.id))
        else:
            id_, fingerprint = by_key[command.event_id, command.idempotency_key]
            same = fingerprint == command.fingerprint
            acceptances.append(Acceptance(command_id=id_, replayed=True, same_request=same))
    return acceptances


class RecordedOutcome(Struct, frozen=True):
    """An outcome in the ledger, and what is to be confirmed before the outcome is told."""

    outcome: Outcome
    to_confirm: str | None


async def outcomes_of(
    connection: AsyncConnection, pairs: Collection[tuple[UUID, UUID]]
) -> dict[UUID, RecordedOutcome]:
    """Return the outcomes of the settled commands of these `(event_id, command_id)`, by command id."""
    parameters = {
        "event_ids": arrays.uuids(event_id for event_id, _ in pairs),
        "ids": arrays.uuids(id_ for _, id_ in pairs),
    }
    settled = {}
    for row in await connection.execute(_OUTCOMES, parameters):
        try:
            settled[row.id] = RecordedOutcome(outcomes.decode(row.outcome), row.to_confirm)
        except ValidationError as error:  # an outcome that was written by hand must not hide the others
            log.warning("outcome_unreadable", command_id=str(row.id), error=str(error))
    return settled
