"""`lock`: locks the event's row in a SERIALIZABLE transaction, counts again, and retries when refused."""

import asyncio
import random

from fastapi import status
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from benchmarks.contestants import http, store
from benchmarks.contestants.http import Registered, Registering

SECONDS_MAX = 10.0
"""The limit of a whole registration, retries included; then the answer is 503."""
RETRY_PAUSE_SECONDS_MAX = 0.05
_TRY_AGAIN = {"40001", "40P01"}  # serialization failure, deadlock

_LOCK = text("SELECT id, capacity FROM baseline.event WHERE slug = :slug FOR UPDATE")

app = http.application()


@app.post(http.PATH, status_code=status.HTTP_201_CREATED)
async def register(slug: str, registering: Registering) -> Registered:
    """Register under the event's lock; retry after a serialization failure or a deadlock."""
    async with asyncio.timeout(SECONDS_MAX):
        while True:  # the time-out ends it
            try:
                return await _register(slug, registering)
            except DBAPIError as error:
                if getattr(error.orig, "sqlstate", None) not in _TRY_AGAIN:
                    raise
            await asyncio.sleep(random.uniform(0, RETRY_PAUSE_SECONDS_MAX))  # noqa: S311 - no secret


async def _register(slug: str, registering: Registering) -> Registered:
    engine = store.engine().execution_options(isolation_level="SERIALIZABLE")
    async with engine.begin() as connection:
        event = (await connection.execute(_LOCK, {"slug": slug})).one()
        confirmed = await store.confirmed_spots(connection, event.id)
        fits = confirmed + registering.spots_count <= event.capacity
        return await store.insert(connection, event.id, registering, "CONFIRMED" if fits else "WAITLIST")
