"""The public routes: availability, register, receipt, cancel."""

import asyncio
import hashlib
import math
import re
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from http import HTTPStatus
from time import monotonic
from typing import Any
from uuid import UUID

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from api.commands import early_answers, retry_after, submit
from api.commands.submit import Decided
from api.edge import body_fields, request_bodies, responses
from api.edge.front import Endpoint
from api.edge.problems import ProblemType
from api.edge.schemas import Cancelled, PartySize, Receipt, ReceiptStatus, Registering
from api.openapi import public_routes
from api.routes import health
from api.services import Provided, Services
from shared.domain import commands, texts
from shared.domain.commands import ChangeStatus, CorrectRegistration, HoldersCommand, Register, Status
from shared.domain.outcomes import Refused, StatusChanged

router = APIRouter(tags=["Registering"])

_REGISTERING = msgspec.json.Decoder(Registering)
_PARTY_SIZE = msgspec.json.Decoder(PartySize)
_BEARER = re.compile(r"bearer +([^ ,]+)", re.IGNORECASE)  # RFC 6750; one line, one receipt
# Python would take "+1", " 1", "1_0" and the digits of all scripts as well.
_SECONDS = re.compile(r"[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_ID = re.compile("[0-9a-fA-F-]{32,36}")


@router.get("/api/p/{slug}", **public_routes.AVAILABILITY)
async def availability(slug: str, services: Provided, request: Request) -> Response:  # noqa: ARG001 - direct
    """Return the spots that are left of an event, and the answer that a newcomer would get now."""
    answer = await services.availabilities.tell(slug, services.settings.answer_wait_seconds)
    if answer is None:
        raise ProblemType.EVENT_NOT_FOUND.error()
    return answer


@router.post("/api/p/{slug}/register", **public_routes.REGISTER)
async def register(slug: str, services: Provided, request: Request) -> Response:
    """Register a party for spots of an event.

    The command is in the ledger before the answer. If it is decided in time, the answer is 201, or 409 with
    the reason. Otherwise the answer is 202 with a receipt that will have exactly one outcome.
    """
    body = await request_bodies.read(request, _REGISTERING, services.settings)
    command = Register(name=body.name, spots_count=body.spots_count, email=body.email)
    deadline = request_bodies.deadline_of(request, services.settings)
    event_id = services.slugs.event_ids.get(slug) or await _event_id(services, slug, deadline.accept_by)
    submitted = request_bodies.command_request(
        request, deadline, slug=slug, event_id=event_id, command=command, actor=commands.PUBLIC
    )
    if submitted.idempotency_key is None and event_id not in services.refusing_events.taking:
        async with asyncio.timeout_at(deadline.accept_by):
            refusal = await services.refusing_events.refusal(event_id, command)
        if refusal is not None:
            raise responses.unsuccessful(refusal, {})
    protections = services.protections
    if monotonic() >= protections.fresh_until:
        async with asyncio.timeout_at(deadline.accept_by):
            await protections.refresh()
    protection = protections.of_events.get(event_id)
    if protection is None:
        decided = await services.submission.submit(submitted)
    else:
        client, solution = services.clients.client(request.scope), body.altcha or None
        decided = await services.entrance.enter(protection, client, command.spots_count, solution, submitted)
    if isinstance(decided, Response):
        return decided
    content = msgspec.json.encode(await services.submission.registered(decided, event_id))
    return Response(content, HTTPStatus.CREATED, decided.headers, "application/json")


@router.get("/api/p/{slug}/challenge", **public_routes.CHALLENGE)
async def challenge(slug: str, services: Provided, request: Request) -> Response:  # noqa: ARG001 - direct
    """Give a proof of work in the form of ALTCHA, for one registration at this event within ten minutes."""
    async with asyncio.timeout(services.settings.answer_wait_seconds):
        event_id = services.slugs.event_ids.get(slug) or await services.find_event(slug)
        if monotonic() >= services.protections.fresh_until:
            await services.protections.refresh()
    protection = services.protections.of_events.get(event_id)
    if protection is None or not protection.challenge:
        raise ProblemType.NO_CHALLENGE.error()
    return Response(
        msgspec.json.encode(services.entrance.challenges.give(event_id)), media_type="application/json"
    )


@router.get("/api/p/{slug}/receipts/{receipt_id}", **public_routes.RECEIPT)
async def read_receipt(slug: str, receipt_id: str, services: Provided, request: Request) -> Response:
    """Return the state of a command as of now; `wait` delays the answer until the command is decided.

    With the entity tag of an earlier answer it waits for a change of the registration's status.
    """
    id_ = _receipt_id(receipt_id)
    wait_seconds = min(_wait_seconds(request), services.settings.answer_wait_seconds_max)
    deadline = request_bodies.deadline_of(request, services.settings, wait_seconds)
    event_id = services.slugs.event_ids.get(slug) or await _event_id(services, slug, deadline.accept_by)
    receipt, audit_seq = await _receipt(services, event_id, id_, deadline.accept_by)
    known_tags, watched = request_bodies.known_tags(request), False
    seconds = deadline.decide_by - asyncio.get_running_loop().time()
    if seconds > 0 and receipt.status is ReceiptStatus.PENDING:
        await services.waiter.outcome(event_id, id_, seconds)
        receipt, _ = await _receipt(services, event_id, id_, deadline.read_by())
    elif seconds > 0 and receipt.registration is not None and _is_known(receipt.status, known_tags):
        watched = True
        await services.status_changes.wait(event_id, receipt.registration.id, audit_seq, seconds)
        receipt, _ = await _receipt(services, event_id, id_, deadline.read_by())
    headers = {}
    if receipt.ahead is not None:
        headers["retry-after"] = str(await services.pace.retry_seconds(event_id, receipt.ahead))
    elif receipt.status is ReceiptStatus.WAITLIST and not watched:
        headers["retry-after"] = str(retry_after.settled_seconds())
    return _unless_known(known_tags, receipt, headers)


@router.get("/api/p/{slug}/receipt", **public_routes.RECEIPT_BY_HEADER)
async def read_receipt_by_header(slug: str, services: Provided, request: Request) -> Response:
    """Return the state of a command as of now, by its receipt in the header `Authorization`."""
    return await read_receipt(slug, _bearer(request), services, request)


@router.delete("/api/p/{slug}/receipts/{receipt_id}", **public_routes.CANCEL)
async def cancel(slug: str, receipt_id: str, services: Provided, request: Request) -> Response:
    """Cancel a registration; its receipt is the permission."""

    def cancellation(registration_id: UUID) -> ChangeStatus:
        return ChangeStatus(registration_id=registration_id, status=Status.CANCELLED)

    return await _by_holder(services, request, slug, receipt_id, cancellation)


@router.delete("/api/p/{slug}/receipt", **public_routes.CANCEL_BY_HEADER)
async def cancel_by_header(slug: str, services: Provided, request: Request) -> Response:
    """Cancel the registration with the receipt that is in the header `Authorization`."""
    return await cancel(slug, _bearer(request), services, request)


@router.patch("/api/p/{slug}/receipts/{receipt_id}", **public_routes.SHRINK)
async def shrink(slug: str, receipt_id: str, services: Provided, request: Request) -> Response:
    """Make a party smaller; its receipt is the permission. The spots that this frees go to the waitlist."""
    asked = await request_bodies.read(request, _PARTY_SIZE, services.settings)

    def correction(registration_id: UUID) -> CorrectRegistration:
        return CorrectRegistration(registration_id=registration_id, spots_count=asked.spots_count)

    return await _by_holder(services, request, slug, receipt_id, correction)


@router.patch("/api/p/{slug}/receipt", **public_routes.SHRINK_BY_HEADER)
async def shrink_by_header(slug: str, services: Provided, request: Request) -> Response:
    """Make the party smaller that has the receipt in the header `Authorization`."""
    return await shrink(slug, _bearer(request), services, request)


async def _by_holder(
    services: Services,
    request: Request,
    slug: str,
    receipt_id: str,
    command_for: Callable[[UUID], HoldersCommand],
) -> Response:
    """Submit a command about the registration of a receipt, and show the receipt as of then.

    A command that would change nothing is not made, unless the ledger knows the request's key, or the command
    would be refused and the request has a key.
    """
    id_ = _receipt_id(receipt_id)
    deadline = request_bodies.deadline_of(request, services.settings)
    event_id = services.slugs.event_ids.get(slug) or await _event_id(services, slug, deadline.accept_by)
    async with asyncio.timeout_at(deadline.accept_by):
        registration_id = await services.receipts.held(event_id, id_)
        if registration_id is None:
            raise ProblemType.RECEIPT_NOT_FOUND.error()
        command = command_for(registration_id)
        submitted = request_bodies.command_request(
            request, deadline, slug=slug, event_id=event_id, command=command, actor=commands.HOLDER
        )
        known = await services.read(
            lambda connection: early_answers.holders_outcome(connection, id_, command, submitted)
        )
        if known is None:
            await services.must_be_known(command)
    if isinstance(known, Refused):
        raise responses.unsuccessful(known, {})
    if known is None:
        decided = await services.submission.submit(submitted)
        if isinstance(decided, Response):
            return decided
    else:
        decided = Decided(
            receipt_id=id_, outcome=known, headers={}, deadline=deadline, replayed=False, made=False
        )
    by = decided.deadline.read_by()
    reading = services.receipts.find(event_id, id_, by)
    now = (await submit.shown(decided, reading)).receipt
    if now is None:  # the holder has been given a newer one since
        raise decided.problem(ProblemType.RECEIPT_NOT_FOUND)
    done = decided.outcome
    if not isinstance(done, StatusChanged):
        return responses.body(now, headers=decided.headers)
    content = Cancelled(
        **msgspec.structs.asdict(now),
        changed=done.from_status is not done.to_status,
        from_status=done.from_status,
        to_status=done.to_status,
    )
    return responses.body(content, headers=decided.headers)


def direct(method: str, path: list[str]) -> tuple[Endpoint, dict[str, Any]] | None:
    """Return the endpoint of a frequent request, with its path parameters, or None; see `Front`."""
    match method, path:
        case "GET", ["", "api", "p", slug] if slug:
            return availability, {"slug": slug}
        case "POST", ["", "api", "p", slug, "register"] if slug:
            return register, {"slug": slug}
        case "GET", ["", "api", "p", slug, "challenge"] if slug:
            return challenge, {"slug": slug}
        case "GET", ["", "api", "p", slug, "receipts", receipt_id] if slug and receipt_id:
            return read_receipt, {"slug": slug, "receipt_id": receipt_id}
        case "GET", ["", "api", "p", slug, "receipt"] if slug:
            return read_receipt_by_header, {"slug": slug}
        case "GET", ["", "healthz"]:  # a crowd of probes delays no registration
            return health.healthz, {}
        case "GET", ["", "readyz"]:
            return health.readyz, {}
        case _:
            return None


def _wait_seconds(request: Request) -> float:
    """Return the seconds of the query parameter `wait`, 0 if it is blank or not there."""
    text = request.query_params.get("wait", "")
    if texts.is_blank(text):
        return 0
    seconds = float(text) if _SECONDS.fullmatch(text) else math.inf
    if seconds == math.inf:
        raise body_fields.invalid({"wait": "must be a number of seconds, 0 or more"})
    return seconds


def _bearer(request: Request) -> str:
    """Return the receipt of the header `Authorization`, on which the answer depends; 401 without one."""
    request.scope[responses.ANSWER_HEADERS].append((b"vary", b"Authorization"))
    # The server leaves blanks behind a header's value, which are no part of it (RFC 9110, section 5.5).
    credentials = _BEARER.fullmatch(", ".join(request.headers.getlist("authorization")).strip(" \t"))
    if credentials is None:
        raise ProblemType.UNAUTHORIZED.error("Send the receipt as Authorization: Bearer <receiptId>.")
    return credentials[1]


def _receipt_id(text: str) -> UUID:
    with suppress(ValueError):
        if _ID.fullmatch(text):
            return UUID(text)
    raise ProblemType.RECEIPT_NOT_FOUND.error()


async def _event_id(services: Services, slug: str, by: float) -> UUID:
    async with asyncio.timeout_at(by):
        return await services.find_event(slug)


async def _receipt(services: Services, event_id: UUID, id_: UUID, by: float) -> tuple[Receipt, int]:
    """Return a receipt, and the number of the event's last audit entry; 404 if it was never issued."""
    found = await services.receipts.find(event_id, id_, by)
    if found.receipt is None:
        raise ProblemType.RECEIPT_NOT_FOUND.error()
    return found.receipt, found.audit_seq


def _is_known(status: ReceiptStatus, tags: Iterable[str]) -> bool:
    """Return True if one of the tags is of an answer with this status, whatever else has changed in it."""
    return any(tag == "*" or tag.startswith(f'"{status.value}-') for tag in tags)


def _unless_known(known_tags: Collection[str], content: Receipt, headers: dict[str, str]) -> Response:
    """Answer 304 to a client that has this very content, by its entity tag."""
    encoded = msgspec.json.encode(content)
    digest = hashlib.blake2b(encoded, digest_size=12).hexdigest()
    headers["etag"] = tag = f'"{content.status.value}-{digest}"'
    if tag in known_tags or "*" in known_tags:
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    return Response(encoded, HTTPStatus.OK, headers, "application/json")
