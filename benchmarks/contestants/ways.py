"""The other ways of registering, by name: each is an endpoint of the contract in `http`."""

import asyncio
import random

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from benchmarks.contestants import store
from benchmarks.contestants.http import Registered, Registering

SECONDS_MAX = 10.0
"""The limit of a whole registration of `lock`, retries included; then the answer is 503."""
RETRY_PAUSE_SECONDS_MAX = 0.05
_TRY_AGAIN = {"40001", "40P01"}  # serialization failure, deadlock

_LOCK = text("SELECT id, capacity FROM baseline.event WHERE slug = :slug FOR UPDATE")
_RESERVE = text("""
    UPDATE baseline.event SET spots_reserved = spots_reserved + :spots
    WHERE slug = :slug AND spots_reserved + :spots <= capacity
    RETURNING id
""")


async def empty(slug: str, registering: Registering) -> Registered:  # noqa: ARG001 - read and validated
    """Validate the body and answer: the cost of the server and the framework alone."""
    return Registered(id=None, status="CONFIRMED")


async def count(slug: str, registering: Registering) -> Registered:
    """Count the confirmed spots, then insert. Two requests can count the same last spot."""
    async with store.engine().begin() as connection:
        return await store.count_and_insert(connection, await store.event(connection, slug), registering)


async def lock(slug: str, registering: Registering) -> Registered:
    """Lock the event's row in a SERIALIZABLE transaction and count; retry after a failure or a deadlock."""
    engine = store.engine().execution_options(isolation_level="SERIALIZABLE")
    async with asyncio.timeout(SECONDS_MAX):
        while True:  # the time-out ends it
            try:
                async with engine.begin() as connection:
                    event = (await connection.execute(_LOCK, {"slug": slug})).one()
                    return await store.count_and_insert(connection, event, registering)
            except DBAPIError as error:
                if getattr(error.orig, "sqlstate", None) not in _TRY_AGAIN:
                    raise
            await asyncio.sleep(random.uniform(0, RETRY_PAUSE_SECONDS_MAX))  # noqa: S311 - no secret


async def counter(slug: str, registering: Registering) -> Registered:
    """Move an atomic counter in the request's transaction; if no row moved, the event is full."""
    async with store.engine().begin() as connection:
        moved = await connection.execute(_RESERVE, {"slug": slug, "spots": registering.spots_count})
        event_id = moved.scalar_one_or_none()
        if event_id is not None:
            return await store.insert(connection, event_id, registering, "CONFIRMED")
        event = await store.event(connection, slug)
        return await store.insert(connection, event.id, registering, "WAITLIST")
