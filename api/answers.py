"""How answers look in HTTP: the only mapping from outcomes to statuses, and problem details (RFC 9457)."""

from http import HTTPStatus
from typing import Any, assert_never
from uuid import UUID

from msgspec import Struct, json
from starlette.responses import Response

from api.schemas import Problem, Receipt, ReceiptStatus, Refusal, RegistrationBrief
from shared import ids
from shared.commands import Status
from shared.outcomes import Confirmed, Failed, Outcome, Refused, Waitlisted

_JSON = "application/json"
_PROBLEM_JSON = "application/problem+json"
RETRY_SECONDS = 1


class ProblemError(Exception):
    """A request that gets a problem for an answer; raised anywhere, rendered once."""

    def __init__(
        self, status: HTTPStatus, code: str, detail: str, *, headers: dict[str, str] | None = None, **more: Any
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.headers = headers or {}
        self.more = more


def body(value: Struct, status: int = HTTPStatus.OK, headers: dict[str, str] | None = None) -> Response:
    """Return the value as JSON."""
    return Response(json.encode(value), status, headers, _JSON)


def problem(error: ProblemError, request_id: str | None = None) -> Response:
    """Return the problem as `application/problem+json`, under the client's request id or a fresh one."""
    request_id = request_id or str(ids.new_id())
    content = Problem(
        type=f"urn:admitone:problem:{error.code.lower().replace('_', '-')}",
        title=error.status.phrase,
        status=error.status,
        detail=error.detail,
        code=error.code,
        request_id=request_id,
        **error.more,
    )
    headers = {**error.headers, "x-request-id": request_id}
    return Response(json.encode(content), error.status, headers, _PROBLEM_JSON)


def receipt_url(slug: str, receipt_id: UUID) -> str:
    """Return where the receipt can be asked for."""
    return f"/api/p/{slug}/receipts/{receipt_id}"


def decided(slug: str, receipt_id: UUID, outcome: Outcome, *, replayed: bool, request_id: str | None) -> Response:
    """Return the final answer to a registration."""
    headers = {"location": receipt_url(slug, receipt_id)}
    if replayed:
        headers["idempotent-replayed"] = "true"
    match outcome:
        case Confirmed() | Waitlisted():
            return body(receipt(receipt_id, outcome), HTTPStatus.CREATED, headers)
        case Refused(code=code, detail=detail):
            refused = ProblemError(HTTPStatus.CONFLICT, code, detail, headers=headers, receipt_id=receipt_id)
            return problem(refused, request_id)
        case Failed(incident_id=incident_id):
            failed = ProblemError(
                HTTPStatus.INTERNAL_SERVER_ERROR,
                "COMMAND_FAILED",
                "The command could not be decided and changed nothing.",
                headers=headers,
                receipt_id=receipt_id,
                incident_id=incident_id,
            )
            return problem(failed, request_id)
    assert_never(outcome)


def pending(slug: str, receipt_id: UUID, ahead: int, *, replayed: bool) -> Response:
    """Return that the command is accepted and not decided yet."""
    headers = {"location": receipt_url(slug, receipt_id), "retry-after": str(RETRY_SECONDS)}
    if replayed:
        headers["idempotent-replayed"] = "true"
    content = Receipt(receipt_id=receipt_id, status=ReceiptStatus.PENDING, ahead=ahead)
    return body(content, HTTPStatus.ACCEPTED, headers)


def receipt(receipt_id: UUID, outcome: Outcome) -> Receipt:
    """Return the receipt of a command that was settled just now."""
    match outcome:
        case Confirmed(registration_id=id_, spots_count=spots):
            registration = RegistrationBrief(
                id=id_, status=Status.CONFIRMED, spots_count=spots, waitlist_position=None
            )
            return Receipt(receipt_id=receipt_id, status=ReceiptStatus.CONFIRMED, registration=registration)
        case Waitlisted(registration_id=id_, spots_count=spots, position=position):
            registration = RegistrationBrief(
                id=id_, status=Status.WAITLIST, spots_count=spots, waitlist_position=position
            )
            return Receipt(receipt_id=receipt_id, status=ReceiptStatus.WAITLIST, registration=registration)
        case Refused(code=code, detail=detail):
            refusal = Refusal(code=code, detail=detail)
            return Receipt(receipt_id=receipt_id, status=ReceiptStatus.REFUSED, refusal=refusal)
        case Failed(incident_id=incident_id):
            return Receipt(receipt_id=receipt_id, status=ReceiptStatus.FAILED, incident_id=incident_id)
    assert_never(outcome)


