"""The backlog: the pending commands in the ledger, and the rate at which they are settled."""

from collections.abc import Iterable
from uuid import UUID

from sqlalchemy import Connection, Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.postgres import arrays

_AHEAD = text("""
    WITH pending AS (
        SELECT command_id AS id, row_number() OVER (PARTITION BY event_id ORDER BY seq) - 1 AS ahead
        FROM pending_command
        WHERE event_id = ANY(CAST(:event_ids AS uuid[]))
    )
    SELECT pending.id, pending.ahead
    FROM pending WHERE id = ANY(CAST(:ids AS uuid[]))
""")

_RATE_SECONDS = 10
_SETTLED_LATELY = text(f"""
    SELECT count(*) FROM outcome
    WHERE event_id = :event_id AND settled_at > now() - interval '{_RATE_SECONDS} seconds'
""")

_BY_EVENT = text("""
    SELECT event.id, event.slug, waiting.pending,
           extract(epoch FROM clock_timestamp() - command.accepted_at)::float8 AS oldest_seconds
    FROM (SELECT event_id, count(*) AS pending, min(seq) AS seq FROM pending_command GROUP BY event_id)
         AS waiting
    JOIN event ON event.id = waiting.event_id
    JOIN pending_command AS oldest ON oldest.event_id = waiting.event_id AND oldest.seq = waiting.seq
    JOIN command ON command.event_id = oldest.event_id AND command.id = oldest.command_id
    ORDER BY oldest_seconds DESC
""")


async def ahead(connection: AsyncConnection, commands: Iterable[tuple[UUID, UUID]]) -> dict[UUID, int]:
    """Return the number of commands before each pending command of these `(event_id, command_id)`."""
    pairs = list(commands)
    parameters = {
        "event_ids": arrays.uuids({event_id for event_id, _ in pairs}),
        "ids": arrays.uuids(id_ for _, id_ in pairs),
    }
    return {row.id: row.ahead for row in await connection.execute(_AHEAD, parameters)}


async def settled_per_second(connection: AsyncConnection, event_id: UUID) -> float:
    """Return the rate at which the event's commands were settled in the last `_RATE_SECONDS`."""
    result = await connection.execute(_SETTLED_LATELY, {"event_id": event_id})
    return int(result.scalar_one()) / _RATE_SECONDS


def by_event(connection: Connection) -> list[Row[tuple[UUID, str, int, float]]]:
    """Return `(id, slug, pending, oldest_seconds)` of every event with pending commands, oldest first."""
    return list(connection.execute(_BY_EVENT))
