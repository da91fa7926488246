"""Old snapshots: the sessions and others for which PostgreSQL keeps rows that were deleted since.

Deciding deletes a row of `pending_command` for each command. While an old snapshot is kept, these rows stay,
and each read of a backlog passes them: deciding gets slower with every command, and does not stop.
"""

from dataclasses import dataclass

from sqlalchemy import Connection, text

OLD_SECONDS = 60
"""The age from which a snapshot counts as old."""
OLD_TRANSACTIONS = 10_000
"""The same for a snapshot with an age that PostgreSQL does not tell, in transactions that began since."""

# A transaction that wrote keeps rows like a snapshot does. VACUUM names a snapshot and keeps no row for it.
_READ = text("""
    SELECT pid, name, state, seconds, transactions
    FROM (
        SELECT pid, coalesce(nullif(application_name, ''), 'unnamed') AS name, state,
               extract(epoch FROM clock_timestamp() - xact_start)::float8 AS seconds,
               greatest(age(backend_xmin), age(backend_xid)) AS transactions
        FROM pg_stat_activity
        WHERE pid <> pg_backend_pid() AND (datid IS NULL OR datname = current_database())
          AND pid NOT IN (SELECT pid FROM pg_stat_progress_vacuum)
        UNION ALL
        SELECT NULL, 'prepared transaction ' || gid, NULL,
               extract(epoch FROM clock_timestamp() - prepared)::float8, age(transaction)
        FROM pg_prepared_xacts WHERE database = current_database()
        UNION ALL
        SELECT NULL, 'replication slot ' || slot_name, NULL, NULL, age(xmin) FROM pg_replication_slots
    ) AS snapshot
    WHERE transactions IS NOT NULL
    ORDER BY transactions DESC, seconds DESC NULLS LAST
""")


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """A snapshot that is kept now; `transactions` is how many began since.

    `pid` is None for a prepared transaction and a replication slot. `state` and `seconds`, the age, are None
    where PostgreSQL does not tell them: of a slot, of a standby, and to a role without `pg_read_all_stats`.
    """

    pid: int | None
    name: str
    state: str | None
    seconds: float | None
    transactions: int

    @property
    def is_old(self) -> bool:
        """Return True if rows were kept for it for long."""
        if self.seconds is None:
            return self.transactions >= OLD_TRANSACTIONS
        return self.seconds >= OLD_SECONDS


def read(connection: Connection) -> list[Snapshot]:
    """Return all snapshots of this database but the reader's own, the oldest first."""
    return [Snapshot(**row) for row in connection.execute(_READ).mappings()]
