"""The routes of an event's protection from anonymous clients."""

from uuid import UUID

import msgspec
import structlog
from fastapi import APIRouter, Request
from starlette.responses import Response

from api.edge import request_bodies, responses
from api.edge.problems import ProblemType
from api.edge.schemas_admin import Protection
from api.edge.security import events_reader, events_writer
from api.openapi import admin_routes
from api.queries import protections
from api.services import Provided
from shared.domain.access import Principal

log = structlog.get_logger(__name__)

router = APIRouter(prefix="/api/events/{event_id}/protection", tags=["Administering"])

_PROTECTION = msgspec.json.Decoder(Protection)


@router.get("", dependencies=[events_reader], **admin_routes.PROTECTION)
async def read_protection(event_id: UUID, services: Provided) -> Response:
    """Return the protection of an event from anonymous clients."""
    found = await services.read(lambda connection: protections.protection(connection, event_id))
    if found is None:
        raise ProblemType.EVENT_NOT_FOUND.error()
    return responses.body(found)


@router.put("", **admin_routes.CHANGE_PROTECTION)
async def change_protection(
    event_id: UUID, services: Provided, request: Request, principal: Principal = events_writer
) -> Response:
    """Give an event this protection, in place of the one that it had; it holds within about a second."""
    new = await request_bodies.read(request, _PROTECTION, services.settings)
    due = request_bodies.deadline_of(request, services.settings).accept_by
    found = await services.write(
        lambda connection: protections.change(connection, event_id, new, principal.name), due
    )
    if not found:
        raise ProblemType.EVENT_NOT_FOUND.error()
    log.info("protection_changed", event_id=str(event_id), by=principal.name, **msgspec.structs.asdict(new))
    return responses.body(new)
