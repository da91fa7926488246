"""A worker process as the owner of events: ticks, and applies the commands of its events.

All of it runs on the owner's thread, which asks nothing of the broker: a broker that is away, hangs or
refuses takes no tick away (decision 0037). Celery's thread reads the messages and hands their events over
with `wake`. Without PostgreSQL there is no ownership, since it ends with the session; every tick joins again.
"""

import time
from collections.abc import Callable, Collection, Container
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Protocol
from uuid import UUID

import psycopg
import structlog

from shared import metrics, processes
from shared.domain import ids
from shared.messaging.results import Publisher
from shared.postgres import connections
from shared.settings import Settings
from worker import batch, isolation, save
from worker.batch import Applied, BatchRefused
from worker.load import Overtaken, Scope
from worker.locked_event import Session
from worker.ownership import Ownership, SessionLost
from worker.run_queue import RunQueue
from worker.trouble import Troubles

log = structlog.get_logger(__name__)

_VAIN_TRIES_SECONDS = 0.02
"""The time for which an owner tries commands that are set aside in vain, at each tick."""
_UNLOCKED_SECONDS = 0.05
"""The pause before an owner tries again to lock the buckets of its share that another worker still has."""
_NEVER = float("inf")


class Consumer(Protocol):
    """The consumer of event queues, which runs on another thread; no call waits for the broker."""

    def consume(self, event_ids: Collection[UUID]) -> None:
        """Consume the events' queues from now on."""

    def release(self, event_ids: Collection[UUID]) -> None:
        """Stop consuming the events' queues."""

    def release_others(self, buckets: Container[int]) -> int:
        """Stop consuming the queues of idle events and of other buckets; return how many are left."""


def apply(
    session: Session,
    event_ids: Collection[UUID],
    commands_max: int,
    meanwhile: Callable[[], None] | None = None,
    troubles: Troubles | None = None,
) -> Applied:
    """Apply a batch like `batch.apply`, without the commands that are set aside in `troubles`.

    One event's commands are settled, or set aside, even if the database refuses their batch. For more than
    one event that raises `BatchRefused`, and `Overtaken` when another session settled a command meanwhile:
    the caller applies the events one by one. Commands that were set aside, and can be written again, are
    settled and returned by themselves; the rest of their events is unfinished then.
    """
    troubles = troubles or Troubles(time.monotonic)
    waiting: set[UUID] = set()
    scope = Scope()
    if troubles.commands:
        settled, waiting = isolation.retry_before_others(session, event_ids, troubles)
        if settled:  # their outcomes are told, also if the batch behind them is refused
            return Applied(settled, [*event_ids])
        event_ids = [event_id for event_id in event_ids if event_id not in waiting]
        scope = Scope(left_out=troubles.left_out(event_ids))
    try:
        applied = batch.apply(session, event_ids, commands_max, scope, meanwhile)
    except (BatchRefused, Overtaken) as error:
        if len(event_ids) > 1:
            raise
        (event_id,) = event_ids
        if isinstance(error, Overtaken):
            isolation.note_overtaken(session, event_id)
            return Applied([], [*waiting])
        log.exception("batch_refused", event_id=str(event_id))
        applied = isolation.apply_in_parts(session, event_id, error.count, troubles)
    return Applied(applied.settled, [*applied.unfinished, *waiting])


class Owner:
    """The events of one worker process and their commands; `number` names the worker.

    `wake` and `end` may be called from any thread. All else runs on the thread that calls `run`.
    """

    def __init__(
        self, settings: Settings, publisher: Publisher, consumer: Consumer, clock: Callable[[], float]
    ) -> None:
        self._settings = settings
        self._publisher = publisher
        self._consumer = consumer
        self._clock = clock
        self.number = processes.own_number()
        self._queue = RunQueue(settings.apply_batch_max, settings.backlog_batch_max, clock)
        self._troubles = Troubles(clock)
        self._woken: SimpleQueue[Collection[UUID]] = SimpleQueue()
        self._ended = False
        self._ownership: Ownership | None = None
        self._tick_at = clock()
        self._look_at = _NEVER
        self.ticked_at = clock()
        """The clock's time at which the owner last looked at the ledger."""

    def wake(self, event_ids: Collection[UUID]) -> None:
        """Let the owner decide the pending commands of these events, as far as this process owns them."""
        # A wait for messages begins before the owner takes this one, and lasts up to a second.
        self._consumer.consume(event_ids)
        self._woken.put(event_ids)

    def end(self) -> None:
        """Let `run` return after the batch in progress."""
        self._ended = True
        self._woken.put(())

    def run(self) -> None:
        """Tick, take messages and apply pending commands until `end` is called; then give up all events."""
        while not self._ended:
            try:
                if self._clock() >= self._tick_at:
                    self.tick()
                elif self._clock() >= self._look_at:
                    self._look()
                # A tick may last until the next one is due, so a batch has its turn after each.
                self.take_woken(until=min(self._tick_at, self._look_at, self._queue.look_at))
                self.apply_batch()
            except Exception:  # any error: the next tick reads the ledger anew
                log.exception("owner_failed")
                time.sleep(self._settings.tick_seconds)
        self.close()

    def close(self) -> None:
        """Give up all events at once, so that other workers take them over without delay."""
        ownership, self._ownership = self._ownership, None
        if ownership is not None:
            ownership.session.close()
        self._publisher.close()

    def tick(self) -> None:
        """Rebalance the buckets, read the ledger, and try the commands that are set aside again."""
        self._tick_at = self._clock() + self._settings.tick_seconds
        self._queue.tick()
        self._look()
        self._retry()

    def _look(self) -> None:
        """Rebalance the buckets, and add the events with pending commands to the run queue."""
        self._look_at = _NEVER
        self._publisher.publish()
        joins = self._ownership is None
        try:
            ownership = self._joined()
            owned = ownership.buckets
            moved = ownership.rebalance()
            # Another worker may have settled the commands of the others meanwhile.
            self._troubles.keep(owned & ownership.buckets)
            pending = ownership.events_pending()
        except (psycopg.Error, SessionLost) as error:
            self._lose(error)
            return
        if joins:
            log.info("worker_joined", worker=connections.worker_name(), number=self.number)
        if moved.gained or moved.lost:
            log.info("buckets_moved", gained=moved.gained, lost=moved.lost)
            metrics.owner_changes.inc(moved.gained + moved.lost)
        self.ticked_at = self._clock()
        if not ownership.has_its_share:
            self._look_at = self._clock() + _UNLOCKED_SECONDS
        self.take_woken()
        metrics.wakes_missed.inc(len(set(pending) - self._queue.ready.keys() - self._troubles.event_ids()))
        self._consumer.consume(pending)
        self._queue.add(pending)
        metrics.events_owned.set(self._consumer.release_others(ownership.buckets))

    def _retry(self) -> None:
        """Try commands that are set aside again, until half a tick or the time for vain tries is over.

        So they are soon settled when their trouble has passed, and cost others little while it lasts.
        """
        ownership = self._ownership
        until = self._clock() + self._settings.tick_seconds / 2
        vain_seconds = 0.0
        for place in self._troubles.due():
            began_at = self._clock()
            if ownership is None or began_at > until or vain_seconds > _VAIN_TRIES_SECONDS:
                break
            try:
                ownership.cut_off.clear()
                settled = isolation.retry(ownership.session, place, self._troubles)
            except Exception as error:
                if ownership.session.closed or connections.must_be_replaced(error):
                    self._lose(error)
                    return
                log.exception("event_not_applied", event_id=str(place.event_id))
                break
            if not settled:
                vain_seconds += self._clock() - began_at
            self._publisher.add(settled, confirmed=not ownership.cut_off)
        self._publisher.publish()

    def take_woken(self, until: float = 0) -> None:
        """Queue the events of all messages that have arrived; if no event is ready, wait for a message."""
        seconds_max = 0 if self._queue.ready else max(until - self._clock(), 0)
        with suppress(Empty):
            event_ids = self._woken.get(block=seconds_max > 0, timeout=seconds_max)
            while True:
                self._queue.add(event_ids)
                event_ids = self._woken.get(block=False)

    def apply_batch(self) -> None:
        """Apply commands of the events that are ready, as many as one transaction takes."""
        ownership = self._ownership
        ready, commands_max = self._queue.next_batch()
        event_ids = [e for e in ready if ownership is not None and ids.bucket(e) in ownership.buckets]
        if len(event_ids) < len(ready):
            self._consumer.release([event_id for event_id in ready if event_id not in event_ids])
        if ownership is None or not event_ids:
            return
        try:
            ownership.cut_off.clear()
            applied = apply(
                ownership.session, event_ids, commands_max, self._publisher.publish, self._troubles
            )
        except Exception as error:
            self._publisher.publish()
            if ownership.session.closed or connections.must_be_replaced(error):
                self._lose(error)
                return
            if len(event_ids) > 1:
                log.warning("batch_parted", events=len(event_ids), error=error)
            else:
                log.exception("event_not_applied", event_id=str(event_ids[0]))
                with suppress(psycopg.Error):  # operators look for the reason in the note
                    save.note_trouble(ownership.session, event_ids[0], None, error)
            self._queue.refused(event_ids)
            return
        self._queue.add(applied.unfinished)
        recovered = self._queue.settled(event_ids, applied.settled, commands_max)
        self._publisher.add(applied.settled, confirmed=not ownership.cut_off)
        # After a full batch the next one publishes meanwhile (0004).
        if len(applied.settled) < self._settings.backlog_batch_max:
            self._publisher.publish()
        if recovered:
            save.forget_trouble(ownership.session, recovered, None)

    def _joined(self) -> Ownership:
        if self._ownership is None:
            session = connections.worker_session(self._settings)
            ownership = Ownership(
                session=session,
                number=self.number,
                silence_seconds_max=self._settings.owner_silence_seconds_max,
            )
            try:
                ownership.join()
            except BaseException:
                session.close()
                raise
            self._ownership = ownership
        return self._ownership

    def _lose(self, error: BaseException) -> None:
        log.warning("ownership_lost", error=str(error).partition("\n")[0])
        ownership, self._ownership = self._ownership, None
        metrics.events_owned.set(0)
        if ownership is None:
            return
        ownership.session.close()
        self._consumer.release_others(())
