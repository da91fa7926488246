"""Waits for outcomes: the registry of the commands that requests wait for.

`result_poller` answers from the result backend, `ledger_fallback` from the ledger. A request is told the
recorded outcome or nothing.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from uuid import UUID

import msgspec

from shared.domain.outcomes import Outcome
from shared.messaging import results

_Answer = asyncio.Future[Outcome | None]


class AwaitedCommand(msgspec.Struct, kw_only=True, eq=False):
    """A command that requests wait for; at `ledger_at`, by the loop's clock, the ledger is asked for it."""

    event_id: UUID
    command_id: UUID
    result_key: str
    ledger_at: float
    answers: list[_Answer]


class OutcomeWaiter:
    """All commands whose outcome a request of this process waits for, by event in the order of acceptance.

    `readers` start whatever looks for outcomes; it ends when no request waits.
    """

    def __init__(self, ledger_read_seconds: float) -> None:
        self.readers: Sequence[Callable[[], None]] = ()
        self._ledger_read_seconds = ledger_read_seconds
        self._by_event: dict[UUID, dict[UUID, AwaitedCommand]] = {}
        self._released = False

    def __bool__(self) -> bool:
        """Tell whether a request waits."""
        return bool(self._by_event)

    def __iter__(self) -> Iterator[AwaitedCommand]:
        """Yield all commands that requests wait for."""
        for event in self._by_event.values():
            yield from event.values()

    def __contains__(self, event_id: UUID) -> bool:
        """Tell whether a request waits for a command of this event."""
        return event_id in self._by_event

    async def outcome(self, event_id: UUID, command_id: UUID, seconds: float) -> Outcome | None:
        """Return the command's outcome, or None when it is not known within `seconds`."""
        if seconds <= 0 or self._released:
            return None
        loop = asyncio.get_running_loop()
        event = self._by_event.setdefault(event_id, {})
        awaited = event.get(command_id)
        if awaited is None:
            awaited = event[command_id] = AwaitedCommand(
                event_id=event_id,
                command_id=command_id,
                result_key=results.key(command_id),
                ledger_at=loop.time() + self._ledger_read_seconds,
                answers=[],
            )
        answer: _Answer = loop.create_future()
        awaited.answers.append(answer)
        timer = loop.call_later(seconds, _give_up, answer)
        for start in self.readers:
            start()
        try:
            return await answer
        finally:
            timer.cancel()
            awaited.answers.remove(answer)
            if not awaited.answers:
                self._forget(awaited)

    def answer(self, awaited: AwaitedCommand, outcome: Outcome | None) -> None:
        """Answer all requests that wait for this command."""
        self._forget(awaited)
        for answer in awaited.answers:
            if not answer.done():
                answer.set_result(outcome)

    def release(self) -> None:
        """Answer all requests without an outcome, now and from now on: the process is about to end."""
        self._released = True
        for awaited in list(self):
            self.answer(awaited, None)

    def first(self, event_id: UUID, count: int) -> list[AwaitedCommand]:
        """Return the commands of an event that are awaited longest; an event settles them in this order."""
        return list(islice(self._by_event.get(event_id, {}).values(), count))

    def next_events(self, count: int) -> list[UUID]:
        """Return so many events; the other events come first next time."""
        event_ids = list(islice(self._by_event, count))
        if len(event_ids) < len(self._by_event):
            for event_id in event_ids:
                self._by_event[event_id] = self._by_event.pop(event_id)
        return event_ids

    def _forget(self, awaited: AwaitedCommand) -> None:
        event = self._by_event.get(awaited.event_id)
        if event is not None and event.get(awaited.command_id) is awaited:
            del event[awaited.command_id]
            if not event:
                del self._by_event[awaited.event_id]


def _give_up(answer: _Answer) -> None:
    if not answer.done():
        answer.set_result(None)
