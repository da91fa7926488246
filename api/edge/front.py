"""The outermost layer: what every request and every answer needs, in front of all routes.

A drop's crowd registers and polls receipts. These routes are served by Starlette directly; FastAPI documents
them and serves all others. FastAPI's routing, middleware and dependencies cost several times as much as the
handlers themselves, so a middleware that is added to the FastAPI application does not see these routes: what
every answer needs belongs here.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route, Router
from starlette.types import Message, Receive, Scope, Send

from api.services import Services
from shared.domain import ids

REQUEST_ID = "x-request-id"


class Front:
    """An ASGI application that gives each request and its answer an id, and renders errors as problems."""

    def __init__(
        self, app: FastAPI, routes: Sequence[BaseRoute], problem: Callable[[Request, Exception], Response]
    ) -> None:
        self.app = app
        self._router = Router([*routes, Mount("/", app)])
        self._problem = problem

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope, receive)
        request_id = request.headers.get(REQUEST_ID) or str(ids.new_id())
        scope["app"], request.state.request_id = self.app, request_id
        id_header = (REQUEST_ID.encode(), request_id.encode("latin-1"))
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message["headers"], id_header]
            await send(message)

        try:
            await self._router(scope, receive, send_with_id)
        except Exception as error:
            if started:
                raise
            await self._problem(request, error)(scope, receive, send_with_id)


def direct(method: str, path: str, endpoint: Callable[..., Awaitable[Response]]) -> Route:
    """Return a route to a FastAPI endpoint without FastAPI: it gets path parameters, request and services."""

    async def answer(request: Request) -> Response:
        services: Services = request.app.state.services
        arguments: dict[str, Any] = request.path_params
        return await endpoint(**arguments, services=services, request=request)

    return Route(path, answer, methods=[method])
