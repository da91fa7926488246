"""The public routes: what is left, register, and what became of it."""

from http import HTTPStatus
from uuid import UUID

from fastapi import APIRouter, Query, Request
from sqlalchemy import RowMapping
from starlette.responses import Response

from api import answers, bodies, documentation, queries
from api.answers import ProblemError
from api.schemas import Availability, Receipt, ReceiptStatus, RegistrationBrief
from api.service import Service, event_not_found
from shared import commands, ids, ledger, outcomes
from shared.commands import Status
from shared.ledger import Asked
from shared.outcomes import Confirmed, Waitlisted

PUBLIC_ACTOR = "public"

router = APIRouter(tags=["Registering"])


@router.get("/api/p/{slug}", **documentation.AVAILABILITY)
async def availability(slug: str, request: Request) -> Response:
    """Tell what is left of an event, and whether it can be registered for now."""
    service: Service = request.app.state.service
    async with service.engine.connect() as connection:
        event = await queries.event_by_slug(connection, slug)
    if event is None:
        raise event_not_found()
    return answers.body(Availability(**{name: event[name] for name in Availability.__struct_fields__}))


@router.post("/api/p/{slug}/register", **documentation.REGISTER)
async def register(slug: str, request: Request) -> Response:
    """Ask for spots.

    The command is in the ledger before anything is answered. Decided in time: 201, or 409 with the
    reason. Otherwise 202 with a receipt that will have exactly one outcome.
    """
    service: Service = request.app.state.service
    command = await bodies.read_registration(request, service.settings)
    key = bodies.idempotency_key(request)
    event_id = await service.event_id(slug)
    receipt = await service.intake.accept(
        Asked(
            event_id=event_id,
            id=ids.new_id(),
            kind=commands.kind(command),
            payload=commands.encode(command),
            actor=PUBLIC_ACTOR,
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
    seconds = bodies.wait_seconds(request, service.settings)
    return await _answer(service, request, slug, event_id, receipt, seconds)


@router.get("/api/p/{slug}/receipts/{receipt_id}", **documentation.RECEIPT)
async def read_receipt(slug: str, receipt_id: str, request: Request, wait: float = Query(0, ge=0)) -> Response:
    """Tell what has become of a command, as of now; `wait` holds the answer back until it is decided."""
    service: Service = request.app.state.service
    id_ = _receipt_id(receipt_id)
    event_id = await service.event_id(slug)
    found = await _receipt(service, event_id, id_)
    seconds = min(wait, service.settings.answer_wait_seconds_max)
    if found.status is ReceiptStatus.PENDING and seconds:
        outcome = await service.waiting.outcome(event_id, id_, seconds)
        found = answers.receipt(id_, outcome) if outcome else await _receipt(service, event_id, id_)
    is_pending = found.status is ReceiptStatus.PENDING
    return answers.body(found, headers={"retry-after": str(answers.RETRY_SECONDS)} if is_pending else None)


async def _answer(
    service: Service, request: Request, slug: str, event_id: UUID, receipt: ledger.Receipt, seconds: float
) -> Response:
    id_, replayed = receipt.command_id, receipt.replayed
    outcome = await service.waiting.outcome(event_id, id_, seconds)
    if outcome is None:
        async with service.engine.connect() as connection:
            settled = await ledger.settled(connection, [(event_id, id_)])
            outcome = settled.get(id_)
            if outcome is None:
                ahead = await ledger.ahead(connection, event_id, id_)
                return answers.pending(slug, id_, ahead, replayed=replayed)
    request_id = request.headers.get("x-request-id")
    return answers.decided(slug, id_, outcome, replayed=replayed, request_id=request_id)


def _receipt_id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise _receipt_not_found() from None


async def _receipt(service: Service, event_id: UUID, id_: UUID) -> Receipt:
    async with service.engine.connect() as connection:
        row = await queries.receipt(connection, event_id, id_)
        if row is None:
            raise _receipt_not_found()
        if row["outcome"] is None:
            ahead = await ledger.ahead(connection, event_id, id_)
            return Receipt(receipt_id=id_, status=ReceiptStatus.PENDING, ahead=ahead)
    return _as_of_now(id_, row)


def _as_of_now(id_: UUID, row: RowMapping) -> Receipt:
    """Return a settled command's receipt; a registration shows what it is now, not what it was."""
    outcome = outcomes.decode(row["outcome"])
    if not isinstance(outcome, Confirmed | Waitlisted):
        return answers.receipt(id_, outcome)
    if row["id"] is None:
        return Receipt(receipt_id=id_, status=ReceiptStatus.DELETED)
    registration = RegistrationBrief(
        id=row["id"],
        status=Status(row["status"]),
        spots_count=row["spots_count"],
        waitlist_position=row["waitlist_position"],
    )
    return Receipt(receipt_id=id_, status=ReceiptStatus(row["status"]), registration=registration)


def _receipt_not_found() -> ProblemError:
    return ProblemError(HTTPStatus.NOT_FOUND, "RECEIPT_NOT_FOUND", "No such receipt was ever issued here.")
