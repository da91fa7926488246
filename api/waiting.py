"""Waits for outcomes: one poll of the result backend for everybody who waits.

What Redis does not have for too long, or at all, is asked of the ledger. Nobody is told anything
but the recorded outcome.
"""

import asyncio
from dataclasses import dataclass
from uuid import UUID

import redis
import redis.asyncio
import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from shared import ledger, results
from shared.outcomes import Outcome
from shared.settings import Settings

log = structlog.get_logger(__name__)

# A fruitless read costs about as much as it asks for keys, so the pause grows with the crowd: one
# client alone is answered within a millisecond of its decision.
_PAUSE_SECONDS_PER_WAITER = 30e-6
_PAUSE_SECONDS_MIN = 0.001
_PAUSE_SECONDS_MAX = 0.008
_REDIS_GONE_PAUSE_SECONDS = 0.1


@dataclass(slots=True)
class _Waiter:
    event_id: UUID
    command_id: UUID
    answer: "asyncio.Future[Outcome | None]"
    ask_ledger_at: float


class Waiting:
    """Everybody in this process who waits for an outcome."""

    def __init__(self, engine: AsyncEngine, redis_client: "redis.asyncio.Redis", settings: Settings) -> None:
        self._engine = engine
        self._redis = redis_client
        self._read_max = settings.answer_read_max
        self._ledger_seconds = settings.ledger_read_seconds
        self._waiters: dict[UUID, list[_Waiter]] = {}
        self._poller: asyncio.Task[None] | None = None

    async def outcome(self, event_id: UUID, command_id: UUID, seconds: float) -> Outcome | None:
        """Return the command's outcome, or None when it is not settled within `seconds`."""
        if seconds <= 0:
            return None
        loop = asyncio.get_running_loop()
        waiter = _Waiter(event_id, command_id, loop.create_future(), loop.time() + self._ledger_seconds)
        self._waiters.setdefault(command_id, []).append(waiter)
        timeout = loop.call_later(seconds, _answer, waiter, None)
        if self._poller is None:
            self._poller = asyncio.create_task(self._poll())
        try:
            return await waiter.answer
        finally:
            timeout.cancel()
            self._forget(waiter)

    async def close(self) -> None:
        """Stop polling."""
        if self._poller is not None:
            self._poller.cancel()
            await asyncio.wait([self._poller])

    def _forget(self, waiter: _Waiter) -> None:
        others = self._waiters.get(waiter.command_id, [])
        if waiter in others:
            others.remove(waiter)
            if not others:
                del self._waiters[waiter.command_id]

    async def _poll(self) -> None:
        try:
            while self._waiters:
                found, pause = await self._read_results()
                await self._read_ledger()
                await asyncio.sleep(0 if found else pause)
        finally:
            self._poller = None

    async def _read_results(self) -> tuple[bool, float]:
        """Ask Redis for the longest waiting; tell whether anything was there, and how long to pause."""
        asked = [id_ for id_, _ in zip(self._waiters, range(self._read_max), strict=False)]
        try:
            found = await results.fetch(self._redis, asked)
        except redis.RedisError as error:
            log.warning("results_not_readable", error=repr(error))
            self._hurry_to_ledger()
            return False, _REDIS_GONE_PAUSE_SECONDS
        self._answer_all(found)
        if len(found) < len(asked):
            self._rotate(asked)
        pause = len(asked) * _PAUSE_SECONDS_PER_WAITER
        return bool(found), min(max(pause, _PAUSE_SECONDS_MIN), _PAUSE_SECONDS_MAX)

    def _rotate(self, asked: list[UUID]) -> None:
        """Let those beyond one read's limit have the next one."""
        if len(self._waiters) <= self._read_max:
            return
        for command_id in asked:
            waiters = self._waiters.pop(command_id, None)
            if waiters is not None:
                self._waiters[command_id] = waiters

    def _hurry_to_ledger(self) -> None:
        for waiters in self._waiters.values():
            for waiter in waiters:
                waiter.ask_ledger_at = 0

    async def _read_ledger(self) -> None:
        now = asyncio.get_running_loop().time()
        due = [w for waiters in self._waiters.values() for w in waiters if w.ask_ledger_at <= now]
        if not due:
            return
        for waiter in due:
            waiter.ask_ledger_at = now + self._ledger_seconds
        try:
            async with self._engine.connect() as connection:
                found = await ledger.settled(connection, [(w.event_id, w.command_id) for w in due])
        except (SQLAlchemyError, OSError) as error:
            log.warning("ledger_not_readable", error=repr(error))
            return
        self._answer_all(found)

    def _answer_all(self, found: dict[UUID, Outcome]) -> None:
        for command_id, outcome in found.items():
            for waiter in self._waiters.pop(command_id, ()):
                _answer(waiter, outcome)


def _answer(waiter: _Waiter, outcome: Outcome | None) -> None:
    if not waiter.answer.done():
        waiter.answer.set_result(outcome)
