"""The service routes: alive, ready, and the document that describes all routes."""

import hashlib
from functools import cache
from http import HTTPStatus

import msgspec
from fastapi import APIRouter, FastAPI
from starlette.requests import Request
from starlette.responses import Response

from api.edge import request_bodies, responses
from api.openapi import public_routes
from api.services import Provided

router = APIRouter(tags=["Operating"])


@router.get("/healthz", **public_routes.HEALTH)
async def healthz(services: Provided, request: Request) -> Response:  # noqa: ARG001 - direct
    """Answer 200 while the process runs; checks nothing else."""
    await services.probe_turns.wait()
    return Response('{"status":"ok"}', media_type="application/json")


@router.get("/readyz", **public_routes.READINESS)
async def readyz(services: Provided, request: Request) -> Response:  # noqa: ARG001 - direct
    """Answer 200 if registrations would be accepted and decided, else 503 with the failing parts."""
    await services.probe_turns.wait()
    readiness = await services.readiness.readiness()
    return responses.body(readiness, HTTPStatus.OK if readiness.ready else HTTPStatus.SERVICE_UNAVAILABLE)


@router.route("/openapi.json", include_in_schema=False)
async def openapi(request: Request) -> Response:
    """Return the OpenAPI document; its bytes are made once."""
    await request.app.state.services.page_turns.wait()
    content, tag = _document(request.app)
    headers = {"etag": tag, "cache-control": "no-cache"}
    if not {tag, "*"}.isdisjoint(request_bodies.known_tags(request)):
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    return Response(content, headers=headers, media_type="application/json")


@cache
def _document(app: FastAPI) -> tuple[bytes, str]:
    """Return the document of an application and its entity tag."""
    content = msgspec.json.encode(app.openapi())
    return content, f'"{hashlib.blake2b(content, digest_size=12).hexdigest()}"'
