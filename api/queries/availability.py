"""The availability of events: one read for all requests at a time, encoded once, and told for a short time.

In a drop more requests ask for it than for anything else. An answer is at most `AGE_SECONDS_MAX` old, or
younger than its question where the database is slower than that (decision 0054).
"""

import asyncio
import re
import time
from collections.abc import Mapping, Sequence

import structlog
from msgspec import ValidationError
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.responses import Response

from api.edge import responses
from api.edge.schemas import Availability
from api.queries import rosters
from api.queries.reader import Reader
from api.tasks import BatchLoader
from shared.domain import commands, offer
from shared.postgres import arrays

log = structlog.get_logger(__name__)

AGE_SECONDS_MAX = 0.25
# One second for each cache, and one more while a cache asks anew: a crowd is one request a second.
_HEADERS = {"cache-control": "public, max-age=1, stale-while-revalidate=1"}
_KEPT_MAX = 10_000
_ASKED_PER_READ_MAX = 5_000
_SLUG = re.compile(commands.SLUG)

_READ = text(f"""
    SELECT slug, title, capacity, spots_reserved, greatest(capacity - spots_reserved, 0) AS spots_left,
           waitlist_length, opens_at, closes_at, max_spots_per_registration,
           (SELECT count(*) FROM pending_command WHERE event_id = event.id) AS pending,
           {rosters.COLUMN} AS event
    FROM (SELECT * FROM event WHERE slug = ANY(CAST(:slugs AS text[])) OFFSET 0) AS event  -- a fence
    WHERE NOT deleted
""")


class Availabilities:
    """Answers with what the public may know of an event.

    `kept` has by slug the latest answer, and the time until which it may be told, of at most `_KEPT_MAX`
    events. That there is no such event is not kept: the event may be made next.
    """

    def __init__(self, reader: Reader) -> None:
        self.kept: dict[str, tuple[float, Response]] = {}
        self._reader = reader
        self._loader: BatchLoader[str, Response | None] = BatchLoader(self._read, _ASKED_PER_READ_MAX)

    async def tell(self, slug: str, seconds_max: float) -> Response | None:
        """Return the answer, None if there is no such event; raises `TimeoutError` after `seconds_max`."""
        kept = self.kept.get(slug)
        if kept is not None and time.monotonic() < kept[0]:
            return kept[1]
        if not _SLUG.fullmatch(slug):
            return None
        async with asyncio.timeout(seconds_max):
            return await self._loader.load(slug)

    async def _read(self, slugs: Sequence[str]) -> list[Response | None]:
        until = time.monotonic() + AGE_SECONDS_MAX
        found = await self._reader.read(lambda connection: read(connection, slugs))
        answers = {slug: responses.body(told, headers=_HEADERS) for slug, told in found.items()}
        if len(self.kept) + len(answers) > _KEPT_MAX:
            self.kept.clear()
        self.kept.update((slug, (until, answer)) for slug, answer in answers.items())
        return [answers.get(slug) for slug in slugs]


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
