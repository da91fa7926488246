"""Waits for outcomes: one poll of the result backend for everybody who waits.

What Redis does not have for too long, or at all, is asked of the ledger. Nobody is told anything
but the recorded outcome.
"""

import asyncio
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from uuid import UUID

import msgspec
import redis
import redis.asyncio
import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from api.ending import end
from api.news import News
from shared.domain.outcomes import Outcome
from shared.messaging import results
from shared.postgres import ledger
from shared.settings import Settings

log = structlog.get_logger(__name__)

# The result backend tells when there is something to read. What was missed is looked for now and then, or
# in short pauses while nothing can be heard.
_LOOK_SECONDS = 0.005
_DEAF_PAUSE_SECONDS = 0.0015
_REDIS_GONE_PAUSE_SECONDS = 0.1
_PROBES_MAX = 16
_SHIFT_MIN = 16  # of fewer, a read for each half costs more than both halves gain
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

    An event's commands are settled in order, so of an event that has news those are asked for that are
    awaited longest; when all of them are there, so may be the next ones. News can be missed: of a few
    events by turns the one command that is awaited longest is asked for all the same, and when one
    of these is there, so may be those of all events.
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
        self._news = News(settings.result_url, self._hear)
        self._heard_of: dict[UUID, None] = {}
        self._woken = asyncio.Event()
        self._look_at = 0.0

    async def outcome(self, event_id: UUID, command_id: UUID, seconds: float) -> Outcome | None:
        """Return the command's outcome, or None when it is not settled within `seconds`."""
        if seconds <= 0 or self._released:
            return None
        loop = asyncio.get_running_loop()
        now = loop.time()
        answer: asyncio.Future[Outcome | None] = loop.create_future()
        awaited = self._awaited(event_id, command_id, now)
        awaited.waiters.append((answer, now + seconds))
        self._news.start()
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
        await self._news.close()
        await end(self._poller)
        await end(self._ledger_reader)

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

    def _hear(self, announced: results.Announcement) -> None:
        """Answer those whose outcomes came along, and have the outcomes of the other events asked for."""
        answered: dict[UUID, list[UUID]] = {}
        for event_id, command_id, outcome in announced.outcomes:
            awaited = self._events.get(event_id, {}).get(command_id)
            if awaited is not None:
                self._answer(awaited, outcome)
                answered.setdefault(event_id, []).append(command_id)
        for event_id, command_ids in answered.items():
            self._heard(event_id, command_ids)
        self._heard_of |= {event_id: None for event_id in announced.event_ids if event_id in self._events}
        if self._heard_of:
            self._woken.set()

    async def _poll(self) -> None:
        try:
            while self._events:
                try:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(
                            _LOOK_SECONDS if self._news.listening else _DEAF_PAUSE_SECONDS
                        ):
                            await self._woken.wait()
                    await self._read_results()
                except redis.RedisError as error:
                    log.warning("results_not_readable", error=repr(error))
                    for awaited in self._everything():
                        awaited.ask_ledger_at = 0
                    await asyncio.sleep(_REDIS_GONE_PAUSE_SECONDS)
                except Exception:  # whatever it was, the others still wait
                    log.exception("poll_failed")
                    await asyncio.sleep(_REDIS_GONE_PAUSE_SECONDS)
        finally:
            self._poller = None

    async def _read_results(self) -> None:
        """Answer whom Redis has an outcome for, of the events that there is news of, and of some others."""
        self._woken.clear()
        news, self._heard_of = self._heard_of, {}
        answered = await self._read_next(news)
        now = asyncio.get_running_loop().time()
        if now >= self._look_at or not self._news.listening:
            self._look_at = now + _LOOK_SECONDS
            missed = await self._read(self._heads(_PROBES_MAX))
            if missed and len(self._events) > _PROBES_MAX:
                missed = set(self._events)
            answered |= missed
        while answered:
            answered = await self._read_next(answered)

    async def _read_next(self, event_ids: Collection[UUID]) -> set[UUID]:
        """Answer whom Redis has, of these events; return those of which it had all that were asked for."""
        read_max = self._shift()
        share = max(1, read_max // max(1, len(event_ids)))
        asked = [
            awaited
            for event_id in event_ids
            for awaited in islice(self._events.get(event_id, {}).values(), share)
        ]
        answered: set[UUID] = set()
        for first in range(0, len(asked), read_max):
            answered |= await self._read(asked[first : first + read_max])
        return answered

    def _shift(self) -> int:
        """Return how many to answer at once: half a crowd comes back while the other half is decided."""
        waiting = sum(map(len, self._events.values()))
        return min(max(waiting // 2, _SHIFT_MIN), self._read_max)

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
