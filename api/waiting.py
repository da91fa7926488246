"""Waits for outcomes: one poll of the result backend for everybody who waits.

What Redis does not have for too long, or at all, is asked of the ledger. Nobody is told anything
but the recorded outcome.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from uuid import UUID

import msgspec
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
_PROBES_MAX = 16
_SWEEP_SECONDS = 0.05
"""How exactly a wait ends when there is no outcome: a timer for each would cost as much as answering."""

_Waiter = tuple["asyncio.Future[Outcome | None]", float]
"""Who waits for an outcome, and until when."""


class _Awaited(msgspec.Struct, kw_only=True):
    """A command that somebody waits for."""

    event_id: UUID
    command_id: UUID
    key: bytes
    ask_ledger_at: float
    waiters: list[_Waiter]


class Waiting:
    """Everybody in this process who waits for an outcome; `heard` is told of those that Redis had.

    An event's commands are settled in order, so of each event only the one that is awaited longest is
    asked for; when that is there, so may be the next ones. Of very many events a few are asked for by
    turns: owners settle many at once, so when one of them has news, so may all.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        redis_client: "redis.asyncio.Redis",
        settings: Settings,
        heard: Callable[[UUID, Sequence[UUID]], None],
    ) -> None:
        self._engine = engine
        self._redis = redis_client
        self._heard = heard
        self._read_max = settings.answer_read_max
        self._ledger_seconds = settings.ledger_read_seconds
        self._events: dict[UUID, dict[UUID, _Awaited]] = {}
        self._poller: asyncio.Task[None] | None = None
        self._ledger_reader: asyncio.Task[None] | None = None
        self._sweeps = False
        self._released = False

    async def outcome(self, event_id: UUID, command_id: UUID, seconds: float) -> Outcome | None:
        """Return the command's outcome, or None when it is not settled within `seconds`."""
        if seconds <= 0 or self._released:
            return None
        loop = asyncio.get_running_loop()
        now = loop.time()
        answer: asyncio.Future[Outcome | None] = loop.create_future()
        awaited = self._awaited(event_id, command_id, now)
        awaited.waiters.append((answer, now + seconds))
        if self._poller is None:
            self._poller = asyncio.create_task(self._poll())
        if not self._sweeps:
            self._sweeps = True
            loop.call_later(_SWEEP_SECONDS, self._sweep)
        try:
            return await answer
        finally:
            awaited.waiters = [waiter for waiter in awaited.waiters if waiter[0] is not answer]
            if not awaited.waiters:
                self._forget(awaited)

    def release(self) -> None:
        """Let everybody go without an outcome, now and from now on: the process is about to end."""
        self._released = True
        for awaited in self._everything():
            _answer(awaited, None)

    async def close(self) -> None:
        """Stop reading."""
        for reader in (self._poller, self._ledger_reader):
            if reader is not None:
                reader.cancel()
                await asyncio.wait([reader])

    def _awaited(self, event_id: UUID, command_id: UUID, now: float) -> _Awaited:
        event = self._events.setdefault(event_id, {})
        awaited = event.get(command_id)
        if awaited is None:
            awaited = event[command_id] = _Awaited(
                event_id=event_id,
                command_id=command_id,
                key=results.key(command_id),
                ask_ledger_at=now + self._ledger_seconds,
                waiters=[],
            )
        return awaited

    def _forget(self, awaited: _Awaited) -> None:
        event = self._events.get(awaited.event_id)
        if event is not None and event.get(awaited.command_id) is awaited:
            del event[awaited.command_id]
            if not event:
                del self._events[awaited.event_id]

    def _everything(self) -> Iterator[_Awaited]:
        return (awaited for event in list(self._events.values()) for awaited in list(event.values()))

    async def _poll(self) -> None:
        try:
            pause = _PAUSE_SECONDS_MIN
            while self._events:
                await asyncio.sleep(pause)
                try:
                    pause = await self._read_results()
                except redis.RedisError as error:
                    log.warning("results_not_readable", error=repr(error))
                    pause = _REDIS_GONE_PAUSE_SECONDS
                    for awaited in self._everything():
                        awaited.ask_ledger_at = 0
                except Exception:  # whatever it was, the others still wait
                    log.exception("poll_failed")
                    pause = _REDIS_GONE_PAUSE_SECONDS
        finally:
            self._poller = None

    async def _read_results(self) -> float:
        """Answer whom Redis has an outcome for; return how long to pause before the next read."""
        answered = await self._read(self._heads(_PROBES_MAX))
        if answered and len(self._events) > _PROBES_MAX:
            heads = self._heads(len(self._events))
            for first in range(0, len(heads), self._read_max):
                answered |= await self._read(heads[first : first + self._read_max])
        while answered:
            answered = await self._read(self._next_awaited(answered))
        crowd = sum(len(event) for event in self._events.values())
        return min(max(crowd * _PAUSE_SECONDS_PER_WAITER, _PAUSE_SECONDS_MIN), _PAUSE_SECONDS_MAX)

    async def _read(self, asked: Sequence[_Awaited]) -> set[UUID]:
        """Answer those of these that Redis has, and return the events of which it had all."""
        if not asked:
            return set()
        outcomes = await results.fetch(self._redis, [awaited.key for awaited in asked])
        answered: dict[UUID, list[UUID]] = {}
        missing = set()
        for awaited, outcome in zip(asked, outcomes, strict=True):
            if outcome is None:
                missing.add(awaited.event_id)
            else:
                self._answer(awaited, outcome)
                answered.setdefault(awaited.event_id, []).append(awaited.command_id)
        for event_id, command_ids in answered.items():
            self._heard(event_id, command_ids)
        return answered.keys() - missing

    def _heads(self, events_max: int) -> list[_Awaited]:
        """Return the longest awaited command of each of so many events; the others' turn is next time."""
        events = list(islice(self._events, events_max))
        if len(events) < len(self._events):
            for event_id in events:
                self._events[event_id] = self._events.pop(event_id)
        return [next(iter(self._events[event_id].values())) for event_id in events]

    def _next_awaited(self, event_ids: Iterable[UUID]) -> list[_Awaited]:
        """Return the longest awaited commands of these events, as many as one read takes."""
        waiting = (self._events[event_id].values() for event_id in event_ids if event_id in self._events)
        return list(islice((awaited for event in waiting for awaited in event), self._read_max))

    def _sweep(self) -> None:
        """End the waits whose time is over, and have the ledger asked for what took too long."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        due = []
        for awaited in self._everything():
            for answer, until in awaited.waiters:
                if until <= now and not answer.done():
                    answer.set_result(None)
            if awaited.ask_ledger_at <= now:
                due.append(awaited)
        if due and self._ledger_reader is None:
            self._ledger_reader = asyncio.create_task(self._read_ledger(due))
        self._sweeps = bool(self._events)
        if self._sweeps:
            loop.call_later(_SWEEP_SECONDS, self._sweep)

    async def _read_ledger(self, due: Sequence[_Awaited]) -> None:
        try:
            async with self._engine.connect() as connection:
                found = await ledger.settled(connection, [(a.event_id, a.command_id) for a in due])
        except (SQLAlchemyError, OSError) as error:
            log.warning("ledger_not_readable", error=repr(error))
        except Exception:  # whatever it was, the others still wait
            log.exception("ledger_not_readable")
        else:
            for awaited in due:
                if awaited.command_id in found:
                    self._answer(awaited, found[awaited.command_id])
        finally:
            ask_again_at = asyncio.get_running_loop().time() + self._ledger_seconds
            for awaited in due:
                awaited.ask_ledger_at = ask_again_at
            self._ledger_reader = None

    def _answer(self, awaited: _Awaited, outcome: Outcome) -> None:
        self._forget(awaited)
        _answer(awaited, outcome)


def _answer(awaited: _Awaited, outcome: Outcome | None) -> None:
    for answer, _ in awaited.waiters:
        if not answer.done():
            answer.set_result(outcome)
