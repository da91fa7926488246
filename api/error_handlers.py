"""Translates every error into a problem: the service's, the framework's, the ledger's and all others."""

import random
import re
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import DataError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from api.commands.intake import AcceptanceUnknown, CommandRejected, IntakeFull, LedgerUnavailable
from api.edge import body_fields, cross_origin, responses
from api.edge.front import RequestCancelled
from api.edge.problems import ProblemError, ProblemType
from shared.domain import ids
from shared.postgres.ledger import NumberingBehind

log = structlog.get_logger(__name__)

_SAFE = {"GET", "HEAD", "OPTIONS"}
_RETRY_SECONDS_MAX = 5
"""Clients of an overloaded service ask again after 1 to so many seconds, not all at one moment."""
_RECEIPT = re.compile(r"/receipts/[^/]+")
_UNSTORABLE = "The database cannot hold or find such a value."
_REJECTED = "The ledger cannot hold this; nothing was accepted."
_WORDS = {
    "uuid_parsing": "must be an id, such as 01a21425-ecb9-728d-8e9f-f73da8bf37ea",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "greater_than_equal": "must be {ge} or more",
    "less_than_equal": "must be {le} or less",
    "string_too_long": "must be text of at most {max_length} characters",
    "too_long": "must be text of at most {max_length} characters",
    "enum": "must be {expected}",
    "literal_error": "must be {expected}",
}
"""The words for people of pydantic's errors about parameters; those of other errors are its own."""


def install(app: FastAPI) -> None:
    """Install the handlers of all errors in the application."""

    async def handle(request: Request, error: Exception) -> Response:
        return problem(request, error)

    for kind in _TRANSLATIONS:
        app.add_exception_handler(kind, handle)


def problem(request: Request, error: Exception) -> Response:
    """Return the answer to a request that raised the error."""
    translate = next(_TRANSLATIONS[kind] for kind in type(error).__mro__ if kind in _TRANSLATIONS)
    return responses.problem(translate(request, error), request.scope["request_id"])


def _framework_problem(request: Request, error: HTTPException) -> ProblemError:
    status, headers = HTTPStatus(error.status_code), dict(error.headers or {})
    if status is HTTPStatus.METHOD_NOT_ALLOWED:  # the framework knows the methods of one route only
        headers = {"allow": cross_origin.methods_of(request.app.state.routes, request.scope)}
    return ProblemError(status, status.name, str(error.detail), headers=headers)


def _validation_problem(_: Request, error: RequestValidationError) -> ProblemError:
    reasons = {}
    for wrong in error.errors():
        first, *others = str(wrong["loc"][-1]).split("_")
        words = _WORDS.get(wrong["type"])
        reason = words.format(**wrong.get("ctx", {})) if words else wrong["msg"].removeprefix("Value error, ")
        reasons[first + "".join(map(str.title, others))] = reason
    return body_fields.invalid(reasons)


def _ledger_unavailable(_: Request, error: Exception) -> ProblemError:
    log.warning("ledger_unavailable", error=error)
    return ProblemType.LEDGER_UNAVAILABLE.error()


def _intake_full(*_: object) -> ProblemError:
    seconds = random.randint(1, _RETRY_SECONDS_MAX)  # noqa: S311 - spreads load, guards nothing
    return ProblemType.INTAKE_FULL.error(headers={"retry-after": str(seconds)})


def _cancelled(request: Request, error: Exception) -> ProblemError:
    if request.method in _SAFE:
        return _ledger_unavailable(request, error)
    return ProblemType.ACCEPTANCE_UNKNOWN.error()


def _unforeseen(request: Request, error: Exception) -> ProblemError:
    incident_id = ids.new_id()
    path = _RECEIPT.sub("/receipts/...", request.url.path)
    log.error("unforeseen_error", path=path, incident_id=str(incident_id), exc_info=error)
    return ProblemType.INTERNAL_ERROR.error(incident_id=incident_id)


_TRANSLATIONS: dict[type, Callable[[Request, Any], ProblemError]] = {
    ProblemError: lambda _, error: error,
    HTTPException: _framework_problem,
    RequestValidationError: _validation_problem,
    LedgerUnavailable: _ledger_unavailable,
    NumberingBehind: lambda *_: ProblemType.NUMBERING_BEHIND.error(),
    DataError: lambda *_: ProblemType.INVALID_REQUEST.error(_UNSTORABLE),
    DBAPIError: _ledger_unavailable,
    ClientDisconnect: lambda *_: ProblemType.CLIENT_GONE.error(),
    PoolTimeoutError: _ledger_unavailable,
    TimeoutError: _ledger_unavailable,
    RequestCancelled: _cancelled,
    IntakeFull: _intake_full,
    AcceptanceUnknown: lambda *_: ProblemType.ACCEPTANCE_UNKNOWN.error(),
    CommandRejected: lambda *_: ProblemType.INVALID_REQUEST.error(_REJECTED),
    Exception: _unforeseen,
}
