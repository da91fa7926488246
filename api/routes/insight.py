"""The admin routes of statistics, explanations and exports."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Annotated, Any, Literal
from uuid import UUID

import psycopg
from fastapi import APIRouter, Query
from psycopg import sql
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.responses import Response, StreamingResponse

from api.edge import responses
from api.edge.download import Download
from api.edge.problems import ProblemType
from api.edge.schemas_insight import Explanation, Stats, StatusStats
from api.edge.security import events_reader
from api.openapi import admin_routes
from api.queries import events
from api.queries import explain as explanations
from api.services import Provided, Services
from shared.domain.access import Principal
from shared.domain.commands import Status

EXPORTS_AT_ONCE_MAX = 2
_EXPORT_SECONDS_MAX = 600

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

_REGISTRATIONS = """
    (SELECT id, seq, CASE WHEN {personal} THEN name END AS name, CASE WHEN {personal} THEN email END AS email,
            spots_count, status, created_at, updated_at
     FROM registration WHERE event_id = {event_id}) AS registration
"""
# A spreadsheet takes a cell that begins with one of these for a formula.
_CELL = "CASE WHEN {0} ~ '^[=+@\\t\\r-]' THEN '''' || {0} ELSE {0} END AS {0}"
_CSV = sql.SQL(f"""
    COPY (SELECT id, seq, {_CELL.format("name")}, {_CELL.format("email")}, spots_count AS "spotsCount",
                 status, created_at AS "createdAt", updated_at AS "updatedAt"
          FROM {_REGISTRATIONS} ORDER BY seq)
    TO STDOUT WITH (FORMAT csv, HEADER)
""")
# JSON holds no raw control characters, so quoting by one of them leaves every line as it is.
_NDJSON = sql.SQL(f"""
    COPY (SELECT json_build_object('id', id, 'seq', seq, 'name', name, 'email', email,
                                   'spotsCount', spots_count, 'status', status,
                                   'createdAt', created_at, 'updatedAt', updated_at)
          FROM {_REGISTRATIONS} ORDER BY seq)
    TO STDOUT WITH (FORMAT csv, QUOTE E'\\x01', DELIMITER E'\\x02')
""")
_FORMATS = {"csv": (_CSV, "text/csv; charset=utf-8"), "ndjson": (_NDJSON, "application/x-ndjson")}
_exporting = asyncio.Semaphore(EXPORTS_AT_ONCE_MAX)


@router.get("/{event_id}/stats", dependencies=[events_reader], **admin_routes.STATS)
async def read_stats(event_id: UUID, services: Provided) -> Response:
    """Count registrations and spots by status, and the commands decided per minute."""
    event, rows, flow = await services.read(lambda connection: _figures(connection, event_id), snapshot=True)
    if event is None:
        raise ProblemType.EVENT_NOT_FOUND.error()
    by_status = {row.status: StatusStats(registrations=row.registrations, spots=row.spots) for row in rows}
    nothing = StatusStats(registrations=0, spots=0)
    content = Stats(
        capacity=event["capacity"],
        spots_reserved=event["spots_reserved"],
        spots_left=event["spots_left"],
        waitlist_length=event["waitlist_length"],
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
    explanation = await services.read(
        lambda connection: _explanation(connection, event_id, registration_id, principal), snapshot=True
    )
    if explanation is None:
        raise ProblemType.REGISTRATION_NOT_FOUND.error()
    return responses.body(explanation)


@router.get(
    "/{event_id}/export",
    response_class=StreamingResponse,
    **admin_routes.EXPORT,
)
async def export(
    event_id: UUID,
    services: Provided,
    format_: Annotated[Literal["csv", "ndjson"], Query(alias="format")] = "csv",
    principal: Principal = events_reader,
) -> Response:
    """Stream all registrations, in the order of their places, as PostgreSQL's COPY gives them."""
    slug = await services.event_slug(event_id)
    if _exporting.locked():
        raise ProblemType.EXPORT_BUSY.error()
    statement, media_type = _FORMATS[format_]
    disposition = {"content-disposition": f'attachment; filename="{slug}.{format_}"'}
    shown = {"event_id": sql.Literal(event_id), "personal": sql.Literal(principal.reads_personal)}
    rows = _copied(services, statement.format(**shown))
    return Download(
        rows,
        media_type=media_type,
        headers=disposition,
        stall_seconds_max=services.settings.export_stall_seconds_max,
        seconds_max=_EXPORT_SECONDS_MAX,
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


async def _copied(services: Services, statement: sql.Composed) -> AsyncGenerator[bytes, None]:
    """Yield the result of a COPY; close the generator early to end the statement and free its place."""
    async with _exporting, services.engine.connect() as connection:
        try:
            driver = (await connection.get_raw_connection()).driver_connection
            assert isinstance(driver, psycopg.AsyncConnection), "the engine's driver is psycopg"
            async with driver.cursor() as cursor:
                await cursor.execute(f"SET LOCAL statement_timeout = '{_EXPORT_SECONDS_MAX}s'")
                async with cursor.copy(statement) as copy:
                    async for chunk in copy:
                        yield bytes(chunk)
        except BaseException:
            await connection.invalidate()  # closed: a connection in the middle of a statement is of no use
            raise
