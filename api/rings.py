"""Sends rings to the broker.

To a Redis a ring goes from the event loop as the one LPUSH that it is, with the text that kombu would put
there: by way of kombu it takes several times as long, in a thread. To any other broker it goes by way of
Celery, in a thread of its own, so that no request waits for the broker.
"""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol
from uuid import UUID

import redis.asyncio
from celery import Celery

from shared.messaging import queues, results
from shared.settings import Settings


class Rings(Protocol):
    """A way to the broker."""

    async def send(self, event_id: UUID, command_ids: Sequence[UUID], others: Sequence[UUID]) -> None:
        """Ring for an event, and for others of the same owner; raises when the broker is gone."""

    async def close(self) -> None:
        """Let go of the broker."""


class RedisRings:
    """Rings straight to Redis."""

    def __init__(self, celery: Celery, client: "redis.asyncio.Redis") -> None:
        self._celery = celery
        self._client = client

    async def send(self, event_id: UUID, command_ids: Sequence[UUID], others: Sequence[UUID]) -> None:
        """Ring with one LPUSH."""
        message = queues.redis_message(self._celery, event_id, command_ids, others)
        await self._client.lpush(queues.event_queue_name(event_id), message)

    async def close(self) -> None:
        """Close the client."""
        await self._client.aclose()


class CeleryRings:
    """Rings by way of Celery, to whatever broker it knows."""

    def __init__(self, celery: Celery) -> None:
        self._celery = celery
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="rings")

    async def send(self, event_id: UUID, command_ids: Sequence[UUID], others: Sequence[UUID]) -> None:
        """Ring with a task of Celery's."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, queues.ring, self._celery, event_id, command_ids, others)

    async def close(self) -> None:
        """End the thread."""
        self._thread.shutdown()


def rings(celery: Celery, settings: Settings) -> Rings:
    """Return the way to the broker of these settings; it connects when it is first rung."""
    if settings.broker_url.startswith("redis"):
        return RedisRings(celery, results.connect_async(settings.broker_url))
    return CeleryRings(celery)
