"""Counts the pending commands of all API processes, so that an overload ends when its cause does.

Commands are accepted faster than they are decided. Without a bound a crowd beyond the sustainable rate would
make each request wait longer and longer; with it the service goes on deciding at its full rate, and answers
the others that they should ask again.
"""

import asyncio
from collections import Counter

import structlog
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from api.commands.intake import Shares
from api.tasks import SingleTask

log = structlog.get_logger(__name__)

_PAUSE_SECONDS = 0.5
_COUNT = text("""
    SELECT event_id, count(*) AS pending
    FROM (SELECT event_id FROM pending_command LIMIT :pending_max) AS counted GROUP BY event_id
""")


class PendingCount:
    """Corrects the pending commands that the intake's shares know of, twice a second while there are any.

    What other API processes accept meanwhile, or what arrives before the first count, may exceed the limits
    for that long.
    """

    def __init__(self, shares: Shares, engine: AsyncEngine, pending_max: int) -> None:
        self.task = SingleTask(self._keep_counting)
        self.shares = shares
        self._engine = engine
        self._max = pending_max

    async def _keep_counting(self) -> None:
        while True:
            await asyncio.sleep(_PAUSE_SECONDS)
            if self.shares.pending_in_all:
                await self._count()

    async def _count(self) -> None:
        shares = self.shares
        before = shares.pending.copy()
        try:
            async with self._engine.connect() as connection:
                rows = (await connection.execute(_COUNT, {"pending_max": self._max})).all()
        except (SQLAlchemyError, OSError) as error:
            log.warning("pending_not_countable", error=error)
        else:
            added_meanwhile = shares.pending - before
            shares.pending = Counter({row.event_id: row.pending for row in rows}) + added_meanwhile
            shares.pending_in_all = shares.pending.total()
