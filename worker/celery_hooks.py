"""The hooks by which Celery's worker becomes an owner of events.

Two threads: the owner's ticks and decides, and Celery's reads messages. The broker can stop
Celery's thread, and the owner goes on (decision 0037).

Each queue costs the worker time at every message, so a worker consumes the queues of a bounded number of
events that had a message or a pending command lately. The first message for another event comes through the
worker's own queue (decision 0036).

It relies on these internals of Celery and kombu:

- a consumer bootstep behind `celery.worker.consumer.tasks:Tasks`, with the consumer's `task_consumer`
  (`add_queue`, `consume`, `cancel_by_queue`, `on_message`), and `call_soon`, which other threads may
  call;
- `Consumer.create_task_handler`, `ensure_connected`, `channel_errors` and `on_connection_error_…`, through
  `app.conf.worker_consumer`;
- `Message.body` as JSON of `[args, kwargs, embed]`;
- kombu's Redis channel, whose `handlers["BRPOP"]` reads and delivers one message, by its `client`;
- its `connection`, which has a `_reject_inbound_message` for a message without a consumer;
- kombu's AMQP channel, which decodes no text if its `auto_decode` is false.

Celery and kombu are pinned to one minor version each; `tests/integration/test_waking.py` and the tests of
whole stacks fail when one of these changes.
"""

import time
import warnings
from collections.abc import Callable, Collection, Container, Sequence
from threading import Lock, Thread
from typing import Any
from uuid import UUID

import structlog
from celery import Celery, bootsteps, signals
from celery.exceptions import CPendingDeprecationWarning, ImproperlyConfigured
from celery.worker.consumer import Consumer
from celery.worker.state import maybe_shutdown
from kombu import Connection, Message, Queue, compression
from msgspec import json

from shared.domain import ids
from shared.messaging import queues
from worker.owner import Owner

log = structlog.get_logger(__name__)

_RETRY_SECONDS = 1
_END_SECONDS_MAX = 15
"""The longest that a worker's end waits for its batch in progress; PostgreSQL rolls back what is cut off."""
_YIELD_SECONDS = 0.001
"""After a message Celery's thread rests, so that the owner's thread begins at once and not 5 ms later."""
_ERROR_LENGTH_MAX = 200
_GARBAGE = (ValueError, LookupError, TypeError, AttributeError, RecursionError)
"""What kombu raises for a message that it cannot read; a lost connection raises none of these."""


def install(app: Celery, owner: Owner, event_queues: "EventQueues") -> None:
    """Make the application's worker an owner for as long as it runs."""
    app.owner, app.event_queues = owner, event_queues  # type: ignore[attr-defined]  # the classes below find them there
    app.conf.worker_consumer = LedgerConsumer
    app.conf.task_queues = [queues.owner_queue(owner.number)]
    app.steps["worker"].add(OwnerStep)
    app.steps["consumer"].add(EventQueuesStep)
    app.task(name=queues.APPLY_COMMANDS)(apply_commands)
    for content_type in compression.encoders():
        compression.register(_refuse_compressed, _refuse_compressed, content_type)
    signals.worker_shutting_down.connect(lambda **_: owner.end(), weak=False)


class OwnerStep(bootsteps.StartStopStep):
    """Runs the owner on a thread of its own, from before the broker is connected until the worker ends."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, worker: Any, **options: Any) -> None:  # noqa: ANN401 - Celery's worker is untyped
        super().__init__(worker, **options)
        self._thread = Thread(target=worker.app.owner.run, name="owner", daemon=True)

    def start(self, worker: Any) -> None:  # noqa: ANN401
        """Begin to tick."""
        if not worker.pool_cls.__module__.endswith(".solo"):
            raise ImproperlyConfigured(
                "AdmitOne's worker runs with --pool=solo: one process is one owner. "
                "For more of them start more workers."
            )
        # Celery would write it at each lost connection.
        warnings.filterwarnings("ignore", category=CPendingDeprecationWarning)
        self._thread.start()

    def stop(self, worker: Any) -> None:  # noqa: ANN401
        """Give up all events after the batch in progress."""
        worker.app.owner.end()
        if self._thread.is_alive():
            self._thread.join(_END_SECONDS_MAX)

    def terminate(self, worker: Any) -> None:  # noqa: ANN401
        """Give up all events after the batch in progress, also when Celery is in a hurry."""
        self.stop(worker)


class EventQueuesStep(bootsteps.StartStopStep):
    """Consumes the event queues from each new connection to the broker."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def start(self, c: Any) -> None:  # noqa: ANN401
        """Consume the queues of the owned events, now and after every reconnection."""
        drop_garbage(c.task_consumer.channel)
        # RabbitMQ delivers messages of one queue while the next is declared.
        c.task_consumer.on_message = c.create_task_handler()
        c.app.event_queues.attach(c)

    def stop(self, c: Any) -> None:  # noqa: ANN401
        """Forget the connection."""
        c.app.event_queues.detach()


class LedgerConsumer(Consumer):
    """A consumer that hands over the events of each message, and outlives each error of the broker."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # Celery connects again after these errors, and ends the worker after any other.
        self.channel_errors = (Exception,)

    def create_task_handler(self, *_: Any, **__: Any) -> Callable[[Message], None]:
        """Return the handler of a message: it wakes the owner where the message is read (decision 0002)."""
        return message_handler(self.app.owner.wake)  # type: ignore[attr-defined]

    def ensure_connected(self, conn: Connection) -> Connection:
        """Return a live connection; try once a second until the broker can be reached."""
        return conn.ensure_connection(
            _broker_away,
            max_retries=None,  # type: ignore[arg-type]  # None is kombu's default: try for ever
            interval_start=_RETRY_SECONDS,
            interval_step=0,
            callback=maybe_shutdown,
        )

    def on_decode_error(self, message: Message, exc: Exception) -> None:  # noqa: ARG002 - Celery's signature
        """Drop a message that cannot be unpacked."""
        _log_garbage(exc)

    def on_connection_error_before_connected(self, exc: Exception) -> None:
        """Wait before the next attempt."""
        _broker_away(exc, _RETRY_SECONDS)
        time.sleep(_RETRY_SECONDS)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Give the connection up, and wait before the next attempt."""
        _broker_away(exc, _RETRY_SECONDS)
        super().on_connection_error_after_connected(exc)
        time.sleep(_RETRY_SECONDS)


def apply_commands(event_ids: Collection[str]) -> None:
    """Stand for the task in Celery's registry; `LedgerConsumer` takes its messages."""


def message_handler(wake: Callable[[Sequence[UUID]], None]) -> Callable[[Message], None]:
    """Return what is done with each message that kombu delivers: `wake` gets its events; it never raises."""

    def receive(message: Message) -> None:
        try:
            if message.headers["task"] != queues.APPLY_COMMANDS:
                raise ValueError(f"not a message for {queues.APPLY_COMMANDS}")  # noqa: TRY301 - garbage like any other
            text = message.body or ""
            if len(text) > queues.MESSAGE_BYTES_MAX:  # to decode it may cost any memory and time
                raise ValueError(f"a message of {len(text)} bytes")  # noqa: TRY301 - likewise
            (event_ids,), _, _ = json.decode(text)
            if len(event_ids) > queues.MESSAGE_EVENTS_MAX:
                raise ValueError(f"{len(event_ids)} events")  # noqa: TRY301 - likewise
            wake([UUID(event_id) for event_id in event_ids])
            time.sleep(_YIELD_SECONDS)
        except Exception as error:  # noqa: BLE001 - any error: the ticks find the pending commands
            _log_garbage(error)

    return receive


def drop_garbage(channel: Any) -> None:  # noqa: ANN401
    """Let a new channel decode no message that is long, in no way but ours, and drop what it cannot read.

    A Redis channel reads no message that is too long, and drops one that kombu cannot read; other channels
    hand such messages over. It also drops a message for a queue that it has just ceased to consume: kombu
    would put the message back, for which a worker needs no right else, and without a time to live.
    """
    channel.auto_decode = False
    handlers = getattr(channel, "handlers", {})
    if "BRPOP" not in handlers:
        return
    channel.connection._reject_inbound_message = lambda _: None  # noqa: SLF001 - see the module's docstring
    channel.client.set_response_callback("BRPOP", _bounded_item)
    read = handlers["BRPOP"]

    def read_or_drop(**options: Any) -> object:
        try:
            return read(**options)
        except _GARBAGE as error:
            _log_garbage(error)
            return True

    handlers["BRPOP"] = read_or_drop


def _bounded_item(reply: Sequence[bytes] | None, **_: object) -> Sequence[bytes] | None:
    """Return Redis' answer to BRPOP, a queue's name and its message, if the message is not too long."""
    if reply and len(reply[1]) > queues.MESSAGE_BYTES_MAX:
        raise ValueError(f"a message of {len(reply[1])} bytes")
    return reply


def _refuse_compressed(_: bytes) -> bytes:
    """Stand for each of kombu's ways to decompress: wake messages are not compressed."""
    raise ValueError("a compressed message")


def _log_garbage(error: BaseException) -> None:
    log.warning("wake_not_understood", error=f"{type(error).__name__}: {error}"[:_ERROR_LENGTH_MAX])


def _broker_away(error: BaseException, interval: float) -> None:  # noqa: ARG001 - kombu's signature
    log.warning("broker_away", error=str(error)[:_ERROR_LENGTH_MAX])


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

    def release_others(self, buckets: Container[int]) -> int:
        """Stop consuming the queues of idle events and of other buckets; return how many are left."""
        since = self._clock() - queues.CONSUMED_SECONDS
        with self._lock:
            active = self._active_at.items()
            released = [id_ for id_, at in active if at < since or ids.bucket(id_) not in buckets]
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
