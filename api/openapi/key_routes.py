"""The OpenAPI descriptions of the routes of API keys."""

from typing import Any

from api.edge import schemas_keys
from api.edge.problems import ProblemType
from api.openapi import builders, examples

_KEY: dict[str, Any] = {
    "prefix": "ao_5f0c2e9b7a41",
    "name": "box office",
    "organiser": "City Theatre",
    "scopes": ["events:read", "registrations:write"],
    "createdBy": "admin",
    "createdAt": examples.NOW,
    "expiresAt": "2027-11-24T09:00:00Z",
    "revokedAt": None,
}
_CREATED = {"key": "ao_5f0c2e9b7a41_Zk1vT0m3lq8Yw2f7nRj5xUeB4cHs6PdLaG9iKtQyWzE", "apiKey": _KEY}

CREATE_KEY = builders.route(
    {
        201: builders.answer(
            "Created; this answer alone shows the key.",
            schemas_keys.CreatedApiKey,
            created=_CREATED,
        ),
    },
    *builders.KEY_PROBLEMS,
    ProblemType.API_KEY_REFUSED,
    ProblemType.ACCEPTANCE_UNKNOWN,
    *builders.BODY_PROBLEMS,
    *builders.READ_PROBLEMS,
    body=schemas_keys.NewApiKey,
    examples={
        "for an organiser": {
            "value": {
                "name": "box office",
                "organiser": "City Theatre",
                "scopes": ["events:read", "registrations:write"],
                "days": 365,
            }
        }
    },
)

KEYS = builders.route(
    {
        200: builders.answer("A page.", schemas_keys.ApiKeyPage, page={"items": [_KEY], "nextCursor": None}),
    },
    *builders.KEY_PROBLEMS,
    ProblemType.ADMIN_READS_BUSY,
    *builders.READ_PROBLEMS,
)

REVOKE_KEY = builders.route(
    {
        200: builders.answer(
            "Revoked, now or before.", schemas_keys.ApiKey, revoked={**_KEY, "revokedAt": examples.NOW}
        ),
    },
    *builders.KEY_PROBLEMS,
    ProblemType.API_KEY_NOT_FOUND,
    ProblemType.ACCEPTANCE_UNKNOWN,
    *builders.READ_PROBLEMS,
)
