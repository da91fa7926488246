"""The admin routes: events, their registrations, audit trail and counter."""

import asyncio
import hashlib
import re
from contextlib import suppress
from datetime import datetime
from http import HTTPStatus
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from fastapi import APIRouter, Query, Request
from pydantic import BeforeValidator
from sqlalchemy import text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.responses import Response

from api.edge import request_bodies, responses
from api.edge.problems import ProblemError, ProblemType
from api.edge.request_bodies import PageSize, YesOrNo
from api.edge.schemas_admin import Event, EventPage, NewEvent, RegistrationPage
from api.edge.schemas_insight import AuditEntry, AuditPage, Counter, FailedCommand, FailedCommandPage
from api.edge.security import events_reader, events_writer, must_have
from api.openapi import admin_routes
from api.queries import events
from api.services import Provided
from shared.domain import access, audit, ids, texts
from shared.domain.access import Principal, Scope
from shared.domain.commands import Status
from shared.postgres import tables

_PAGE_DEFAULT = 100
_SEARCH_LENGTH_MAX = 200
_EVENT_CURSOR = re.compile(rf"[0-9T:.-]+Z_{ids.PATTERN[1:-1]}")
_SEQ_CURSOR = re.compile(r"[0-9]{1,18}")

Sought = Annotated[
    str | None,
    BeforeValidator(texts.clean),
    Query(max_length=_SEARCH_LENGTH_MAX, json_schema_extra={"pattern": texts.PATTERN}),
]

router = APIRouter(prefix="/api/events", tags=["Administering"])

_FINGERPRINT = text("SELECT fingerprint FROM idempotency_key WHERE event_id = :event_id AND key = :key")
_NEW_EVENT = msgspec.json.Decoder(NewEvent)


@router.post("", **admin_routes.CREATE_EVENT)
async def create_event(
    services: Provided, request: Request, principal: Principal = events_writer
) -> Response:
    """Create an event of the key's organiser; its slug is its public address.

    The id of an event that is created under an idempotency key follows from the organiser and the key, so no
    second one is created.
    """
    new_event = await request_bodies.read(request, _NEW_EVENT, services.settings)
    due = request_bodies.deadline_of(request, services.settings).accept_by
    async with asyncio.timeout_at(due):
        await services.must_be_known(new_event.settings())
    organiser_id = principal.organiser_id
    key = None
    if "idempotency-key" in request.headers:
        key = request_bodies.key_digest(request, f"event\0{organiser_id or access.ADMIN.name}\0")
    id_ = ids.new_id() if key is None else ids.event_id(key)

    async def insert_event(connection: AsyncConnection) -> tuple[bool, dict[str, Any] | None]:
        try:
            created = await _insert(connection, id_, new_event, key, organiser_id)
        except IntegrityError as error:
            raise _creation_problem(error, new_event.slug) from error
        # After the insertion, which has waited for any other change of this slug.
        if created and await events.slug_is_held(connection, new_event.slug):
            raise ProblemType.SLUG_TAKEN.error(f"An event gave up {new_event.slug!r} just now; ask again.")
        return created, await events.event_by_id(connection, id_)

    created, event = await services.write(insert_event, due)
    headers = {"location": f"/api/events/{id_}"} | ({} if created else {"idempotent-replayed": "true"})
    if event is None:
        raise ProblemType.EVENT_NOT_FOUND.error("The event was created, and is deleted.", headers=headers)
    if organiser_id not in {
        None,
        event["organiser_id"],
    }:  # a replay: the event was given to another organiser
        raise ProblemType.EVENT_NOT_FOUND.error()
    return responses.body(Event(**event), HTTPStatus.CREATED, headers)


@router.get("", **admin_routes.EVENTS)
async def list_events(  # noqa: PLR0913, PLR0917 - one parameter for each of the query's
    services: Provided,
    slug: Sought = None,
    cursor: str | None = None,
    limit: PageSize = _PAGE_DEFAULT,
    archived: YesOrNo = False,  # noqa: FBT002 - a parameter of the query
    principal: Principal = events_reader,
) -> Response:
    """List events, oldest first: those in use, or the archived ones; `slug` finds one by its address.

    With a key of an organiser only its own are listed.
    """
    after, of = _after_event(cursor), principal.organiser_id
    rows = await services.admin_read(
        lambda connection: events.events(
            connection, organiser_id=of, slug=slug or None, archived=archived, after=after, limit=limit
        )
    )
    next_cursor = None
    if len(rows) == limit:
        next_cursor = f"{audit.timestamp(rows[-1]['created_at'])}_{rows[-1]['id']}"
    return responses.body(EventPage(items=[Event(**row) for row in rows], next_cursor=next_cursor))


@router.get("/{event_id}", dependencies=[events_reader], **admin_routes.EVENT)
async def read_event(event_id: UUID, services: Provided) -> Response:
    """Return an event with all its settings and counters."""
    event = await services.read(lambda connection: events.event_by_id(connection, event_id))
    if event is None:
        raise ProblemType.EVENT_NOT_FOUND.error()
    return responses.body(Event(**event))


@router.get("/{event_id}/registrations", **admin_routes.REGISTRATIONS)
async def list_registrations(  # noqa: PLR0913, PLR0917 - one parameter for each of the query's
    event_id: UUID,
    services: Provided,
    status: Status | None = None,
    q: Sought = None,
    cursor: str | None = None,
    limit: PageSize = _PAGE_DEFAULT,
    principal: Principal = events_reader,
) -> Response:
    """List registrations in the order of their places; `q` searches names and email addresses."""
    after = _after(cursor)
    sought = q or None
    if sought is not None:
        must_have(principal, Scope.PERSONAL_READ)
    rows = await services.admin_read(
        lambda connection: events.registrations(
            connection, event_id, status=status, q=sought, after=after, limit=limit
        )
    )
    if not rows:
        await services.event_slug(event_id)
    items = [responses.registration(row, principal) for row in rows]
    return responses.body(RegistrationPage(items=items, next_cursor=_next_cursor(rows, limit, "seq")))


@router.get("/{event_id}/registrations/{registration_id}", **admin_routes.REGISTRATION)
async def read_registration(
    event_id: UUID, registration_id: UUID, services: Provided, principal: Principal = events_reader
) -> Response:
    """Return one registration."""
    row = await services.admin_read(
        lambda connection: events.registration(connection, event_id, registration_id)
    )
    if row is None:
        raise ProblemType.REGISTRATION_NOT_FOUND.error()
    return responses.body(responses.registration(row, principal))


@router.get("/{event_id}/audit", **admin_routes.AUDIT)
async def list_audit_entries(
    event_id: UUID,
    services: Provided,
    cursor: str | None = None,
    limit: PageSize = _PAGE_DEFAULT,
    principal: Principal = events_reader,
) -> Response:
    """List the audit trail by number, each entry chained to the one before; that of a deleted event, too."""
    after, reasons = _after(cursor), principal.reads_personal
    rows = await services.admin_read(
        lambda connection: events.audit_entries(
            connection, event_id, after=after, limit=limit, reasons=reasons
        )
    )
    if not rows:
        await services.event_slug(event_id, deleted=True)
    items = [AuditEntry(**row) for row in rows]
    return responses.body(AuditPage(items=items, next_cursor=_next_cursor(rows, limit, "number")))


@router.get("/{event_id}/commands", dependencies=[events_reader], **admin_routes.COMMANDS)
async def list_commands(
    event_id: UUID,
    services: Provided,
    outcome: Literal["failed"] = "failed",  # noqa: ARG001 - the only value there is
    cursor: str | None = None,
    limit: PageSize = _PAGE_DEFAULT,
) -> Response:
    """List the commands that failed, in ledger order; no receipt is shown, only its digest."""
    after = _after(cursor)
    rows = await services.admin_read(
        lambda connection: events.failed_commands(connection, event_id, after=after, limit=limit)
    )
    if not rows:
        await services.event_slug(event_id)
    items = [FailedCommand(**row) for row in rows]
    return responses.body(FailedCommandPage(items=items, next_cursor=_next_cursor(rows, limit, "seq")))


@router.get("/{event_id}/counter", dependencies=[events_reader], **admin_routes.COUNTER)
async def read_counter(event_id: UUID, services: Provided) -> Response:
    """Compare the counter with the confirmed registrations, in one snapshot."""
    row = await services.admin_read(lambda connection: events.counter(connection, event_id))
    if row is None:
        raise ProblemType.EVENT_NOT_FOUND.error()
    reserved, actual = row["spots_reserved"], row["actual_confirmed"]
    return responses.body(Counter(spots_reserved=reserved, actual_confirmed=actual, drift=reserved - actual))


async def _insert(
    connection: AsyncConnection, id_: UUID, new_event: NewEvent, key: bytes | None, organiser_id: UUID | None
) -> bool:
    """Insert an event; return False if the same request has created it under the same key before."""
    values = {"id": id_, "organiser_id": organiser_id, **msgspec.structs.asdict(new_event)}
    inserting = insert(tables.event).values(values).on_conflict_do_nothing(index_elements=["id"])
    inserted = (await connection.execute(inserting.returning(tables.event.c.id))).first()
    if key is None:
        return True
    fingerprint = hashlib.sha256(b"event\0" + msgspec.json.encode(new_event)).digest()
    used = {"event_id": id_, "key": key, "command_id": id_, "fingerprint": fingerprint}
    if inserted is not None:
        await connection.execute(insert(tables.idempotency_key).values(used))
        return True
    recorded = await connection.execute(_FINGERPRINT, {"event_id": id_, "key": key})
    if recorded.scalar_one_or_none() != fingerprint:
        raise ProblemType.IDEMPOTENCY_KEY_REUSED.error()
    return False


def _after(cursor: str | None) -> int:
    if cursor is None:
        return 0
    if not _SEQ_CURSOR.fullmatch(cursor):
        raise request_bodies.false_cursor()
    return int(cursor)


def _after_event(cursor: str | None) -> tuple[str, UUID]:
    if cursor is None:
        return events.BEFORE_ALL
    created_at, _, id_ = cursor.partition("_")
    with suppress(ValueError):
        if _EVENT_CURSOR.fullmatch(cursor):
            datetime.fromisoformat(created_at)
            return created_at, UUID(id_)
    raise request_bodies.false_cursor()


def _next_cursor(rows: Any, limit: int, key: str) -> str | None:  # noqa: ANN401 - rows of any query
    return str(rows[-1][key]) if len(rows) == limit else None


def _creation_problem(error: IntegrityError, slug: str) -> ProblemError:
    """Return the problem of the violated constraint."""
    if "event_slug_key" in str(error.orig):
        return ProblemType.SLUG_TAKEN.error(f"There is an event {slug!r} already.")
    return request_bodies.invalid("The database refuses these values.")
