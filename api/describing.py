"""How routes are described to OpenAPI, and what many of them have in common."""

from typing import Any

import msgspec

from api import examples, schemas

RETRY_AFTER = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}}
LOCATION = {"Location": {"description": "The receipt.", "schema": {"type": "string"}}}


def answer(
    description: str, body: type[msgspec.Struct], headers: dict[str, Any] | None = None, **shown: Any
) -> dict[str, Any]:
    """Describe an answer with this body, and the examples that are shown of it."""
    return {
        "description": description,
        "headers": headers or {},
        "content": {
            "application/json": {
                "schema": reference(body),
                "examples": {name: {"value": value} for name, value in shown.items()},
            }
        },
    }


def problem(
    status: int, title: str, *codes: str, detail: str, headers: dict[str, Any] | None = None, **more: Any
) -> dict[str, Any]:
    """Describe a problem answer, with an example for each code that it can carry."""
    shown = {
        code: {
            "value": {
                "type": f"urn:admitone:problem:{code.lower().replace('_', '-')}",
                "title": title,
                "status": status,
                "detail": detail,
                "code": code,
                "requestId": examples.RECEIPT_ID,
                **more,
            }
        }
        for code in codes
    }
    content = {"application/problem+json": {"schema": reference(schemas.Problem), "examples": shown}}
    return {
        "description": f"{detail} Codes: {', '.join(codes)}.",
        "headers": headers or {},
        "content": content,
    }


def reference(body: type[msgspec.Struct]) -> dict[str, str]:
    """Return how OpenAPI refers to a body's schema."""
    return {"$ref": f"#/components/schemas/{body.__name__}"}


def route(
    answers: dict[int, dict[str, Any]], body: type[msgspec.Struct] | None = None, **more: Any
) -> dict[str, Any]:
    """Return the arguments by which a route is documented; the lowest status is the usual one."""
    extra: dict[str, Any] = {}
    if body is not None:
        content = {"application/json": {"schema": reference(body), "examples": more.pop("examples")}}
        extra["requestBody"] = {"required": True, "content": content}
    if "parameters" in more:
        extra["parameters"] = more.pop("parameters")
    first = min(answers)
    return {
        "status_code": first,
        "responses": answers,
        "openapi_extra": extra,
        "response_model": None,
        **more,
    }


def header(name: str, description: str, example: str) -> dict[str, Any]:
    """Describe a request header."""
    schema = {"type": "string"}
    return {"name": name, "in": "header", "description": description, "schema": schema, "example": example}


IDEMPOTENCY_KEY = header(
    "Idempotency-Key",
    "Asking again under the same key gives the same answer, with `Idempotent-Replayed: true`.",
    "7f9c24e8-3b12-4fef-91e0-56e5b0d1a1c4",
)

PREFER = header(
    "Prefer", "`respond-async` does not wait for the decision, `wait=N` waits N seconds.", "wait=2"
)

NO_EVENT = problem(404, "Not Found", "EVENT_NOT_FOUND", detail="There is no such event.")

NO_DATABASE = problem(
    503,
    "Service Unavailable",
    "LEDGER_UNAVAILABLE",
    detail="The ledger cannot be reached; nothing was accepted.",
    headers=RETRY_AFTER,
)

BODY_PROBLEMS = {
    413: problem(413, "Content Too Large", "BODY_TOO_LARGE", detail="The body is too large."),
    415: problem(
        415, "Unsupported Media Type", "UNSUPPORTED_MEDIA_TYPE", detail="Send the body as application/json."
    ),
}

INVALID = problem(422, "Unprocessable Content", "INVALID_REQUEST", detail="spotsCount: expected `int` >= 1.")

# What any command can meet besides its own refusals.
COMMAND_PROBLEMS = {
    422: problem(
        422,
        "Unprocessable Content",
        "INVALID_REQUEST",
        "IDEMPOTENCY_KEY_REUSED",
        detail="The request is invalid, or its key was used for something else; nothing was accepted.",
    ),
    500: problem(
        500,
        "Internal Server Error",
        "COMMAND_FAILED",
        detail="The command could not be decided and changed nothing.",
        receiptId=examples.RECEIPT_ID,
        incidentId=examples.REGISTRATION_ID,
    ),
    503: problem(
        503,
        "Service Unavailable",
        "INTAKE_FULL",
        "LEDGER_UNAVAILABLE",
        detail="Nothing was accepted; try again.",
        headers=RETRY_AFTER,
    ),
    504: problem(
        504,
        "Gateway Timeout",
        "ACCEPTANCE_UNKNOWN",
        detail="The ledger was lost while it accepted; ask again with the same Idempotency-Key.",
    ),
}

# A change tells more than its outcome, which takes a reading after it.
CHANGE_PROBLEMS = {
    **COMMAND_PROBLEMS,
    503: problem(
        503,
        "Service Unavailable",
        "INTAKE_FULL",
        "LEDGER_UNAVAILABLE",
        "ANSWER_UNAVAILABLE",
        detail="Nothing was accepted; with a receipt, it was decided and cannot be shown now.",
        headers=RETRY_AFTER,
    ),
}

PENDING_ANSWER = answer(
    "Accepted; not decided yet.", schemas.Receipt, {**LOCATION, **RETRY_AFTER}, pending=examples.PENDING
)
