"""Every error as a problem: ours, the framework's, the ledger's and the unforeseen."""

from collections.abc import Callable
from http import HTTPStatus

import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import DataError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from api import answers
from api.answers import ProblemError
from api.commands.intake import AcceptanceUnknown, CommandRejected, IntakeFull, LedgerUnavailable
from shared.domain import ids

log = structlog.get_logger(__name__)


def install(app: FastAPI) -> None:
    """Have the application render its errors here."""

    async def handle(request: Request, error: Exception) -> Response:
        return problem(request, error)

    for kind in _TRANSLATIONS:
        app.add_exception_handler(kind, handle)


def problem(request: Request, error: Exception) -> Response:
    """Return the answer that tells the client about the error."""
    translate = next(_TRANSLATIONS[kind] for kind in type(error).__mro__ if kind in _TRANSLATIONS)
    return answers.problem(translate(request, error), request.headers.get("x-request-id"))


def _ours(_: Request, error: Exception) -> ProblemError:
    assert isinstance(error, ProblemError), "registered for it"
    return error


def _framework_problem(_: Request, error: Exception) -> ProblemError:
    assert isinstance(error, HTTPException), "registered for it"
    status = HTTPStatus(error.status_code)
    return ProblemError(status, status.name, str(error.detail), headers=dict(error.headers or {}))


def _validation_problem(_: Request, error: Exception) -> ProblemError:
    assert isinstance(error, RequestValidationError), "registered for it"
    problems = [
        {"field": ".".join(str(part) for part in e["loc"][1:]), "reason": e["msg"]} for e in error.errors()
    ]
    detail = " ".join(f"{p['field']}: {p['reason']}." for p in problems)
    return ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, "INVALID_REQUEST", detail, errors=problems)


def _ledger_unavailable(_: Request, error: Exception) -> ProblemError:
    log.warning("ledger_unavailable", error=repr(error))
    return _unavailable("LEDGER_UNAVAILABLE", "The ledger cannot be reached; nothing was accepted.")


def _unstorable(_: Request, __: Exception) -> ProblemError:
    return ProblemError(
        HTTPStatus.UNPROCESSABLE_ENTITY, "INVALID_REQUEST", "The database cannot hold or find such a value."
    )


def _gone(_: Request, __: Exception) -> ProblemError:
    return ProblemError(HTTPStatus.BAD_REQUEST, "CLIENT_GONE", "The client left before the request's end.")


def _intake_full(_: Request, __: Exception) -> ProblemError:
    return _unavailable("INTAKE_FULL", "Too many commands wait to be accepted; nothing was accepted.")


def _unavailable(code: str, detail: str) -> ProblemError:
    headers = {"retry-after": str(answers.RETRY_SECONDS)}
    return ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, code, detail, headers=headers)


def _acceptance_unknown(_: Request, __: Exception) -> ProblemError:
    return ProblemError(
        HTTPStatus.GATEWAY_TIMEOUT,
        "ACCEPTANCE_UNKNOWN",
        "The ledger was lost while it accepted; ask again with the same Idempotency-Key to learn the answer.",
    )


def _command_rejected(_: Request, __: Exception) -> ProblemError:
    return ProblemError(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "INVALID_REQUEST",
        "The ledger cannot hold this; nothing was accepted.",
    )


def _unforeseen(request: Request, error: Exception) -> ProblemError:
    incident_id = ids.new_id()
    log.error("unforeseen_error", path=request.url.path, incident_id=str(incident_id), exc_info=error)
    return ProblemError(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        "INTERNAL_ERROR",
        "Something unforeseen happened; the log has the incident.",
        incident_id=incident_id,
    )


_TRANSLATIONS: dict[type, Callable[[Request, Exception], ProblemError]] = {
    ProblemError: _ours,
    HTTPException: _framework_problem,
    RequestValidationError: _validation_problem,
    LedgerUnavailable: _ledger_unavailable,
    DataError: _unstorable,
    DBAPIError: _ledger_unavailable,
    ClientDisconnect: _gone,
    PoolTimeoutError: _ledger_unavailable,
    IntakeFull: _intake_full,
    AcceptanceUnknown: _acceptance_unknown,
    CommandRejected: _command_rejected,
    Exception: _unforeseen,
}
