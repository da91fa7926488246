"""The services of an API process: its connections and the parts that use them, from start to end."""

import asyncio
import re
from dataclasses import dataclass
from typing import Annotated
from uuid import UUID

import redis.asyncio
from celery import Celery
from fastapi import Depends, Request
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine

from api.commands.early_answers import RefusingEvents
from api.commands.entrance import Entrance
from api.commands.intake import AcceptanceUnknown, Intake
from api.commands.ledger_fallback import LedgerFallback
from api.commands.outcome_waiter import OutcomeWaiter, ResultPoller
from api.commands.pending_count import PendingCount
from api.commands.retry_after import Pace
from api.commands.submit import Submission
from api.commands.waker import BucketOwners, Waker
from api.edge.problems import ProblemType
from api.edge.turns import Turns
from api.edge.wrong_keys import WrongKeys
from api.protection.address_spots import AddressSpots
from api.protection.addresses import Addresses
from api.protection.challenges import Challenges
from api.protection.client_limits import ClientLimits
from api.protection.shared_memory import SharedMemory
from api.queries import events
from api.queries.availability import Availabilities
from api.queries.exports import Exports
from api.queries.figures import Figures
from api.queries.keys import Keys
from api.queries.protections import Protections
from api.queries.reader import Query, Reader, Value
from api.queries.receipts import Receipts
from api.queries.slugs import Slugs
from api.queries.status_changes import StatusChanges
from api.readiness import ReadinessCheck
from shared.domain import commands
from shared.domain.commands import Command
from shared.messaging import queues, results
from shared.messaging.queues import WakeSender
from shared.postgres import connections, durability, locks
from shared.postgres.durability import NotConfirmed
from shared.settings import Settings

_SLUG = re.compile(commands.SLUG)
_PAGES_PER_TURN_MAX = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Services:
    """The API process's connections and the parts that use them."""

    settings: Settings
    engine: AsyncEngine
    admin_engine: AsyncEngine
    redis: "redis.asyncio.Redis"
    celery: Celery
    intake: Intake
    pending_count: PendingCount
    waker: Waker
    bucket_owners: BucketOwners
    sender: WakeSender
    waiter: OutcomeWaiter
    poller: ResultPoller
    fallback: LedgerFallback
    reader: Reader
    admin_reader: Reader
    receipts: Receipts
    status_changes: StatusChanges
    figures: Figures
    exports: Exports
    pace: Pace
    refusing_events: RefusingEvents
    submission: Submission
    readiness: ReadinessCheck
    probe_turns: Turns
    page_turns: Turns
    keys: Keys
    wrong_keys: WrongKeys
    clients: Addresses
    limits: ClientLimits
    protections: Protections
    entrance: Entrance
    slugs: Slugs
    availabilities: Availabilities

    async def read(self, query: Query[Value], *, snapshot: bool = False) -> Value:
        """Return the value of `query`; see `Reader.read`."""
        return await self.reader.read(query, snapshot=snapshot)

    async def admin_read(self, query: Query[Value], *, snapshot: bool = False) -> Value:
        """Return the value of `query` in one of the admins' places; 503 if none becomes free in time."""
        try:
            return await self.admin_reader.read(query, snapshot=snapshot)
        except PoolTimeoutError as error:
            raise ProblemType.ADMIN_READS_BUSY.error() from error

    async def write(self, change: Query[Value], due: float) -> Value:
        """Return the value of `change`, committed and confirmed: for the few writes that are no commands.

        Raises `AcceptanceUnknown` if the commit may have succeeded and cannot be told at the time `due`.
        """
        async with asyncio.timeout_at(due), self.engine.connect() as connection:
            await connection.execution_options(isolation_level="READ COMMITTED")
            # The intake waits for a standby: a commit of this connection would keep it from others.
            await connection.execute(durability.WAIT_FOR_NO_STANDBY)
            server = (await connection.execute(durability.SERVER)).scalar_one()
            value = await change(connection)
            try:
                await connection.commit()
            except (DBAPIError, asyncio.CancelledError) as error:
                raise AcceptanceUnknown from error
        try:
            await self.intake.confirm_all({server}, due)
        except NotConfirmed as error:
            raise AcceptanceUnknown from error
        return value

    async def find_event(self, slug: str) -> UUID:
        """Return the event's id and remember it; 404 if there is no such event."""
        id_ = await self.slugs.find(slug) if _SLUG.fullmatch(slug) else None
        if id_ is None:
            raise ProblemType.EVENT_NOT_FOUND.error()
        return id_

    async def must_be_known(self, command: Command) -> None:
        """Refuse a command of a version that a live worker does not know: it would stay pending.

        Settings of a new event are refused as a change of them would be: such a worker would not obey them.
        """
        version = commands.version_of(command)
        if version > 1 and version > await self.read(locks.version_known_by_all):
            raise ProblemType.WORKERS_OUTDATED.error()

    async def event_slug(self, event_id: UUID, *, deleted: bool = False) -> str:
        """Return the event's slug; 404 if there is no such event, or if it is deleted unless `deleted`."""
        slug = await self.read(lambda connection: events.event_slug(connection, event_id, deleted=deleted))
        if slug is None:
            raise ProblemType.EVENT_NOT_FOUND.error()
        return slug

    def start(self) -> None:
        """Open the intake's session before the pools take connections; begin what needs no request."""
        self.intake.open()
        self.bucket_owners.task.ensure_running()
        self.pending_count.task.ensure_running()

    async def close(self) -> None:
        """Finish the work in progress, then close all connections."""
        await self.fallback.close()
        await self.limits.close()
        self.readiness.close()
        await self.intake.close()
        await self.waker.close()
        await self.bucket_owners.task.cancel()
        await self.pending_count.task.cancel()
        await self.sender.close()
        await self.poller.close()
        await self.status_changes.close()
        await self.figures.close()
        await self.slugs.close()
        await self.redis.aclose()
        await self.engine.dispose()
        await self.admin_engine.dispose()
        self.celery.close()


def open_services(settings: Settings) -> Services:
    """Return the services; connections are made when first needed."""
    engine = connections.async_engine(settings)
    admin_engine = connections.async_engine(settings, for_admins=True)
    reader, admin_reader = Reader(engine), Reader(admin_engine)
    redis_client = results.connect_async(settings.result_url)
    celery = queues.celery_app(settings)
    sender = queues.connect_sender(celery, settings)
    bucket_owners = BucketOwners(engine)
    waker = Waker(sender.send, bucket_owners, asyncio.get_running_loop().time)
    waiter = OutcomeWaiter(settings.ledger_read_seconds)
    poller = ResultPoller(waiter, redis_client, settings, waker.outcomes_seen)
    intake = Intake(settings)
    pending_count = PendingCount(intake.shares, engine, settings.pending_max)
    fallback = LedgerFallback(waiter, engine, intake, settings.ledger_read_seconds, waker.outcomes_seen)
    waiter.poller, waiter.ask_ledger = poller.task, fallback.ask
    slugs = Slugs(engine, reader)
    clients = Addresses(settings.trusted_proxies or ())
    shared = SharedMemory(redis_client, settings.secret_keys[0])
    receipts, pace, refusing_events = (
        Receipts(reader, intake.confirm),
        Pace(engine),
        RefusingEvents(engine),
    )
    submission = Submission(
        intake=intake,
        waker=waker,
        waiter=waiter,
        refusing_events=refusing_events,
        reader=reader,
        receipts=receipts,
        pace=pace,
    )
    return Services(
        settings=settings,
        engine=engine,
        admin_engine=admin_engine,
        redis=redis_client,
        celery=celery,
        intake=intake,
        pending_count=pending_count,
        waker=waker,
        bucket_owners=bucket_owners,
        sender=sender,
        waiter=waiter,
        poller=poller,
        fallback=fallback,
        reader=reader,
        admin_reader=admin_reader,
        receipts=receipts,
        status_changes=StatusChanges(reader),
        figures=Figures(reader, admin_reader),
        exports=Exports(admin_engine, settings.admin_connections_max),
        pace=pace,
        refusing_events=refusing_events,
        slugs=slugs,
        availabilities=Availabilities(reader),
        submission=submission,
        readiness=ReadinessCheck(
            engine,
            settings.owner_silence_seconds_max,
            intake_fault=intake.fault,
            sender=sender,
            client=redis_client,
            shared=shared,
        ),
        probe_turns=Turns(),
        page_turns=Turns(answers_max=_PAGES_PER_TURN_MAX),
        keys=Keys(settings, reader),
        wrong_keys=WrongKeys(),
        clients=clients,
        limits=ClientLimits(settings, clients, shared),
        protections=Protections(reader),
        entrance=Entrance(
            challenges=Challenges(settings.secret_keys, settings.api_processes, shared),
            spots=AddressSpots(shared),
            submission=submission,
            reader=reader,
        ),
    )


async def _provide(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


Provided = Annotated[Services, Depends(_provide)]
"""The type of the route parameter by which FastAPI passes the process's services."""
