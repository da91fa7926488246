"""The sessions that keep the service from its tables, or from rows of them.

A worker that waits for such a lock gives up after a moment and tries again, so PostgreSQL shows no waiter.
"""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, text

from shared.postgres import connections, tables

WAIT_SECONDS_MAX = 5
"""The time that a command of the operator waits for a locked table."""

# Locks that no statement of the service conflicts with are left out: those of readers, VACUUM and ANALYZE. A
# transaction that has locked or changed a row keeps the table's mode of that until its end.
_READ = text("""
    SELECT relation.relname AS table, held.mode LIKE 'Row%' AS of_rows, held.pid,
           activity.application_name AS application, activity.state, prepared.gid,
           extract(epoch FROM clock_timestamp()
                              - coalesce(activity.xact_start, prepared.prepared))::float8 AS open_seconds
    FROM pg_locks AS held
    JOIN pg_class AS relation ON relation.oid = held.relation
    LEFT JOIN pg_stat_activity AS activity ON activity.pid = held.pid
    LEFT JOIN pg_prepared_xacts AS prepared ON held.virtualtransaction = '-1/' || prepared.transaction::text
    WHERE held.locktype = 'relation' AND held.granted AND held.pid IS DISTINCT FROM pg_backend_pid()
      AND held.database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND relation.relnamespace = CAST(current_schema() AS regnamespace)
      AND relation.relname = ANY(CAST(:tables AS text[]))
      AND held.mode NOT IN ('AccessShareLock', 'ShareUpdateExclusiveLock')
      AND coalesce(activity.application_name, '') NOT LIKE :workers
    ORDER BY of_rows, relation.relname <> 'registration', open_seconds DESC
""")


@dataclass(frozen=True, kw_only=True, slots=True)
class TableLock:
    """A lock that a session, or a prepared transaction, has on a table, or on some `of_rows`."""

    table: str
    of_rows: bool
    holder: str
    open_seconds: float | None

    @property
    def sentence(self) -> str:
        """The holder, what it has locked, and the age of its transaction."""
        what = f"rows of the table {self.table}" if self.of_rows else f"the table {self.table}"
        lasts = "" if self.open_seconds is None else f", in a transaction of {self.open_seconds:.0f} s"
        return f"{self.holder} has locked {what}{lasts}"


def read(connection: Connection) -> list[TableLock]:
    """Return the locks of all sessions but those of workers: of whole tables first, the longest first."""
    parameters = {"tables": list(tables.metadata.tables), "workers": f"{connections.WORKER_APPLICATION}%"}
    return [
        TableLock(
            table=row.table,
            of_rows=row.of_rows,
            holder=holder(row),
            open_seconds=row.open_seconds and round(row.open_seconds, 3),
        )
        for row in connection.execute(_READ, parameters)
    ]


def holder(row: Row[Any]) -> str:
    """Return the name of the session, or of the prepared transaction, that holds a lock."""
    if not row.pid:
        return f"prepared transaction {row.gid}"
    return f"process {row.pid} ({row.application or 'unnamed'}, {row.state or 'state not told'})"
