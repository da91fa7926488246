"""The pace of each event's decisions, for `Retry-After`: measured, cached for a second, with jitter."""

import asyncio
import random
from uuid import UUID

import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from shared.postgres import backlog

log = structlog.get_logger(__name__)

_MEASURED_FOR_SECONDS = 1.0
_RETRY_SECONDS_MAX = 30
_JITTER = 0.25
_EVENTS_REMEMBERED_MAX = 10_000


def settled_seconds() -> int:
    """Return the seconds after which a waiting registration may have another status, spread by a quarter."""
    return round(_RETRY_SECONDS_MAX * _spread())


class Pace:
    """The rate at which each event's commands are being settled."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._measured: dict[UUID, tuple[float, float]] = {}

    async def retry_seconds(self, event_id: UUID, ahead: int) -> int:
        """Return the estimated seconds until a command with `ahead` before it is settled, from 1 to 30.

        The estimate is spread by a quarter either way, so that clients do not all ask again at one moment.
        """
        estimate = ahead / max(await self._rate(event_id), 1.0)
        return min(max(round(estimate * _spread()), 1), _RETRY_SECONDS_MAX)

    async def _rate(self, event_id: UUID) -> float:
        """Return the settled commands per second of the last seconds."""
        now = asyncio.get_running_loop().time()
        measured_at, rate = self._measured.get(event_id, (-_MEASURED_FOR_SECONDS, 0.0))
        if now - measured_at < _MEASURED_FOR_SECONDS:
            return rate
        if len(self._measured) >= _EVENTS_REMEMBERED_MAX:
            self._measured.clear()
        self._measured[event_id] = now, rate  # requests that ask meanwhile get the last known rate
        try:
            async with self._engine.connect() as connection:
                rate = await backlog.settled_per_second(connection, event_id)
        except (SQLAlchemyError, OSError) as error:
            log.warning("pace_not_measurable", error=repr(error))
        self._measured[event_id] = now, rate
        return rate


def _spread() -> float:
    return random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311 - spreads load, guards nothing
