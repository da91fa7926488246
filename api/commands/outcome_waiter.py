"""Waits for outcomes: the registry of the commands that requests wait for.

`result_poller` answers from the result backend, `ledger_fallback` from the ledger. A request gets the
recorded outcome or none.
"""

import asyncio
from collections.abc import Callable
from uuid import UUID

import msgspec

from api.tasks import SingleTask
from shared.domain.outcomes import Outcome

_Answer = asyncio.Future[Outcome | None]


class AwaitedCommand(msgspec.Struct, kw_only=True, eq=False):
    """A command that requests wait for; `accepted_at` on the loop's clock, None for an earlier command."""

    event_id: UUID
    command_id: UUID
    answers: list[_Answer]
    accepted_at: float | None


class OutcomeWaiter:
    """The commands of which requests of this process await the outcome.

    `by_event` has them by event, in the order in which the waiting began. `poller` runs while a request
    waits; `ask_ledger` is called for a command when the result backend has had no outcome of it in time.
    """

    def __init__(self, ledger_read_seconds: float) -> None:
        self.by_event: dict[UUID, dict[UUID, AwaitedCommand]] = {}
        self.poller: SingleTask | None = None
        self.ask_ledger: Callable[[AwaitedCommand], None] = lambda _: None
        self._ledger_read_seconds = ledger_read_seconds
        self._released = False

    async def outcome(
        self, event_id: UUID, command_id: UUID, seconds: float, *, accepted_now: bool = False
    ) -> Outcome | None:
        """Return the command's outcome, or None when it is not known within `seconds`."""
        if seconds <= 0 or self._released:
            return None
        loop = asyncio.get_running_loop()
        event = self.by_event.setdefault(event_id, {})
        awaited = event.get(command_id)
        if awaited is None:
            awaited = event[command_id] = AwaitedCommand(
                event_id=event_id,
                command_id=command_id,
                answers=[],
                accepted_at=loop.time() if accepted_now else None,
            )
        answer: _Answer = loop.create_future()
        awaited.answers.append(answer)
        patience = min(seconds, self._ledger_read_seconds)
        timer = loop.call_later(patience, self._overdue, awaited, answer, seconds - patience)
        if self.poller is not None:
            self.poller.ensure_running()
        try:
            return await answer
        finally:
            timer.cancel()
            awaited.answers.remove(answer)
            if not awaited.answers:
                self.answer(awaited, None)

    def answer(self, awaited: AwaitedCommand, outcome: Outcome | None) -> None:
        """Answer all requests that wait for this command, and forget it."""
        event = self.by_event.get(awaited.event_id, {})
        if event.get(awaited.command_id) is awaited:
            del event[awaited.command_id]
            if not event:
                del self.by_event[awaited.event_id]
        for answer in awaited.answers:
            if not answer.done():
                answer.set_result(outcome)

    def all(self) -> list[AwaitedCommand]:
        """Return all commands that requests wait for."""
        return [awaited for event in self.by_event.values() for awaited in event.values()]

    def release(self) -> None:
        """Answer all requests without an outcome, now and from now on: the process is about to end."""
        self._released = True
        for awaited in self.all():
            self.answer(awaited, None)

    def _overdue(self, awaited: AwaitedCommand, answer: _Answer, seconds_left: float) -> None:
        """Ask the ledger, and end the wait when its time is over."""
        if seconds_left > 0:
            self.ask_ledger(awaited)
        asyncio.get_running_loop().call_later(seconds_left, _give_up, answer)


def _give_up(answer: _Answer) -> None:
    if not answer.done():
        answer.set_result(None)
