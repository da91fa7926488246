"""The hooks by which Celery's worker becomes an owner of events.

It relies on these internals of Celery and kombu:

- a consumer bootstep behind `celery.worker.consumer.tasks:Tasks`, with the consumer's `task_consumer`
  (`add_queue`, `consume`, `cancel_by_queue`), `timer` and `pool`;
- `Consumer.create_task_handler` and `Consumer.ensure_connected`, through `app.conf.worker_consumer`;
- a task's `Strategy` attribute, and `Message.payload` as `(args, kwargs, embed)`;
- kombu's `Message.ack_log_error` and `reject_log_error`.

Celery and kombu are pinned to one minor version each; `tests/integration/test_waking.py` and the tests of
whole stacks fail when one of these changes.
"""

from collections.abc import Callable, Collection
from typing import Any
from uuid import UUID

import structlog
from celery import Celery, bootsteps
from celery.exceptions import ImproperlyConfigured
from celery.worker.consumer import Consumer
from celery.worker.state import maybe_shutdown
from kombu import Connection, Message

from shared.messaging import queues
from worker.owner import Owner

log = structlog.get_logger(__name__)


def install(app: Celery, owner: Owner) -> None:
    """Make the application's worker an owner for as long as it runs."""
    app.owner = owner  # type: ignore[attr-defined]  # the classes below find the owner there
    app.conf.worker_consumer = LedgerConsumer
    app.conf.task_queues = [queues.owner_queue(owner.number)]
    app.steps["consumer"].add(OwnerStep)
    app.task(name=queues.APPLY_COMMANDS, Strategy=f"{__name__}:{handle_at_once.__name__}")(apply_commands)


class OwnerStep(bootsteps.StartStopStep):
    """Attaches the owner to each new connection to the broker, and lets it tick."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def start(self, c: Any) -> None:  # noqa: ANN401 - Celery's consumer is untyped
        """Consume the queues of active events, now and after every reconnection, and tick."""
        if type(c.pool).__module__ != "celery.concurrency.solo":
            raise ImproperlyConfigured(
                "AdmitOne's worker runs with --pool=solo: one process is one owner. "
                "For more of them start more workers."
            )
        owner: Owner = c.app.owner
        owner.attach(_EventQueues(c))
        owner.tick()
        c.timer.call_repeatedly(owner.settings.tick_seconds, owner.tick)

    def stop(self, c: Any) -> None:  # noqa: ANN401
        """Forget the consumer; ownership itself survives a broker that restarts."""
        c.app.owner.detach()

    def shutdown(self, c: Any) -> None:  # noqa: ANN401
        """Give up all events."""
        c.app.owner.close()


class LedgerConsumer(Consumer):
    """A consumer whose owner goes on deciding while the broker cannot be reached (decision 0030)."""

    def create_task_handler(self, *args: Any, **options: Any) -> Callable[..., Any]:
        """Return the handler of a message; a delivered message has left its queue: nothing is to be acked."""
        receive = super().create_task_handler(*args, **options)

        def receive_delivered(message: Message) -> None:
            vars(message).update(ack_log_error=_do_nothing, reject_log_error=_do_nothing)
            receive(message)

        return receive_delivered

    def ensure_connected(self, conn: Connection) -> Connection:
        """Return a live connection; try once a tick until the broker can be reached."""
        owner: Owner = self.app.owner  # type: ignore[attr-defined]

        def tick() -> None:
            maybe_shutdown()
            owner.tick()

        return conn.ensure_connection(
            _broker_away,
            max_retries=None,  # type: ignore[arg-type]  # None is kombu's default: try for ever
            interval_start=owner.settings.tick_seconds,  # type: ignore[arg-type]  # slept as it is
            interval_step=0,
            callback=tick,
        )


def apply_commands(event_ids: Collection[str]) -> None:
    """Stand for the task in Celery's registry; `handle_at_once` takes its messages."""


def handle_at_once(_task: object, app: Any, *_: object, **__: object) -> Callable[..., None]:  # noqa: ANN401
    """Return Celery's strategy for wake messages: handle each at once, where it is read.

    Celery's usual strategy tracks each task (revoke, retry, acknowledgement, events), which costs more than
    finding the pending commands (decision 0002).
    """
    owner: Owner = app.owner

    def receive(message: Message, *_: object) -> None:
        try:
            (event_ids,), _, _ = message.payload
            owner.wake([UUID(event_id) for event_id in event_ids])
        except Exception:  # any error: the ticks find the pending commands
            log.exception("wake_not_understood")

    return receive


class _EventQueues:
    """The event queues that this process consumes from one connection to the broker, beside its own queue."""

    def __init__(self, consumer: Any) -> None:  # noqa: ANN401
        self._consumer = consumer.task_consumer
        self._timer = consumer.timer

    def start(self, events: Collection[UUID]) -> None:
        for event_id in events:
            self._consumer.add_queue(queues.event_queue(event_id))
        self._consumer.consume()

    def stop(self, events: Collection[UUID]) -> None:
        for event_id in events:
            self._consumer.cancel_by_queue(queues.event_queue(event_id).name)

    def call_after(self, seconds: float, call: Callable[[], None]) -> None:
        self._timer.call_after(seconds, call)


def _broker_away(error: BaseException, interval: float) -> None:  # noqa: ARG001 - kombu's signature
    log.warning("broker_away", error=str(error))


def _do_nothing(*_: object, **__: object) -> None:
    pass
