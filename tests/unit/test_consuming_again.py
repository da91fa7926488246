"""A new connection to the broker: messages may come before Celery begins to read."""

from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

from shared.domain import ids
from shared.messaging import queues
from worker.celery_hooks import EventQueues, EventQueuesStep


def test_messages_are_handled_before_queues_are_consumed() -> None:
    handlers: list[object] = []

    def attach(consumer: Any) -> None:  # noqa: ANN401 - a stand-in
        handlers.append(consumer.task_consumer.on_message)

    handler = object()
    consumer = SimpleNamespace(
        task_consumer=SimpleNamespace(channel=SimpleNamespace(), on_message=None),
        create_task_handler=lambda: handler,
        app=SimpleNamespace(event_queues=SimpleNamespace(attach=attach)),
    )
    EventQueuesStep.start(cast("EventQueuesStep", None), consumer)

    assert handlers == [handler]


def test_a_new_connection_consumes_all_queues_again() -> None:
    consumed: list[str] = []
    consumer = SimpleNamespace(
        connection=SimpleNamespace(transport=SimpleNamespace(driver_type="redis")),
        task_consumer=SimpleNamespace(
            add_queue=lambda queue: consumed.append(queue.name), consume=lambda: None
        ),
        call_soon=lambda follow: follow(),
    )
    event_queues, event_id = EventQueues(lambda: 0.0), UUID(int=1)
    event_queues.attach(consumer)
    event_queues.consume([event_id])
    event_queues.detach()
    event_queues.attach(consumer)

    assert consumed == [queues.EVENT_QUEUE % event_id] * 2


def test_queues_of_idle_events_are_given_up() -> None:
    times = iter((0.0, queues.CONSUMED_SECONDS, queues.CONSUMED_SECONDS + 1.0))
    event_queues = EventQueues(lambda: next(times))
    event_queues.consume([UUID(int=1)])

    assert [event_queues.release_others(range(ids.BUCKETS)) for _ in range(2)] == [1, 0]


def test_queues_of_busy_events_are_kept() -> None:
    times = iter((0.0, queues.CONSUMED_SECONDS, queues.CONSUMED_SECONDS + 1.0))
    event_queues = EventQueues(lambda: next(times))
    for _ in range(2):
        event_queues.consume([UUID(int=1)])

    assert event_queues.release_others(range(ids.BUCKETS)) == 1
