"""The catalogue of problems: each error that the API answers with, its status, its code and its words.

The code raises the catalogue's entries, OpenAPI describes routes by them, and `docs/api.md` lists them.
"""

from collections.abc import Mapping
from enum import Enum, unique
from http import HTTPStatus
from types import MappingProxyType
from typing import Any

from shared.domain import outcomes

RETRY_SECONDS = 1

# As RFC 9110 names them; which names Python has depends on its version.
_TITLES = {
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "Content Too Large",
    HTTPStatus.UNPROCESSABLE_ENTITY: "Unprocessable Content",
}
_NO_HEADERS: Mapping[str, str] = MappingProxyType({})
_HEADERS = {
    HTTPStatus.UNAUTHORIZED: {"www-authenticate": "Bearer"},
    HTTPStatus.TOO_MANY_REQUESTS: {"retry-after": str(RETRY_SECONDS)},
    HTTPStatus.SERVICE_UNAVAILABLE: {"retry-after": str(RETRY_SECONDS)},
}
"""The headers that each problem of a status has."""


class ProblemError(Exception):
    """The error of a request whose answer is a problem; raised anywhere, rendered once."""

    def __init__(
        self, status: HTTPStatus, code: str, detail: str, *, headers: Mapping[str, str], **more: Any
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.headers = headers
        self.more = more


@unique
class ProblemType(Enum):
    """A problem's status, detail and further members; its name is its code.

    The detail is the text that a client reads, or an example of it if each error has a text of its own.
    """

    MALFORMED_REQUEST = (
        HTTPStatus.BAD_REQUEST,
        "This is no HTTP/1.1 request; a path and a query are percent-encoded ASCII.",
    )
    CLIENT_GONE = HTTPStatus.BAD_REQUEST, "The client left before the request's end."
    UNAUTHORIZED = HTTPStatus.UNAUTHORIZED, "Send a valid key as Authorization: Bearer <key>."
    FORBIDDEN = HTTPStatus.FORBIDDEN, "This key lacks the scope events:write."
    CHALLENGE_REQUIRED = (
        HTTPStatus.FORBIDDEN,
        "Solve a challenge of this event, and send the solution as altcha.",
    )
    CHALLENGE_FAILED = HTTPStatus.FORBIDDEN, "The solution is wrong; ask for a fresh challenge."
    NO_CHALLENGE = HTTPStatus.NOT_FOUND, "This event asks for no challenge: register without one."
    NOT_FOUND = HTTPStatus.NOT_FOUND, "Not Found"
    EVENT_NOT_FOUND = HTTPStatus.NOT_FOUND, "There is no such event."
    REGISTRATION_NOT_FOUND = HTTPStatus.NOT_FOUND, "There is no such registration."
    API_KEY_NOT_FOUND = HTTPStatus.NOT_FOUND, "There is no such API key."
    RECEIPT_NOT_FOUND = (
        HTTPStatus.NOT_FOUND,
        "This is no receipt of the event, or the holder was given a newer one.",
    )
    METHOD_NOT_ALLOWED = HTTPStatus.METHOD_NOT_ALLOWED, "Method Not Allowed"
    REQUEST_TIMEOUT = HTTPStatus.REQUEST_TIMEOUT, "The request came too slowly; nothing was accepted."
    SLUG_TAKEN = HTTPStatus.CONFLICT, "There is an event 'demo' already."
    API_KEY_REFUSED = HTTPStatus.CONFLICT, "Two keys 'box office' are valid; revoke one of them first."
    CANCELLATION_CLOSED = (
        HTTPStatus.CONFLICT,
        "Holders could cancel until 2026-12-24T18:00:00Z; ask the organiser.",
        "receipt_id",
    )
    REGISTRATION_CLOSED = HTTPStatus.CONFLICT, "Registration has closed.", "receipt_id"
    REGISTRATION_NOT_OPEN = (
        HTTPStatus.CONFLICT,
        "Registration opens at 2026-12-01T09:00:00Z.",
        "receipt_id",
        "opens_at",
    )
    EVENT_PAUSED = HTTPStatus.CONFLICT, "Registration is paused.", "receipt_id"
    TOO_MANY_SPOTS = HTTPStatus.CONFLICT, "One registration may have at most 10 spots.", "receipt_id"
    ALREADY_REGISTERED = (
        HTTPStatus.CONFLICT,
        "This email address already has a registration here.",
        "receipt_id",
    )
    TOO_MANY_SPOTS_OF_ADDRESS = HTTPStatus.CONFLICT, "From one address 20 spots can be asked for."
    EVENT_FULL = HTTPStatus.CONFLICT, outcomes.EVENT_FULL.detail, "receipt_id"
    CAPACITY_EXCEEDED = (
        HTTPStatus.CONFLICT,
        "The registration needs 4 spots; 1 is left.",
        "receipt_id",
        "spots_left",
        "spots_needed",
    )
    CAPACITY_BELOW_RESERVED = (
        HTTPStatus.CONFLICT,
        "99 spots are confirmed; the capacity cannot be 50.",
        "receipt_id",
    )
    SLUG_FIXED = (
        HTTPStatus.CONFLICT,
        "Commands were sent under the event's slug; it cannot change any more.",
        "receipt_id",
    )
    WINDOW_INVALID = HTTPStatus.CONFLICT, "The event must close after it opens.", "receipt_id"
    BODY_TOO_LARGE = HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "The body may have at most 16384 bytes."
    UNSUPPORTED_MEDIA_TYPE = HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "Send the body as application/json in UTF-8."
    HEAD_TOO_LARGE = (
        HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
        "A request may have at most 100 headers, and 32768 bytes of them and its request line.",
    )
    INVALID_REQUEST = HTTPStatus.UNPROCESSABLE_ENTITY, "spotsCount: expected `int` >= 1."
    IDEMPOTENCY_KEY_REUSED = (
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "This Idempotency-Key was used to ask for something else.",
    )
    TOO_MANY_WRONG_KEYS = (
        HTTPStatus.TOO_MANY_REQUESTS,
        "This key is wrong, and too many wrong keys came from this address.",
    )
    TOO_MANY_REQUESTS = HTTPStatus.TOO_MANY_REQUESTS, "Too many requests; the limit is 500 in 10 s."
    COMMAND_FAILED = (
        HTTPStatus.INTERNAL_SERVER_ERROR,
        "The command could not be decided and changed nothing.",
        "receipt_id",
        "incident_id",
    )
    INTERNAL_ERROR = (
        HTTPStatus.INTERNAL_SERVER_ERROR,
        "Something unforeseen happened; the log has the incident.",
        "incident_id",
    )
    TOO_MANY_CONNECTIONS = (
        HTTPStatus.SERVICE_UNAVAILABLE,
        "Too many connections are open; nothing was accepted.",
    )
    INTAKE_FULL = (
        HTTPStatus.SERVICE_UNAVAILABLE,
        "Too many commands wait to be decided; nothing was accepted.",
    )
    LEDGER_UNAVAILABLE = HTTPStatus.SERVICE_UNAVAILABLE, "The ledger cannot be reached; nothing was accepted."
    NUMBERING_BEHIND = (
        HTTPStatus.SERVICE_UNAVAILABLE,
        "The ledger's numbering is behind its commands; nothing was accepted. An operator has to repair it.",
    )
    WORKERS_OUTDATED = (
        HTTPStatus.SERVICE_UNAVAILABLE,
        "A worker of an earlier version still runs, which does not know what is asked; nothing was accepted.",
    )
    ANSWER_UNAVAILABLE = (
        HTTPStatus.SERVICE_UNAVAILABLE,
        "The command was decided; what has become of it cannot be read now. Ask for its receipt.",
        "receipt_id",
    )
    ADMIN_READS_BUSY = HTTPStatus.SERVICE_UNAVAILABLE, "Other lists, figures and exports are being read."
    EXPORT_BUSY = HTTPStatus.SERVICE_UNAVAILABLE, "Other exports are running."
    HTTP_VERSION_NOT_SUPPORTED = (
        HTTPStatus.HTTP_VERSION_NOT_SUPPORTED,
        "An export is sent in chunks, which HTTP/1.0 does not have: clients and proxies must use HTTP/1.1.",
    )
    ACCEPTANCE_UNKNOWN = (
        HTTPStatus.GATEWAY_TIMEOUT,
        "The ledger was lost while it accepted; ask again with the same Idempotency-Key to learn the answer.",
    )

    def __init__(self, status: HTTPStatus, detail: str, *members: str) -> None:
        self.status = status
        self.detail = detail
        self.members = members
        self.headers = _HEADERS.get(status, _NO_HEADERS)

    def error(
        self, detail: str | None = None, *, headers: Mapping[str, str] = _NO_HEADERS, **more: Any
    ) -> ProblemError:
        """Return the error to raise; `headers` come beside the problem's own, or in their place."""
        return ProblemError(
            self.status, self.name, detail or self.detail, headers={**self.headers, **headers}, **more
        )


def title(status: HTTPStatus) -> str:
    """Return a status's name, which is a problem's title."""
    return _TITLES.get(status, status.phrase)
