"""The metrics of this host's processes and of the whole service."""

import asyncio
from collections.abc import Sequence

from fastapi import APIRouter
from prometheus_client.core import Metric
from starlette.responses import Response

from api.edge import front
from api.edge.security import metrics_reader
from api.openapi import public_routes
from api.queries.figures import Backlog
from api.services import Provided, Services
from api.tasks import BatchLoader
from shared import metrics

router = APIRouter(tags=["Operating"])

_REQUESTS_MAX = 1_000
"""Requests that one reading of the metrics answers."""


@router.get("/metrics", dependencies=[metrics_reader], **public_routes.METRICS)
async def show_metrics(services: Provided) -> Response:
    """Show all metrics, in Prometheus' text format."""
    return Response(await _shown.load(services), media_type=metrics.CONTENT_TYPE)


async def _show(asked: Sequence[Services]) -> Sequence[bytes]:
    """Show the metrics once for all requests, which are of one process."""
    await asyncio.sleep(2 * front.GATHER_SECONDS)  # all answers up to now are counted then
    backlog, drift = await asked[0].figures.read()
    read_now = _of_backlog(backlog)
    if drift is not None:
        read_now.append(metrics.gauge("drift", "Sum of all drifts, without their signs.", drift))
    return [await asyncio.to_thread(metrics.show, *read_now)] * len(asked)


_shown: BatchLoader[Services, bytes] = BatchLoader(_show, _REQUESTS_MAX)


def _of_backlog(backlog: Backlog | None) -> list[Metric]:
    if backlog is None:
        return []
    oldest = [(str(event_id), seconds) for event_id, seconds in backlog.oldest_seconds]
    figures = [
        metrics.gauge("pending", "Commands without an outcome.", backlog.pending),
        metrics.gauges(
            "pending_oldest_seconds", "Age of an event's oldest pending command.", "event", oldest
        ),
        metrics.gauge("workers", "Live workers.", len(backlog.tick_ages)),
    ]
    if ages := [age for age in backlog.tick_ages if age is not None]:
        age = max(ages)
        figures.append(metrics.gauge("tick_age_seconds", "The longest time since a worker's tick.", age))
    if (seconds := backlog.snapshot_seconds) is not None:
        figures.append(metrics.gauge("oldest_snapshot_seconds", "Age of the oldest snapshot.", seconds))
    return figures
