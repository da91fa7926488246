"""The events of a worker that may have pending commands, and their order (no I/O).

    add ──▶ ready ──next_batch──▶ in the caller's hands ──settled──▶ done, or ready again
                                            └──refused──▶ isolated, or failing for a pause

An isolated event is applied alone, because a batch that it was in was refused; it rejoins the shared batches
at a tick, unless it failed alone since. A failing event is not applied before its pause is over; it fails
until it is applied again.

A crowd's next commands are on their way when a batch finds none of them: so it is looked for every few
milliseconds for a while, before it needs a message again (decision 0089).
"""

import math
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from itertools import islice
from uuid import UUID

from shared.domain.outcomes import SettledCommand

EVENTS_PER_BATCH_MAX = 100
READY_MAX = 5_000
"""Events that are ready at most; a tick finds about as many, and finds those again that had no place."""
_PAUSE_SECONDS, _PAUSE_SECONDS_MAX = 0.5, 1.0
"""The pause of a failing event doubles each time: when a trouble has passed, that is soon noticed."""
CROWD_MIN = 8
"""The commands of an event in one batch from which on they are a crowd's."""
CROWD_SECONDS, LOOK_SECONDS = 0.02, 0.002
"""The time for which a crowd is looked for after such a batch, and the pause before each look."""


class RunQueue:
    """Events in the order in which they are `ready`, each with the size of its next batch."""

    def __init__(self, batch_max: int, backlog_batch_max: int, clock: Callable[[], float]) -> None:
        self._batch_max = batch_max
        self._backlog_batch_max = backlog_batch_max
        self._clock = clock
        self.ready: dict[UUID, int] = {}
        self.look_at = math.inf
        """The time from which on the next batch has the events of crowds as well."""
        self._crowds: dict[UUID, float] = {}
        """Each with the time of its last batch."""
        self._isolated: set[UUID] = set()
        self._failing: dict[UUID, tuple[float, float]] = {}
        """Each with the time at which its pause is over, and the length of the pause."""

    def add(self, event_ids: Collection[UUID]) -> None:
        """Add events to the end of the ready events, as far as there is room."""
        for event_id in islice(event_ids, max(READY_MAX - len(self.ready), 0)):
            self.ready.setdefault(event_id, self._batch_max)

    def tick(self) -> None:
        """Let isolated events rejoin the shared batches, unless they are failing."""
        self._isolated &= self._failing.keys()

    def next_batch(self) -> tuple[list[UUID], int]:
        """Take the events of the next batch, and the maximum number of its commands."""
        now = self._clock()
        if now >= self.look_at:
            self.look_at = math.inf
            self._crowds = {e: at for e, at in self._crowds.items() if now - at < CROWD_SECONDS}
            self.add(self._crowds)
        first = next(iter(self.ready), None)
        if first is None:
            return [], 0
        if first in self._isolated:
            batch = [first]
        else:
            batch = [e for e in islice(self.ready, EVENTS_PER_BATCH_MAX) if e not in self._isolated]
        commands_max = max(self.ready.pop(event_id) for event_id in batch)
        return [e for e in batch if e not in self._failing or self._failing[e][0] <= now], commands_max

    def settled(
        self, batch: Sequence[UUID], commands: Sequence[SettledCommand], commands_max: int
    ) -> list[UUID]:
        """Add the events again that may have more pending commands; return those that fail no longer.

        After a full batch these are all its events, now with the larger batches of a backlog. Else they are
        the events with several settled commands, or the batch's only event: under load more commands follow.
        """
        now, counts = self._clock(), Counter(command.event_id for command in commands)
        self._crowds |= {event_id: now for event_id, count in counts.items() if count >= CROWD_MIN}
        if any(event_id in self._crowds and not counts[event_id] for event_id in batch):
            self.look_at = now + LOOK_SECONDS
        if len(commands) >= commands_max:
            self.ready |= dict.fromkeys(batch, self._backlog_batch_max)
        else:
            self.add([event_id for event_id, count in counts.items() if count > 1 or len(counts) == 1])
        return [event_id for event_id in batch if self._failing.pop(event_id, None)]

    def refused(self, batch: Sequence[UUID]) -> None:
        """Isolate the events of a refused batch; an event that was refused alone pauses, longer each time."""
        self._isolated.update(batch)
        if len(batch) > 1:
            self.add(batch)
            return
        (event_id,) = batch
        _, seconds = self._failing.get(event_id, (0, _PAUSE_SECONDS / 2))
        seconds = min(2 * seconds, _PAUSE_SECONDS_MAX)
        self._failing[event_id] = self._clock() + seconds, seconds
