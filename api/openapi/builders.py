"""Builders of the routes' OpenAPI descriptions, and their common parts."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from api.edge import responses, schemas
from api.edge.problems import ProblemType
from api.openapi import examples

Answers = dict[int, dict[str, Any]]
"""The descriptions of answers by their statuses."""

RETRY_AFTER = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}}
RATE_LIMIT = {
    "RateLimit-Policy": {"description": "The limit, and its window.", "schema": {"type": "string"}},
    "RateLimit": {"description": "Requests left, seconds to the next window.", "schema": {"type": "string"}},
}
CHALLENGE = {"WWW-Authenticate": {"description": "How to identify.", "schema": {"type": "string"}}}
_OF_RECEIPT = {"slug": "$request.path.slug", "receipt_id": "$response.body#/receiptId"}
"""The parameters of a receipt's routes, as an answer to its registration gives them."""
LOCATION = {"Location": {"description": "The receipt.", "schema": {"type": "string"}}}

RECEIPT_SCHEME = {
    "receipt": {
        "type": "http",
        "scheme": "bearer",
        "description": "The `receiptId` of a registration: its holder's secret, and no key.",
    }
}


def answer(
    description: str,
    body: type[msgspec.Struct],
    headers: dict[str, Any] | None = None,
    *,
    status: int = 200,
    leads_to: Sequence[str] = (),
    **shown: Any,
) -> Answers:
    """Describe an answer with this body, the examples that are shown of it, and a receipt's next routes."""
    described: dict[str, Any] = {
        "description": description,
        "headers": headers or {},
        "content": {"application/json": {"schema": reference(body), "examples": _values(shown)}},
    }
    if leads_to:
        described["links"] = {name: {"operationId": name, "parameters": _OF_RECEIPT} for name in leads_to}
    return {status: described}


def by_media_type(description: str, content: dict[str, Any]) -> Answers:
    """Describe an answer that has a form of its own under each media type."""
    return {200: {"description": description, "content": content}}


def page(body: type[msgspec.Struct], item: object, next_cursor: str | None = None) -> Answers:
    """Describe a page of a list by an example with one item."""
    return answer("A page.", body, page={"items": [item], "nextCursor": next_cursor})


def pending_answer(leads_to: Sequence[str] = ()) -> Answers:
    """Describe the answer to a command that is not decided in time."""
    headers = {**LOCATION, **RETRY_AFTER}
    pending = examples.PENDING
    return answer(
        "Accepted; not decided yet.", schemas.Receipt, headers, status=202, leads_to=leads_to, pending=pending
    )


def problems(*types: ProblemType) -> Answers:
    """Describe the answers that carry these problems, by status, with an example of each problem."""
    return {
        status: _problem_answer([type_ for type_ in types if type_.status is status])
        for status in sorted({type_.status for type_ in types})
    }


def _problem_answer(types: Sequence[ProblemType]) -> dict[str, Any]:
    headers = {name: header for type_ in types for name, header in _headers(type_).items()}
    shown = _values({type_.name: _example(type_) for type_ in types})
    return {
        "description": "\n".join(f"- `{type_.name}`: {type_.detail}" for type_ in types),
        "headers": headers,
        "content": {"application/problem+json": {"schema": reference(schemas.Problem), "examples": shown}},
    }


def _headers(type_: ProblemType) -> dict[str, Any]:
    """Return the headers of a problem's answer: its own, and the place of the receipt that it names."""
    own = {
        name: header for name, header in (RETRY_AFTER | CHALLENGE).items() if name.lower() in type_.headers
    }
    if type_ is ProblemType.TOO_MANY_REQUESTS:
        own |= RATE_LIMIT
    return own | LOCATION if "receipt_id" in type_.members else own


def _example(type_: ProblemType) -> object:
    error = type_.error(**{member: examples.PROBLEM_MEMBERS[member] for member in type_.members})
    return msgspec.json.decode(responses.problem(error, examples.RECEIPT_ID).body)


def reference(body: type[msgspec.Struct]) -> dict[str, str]:
    """Return OpenAPI's reference to a body's schema."""
    return {"$ref": f"#/components/schemas/{body.__name__}"}


def _values(shown: Mapping[str, object]) -> dict[str, Any]:
    """Return examples in OpenAPI's form."""
    return {name: {"value": value} for name, value in shown.items()}


# The problems of every route, but for those of the service's own probes.
EVERY_PROBLEM = (ProblemType.TOO_MANY_REQUESTS, ProblemType.INTERNAL_ERROR)

BODY_PROBLEMS = (ProblemType.CLIENT_GONE, ProblemType.BODY_TOO_LARGE, ProblemType.UNSUPPORTED_MEDIA_TYPE)


def route(
    answers: Answers,
    *problem_types: ProblemType,
    body: type[msgspec.Struct] | None = None,
    every: Sequence[ProblemType] = EVERY_PROBLEM,
    **more: Any,
) -> dict[str, Any]:
    """Return the arguments by which a route is documented; the lowest status is the usual one."""
    extra: dict[str, Any] = {}
    if body is not None:
        problem_types += BODY_PROBLEMS
        content = {"application/json": {"schema": reference(body), "examples": _values(more.pop("examples"))}}
        extra["requestBody"] = {"required": more.pop("body_required", True), "content": content}
    if "parameters" in more:
        extra["parameters"] = more.pop("parameters")
    if more.pop("without_key", False):  # beside the key that the route's function asks for
        extra["security"] = [{}]
    return {
        "status_code": min(answers),
        "responses": answers | problems(*problem_types, *every),
        "openapi_extra": extra,
        "response_model": None,
        **more,
    }


def change(answers: Answers, *problem_types: ProblemType, **more: Any) -> dict[str, Any]:
    """Return the arguments by which the route of a command is documented, except that of a registration."""
    known = (*problem_types, *_LATE_PROBLEMS, *COMMAND_PROBLEMS)
    return route(answers | pending_answer(), *known, parameters=[IDEMPOTENCY_KEY, PREFER], **more)


def receipt_in_header(described: dict[str, Any]) -> dict[str, Any]:
    """Return the description of a receipt's route with the receipt in the header, not in the path."""
    return {
        **described,
        "responses": described["responses"] | problems(ProblemType.UNAUTHORIZED),
        "openapi_extra": {**described["openapi_extra"], "security": [{name: [] for name in RECEIPT_SCHEME}]},
    }


def header(name: str, description: str, **rule: str) -> dict[str, Any]:
    """Describe a request header; without an example, which the page `/docs` would send."""
    return {"name": name, "in": "header", "description": description, "schema": {"type": "string", **rule}}


IDEMPOTENCY_KEY = header(
    "Idempotency-Key",
    "Random, such as a UUID. Asking again under the same key, quoted or bare, gives the same answer, with "
    "`Idempotent-Replayed: true`.",
    pattern=r'^("([ !#-\[\]-~]|\\["\\]){1,255}"|[!#-+\--~]([ !#-+\--~]{0,253}[!#-+\--~])?)$',
)

PREFER = header(
    "Prefer",
    "`respond-async` does not wait for the decision, `wait=N` waits N seconds (RFC 7240). The answer tells "
    "in `Preference-Applied` what it followed.",
)

# The problems of every key.
KEY_PROBLEMS = (ProblemType.UNAUTHORIZED, ProblemType.FORBIDDEN, ProblemType.TOO_MANY_WRONG_KEYS)

# The problems of every read of the tables.
READ_PROBLEMS = (ProblemType.INVALID_REQUEST, ProblemType.LEDGER_UNAVAILABLE)

# Any command can meet these besides its own refusals; its answer shows more than its outcome, which takes a
# read after it.
COMMAND_PROBLEMS = (
    ProblemType.EVENT_NOT_FOUND,
    ProblemType.INVALID_REQUEST,
    ProblemType.IDEMPOTENCY_KEY_REUSED,
    ProblemType.COMMAND_FAILED,
    ProblemType.INTAKE_FULL,
    ProblemType.LEDGER_UNAVAILABLE,
    ProblemType.NUMBERING_BEHIND,
    ProblemType.ACCEPTANCE_UNKNOWN,
    ProblemType.ANSWER_UNAVAILABLE,
)

# A deleted event refuses every late command.
_LATE_PROBLEMS = (ProblemType.REGISTRATION_CLOSED, ProblemType.WORKERS_OUTDATED)

WAIT = {
    "name": "wait",
    "in": "query",
    "description": (
        "Seconds to wait for the decision of a pending command; with `If-None-Match`, also for a change "
        "of the registration's status."
    ),
    "schema": {"type": "number", "minimum": 0, "default": 0},
}
