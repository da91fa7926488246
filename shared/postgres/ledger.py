"""The ledger: the record of all commands, in the order in which they are decided.

Invariants of its tables:

1. A command is in the ledger from the commit that accepted it, even if every other process crashes next.
2. Its `seq` is its place. Numbers are given before they are committed, so a lower one may appear later:
   pending commands are always read from `pending_command`, never as "after the last one seen".
3. A command is settled once; its outcome never changes.
4. One idempotency key of one event names one command, from its acceptance until it is refused or fails.

                accept                              settle
    ──────────▶ command, pending_command ──────────▶ command, outcome

`worker/sql/save_batch.sql` settles, in the transaction that writes the command's effects.
"""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, LiteralString
from uuid import UUID

import psycopg
import structlog
from msgspec import Struct, ValidationError
from psycopg.rows import TupleRow
from sqlalchemy import Connection, text

from shared import keyed_digests
from shared.domain import audit, outcomes
from shared.domain.outcomes import Outcome
from shared.postgres import arrays, connections, durability, statements
from shared.postgres.bounded import BoundedSession
from shared.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

log = structlog.get_logger(__name__)

_SQL = Path(__file__).parent / "sql"
_ACCEPT = statements.load(_SQL / "accept_commands.sql")
_FIND = statements.load(_SQL / "find_commands.sql")
_DRAW = "SELECT nextval('command_seq_seq'), seq FROM ledger_mark"
_LAST_NUMBER = "SELECT last_value - (NOT is_called)::integer AS number FROM command_seq_seq"
_IS_BEHIND = text(f"SELECT number < seq FROM ledger_mark CROSS JOIN ({_LAST_NUMBER}) AS last")
_ADVANCE_MARK = f"""
    WITH last AS MATERIALIZED ({_LAST_NUMBER}), passed AS (
        SELECT ledger_mark.ctid, number FROM ledger_mark CROSS JOIN last
        WHERE number > seq FOR UPDATE OF ledger_mark SKIP LOCKED
    )
    UPDATE ledger_mark SET seq = number FROM passed WHERE ledger_mark.ctid = passed.ctid
"""
_HIGHEST = text("""
    SELECT greatest(0, (SELECT max(seq) FROM command), (SELECT max(seq) FROM registration),
                    (SELECT seq FROM ledger_mark))
""")
_CONTINUE_AFTER = text("SELECT setval('command_seq_seq', :number)")
_OUTCOMES = text(f"""
    SELECT outcome.command_id AS id, outcome.body::text AS outcome,
           {durability.TO_CONFIRM.format("outcome")} AS to_confirm
    FROM unnest(CAST(:event_ids AS uuid[]), CAST(:ids AS uuid[])) AS asked (event_id, id)
    CROSS JOIN LATERAL (  -- a fence (decision 0014)
        SELECT xmin, command_id, body FROM outcome
        WHERE event_id = asked.event_id AND command_id = asked.id OFFSET 0
    ) AS outcome
""")

Session = psycopg.AsyncConnection[TupleRow]


class NewCommand(Struct, frozen=True, kw_only=True):
    """A command on its way into the ledger; `payload` is its JSON, keys and fingerprint are SHA-256.

    `version` is the version of the commands' format that a worker must know to read it. A command that an
    earlier version accepted under the `former_key` is the same as one under the `idempotency_key`.
    """

    event_id: UUID
    id: UUID
    kind: str
    payload: bytes
    actor: str
    idempotency_key: bytes | None = None
    former_key: bytes | None = None
    fingerprint: bytes | None = None
    version: int = 1


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


class NumberingBehind(Exception):  # noqa: N818 - reads as the sentence "raise NumberingBehind"
    """The ledger's sequence is behind the numbers that it gave before; nothing was accepted."""


async def open_session(settings: Settings) -> BoundedSession:
    """Return a new session for `accept`, on which each statement commits by itself.

    Raises `NumberingBehind`, and psycopg's errors if the database cannot be reached.
    """
    session = await connections.accepting_session(settings)
    try:
        await prepare(session)
    except BaseException:
        await session.close()
        raise
    return session


async def prepare(session: BoundedSession) -> None:
    """Draw the first number of a session, with which `accept` compares the sequence.

    The number is kept here: behind a pooler each statement may run in another session of the server. Raises
    `NumberingBehind`.
    """
    session.last_number, mark = await _numbers(session, _DRAW)
    if session.last_number <= mark:
        raise NumberingBehind


async def accept(
    session: BoundedSession, new: Sequence[NewCommand], secret_keys: Sequence[bytes] = (b"",)
) -> list[Acceptance]:
    """Write commands into the ledger, in this order; return an acceptance for each, in this order.

    Nothing is accepted before the commit: the statement's own, unless the caller began a transaction. Raises
    psycopg's errors, of which only `AcceptanceNotConfirmed` may come after a commit.
    Accepting the same ids, or the same idempotency keys, again changes nothing and returns the acceptances of
    the commands in the ledger. Raises `NumberingBehind`. Fingerprints are made with the first of the secret
    keys, and compared with all of them.
    """
    parameters = {
        "event_ids": arrays.uuids(command.event_id for command in new),
        "ids": arrays.uuids(command.id for command in new),
        "kinds": arrays.texts(command.kind for command in new),
        "payloads": arrays.jsons(command.payload for command in new),
        "actors": arrays.texts(command.actor for command in new),
        "versions": arrays.numbers(command.version for command in new),
        "idempotency_keys": arrays.digests(command.idempotency_key for command in new),
        "former_keys": arrays.digests(command.former_key for command in new),
        "fingerprints": arrays.digests(
            command.fingerprint and keyed_digests.fingerprint(secret_keys, command.fingerprint)
            for command in new
        ),
    }
    while True:
        session.cut_off.clear()
        try:
            cursor = await session.execute(_ACCEPT, {**parameters, "last_number": session.last_number})
            written, last, _ = await cursor.fetchone() or (0, None, 1)
        except psycopg.errors.DivisionByZero:
            continue  # it bound a key in vain, which the next attempt does not (0077)
        session.last_number = max(session.last_number, last or 0)
        if written == len(new) and not session.cut_off:
            return [Acceptance(command_id=command.id) for command in new]
        try:
            acceptances = await _find(session, new, secret_keys)
            if acceptances is not None:
                await session.confirm()  # commands that were there already were not written now
                return acceptances
            (last,) = await _numbers(session, _LAST_NUMBER)
        except psycopg.Error as error:
            raise AcceptanceNotConfirmed from error
        if last < session.last_number:
            raise NumberingBehind
        # Else a key was released between the two statements: the next attempt may write it.


async def _find(
    session: Session, new: Sequence[NewCommand], secret_keys: Sequence[bytes]
) -> list[Acceptance] | None:
    """Return the acceptances of commands that the ledger has, None if it has not all of them."""
    parameters = {
        "event_ids": arrays.uuids(command.event_id for command in new),
        "ids": arrays.uuids(command.id for command in new),
        "idempotency_keys": arrays.digests(command.idempotency_key for command in new),
        "former_keys": arrays.digests(command.former_key for command in new),
    }
    rows = await (await session.execute(_FIND, parameters)).fetchall()
    acceptances = []
    for command, (accepted, id_, fingerprint) in zip(new, rows, strict=True):
        if accepted:  # written now, or by an earlier attempt of this process
            acceptances.append(Acceptance(command_id=command.id))
        elif id_ is not None:
            same = keyed_digests.is_of(fingerprint, secret_keys, command.fingerprint or b"")
            acceptances.append(Acceptance(command_id=id_, replayed=True, same_request=same))
        else:
            return None
    return acceptances


class RecordedOutcome(Struct, frozen=True):
    """An outcome in the ledger, and what is to be confirmed before the outcome is told."""

    outcome: Outcome
    to_confirm: str | None


async def outcomes_of(
    connection: "AsyncConnection", pairs: Collection[tuple[UUID, UUID]]
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
            log.warning("outcome_unreadable", command_digest=audit.command_digest(row.id), error=str(error))
    return settled


def advance_mark(session: "psycopg.Connection[TupleRow]") -> None:
    """Note how far the numbering has come, so that a sequence that falls behind is noticed; call it often.

    Does not wait for another session that has locked the mark: the next call notes it.
    """
    session.execute(_ADVANCE_MARK)


def numbering_is_behind(connection: Connection) -> bool:
    """Return True if the ledger's sequence would give numbers again that it gave before the last mark."""
    return bool(connection.execute(_IS_BEHIND).scalar_one())


def numbering_lag(connection: Connection) -> int:
    """Return by how many numbers the sequence is behind; reads all commands, so it takes long."""
    last = connection.execute(text(_LAST_NUMBER)).scalar_one()
    return max(int(connection.execute(_HIGHEST).scalar_one()) - int(last), 0)


def heal_numbering(connection: Connection) -> None:
    """Let the numbering go on after the highest number in the tables; needs the owner's role."""
    connection.execute(_CONTINUE_AFTER, {"number": connection.execute(_HIGHEST).scalar_one()})


async def _numbers(session: Session, statement: LiteralString) -> tuple[int, ...]:
    row = await (await session.execute(statement)).fetchone()
    assert row is not None, "the statement returns one row"
    return row
