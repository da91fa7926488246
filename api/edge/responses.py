"""The HTTP form of answers: the only mapping from outcomes to statuses, and problems (RFC 9457)."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any
from uuid import UUID

from msgspec import Struct, json
from starlette.responses import Response

from api.edge import problems
from api.edge.problems import ProblemError, ProblemType
from api.edge.schemas import Problem, Receipt, ReceiptStatus
from api.edge.schemas_admin import Registration
from shared.domain import ids
from shared.domain.access import Principal
from shared.domain.outcomes import (
    Failed,
    Refused,
)

ANSWER_HEADERS = "answer_headers"
"""The name under which a request's scope collects headers of its answer, for errors too."""

USUAL_HEADERS = (
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    # Pages of other origins that `ADMITONE_CORS_ORIGINS` names ask in a way that this does not concern.
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)
"""The headers that an answer has unless it has its own of that name."""

_JSON = "application/json"
_PROBLEM_JSON = "application/problem+json"


def body(value: Struct, status: int = HTTPStatus.OK, headers: dict[str, str] | None = None) -> Response:
    """Return the value as JSON."""
    return Response(json.encode(value), status, headers, _JSON)


def problem(error: ProblemError, request_id: str) -> Response:
    """Return the problem as `application/problem+json`."""
    content = Problem(
        type=f"urn:admitone:problem:{error.code.lower().replace('_', '-')}",
        title=problems.title(error.status),
        status=error.status,
        detail=error.detail,
        code=error.code,
        request_id=request_id,
        **error.more,
    )
    return Response(json.encode(content), error.status, error.headers, _PROBLEM_JSON)


def unsuccessful(
    outcome: Refused | Failed, headers: dict[str, str], receipt_id: UUID | None = None
) -> ProblemError:
    """Return the problem of a refusal or a failure; a refusal without a command has no receipt."""
    if isinstance(outcome, Failed):
        return ProblemType.COMMAND_FAILED.error(
            headers=headers, receipt_id=receipt_id, incident_id=outcome.incident_id
        )
    members = {
        "receipt_id": receipt_id,
        "spots_left": outcome.spots_left,
        "spots_needed": outcome.spots_needed,
        "opens_at": outcome.opens_at,
    }
    more = {name: value for name, value in members.items() if value is not None}
    if outcome.retry_after_seconds is not None:
        headers = {**headers, "retry-after": str(outcome.retry_after_seconds)}
    return ProblemType[outcome.code.name].error(outcome.detail, headers=headers, **more)


def pending(receipt_id: UUID, ahead: int | None, headers: dict[str, str]) -> Response:
    """Return the answer 202: the command is accepted and not decided yet."""
    content = Receipt(
        receipt_id=receipt_id, task_id=ids.task_id(receipt_id), status=ReceiptStatus.PENDING, ahead=ahead
    )
    return body(content, HTTPStatus.ACCEPTED, headers)


def registration(row: Mapping[Any, Any], principal: Principal) -> Registration:
    """Return a registration as this principal may see it."""
    hidden = {} if principal.reads_personal else {"name": None, "email": None}
    return Registration(**{**row, **hidden})
