"""The outermost layer: what every request and every answer needs, in front of all routes.

A drop's crowd registers and polls receipts. These routes are served by Starlette directly; FastAPI documents
them and serves all others. FastAPI's routing, middleware and dependencies cost several times as much as the
handlers themselves, so a middleware that is added to the FastAPI application does not see these routes: what
every answer needs belongs here.
"""

import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Router
from starlette.types import Message, Receive, Scope, Send

from api.services import Services

_REQUEST_ID = b"x-request-id"


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
        given = next((value for name, value in scope["headers"] if name == _REQUEST_ID), None)
        request_id = given or b"%032x" % random.getrandbits(128)
        scope["app"], scope["request_id"] = self.app, request_id.decode("latin-1")
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message["headers"], (_REQUEST_ID, request_id)]
            await send(message)

        try:
            await self._router(scope, receive, send_with_id)
        except Exception as error:
            if started:
                raise
            await self._problem(Request(scope, receive), error)(scope, receive, send_with_id)


class Direct:
    """A FastAPI endpoint as an ASGI application of its own: it gets path parameters, request and services."""

    def __init__(self, endpoint: Callable[..., Awaitable[Response]]) -> None:
        self._endpoint = endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        request = Request(scope, receive)
        services: Services = request.app.state.services
        arguments: dict[str, Any] = request.path_params
        response = await self._endpoint(**arguments, services=services, request=request)
        await response(scope, receive, send)
