"""Wakes the owners of events that have new commands, with as few messages as possible.

The waker sends at once when it is idle. Then it waits until an outcome of a command that it sent for has been
seen, at most `_OUTCOME_SECONDS_MAX`, before it sends again; events that get commands meanwhile share the next
messages. An owner under load reads its next commands without a message, so most commands are decided before
their message is due, and need none (decision 0009).

A message that fails is logged and forgotten: the command is in the ledger, and the event's owner finds it at
its next tick.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from uuid import UUID

import structlog

from api.tasks import SingleTask
from shared import metrics

log = structlog.get_logger(__name__)

_OUTCOME_SECONDS_MAX = 0.05
_CLOSE_SECONDS_MAX = 2
_GRACE_SECONDS = 0.001
"""The pause after an outcome, in which an owner under load takes the next commands without a message."""

Send = Callable[[str, Sequence[UUID]], Awaitable[None]]
Address = Callable[[Collection[UUID]], list[tuple[str, list[UUID]]]]


class Waker:
    """Sends wake messages from a task of its own: no request waits for the broker."""

    def __init__(self, send: Send, address: Address) -> None:
        self._send = send
        self._address = address
        self._due: dict[UUID, set[UUID]] = {}
        self._sent: dict[UUID, set[UUID]] = {}
        self._outcome = asyncio.Event()
        self._sender = SingleTask(self._send_all)

    def wake(self, event_id: UUID, command_id: UUID) -> None:
        """Wake the event's owner for this command soon; never raises, never waits."""
        self._due.setdefault(event_id, set()).add(command_id)
        self._sender.ensure_running()

    def outcomes_seen(self, event_id: UUID, command_ids: Collection[UUID]) -> None:
        """Note that the event's owner has decided these commands: they need no message any more."""
        due = self._due.get(event_id)
        if due is not None:
            due.difference_update(command_ids)
            if not due:
                del self._due[event_id]
        if not self._sent.get(event_id, set()).isdisjoint(command_ids):
            self._outcome.set()

    async def close(self) -> None:
        """Return when all messages that are due are sent, or after `_CLOSE_SECONDS_MAX`."""
        await self._sender.finish(_CLOSE_SECONDS_MAX)

    async def _send_all(self) -> None:
        while self._due:
            self._sent, self._due = self._due, {}
            self._outcome.clear()
            for queue, event_ids in self._address(list(self._sent)):
                try:
                    await self._send(queue, event_ids)
                    metrics.wakes_sent.inc()
                except Exception as error:  # noqa: BLE001 - any error: the ledger has the command
                    log.warning("wake_failed", queue=queue, error=repr(error))
            with suppress(TimeoutError):
                async with asyncio.timeout(_OUTCOME_SECONDS_MAX):
                    await self._outcome.wait()
            if self._due:
                await asyncio.sleep(_GRACE_SECONDS)
