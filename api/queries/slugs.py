"""The events by their slugs, as an API process remembers them.

A slug that an event gives up is forgotten well before another event can have it (decision 0053).
"""

import asyncio
from uuid import UUID

import structlog
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from api.queries import events
from api.queries.reader import Reader
from api.tasks import BatchLoader, SingleTask
from shared.postgres import tables

log = structlog.get_logger(__name__)

_REMEMBERED_MAX = 10_000
_REMEMBERED_SECONDS = 60
_PER_READ_MAX = 500
_LOOK_SECONDS = tables.SLUG_HELD_SECONDS / 4
_SEEN_SECONDS = 5
"""The time for which a slug that was given up is looked for, and forgotten again."""
_GIVEN_UP = text("""
    SELECT unnest(former_slugs) AS slug FROM event
    WHERE slug_released_at > now() - make_interval(secs => :seconds)
""")


class Slugs:
    """Finds events by their slugs; `event_ids` has those that were found lately."""

    def __init__(self, engine: AsyncEngine, reader: Reader) -> None:
        self.event_ids: dict[str, UUID] = {}
        self._engine = engine
        self._loader: BatchLoader[str, UUID | None] = BatchLoader(
            lambda slugs: reader.read(lambda connection: events.event_ids(connection, slugs)), _PER_READ_MAX
        )
        self._watch = SingleTask(self._forget)

    async def find(self, slug: str) -> UUID | None:
        """Return the id of the event with this slug and remember it; None if there is none."""
        id_ = await self._loader.load(slug)  # a crowd that comes to a new event shares the read
        if id_ is not None:
            if len(self.event_ids) >= _REMEMBERED_MAX:
                self.event_ids.clear()
            self.event_ids[slug] = id_
            self._watch.ensure_running()
        return id_

    async def close(self) -> None:
        """Stop looking."""
        await self._watch.cancel()

    async def _forget(self) -> None:
        """Forget slugs that were given up, and after a minute all, so that an idle process looks for none.

        While the database does not answer nothing is forgotten: requests go on with what is remembered.
        """
        clock = asyncio.get_running_loop().time
        began = looked_at = clock()
        while self.event_ids:
            await asyncio.sleep(_LOOK_SECONDS)
            now = clock()
            try:
                async with self._engine.connect() as connection:
                    given_up = (
                        (await connection.execute(_GIVEN_UP, {"seconds": _SEEN_SECONDS})).scalars().all()
                    )
            except (SQLAlchemyError, OSError) as error:
                log.warning("slugs_not_readable", error=error)
                continue
            for slug in given_up:
                self.event_ids.pop(slug, None)
            if now - began > _REMEMBERED_SECONDS or now - looked_at > _SEEN_SECONDS - 1:
                self.event_ids.clear()
            looked_at = now
