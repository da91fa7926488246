"""The active events of a worker: those whose queues it consumes (pure).

Each queue that a worker consumes costs it time at every message, so a worker consumes the queues of a bounded
number of events that had a message or a pending command lately. The first message for another event comes
through the worker's own queue (decision 0036).
"""

from collections.abc import Callable, Collection, Container
from uuid import UUID

from shared.messaging import queues


class ActiveEvents:
    """Events, each with the time at which it was active last; at most `queues.CONSUMED_EVENTS_MAX`."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._active_at: dict[UUID, float] = {}

    @property
    def ids(self) -> Collection[UUID]:
        """The active events."""
        return self._active_at.keys()

    def add(self, event_ids: Collection[UUID]) -> list[UUID]:
        """Note that these events are active now; return those that were not active before."""
        now, added = self._clock(), []
        for event_id in event_ids:
            if event_id not in self._active_at:
                if len(self._active_at) >= queues.CONSUMED_EVENTS_MAX:
                    continue
                added.append(event_id)
            self._active_at[event_id] = now
        return added

    def remove_others(self, owned: Container[UUID]) -> list[UUID]:
        """Remove the events that are idle, and those that are not in `owned`; return the removed events."""
        since = self._clock() - queues.CONSUMED_SECONDS
        removed = [id_ for id_, at in self._active_at.items() if at < since or id_ not in owned]
        for event_id in removed:
            del self._active_at[event_id]
        return removed
