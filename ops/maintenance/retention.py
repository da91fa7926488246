"""Retention: what the ledger forgets once it is too old to be asked for.

Batches are small transactions with a pause between them, they skip a command that another session has
locked, and the next run goes on where one was interrupted.
"""

import time
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, text

from shared.domain import ids
from shared.postgres import arrays, connections

_ROWS_AT_ONCE = 500
_PAUSE_SECONDS = 0.02

_CUTOFF = text("SELECT now() - make_interval(days => :days)")
# Fences (decision 0014): each key's outcome is found by key, and the keys that were found by their places.
_FORGET_KEYS = text("""
    DELETE FROM idempotency_key WHERE ctid = ANY(ARRAY(
        SELECT old.ctid FROM idempotency_key AS old
        CROSS JOIN LATERAL (
            SELECT FROM outcome WHERE event_id = old.event_id AND command_id = old.command_id OFFSET 0
        ) AS settled
        WHERE old.created_at < :cutoff LIMIT :limit
    ))
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
EVENT_ENDED = """
    CASE WHEN event.deleted OR event.archived THEN event.updated_at
         WHEN event.closes_at IS NOT NULL
         THEN greatest(event.closes_at, event.promote_until, event.cancel_until)
    END
"""
"""An event's end, null if it has none."""
# Deletions in the order of the index `command_deletion_idx`; each goes with the command that it is of.
_DELETIONS = text(f"""
    SELECT command.event_id, command.id, CAST(outcome.body ->> 'registrationId' AS uuid) AS registration_id
    FROM command
    JOIN outcome ON outcome.event_id = command.event_id AND outcome.command_id = command.id
    JOIN event ON event.id = command.event_id
    WHERE command.kind = 'delete_registration' AND command.accepted_at < :cutoff
      AND outcome.body ->> 'outcome' = 'deleted' AND {EVENT_ENDED} < :cutoff
    ORDER BY command.accepted_at LIMIT :limit
    FOR UPDATE OF command SKIP LOCKED
""")
# A registration's id begins with the time of the command that made it: the commands of that millisecond.
_MAKERS = text("""
    SELECT command.event_id, command.id
    FROM unnest(CAST(:event_ids AS uuid[]), CAST(:first AS uuid[]), CAST(:last AS uuid[]))
         AS made (event_id, first, last)
    CROSS JOIN LATERAL (
        SELECT event_id, id FROM command
        WHERE event_id = made.event_id AND id BETWEEN made.first AND made.last
          AND kind IN ('register', 'add_registration')
        OFFSET 0
    ) AS command
""")
_DELETE = text("""
    WITH old AS MATERIALIZED (
        SELECT * FROM unnest(CAST(:event_ids AS uuid[]), CAST(:ids AS uuid[])) AS old (event_id, id)
    ), released AS (
        DELETE FROM idempotency_key AS key USING old
        WHERE key.event_id = old.event_id AND key.command_id = old.id
    ), untold AS (
        DELETE FROM outcome USING old WHERE outcome.event_id = old.event_id AND outcome.command_id = old.id
    )
    DELETE FROM command USING old WHERE command.event_id = old.event_id AND command.id = old.id
""")
# A trouble that lasts is noted anew every second; a worker that was killed leaves its last notes behind.
_FORGET_TROUBLES = text("DELETE FROM trouble WHERE tried_at < now() - interval '1 day'")
_FORGET_API_KEYS = text("DELETE FROM api_key WHERE least(expires_at, revoked_at) < :cutoff")


@dataclass(kw_only=True, slots=True)
class Forgotten:
    """The numbers of what a run has forgotten.

    `commands` were refused or failed; `deletions` are of registrations, each with the command that made it.
    """

    keys: int = 0
    payloads: int = 0
    commands: int = 0
    deletions: int = 0


def tidy(database_url: str, days: int) -> Forgotten:
    """Forget what is older than `days` and settled: idempotency keys, payloads, refused and failed commands.

    Forget the commands of deleted registrations if their event ended before that. Forget API keys that ended
    before that, and the notes of troubles that are over, too.
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
        _forget_deletions(connection, cutoff, forgotten)
    return forgotten


def _forget_keys(connection: Connection, cutoff: datetime, forgotten: Forgotten) -> None:
    parameters = {"cutoff": cutoff, "limit": _ROWS_AT_ONCE}
    while rows := connection.execute(_FORGET_KEYS, parameters).rowcount:
        connection.commit()
        forgotten.keys += rows
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


def _forget_deletions(connection: Connection, cutoff: datetime, forgotten: Forgotten) -> None:
    """Delete the commands that deleted registrations of ended events, and those that had made them."""
    while deletions := connection.execute(_DELETIONS, {"cutoff": cutoff, "limit": _ROWS_AT_ONCE}).all():
        gone = {row.registration_id for row in deletions}
        spans = [ids.span(row.registration_id) for row in deletions]
        made = {
            "event_ids": arrays.uuids(row.event_id for row in deletions),
            "first": arrays.uuids(first for first, _ in spans),
            "last": arrays.uuids(last for _, last in spans),
        }
        makers = [row for row in connection.execute(_MAKERS, made) if ids.registration_id(row.id) in gone]
        old = {(row.event_id, row.id) for row in (*deletions, *makers)}
        parameters = {
            "event_ids": arrays.uuids(event_id for event_id, _ in old),
            "ids": arrays.uuids(id_ for _, id_ in old),
        }
        connection.execute(_DELETE, parameters)
        connection.commit()
        forgotten.deletions += len(deletions)
        time.sleep(_PAUSE_SECONDS)
