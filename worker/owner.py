"""A worker process as the owner of events: ticks, consumes its events' queues, applies their commands.

All of it runs on one thread, Celery's event loop under the `solo` pool, so no lock is needed. Without
PostgreSQL there is no ownership, since it ends with the session; every tick tries to join again. Without the
broker no messages arrive, and the ticks still find pending commands.
"""

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import Protocol
from uuid import UUID

import psycopg
import structlog

from shared import metrics, processes
from shared.domain.outcomes import SettledCommand
from shared.postgres import connections
from shared.postgres.durability import CommitWatch
from shared.settings import Settings
from worker import batch, save
from worker.active_events import ActiveEvents
from worker.ownership import Ownership, SessionLost
from worker.publisher import Publisher
from worker.run_queue import RunQueue
from worker.trouble import Troubles

log = structlog.get_logger(__name__)

_SLICE_SECONDS = 0.02
"""The time for which an owner decides before it reads the next message."""
_SOON_SECONDS = 0.001
# Not 0: the event loop fires ten timers that are due in a row, and then sleeps for a second.
_UNLOCKED_SECONDS = 0.05
"""The pause before an owner tries again to lock the buckets of its share that another worker still has."""


class Consumer(Protocol):
    """The part of the broker's consumer that an owner needs."""

    def start(self, events: Collection[UUID]) -> None:
        """Consume the events' queues."""

    def stop(self, events: Collection[UUID]) -> None:
        """Stop consuming the events' queues."""

    def call_after(self, seconds: float, call: Callable[[], None]) -> None:
        """Call back after so many seconds, once the messages that have arrived are read."""


class Owner:
    """The events of one worker process and their commands; `number` names the worker."""

    def __init__(self, settings: Settings, publisher: Publisher, clock: Callable[[], float]) -> None:
        self.settings = settings
        self._publisher = publisher
        self._clock = clock
        self.number = processes.own_number()
        self._active = ActiveEvents(clock)
        self._queue = RunQueue(settings.apply_batch_max, settings.backlog_batch_max)
        self._troubles = Troubles(clock)
        self._ownership: Ownership | None = None
        self._consumer: Consumer | None = None
        self._scheduled = False
        self._looking_again = False
        self.ticked_at = clock()
        """The clock's time at which the owner last looked at the ledger."""

    def attach(self, consumer: Consumer) -> None:
        """Consume the queues of all active events, now that the broker is connected."""
        self._consumer = consumer
        self._scheduled = self._looking_again = False  # of the event loop of the connection before
        consumer.start(self._active.ids)
        self._schedule()

    def detach(self) -> None:
        """Forget the consumer; ownership itself survives a broker that restarts."""
        self._consumer = None

    def close(self) -> None:
        """Give up all events at once, so that other workers take them over without delay."""
        ownership, self._ownership = self._ownership, None
        if ownership is not None:
            ownership.session.close()
        self._publisher.close()

    def tick(self) -> None:
        """Rebalance the buckets of events, and apply pending commands without a message."""
        self._queue.tick()
        self._look()

    def _look(self) -> None:
        self._publisher.publish()
        try:
            ownership = self._joined()
            moved = ownership.rebalance()
            pending = ownership.events_pending()
        except (psycopg.Error, SessionLost) as error:
            self._lose(error)
            return
        if moved.gained or moved.lost:
            log.info("buckets_moved", gained=moved.gained, lost=moved.lost)
            metrics.owner_changes.inc(moved.gained + moved.lost)
        if not ownership.has_its_share:
            self._look_again()
        self.ticked_at = self._clock()
        metrics.wakes_missed.inc(len(set(pending) - self._queue.ready.keys() - self._troubles.event_ids()))
        self._queue.add(self._troubles.not_paused(pending))
        self._stop_consuming(self._active.remove_others(ownership))
        self._retry()
        self._apply_for_a_while()
        self._consume(pending)

    def wake(self, event_ids: Collection[UUID]) -> None:
        """Decide the pending commands of these events, as far as this process owns them, now or soon.

        From now on the worker consumes the queues of those events.
        """
        self._queue.add(self._troubles.not_paused(event_ids))
        if not self._scheduled:
            self._apply_for_a_while()
        self._consume(event_ids)

    def _apply_for_a_while(self) -> None:
        """Apply batch after batch for a time slice, then let the event loop read messages.

        While the broker is away there is no event loop: then the slice lasts to the next tick.
        """
        seconds = self.settings.tick_seconds if self._consumer is None else _SLICE_SECONDS
        until = self._clock() + seconds
        while self._queue.ready and self._clock() < until:
            self._apply_batch()
        self._schedule()

    def _retry(self) -> None:
        """Try commands that are set aside again, for a short time."""
        ownership = self._ownership
        until = self._clock() + _SLICE_SECONDS
        for place in self._troubles.due():
            if ownership is None or self._clock() > until:
                return
            if place.event_id not in ownership:
                self._troubles.forget(place.command_id)
                continue
            watch = CommitWatch(ownership.session)
            try:
                with watch:
                    settled = batch.retry(ownership.session, place, self._troubles)
            except Exception as error:
                if ownership.session.closed or connections.must_be_replaced(error):
                    self._lose(error)
                    return
                log.exception("event_not_applied", event_id=str(place.event_id))
                return
            metrics.count_settled(settled)
            self._add_confirmed(settled, watch)
        self._publisher.publish()

    def _add_confirmed(self, settled: Sequence[SettledCommand], watch: CommitWatch) -> None:
        """Add outcomes for the publisher; outcomes of which the commit was cut off are left to the API."""
        if watch.cut_off:
            log.warning("outcomes_not_confirmed", count=len(settled))
        else:
            self._publisher.add(settled)

    def _schedule(self) -> None:
        if self._queue.ready and self._consumer is not None and not self._scheduled:
            self._scheduled = True
            self._consumer.call_after(_SOON_SECONDS, self._apply_scheduled)

    def _apply_scheduled(self) -> None:
        self._scheduled = False
        self._apply_for_a_while()

    def _apply_batch(self) -> None:
        ownership = self._ownership
        event_ids, commands_max = self._queue.next_batch(() if ownership is None else ownership)
        if ownership is None or not event_ids:
            return
        watch = CommitWatch(ownership.session)
        try:
            with watch:
                applied = batch.apply(
                    ownership.session, event_ids, commands_max, self._publisher.publish, self._troubles
                )
        except Exception as error:
            self._publisher.publish()
            if ownership.session.closed or connections.must_be_replaced(error):
                self._lose(error)
                return
            if len(event_ids) > 1:
                log.warning("batch_parted", events=len(event_ids), error=repr(error))
            else:
                log.exception("event_not_applied", event_id=str(event_ids[0]))
                self._pause(ownership, event_ids[0], error)
            self._queue.refused(event_ids)
            return
        for event_id in event_ids:
            if self._troubles.resume(event_id):
                save.forget_trouble(ownership.session, [event_id], None)
        metrics.count_settled(applied.settled)
        self._queue.add(applied.unfinished)
        self._queue.settled(event_ids, applied.settled, commands_max)
        self._add_confirmed(applied.settled, watch)
        # After a full batch the next one publishes meanwhile (0004).
        if len(applied.settled) < self.settings.backlog_batch_max:
            self._publisher.publish()

    def _pause(self, ownership: Ownership, event_id: UUID, error: Exception) -> None:
        """Let an event that cannot be applied wait, and note the reason where operators look for it."""
        self._troubles.pause(event_id)
        with suppress(psycopg.Error):
            save.note_trouble(ownership.session, event_id, None, error)

    def _look_again(self) -> None:
        if self._consumer is not None and not self._looking_again:
            self._looking_again = True
            self._consumer.call_after(_UNLOCKED_SECONDS, self._look_scheduled)

    def _look_scheduled(self) -> None:
        self._looking_again = False
        self._look()

    def _joined(self) -> Ownership:
        if self._ownership is None:
            session = connections.worker_session(self.settings)
            ownership = Ownership(
                session=session,
                number=self.number,
                silence_seconds_max=self.settings.owner_silence_seconds_max,
            )
            try:
                ownership.join()
            except BaseException:
                session.close()
                raise
            self._ownership = ownership
            log.info("worker_joined", worker=connections.worker_name(), number=self.number)
        return self._ownership

    def _consume(self, event_ids: Collection[UUID]) -> None:
        ownership = self._ownership
        if ownership is None:
            return
        added = self._active.add([event_id for event_id in event_ids if event_id in ownership])
        metrics.events_owned.set(len(self._active.ids))
        if added and self._consumer is not None:
            self._consumer.start(added)

    def _stop_consuming(self, event_ids: Collection[UUID]) -> None:
        if self._consumer is not None:
            self._consumer.stop(event_ids)

    def _lose(self, error: BaseException) -> None:
        log.warning("ownership_lost", error=str(error).partition("\n")[0])
        ownership, self._ownership = self._ownership, None
        metrics.events_owned.set(0)
        if ownership is None:
            return
        ownership.session.close()
        self._stop_consuming(self._active.remove_others(()))
