"""The API process: routes, errors, start and end."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog
import uvicorn
from fastapi import FastAPI
from starlette.routing import Route

from api import error_handlers
from api.edge.connections import Limits, Server
from api.edge.front import GATHER_SECONDS, Front
from api.edge.http_protocol import HttpProtocol
from api.openapi import document
from api.routes import changes, events, health, insight, keys, metrics, pages, protection, registrations
from api.services import Services
from shared import memory, open_files, telemetry
from shared.errors import ExpectedError
from shared.settings import Settings

log = structlog.get_logger(__name__)

_BACKLOG = 4_096
_OTHER_FILES = 150
"""Open files that a process may need beside the connections of clients and those to PostgreSQL."""
_CONNECTIONS_MIN = 10
_SHUTDOWN_SECONDS_MAX = 3


class ListenError(ExpectedError):
    """The API cannot listen at its address; the message names it."""

    exit_status = 1


def create_app(settings: Settings) -> Front:
    """Return the application; its service lives from start-up to shutdown."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.services = services = Services(settings)
        if settings.admin_key is None:
            log.warning("no_admin_key", effect="admin routes take API keys only; see ADMITONE_ADMIN_KEY")
        if settings.secret_key is None:
            log.warning("no_secret_key", effect="digests of requests can be guessed; set ADMITONE_SECRET_KEY")
        services.start()
        memory.freeze()
        try:
            yield
        finally:
            await services.close()
            await asyncio.sleep(2 * GATHER_SECONDS)  # all answers are counted then

    app = FastAPI(lifespan=lifespan, **document.APPLICATION)
    parts = (registrations, events, protection, changes, insight, keys, pages, health, metrics)
    routers = tuple(part.router for part in parts)
    for router in routers:
        app.include_router(router)
    document.install(app, routers)
    error_handlers.install(app)
    lists = (app.routes, *(router.routes for router in routers))
    routes = [route for routes in lists for route in routes if isinstance(route, Route)]
    app.state.routes = routes
    return Front(app, registrations.direct, routes, error_handlers.problem, settings)


def serve(settings: Settings, fd: int | None = None) -> None:
    """Serve until SIGTERM or SIGINT; on the listening socket `fd` if there is one.

    Raises `ListenError` before anything else is begun.
    """
    telemetry.configure(settings)
    sockets = _listening(settings.host, settings.port) if fd is None else [socket.socket(fileno=fd)]
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http=HttpProtocol,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=True,
        backlog=_BACKLOG,
        timeout_graceful_shutdown=_SHUTDOWN_SECONDS_MAX,
        proxy_headers=False,  # `api/protection/addresses.py` reads them, behind trusted proxies only
    )
    _Server(config, _limits(settings), app).run(sockets=sockets)


def _listening(host: str, port: int) -> list[socket.socket]:
    """Return a listening socket for each address of the host."""
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        listening = [
            socket.create_server(address, family=family, backlog=_BACKLOG)
            for family, *_, address in addresses
        ]
    except (OSError, UnicodeError) as error:  # a name may be none at all
        reason = getattr(error, "strerror", None) or error
        raise ListenError(f"cannot listen at {host}, port {port}: {reason}") from error
    log.info("listening", host=host, port=port)
    return listening


def _limits(settings: Settings) -> Limits:
    """Return the limits of the connections; the open files of this process bound their number, too."""
    open_max = settings.client_connections_max
    possible = open_files.raise_limit() - settings.database_connections_max - _OTHER_FILES
    if possible < open_max:
        open_max = max(possible, _CONNECTIONS_MIN)
        log.warning("few_open_files", connections_max=open_max, effect="raise the limit of open files")
    return Limits(
        open_max=open_max,
        head_seconds=settings.head_seconds_max,
        body_seconds=settings.body_seconds_max,
        idle_seconds=settings.idle_seconds_max,
        answer_seconds=settings.export_stall_seconds_max,
    )


class _Server(Server):
    """A server that answers every waiting request with its receipt before it ends."""

    def __init__(self, config: uvicorn.Config, limits: Limits, front: Front) -> None:
        super().__init__(config, limits, front.origins)
        self._app = front.app

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Release the waiting requests, then drain as usual."""
        self._app.state.services.waiter.release()
        self._app.state.services.status_changes.release()
        await super().shutdown(sockets)
