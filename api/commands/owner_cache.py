"""A cache of which events have the same owner, so that one message can wake it for all of them.

A message costs its sender and its receiver as much as deciding a few dozen commands, so commands of very many
events must not cause a message for each event. An entry may be a second old; the worst cost of a stale entry
is that a command waits for its owner's next tick.
"""

import asyncio
from collections.abc import Callable, Collection
from uuid import UUID

import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from shared.postgres import locks

log = structlog.get_logger(__name__)

_CACHE_SECONDS = 1.0
_READ_SECONDS_MAX = 0.1  # all wake messages wait for the read


class OwnerCache:
    """The owners of events, read at most once a second, and only when several events wake at once."""

    def __init__(self, engine: AsyncEngine, clock: Callable[[], float]) -> None:
        self._engine = engine
        self._clock = clock
        self._sessions: dict[int, int] = {}
        self._read_at = -_CACHE_SECONDS

    async def group_by_owner(self, event_ids: Collection[UUID]) -> list[list[UUID]]:
        """Return these events in groups of one owner; an event without a known owner is its own group."""
        if self._clock() - self._read_at >= _CACHE_SECONDS:
            await self._read()
        groups: dict[int | UUID, list[UUID]] = {}
        for event_id in event_ids:
            groups.setdefault(self._sessions.get(locks.event_key(event_id), event_id), []).append(event_id)
        return list(groups.values())

    async def _read(self) -> None:
        self._read_at = self._clock()
        try:
            async with asyncio.timeout(_READ_SECONDS_MAX), self._engine.connect() as connection:
                self._sessions = await locks.owners(connection)
        except (SQLAlchemyError, OSError, TimeoutError) as error:  # the cached owners are used on
            log.warning("owners_not_readable", error=repr(error))
