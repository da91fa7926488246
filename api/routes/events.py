"""The admin routes: events, their registrations, audit trail and counter."""

import asyncio
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from fastapi import APIRouter, Query, Request
from sqlalchemy import insert
from sqlalchemy.exc import DBAPIError, IntegrityError
from starlette.responses import Response

from api.commands.intake import AcceptanceUnknown
from api.edge import body_fields, request_bodies, responses
from api.edge.problems import ProblemError, ProblemType
from api.edge.schemas import (
    Event,
    EventPage,
    NewEvent,
    Registration,
    RegistrationPage,
)
from api.edge.schemas_insight import AuditEntry, AuditPage, Counter, FailedCommand, FailedCommandPage
from api.edge.security import reader, writer
from api.openapi import admin_routes
from api.queries import events
from api.services import Provided, Services
from shared.domain import ids
from shared.domain.commands import Status
from shared.postgres import durability, tables
from shared.postgres.durability import NotConfirmed

PAGE_MAX = 1_000
_PAGE_DEFAULT = 100
_SEARCH_LENGTH_MAX = 200
_SEQ_CURSOR = re.compile(r"[0-9]{1,18}")

Limit = Annotated[int, Query(ge=1, le=PAGE_MAX)]
Search = Annotated[str | None, Query(max_length=_SEARCH_LENGTH_MAX)]

router = APIRouter(prefix="/api/events", tags=["Administering"])

_NEW_EVENT = msgspec.json.Decoder(NewEvent)


@router.post("", dependencies=[writer], **admin_routes.CREATE_EVENT)
async def create_event(services: Provided, request: Request) -> Response:
    """Create an event; its slug is its public address and never changes."""
    new_event = await request_bodies.read(request, _NEW_EVENT, services.settings)
    due = request_bodies.deadline_of(request, services.settings).accept_by
    id_ = ids.new_id()
    async with asyncio.timeout_at(due), services.engine.connect() as connection:
        # The intake waits for a standby: a commit of this connection would keep it from others.
        await connection.execute(durability.WAIT_FOR_NO_STANDBY)
        server = (await connection.execute(durability.SERVER)).scalar_one()
        try:
            await connection.execute(insert(tables.event).values(id=id_, **msgspec.structs.asdict(new_event)))
        except IntegrityError as error:
            raise _creation_problem(error, new_event.slug) from error
        event = await events.event_by_id(connection, id_)
        try:
            await connection.commit()
        except (DBAPIError, asyncio.CancelledError) as error:
            raise AcceptanceUnknown from error
    try:
        await services.intake.confirm_all({server}, due)
    except NotConfirmed as error:
        raise AcceptanceUnknown from error
    assert event is not None, "an event that was just inserted is there"
    return responses.body(_event(event), HTTPStatus.CREATED, {"location": f"/api/events/{id_}"})


@router.get("", dependencies=[reader], **admin_routes.EVENTS)
async def list_events(
    services: Provided, cursor: UUID | None = None, limit: Limit = _PAGE_DEFAULT
) -> Response:
    """List events, oldest first."""
    rows = await services.read(lambda connection: events.events(connection, after=cursor, limit=limit))
    return responses.body(
        EventPage(items=[_event(row) for row in rows], next_cursor=_next(rows, limit, "id"))
    )


@router.get("/{event_id}", dependencies=[reader], **admin_routes.EVENT)
async def read_event(event_id: UUID, services: Provided) -> Response:
    """Return an event with all its settings and counters."""
    event = await services.read(lambda connection: events.event_by_id(connection, event_id))
    if event is None:
        raise ProblemType.EVENT_NOT_FOUND.error()
    return responses.body(_event(event))


@router.get("/{event_id}/registrations", dependencies=[reader], **admin_routes.REGISTRATIONS)
async def list_registrations(  # noqa: PLR0913, PLR0917 - one parameter for each of the query's
    event_id: UUID,
    services: Provided,
    status: Status | None = None,
    q: Search = None,
    cursor: str | None = None,
    limit: Limit = _PAGE_DEFAULT,
) -> Response:
    """List registrations in the order of their places; `q` searches names and email addresses."""
    after = _after(cursor)
    rows = await services.read(
        lambda connection: events.registrations(
            connection, event_id, status=status, q=q, after=after, limit=limit
        )
    )
    if not rows:
        await _must_exist(services, event_id)
    items = [Registration(**row) for row in rows]
    return responses.body(RegistrationPage(items=items, next_cursor=_next(rows, limit, "seq")))


@router.get("/{event_id}/registrations/{registration_id}", dependencies=[reader], **admin_routes.REGISTRATION)
async def read_registration(event_id: UUID, registration_id: UUID, services: Provided) -> Response:
    """Return one registration."""
    row = await services.read(lambda connection: events.registration(connection, event_id, registration_id))
    if row is None:
        raise ProblemType.REGISTRATION_NOT_FOUND.error()
    return responses.body(Registration(**row))


@router.get("/{event_id}/audit", dependencies=[reader], **admin_routes.AUDIT)
async def list_audit_entries(
    event_id: UUID, services: Provided, cursor: str | None = None, limit: Limit = _PAGE_DEFAULT
) -> Response:
    """List the audit trail by number, each entry chained to the one before."""
    after = _after(cursor)
    rows = await services.read(
        lambda connection: events.audit_entries(connection, event_id, after=after, limit=limit)
    )
    if not rows:
        await _must_exist(services, event_id)
    items = [AuditEntry(**row) for row in rows]
    return responses.body(AuditPage(items=items, next_cursor=_next(rows, limit, "number")))


@router.get("/{event_id}/commands", dependencies=[reader], **admin_routes.COMMANDS)
async def list_commands(
    event_id: UUID,
    services: Provided,
    outcome: Literal["failed"] = "failed",  # noqa: ARG001 - the only value there is
    cursor: str | None = None,
    limit: Limit = _PAGE_DEFAULT,
) -> Response:
    """List the commands that failed, in ledger order; no receipt is shown, only its digest."""
    after = _after(cursor)
    rows = await services.read(
        lambda connection: events.failed_commands(connection, event_id, after=after, limit=limit)
    )
    if not rows:
        await _must_exist(services, event_id)
    items = [FailedCommand(**row) for row in rows]
    return responses.body(FailedCommandPage(items=items, next_cursor=_next(rows, limit, "seq")))


@router.get("/{event_id}/counter", dependencies=[reader], **admin_routes.COUNTER)
async def read_counter(event_id: UUID, services: Provided) -> Response:
    """Compare the counter with the confirmed registrations, in one snapshot."""
    row = await services.read(lambda connection: events.counter(connection, event_id))
    if row is None:
        raise ProblemType.EVENT_NOT_FOUND.error()
    reserved, actual = row["spots_reserved"], row["actual_confirmed"]
    return responses.body(Counter(spots_reserved=reserved, actual_confirmed=actual, drift=reserved - actual))


def _event(row: Mapping[str, Any]) -> Event:
    return Event(**row)


async def _must_exist(services: Services, event_id: UUID) -> None:
    if await services.read(lambda connection: events.event_by_id(connection, event_id)) is None:
        raise ProblemType.EVENT_NOT_FOUND.error()


def _after(cursor: str | None) -> int:
    if cursor is None:
        return 0
    if not _SEQ_CURSOR.fullmatch(cursor):
        raise body_fields.invalid({"cursor": "is not the nextCursor of a page"})
    return int(cursor)


def _next(rows: Any, limit: int, key: str) -> str | None:  # noqa: ANN401 - rows of any query
    return str(rows[-1][key]) if len(rows) == limit else None


def _creation_problem(error: IntegrityError, slug: str) -> ProblemError:
    """Return the problem of the violated constraint."""
    if "event_slug_key" in str(error.orig):
        return ProblemType.SLUG_TAKEN.error(f"There is an event {slug!r} already.")
    return request_bodies.invalid("The database refuses these values.")
