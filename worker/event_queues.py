"""The event queues that a worker consumes: those of its active events.

Each queue costs the worker time at every message, so a worker consumes the queues of a bounded number of
events that had a message or a pending command lately. The first message for another event comes through the
worker's own queue (decision 0036).

Celery's thread consumes the queues. The owner's thread only says which: the broker may hang.
"""

from collections.abc import Callable, Collection, Container
from threading import Lock
from typing import Any
from uuid import UUID

import structlog
from kombu import Connection, Queue

from shared.messaging import queues

log = structlog.get_logger(__name__)

_ERROR_LENGTH_MAX = 200


class EventQueues:
    """Events, each with the time at which it was active last; at most `queues.CONSUMED_EVENTS_MAX`."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = Lock()
        self._active_at: dict[UUID, float] = {}
        self._consumed: set[UUID] = set()
        self._consumer: Any = None

    def consume(self, event_ids: Collection[UUID]) -> None:
        """Consume these events' queues from now on; called by any thread."""
        now, changed = self._clock(), False
        with self._lock:
            for event_id in event_ids:
                if event_id in self._active_at:
                    self._active_at[event_id] = now
                elif len(self._active_at) < queues.CONSUMED_EVENTS_MAX:
                    self._active_at[event_id] = now
                    changed = True
        if changed:
            self._call_follow()

    def release(self, event_ids: Collection[UUID]) -> None:
        """Stop consuming these events' queues; called by any thread."""
        with self._lock:
            changed = [self._active_at.pop(event_id, None) for event_id in event_ids]
        if any(at is not None for at in changed):
            self._call_follow()

    def release_others(self, owned: Container[UUID]) -> int:
        """Stop consuming the queues of idle events and of those not in `owned`; return how many are left."""
        since = self._clock() - queues.CONSUMED_SECONDS
        with self._lock:
            released = [id_ for id_, at in self._active_at.items() if at < since or id_ not in owned]
        self.release(released)
        return len(self._active_at)

    def attach(self, consumer: Any) -> None:  # noqa: ANN401 - Celery's consumer is untyped
        """Consume from this Celery consumer, which has a new connection; called by Celery's thread."""
        self._consumed = set()
        self._consumer = consumer
        self._follow()

    def detach(self) -> None:
        """Forget the Celery consumer: its connection is lost; called by Celery's thread."""
        self._consumer = None

    def _call_follow(self) -> None:
        consumer = self._consumer
        if consumer is not None:
            consumer.call_soon(self._follow)

    def _follow(self) -> None:
        """Consume the queues of the active events and no others; on Celery's thread."""
        if self._consumer is None:
            return
        with self._lock:
            active = set(self._active_at)
        task_consumer = self._consumer.task_consumer
        for event_id in self._consumed - active:
            task_consumer.cancel_by_queue(queues.event_queue(event_id).name)
        for event_id in active - self._consumed:
            task_consumer.add_queue(_declared(queues.event_queue(event_id), self._consumer.connection))
        if not active <= self._consumed:
            task_consumer.consume()
        self._consumed = active


def _declared(queue: Queue, connection: Connection) -> Queue:
    """Return a queue that RabbitMQ has declared; take it as it is where an earlier version made it.

    RabbitMQ refuses other arguments for a queue that exists, and closes the channel on which they were asked
    for. To Redis a queue is the name of a list.
    """
    if connection.transport.driver_type != "amqp":
        return queue
    try:
        with connection.channel() as channel:
            queue(channel).queue_declare()
    except connection.channel_errors as error:
        log.warning("queue_without_bounds", queue=queue.name, error=str(error)[:_ERROR_LENGTH_MAX])
    queue.no_declare = True  # type: ignore[attr-defined]  # kombu's stubs lack it
    return queue
