"""The one way to ask for a change: accept the command, wait for its outcome, or answer 202."""

from collections.abc import Awaitable
from dataclasses import dataclass
from http import HTTPStatus
from uuid import UUID

import structlog
from fastapi import Request
from sqlalchemy.exc import SQLAlchemyError
from starlette.responses import Response

from api import answers, bodies
from api.answers import ProblemError
from api.reading import Found
from api.service import Service
from shared.domain import commands, ids, outcomes
from shared.domain.commands import Command
from shared.domain.outcomes import Failed, Outcome, Refused
from shared.postgres import ledger
from shared.postgres.ledger import Asked

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Decided:
    """A command's successful outcome, and the headers that go with every answer about it."""

    receipt_id: UUID
    outcome: Outcome
    headers: dict[str, str]


async def submit(  # noqa: PLR0913 - who asks what, where, of whom
    service: Service, request: Request, *, slug: str, event_id: UUID, command: Command, actor: str
) -> Decided | Response:
    """Return the command's outcome, or the 202 to answer with when it is not decided in time.

    Raises the problem that tells a refusal, a failure, or why nothing was accepted.
    """
    receipt = await _accept(service, request, event_id, command, actor)
    headers = {"location": receipt_url(slug, receipt.command_id)}
    if receipt.replayed:
        headers["idempotent-replayed"] = "true"
    outcome = await _outcome(service, event_id, receipt, bodies.wait_seconds(request, service.settings))
    if outcome is None:
        return await _pending(service, event_id, receipt.command_id, headers)
    if outcome == outcomes.EVENT_FULL:
        service.sold_out.suspect(event_id)
    if isinstance(outcome, Refused | Failed):
        raise answers.unsuccessful(receipt.command_id, outcome, headers)
    return Decided(receipt_id=receipt.command_id, outcome=outcome, headers=headers)


def receipt_url(slug: str, receipt_id: UUID) -> str:
    """Return where a receipt can be asked for."""
    return f"/api/p/{slug}/receipts/{receipt_id}"


async def _accept(
    service: Service, request: Request, event_id: UUID, command: Command, actor: str
) -> ledger.Receipt:
    key = bodies.idempotency_key(request)
    receipt = await service.intake.accept(
        Asked(
            event_id=event_id,
            id=ids.new_id(),
            kind=commands.kind(command),
            payload=commands.encode(command),
            actor=actor,
            idempotency_key=key,
            fingerprint=bodies.fingerprint(command) if key else None,
        )
    )
    if not receipt.same_request:
        raise ProblemError(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            "IDEMPOTENCY_KEY_REUSED",
            "This Idempotency-Key was used to ask for something else.",
        )
    return receipt


async def _outcome(
    service: Service, event_id: UUID, receipt: ledger.Receipt, seconds: float
) -> Outcome | None:
    """Return the outcome, waiting for it if need be; None when it is not known in time.

    What was asked before was most likely answered before; what is new is decided in a moment.
    """
    outcome: Outcome | None = None
    if receipt.replayed:
        outcome = await _if_readable(_settled(service, event_id, receipt))
    if outcome is None and seconds > 0:
        outcome = await service.waiting.outcome(event_id, receipt.command_id, seconds)
        if outcome is None:
            outcome = await _if_readable(_settled(service, event_id, receipt))
    return outcome


async def _settled(service: Service, event_id: UUID, receipt: ledger.Receipt) -> Outcome | None:
    command = (event_id, receipt.command_id)
    found = await service.read(lambda connection: ledger.settled(connection, [command]))
    return found.get(receipt.command_id)


async def _pending(service: Service, event_id: UUID, command_id: UUID, headers: dict[str, str]) -> Response:
    found = await _if_readable(service.receipts.read(event_id, command_id))
    ahead = None if found is None else found.ahead or 0
    seconds = answers.RETRY_SECONDS if ahead is None else await service.pace.retry_seconds(event_id, ahead)
    return answers.pending(command_id, ahead, {**headers, "retry-after": str(seconds)})


async def told(decided: Decided, reading: Awaitable[Found | None]) -> Found:
    """Return what an answer shows besides the outcome; a problem with the receipt if it cannot be shown."""
    try:
        found = await reading
    except (SQLAlchemyError, OSError) as error:
        raise ProblemError(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "ANSWER_UNAVAILABLE",
            "The command was decided; what has become of it cannot be read now. Ask for its receipt.",
            headers={**decided.headers, "retry-after": str(answers.RETRY_SECONDS)},
            receipt_id=decided.receipt_id,
        ) from error
    if found is None:
        raise ProblemError(
            HTTPStatus.NOT_FOUND,
            "REGISTRATION_NOT_FOUND",
            "The command was decided, and the registration has been deleted since.",
            headers=decided.headers,
            receipt_id=decided.receipt_id,
        )
    return found


async def _if_readable(reading: Awaitable[Found | None]) -> Found | None:
    """Return what is read; None when the database has gone since it accepted the command.

    Accepted is accepted: from here on nothing may be answered as if the command were not there.
    """
    try:
        return await reading
    except (SQLAlchemyError, OSError) as error:
        log.warning("accepted_but_not_readable", error=repr(error))
        return None
