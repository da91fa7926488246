"""A worker process as an owner: looks around, consumes its events' queues, applies their commands.

Everything here runs on one thread, Celery's event loop under the `solo` pool, so nothing needs a
lock. PostgreSQL gone: all ownership is gone with the session, and every tick tries to come back.
The broker gone: nobody rings, and the ticks still find what is pending.
"""

import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol
from uuid import UUID

import redis
import structlog
from sqlalchemy.exc import SQLAlchemyError

from shared.messaging.results import Shelf
from shared.postgres import connections
from shared.postgres.ledger import Settled
from shared.settings import Settings
from worker import batch
from worker.ownership import Moved, Ownership

log = structlog.get_logger(__name__)

_EVENTS_PER_BATCH = 100
_TURN_SECONDS = 0.02  # as long as that it decides without a look at the broker, or at the clock's tick
_PUBLISHING_PAUSE_SECONDS = 5  # a result backend that hangs must not cost every batch its time-out


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
    results: Shelf
    _ownership: Ownership | None = None
    _consuming: Consuming | None = None
    _unfinished: dict[UUID, int] = field(default_factory=dict)
    _apart: set[UUID] = field(default_factory=set)
    _in_trouble: set[UUID] = field(default_factory=set)
    _turn_is_coming: bool = False
    _unpublished: list[Settled] = field(default_factory=list)
    _publish_again_at: float = 0

    def attach(self, consuming: Consuming) -> None:
        """Consume the queues of all that is owned: the broker is there."""
        self._consuming = consuming
        self._turn_is_coming = False  # it was to come from the event loop of the connection before
        if self._ownership is not None:
            consuming.start(self._ownership.events)
        self._come_back()

    def detach(self) -> None:
        """Forget the broker, and what was consumed with it."""
        self._consuming = None

    def close(self) -> None:
        """Give up everything at once, so that others need not wait."""
        ownership, self._ownership = self._ownership, None
        if ownership is not None:
            ownership.connection.close()
        self._publish()
        try:
            self.results.confirm()
        except redis.RedisError as error:
            log.warning("results_lost", error=str(error))
        self.results.close()

    def tick(self) -> None:
        """Look around, and apply what is pending although nobody rang."""
        self._publish()
        try:
            moved = self._joined().look_around()
        except (SQLAlchemyError, AssertionError) as error:
            self._lose(error)
            return
        self._follow(moved)
        self._apart &= self._in_trouble  # the others were in the same batch, and are well
        self._in_trouble.clear()
        self._begin(moved.pending)
        self._take_turn()

    def apply(self, event_ids: Sequence[UUID]) -> None:
        """Decide these events' pending commands, of those events that this process owns: now, or soon.

        When it is one event's turn at once, a command that is just coming for it is waited for.
        """
        self._begin(event_ids)
        if not self._turn_is_coming:
            self._take_turn(coming=event_ids[0] if len(event_ids) == 1 else None)

    def _begin(self, event_ids: Collection[UUID]) -> None:
        """Let events wait for their turn behind those that already do."""
        for event_id in event_ids:
            self._unfinished.setdefault(event_id, self.settings.apply_batch_max)

    def _apply(self, event_ids: Collection[UUID], limit: int, coming: UUID | None) -> None:
        ownership = self._ownership
        mine = set() if ownership is None else ownership.events - self._in_trouble
        events = [event_id for event_id in event_ids if event_id in mine]
        if ownership is None or not events:
            return
        try:
            settled = batch.apply_pending(ownership.connection, events, limit, coming, self._publish)
        except Exception as error:  # noqa: BLE001 - told in the log, and tried again
            if ownership.connection.invalidated:
                self._lose(error)
            else:
                self._part(events, error)
            return
        finally:
            self._publish()
        if settled:
            self._come_again(events, settled, limit)
            self._unpublished = settled
            if len(settled) < self.settings.backlog_batch_max:  # else the next batch is coming
                self._publish()

    def _come_again(self, events: Collection[UUID], settled: Collection[Settled], limit: int) -> None:
        """Look again where a crowd was, or nobody else; in a full batch not everybody had their turn."""
        if len(settled) >= limit:
            self._unfinished |= dict.fromkeys(events, self.settings.backlog_batch_max)
            return
        counts = Counter(one.event_id for one in settled)
        self._begin([event_id for event_id, count in counts.items() if count > 1 or len(counts) == 1])

    def _part(self, events: Sequence[UUID], error: Exception) -> None:
        """Apply each of these events by itself from now on: the trouble may be one event's alone.

        That one, such as when somebody holds one of its registrations, is tried again at the next tick.
        """
        self._apart.update(events)
        if len(events) > 1:
            log.warning("batch_parted", events=len(events), error=repr(error))
            self._begin(events)
        else:
            log.error("event_not_applied", event_id=str(events[0]), exc_info=error)
            self._in_trouble.update(events)

    def _joined(self) -> Ownership:
        if self._ownership is None:
            ownership = Ownership(
                connection=connections.worker_connection(self.settings),
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

    def _take_turn(self, coming: UUID | None = None) -> None:
        """Decide batch after batch for a while, then let the event loop breathe and come back.

        While the broker is away there is no event loop: then a turn lasts to the next tick.
        """
        seconds = self.settings.tick_seconds if self._consuming is None else _TURN_SECONDS
        until = time.monotonic() + seconds
        while self._unfinished and time.monotonic() < until:
            events = self._next_batch()
            limits = [self._unfinished.pop(event_id) for event_id in events]
            self._apply(events, max(limits), coming if events == [coming] else None)
            coming = None
        self._come_back()

    def _next_batch(self) -> list[UUID]:
        """Return whose turn it is: one event that must be by itself, or many that need not."""
        first = next(iter(self._unfinished))
        if first in self._apart:
            return [first]
        return [e for e in islice(self._unfinished, _EVENTS_PER_BATCH) if e not in self._apart]

    def _come_back(self) -> None:
        if self._unfinished and self._consuming is not None and not self._turn_is_coming:
            self._turn_is_coming = True
            self._consuming.soon(self._next_turn)

    def _next_turn(self) -> None:
        self._turn_is_coming = False
        self._take_turn()

    def _publish(self) -> None:
        """Offer the outcomes to whoever polls; they are in the ledger whether this succeeds or not.

        In a backlog that is done while the database writes the next batch.
        """
        settled, self._unpublished = self._unpublished, []
        if not settled or time.monotonic() < self._publish_again_at:
            return
        try:
            self.results.put(settled)
        except Exception as error:  # noqa: BLE001 - the decisions stand, whatever it was
            self._publish_again_at = time.monotonic() + _PUBLISHING_PAUSE_SECONDS
            log.warning("results_not_stored", count=len(settled), error=str(error))
