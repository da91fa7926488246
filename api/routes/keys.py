"""The routes of API keys: create, list and revoke those of the principal's organiser, or of all."""

from http import HTTPStatus

import msgspec
import structlog
from fastapi import APIRouter, Request
from sqlalchemy import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.responses import Response

from api.edge import request_bodies, responses
from api.edge.problems import ProblemType
from api.edge.request_bodies import PageSize
from api.edge.schemas_keys import ApiKey, ApiKeyPage, CreatedApiKey, NewApiKey
from api.edge.security import must_have, operator
from api.openapi import admin_routes
from api.services import Provided
from shared.domain import access
from shared.domain.access import Principal
from shared.postgres import keys
from shared.postgres.keys import KeyRefused

log = structlog.get_logger(__name__)

_PAGE_DEFAULT = 100

router = APIRouter(prefix="/api/keys", tags=["API keys"])

_NEW_KEY = msgspec.json.Decoder(NewApiKey)


@router.post("", **admin_routes.CREATE_KEY)
async def create_key(services: Provided, request: Request, principal: Principal = operator) -> Response:
    """Create an API key with scopes of the key that asks; the answer alone shows it."""
    new = await request_bodies.read(request, _NEW_KEY, services.settings)
    due = request_bodies.deadline_of(request, services.settings).accept_by
    must_have(principal, *new.scopes)
    if new.organiser is not None and principal.organiser_id is not None:
        raise ProblemType.FORBIDDEN.error("Only a key of the service names the organiser of a new key.")
    new_principal = Principal(
        name=new.name, organiser_id=principal.organiser_id, scopes=frozenset(new.scopes)
    )

    async def create(connection: AsyncConnection) -> tuple[str, RowMapping]:
        return await connection.run_sync(
            keys.create, new_principal, organiser_name=new.organiser, days=new.days, created_by=principal.name
        )

    try:
        key, stored = await services.write(create, due)
    except KeyRefused as error:
        raise ProblemType.API_KEY_REFUSED.error(str(error)) from error
    log.info("api_key_created", prefix=stored["prefix"], key_name=stored["name"], by=principal.name)
    return responses.body(CreatedApiKey(key=key, api_key=ApiKey(**stored)), HTTPStatus.CREATED)


@router.get("", **admin_routes.KEYS)
async def list_keys(
    services: Provided,
    cursor: str | None = None,
    limit: PageSize = _PAGE_DEFAULT,
    principal: Principal = operator,
) -> Response:
    """List API keys by prefix, the ended and revoked ones included; with a key of an organiser its own."""
    if cursor is not None and not access.PREFIX.fullmatch(cursor):
        raise request_bodies.false_cursor()
    organiser_id = principal.organiser_id
    found = await services.admin_read(
        lambda connection: connection.run_sync(keys.stored, organiser_id, after=cursor or "", limit=limit)
    )
    next_cursor = found[-1]["prefix"] if len(found) == limit else None
    return responses.body(ApiKeyPage(items=[ApiKey(**key) for key in found], next_cursor=next_cursor))


@router.delete("/{prefix}", **admin_routes.REVOKE_KEY)
async def revoke_key(
    prefix: str, services: Provided, request: Request, principal: Principal = operator
) -> Response:
    """Revoke an API key by its prefix; after a second no process accepts it. Again changes nothing."""
    due = request_bodies.deadline_of(request, services.settings).accept_by
    organiser_id = principal.organiser_id
    if not access.PREFIX.fullmatch(prefix):
        raise ProblemType.API_KEY_NOT_FOUND.error()
    revoked = await services.write(
        lambda connection: connection.run_sync(keys.revoke, prefix, organiser_id), due
    )
    if revoked is None:
        raise ProblemType.API_KEY_NOT_FOUND.error()
    log.info("api_key_revoked", prefix=prefix, key_name=revoked["name"], by=principal.name)
    return responses.body(ApiKey(**revoked))
