"""The service routes: alive, ready."""

import asyncio
from http import HTTPStatus

import structlog
from fastapi import APIRouter, Request
from sqlalchemy.exc import SQLAlchemyError
from starlette.responses import Response

from api import answers, documentation
from api.queries import events
from api.schemas import Readiness
from api.service import Service
from shared.postgres import locks

log = structlog.get_logger(__name__)

_CHECK_SECONDS_MAX = 3
_FINE = "ok"

router = APIRouter(tags=["Operating"])


@router.get("/healthz", **documentation.HEALTH)
async def healthz() -> Response:
    """Tell that the process answers; touches nothing else."""
    return Response('{"status":"ok"}', media_type="application/json")


@router.get("/readyz", **documentation.READINESS)
async def readyz(request: Request) -> Response:
    """Tell whether registrations would be accepted and decided."""
    service: Service = request.app.state.service
    database, broker, results = await asyncio.gather(
        _within_time(_database(service)), _within_time(_broker(service)), _within_time(_results(service))
    )
    checks = {**_parts(database, "database"), **_parts(broker, "broker"), **_parts(results, "results")}
    ready = all(state == _FINE for state in checks.values())
    status = HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
    return answers.body(Readiness(ready=ready, checks=checks), status)


def _parts(found: dict[str, str] | str, name: str) -> dict[str, str]:
    return found if isinstance(found, dict) else {name: found}


async def _within_time(check: "asyncio.Future[dict[str, str]] | object") -> dict[str, str] | str:
    try:
        return await asyncio.wait_for(check, _CHECK_SECONDS_MAX)  # type: ignore[arg-type]
    except TimeoutError:
        return f"no answer within {_CHECK_SECONDS_MAX} s"
    except Exception as error:  # noqa: BLE001 - whatever is wrong with a part is the answer
        log.warning("not_ready", error=repr(error))
        return "cannot be reached"


async def _database(service: Service) -> dict[str, str]:
    async with service.engine.connect() as connection:
        try:
            current = await connection.run_sync(events.schema_is_current)
        except SQLAlchemyError:
            return {"database": _FINE, "schema": "run admitone migrate"}
        workers = await connection.run_sync(locks.workers)
    silence = service.settings.owner_silence_seconds_max
    ticking = any(worker.silent_seconds < silence for worker in workers)
    return {
        "database": _FINE,
        "schema": _FINE if current else "run admitone migrate",
        "worker": _FINE if ticking else "no worker ticks",
    }


async def _broker(service: Service) -> dict[str, str]:
    def connect() -> None:
        with service.celery.connection_for_write() as connection:
            connection.ensure_connection(max_retries=0, timeout=_CHECK_SECONDS_MAX)

    await asyncio.to_thread(connect)
    return {"broker": _FINE}


async def _results(service: Service) -> dict[str, str]:
    await service.redis.ping()
    return {"results": _FINE}
