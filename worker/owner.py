"""A worker process as an owner: looks around, consumes its events' queues, applies their commands.

Everything here runs on one thread, Celery's event loop under the `solo` pool, so nothing needs a
lock. PostgreSQL gone: all ownership is gone with the session, and every tick tries to come back.
The broker gone: nobody rings, and the ticks still find what is pending.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Protocol
from uuid import UUID

import redis
import structlog
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from shared import database, results
from shared.ledger import Settled
from shared.settings import Settings
from worker import tasks
from worker.ownership import Moved, Ownership

log = structlog.get_logger(__name__)


class Consuming(Protocol):
    """What an owner needs of its connection to the broker."""

    def start(self, events: Collection[UUID]) -> None:
        """Consume the events' queues."""

    def stop(self, events: Collection[UUID]) -> None:
        """Consume them no longer."""

    def soon(self, call: Callable[[], None]) -> None:
        """Call back after whatever else is waiting has had its turn."""


@dataclass(kw_only=True, slots=True)
class Owner:
    """The events of one worker process, from look to look."""

    settings: Settings
    results: "redis.Redis"
    _ownership: Ownership | None = None
    _consuming: Consuming | None = None
    _continuing: set[UUID] = field(default_factory=set)

    def attach(self, consuming: Consuming) -> None:
        """Consume the queues of all that is owned: the broker is there."""
        self._consuming = consuming
        self._continuing.clear()
        if self._ownership is not None:
            consuming.start(self._ownership.events)

    def detach(self) -> None:
        """Forget the broker, and what was consumed with it."""
        self._consuming = None

    def close(self) -> None:
        """Give up everything at once, so that others need not wait."""
        ownership, self._ownership = self._ownership, None
        if ownership is not None:
            ownership.connection.close()

    def tick(self) -> None:
        """Look around, and apply what is pending although nobody rang."""
        try:
            moved = self._joined().look_around()
        except (SQLAlchemyError, AssertionError) as error:
            self._lose(error)
            return
        self._follow(moved)
        for event_id in moved.pending:
            self.apply(event_id)

    def apply(self, event_id: UUID) -> None:
        """Decide one batch of the event's pending commands, if this process owns the event.

        A full batch means that more may wait: the next one comes after the other events' turn.
        """
        if self._ownership is None or event_id not in self._ownership.events:
            return
        limit = self.settings.apply_batch_max
        try:
            settled = tasks.apply_pending(self._ownership.connection, event_id, limit)
        except OperationalError as error:
            self._lose(error)
            return
        except Exception:
            log.exception("event_not_applied", event_id=str(event_id))
            return
        if len(settled) == limit:
            self._continue(event_id)
        if settled:
            self._publish(settled)

    def _joined(self) -> Ownership:
        if self._ownership is None:
            ownership = Ownership(connection=database.worker_connection(self.settings))
            ownership.join()
            self._ownership = ownership
            log.info("worker_joined", worker=database.worker_name())
        return self._ownership

    def _follow(self, moved: Moved) -> None:
        if moved.gained or moved.lost:
            log.info("events_moved", gained=len(moved.gained), lost=len(moved.lost))
        if self._consuming is not None:
            self._consuming.stop(moved.lost)
            self._consuming.start(moved.gained)

    def _lose(self, error: BaseException) -> None:
        log.warning("ownership_lost", error=str(error).partition("\n")[0])
        ownership, self._ownership = self._ownership, None
        if ownership is None:
            return
        ownership.connection.invalidate()
        ownership.connection.close()
        if self._consuming is not None:
            self._consuming.stop(ownership.events)

    def _continue(self, event_id: UUID) -> None:
        if self._consuming is None or event_id in self._continuing:
            return
        self._continuing.add(event_id)
        self._consuming.soon(lambda: self._go_on(event_id))

    def _go_on(self, event_id: UUID) -> None:
        self._continuing.discard(event_id)
        self.apply(event_id)

    def _publish(self, settled: list[Settled]) -> None:
        """Offer the outcomes to whoever polls; they are in the ledger whether this succeeds or not."""
        try:
            results.store(self.results, settled, self.settings.result_keep_seconds)
        except redis.RedisError as error:
            log.warning("results_not_stored", count=len(settled), error=str(error))
