"""Deletes idempotency keys that are too old for a retry, API keys that ended long ago, and old troubles."""

from sqlalchemy import text

from shared.postgres import connections

_ROWS_AT_ONCE = 10_000

_FORGET = text("""
    DELETE FROM idempotency_key
    WHERE (event_id, key) IN (
        SELECT event_id, key FROM idempotency_key
        WHERE created_at < now() - make_interval(days => :days)
          AND EXISTS (SELECT FROM outcome
                      WHERE outcome.event_id = idempotency_key.event_id
                        AND outcome.command_id = idempotency_key.command_id)
        LIMIT :limit
    )
""")


# A trouble that lasts is noted anew every second; a worker that was killed leaves its last notes behind.
_FORGET_TROUBLES = text("DELETE FROM trouble WHERE tried_at < now() - interval '1 day'")


_FORGET_API_KEYS = text("""
    DELETE FROM api_key WHERE least(expires_at, revoked_at) < now() - make_interval(days => :days)
""")


def forget_keys(database_url: str, days: int) -> int:
    """Delete the idempotency keys of settled commands that are older than `days`, and return their number.

    Delete the API keys that ended before that, and the notes of troubles that are over, too.

    The transactions are short, so this can run during a drop. After an interruption the next run goes on.
    """
    engine = connections.operator_engine(database_url, writes=True)
    with engine.begin() as connection:
        connection.execute(_FORGET_TROUBLES)
        connection.execute(_FORGET_API_KEYS, {"days": days})
    forgotten = 0
    while True:
        with engine.begin() as connection:
            rows = connection.execute(_FORGET, {"days": days, "limit": _ROWS_AT_ONCE}).rowcount
        forgotten += rows
        if rows < _ROWS_AT_ONCE:
            return forgotten
