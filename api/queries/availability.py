"""The availability of events, as the public may know it: the body's only builder."""

from collections.abc import Mapping, Sequence

import structlog
from msgspec import ValidationError
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from api.edge.schemas import Availability
from api.queries import rosters
from shared.domain import offer
from shared.postgres import arrays

log = structlog.get_logger(__name__)

_READ = text(f"""
    SELECT slug, title, capacity, spots_reserved, greatest(capacity - spots_reserved, 0) AS spots_left,
           waitlist_length, opens_at, closes_at, max_spots_per_registration,
           (SELECT count(*) FROM pending_command WHERE event_id = event.id) AS pending,
           {rosters.COLUMN} AS event
    FROM event WHERE slug = ANY(CAST(:slugs AS text[])) AND NOT deleted
""")


async def read(connection: AsyncConnection, slugs: Sequence[str]) -> Mapping[str, Availability]:
    """Return by slug what the public may know of these events, all of it as of one moment."""
    found = {}
    for row in (await connection.execute(_READ, {"slugs": arrays.texts(set(slugs))})).mappings():
        figures = dict(row)
        try:
            event = rosters.decode(figures.pop("event"))
        except ValidationError as error:  # an event that was written by hand must not hide the others
            log.warning("availability_not_readable", slug=figures["slug"], error=str(error))
            continue
        offered = offer.of(event.roster(), event.now)
        found[figures["slug"]] = Availability(
            **figures,
            state=event.settings.state(event.now),
            spots_offered=None if offered is None else offered.spots_offered,
            next=None if offered is None else offered.next,
            as_of=event.now,
        )
    return found
