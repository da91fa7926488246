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
from sqlalchemy.exc import SQLAlchemyError

from shared import metrics
from shared.domain.outcomes import SettledCommand
from shared.postgres import connections
from shared.postgres.durability import CommitWatch
from shared.settings import Settings
from worker import batch, save
from worker.ownership import Ownership, OwnershipChange
from worker.publisher import Publisher
from worker.run_queue import RunQueue
from worker.trouble import Troubles

log = structlog.get_logger(__name__)

_SLICE_SECONDS = 0.02
"""The time for which an owner decides before it reads the next message."""


class Consumer(Protocol):
    """The part of the broker's consumer that an owner needs."""

    def start(self, events: Collection[UUID]) -> None:
        """Consume the events' queues."""

    def stop(self, events: Collection[UUID]) -> None:
        """Stop consuming the events' queues."""

    def call_soon(self, call: Callable[[], None]) -> None:
        """Call back once the messages that have arrived are read."""


class Owner:
    """The events of one worker process and their commands."""

    def __init__(self, settings: Settings, publisher: Publisher, clock: Callable[[], float]) -> None:
        self.settings = settings
        self._publisher = publisher
        self._clock = clock
        self._queue = RunQueue(settings.apply_batch_max, settings.backlog_batch_max)
        self._troubles = Troubles(clock)
        self._ownership: Ownership | None = None
        self._consumer: Consumer | None = None
        self._scheduled = False
        self.ticked_at = clock()
        """The clock's time at which the owner last looked at the ledger."""

    def attach(self, consumer: Consumer) -> None:
        """Consume the queues of all owned events, now that the broker is connected."""
        self._consumer = consumer
        self._scheduled = False  # it belonged to the event loop of the connection before
        if self._ownership is not None:
            consumer.start(self._ownership.events)
        self._schedule()

    def detach(self) -> None:
        """Forget the consumer; ownership itself survives a broker that restarts."""
        self._consumer = None

    def close(self) -> None:
        """Give up all events at once, so that other workers take them over without delay."""
        ownership, self._ownership = self._ownership, None
        if ownership is not None:
            ownership.connection.close()
        self._publisher.close()

    def tick(self) -> None:
        """Rebalance the events, and apply pending commands without a message."""
        self._publisher.publish()
        try:
            change = self._joined().rebalance()
        except (SQLAlchemyError, AssertionError) as error:
            self._lose(error)
            return
        self._follow(change)
        metrics.events_owned.set(0 if self._ownership is None else len(self._ownership.events))
        self._queue.tick()
        self.ticked_at = self._clock()
        metrics.wakes_missed.inc(
            len(set(change.pending) - self._queue.ready.keys() - self._troubles.event_ids())
        )
        self._queue.add(self._troubles.not_paused(change.pending))
        self._retry()
        self._apply_for_a_while()

    def wake(self, event_ids: Collection[UUID]) -> None:
        """Decide the pending commands of these events, as far as this process owns them, now or soon."""
        self._queue.add(self._troubles.not_paused(event_ids))
        if not self._scheduled:
            self._apply_for_a_while()

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
            if place.event_id not in ownership.events:
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
            self._consumer.call_soon(self._apply_scheduled)

    def _apply_scheduled(self) -> None:
        self._scheduled = False
        self._apply_for_a_while()

    def _apply_batch(self) -> None:
        ownership = self._ownership
        event_ids, commands_max = self._queue.next_batch(() if ownership is None else ownership.events)
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

    def _joined(self) -> Ownership:
        if self._ownership is None:
            connection = connections.worker_connection(self.settings)
            ownership = Ownership(
                connection=connection,
                session=connections.session(connection),
                events_max=self.settings.owned_events_max,
            )
            try:
                ownership.join()
            except BaseException:
                ownership.connection.close()
                raise
            self._ownership = ownership
            log.info("worker_joined", worker=connections.worker_name())
        return self._ownership

    def _follow(self, change: OwnershipChange) -> None:
        if change.gained or change.lost:
            log.info("events_moved", gained=len(change.gained), lost=len(change.lost))
            metrics.owner_changes.inc(len(change.gained) + len(change.lost))
        if self._consumer is not None:
            self._consumer.stop(change.lost)
            self._consumer.start(change.gained)

    def _lose(self, error: BaseException) -> None:
        log.warning("ownership_lost", error=str(error).partition("\n")[0])
        ownership, self._ownership = self._ownership, None
        metrics.events_owned.set(0)
        if ownership is None:
            return
        ownership.connection.invalidate()
        ownership.connection.close()
        if self._consumer is not None:
            self._consumer.stop(ownership.events)
