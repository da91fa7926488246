"""Access to the admin routes: a key's principal, scopes, and the organiser whose events it is for."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from typing import Annotated
from urllib.parse import unquote
from uuid import UUID

from fastapi import Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer, SecurityScopes

from api.edge import body_fields
from api.edge.problems import ProblemType
from api.edge.responses import ANSWER_HEADERS
from api.queries import events
from api.services import Provided, Services
from shared import metrics
from shared.domain import access
from shared.domain.access import Principal, Scope

_READ_SECONDS_MAX = 2
_SETTINGS_PRINCIPALS = (access.ADMIN, access.VIEWER)

_Credentials = Annotated[
    HTTPAuthorizationCredentials | None,
    Security(
        HTTPBearer(
            scheme_name="key",
            auto_error=False,
            description="An API key, the admin key or the viewer key.",
        )
    ),
]


async def principal(
    required: SecurityScopes, request: Request, services: Provided, credentials: _Credentials
) -> Principal:
    """Return the key's principal: 401 without a valid key, 403 without the scopes.

    A principal with an organiser gets 404 for an event of another organiser, as for one that is not there.
    That holds for every route with an `event_id` in its path. A parameter that the route does not know is
    refused, because a misspelt filter would let everything through. So is a parameter that is there twice.
    """
    principal = await _principal(services, request, credentials)
    must_have(principal, *(Scope(scope) for scope in required.scopes))
    known = {parameter.alias for parameter in request.scope["route"].dependant.query_params}
    sent = Counter(name for name, _ in request.query_params.multi_items())
    reasons = {name: "is there more than once" for name, times in sorted(sent.items()) if times > 1}
    reasons |= dict.fromkeys(sorted(sent.keys() - known), "is no parameter of this route")
    reasons |= dict.fromkeys(_undecodable(request.scope["query_string"]), "must be in UTF-8")
    if reasons:
        raise body_fields.invalid({name or "(no name)": reason for name, reason in reasons.items()})
    event_id = request.path_params.get("event_id")
    if event_id is not None and principal.organiser_id is not None:
        await _must_own(services, principal.organiser_id, event_id)
    return principal


def _undecodable(query: bytes) -> Iterator[str]:
    """Yield the names of the parameters of a query with a value that is not in UTF-8."""
    for name, _, value in (parameter.partition("=") for parameter in query.decode("ascii").split("&")):
        try:
            unquote(value, errors="strict")
        except UnicodeDecodeError:
            yield unquote(name)


def must_have(principal: Principal, *scopes: Scope) -> None:
    """Raise the problem 403 if the key lacks one of these scopes."""
    for scope in scopes:
        if scope not in principal.scopes:
            raise ProblemType.FORBIDDEN.error(f"This key lacks the scope {scope}.")


async def _metrics_reader(
    required: SecurityScopes, request: Request, services: Provided, credentials: _Credentials
) -> None:
    """Let a client of this machine pass, or a key of the service; metrics name events of all organisers."""
    peer = None if request.client is None else request.client.host
    if metrics.is_local(peer, request.headers):
        return
    principal = await _principal(services, request, credentials)
    must_have(principal, *(Scope(scope) for scope in required.scopes))
    if principal.organiser_id is not None:
        raise ProblemType.FORBIDDEN.error("This key is for the events of one organiser.")


async def _principal(
    services: Services, request: Request, credentials: HTTPAuthorizationCredentials | None
) -> Principal:
    if credentials is None:
        raise ProblemType.UNAUTHORIZED.error()
    principal = await services.keys.principal(credentials.credentials)
    if principal is None:
        await services.wrong_keys.wait_turn(services.clients.client(request.scope))
        raise ProblemType.UNAUTHORIZED.error()
    services.limits.admit_key(
        access.prefix(credentials.credentials) if principal not in _SETTINGS_PRINCIPALS else principal.name,
        request.scope[ANSWER_HEADERS],
        of_settings=principal in _SETTINGS_PRINCIPALS,
    )
    return principal


async def _must_own(services: Services, organiser_id: UUID, event_id: str) -> None:
    try:
        id_ = UUID(event_id)
    except ValueError:
        raise ProblemType.EVENT_NOT_FOUND.error() from None
    async with asyncio.timeout(_READ_SECONDS_MAX):
        owned = await services.read(lambda connection: events.is_owned(connection, id_, organiser_id))
    if not owned:
        raise ProblemType.EVENT_NOT_FOUND.error()


metrics_reader = Security(_metrics_reader, scopes=[Scope.EVENTS_READ.value])
events_reader = Security(principal, scopes=[Scope.EVENTS_READ.value])
events_writer = Security(principal, scopes=[Scope.EVENTS_WRITE.value])
registrations_writer = Security(principal, scopes=[Scope.REGISTRATIONS_WRITE.value])
operator = Security(principal, scopes=[Scope.OPERATE.value])
