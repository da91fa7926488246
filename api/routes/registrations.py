"""The public routes: availability, register, receipt, cancel."""

import asyncio
import hashlib
import math
from http import HTTPStatus
from typing import Any
from uuid import UUID

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from api.commands import deadline as deadlines
from api.commands import submit
from api.edge import body_fields, problems, request_bodies, responses
from api.edge.front import Endpoint
from api.edge.problems import ProblemType
from api.edge.schemas import Availability, Receipt, ReceiptStatus
from api.openapi import public_routes
from api.queries import events
from api.services import Provided, Services
from shared.domain import ids
from shared.domain.commands import ChangeStatus, Register, Status

router = APIRouter(tags=["Registering"])

# One second for each cache, and one more while a cache asks anew: a crowd is one request a second.
_BRIEFLY = "public, max-age=1, stale-while-revalidate=1"
_REGISTER = msgspec.json.Decoder(Register)


@router.get("/api/p/{slug}", **public_routes.AVAILABILITY)
async def availability(slug: str, services: Provided) -> Response:
    """Return the spots that are left of an event, and whether it takes registrations now."""
    event = await services.read(lambda connection: events.event_by_slug(connection, slug))
    if event is None:
        raise ProblemType.EVENT_NOT_FOUND.error()
    content = Availability(**{name: event[name] for name in Availability.__struct_fields__})
    return responses.body(content, headers={"cache-control": _BRIEFLY})


@router.post("/api/p/{slug}/register", **public_routes.REGISTER)
async def register(slug: str, services: Provided, request: Request) -> Response:
    """Register a party for spots of an event.

    The command is in the ledger before the answer. If it is decided in time, the answer is 201, or 409 with
    the reason. Otherwise the answer is 202 with a receipt that will have exactly one outcome.
    """
    command = await request_bodies.read(request, _REGISTER, services.settings)
    deadline = request_bodies.deadline_of(request, services.settings)
    event_id = services.event_ids.get(slug) or await _event_id(services, slug, deadline.accept_by)
    submitted = request_bodies.command_request(
        request, deadline, slug=slug, event_id=event_id, command=command, actor=submit.PUBLIC_ACTOR
    )
    full_event = services.full_events.loaders.get(event_id)
    if full_event is not None and submitted.idempotency_key is None:
        async with asyncio.timeout_at(deadline.accept_by):
            refusal = await full_event.load(command)
        if refusal is not None:
            raise problems.of_refusal(refusal.code).error(refusal.detail)
    decided = await services.submission.submit(submitted)
    if isinstance(decided, Response):
        return decided
    content = responses.receipt(decided.receipt_id, decided.outcome)
    return responses.body(content, HTTPStatus.CREATED, decided.headers)


@router.get("/api/p/{slug}/receipts/{receipt_id}", **public_routes.RECEIPT)
async def read_receipt(slug: str, receipt_id: str, services: Provided, request: Request) -> Response:
    """Return the state of a command as of now; `wait` delays the answer until the command is decided."""
    id_ = _receipt_id(receipt_id)
    wait_seconds = min(_wait_seconds(request), services.settings.answer_wait_seconds_max)
    deadline = deadlines.of(wait_seconds, services.settings.answer_wait_seconds)
    event_id = services.event_ids.get(slug) or await _event_id(services, slug, deadline.accept_by)
    receipt = await _receipt(services, event_id, id_, deadline.accept_by)
    if receipt.status is ReceiptStatus.PENDING and deadline.seconds_left > 0:
        await services.waiter.outcome(event_id, id_, deadline.seconds_left)
        receipt = await _receipt(services, event_id, id_, deadline.read_by())
    headers = {}
    if receipt.ahead is not None:
        headers["retry-after"] = str(await services.pace.retry_seconds(event_id, receipt.ahead))
    return _unless_known(request, receipt, headers)


@router.delete("/api/p/{slug}/receipts/{receipt_id}", **public_routes.CANCEL)
async def cancel(slug: str, receipt_id: str, services: Provided, request: Request) -> Response:
    """Cancel a registration; its receipt is the permission."""
    id_ = _receipt_id(receipt_id)
    deadline = request_bodies.deadline_of(request, services.settings)
    event_id = services.event_ids.get(slug) or await _event_id(services, slug, deadline.accept_by)
    await _receipt(services, event_id, id_, deadline.accept_by)
    command = ChangeStatus(registration_id=ids.registration_id(id_), status=Status.CANCELLED)
    submitted = request_bodies.command_request(
        request, deadline, slug=slug, event_id=event_id, command=command, actor=submit.HOLDER_ACTOR
    )
    decided = await services.submission.submit(submitted)
    if isinstance(decided, Response):
        return decided
    cancelled = await submit.shown(decided, services.receipts.find(event_id, id_, decided.read_by))
    return responses.body(cancelled, headers=decided.headers)


def direct(method: str, path: list[str]) -> tuple[Endpoint, dict[str, Any]] | None:
    """Return the endpoint of a frequent request, with its path parameters, or None; see `Front`."""
    match method, path:
        case "POST", ["", "api", "p", slug, "register"] if slug:
            return register, {"slug": slug}
        case "GET", ["", "api", "p", slug, "receipts", receipt_id] if slug and receipt_id:
            return read_receipt, {"slug": slug, "receipt_id": receipt_id}
    return None


def _wait_seconds(request: Request) -> float:
    """Return the seconds of the query parameter `wait`."""
    text = request.query_params.get("wait")
    if text is None:
        return 0
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise body_fields.invalid({"wait": "must be a number of seconds, 0 or more"})
    return seconds


def _receipt_id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise ProblemType.RECEIPT_NOT_FOUND.error() from None


async def _event_id(services: Services, slug: str, by: float) -> UUID:
    async with asyncio.timeout_at(by):
        return await services.find_event(slug)


async def _receipt(services: Services, event_id: UUID, id_: UUID, by: float) -> Receipt:
    receipt = await services.receipts.find(event_id, id_, by)
    if receipt is None:
        raise ProblemType.RECEIPT_NOT_FOUND.error()
    return receipt


def _unless_known(request: Request, content: Receipt, headers: dict[str, str]) -> Response:
    """Answer 304 to a client that has this very content, by its entity tag (RFC 9110)."""
    encoded = msgspec.json.encode(content)
    headers["etag"] = tag = f'"{hashlib.blake2b(encoded, digest_size=12).hexdigest()}"'
    if request_bodies.knows(request, tag):
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    return Response(encoded, HTTPStatus.OK, headers, "application/json")
