"""The way of every command from a request to its outcome: accept, wake the owner, wait, answer."""

from collections.abc import Awaitable
from dataclasses import dataclass, field
from time import perf_counter
from uuid import UUID

import structlog
from sqlalchemy.exc import SQLAlchemyError
from starlette.responses import Response

from api.commands.early_refusal import FullEvents
from api.commands.intake import Intake
from api.commands.outcome_waiter import OutcomeWaiter
from api.commands.pending_limit import PendingLimit
from api.commands.retry_after import Pace
from api.commands.waker import Waker
from api.edge import problems, responses
from api.edge.problems import ProblemType
from api.observations import Observations
from api.queries.reader import Reader, Value
from api.queries.receipts import Receipts
from shared import metrics
from shared.domain import outcomes
from shared.domain.outcomes import Failed, Outcome, Refused
from shared.postgres import ledger
from shared.postgres.ledger import NewCommand

log = structlog.get_logger(__name__)


PUBLIC_ACTOR = "public"
HOLDER_ACTOR = "holder"
PUBLIC_ACTORS = frozenset((PUBLIC_ACTOR, HOLDER_ACTOR))


class CommandRequest(NewCommand, frozen=True, kw_only=True):
    """A client's command, and the seconds that the client waits for its outcome."""

    slug: str
    wait_seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Decided:
    """A command's successful outcome, and the headers of every answer about it."""

    receipt_id: UUID
    outcome: Outcome
    headers: dict[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Submission:
    """The way of a command through the parts of an API process."""

    limit: PendingLimit
    intake: Intake
    waker: Waker
    waiter: OutcomeWaiter
    full_events: FullEvents
    reader: Reader
    receipts: Receipts
    pace: Pace
    answer_seconds: Observations[float] = field(
        default_factory=lambda: Observations(metrics.answer_seconds.observe_all)
    )

    async def submit(self, request: CommandRequest) -> Decided | Response:
        """Return the command's outcome, or the answer 202 if the outcome is not known in time.

        Raises the problem of a refusal, of a failure, or of a command that was not accepted.
        """
        if request.actor in PUBLIC_ACTORS:  # an admin can pause an event in an overload
            self.limit.let_in(request.event_id)
        acceptance = await self.intake.accept(request)  # committed: it will have exactly one outcome
        if not acceptance.same_request:
            raise ProblemType.IDEMPOTENCY_KEY_REUSED.error()
        accepted_at = perf_counter()
        event_id, receipt_id = request.event_id, acceptance.command_id
        headers = {"location": f"/api/p/{request.slug}/receipts/{receipt_id}"}
        outcome: Outcome | None = None
        if acceptance.replayed:
            headers["idempotent-replayed"] = "true"
            outcome = await self._recorded_outcome(event_id, receipt_id)
        else:
            self.waker.wake(event_id, receipt_id)
        if outcome is None and request.wait_seconds > 0:
            outcome = await self.waiter.outcome(event_id, receipt_id, request.wait_seconds)
            if outcome is None:
                outcome = await self._recorded_outcome(event_id, receipt_id)
        if outcome is None:
            return await self._pending(event_id, receipt_id, headers)
        if not acceptance.replayed:
            self.answer_seconds.add(perf_counter() - accepted_at)
        if outcome == outcomes.EVENT_FULL:
            self.full_events.add(event_id)
        if isinstance(outcome, Refused | Failed):
            raise responses.unsuccessful(receipt_id, outcome, headers)
        return Decided(receipt_id=receipt_id, outcome=outcome, headers=headers)

    async def _recorded_outcome(self, event_id: UUID, command_id: UUID) -> Outcome | None:
        metrics.ledger_reads.inc()
        pairs = [(event_id, command_id)]
        recorded = await _if_readable(
            self.reader.read(lambda connection: ledger.outcomes_of(connection, pairs))
        )
        return None if recorded is None else recorded.get(command_id)

    async def _pending(self, event_id: UUID, command_id: UUID, headers: dict[str, str]) -> Response:
        receipt = await _if_readable(self.receipts.read(event_id, command_id))
        ahead = None if receipt is None else receipt.ahead or 0
        seconds = problems.RETRY_SECONDS if ahead is None else await self.pace.retry_seconds(event_id, ahead)
        return responses.pending(command_id, ahead, {**headers, "retry-after": str(seconds)})


async def shown(decided: Decided, reading: Awaitable[Value | None]) -> Value:
    """Return the value that an answer shows beside the outcome; raise a problem if there is none."""
    try:
        value = await reading
    except (SQLAlchemyError, OSError) as error:
        raise ProblemType.ANSWER_UNAVAILABLE.error(
            headers=decided.headers, receipt_id=decided.receipt_id
        ) from error
    if value is None:
        raise ProblemType.REGISTRATION_NOT_FOUND.error(
            "The command was decided, and the registration has been deleted since.",
            headers=decided.headers,
            receipt_id=decided.receipt_id,
        )
    return value


async def _if_readable(reading: Awaitable[Value | None]) -> Value | None:
    """Return the value, or None if the database cannot be reached after it accepted the command.

    The answer about an accepted command must not be that it was not accepted.
    """
    try:
        return await reading
    except (SQLAlchemyError, OSError) as error:
        log.warning("accepted_but_not_readable", error=repr(error))
        return None
