"""The two senders of wake messages.

To Redis a message goes from the event loop as the one LPUSH that it is, in the form in which Celery and
kombu put it there: through Celery it costs several times as much (decision 0003). To any other broker it goes
through Celery, which blocks, in a thread.
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


class WakeSender(Protocol):
    """A way to the broker."""

    async def send(self, queue: str, event_ids: Sequence[UUID]) -> None:
        """Send one message for these events of one owner; raises if the broker cannot be reached."""

    async def close(self) -> None:
        """Close the connections to the broker."""


class RedisSender:
    """Sends wake messages to Redis."""

    def __init__(self, celery: Celery, client: "redis.asyncio.Redis") -> None:
        self._celery = celery
        self._client = client

    async def send(self, queue: str, event_ids: Sequence[UUID]) -> None:
        """Add the message to the queue's list."""
        await self._client.lpush(queue, queues.redis_message(self._celery, queue, event_ids))

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()


class CelerySender:
    """Sends wake messages through Celery, to any broker."""

    def __init__(self, celery: Celery) -> None:
        self._celery = celery
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="waker")

    async def send(self, queue: str, event_ids: Sequence[UUID]) -> None:
        """Send the message as a Celery task."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, queues.wake, self._celery, queue, event_ids)

    async def close(self) -> None:
        """End the thread."""
        self._thread.shutdown()


def connect(celery: Celery, settings: Settings) -> WakeSender:
    """Return the sender for these settings; it connects when the first message is sent."""
    if settings.broker_url.startswith("redis"):
        return RedisSender(celery, results.connect_async(settings.broker_url))
    return CelerySender(celery)
