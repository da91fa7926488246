"""The public routes: what is left, register, what became of it, cancel."""

import hashlib
from http import HTTPStatus
from typing import Annotated
from uuid import UUID

import msgspec
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from api import answers, bodies, documentation, problems
from api.commands import submit
from api.problems import ProblemType
from api.queries import events
from api.schemas import Availability, Receipt, ReceiptStatus
from api.service import Service
from shared.domain import ids
from shared.domain.commands import ChangeStatus, Status

PUBLIC_ACTOR = "public"
HOLDER_ACTOR = "holder"

router = APIRouter(tags=["Registering"])


@router.get("/api/p/{slug}", **documentation.AVAILABILITY)
async def availability(slug: str, request: Request) -> Response:
    """Tell what is left of an event, and whether it can be registered for now."""
    service: Service = request.app.state.service
    event = await service.read(lambda connection: events.event_by_slug(connection, slug))
    if event is None:
        raise ProblemType.EVENT_NOT_FOUND.error()
    return answers.body(Availability(**{name: event[name] for name in Availability.__struct_fields__}))


@router.post("/api/p/{slug}/register", **documentation.REGISTER)
async def register(slug: str, request: Request) -> Response:
    """Ask for spots.

    The command is in the ledger before anything is answered. Decided in time: 201, or 409 with the
    reason. Otherwise 202 with a receipt that will have exactly one outcome.
    """
    service: Service = request.app.state.service
    command = await bodies.read_registration(request, service.settings)
    event_id = await service.event_id(slug)
    submitted = bodies.command_request(
        request, service.settings, slug=slug, event_id=event_id, command=command, actor=PUBLIC_ACTOR
    )
    full_event = service.full_events.loaders.get(event_id)
    if full_event is not None and submitted.idempotency_key is None:
        refusal = await full_event.load(command)
        if refusal is not None:
            raise problems.of_refusal(refusal.code).error(refusal.detail)
    decided = await submit.submit(service, submitted)
    if isinstance(decided, Response):
        return decided
    content = answers.receipt(decided.receipt_id, decided.outcome)
    return answers.body(content, HTTPStatus.CREATED, decided.headers)


@router.get("/api/p/{slug}/receipts/{receipt_id}", **documentation.RECEIPT)
async def read_receipt(
    slug: str, receipt_id: str, request: Request, wait: Annotated[float, Query(ge=0)] = 0
) -> Response:
    """Tell what has become of a command, as of now; `wait` holds the answer back until it is decided."""
    service: Service = request.app.state.service
    id_ = _receipt_id(receipt_id)
    event_id = await service.event_id(slug)
    found = await _receipt(service, event_id, id_)
    if found.status is ReceiptStatus.PENDING and wait:
        seconds = min(wait, service.settings.answer_wait_seconds_max)
        await service.waiter.outcome(event_id, id_, seconds)
        found = await _receipt(service, event_id, id_)
    headers = {}
    if found.ahead is not None:
        headers["retry-after"] = str(await service.pace.retry_seconds(event_id, found.ahead))
    return _unless_known(request, found, headers)


@router.delete("/api/p/{slug}/receipts/{receipt_id}", **documentation.CANCEL)
async def cancel(slug: str, receipt_id: str, request: Request) -> Response:
    """Cancel one's own registration; holding its receipt is the right to."""
    service: Service = request.app.state.service
    id_ = _receipt_id(receipt_id)
    event_id = await service.event_id(slug)
    await _receipt(service, event_id, id_)
    command = ChangeStatus(registration_id=ids.registration_id(id_), status=Status.CANCELLED)
    decided = await submit.submit(
        service,
        bodies.command_request(
            request, service.settings, slug=slug, event_id=event_id, command=command, actor=HOLDER_ACTOR
        ),
    )
    if isinstance(decided, Response):
        return decided
    cancelled = await submit.shown(decided, service.receipts.read(event_id, id_))
    return answers.body(cancelled, headers=decided.headers)


def _receipt_id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise ProblemType.RECEIPT_NOT_FOUND.error() from None


async def _receipt(service: Service, event_id: UUID, id_: UUID) -> Receipt:
    found = await service.receipts.read(event_id, id_)
    if found is None:
        raise ProblemType.RECEIPT_NOT_FOUND.error()
    return found


def _unless_known(request: Request, content: Receipt, headers: dict[str, str]) -> Response:
    """Answer 304 to a client that has this very content, by its entity tag (RFC 9110)."""
    encoded = msgspec.json.encode(content)
    headers["etag"] = tag = f'"{hashlib.blake2b(encoded, digest_size=12).hexdigest()}"'
    headers["cache-control"] = "private, no-cache"
    known = request.headers.get("if-none-match", "")
    if tag in (candidate.strip().removeprefix("W/") for candidate in known.split(",")):
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    return Response(encoded, HTTPStatus.OK, headers, "application/json")
