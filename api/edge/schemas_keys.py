"""The HTTP bodies of API keys."""

from datetime import datetime
from typing import Annotated

from msgspec import Meta

from api.edge.schemas import Wire
from shared.domain import access, commands
from shared.domain.access import Scope

OrganiserName = Annotated[
    str,
    Meta(
        min_length=1, max_length=access.ORGANISER_LENGTH_MAX, pattern=access.ORGANISER + commands.AT_THE_END
    ),
]


class NewApiKey(Wire, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """An API key to create, valid for `days`; only a key of the service names another organiser."""

    name: Annotated[str, Meta(pattern=access.NAME + commands.AT_THE_END)]
    scopes: Annotated[list[Scope], Meta(min_length=1)]
    organiser: OrganiserName | None = None
    days: Annotated[int, Meta(ge=1, le=access.DAYS_MAX)] = access.DAYS


class ApiKey(Wire, frozen=True, kw_only=True, rename="camel"):
    """An API key without its secret; `organiser` is null for a key of the service, for all events."""

    prefix: str
    name: str
    organiser: str | None
    scopes: list[str]
    created_by: str
    created_at: datetime
    expires_at: datetime
    revoked_at: datetime | None


class CreatedApiKey(Wire, frozen=True, kw_only=True, rename="camel"):
    """A fresh API key; `key` is shown in this answer alone."""

    key: str
    api_key: ApiKey


class ApiKeyPage(Wire, frozen=True, kw_only=True, rename="camel"):
    """API keys by prefix; `nextCursor` asks for the rest."""

    items: list[ApiKey]
    next_cursor: str | None
