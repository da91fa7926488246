"""The availability of events, as the public may know it: the body's only builder."""

from collections.abc import Mapping, Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from api.edge.schemas import Availability
from api.queries import events


async def read(connection: AsyncConnection, slugs: Sequence[str]) -> Mapping[str, Availability]:
    """Return by slug what the public may know of these events, as of now."""
    rows = await events.events_by_slug(connection, slugs)
    return {
        slug: Availability(**{name: event[name] for name in Availability.__struct_fields__})
        for slug, event in rows.items()
    }
