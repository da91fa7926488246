"""Deletes idempotency keys that are too old for a retry; their commands stay."""

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


def forget_keys(database_url: str, days: int) -> int:
    """Delete the keys of settled commands that are older than `days`; return their number.

    The transactions are short, so this can run during a drop. After an interruption the next run goes on.
    """
    engine = connections.operator_engine(database_url, writes=True)
    forgotten = 0
    while True:
        with engine.begin() as connection:
            rows = connection.execute(_FORGET, {"days": days, "limit": _ROWS_AT_ONCE}).rowcount
        forgotten += rows
        if rows < _ROWS_AT_ONCE:
            return forgotten
