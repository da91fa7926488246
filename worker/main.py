"""The worker process: a Celery application that `celery -A worker.main worker` runs.

Celery brings the connection to the broker, its event loop, its signals and its command line. What
is added is one bootstep, which makes the process an owner, and a consumer that keeps deciding
while the broker is away.
"""

import os
from collections.abc import Callable, Collection
from typing import Any
from uuid import UUID

import structlog
from celery import bootsteps, signals
from celery.exceptions import ImproperlyConfigured
from celery.worker.consumer import Consumer
from celery.worker.state import maybe_shutdown
from kombu import Connection, Message

from shared import memory, settings, telemetry
from shared.messaging import queues, results
from worker.owner import Owner

log = structlog.get_logger(__name__)

_SOON_SECONDS = 0.001

_settings = settings.current()
app = queues.celery_app(_settings)
_owner = Owner(settings=_settings, results=results.Shelf(_settings.result_url, _settings.result_keep_seconds))


class _Queues:
    """The event queues that this process consumes from one connection to the broker."""

    def __init__(self, consumer: Any) -> None:  # noqa: ANN401 - Celery's consumer is untyped
        self._consumer = consumer.task_consumer
        self._timer = consumer.timer

    def start(self, events: Collection[UUID]) -> None:
        for event_id in events:
            self._consumer.add_queue(queues.event_queue(event_id))
        self._consumer.consume()

    def stop(self, events: Collection[UUID]) -> None:
        for event_id in events:
            self._consumer.cancel_by_queue(queues.event_queue(event_id).name)

    def soon(self, call: Callable[[], None]) -> None:
        # Not at once: the event loop fires ten timers that are due in a row, and then sleeps for a second.
        self._timer.call_after(_SOON_SECONDS, call)


class OwnerStep(bootsteps.StartStopStep):
    """Makes the process an owner for as long as it runs."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def start(self, c: Any) -> None:  # noqa: ANN401
        """Consume what is owned, now and after every reconnection, and tick."""
        if type(c.pool).__module__ != "celery.concurrency.solo":
            raise ImproperlyConfigured(
                "AdmitOne's worker runs with --pool=solo: one process is one owner. "
                "For more of them start more workers."
            )
        _owner.attach(_Queues(c))
        _owner.tick()
        c.timer.call_repeatedly(_settings.tick_seconds, _owner.tick)

    def stop(self, c: Any) -> None:  # noqa: ANN401, ARG002 - Celery's signature
        """Forget the consumer; ownership itself survives a broker that restarts."""
        _owner.detach()

    def shutdown(self, c: Any) -> None:  # noqa: ANN401, ARG002
        """Hand all events over."""
        _owner.close()


class LedgerConsumer(Consumer):
    """A consumer that goes on deciding from the ledger while the broker cannot be reached."""

    def create_task_handler(self, *args: Any, **options: Any) -> Callable[..., Any]:
        """Return what takes a message; it left its queue when it was delivered, so nothing is to be acked."""
        receive = super().create_task_handler(*args, **options)

        def receive_taken(message: Message) -> None:
            vars(message).update(ack_log_error=_do_nothing, reject_log_error=_do_nothing)
            receive(message)

        return receive_taken

    def ensure_connected(self, conn: Connection) -> Connection:
        """Return a live connection, trying once a tick for as long as it takes."""
        return conn.ensure_connection(
            self._broker_away,
            max_retries=None,  # type: ignore[arg-type]  # None is kombu's default: try for ever
            interval_start=_settings.tick_seconds,  # type: ignore[arg-type]  # slept as it is
            interval_step=0,
            callback=self._meanwhile,
        )

    def _broker_away(self, error: BaseException, interval: float) -> None:  # noqa: ARG002 - kombu's signature
        log.warning("broker_away", error=str(error))

    def _meanwhile(self) -> None:
        maybe_shutdown()
        _owner.tick()


def _do_nothing(*_: object, **__: object) -> None:
    pass


app.conf.worker_consumer = f"{__name__}:{LedgerConsumer.__name__}"
app.steps["consumer"].add(OwnerStep)


def at_once(task: Any, *_: object, **__: object) -> Callable[..., None]:  # noqa: ANN401
    """Return Celery's way to take up rings: run the task where its message is read, and nothing else.

    Nobody revokes, delays, retries or acknowledges a ring, or asks what became of it. Celery's usual account
    of all that takes longer than finding what is pending. It logs no task either; the outcomes tell.
    """

    def receive(message: Message, *_: object) -> None:
        try:
            arguments, named, _ = message.payload
            task.run(*arguments, **named)
        except Exception:  # whatever is wrong with the message, the ticks find what is pending
            log.exception("ring_not_understood")

    return receive


@app.task(name=queues.APPLY_COMMANDS, Strategy=f"{__name__}:{at_once.__name__}")
def apply_commands(
    event_id: str,
    command_ids: list[str],  # noqa: ARG001 - for who reads the queue
    others: Collection[str] = (),
) -> None:
    """Decide what is pending for this event, and for others of the same owner that ring with it.

    The ids say what rang; the ledger says what is pending, so a lost, doubled or late message
    changes nothing.
    """
    _owner.apply([UUID(event_id), *map(UUID, others)])


@signals.worker_ready.connect
def _freeze(**_: object) -> None:
    memory.freeze()


@signals.setup_logging.connect
def _setup_logging(**_: object) -> None:
    telemetry.configure(_settings)


def serve() -> None:
    """Run this process as a worker until SIGTERM or SIGINT; ends after the batch in hand."""
    app.worker_main(
        [
            "--quiet",
            "worker",
            "--pool=solo",
            "--concurrency=1",
            # Two of one name on a host would fight over the broker's one exclusive queue of that name.
            f"--hostname=worker-{os.getpid()}@%h",
            "--without-gossip",
            "--without-mingle",
            "--without-heartbeat",
            "--loglevel",
            _settings.log_level,
        ]
    )
