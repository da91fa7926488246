"""The admin routes that change an event: each is a command that the event's owner decides."""

import asyncio
from http import HTTPStatus
from typing import Annotated, Any, TypeVar
from uuid import UUID

import msgspec
from fastapi import APIRouter, Query, Request
from msgspec import UNSET
from pydantic import BeforeValidator
from starlette.responses import Response

from api.commands import submit
from api.commands.submit import Decided
from api.edge import request_bodies, responses
from api.edge.problems import ProblemType
from api.edge.schemas_admin import (
    Event,
    EventCounter,
    EventDeleted,
    Healed,
    RegistrationChange,
    RegistrationChanged,
    RegistrationDeleted,
)
from api.edge.security import events_writer, operator, registrations_writer
from api.openapi import admin_routes
from api.queries import events
from api.services import Provided, Services
from shared.domain import commands, outcomes, texts
from shared.domain.access import Principal
from shared.domain.commands import (
    AddRegistration,
    ChangeEvent,
    Command,
    DeleteEvent,
    DeleteRegistration,
    GiveReceipt,
    HealCounter,
)
from shared.domain.outcomes import CounterHealed, RegistrationCorrected, StatusChanged

router = APIRouter(prefix="/api/events", tags=["Administering"])

_CHANGE_EVENT = msgspec.json.Decoder(ChangeEvent)
_REGISTRATION_CHANGE = msgspec.json.Decoder(RegistrationChange)
_ADD = msgspec.json.Decoder(AddRegistration)

Reason = Annotated[
    str | None,
    BeforeValidator(texts.clean),
    Query(max_length=commands.REASON_LENGTH_MAX, json_schema_extra={"pattern": texts.PATTERN}),
]
_Expected = TypeVar("_Expected")


@router.patch("/{event_id}", **admin_routes.CHANGE_EVENT)
async def change_event(
    event_id: UUID, services: Provided, request: Request, principal: Principal = events_writer
) -> Response:
    """Change settings; the others stay. Spots that a larger capacity frees go to the waitlist."""
    command = await request_bodies.read(request, _CHANGE_EVENT, services.settings)
    decided = await _submit(services, request, event_id, command, principal)
    if isinstance(decided, Response):
        return decided
    return responses.body(Event(**await _event(services, decided, event_id)), headers=decided.headers)


@router.delete("/{event_id}", **admin_routes.DELETE_EVENT)
async def delete_event(
    event_id: UUID,
    services: Provided,
    request: Request,
    principal: Principal = events_writer,
    reason: Reason = None,
) -> Response:
    """Delete an event for good: it is closed and hidden, and its slug is free; its audit trail stays."""
    decided = await _submit(services, request, event_id, DeleteEvent(reason=reason or UNSET), principal)
    if isinstance(decided, Response):
        return decided
    content = EventDeleted(receipt_id=decided.receipt_id, event_id=event_id)
    return responses.body(content, headers=decided.headers)


@router.post("/{event_id}/registrations", **admin_routes.ADD_REGISTRATION)
async def add_registration(
    event_id: UUID, services: Provided, request: Request, principal: Principal = registrations_writer
) -> Response:
    """Register a party outside the window, in a pause, or past the waitlist's limit; return its receipt."""
    command = await request_bodies.read(request, _ADD, services.settings)
    decided = await _submit(services, request, event_id, command, principal)
    if isinstance(decided, Response):
        return decided
    content = await services.submission.registered(decided, event_id)
    return responses.body(content, HTTPStatus.CREATED, decided.headers)


@router.post("/{event_id}/registrations/{registration_id}/receipt", **admin_routes.GIVE_RECEIPT)
async def give_receipt(
    event_id: UUID,
    registration_id: UUID,
    services: Provided,
    request: Request,
    principal: Principal = registrations_writer,
) -> Response:
    """Give a holder a new receipt; the one before is valid no longer."""
    reason = await request_bodies.read_reason(request, services.settings)
    await _must_exist(services, request, event_id, registration_id)
    command = GiveReceipt(registration_id=registration_id, reason=reason or UNSET)
    decided = await _submit(services, request, event_id, command, principal)
    if isinstance(decided, Response):
        return decided
    reading = services.receipts.find(event_id, decided.receipt_id, decided.deadline.read_by())
    given = (await submit.shown(decided, reading)).receipt
    if given is None:  # a newer one was given since
        raise decided.problem(ProblemType.RECEIPT_NOT_FOUND)
    return responses.body(given, HTTPStatus.CREATED, decided.headers)


@router.patch("/{event_id}/registrations/{registration_id}", **admin_routes.CHANGE_REGISTRATION)
async def change_registration(
    event_id: UUID,
    registration_id: UUID,
    services: Provided,
    request: Request,
    principal: Principal = registrations_writer,
) -> Response:
    """Confirm, waitlist or cancel a registration, or correct its name, its email address or its size."""
    change = await request_bodies.read(request, _REGISTRATION_CHANGE, services.settings)
    await _must_exist(services, request, event_id, registration_id)
    command = change.command(registration_id)
    decided = await _submit(services, request, event_id, command, principal)
    if isinstance(decided, Response):
        return decided
    reading = services.read(lambda connection: events.registration(connection, event_id, registration_id))
    row = await submit.shown(decided, reading)
    content = RegistrationChanged(
        receipt_id=decided.receipt_id,
        **_done(decided),
        registration=None if row is None else responses.registration(row, principal),
        event=await _counter(services, decided, event_id),
    )
    return responses.body(content, headers=decided.headers)


@router.delete("/{event_id}/registrations/{registration_id}", **admin_routes.DELETE_REGISTRATION)
async def delete_registration(  # noqa: PLR0913, PLR0917 - one parameter for each part of a request
    event_id: UUID,
    registration_id: UUID,
    services: Provided,
    request: Request,
    principal: Principal = registrations_writer,
    reason: Reason = None,
) -> Response:
    """Delete a registration; a confirmed one frees its spots for the waitlist."""
    await _must_exist(services, request, event_id, registration_id)
    command = DeleteRegistration(registration_id=registration_id, reason=reason or None)
    decided = await _submit(services, request, event_id, command, principal)
    if isinstance(decided, Response):
        return decided
    content = RegistrationDeleted(
        receipt_id=decided.receipt_id,
        registration_id=registration_id,
        spots_freed=_expect(outcomes.RegistrationDeleted, decided).spots_freed,
        event=await _counter(services, decided, event_id),
    )
    return responses.body(content, headers=decided.headers)


@router.post("/{event_id}/counter/heal", **admin_routes.HEAL_COUNTER)
async def heal_counter(
    event_id: UUID, services: Provided, request: Request, principal: Principal = operator
) -> Response:
    """Set the counter to the sum of the registrations, and return the drift."""
    reason = await request_bodies.read_reason(request, services.settings)
    decided = await _submit(services, request, event_id, HealCounter(reason=reason), principal)
    if isinstance(decided, Response):
        return decided
    healed = _expect(CounterHealed, decided)
    content = Healed(receipt_id=decided.receipt_id, **msgspec.structs.asdict(healed))
    return responses.body(content, headers=decided.headers)


async def _submit(
    services: Services, request: Request, event_id: UUID, command: Command, principal: Principal
) -> Decided | Response:
    deadline = request_bodies.deadline_of(request, services.settings)
    async with asyncio.timeout_at(deadline.accept_by):
        # A replay is answered after the deletion, too.
        replays = isinstance(command, DeleteEvent) and "idempotency-key" in request.headers
        slug = await services.event_slug(event_id, deleted=replays)
        await services.must_be_known(command)
    submitted = request_bodies.command_request(
        request, deadline, slug=slug, event_id=event_id, command=command, actor=principal.name
    )
    return await services.submission.submit(submitted)


def _done(decided: Decided) -> dict[str, Any]:
    """Return what the command did to the registration, also when it is replayed later."""
    if isinstance(decided.outcome, RegistrationCorrected):
        status, changed = decided.outcome.status, len(decided.outcome.changed) > 0
        return {"changed": changed, "from_status": status, "to_status": status}
    outcome = _expect(StatusChanged, decided)
    changed = outcome.from_status is not outcome.to_status or outcome.moved is True
    return {"changed": changed, "from_status": outcome.from_status, "to_status": outcome.to_status}


def _expect(kind: type[_Expected], decided: Decided) -> _Expected:
    assert isinstance(decided.outcome, kind), "a command's outcome is of its own kind"
    return decided.outcome


async def _must_exist(services: Services, request: Request, event_id: UUID, registration_id: UUID) -> None:
    """Refuse an unknown registration without a command; with a key it may be the replay of a deletion."""
    if "idempotency-key" in request.headers:
        return
    async with asyncio.timeout_at(request_bodies.deadline_of(request, services.settings).accept_by):
        row = await services.read(
            lambda connection: events.registration(connection, event_id, registration_id)
        )
    if row is None:
        raise ProblemType.REGISTRATION_NOT_FOUND.error()


async def _event(services: Services, decided: Decided, event_id: UUID) -> dict[str, Any]:
    reading = services.read(lambda connection: events.event_by_id(connection, event_id))
    event = await submit.shown(decided, reading)
    if event is None:  # it was deleted since
        raise decided.problem(ProblemType.EVENT_NOT_FOUND)
    return event


async def _counter(services: Services, decided: Decided, event_id: UUID) -> EventCounter:
    event = await _event(services, decided, event_id)
    return EventCounter(**{name: event[name] for name in EventCounter.__struct_fields__})
