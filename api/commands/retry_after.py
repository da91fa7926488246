"""The pace of each event's decisions, for `Retry-After`: measured, cached for a second, with jitter."""

import asyncio
import math
import random
from typing import NamedTuple
from uuid import UUID

import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from shared.postgres import backlog
from shared.postgres.backlog import Line

log = structlog.get_logger(__name__)

_MEASURED_FOR_SECONDS = 1.0
_RATE_ASSUMED = 1_000.0
"""The rate of an event while it is not known: a client that asks too early learns a better time."""
_RETRY_SECONDS_MAX = 30
_JITTER = 0.25
_EVENTS_REMEMBERED_MAX = 10_000


def settled_seconds() -> int:
    """Return the seconds after which a waiting registration may have another status, spread by a quarter."""
    return round(_RETRY_SECONDS_MAX * _spread())


class _Measured(NamedTuple):
    """The rate of an event, and the line of its pending commands at the time `at`."""

    at: float
    rate: float
    line: Line


class Pace:
    """The rate at which each event's commands are being settled: from one look at its line to the next."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._measured: dict[UUID, _Measured] = {}

    async def retry_seconds(self, event_id: UUID, ahead: int) -> int:
        """Return the estimated seconds until a command with `ahead` before it is settled, from 1 to 30.

        The estimate is spread by a quarter either way, so that clients do not all ask again at one moment.
        """
        estimate = ahead / max(await self._rate(event_id), 1.0)
        return min(max(round(estimate * _spread()), 1), _RETRY_SECONDS_MAX)

    async def _rate(self, event_id: UUID) -> float:
        """Return the settled commands per second since the look before."""
        now = asyncio.get_running_loop().time()
        before = self._measured.get(event_id, _Measured(-math.inf, _RATE_ASSUMED, Line(0, 0, 0)))
        if now - before.at < _MEASURED_FOR_SECONDS:
            return before.rate
        if len(self._measured) >= _EVENTS_REMEMBERED_MAX:
            self._measured.clear()
        self._measured[event_id] = before._replace(at=now)  # for requests that ask meanwhile
        try:
            async with self._engine.connect() as connection:
                line = await backlog.line(connection, event_id, before.line.last)
        except (SQLAlchemyError, OSError) as error:
            log.warning("pace_not_measurable", error=error)
            return before.rate
        rate = max(before.line.pending - line.up_to_mark, 0) / (now - before.at)
        if not line.up_to_mark:  # all that waited are settled, and nothing tells since when
            rate = max(rate, _RATE_ASSUMED)
        self._measured[event_id] = _Measured(now, rate, line)
        return rate


def _spread() -> float:
    return random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311 - spreads load, guards nothing
