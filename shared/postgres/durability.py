"""Confirmed writes: all that the service tells survives a failover to a synchronous standby.

With `synchronous_standby_names` a commit waits until a standby has it, and is visible only then. A wait that
is cut off (its session is cancelled or ended, its server restarts) leaves a transaction that is visible on
the primary alone, and that a failover undoes. So the service tells nothing without a confirmed write:

1. A confirmed write is a commit that wrote something, waited, and came without a notice 01000 or 57P01.
2. It confirms all that was visible on its server when it began, because the log of a server is one line.
   Before it tells of what it read, a reader makes sure that the write went to the server of the read.
3. An acknowledgement, an outcome or a new event is told after a confirmed write that began once it was
   visible. Usually that is the commit itself; after a read it is `BoundedSession.confirm`, shared by all
   that ask.
4. Without a standby nothing has to be confirmed, and nothing is written for it.

No time-out of the server ends the wait of a commit, so each caller bounds it by its own deadline.
"""

from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.rows import TupleRow
from sqlalchemy import Connection, text

_CUT_OFF = {"01000", "57P01"}

_SERVER = "pg_postmaster_start_time()::text"
_STANDBY_IS_SET = "current_setting('synchronous_standby_names') <> ''"
TO_CONFIRM = f"CASE WHEN {_STANDBY_IS_SET} THEN {{}}.xmin::text || '@' || {_SERVER} END"
"""The SQL of what a reader must have confirmed before it tells of a row: the transaction that wrote the row,
and the server. It is null without a standby. No later transaction may write the row."""
WAIT_FOR_NO_STANDBY = text("SET LOCAL synchronous_commit = local")
SERVER = text(f"SELECT {_SERVER}")

CONFIRM = f"""
    SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint,
           CASE WHEN {_STANDBY_IS_SET} THEN pg_logical_emit_message(true, 'admitone', '') END
""".encode()
"""Writes something, and returns the id below which all transactions had ended before."""
_WAITS = b"SELECT FROM pg_stat_activity WHERE pid = %s AND wait_event = 'SyncRep'"

_READ = text(f"""
    SELECT current_setting('fsync')::boolean AS fsync,
           current_setting('full_page_writes')::boolean AS full_page_writes,
           current_setting('synchronous_commit') AS synchronous_commit,
           {_STANDBY_IS_SET} AS synchronous_standby,
           (SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep') AS sessions_waiting
""")


class NotConfirmed(psycopg.OperationalError):
    """The wait for the standby was cut off: the transaction is committed, perhaps on this server only."""


def watch_commits(
    session: psycopg.Connection[Any] | psycopg.AsyncConnection[Any],
) -> list[psycopg.errors.Diagnostic]:
    """Return a list that gets a notice when a commit of the session does not wait for its standby to the end.

    Clear it before a commit that is to be confirmed.
    """
    cut_off: list[psycopg.errors.Diagnostic] = []

    def note(notice: psycopg.errors.Diagnostic) -> None:
        if notice.sqlstate in _CUT_OFF:
            cut_off.append(notice)

    session.add_notice_handler(note)
    return cut_off


def is_below(xid: int, limit: int) -> bool:
    """Return True if the 32-bit transaction id is before the 64-bit `limit`; nothing is before 0."""
    return limit > 0 and (xid - limit) % 2**32 >= 2**31


async def server_of(session: psycopg.AsyncConnection[TupleRow]) -> str:
    """Return the name of the session's server, which changes with each start."""
    row = await (await session.execute(str(SERVER).encode())).fetchone()
    assert row is not None, "the statement returns one row"
    return str(row[0])


async def waits_for_standby(session: psycopg.AsyncConnection[TupleRow], pid: int) -> bool:
    """Return True if the server's process `pid` waits for a synchronous standby."""
    return (await session.execute(_WAITS, [pid])).rowcount > 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Durability:
    """The settings that say what a commit survives, and the number of sessions that wait for a standby."""

    fsync: bool
    full_page_writes: bool
    synchronous_commit: str
    synchronous_standby: bool
    sessions_waiting: int

    @property
    def warnings(self) -> list[str]:
        """A sentence for each setting by which an answered command can be lost."""
        risks = {
            "fsync is off: a crash of the machine can destroy the database": not self.fsync,
            "full_page_writes is off: a crash of the machine can destroy the database": (
                not self.full_page_writes
            ),
            "synchronous_commit is off: a crash can lose commands that were answered": (
                self.synchronous_commit == "off"
            ),
            "synchronous_commit is local: commits do not wait for the synchronous standby": (
                self.synchronous_standby and self.synchronous_commit == "local"
            ),
        }
        return [risk for risk, present in risks.items() if present]


def read(connection: Connection) -> Durability:
    """Return the durability of the server's commits, as they are of this connection's role."""
    return Durability(**connection.execute(_READ).mappings().one())
