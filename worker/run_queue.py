"""The events of a worker that may have pending commands, and their order (pure).

    add ──▶ ready ──next_batch──▶ in the caller's hands ──settled──▶ done, or ready again
                                            └──refused──▶ isolated, or failing until the next tick

An isolated event is applied alone, because a batch that it was in was refused; it rejoins the shared batches
at a tick, unless it failed alone since. A failing event is not applied again before the next tick.
"""

from collections import Counter
from collections.abc import Collection, Container, Sequence
from itertools import islice
from uuid import UUID

from shared.domain.outcomes import SettledCommand

EVENTS_PER_BATCH_MAX = 100


class RunQueue:
    """Events in the order in which they are `ready`, each with the size of its next batch."""

    def __init__(self, batch_max: int, backlog_batch_max: int) -> None:
        self._batch_max = batch_max
        self._backlog_batch_max = backlog_batch_max
        self.ready: dict[UUID, int] = {}
        self._isolated: set[UUID] = set()
        self._failing: set[UUID] = set()

    def add(self, event_ids: Collection[UUID]) -> None:
        """Add events to the end of the ready events."""
        for event_id in event_ids:
            self.ready.setdefault(event_id, self._batch_max)

    def tick(self) -> None:
        """Try failing events again; events that succeeded alone rejoin the shared batches."""
        self._isolated &= self._failing
        self._failing.clear()

    def next_batch(self, owned: Container[UUID]) -> tuple[list[UUID], int]:
        """Take the owned events of the next batch, and the maximum number of its commands."""
        first = next(iter(self.ready))
        if first in self._isolated:
            batch = [first]
        else:
            batch = [e for e in islice(self.ready, EVENTS_PER_BATCH_MAX) if e not in self._isolated]
        commands_max = max(self.ready.pop(event_id) for event_id in batch)
        return [e for e in batch if e in owned and e not in self._failing], commands_max

    def settled(self, batch: Sequence[UUID], commands: Sequence[SettledCommand], commands_max: int) -> None:
        """Add the events again that may have more pending commands.

        After a full batch these are all its events, now with the larger batches of a backlog. Else they are
        the events with several settled commands, or the batch's only event: under load more commands follow.
        """
        if len(commands) >= commands_max:
            self.ready |= dict.fromkeys(batch, self._backlog_batch_max)
            return
        counts = Counter(command.event_id for command in commands)
        self.add([event_id for event_id, count in counts.items() if count > 1 or len(counts) == 1])

    def refused(self, batch: Sequence[UUID]) -> None:
        """Isolate the events of a refused batch; an event that was refused alone waits for the next tick."""
        self._isolated.update(batch)
        if len(batch) > 1:
            self.add(batch)
        else:
            self._failing.update(batch)
