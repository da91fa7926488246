"""Which events have the same owner, so that one ring can wake it for all of them.

A ring costs its sender and its receiver about as much as deciding a few dozen commands, so a crowd that
is spread over very many events must not ring for each. What is known here may be a moment old; the worst
that comes of it is that a command waits for its owner's next tick.
"""

import asyncio
import time
from collections.abc import Collection
from uuid import UUID

import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from shared.postgres import locks

log = structlog.get_logger(__name__)

_KNOWN_FOR_SECONDS = 1.0
_READING_SECONDS_MAX = 0.1  # everybody's rings wait for it


class Owners:
    """The owners of events, read at most once a second, and only when several events ring at once."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._sessions: dict[int, int] = {}
        self._read_at = -_KNOWN_FOR_SECONDS

    async def together(self, event_ids: Collection[UUID]) -> list[list[UUID]]:
        """Return these events in groups of one owner; each event by itself whose owner is not known."""
        if len(event_ids) == 1:
            return [list(event_ids)]
        if time.monotonic() - self._read_at > _KNOWN_FOR_SECONDS:
            await self._read()
        groups: dict[int | UUID, list[UUID]] = {}
        for event_id in event_ids:
            groups.setdefault(self._sessions.get(locks.event_key(event_id), event_id), []).append(event_id)
        return list(groups.values())

    async def _read(self) -> None:
        self._read_at = time.monotonic()
        try:
            async with asyncio.timeout(_READING_SECONDS_MAX), self._engine.connect() as connection:
                self._sessions = await locks.owners(connection)
        except (SQLAlchemyError, OSError, TimeoutError) as error:  # what was known will do
            log.warning("owners_not_readable", error=repr(error))
