"""The queues to which wake messages go: few messages, and each to a queue that the events' owner consumes.

A message costs its sender and its receiver as much as deciding a few dozen commands, so events of one owner
share a message. It goes to the queue of an event that this process has woken lately, since the owner consumes
the queues of its active events, else to the owner's own queue. The owners are read in the background, once a
second, so that no message waits for the database. A stale owner costs the command the wait for a tick.
"""

import asyncio
import math
from collections.abc import Callable, Collection
from uuid import UUID

import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from api.tasks import SingleTask
from shared.messaging import queues
from shared.postgres import locks

log = structlog.get_logger(__name__)

_CACHE_SECONDS = 1.0
_UNOWNED_SECONDS = 0.1
"""The pause before the next read while buckets have no owner, because workers start or divide anew."""
_READ_SECONDS_MAX = 2


class WakeAddresses:
    """The owner of each bucket of events, and the events that this process has woken lately."""

    def __init__(self, engine: AsyncEngine, clock: Callable[[], float]) -> None:
        self._engine = engine
        self._clock = clock
        self._owners: dict[int, int] = {}
        self._woken_at: dict[UUID, float] = {}
        self._reader = SingleTask(self._keep_reading)

    def start(self) -> None:
        """Read the owners from now on."""
        self._reader.ensure_running()

    async def close(self) -> None:
        """Stop reading the owners."""
        await self._reader.cancel()

    def address(self, event_ids: Collection[UUID]) -> list[tuple[str, list[UUID]]]:
        """Return the messages that wake these events, each a queue and the events of one owner.

        An event without a known owner gets a message of its own, to its own queue.
        """
        now = self._clock()
        groups: dict[int | UUID, list[UUID]] = {}
        for event_id in event_ids:
            groups.setdefault(self._owners.get(locks.bucket(event_id), event_id), []).append(event_id)
        messages = []
        for owner, group in groups.items():
            since = now - queues.ADDRESSED_SECONDS
            consumed = [event_id for event_id in group if self._woken_at.get(event_id, -math.inf) > since]
            if isinstance(owner, UUID):
                queue = queues.event_queue_name(owner)
            else:
                queue = queues.event_queue_name(consumed[0]) if consumed else queues.owner_queue_name(owner)
                self._note_woken(group, now)
            messages.append((queue, group))
        return messages

    async def read_owners(self) -> None:
        """Read the owners once; they stay as they are if the database cannot be read."""
        try:
            async with asyncio.timeout(_READ_SECONDS_MAX), self._engine.connect() as connection:
                self._owners = await locks.owners(connection)
        except (SQLAlchemyError, OSError, TimeoutError) as error:
            log.warning("owners_not_readable", error=repr(error))

    async def _keep_reading(self) -> None:
        while True:
            await self.read_owners()
            await asyncio.sleep(_CACHE_SECONDS if len(self._owners) == locks.BUCKETS else _UNOWNED_SECONDS)

    def _note_woken(self, event_ids: Collection[UUID], now: float) -> None:
        """Remember the events, as many as an owner consumes the queues of."""
        if len(self._woken_at) + len(event_ids) > queues.CONSUMED_EVENTS_MAX:
            since = now - queues.ADDRESSED_SECONDS
            self._woken_at = {id_: at for id_, at in self._woken_at.items() if at > since}
        for event_id in event_ids:
            if event_id in self._woken_at or len(self._woken_at) < queues.CONSUMED_EVENTS_MAX:
                self._woken_at[event_id] = now
