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
_PAUSE_SECONDS_MAX = 0.0015
_REDIS_GONE_PAUSE_SECONDS = 0.1


@dataclass(slots=True)
class _Waiter:
    event_id: UUID
    command_id: UUID
    answer: "asyncio.Future[Outcome | None]"
    ask_ledger_at: float


class Waiting:
    """Everybody in this process who waits for an outcome.

    An event's commands are settled in order, so after a fruitless read only those who have waited
    longest for each event are asked for; when one of them is there, so may be all.
    """

    def __init__(self, engine: AsyncEngine, redis_client: "redis.asyncio.Redis", settings: Settings) -> None:
        self._engine = engine
        self._redis = redis_client
        self._read_max = settings.answer_read_max
        self._ledger_seconds = settings.ledger_read_seconds
        self._events: dict[UUID, dict[UUID, list[_Waiter]]] = {}
        self._poller: asyncio.Task[None] | None = None
        self._released = False

    async def outcome(self, event_id: UUID, command_id: UUID, seconds: float) -> Outcome | None:
        """Return the command's outcome, or None when it is not settled within `seconds`."""
        if seconds <= 0 or self._released:
            return None
        loop = asyncio.get_running_loop()
        waiter = _Waiter(event_id, command_id, loop.create_future(), loop.time() + self._ledger_seconds)
        self._events.setdefault(event_id, {}).setdefault(command_id, []).append(waiter)
        timeout = loop.call_later(seconds, _answer, waiter, None)
        if self._poller is None:
            self._poller = asyncio.create_task(self._poll())
        try:
            return await waiter.answer
        finally:
            timeout.cancel()
            self._forget(waiter)

    def release(self) -> None:
        """Let everybody go without an outcome, now and from now on: the process is about to end."""
        self._released = True
        for waiter in self._everybody():
            _answer(waiter, None)

    async def close(self) -> None:
        """Stop polling."""
        if self._poller is not None:
            self._poller.cancel()
            await asyncio.wait([self._poller])

    def _forget(self, waiter: _Waiter) -> None:
        """Take out one who waits no longer; whoever was answered is out already."""
        waiting = self._events.get(waiter.event_id, {})
        others = waiting.get(waiter.command_id, [])
        if waiter in others:
            others.remove(waiter)
            if not others:
                del waiting[waiter.command_id]
        if not waiting:
            self._events.pop(waiter.event_id, None)

    async def _poll(self) -> None:
        try:
            pause = _PAUSE_SECONDS_MIN
            while self._events:
                await asyncio.sleep(pause)
                try:
                    pause = await self._read_results()
                    await self._read_ledger()
                except Exception:  # whatever it was, the others still wait
                    log.exception("poll_failed")
                    pause = _REDIS_GONE_PAUSE_SECONDS
        finally:
            self._poller = None

    async def _read_results(self) -> float:
        """Answer whom Redis has an outcome for; return how long to pause before the next read."""
        heads = self._heads()
        found = await self._fetch(list(heads))
        if found is None:
            return _REDIS_GONE_PAUSE_SECONDS
        for event_id in {heads[command_id] for command_id in found}:
            await self._read_event(event_id)
        crowd = sum(len(waiting) for waiting in self._events.values())
        return min(max(crowd * _PAUSE_SECONDS_PER_WAITER, _PAUSE_SECONDS_MIN), _PAUSE_SECONDS_MAX)

    async def _read_event(self, event_id: UUID) -> None:
        """Answer everybody of an event whose outcome is there, longest waiting first."""
        waiting = list(self._events.get(event_id, ()))
        for first in range(0, len(waiting), self._read_max):
            found = await self._fetch(waiting[first : first + self._read_max])
            if not found:
                return
            for command_id, outcome in found.items():
                self._answer(event_id, command_id, outcome)

    async def _fetch(self, command_ids: list[UUID]) -> dict[UUID, Outcome] | None:
        """Return what Redis has of these; None when it is gone."""
        if not command_ids:
            return {}
        try:
            return await results.fetch(self._redis, command_ids)
        except redis.RedisError as error:
            log.warning("results_not_readable", error=repr(error))
            self._hurry_to_ledger()
            return None

    def _heads(self) -> dict[UUID, UUID]:
        """Return the longest waiting command of each event, and its event; of as many as one read takes."""
        events = list(self._events)[: self._read_max]
        if len(events) < len(self._events):
            for event_id in events:  # to the end, so that the next read asks for the others
                self._events[event_id] = self._events.pop(event_id)
        return {next(iter(self._events[event_id])): event_id for event_id in events if self._events[event_id]}

    def _hurry_to_ledger(self) -> None:
        for waiter in self._everybody():
            waiter.ask_ledger_at = 0

    async def _read_ledger(self) -> None:
        now = asyncio.get_running_loop().time()
        due = [waiter for waiter in self._everybody() if waiter.ask_ledger_at <= now]
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
        for waiter in due:
            if waiter.command_id in found:
                self._answer(waiter.event_id, waiter.command_id, found[waiter.command_id])

    def _everybody(self) -> list[_Waiter]:
        return [w for waiting in self._events.values() for waiters in waiting.values() for w in waiters]

    def _answer(self, event_id: UUID, command_id: UUID, outcome: Outcome) -> None:
        for waiter in self._events.get(event_id, {}).pop(command_id, ()):
            _answer(waiter, outcome)


def _answer(waiter: _Waiter, outcome: Outcome | None) -> None:
    if not waiter.answer.done():
        waiter.answer.set_result(outcome)
