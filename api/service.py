"""What the routes work with: one of each per process, made at start and closed at the end."""

import re
from dataclasses import dataclass, field
from http import HTTPStatus
from uuid import UUID

import redis.asyncio
from celery import Celery
from sqlalchemy.ext.asyncio import AsyncEngine

from api import queries, schemas
from api.answers import ProblemError
from api.bell import Bell
from api.intake import Intake
from api.owners import Owners
from api.pace import Pace
from api.reading import Found, Query, Reader
from api.receipts import Receipts
from api.rings import rings
from api.soldout import SoldOut
from api.waiting import Waiting
from shared.messaging import queues, results
from shared.postgres import connections
from shared.settings import Settings

_EVENTS_REMEMBERED_MAX = 10_000
_SLUG = re.compile(schemas.SLUG)


@dataclass(frozen=True, kw_only=True, slots=True)
class Service:
    """The API process's connections and the parts that use them."""

    settings: Settings
    engine: AsyncEngine
    redis: "redis.asyncio.Redis"
    celery: Celery
    bell: Bell
    intake: Intake
    waiting: Waiting
    reader: Reader
    receipts: Receipts
    pace: Pace
    sold_out: SoldOut
    _event_ids: dict[str, UUID] = field(default_factory=dict)

    async def read(self, query: Query[Found], *, snapshot: bool = False) -> Found:
        """Return what `query` reads; see `Reader.read`."""
        return await self.reader.read(query, snapshot=snapshot)

    async def event_id(self, slug: str) -> UUID:
        """Return the event's id, read once and then remembered: slugs never change hands. 404 if unknown."""
        known = self._event_ids.get(slug)
        if known is not None:
            return known
        if not _SLUG.fullmatch(slug):
            raise event_not_found()
        found = await self.read(lambda connection: queries.event_id(connection, slug))
        if found is None:
            raise event_not_found()
        if len(self._event_ids) >= _EVENTS_REMEMBERED_MAX:
            self._event_ids.clear()
        self._event_ids[slug] = found
        return found

    async def event_slug(self, event_id: UUID) -> str:
        """Return the event's slug; 404 if there is no such event."""
        slug = await self.read(lambda connection: queries.event_slug(connection, event_id))
        if slug is None:
            raise event_not_found()
        return slug

    async def close(self) -> None:
        """Finish what was begun, then let go of all connections."""
        await self.intake.close()
        await self.bell.close()
        await self.waiting.close()
        await self.redis.aclose()
        await self.engine.dispose()
        self.celery.close()


def open_service(settings: Settings) -> Service:
    """Return a service; connections are made when first needed."""
    engine = connections.async_engine(settings)
    autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")
    reader = Reader(engine)
    redis_client = results.connect_async(settings.result_url)
    celery = queues.celery_app(settings)
    bell = Bell(rings(celery, settings), Owners(autocommit))
    return Service(
        settings=settings,
        engine=engine,
        redis=redis_client,
        celery=celery,
        bell=bell,
        intake=Intake(bell, settings),
        waiting=Waiting(autocommit, redis_client, settings, bell.heard),
        reader=reader,
        receipts=Receipts(reader),
        pace=Pace(autocommit),
        sold_out=SoldOut(autocommit),
    )


def event_not_found() -> ProblemError:
    """Return the problem of an event that is not there."""
    return ProblemError(HTTPStatus.NOT_FOUND, "EVENT_NOT_FOUND", "There is no such event.")


def registration_not_found() -> ProblemError:
    """Return the problem of a registration that is not there."""
    return ProblemError(HTTPStatus.NOT_FOUND, "REGISTRATION_NOT_FOUND", "There is no such registration.")
