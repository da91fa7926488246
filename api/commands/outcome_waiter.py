"""Waits for outcomes: the registry of the commands that requests wait for, and the poller of their results.

The poller answers from the result backend, when a batch is announced and every 50 ms; `ledger_fallback`
answers from the ledger. A request gets the recorded outcome or none.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Collection
from contextlib import suppress
from itertools import islice
from uuid import UUID

import msgspec
import redis
import redis.asyncio
import structlog

from api.tasks import SingleTask
from shared import metrics
from shared.domain.outcomes import Outcome
from shared.messaging import results
from shared.settings import Settings

log = structlog.get_logger(__name__)

_POLL_SECONDS = 0.05
"""The pause between two polls without an announcement; it covers missed announcements (decision 0018)."""
_RETRY_SECONDS = 0.1
_LISTEN_AGAIN_SECONDS = 1

_Answer = asyncio.Future[Outcome | None]


class AwaitedCommand(msgspec.Struct, kw_only=True, eq=False):
    """A command that requests wait for, as long as it has `answers` to give.

    `accepted_at` is on the loop's clock, None for an earlier command.
    """

    event_id: UUID
    command_id: UUID
    answers: list[_Answer]
    accepted_at: float | None


class OutcomeWaiter:
    """The commands of which requests of this process await the outcome.

    `by_event` has them by event, in the order in which the waiting began. `poller` runs while a request
    waits; `ask_ledger` is called for a command when the result backend has had no outcome of it in time.
    """

    def __init__(self, ledger_read_seconds: float) -> None:
        self.by_event: dict[UUID, dict[UUID, AwaitedCommand]] = {}
        self.poller: SingleTask | None = None
        self.ask_ledger: Callable[[AwaitedCommand], None] = lambda _: None
        self._ledger_read_seconds = ledger_read_seconds
        self._released = False

    async def outcome(
        self, event_id: UUID, command_id: UUID, seconds: float, *, accepted_now: bool = False
    ) -> Outcome | None:
        """Return the command's outcome, or None when it is not known within `seconds`."""
        if seconds <= 0 or self._released:
            return None
        loop = asyncio.get_running_loop()
        new = AwaitedCommand(
            event_id=event_id,
            command_id=command_id,
            answers=[],
            accepted_at=loop.time() if accepted_now else None,
        )
        awaited = self.by_event.setdefault(event_id, {}).setdefault(command_id, new)
        answer: _Answer = loop.create_future()
        awaited.answers.append(answer)
        patience = min(seconds, self._ledger_read_seconds)
        timer = loop.call_later(patience, self._overdue, awaited, answer, seconds - patience)
        if self.poller is not None:
            self.poller.ensure_running()
        try:
            return await answer
        finally:
            timer.cancel()
            if awaited.answers == [answer]:
                self.answer(awaited, None)
            elif answer in awaited.answers:  # else they are answered
                awaited.answers.remove(answer)

    def answer(self, awaited: AwaitedCommand, outcome: Outcome | None) -> None:
        """Answer all requests that wait for this command, and forget it."""
        answers, awaited.answers = awaited.answers, []
        if answers:
            event = self.by_event[awaited.event_id]
            del event[awaited.command_id]
            if not event:
                del self.by_event[awaited.event_id]
        for answer in answers:
            if not answer.done():
                answer.set_result(outcome)

    def all(self) -> list[AwaitedCommand]:
        """Return all commands that requests wait for."""
        return [awaited for event in self.by_event.values() for awaited in event.values()]

    def release(self) -> None:
        """Answer all requests without an outcome, now and from now on: the process is about to end."""
        self._released = True
        for awaited in self.all():
            self.answer(awaited, None)

    def _overdue(self, awaited: AwaitedCommand, answer: _Answer, seconds_left: float) -> None:
        """Ask the ledger, and end the wait when its time is over."""
        if seconds_left > 0:
            self.ask_ledger(awaited)
        asyncio.get_running_loop().call_later(seconds_left, _give_up, answer)


class ResultPoller:
    """Reads the results of awaited commands, one read for many; calls `outcomes_seen` with the settled."""

    def __init__(
        self,
        waiter: OutcomeWaiter,
        client: "redis.asyncio.Redis",
        settings: Settings,
        outcomes_seen: Callable[[UUID, Collection[UUID]], None],
    ) -> None:
        self.task = SingleTask(self._poll)
        self._waiter = waiter
        self._client = client
        self._outcomes_seen = outcomes_seen
        self._read_max = settings.answer_read_max
        self._result_url = settings.result_url
        self._announced: set[UUID] = set()
        self._woken = asyncio.Event()
        self._poll_at = 0.0
        self._listener = SingleTask(self._listen)

    async def close(self) -> None:
        """Stop reading."""
        await self._listener.cancel()
        await self.task.cancel()

    async def _listen(self) -> None:
        while True:
            try:
                async for event_ids in results.announcements(self._result_url):
                    self._announced.update(self._waiter.by_event.keys() & event_ids)
                    if self._announced:
                        self._woken.set()
            except redis.RedisError as error:
                log.warning("announcements_not_readable", error=error)
            except Exception:  # any error: polling still helps
                log.exception("announcements_not_readable")
            await asyncio.sleep(_LISTEN_AGAIN_SECONDS)

    async def _poll(self) -> None:
        self._listener.ensure_running()
        clock = asyncio.get_running_loop().time
        while self._waiter.by_event:
            with suppress(TimeoutError):
                async with asyncio.timeout(_POLL_SECONDS):
                    await self._woken.wait()
            self._woken.clear()
            event_ids, self._announced = self._announced, set()
            if clock() >= self._poll_at:
                self._poll_at = clock() + _POLL_SECONDS
                by_event = self._waiter.by_event
                event_ids.update(next_events := list(islice(by_event, self._read_max)))
                if len(next_events) < len(by_event):  # the other events come first next time
                    for event_id in next_events:
                        by_event[event_id] = by_event.pop(event_id)
            try:
                while event_ids:
                    event_ids = await self._read(event_ids)
            except Exception as error:  # any error: the ledger has the outcomes
                known = isinstance(error, redis.RedisError)
                log.warning("results_not_readable", error=error, exc_info=not known)
                for awaited in self._waiter.all():
                    self._waiter.ask_ledger(awaited)
                await asyncio.sleep(_RETRY_SECONDS)

    async def _read(self, event_ids: Collection[UUID]) -> set[UUID]:
        """Answer commands of these events; return the events of which all commands read were settled.

        An event's commands are settled in order, so the longest awaited commands are read first.
        """
        share = max(1, self._read_max // len(event_ids))
        batch = [
            awaited
            for event_id in event_ids
            for awaited in islice(self._waiter.by_event.get(event_id, {}).values(), share)
        ]
        settled: defaultdict[UUID, set[UUID]] = defaultdict(set)
        unsettled = set()
        now = asyncio.get_running_loop().time
        answer_seconds = []
        for first in range(0, len(batch), self._read_max):
            part = batch[first : first + self._read_max]
            outcomes = await results.read(self._client, [awaited.command_id for awaited in part])
            for awaited, outcome in zip(part, outcomes, strict=True):
                if outcome is None:
                    unsettled.add(awaited.event_id)
                else:
                    settled[awaited.event_id].add(awaited.command_id)
                    self._waiter.answer(awaited, outcome)
                    if awaited.accepted_at is not None:
                        answer_seconds.append(now() - awaited.accepted_at)
        metrics.answer_seconds.observe_all(answer_seconds)
        for event_id, command_ids in settled.items():
            self._outcomes_seen(event_id, command_ids)
        return settled.keys() - unsettled


def _give_up(answer: _Answer) -> None:
    if not answer.done():
        answer.set_result(None)
