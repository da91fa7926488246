"""The backlog: the pending commands in the ledger."""

from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

from sqlalchemy import Connection, Row, text

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

# Outcomes of the last seconds would tell a rate at once, and have no index by event and time.
_LINE = text("""
    SELECT count(*) AS pending, count(*) FILTER (WHERE seq <= CAST(:mark AS bigint)) AS up_to_mark,
           coalesce(max(seq), 0) AS last
    FROM pending_command WHERE event_id = :event_id
""")

_BY_EVENT = text("""
    SELECT waiting.event_id AS id, coalesce(event.slug, waiting.event_id::text) AS slug, waiting.pending,
           extract(epoch FROM clock_timestamp() - command.accepted_at)::float8 AS oldest_seconds,
           event.id IS NULL AS is_gone
    FROM (SELECT event_id, count(*) AS pending, min(seq) AS seq FROM pending_command GROUP BY event_id)
         AS waiting
    LEFT JOIN event ON event.id = waiting.event_id
    JOIN pending_command AS oldest ON oldest.event_id = waiting.event_id AND oldest.seq = waiting.seq
    JOIN command ON command.event_id = oldest.event_id AND command.id = oldest.command_id
    ORDER BY oldest_seconds DESC
""")


_PENDING = text("SELECT count(*) FROM pending_command")
_OLDEST = text("""
    WITH RECURSIVE pending AS (
        (SELECT event_id, command_id FROM pending_command ORDER BY event_id, seq LIMIT 1)
        UNION ALL
        SELECT later.* FROM pending CROSS JOIN LATERAL (
            SELECT event_id, command_id FROM pending_command
            WHERE event_id > pending.event_id ORDER BY event_id, seq LIMIT 1
        ) AS later
    )
    SELECT pending.event_id, extract(epoch FROM clock_timestamp() - command.accepted_at)::float8 AS seconds
    FROM pending CROSS JOIN LATERAL (  -- a fence (decision 0014)
        SELECT accepted_at FROM command
        WHERE event_id = pending.event_id AND id = pending.command_id OFFSET 0
    ) AS command
    ORDER BY command.accepted_at LIMIT :limit
""")


class Line(NamedTuple):
    """An event's pending commands: their number, that of those up to a mark, and the last one's `seq`."""

    pending: int
    up_to_mark: int
    last: int


async def line(connection: "AsyncConnection", event_id: UUID, mark: int) -> Line:
    """Return the line of the event's pending commands; `mark` is a `seq`."""
    row = (await connection.execute(_LINE, {"event_id": event_id, "mark": mark})).one()
    return Line(*row)


def pending(connection: Connection) -> int:
    """Return the number of pending commands."""
    return int(connection.execute(_PENDING).scalar_one())


def oldest(connection: Connection, limit: int) -> list[tuple[UUID, float]]:
    """Return `(event_id, seconds)` of the events with the oldest first pending commands."""
    rows = connection.execute(_OLDEST, {"limit": limit})
    return [(row.event_id, max(row.seconds, 0)) for row in rows]


def by_event(connection: Connection) -> list[Row[tuple[UUID, str, int, float, bool]]]:
    """Return `(id, slug, pending, oldest_seconds, is_gone)` of events with pending commands, oldest first.

    An event `is_gone` if its row was deleted by hand; its id stands for its slug.
    """
    return list(connection.execute(_BY_EVENT))
