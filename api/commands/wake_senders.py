"""The two senders of wake messages.

To Redis a message goes from the event loop as the one LPUSH that it is, in the form in which Celery and
kombu put it there: through Celery it costs several times as much (decision 0003). LTRIM and EXPIRE in the
same packet bound the list while no worker reads it. To any other broker a message goes through Celery, which
blocks, in a thread; there the bounds belong to the queue.

`probe` does what a message needs of the broker, for an event that does not exist.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol
from uuid import UUID

import redis.asyncio
from celery import Celery
from msgspec import json

from shared.domain import ids
from shared.messaging import queues, results
from shared.settings import Settings

_POP_SECONDS = 0.1
_PERSISTENT = 2


class WakeSender(Protocol):
    """A way to the broker."""

    async def send(self, queue: str, event_ids: Sequence[UUID]) -> None:
        """Send one message for these events of one owner; raises if the broker cannot be reached."""

    async def probe(self) -> None:
        """Send and take out a message that no worker reads; raises if the broker refuses any of that."""

    async def close(self) -> None:
        """Close the connections to the broker."""


class RedisSender:
    """Sends wake messages to Redis."""

    def __init__(self, celery: Celery, client: "redis.asyncio.Redis") -> None:
        self._celery = celery
        self._client = client
        self._no_events = ids.new_id(), ids.new_id()

    async def send(self, queue: str, event_ids: Sequence[UUID]) -> None:
        """Add the message to the queue's list, in one packet.

        The envelope is kombu's own (`kombu.transport.virtual`); a test compares it with one of Celery.
        """
        task = self._celery.amqp.as_task_v2(
            str(ids.new_id()),
            queues.APPLY_COMMANDS,
            args=([str(event_id) for event_id in event_ids],),
            argsrepr=queues.ARGUMENTS_SHOWN,
            ignore_result=True,
        )
        message = {
            "body": json.encode(task.body),  # bytes become base64
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": task.headers,
            "properties": {
                **task.properties,
                "body_encoding": "base64",
                "delivery_info": {"exchange": "", "routing_key": queue},
                "delivery_mode": _PERSISTENT,
                "delivery_tag": str(ids.new_id()),
                "priority": 0,
            },
        }
        commands = self._client.pipeline(transaction=False)
        commands.lpush(queue, json.encode(message))
        commands.ltrim(queue, 0, queues.MESSAGES_MAX - 1)
        commands.expire(queue, queues.MESSAGE_SECONDS_MAX)
        # An error of the pipeline itself would have the message's text in it.
        for reply in await commands.execute(raise_on_error=False):
            if isinstance(reply, Exception):
                raise reply

    async def probe(self) -> None:
        """Push a message and pop it again, from two queues at once and with their sizes, as a worker does."""
        names = [queues.event_queue_name(event_id) for event_id in self._no_events]
        await self.send(names[0], self._no_events)
        sizes = self._client.pipeline(transaction=True)
        sizes.llen(names[0])
        await sizes.execute()
        await self._client.brpop(names, timeout=_POP_SECONDS)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()


class CelerySender:
    """Sends wake messages through Celery, to any broker."""

    def __init__(self, celery: Celery) -> None:
        self._celery = celery
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="waker")
        self._no_event = ids.new_id()

    async def send(self, queue: str, event_ids: Sequence[UUID]) -> None:
        """Send the message as a Celery task."""
        await self._call(queues.wake, self._celery, queue, event_ids)

    async def probe(self) -> None:
        """Send a message to a queue that does not exist, which the broker confirms and drops."""
        queue = queues.event_queue_name(self._no_event)
        await self._call(queues.wake, self._celery, queue, [self._no_event])

    async def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _call(self, send: Callable[..., None], *arguments: object) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, send, *arguments)


def connect(celery: Celery, settings: Settings) -> WakeSender:
    """Return the sender for these settings; it connects when the first message is sent."""
    if settings.broker_url.startswith("redis"):
        return RedisSender(celery, results.connect_async(settings.broker_url))
    return CelerySender(celery)
