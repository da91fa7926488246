"""Bounds the pending commands, of each event and in all, so that an overload ends when its cause does.

Commands are accepted faster than they are decided. Without a bound a crowd beyond the sustainable rate would
make each request wait longer and longer; with it the service goes on deciding at its full rate, and answers
the others that they should ask again.
"""

import asyncio
from collections import Counter
from uuid import UUID

import structlog
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from api.commands.intake import IntakeFull
from api.tasks import SingleTask
from shared.settings import Settings

log = structlog.get_logger(__name__)

_COUNT_AGAIN_SECONDS = 0.5
_COUNT = text("""
    SELECT event_id, count(*) AS pending
    FROM (SELECT event_id FROM pending_command LIMIT :pending_max) AS counted GROUP BY event_id
""")


class PendingLimit:
    """The pending commands as they were last counted, and those that this process has let in since.

    They are counted twice a second while commands arrive. What other API processes let in meanwhile, or what
    arrives before the first count, may exceed the limits for that long.
    """

    def __init__(self, engine: AsyncEngine, settings: Settings) -> None:
        self._engine = engine
        self._event_max = settings.event_pending_max
        self._max = settings.pending_max
        self._counted: Counter[UUID] = Counter()
        self._since: Counter[UUID] = Counter()
        self._in_all = 0
        self._asked = False
        self._counter = SingleTask(self._count_while_asked)

    def let_in(self, event_id: UUID) -> None:
        """Count a command that is about to be accepted; raises `IntakeFull` if a limit is reached."""
        self._asked = True
        self._counter.ensure_running()
        if self._in_all >= self._max or self._counted[event_id] + self._since[event_id] >= self._event_max:
            raise IntakeFull
        self._since[event_id] += 1
        self._in_all += 1

    async def close(self) -> None:
        """Stop counting."""
        await self._counter.cancel()

    async def _count_while_asked(self) -> None:
        while self._asked:
            self._asked = False
            before = self._since.copy()
            try:
                async with self._engine.connect() as connection:
                    rows = (await connection.execute(_COUNT, {"pending_max": self._max})).all()
            except (SQLAlchemyError, OSError) as error:
                log.warning("pending_not_countable", error=repr(error))
            else:
                self._since.subtract(before)
                self._since = +self._since
                self._counted = Counter({row.event_id: row.pending for row in rows})
                self._in_all = self._counted.total() + self._since.total()
            await asyncio.sleep(_COUNT_AGAIN_SECONDS)
        self._counted.clear()
        self._since.clear()
        self._in_all = 0
