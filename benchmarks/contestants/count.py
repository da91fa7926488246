"""`count`: counts the confirmed spots, then inserts. Two requests can count the same last spot."""

from fastapi import status

from benchmarks.contestants import http, store
from benchmarks.contestants.http import Registered, Registering

app = http.application()


@app.post(http.PATH, status_code=status.HTTP_201_CREATED)
async def register(slug: str, registering: Registering) -> Registered:
    """Confirm when the count leaves room, else put on the waitlist."""
    async with store.engine().begin() as connection:
        event = await store.event(connection, slug)
        confirmed = await store.confirmed_spots(connection, event.id)
        fits = confirmed + registering.spots_count <= event.capacity
        return await store.insert(connection, event.id, registering, "CONFIRMED" if fits else "WAITLIST")
