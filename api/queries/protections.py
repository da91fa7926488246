"""The protection of events from anonymous clients: bounds that hold at the edge, and in no decision.

A process knows all protections, and reads those that changed once a second while registrations come
(decision 0070). A read that takes long delays no registration: it goes by the protections that are known.
"""

import asyncio
from collections.abc import Sequence
from time import monotonic
from uuid import UUID

import msgspec
import structlog
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from api.edge.schemas_admin import Protection
from api.queries.reader import Reader
from api.tasks import BatchLoader

log = structlog.get_logger(__name__)

_FRESH_SECONDS = 1
_WAIT_SECONDS_MAX = 0.25
_EVER_SECONDS = 1e9
"""The time before the first read, in which any protection may have changed."""
_ASKED_PER_READ_MAX = 100_000
_COMMIT_SECONDS_MAX = 300
"""The time within which a change that was begun is committed, and seen."""

_RECENTLY_CHANGED = text("""
    SELECT event_id, spots_per_address, challenge FROM event_protection
    WHERE changed_at > now() - make_interval(secs => :seconds)
""")
_READ = text("""
    SELECT protection.spots_per_address, coalesce(protection.challenge, false) AS challenge
    FROM (SELECT deleted FROM event WHERE id = :event_id OFFSET 0) AS event  -- fences (decision 0014)
    LEFT JOIN (SELECT * FROM event_protection WHERE event_id = :event_id OFFSET 0) AS protection ON true
    WHERE NOT event.deleted
""")
_CHANGE = text("""
    INSERT INTO event_protection (event_id, spots_per_address, challenge, changed_by, changed_at)
    SELECT id, CAST(:spots_per_address AS integer), :challenge, :actor, clock_timestamp()
    FROM event WHERE id = :event_id AND NOT deleted
    ON CONFLICT (event_id) DO UPDATE
    SET spots_per_address = excluded.spots_per_address, challenge = excluded.challenge,
        changed_by = excluded.changed_by, changed_at = excluded.changed_at
    RETURNING event_id
""")


class Protections:
    """The events with a protection: as of at most a second ago until the time `fresh_until`.

    While the database does not answer in time they are as of the last read.
    """

    def __init__(self, reader: Reader) -> None:
        self.of_events: dict[UUID, Protection] = {}
        self.fresh_until = 0.0
        self._reader = reader
        self._read_at: float | None = None
        self._loader: BatchLoader[None, None] = BatchLoader(self._refresh, _ASKED_PER_READ_MAX)

    async def refresh(self) -> None:
        """Read what has changed, or go on with what is known if the read takes long or fails.

        All that ask at one time share the read, which goes on if it takes long. Raises the error of a read
        only if none has succeeded before.
        """
        wait_seconds = None if self._read_at is None else _WAIT_SECONDS_MAX
        try:
            async with asyncio.timeout(wait_seconds):
                await self._loader.load(None)
        except (SQLAlchemyError, OSError) as error:  # a time-out is an OSError
            if self._read_at is None:
                raise
            if monotonic() >= self.fresh_until:  # the first of those that asked at one time
                self.fresh_until = monotonic() + _FRESH_SECONDS
                log.warning("protections_not_readable", error=error)

    async def _refresh(self, questions: Sequence[None]) -> Sequence[None]:
        began = monotonic()
        if began >= self.fresh_until:
            known_for = _EVER_SECONDS if self._read_at is None else began - self._read_at
            seconds = known_for + _COMMIT_SECONDS_MAX
            for event_id, protection in await self._reader.read(
                lambda connection: _recently_changed(connection, seconds)
            ):
                if protection.is_on:
                    self.of_events[event_id] = protection
                else:
                    self.of_events.pop(event_id, None)
            self._read_at, self.fresh_until = began, began + _FRESH_SECONDS
        return questions


async def _recently_changed(connection: AsyncConnection, seconds: float) -> list[tuple[UUID, Protection]]:
    rows = await connection.execute(_RECENTLY_CHANGED, {"seconds": seconds})
    return [
        (row.event_id, Protection(spots_per_address=row.spots_per_address, challenge=row.challenge))
        for row in rows
    ]


async def protection(connection: AsyncConnection, event_id: UUID) -> Protection | None:
    """Return the protection of an event, None if there is no such event."""
    row = (await connection.execute(_READ, {"event_id": event_id})).mappings().one_or_none()
    return None if row is None else Protection(**row)


async def change(connection: AsyncConnection, event_id: UUID, new: Protection, actor: str) -> bool:
    """Give an event this protection; return False if there is no such event."""
    parameters = {"event_id": event_id, "actor": actor, **msgspec.structs.asdict(new)}
    return (await connection.execute(_CHANGE, parameters)).one_or_none() is not None
