"""The admin routes: events, their registrations, audit trail and counter."""

import re
from http import HTTPStatus
from typing import Annotated, Any
from uuid import UUID

import msgspec
from fastapi import APIRouter, Query, Request
from sqlalchemy import RowMapping, insert
from sqlalchemy.exc import DBAPIError, IntegrityError
from starlette.responses import Response

from api import answers, bodies, documentation_admin
from api.commands.intake import AcceptanceUnknown
from api.problems import ProblemError, ProblemType
from api.queries import events
from api.schemas import (
    Event,
    EventPage,
    NewEvent,
    Registration,
    RegistrationPage,
)
from api.schemas_insight import AuditEntry, AuditPage, Counter
from api.security import reader, writer
from api.service import Service
from shared.domain import ids
from shared.domain.commands import Status
from shared.postgres import tables

PAGE_MAX = 1_000
_PAGE_DEFAULT = 100
_SEARCH_LENGTH_MAX = 200
_SEQ_CURSOR = re.compile(r"[0-9]{1,18}")

Limit = Annotated[int, Query(ge=1, le=PAGE_MAX)]
Search = Annotated[str | None, Query(max_length=_SEARCH_LENGTH_MAX)]

router = APIRouter(prefix="/api/events", tags=["Administering"])

_NEW_EVENT = msgspec.json.Decoder(NewEvent)


@router.post("", dependencies=[writer], **documentation_admin.CREATE_EVENT)
async def create_event(request: Request) -> Response:
    """Create an event; its slug is its public address, for good."""
    service: Service = request.app.state.service
    asked = await bodies.read(request, _NEW_EVENT, service.settings.body_bytes_max)
    id_ = ids.new_id()
    async with service.engine.connect() as connection:
        try:
            await connection.execute(insert(tables.event).values(id=id_, **msgspec.structs.asdict(asked)))
        except IntegrityError as error:
            raise _creation_problem(error, asked.slug) from error
        event = await events.event_by_id(connection, id_)
        try:
            await connection.commit()
        except DBAPIError as error:
            raise AcceptanceUnknown from error
    assert event is not None, "an event that was just inserted is there"
    return answers.body(_event(event), HTTPStatus.CREATED, {"location": f"/api/events/{id_}"})


@router.get("", dependencies=[reader], **documentation_admin.EVENTS)
async def list_events(request: Request, cursor: UUID | None = None, limit: Limit = _PAGE_DEFAULT) -> Response:
    """List events, oldest first."""
    service: Service = request.app.state.service
    rows = await service.read(lambda connection: events.events(connection, after=cursor, limit=limit))
    return answers.body(EventPage(items=[_event(row) for row in rows], next_cursor=_next(rows, limit, "id")))


@router.get("/{event_id}", dependencies=[reader], **documentation_admin.EVENT)
async def read_event(event_id: UUID, request: Request) -> Response:
    """Return all of an event."""
    service: Service = request.app.state.service
    event = await service.read(lambda connection: events.event_by_id(connection, event_id))
    if event is None:
        raise ProblemType.EVENT_NOT_FOUND.error()
    return answers.body(_event(event))


@router.get("/{event_id}/registrations", dependencies=[reader], **documentation_admin.REGISTRATIONS)
async def list_registrations(  # noqa: PLR0913, PLR0917 - one parameter for each of the query's
    event_id: UUID,
    request: Request,
    status: Status | None = None,
    q: Search = None,
    cursor: str | None = None,
    limit: Limit = _PAGE_DEFAULT,
) -> Response:
    """List registrations in the order of their places; `q` searches names and email addresses."""
    service: Service = request.app.state.service
    after = _after(cursor)
    rows = await service.read(
        lambda connection: events.registrations(
            connection, event_id, status=status, q=q, after=after, limit=limit
        )
    )
    if not rows:
        await _must_exist(service, event_id)
    items = [Registration(**row) for row in rows]
    return answers.body(RegistrationPage(items=items, next_cursor=_next(rows, limit, "seq")))


@router.get(
    "/{event_id}/registrations/{registration_id}", dependencies=[reader], **documentation_admin.REGISTRATION
)
async def read_registration(event_id: UUID, registration_id: UUID, request: Request) -> Response:
    """Return one registration."""
    service: Service = request.app.state.service
    row = await service.read(lambda connection: events.registration(connection, event_id, registration_id))
    if row is None:
        raise ProblemType.REGISTRATION_NOT_FOUND.error()
    return answers.body(Registration(**row))


@router.get("/{event_id}/audit", dependencies=[reader], **documentation_admin.AUDIT)
async def list_audit_entries(
    event_id: UUID, request: Request, cursor: str | None = None, limit: Limit = _PAGE_DEFAULT
) -> Response:
    """List the audit trail by number, each entry chained to the one before."""
    service: Service = request.app.state.service
    after = _after(cursor)
    rows = await service.read(
        lambda connection: events.audit_entries(connection, event_id, after=after, limit=limit)
    )
    if not rows:
        await _must_exist(service, event_id)
    items = [AuditEntry(**row) for row in rows]
    return answers.body(AuditPage(items=items, next_cursor=_next(rows, limit, "number")))


@router.get("/{event_id}/counter", dependencies=[reader], **documentation_admin.COUNTER)
async def read_counter(event_id: UUID, request: Request) -> Response:
    """Compare the counter with the confirmed registrations, in one snapshot."""
    service: Service = request.app.state.service
    row = await service.read(lambda connection: events.counter(connection, event_id))
    if row is None:
        raise ProblemType.EVENT_NOT_FOUND.error()
    reserved, actual = row["spots_reserved"], row["actual_confirmed"]
    return answers.body(Counter(spots_reserved=reserved, actual_confirmed=actual, drift=reserved - actual))


def _event(row: RowMapping) -> Event:
    return Event(**row)


async def _must_exist(service: Service, event_id: UUID) -> None:
    if await service.read(lambda connection: events.event_by_id(connection, event_id)) is None:
        raise ProblemType.EVENT_NOT_FOUND.error()


def _after(cursor: str | None) -> int:
    if cursor is None:
        return 0
    if not _SEQ_CURSOR.fullmatch(cursor):
        raise bodies.invalid("cursor: is not one that a page gave out.")
    return int(cursor)


def _next(rows: Any, limit: int, key: str) -> str | None:  # noqa: ANN401 - rows of any query
    return str(rows[-1][key]) if len(rows) == limit else None


def _creation_problem(error: IntegrityError, slug: str) -> ProblemError:
    """Map the violated constraint to what the client can do about it."""
    if "event_slug_key" in str(error.orig):
        return ProblemType.SLUG_TAKEN.error(f"There is an event {slug!r} already.")
    return bodies.invalid("The database refuses these values.")
