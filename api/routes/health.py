"""The service routes: alive, ready."""

from http import HTTPStatus

from fastapi import APIRouter
from starlette.responses import Response

from api.edge import responses
from api.openapi import public_routes
from api.services import Provided

router = APIRouter(tags=["Operating"])


@router.get("/healthz", **public_routes.HEALTH)
async def healthz() -> Response:
    """Answer 200 while the process runs; checks nothing else."""
    return Response('{"status":"ok"}', media_type="application/json")


@router.get("/readyz", **public_routes.READINESS)
async def readyz(services: Provided) -> Response:
    """Answer 200 if registrations would be accepted and decided, else 503 with the failing parts."""
    readiness = await services.readiness.readiness()
    return responses.body(readiness, HTTPStatus.OK if readiness.ready else HTTPStatus.SERVICE_UNAVAILABLE)
