"""The admin routes of statistics, explanations and exports."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Query
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.responses import Response, StreamingResponse

from api.edge import responses
from api.edge.download import Download, takes_chunks
from api.edge.problems import ProblemType
from api.edge.schemas_admin import EventCounter
from api.edge.schemas_insight import Explanation, Stats, StatusStats
from api.edge.security import events_reader
from api.openapi import admin_routes
from api.queries import events, exports
from api.queries import explain as explanations
from api.queries.exports import Separator
from api.services import Provided
from shared.domain.access import Principal
from shared.domain.commands import Status

router = APIRouter(prefix="/api/events", tags=["Administering"])

_STATUS_STATS = text("""
    SELECT status, count(*) AS registrations, sum(spots_count) AS spots
    FROM registration WHERE event_id = :event_id GROUP BY status
""")
_COMMAND_STATS = text("""
    SELECT (SELECT count(*) FROM pending_command WHERE event_id = :event_id) AS pending,
           (SELECT count(*) FROM outcome
            WHERE event_id = :event_id AND settled_at > now() - interval '1 minute') AS decided_per_minute
""")


@router.get("/{event_id}/stats", dependencies=[events_reader], **admin_routes.STATS)
async def read_stats(event_id: UUID, services: Provided) -> Response:
    """Count registrations and spots by status, and the commands decided per minute."""
    event, rows, flow = await services.admin_read(
        lambda connection: _figures(connection, event_id), snapshot=True
    )
    if event is None:
        raise ProblemType.EVENT_NOT_FOUND.error()
    by_status = {row.status: StatusStats(registrations=row.registrations, spots=row.spots) for row in rows}
    nothing = StatusStats(registrations=0, spots=0)
    content = Stats(
        **{name: event[name] for name in EventCounter.__struct_fields__},
        by_status={status.value: by_status.get(status, nothing) for status in Status},
        pending=flow.pending,
        decided_per_minute=flow.decided_per_minute,
    )
    return responses.body(content)


@router.get(
    "/{event_id}/registrations/{registration_id}/explain",
    **admin_routes.EXPLAIN,
)
async def explain(
    event_id: UUID, registration_id: UUID, services: Provided, principal: Principal = events_reader
) -> Response:
    """Explain a registration's status, and why it was or was not promoted."""
    explanation = await services.admin_read(
        lambda connection: _explanation(connection, event_id, registration_id, principal), snapshot=True
    )
    if explanation is None:
        raise ProblemType.REGISTRATION_NOT_FOUND.error()
    return responses.body(explanation)


@router.get(
    "/{event_id}/export",
    response_class=StreamingResponse,
    dependencies=[takes_chunks],
    **admin_routes.EXPORT,
)
async def export(
    event_id: UUID,
    services: Provided,
    format_: Annotated[Literal["csv", "ndjson"], Query(alias="format")] = "csv",
    separator: Separator = Separator.COMMA,
    principal: Principal = events_reader,
) -> Response:
    """Stream all registrations of one snapshot, in the order of their places."""
    slug = await services.event_slug(event_id)
    export_format = exports.CSV[separator] if format_ == "csv" else exports.NDJSON
    return Download(
        await services.exports.begin(export_format, event_id, personal=principal.reads_personal),
        media_type=export_format.media_type,
        headers={"content-disposition": f'attachment; filename="{slug}.{format_}"'},
        stall_seconds_max=services.settings.export_stall_seconds_max,
        seconds_max=exports.SECONDS_MAX,
    )


async def _figures(
    connection: AsyncConnection, event_id: UUID
) -> tuple[dict[str, Any] | None, Sequence[Row[Any]], Row[Any]]:
    event = await events.event_by_id(connection, event_id)
    rows = (await connection.execute(_STATUS_STATS, {"event_id": event_id})).all()
    return event, rows, (await connection.execute(_COMMAND_STATS, {"event_id": event_id})).one()


async def _explanation(
    connection: AsyncConnection, event_id: UUID, id_: UUID, principal: Principal
) -> Explanation | None:
    event = await events.event_by_id(connection, event_id)
    registration = await events.registration(connection, event_id, id_)
    if event is None or registration is None:
        return None
    return await explanations.explain(connection, event, registration, reasons=principal.reads_personal)
