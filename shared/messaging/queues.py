"""The event queues: Celery's configuration, one queue per event, and the ring that wakes its owner.

A message says that an event has commands; it carries their ids and no payload. It may be lost,
doubled or late without harm, because the owner takes what is pending from the ledger.

Keys that the broker then holds in Redis: `event.<event id>` (a list of messages while they wait),
`admitone` (the queue that an idle worker consumes), and kombu's own `_kombu.*`.
"""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from celery import Celery
from kombu import Exchange, Queue
from msgspec import json

from shared.domain import ids
from shared.settings import Settings

APPLY_COMMANDS = "apply_commands"
_IDLE_QUEUE = "admitone"
# The default exchange routes by the queue's name and leaves no binding behind for every event.
_DEFAULT_EXCHANGE = Exchange("")
_SOCKET_SECONDS_MAX = 5
_PERSISTENT = 2


def celery_app(settings: Settings) -> Celery:
    """Return a Celery application for these settings; worker and API use the same configuration."""
    app = Celery("admitone", broker=settings.broker_url, backend=settings.result_url)
    app.conf.update(
        task_default_queue=_IDLE_QUEUE,
        task_queues=[_queue(_IDLE_QUEUE)],
        task_create_missing_queues=False,
        task_ignore_result=True,
        task_serializer="json",
        accept_content=["json"],
        result_serializer="json",
        result_expires=settings.result_keep_seconds,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_channel_error_retry=True,
        broker_transport_options=_transport_options(settings.broker_url),
        redis_socket_timeout=_SOCKET_SECONDS_MAX,
        redis_socket_connect_timeout=_SOCKET_SECONDS_MAX,
        worker_pool="solo",
        worker_prefetch_multiplier=1,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_soft_shutdown_timeout=0,
        worker_hijack_root_logger=False,
        worker_send_task_events=False,
        worker_redirect_stdouts=False,
        enable_utc=True,
    )
    return app


def event_queue(event_id: UUID) -> Queue:
    """Return the queue of an event."""
    return _queue(event_queue_name(event_id))


def event_queue_name(event_id: UUID) -> str:
    """Return `event.<event id>`."""
    return f"event.{event_id}"


def ring(app: Celery, event_id: UUID, command_ids: Sequence[UUID], others: Sequence[UUID] = ()) -> None:
    """Tell the event's owner that commands are in the ledger; blocks, and raises when the broker is gone.

    `others` are events of the same owner that have commands too.
    """
    app.send_task(
        APPLY_COMMANDS,
        args=_arguments(event_id, command_ids, others),
        argsrepr=_shortly(event_id),
        queue=event_queue(event_id),  # type: ignore[arg-type]  # Celery takes a queue as well as its name
        declare=[],
        ignore_result=True,
        retry=False,
    )


def redis_message(
    app: Celery, event_id: UUID, command_ids: Sequence[UUID], others: Sequence[UUID] = ()
) -> bytes:
    """Return what `ring` adds, through kombu, to the head of the Redis list that is the event's queue."""
    task = app.amqp.as_task_v2(
        str(ids.new_id()),
        APPLY_COMMANDS,
        args=_arguments(event_id, command_ids, others),
        argsrepr=_shortly(event_id),
        ignore_result=True,
    )
    return json.encode(
        {
            "body": json.encode(task.body),  # bytes become base64
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": task.headers,
            "properties": {
                **task.properties,
                "body_encoding": "base64",
                "delivery_info": {"exchange": "", "routing_key": event_queue_name(event_id)},
                "delivery_mode": _PERSISTENT,
                "delivery_tag": str(ids.new_id()),
                "priority": 0,
            },
        }
    )


def _arguments(
    event_id: UUID, command_ids: Sequence[UUID], others: Sequence[UUID]
) -> tuple[str | list[str], ...]:
    return (str(event_id), _texts(command_ids), *([_texts(others)] if others else []))


def _shortly(event_id: UUID) -> str:
    """Return the arguments for people; what Celery makes of them by itself costs as much as sending."""
    return f"({event_id}, …)"


def _texts(ids: Sequence[UUID]) -> list[str]:
    return [str(id_) for id_ in ids]


def _queue(name: str) -> Queue:
    # A message is taken for good when it is delivered: keeping account of it costs more than losing it.
    return Queue(name, _DEFAULT_EXCHANGE, routing_key=name, no_ack=True)


def _transport_options(broker_url: str) -> dict[str, Any]:
    if broker_url.startswith("amqp"):
        return {"confirm_publish": True}
    # One list per queue: the default of four priority steps would quadruple what BRPOP waits on.
    return {
        "priority_steps": [0],
        "socket_connect_timeout": _SOCKET_SECONDS_MAX,
        # Without it a broker that hangs would hold the one thread that also ticks and decides.
        "socket_timeout": _SOCKET_SECONDS_MAX,
    }
