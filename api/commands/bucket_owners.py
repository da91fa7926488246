"""The owners of the buckets of events, read in the background once a second.

So no wake message waits for the database. A stale owner costs the command the wait for a tick.
"""

import asyncio

import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from api.tasks import SingleTask
from shared.postgres import locks

log = structlog.get_logger(__name__)

_CACHE_SECONDS = 1.0
_UNOWNED_SECONDS = 0.1
"""The pause before the next read while buckets have no owner, because workers start or divide anew."""
_READ_SECONDS_MAX = 2


class BucketOwners:
    """The worker that owns each bucket: `numbers` has the workers' numbers by bucket, as last read."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.numbers: dict[int, int] = {}
        self.task = SingleTask(self._keep_reading)
        self._engine = engine

    async def read(self) -> None:
        """Read the owners once; they stay as they are if the database cannot be read."""
        try:
            async with asyncio.timeout(_READ_SECONDS_MAX), self._engine.connect() as connection:
                self.numbers = await locks.owners(connection)
        except (SQLAlchemyError, OSError, TimeoutError) as error:
            log.warning("owners_not_readable", error=repr(error))

    async def _keep_reading(self) -> None:
        while True:
            await self.read()
            await asyncio.sleep(_CACHE_SECONDS if len(self.numbers) == locks.BUCKETS else _UNOWNED_SECONDS)
