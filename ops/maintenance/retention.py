"""Retention: what the ledger forgets once it is too old to be asked for.

Batches are small transactions with a pause between them, they skip a command that another session has
locked, and the next run goes on where one was interrupted.
"""

import time
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, text

from shared.postgres import connections

_ROWS_AT_ONCE = 500
_PAUSE_SECONDS = 0.02

_CUTOFF = text("SELECT now() - make_interval(days => :days)")
_FORGET_KEYS = text("""
    DELETE FROM idempotency_key
    WHERE (event_id, key) IN (
        SELECT event_id, key FROM idempotency_key
        WHERE created_at < :cutoff
          AND EXISTS (SELECT FROM outcome
                      WHERE outcome.event_id = idempotency_key.event_id
                        AND outcome.command_id = idempotency_key.command_id)
        LIMIT :limit
    )
""")
# Commands in the order of the index `command_payload_idx`, from the last one of the batch before.
_FORGET_COMMANDS = text("""
    WITH old AS MATERIALIZED (
        SELECT command.event_id, command.id, command.accepted_at,
               outcome.body ->> 'outcome' IN ('refused', 'failed') AS changed_nothing
        FROM command JOIN outcome ON outcome.event_id = command.event_id AND outcome.command_id = command.id
        WHERE command.payload <> '{}' AND command.kind <> 'erase'
          AND command.accepted_at >= :since AND command.accepted_at < :cutoff
        ORDER BY command.accepted_at LIMIT :limit
        FOR UPDATE OF command SKIP LOCKED
    ), emptied AS (
        UPDATE command SET payload = '{}' FROM old
        WHERE command.event_id = old.event_id AND command.id = old.id AND NOT changed_nothing
        RETURNING command.id
    ), deleted AS (
        DELETE FROM command USING old
        WHERE command.event_id = old.event_id AND command.id = old.id AND changed_nothing
        RETURNING command.id
    ), untold AS (
        DELETE FROM outcome USING old
        WHERE outcome.event_id = old.event_id AND outcome.command_id = old.id AND changed_nothing
    )
    SELECT (SELECT max(accepted_at) FROM old), (SELECT count(*) FROM emptied), (SELECT count(*) FROM deleted)
""")
# A trouble that lasts is noted anew every second; a worker that was killed leaves its last notes behind.
_FORGET_TROUBLES = text("DELETE FROM trouble WHERE tried_at < now() - interval '1 day'")
_FORGET_API_KEYS = text("DELETE FROM api_key WHERE least(expires_at, revoked_at) < :cutoff")


@dataclass(kw_only=True, slots=True)
class Forgotten:
    """The numbers of what a run has forgotten: idempotency keys, payloads, and refused or failed commands."""

    keys: int = 0
    payloads: int = 0
    commands: int = 0


def tidy(database_url: str, days: int) -> Forgotten:
    """Forget what is older than `days` and settled: idempotency keys, payloads, refused and failed commands.

    Forget API keys that ended before that, and the notes of troubles that are over, too.
    """
    engine = connections.operator_engine(database_url, writes=True)
    forgotten = Forgotten()
    with engine.connect() as connection:
        cutoff = connection.execute(_CUTOFF, {"days": days}).scalar_one()
        connection.execute(_FORGET_TROUBLES)
        connection.execute(_FORGET_API_KEYS, {"cutoff": cutoff})
        connection.commit()
        _forget_keys(connection, cutoff, forgotten)
        _forget_commands(connection, cutoff, forgotten)
    return forgotten


def _forget_keys(connection: Connection, cutoff: datetime, forgotten: Forgotten) -> None:
    while True:
        rows = connection.execute(_FORGET_KEYS, {"cutoff": cutoff, "limit": _ROWS_AT_ONCE}).rowcount
        connection.commit()
        forgotten.keys += rows
        if rows == 0:
            return
        time.sleep(_PAUSE_SECONDS)


def _forget_commands(connection: Connection, cutoff: datetime, forgotten: Forgotten) -> None:
    """Empty the payloads of commands that changed something, and delete those that were refused or failed."""
    since: datetime | str | None = "-infinity"
    while since is not None:
        parameters = {"since": since, "cutoff": cutoff, "limit": _ROWS_AT_ONCE}
        since, payloads, commands = connection.execute(_FORGET_COMMANDS, parameters).one()
        connection.commit()
        forgotten.payloads += payloads
        forgotten.commands += commands
        time.sleep(_PAUSE_SECONDS)
