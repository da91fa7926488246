"""The service routes: alive, ready."""

import asyncio
from http import HTTPStatus

import structlog
from fastapi import APIRouter
from sqlalchemy.exc import SQLAlchemyError
from starlette.responses import Response

from api.edge import responses
from api.edge.schemas import Readiness
from api.openapi import public_routes
from api.queries import events
from api.services import Provided, Services
from shared.postgres import locks

log = structlog.get_logger(__name__)

_CHECK_SECONDS_MAX = 3
_FINE = "ok"

router = APIRouter(tags=["Operating"])


@router.get("/healthz", **public_routes.HEALTH)
async def healthz() -> Response:
    """Answer 200 while the process runs; checks nothing else."""
    return Response('{"status":"ok"}', media_type="application/json")


@router.get("/readyz", **public_routes.READINESS)
async def readyz(services: Provided) -> Response:
    """Answer 200 if registrations would be accepted and decided, else 503 with the failing parts."""
    database, broker, results = await asyncio.gather(
        _within_time(_database(services)), _within_time(_broker(services)), _within_time(_results(services))
    )
    checks = {**_parts(database, "database"), **_parts(broker, "broker"), **_parts(results, "results")}
    ready = all(state == _FINE for state in checks.values())
    status = HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
    return responses.body(Readiness(ready=ready, checks=checks), status)


def _parts(check: dict[str, str] | str, name: str) -> dict[str, str]:
    return check if isinstance(check, dict) else {name: check}


async def _within_time(check: "asyncio.Future[dict[str, str]] | object") -> dict[str, str] | str:
    try:
        return await asyncio.wait_for(check, _CHECK_SECONDS_MAX)  # type: ignore[arg-type]
    except TimeoutError:
        return f"no answer within {_CHECK_SECONDS_MAX} s"
    except Exception as error:  # noqa: BLE001 - any error of a part is the answer
        log.warning("not_ready", error=repr(error))
        return "cannot be reached"


async def _database(services: Services) -> dict[str, str]:
    async with services.engine.connect() as connection:
        try:
            current = await connection.run_sync(events.schema_is_current)
        except SQLAlchemyError:
            return {"database": _FINE, "schema": "run admitone migrate"}
        workers = await connection.run_sync(locks.workers)
    silence = services.settings.owner_silence_seconds_max
    ticking = any(worker.silent_seconds < silence for worker in workers)
    return {
        "database": _FINE,
        "schema": _FINE if current else "run admitone migrate",
        "worker": _FINE if ticking else "no worker ticks",
    }


async def _broker(services: Services) -> dict[str, str]:
    def connect() -> None:
        with services.celery.connection_for_write() as connection:
            connection.ensure_connection(max_retries=0, timeout=_CHECK_SECONDS_MAX)

    await asyncio.to_thread(connect)
    return {"broker": _FINE}


async def _results(services: Services) -> dict[str, str]:
    await services.redis.ping()
    return {"results": _FINE}
