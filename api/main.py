"""The API process: routes, errors, start and end."""

import gc
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus

import structlog
import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from api import answers, changes, documentation, events, health, insight, registrations
from api.answers import ProblemError
from api.intake import AcceptanceUnknown, CommandRejected, IntakeFull, LedgerUnavailable
from api.service import open_service
from shared import ids, telemetry
from shared.settings import Settings

log = structlog.get_logger(__name__)

_BACKLOG = 4_096
_KEEP_ALIVE_SECONDS = 75  # above the 60 s after which most proxies drop an idle connection
_SHUTDOWN_SECONDS_MAX = 6


def create_app(settings: Settings) -> FastAPI:
    """Return the application; its service lives from start-up to shutdown."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.service = service = open_service(settings)
        if settings.admin_key is None:
            log.warning("no_admin_key", effect="every admin route answers 401; set ADMITONE_ADMIN_KEY")
        # What is imported now lives for ever: the collector need not look at it again.
        gc.collect()
        gc.freeze()
        try:
            yield
        finally:
            await service.close()

    app = FastAPI(lifespan=lifespan, **documentation.APPLICATION)
    for router in (registrations.router, events.router, changes.router, insight.router, health.router):
        app.include_router(router)
    documentation.install(app)
    _handle_errors(app)
    return app


def serve(settings: Settings, fd: int | None = None) -> None:
    """Serve until SIGTERM or SIGINT; on the listening socket `fd` if one is handed in."""
    telemetry.configure(settings)
    config = uvicorn.Config(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http="httptools",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        backlog=_BACKLOG,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_SHUTDOWN_SECONDS_MAX,
    )
    sockets = None if fd is None else [socket.socket(fileno=fd)]
    uvicorn.Server(config).run(sockets=sockets)


def _handle_errors(app: FastAPI) -> None:
    """Render every error as a problem: ours, the framework's, the ledger's and the unforeseen."""

    def on(error_type: type[Exception], translate: Callable[[Request, Exception], ProblemError]) -> None:
        async def handler(request: Request, error: Exception) -> Response:
            return answers.problem(translate(request, error), request.headers.get("x-request-id"))

        app.add_exception_handler(error_type, handler)

    on(ProblemError, lambda _, error: error)  # type: ignore[arg-type, return-value]
    on(HTTPException, _framework_problem)
    on(RequestValidationError, _validation_problem)
    for unavailable in (LedgerUnavailable, DBAPIError, PoolTimeoutError):
        on(unavailable, _ledger_unavailable)
    on(IntakeFull, _intake_full)
    on(AcceptanceUnknown, _acceptance_unknown)
    on(CommandRejected, _command_rejected)
    on(Exception, _unforeseen)


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
