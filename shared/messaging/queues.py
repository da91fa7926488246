"""The queues: Celery's configuration, a queue of each event and of each worker, and the wake message.

A message carries event ids and nothing else. It may be lost, doubled or late without harm, because the owner
reads the pending commands from the ledger (decision 0008). An owner consumes the queues of its active events
and a queue of its own, to which the first message for an event goes (decision 0036).

Keys that the broker then holds in Redis: `event.<event id>` and `worker.<worker number>`, lists of at most
`MESSAGES_MAX` messages, kept for at most `MESSAGE_SECONDS_MAX` after the last message. In RabbitMQ the same
bounds are arguments of the queue.

From the API a message goes to Redis as the one LPUSH that it is, in the form in which Celery and kombu put it
there: through Celery it costs several times as much (decision 0003). To any other broker it goes through
Celery, which blocks, in a thread.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Protocol
from uuid import UUID

import redis.asyncio
from celery import Celery
from kombu import Exchange, Queue
from msgspec import json

from shared import environment, urls
from shared.domain import ids
from shared.messaging import results
from shared.settings import Settings

APPLY_COMMANDS = "apply_commands"
EVENT_QUEUE, OWNER_QUEUE = "event.%s", "worker.%d"
"""The names of an event's queue, with its id, and of a worker's own queue, with its number."""
CONSUMED_SECONDS = 30
"""An owner consumes an event's queue so long after the event's last message or pending command."""
ADDRESSED_SECONDS = 10
"""The API addresses an event's queue so long after its last message; the owner consumes the queue longer."""
CONSUMED_EVENTS_MAX = 1_000
"""An owner consumes the queues of so many events: each costs it about 1.2 µs a message."""
# The default exchange routes by the queue's name and needs no binding for each event. A delivered
# message is deleted (no_ack): a lost one costs at most a tick, because the owner reads the ledger.
_queue = partial(Queue, exchange=Exchange(""), no_ack=True)
MESSAGES_MAX = 100
"""An event needs one message, since the owner reads the ledger; an owner's queue has one a round at most."""
MESSAGE_EVENTS_MAX = 5_000
"""Events of one message at most: a longer list would keep its owner from the events that have commands."""
MESSAGE_BYTES_MAX = 1_000_000
"""Of one message at most, which is several times what one of all these events has."""
MESSAGE_SECONDS_MAX = 30
"""A message older than a tick is of no use: the ticks have found its commands."""
_SOCKET_SECONDS_MAX = 5
_SEND_SECONDS_MAX = 1
_POP_SECONDS = 0.1
_PERSISTENT = 2
_OF_ANOTHER_TYPE = "WRONGTYPE"
"""Redis' word for a key that is no list; workers could consume no queue beside such a one."""
ARGUMENTS_SHOWN = "(events,)"
"""For logs and monitors: Celery's own representation of the arguments costs as much as sending."""


def celery_app(settings: Settings) -> Celery:
    """Return a Celery application for these settings; worker and API use the same configuration.

    Removes Celery's own variables from this process's environment: Celery prefers them to its configuration.
    """
    environment.clean()
    broker_url, tls = urls.amqp_tls(settings.broker_url)
    app = Celery("admitone", broker=broker_url, backend=settings.result_url)
    app.conf.update(
        task_create_missing_queues=False,
        # Else Celery binds a worker's own queue to an exchange, and Redis keeps each binding for ever.
        task_default_exchange="",
        task_ignore_result=True,
        task_serializer="json",
        accept_content=["json"],
        result_serializer="json",
        result_expires=settings.result_keep_seconds,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_channel_error_retry=True,
        broker_use_ssl=tls,
        broker_transport_options=_transport_options(settings.broker_url),
        redis_socket_timeout=_SOCKET_SECONDS_MAX,
        redis_socket_connect_timeout=_SOCKET_SECONDS_MAX,
        worker_pool="solo",
        worker_prefetch_multiplier=1,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_soft_shutdown_timeout=0,
        worker_hijack_root_logger=False,
        worker_send_task_events=False,
        # Its queues would need more of the broker than wake messages do, and any client could stop workers.
        worker_enable_remote_control=False,
        worker_redirect_stdouts=False,
        enable_utc=True,
    )
    return app


def event_queue(event_id: UUID) -> Queue:
    """Return the queue of an event, `event.<event id>`: it holds few messages, each for a short time."""
    return _named(EVENT_QUEUE % event_id)


def owner_queue(number: int) -> Queue:
    """Return the queue that a worker consumes as long as it runs; RabbitMQ deletes it then."""
    return _named(OWNER_QUEUE % number, auto_delete=True)


def wake(app: Celery, queue: str, event_ids: Sequence[UUID]) -> None:
    """Wake the owner of these events, which have commands in the ledger, by a message to this queue.

    Blocks, and raises if the broker cannot be reached.
    """
    app.send_task(
        APPLY_COMMANDS,
        args=([str(event_id) for event_id in event_ids],),
        argsrepr=ARGUMENTS_SHOWN,
        queue=_named(queue),  # type: ignore[arg-type]  # Celery takes a queue as well as its name
        declare=[],
        ignore_result=True,
        retry=False,
        confirm_timeout=_SEND_SECONDS_MAX,
    )


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
        self._no_event = ids.new_id()

    async def send(self, queue: str, event_ids: Sequence[UUID]) -> None:
        """Add the message to the queue's list, in one packet, and bound the list while no worker reads it.

        The envelope is kombu's own (`kombu.transport.virtual`); a test compares it with one of Celery.
        """
        task = self._celery.amqp.as_task_v2(
            str(ids.new_id()),
            APPLY_COMMANDS,
            args=([str(event_id) for event_id in event_ids],),
            argsrepr=ARGUMENTS_SHOWN,
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
        commands.ltrim(queue, 0, MESSAGES_MAX - 1)
        commands.expire(queue, MESSAGE_SECONDS_MAX)
        # An error of the pipeline itself would have the message's text in it.
        for reply in await commands.execute(raise_on_error=False):
            if isinstance(reply, Exception):
                if _OF_ANOTHER_TYPE in str(reply):
                    await self._client.expire(queue, 0)  # the next message finds the name free
                raise reply

    async def probe(self) -> None:
        """Push a message and pop it again, from both kinds of queues and with sizes, as a worker does."""
        names = _probed(self._no_event)
        await self.send(names[0], [self._no_event])
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
        await self._call(wake, self._celery, queue, event_ids)

    async def probe(self) -> None:
        """Send a message to a queue that does not exist, which the broker confirms and drops; then read."""
        names = _probed(self._no_event)
        await self._call(wake, self._celery, names[0], [self._no_event])
        await self._call(_declare_and_read, self._celery, names)

    async def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _call(self, send: Callable[..., None], *arguments: object) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, send, *arguments)


def _declare_and_read(app: Celery, names: Sequence[str]) -> None:
    """Make queues, read and remove them, as workers do; each ends with the connection in any case."""
    with app.producer_or_acquire() as producer, producer.connection.channel() as channel:
        for name in names:
            made = _named(name, exclusive=True)(channel)
            made.queue_declare()
            made.get(no_ack=True)
            made.delete()


def _probed(no_event: UUID) -> Sequence[str]:
    """Return a name of each kind of queue, which no event and no worker has."""
    return EVENT_QUEUE % no_event, OWNER_QUEUE % -no_event.int


def connect_sender(celery: Celery, settings: Settings) -> WakeSender:
    """Return the sender for these settings; it connects when the first message is sent."""
    if settings.broker_url.startswith("redis"):
        return RedisSender(celery, results.connect_async(settings.broker_url))
    return CelerySender(celery)


def _named(name: str, *, auto_delete: bool = False, exclusive: bool = False) -> Queue:
    return _queue(
        name=name,
        routing_key=name,
        auto_delete=auto_delete,
        exclusive=exclusive,
        max_length=MESSAGES_MAX,
        message_ttl=float(MESSAGE_SECONDS_MAX),
    )


def _transport_options(broker_url: str) -> dict[str, Any]:
    if broker_url.startswith("amqp"):
        # Without the time-out a broker that hangs would block the sender's thread for ever.
        return {"confirm_publish": True, "read_timeout": _SOCKET_SECONDS_MAX}
    # One list per queue: with the default of four priority steps BRPOP would wait on four times as many.
    return {
        # Wake messages are never acknowledged. Otherwise kombu would write keys and run scripts for that, and
        # could not consume from a Redis that refuses them.
        "ack_emulation": False,
        "priority_steps": [0],
        "socket_connect_timeout": _SOCKET_SECONDS_MAX,
        # Without this a broker that hangs would block Celery's thread for ever.
        "socket_timeout": _SOCKET_SECONDS_MAX,
    }
