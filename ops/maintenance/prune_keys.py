"""Deletes idempotency keys that are too old for a retry; their commands stay."""

from sqlalchemy import text

from shared.postgres import connections

_ROWS_AT_ONCE = 10_000

_FORGET = text("""
    UPDATE command SET idempotency_key = NULL, fingerprint = NULL
    WHERE (event_id, id) IN (
        SELECT event_id, id FROM command
        WHERE idempotency_key IS NOT NULL AND settled_at < now() - make_interval(days => :days)
        LIMIT :limit
    )
""")


def forget_keys(database_url: str, days: int) -> int:
    """Delete the keys of commands settled more than `days` ago; return their number.

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
