"""The events whose pending commands wait too long, and the reasons."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, text
from sqlalchemy.exc import DBAPIError

from ops.maintenance import table_locks
from ops.maintenance.table_locks import TableLock
from shared.domain import commands
from shared.postgres import arrays, connections

DELAYED_SECONDS = 5
"""The age of a pending command from which its event counts as delayed."""
_NOTED_LATELY_SECONDS = 15
_RATE_SECONDS = 10
_LOCKED = "55P03"
_EVENTS_MAX = 100
"""The reasons are looked for of so many events at most, the longest delayed."""

_SETTLED_LATELY = text(f"""
    SELECT event_id, count(*)::float8 / {_RATE_SECONDS} AS per_second FROM outcome
    WHERE event_id = ANY(CAST(:event_ids AS uuid[]))
      AND settled_at > now() - interval '{_RATE_SECONDS} seconds'
    GROUP BY event_id
""")

# A locked or changed row names its transaction in xmax, and a running transaction holds a lock on its own
# number, so the holder is found also if no session waits for it. A prepared transaction has no process.
_ROW_HOLDERS = text(
    """
    SELECT event.id, held.pid, activity.application_name AS application, activity.state, prepared.gid,
           extract(epoch FROM clock_timestamp()
                              - coalesce(activity.query_start, prepared.prepared))::float8 AS query_seconds,
           extract(epoch FROM clock_timestamp()
                              - coalesce(activity.xact_start, prepared.prepared))::float8 AS open_seconds
    FROM event
    JOIN pg_locks AS held ON held.locktype = 'transactionid' AND held.granted
                         AND held.transactionid = ANY({transactions})
    LEFT JOIN pg_stat_activity AS activity ON activity.pid = held.pid
    LEFT JOIN pg_prepared_xacts AS prepared ON prepared.transaction = held.transactionid
    WHERE event.id = ANY(CAST(:event_ids AS uuid[]))
    ORDER BY open_seconds DESC
""".replace("{transactions}", "ARRAY[event.xmax]")
)
_ROW_SHARERS = text(
    _ROW_HOLDERS.text.replace(
        "ARRAY[event.xmax]", "ARRAY(SELECT xid FROM pg_get_multixact_members(event.xmax))"
    )
)

_TROUBLES = text(f"""
    SELECT trouble.event_id AS id, trouble.command_id, trouble.error, trouble.tries,
           extract(epoch FROM clock_timestamp() - trouble.since)::float8 AS since_seconds
    FROM trouble
    WHERE trouble.event_id = ANY(CAST(:event_ids AS uuid[]))
      AND (EXISTS (SELECT FROM pending_command AS pending
                   WHERE pending.event_id = trouble.event_id AND pending.command_id = trouble.command_id)
           OR trouble.command_id IS NULL
              AND trouble.tried_at > now() - interval '{_NOTED_LATELY_SECONDS} seconds')
    ORDER BY trouble.since
""")

# What no worker of this version can go on from, although it tries at each tick.
_STANDSTILLS = text("""
    SELECT event.id,
           event.audit_seq > 0 AND NOT EXISTS (
               SELECT FROM audit_entry WHERE event_id = event.id AND number = event.audit_seq
           ) AS is_trail_cut_off,
           EXISTS (
               SELECT FROM audit_entry WHERE event_id = event.id AND number = event.audit_seq + 1
           ) AS is_behind_its_trail,
           (SELECT version FROM command WHERE event_id = event.id AND id = (  -- by key (decision 0014)
               SELECT command_id FROM pending_command WHERE event_id = event.id ORDER BY seq LIMIT 1
           )) > :version AS is_of_a_newer_version
    FROM event WHERE event.id = ANY(CAST(:event_ids AS uuid[]))
""")
_CUT_OFF = "its audit trail is cut off: look at `audit check`"
_BEHIND = "its `audit_seq` is behind its audit trail: run `verify --heal`"
_GONE = "its row was deleted: restore the row, or delete the commands"
_NEWER = "its next command needs a worker of a newer version"


@dataclass(frozen=True, kw_only=True, slots=True)
class LockHolder:
    """A session, or a prepared transaction, that keeps an event's row; ages in seconds."""

    pid: int | None
    application: str | None
    state: str | None
    query_seconds: float | None
    open_seconds: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Delay:
    """An event whose oldest pending command is too old, and the reason."""

    event: str
    pending: int
    oldest_seconds: float
    reason: str
    holder: LockHolder | None = None


def read(
    connection: Connection,
    waiting: Sequence[Row[tuple[UUID, str, int, float, bool]]],
    is_owned: Callable[[UUID], bool],
    locked: Sequence[TableLock],
    *,
    workers: int,
) -> list[Delay]:
    """Return the delayed events among those that are `waiting`, the longest delay first.

    `waiting` are the rows of `backlog.by_event`, `locked` those of `table_locks.read`.
    """
    rows = [row for row in waiting if row.oldest_seconds > DELAYED_SECONDS][:_EVENTS_MAX]
    if not rows:
        return []
    locked = [lock for lock in locked if not lock.of_rows or (lock.open_seconds or 0) > DELAYED_SECONDS]
    parameters = {"event_ids": arrays.uuids(row.id for row in rows)}
    rates = {row.event_id: row.per_second for row in connection.execute(_SETTLED_LATELY, parameters)}
    holders = _by_event(connection.execute(_ROW_HOLDERS, parameters).all())
    holders = _by_event(_sharers(connection, parameters)) | holders
    standstills = {row.id: _GONE for row in rows if row.is_gone}
    standstills |= {
        row.id: _CUT_OFF if row.is_trail_cut_off else _BEHIND if row.is_behind_its_trail else _NEWER
        for row in connection.execute(_STANDSTILLS, {**parameters, "version": commands.VERSION})
        if row.is_trail_cut_off or row.is_behind_its_trail or row.is_of_a_newer_version
    }
    troubles: dict[UUID, list[Row[Any]]] = {}
    for trouble in connection.execute(_TROUBLES, parameters):
        troubles.setdefault(trouble.id, []).append(trouble)
    return [
        Delay(
            event=row.slug,
            pending=row.pending,
            oldest_seconds=round(row.oldest_seconds, 3),
            reason=_reason(
                holders.get(row.id),
                troubles.get(row.id, []),
                locked,
                standstills.get(row.id),
                is_owned=is_owned(row.id),
                workers=workers,
                per_second=rates.get(row.id, 0),
            ),
            holder=_holder(holders.get(row.id)),
        )
        for row in rows
    ]


def _sharers(connection: Connection, parameters: dict[str, arrays.Array]) -> list[Row[Any]]:
    """Return the holders of rows that several transactions keep together."""
    try:
        with connection.begin_nested():
            return list(connection.execute(_ROW_SHARERS, parameters).all())
    except DBAPIError:  # xmax is a transaction and no group of transactions
        return []


def _by_event(rows: Sequence[Row[Any]]) -> dict[UUID, Row[Any]]:
    """Return each event's holder; of several the one whose transaction is the oldest."""
    return {row.id: row for row in reversed(rows) if not _is_owner_at_work(row)}


def _is_owner_at_work(row: Row[Any]) -> bool:
    name = str(row.application or "")
    return name.startswith(connections.WORKER_APPLICATION) and (row.open_seconds or 0) < DELAYED_SECONDS


def _holder(row: Row[Any] | None) -> LockHolder | None:
    if row is None:
        return None
    return LockHolder(
        pid=row.pid,
        application=row.application or (row.gid and f"prepared transaction {row.gid}"),
        state=row.state,
        query_seconds=row.query_seconds and round(row.query_seconds, 3),
        open_seconds=row.open_seconds and round(row.open_seconds, 3),
    )


def _reason(  # noqa: PLR0913 - one parameter for each kind of reason
    holder: Row[Any] | None,
    troubles: list[Row[Any]],
    locked: Sequence[TableLock],
    standstill: str | None,
    *,
    is_owned: bool,
    workers: int,
    per_second: float,
) -> str:
    """Return the first reason that applies."""
    if not workers:
        return "no worker runs"
    if holder is not None:
        lasted = "" if holder.open_seconds is None else f" for {holder.open_seconds:.0f} s"
        return f"{table_locks.holder(holder)} has locked the event's row{lasted}"
    if locked and not locked[0].of_rows:
        return locked[0].sentence
    if not is_owned:
        return "no worker owns the event"
    if standstill is not None:
        return standstill
    if troubles:
        first = troubles[0]
        what = "the event cannot be applied" if first.command_id is None else f"{len(troubles)} set aside"
        by = f", perhaps because {locked[0].sentence}" if locked and first.error.startswith(_LOCKED) else ""
        return f"{what}: {first.error}{by}; tried {first.tries} times in {first.since_seconds:.0f} s"
    if per_second:
        return f"backlog: {per_second:.0f} commands/s are settled"
    return "unknown: look for the event's id in its owner's log"
