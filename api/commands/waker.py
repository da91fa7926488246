"""Wakes the owners of events that have new commands, with as few messages as possible.

The waker sends at once when it is idle. Then it waits until an outcome of a command that it sent for has been
seen, at most `_OUTCOME_SECONDS_MAX`, before it sends again; events that get commands meanwhile share the next
messages. An owner under load reads its next commands without a message, so most commands are decided before
their message is due, and need none (decision 0009).

A message costs its sender and its receiver as much as deciding a few dozen commands, so events of one owner
share a message. It goes to the queue of an event that this process has woken lately, since the owner consumes
the queues of its active events, else to the owner's own queue (decision 0036).

An event of which no outcome is seen after its message gets its next message after a pause, which doubles
with each message up to `_PAUSE_SECONDS_MAX`: while no worker runs, messages do not pile up. An outcome of the
event ends the pause. The pause costs at most a tick, because the owner's ticks find the commands as well.

A message that fails is logged and forgotten: the command is in the ledger, and the event's owner finds it at
its next tick.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from uuid import UUID

import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from api.tasks import SingleTask
from shared import metrics
from shared.domain import ids
from shared.messaging import queues
from shared.postgres import locks

log = structlog.get_logger(__name__)

_OUTCOME_SECONDS_MAX = 0.05
_GRACE_SECONDS = 0.003
"""The pause after an outcome, in which an owner under load takes the next commands without a message.

It is longer than the pause before an owner's next look for a crowd (decision 0009).
"""

_PAUSE_SECONDS_MAX = 1
_SEND_SECONDS_MAX = 1
_CLOSE_SECONDS_MAX = 2
_PAUSES_MAX = 10_000

_OWNERS_SECONDS = 1.0
_UNOWNED_SECONDS = 0.1
"""The pause before the next read of owners while buckets have none, as workers start or divide anew."""
_READ_SECONDS_MAX = 2

Send = Callable[[str, Sequence[UUID]], Awaitable[None]]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Pause:
    """The time before which an event gets no further message."""

    until: float
    seconds: float


class BucketOwners:
    """The worker that owns each bucket: `numbers` has the workers' numbers by bucket, as last read.

    They are read in the background, so no wake message waits for the database. A stale owner costs the
    command the wait for a tick.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self.numbers: dict[int, int] = {}
        self.task = SingleTask(self._keep_reading)
        self._engine = engine

    async def read(self) -> None:
        """Read the owners once; they stay as they are if the database cannot be read."""
        try:
            async with asyncio.timeout(_READ_SECONDS_MAX), self._engine.connect() as connection:
                self.numbers = await locks.owners(connection)
        except (SQLAlchemyError, OSError, TimeoutError) as error:
            log.warning("owners_not_readable", error=error)

    async def _keep_reading(self) -> None:
        while True:
            await self.read()
            await asyncio.sleep(_OWNERS_SECONDS if len(self.numbers) == ids.BUCKETS else _UNOWNED_SECONDS)


class Waker:
    """Sends wake messages from a task of its own: no request waits for the broker."""

    def __init__(self, send: Send, owners: BucketOwners, clock: Callable[[], float]) -> None:
        self._send = send
        self._owners = owners
        self._clock = clock
        self._due: dict[UUID, set[UUID]] = {}
        self._sent: dict[UUID, set[UUID]] = {}
        self._pauses: dict[UUID, _Pause] = {}
        self._woken_at: dict[UUID, float] = {}
        self._released = asyncio.Event()
        self._sender = SingleTask(self._send_all)

    def wake(self, event_id: UUID, command_id: UUID) -> None:
        """Wake the event's owner for this command soon; never raises, never waits."""
        self._due.setdefault(event_id, set()).add(command_id)
        self._sender.ensure_running()
        if not self._sent and event_id not in self._pauses:
            self._released.set()

    def outcomes_seen(self, event_id: UUID, command_ids: Collection[UUID]) -> None:
        """Note that the event's owner has decided these commands: they need no message any more."""
        due = self._due.get(event_id)
        if due is not None:
            due.difference_update(command_ids)
            if not due:
                del self._due[event_id]
        self._pauses.pop(event_id, None)
        if not self._sent.get(event_id, set()).isdisjoint(command_ids):
            self._released.set()

    async def close(self) -> None:
        """Return when all messages that are due are sent, or the broker takes too long for them."""
        self._pauses.clear()
        await self._sender.finish(_CLOSE_SECONDS_MAX)

    async def _send_all(self) -> None:
        while self._due:
            self._released.clear()
            self._sent = self._take_due()
            for queue, event_ids in self.messages(self._sent):
                try:
                    async with asyncio.timeout(_SEND_SECONDS_MAX):
                        await self._send(queue, event_ids)
                    metrics.wakes_sent.inc()
                except TimeoutError:
                    log.warning("wake_failed", queue=queue, error=f"not sent in {_SEND_SECONDS_MAX} s")
                    break  # the other messages would take as long
                except Exception as error:  # noqa: BLE001 - any error: the ledger has the command
                    log.warning("wake_failed", queue=queue, error=error)
            with suppress(TimeoutError):
                async with asyncio.timeout(_OUTCOME_SECONDS_MAX):
                    await self._released.wait()
            if self._due:
                await asyncio.sleep(_GRACE_SECONDS)

    def _take_due(self) -> dict[UUID, set[UUID]]:
        """Take the events that are due and not paused, and begin the pause after each one's message."""
        now = self._clock()
        if len(self._pauses) > _PAUSES_MAX:
            self._pauses = {event_id: pause for event_id, pause in self._pauses.items() if pause.until > now}
        taken: dict[UUID, set[UUID]] = {}
        for event_id in list(self._due):
            if len(taken) >= queues.MESSAGE_EVENTS_MAX:
                break  # the others have their turn in the next round
            pause = self._pauses.get(event_id)
            if pause is None or pause.until <= now:
                seconds = (
                    _OUTCOME_SECONDS_MAX if pause is None else min(2 * pause.seconds, _PAUSE_SECONDS_MAX)
                )
                self._pauses[event_id] = _Pause(until=now + seconds, seconds=seconds)
                taken[event_id] = self._due.pop(event_id)
        return taken

    def messages(self, event_ids: Collection[UUID]) -> list[tuple[str, list[UUID]]]:
        """Return the messages that wake these events, each a queue and the events of one owner.

        An event without a known owner gets a message of its own, to its own queue.
        """
        now = self._clock()
        since = now - queues.ADDRESSED_SECONDS
        if len(self._woken_at) + len(event_ids) > queues.CONSUMED_EVENTS_MAX:
            self._woken_at = {event_id: at for event_id, at in self._woken_at.items() if at > since}
        groups: dict[int | UUID, list[UUID]] = {}
        for event_id in event_ids:
            groups.setdefault(self._owners.numbers.get(ids.bucket(event_id), event_id), []).append(event_id)
        messages = []
        for owner, group in groups.items():
            if isinstance(owner, UUID):
                messages.append((queues.EVENT_QUEUE % owner, group))
                continue
            consumed = (event_id for event_id in group if self._woken_at.get(event_id, -math.inf) > since)
            woken = next(consumed, None)
            queue = queues.OWNER_QUEUE % owner if woken is None else queues.EVENT_QUEUE % woken
            messages.append((queue, group))
            for event_id in group:  # as many as an owner consumes the queues of
                if event_id in self._woken_at or len(self._woken_at) < queues.CONSUMED_EVENTS_MAX:
                    self._woken_at[event_id] = now
        return messages
