"""The public figures of an event, and its offer to a newcomer."""

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from api.edge.schemas import Availability
from api.queries import rosters
from shared.domain import offer

_READ = text(f"""
    SELECT slug, title, capacity, spots_reserved, greatest(capacity - spots_reserved, 0) AS spots_left,
           waitlist_length, opens_at, closes_at, max_spots_per_registration,
           (SELECT count(*) FROM pending_command WHERE event_id = event.id) AS pending,
           {rosters.COLUMN} AS event
    FROM event WHERE slug = :slug
""")


async def read(connection: AsyncConnection, slug: str) -> Availability | None:
    """Return the availability of the event with this slug, all of it as of one moment."""
    row = (await connection.execute(_READ, {"slug": slug})).mappings().one_or_none()
    if row is None:
        return None
    figures = dict(row)
    event = rosters.decode(figures.pop("event"))
    offered = offer.of(event.roster(), event.now)
    return Availability(
        **figures,
        state=event.settings.state(event.now),
        spots_offered=None if offered is None else offered.spots_offered,
        next=None if offered is None else offered.next,
        as_of=event.now,
    )
