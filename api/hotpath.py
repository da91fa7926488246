"""The hot path: registrations and polls go straight to their handlers.

FastAPI documents their routes and would serve them too, at several times the handlers' own cost: its
routing, middleware and dependency solving are for the many routes, and these two a crowd takes.
"""

from collections.abc import Awaitable, Callable
from functools import partial

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api import registrations

_PUBLIC = "/api/p/"


class HotPath:
    """An ASGI application in front of another: takes registrations and polls, hands on everything else."""

    def __init__(self, app: FastAPI, problem: Callable[[Request, Exception], Response]) -> None:
        self.app = app
        self._problem = problem

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer what a crowd asks, or pass the request on."""
        answer = _handler(scope)
        if answer is None:
            await self.app(scope, receive, send)
            return
        scope["app"] = self.app
        request = Request(scope, receive)
        try:
            response = await answer(request)
        except Exception as error:  # noqa: BLE001 - every error has its problem
            response = self._problem(request, error)
        await response(scope, receive, send)


def _handler(scope: Scope) -> Callable[[Request], Awaitable[Response]] | None:
    """Return what answers this request, if it is one of the two that a crowd sends."""
    if scope["type"] != "http" or not scope["path"].startswith(_PUBLIC):
        return None
    parts = scope["path"][len(_PUBLIC) :].split("/")
    match scope["method"], parts:
        case "POST", [slug, "register"] if slug:
            return partial(registrations.register, slug)
        case "GET", [slug, "receipts", receipt_id] if slug and not scope["query_string"]:
            return partial(registrations.read_receipt, slug, receipt_id)
    return None
