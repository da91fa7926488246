"""Rings the event queues after a commit, from a thread of its own: no request waits for the broker.

A ring that fails is logged and forgotten. The command is in the ledger, and the event's owner finds
it at its next tick.
"""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from uuid import UUID

import structlog
from celery import Celery

from shared import queues

log = structlog.get_logger(__name__)

_IDS_PER_RING_MAX = 500  # an owner takes all that is pending anyway
# After a ring, what is accepted shares the next one until outcomes are heard, or for so long. An owner
# that decides looks again by itself, so a crowd needs few rings; who comes alone is rung for at once.
_GATHER_SECONDS = 0.005


class Bell:
    """Rings for many commands at once: while one ring is on its way, the others gather."""

    def __init__(self, celery: Celery) -> None:
        self._celery = celery
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="bell")
        self._due: dict[UUID, list[UUID]] = {}
        self._heard = asyncio.Event()
        self._ringer: asyncio.Task[None] | None = None

    def heard(self) -> None:
        """Ring at once for whatever has gathered: outcomes arrived, so an owner may be idle now."""
        self._heard.set()

    def ring(self, event_id: UUID, command_ids: Sequence[UUID]) -> None:
        """Wake the event's owner soon; never raises, never waits."""
        due = self._due.setdefault(event_id, [])
        due.extend(command_ids[: _IDS_PER_RING_MAX - len(due)])
        if self._ringer is None:
            self._ringer = asyncio.create_task(self._ring_all())

    async def close(self) -> None:
        """Wait for the rings that are due."""
        if self._ringer is not None:
            await asyncio.wait([self._ringer])
        self._thread.shutdown()

    async def _ring_all(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._due:
                due, self._due = self._due, {}
                self._heard.clear()
                await loop.run_in_executor(self._thread, self._ring, due)
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._heard.wait(), _GATHER_SECONDS)
        finally:
            self._ringer = None

    def _ring(self, due: dict[UUID, list[UUID]]) -> None:
        for event_id, command_ids in due.items():
            try:
                queues.ring(self._celery, event_id, command_ids)
            except Exception as error:  # noqa: BLE001 - whatever a broker does, the ledger has the command
                log.warning("ring_failed", event_id=str(event_id), error=repr(error))
