"""The way of every command from a request to its outcome: accept, wake the owner, wait, answer."""

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from uuid import UUID

import msgspec
import structlog
from sqlalchemy.exc import SQLAlchemyError
from starlette.responses import Response

from api.commands.early_answers import RefusingEvents
from api.commands.intake import Intake
from api.commands.outcome_waiter import OutcomeWaiter
from api.commands.retry_after import Pace
from api.commands.waker import Waker
from api.edge import problems, responses
from api.edge.problems import ProblemError, ProblemType
from api.edge.schemas import Receipt, ReceiptStatus, RegistrationBrief
from api.queries.reader import Reader, Value
from api.queries.receipts import Receipts
from shared import metrics
from shared.domain import ids
from shared.domain.commands import Status
from shared.domain.outcomes import Confirmed, Failed, Outcome, Refused, Waitlisted
from shared.postgres import ledger
from shared.postgres.durability import NotConfirmed
from shared.postgres.ledger import NewCommand

log = structlog.get_logger(__name__)

_READ_SECONDS = 1.0
"""The time for the reads of an answer, once the wait for the outcome is over."""


class Deadline(msgspec.Struct, frozen=True):
    """The times of the event loop by which a command is accepted, and by which its outcome is waited for."""

    accept_by: float
    decide_by: float

    def read_by(self) -> float:
        """Return the time by which the reads of the answer that begin now must be over."""
        return max(self.decide_by, asyncio.get_running_loop().time()) + _READ_SECONDS


class CommandRequest(NewCommand, frozen=True, kw_only=True):
    """A client's command, and the deadline of its answer."""

    slug: str
    deadline: Deadline


class Decided(msgspec.Struct, frozen=True, kw_only=True):
    """A command's successful outcome, and the headers and the deadline of every answer about it.

    `replayed`: an earlier request with the same key has made the command, so much may have changed since.
    `made` is false if the outcome changes nothing, so no command was made: the receipt is the holder's own.
    """

    receipt_id: UUID
    outcome: Outcome
    headers: dict[str, str]
    deadline: Deadline
    replayed: bool
    made: bool = True

    def problem(self, problem: ProblemType) -> ProblemError:
        """Return the problem of an answer that cannot be shown; it names the command, if one was made."""
        if not self.made:
            return problem.error()
        return problem.error(headers=self.headers, receipt_id=self.receipt_id)


@dataclass(frozen=True, kw_only=True, slots=True)
class Submission:
    """The way of a command through the parts of an API process."""

    intake: Intake
    waker: Waker
    waiter: OutcomeWaiter
    refusing_events: RefusingEvents
    reader: Reader
    receipts: Receipts
    pace: Pace

    async def submit(self, request: CommandRequest) -> Decided | Response:
        """Return the command's outcome, or the answer 202 if the outcome is not known in time.

        Raises the problem of a refusal, of a failure, or of a command that was not accepted.
        """
        deadline = request.deadline
        # Committed: it will have exactly one outcome.
        acceptance = await self.intake.accept(request, deadline.accept_by)
        if not acceptance.same_request:
            raise ProblemType.IDEMPOTENCY_KEY_REUSED.error()
        event_id, receipt_id = request.event_id, acceptance.command_id
        headers = {"location": f"/api/p/{request.slug}/receipts/{receipt_id}"}
        outcome: Outcome | None = None
        if acceptance.replayed:
            headers["idempotent-replayed"] = "true"
            outcome = await self._recorded_outcome(event_id, receipt_id, deadline)
        else:
            self.waker.wake(event_id, receipt_id)
        if outcome is None and (seconds := deadline.decide_by - asyncio.get_running_loop().time()) > 0:
            accepted = not acceptance.replayed
            outcome = await self.waiter.outcome(event_id, receipt_id, seconds, accepted_now=accepted)
            if outcome is None:
                outcome = await self._recorded_outcome(event_id, receipt_id, deadline)
        if outcome is None:
            self.refusing_events.note_unheard(event_id)
            return await self._pending(event_id, receipt_id, headers, deadline)
        if isinstance(outcome, Refused | Failed):
            if isinstance(outcome, Refused):
                self.refusing_events.note(event_id, outcome)
            raise responses.unsuccessful(outcome, headers, receipt_id)
        return Decided(
            receipt_id=receipt_id,
            outcome=outcome,
            headers=headers,
            deadline=deadline,
            replayed=acceptance.replayed,
        )

    async def registered(self, decided: Decided, event_id: UUID) -> Receipt:
        """Return the receipt of a registration as it was made; a replay has the registration as it is now.

        That is null if the registration is gone, or its holder has been given a newer receipt since.
        """
        made = decided.outcome
        assert isinstance(made, Confirmed | Waitlisted), "the command makes a registration"
        registration = RegistrationBrief(
            id=made.registration_id,
            status=Status.CONFIRMED if isinstance(made, Confirmed) else Status.WAITLIST,
            spots_count=made.spots_count,
            waitlist_position=None if isinstance(made, Confirmed) else made.position,
        )
        receipt = Receipt(
            receipt_id=decided.receipt_id,
            task_id=ids.task_id(decided.receipt_id),
            status=ReceiptStatus(registration.status),
            registration=registration,
        )
        if decided.replayed:
            reading = self.receipts.find(event_id, decided.receipt_id, decided.deadline.read_by())
            now = (await shown(decided, reading)).receipt
            receipt = msgspec.structs.replace(receipt, registration=now and now.registration)
        return receipt

    async def _recorded_outcome(self, event_id: UUID, command_id: UUID, deadline: Deadline) -> Outcome | None:
        metrics.ledger_reads.inc()
        return await _if_readable(self._confirmed_outcome(event_id, command_id), deadline.read_by())

    async def _confirmed_outcome(self, event_id: UUID, command_id: UUID) -> Outcome | None:
        pairs = [(event_id, command_id)]
        recorded = await self.reader.read(lambda connection: ledger.outcomes_of(connection, pairs))
        await self.intake.confirm(settled.to_confirm for settled in recorded.values())
        return recorded[command_id].outcome if command_id in recorded else None

    async def _pending(
        self, event_id: UUID, command_id: UUID, headers: dict[str, str], deadline: Deadline
    ) -> Response:
        read_by = deadline.read_by()
        seconds: int | None = None
        ahead = await _if_readable(self.receipts.ahead(event_id, command_id), read_by)
        if ahead is not None:
            seconds = await _if_readable(self.pace.retry_seconds(event_id, ahead), read_by)
        headers = {**headers, "retry-after": str(seconds or problems.RETRY_SECONDS)}
        return responses.pending(command_id, ahead, headers)


async def shown(decided: Decided, reading: Awaitable[Value]) -> Value:
    """Return the value that an answer shows beside the outcome; raise a problem if it cannot be read.

    The problem names the command's own receipt, also where another one was read.
    """
    try:
        async with asyncio.timeout_at(decided.deadline.read_by()):
            return await reading
    except (SQLAlchemyError, OSError, ProblemError) as error:  # a time-out is an OSError
        raise decided.problem(ProblemType.ANSWER_UNAVAILABLE) from error


async def _if_readable(reading: Awaitable[Value | None], by: float) -> Value | None:
    """Return the value, or None if the database does not give and confirm it by that time.

    The answer about an accepted command must not be that it was not accepted.
    """
    try:
        async with asyncio.timeout_at(by):
            return await reading
    except (SQLAlchemyError, OSError, NotConfirmed) as error:
        log.warning("accepted_but_not_readable", error=error)
        return None
