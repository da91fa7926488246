"""Access to the admin routes: bearer keys, each with its scopes."""

import secrets
from enum import StrEnum
from typing import Annotated

from fastapi import Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer, SecurityScopes

from api.edge import body_fields
from api.edge.problems import ProblemType
from api.services import Provided
from shared import metrics
from shared.settings import Settings


class Scope(StrEnum):
    """The permissions of a key."""

    READ = "read"
    WRITE = "write"


_bearer = HTTPBearer(auto_error=False, description="The admin key, or the viewer key for reading only.")


async def admin(
    required: SecurityScopes,
    request: Request,
    services: Provided,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
) -> str:
    """Return the actor's name for the audit trail; 401 without a valid key, 403 without the scope.

    A parameter that the route does not know is refused: a misspelt filter would let everything through.
    """
    scopes = _scopes(services.settings, credentials)
    if scopes is None:
        raise ProblemType.UNAUTHORIZED.error()
    if not scopes.issuperset(required.scopes):
        raise ProblemType.FORBIDDEN.error()
    known = {parameter.alias for parameter in request.scope["route"].dependant.query_params}
    if unknown := request.query_params.keys() - known:
        raise body_fields.invalid(dict.fromkeys(sorted(unknown), "is no parameter of this route"))
    return "admin"


async def _local_or_reader(
    request: Request,
    services: Provided,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
) -> None:
    """Let a client of this machine pass, or the holder of a key; 401 for all others."""
    address = None if request.client is None else request.client.host
    if _scopes(services.settings, credentials) is None and not metrics.is_local(address, request.headers):
        raise ProblemType.UNAUTHORIZED.error()


def _scopes(settings: Settings, credentials: HTTPAuthorizationCredentials | None) -> frozenset[str] | None:
    if credentials is None:
        return None
    sent_key = credentials.credentials.encode()
    for key, scopes in (
        (settings.admin_key, frozenset({Scope.READ, Scope.WRITE})),
        (settings.viewer_key, frozenset({Scope.READ})),
    ):
        if key is not None and secrets.compare_digest(sent_key, key.get_secret_value().encode()):
            return frozenset(scopes)
    return None


local_or_reader = Security(_local_or_reader)
reader = Security(admin, scopes=[Scope.READ.value])
writer = Security(admin, scopes=[Scope.WRITE.value])
