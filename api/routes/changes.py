"""The admin routes that change an event: each is a command that the event's owner decides."""

import asyncio
from typing import Annotated, Any, TypeVar
from uuid import UUID

import msgspec
from fastapi import APIRouter, Query, Request
from pydantic import BeforeValidator
from starlette.responses import Response

from api.commands import submit
from api.commands.submit import Decided
from api.edge import request_bodies, responses
from api.edge.problems import ProblemType
from api.edge.schemas import (
    Event,
    EventCounter,
    Healed,
    Healing,
    Registration,
    RegistrationChanged,
    RegistrationDeleted,
    StatusChange,
)
from api.edge.security import writer
from api.openapi import admin_routes
from api.queries import events
from api.services import Provided, Services
from shared.domain import commands, outcomes, texts
from shared.domain.commands import ChangeEvent, ChangeStatus, Command, DeleteRegistration, HealCounter
from shared.domain.outcomes import CounterHealed, StatusChanged

router = APIRouter(prefix="/api/events", tags=["Administering"])

_CHANGE_EVENT = msgspec.json.Decoder(ChangeEvent)
_STATUS_CHANGE = msgspec.json.Decoder(StatusChange)
_HEALING = msgspec.json.Decoder(Healing)

Reason = Annotated[str | None, BeforeValidator(texts.clean), Query(max_length=commands.REASON_LENGTH_MAX)]
_Expected = TypeVar("_Expected")


@router.patch("/{event_id}", **admin_routes.CHANGE_EVENT)
async def change_event(event_id: UUID, services: Provided, request: Request, actor: str = writer) -> Response:
    """Change settings; the others stay. Spots that a larger capacity frees go to the waitlist."""
    command = await request_bodies.read(request, _CHANGE_EVENT, services.settings)
    decided = await _submit(services, request, event_id, command, actor)
    if isinstance(decided, Response):
        return decided
    return responses.body(Event(**await _event(services, decided, event_id)), headers=decided.headers)


@router.patch("/{event_id}/registrations/{registration_id}", **admin_routes.CHANGE_STATUS)
async def change_status(
    event_id: UUID, registration_id: UUID, services: Provided, request: Request, actor: str = writer
) -> Response:
    """Confirm, waitlist or cancel a registration; confirmed only if it fits."""
    change = await request_bodies.read(request, _STATUS_CHANGE, services.settings)
    await _must_exist(services, request, event_id, registration_id)
    command = ChangeStatus(registration_id=registration_id, status=change.status, reason=change.reason)
    decided = await _submit(services, request, event_id, command, actor)
    if isinstance(decided, Response):
        return decided
    changed = _expect(StatusChanged, decided)
    reading = services.read(lambda connection: events.registration(connection, event_id, registration_id))
    row = await submit.shown(decided, reading)
    content = RegistrationChanged(
        receipt_id=decided.receipt_id,
        changed=changed.from_status is not changed.to_status,
        registration=Registration(**row),
        event=await _counter(services, decided, event_id),
    )
    return responses.body(content, headers=decided.headers)


@router.delete("/{event_id}/registrations/{registration_id}", **admin_routes.DELETE_REGISTRATION)
async def delete_registration(  # noqa: PLR0913, PLR0917 - one parameter for each part of a request
    event_id: UUID,
    registration_id: UUID,
    services: Provided,
    request: Request,
    actor: str = writer,
    reason: Reason = None,
) -> Response:
    """Delete a registration; a confirmed one frees its spots for the waitlist."""
    await _must_exist(services, request, event_id, registration_id)
    command = DeleteRegistration(registration_id=registration_id, reason=reason or None)
    decided = await _submit(services, request, event_id, command, actor)
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
async def heal_counter(event_id: UUID, services: Provided, request: Request, actor: str = writer) -> Response:
    """Set the counter to the sum of the registrations, and return the drift."""
    has_body = request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers
    healing = await request_bodies.read(request, _HEALING, services.settings) if has_body else Healing()
    decided = await _submit(services, request, event_id, HealCounter(reason=healing.reason), actor)
    if isinstance(decided, Response):
        return decided
    healed = _expect(CounterHealed, decided)
    content = Healed(
        receipt_id=decided.receipt_id,
        drift=healed.drift,
        spots_reserved=healed.spots_reserved,
        overbooked_spots=healed.overbooked_spots,
    )
    return responses.body(content, headers=decided.headers)


async def _submit(
    services: Services, request: Request, event_id: UUID, command: Command, actor: str
) -> Decided | Response:
    deadline = request_bodies.deadline_of(request, services.settings)
    async with asyncio.timeout_at(deadline.accept_by):
        slug = await services.event_slug(event_id)
    submitted = request_bodies.command_request(
        request, deadline, slug=slug, event_id=event_id, command=command, actor=actor
    )
    return await services.submission.submit(submitted)


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
    return await submit.shown(decided, reading)


async def _counter(services: Services, decided: Decided, event_id: UUID) -> EventCounter:
    event = await _event(services, decided, event_id)
    return EventCounter(**{name: event[name] for name in EventCounter.__struct_fields__})
