"""The availability of events: one read for all requests at a time, encoded once, and told for a short time.

In a drop more requests ask for it than for anything else. An answer is at most `AGE_SECONDS_MAX` old, or
younger than its question where the database is slower than that (decision 0054).
"""

import asyncio
import re
import time
from collections.abc import Sequence

from starlette.responses import Response

from api.edge import responses
from api.queries import availability
from api.queries.reader import Reader
from api.tasks import BatchLoader
from shared.domain import commands

AGE_SECONDS_MAX = 0.25
# One second for each cache, and one more while a cache asks anew: a crowd is one request a second.
_HEADERS = {"cache-control": "public, max-age=1, stale-while-revalidate=1"}
_KEPT_MAX = 10_000
_ASKED_PER_READ_MAX = 5_000
_SLUG = re.compile(commands.SLUG)


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
        found = await self._reader.read(lambda connection: availability.read(connection, slugs))
        answers = {slug: responses.body(told, headers=_HEADERS) for slug, told in found.items()}
        if len(self.kept) + len(answers) > _KEPT_MAX:
            self.kept.clear()
        self.kept.update((slug, (until, answer)) for slug, answer in answers.items())
        return [answers.get(slug) for slug in slugs]
