"""The hot path: registrations go straight to their handler.

FastAPI documents the route and would serve it too, at several times the handler's own cost: its routing,
middleware and dependency solving are for the many routes, and this is the one that a crowd takes.
"""

from collections.abc import Callable

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from api import registrations

_BEFORE_SLUG = "/api/p/"
_AFTER_SLUG = "/register"


class HotPath:
    """An ASGI application in front of another: takes registrations, and hands on everything else."""

    def __init__(self, app: FastAPI, problem: Callable[[Request, Exception], Response]) -> None:
        self._app = app
        self._next: ASGIApp = app
        self._problem = problem

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a registration, or pass the request on."""
        slug = _registering_at(scope)
        if slug is None:
            await self._next(scope, receive, send)
            return
        scope["app"] = self._app
        request = Request(scope, receive)
        try:
            response = await registrations.register(slug, request)
        except Exception as error:  # noqa: BLE001 - every error has its problem
            response = self._problem(request, error)
        await response(scope, receive, send)


def _registering_at(scope: Scope) -> str | None:
    """Return the slug of the event that this request registers for."""
    if scope["type"] != "http" or scope["method"] != "POST":
        return None
    path: str = scope["path"]
    if not (path.startswith(_BEFORE_SLUG) and path.endswith(_AFTER_SLUG)):
        return None
    slug = path[len(_BEFORE_SLUG) : -len(_AFTER_SLUG)]
    return slug if slug and "/" not in slug else None
