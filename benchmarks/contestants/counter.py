"""`counter`: moves an atomic counter in the request's transaction; no row moved means full."""

from fastapi import status
from sqlalchemy import text

from benchmarks.contestants import http, store
from benchmarks.contestants.http import Registered, Registering

_RESERVE = text("""
    UPDATE baseline.event SET spots_reserved = spots_reserved + :spots
    WHERE slug = :slug AND spots_reserved + :spots <= capacity
    RETURNING id
""")

app = http.application()


@app.post(http.PATH, status_code=status.HTTP_201_CREATED)
async def register(slug: str, registering: Registering) -> Registered:
    """Reserve and insert, or insert into the waitlist; one commit."""
    async with store.engine().begin() as connection:
        moved = await connection.execute(_RESERVE, {"slug": slug, "spots": registering.spots_count})
        event_id = moved.scalar_one_or_none()
        if event_id is not None:
            return await store.insert(connection, event_id, registering, "CONFIRMED")
        event = await store.event(connection, slug)
        return await store.insert(connection, event.id, registering, "WAITLIST")
