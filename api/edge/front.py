"""The outermost layer: the headers of every answer, and error answers, in front of all routes.

Most requests of a drop register or poll receipts. Requests for these routes go straight to their endpoints;
FastAPI documents them and serves all others. FastAPI's routing, middleware and dependencies cost several
times as much as the endpoints themselves (decision 0006). So a middleware that is added to the FastAPI
application does not see these routes: all that every answer needs belongs here.
"""

import asyncio
import random
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from time import perf_counter
from typing import Any
from urllib.parse import parse_qsl, urlencode

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from api.edge.cross_origin import Origins, methods_of, options
from api.edge.responses import ANSWER_HEADERS, USUAL_HEADERS
from shared import metrics
from shared.domain import texts
from shared.settings import Settings

Endpoint = Callable[..., Awaitable[Response]]
Direct = Callable[[str, list[str]], tuple[Endpoint, dict[str, Any]] | None]
"""A function from a method and the parts of a path to the direct endpoint and its path parameters."""

_REQUEST_ID = b"x-request-id"
_REQUEST_ID_TAKEN = re.compile(rb"[\w.~:/+=@-]{1,128}", re.ASCII)
"""A client's own id, which goes into answers and logs; any other one is replaced."""
_CLIENT_GONE = 499
"""The status under which a request is counted that ended without an answer."""
_ANY_BYTE = "surrogateescape"
GATHER_SECONDS = 0.02
"""The time after which an answer is counted: many cost little more than one (decision 0042)."""


class RequestCancelled(Exception):  # noqa: N818 - a state of the request
    """The server ends before this request has its answer."""


class Front:
    """An ASGI application that gives every answer its id and its headers, and renders errors as problems.

    `routes` are all routes of `app`. `HEAD` is answered as `GET`, without the body, and `OPTIONS` here.
    """

    def __init__(
        self,
        app: FastAPI,
        direct: Direct,
        routes: Sequence[Route],
        problem: Callable[[Request, Exception], Response],
        settings: Settings,
    ) -> None:
        self.app = app
        self._direct = direct
        self._routes = routes
        self._problem = problem
        self.origins = Origins(settings.cors_origins) if settings.cors_origins else None
        self._usual_headers = [*USUAL_HEADERS]
        if settings.hsts_seconds is not None:
            self._usual_headers.append((b"strict-transport-security", b"max-age=%d" % settings.hsts_seconds))
        self._answered: list[tuple[str, int, float]] = []
        self._paths: Mapping[Endpoint, str] = {route.endpoint: route.path for route in routes}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = perf_counter()
        sent = dict(scope["headers"])
        taken = _REQUEST_ID_TAKEN.fullmatch(sent[_REQUEST_ID]) if _REQUEST_ID in sent else None
        request_id = taken[0] if taken else b"%032x" % random.getrandbits(128)
        own_headers = [
            (_REQUEST_ID, request_id),
            *(self.origins.headers(scope["path"], sent.get(b"origin")) if self.origins else ()),
        ]
        if scope["method"] == "HEAD":
            scope, send = {**scope, "method": "GET"}, _without_body(send)
        scope["request_id"] = request_id.decode("latin-1")
        scope[ANSWER_HEADERS] = own_headers
        status = 0
        path = metrics.UNKNOWN_ROUTE

        async def send_whole(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                named = dict(message["headers"])
                usual = [header for header in self._usual_headers if header[0] not in named]
                message["headers"] = [*message["headers"], *own_headers, *usual]
            await send(message)

        try:
            parts = scope["path"].split("/")
            self.app.state.services.limits.admit(scope, parts, own_headers)
            route = self._direct(scope["method"], parts)
            if route is None:
                await self._serve_other(scope, receive, send_whole)
                return
            endpoint, parameters = route
            path = self._paths.get(endpoint, path)
            request = Request(scope, receive)
            response = await endpoint(services=self.app.state.services, request=request, **parameters)
            await response(scope, receive, send_whole)
        except (Exception, asyncio.CancelledError) as error:
            if status:
                raise
            # The server cancels a request that outlasts its end; the request gets an answer all the same. No
            # variable keeps the error: its traceback has this frame, and that would be a cycle (0091).
            response = self._problem(
                Request(scope, receive), error if isinstance(error, Exception) else RequestCancelled()
            )
            await response(scope, receive, send_whole)
        finally:
            path = getattr(scope.get("route"), "path", path)
            if not self._answered:
                asyncio.get_running_loop().call_later(GATHER_SECONDS, self._count)
            self._answered.append((path, status or _CLIENT_GONE, perf_counter() - began))

    def _count(self) -> None:
        """Count answers by route and status, and their durations by route."""
        answers, self._answered = self._answered, []
        for (path, status), count in Counter((path, status) for path, status, _ in answers).items():
            metrics.http_requests.labels(path, status).inc(count)
        for path in {path for path, _, _ in answers}:
            seconds = [seconds for answered, _, seconds in answers if answered == path]
            metrics.http_seconds.labels(path).observe_all(seconds)

    async def _serve_other(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request that is not for a direct endpoint."""
        if scope["query_string"]:
            scope["query_string"] = _without_blanks(scope["query_string"])
        methods = methods_of(self._routes, scope) if scope["method"] == "OPTIONS" else ""
        await (options(methods) if methods else self.app)(scope, receive, send)


def _without_body(send: Send) -> Send:
    """Return the function that sends an answer's beginning only, and leaves out its body."""

    async def send_head(message: Message) -> None:
        if message["type"] == "http.response.start":
            await send(message)
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    return send_head


def _without_blanks(query: bytes) -> bytes:
    """Return a query without the blank parameters that a form sends for its empty fields."""
    named = parse_qsl(query.decode(errors=_ANY_BYTE), errors=_ANY_BYTE)
    kept = [(name, value) for name, value in named if not texts.is_blank(value)]
    return urlencode(kept, errors=_ANY_BYTE).encode()
