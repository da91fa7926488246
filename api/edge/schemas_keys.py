"""The HTTP bodies of API keys."""

from datetime import datetime
from typing import Annotated

from msgspec import Meta

from api.edge.schemas import Wire
from shared.domain import access, commands
from shared.domain.access import Scope
from shared.domain.commands import Name


class NewApiKey(Wire, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An API key to create, valid for `days`.

    `organiser` has no default, since null is the most there is: a key of the service makes one of the
    service by it. A key of an organiser always makes one of that organiser, and says null.
    """

    name: Annotated[
        str,
        Meta(
            pattern=access.NAME + commands.AT_THE_END,
            extra={"rule": "must be 1 to 64 ASCII letters, digits, and blanks, dots, _ or - between them"},
        ),
    ]
    scopes: Annotated[
        list[Scope], Meta(min_length=1, extra={"rule": f"must be a list of some of {', '.join(Scope)}"})
    ]
    organiser: Name | None
    days: Annotated[int, Meta(ge=1, le=access.DAYS_MAX)] = access.DAYS


class ApiKey(Wire, frozen=True, kw_only=True):
    """An API key without its secret; `organiser` is null for a key of the service, for all events."""

    prefix: str
    name: str
    organiser: str | None
    scopes: list[str]
    created_by: str
    created_at: datetime
    expires_at: datetime
    revoked_at: datetime | None


class CreatedApiKey(Wire, frozen=True, kw_only=True):
    """A fresh API key; `key` is shown in this answer alone."""

    key: str
    api_key: ApiKey


class ApiKeyPage(Wire, frozen=True, kw_only=True):
    """API keys by prefix; `nextCursor` asks for the rest."""

    items: list[ApiKey]
    next_cursor: str | None
