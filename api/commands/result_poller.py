"""Polls the result backend for all requests that wait: when a batch is announced, and every 50 ms."""

import asyncio
from collections.abc import Callable, Collection
from contextlib import suppress
from itertools import islice
from uuid import UUID

import redis
import redis.asyncio
import structlog

from api.commands.outcome_waiter import OutcomeWaiter
from api.tasks import SingleTask
from shared import metrics
from shared.messaging import results
from shared.settings import Settings

log = structlog.get_logger(__name__)

_POLL_SECONDS = 0.05
"""The pause between two polls without an announcement; it covers missed announcements (decision 0018)."""
_RETRY_SECONDS = 0.1
_LISTEN_AGAIN_SECONDS = 1


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
                log.warning("announcements_not_readable", error=repr(error))
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
                log.warning("results_not_readable", error=repr(error), exc_info=not known)
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
        settled: dict[UUID, list[UUID]] = {}
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
                    settled.setdefault(awaited.event_id, []).append(awaited.command_id)
                    self._waiter.answer(awaited, outcome)
                    if awaited.accepted_at is not None:
                        answer_seconds.append(now() - awaited.accepted_at)
        metrics.answer_seconds.observe_all(answer_seconds)
        for event_id, command_ids in settled.items():
            self._outcomes_seen(event_id, command_ids)
        return settled.keys() - unsettled
