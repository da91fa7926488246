"""A new connection to the broker: messages may come before Celery begins to read."""

from types import SimpleNamespace
from typing import Any, cast

from worker.celery_hooks import EventQueuesStep


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
